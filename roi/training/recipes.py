"""Where flags of the train scripts come from beside the command line: modes, recipes of published systems, files.

    words = words_of(parser, argv)                      # the command line, before it what the file of --config says
    args = parser.parse_args(words)
    print_and_end(parser, vars(args), argv, words)      # where --print_config is given

No torch here: --help is quick.
"""

import argparse
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple

from roi.cli import Parser, number
from roi.config_file import PRINT_CONFIG, add_config_flags, flags_of, origins, print_config, with_file
from roi.errors import UserError
from roi.labels import LABELS
from roi.training.flags import add_training_flags
from roi.training.multiview.flags import add_study_training_flags


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
    # The published loss with sampling, which it lacked: the highest mean average precision of those that were measured
    # side by side (benchmarks/longtail_study.py). It costs calibration, which Platt scaling mends.
    "cxrlt": {
        "loss": "weighted_asymmetric",
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

# How published commands spell a flag, where it is spelled otherwise here (docs/recipes.md); taken with --recipe alone,
# for a word may mean one thing in one system and another in the next.
SPELLINGS = {
    "timm_focal": {"--num_workers": "--workers", "--num_epochs": "--epochs", "--learning_rate": "--lr"},
    "seven_sets": {"--metadata": "--train_csv"},
    "staged_resnet50": {
        "--bs": "--batch_size",
        "--model": "--backbone",
        "--num-workers": "--workers",
        "--num_workers": "--workers",
        "-t": "--test",
    },
    "cxrlt": {"--image_size": "--img_size", "--max_epochs": "--epochs", "--model_name": "--backbone"},
}
# The flag of the loss, and how its values are spelled.
LOSS_SPELLINGS = {
    "staged_resnet50": ("--loss_func", {"BCE": "bce", "FocalLoss": "focal"}),
    "cxrlt": ("--loss_type", {"asl": "weighted_asymmetric", "ral": "ral"}),
}
CKPT = "--ckpt"  # of staged_resnet50: what to score with --test, what to go on from without


def add_recipe_flags(parser: Parser) -> None:
    """What is trained: a mode, or a recipe and its stage."""
    parser.add_argument(
        "--mode",
        choices=list(MODES),
        help="what to train; see above (default with --recipe: standard; without: none)",
    )
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="flags of a published system; see above (default: none)",
    )
    parser.add_argument("--stage", type=int, metavar="1|2", help="staged_resnet50: which part of it (default: 1)")


def add_test_flags(parser: Parser) -> None:
    """What is scored instead of training."""
    test = parser.add_argument_group("instead of training")
    test.add_argument(
        "--test",
        action="store_true",
        help="score --checkpoint on --test_csv, by infer_roi_consistency.py and evaluate.py",
    )
    test.add_argument("--checkpoint", metavar="PT", help="what to score")
    test.add_argument("--test_csv", metavar="CSV", help="table to score it on")
    test.add_argument(
        "--test_out",
        metavar="DIR",
        help="folder for preds.json and metrics.json (default: <stem of the checkpoint>_test beside it)",
    )
    test.add_argument(
        "--max_test_samples",
        type=number(int, 1),
        metavar="N",
        help="at most N of its images, by patient, drawn with --seed (default: all)",
    )


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


# As published


def published_words(argv: Sequence[str]) -> list[str]:
    """A command line without the bare --resume of `--resume --ckpt FILE`; here the file itself is its value."""
    if CKPT not in {word.partition("=")[0] for word in argv}:
        return list(argv)
    words = []
    for word, following in zip(argv, [*argv[1:], "-"], strict=True):
        is_bare = word in ("-r", "--resume") and following.startswith("-")
        if not is_bare:
            words.append(word)
    return words


def add_spellings(parser: Parser, words: Sequence[str]) -> None:
    """The spellings of the system whose --recipe is among the words."""
    # Read alone first: which words are flags depends on it.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", default="")
    recipe = first.parse_known_args(words)[0].recipe
    for spelling, option in SPELLINGS.get(recipe, {}).items():
        parser.add_spelling(spelling, option)
    if recipe in LOSS_SPELLINGS:
        spelling, names = LOSS_SPELLINGS[recipe]
        parser.add_spelling(spelling, "--loss", kind=value_of(names))
    if recipe == "staged_resnet50":
        is_test = bool({"-t", "--test"} & set(words))
        parser.add_spelling(CKPT, "--checkpoint" if is_test else "--resume")


def value_of(names: dict[str, str]) -> Callable[[str], str]:
    """An argparse type: our name of a published value."""

    def named(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(names)}")
        return names[text]

    return named


# From a file


def words_of(parser: Parser, argv: Sequence[str]) -> list[str]:
    """The command line with the words of its --config before it; adds both flags to the parser."""
    add_config_flags(parser)
    if PRINT_CONFIG in argv:
        # A configuration is looked at before there is a table.
        for action in parser._actions:
            action.required = False
    return with_file(parser, argv, scripts_of_flags)


def scripts_of_flags() -> dict[str, str]:
    """Each flag of training, and a script that has it."""
    # Built when a name is unknown, which is rare: not at every start.
    baselines = Parser(None)
    for add in (add_training_flags, add_recipe_flags, add_test_flags):
        add(baselines)
    studies = Parser(None)
    add_study_training_flags(studies)
    scripts = dict.fromkeys(flags_of(studies), "train_multiview.py")
    return scripts | dict.fromkeys(flags_of(baselines), "train_roi_baselines.py")


def print_and_end(
    parser: Parser,
    flags: dict[str, Any],
    argv: Sequence[str],
    words: Sequence[str],
    recipe: Container[str] = (),
) -> None:
    """Prints the flags and ends the script where that is asked for; else leaves no trace of the file in them."""
    if flags["print_config"]:
        print_config(parser, flags, origins(parser, argv, words, recipe))
        parser.exit()
    # What is written is the same whether a flag was typed or read.
    del flags["config"]
