"""Prediction sets keep what they promise: closed forms, brute force over every threshold, simulations, published
behaviour of real predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from scipy.special import expit
from scipy.stats import binom

from roi.labels import LABELS
from roi.scoring import conformal, prediction_sets
from roi.scoring.conformal_calibration import Promise, Unlabelled, image_weights, shifted
from roi.scoring.conformal_calibration import calibrate as calibrate_images

K = 5


def drawn(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and targets of a model that knows something; `shift` adds to the log-odds of every finding,
    pictures stay as they are."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, K)) < expit(np.array([-2.5, -2, -1.5, -1, -0.5]) + shift)).astype(float)
    return expit(1.5 * y - 1.5 + rng.normal(size=(n, K))), y


def brute_force_fnr(prob: np.ndarray, target: np.ndarray, alpha: float) -> float:
    """Every threshold there could be, the largest that is allowed."""
    allowed = []
    for t in [*np.unique(prob), conformal.NOTHING]:
        losses = [np.mean(p[y == 1] < t) if (y == 1).any() else 0.0 for p, y in zip(prob, target, strict=True)]
        if (sum(losses) + 1) / (len(losses) + 1) <= alpha + 1e-12:
            allowed.append(t)
    return max(allowed, default=-1.0)


@pytest.mark.parametrize("seed", range(6))
def test_risk_control_is_the_largest_threshold_that_is_allowed(seed: int) -> None:
    prob, y = drawn(60, seed)
    prob = prob.round(2) if seed % 2 else prob  # ties
    y[np.random.default_rng(seed).random(y.shape) < 0.1] = np.nan
    for alpha in (0.02, 0.1, 0.3, 0.9):
        expected, found = brute_force_fnr(prob, y, alpha), conformal.fnr_threshold(prob, y, alpha)
        if found is None:
            assert expected < 0 and alpha < 1 / 61  # not even the empty threshold: n too small
        else:
            # between two scores of findings any threshold loses the same; ours is the score of a finding
            assert conformal.false_negative_proportion(prob, y, found).sum() == pytest.approx(
                conformal.false_negative_proportion(prob, y, expected).sum()
            )
            assert (conformal.false_negative_proportion(prob, y, found).sum() + 1) / 61 <= alpha + 1e-12


def test_too_few_images_are_infeasible() -> None:
    prob, y = drawn(18, 0)
    assert conformal.fnr_threshold(prob, y, 0.05) is None  # (0 + 1) / 19 > .05
    prob, y = drawn(19, 0)
    assert conformal.fnr_threshold(prob, y, 0.05) is not None  # (0 + 1) / 20 = .05


def test_risk_control_keeps_its_promise() -> None:
    """200 repetitions: the mean risk is at most alpha within its Monte-Carlo error, and not far below."""
    for alpha in (0.05, 0.1, 0.2):
        risks = []
        for seed in range(200):
            prob, y = drawn(1300, seed)
            t = conformal.fnr_threshold(prob[:300], y[:300], alpha)
            risks.append(conformal.false_negative_proportion(prob[300:], y[300:], t).mean())
        error = np.std(risks) / math.sqrt(len(risks))
        assert alpha - 0.01 < np.mean(risks) <= alpha + 3 * error


def test_class_conditional_sets_keep_both_promises() -> None:
    sensitivity, specificity = [], []
    for seed in range(200):
        prob, y = drawn(800, seed)
        low, high = conformal.class_thresholds(prob[:400, 3], y[:400, 3], 0.1)
        p, t = prob[400:, 3], y[400:, 3]
        sensitivity.append(np.mean(p[t == 1] >= low))
        specificity.append(np.mean(p[t == 0] <= high))
    for values in (sensitivity, specificity):
        assert 0.9 - 3 * np.std(values) / math.sqrt(200) <= np.mean(values) < 0.93


def test_class_thresholds_are_order_statistics() -> None:
    prob, y = np.arange(30) / 30, np.array([1.0] * 19 + [np.nan] + [0.0] * 10)
    low, high = conformal.class_thresholds(prob, y, 0.1)
    assert low == prob[1]  # floor(.1 * 20) = 2: the second smallest of 19
    assert high == prob[29]  # floor(.1 * 11) = 1: the largest of 10
    assert conformal.class_thresholds(prob, y, 0.05) == (prob[0], None)  # floor(.05 * 11) = 0


def test_precision_and_fdr_hold_with_their_confidence() -> None:
    """Learn then test: over 200 draws of calibration images the risk on many others exceeds alpha in at most delta of
    them."""
    test_prob, test_y = drawn(100_000, 10_000)
    broken = {"precision": 0, "fdr": 0}
    feasible = 0
    for seed in range(200):
        prob, y = drawn(1500, seed)
        t = conformal.precision_threshold(prob[:, 4], y[:, 4], 0.3, 0.1)
        if t is not None:
            feasible += 1
            broken["precision"] += 1 - test_y[test_prob[:, 4] >= t, 4].mean() > 0.3
        broken["fdr"] += (
            conformal.false_share(test_prob, test_y, conformal.fdr_threshold(prob, y, 0.2, 0.1)).mean() > 0.2
        )
    assert feasible > 100
    assert all(count <= binom.ppf(0.999, 200, 0.1) for count in broken.values()), broken


def test_an_impossible_precision_is_infeasible() -> None:
    rng = np.random.default_rng(0)
    assert conformal.precision_threshold(rng.random(2000), (rng.random(2000) < 0.05).astype(float), 0.1, 0.1) is None
    prob = rng.random(2000)
    assert conformal.precision_threshold(prob, (prob > 0.5).astype(float), 0.1, 0.1) == pytest.approx(0.5, abs=0.08)


def test_fdr_risk_is_computed_at_every_score() -> None:
    prob, y = drawn(200, 3)
    prob = prob.round(2)
    y[0, 0] = np.nan
    found = conformal.fdr_threshold(prob, y, 0.25, 0.1)
    passed = []
    for t in sorted(np.unique(prob[~np.isnan(y)]), reverse=True):
        risk = conformal.false_share(prob, y, t).mean()
        r = min(risk, 0.25)
        bound = min(
            math.exp(-200 * (r * math.log(max(r, 1e-300) / 0.25) + (1 - r) * math.log((1 - r) / 0.75))),
            math.e * binom.cdf(math.ceil(200 * risk), 200, 0.25),
        )
        if bound > 0.1:
            break
        passed.append(t)
    assert found == passed[-1]


def test_em_finds_the_new_prevalence_and_weights_restore_the_promise() -> None:
    """Label shift: uncorrected risk breaks, the corrected one holds, with true and with estimated prevalences."""
    risks: dict[str, list[float]] = {"plain": [], "true": [], "estimated": []}
    for seed in range(60):
        prob, y = drawn(1500, seed)
        test_prob, test_y = drawn(4000, 1000 + seed, shift=1.0)
        known = expit(np.array([-2.5, -2, -1.5, -1, -0.5]) + 1.0)
        z = np.log(prob / (1 - prob))
        offset = np.array(
            [-2.5, -2, -1.5, -1, -0.5]
        )  # log-odds of the prior; the likelihood ratio of a normal with means -1.5 and 0 is exp(1.5 z + 1.125)
        calibrated = expit(offset + 1.5 * np.log(test_prob / (1 - test_prob)) + 1.125)
        assert np.isfinite(z).all()
        q = conformal.shifted_prevalence(calibrated, expit(offset))
        assert np.abs(q - test_y.mean(axis=0)).max() < 0.06
        for name, weight in (
            ("plain", None),
            ("true", conformal.label_shift_weights(y, known)),
            ("estimated", conformal.label_shift_weights(y, q)),
        ):
            t = conformal.fnr_threshold(prob, y, 0.1, weight)
            risks[name].append(conformal.false_negative_proportion(test_prob, test_y, t).mean())
    assert np.mean(risks["plain"]) > 0.12
    for name in ("true", "estimated"):
        assert 0.085 < np.mean(risks[name]) <= 0.1 + 3 * np.std(risks[name]) / math.sqrt(60), name


def test_tilted_weights_have_the_asked_prevalence() -> None:
    _, y = drawn(3000, 0)
    q = np.array([0.2, 0.05, 0.3, 0.3, 0.1])
    weight = conformal.label_shift_weights(y, q)
    assert weight.mean() == pytest.approx(1) and (weight > 0).all()
    assert weight @ y / len(y) == pytest.approx(q, abs=1e-4)
    with pytest.raises(ValueError, match="without a positive"):
        conformal.label_shift_weights(y * [1, 1, 1, 1, 0], q)


def test_images_of_one_patient_count_as_one_under_a_shift() -> None:
    """Forty patients with twenty equal images each are forty images; as images they are eight hundred."""
    classes = list(LABELS[:K])
    prob, y = drawn(400, 5)
    others, _ = drawn(400, 6, shift=0.7)
    once = calibrate_images(prob, y, np.arange(400), classes, Promise(0.1, 0.1, "image"), "none", 0, Unlabelled(others))
    many = [np.repeat(values, 20, axis=0) for values in (prob, y, np.arange(400), others, np.arange(400))]
    found = {}
    for unit in ("patient", "image"):
        found[unit] = calibrate_images(*many[:3], classes, Promise(0.1, 0.1, unit), "none", 0, Unlabelled(*many[3:]))
    assert found["patient"]["fnr_shifted"] == once["fnr_shifted"] != found["image"]["fnr_shifted"]
    assert found["patient"]["shift"]["effective_images"] == pytest.approx(once["shift"]["effective_images"], rel=1e-3)
    assert found["image"]["shift"]["effective_images"] == pytest.approx(20 * once["shift"]["effective_images"], rel=0.1)


def test_the_promise_under_a_shift_holds_for_the_next_patient() -> None:
    """Patients with many images are easy here: weighted by image they rule the threshold, and the next patient is let
    down."""
    risks: dict[str, list[float]] = {"patient": [], "image": []}
    classes = list(LABELS[:K])
    for seed in range(20):
        prob, y = drawn(300, seed)
        prob[:40] = np.where(y[:40] == 1, 0.999, prob[:40])  # easy ones, with thirty images each
        copies = np.where(np.arange(300) < 40, 30, 1)
        many = [np.repeat(values, copies, axis=0) for values in (prob, y, np.arange(300))]
        test_prob, test_y = drawn(2000, 500 + seed, shift=0.5)
        others = drawn(1000, 900 + seed, shift=0.5)[0]
        for unit, losses in risks.items():
            share = image_weights(many[2], unit)
            found = shifted(many[0], many[1], others, classes, 0.1, many[2], share, np.ones(len(others)))
            lost = conformal.false_negative_proportion(test_prob, test_y, found["threshold"] or 0.0).mean()
            losses.append(lost * 260 / 300)  # of easy patients nothing is lost
    assert np.mean(risks["patient"]) <= 0.1 + 3 * np.std(risks["patient"]) / math.sqrt(20) < np.mean(risks["image"])


def table(names: list[str], target: np.ndarray, classes: list[str], per_patient: int = 1) -> pd.DataFrame:
    labels = [",".join(c for c, on in zip(classes, row, strict=True) if on == 1) for row in target]
    return pd.DataFrame(
        {
            "image": names,
            "labels": labels,
            "unknown": "",
            "patient_id": [f"x:{int(name[1:-4]) // per_patient}" for name in names],
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Predictions and tables: cal (images 0-999), test (1,000-1,999), shifted (2,000-2,999)."""
    classes = list(LABELS[:K])
    for n, (part, shift) in enumerate((("cal", 0), ("test", 0), ("shifted", 1.0))):
        prob, y = drawn(1000, n, shift)
        names = [f"i{n * 1000 + i}.png" for i in range(1000)]
        table(names, y, classes, 2).to_csv(tmp_path / f"{part}.csv", index=False)
        pd.DataFrame({"image": names, **{f"prob_{c}": prob[:, k] for k, c in enumerate(classes)}}).to_csv(
            tmp_path / f"{part}_preds.csv", index=False
        )
    return tmp_path


