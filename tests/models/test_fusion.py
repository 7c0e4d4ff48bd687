"""Fusion of the images of a study: what it may depend on, and what published code (CheXFusion) got wrong."""

import pytest
import torch
from torch import Tensor, nn

from roi.data.dataset import Batch, StudyBatch
from roi.models.fusion import (
    FUSIONS,
    Seen,
    StudyModel,
    ViewAttention,
    build_study_model,
    leave_one_out,
    pool,
    position_code,
)

CLASSES = ["Atelectasis", "Mass", "Normal"]
SIDE = 64


def make(fusion: str, backbone: str = "test_resnet", trained: bool = True) -> StudyModel:
    """A model in eval mode; `trained`: its attention says something, as after training."""
    model = build_study_model(backbone, CLASSES, fusion, "none", SIDE, 0, False, width=32, cells=12)
    # Without statistics of batch norm all images look nearly alike to an untrained backbone.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(images(16, seed=9), 1.0)
    model.eval()
    if trained and isinstance(model.fusion, ViewAttention):
        learned(model.fusion)
        with torch.no_grad():
            model.fusion.bias -= logits(model, list(images(16, seed=9).split(1))).mean(0)
    return model


@torch.no_grad()
def learned(fusion: ViewAttention) -> None:
    """As after training: what is seen has a large say, so that a defect shows in probabilities."""
    nn.init.normal_(fusion.weight, generator=torch.Generator().manual_seed(5))
    fusion.project.weight *= 4
    for parameter in fusion.attend.parameters():
        parameter *= 4


