"""roi.load_model: the numbers of the script, from files and from arrays."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run
from tiny_checkpoint import CLASSES, SIDE, draw, save_checkpoint

import roi
from roi.data.identity import fingerprints
from roi.data.images import UnreadableImageError
from roi.errors import UserError
from roi.inference.array_images import grey_pixels
from roi.scoring.predictions import seven_digits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and seven X-rays in scans/."""
    root = tmp_path_factory.mktemp("python")
    save_checkpoint(root / "model.pt")
    for n in range(7):
        draw(root / "scans" / f"{n}.png", n)
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> "roi.inference.model.Model":
    return roi.load_model(folder / "model.pt", device="cpu")


def arrays_of(folder: Path) -> list[np.ndarray]:
    from roi.data.images import read_grey

    return [read_grey(path) for path in sorted((folder / "scans").iterdir())]


def test_import_roi_is_light_and_knows_load_model() -> None:
    code = "import sys, roi; print('torch' in sys.modules, 'numpy' in sys.modules, 'load_model' in dir(roi))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'load_modell'"):
        roi.load_modell  # noqa: B018


@pytest.mark.parametrize("mask", ["features", "conv", "random", "none"])
def test_the_numbers_are_those_of_the_script_to_the_last_digit(folder: Path, tmp_path: Path, mask: str) -> None:
    save_checkpoint(tmp_path / "m.pt", mask)
    out = roi.load_model(tmp_path / "m.pt", device="cpu").predict(folder / "scans", batch_size=3)
    files = ("--images", folder / "scans", "--batch_size", 3, "--workers", 0, "--device", "cpu")
    run("infer_roi_consistency.py", "--checkpoint", tmp_path / "m.pt", *files, "--save", tmp_path / "p.json")
    rows = json.loads((tmp_path / "p.json").read_text())
    assert out.images == [row["image"] for row in rows] and out.classes == CLASSES
    views = {"prob_full": out.probabilities, "prob_crop": out.crop, "prob_drop": out.drop}
    for name, values in views.items():
        if mask == "none" and name != "prob_full":
            assert values is None and name not in rows[0]
            continue
        for row, of_image in zip(rows, values, strict=True):
            assert list(row[name].values()) == [seven_digits(value) for value in of_image.tolist()]
    if mask == "none":
        assert out.masks is None and out.maps is None
    else:
        assert out.masks.shape == (7, SIDE, SIDE) and out.masks.dtype == np.uint8
        # Exactly the trained share of the pixels.
        assert (out.masks.sum((1, 2)) == round(0.1 * SIDE * SIDE)).all()
        assert (out.maps is not None) == (mask == "features")


def test_arrays_are_what_their_files_are(folder: Path, model: "roi.inference.model.Model") -> None:
    of_files = model.predict(sorted((folder / "scans").iterdir()))
    grey = arrays_of(folder)
    same = {
        "uint8": grey,
        "colour": [np.stack([a, a, a], 2) for a in grey],
        "one channel": [a[:, :, None] for a in grey],
        "uint16": [a.astype(np.uint16) * 257 for a in grey],
        "12 bits": [np.where(a == 255, 4095, a.astype(np.uint16) * 16) for a in grey],
        "float": [a / 255 for a in grey],
        "float colour": [np.stack([a, a, a], 2).astype(np.float32) / 255 for a in grey],
        "not contiguous": [np.asfortranarray(a) for a in grey],
    }
    for name, arrays in same.items():
        out = model.predict(arrays)
        assert out.images[6] == "array 6"
        # 12 bits are not 16 times 8 bits: white is 4095.
        tolerance = 0.2 if name == "12 bits" else 0.0
        np.testing.assert_allclose(out.probabilities, of_files.probabilities, rtol=0, atol=tolerance, err_msg=name)
    one = model.predict(grey[2])
    np.testing.assert_allclose(one.probabilities[0], of_files.probabilities[2], rtol=0, atol=1e-5)
    assert (grey_pixels(same["uint16"][0]) == grey[0]).all() and (grey_pixels(same["float"][0]) == grey[0]).all()


@pytest.mark.parametrize("what", [None, 3, b"x.png", [None], [[1, 2]], {"a": 1}])
def test_what_is_neither_path_nor_array_is_one_line(model: "roi.inference.model.Model", what: object) -> None:
    with pytest.raises(UserError, match="is no image: give a path or an array of numpy"):
        model.predict(what)  # type: ignore[arg-type]


