"""The page of make_report.py: what stands on it and in which order, what is said of missing pieces, how it is shown."""

import base64
import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from PIL import Image

from roi.report import build, case_selection, plots
from roi.report.build import page
from roi.report.gallery_files import read_scored
from roi.report.html import esc
from roi.report.run_folder import Run, read_run, run_name
from roi.report.sections.cases import gallery_section, read_gallery
from roi.report.sections.localisation import ASKED, PUBLISHED_PLACE, SHORT, STYLES, localisation
from roi.report.sections.scores import PUBLISHED_AUROC, headline
from roi.report.sections.sets import conformal_sets, verdict
from roi.report.sections.subgroups import subgroups
from roi.report.sections.training import training
from roi.scoring import localization, prediction_sets, predictions
from roi.scoring.conformal_calibration import Promise, Unlabelled, calibrate
from roi.text import decimal
from roi.training.metrics_log import COLUMNS

EVIL, QUOTED = "<script>alert(1)</script>", 'a"b&c'
CLASSES = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    EVIL,
    QUOTED,
    "Normal",
]
FINDINGS = CLASSES[:-1]
ORDER = [
    "scores",
    "cases",
    "findings",
    "long_tail",
    "localisation",
    "faithfulness",
    "gallery",
    "studies",
    "calibration",
    "sets",
    "subgroups",
    "comparison",
    "ablation",
    "training",
    "configuration",
]
COUNT = 160  # images; two a patient


def v(value: float | None, half: float = 0.02) -> dict[str, float | None]:
    return {
        "value": value,
        "low": None if value is None else value - half,
        "high": None if value is None else value + half,
    }


def names() -> list[str]:
    return [f"{n:08d}_{n % 2:03d}.png" for n in range(COUNT - 1)] + [f"{QUOTED}.png"]


def conformal() -> dict[str, Any]:
    """What evaluate.py --thresholds writes.

    fnr is within its interval of alpha, fnr_with_finding kept, fnr_shifted broken, fdr infeasible.
    """
    risks = ("fnr", "fnr_with_finding", "fdr", "size", "size_with_finding")
    found = {
        "fnr": (0.1234, 0.2571, 0.7032, 3.0129, 3.9041),
        "fnr_with_finding": (0.0417, 0.0999, 0.8, 5.1, 6.3),
        "fnr_shifted": (0.1712, 0.3, 0.6, 2.5, 3.1),
    }
    rules = {
        r: {k: v(x, 0.03) for k, x in zip(risks, row, strict=True)} | {"threshold": 0.01234 * (n + 1)}
        for n, (r, row) in enumerate(found.items())
    }
    each = {
        c: {m: v(0.9 - 0.01 * k - 0.1 * n) for n, m in enumerate(("sensitivity", "specificity", "precision", "single"))}
        for k, c in enumerate(FINDINGS)
    }
    each["Mass"]["precision"] = v(None)
    before, now = ({c: a * (k + 1) / 100 for k, c in enumerate(FINDINGS)} for a in (1.0, 2.34))
    return {
        "file": f"thr {QUOTED}.json",
        "alpha": 0.1,
        "delta": 0.05,
        "unit": "image",
        "rules": rules,
        "infeasible": ["fdr"],
        "each": each,
        "curve": [{"alpha": a, "fnr": round(1.3 * a, 4)} for a in (0.02, 0.1, 0.25, 0.4, 0.5)],
        "shift": {
            "prevalence": now,
            "calibration": before,
            "with_finding": 0.668,
            "calibration_with_finding": 0.458,
            "warning": f"prevalence differs ({EVIL} 9.00% -> 21.06%; with a finding 45.8% -> 66.8%): "
            "not guaranteed here",
        },
    }


PLACES = (*localization.COMPARED, "precision_union", "iobb@0.1", "false@0.1")
SHUFFLED = ("mask_shuffled", "cam_shuffled", "class_mask_shuffled")
CONTROLS = ("random", "centre", "best_place", *SHUFFLED, "class_mask_label_place")
KINDS = {
    **dict.fromkeys(("mask", "mask_reinit"), "union"),
    **dict.fromkeys(("cam", "class_mask", "class_mask_reinit"), "finding"),
    **dict.fromkeys(CONTROLS, "control"),
}


def located() -> dict[str, Any]:
    """Sources in the order of KINDS, .05 apart, findings .01 apart; differences are .1, to the best place .01."""
    sources: dict[str, Any] = {}
    for n, (name, kind) in enumerate(KINDS.items()):
        each = {c: {m: v(0.7 - 0.05 * n - 0.01 * k) for m in PLACES} for k, c in enumerate(FINDINGS[:8])}
        controls = localization.controls_of(name, KINDS) if kind != "control" else {}
        minus = {c: {m: v(0.01 if c == "best_place" else 0.1) for m in localization.COMPARED} for c in controls}
        per_class = {c: dict.fromkeys(each, metrics) for c, metrics in minus.items()}
        mean = {m: v(0.7 - 0.05 * n) for m in PLACES}
        sources[name] = {"kind": kind, "mean": mean, "per_class": each, "minus": minus, "minus_per_class": per_class}
    places = {"class_mask": {"from": "scored images, in folds of patients", "n_images": 77, "pairs_without_place": 0}}
    return {
        "findings": {c: {"n_boxes": 20 + k, "n_images": 19, "n_patients": 18} for k, c in enumerate(FINDINGS[:8])},
        "headline": localization.headline(sources),
        "sources": sources,
        "controls": {
            "folds": 5,
            "deals": 5,
            "grid": 32,
            "shuffled": {"draws": 10},
            "best_place": {"pairs_without_place": 3},
            "label_place": places,
        },
    }


