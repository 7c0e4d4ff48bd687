"""Controls of a mask on validation images: planted good and bad masks, in figures and in words.

And where these are written.
"""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run
from torch import Tensor, nn

from roi.data.dataset import Batch
from roi.models.masks import exact_topk
from roi.models.roi_model import RoiModel, Views
from roi.models.view_norms import ViewNorms
from roi.training.mask_controls import MaskControls, border_share, contrast
from roi.training.mask_verdict import MASK_CONTROLS, complaints

SIZE = 40


def test_a_uniform_mask_has_a_third_at_the_border() -> None:
    uniform = torch.ones(1, 1, SIZE, SIZE)
    assert border_share(uniform).item() == pytest.approx(0.36)
    edge, middle = torch.zeros(2, 1, 1, SIZE, SIZE).unbind(0)
    edge[..., :4, :], middle[..., 10:20, 10:20] = 1, 1
    assert border_share(torch.cat([edge, middle])).tolist() == [1.0, 0.0]


def test_contrast_is_what_present_findings_lose_beyond_absent_ones() -> None:
    target = np.array([[1, 0, math.nan, 0], [0, 0, 1, 1]], dtype=np.float32)
    classes = ["Mass", "Nodule", "Hernia", "Normal"]
    shift = np.full((2, 4), 0.5, dtype=np.float32)
    assert contrast(shift, target, classes) == 0
    fall = np.where(target == 1, 2.0, 0.5)
    fall[:, 3] = 100  # Normal is no finding
    assert contrast(fall, target, classes) == pytest.approx(1.5)
    assert math.isnan(contrast(shift, np.zeros_like(target), classes))


class Planted(nn.Module):
    """Two findings, each a bright square in its own quarter of the image; a logit says how bright its quarter is."""

    def forward(self, x: Tensor) -> Tensor:
        half = SIZE // 2
        brightness = torch.stack([x[:, 0, :half, :half].amax((1, 2)), x[:, 0, half:, half:].amax((1, 2))], 1)  # (B, 2)
        return 4 * brightness - 4


class PlantedModel(RoiModel):
    """Planted, with a mask that follows the squares, or keeps the border."""

    def __init__(self, keeps: str) -> None:
        nn.Module.__init__(self)
        self.backbone, self.keeps, self.fill, self.mask = Planted(), keeps, "mean", "features"
        self.view_norms = ViewNorms(self.backbone)

    def normalise(self, pixels: Tensor) -> Tensor:
        return pixels.float() / 255

    def forward(self, pixels: Tensor, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        x = self.normalise(pixels)
        k = round(keep_ratio * SIZE * SIZE)
        border = torch.ones(SIZE, SIZE)
        border[4:-4, 4:-4] = 0
        score = x if self.keeps == "squares" else border.expand_as(x)
        hard = exact_topk(score, k)
        return Views(self.backbone(x), self.backbone(x * hard), self.backbone(x * (1 - hard)), hard, hard)


def planted_batch() -> Batch:
    rows = torch.arange(64)
    target = torch.stack([rows % 2, (rows // 2) % 2], 1).float()
    pixels = torch.zeros(64, 1, SIZE, SIZE)
    for row in rows.tolist():
        if target[row, 0]:
            pixels[row, 0, 8:14, 8:14] = 255
        if target[row, 1]:
            pixels[row, 0, 26:32, 26:32] = 255
    return Batch(pixels.to(torch.uint8), target, rows, [])


def figures(keeps: str) -> dict[str, float]:
    controls = MaskControls(PlantedModel(keeps), 0.1, torch.device("cpu"), torch.float32)
    controls.add(planted_batch())
    return controls.figures(["Mass", "Nodule"])


def test_a_mask_on_the_evidence_is_told_from_one_on_the_border() -> None:
    good, bad = figures("squares"), figures("border")
    assert set(good) == set(MASK_CONTROLS)
    assert good["crop_auroc"] == 1 and good["drop_contrast"] == pytest.approx(4, abs=0.1) and good["mask_border"] < 0.2
    assert good["blobs_auroc"] < 0.9 and good["drop_contrast_blobs"] < 1
    assert complaints(good) == []
    assert bad["mask_border"] == 1 and bad["crop_auroc"] == 0.5 and bad["drop_contrast"] == 0
    said = complaints(bad)
    assert len(said) == 3
    assert (
        said[0].startswith("the mask keeps the border: 100% of its pixels")
        and "no better than random blobs" in said[1]
        and "absent ones" in said[2]
    )
    assert complaints({}) == [] == complaints({"val_auroc": 0.5})


def test_no_batch_gives_no_figures() -> None:
    assert (
        MaskControls(PlantedModel("squares"), 0.1, torch.device("cpu"), torch.float32).figures(["Mass", "Nodule"]) == {}
    )


def test_each_epoch_of_masks_has_its_controls_in_the_metrics(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    said = run(
        "train_roi_consistency.py",
        "--train_csv",
        tables[0],
        "--image_root",
        demo,
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        48,
        "--batch_size",
        16,
        "--epochs",
        3,
        "--warmup_epochs",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
        "--val_fraction",
        0.3,
        "--save",
        tmp_path / "roi.pt",
        "--log_csv",
        tmp_path / "metrics.csv",
    )
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [[bool(row[name]) for name in MASK_CONTROLS] for row in rows] == [[False] * 5, [True] * 5, [True] * 5]
    assert said.count("mask_border") == 2
    last = {name: float(rows[-1][name]) for name in MASK_CONTROLS}
    warned = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert len([line for line in warned if "below that of the epochs before" not in line]) >= len(complaints(last))
