"""One prediction for a study from all its images: pooled logits, and attention over what the backbone sees in each.

The images of B studies go through the backbone side by side, V in all. `place` says which of them belong to a study,
so that no image is ever padded.

Letters: B studies, V images, n images of the largest study, K classes, C channels of the last stage, h x w its cells,
T cells an image that are attended to, D width of the attention.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roi.data.dataset import Batch
from roi.data.studies import KINDS
from roi.errors import UserError
from roi.labels import has_place
from roi.models.backbones import Normalisation, classifier_layer
from roi.models.mask_net import Stages
from roi.models.queries import OWN, RANDOM, Queries
from roi.models.roi_model import ModelOptions, RoiModel, Views, checked_backbone

FUSIONS = ("mean_p", "max", "lse", "attention")
HEADS = 8  # of the attention
DROPOUT = 0.1


def pool(logits: Tensor, place: Tensor, how: str) -> Tensor:
    """One logit a class for each study. A study of one image has the logits of that image, bit for bit.

    Args:
        logits: (V, K) of the images.
        place: (B, n) images of each study; -1: it has no more. The first is never -1.
        how: mean_p (the logit of the mean probability), max, or lse (log-sum-exp).

    Returns:
        (B, K)
    """
    absent = (place < 0)[:, :, None]  # (B, n, 1)
    values = logits[place.clamp(min=0)]  # (B, n, K)
    if how == "max":
        return values.masked_fill(absent, -torch.inf).amax(1)
    if how == "lse":
        return values.masked_fill(absent, -torch.inf).logsumexp(1)
    assert how == "mean_p", how
    # In logarithms: a probability that is rounded to 1 would have an infinite logit. The number of images cancels.
    log_p = F.logsigmoid(values).masked_fill(absent, -torch.inf)
    log_not_p = F.logsigmoid(-values).masked_fill(absent, -torch.inf)
    mean = log_p.logsumexp(1) - log_not_p.logsumexp(1)
    # One image, there and back, would differ by rounding.
    alone = (place >= 0).sum(1, keepdim=True) == 1
    return torch.where(alone, values[:, 0], mean)


def position_code(height: int, width: int, dim: int) -> Tensor:
    """A code for each cell of an image, sines and cosines of its row and of its column: (height * width, dim).

    Half of the numbers tell the row, half the column (Vaswani et al. 2017, section 3.5, for each axis).
    """
    waves = dim // 4
    frequencies = 10_000.0 ** (-torch.arange(waves) / waves)
    codes = []
    for cells in (height, width):
        angles = torch.outer(torch.arange(cells), frequencies)
        codes.append(torch.cat([angles.sin(), angles.cos()], dim=1))  # (cells, dim / 2)
    rows, columns = codes
    of_cells = [rows.repeat_interleave(width, dim=0), columns.repeat(height, 1)]
    return torch.cat(of_cells, dim=1)


class LastMap:
    """Catches the last map of cells of a backbone as images go through.

    Of a convolutional one it is the coarsest of its `Stages`; of a transformer whose cells stay a sequence it is the
    last sequence before the classifier, without its class and register tokens.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, img_size: int) -> None:
        self.stages: Stages | None = None
        self.caught: Tensor | None = None
        self.catching = False
        try:
            self.stages = Stages(backbone, head, img_size)
            self.channels = self.stages.channels[-1]
        except UserError as error:
            name, self.channels = _last_sequence(backbone, head, img_size, str(error))
            backbone.get_submodule(name).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        if self.catching:
            self.caught = output

    @contextmanager
    def catch(self) -> Iterator[list[Tensor]]:
        """A list whose last item is the map, (V, C, h, w), once the block is left."""
        if self.stages is not None:
            with self.stages.catch() as stages:
                yield stages
            return
        found: list[Tensor] = []
        self.catching = True
        try:
            yield found
            assert self.caught is not None
            found.append(_as_map(self.caught))
        finally:
            # Else the activations of the last batch would stay in memory.
            self.catching, self.caught = False, None


def _as_map(sequence: Tensor) -> Tensor:
    """(V, p + s * s, C) -> (V, C, s, s): without the p tokens in front that stand for no cell."""
    tokens = sequence.shape[1]
    side = math.isqrt(tokens)
    cells = sequence[:, tokens - side * side :]
    return cells.transpose(1, 2).unflatten(2, (side, side))


