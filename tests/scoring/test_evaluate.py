"""evaluate.py as its users run it: what stands in metrics.json, peers' CSV files, thresholds, comparisons, controls,
bad input."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from scipy.integrate import trapezoid
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from roi.data.boxes import read_boxes
from roi.errors import UserError
from roi.labels import LABELS
from roi.scoring import bootstrap, faithfulness, predictions, summary
from roi.scoring.printout import threshold_sentence
from roi.text import of_hundred, probability

CLASSES = ["Mass", "Edema"]


def write_predictions(path: Path, images: list[str], prob: np.ndarray, marked: bool = False) -> None:
    predictions.write(
        path,
        (
            predictions.record(i, CLASSES, {"full": p, "crop": p, "drop": p / 2}, marked)
            for i, p in zip(images, prob, strict=True)
        ),
        {"checkpoint": "x.pt"},
    )


def test_predictions_round_trip_and_are_complete_or_absent(tmp_path: Path) -> None:
    prob = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    images = [f"{n}.png" for n in range(5)]
    write_predictions(tmp_path / "p.json", images, prob)
    back = predictions.read(tmp_path / "p.json")
    assert back.images == images and back.classes == ["Mass", "Edema"] and back.meta["images"] == 5
    np.testing.assert_allclose(back.prob["full"], prob, rtol=3e-7)
    row = json.loads((tmp_path / "p.json").read_text())[0]
    assert list(row) == ["image", "prob_full", "prob_crop", "prob_drop", "faithfulness"]
    assert row["faithfulness"]["Mass"] == pytest.approx(row["prob_full"]["Mass"] - row["prob_drop"]["Mass"], abs=1e-6)

    def broken():
        yield predictions.record("a.png", ["Mass"], {"full": np.array([0.5])}, False)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        predictions.write(tmp_path / "q.json", broken(), {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", "p.meta.json"]


class Case:
    """A table, predictions with some skill, and others without; `n` images of three a patient."""

    def __init__(self, folder: Path, n: int = 240, first: int = 1, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.images = [f"{first + k // 3:08d}_{k % 3:03d}.png" for k in range(n)]
        self.target = (rng.random((n, 2)) < 0.4).astype(float)
        self.prob = 1 / (1 + np.exp(-(rng.normal(size=(n, 2)) + 1.2 * self.target - 0.5)))
        self.unknown = (np.arange(n) < 30) & (self.target[:, 1] == 0)
        self.view = np.where(np.arange(n) % 2, "PA", "AP")
        rows = {
            "image": self.images,
            "labels": [",".join(c for c, on in zip(CLASSES, row, strict=True) if on) for row in self.target],
            "unknown": ["Edema" if u else "" for u in self.unknown],
            "view": self.view,
            "age": [str(20 + k % 60) for k in range(n)],
            "split": "test",
            "label_source": "Data_Entry_2017.csv",
        }
        self.csv, self.preds, self.folder = folder / f"t{first}.csv", folder / f"p{first}.json", folder
        pd.DataFrame(rows).iloc[::-1].to_csv(self.csv, index=False)
        write_predictions(self.preds, self.images, self.prob)

    def known(self, j: int) -> np.ndarray:
        return ~self.unknown if j else np.ones(len(self.images), dtype=bool)

    def evaluate(self, *flags: object, resamples: int = 100) -> dict[str, Any]:
        out = self.folder / "scores"
        self.said = run(
            "evaluate.py",
            "--preds",
            self.preds,
            "--csv",
            self.csv,
            "--out",
            out,
            "--resamples",
            resamples,
            "--overwrite",
            *flags,
        )
        return json.loads((out / "metrics.json").read_text())


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_thresholds_are_sentences(case: Case, tmp_path: Path) -> None:
    """The counts of a sentence are those of the images, at the threshold that stands in it."""
    validation = Case(tmp_path, first=5000, seed=1)
    chosen = ("--threshold_preds", validation.preds, "--threshold_csv", validation.csv)
    result = case.evaluate(*chosen, resamples=0)
    assert f"thresholds, where F1 is largest on {validation.preds}:" in case.said
    for j, name in enumerate(CLASSES):
        threshold = result["per_class"][name]["threshold"]
        target, called = case.target[case.known(j), j] == 1, case.prob[case.known(j), j] >= threshold
        found, false = (round(100 * called[group].mean()) for group in (target, ~target))
        numbers = f"finds {found} of 100 that have it, and calls {false} of 100 that do not"
        assert f"  {name}: from {threshold:.2f} on it is called present; {numbers}\n" in case.said
    assert "-0.000" not in case.said
    nothing = {"threshold": None, "recall": {"value": None}, "specificity": {"value": None}}
    assert threshold_sentence("Hernia", nothing).startswith("Hernia: no threshold, as ")


def test_a_share_is_called_all_or_none_where_it_is() -> None:
    shares = {0.0: "0 of 100", 0.001: "fewer than 1 of 100", 0.824: "82 of 100", 0.999: "more than 99 of 100"}
    assert {share: of_hundred(share) for share in shares} == shares and of_hundred(1.0) == "100 of 100"
    for value, text in {0.314: "0.31", 0.0: "0.00", 0.0042: "0.0042", 0.01: "0.010", 1.0: "1.00"}.items():
        assert probability(value) == text


def test_scores_and_where_they_come_from(case: Case) -> None:
    result = case.evaluate()
    assert (result["n_images"], result["n_patients"], result["split"], result["contaminated"]) == (
        240,
        80,
        "test",
        False,
    )
    assert result["label_source"].startswith("Data_Entry_2017.csv")
    areas = []
    for j, c in enumerate(CLASSES):
        known = case.known(j)
        areas.append(roc_auc_score(case.target[known, j], case.prob[known, j]))
        score = result["per_class"][c]["auroc"]
        assert score["value"] == pytest.approx(areas[-1], abs=1e-6) and score["low"] < score["value"] < score["high"]
        assert (
            result["per_class"][c]["known"] == known.sum()
            and result["per_class"][c]["positives"] == case.target[known, j].sum()
        )
        fpr, tpr = result["per_class"][c]["roc"]
        assert trapezoid(tpr, fpr) == pytest.approx(areas[-1], abs=0.02)
    assert result["mean"]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert result["mean"]["auroc_drop"]["value"] == pytest.approx(
        np.mean(areas), abs=1e-3
    )  # half of each probability: the same ranks
    table = pd.read_csv(case.folder / "scores" / "per_class.csv")
    assert (
        table["class"].tolist() == ["mean", *CLASSES]
        and set(table["n_patients"]) == {80}
        and set(table["label_source"]) == {result["label_source"]}
    )
    assert not table["contaminated"].any() and "none of these images was trained on" in case.said
    assert "exists" in one_line_error(
        "evaluate.py", "--preds", case.preds, "--csv", case.csv, "--out", case.folder / "scores"
    )


def test_faithfulness_on_positives_and_negatives(case: Case) -> None:
    block = case.evaluate(resamples=0)["faithfulness"]
    lost, positive = case.prob[:, 0] / 2, case.target[:, 0] == 1
    assert block["positives"]["per_class"]["Mass"]["value"] == pytest.approx(lost[positive].mean(), rel=1e-4)
    assert block["negatives"]["per_class"]["Mass"] == {
        "value": pytest.approx(lost[~positive].mean(), rel=1e-4),
        "low": None,
        "high": None,
    }


def test_contamination_stands_everywhere_and_is_not_claimed_away(case: Case) -> None:
    write_predictions(case.preds, case.images, case.prob, marked=True)
    assert case.evaluate(resamples=0)["contaminated"] is True and "CONTAMINATED" in case.said
    write_predictions(case.preds, case.images, case.prob)
    predictions.meta_path(case.preds).unlink()
    assert case.evaluate(resamples=0)["contaminated"] is None and "do not say" in case.said


def test_thresholds_come_from_other_patients_and_decide_as_scikit_learn(case: Case) -> None:
    other = Case(case.folder, first=5000, seed=1)
    result = case.evaluate("--threshold_preds", other.preds, "--threshold_csv", other.csv)
    called = np.zeros_like(case.target, dtype=bool)
    for j, c in enumerate(CLASSES):
        threshold, known = result["per_class"][c]["threshold"], case.known(j)
        assert (
            threshold in np.float32(other.prob[:, j]).astype(float) or np.abs(other.prob[:, j] - threshold).min() < 1e-6
        )
        called[:, j] = case.prob[:, j] >= threshold
        assert result["per_class"][c]["f1"]["value"] == pytest.approx(
            f1_score(case.target[known, j], called[known, j]), abs=1e-6
        )
        assert result["per_class"][c]["youden"]["low"] < result["per_class"][c]["youden"]["value"]
    known = np.stack([case.known(0), case.known(1)], axis=1)
    assert result["micro"]["f1"]["value"] == pytest.approx(f1_score(case.target[known], called[known]), abs=1e-6)
    assert result["hamming"]["value"] == pytest.approx(accuracy_score(case.target[known], called[known]), abs=1e-6)
    methods = result["calibration"]["methods"]
    assert (
        set(methods) == {"raw", "temperature", "platt"}
        and methods["platt"]["mean"]["brier"] <= methods["raw"]["mean"]["brier"] + 0.01
    )
    assert sum(row[2] for row in methods["raw"]["reliability"]) == known.sum()
    shared = one_line_error(
        "evaluate.py",
        "--preds",
        case.preds,
        "--csv",
        case.csv,
        "--threshold_preds",
        case.preds,
        "--threshold_csv",
        case.csv,
        "--out",
        case.folder / "n",
    )
    assert "240 images and 80 patients" in shared and not (case.folder / "n").exists()


def test_subgroups_and_their_gap(case: Case) -> None:
    block = case.evaluate()["subgroups"]["view"]
    for group in ("PA", "AP"):
        rows = case.view == group
        areas = [
            roc_auc_score(case.target[rows & case.known(j), j], case.prob[rows & case.known(j), j]) for j in range(2)
        ]
        assert (
            block["groups"][group]["auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-6)
            and block["groups"][group]["n_images"] == 120
        )
    values = {g: v["auroc"]["value"] for g, v in block["groups"].items()}
    assert (
        block["gap"]["value"] == pytest.approx(values[block["gap"]["best"]] - values[block["gap"]["worst"]])
        and block["gap"]["value"] >= 0
    )
    assert block["gap"]["low"] < block["gap"]["value"] < block["gap"]["high"]


def test_paired_comparison(case: Case) -> None:
    rng = np.random.default_rng(3)
    order = rng.permutation(240)
    write_predictions(case.folder / "same.json", [case.images[k] for k in order], case.prob[order])
    write_predictions(case.folder / "worse.json", case.images, rng.random((240, 2)))
    same = case.evaluate("--compare", case.folder / "same.json")["comparison"]
    assert (
        same["mean"]["auroc"] == {"value": 0, "low": 0, "high": 0, "p": 1}
        and same["per_class"]["Mass"]["auroc"]["p_delong"] == 1
    )
    worse = case.evaluate("--compare", case.folder / "worse.json")["comparison"]
    assert (
        worse["mean"]["auroc"]["low"] > 0.1
        and worse["mean"]["auroc"]["p"] < 0.05
        and worse["per_class"]["Edema"]["auroc"]["p_delong"] < 0.001
    )
    write_predictions(case.folder / "few.json", case.images[:100], case.prob[:100])
    said = one_line_error(
        "evaluate.py",
        "--preds",
        case.preds,
        "--csv",
        case.csv,
        "--compare",
        case.folder / "few.json",
        "--out",
        case.folder / "n",
    )
    assert "100 images, not the same 240" in said


def test_a_csv_of_probabilities_is_as_good(case: Case) -> None:
    ours = case.evaluate(resamples=20)
    case.preds = case.folder / "peer.csv"
    pd.DataFrame({"Image Index": case.images, **{f"prob_{c}": case.prob[:, j] for j, c in enumerate(CLASSES)}}).to_csv(
        case.preds, index=False
    )
    theirs = case.evaluate(resamples=20)
    for c in CLASSES:
        assert theirs["per_class"][c]["auroc"] == pytest.approx(ours["per_class"][c]["auroc"], abs=1e-6)


def write_curves(path: Path, case: Case, crop: np.ndarray, drop: np.ndarray) -> None:
    np.savez(
        path,
        images=np.array(case.images),
        classes=np.array(CLASSES),
        sources=np.array(["mask", "random"]),
        fractions=np.array([0.1, 0.2, 0.5]),
        crop=crop,
        drop=drop,
        full=case.prob,
        keep_ratio=np.array(0.1),
        meta=np.array("{}"),
    )


def test_controls_tell_a_mask_that_matters_from_one_that_does_not(case: Case) -> None:
    """The mask keeps all skill and leaves none; the random one does the opposite. Areas are those of the trapezoids."""
    rng = np.random.default_rng(0)
    good, none = np.repeat(case.prob[:, None], 3, axis=1), rng.random((240, 3, 2))
    write_curves(case.folder / "c.npz", case, np.stack([good, none], axis=1), np.stack([none, good], axis=1))
    block = case.evaluate("--curves", case.folder / "c.npz")["faithfulness"]["controls"]
    mask, random = block["sources"]["mask"], block["sources"]["random"]
    full = np.mean([roc_auc_score(case.target[case.known(j), j], case.prob[case.known(j), j]) for j in range(2)])
    assert mask["crop"]["value"] == pytest.approx(full, abs=1e-6) and mask["insertion_area"]["value"] == pytest.approx(
        full, abs=1e-6
    )
    assert mask["drop"]["high"] < mask["crop"]["low"] and random["crop"]["high"] < random["drop"]["low"]
    heights = np.array(random["insertion"])
    assert random["insertion_area"]["value"] == pytest.approx(
        ((heights[0] + heights[1]) / 2 * 0.1 + (heights[1] + heights[2]) / 2 * 0.3) / 0.4, abs=1e-5
    )
    np.testing.assert_allclose(faithfulness.area(np.array([1.0, 0.5, 0.0]), np.array([0.0, 0.5, 1.0])), 0.5)


def test_boxes_of_any_table_in_any_space(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("image,label,x,y,w,h\na.png,Infiltrate,0,128,256,256\n")
    box = read_boxes(tmp_path / "b.csv", 512).iloc[0]
    assert box["label"] == "Infiltration" and box[["x", "y", "w", "h"]].tolist() == [0, 0.25, 0.5, 0.5]
    (tmp_path / "b.csv").write_text("image,label,x,y,w,h,width,height\na.png,Mass,0,100,100,100,200,400\n")
    assert read_boxes(tmp_path / "b.csv").iloc[0][["x", "y", "w", "h"]].tolist() == [0, 0.25, 0.5, 0.25]
    for text, said in (
        ("image,label,x,y,w,h\na.png,Mass,900,0,200,10\n", "not inside the image"),
        ("image,label,x,y,w,h\na.png,Mass,9,0,0,10\n", "not inside the image"),
        ("image,label,x,y,w,h\na.png,Mas,9,0,5,10\n", "did you mean 'Mass'"),
        ("image,label,x,y,w\na.png,Mass,9,0,5\n", "no column 'h'"),
        ("image,label,x,y,w,h\na.png,Mass,9,0,wide,10\n", "'w' must hold a number"),
        ("image,label,x,y,w,h\n", "holds no box"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_boxes(tmp_path / "b.csv")


def test_nih_boxes_lie_in_the_unit_square_and_have_our_names(shared: Path) -> None:
    boxes = read_boxes(shared / "nih_metadata" / "BBox_List_2017.csv")
    assert len(boxes) == 984 and set(boxes["label"]) <= set(LABELS) and (boxes["label"] == "Infiltration").sum() == 123
    assert boxes["x"].min() * 1024 == pytest.approx(5.418, abs=0.001) and (boxes["y"] + boxes["h"]).max() < 1


# --- maps and boxes ---


def write_class_maps(
    path: Path,
    images: list[str],
    hot: np.ndarray,
    source: str = "class_mask",
    classes: Sequence[str] = CLASSES,
    epoch: int = 1,
) -> None:
    """A map of 8 x 8 cells for each image and class, highest at the cell hot (N, K); those of new weights are flat."""
    maps = np.zeros((len(images), len(classes), 64), np.float16)
    np.put_along_axis(maps, np.asarray(hot)[..., None], 1, axis=2)
    maps = maps.reshape(len(images), len(classes), 8, 8)
    names, meta = [source, f"{source}_reinit"], json.dumps({"checkpoint": "x.pt", "epoch": epoch})
    arrays = {f"map_{source}": maps, f"map_{source}_reinit": maps * 0}
    np.savez(
        path,
        images=np.array(images),
        classes=np.array(classes),
        sources=np.array(names),
        side=0,
        keep_ratio=0.1,
        meta=meta,
        **arrays,
    )


class Boxed(Case):
    """The first 90 images have a box of Mass, in one of two corners by turns, and its map points there."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        corner = np.arange(90) // 3 % 2  # by patient
        self.hot = np.full((240, 2), 27)
        self.hot[:90, 0] = np.where(corner == 0, 9, 54)
        rows = [(image, "Mass", 512 * c, 512 * c, 512, 512) for image, c in zip(self.images, corner, strict=False)]
        pd.DataFrame(rows, columns=["image", "label", "x", "y", "w", "h"]).to_csv(folder / "b.csv", index=False)
        write_class_maps(folder / "own.npz", self.images, self.hot)
        write_class_maps(folder / "union.npz", self.images, self.hot[:, :1], "mask", [""])
        self.flags = ("--bbox_csv", folder / "b.csv", "--masks", folder / "union.npz", folder / "own.npz")


