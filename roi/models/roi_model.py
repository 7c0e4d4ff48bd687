"""The model: a backbone, a mask net, and the three views of an image that go through the backbone.

Letters: B images, K classes, M maps (1, or one a class), H x W pixels, h x w cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roi.counter_rng import FILL_NOISE, normal
from roi.data.dataset import Batch
from roi.errors import UserError
from roi.files import reason
from roi.labels import has_place
from roi.models.backbones import IMAGENET, Normalisation, build_backbone, classifier_layer
from roi.models.mask_net import ConvMask, FeatureMask, Stages
from roi.models.masks import cutout_mask, exact_topk, kept_pixels, random_mask, standardised, straight_through, upsample
from roi.models.view_norms import ViewNorms

MASKS = ("conv", "features", "random", "cutout", "none")
LEARNED = ("conv", "features")
FILLS = ("mean", "blur", "noise")


class Views(NamedTuple):
    """What a forward gives; a part is None where the mask of the model does not make it."""

    logits_full: Tensor  # (B, K) on the whole image
    logits_crop: Tensor | None = None  # (B, K) on what the mask keeps
    logits_drop: Tensor | None = None  # (B, K) on what it drops
    soft_mask: Tensor | None = None  # (B, 1, H, W) in (0, 1), where the mask is learned
    binary_mask: Tensor | None = None  # (B, 1, H, W) 0/1, exactly k ones an image
    # (B, 1, H, W) logits of `soft_mask`, fp32: they rank the pixels where `soft_mask` is rounded to 1.
    score: Tensor | None = None
    maps: Tensor | None = None  # (B, K, h, w) the map of each class in cells, fp32


@dataclass(frozen=True)
class ModelOptions:
    """What a model may be told beyond its backbone, its classes and the kind of its mask."""

    per_class: bool = False  # a learned mask is the union of one map a finding
    # What stands where pixels are taken away. "mean": 0 after normalisation, the mean grey of the pixels that the
    # weights know; "blur": the image itself, averaged over a sixteenth of its side; "noise": normal noise with the
    # spread of ImageNet, drawn from the seeds of the call.
    fill: str = "mean"
    map_stride: int = 0  # pixels a cell of the maps of "features"; 0: chosen by `Stages`
    widened_stage: bool = False  # which last stage the maps are made of (`Stages`)
    normalisation: Normalisation | None = None  # that of the weights (normalisation_of); None: ImageNet's
    channels_last: bool = True


DEFAULTS = ModelOptions()


class RoiModel(nn.Module):
    """Three views of an image through one backbone: full, crop (what the mask keeps) and drop (the rest).

    Pixels come as grey bytes and are normalised here, on the device.

    Args:
        mask: "conv" (learned from the pixels), "features" (learned from the backbone's own features), "random" or
            "cutout" (placed by the seeds of the call), "none" (full view alone).
        findings: (K,) which classes have a place in the image (default: all): evidence for Normal has none.
    """

    mean: Tensor
    std: Tensor
    findings: Tensor  # (K,) bool

    def __init__(
        self,
        backbone: nn.Module,
        mask: str = "conv",
        options: ModelOptions = DEFAULTS,
        *,
        img_size: int = 224,
        findings: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"mask {mask!r}: one of {MASKS}")
        if options.fill not in FILLS:
            raise ValueError(f"fill {options.fill!r}: one of {FILLS}")
        self.backbone = backbone
        self.mask, self.fill = mask, options.fill
        self.per_class = options.per_class and mask in LEARNED
        self.frozen: list[nn.Module] = []  # batch norms that keep their statistics (roi.training.optim.learn_only)
        self.fusion: nn.Module | None = None  # of a study model (roi/models/fusion.py)
        last = classifier_layer(backbone)[1]
        classes = len(last.weight)  # type: ignore[arg-type]
        maps = classes if self.per_class else 1
        self.stages: Stages | None = None
        self.mask_net: FeatureMask | ConvMask | None = None
        if mask == "features":
            self.stages = Stages(backbone, last, img_size, options.map_stride, options.widened_stage)
            self.mask_net = FeatureMask(self.stages.channels, maps)
        elif mask == "conv":
            self.mask_net = ConvMask(maps)
        self.view_norms = ViewNorms(backbone)
        # Not persistent: a checkpoint says them by its flags and classes.
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in options.normalisation or IMAGENET)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        finding_flags = [True] * classes if findings is None else list(findings)
        self.register_buffer("findings", torch.tensor(finding_flags), persistent=False)
        self.memory_format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)

    def train(self, mode: bool = True) -> "RoiModel":
        super().train(mode)
        # What does not learn may not take on the statistics of the new images either.
        for norm in self.frozen:
            norm.eval()
        return self

    def normalise(self, pixels: Tensor) -> Tensor:
        """Grey bytes as the weights know them: (B, 1, H, W) uint8, or float in 0..255 -> (B, 3, H, W) float."""
        x = (pixels.float() / 255 - self.mean) / self.std
        return x.contiguous(memory_format=self.memory_format)

    def apply_mask(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What a mask keeps of an image, x m + fill (1 - m).

        Args:
            x: (B, 3, H, W) normalised.
            m: (B, 1, H, W) in 0..1.
            seeds: (B,), for a fill of noise.
        """
        if self.fill == "mean":
            return x * m
        return torch.lerp(filling(x, self.fill, seeds), x, m)

    def crop(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Logits of the crop view, what a mask keeps: (B, 3, H, W), (B, 1, H, W) in 0..1 -> (B, K) fp32."""
        with self.view_norms.of("crop"):
            return self.backbone(self.apply_mask(x, m, seeds)).float()

    def drop(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Logits of the drop view, what a mask leaves over: (B, 3, H, W), (B, 1, H, W) in 0..1 -> (B, K) fp32."""
        with self.view_norms.of("drop"):
            masked = self.apply_mask(x, 1 - m, seeds)
            return self.backbone(masked).float()

    def logits_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of a learned mask: (B, 3, H, W) normalised -> (B, K), (B, M, h, w), both fp32."""
        assert self.mask_net is not None
        if self.stages is None:
            return self.backbone(x).float(), self.mask_net(x).float()
        with self.stages.catch() as stages:
            logits = self.backbone(x).float()
        # No gradient goes from the maps into the backbone: what it learns comes from its own logits.
        maps = self.mask_net([stage.detach() for stage in stages])
        return logits, maps.float()

    def read_features(self, pooled: Tensor, stages: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """`logits_and_maps` from what a frozen backbone has made of the images.

        Args:
            pooled: (B, D) the input of the classifier layer.
            stages: (B, D_i, h_i, w_i) each.

        Returns:
            Logits (B, K), and maps (B, M, h, w) or None without a learned mask, both fp32.
        """
        logits = classifier_layer(self.backbone)[1](pooled).float()
        if self.mask_net is None:
            return logits, None
        return logits, self.mask_net(stages).float()

    def combine_maps(self, maps: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """The score of one mask for all classes at the size of the image: (B, M, h, w), (B, K) -> (B, 1, H, W).

        A map stands for what the full view finds present: log sum over findings of p_k exp(z_k), each map z_k with
        mean 0 and spread 1.
        """
        if maps.shape[1] > 1:
            log_present = F.logsigmoid(logits.detach())  # (B, K)
            log_present = log_present.masked_fill(~self.findings, -torch.inf)
            weighted = standardised(maps) + log_present[:, :, None, None]
            maps = weighted.logsumexp(1, keepdim=True)
        return upsample(maps, size)

    def masks(self, x: Tensor, keep_ratio: float, seeds: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The score (None unless learned) and the binary mask, both (B, 1, H, W), of (B, 3, H, W) normalised."""
        _, _, score = self.score(x)
        return score, self.binary_mask(x, score, keep_ratio, seeds)

    def score(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Logits (B, K), maps (B, M, h, w) and score (B, 1, H, W) of (B, 3, H, W) normalised.

        Each is None where the mask does not need it.
        """
        size = (x.shape[-2], x.shape[-1])
        if self.mask == "conv" and not self.per_class:
            # The mask needs nothing of the backbone: the full view can go through it together with the two others.
            assert self.mask_net is not None
            maps = self.mask_net(x).float()
            return None, maps, maps
        if self.mask in LEARNED:
            logits, maps = self.logits_and_maps(x)
            return logits, maps, self.combine_maps(maps, logits, size)
        return None, None, None

    def binary_mask(self, x: Tensor, score: Tensor | None, keep_ratio: float, seeds: Tensor | None) -> Tensor:
        """(B, 1, H, W) 0/1 with exactly k ones an image: the highest scores, or a place that the seeds draw."""
        height, width = x.shape[-2:]
        k = kept_pixels(height, width, keep_ratio)
        if score is not None:
            return exact_topk(score, k)
        if seeds is None:
            raise ValueError(f"a {self.mask} mask needs one seed an image")
        place = random_mask if self.mask == "random" else cutout_mask
        return place(seeds.to(x.device), (height, width), k)

    def forward(self, pixels: Tensor, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        """The views of (B, 1, H, W) uint8 images; logits are fp32 whatever the autocast type."""
        x = self.normalise(pixels)
        if self.mask == "none" or full_only:
            return Views(self.backbone(x).float())
        logits_full, maps, score = self.score(x)
        hard = self.binary_mask(x, score, keep_ratio, seeds)
        soft, m = None, hard
        if score is not None:
            soft = score.sigmoid()
            m = straight_through(hard, soft)
        if logits_full is not None and not self.training and any(self.view_norms.learned.values()):
            # Crop and drop view have statistics of their own, so that they cannot share a forward.
            logits_crop = self.crop(x, m, seeds)
            logits_drop = self.drop(x, m, seeds)
        else:
            crop = self.apply_mask(x, m, seeds)
            drop = self.apply_mask(x, 1 - m, seeds)
            if logits_full is None:
                # One forward of 3B is faster than three of B.
                logits = self.backbone(torch.cat([x, crop, drop]))
                logits_full, logits_crop, logits_drop = logits.float().chunk(3)
            else:
                logits = self.backbone(torch.cat([crop, drop]))
                logits_crop, logits_drop = logits.float().chunk(2)
        return Views(
            logits_full,
            logits_crop,
            logits_drop,
            soft_mask=soft,
            binary_mask=hard,
            score=score,
            maps=maps if self.per_class else None,
        )

    def views_of(self, batch: Batch, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        """`forward` for a batch whose pixels are on the device of the model."""
        return self(batch.pixels, keep_ratio, seeds, full_only)

    def last_layers(self) -> dict[str, nn.Module]:
        """The layers that GradNorm measures at: "head", of the classifier, and "mask", if one is learned."""
        layers = {"head": classifier_layer(self.backbone)[1]}
        if self.mask_net is not None:
            layers["mask"] = self.mask_net.layers[-1]
        return layers


def filling(x: Tensor, fill: str, seeds: Tensor | None) -> Tensor:
    """What fills the holes of an image (B, 3, H, W), where `fill` is "blur" or "noise"."""
    height, width = x.shape[-2:]
    if fill == "blur":
        coarse = F.adaptive_avg_pool2d(x, 16)
        return F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    if seeds is None:
        raise ValueError("noise that fills holes needs one seed an image")
    # Not the numbers of the blobs: noise may not depend on where a random mask lies.
    grey = normal(seeds.to(x.device), height * width, FILL_NOISE)
    return grey.view(len(x), 1, height, width).expand_as(x)


def build_model(  # noqa: PLR0913  # what the flags of a model say
    name: str,
    classes: int | Sequence[str],
    mask: str,
    weights: str = "imagenet",
    img_size: int = 224,
    seed: int = 0,
    *,
    options: ModelOptions = DEFAULTS,
    zero_head: bool = False,
    new_head: bool = False,
) -> RoiModel:
    """A RoiModel on the backbone `name`, all new layers drawn from `seed` (build_backbone, RoiModel).

    Args:
        classes: their names, or how many. Names say which are findings, and which rows of a file of weights fit.
    """
    if isinstance(classes, int):
        count, names, findings = classes, None, None
    else:
        count, names, findings = len(classes), classes, has_place(classes).tolist()
    backbone = checked_backbone(name, count, weights, img_size, seed, names, zero_head, new_head)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return RoiModel(backbone, mask, options, img_size=img_size, findings=findings)


def checked_backbone(
    name: str,
    classes: int,
    weights: str,
    img_size: int,
    seed: int,
    class_names: Sequence[str] | None = None,
    zero_head: bool = False,
    new_head: bool = False,
) -> nn.Module:
    """build_backbone, in eval mode; UserError where its layers cannot take images of this size."""
    try:
        backbone = build_backbone(name, classes, weights, img_size, seed, class_names, zero_head, new_head)
        # Said now, not in the first epoch.
        with torch.no_grad():
            backbone.eval()(torch.zeros(2, 3, img_size, img_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"--backbone {name} cannot take --img_size {img_size} ({reason(error)})") from error
    return backbone


def reinitialised(flags: dict[str, Any], classes: Sequence[str], seed: int, channels_last: bool = True) -> RoiModel:
    """The model of a checkpoint with new random weights, in eval mode: what its maps show without training.

    Args:
        flags: the training flags of the checkpoint.
        seed: of the draw, which is another one than that of the run even where the two seeds are equal.
    """
    sequence = np.random.SeedSequence([seed, flags["seed"], 1])
    new_seed = int(sequence.generate_state(1)[0])
    return model_from_args(flags, classes, new_seed, channels_last).eval()


def model_from_args(flags: dict[str, Any], classes: Sequence[str], seed: int, channels_last: bool = True) -> RoiModel:
    """The model that the training flags of a checkpoint describe, with weights drawn from `seed`."""
    options = ModelOptions(
        per_class=flags["mask_per_class"],
        fill=flags["fill"],
        # Before these were kept: the finest stage, the widened one too, ImageNet's mean and spread.
        map_stride=flags.get("map_stride", 8),
        widened_stage=flags.get("widened_stage", True),
        normalisation=flags.get("normalisation"),
        channels_last=channels_last,
    )
    return build_model(
        flags["backbone"],
        classes,
        flags["mask"],
        "none",
        flags["img_size"],
        seed,
        options=options,
    )