def images(count: int, seed: int = 0) -> Tensor:
    """Coarse blocks of grey, so that images differ in what a convolution sees."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return coarse.repeat_interleave(SIDE // 8, 2).repeat_interleave(SIDE // 8, 3)


def batch_of(studies: list[Tensor], kinds: list[list[int]] | None = None) -> Batch:
    """A batch of studies, each (n, 1, S, S)."""
    longest = max(len(study) for study in studies)
    place = torch.full((len(studies), longest), -1)
    owner: list[int] = []
    for n, study in enumerate(studies):
        place[n, : len(study)] = torch.arange(len(owner), len(owner) + len(study))
        owner += [n] * len(study)
    of_kind = torch.tensor([k for row in kinds for k in row]) if kinds else torch.zeros(len(owner), dtype=torch.int64)
    index = torch.arange(len(studies))
    targets = torch.zeros(len(studies), len(CLASSES))
    together = StudyBatch(place, torch.tensor(owner), of_kind, torch.arange(len(owner)))
    return Batch(torch.cat(studies), targets, index, [], studies=together)


@torch.no_grad()
def logits(model: StudyModel, studies: list[Tensor], kinds: list[list[int]] | None = None) -> Tensor:
    return model.views_of(batch_of(studies, kinds), 1.0).logits_full


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_study_does_not_depend_on_its_batch_mates(fusion: str) -> None:
    model = make(fusion)
    study, *mates = images(8).split([2, 1, 4, 1])
    alone = logits(model, [study]).sigmoid()
    for others, at in (([mates[0]], 0), (mates, 0), (mates, 3), ([mates[1], mates[2]], 1)):
        batch = [*others[:at], study, *others[at:]]
        torch.testing.assert_close(logits(model, batch)[at : at + 1].sigmoid(), alone, atol=1e-6, rtol=0)


class AcrossTheBatch(ViewAttention):
    """The published fusion: the encoder layer reads (batch, tokens, width) as (tokens, batch, width)."""

    def __init__(self, channels: int, classes: int, width: int, cells: int) -> None:
        super().__init__(channels, classes, width, cells)
        self.encoder = nn.TransformerEncoderLayer(width, 8, 4 * width)  # no batch_first

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        return super().forward(self.encoder(tokens), place)


def test_the_published_fusion_depends_on_them() -> None:
    model = make("attention")
    ours = model.fusion
    assert isinstance(ours, ViewAttention)
    torch.manual_seed(0)
    published = AcrossTheBatch(ours.project.in_features, len(CLASSES), 32, 12)
    published.load_state_dict(ours.state_dict(), strict=False)
    model.fusion = published
    model.eval()
    study, *mates = images(8).split([2, 1, 4, 1])
    moved = logits(model, [study, *mates])[:1].sigmoid() - logits(model, [study]).sigmoid()
    assert moved.abs().max() > 0.05


@pytest.mark.parametrize("fusion", FUSIONS)
def test_views_of_one_kind_may_be_exchanged(fusion: str) -> None:
    model = make(fusion)
    study = images(3)
    kinds = [[0, 0, 1]]
    same = logits(model, [study[[1, 0, 2]]], kinds)
    torch.testing.assert_close(same, logits(model, [study], kinds), atol=1e-5, rtol=0)


def test_the_kind_of_a_view_counts_in_attention() -> None:
    model = make("attention")
    study = images(2)
    assert not torch.allclose(logits(model, [study], [[0, 1]]), logits(model, [study], [[0, 0]]), atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_view_is_the_image_model_bit_for_bit(fusion: str) -> None:
    model = make(fusion, trained=False)
    pixels = images(5)
    with torch.no_grad():
        expected = model(pixels, 1.0).logits_full
    assert torch.equal(logits(model, list(pixels.split(1))), expected)


@pytest.mark.parametrize("training", [False, True])
def test_attention_begins_as_log_sum_exp_bit_for_bit(training: bool) -> None:
    studies = list(images(9).split([2, 4, 1, 2]))
    attention, baseline = (make(fusion, trained=False).train(training) for fusion in ("attention", "lse"))
    assert torch.equal(logits(attention, studies), logits(baseline, studies))


def test_pooled_logits_are_those_of_the_closed_forms() -> None:
    z = torch.randn(6, 3, dtype=torch.float64) * 4
    place = torch.tensor([[0, 1, 2], [3, -1, -1], [4, 5, -1]])
    parts = [z[:3], z[3:4], z[4:]]
    expected = {
        "mean_p": torch.stack([part.sigmoid().mean(0).logit() for part in parts]),
        "max": torch.stack([part.max(0).values for part in parts]),
        "lse": torch.stack([part.exp().sum(0).log() for part in parts]),
    }
    for how, values in expected.items():
        torch.testing.assert_close(pool(z, place, how), values)
    # A probability of 1 in single precision: sigmoid, mean and logit would give infinity.
    assert pool(torch.full((2, 1), 40.0), torch.tensor([[0, 1]]), "mean_p").item() == pytest.approx(40)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_black_image_is_a_view_like_any_other(fusion: str) -> None:
    model = make(fusion)
    study = images(1)
    black = torch.zeros_like(study)
    assert not torch.allclose(logits(model, [torch.cat([study, black])]), logits(model, [study]), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (7, 5)])
def test_each_cell_has_a_code_of_its_own(height: int, width: int) -> None:
    codes = position_code(height, width, 32)
    assert len({tuple(row) for row in codes.tolist()}) == height * width
    grid = codes.reshape(height, width, 32)
    assert torch.equal(grid[:, :1, :16].expand(-1, width, -1), grid[..., :16])  # its row
    assert torch.equal(grid[:1, :, 16:].expand(height, -1, -1), grid[..., 16:])  # its column


@pytest.mark.parametrize("fusion", FUSIONS)
def test_no_gradient_comes_from_another_study(fusion: str) -> None:
    model = make(fusion)
    batch = batch_of(list(images(6).split([1, 3, 2])))
    assert batch.studies is not None
    with torch.no_grad():
        seen = model.see(batch.pixels, batch.studies.kinds)
    given = Seen(seen.logits.requires_grad_(), None if seen.tokens is None else seen.tokens.requires_grad_())
    target = torch.tensor([[torch.nan] * 3, [1.0, torch.nan, 0.0], [torch.nan] * 3])
    known = ~target.isnan()
    nll = nn.functional.binary_cross_entropy_with_logits(
        model.fuse(given, batch.studies.place)[known], target[known], reduction="sum"
    )
    nll.backward()
    for part in given:
        if part is not None:
            assert part.grad is not None and part.grad.isfinite().all()
            assert not part.grad[[0, 4, 5]].any()
            used = part.grad[1:4].flatten(1).any(dim=1)
            assert used.any() if fusion == "max" else used.all()
    assert given.logits.grad is not None and not given.logits.grad[:, 1].any()


def test_without_an_image_a_study_is_as_if_it_had_never_been_taken() -> None:
    model = make("attention")
    studies = list(images(6).split([1, 3, 2]))
    batch = batch_of(studies)
    assert batch.studies is not None
    left_out, staying = leave_one_out(batch.studies.place)
    assert left_out.tolist() == [1, 2, 3, 4, 5]
    with torch.no_grad():
        found = model.fuse(model.see(batch.pixels, batch.studies.kinds), staying)
    pixels = torch.cat(studies)
    for row, stay in zip(found, ([2, 3], [1, 3], [1, 2], [5], [4]), strict=True):
        torch.testing.assert_close(row[None], logits(model, [pixels[stay]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", ["squeezenet1_1", "test_vit", "test_efficientnet", "test_convnext"])
def test_any_backbone_gives_tokens(backbone: str) -> None:
    model = make("attention", backbone)
    study, other = images(2), images(1, seed=1)
    torch.testing.assert_close(logits(model, [study]), logits(model, [other, study])[1:], atol=1e-5, rtol=0)
    seen = model.see(study, torch.zeros(2, dtype=torch.int64))
    assert seen.tokens is not None and seen.tokens.shape[0] == 2 and seen.tokens.shape[1] > 1