def test_the_findings_own_map_is_the_headline_of_the_boxes(tmp_path: Path) -> None:
    case = Boxed(tmp_path)
    found = case.evaluate(*case.flags, resamples=50)["localization"]
    head = found["headline"]
    assert (head["source"], head["kind"], head["pointing"]["value"]) == ("class_mask", "finding", 1)
    assert list(head["minus"]) == ["shuffled", "best_place", "label_place", "reinit", "random", "centre"]
    # Half of the other patients have it in the same corner.
    assert head["minus"]["shuffled"]["value"] == pytest.approx(0.5, abs=0.06)
    assert head["minus"]["best_place"]["low"] > 0.2
    assert head["minus"]["reinit"]["value"] == 0.75  # a flat map has a quarter, as the box
    assert found["findings"]["Mass"] == {"n_boxes": 90, "n_small_boxes": 0, "n_images": 90, "n_patients": 30}
    assert found["controls"]["label_place"]["class_mask"]["n_images"] == 240  # images without a box have labels, too
    assert {name: block["kind"] for name, block in found["sources"].items() if "_" not in name} == {
        "mask": "union",
        "random": "control",
        "centre": "control",
    }
    for said in (
        "POINTING of each finding's own map into its box (class_mask): 1.0000",
        "minus the same finding's map of other patients' images",
        "minus the best fixed place a finding",
        "The map depends on its image",
        "mask, mask_reinit: one map for all findings",
    ):
        assert said in case.said
    union = case.evaluate(*case.flags[:-1], resamples=0)["localization"]
    assert (union["headline"]["source"], union["headline"]["kind"]) == ("mask", "union")
    assert union["controls"]["label_place"] == {} and "POINTING of one map for all findings" in case.said
    assert "depends on its image" not in case.said  # without an interval there is nothing to say


