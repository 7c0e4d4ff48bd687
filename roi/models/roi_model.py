"""Backbone + mask net. `build_backbone` takes a name, torchvision's first, timm's otherwise.

Letters: B images, K classes, H x W pixels. Pixels come as uint8 grey and are normalised here, on the device.
"""

import difflib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from roi.counter_rng import normal
from roi.errors import UserError
from roi.files import reason
from roi.labels import is_finding
from roi.models.mask_net import ConvMask, FeatureMask, Stages
from roi.models.masks import cutout_mask, exact_topk, kept_pixels, random_mask, standardised, straight_through, upsample
from roi.models.view_norms import ViewNorms
from roi.models.weights import load_weights, read_tensors, read_weights

Normalisation = tuple[
    tuple[float, float, float], tuple[float, float, float]
]  # mean and standard deviation of red, green, blue in 0..1
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MASKS = ("conv", "features", "random", "cutout", "none")
LEARNED = ("conv", "features")
FILLS = ("mean", "blur", "noise")


class Views(NamedTuple):
    full: Tensor  # (B, K) logits on the whole image
    crop: Tensor | None  # (B, K) on what the mask keeps
    drop: Tensor | None  # (B, K) on what it drops
    soft: Tensor | None  # (B, 1, H, W) in (0, 1), where the mask is learned
    hard: Tensor | None  # (B, 1, H, W) 0/1, exactly k ones an image
    score: Tensor | None = (
        None  # (B, 1, H, W) logits of `soft`, fp32; they rank the pixels where `soft` is rounded to 1
    )
    maps: Tensor | None = None  # (B, K, h, w) the map of each class in cells, fp32, where there is one


