"""What a mask could show at all: maps made by trying masks on an image, of any trained classifier.

    grids = RandomGrids.draw(1000, (256, 256), torch.Generator().manual_seed(0))
    maps = rise(model, pixels, grids, size=32)                    # a map of each class
    scores = extremal_mask(model, pixels, weights, "drop", Search(area=0.1))
    mask = hard_mask(scores, 0.1)

rise       Petsiuk et al. 2018: random coarse masks, each weighted by what the classifier says of the image behind it
extremal   Fong et al. 2019: the mask of a given area whose crop the classifier believes most ("crop", preservation),
           or whose absence it misses most ("drop", deletion), found by an optimiser

Both need hundreds of passes through the backbone for each image. They are references for masks that are learned
(benchmarks/mask_references.py), not a way to predict. A caller's autocast holds for the passes.

Letters: B images, K classes, N random masks, H x W pixels, h x w cells of a mask, m x m cells of a map.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from roi.errors import UserError
from roi.models.masks import (
    exact_topk,
    kept_pixels,
    per_image,
    soft_topk,
    standardised,
    straight_through,
    upsample,
)
from roi.models.roi_model import RoiModel

VIEWS = ("crop", "drop")


@dataclass(frozen=True)
class RandomGrids:
    """The masks of RISE (section 3.2): coarse random grids, enlarged, each moved by a part of a cell."""

    grid: Tensor  # (N, 1, h, w) 0/1
    shift: Tensor  # (N, 2) pixels down and right, below a cell
    keep: float  # probability that a cell is 1
    size: tuple[int, int]  # H, W

    @staticmethod
    def draw(
        count: int,
        size: tuple[int, int],
        generator: torch.Generator,
        cells: int = 7,
        keep: float = 0.5,
    ) -> "RandomGrids":
        """Draw `count` masks of `cells` a side, each cell kept with the probability `keep`.

        Raises:
            UserError: the image has fewer pixels a side than cells
        """
        if cells > min(size):
            raise UserError(f"a mask of {cells} cells a side on an image of {min(size)} pixels; give fewer cells")
        grid = (torch.rand(count, 1, cells, cells, generator=generator) < keep).float()
        # A draw for each axis: the cells of an image that is not square have two sides.
        shift = torch.rand(count, 2, generator=generator) * torch.tensor(_cell(size, cells))
        return RandomGrids(grid, shift.long(), keep, size)

    def masks(self, rows: slice) -> Tensor:
        """Some of the masks, (n, 1, H, W) in 0..1."""
        height, width = self.size
        cells = self.grid.shape[-1]
        down, right = _cell(self.size, cells)
        # One cell more than the image has, so that there is room for the shift.
        enlarged = upsample(self.grid[rows], ((cells + 1) * down, (cells + 1) * right))
        windows = []
        for mask, (top, left) in zip(enlarged, self.shift[rows].tolist(), strict=True):
            windows.append(mask[:, top : top + height, left : left + width])
        return torch.stack(windows)


def _cell(size: tuple[int, int], cells: int) -> list[int]:
    """Pixels of a cell, down and across."""
    return [math.ceil(side / cells) for side in size]


def weighted_mean(masks: Tensor, scores: Tensor, keep: float) -> Tensor:
    """The mean of N masks, each weighted by the scores of its image (Petsiuk et al. 2018, eq. 6).

    Args:
        masks: (N, C), the pixels or cells of each.
        scores: (N, K).
        keep: mean of the masks.

    Returns:
        (K, C)
    """
    return scores.T @ masks / (len(masks) * keep)


@torch.no_grad()
def rise(model: RoiModel, pixels: Tensor, grids: RandomGrids, size: int, chunk: int = 8) -> Tensor:
    """The map of each class: (B, 1, H, W) uint8 -> (B, K, m, m) float32, m = `size`.

    Args:
        chunk: masks that go through the backbone at once.
    """
    model.eval()
    x = model.normalise(pixels)
    count = len(grids.grid)
    seen = []  # logits of each mask
    cells = []  # the masks in the cells of the map
    for first in range(0, count, chunk):
        masks = grids.masks(slice(first, first + chunk)).to(x.device)
        cells.append(F.adaptive_avg_pool2d(masks, size).flatten(1))
        seen.append(torch.stack([_logits_behind(model, image, masks) for image in x]))
    logits = torch.cat(seen, 1)  # (B, N, K)
    # Less their mean, which moves the map by a constant in expectation. A logit is far from 0 where a finding is rare,
    # and the uneven cover of the pixels by few masks would come through as often as it is.
    scores = logits - logits.mean(1, keepdim=True)
    maps = torch.stack([weighted_mean(torch.cat(cells), of_image, grids.keep) for of_image in scores])
    return maps.unflatten(2, (size, size))


def _logits_behind(model: RoiModel, image: Tensor, masks: Tensor) -> Tensor:
    """What the classifier says of one image behind each of the masks: (3, H, W), (n, 1, H, W) -> (n, K)."""
    # Noise that fills the holes is the same behind every mask.
    seeds = torch.zeros(len(masks), dtype=torch.long, device=masks.device)
    return model.backbone(model.apply_mask(image.expand(len(masks), -1, -1, -1), masks, seeds)).float()


@dataclass(frozen=True)
class Search:
    """How the mask of an image is looked for."""

    area: float = 0.1  # share of the pixels
    cells: int = 16  # of the mask, a side
    steps: int = 100
    lr: float = 0.3  # of Adam, on scores that begin with a spread of 1


def extremal_mask(
    model: RoiModel,
    pixels: Tensor,
    weights: Tensor,
    view: str,
    search: Search,
    start: Tensor | None = None,
) -> Tensor:
    """The mask of an area that does the most to the logits of a view.

    It maximises sum_k w_k z_k of what it keeps ("crop"), or minimises that of what it leaves over ("drop"). As in Fong
    et al. 2019 the area is given and coarse cells are moved by gradients; here it holds exactly in each step (top-k,
    straight-through), in the place of a term of the loss, and the best of all steps is kept.

    Args:
        pixels: (B, 1, H, W) uint8.
        weights: (B, K), which classes count, and how much.
        view: "crop" or "drop".
        start: (B, 1, h', w') the scores to begin with; None: highest in the centre.

    Returns:
        Scores (B, 1, H, W) whose highest pixels, as many as the area has, are the mask (`hard_mask`).
    """
    if view not in VIEWS:
        raise ValueError(f"view {view!r}: one of {VIEWS}")
    model.eval()
    x = model.normalise(pixels)
    size = (x.shape[-2], x.shape[-1])
    cells = _first_cells(len(x), search.cells, start).to(x.device).requires_grad_()
    optimizer = torch.optim.Adam([cells], lr=search.lr)
    best = torch.full((len(x),), -torch.inf, device=x.device)
    best_cells = cells.detach().clone()
    for _ in range(search.steps):
        with torch.enable_grad():
            value = _value_of(model, x, upsample(cells, size), view, weights, search.area)
        better = value.detach() > best
        best = torch.where(better, value.detach(), best)
        best_cells = torch.where(per_image(better), cells.detach(), best_cells)
        # Images do not mix in eval mode, so that one gradient of the sum serves all.
        (gradient,) = torch.autograd.grad(value.sum(), cells)
        cells.grad = -gradient
        optimizer.step()
    return upsample(best_cells, size)


def _value_of(model: RoiModel, x: Tensor, score: Tensor, view: str, weights: Tensor, area: float) -> Tensor:
    """What the highest pixels of a score are worth in a view, (B,), the higher the better."""
    k = kept_pixels(x.shape[-2], x.shape[-1], area)
    mask = straight_through(exact_topk(score, k), soft_topk(score, k))
    seeds = torch.zeros(len(x), dtype=torch.long, device=x.device)
    if view == "crop":
        return (weights * model.crop(x, mask, seeds)).sum(1)
    return -(weights * model.drop(x, mask, seeds)).sum(1)


def _first_cells(images: int, cells: int, start: Tensor | None) -> Tensor:
    """(B, 1, h, w) of mean 0 and spread 1."""
    if start is None:
        middle = torch.arange(cells) - (cells - 1) / 2
        nearness = -(middle[:, None].square() + middle[None].square())
        start = nearness.expand(images, 1, cells, cells)
    return standardised(F.adaptive_avg_pool2d(start.float(), cells))


def hard_mask(score: Tensor, area: float) -> Tensor:
    """Exactly so much of the image, on the highest pixels: (B, 1, H, W) -> 0/1 of the same shape."""
    height, width = score.shape[-2:]
    return exact_topk(score, kept_pixels(height, width, area))