def test_the_place_by_labels_may_come_from_training_images(tmp_path: Path) -> None:
    """Their maps of Mass are high in the first corner where it is present: half of the boxes."""
    case, train = Boxed(tmp_path), Case(tmp_path, first=5000, seed=1)
    hot = np.full((241, 2), 27)
    hot[:240, 0] = np.where(train.target[:, 0] == 1, 9, 27)
    write_class_maps(tmp_path / "train.npz", [*train.images, "unlisted.png"], hot)
    flags = (*case.flags, "--train_masks", tmp_path / "train.npz", "--train_csv", train.csv)
    result = case.evaluate(*flags, resamples=0)
    found = result["localization"]
    assert found["sources"]["class_mask_label_place"]["mean"]["pointing"]["value"] == 0.5
    chosen_by = found["controls"]["label_place"]["class_mask"]
    assert chosen_by["n_images"] == 240 and "1 of its 241 images are not in" in case.said
    assert str(tmp_path / "train.npz") in chosen_by["from"]
    assert result["inputs"]["train_masks"] == ["../train.npz"]  # from scores/metrics.json
    assert (tmp_path / "scores" / result["inputs"]["train_csv"]).samefile(train.csv)


def test_wrong_training_maps_are_named(tmp_path: Path) -> None:
    case, train = Boxed(tmp_path), Case(tmp_path, n=6, first=5000, seed=1)
    flags = ("--preds", case.preds, "--csv", case.csv, *case.flags, "--out", tmp_path / "n")
    hot = np.zeros((6, 2), dtype=int)
    cases = [
        (("theirs", CLASSES, 1, train.images), "no file of --masks holds the same"),
        (("class_mask", ["Mass", "Hernia"], 1, train.images), "no file of --masks holds the same"),
        (("class_mask", CLASSES, 2, train.images), "comes from x.pt, epoch 2, the scored maps from x.pt, epoch 1"),
        (("class_mask", CLASSES, 1, [f"x{n}.png" for n in range(6)]), "none of its 6 images is in --train_csv"),
    ]
    for (source, classes, epoch, images), said in cases:
        write_class_maps(tmp_path / "train.npz", images, hot, source, classes, epoch)
        given = ("--train_masks", tmp_path / "train.npz", "--train_csv", train.csv)
        assert said in one_line_error("evaluate.py", *flags, *given)
    masks_alone = run("evaluate.py", *flags, "--train_masks", tmp_path / "train.npz", code=2)
    assert "--train_masks needs --train_csv" in masks_alone
    alone = ("--preds", case.preds, "--csv", case.csv, "--out", tmp_path / "n", "--train_csv", train.csv)
    assert "needs --masks and --bbox_csv" in run("evaluate.py", *alone, "--train_masks", tmp_path / "train.npz", code=2)
    assert not (tmp_path / "n").exists()