def long_tail() -> dict[str, Any]:
    """Counts fall by 3 a finding to 0; Normal is in no bin, and the tail is undefined."""
    counts = {c: 2000 // 3**k for k, c in enumerate(FINDINGS)} | {"Normal": 900}
    counts[FINDINGS[-1]] = 0
    parts = {"head": FINDINGS[:3], "medium": FINDINGS[3:5], "tail": FINDINGS[5:]}
    bins = {
        name: {"classes": classes, "scored": 2, "map": v(None if name == "tail" else 0.5), "mauroc": v(0.6)}
        for name, classes in parts.items()
    }
    return {
        "rule": "share of the training images",
        "train_csv": f"train {QUOTED}.csv",
        "n_train_images": 4000,
        "train_positives": counts,
        "not_in_training": ["Hernia"],
        "bins": bins,
        "challenge": {"map": v(0.31), "mauroc": v(0.72), "mf1": v(0.21), "mece": v(0.09)}
        | {"classes_scored": 9, "classes_left_out": 2, "mece_bins": 15},
    }


def metrics(root: Path, contaminated: bool = False) -> dict[str, Any]:
    """Everything that evaluate.py can write."""
    scores = (
        "auroc",
        "ap",
        "auroc_crop",
        "ap_crop",
        "auroc_drop",
        "ap_drop",
        "f1",
        "precision",
        "recall",
        "specificity",
        "youden",
        "brier",
    )
    curve = np.linspace(0, 1, 2000)
    per_class = {
        c: {
            **{s: v(0.7 + 0.02 * k) for s in scores},
            "auroc_delong": v(0.7 + 0.02 * k, 0.03),
            "positives": 3 + k,
            "known": COUNT,
            "threshold": 0.1 * k,
            "roc": [curve.tolist(), (curve ** (0.2 + 0.05 * k)).tolist()],
            "pr": [curve.tolist(), (1 - curve**2 * 0.9).tolist()],
        }
        for k, c in enumerate(CLASSES)
    }
    per_class["Mass"]["auroc"] = per_class["Mass"]["auroc_delong"] = v(None)
    reliability = [[0.1 * b + 0.05, 0.08 * b + 0.03, 40 * (b != 9)] for b in range(10)]
    area = {"keep_ratio": 0.1, "n_images": COUNT}
    return {
        "n_images": COUNT,
        "n_patients": 80,
        "split": "test",
        "contaminated": contaminated,
        "label_source": f"labels {QUOTED}.csv",
        "classes_not_predicted": ["Hernia"],
        "command": "python evaluate.py --preds preds.json",
        "mean": {s: v(0.8123 - 0.01 * k) for k, s in enumerate(scores)},
        "per_class": per_class,
        "micro": {s: v(0.6) for s in ("f1", "precision", "recall", "specificity")},
        "hamming": v(0.91),
        "thresholds": {"file": "val.json", "rule": "f1"},
        "calibration": {
            "fitted_on": "val.json",
            "methods": {
                m: {
                    "mean": {"ece": 0.05, "brier": 0.1},
                    "per_class": {c: {"ece": 0.04, "brier": None} for c in CLASSES},
                    "reliability": reliability,
                    "parameters": {},
                }
                for m in ("raw", "temperature", "platt")
            },
        },
        "conformal": conformal(),
        "subgroups": {
            "view": {
                "findings": FINDINGS,
                "groups": {
                    g: {"n_images": 80, "n_patients": 40, "auroc": v(a)} for g, a in (("PA", 0.82), ("AP", 0.78))
                },
                "gap": {"best": "PA", "worst": "AP", **v(0.04)},
            }
        },
        "long_tail": long_tail(),
        "view_pointing": {
            "truth_csv": "truth.csv",
            "n_pairs": 70,
            "n_studies": 60,
            "pointing": v(0.91),
            "chance": v(0.44),
            "minus_chance": v(0.47),
            "findings": {EVIL: {"n": 7, "pointing": v(0.5)}, "Mass": {"n": 63, "pointing": v(0.95)}},
        },
        "comparison": {
            "file": "other.json",
            "n_images": COUNT,
            "mean": {"auroc": {**v(0.01), "p": 0.2}},
            "per_class": {c: {"auroc": {**v(0.01), "p": 0.3, "p_delong": 0.25}} for c in FINDINGS},
        },
        "faithfulness": {
            **{
                s: {"mean": v(x), "per_class": {c: v(x) for c in FINDINGS}}
                for s, x in (("positives", 0.234), ("negatives", 0.01))
            },
            "controls": {
                **area,
                "fractions": [0.01, 0.05, 0.1, 0.2, 0.5],
                "sources": {
                    s: {
                        "crop": v(0.7),
                        "drop": v(0.6),
                        "insertion_area": v(0.3),
                        "deletion_area": v(0.2),
                        "insertion": [0.5 + 0.05 * i + 0.01 * n for i in range(5)],
                        "deletion": [0.8 - 0.05 * i - 0.01 * n for i in range(5)],
                    }
                    for n, s in enumerate(("mask", "inverted", "random", "centre", "reinit"))
                },
            },
        },
        "localization": {
            "n_boxes": 90,
            "n_small_boxes": 9,
            "n_patients": 40,
            "box_file": "boxes.csv",
            **area,
            **located(),
        },
        "predictions": {
            "file": str(root / "preds.json"),
            "checkpoint": "roi.pt",
            "epoch": 3,
            "keep_ratio": 0.1,
            "versions": {"torch": "2.6", "python": "3.10"},
            "args": {"mask": "conv", "without": ["tv"], "lr": 1e-4, "note": EVIL},
            "command": "python infer_roi_consistency.py",
            "image_root": "nih",
        },
        "inputs": {
            "preds": "preds.json",
            "csv": "table.csv",
            "masks": ["masks.npz"],
            "curves": "curves.npz",
            "bbox_csv": "boxes.csv",
        },
    }


def write_rows(path: Path, heads: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *rows])


def write_maps(path: Path, source: str, classes: list[str], side: int) -> None:
    rng = np.random.default_rng(5)
    maps = rng.random((COUNT, len(classes), 8, 8)).astype(np.float16)
    arrays: dict[str, Any] = {f"map_{source}": maps}
    if side:
        kept = np.zeros((COUNT, len(classes), side, side), dtype=np.uint8)
        kept[:, :, 10:20, 5:15] = 1
        arrays[f"kept_{source}"] = np.packbits(kept.reshape(*kept.shape[:2], -1), axis=-1)
    np.savez(
        path,
        images=np.array(names()),
        classes=np.array(classes),
        sources=np.array([source]),
        side=side,
        keep_ratio=0.1,
        meta="{}",
        **arrays,
    )


def make_run(root: Path, contaminated: bool = False) -> Path:
    """A run folder with all that a page can show."""
    rng = np.random.default_rng(1)
    (root / "nih" / "images").mkdir(parents=True)
    (root / "scores").mkdir()
    (root / "scores" / "metrics.json").write_text(json.dumps(metrics(root, contaminated)))
    target = rng.random((COUNT, len(FINDINGS))) < 0.25
    prob = np.clip(rng.normal(0.3 + 0.3 * target, 0.15), 0.01, 0.99)
    prob = np.concatenate([prob, 1 - prob.max(axis=1, keepdims=True)], axis=1)
    rows = [
        predictions.record(name, CLASSES, {"full": p, "crop": p * 0.8, "drop": p * 0.5}, False)
        for name, p in zip(names(), prob, strict=True)
    ]
    predictions.write(root / "preds.json", rows, {})
    write_rows(
        root / "table.csv",
        ("image", "labels", "patient_id", "split"),
        [
            (name, ",".join(c for c, t in zip(FINDINGS, row, strict=True) if t), f"p{n // 2}", "test")
            for n, (name, row) in enumerate(zip(names(), target, strict=True))
        ],
    )
    grain = (np.add.outer(np.arange(256), np.arange(256)) // 2).astype(np.int64)
    for name in names():
        Image.fromarray(np.clip(grain + rng.normal(0, 12, (256, 256)), 0, 255).astype(np.uint8)).save(
            root / "nih" / "images" / name
        )
    boxes = [
        (name, c, 100.0, 200.0, 300.0, 250.0)
        for name, row in zip(names(), target, strict=True)
        for c, t in zip(FINDINGS[:8], row[:8], strict=True)
        if t
    ]
    write_rows(root / "boxes.csv", ("image", "label", "x", "y", "w", "h"), boxes)
    write_maps(root / "masks.npz", "mask", [""], 32)
    values = dict.fromkeys(COLUMNS, 0.5)
    write_rows(
        root / "train_metrics.csv",
        COLUMNS,
        [tuple((values | {"epoch": e, "loss": 1 / e, "val_auroc": 0.6 + 0.05 * e}).values()) for e in (1, 2, 3)],
    )
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "whole")


