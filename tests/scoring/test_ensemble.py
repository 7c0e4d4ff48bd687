"""Means of probabilities: over views of an image (--tta), over files of predictions (--ensemble); and --test, which is
inference and evaluation."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run

from roi.counter_rng import row_seeds
from roi.data.augment import zoomed
from roi.data.images import locate, read_grey
from roi.data.table import read_table
from roi.scoring import predictions
from roi.training import checkpoint

CLASSES = ["Mass", "Edema", "Hernia"]


@pytest.fixture(scope="module")
def trained(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    flags = (
        "--train_csv",
        tables[0],
        "--image_root",
        demo,
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        32,
        "--epochs",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
        "--max_samples",
        40,
    )
    run("train_roi_baselines.py", "--mode", "standard", *flags, "--save", out / "plain.pt")
    run("train_roi_baselines.py", "--mode", "random_mask", *flags, "--save", out / "mask.pt")
    return out


def infer(demo: Path, table: Path, checkpoint_file: Path, out: Path, *more: object) -> str:
    return run(
        "infer_roi_consistency.py",
        "--checkpoint",
        checkpoint_file,
        "--csv",
        table,
        "--image_root",
        demo,
        "--save_json",
        out,
        "--workers",
        0,
        "--device",
        "cpu",
        *more,
    )


@pytest.mark.parametrize("kind", ["plain", "mask"])
@pytest.mark.parametrize("tta", ["none", "flips", "scales"])
def test_probabilities_are_means_over_the_views(
    tta: str, kind: str, demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    said = infer(
        demo,
        tables[1],
        trained / f"{kind}.pt",
        tmp_path / "p.json",
        "--tta",
        tta,
        "--max_samples",
        6,
        "--keep_ratio",
        0.3,
    )
    assert ("heart on the right" in said) == (tta == "flips")
    found = predictions.read(tmp_path / "p.json")
    model, _ = checkpoint.load_model(trained / f"{kind}.pt")
    paths = locate(demo, read_table(tables[1])["image"].tolist()[:6])
    pixels = torch.from_numpy(np.stack([read_grey(path, 32) for path in paths if path]))[:, None]
    seen = {
        "none": [pixels],
        "flips": [pixels, pixels.flip(3)],
        "scales": [pixels, zoomed(pixels, 0.9), zoomed(pixels, 1.1)],
    }[tta]
    with torch.no_grad():
        views = [model(x, 0.3, row_seeds(0, 0, torch.arange(6))) for x in seen]
    for part in predictions.PARTS[: 1 if kind == "plain" else 3]:
        expected = torch.stack([getattr(view, f"logits_{part}").sigmoid() for view in views]).mean(0)
        np.testing.assert_allclose(found.prob[part], expected.numpy(), rtol=2e-5, atol=1e-6)
    assert json.loads((tmp_path / "p.meta.json").read_text())["tta"] == tta


def test_a_draw_of_the_test_set_is_by_patient_and_by_seed(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    table, drawn = read_table(tables[1]), []
    for n, seed in enumerate((0, 0, 1)):
        infer(demo, tables[1], trained / "plain.pt", tmp_path / f"{n}.json", "--max_test_samples", 10, "--seed", seed)
        drawn.append(predictions.read(tmp_path / f"{n}.json").images)
    chosen = table[table["image"].isin(drawn[0])]
    assert drawn[0] == drawn[1] == chosen["image"].tolist() and drawn[0] != drawn[2] and 5 < len(drawn[0]) <= 10
    assert not set(chosen["patient_id"]) & set(table[~table["image"].isin(drawn[0])]["patient_id"])
    assert "leave out --tta flips" in one_line_error(
        "infer_roi_consistency.py",
        "--checkpoint",
        "c.pt",
        "--csv",
        "t.csv",
        "--image_root",
        "d",
        "--curves",
        "c.npz",
        "--tta",
        "flips",
    )


def test_the_test_flag_is_inference_and_evaluation(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    flags = ("--test", "--test_csv", tables[1], "--image_root", demo, "--workers", 0, "--device", "cpu", "--seed", 3)
    said = run("train_roi_baselines.py", *flags, "--checkpoint", trained / "plain_best.pt", "--max_test_samples", 20)
    out = trained / "plain_best_test"
    infer(
        demo,
        tables[1],
        trained / "plain_best.pt",
        tmp_path / "p.json",
        "--max_test_samples",
        20,
        "--seed",
        3,
        "--batch_size",
        8,
    )
    assert json.loads((tmp_path / "p.json").read_text()) == json.loads((out / "preds.json").read_text())
    run("evaluate.py", "--preds", tmp_path / "p.json", "--csv", tables[1], "--out", tmp_path / "s")
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (out, tmp_path / "s"))
    assert (
        ours["mean"] == theirs["mean"]
        and ours["per_class"] == theirs["per_class"]
        and ours["n_images"] <= 20
        and "AUROC" in said.upper()
    )
    assert "exists" in one_line_error("train_roi_baselines.py", *flags, "--checkpoint", trained / "plain_best.pt")
    run(
        "train_roi_baselines.py",
        *flags,
        "--checkpoint",
        trained / "plain_best.pt",
        "--test_out",
        tmp_path / "recipe",
        "--recipe",
        "timm_focal",
    )
    assert json.loads((tmp_path / "recipe" / "metrics.json").read_text())["n_images"] == len(read_table(tables[1]))


# --- files -----------------------------------------------------------------------------------------------------------


def write(
    path: Path, images: list[str], prob: np.ndarray, classes: list[str], meta: dict[str, Any] | None, marked: int = -1
) -> Path:
    predictions.write(
        path,
        (
            predictions.record(i, classes, {"full": p, "crop": p / 2}, n == marked)
            for n, (i, p) in enumerate(zip(images, prob, strict=True))
        ),
        meta or {},
    )
    if meta is None:
        predictions.meta_path(path).unlink()
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three models, the second with images and classes in another order; and the table."""
    rng, n = np.random.default_rng(0), 60
    images = [f"{k:08d}_000.png" for k in range(n)]
    target = rng.random((n, 3)) < 0.4
    pd.DataFrame({"image": images, "labels": [",".join(np.array(CLASSES)[y]) for y in target]}).to_csv(
        tmp_path / "t.csv", index=False
    )
    prob = [np.clip(0.3 * target + 0.7 * rng.random((n, 3)), 0, 1).astype(np.float32) for _ in range(3)]
    order, back = rng.permutation(n), [2, 0, 1]
    np.save(tmp_path / "mean.npy", np.mean(prob, axis=0))
    return [
        write(
            tmp_path / "a.json",
            images,
            prob[0],
            CLASSES,
            {"checkpoint": "runs/a.pt", "epoch": 3, "contaminated": False},
        ),
        write(
            tmp_path / "b.json",
            [f"images/{images[k]}" for k in order],
            prob[1][order][:, back],
            [CLASSES[k] for k in back],
            {"checkpoint": "runs/b.pt", "epoch": 5, "contaminated": False},
        ),
        write(
            tmp_path / "c.json",
            images,
            prob[2],
            CLASSES,
            {"checkpoint": "runs/c.pt", "epoch": 1, "contaminated": False},
        ),
    ]