def test_a_group_with_too_few_findings_is_undefined() -> None:
    target = np.array([[1, 1], [0, 0], [1, 1], [0, 0], [0, 0], [0, 0]], dtype=float)
    groups = {"sex": {"F": np.array([1, 1, 1, 1, 0, 0], dtype=bool), "M": np.array([0, 0, 0, 0, 1, 1], dtype=bool)}}
    prob, patients = np.linspace(0, 1, 12).reshape(6, 2), np.array(list("abcdef"))
    drawn = bootstrap.estimate(summary.main_scores({"full": prob}, target, None, groups), patients, 10, 0)
    block = summary.subgroups(drawn, groups, patients, CLASSES)["sex"]
    assert (
        block["groups"]["M"]["auroc"]["value"] is None
        and block["groups"]["F"]["auroc"]["value"] is not None
        and "gap" not in block
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows + [dict(rows[0])], "twice"),
        (lambda rows: [{**rows[0], "prob_full": {"Mass": float("nan"), "Edema": 0.1}}, *rows[1:]], "not a probability"),
        (
            lambda rows: [*rows, {**rows[0], "image": "other.png", "prob_full": {"Mass": 0.1}}],
            "not a file of predictions",
        ),
        (lambda rows: [*rows, {**rows[0], "image": "other.png"}], "1 of its 4 images are not in"),
        (lambda rows: [], "not a file of predictions"),
        (
            lambda rows: [*rows[:2], {**rows[2], "prob_full": {"Mass": 0.1, "Edema": 0.1, "Hernia": 0.9}}],
            "row 3 ('c.png') has prob_full of Hernia",
        ),
        (
            lambda rows: [{k: v for k, v in rows[0].items() if k != "prob_drop"}, *rows[1:]],
            "row 2 ('b.png') has prob_drop, which row 1 has not",
        ),
        (
            lambda rows: [{**r, "image": f"{folder}/{r['image']}"} for folder in "xy" for r in rows],
            "x/a.png, which may be any of several",
        ),
        (
            lambda rows: [{"image": r["image"], "prob_full": {"Mas": 0.1, "Edema": 0.2}} for r in rows],
            "did you mean 'Mass'",
        ),
        (
            lambda rows: [{"image": r["image"], "prob_full": {"Infiltrate": 0.1, "Infiltration": 0.2}} for r in rows],
            "two columns for 'Infiltration'",
        ),
    ],
)
def test_bad_predictions_are_named(tmp_path: Path, change, said: str) -> None:
    write_predictions(tmp_path / "p.json", ["a.png", "b.png", "c.png"], np.full((3, 2), 0.5))
    (tmp_path / "p.json").write_text(json.dumps(change(json.loads((tmp_path / "p.json").read_text()))))
    (tmp_path / "t.csv").write_text("image,labels\na.png,Mass\nb.png,Edema\nc.png,\n")
    assert said in one_line_error(
        "evaluate.py", "--preds", tmp_path / "p.json", "--csv", tmp_path / "t.csv", "--out", tmp_path / "s"
    )
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,prob_Mass\na.png,0.5\na.png,0.5\n", "'a.png' twice"),
        ("image,prob_Mass\na.png,0.5\nimages/a.png,0.5\n", "twice"),
        ("image,prob_Mass\na.png,\n", "is nan, not a probability"),
        ("image,prob_Mass\na.png,1.5\n", "is 1.5, not a probability"),
        ("image,prob_Mass\na.png,high\n", "holds text"),
        ("image,Mass\na.png,0.5\n", "one 'prob_CLASS' a class"),
        ("image,prob_mass\na.png,0.5\n", "did you mean 'Mass'"),
        ("image,prob_Mass\nz.png,0.5\n", "1 of its 1 images are not in"),
    ],
)
def test_bad_csv_predictions_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    (tmp_path / "t.csv").write_text("image,labels\na.png,Mass\nb.png,Edema\n")
    assert said in one_line_error(
        "evaluate.py", "--preds", tmp_path / "p.csv", "--csv", tmp_path / "t.csv", "--out", tmp_path / "s"
    )
    assert not (tmp_path / "s").exists()


