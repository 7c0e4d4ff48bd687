"""What a crop leaves out is shown in the grey that the model sees there: the mean of its own weights."""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import run
from PIL import Image

from roi.models.backbones import HALVES, IMAGENET
from roi.report import case_pictures
from roi.report.run_folder import Run
from roi.report.sections.cases import read_evidence
from roi.scoring.pictures import crop_picture, dropped_grey
from roi.training import checkpoint

GREYS = {"ImageNet's": (IMAGENET, 114), "halves": (HALVES, 128)}


@pytest.fixture(scope="module")
def trained(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    save = tmp_path_factory.mktemp("grey") / "roi.pt"
    run(
        *("train_roi_consistency.py", "--train_csv", tables[0], "--exclude_csv", tables[1], "--image_root", demo),
        *("--workers", 0, "--device", "cpu", "--backbone", "test_resnet", "--weights", "none", "--img_size", 64),
        *("--epochs", 2, "--batch_size", 8, "--save", save),
    )
    return save


def most_common(path: Path) -> int:
    """The grey of nine parts of a crop."""
    return int(np.bincount(np.asarray(Image.open(path)).ravel(), minlength=256).argmax())


@pytest.mark.parametrize("kind", GREYS)
def test_crops_are_filled_with_the_mean_of_the_weights(
    trained: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    normalisation, grey = GREYS[kind]
    state = dict(checkpoint.load(trained))
    state["args"] = state["args"] | {"normalisation": normalisation}
    torch.save(state, tmp_path / "roi.pt")
    predict = ("infer_roi_consistency.py", "--checkpoint", tmp_path / "roi.pt", "--device", "cpu")
    table = ("--csv", tables[1], "--image_root", demo, "--workers", 0)
    run(*predict, *table, "--save_vis_dir", tmp_path / "vis", "--max_vis", 1)
    (crop,) = (tmp_path / "vis").glob("*_crop.png")
    assert most_common(crop) == grey
    image = sorted(demo.rglob("*.png"))[0]
    run(*predict, "--image", image, "--save_crop", tmp_path / "one.png")
    assert most_common(tmp_path / "one.png") == grey


@pytest.mark.parametrize("kind", GREYS)
def test_the_report_shows_the_grey_of_the_run(kind: str, tmp_path: Path) -> None:
    normalisation, grey = GREYS[kind]
    flags = {"normalisation": [list(row) for row in normalisation]}  # as JSON has it
    run_of = Run(tmp_path, "run", {"predictions": {"args": flags}}, None, "")
    evidence = read_evidence(run_of, {}, [], set(), [])
    assert evidence.dropped == grey
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(tmp_path / "a.png")
    mask = Image.fromarray(np.zeros((case_pictures.SIZE,) * 2, dtype=np.uint8))
    drawn = []
    with (
        mock.patch.object(evidence, "mask", return_value=mask),
        mock.patch.object(case_pictures, "encode", lambda picture, alt: drawn.append((picture, alt))),
    ):
        case_pictures.draw(str(tmp_path / "a.png"), "a.png", "Mass", evidence, [])
    picture, alt = drawn[-1]
    assert alt.startswith("Crop") and set(np.unique(picture)) == {grey}


def test_runs_that_do_not_say_have_imagenets_grey() -> None:
    assert dropped_grey(None) == dropped_grey({}) == dropped_grey({"normalisation": None}) == 114
    nothing = Image.fromarray(np.zeros((4, 4), dtype=np.uint8))
    assert set(np.unique(crop_picture(np.zeros((4, 4), dtype=np.uint8), nothing))) == {114}
