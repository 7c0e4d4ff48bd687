"""Scores against scikit-learn; what is undefined stays undefined; intervals cover the truth."""

import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from roi.scoring import bootstrap as bootstrap_module
from roi.scoring import calibration, metrics
from roi.scoring.bootstrap import MOST_DRAWS, estimate, interval, resample_weights, weighted_mean
from roi.scoring.ranking import blocks


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
        assert metrics.average_precision(score, target) == pytest.approx(
            average_precision_score(target, score), abs=1e-12
        )
        (((area, precision),),) = metrics.ranking(score[:, None], target[:, None])(weights[:, None].astype(np.int32))
        assert area == pytest.approx(roc_auc_score(target, score, sample_weight=weights), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(target, score, sample_weight=weights), abs=1e-12)


@pytest.mark.parametrize("most", [9, 31, 500])
def test_many_resamples_of_some_images_equal_scikit_learn(most: int) -> None:
    """More images than one sum of two bytes holds, unknown targets, images of a group alone, few and large weights."""
    rng = np.random.default_rng(0)
    score, target = sample(5000, True, 0)
    target[rng.random(5000) < 0.1] = np.nan
    group = rng.random(5000) < 0.7
    weights = rng.integers(0, most + 1, (5000, 3)).astype(np.int8 if most <= MOST_DRAWS else np.int32)
    found = metrics.ranking(score[:, None], target[:, None], group)(weights)
    rows = group & ~np.isnan(target)
    for r in range(3):
        weight = weights[rows, r].astype(float)
        area = roc_auc_score(target[rows], score[rows], sample_weight=weight)
        precision = average_precision_score(target[rows], score[rows], sample_weight=weight)
        np.testing.assert_allclose(found[r, 0], [area, precision], atol=1e-12)