def test_what_has_one_class_alone_is_in_no_mean(case: Case) -> None:
    """Edema present everywhere, Hernia nowhere: AP 1.0, precision 0 and Brier of a constant say nothing."""
    whole = case.evaluate(resamples=0)
    table = pd.read_csv(case.csv, keep_default_na=False)
    table["labels"] = [",".join({*field.split(",")} - {""} | {"Edema"}) for field in table["labels"]]
    table["unknown"] = ""
    table.to_csv(case.csv, index=False)
    case.preds = case.folder / "peer.csv"
    prob = {"prob_Mass": case.prob[:, 0], "prob_Edema": case.prob[:, 1], "prob_Hernia": 0.9}
    pd.DataFrame({"image": case.images, **prob}).to_csv(case.preds, index=False)
    result = case.evaluate(resamples=0)
    assert (
        set(result["classes_undefined"]) == {"Edema", "Hernia"}
        and "undefined and not in the means: Edema, Hernia" in case.said
    )
    assert (
        result["per_class"]["Edema"]["ap"]["value"] is None and result["per_class"]["Hernia"]["auroc"]["value"] is None
    )
    for name in ("auroc", "ap", "brier"):
        assert result["mean"][name]["value"] == pytest.approx(whole["per_class"]["Mass"][name]["value"], abs=1e-6)


