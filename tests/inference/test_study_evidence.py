"""Masks, maps and pictures of each image beside the predictions of a study model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run
from PIL import Image

from roi.data.images import read_grey
from roi.inference.grad_cam import grad_cam
from roi.inference.model_setup import remark_on_mask_model
from roi.models.roi_model import RoiModel
from roi.scoring.map_file import read_maps
from roi.scoring.pictures import probable, study_lines
from roi.training import checkpoint

SIDE = 64
VIEWS = ("PA", "LATERAL", "AP")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 patients with a study of 1 to 3 images each; a bright corner is a Mass."""
    root = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    rows = []
    for study in range(16):
        for n in range(study % 3 + 1):
            pixels = rng.integers(0, 120, (SIDE, SIDE), dtype=np.uint8)
            if study % 2:
                pixels[8:32, 8:32] += 110
            name = f"s{study}_{n}.png"
            Image.fromarray(pixels).save(root / name)
            rows.append((name, "Mass" if study % 2 else "Edema", f"p{study}", f"s{study}", VIEWS[n]))
    columns = ["image", "labels", "patient_id", "study_id", "view"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "table.csv", index=False)
    return root


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model with a map a class, one without a mask, and a study model that began from the first."""
    out = tmp_path_factory.mktemp("trained")
    table = ("--train_csv", data / "table.csv", "--image_root", data, "--cache_dir", data / "cache", "--device", "cpu")
    sizes = ("--img_size", SIDE, "--batch_size", 8, "--workers", 0, "--val_fraction", 0.3, "--epochs", 1)
    scratch = (*table, *sizes, "--backbone", "test_resnet", "--weights", "none")
    maps = ("--mask_net", "features", "--mask_per_class")
    run("train_roi_consistency.py", *scratch, *maps, "--save", out / "image.pt")
    run("train_roi_baselines.py", "--mode", "standard", *scratch, "--save", out / "plain.pt")
    begun = ("--init", out / "image.pt", "--fusion", "attention", "--fusion_width", 32, "--lr", 1e-2)
    run("train_multiview.py", *table, *sizes[2:], *begun, "--save", out / "study.pt")
    return out


def command(data: Path, model: Path, *more: object) -> tuple[object, ...]:
    where = ("--csv", data / "table.csv", "--image_root", data, "--workers", 0, "--device", "cpu")
    return ("infer_roi_consistency.py", "--checkpoint", model, *where, "--map_size", 8, *more)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name != "meta"}


def meta(path: Path) -> dict:
    with np.load(path) as file:
        return json.loads(str(file["meta"]))


def test_masks_and_maps_are_those_of_the_image_model(data: Path, trained: Path, tmp_path: Path) -> None:
    files = ("--save_masks", tmp_path / "masks.npz", "--class_masks", tmp_path / "class_masks.npz")
    run(*command(data, trained / "image.pt", *files))
    own = [arrays(tmp_path / name) for name in ("masks.npz", "class_masks.npz")]
    cache = ("--cache_dir", data / "cache", "--save_json", tmp_path / "preds.json", "--overwrite")
    beside = ("--mask_checkpoint", trained / "image.pt", "--save_vis_dir", tmp_path / "vis", "--max_vis", 2)
    said = run(*command(data, trained / "study.pt", *files, *cache, *beside))
    assert "is not the image model" not in said
    for name, expected in zip(("masks.npz", "class_masks.npz"), own, strict=True):
        found = arrays(tmp_path / name)
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            np.testing.assert_array_equal(found[key], values, key)
        assert meta(tmp_path / name)["checkpoint"] == str(trained / "image.pt")
        assert meta(tmp_path / name)["study_checkpoint"] == str(trained / "study.pt")
    names = {path.name for path in (tmp_path / "vis").glob("*.png")}
    assert names == {f"s{n}_0_{kind}.png" for n in (0, 1) for kind in ("mask", "crop", "overlay")}
    with_evidence = (tmp_path / "preds.json").read_text()
    run(*command(data, trained / "study.pt", *cache))
    assert (tmp_path / "preds.json").read_text() == with_evidence


def test_an_export_of_the_image_model_is_known_as_the_one_that_studies_began_from(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Studies may have begun from either, and masks be of either; so of an export that does not say what it is of."""
    begun_from = checkpoint.identity(checkpoint.load(trained / "image.pt"))
    study = checkpoint.load(trained / "study.pt")
    assert study["begun_from"] == begun_from
    export = ("export_model.py", "--checkpoint")
    run(*export, trained / "image.pt", "--out", tmp_path / "new.safetensors")
    run(*export, trained / "study.pt", "--out", tmp_path / "study.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("roi.inference.export.model.identity", lambda state: "")
        run(*export, trained / "image.pt", "--out", tmp_path / "old.safetensors")
    assert checkpoint.identity(checkpoint.load(tmp_path / "new.safetensors")) == begun_from
    for state in (study, checkpoint.load(tmp_path / "study.safetensors")):
        for name, remark in (("new", ""), ("old", ""), ("study", "is not the image model that s.pt began from")):
            model, mask_state = checkpoint.load_model(tmp_path / f"{name}.safetensors")
            said = remark_on_mask_model("m", model, mask_state, "s.pt", dict(state))
            assert remark in said and bool(said) == bool(remark)
        unknown = {**state, "begun_from": None}
        assert "cannot be told" in remark_on_mask_model("m", model, mask_state, "s.pt", unknown)


def test_grad_cam_is_of_the_backbone_of_studies(data: Path, trained: Path, tmp_path: Path) -> None:
    pictures = ("--save_vis_dir", tmp_path / "vis", "--max_vis", 3, "--cache_dir", data / "cache")
    run(*command(data, trained / "study.pt", "--cam", tmp_path / "cam.npz", *pictures))
    maps = read_maps(tmp_path / "cam.npz")
    study, state = checkpoint.load_model(trained / "study.pt")
    image, _ = checkpoint.load_model(trained / "image.pt")
    pixels = torch.stack([torch.from_numpy(read_grey(data / name, SIDE).copy()) for name in maps.images])[:, None]

    def normalised(backbone: torch.nn.Module) -> np.ndarray:
        found = grad_cam(RoiModel(backbone, "none", img_size=SIDE), pixels, 8)
        return (found / found.amax((2, 3), keepdim=True).clamp_min(1e-30)).numpy()

    np.testing.assert_allclose(maps.maps["cam"], normalised(study.backbone), atol=1e-3)
    # The backbone has moved since: the map of the image model is another.
    assert np.abs(maps.maps["cam"] - normalised(image.backbone)).max() > 0.01
    assert maps.classes == state["classes"]
    assert {path.name for path in (tmp_path / "vis").iterdir()} >= {"s0_0_cam.png", "s1_0_cam.png", "s1_1_cam.png"}


def test_what_a_picture_says_of_the_study() -> None:
    record = {
        "prob_full": {"Mass": 0.2, "Edema": 0.3, "Normal": 0.9},
        "study": "s1",
        "prob_study": {"Mass": 0.8, "Edema": 0.1},
        "without": {"Mass": 0.25, "Edema": 0.1},
    }
    assert probable(record) == ["Mass", "Edema"]
    assert study_lines(record, "Mass") == ["    study s1: 0.80, without this image 0.25"]
    alone = {key: record[key] for key in ("prob_full", "study", "prob_study")}
    assert study_lines(alone, "Mass") == ["    study s1: 0.80"] and study_lines(record, "Hernia") == []
    assert study_lines({"prob_full": record["prob_full"]}, "Mass") == []


def test_what_cannot_be_given_is_one_line(data: Path, trained: Path, tmp_path: Path) -> None:
    masks = ("--save_masks", tmp_path / "masks.npz")

    def refused(model: str, *more: object) -> str:
        return one_line_error(*command(data, trained / model, *more))

    for flag in ("--save_masks", "--class_masks"):
        said = refused("study.pt", flag, tmp_path / "masks.npz")
        assert "no mask of its own" in said and f"--mask_checkpoint {trained / 'image.pt'}" in said
    assert "is of one image" in refused("study.pt", "--curves", tmp_path / "curves.npz")
    other = ("--mask_checkpoint", trained / "plain.pt")
    assert "was trained without a mask" in refused("study.pt", *masks, *other)
    assert "is a model of studies, too" in refused("study.pt", *masks, "--mask_checkpoint", trained / "study.pt")
    own = ("--mask_checkpoint", trained / "image.pt")
    assert "nothing of it is asked for" in refused("study.pt", "--cam", tmp_path / "cam.npz", *own)
    assert "is an image model, with its own mask" in refused("image.pt", *masks, *own)
    assert not list(tmp_path.iterdir())


def test_masks_of_a_model_that_was_never_trained_are_refused(data: Path, trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "image.pt", weights_only=True)
    torch.save({**state, "epoch": 0, "steps": 0}, tmp_path / "new.pt")
    flags = ("--mask_checkpoint", tmp_path / "new.pt", "--save_masks", tmp_path / "masks.npz")
    said = one_line_error(*command(data, trained / "study.pt", *flags))
    assert "--mask_checkpoint" in said and "never trained" in said and not (tmp_path / "masks.npz").exists()
    run(*command(data, trained / "study.pt", *flags, "--untrained"))
    assert (tmp_path / "masks.npz").is_file()


def test_masks_of_another_image_model_are_told(data: Path, trained: Path, tmp_path: Path) -> None:
    state = checkpoint.load(trained / "image.pt")
    state["model"] = {key: value + 1 if key == "fc.bias" else value for key, value in state["model"].items()}
    checkpoint.save(tmp_path / "other.pt", state)
    flags = ("--mask_checkpoint", tmp_path / "other.pt", "--save_masks", tmp_path / "masks.npz")
    said = run(*command(data, trained / "study.pt", *flags))
    assert "is not the image model that" in said