@pytest.fixture(scope="module")
def made(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two runs, made by the command."""
    bare = tmp_path_factory.mktemp("bare")
    numbers = {
        k: x
        for k, x in metrics(bare).items()
        if k in ("n_images", "n_patients", "split", "contaminated", "label_source", "mean", "per_class")
    }
    numbers["mean"] = {"auroc": v(0.777), "ap": v(0.3)}
    (bare / "metrics.json").write_text(json.dumps(numbers))
    out = whole / "report.html"
    assert "2 runs" in run("make_report.py", "--runs", whole, bare, "--out", out, "--title", f"Evidence {EVIL}")
    return out


def sections(text: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', text, flags=re.S))


def gallery_of(run_: Run, image_root: str | None, count: int) -> str:
    return gallery_section(read_gallery(run_, read_scored(run_), image_root, count), count)


def changed_run(whole: Path, folder: Path, change: Any) -> Run:
    """A run whose metrics.json is `change`d; its inputs are found from their full paths."""
    data = metrics(whole)
    data["inputs"] = {
        k: [str(whole / f) for f in x] if isinstance(x, list) else str(whole / x) for k, x in data["inputs"].items()
    }
    data["predictions"]["image_root"] = str(whole / "nih")
    change(data)
    folder.mkdir(exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(data))
    return read_run(folder)


# --- what stands on the page ---


def test_sections_stand_in_their_order_and_are_complete(made: Path) -> None:
    parts = sections(made.read_text())
    assert list(parts) == ORDER
    said = {name: re.findall(r'class="missing">(.*?)</p>', text) for name, text in parts.items()}
    assert {name for name, texts in said.items() if texts} == {"sets", "ablation"}, (
        said
    )  # a rule is infeasible; the bare run has no log


def test_scores_stand_with_their_intervals_and_the_split(made: Path) -> None:
    parts = sections(made.read_text())
    assert "0.812" in parts["scores"] and "[0.792, 0.832]" in parts["scores"]
    assert (
        "160 images of 80 patients" in parts["scores"]
        and "none of these images or patients was trained on" in parts["scores"]
    )
    assert (
        esc(f"labels {QUOTED}.csv") in parts["scores"]
        and "Hernia" in parts["scores"]
        and "banner" not in parts["scores"]
    )
    assert "0.234 <small>[0.214, 0.254]</small>" in parts["faithfulness"]
    assert "0.040 [0.020, 0.060]" in parts["subgroups"]


def test_the_page_names_the_commit_of_the_project(made: Path) -> None:
    """Of the folder that the scripts lie in, wherever the module that asks for it lies."""
    root = Path(__file__).resolve().parents[2]
    assert root == build.ROOT
    assert (root / "make_report.py").is_file()
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    known = subprocess.run(command, cwd=root, capture_output=True, text=True)
    top, _, head = known.stdout.strip().partition("\n")
    expected = head if known.returncode == 0 and Path(top) == root else "unknown"
    row = re.search(r"Commit of the code that made this page</td>.*?<code>(.*?)</code>", made.read_text())
    assert row is not None
    assert row[1].removesuffix(" with uncommitted changes") == expected


def test_published_scores_stand_only_beside_the_official_test_list(whole: Path, tmp_path: Path) -> None:
    other = headline(changed_run(whole, tmp_path, lambda m: m.update(n_images=753)))
    assert "published" not in other and "25,596 images; these are 753" in other
    assert 'class="published"' in headline(changed_run(whole, tmp_path, lambda m: m.update(n_images=25596)))


def test_published_rows_are_marked_with_their_split(made: Path, whole: Path, tmp_path: Path) -> None:
    def official(metrics: dict[str, Any]) -> None:
        metrics.update(n_images=25596)
        metrics["localization"]["n_boxes_in_file"] = 984

    run_ = changed_run(whole, tmp_path, official)
    scores, places = headline(run_), localisation(run_)
    for name, value, split in PUBLISHED_AUROC:
        row = next(r for r in re.findall(r'<tr class="published">.*?</tr>', scores) if f">{name}<" in r)
        assert f">{value}<" in row and f"{split} split" in row
    assert [x for _, x, s in PUBLISHED_AUROC if s == "own"] == [".8414", ".8383"]
    for name, values, split in PUBLISHED_PLACE:
        row = next(r for r in re.findall(r'<tr class="published">.*?</tr>', places) if f">{name}<" in r)
        assert all(f">{x}<" in row for x in values.values()) and split in row


def test_published_places_stand_only_beside_the_official_boxes_and_test_list(whole: Path, tmp_path: Path) -> None:
    """Not beside a part of them, and never beside drawn images, however many."""

    def shown(**metrics: Any) -> bool:
        def change(m: dict[str, Any]) -> None:
            m["localization"]["n_boxes_in_file"] = metrics.pop("boxes", 984)
            m.update({"n_images": 25596} | metrics)

        return 'class="published"' in localisation(changed_run(whole, tmp_path, change))

    assert shown() and not shown(boxes=983) and not shown(n_images=753) and not shown(synthetic=True)


def test_drawn_images_are_a_banner_on_top_of_the_page(whole: Path, tmp_path: Path) -> None:
    drawn = page([changed_run(whole, tmp_path, lambda m: m.update(synthetic=True))], count=1)
    head = drawn[: drawn.index("<main>")]
    assert head.count('class="banner" role="alert">SYNTHETIC') == 1 and "no X-rays" in head
    model = changed_run(whole, tmp_path, lambda m: m.update(trained_on_synthetic=True))
    assert "trained on drawn images alone" in page([model], count=1)
    assert "SYNTHETIC" not in page([read_run(whole)], count=1)


def test_names_from_the_data_are_escaped(made: Path) -> None:
    text = made.read_text()
    assert EVIL not in text and text.count("<script>") == 1 and QUOTED not in text
    assert (
        esc(EVIL) in sections(text)["findings"]
        and esc(QUOTED) in sections(text)["findings"]
        and esc(EVIL) in sections(text)["configuration"]
    )
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        ElementTree.fromstring(base64.b64decode(svg))  # names in figures are text, too
        assert b"<script" not in base64.b64decode(svg)


def test_undefined_is_said_and_never_zero(made: Path) -> None:
    row = next(r for r in re.findall(r"<tr>.*?</tr>", sections(made.read_text())["findings"]) if ">Mass<" in r)
    assert row.count('<td class="undefined" data-v="">undefined</td>') == 2 and ">0.000<" not in row


def test_nothing_is_loaded_and_24_cases_are_small(made: Path) -> None:
    text = made.read_text()
    assert len(text.encode()) <= 5_000_000
    # The four of the beginning stand in the gallery, too.
    assert text.count('<article class="case"') == 4 + 24
    assert len(re.findall("data:image/(?:webp|jpeg)", text)) == 2 * (4 + 24)
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?:https?:|//|file:)""", text) and "@import" not in text
    assert all(alt.strip() for alt in re.findall(r'<img [^>]*alt="([^"]*)"', text)) and text.count(
        "<img "
    ) == text.count(' alt="')


def test_several_runs_stand_side_by_side(made: Path) -> None:
    rows = re.findall(r"<tr>.*?</tr>", sections(made.read_text())["ablation"])[1:]
    assert len(rows) == 2 and "conv mask without tv" in rows[0] and "0.777" in rows[1] and rows[1].count("–") >= 8
    assert "0.812" in rows[0] and ">0.5<" in rows[0]  # losses of the last epoch
    assert run_name({"predictions": {"args": {"mode": "no_drop", "mask": "conv"}}}, Path("x")) == "no_drop"


def test_runs_scored_on_other_images_are_not_compared_in_silence(whole: Path, tmp_path: Path) -> None:
    other = metrics(whole) | {"n_images": 7}
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    assert "not scored on the same images" in page([read_run(whole), read_run(tmp_path)], count=0)