class RoiModel(nn.Module):
    """Three views of an image, full, crop = what the mask keeps and drop = the rest, through one backbone.

    mask: "conv" (learned from the pixels), "features" (learned from the backbone's own features), "random" or "cutout" (placed
    by the seeds of the call), "none" (full view alone). per_class: a learned mask is the union of one map a finding; `findings`
    (K,) bool says which classes are findings (default: all): evidence for Normal has no place.
    fill: what stands where pixels are taken away. "mean": 0 after normalisation, the mean grey of the pixels that the weights know; "blur": the image
    itself, averaged over a sixteenth of its side; "noise": normal noise with the spread of ImageNet, drawn from the seeds of the call.
    map_stride: pixels a cell of the maps of "features"; 0: chosen by `Stages`, as is what `widened_stage` means.
    normalisation: that of the weights (normalisation_of).
    """

    mean: Tensor
    std: Tensor
    findings: Tensor  # (K,) bool

    def __init__(
        self,
        backbone: nn.Module,
        mask: str = "conv",
        channels_last: bool = True,
        *,
        img_size: int = 224,
        per_class: bool = False,
        fill: str = "mean",
        findings: Sequence[bool] | None = None,
        map_stride: int = 0,
        widened_stage: bool = False,
        normalisation: Normalisation | None = None,
    ) -> None:
        super().__init__()
        if mask not in MASKS or fill not in FILLS:
            raise ValueError(
                f"mask {mask!r}: one of {MASKS}" if mask not in MASKS else f"fill {fill!r}: one of {FILLS}"
            )
        self.backbone = backbone
        self.mask, self.fill, self.per_class = mask, fill, per_class and mask in LEARNED
        self.frozen: list[nn.Module] = []  # batch norms that keep their statistics (roi.training.optim.learn_only)
        last = classifier_layer(backbone)[1]
        classes = len(last.weight)  # type: ignore[arg-type]
        maps = classes if self.per_class else 1
        self.stages = Stages(backbone, last, img_size, map_stride, widened_stage) if mask == "features" else None
        self.mask_net = (
            FeatureMask(self.stages.channels, maps) if self.stages else ConvMask(maps) if mask == "conv" else None
        )
        self.view_norms = ViewNorms(backbone)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        mean, std = normalisation or IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "findings", torch.tensor([True] * classes if findings is None else list(findings)), persistent=False
        )
        self.to(memory_format=self.memory_format)

    def train(self, mode: bool = True) -> "RoiModel":
        super().train(mode)
        for norm in self.frozen:
            norm.eval()
        return self

    def normalise(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) uint8, or float in 0..255 -> (B, 3, H, W) float, with the mean and spread that the weights were trained with."""
        return ((pixels.float() / 255 - self.mean) / self.std).contiguous(memory_format=self.memory_format)

    def apply_mask(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What a mask keeps: x m + fill (1 - m). (B, 3, H, W) normalised, (B, 1, H, W) in 0..1 -> (B, 3, H, W); only noise needs `seeds`."""
        return x * m if self.fill == "mean" else torch.lerp(filling(x, self.fill, seeds), x, m)

    def crop(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Logits of the crop view, what a mask keeps: (B, 3, H, W) normalised, (B, 1, H, W) in 0..1 -> (B, K) fp32."""
        with self.view_norms.of("crop"):
            return self.backbone(self.apply_mask(x, m, seeds)).float()

    def drop(self, x: Tensor, m: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Logits of the drop view, what a mask leaves over: (B, 3, H, W) normalised, (B, 1, H, W) in 0..1 -> (B, K) fp32."""
        with self.view_norms.of("drop"):
            return self.backbone(self.apply_mask(x, 1 - m, seeds)).float()

    def logits_and_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps of a learned mask: (B, 3, H, W) normalised -> (B, K), (B, M, h, w), both fp32. No gradient goes from the
        maps into the backbone: what it learns comes from its own logits."""
        assert self.mask_net is not None
        if self.stages is None:
            return self.backbone(x).float(), self.mask_net(x).float()
        with self.stages.catch() as stages:
            logits = self.backbone(x).float()
        return logits, self.mask_net([stage.detach() for stage in stages]).float()

    def read_features(self, pooled: Tensor, stages: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """`read`, from what a frozen backbone has made of the images: (B, D) the input of the classifier layer, (B, D_i, h_i, w_i)
        each stage -> logits (B, K), maps (B, M, h, w) or None without a learned mask, both fp32."""
        logits = classifier_layer(self.backbone)[1](pooled).float()
        return logits, None if self.mask_net is None else self.mask_net(stages).float()

    def combine_maps(self, maps: Tensor, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """The score of one mask for all classes at the size of the image: (B, M, h, w), (B, K) -> (B, 1, H, W).

        A map stands for what the full view finds present: log sum over findings of p_k exp(z_k), each z_k with mean 0 and spread 1.
        """
        if maps.shape[1] > 1:
            weight = F.logsigmoid(logits.detach()).masked_fill(~self.findings, -torch.inf)  # (B, K)
            maps = (standardised(maps) + weight[:, :, None, None]).logsumexp(1, keepdim=True)
        return upsample(maps, size)

    def masks(self, x: Tensor, keep_ratio: float, seeds: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """(B, 3, H, W) normalised -> score (None unless learned), hard mask, both (B, 1, H, W)."""
        score = self.score(x)[2] if self.mask in LEARNED else None
        return score, self.binary_mask(x, score, keep_ratio, seeds)

    def score(self, x: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(B, 3, H, W) -> logits (B, K), maps (B, M, h, w), score (B, 1, H, W), each None where the mask does not need it."""
        size = (x.shape[-2], x.shape[-1])
        if self.mask == "conv" and not self.per_class:  # three views in one forward, as the mask needs no features
            assert self.mask_net is not None
            maps = self.mask_net(x).float()
            return None, maps, maps
        if self.mask in LEARNED:
            logits, maps = self.logits_and_maps(x)
            return logits, maps, self.combine_maps(maps, logits, size)
        return None, None, None

    def binary_mask(self, x: Tensor, score: Tensor | None, keep_ratio: float, seeds: Tensor | None) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        k = kept_pixels(*size, keep_ratio)
        if score is not None:
            return exact_topk(score, k)
        if seeds is None:
            raise ValueError(f"a {self.mask} mask needs one seed an image")
        place = random_mask if self.mask == "random" else cutout_mask
        return place(seeds.to(x.device), size, k)

    def forward(self, pixels: Tensor, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        """(B, 1, H, W) uint8 -> Views; logits in fp32 whatever the autocast type. Where the mask needs no features, the three
        views go through the backbone in one forward of 3B."""
        x = self.normalise(pixels)
        if self.mask == "none" or full_only:
            return Views(self.backbone(x).float(), None, None, None, None)
        full, maps, score = self.score(x)
        hard = self.binary_mask(x, score, keep_ratio, seeds)
        soft = None if score is None else score.sigmoid()
        m = hard if soft is None else straight_through(hard, soft)
        if full is not None and any(self.view_norms.learned.values()) and not self.training:
            crop, drop = self.crop(x, m, seeds), self.drop(x, m, seeds)
            return Views(full, crop, drop, soft, hard, score, maps if self.per_class else None)
        parts = [self.apply_mask(x, m, seeds), self.apply_mask(x, 1 - m, seeds)]
        logits = self.backbone(torch.cat(parts if full is not None else [x, *parts])).float()
        full, crop, drop = (full, *logits.chunk(2)) if full is not None else logits.chunk(3)
        return Views(full, crop, drop, soft, hard, score, maps if self.per_class else None)

    def last_layers(self) -> dict[str, nn.Module]:
        """The last layers that the terms of a loss are made of, for GradNorm: "head" of the classifier and, if it is learned, of the "mask"."""
        mask = {} if self.mask_net is None else {"mask": self.mask_net.layers[-1]}
        return {"head": classifier_layer(self.backbone)[1], **mask}


def filling(x: Tensor, fill: str, seeds: Tensor | None) -> Tensor:
    """What fills holes, `fill` "blur" or "noise" -> (B, 3, H, W)."""
    if fill == "blur":
        size = (x.shape[-2], x.shape[-1])
        return F.interpolate(F.adaptive_avg_pool2d(x, 16), size=size, mode="bilinear", align_corners=False)
    if seeds is None:
        raise ValueError("noise that fills holes needs one seed an image")
    grey = normal(seeds.to(x.device), x.shape[-2] * x.shape[-1], stream=2)  # not the numbers of the blobs
    return grey.view(len(x), 1, *x.shape[-2:]).expand_as(x)


def classifier_layer(backbone: nn.Module) -> tuple[str, nn.Module]:
    """-> (name, module) of the classifier: timm's own answer, or the last linear or convolutional layer."""
    layers = [(name, m) for name, m in backbone.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    own = backbone.get_classifier() if hasattr(backbone, "get_classifier") else None  # type: ignore[operator]
    return next(((name, m) for name, m in layers if m is own), layers[-1])


def build_backbone(
    name: str,
    classes: int,
    weights: str = "imagenet",
    img_size: int = 224,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    zero_head: bool = False,
) -> nn.Module:
    """A classifier of `classes` raw logits: (B, 3, H, W) -> (B, K).

    weights: "imagenet" (downloaded), "none", or a file (roi/models/weights.py), whose last layer comes class by class where
    `class_names` says whose rows ours are. `seed` draws the new layers; the global generator is left as it was (a
    download of weights builds a second model, which draws from it). `zero_head`: a new last layer is 0, where it learns
    alone: what some models draw for it is as large as what a few epochs teach it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        backbone = (
            _torchvision(name, classes, img_size) if name in torchvision_names() else _timm(name, classes, img_size)
        )
    if zero_head:
        for parameter in classifier_layer(backbone)[1].parameters():
            nn.init.zeros_(parameter)
    if weights == "imagenet":
        load_weights(
            backbone, classifier_layer(backbone)[0], imagenet_weights(name, img_size), f"the ImageNet weights of {name}"
        )
    elif weights != "none":
        state, its_classes = read_weights(Path(weights))
        load_weights(backbone, classifier_layer(backbone)[0], state, weights, class_names, its_classes)
    return backbone


def torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(name: str, classes: int, img_size: int) -> nn.Module:
    special: dict[str, dict] = {
        "inception_v3": {"aux_logits": False, "init_weights": True},
        "googlenet": {"aux_logits": False, "init_weights": True},
    }
    extra = special.get(
        name,
        {"image_size": img_size}
        if name.startswith("vit_")
        else {"input_size": (img_size, img_size)}
        if name == "maxvit_t"
        else {},
    )
    backbone = torchvision.models.get_model(name, weights=None, num_classes=classes, **extra)
    if name.startswith("squeezenet"):
        backbone.classifier[2] = nn.Identity()  # a ReLU: multi-label logits must go below 0
    return backbone


def _timm(name: str, classes: int, img_size: int) -> nn.Module:
    import timm

    base, _, tag = name.partition(".")
    if base not in timm.list_models():
        near = difflib.get_close_matches(name, {*torchvision_names(), *timm.list_models()}, n=4)
        raise UserError(
            f"--backbone {name!r}: neither a torchvision nor a timm classifier"
            + (f"; near it: {', '.join(near)}" if near else "")
        )
    tags = [full.partition(".")[2] for full in timm.list_models(f"{base}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UserError(
            f"--backbone {name!r}: weights of that name are not there for {base}"
            + (f"; there are {', '.join(tags)}" if tags else "")
        )
    try:
        return timm.create_model(name, pretrained=False, num_classes=classes, **_side(name, img_size))
    except RuntimeError as error:
        raise UserError(f"--backbone {name!r}: {error}") from error


def _side(name: str, img_size: int) -> dict[str, Any]:
    """What a timm model whose layers depend on the side of its input must be told (ViT, Swin)."""
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {"img_size": img_size} if config is not None and config.fixed_input_size else {}


def imagenet_weights(name: str, img_size: int = 224) -> dict[str, Tensor]:
    """Download (or take from the cache) the published weights; timm fits positions to the side of the input. UserError with the way round when that fails."""
    try:
        if name in torchvision_names():
            return torchvision.models.get_model(
                name, weights="DEFAULT"
            ).state_dict()  # it knows the old spellings of keys
        import timm

        return timm.create_model(name, pretrained=True, **_side(name, img_size)).state_dict()
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"cannot get the ImageNet weights of {name} ({reason(error)}); on a machine without network download them elsewhere "
            "and give --weights FILE, or train from scratch with --weights none"
        ) from error


def build_model(
    name: str,
    classes: int,
    mask: str,
    weights: str = "imagenet",
    img_size: int = 224,
    seed: int = 0,
    channels_last: bool = True,
    *,
    per_class: bool = False,
    fill: str = "mean",
    findings: Sequence[bool] | None = None,
    class_names: Sequence[str] | None = None,
    map_stride: int = 0,
    widened_stage: bool = False,
    normalisation: Normalisation | None = None,
    zero_head: bool = False,
) -> RoiModel:
    """Backbone and mask net, all new layers drawn from `seed`."""
    try:
        backbone = build_backbone(name, classes, weights, img_size, seed, class_names, zero_head)
        with torch.no_grad():
            backbone.eval()(torch.zeros(2, 3, img_size, img_size))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"--backbone {name} cannot take --img_size {img_size} ({reason(error)})") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return RoiModel(
            backbone,
            mask,
            channels_last,
            img_size=img_size,
            per_class=per_class,
            fill=fill,
            findings=findings,
            map_stride=map_stride,
            widened_stage=widened_stage,
            normalisation=normalisation,
        )


def normalisation_of(name: str, weights: str) -> Normalisation:
    """The mean and standard deviation with which the pixels of these weights were trained.

    timm says so for each of its models (.5 and .5 for EfficientNet-Lite, Inception, BEiT and many ViT); torchvision's are ImageNet's but
    for Inception and GoogLeNet. A checkpoint of this project (`weights` is its path) has its own. From scratch ("none"): ImageNet's.
    """
    if weights == "none":
        return IMAGENET
    if weights != "imagenet" and Path(weights).is_file():
        with suppress(UserError):  # build_backbone says what is wrong with the file
            state = read_tensors(Path(weights))
            if isinstance(state, dict) and "mask_net" in state:
                return state["args"].get("normalisation", IMAGENET)
    if name in torchvision_names():
        return HALVES if name in ("inception_v3", "googlenet") else IMAGENET
    import timm

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return IMAGENET
    (r, g, b), (dr, dg, db) = config.mean, config.std
    return (r, g, b), (dr, dg, db)


def reinitialised(args: dict[str, Any], classes: Sequence[str], seed: int, channels_last: bool = True) -> RoiModel:
    """The model of a checkpoint (`args`: its training flags) with new random weights, in eval mode: what its maps show without training.

    The draw is another one than that of the run, which began from build_model(..., seed=args["seed"]).
    """
    other = int(np.random.SeedSequence([seed, args["seed"], 1]).generate_state(1)[0])
    return model_from_args(args, classes, other, channels_last).eval()


def model_from_args(args: dict[str, Any], classes: Sequence[str], seed: int, channels_last: bool = True) -> RoiModel:
    """The model that the training flags of a checkpoint describe, with weights drawn from `seed`."""
    return build_model(
        args["backbone"],
        len(classes),
        args["mask"],
        "none",
        args["img_size"],
        seed,
        channels_last,
        per_class=args["mask_per_class"],
        fill=args["fill"],
        findings=is_finding(classes).tolist(),
        # Before these were kept: the finest stage, the widened one too, ImageNet's mean and spread.
        map_stride=args.get("map_stride", 8),
        widened_stage=args.get("widened_stage", True),
        normalisation=args.get("normalisation"),
    )
