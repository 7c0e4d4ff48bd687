"""Modes and recipes of train_roi_baselines.py: which terms an ablation leaves out, which flags a published system had.

No torch here: --help is quick.
"""

import json
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from roi.cli import Parser
from roi.errors import UserError
from roi.labels import LABELS


class Mode(NamedTuple):
    """What --mode trains."""

    mask: str  # of roi/models/roi_model.py MASKS; empty: that of --mask_net
    without: tuple[str, ...]  # terms of weight 0
    objective: str  # the only one that has it; empty: any


MODES = {
    "full": Mode("", (), ""),
    "standard": Mode("none", ("consist", "drop", "sparse", "tv"), "consistency"),
    "random_mask": Mode("random", ("sparse", "tv"), "consistency"),
    "random_cutout": Mode("cutout", ("sparse", "tv"), "consistency"),
    "no_consist": Mode("", ("consist",), ""),
    "no_drop": Mode("", ("drop",), ""),
    "no_locate": Mode("", ("locate",), "evidence"),
    "no_sparse": Mode("", ("sparse",), "consistency"),
    "no_tv": Mode("", ("tv",), "consistency"),
}

# Values as published. What a system did wrong (a flip, test images in training) is not among them.
RECIPES: dict[str, dict[str, Any]] = {
    "timm_focal": {
        "backbone": "convnext_base.fb_in22k_ft_in1k",
        "img_size": 384,
        "loss": "focal",
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "lr": 1e-4,
        "weight_decay": 0.01,
        "batch_size": 64,
        "epochs": 30,
        "schedule": "plateau",
        "patience": 15,
        "max_train_samples": 80000,
        "max_test_samples": 20000,
    },
    "seven_sets": {
        "backbone": "convnext_large.fb_in22k",
        "loss": "focal",
        "focal_alpha": -1.0,
        "focal_gamma": 2.0,
        "lr": 5e-5,
        "weight_decay": 0.05,
        "batch_size": 32,
        "epochs": 30,
        "schedule": "plateau",
        "augment": "seven_sets",
        "val_decisions": True,
    },
    "staged_resnet50": {
        "backbone": "resnet50",
        "classes": ",".join([*LABELS, "No Finding"]),
        "loss": "focal",
        "focal_alpha": 0.25,
        "focal_gamma": 2.0,
        "lr": 1e-4,
        "batch_size": 32,
        "epochs": 4,
    },
    # Not the weighted asymmetric loss of the published system: that one costs calibration (docs/recipes.md).
    "cxrlt": {
        "loss": "bce",
        "sampler": "repeat_factor",
        "repeat_threshold": 0.05,
    },
    # The second stage of decoupling: every class is rarer than all images, so that the sampler evens out all of them.
    "crt": {
        "loss": "bce",
        "freeze_backbone": True,
        "new_head": True,
        "sampler": "repeat_factor",
        "repeat_threshold": 1.0,
    },
}
# Stages of staged_resnet50.
STAGES = {1: {"train_parts": "layer2,layer3,layer4,fc"}, 2: {"train_parts": ""}}


def add_recipe_flags(parser: Parser) -> None:
    """What is trained: a mode, or a recipe and its stage."""
    parser.add_argument(
        "--mode", choices=list(MODES), help="what to train; see above (default with --recipe: standard; without: none)"
    )
    parser.add_argument(
        "--recipe", choices=list(RECIPES), help="flags of a published system; see above (default: none)"
    )
    parser.add_argument("--stage", type=int, metavar="1|2", help="staged_resnet50: which part of it (default: 1)")
    parser.add_argument(
        "--print_config", action="store_true", help="print all flags as JSON, with where each comes from, and end"
    )


def print_config(flags: Mapping[str, Any], recipe: Container[str], given: Container[str]) -> None:
    """All flags as JSON, a line each, with where each comes from.

    Args:
        recipe: names of the flags that the recipe stands for
        given: names of those on the command line, which go before the recipe
    """
    lines = []
    for name, value in flags.items():
        origin = "default"
        if name in given:
            origin = "command line"
        elif name in recipe:
            origin = "recipe"
        if name != "print_config":
            lines.append(f" {json.dumps(name)}: {json.dumps({'value': value, 'from': origin})}")
    print("{\n" + ",\n".join(lines) + "\n}")


def recipe_flags(recipe: str | None, stage: int | None) -> dict[str, Any]:
    """The flags that --recipe and --stage stand for.

    Raises:
        UserError: there is no such stage
    """
    if not recipe:
        if stage is not None:
            raise UserError(
                f"--stage {stage} belongs to --recipe staged_resnet50; without it --train_parts says what learns"
            )
        return {}
    flags = {"mode": "standard", **RECIPES[recipe]}
    if recipe != "staged_resnet50":
        if stage is not None:
            raise UserError(f"--stage {stage}: {recipe} has no stages, only staged_resnet50 has")
        return flags
    stage = 1 if stage is None else stage
    if stage not in STAGES:
        raise UserError(
            f"--stage {stage}: there is stage 1 ({STAGES[1]['train_parts']} learn) and stage 2 (everything, from "
            "--resume CKPT of stage 1)"
        )
    return {**flags, "stage": stage, **STAGES[stage]}