def test_batches_come_one_by_one_and_make_the_whole(folder: Path, model: "roi.inference.model.Model") -> None:
    parts = list(model.predict_batches(folder / "scans", batch_size=3))
    assert [len(part.images) for part in parts] == [3, 3, 1]
    whole = model.predict(folder / "scans", batch_size=3)
    np.testing.assert_array_equal(np.concatenate([part.masks for part in parts]), whole.masks)
    with_workers = model.predict(folder / "scans", batch_size=3, workers=1)
    np.testing.assert_array_equal(with_workers.probabilities, whole.probabilities)
    wide = model.predict(folder / "scans", keep_ratio=0.5)
    assert (wide.masks.sum((1, 2)) == SIDE * SIDE // 2).all()


def test_thresholds_say_what_is_found(folder: Path) -> None:
    limits = {"Mass": 0.0, "Nodule": 1.0, "Effusion": 0.0}
    out = roi.load_model(folder / "model.pt", device="cpu", thresholds=limits).predict(folder / "scans")
    np.testing.assert_array_equal(out.thresholds, [0.0, 1.0, 0.0, np.nan])
    for found, prob in zip(out.findings(), out.probabilities, strict=True):
        assert found == sorted(["Mass", "Effusion"], key=lambda c: -prob[CLASSES.index(c)])


def test_nothing_warns_and_nothing_global_is_drawn_from(folder: Path) -> None:
    import torch

    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roi.load_model(folder / "model.pt", device="cpu").predict(folder / "scans")
    assert torch.equal(torch.get_rng_state(), before)


def test_what_predictions_must_not_be_taken_for_is_told(folder: Path, tmp_path: Path) -> None:
    draw(tmp_path / "set" / "a.png", 1)
    seen = {"train_images": fingerprints(["a.png"]), "train_patients": fingerprints(["image:a.png"])}
    sets = {"train_sets": fingerprints([""]), "synthetic": False}
    path = save_checkpoint(tmp_path / "m.pt", **seen, **sets)
    with pytest.warns(UserWarning, match="CANNOT BE TOLD"):
        out = roi.load_model(path, device="cpu").predict([tmp_path / "set", folder / "scans" / "0.png"])
    assert out.contaminated == [None, False] and out.meta["contaminated"] is None
    old = save_checkpoint(tmp_path / "old.pt", **seen)
    with pytest.warns(UserWarning, match="CONTAMINATED: the checkpoint was trained on 1 of these 2"):
        out = roi.load_model(old, device="cpu").predict([tmp_path / "set", folder / "scans" / "0.png"])
    assert out.contaminated == [True, False]
    assert out.meta["contaminated"] is True and out.meta["contaminated_images"] == 1
    about = {"made_by": "make_demo_dataset.py", "seed": 3, "images": 1, "size": 64}
    (tmp_path / "set" / "demo.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match="SYNTHETIC: these images are drawn"):
        out = roi.load_model(path, device="cpu").predict(tmp_path / "set")
    assert out.contaminated == [False] and out.meta["synthetic"] is True
    drawn = save_checkpoint(tmp_path / "drawn.pt", **seen, train_sets=fingerprints(["synthetic set"]), synthetic=True)
    with pytest.warns(UserWarning, match="it has never seen an X-ray"):
        out = roi.load_model(drawn, device="cpu").predict(folder / "scans" / "1.png")
    assert out.meta["trained_on_synthetic"] is True and out.meta["backbone"] == "test_resnet"
    # An array has no name by which it could be known.
    assert roi.load_model(path, device="cpu").predict(np.zeros((9, 9), np.uint8)).contaminated == [None]


def test_a_checkpoint_that_was_never_trained_is_refused(folder: Path, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new.pt", epoch=0, steps=0)
    with pytest.raises(UserError, match="was never trained"):
        roi.load_model(path, device="cpu")
    assert roi.load_model(path, device="cpu", untrained=True).classes == CLASSES


def test_what_export_model_made_is_loaded(folder: Path, model: "roi.inference.model.Model", tmp_path: Path) -> None:
    run("export_model.py", "--checkpoint", folder / "model.pt", "--out", tmp_path / "model.safetensors")
    of_export = roi.load_model(tmp_path / "model.safetensors", device="cpu").predict(folder / "scans")
    of_checkpoint = model.predict(folder / "scans")
    np.testing.assert_array_equal(of_export.probabilities, of_checkpoint.probabilities)
    np.testing.assert_array_equal(of_export.masks, of_checkpoint.masks)


def test_what_is_wrong_is_one_line(folder: Path, model: "roi.inference.model.Model", tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    wrong = [
        (tmp_path / "gone.png", "no such image"),
        (tmp_path / "broken.png", "broken.png: cannot be read"),
        ([], "no image to predict"),
        (np.zeros((3, 4, 5, 6)), "array 0: an array of shape"),
        (np.zeros((4, 5, 7)), "several as a list"),
        ([np.zeros((4, 5)), np.zeros((0, 5))], "array 1: an array of shape"),
        (np.array([["a", "b"]]), "give uint8"),
        (np.array([[0.5, np.nan]]), "no numbers"),
        ([folder / "scans", np.zeros((4, 4))], "stand in one list"),
    ]
    for images, said in wrong:
        with pytest.raises(UserError, match=said) as caught:
            model.predict(images)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnreadableImageError):
        model.predict(tmp_path / "broken.png")
    with pytest.raises(UserError, match="keep_ratio 0"):
        model.predict(folder / "scans", keep_ratio=0)
    with pytest.raises(UserError, match="batch_size 0"):
        model.predict(folder / "scans", batch_size=0)
    with pytest.raises(UserError, match="no such checkpoint"):
        roi.load_model(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="cuda:99|not available"):
        roi.load_model(folder / "model.pt", device="tpu")


@pytest.mark.parametrize("page", ["README.md", "docs/cookbook.md"])
def test_the_examples_of_the_pages_run(folder: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    examples = [example for example in examples if "load_model" in example]
    assert len(examples) == 1
    monkeypatch.chdir(folder)
    exec(compile(examples[0], page, "exec"), {})
    if page.startswith("docs"):
        assert {path.name for path in folder.iterdir()} >= {"findings.csv", "mass.png"}
