"""Scores by the views of a study, and view pointing: against closed forms and a plain transcription."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from sklearn.metrics import roc_auc_score

from roi.data.table import read_table
from roi.scoring import predictions
from roi.scoring.challenge import contributions
from roi.scoring.challenge.studies import group_studies
from roi.scoring.metrics_file import read_metrics
from roi.scoring.printout import with_interval

CLASSES = ["Mass", "Edema"]
VIEWS = ("PA", "LATERAL", "", "AP", "LL")


class StudySet:
    """60 patients with a study of 1 to 5 views; the mean of the views is the study, the Mass shows in one alone.

    `skill`: the view that shows the Mass has the highest probability in so many of the studies.
    """

    def __init__(self, folder: Path, skill: float = 1.0) -> None:
        self.folder = folder
        self.csv, self.preds, self.truth = (folder / name for name in ("t.csv", "p.json", "truth.csv"))
        rng = np.random.default_rng(0)
        rows, records, truth = [], [], []
        self.right: list[float] = []
        self.chance: list[float] = []
        for study in range(60):
            views = study % 5 + 1
            mass, edema = rng.random(2) < 0.5
            prob = rng.uniform(0.1, 0.4, (views, 2)) + 0.2 * np.array([mass, edema])
            seen_in = int(rng.integers(views))
            if mass and rng.random() < skill:
                prob[seen_in, 0] = 0.9
            full = prob.mean(0)
            for n in range(views):
                name = f"{study}_{n}.png"
                labels = ",".join(c for c, has in zip(CLASSES, (mass, edema), strict=True) if has)
                rows.append((name, labels, f"p{study}", f"s{study}" if views > 1 else "", VIEWS[n], "test"))
                entry = predictions.record(name, CLASSES, {"full": full}, False)
                entry |= {"study": f"s{study}", "prob_view": predictions.by_class(CLASSES, prob[n])}
                if views > 1:
                    without = np.delete(prob, n, axis=0).mean(0)
                    entry["without"] = predictions.by_class(CLASSES, without)
                records.append(entry)
                # What is absent shows nowhere, Edema in all views: neither is asked for.
                truth.append((name, f"s{study}" if views > 1 else "", "Mass", int(mass and n == seen_in)))
                truth.append((name, "", "Edema", int(edema)))
            if mass and views > 1:
                self.right.append(float(prob[:, 0].argmax() == seen_in))
                self.chance.append(1 / views)
        self.table = pd.DataFrame(rows, columns=["image", "labels", "patient_id", "study_id", "view", "split"])
        self.table.to_csv(self.csv, index=False)
        self.write_truth(pd.DataFrame(truth, columns=["image", "study_id", "finding", "visible"]))
        self.records = records
        predictions.write(self.preds, records, {"checkpoint": "x.pt"})

    def write_truth(self, truth: pd.DataFrame) -> None:
        self.visible = truth
        truth.to_csv(self.truth, index=False)

    def command(self, *flags: object) -> tuple[object, ...]:
        files = ("--preds", self.preds, "--csv", self.csv, "--out", self.folder / "out")
        return ("evaluate.py", *files, "--overwrite", "--resamples", 50, *flags)

    def evaluate(self, *flags: object) -> tuple[dict[str, Any], str]:
        said = run(*self.command(*flags))
        return json.loads((self.folder / "out" / "metrics.json").read_text()), said


@pytest.mark.parametrize("skill", [1.0, 0.5])
@pytest.mark.parametrize("unit", ["image", "study"])
def test_view_pointing_is_the_share_of_right_views(tmp_path: Path, skill: float, unit: str) -> None:
    made = StudySet(tmp_path, skill)
    result, said = made.evaluate("--truth_csv", made.truth, "--unit", unit)
    block = result["view_pointing"]
    assert block["n_pairs"] == block["n_studies"] == len(made.right)
    assert block["pointing"]["value"] == pytest.approx(np.mean(made.right), abs=1e-6)
    assert block["chance"]["value"] == pytest.approx(np.mean(made.chance), abs=1e-6)
    difference = np.mean(made.right) - np.mean(made.chance)
    assert block["minus_chance"]["value"] == pytest.approx(difference, abs=1e-6)
    assert list(block["findings"]) == ["Mass"] and block["findings"]["Mass"]["n"] == len(made.right)
    assert block["findings"]["Mass"]["pointing"] == pytest.approx(block["pointing"], abs=1e-6)
    low, high = block["minus_chance"]["low"], block["minus_chance"]["high"]
    assert low < difference < high and low > 0
    metrics, odd = read_metrics(tmp_path / "out" / "metrics.json")
    assert odd == {} and metrics["view_pointing"] == block
    assert f"view pointing: {with_interval(block['pointing'])}, chance" in said


def test_views_that_add_the_same_are_at_chance(tmp_path: Path) -> None:
    made = StudySet(tmp_path)
    for entry in made.records:
        if "without" in entry:
            entry["without"] = entry["prob_full"]
    predictions.write(made.preds, made.records, {"checkpoint": "x.pt"})
    block = made.evaluate("--truth_csv", made.truth)[0]["view_pointing"]
    assert block["pointing"] == block["chance"] and block["minus_chance"]["value"] == 0


def test_an_image_that_was_not_looked_at_is_no_choice(tmp_path: Path) -> None:
    """Beyond --max_views an image has neither prob_view nor without: it is no view of the study."""
    made = StudySet(tmp_path)
    for entry in made.records:
        if entry["image"].endswith(("_3.png", "_4.png")):
            del entry["prob_view"], entry["without"]
    predictions.write(made.preds, made.records, {"checkpoint": "x.pt"})
    block = made.evaluate("--truth_csv", made.truth)[0]["view_pointing"]
    seen = made.visible[(made.visible["finding"] == "Mass") & (made.visible["visible"] == 1)]
    numbers = seen["image"].str.extract(r"(\d+)_(\d)").astype(int)
    views = (numbers[0] % 5 + 1).clip(upper=3)
    asked = (numbers[1] < 3) & (views > 1)
    assert block["n_pairs"] == asked.sum()
    assert block["chance"]["value"] == pytest.approx((1 / views[asked]).mean(), abs=1e-6)


def test_what_the_truth_refuses(tmp_path: Path) -> None:
    made = StudySet(tmp_path)

    def refused(change: pd.DataFrame) -> str:
        change.to_csv(made.truth, index=False)
        return one_line_error(*made.command("--truth_csv", made.truth))

    truth = made.visible
    assert "no column 'visible'" in refused(truth.drop(columns="visible"))
    assert "visible is '2', not 0 or 1" in refused(truth.assign(visible=truth["visible"] * 2))
    assert "no finding that" in refused(truth.assign(visible=1))
    assert "is of study 'other' there" in refused(truth.assign(study_id="other"))
    plain = [
        predictions.record(entry["image"], CLASSES, {"full": np.array([0.1, 0.2])}, False) for entry in made.records
    ]
    predictions.write(made.preds, plain, {"checkpoint": "x.pt"})
    assert "predict studies of several images with a checkpoint of train_multiview.py" in refused(truth)
    assert contributions.read_contributions(made.preds) is None
    both = ("--truth_csv", made.truth, "--ensemble", made.preds)
    assert "--truth_csv does not go with --ensemble" in run(*made.command(*both, made.csv), code=2)


def test_a_finding_that_is_not_predicted_is_told(tmp_path: Path) -> None:
    made = StudySet(tmp_path)
    made.write_truth(made.visible.replace({"finding": {"Edema": "Hernia"}}))
    result, said = made.evaluate("--truth_csv", made.truth)
    assert "Hernia: not predicted, so not asked for" in said and list(result["view_pointing"]["findings"]) == ["Mass"]


def test_groups_by_views_and_by_patients_of_the_training_table(tmp_path: Path) -> None:
    made = StudySet(tmp_path)
    train = made.table[made.table["patient_id"].isin([f"p{n}" for n in range(20)])].assign(split="train")
    train.to_csv(tmp_path / "train.csv", index=False)
    result, said = made.evaluate("--train_csv", tmp_path / "train.csv")
    groups = result["subgroups"]
    by_number = groups["n_views"]["groups"]
    expected = {"1 view": 12, "2 views": 24, "3 views": 36, "4 or more views": 48 + 60}
    assert {name: group["n_images"] for name, group in by_number.items()} == expected
    by_kind = {name: group["n_images"] for name, group in groups["view_kind"]["groups"].items()}
    assert by_kind == {"frontal": 60 + 24, "lateral": 48 + 12, "not said": 36}
    seen = groups["in_training"]["groups"]
    assert {name: group["n_patients"] for name, group in seen.items()} == {"seen": 20, "unseen": 40}
    assert "by number of views (" in said and "by patients of the training table (" in said
    prob = np.array([entry["prob_full"]["Mass"] for entry in made.records])
    has = made.table["labels"].str.contains("Mass").to_numpy()
    three = made.table["study_id"].map(made.table["study_id"].value_counts()).to_numpy() == 3
    edema = np.array([entry["prob_full"]["Edema"] for entry in made.records])
    has_edema = made.table["labels"].str.contains("Edema").to_numpy()
    areas = [roc_auc_score(has[three], prob[three]), roc_auc_score(has_edema[three], edema[three])]
    assert by_number["3 views"]["auroc_own"]["value"] == pytest.approx(np.mean(areas), abs=1e-12)
    # Of studies: each once, and both kinds of views are a group.
    groups = made.evaluate("--unit", "study")[0]["subgroups"]
    assert {name: group["n_images"] for name, group in groups["n_views"]["groups"].items()} == {
        "1 view": 12,
        "2 views": 12,
        "3 views": 12,
        "4 or more views": 24,
    }
    assert list(groups["view_kind"]["groups"]) == ["frontal", "frontal and lateral"] and "in_training" not in groups


def test_a_study_of_two_patients_costs_its_groups_and_not_the_scores_of_images(tmp_path: Path) -> None:
    made = StudySet(tmp_path)
    made.table.loc[1, "patient_id"] = "another"
    made.table.to_csv(made.csv, index=False)
    result, said = made.evaluate()
    assert "has images of two patients" in said and "no groups by views" in said
    assert "n_views" not in result["subgroups"]


def test_the_first_image_of_a_study_is_the_one_that_the_table_lists_first(tmp_path: Path) -> None:
    made = StudySet(tmp_path)
    shuffled = made.table.sample(frac=1, random_state=1)
    shuffled.to_csv(made.csv, index=False)
    table = read_table(made.csv)
    rows = table.sample(frac=1, random_state=2)  # in the order of predictions
    studies = group_studies(rows, "t")
    key = rows["study_id"].where(rows["study_id"] != "", rows["image"])
    firsts = rows.assign(key=key).sort_index().drop_duplicates("key")
    assert rows["image"].iloc[studies.first].tolist() == firsts["image"].tolist()
    assert (key.iloc[studies.first].to_numpy()[studies.study] == key.to_numpy()).all()
