"""Head, medium and tail, the four figures of CXR-LT, studies as the unit: against published numbers, closed forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from roi.data.table import read_table
from roi.errors import UserError
from roi.labels import LABELS
from roi.scoring import calibration, metrics, predictions
from roi.scoring.bootstrap import estimate
from roi.scoring.challenge import long_tail
from roi.scoring.challenge.studies import group_studies

# Images of the CXR-LT 2024 training table, how many have each class of task 2, and the AP that a published model
# printed for it, by name.
TRAIN_IMAGES = 258_871
PUBLISHED = {
    "Atelectasis": (65376, 0.6076),
    "Calcification of the Aorta": (4239, 0.1421),
    "Cardiomegaly": (74738, 0.6704),
    "Consolidation": (15371, 0.2344),
    "Edema": (37256, 0.5663),
    "Emphysema": (3661, 0.2584),
    "Enlarged Cardiomediastinum": (29628, 0.1664),
    "Fibrosis": (1169, 0.1146),
    "Fracture": (11568, 0.2014),
    "Hernia": (3986, 0.5251),
    "Infiltration": (10087, 0.0573),
    "Lung Lesion": (2338, 0.0496),
    "Lung Opacity": (77482, 0.5861),
    "Mass": (5288, 0.2772),
    "Nodule": (7531, 0.1594),
    "Normal (labelled)": (34292, 0.3334),
    "Pleural Effusion": (66401, 0.8250),
    "Pleural Other": (616, 0.0249),
    "Pleural Thickening": (3272, 0.0929),
    "Pneumomediastinum": (704, 0.1403),
    "Pneumonia": (46660, 0.3051),
    "Pneumoperitoneum": (516, 0.1722),
    "Pneumothorax": (13858, 0.5522),
    "Subcutaneous Emphysema": (2046, 0.5945),
    "Support Devices": (86079, 0.9083),
    "Tortuous Aorta": (3336, 0.0680),
}


def counts_of(positives: dict[str, int], images: int) -> long_tail.TrainingCounts:
    numbers = np.array(list(positives.values()))
    return long_tail.TrainingCounts("t.csv", images, list(positives), numbers, np.full(len(numbers), images))


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_the_published_average_precisions_by_bin(seed: int | None) -> None:
    """By name, whatever the order: the model printed .5327 and .2493 with places of one order in another."""
    names = list(PUBLISHED)
    if seed is not None:
        np.random.default_rng(seed).shuffle(names)
    members = long_tail.bin_classes(counts_of({name: PUBLISHED[name][0] for name in names}, TRAIN_IMAGES))
    means = {name: np.mean([PUBLISHED[c][1] for c in classes]) for name, classes in members.items()}
    assert {name: len(classes) for name, classes in members.items()} == {"head": 9, "medium": 11, "tail": 6}
    assert {name: f"{mean:.4f}" for name, mean in means.items()} == {
        "head": "0.5521",
        "medium": "0.2335",
        "tail": "0.1827",
    }


def test_edges_belong_to_the_upper_bin_and_unknown_classes_to_none() -> None:
    counts = counts_of({"Mass": 100, "Edema": 99, "Hernia": 10, "Nodule": 9, "Fibrosis": 0}, 1000)
    counts.known[4] = 0
    assert long_tail.bin_classes(counts) == {"head": ["Mass"], "medium": ["Edema", "Hernia"], "tail": ["Nodule"]}


def test_counts_are_of_rows_that_are_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [
        ("a.png", "Mass", "", "train"),
        ("b.png", "", "Edema", ""),
        ("c.png", "Mass", "", "val"),
        ("d.png", "Edema", "", "test"),
        ("e.png", "Edema", "", "train"),
    ]
    columns = ["image", "labels", "unknown", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    counts = long_tail.count_training(read_table(path), str(path), ["Edema", "Mass", "Bulla"])
    assert counts.images == 3
    assert counts.positives.tolist() == [1, 1, 0] and counts.known.tolist() == [2, 3, 0]
    held_out = read_table(path)
    held_out["split"] = "test"
    with pytest.raises(UserError, match="all of its rows are validation or test"):
        long_tail.count_training(held_out, str(path), ["Mass"])


@pytest.fixture(scope="module")
def golden_runs(shared: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Probabilities of five DenseNet-121 on NIH's official test split, and the targets."""
    runs = [np.load(shared / "golden" / f"nih28_official_test_densenet121_seed{seed}.npz") for seed in range(5)]
    prob = [1 / (1 + np.exp(-r["test_logits"].astype(np.float64))) for r in runs]
    return prob, runs[0]["test_labels"]


