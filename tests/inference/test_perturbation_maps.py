"""RISE and extremal masks against transcriptions, and against a classifier whose answer depends on a known patch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roi.inference.perturbation_maps import (
    RandomGrids,
    Search,
    extremal_mask,
    hard_mask,
    rise,
    weighted_mean,
)
from roi.models.roi_model import RoiModel

SIDE = 64
DOWN, ACROSS = slice(16, 32), slice(32, 48)  # the patch, a sixteenth of the image


class PatchNet(nn.Module):
    """Class 0 is as likely as the patch is bright, class 1 as it is dark, class 2 never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 3)
        with torch.no_grad():
            self.fc.weight.copy_(torch.tensor([[4.0], [-4.0], [0.0]]))
            self.fc.bias.copy_(torch.tensor([-3.0, 1.0, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x[..., DOWN, ACROSS].mean((1, 2, 3))[:, None])


def patch_model() -> RoiModel:
    return RoiModel(PatchNet(), "none", img_size=SIDE)


def white(images: int = 1) -> Tensor:
    return torch.full((images, 1, SIDE, SIDE), 255, dtype=torch.uint8)


def grids(count: int, seed: int = 0) -> RandomGrids:
    return RandomGrids.draw(count, (SIDE, SIDE), torch.Generator().manual_seed(seed))


def in_patch(place: int, side: int) -> bool:
    cell = SIDE // side
    y, x = (cell * n + cell // 2 for n in divmod(place, side))
    return DOWN.start <= y < DOWN.stop and ACROSS.start <= x < ACROSS.stop


def share_of_patch(soft: Tensor) -> float:
    mask = hard_mask(soft, 1 / 16)
    assert mask.sum() == SIDE * SIDE / 16
    return float(mask[0, 0, DOWN, ACROSS].mean())


def test_the_weighted_mean_is_that_of_the_paper() -> None:
    """S(u) = 1 / (E[M] N) sum_i f(I * M_i) M_i(u), one class and one pixel after the other."""
    rng = np.random.default_rng(0)
    masks, scores = rng.random((7, 12)), rng.normal(size=(7, 3))
    expected = np.zeros((3, 12))
    for k in range(3):
        for u in range(12):
            for n in range(7):
                expected[k, u] += scores[n, k] * masks[n, u] / (0.5 * 7)
    np.testing.assert_allclose(weighted_mean(torch.tensor(masks), torch.tensor(scores), 0.5).numpy(), expected)


def test_rise_is_the_weighted_mean_of_what_the_model_says() -> None:
    """Each mask on the pixels, each answer by itself; the logits less their mean."""
    model, drawn = patch_model().eval(), grids(11)
    pixels = torch.randint(0, 256, (2, 1, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = rise(model, pixels, drawn, SIDE, chunk=4)
    masks = drawn.masks(slice(0, 11)).numpy()[:, 0]
    for image, of_image in zip(model.normalise(pixels).numpy(), found.numpy(), strict=True):
        bright = np.array([(image * mask)[:, DOWN, ACROSS].mean() for mask in masks])
        logits = np.stack([4 * bright - 3, 1 - 4 * bright, np.full(11, 2.0)], 1)
        scores = logits - logits.mean(0)
        expected = (scores[:, :, None, None] * masks[:, None]).sum(0) / (0.5 * 11)
        np.testing.assert_allclose(of_image, expected, rtol=1e-4, atol=1e-5)


def test_random_grids_cover_the_image_alike() -> None:
    drawn = grids(3000)
    masks = drawn.masks(slice(0, 3000))
    assert masks.shape == (3000, 1, SIDE, SIDE) and masks.min() >= 0 and masks.max() <= 1
    # Of 3,000 independent cells of spread .5 at most; pixels between cells have less.
    torch.testing.assert_close(masks.mean(0), torch.full((1, SIDE, SIDE), 0.5), rtol=0, atol=5 * 0.5 / 3000**0.5)
    # Smooth: from a pixel to the next a mask changes by a part of a cell of 10 pixels.
    assert masks.diff(dim=3).abs().max() <= 0.1 + 1e-6
    assert torch.equal(masks, grids(3000).masks(slice(0, 3000)))
    assert not torch.equal(masks[:9], grids(9, seed=1).masks(slice(0, 9)))


def test_a_grid_needs_pixels_for_its_cells() -> None:
    with pytest.raises(ValueError, match="mask of 9 cells a side on an image of 8 pixels"):
        RandomGrids.draw(1, (8, 16), torch.Generator(), cells=9)
    wide = RandomGrids.draw(5, (20, 47), torch.Generator().manual_seed(0)).masks(slice(1, 4))
    assert wide.shape == (3, 1, 20, 47)


def test_rise_finds_the_patch() -> None:
    maps = rise(patch_model(), white(), grids(800), 16)[0]
    assert in_patch(int(maps[0].argmax()), 16) and in_patch(int(maps[1].argmin()), 16)
    assert maps[0].max() > 5 * maps[0].flatten().quantile(0.8).abs()
    torch.testing.assert_close(maps[2], torch.zeros(16, 16))


def test_an_extremal_mask_finds_the_patch() -> None:
    search = Search(area=1 / 16)
    bright = torch.tensor([[1.0, 0, 0]])
    for view in ("crop", "drop"):
        assert share_of_patch(extremal_mask(patch_model(), white(), bright, view, search)) > 0.9
    # What is dark is believed where the patch is taken away: its crop is anything else.
    dark = torch.tensor([[0, 1.0, 0]])
    assert share_of_patch(extremal_mask(patch_model(), white(), dark, "crop", search)) == 0


def test_the_images_of_a_batch_do_not_mix_and_weights_stay() -> None:
    model = patch_model()
    weights = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    together = extremal_mask(model, white(2), weights, "drop", Search(steps=5))
    for n in range(2):
        alone = extremal_mask(model, white(), weights[n : n + 1], "drop", Search(steps=5))
        torch.testing.assert_close(together[n : n + 1], alone)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_best_mask_of_the_search_is_kept() -> None:
    """With a start that is best already, no step of the search is worse than it."""
    model, bright = patch_model(), torch.tensor([[1.0, 0, 0]])
    start = torch.zeros(1, 1, SIDE, SIDE)
    start[..., DOWN, ACROSS] = 1
    for steps in (1, 4):
        assert share_of_patch(extremal_mask(model, white(), bright, "crop", Search(1 / 16, 16, steps, 5.0), start)) == 1
    nothing = torch.tensor([[0, 0, 1.0]])
    scores = extremal_mask(model, white(), nothing, "drop", Search(area=0.25, steps=3))
    mask = hard_mask(scores, 0.25)
    assert mask.sum() == SIDE * SIDE / 4 and mask[..., 20:44, 20:44].all()  # where it began: the centre


def test_a_view_that_is_none() -> None:
    with pytest.raises(ValueError, match="view 'full'"):
        extremal_mask(patch_model(), white(), torch.ones(1, 3), "full", Search())