def _last_sequence(backbone: nn.Module, head: nn.Module, img_size: int, otherwise: str) -> tuple[str, int]:
    """The name and the channels of the module that gives the last (V, T, C) before the classifier."""
    found: list[tuple[str, int]] = []
    head_began = False

    def begin(module: nn.Module, inputs: object) -> None:
        nonlocal head_began
        head_began = True

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if head_began or not isinstance(output, Tensor):
            return
        if output.ndim == 3 and output.shape[1] > 1:
            found.append((names[module], output.shape[2]))

    names = {module: name for name, module in backbone.named_modules() if name}
    hooks = [head.register_forward_pre_hook(begin)]
    hooks += [module.register_forward_hook(note) for module in names]
    training = [module for module in backbone.modules() if module.training]
    try:
        with torch.no_grad():
            device = next(backbone.parameters()).device
            backbone.eval()(torch.zeros(2, 3, img_size, img_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    if not found:
        raise UserError(f"--fusion attention: {otherwise.split(';')[0]}; give another --backbone, or --fusion mean_p")
    return found[-1]


class ViewAttention(nn.Module):
    """What the cells of all images of a study say of each class, as a correction of its pooled logits.

    One layer of ML-Decoder (Ridnik et al. 2023): a query a class looks at the cells of every image, each with a code of
    its place and of the kind of its view. The last layer begins at 0: an untrained one changes nothing.

    Queries are learned, fixed, or made of the names of the classes by a layer that learns. With `shared` all classes
    have one last layer, so that any name has a logit.
    """

    queries: Tensor
    text: Tensor  # (K, d), where queries are made of names

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        cells: int,
        queries: Queries = OWN,
    ) -> None:
        super().__init__()
        self.cells = cells
        self.project = nn.Linear(channels, width)
        self.kinds = nn.Embedding(len(KINDS), width)
        self.read_text: nn.Linear | None = None
        if queries.text is not None:
            # Part of the checkpoint: who predicts with it needs neither the file nor the language model.
            self.register_buffer("text", queries.text)
            self.read_text = nn.Linear(queries.text.shape[1], width)
        elif queries.fixed:
            self.register_buffer("queries", torch.randn(classes, width))
        else:
            self.queries = nn.Parameter(torch.randn(classes, width))
        self.attend = nn.MultiheadAttention(width, HEADS, DROPOUT, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(4 * width, width),
        )
        self.dropout = nn.Dropout(DROPOUT)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)])
        # As large as the codes of place would drown what the backbone sees.
        nn.init.normal_(self.kinds.weight, std=0.02)
        # Each class reads its own query, unless a new one must be read as well.
        readers = 1 if queries.shared else classes
        self.weight = nn.Parameter(torch.zeros(readers, width))
        self.bias = nn.Parameter(torch.zeros(readers))

    def tokens(self, maps: Tensor, kinds: Tensor) -> Tensor:
        """What is attended to: (V, C, h, w) and (V,) places in KINDS -> (V, T, D)."""
        if max(maps.shape[-2:]) > self.cells:
            maps = F.adaptive_avg_pool2d(maps, self.cells)
        height, width = maps.shape[-2:]
        features = maps.flatten(2).transpose(1, 2)  # (V, T, C)
        cells = self.project(features).relu()
        places = position_code(height, width, cells.shape[2]).to(cells)
        of_kind = self.kinds(kinds)[:, None]  # (V, 1, D)
        return cells + places + of_kind

    def forward(self, tokens: Tensor, place: Tensor) -> Tensor:
        """(V, T, D), (B, n) -> (B, K)"""
        of_images = tokens[place.clamp(min=0)]  # (B, n, T, D)
        cells = of_images.flatten(1, 2)
        # Where a study has no more images, the cells are another's and nobody may look.
        hidden = (place < 0).repeat_interleave(tokens.shape[1], dim=1)  # (B, n T)
        first_norm, second_norm, third_norm = self.norms
        asked = self.queries if self.read_text is None else self.read_text(self.text)  # (K, D)
        queries = first_norm(self.dropout(2 * asked))
        queries = queries.expand(len(place), -1, -1)  # (B, K, D)
        attended, _ = self.attend(queries, cells, cells, key_padding_mask=hidden, need_weights=False)
        found = second_norm(queries + self.dropout(attended))
        thought = self.feed_forward(found)
        found = third_norm(found + self.dropout(thought))
        return (found * self.weight).sum(-1) + self.bias


class Seen(NamedTuple):
    """What a study model sees in images, before it is fused."""

    logits: Tensor  # (V, K) fp32, of each image alone
    tokens: Tensor | None  # (V, T, D), where there is attention