def scored(out: Path, *flags: object) -> dict[str, Any]:
    run("evaluate.py", *flags, "--out", out, "--resamples", 0)
    return json.loads((out / "metrics.json").read_text())


def test_an_ensemble_is_the_mean_of_probabilities_of_the_same_images(files: list[Path], tmp_path: Path) -> None:
    result = scored(tmp_path / "s", "--ensemble", *files, "--csv", tmp_path / "t.csv")
    mean = np.load(tmp_path / "mean.npy")
    pd.DataFrame(
        {"image": predictions.read(files[0]).images} | {f"prob_{c}": mean[:, j] for j, c in enumerate(CLASSES)}
    ).to_csv(tmp_path / "m.csv", index=False)
    plain = scored(tmp_path / "m", "--preds", tmp_path / "m.csv", "--csv", tmp_path / "t.csv")
    for c in CLASSES:
        for name in ("auroc", "ap"):
            assert result["per_class"][c][name]["value"] == pytest.approx(
                plain["per_class"][c][name]["value"], abs=1e-9
            )
    best = max(
        scored(tmp_path / path.stem, "--preds", path, "--csv", tmp_path / "t.csv")["mean"]["auroc"]["value"]
        for path in files
    )
    assert result["mean"]["auroc"]["value"] > best  # independent noise
    members = result["predictions"]["ensemble"]
    assert [(m["file"], m["checkpoint"], m["epoch"]) for m in members] == [
        (str(f), os.path.relpath(f"runs/{f.stem}.pt", tmp_path / "s"), e) for f, e in zip(files, (3, 5, 1), strict=True)
    ]
    assert result["contaminated"] is False and result["inputs"]["preds"] == "ensemble.json"
    for flags in (("--preds", files[0], "--ensemble", *files), ("--preds", files[0], "--ensemble", *files[1:])):
        assert scored(tmp_path / "again", *flags, "--csv", tmp_path / "t.csv", "--overwrite")["mean"] == result["mean"]
    saved = predictions.read(tmp_path / "s" / "ensemble.json")
    np.testing.assert_allclose(saved.prob["full"], mean, atol=1e-6)
    np.testing.assert_allclose(saved.prob["crop"], mean / 2, atol=1e-6)
    read_again = scored(tmp_path / "read", "--preds", tmp_path / "s" / "ensemble.json", "--csv", tmp_path / "t.csv")
    assert read_again["predictions"]["ensemble"] == members
    for name, score in result["mean"].items():
        assert read_again["mean"][name]["value"] == pytest.approx(score["value"], abs=1e-6)  # seven digits are kept