def calibrate(files: Path, *flags: object, unit: str = "image") -> tuple[object, ...]:
    return (
        "calibrate_conformal.py",
        "--preds",
        files / "cal_preds.csv",
        "--csv",
        files / "cal.csv",
        "--out",
        files / "thr.json",
        "--unit",
        unit,
        *flags,
    )


def scores(files: Path, part: str) -> tuple[dict, str]:
    said = run(
        "evaluate.py",
        "--preds",
        files / f"{part}_preds.csv",
        "--csv",
        files / f"{part}.csv",
        "--thresholds",
        files / "thr.json",
        "--out",
        files / "out",
        "--resamples",
        100,
        "--overwrite",
    )
    return json.loads((files / "out" / "metrics.json").read_text())["conformal"], said


def test_from_files_to_realised_risks(files: Path) -> None:
    run(*calibrate(files))
    thr = json.loads((files / "thr.json").read_text())
    frame, rows = pd.read_csv(files / "test_preds.csv"), pd.read_csv(files / "test.csv", keep_default_na=False)
    classes = thr["classes"]
    prob = frame[[f"prob_{c}" for c in classes]].to_numpy()
    y = np.array([[c in field.split(",") for c in classes] for field in rows["labels"]], dtype=float)
    found, said = scores(files, "test")
    for rule in ("fnr", "fnr_with_finding", "fdr"):
        inside, t = prob >= thr[rule], found["rules"][rule]
        some = y.any(axis=1)
        lost = ((~inside) & (y == 1)).sum(axis=1) / np.maximum(y.sum(axis=1), 1)
        expected = {
            "fnr": lost.mean(),
            "fnr_with_finding": lost[some].mean(),
            "size": inside.sum(axis=1).mean(),
            "size_with_finding": inside[some].sum(axis=1).mean(),
            "fdr": (inside & (y == 0)).sum(axis=1).astype(float).__truediv__(np.maximum(inside.sum(axis=1), 1)).mean(),
        }
        assert {name: t[name]["value"] for name in expected} == pytest.approx(expected, abs=1e-6)
        assert t["fnr"]["low"] <= t["fnr"]["value"] <= t["fnr"]["high"]
    assert (
        0.07 < found["rules"]["fnr"]["fnr"]["value"] < 0.13
        and 0.07 < found["rules"]["fnr_with_finding"]["fnr_with_finding"]["value"] < 0.13
    )
    for k, c in enumerate(classes):
        row = thr["each"][c]
        assert found["each"][c]["sensitivity"]["value"] == pytest.approx(
            (prob[y[:, k] == 1, k] >= row["present_from"]).mean(), abs=1e-6
        )
        assert found["each"][c]["specificity"]["value"] == pytest.approx(
            (prob[y[:, k] == 0, k] <= row["absent_to"]).mean(), abs=1e-6
        )
        if row["precise_from"] is None:
            assert found["each"][c]["precision"]["value"] is None
    curve = [row["fnr"] for row in found["curve"]]
    assert (
        curve == sorted(curve)
        and found["curve"][-1]["alpha"] == 0.5
        and not found["shift"]["warning"]
        and "WARNING" not in said
    )