class StudyModel(RoiModel):
    """A classifier of images, without a mask, and what makes one prediction of the images of a study.

    Args:
        fusion: one of FUSIONS.
        queries: of the attention; shared ones give the logits alone, for of a new name there is nothing to correct.
        width: of the attention, a multiple of 8.
        cells: a side of an image that are attended to, at most; larger maps are averaged.
    """

    def __init__(  # noqa: PLR0913  # what the flags of a study model say
        self,
        backbone: nn.Module,
        fusion: str,
        width: int,
        cells: int,
        channels_last: bool = True,
        *,
        img_size: int = 224,
        findings: Sequence[bool] | None = None,
        normalisation: Normalisation | None = None,
        queries: Queries = OWN,
    ) -> None:
        options = ModelOptions(normalisation=normalisation, channels_last=channels_last)
        super().__init__(backbone, "none", options, img_size=img_size, findings=findings)
        if fusion not in FUSIONS:
            raise ValueError(f"fusion {fusion!r}: one of {FUSIONS}")
        self.pooling = "lse" if fusion == "attention" else fusion
        self.last_map: LastMap | None = None
        self.shared = queries.shared
        if fusion == "attention":
            _, head = classifier_layer(backbone)
            self.last_map = LastMap(backbone, head, img_size)
            classes = len(self.findings)
            self.fusion = ViewAttention(self.last_map.channels, classes, width, cells, queries)

    def see(self, pixels: Tensor, kinds: Tensor) -> Seen:
        """(V, 1, H, W) uint8, (V,) places in KINDS"""
        x = self.normalise(pixels)
        if self.last_map is None:
            return Seen(self.backbone(x).float(), None)
        assert isinstance(self.fusion, ViewAttention)
        with self.last_map.catch() as maps:
            logits = self.backbone(x).float()
        return Seen(logits, self.fusion.tokens(maps[-1], kinds))

    def fuse(self, seen: Seen, place: Tensor) -> Tensor:
        """The logits of studies, fp32: (B, n) images of each, -1 where it has no more -> (B, K)."""
        if seen.tokens is None:
            return pool(seen.logits, place, self.pooling)
        assert self.fusion is not None
        attended = self.fusion(seen.tokens, place).float()
        # The backbone has no logit of a name that it was not trained on.
        if self.shared:
            return attended
        return pool(seen.logits, place, self.pooling) + attended

    def alone(self, seen: Seen) -> Tensor:
        """The logits of each image alone: (V, K)."""
        if not self.shared:
            return seen.logits
        each = torch.arange(len(seen.logits), device=seen.logits.device)
        return self.fuse(seen, each[:, None])

    def views_of(self, batch: Batch, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        """The full view of a batch of studies; a study has no other."""
        studies = batch.studies
        if studies is None:
            return super().views_of(batch, keep_ratio, seeds, full_only)
        device = batch.pixels.device
        seen = self.see(batch.pixels, studies.kinds.to(device))
        return Views(self.fuse(seen, studies.place.to(device)))


def leave_one_out(place: Tensor) -> tuple[Tensor, Tensor]:
    """Each study of several images without each of them.

    Returns:
        (R,) the image that is left out, and (R, n) as `place`: the images that stay.
    """
    left_out: list[int] = []
    staying: list[list[int]] = []
    for row in place.tolist():
        images = [image for image in row if image >= 0]
        if len(images) < 2:
            continue
        for image in images:
            others = [other for other in images if other != image]
            absent = [-1] * (len(row) - len(others))
            left_out.append(image)
            staying.append(others + absent)
    # Where all studies are of one image the shape must still be said.
    others_of_each = torch.tensor(staying, dtype=torch.int64).reshape(len(staying), place.shape[1])
    return torch.tensor(left_out, dtype=torch.int64), others_of_each


def build_study_model(  # noqa: PLR0913  # what the flags of a study model say
    name: str,
    classes: Sequence[str],
    fusion: str,
    weights: str,
    img_size: int,
    seed: int,
    channels_last: bool,
    *,
    width: int,
    cells: int,
    normalisation: Normalisation | None = None,
    new_head: bool = False,
    queries: Queries = OWN,
) -> StudyModel:
    """A StudyModel on the backbone `name`, new layers drawn from `seed`; a head in `weights` comes by class name.

    Args:
        new_head: none of it comes.
    """
    backbone = checked_backbone(name, len(classes), weights, img_size, seed, classes, new_head=new_head)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return StudyModel(
            backbone,
            fusion,
            width,
            cells,
            channels_last,
            img_size=img_size,
            findings=has_place(classes).tolist(),
            normalisation=normalisation,
            queries=queries,
        )


def study_model_from_args(
    flags: dict[str, Any],
    classes: Sequence[str],
    seed: int,
    channels_last: bool = True,
) -> StudyModel:
    """The study model that the training flags of a checkpoint describe, with weights drawn from `seed`."""
    text = None
    if flags.get("query_size"):
        # The vectors themselves are among the weights.
        text = torch.zeros(len(classes), flags["query_size"])
    queries = Queries(flags.get("queries") == RANDOM, text, flags.get("shared_queries", False))
    return build_study_model(
        flags["backbone"],
        classes,
        flags["fusion"],
        "none",
        flags["img_size"],
        seed,
        channels_last,
        width=flags["fusion_width"],
        cells=flags["fusion_cells"],
        normalisation=flags["normalisation"],
        queries=queries,
    )