@pytest.fixture(scope="module")
def nih_counts(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> long_tail.TrainingCounts:
    metadata, table = shared / "nih_metadata", tmp_path_factory.mktemp("nih") / "train_val.csv"
    source = ("--src_csv", metadata / "Data_Entry_2017_v2020.csv", "--filter_list", metadata / "train_val_list.txt")
    run("make_chexmultimodal_csv.py", *source, "--out_csv", table)
    return long_tail.count_training(read_table(table), str(table), LABELS)


def test_golden_runs_by_bins_of_the_official_train_list(
    golden_runs: tuple[list[np.ndarray], np.ndarray], nih_counts: long_tail.TrainingCounts
) -> None:
    prob, target = golden_runs
    assert {name: len(c) for name, c in long_tail.bin_classes(nih_counts).items()} == {
        "head": 2,
        "medium": 11,
        "tail": 1,
    }
    expected = {"one": (0.1604, 0.3812, 0.1318, 0.0337), "mean": (0.1794, 0.4049, 0.1523, 0.0276)}
    for name, values in {"one": prob[0], "mean": np.mean(prob, axis=0)}.items():
        block = block_of(values, target, nih_counts, np.arange(len(target)), 0)
        scores = [block["challenge"]["map"]["value"]]
        scores += [bin_["map"]["value"] for bin_ in block["bins"].values()]
        assert tuple(round(v, 4) for v in scores) == expected[name]
    assert round(block["challenge"]["mauroc"]["value"], 4) == 0.7391


def block_of(
    prob: np.ndarray, target: np.ndarray, counts: long_tail.TrainingCounts, patients: np.ndarray, resamples: int
) -> dict[str, Any]:
    statistics = long_tail.statistics(prob, target) | {"ranking_full": metrics.ranking(prob, target)}
    return long_tail.long_tail_block(estimate(statistics, patients, resamples, 0), counts, target)


def test_figures_equal_those_of_scikit_learn_and_intervals_hold_them() -> None:
    """26 classes; one has no positive image: it is left out and counted, not a 0 (scikit-learn) or a 1."""
    rng = np.random.default_rng(1)
    names = list(PUBLISHED)
    share = np.array([positives / TRAIN_IMAGES for positives, _ in PUBLISHED.values()])
    target = (rng.random((3000, 26)) < share + 0.02).astype(float)
    target[:, names.index("Pleural Other")] = 0
    prob = np.round(1 / (1 + np.exp(-(target * 1.5 - 1 + rng.normal(size=target.shape)))), 2)
    target[rng.random(target.shape) < 0.1] = np.nan
    counts = counts_of({name: positives for name, (positives, _) in PUBLISHED.items()}, TRAIN_IMAGES)
    block = block_of(prob, target, counts, rng.integers(0, 900, len(target)), 50)
    columns = [j for j, name in enumerate(names) if name != "Pleural Other"]
    known = [~np.isnan(target[:, j]) for j in range(26)]
    pairs = {names[j]: (target[known[j], j], prob[known[j], j]) for j in columns}
    expected = {
        "map": np.mean([average_precision_score(y, p) for y, p in pairs.values()]),
        "mauroc": np.mean([roc_auc_score(y, p) for y, p in pairs.values()]),
        "mf1": np.mean([f1_score(y, p >= 0.5) for y, p in pairs.values()]),
        "mece": np.mean([calibration.ece(p, y) for y, p in pairs.values()]),
    }
    figures = block["challenge"]
    assert {name: figures[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert (figures["classes_scored"], figures["classes_left_out"]) == (25, 1)
    assert block["bins"]["tail"]["scored"] == 5 and len(block["bins"]["tail"]["classes"]) == 6
    tail = [average_precision_score(*pairs[c]) for c in block["bins"]["tail"]["classes"] if c in pairs]
    assert block["bins"]["tail"]["map"]["value"] == pytest.approx(np.mean(tail), abs=1e-9)
    for score in (figures["map"], figures["mf1"], block["bins"]["tail"]["mauroc"]):
        assert score["low"] < score["value"] < score["high"]
    # The error of a resample is never below 0, and that of few images is larger than that of all.
    assert 0 < figures["mece"]["low"] < figures["mece"]["high"]


def test_a_resample_weighs_the_calibration_error_as_repeated_images_would() -> None:
    rng = np.random.default_rng(2)
    prob, target = rng.random((60, 3)), (rng.random((60, 3)) < 0.4).astype(float)
    prob[0] = 1.0
    target[5:9, 1] = np.nan
    weights = rng.integers(0, 4, (60, 2)).astype(np.int32)
    weighed = long_tail.calibration_errors(prob, target)(weights)
    for r in range(2):
        repeated = np.repeat(np.arange(60), weights[:, r])
        by_hand = metrics.per_class(calibration.ece, prob[repeated], target[repeated])
        np.testing.assert_allclose(weighed[r], by_hand, atol=1e-12)


# ---- evaluate.py -----------------------------------------------------------------------------------------------------


class Visits:
    """Twelve patients with a study of two views and one of one view each; probabilities have some skill."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.csv, self.preds = folder, folder / "t.csv", folder / "p.json"
        rng = np.random.default_rng(0)
        rows = []
        for patient in range(12):
            for study, views in ((0, 2), (1, 1)):
                labels = ",".join(c for c in ("Mass", "Edema") if rng.random() < 0.4)
                for view in range(views):
                    rows.append((f"{patient}_{study}_{view}.png", labels, f"p{patient}", f"p{patient}:{study}"))
        self.table = pd.DataFrame(rows, columns=["image", "labels", "patient_id", "study_id"])
        self.table["split"] = "train"
        has = np.stack([self.table["labels"].str.contains(c) for c in ("Mass", "Edema")], axis=1)
        self.prob = rng.random((len(rows), 2)) * 0.7 + 0.3 * has
        self.write()

    def write(self, order: np.ndarray | None = None) -> None:
        self.table.to_csv(self.csv, index=False)
        order = np.arange(len(self.table)) if order is None else order
        records = (
            predictions.record(self.table["image"][n], ["Mass", "Edema"], {"full": self.prob[n]}, False) for n in order
        )
        predictions.write(self.preds, records, {"checkpoint": "x.pt"})

    def evaluate(self, *flags: object) -> tuple[dict[str, Any], str]:
        command = ("evaluate.py", "--preds", self.preds, "--csv", self.csv, "--out", self.folder / "out")
        said = run(*command, "--overwrite", "--resamples", 20, *flags)
        return json.loads((self.folder / "out" / "metrics.json").read_text()), said


def test_evaluate_prints_the_rule_the_counts_and_the_bins(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    before, _ = visits.evaluate()
    result, said = visits.evaluate("--train_csv", visits.csv)
    block = result["long_tail"]
    assert "long_tail" not in before and block["n_train_images"] == 36
    for text in (
        "head from 10 %",
        "36 training images",
        "head (2 of 2 classes",
        "mECE",
        "the challenge published none",
    ):
        assert text in said
    mean = result["mean"]
    assert block["bins"]["head"]["map"] == mean["ap"] and block["challenge"]["mauroc"] == mean["auroc"]
    assert block["bins"]["tail"]["map"]["value"] is None
    positives = {c: scores["positives"] for c, scores in result["per_class"].items()}
    assert block["train_positives"] == positives


def test_a_class_of_the_challenge_without_an_image_is_undefined_not_misspelled(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    names = ["Mass", "Rib Fracture"]
    records = (
        predictions.record(image, names, {"full": p}, False)
        for image, p in zip(visits.table["image"], visits.prob, strict=True)
    )
    predictions.write(visits.preds, records, {"checkpoint": "x.pt"})
    result, said = visits.evaluate("--train_csv", visits.csv)
    assert result["classes_undefined"] == ["Rib Fracture"]
    block = result["long_tail"]
    assert (block["challenge"]["classes_scored"], block["challenge"]["classes_left_out"]) == (1, 1)
    # The training table does not name it: it is in no bin.
    assert block["not_in_training"] == ["Rib Fracture"] and "so in no bin: Rib Fracture" in said


def test_a_study_counts_once_whatever_the_order_of_its_images(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    result, said = visits.evaluate("--unit", "study")
    assert (result["n_images"], result["n_studies"]) == (36, 24) and "24 studies (36 images)" in said
    studies = visits.table.assign(p=visits.prob[:, 0]).groupby("study_id", sort=False)
    has_mass = studies["labels"].first().str.contains("Mass")
    area = roc_auc_score(has_mass, studies["p"].mean())
    assert result["per_class"]["Mass"]["auroc"]["value"] == pytest.approx(area, abs=1e-12)
    assert result["per_class"]["Mass"]["positives"] == has_mass.sum()
    visits.write(np.random.default_rng(1).permutation(36))
    shuffled, _ = visits.evaluate("--unit", "study", "--compare", visits.preds)
    assert shuffled["per_class"]["Mass"]["auroc"]["value"] == pytest.approx(area, abs=1e-12)
    assert shuffled["comparison"]["mean"]["auroc"]["value"] == 0


def test_images_without_a_study_are_scored_alone(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    visits.table["study_id"] = ""
    rows = visits.table.assign(patient_id="p", dataset="", view="")
    assert len(group_studies(rows, "t").first) == 36
    # The same number in two sets is two studies.
    rows = rows.assign(study_id="1", dataset=["a", "b"] * 18)
    assert len(group_studies(rows, "t").first) == 2


def test_what_studies_refuse(tmp_path: Path) -> None:
    visits = Visits(tmp_path)
    flags = ("evaluate.py", "--preds", visits.preds, "--csv", visits.csv, "--unit", "study", "--out", tmp_path / "x")
    said = run(*flags, "--curves", "c.npz", code=2)
    assert "--unit study does not go with --curves" in said
    visits.table.loc[0, "labels"] = "Mass,Edema"
    visits.table.loc[1, "labels"] = ""
    visits.write()
    assert "1 studies have images with contradicting labels, the first is 'p0:0'" in one_line_error(*flags)
    visits.table["labels"] = "Mass"
    visits.table.loc[0, "study_id"] = "p1:0"
    visits.write()
    assert "study 'p1:0' has images of two patients" in one_line_error(*flags)