def test_shifted_prevalence_is_a_warning_with_numbers_and_can_be_corrected(files: Path) -> None:
    run(*calibrate(files, "--target_preds", files / "shifted_preds.csv"))
    found, said = scores(files, "shifted")
    assert "WARNING: prevalence differs" in said and "->" in found["shift"]["warning"]
    plain, mended = (found["rules"][rule]["fnr"]["value"] for rule in ("fnr", "fnr_shifted"))
    assert plain > 0.115 and 0.06 < mended <= 0.1  # the largest weight stands for the next image: on the safe side
    for row in found["each"].values():
        assert row["sensitivity"]["high"] >= 0.9  # of each finding the promise survives a change of prevalence


def test_the_next_patient_counts_once(files: Path) -> None:
    run(*calibrate(files, unit="patient"))
    prob, y = drawn(1000, 0)
    thr = json.loads((files / "thr.json").read_text())
    losses = conformal.false_negative_proportion(prob, y, thr["fnr"]).reshape(500, 2).mean(axis=1)
    assert (losses.sum() + 1) / 501 <= 0.1 < (losses.sum() + 2) / 501
    found, _ = scores(files, "test")
    prob, y = drawn(1000, 1)
    lost = conformal.false_negative_proportion(prob, y, thr["fnr"])
    assert found["rules"]["fnr"]["fnr"]["value"] == pytest.approx(lost.mean(), abs=1e-6)  # two images each
    with_some = np.where(y.any(axis=1), lost, np.nan).reshape(500, 2)
    expected = np.nanmean(with_some[~np.isnan(with_some).all(axis=1)], axis=1).mean()
    assert found["rules"]["fnr"]["fnr_with_finding"]["value"] == pytest.approx(expected, abs=1e-6)