def test_one_patient_has_no_interval(case: Case) -> None:
    table = pd.read_csv(case.csv, keep_default_na=False)
    table["patient_id"] = "one"
    table.to_csv(case.csv, index=False)
    score = case.evaluate()["mean"]["auroc"]
    assert score["value"] is not None and score["low"] is None and score["high"] is None


def test_files_of_another_or_a_contaminated_model_are_refused(case: Case) -> None:
    other = Case(case.folder, first=5000, seed=1)
    flags = (
        "--preds",
        case.preds,
        "--csv",
        case.csv,
        "--threshold_preds",
        other.preds,
        "--threshold_csv",
        other.csv,
        "--out",
        case.folder / "n",
    )
    write_predictions(other.preds, other.images, other.prob, marked=True)
    assert "trained on some of these" in one_line_error("evaluate.py", *flags)
    write_predictions(other.preds, other.images, other.prob)
    predictions.meta_path(other.preds).write_text('{"checkpoint": "other.pt", "epoch": 3}')
    assert "files of one checkpoint" in one_line_error("evaluate.py", *flags)
    predictions.meta_path(other.preds).write_text("[1]")
    assert "it is [1], not an object" in one_line_error("evaluate.py", *flags)


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ('{"checkpoint": 3}', "'checkpoint' is 3, not a text"),
        ('{"contaminated": "no"}', "'contaminated' is 'no', not true or false"),
        ('{"ensemble": [1]}', "'ensemble[0]' is 1, not an object"),
        ('{"epoch": 1.5}', "'epoch' is 1.5, not a whole number"),
        ("{", "is damaged"),
        ('{"ensemble": [{"checkpoint": ["a"]}]}', "'ensemble[0].checkpoint' is ['a'], not a text"),
        ('{"args": 3}', "'args' is 3"),
    ],
)
def test_an_odd_meta_file_is_named_with_its_key(case: Case, meta: str, said: str) -> None:
    path = predictions.meta_path(case.preds)
    path.write_text(meta)
    error = one_line_error("evaluate.py", "--preds", case.preds, "--csv", case.csv, "--out", case.folder / "n")
    assert said in error and str(path) in error
    same = np.repeat(np.repeat(case.prob[:, None, None], 3, axis=2), 2, axis=1)
    write_curves(case.folder / "c.npz", case, same, same)
    data = dict(np.load(case.folder / "c.npz")) | {"meta": np.array(meta)}
    np.savez(case.folder / "c.npz", **data)
    with pytest.raises(ValueError, match="c.npz"):
        faithfulness.read_curves(case.folder / "c.npz")