def test_contaminated_has_a_banner(tmp_path: Path, whole: Path) -> None:
    """And so has every section whose own file says so: other model, maps, curves, training, cases trained on."""
    rows = json.loads((whole / "preds.json").read_text())
    (tmp_path / "marked.json").write_text(json.dumps([row | {"contaminated": True} for row in rows]))
    log = pd.read_csv(whole / "train_metrics.csv").assign(contaminated=1)

    def change(m: dict[str, Any]) -> None:
        m.update(contaminated=True, n_images=25596)
        m["comparison"]["contaminated"] = m["faithfulness"]["controls"]["contaminated"] = True
        m["localization"]["maps"] = {"masks.npz": {"checkpoint": "roi.pt", "epoch": 3, "contaminated": True}}
        m["inputs"]["preds"] = str(tmp_path / "marked.json")

    run_ = changed_run(whole, tmp_path / "run", change)
    log.to_csv(tmp_path / "run" / "metrics.csv", index=False)
    text = page([read_run(tmp_path / "run"), read_run(whole)], count=4)
    parts = sections(text)
    head = text[: text.index("<main>")]
    assert head.count('class="banner" role="alert">CONTAMINATED') == 1 and "<title>CONTAMINATED: " in head
    for name in ("training", "comparison", "faithfulness", "localisation", "gallery"):
        assert 'class="banner"' in parts[name] and "CONTAMINATED" in parts[name], name
    assert (
        parts["gallery"].count("trained on this image or its patient") == 4
        and "none of these images" not in parts["scores"]
    )
    assert "(this run) CONTAMINATED" in headline(run_)
    rows_ = re.findall(r"<tr>.*?</tr>", parts["ablation"])
    assert "CONTAMINATED" in rows_[1] and "CONTAMINATED" not in rows_[2]
    assert "CONTAMINATED" not in page([read_run(whole)], count=4)


def test_the_page_is_the_same_when_made_again(whole: Path) -> None:
    assert page([read_run(whole)], count=8) == page([read_run(whole)], count=8)


# --- prediction sets ---


def table_rows(section: str, caption: str) -> list[list[tuple[str, str]]]:
    """(text of a cell, what it sorts by) of the table of that caption."""
    rows = re.findall(r"<tr>(.*?)</tr>", section.split(f'aria-label="{caption}"')[1].split("</table>")[0])[1:]
    return [
        [
            (re.sub("<.*?>", "", text).replace("  ", " "), sort)
            for sort, text in re.findall(r'data-v="(.*?)">(.*?)</td>', row)
        ]
        for row in rows
    ]


def svgs(section: str) -> list[Any]:
    return [
        ElementTree.fromstring(base64.b64decode(data))
        for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", section)
    ]


def drawn_lines(figure: Any, colour: str) -> list[list[tuple[float, float]]]:
    """Corners of the lines of a colour, in the units of the figure."""
    paths = [
        p.get("d")
        for p in figure.iter()
        if p.tag.endswith("}path") and colour in p.get("style", "") and "fill: none" in p.get("style", "")
    ]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", d)] for d in paths]


def test_promises_stand_beside_what_came_of_them(made: Path) -> None:
    section, found = sections(made.read_text())["sets"], conformal()
    rows = {row[0][1]: row for row in table_rows(section, "Promised and realised")}
    expected = {
        "fnr": ("0.123 [0.093, 0.153]", "above alpha, within its interval", "0.01234"),
        "fnr_with_finding": ("0.100 [0.070, 0.130]", "kept", "0.02468"),
        "fnr_shifted": ("0.171 [0.141, 0.201]", "not kept", "0.03702"),
        "fdr": ("–", "infeasible", "–"),
    }
    assert {r: (row[1][0], row[3][0], row[4][0]) for r, row in rows.items()} == expected and all(
        row[2][0] == "0.1" for row in rows.values()
    )
    assert [rows[r][1][1] for r in found["rules"]] == [
        "0.1234",
        "0.0999",
        "0.1712",
    ]  # of each rule the risk that it promises
    assert (
        "lacks at most 10 % in expectation" in section
        and "with confidence 95 %" in section
        and "the next image" in section
    )
    assert "Infeasible at alpha 0.1: fdr." in section
    risks = table_rows(section, "Every risk of each rule, and the number of findings in a set")
    assert [[sort for _, sort in row[1:]] for row in risks] == [
        [repr(x["value"]) for k, x in r.items() if k != "threshold"] for r in found["rules"].values()
    ]
    assert [row[4][0] for row in risks] == ["3.013 [2.983, 3.043]", "5.100 [5.070, 5.130]", "2.500 [2.470, 2.530]"]


def test_sets_of_each_finding(made: Path) -> None:
    section, found = sections(made.read_text())["sets"], conformal()
    rows = {row[0][1]: row[1:] for row in table_rows(section.split("By finding")[1], "Click a header to sort")}
    assert list(rows) == [esc(c) for c in FINDINGS]
    for c, values in found["each"].items():
        shown = [
            ("undefined", "")
            if x["value"] is None
            else (f"{x['value']:.3f} [{x['low']:.3f}, {x['high']:.3f}]", repr(x["value"]))
            for x in values.values()
        ]
        assert rows[esc(c)] == shown
    assert esc(f"thr {QUOTED}.json") in section and "at least 90 % keep" in section


def test_other_prevalence_is_a_banner_with_its_numbers(whole: Path, made: Path, tmp_path: Path) -> None:
    section, found = sections(made.read_text())["sets"], conformal()
    assert section.index('class="banner" role="alert">Warning: prevalence differs') < section.index("Thresholds:")
    assert f"{esc(EVIL)} 9.00% -&gt; 21.06%; with a finding 45.8% -&gt; 66.8%" in section
    rows = table_rows(section, "Share of the images of known label that have it")
    assert len(rows) == len(FINDINGS) + 1 and [text for text, _ in rows[-1]] == [
        "Any finding",
        "45.80 %",
        "66.80 %",
        "1.46",
    ]
    assert [[sort for _, sort in row[1:3]] for row in rows[:-1]] == [
        [repr(found["shift"][k][c]) for k in ("calibration", "prevalence")] for c in FINDINGS
    ]
    assert [text for text, _ in rows[4]] == ["Mass", "5.00 %", "11.70 %", "2.34"]
    assert "<summary>Prevalence" not in section
    calm = conformal_sets(changed_run(whole, tmp_path, lambda m: m["conformal"]["shift"].update(warning="")))
    assert "banner" not in calm and "<summary>Prevalence: no difference" in calm and "11.70 %" in calm


def test_the_curve_of_risk_has_its_points(made: Path) -> None:
    """Read back from the figure: the grey diagonal gives the scale."""
    section, found = sections(made.read_text())["sets"], conformal()
    figure = svgs(section)[0]
    ((x0, y0), (x1, y1)), *others = drawn_lines(figure, "#aaaaaa")
    (line,) = [c for c in drawn_lines(figure, "#0072b2") if len(c) == len(found["curve"])]
    end = 0.65  # the largest of alpha and risk
    points = [(end * (x - x0) / (x1 - x0), end * (y - y0) / (y1 - y0)) for x, y in line]
    assert others == [] and points == [pytest.approx((p["alpha"], p["fnr"]), abs=1e-4) for p in found["curve"]]
    dots = [
        (float(u.get("x")), float(u.get("y")))
        for u in figure.iter()
        if u.tag.endswith("}use") and "#d55e00" in u.get("style", "")
    ]
    here = [(end * (x - x0) / (x1 - x0), end * (y - y0) / (y1 - y0)) for x, y in dots]
    assert pytest.approx((0.1, 0.1234), abs=1e-4) in here  # the other one is in the legend
    folded = table_rows(section, "alpha")
    assert folded == [
        [(f"{p['alpha']:g}", repr(p["alpha"])), (f"{p['fnr']:.3f}", repr(p["fnr"]))] for p in found["curve"]
    ]
    assert (
        "0.026 at 0.02, 0.325 at 0.25, 0.650 at 0.5" in section
        and "Below alpha 0.02 no threshold is feasible" in section
    )