@pytest.mark.parametrize("most", [3, 31, 20_000])
@pytest.mark.parametrize("digits", [0, 2, 9])
def test_groups_and_the_size_of_blocks_change_no_bit(most: int, digits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group ranked beside all images is the group alone; blocks of 7 images, of which a tie has more, are one block.

    Groups of some images, of hardly any and of none; few and large weights; 1 to 3 resamples.
    """
    rng = np.random.default_rng(digits)
    score, target = sample(3000, False, digits)
    score = score.round(digits)
    target[rng.random(3000) < 0.1] = np.nan
    groups = [rng.random(3000) < share for share in (0.5, 0.01, 0)]
    of_all = score[:, None], target[:, None]
    for resamples in (1, 2, 3):
        weights = rng.integers(0, most + 1, (3000, resamples)).astype(np.int32)
        whole = metrics.ranking(*of_all, groups=groups)(weights)
        monkeypatch.setattr(blocks, "BLOCK", 7)
        np.testing.assert_array_equal(metrics.ranking(*of_all, groups=groups)(weights), whole)
        monkeypatch.undo()
        np.testing.assert_array_equal(metrics.ranking(*of_all)(weights), whole[..., :2])
        for g, group in enumerate(groups):
            alone = metrics.ranking(*of_all, group)(weights)
            np.testing.assert_array_equal(alone[..., 0], whole[..., 2 + g])
    assert np.isfinite(whole[..., :3]).all() and np.isnan(whole[..., 4]).all()


def test_the_sum_of_average_precision_goes_from_tie_to_tie() -> None:
    """Bit for bit: numbers of earlier versions stay."""
    score, target = sample(5000, True, 3)
    weights = np.random.default_rng(4).integers(0, 5, (5000, 2)).astype(np.int8)
    found = metrics.ranking(score[:, None], target[:, None])(weights)[:, 0, 1]
    for r in range(2):
        weight = weights[:, r].astype(float)
        called = hits = precision = 0.0
        for threshold in np.unique(score)[::-1]:
            tie = score == threshold
            positive = weight[tie & (target == 1)].sum()
            called += weight[tie].sum()
            hits += positive
            precision += positive * hits / max(called, 1)
        assert found[r] == precision / hits


def test_processes_that_share_resamples_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    score, target = rng.random((300, 2)), (rng.random((300, 2)) < 0.2).astype(float)
    scores = {"ranking": metrics.ranking(score, target), "error": weighted_mean(score, target == 1)}
    alone = estimate(scores, np.arange(300) // 2, 200, 0)
    monkeypatch.setattr(bootstrap_module, "workers_for", lambda images, resamples: 3)
    shared = estimate(scores, np.arange(300) // 2, 200, 0)
    for name, score_alone in alone.items():
        np.testing.assert_array_equal(score_alone.value, shared[name].value)
        np.testing.assert_array_equal(score_alone.resampled, shared[name].resampled)


@pytest.mark.parametrize("digits", [0, 9])
def test_ranks_equal_scipys(digits: int) -> None:
    score = np.random.default_rng(0).random(500).round(digits)
    for scores in (score, score.astype(np.float32), score[:1], score[:0]):
        np.testing.assert_array_equal(metrics.mid_ranks(scores), rankdata(scores))
    score[7] = np.nan
    np.testing.assert_array_equal(metrics.mid_ranks(score), rankdata(score))


def test_one_sided_findings_are_undefined_and_unknown_is_left_out() -> None:
    score, target = sample(200, False, 0)
    table = np.stack([target, np.ones(200), np.where(np.arange(200) < 100, target, np.nan), target], axis=1)
    values = metrics.per_class(metrics.auroc, np.stack([score] * 4, axis=1), table)
    assert np.isnan(values[1]) and values[2] == pytest.approx(roc_auc_score(target[:100], score[:100]))
    assert metrics.mean_over_findings(values, ["Mass", "Edema", "Hernia", "Normal"]) == pytest.approx(
        (values[0] + values[2]) / 2
    )


def bootstrap(score: np.ndarray, target: np.ndarray, patients: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(N,), (N,), (N,) -> (count, 2)"""
    measure = metrics.ranking(score[:, None], target[:, None])
    return np.concatenate([measure(w) for w in resample_weights(patients, count, seed)])[:, 0]


def test_bootstrap_draws_whole_patients() -> None:
    """Every image doubled under its patient: intervals stay as they are, while an image bootstrap would shrink them by
    1.4."""
    score, target = sample(150, False, 1)
    patients = np.arange(150)
    once, twice = (
        bootstrap(score, target, patients, 200),
        bootstrap(np.tile(score, 2), np.tile(target, 2), np.tile(patients, 2), 200),
    )
    assert once.shape == (200, 2) and once[:, 0].std() > 0.01
    np.testing.assert_allclose(once[:, 0], twice[:, 0], atol=1e-12)


def test_bootstrap_equals_scikit_learn_on_each_resample() -> None:
    score, target = sample(120, True, 2)
    patients = np.repeat(np.arange(40), 3)
    (weights,) = resample_weights(patients, 20, 5)
    assert (weights.reshape(40, 3, 20) == weights.reshape(40, 3, 20)[:, :1]).all() and (
        weights.sum(axis=0) == 120
    ).all()
    drawn = bootstrap(score, target, patients, 20, 5)
    for r in range(20):
        assert drawn[r, 0] == pytest.approx(roc_auc_score(target, score, sample_weight=weights[:, r]), abs=1e-12)
        assert drawn[r, 1] == pytest.approx(
            average_precision_score(target, score, sample_weight=weights[:, r]), abs=1e-12
        )


def test_a_resample_without_both_classes_is_undefined() -> None:
    drawn = bootstrap(np.arange(4.0), np.array([1.0, 0, 0, 0]), np.arange(4), 200)
    without = np.concatenate(list(resample_weights(np.arange(4), 200)), axis=1)[0] == 0
    assert (
        20 < without.sum() < 120
        and (
            np.isnan(drawn[:, 0])
            == (without | (np.concatenate(list(resample_weights(np.arange(4), 200)), axis=1)[0] == 4))
        ).all()
    )


@pytest.mark.parametrize("clustered", [True, False])
def test_interval_covers_the_truth(clustered: bool) -> None:
    """Two images a patient, normal scores one apart: true AUROC = Phi(1 / sqrt 2) = .7602; coverage 93-97 %.

    The two images of a patient share their label and part of their score; an interval that forgets it covers too
    rarely.
    """
    hits, truth = 0, 0.76025
    for seed in range(1000):
        rng = np.random.default_rng([7, seed])
        people = np.repeat(np.arange(150), 2)
        target = np.repeat(rng.random(150) < 0.4, 2).astype(float)
        own, shared = rng.normal(size=300), np.repeat(rng.normal(size=150), 2)
        score = target + np.sqrt(0.3) * own + np.sqrt(0.7) * shared
        low, high = interval(bootstrap(score, target, people if clustered else np.arange(300), 256, seed)[:, 0])
        hits += low <= truth <= high
    assert 0.93 <= hits / 1000 <= 0.97 if clustered else hits / 1000 < 0.92


OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1"""


def test_delong_on_its_published_example() -> None:
    """Ovarian cancer, DeLong et al. 1988: albumin, K-G score, total protein. Figures as printed in the manual of
    SAS/STAT, PROC LOGISTIC, example "Comparing Receiver Operating Characteristic Curves"."""
    data = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    albumin, protein, kg, target = data[:, 0], data[:, 1], 10 - data[:, 2], data[:, 3]
    areas, covariance = metrics.delong(np.stack([albumin, kg, protein]), target)
    np.testing.assert_allclose(areas, [0.7366, 0.7258, 0.6478], atol=5e-5)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), [0.0927, 0.1028, 0.1000], atol=5e-5)
    assert metrics.delong_p(albumin, kg, target) == pytest.approx(0.9102, abs=5e-5)
    assert metrics.delong_p(protein, kg, target) == pytest.approx(0.4561, abs=5e-5)
    assert metrics.delong_p(kg, kg, target) == 1.0 and metrics.delong_interval(albumin, target)[1] == pytest.approx(
        0.9182, abs=5e-5
    )


def test_thresholds_and_decisions_equal_scikit_learn() -> None:
    for seed in range(10):
        score, target = sample(200, seed % 2 == 0, seed)
        tried = np.unique(score)
        for rule in ("f1", "youden"):
            value = {
                t: f1_score(target, score >= t) if rule == "f1" else balanced_accuracy_score(target, score >= t)
                for t in tried
            }
            assert value[metrics.best_threshold(score, target, rule)] == pytest.approx(max(value.values()), abs=1e-12)
        called = score >= 0.5
        tn, fp, fn, tp = confusion_matrix(target, called).ravel()
        ours = metrics.decision_scores(*(np.array(float(v)) for v in (tp, fp, fn, tn)))
        assert ours["f1"] == pytest.approx(f1_score(target, called)) and ours["precision"] == pytest.approx(
            precision_score(target, called)
        )
        assert ours["recall"] == pytest.approx(recall_score(target, called)) and ours["specificity"] == pytest.approx(
            recall_score(1 - target, ~called)
        )
    assert np.isnan(metrics.best_threshold(np.arange(3.0), np.ones(3)))
    nothing_called = metrics.decision_scores(*(np.array(v) for v in (0.0, 0.0, 5.0, 5.0)))
    assert np.isnan(nothing_called["precision"]) and nothing_called["f1"] == 0


def test_calibration_error_is_that_of_its_definition_and_scaling_mends_what_it_can() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 1.5, 40000)
    target = (rng.random(40000) < 1 / (1 + np.exp(-z))).astype(float)
    honest, sharp = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-(2.5 * z + 1)))
    assert calibration.ece(honest, target) < 0.01 < 0.1 < calibration.ece(sharp, target)
    assert calibration.ece(np.array([0.2, 0.2, 0.9]), np.array([0.0, 1.0, 1.0]), bins=10) == pytest.approx(
        (2 * 0.3 + 0.1) / 3
    )
    assert calibration.brier(sharp, target) == pytest.approx(brier_score_loss(target, sharp))
    a, b = calibration.fit_platt(sharp, target)
    assert (a, b) == pytest.approx((1 / 2.5, -1 / 2.5), abs=0.03) and calibration.ece(
        calibration.apply("platt", (a, b), sharp), target
    ) < 0.01
    (temperature,) = calibration.fit_temperature(1 / (1 + np.exp(-2.5 * z)), target)
    assert temperature == pytest.approx(2.5, abs=0.1)
    assert np.isnan(calibration.fit_platt(honest[:5], np.zeros(5))).all()
    finite = calibration.fit_platt(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0, 1, 1]))
    assert np.isfinite(finite).all()


def test_golden_predictions_of_a_published_reproduction(shared: Path) -> None:
    """Per-class AUROC of 22,433 images as published with them, v2020 labels."""
    import pandas as pd

    from roi.data.targets import target_matrix
    from roi.labels import LABELS
    from roi.sources.nih import nih_label_table

    golden = pd.read_csv(shared / "golden" / "chexnet_reproduction_predictions.csv").set_index("Image Index")
    table = nih_label_table(shared / "nih_metadata" / "Data_Entry_2017_v2020.csv")
    table = table.set_index("image", drop=False).loc[golden.index]
    ours = metrics.per_class(
        metrics.auroc,
        golden[[f"prob_{c}" for c in LABELS]].to_numpy(),
        target_matrix(table.reset_index(drop=True), LABELS),
    )
    theirs = (
        pd.read_csv(shared / "golden" / "chexnet_reproduction_aucs.csv").set_index("label")["auc"].loc[list(LABELS)]
    )
    np.testing.assert_allclose(ours, theirs, atol=5e-5)
    ap = metrics.per_class(
        metrics.average_precision,
        golden[[f"prob_{c}" for c in LABELS]].to_numpy(),
        target_matrix(table.reset_index(drop=True), LABELS),
    )
    assert round(ours.mean(), 4) == 0.8383 and round(ap.mean(), 4) == 0.2593


def test_golden_runs_on_the_official_test_split_and_their_ensemble(shared: Path) -> None:
    """Five DenseNet-121: mean AUROC of each, of their mean, and of the mean of their probabilities."""
    runs = [np.load(shared / "golden" / f"nih28_official_test_densenet121_seed{seed}.npz") for seed in range(5)]
    target = runs[0]["test_labels"]
    prob = [1 / (1 + np.exp(-r["test_logits"].astype(np.float64))) for r in runs]
    single = [metrics.per_class(metrics.auroc, p, target).mean() for p in prob]
    np.testing.assert_allclose(single, [0.7025, 0.7151, 0.7249, 0.7198, 0.7168], atol=5e-5)
    assert round(float(np.mean(single)), 4) == 0.7158
    assert round(metrics.per_class(metrics.auroc, np.mean(prob, axis=0), target).mean(), 4) == 0.7391


@pytest.mark.slow
def test_bootstrap_of_the_whole_test_split_is_quick(shared: Path) -> None:
    """25,596 images, 14 findings, 1,000 resamples: goal 30 s on two cores."""
    run = np.load(shared / "golden" / "nih28_official_test_densenet121_seed0.npz")
    began, measure = time.perf_counter(), metrics.ranking(run["test_logits"], run["test_labels"])
    assert sum(measure(w).shape[0] for w in resample_weights(run["test_patient"], 1000)) == 1000
    assert time.perf_counter() - began < 30