def write_maps(path: Path, images: list[str], **more: Any) -> None:
    """Maps whose highest cell is the row of the image: no two are alike."""
    maps = np.zeros((len(images), 1, 16, 16), dtype=np.float16)
    for n in range(len(images)):
        maps[n, 0, n % 16, 3] = 1
    fixed = {"classes": np.array([""]), "sources": np.array(["mask"]), "side": 0, "keep_ratio": 0.1, "meta": "{}"}
    np.savez(path, images=np.array(images), map_mask=maps, **{**fixed, **more})


def test_boxes_and_maps_find_images_in_sub_folders(case: Case) -> None:
    """A table of several sets, lists of boxes and maps with other parts of the paths, or none: the same scores."""
    boxes = pd.DataFrame(
        {"image": case.images[:12], "label": "Mass", "x": 100, "y": [64.0 * n for n in range(12)], "w": 200, "h": 64}
    )
    maps = case.folder / "m.npz"
    flags = ("--bbox_csv", case.folder / "b.csv", "--masks", maps, "--overwrite")
    found = []
    for table_of, boxes_of, maps_of in (
        ("", "", ""),
        ("nih/images/", "", "nih/images/"),
        ("nih/images/", "images/", ""),
        ("nih/", "nih/", "nih/"),
    ):
        table = pd.read_csv(case.csv, keep_default_na=False)
        table["image"] = table_of + table["image"].str.rsplit("/").str[-1]
        table.to_csv(case.csv, index=False)
        write_predictions(case.preds, [table_of + image for image in case.images], case.prob)
        boxes.assign(image=boxes_of + boxes["image"]).to_csv(case.folder / "b.csv", index=False)
        write_maps(maps, [maps_of + image for image in case.images])
        block = case.evaluate(*flags, resamples=0)["localization"]
        assert (block["n_boxes"], block["n_images"], block["n_boxes_ambiguous"]) == (12, 12, 0)
        found.append(block["sources"])
    assert all(one == found[0] for one in found[1:]) and found[0]["mask"]["mean"]["pointing"]["value"] == 1


def test_a_box_of_an_image_that_may_be_another_is_counted_and_not_scored(case: Case) -> None:
    table = pd.read_csv(case.csv, keep_default_na=False)
    both = pd.concat([table.assign(image="a/" + table["image"]), table.assign(image="b/" + table["image"])])
    both.to_csv(case.csv, index=False)
    write_predictions(
        case.preds, [f"a/{image}" for image in case.images], case.prob
    )  # b/… are not predicted, and yet there
    write_maps(case.folder / "m.npz", [f"a/{image}" for image in case.images])
    rows = [(f"a/{case.images[0]}", "Mass"), (case.images[1], "Mass"), (f"b/{case.images[2]}", "Mass")]
    frame = pd.DataFrame(rows, columns=["image", "label"]).assign(x=100, y=0, w=200, h=64)
    frame.to_csv(case.folder / "b.csv", index=False)
    flags = ("--bbox_csv", case.folder / "b.csv", "--masks", case.folder / "m.npz")
    block = case.evaluate(*flags, resamples=0)["localization"]
    assert (block["n_boxes"], block["n_boxes_in_file"], block["n_boxes_ambiguous"]) == (1, 3, 1)
    assert "1 boxes are left out, as their image may be any of several" in case.said
    frame[1:].to_csv(case.folder / "b.csv", index=False)
    error = one_line_error("evaluate.py", "--preds", case.preds, "--csv", case.csv, *flags, "--out", case.folder / "n")
    assert "none of its 2 boxes is of an image" in error
    frame.to_csv(case.folder / "b.csv", index=False)
    write_maps(case.folder / "m.npz", case.images)  # whose are they?
    error = one_line_error("evaluate.py", "--preds", case.preds, "--csv", case.csv, *flags, "--out", case.folder / "n")
    assert "m.npz" in error and "cannot be told apart" in error


def test_maps_and_curves_that_were_trained_on_say_so(case: Case) -> None:
    same = np.repeat(np.repeat(case.prob[:, None, None], 3, axis=2), 2, axis=1)
    write_curves(case.folder / "c.npz", case, same, same)
    np.savez(case.folder / "c.npz", **dict(np.load(case.folder / "c.npz")) | {"contaminated": np.arange(240) == 5})
    boxes = pd.DataFrame({"image": case.images[:2], "label": "Mass", "x": 100, "y": 0, "w": 200, "h": 64})
    boxes.to_csv(case.folder / "b.csv", index=False)
    for marked, trained in ((0, True), (7, False)):  # among the images with a box, or not
        write_maps(
            case.folder / "m.npz", case.images, contaminated=np.arange(240) == marked, meta='{"contaminated": false}'
        )
        flags = (
            "--curves",
            case.folder / "c.npz",
            "--bbox_csv",
            case.folder / "b.csv",
            "--masks",
            case.folder / "m.npz",
        )
        result = case.evaluate(*flags, resamples=0)
        assert result["faithfulness"]["controls"]["contaminated"] is True and "--curves is CONTAMINATED" in case.said
        assert result["localization"]["maps"]["../m.npz"]["contaminated"] is trained
        assert ("m.npz: CONTAMINATED" in case.said) is trained