def test_the_line_in_the_intervals_is_alpha() -> None:
    figure = ElementTree.fromstring(
        plots.intervals("t", "x", ["a", "b"], {"g": [v(0.05, 0.05), v(0.2, 0.1)]}, mark=0.15)
    )
    ((low, _), (high, _)), ((a, _), (b, _)) = [
        c for c in drawn_lines(figure, "#0072b2") if len(c) == 2
    ]  # 0 .. 0.1 and 0.1 .. 0.3
    (((mark, _), _),) = [
        c
        for c in drawn_lines(figure, "#777777")
        if len({x for x, _ in c}) == 1 and "stroke-width: 1;" not in c and low < c[0][0] < b
    ]
    assert high == pytest.approx(a) and (mark - low) / (b - low) == pytest.approx(0.5, abs=1e-4)


def test_without_thresholds_there_is_no_section(whole: Path, tmp_path: Path) -> None:
    text = page([changed_run(whole, tmp_path, lambda m: m.pop("conformal"))], count=0)
    assert (
        list(sections(text)) == [s for s in ORDER if s not in ("cases", "sets", "ablation")]
        and "Prediction sets" not in text
        and '"#sets"' not in text
    )


def test_when_nothing_is_feasible_it_is_said(whole: Path, tmp_path: Path) -> None:
    def change(m: dict[str, Any]) -> None:
        m["conformal"].update(rules={}, infeasible=["fnr", "fnr_with_finding", "fdr"], curve=[], unit="patient")

    section = conformal_sets(changed_run(whole, tmp_path, change))
    assert [(r[0][1], r[3][0]) for r in table_rows(section, "Promised and realised")] == [
        (r, "infeasible") for r in ("fnr", "fnr_with_finding", "fdr")
    ]
    assert (
        "Infeasible at alpha 0.1: fnr, fnr_with_finding, fdr." in section
        and "No curve of risk" in section
        and svgs(section) == []
    )
    assert (
        "Every risk of each rule" not in section
        and "an image of the next patient" in section
        and "fnr_shifted" not in section
    )


@pytest.mark.parametrize(
    ("value", "low", "said"),
    [
        (0.1, 0.05, "kept"),
        (0.0, None, "kept"),
        (0.11, 0.1, "above alpha, within its interval"),
        (0.11, 0.101, "not kept"),
        (0.11, None, "not kept"),
        (None, None, "undefined: no such image"),
    ],
)
def test_a_promise_is_kept_or_not(value: float | None, low: float | None, said: str) -> None:
    assert verdict({"value": value, "low": low, "high": None}, 0.1) == said


def test_the_page_shows_what_evaluate_writes(whole: Path, tmp_path: Path) -> None:
    """From calibration to the page, for each unit, with and without intervals, infeasible promises and all."""
    rng = np.random.default_rng(4)
    y = (rng.random((300, 3)) < (0.1, 0.3, 0.5)).astype(float)
    prob, who, c = (
        1 / (1 + np.exp(1.5 - 1.5 * y - rng.normal(size=y.shape))),
        np.arange(300) // 2,
        ["Mass", "Nodule", EVIL],
    )
    for unit, count, alpha in (("image", 0, 0.99), ("patient", 20, 0.2)):
        promise, other = Promise(alpha, 0.1, unit), Unlabelled(prob[150:])
        thr = calibrate(prob[:150], y[:150], who[:150].astype(str), c, promise, "none", 0, other)
        found = prediction_sets.realised(thr, prob[150:], y[150:], who[150:].astype(str), count, 0)
        section = conformal_sets(
            changed_run(whole, tmp_path, lambda m, f=found: m.update(conformal={"file": "t.json", **f}))
        )
        rows = {row[0][1]: row for row in table_rows(section, "Promised and realised")}
        assert (
            list(rows) == [r for r in prediction_sets.RULES if r in found["rules"] or r in found["infeasible"]]
            and EVIL not in section
        )
        assert rows["fnr"][1][1] == repr(found["rules"]["fnr"]["fnr"]["value"])
        assert (rows["fnr"][4][0] == "above 1: empty sets") == (thr["fnr"] > 1) == (alpha == 0.99)


# --- several data sets ---


def test_training_shows_each_data_set(whole: Path, tmp_path: Path) -> None:
    at = COLUMNS.index("val_auroc") + 1
    heads = (*COLUMNS[:at], "val_auroc_nih", f"val_auroc_{EVIL}", "val_auroc_empty", *COLUMNS[at:])
    values = dict.fromkeys(heads, 0.5) | {"val_auroc_empty": ""}
    write_rows(
        tmp_path / "metrics.csv",
        heads,
        [tuple((values | {"epoch": e, "val_auroc": 0.7, "val_auroc_nih": 0.6 + 0.05 * e}).values()) for e in (1, 2, 3)],
    )
    section = training(changed_run(whole, tmp_path, lambda m: None))
    assert (
        f"Validation AUROC by epoch. Last: mean of the data sets 0.7, nih 0.75, {esc(plots.short(EVIL))} 0.5."
        in section
        and "empty" not in section
    )
    # Weights that stay as they are need no picture.
    assert "Weights of the losses by epoch" not in section and "in each epoch: full 0.5, consist 0.5" in section
    words = [t.text for t in svgs(section)[-1].iter() if t.tag.endswith("}text")]
    assert ["mean of the data sets", "nih", plots.short(EVIL)] == [
        w for w in words if w in ("mean of the data sets", "nih", plots.short(EVIL))
    ]
    assert "mean over findings" not in section
    assert "Last: mean over findings 0.75." in training(read_run(whole))


def test_data_sets_are_scored_on_their_own_findings_too(whole: Path, tmp_path: Path) -> None:
    groups = {
        "nih": {
            "n_images": 100,
            "n_patients": 50,
            "auroc": v(0.8123),
            "auroc_own": v(0.7891),
            "findings_own": FINDINGS,
        },
        "openi": {
            "n_images": 60,
            "n_patients": 30,
            "auroc": v(0.7),
            "auroc_own": v(0.6543),
            "findings_own": ["Effusion", EVIL],
        },
    }
    block = {"findings": ["Effusion"], "groups": groups, "gap": {"best": "nih", "worst": "openi", **v(0.1123)}}
    section = subgroups(changed_run(whole, tmp_path, lambda m: m["subgroups"].update(dataset=block)))
    rows = re.findall(r"<tr>(.*?)</tr>", section.split("<h3>Data set</h3>")[1])
    assert "0.789" in rows[1] and "0.654 <small>[0.634, 0.674]</small>" in rows[2] and 'data-v="0.6543"' in rows[2]
    assert ">10</td>" in rows[1] and ">2</td>" in rows[2] and "AUROC, own findings" in rows[0]
    assert f"Effusion, {esc(EVIL)}</td>" in section and "0.112 [0.092, 0.132]" in section
    assert section.count("AUROC, own findings") == 1 and {"shared findings", "own findings"} <= {
        t.text for t in svgs(section)[1].iter()
    }
    none = subgroups(changed_run(whole, tmp_path, lambda m: m.update(subgroups={})))
    assert "No subgroups: the table has neither two data sets nor two views, sexes or age bands." in none


# --- localisation ---


def plain(html: str) -> str:
    return re.sub("<.*?>", "", html)