def test_one_contaminated_model_contaminates_and_one_that_says_nothing_leaves_it_open(
    files: list[Path], tmp_path: Path
) -> None:
    one = predictions.read(files[2])
    for name, meta, marked, expected in (
        ("seen", {"contaminated": True}, -1, True),
        ("image", {"contaminated": False}, 7, True),
        ("silent", None, -1, None),
    ):
        other = write(tmp_path / f"{name}.json", one.images, one.prob["full"], CLASSES, meta, marked)
        result = scored(tmp_path / f"s_{name}", "--ensemble", *files[:2], other, "--csv", tmp_path / "t.csv")
        assert result["contaminated"] is expected
        assert (
            scored(
                tmp_path / f"r_{name}", "--preds", tmp_path / f"s_{name}" / "ensemble.json", "--csv", tmp_path / "t.csv"
            )["contaminated"]
            is expected
        )


def test_thresholds_of_an_ensemble_come_from_the_same_models(files: list[Path], tmp_path: Path) -> None:
    """The ensemble of other images, made by the same command on their files."""
    rng, images = np.random.default_rng(5), [f"{k:08d}_000.png" for k in range(900, 940)]
    pd.DataFrame(
        {"image": images, "labels": [",".join(np.array(CLASSES)[rng.random(3) < 0.5]) for _ in images]}
    ).to_csv(tmp_path / "v.csv", index=False)
    metas = [
        {"checkpoint": f"runs/{name}.pt", "epoch": e, "contaminated": False}
        for name, e in (("a", 3), ("b", 5), ("c", 1), ("d", 1))
    ]
    val = [write(tmp_path / f"v{n}.json", images, rng.random((40, 3)), CLASSES, meta) for n, meta in enumerate(metas)]
    scored(tmp_path / "same", "--ensemble", *val[:3], "--csv", tmp_path / "v.csv")
    scored(tmp_path / "other", "--ensemble", *val[1:], "--csv", tmp_path / "v.csv")
    flags = (
        "evaluate.py",
        "--ensemble",
        *files,
        "--csv",
        tmp_path / "t.csv",
        "--resamples",
        0,
        "--threshold_csv",
        tmp_path / "v.csv",
    )
    run(*flags, "--threshold_preds", tmp_path / "same" / "ensemble.json", "--out", tmp_path / "x")
    assert json.loads((tmp_path / "x" / "metrics.json").read_text())["per_class"]["Mass"]["threshold"] is not None
    for wrong, named in (
        (
            tmp_path / "other" / "ensemble.json",
            "comes from b.pt, epoch 5, c.pt, epoch 1, d.pt, epoch 1, the predictions from a.pt, epoch 3",
        ),
        (val[0], "comes from a.pt, epoch 3"),
    ):
        assert named in one_line_error(*flags, "--threshold_preds", wrong, "--out", tmp_path / "y")
    assert not (tmp_path / "y").exists() or not list((tmp_path / "y").iterdir())


def test_what_is_no_ensemble_is_refused(files: list[Path], tmp_path: Path) -> None:
    one = predictions.read(files[0])
    fewer = write(tmp_path / "fewer.json", one.images[1:], one.prob["full"][1:], CLASSES, None)
    others = write(tmp_path / "others.json", ["x.png", *one.images[1:]], one.prob["full"], CLASSES, None)
    classes = write(tmp_path / "classes.json", one.images, one.prob["full"], ["Mass", "Edema", "Nodule"], None)
    csv = ("--csv", tmp_path / "t.csv", "--out", tmp_path / "s")
    for given, said in (
        (("--ensemble", files[0], fewer), "predicts 59 images"),
        (("--ensemble", fewer, files[0]), "predicts 60 images"),
        (
            ("--ensemble", files[0], others),
            "1 of which are not there, the first is 00000000_000.png; an ensemble is of the same images",
        ),
        (("--ensemble", files[0], classes), "has the classes Mass, Edema, Nodule"),
        (("--ensemble", files[0]), "--ensemble needs at least two files"),
        (("--ensemble", files[0], files[0]), "--ensemble needs at least two files"),
        ((), "give --preds FILE, or --ensemble FILE FILE"),
    ):
        assert said in one_line_error("evaluate.py", *given, *csv), said
    assert not (tmp_path / "s").exists() or not list((tmp_path / "s").iterdir())
    run("evaluate.py", "--ensemble", *files, *csv, "--resamples", 0)
    before = (tmp_path / "s" / "ensemble.json").read_bytes()
    assert (
        "exists" in one_line_error("evaluate.py", "--ensemble", *files[:2], *csv)
        and (tmp_path / "s" / "ensemble.json").read_bytes() == before
    )