def test_the_report_takes_all_that_evaluate_writes(case: Case) -> None:
    """No block is odd: thresholds, prediction sets, curves, boxes, a comparison, with intervals and without."""
    from roi.scoring.metrics_file import BLOCKS, read_metrics

    other, third = Case(case.folder, first=5000, seed=1), Case(case.folder, first=9000, seed=2)
    thresholds = case.folder / "thr.json"
    run("calibrate_conformal.py", "--preds", third.preds, "--csv", third.csv, "--alpha", 0.2, "--out", thresholds)
    same = np.repeat(np.repeat(case.prob[:, None, None], 3, axis=2), 2, axis=1)
    write_curves(case.folder / "c.npz", case, same, same / 2)
    boxes = pd.DataFrame({"image": case.images[:3], "label": "Mass", "x": 100, "y": 0, "w": 200, "h": 64})
    boxes.to_csv(case.folder / "b.csv", index=False)
    write_maps(case.folder / "m.npz", case.images)
    flags = (
        "--threshold_preds",
        other.preds,
        "--threshold_csv",
        other.csv,
        "--thresholds",
        thresholds,
        "--curves",
        case.folder / "c.npz",
        "--bbox_csv",
        case.folder / "b.csv",
        "--masks",
        case.folder / "m.npz",
        "--compare",
        case.preds,
        "--train_csv",
        case.folder / "train.csv",
    )
    pd.read_csv(other.csv, dtype=str).assign(split="train").to_csv(case.folder / "train.csv", index=False)
    for resamples in (0, 20):
        written = case.evaluate(*flags, resamples=resamples)
        metrics, odd = read_metrics(case.folder / "scores" / "metrics.json")
        assert odd == {} and {k for k, x in written.items() if x is not None} <= metrics.keys()
        assert set(BLOCKS) - {"n_studies", "view_pointing", "synthetic", "trained_on_synthetic"} <= written.keys()


def test_no_mean_is_a_negative_zero(case: Case) -> None:
    """full - drop of -1e-7, on the console and in per_class.csv."""
    prob = np.full((240, 2), 0.5)
    records = [
        predictions.record(i, CLASSES, {"full": p, "crop": p, "drop": p + 1e-7}, False)
        for i, p in zip(case.images, prob, strict=True)
    ]
    predictions.write(case.preds, records, {})
    write_predictions(case.folder / "o.json", case.images, prob + 1e-9)
    case.evaluate("--compare", case.folder / "o.json")
    text = (case.folder / "scores" / "per_class.csv").read_text()
    assert not re.search(r"-0\.0+(?![0-9])", case.said + text)
    zero = predictions.record("a.png", ["Mass"], {"full": np.array([0.0]), "drop": np.array([0.0])}, False)[
        "faithfulness"
    ]["Mass"]
    assert str(zero) == "0.0" and predictions.seven_digits(-0.0) == 0 and str(predictions.seven_digits(-0.0)) == "0.0"


def test_controls_are_compared_in_pairs(case: Case) -> None:
    """The same predictions for mask and control: every difference is exactly 0, though each alone has an interval."""
    same = np.repeat(np.repeat(case.prob[:, None, None], 3, axis=2), 2, axis=1)
    write_curves(case.folder / "c.npz", case, same, same / 2)
    mask = case.evaluate("--curves", case.folder / "c.npz")["faithfulness"]["controls"]["sources"]["mask"]
    assert mask["crop"]["low"] < mask["crop"]["high"] and all(
        v == {"value": 0, "low": 0, "high": 0} for v in mask["minus"]["random"].values()
    )
    assert mask["positives"]["value"] == pytest.approx(
        np.mean([case.prob[(case.target[:, j] == 1) & case.known(j), j].mean() / 2 for j in range(2)]), rel=1e-4
    )


def test_predictions_are_the_same_in_any_layout_of_the_file(tmp_path: Path) -> None:
    """Read line by line where a row is a line, else as a whole; what is cut off or has no comma is damaged."""
    rng = np.random.default_rng(0)
    names = [f"{n}.png" for n in range(9000)]
    prob = {part: rng.random((9000, 2)).round(6) for part in ("full", "crop")}
    wanted = predictions.Predictions(names, ["Mass", "Edema"], prob, rng.random(9000) < 0.5, {})
    path = tmp_path / "preds.json"
    predictions.write(path, predictions.records(wanted), {})
    text = path.read_text()
    for layout in (text, json.dumps(json.loads(text)), json.dumps(json.loads(text), indent=1)):
        path.write_text(layout)
        found = predictions.read(path)
        assert (found.images, found.classes) == (names, wanted.classes)
        np.testing.assert_array_equal(found.contaminated, wanted.contaminated)
        for part in prob:
            np.testing.assert_array_equal(found.prob[part], prob[part])
    lines = text.splitlines()
    lines[5000] = lines[5000].removesuffix(",")
    for damaged in (text[:-3], text + "[]", "\n".join(lines), "[\n]\n"):
        path.write_text(damaged)
        with pytest.raises(UserError, match="not a file of predictions"):
            predictions.read(path)
    lines[5000] = lines[5000].replace('"prob_full": {', '"prob_full": {"Hernia": 0.5, ') + ","
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match="row 5000 .* Hernia"):
        predictions.read(path)