def test_the_findings_own_map_stands_first_beside_what_it_must_beat(made: Path) -> None:
    section, found = sections(made.read_text())["localisation"], located()
    titles = re.findall("<h3>(.*?)</h3>", section)
    assert [plain(t) for t in titles] == [
        "Does each finding's own map point into its box?",
        "Pointing, finding by finding",
        "The mask: one map for all findings",
        "Every map beside its controls",
    ]
    rows = table_rows(section, "Map")
    expected = {
        "Finding's map": "class_mask",
        "Another patient's map": "class_mask_shuffled",
        "Best fixed place": "best_place",
        "Place by labels": "class_mask_label_place",
        "New weights": "class_mask_reinit",
        "Random blobs": "random",
        "Centre disc": "centre",
    }
    assert [row[0][0] for row in rows] == [esc(name) for name in expected]
    values = [found["sources"][source]["mean"]["pointing"]["value"] for source in expected.values()]
    assert [row[1][1] for row in rows] == [repr(value) for value in values]
    assert [row[2][1] for row in rows] == ["", "0.1", "0.01", *["0.1"] * 4]
    assert '<p class="honest">The map depends on its image' in section
    assert '<p class="caution">The map is not shown to find more' in section
    assert "77 images (scored images, in folds of patients)" in section
    assert "3 findings of images have no box in another fold" in section
    scores = sections(made.read_text())["scores"]
    for card in ("Finding's map: pointing", "Pointing minus another patient's map", "Pointing minus best fixed place"):
        assert esc(card) in scores


def test_each_finding_stands_beside_its_controls(made: Path) -> None:
    section, found = sections(made.read_text())["localisation"], located()
    part = section.split("Pointing, finding by finding")[1]
    rows = table_rows(part, "Click a header to sort")
    each = {source: found["sources"][source]["per_class"] for source in KINDS}
    assert [row[0][0] for row in rows[:8]] == FINDINGS[:8] and rows[8][0][0] == "Mean"
    for k, (row, finding) in enumerate(zip(rows, FINDINGS[:8], strict=False)):
        assert row[1][1] == str(20 + k) and (row[4][1], row[6][1]) == ("0.1", "0.01")
        shown = [row[n][1] for n in (2, 3, 5, 7, 8, 9)]
        order = ("class_mask", "class_mask_shuffled", "best_place", "class_mask_label_place", "random", "centre")
        assert shown == [repr(each[source][finding]["pointing"]["value"]) for source in order]
    union = [row[0][0] for row in table_rows(section.split("The mask: one map")[1], "Map")]
    masks = ["ROI mask", "ROI mask, new weights", "ROI mask of another patient's image"]
    assert union == [esc(name) for name in (*masks, "Random blobs", "Centre disc")]
    assert "mark one finding of several" in section


def test_a_map_that_ignores_its_image_is_a_warning(whole: Path, tmp_path: Path) -> None:
    def change(m: dict[str, Any]) -> None:
        m["localization"]["headline"]["minus"] |= {"shuffled": v(0.001, 0.02), "best_place": v(-0.3, 0.02)}

    section = localisation(changed_run(whole, tmp_path, change))
    assert '<p class="banner">Nothing shows that the map depends on its image' in section
    assert '<p class="caution">The map finds less than the best fixed place' in section


def test_without_maps_of_findings_the_union_is_called_one(whole: Path, tmp_path: Path) -> None:
    def change(m: dict[str, Any]) -> None:
        block = m["localization"]
        for name in [name for name in KINDS if name.startswith(("class_mask", "cam"))]:
            del block["sources"][name]
        block["headline"] = localization.headline(block["sources"])

    run = changed_run(whole, tmp_path, change)
    section = localisation(run)
    assert "Does the one map of all findings point into the box of each?" in section
    assert "Place by labels" not in section
    assert [row[0][0] for row in table_rows(section, "Map")][:2] == ["ROI mask", esc("Another patient's map")]
    assert "ROI mask: pointing" in headline(run) and "(places by the mask, a union)" in page([run, run], count=0)


def test_each_sentence_has_a_style() -> None:
    assert STYLES.keys() == {"above", *localization.READINGS}
    assert SHORT.keys() == ASKED.keys() == localization.CONTROL_NAMES.keys()


# --- what is missing is named ---


def test_missing_sections_are_named_with_their_command(tmp_path: Path) -> None:
    data = {k: x for k, x in metrics(tmp_path).items() if k in ("n_images", "contaminated")} | {"n_images": 25596}
    (tmp_path / "metrics.json").write_text(
        json.dumps({**data, "mean": {"auroc": v(0.7)}, "per_class": {"Mass": {"auroc": v(None)}}})
    )
    parts = sections(page([read_run(tmp_path)]))
    for name in (
        "training",
        "findings",
        "calibration",
        "faithfulness",
        "localisation",
        "gallery",
        "subgroups",
        "configuration",
    ):
        assert 'class="missing"' in parts[name], name
    assert (
        "--log_csv" in parts["training"]
        and "--save_masks" in parts["localisation"]
        and "evaluate.py" in parts["calibration"]
    )
    assert (
        "split: <b>unknown</b>" in parts["scores"]
        and ".8025" in parts["scores"]
        and "published" not in parts["localisation"]
    )


@pytest.mark.parametrize(
    ("key", "value", "said", "cases"),
    [
        ("preds", "gone.json", "predictions (gone.json) cannot be found", 0),
        ("csv", "gone.csv", "table (gone.csv) cannot be found", 0),
        ("masks", ["gone.npz"], "No masks: gone.npz cannot be found", 24),
        ("masks", [], "No masks were given", 24),
        ("bbox_csv", None, "No boxes were given", 24),
        ("masks", ["table.csv"], "No masks: ", 24),
        ("preds", "boxes.csv", "No gallery: ", 0),
    ],
)
def test_missing_files_of_the_gallery_are_named(
    whole: Path, tmp_path: Path, key: str, value: Any, said: str, cases: int
) -> None:
    def change(data: dict[str, Any]) -> None:
        data["inputs"][key] = (
            str(whole / value)
            if value == "boxes.csv"
            else [str(whole / x) if x == "table.csv" else x for x in value]
            if isinstance(value, list)
            else value
        )

    part = gallery_of(changed_run(whole, tmp_path, change), None, 24)
    assert said in part and part.count('<article class="case"') == cases


def test_missing_and_broken_images_are_named(whole: Path, tmp_path: Path) -> None:
    assert "is no folder of images" in gallery_of(
        changed_run(whole, tmp_path / "a", lambda m: m["predictions"].update(image_root="gone")), None, 24
    )
    (tmp_path / "empty").mkdir()
    assert "none of the images lies under" in gallery_of(read_run(whole), str(tmp_path / "empty"), 24)
    (tmp_path / "broken").mkdir()
    for name in names():
        (tmp_path / "broken" / name).write_bytes(b"no image")
    part = gallery_of(read_run(whole), str(tmp_path / "broken"), 4)
    assert part.count("cannot be read as an image") == 4


def test_images_in_sub_folders_keep_masks_crops_and_boxes(whole: Path, tmp_path: Path) -> None:
    """A table of several sets names images by their folders; files of boxes and of maps may leave these out."""
    below = tmp_path / "nih"
    below.mkdir()
    (below / "set_a").symlink_to(whole / "nih" / "images", target_is_directory=True)
    table = pd.read_csv(whole / "table.csv", dtype=str, keep_default_na=False)
    table.assign(image="set_a/" + table["image"]).to_csv(tmp_path / "table.csv", index=False)
    rows = json.loads((whole / "preds.json").read_text())
    (tmp_path / "preds.json").write_text(json.dumps([row | {"image": f"set_a/{row['image']}"} for row in rows]))

    def change(m: dict[str, Any]) -> None:
        m["inputs"].update(preds=str(tmp_path / "preds.json"), csv=str(tmp_path / "table.csv"))
        m["predictions"]["image_root"] = str(below)

    part, flat = (
        gallery_of(changed_run(whole, tmp_path / "run", change), None, 24),
        gallery_of(read_run(whole), None, 24),
    )
    for what in ("X-ray with the outline of the mask", "and boxes", "Crop: what the mask keeps"):
        assert part.count(what) == flat.count(what) > 0, what
    assert re.findall('base64,([^"]+)', part) == re.findall('base64,([^"]+)', flat)  # the same pictures
    assert f"160 of 160 images lie outside {below}, behind links" in part and "behind links" not in flat


