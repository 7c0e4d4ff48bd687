"""Scores against scikit-learn; what is undefined stays undefined; intervals cover; evaluate.py as its users run it."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import one_line_error, run
from sklearn.metrics import average_precision_score, roc_auc_score

from roi import metrics, predictions


def sample(n: int, ties: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    target = (rng.random(n) < 0.2).astype(float)
    score = rng.normal(size=n) + target
    return (score.round(1) if ties else score), target


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_and_ap_equal_scikit_learn(ties: bool) -> None:
    for seed in range(20):
        score, target = sample(300, ties, seed)
        weights = np.random.default_rng(seed).integers(0, 4, 300).astype(float)
        assert metrics.auroc(score, target) == pytest.approx(roc_auc_score(target, score), abs=1e-12)
        assert metrics.average_precision(score, target) == pytest.approx(average_precision_score(target, score), abs=1e-12)
        area, precision = metrics.by_weight(score, target)(weights)
        assert area == pytest.approx(roc_auc_score(target, score, sample_weight=weights), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(target, score, sample_weight=weights), abs=1e-12)


def test_one_sided_findings_are_undefined_and_unknown_is_left_out() -> None:
    score, target = sample(200, False, 0)
    table = np.stack([target, np.ones(200), np.where(np.arange(200) < 100, target, np.nan), target], axis=1)
    values = metrics.per_class(metrics.auroc, np.stack([score] * 4, axis=1), table)
    assert np.isnan(values[1]) and values[2] == pytest.approx(roc_auc_score(target[:100], score[:100]))
    assert metrics.mean_over_findings(values, ["Mass", "Edema", "Hernia", "Normal"]) == pytest.approx((values[0] + values[2]) / 2)


def test_bootstrap_draws_whole_patients() -> None:
    """Every image doubled under its patient: intervals stay as they are, while an image bootstrap would shrink them by 1.4."""
    score, target = sample(150, False, 1)
    patients = np.arange(150)
    once = metrics.bootstrap(score[:, None], target[:, None], patients, 400)[:, 0, 0]
    twice = metrics.bootstrap(np.tile(score, 2)[:, None], np.tile(target, 2)[:, None], np.tile(patients, 2), 400)[:, 0, 0]
    np.testing.assert_allclose(once, twice, atol=1e-12)


@pytest.mark.slow
def test_interval_covers_the_truth() -> None:
    """Two images a patient, normal scores one apart: true AUROC = Phi(1 / sqrt 2) = .7602."""
    hits = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        target = np.repeat(rng.random(120) < 0.4, 2).astype(float)
        score = rng.normal(size=240) + target
        low, high = metrics.interval(metrics.bootstrap(score[:, None], target[:, None], np.repeat(np.arange(120), 2), 300, seed)[:, 0, 0])
        hits += low <= 0.76025 <= high
    assert 0.92 <= hits / 300 <= 0.98


def test_golden_predictions_of_a_published_reproduction(shared: Path) -> None:
    """Per-class AUROC of 22,433 images as published with them, v2020 labels."""
    import pandas as pd

    from roi.labels import LABELS
    from roi.sources import read_nih
    from roi.table import target_matrix

    golden = pd.read_csv(shared / "golden" / "chexnet_reproduction_predictions.csv").set_index("Image Index")
    table = read_nih(shared / "nih_metadata" / "Data_Entry_2017_v2020.csv").set_index("image", drop=False).loc[golden.index]
    ours = metrics.per_class(metrics.auroc, golden[[f"prob_{c}" for c in LABELS]].to_numpy(), target_matrix(table.reset_index(drop=True), LABELS))
    theirs = pd.read_csv(shared / "golden" / "chexnet_reproduction_aucs.csv").set_index("label")["auc"].loc[list(LABELS)]
    np.testing.assert_allclose(ours, theirs, atol=5e-5)


def write_predictions(path: Path, images: list[str], prob: np.ndarray, marked: bool = False) -> None:
    classes = ["Mass", "Edema"]
    predictions.write(
        path, (predictions.record(i, classes, {"full": p, "crop": p, "drop": p / 2}, marked) for i, p in zip(images, prob, strict=True)), {"checkpoint": "x.pt"}
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


def test_evaluate_scores_what_the_table_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, prob = [f"0000000{n % 9 + 1}_{n:03d}.png" for n in range(60)], rng.random((60, 2))
    mass, edema = rng.random(60) < 0.5, rng.random(60) < 0.5
    rows = [
        f'{i},"{",".join(w for w, on in (("Mass", m), ("Edema", e)) if on)}",{"Edema" if not e and n < 5 else ""},test'
        for n, (i, m, e) in enumerate(zip(images, mass, edema, strict=True))
    ]
    (tmp_path / "t.csv").write_text("\n".join(["image,labels,unknown,split", *reversed(rows)]) + "\n")
    write_predictions(tmp_path / "p.json", images, prob, marked=True)
    said = run("evaluate.py", "--preds", tmp_path / "p.json", "--csv", tmp_path / "t.csv", "--out", tmp_path / "s", "--resamples", 50)
    scores = json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert scores["n_images"] == 60 and scores["n_patients"] == 9 and scores["split"] == "test" and scores["contaminated"] and "CONTAMINATED" in said
    known = ~((np.arange(60) < 5) & ~edema)
    a, b = roc_auc_score(mass, prob[:, 0]), roc_auc_score(edema[known], prob[known, 1])
    assert scores["per_class"]["Mass"]["auroc"]["value"] == pytest.approx(a) and scores["per_class"]["Edema"]["auroc"]["value"] == pytest.approx(b)
    assert scores["mean"]["auroc"]["value"] == pytest.approx((a + b) / 2)
    assert scores["mean"]["auroc"]["low"] < scores["mean"]["auroc"]["value"] < scores["mean"]["auroc"]["high"]
    assert "exists" in one_line_error("evaluate.py", "--preds", tmp_path / "p.json", "--csv", tmp_path / "t.csv", "--out", tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows + [dict(rows[0])], "twice"),
        (lambda rows: [{**rows[0], "prob_full": {"Mass": float("nan"), "Edema": 0.1}}, *rows[1:]], "not a probability"),
        (lambda rows: [*rows, {**rows[0], "image": "other.png", "prob_full": {"Mass": 0.1}}], "not a file of predictions"),
        (lambda rows: [*rows, {**rows[0], "image": "other.png"}], "1 of its 4 images are not in"),
        (lambda rows: [], "not a file of predictions"),
    ],
)
def test_bad_predictions_are_named(tmp_path: Path, change, said: str) -> None:
    write_predictions(tmp_path / "p.json", ["a.png", "b.png", "c.png"], np.full((3, 2), 0.5))
    (tmp_path / "p.json").write_text(json.dumps(change(json.loads((tmp_path / "p.json").read_text()))))
    (tmp_path / "t.csv").write_text("image,labels\na.png,Mass\nb.png,Edema\nc.png,\n")
    assert said in one_line_error("evaluate.py", "--preds", tmp_path / "p.json", "--csv", tmp_path / "t.csv", "--out", tmp_path / "s")
    assert not (tmp_path / "s").exists()