def correlated(people: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of a patient have the same findings and much of the same noise."""
    rng = np.random.default_rng(seed)
    y = (rng.random((people, K)) < 0.3).astype(float)
    noise = rng.normal(size=(people, 1, K)) + 0.3 * rng.normal(size=(people, images, K))
    prob = expit(1.5 * y[:, None] - 1.5 + noise).reshape(-1, K)
    return prob, np.repeat(y, images, axis=0), np.repeat(np.arange(people), images)


def test_promises_for_a_patient_hold_where_images_are_alike() -> None:
    """60 patients of 10 images: fdr and precision break in at most delta of the draws, class-conditional misses stay at
    alpha."""
    test_prob, test_y, _ = correlated(20_000, 1, 9999)
    broken, missed = {"fdr": 0, "precision": 0}, []
    for seed in range(150):
        prob, y, who = correlated(60, 10, seed)
        thr = calibrate_images(prob, y, who, list("abcde"), Promise(0.2, 0.1, "patient"), "none", 0)
        if thr["fdr"] is not None:
            broken["fdr"] += conformal.false_share(test_prob, test_y, thr["fdr"]).mean() > 0.2
        row = thr["each"]["a"]
        if row["precise_from"] is not None:
            broken["precision"] += 1 - test_y[test_prob[:, 0] >= row["precise_from"], 0].mean() > 0.2
        missed.append((test_prob[test_y[:, 0] == 1, 0] < row["present_from"]).mean())
    assert all(count <= binom.ppf(0.999, 150, 0.1) for count in broken.values()), broken
    assert np.mean(missed) <= 0.2 + 3 * np.std(missed) / math.sqrt(150)


def test_images_that_are_half_known_set_no_common_threshold() -> None:
    prob, y = drawn(4000, 0)
    holes = y.copy()
    holes[np.random.default_rng(1).random(y.shape) < 0.2] = np.nan
    whole = ~np.isnan(holes).any(axis=1)
    with_holes = calibrate_images(prob, holes, np.arange(4000), list("abcde"), Promise(0.1, 0.1, "image"), "none", 0)
    without = calibrate_images(
        prob[whole], y[whole], np.arange(whole.sum()), list("abcde"), Promise(0.1, 0.1, "image"), "none", 0
    )
    assert [with_holes[rule] for rule in ("fnr", "fnr_with_finding", "fdr")] == [
        without[rule] for rule in ("fnr", "fnr_with_finding", "fdr")
    ]
    assert with_holes["n_whole"] == whole.sum() < with_holes["n_images"] == 4000
    assert with_holes["each"]["a"]["known"] == (~np.isnan(holes[:, 0])).sum()
    holes[:, 0] = np.where(holes[:, 0] == 1, 1, np.nan)
    with pytest.raises(ValueError, match="is known to lack 'a'.*--classes b,c,d,e"):
        calibrate_images(prob, holes, np.arange(4000), list("abcde"), Promise(0.1, 0.1, "image"), "none", 0)


def test_scaling_is_fitted_on_other_patients(files: Path) -> None:
    for scale in ("temperature", "platt"):
        run(*calibrate(files, "--scale", scale, "--overwrite"))
        thr = json.loads((files / "thr.json").read_text())
        assert thr["n_fitted"] + thr["n_images"] == 1000 and thr["n_fitted"] == 500
        found, _ = scores(files, "test")
        assert 0.06 < found["rules"]["fnr"]["fnr"]["value"] < 0.14


def test_prediction_sets_by_name() -> None:
    each = {
        "Mass": {"present_from": 0.2, "absent_to": 0.6, "precise_from": None},
        "Edema": {"present_from": 0.5, "absent_to": 0.3, "precise_from": 0.9},
        "Hernia": {"present_from": None, "absent_to": None, "precise_from": None},
    }
    thr = {
        "classes": list(each),
        "each": each,
        "scale": "none",
        "scaling": None,
        "fnr": 0.4,
        "fnr_with_finding": 0.1,
        "fnr_shifted": None,
        "fdr": None,
        "shift": None,
    }
    rows = prediction_sets.described(thr, np.array([[0.1, 0.1, 0.1], [0.4, 0.4, 0.4], [0.7, 0.7, 0.7]]))
    assert [row["set"] for row in rows] == [[], ["Mass", "Edema", "Hernia"], ["Mass", "Edema", "Hernia"]]
    assert [row["certain"] for row in rows] == [
        [],
        [],
        ["Mass", "Edema"],
    ]  # Edema at .4: both can be ruled out, it is in neither
    assert [row["possible"] for row in rows] == [["Hernia"], ["Mass", "Hernia"], ["Hernia"]]


def test_wrong_files_are_one_line(files: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(files / "cal.csv", keep_default_na=False)
    none = frame.assign(labels=frame["labels"].map(lambda field: ",".join(c for c in field.split(",") if c != "Mass")))
    none.to_csv(files / "cal.csv", index=False)
    assert "no calibration image has 'Mass'" in one_line_error(*calibrate(files)) and not (files / "thr.json").exists()
    run(*calibrate(files, "--classes", "Atelectasis,Effusion"))
    assert "exists" in one_line_error(*calibrate(files, "--classes", "Atelectasis"))
    assert "Normal is no finding" in one_line_error(*calibrate(files, "--classes", "Normal", "--overwrite"))
    same_images = ("--overwrite", "--target_preds", files / "cal_preds.csv")
    assert "1,000 of its images set the thresholds" in one_line_error(
        *calibrate(files, "--classes", "Effusion", *same_images)
    )
    assert "there is no prediction for 'Hernia'" in one_line_error(
        *calibrate(files, "--classes", "Hernia", "--overwrite")
    )
    same = (
        "evaluate.py",
        "--preds",
        files / "cal_preds.csv",
        "--csv",
        files / "cal.csv",
        "--out",
        files / "out",
        "--thresholds",
    )
    assert "500 patients who are scored set the thresholds" in one_line_error(*same, files / "thr.json")
    (files / "bad.json").write_text("{}")
    assert "not a file of calibrate_conformal.py" in one_line_error(*same, files / "bad.json")
    assert "no such file of thresholds" in one_line_error(*same, files / "nowhere.json")
    good = json.loads((files / "thr.json").read_text())
    assert good["contaminated"] is None  # a CSV of predictions does not say
    for change, said in (
        ({"alpha": "0.1"}, "'alpha' is '0.1', not a number"),
        ({"each": {"Effusion": {}}}, "'each.Effusion.present_from' is missing"),
        ({"prevalence": {"Effusion": 0.1}}, "'prevalence' has no 'Atelectasis'"),
        ({"scale": "magic", "scaling": good["each"]}, "scaling"),
        ({"patients": [1]}, "'patients[0]' is 1, not a text"),
        ({"model": []}, "'model' is [], not an object"),
        ({"curve": [1]}, "'curve[0]' is 1"),
    ):
        (files / "bad.json").write_text(json.dumps(good | change))
        error = one_line_error(*same, files / "bad.json")
        assert said in error and str(files / "bad.json") in error
    (files / "bad.json").write_text(json.dumps({k: v for k, v in good.items() if k != "n_patients"}))
    assert "'n_patients' is missing" in one_line_error(*same, files / "bad.json")


def test_real_predictions_behave_as_measured_before(shared: Path) -> None:
    """CheXNet reproduction, random patient halves, 20 seeds, one threshold: realised FNR .049, .100, .201 and sets of
    4.9, 3.1 and 1.5 findings."""
    from roi.sources.nih import read_nih

    preds = pd.read_csv(shared / "golden" / "chexnet_reproduction_predictions.csv")
    rows = read_nih(shared / "nih_metadata" / "Data_Entry_2017_v2020.csv").set_index("image").loc[preds["Image Index"]]
    prob, y = preds[[f"prob_{c}" for c in LABELS]].to_numpy(), (rows[list(LABELS)].to_numpy() == 1).astype(float)
    code, some = pd.factorize(rows["patient_id"])[0], y.any(axis=1)
    found: dict[float, list[tuple[float, ...]]] = {0.05: [], 0.1: [], 0.2: []}
    for seed in range(20):
        cal = (np.random.default_rng(seed).permutation(code.max() + 1) <= code.max() // 2)[code]
        for alpha, results in found.items():
            t = conformal.fnr_threshold(prob[cal], y[cal], alpha)
            u = conformal.fnr_threshold(prob[cal & some], y[cal & some], alpha)
            results.append(
                (
                    conformal.false_negative_proportion(prob[~cal], y[~cal], t).mean(),
                    (prob[~cal] >= t).sum(axis=1).mean(),
                    (prob[~cal & some] >= u).sum(axis=1).mean(),
                )
            )
    expected = {0.05: (0.049, 4.9, 8.5), 0.1: (0.100, 3.1, 6.5), 0.2: (0.201, 1.5, 4.4)}
    for alpha, (risk, size, size_some) in expected.items():
        mean = np.mean(found[alpha], axis=0)
        assert (
            mean[0] == pytest.approx(risk, abs=0.002)
            and mean[1] == pytest.approx(size, abs=0.1)
            and mean[2] == pytest.approx(size_some, abs=0.2)
        )