def test_what_the_gallery_cannot_tell_apart_or_does_not_have_is_said(whole: Path, tmp_path: Path) -> None:
    """x.png may be a/x.png or b/x.png: no box and no mask rather than another's; images without a map are counted."""
    table = pd.read_csv(whole / "table.csv", dtype=str, keep_default_na=False)
    pd.concat([table, table.assign(image="b/" + table["image"])]).assign(
        image=lambda t: t["image"].where(t["image"].str.startswith("b/"), "a/" + t["image"])
    ).to_csv(tmp_path / "table.csv", index=False)
    rows = json.loads((whole / "preds.json").read_text())
    (tmp_path / "preds.json").write_text(json.dumps([row | {"image": f"a/{row['image']}"} for row in rows]))
    (tmp_path / "nih").mkdir()
    (tmp_path / "nih" / "a").symlink_to(whole / "nih" / "images", target_is_directory=True)

    def change(m: dict[str, Any]) -> None:
        m["inputs"].update(preds=str(tmp_path / "preds.json"), csv=str(tmp_path / "table.csv"))
        m["predictions"]["image_root"] = str(tmp_path / "nih")

    part = gallery_of(changed_run(whole, tmp_path / "run", change), None, 8)
    assert part.count('<article class="case"') == 8 and "and boxes" not in part and "outline" not in part
    assert "their image may be any of several" in part and "cannot be told apart by their names" in part
    data = dict(np.load(whole / "masks.npz"))
    some = {k: x[:10] if x.shape[:1] == (COUNT,) else x for k, x in data.items()}
    np.savez(tmp_path / "few.npz", **some)
    part = gallery_of(
        changed_run(whole, tmp_path / "few", lambda m: m["inputs"].update(masks=[str(tmp_path / "few.npz")])), None, 24
    )
    assert "of the 24 cases have no mask map in the files of maps" in part


def test_nothing_rounds_to_a_negative_zero(whole: Path, tmp_path: Path) -> None:
    def change(m: dict[str, Any]) -> None:
        m["mean"]["auroc"] = {"value": -0.0004, "low": -0.00049, "high": -0.0001}
        m["subgroups"]["view"]["gap"].update(value=-1e-9, low=-0.0, high=-0.0)

    run_ = changed_run(whole, tmp_path, change)
    for section in (headline(run_), subgroups(run_)):
        said = re.sub("<.*?>", "", section)
        assert "-0.000" not in said and "[0.000, 0.000]" in said
    assert [decimal(v, 2) for v in (-0.004, -0.006, 0.0, -0.0, -12.345)] == ["0.00", "-0.01", "0.00", "0.00", "-12.35"]


def test_a_map_without_a_mask_is_a_heat_map(whole: Path, tmp_path: Path) -> None:
    write_maps(tmp_path / "cam.npz", "cam", FINDINGS, 0)
    part = gallery_of(
        changed_run(whole, tmp_path, lambda m: m["inputs"].update(masks=[str(tmp_path / "cam.npz")])), None, 24
    )
    assert part.count("as heat") == 24 and "Crop:" not in part


def test_beside_a_mask_stands_the_findings_own_map(whole: Path, tmp_path: Path) -> None:
    write_maps(tmp_path / "class_masks.npz", "class_mask", FINDINGS, 0)
    write_maps(tmp_path / "cam.npz", "cam", FINDINGS, 0)
    masks, own, cam = (str(f) for f in (whole / "masks.npz", tmp_path / "class_masks.npz", tmp_path / "cam.npz"))
    part = gallery_of(changed_run(whole, tmp_path, lambda m: m["inputs"].update(masks=[masks, cam, own])), None, 4)
    assert part.count("own map of") == part.count("outline of the mask") == 4 and "Crop:" not in part
    assert "Heat: the finding&#x27;s own map" in part and "the union of all findings" in part
    part = gallery_of(changed_run(whole, tmp_path, lambda m: m["inputs"].update(masks=[masks, cam])), None, 4)
    # Grad-CAM is a map of another method, and called so.
    assert "own map" not in part and part.count("outline of the mask") == part.count("with Grad-CAM of") == 4


def test_wrong_input_is_one_line(whole: Path, tmp_path: Path) -> None:
    assert "make it with evaluate.py" in one_line_error(
        "make_report.py", "--runs", tmp_path, "--out", tmp_path / "x.html"
    )
    for content in (
        "[]",
        "{",
        '{"mean": 3}',
        '{"mean": {}, "per_class": []}',
        '{"mean": {"auroc": 0.5}, "per_class": {}}',
        "\\ud800",
    ):
        (tmp_path / "metrics.json").write_text(content)
        assert "not a metrics.json of evaluate.py" in one_line_error(
            "make_report.py", "--runs", tmp_path, "--out", tmp_path / "x.html"
        )
    (tmp_path / "there.html").write_text("mine")
    assert "--overwrite" in one_line_error("make_report.py", "--runs", whole, "--out", tmp_path / "there.html")
    assert (tmp_path / "there.html").read_text() == "mine" and not (tmp_path / "x.html").exists()


def small_metrics(root: Path) -> dict[str, Any]:
    """As metrics(), with two of everything that comes again and again."""
    many = (
        "per_class",
        "each",
        "methods",
        "groups",
        "rules",
        "prevalence",
        "calibration",
        "findings",
        "micro",
        "args",
        "versions",
    )

    def few(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            keep = list(value)[:2] if name in many and "methods" not in value else list(value)
            return {k: few(value[k], k) for k in keep}
        return [few(x) for x in value[:3]] if isinstance(value, list) else value

    return few(metrics(root))


def nodes(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values below."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from nodes(inner, (*way, key))


def with_change(data: Any, way: tuple[Any, ...], change: Any) -> Any:
    """A copy in which the value at `way` is another, or is gone (`change` None and no value)."""
    copy = dict(data) if isinstance(data, dict) else list(data)
    if len(way) > 1:
        copy[way[0]] = with_change(copy[way[0]], way[1:], change)
    elif change is GONE:
        del copy[way[0]]
    else:
        copy[way[0]] = change
    return copy


GONE = object()
ODD = (None, "odd", ["odd", 3], {"odd": 3}, {}, -1.5, True, 10**40)


def test_an_odd_metrics_json_is_refused_or_its_section_says_so(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every value of the file is taken away, and replaced; never another error than one line that names the file."""

    def lines(title: str, xlabel: str, ylabel: str, curves: Any, **_: Any) -> bytes:
        for curve in curves:
            y = np.array([np.nan if v is None else v for v in curve.y], dtype=float)
            assert np.asarray(curve.x, dtype=float).shape == y.shape
        return b"<svg/>"

    def small_multiples(names: Any, curves: Any, ticks: str, **_: Any) -> list[bytes]:
        assert len(names) == len(curves)
        return [lines("", "", "", [curve]) for curve in curves]

    def intervals(title: str, xlabel: str, rows: Any, groups: Any, **_: Any) -> bytes:
        for values in groups.values():
            assert len(values) == len(rows)
            np.array([x.get("value") for x in values if x and x.get("value") is not None], dtype=float)
        return b"<svg/>"

    monkeypatch.setattr(plots, "lines", lines)
    monkeypatch.setattr(plots, "small_multiples", small_multiples)
    monkeypatch.setattr(plots, "intervals", intervals)
    monkeypatch.setattr("roi.report.build.commit", lambda: "unknown")
    data = small_metrics(whole)
    data["inputs"] = {"preds": "gone.json"}
    file = tmp_path / "metrics.json"
    refused = left_out = 0
    ways = list(nodes(data))
    # What comes again and again far below is tried here and there.
    tried = [way for way in ways if len(way) <= 3] + [way for way in ways if len(way) > 3][::29]
    for n, way in enumerate(tried):
        change = ODD[n % len(ODD)] if n % 3 else GONE
        file.write_text(json.dumps(with_change(data, way, change)))
        try:
            run_ = read_run(tmp_path)
        except ValueError as error:
            message = str(error)
            assert str(file) in message and "\n" not in message
            refused += 1
            continue
        text = page([run_, run_])
        for block, why in run_.problems.items():
            assert str(way[0]) in why and esc(why) in text, block
            left_out += 1
    assert refused > 20 and left_out > 50


def test_a_wrong_value_is_named_with_the_keys_that_lead_to_it(whole: Path, tmp_path: Path) -> None:
    def changed(*way: Any, value: Any = "odd") -> Run:
        (tmp_path / "metrics.json").write_text(json.dumps(with_change(metrics(whole), way, value)))
        return read_run(tmp_path)

    assert changed("calibration", "methods", "raw", "mean", "ece").problems == {
        "calibration": "'calibration.methods.raw.mean.ece' is 'odd', not a number"
    }
    assert changed("localization", "sources", "mask", "mean", value=GONE).problems == {
        "localization": "'localization.sources.mask.mean' is missing"
    }
    assert (
        "insertion' has 4 points, not 5"
        in changed("faithfulness", "controls", "sources", "mask", "insertion", value=[0.1] * 4).problems["faithfulness"]
    )
    for way, said in (
        (("mean", "auroc", "low"), "'mean.auroc.low' is 'odd', not a number"),
        (("n_images",), "'n_images' is 'odd'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            changed(*way)
    with pytest.raises(ValueError, match="'contaminated' is missing"):
        changed("contaminated", value=GONE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch,loss\n1,0.5\n2,oops\n", "column 'loss' holds 'oops' in row 3"),
        ("epoch,loss\n", "it has no row"),
        ("loss\n1\n", "no column 'epoch'"),
        ("", "not a CSV table"),
        ("epoch,loss\nx,1\n", "column 'epoch' holds 'x' in row 2"),
        ('epoch,loss\n1,"\n', "not a CSV table"),
        ("epoch,loss\n,1\n", "column 'epoch' holds '' in row 2"),
    ],
)
def test_an_odd_log_of_training_is_left_out_and_said(whole: Path, tmp_path: Path, text: str, said: str) -> None:
    changed_run(whole, tmp_path, lambda m: m["inputs"].clear())
    (tmp_path / "metrics.csv").write_text(text)
    run_ = read_run(tmp_path)
    assert run_.log is None and said in run_.log_problem and str(tmp_path / "metrics.csv") in run_.log_problem
    assert esc(said) in training(run_)
    (tmp_path / "metrics.csv").write_text("epoch,loss,mask_mean,my_notes\n1,0.5,,good\n2,nan,,bad\n")
    assert training(read_run(tmp_path)).count("<figure>") == 1


# --- cases and figures ---


def test_cases_are_chosen_by_scores_alone() -> None:
    rng = np.random.default_rng(2)
    prob, target = rng.random((400, 3)), (rng.random((400, 3)) < 0.2).astype(float)
    target[:40, 0] = np.nan
    boxed = np.zeros((400, 3), dtype=bool)
    patients = [f"p{n // 2}" for n in range(400)]
    shown = np.ones(400, dtype=bool)
    cases = case_selection.choose(prob, target, ["A", "B", "Normal"], patients, shown, boxed, 8)
    assert [c.kind for c in cases] == [k for k in case_selection.KINDS for _ in range(2)] and {
        c.finding for c in cases
    } == {"A", "B"}
    assert len({patients[c.row] for c in cases}) == 8
    for case in cases:
        k = ["A", "B"].index(case.finding)
        known, positive = ~np.isnan(target[:, k]), target[:, k] == 1
        assert case.rank == pytest.approx((prob[known, k] <= prob[case.row, k]).mean())
        if case.kind == "best":
            assert prob[case.row, k] == prob[positive, k].max()
        if case.kind == "typical":
            assert abs((prob[positive, k] < prob[case.row, k]).mean() - 0.5) < 0.12
        assert (target[case.row, k] == 0) == (case.kind == "false")
    boxed[np.flatnonzero(target[:, 1] == 1), 1] = True
    near = [
        c
        for c in case_selection.choose(prob, target, ["A", "B", "Normal"], patients, shown, boxed, 8)
        if c.kind == "typical"
    ]
    assert near[0].finding == "B"
    shown[:200] = False
    assert all(
        c.row >= 200 for c in case_selection.choose(prob, target, ["A", "B", "Normal"], patients, shown, boxed, 8)
    )


def test_the_choice_is_exhausted_without_repeats() -> None:
    cases = case_selection.choose(
        np.array([[0.9], [0.2], [0.4]]),
        np.array([[1.0], [0.0], [1.0]]),
        ["A"],
        ["p", "p", "p"],
        np.ones(3, bool),
        np.zeros((3, 1), bool),
        40,
    )
    assert len({(c.finding, c.row) for c in cases}) == len(cases) == 3


def test_long_curves_are_thinned_without_moving_them() -> None:
    x = np.linspace(0, 1, 25_000)
    few_x, few_y = plots.thin(x, x**8)
    assert len(few_x) <= plots.POINTS and (few_x[0], few_x[-1]) == (0, 1)
    np.testing.assert_allclose(np.interp(x, few_x, few_y), x**8, atol=1e-4)


def test_figures_leave_the_settings_of_matplotlib_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    curve = plots.Curve("$x_", [0, 1], [0, None])
    assert plots.lines("t", "x", "y", [curve]) == plots.lines("t", "x", "y", [curve])
    assert dict(matplotlib.rcParams) == before


# --- a real browser ---


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (requirements-dev.txt)")
    binary = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        yield window
        window.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_it_without_errors_or_overflow(browser: Any, made: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url[:60]))
    tab.goto(made.as_uri())
    assert said == [] and [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert (
        tab.evaluate("Array.from(document.images).every(i => i.complete && i.naturalWidth > 0)")
        and tab.evaluate("document.images.length") >= 48 + 8
    )
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.close()


def test_a_click_sorts_by_number_both_ways(browser: Any, made: Path) -> None:
    tab = browser.new_page()
    tab.goto(made.as_uri())
    table = tab.locator("#findings table.sortable").first

    def column(n: int) -> list[str]:
        return table.locator(f"tbody tr td:nth-child({n})").all_inner_texts()

    head = table.locator("th button")
    head.nth(1).click()
    assert column(2) == [str(n) for n in range(13, 2, -1)]  # 13, 12, 11, 10, 9: not as text
    head.nth(1).click()
    assert column(2) == [str(n) for n in range(3, 14)]
    for _ in range(2):
        head.nth(2).click()
        assert column(3)[-1] == "undefined"
        values = [float(text.split()[0]) for text in column(3)[:-1]]
        assert values in (sorted(values), sorted(values, reverse=True))
    head.nth(0).click()
    assert column(1)[-1] == "Pneumothorax" and table.locator("tfoot td").first.inner_text() == "Mean"
    tab.close()
