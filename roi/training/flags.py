"""The flags of training: data, optimisation, schedule, augmentation, output. No torch here: --help is quick.

add_training_flags is what the train scripts call. Groups come in the order in which a reader needs them: what most
runs give first, what few runs give last. Flags of the model and its objective: roi/training/objective_flags.py.
"""

import argparse
from dataclasses import fields
from typing import Any, TypeVar

from roi.choices import NamedValue, add_named_values, yes_no
from roi.cli import Parser, add_compute, add_loading, add_overwrite, number, on_off
from roi.training.objective_flags import add_gradnorm, add_label_loss, add_model, add_objective
from roi.training.preflight.flags import add_check, tensorboard_folder

T = TypeVar("T")
SCHEDULES = ("constant", "cosine", "plateau", "onecycle")
SHARE = number(float, 0, 1)
# Of --schedule. Of the two warm-ups one is given: steps as published recipes count them, or epochs, which do not depend
# on the size of a table.
SCHEDULE_ARGS = {
    "lr_warmup_steps": NamedValue(number(int, 0), 0, "optimiser steps of a linear climb"),
    "lr_warmup_epochs": NamedValue(number(float, 0), 0.0, "the same in epochs, or parts"),
    "plateau_patience": NamedValue(number(int, 0), 3, "plateau: epochs that may pass without a higher val_auroc"),
    "plateau_factor": NamedValue(number(float, 0, 0.999), 0.1, "plateau: what the rate is then multiplied by"),
}
# Of --cache_dir.
CACHE_ARGS = {
    # Any row anywhere is a read of its own, which costs nothing while the cache stays in the memory.
    "order": NamedValue(
        str,
        "auto",
        "of training images: random, any image anywhere; blocks, images that lie together on the disk come within one "
        "part of an epoch, hundreds of such blocks mixed; auto, random where the memory that may be used holds the "
        "pixels, else blocks; a run that goes on keeps what it began with",
        choices=("auto", "random", "blocks"),
    ),
    # Pixels in its own memory come to a GPU without any wait for disk or host.
    "cache_on_device": NamedValue(
        str,
        "auto",
        "yes, all pixels in the memory of the GPU; no; auto, where half of what is free holds them",
        choices=("auto", "yes", "no"),
    ),
}
# Of --augment (roi/data/augment.py), which says what they are where they are not given (resolve_augment).
AUGMENT_ARGS = {
    "rotate": NamedValue(number(float, 0, 180), None, "turned by up to so many degrees either way"),
    "shift": NamedValue(SHARE, None, "shifted by up to this share of the side, down and across"),
    "scale": NamedValue(number(float, 0, 0.9), None, ".1: from .9 to 1.1 times as large"),
    # A mirrored X-ray shows another anatomy, so that no recipe has it.
    "flip": NamedValue(
        yes_no,
        None,
        "yes, half of the images left for right; no in every recipe, for the heart moves to the right as in "
        "dextrocardia and side markers are mirrored",
    ),
    "dropout_holes": NamedValue(number(int, 0), None, "so many grey rectangles, each side 2 to 12 % of the image's"),
    "brightness": NamedValue(SHARE, None, "lighter or darker by up to this share of the range"),
    "contrast": NamedValue(SHARE, None, ".2: contrast times .8 to 1.2"),
}
# What --augment stands for. seven_sets is the published recipe of that name, but for its flip.
AUGMENT: dict[str, dict[str, Any]] = {
    "none": dict(zip(AUGMENT_ARGS, (0.0, 0.0, 0.0, False, 0, 0.0, 0.0), strict=True)),
    "light": dict(zip(AUGMENT_ARGS, (7.0, 0.03, 0.05, False, 0, 0.1, 0.1), strict=True)),
    "seven_sets": dict(zip(AUGMENT_ARGS, (25.0, 0.0625, 0.1, False, 8, 0.2, 0.2), strict=True)),
}


def add_training_flags(parser: Parser, required: bool = True) -> None:
    """Every flag that the train scripts share.

    Args:
        required: a run is wanted, so that the tables and --save must be given
    """
    parser.set_defaults(stage=None)  # of a recipe in stages
    # Groups in the order of --help; the calls below in the order of the flags in a checkpoint and in the report.
    data = parser.add_argument_group("data")
    model = parser.add_argument_group("model")
    objective = parser.add_argument_group("objective")
    optimisation = parser.add_argument_group("optimisation")
    output = parser.add_argument_group("output")
    reading = parser.add_argument_group("reading of images")
    several_sets = parser.add_argument_group("tables of several data sets, or with a long tail")
    schedule = parser.add_argument_group("learning rate, early end, averages, parts of the backbone")
    augment = parser.add_argument_group("augmentation of training images, on the device")
    loss = parser.add_argument_group("loss of the labels (roi/losses/terms.py); validation is always in BCE")
    gradnorm = parser.add_argument_group("learned weights of the terms")
    add_tables(data, required)
    add_test_set(data)
    add_several_sets(several_sets)
    add_size(data)
    add_augment(augment)
    add_reading(reading)
    add_model(model)
    add_label_loss(loss)
    add_objective(objective)
    add_gradnorm(gradnorm)
    add_steps(optimisation)
    add_schedule(schedule)
    add_early_end(schedule)
    add_mask_rate(optimisation)
    add_rates(optimisation)
    add_output(output, required)


def add_tables(group: argparse._ActionsContainer, required: bool) -> None:
    """Which images, with which labels, and who validates."""
    group.add_argument(
        "--train_csv",
        required=required,
        metavar="CSV",
        help="table of make_chexmultimodal_csv.py; image and labels suffice",
    )
    group.add_argument(
        "--image_root",
        required=required,
        metavar="DIR",
        help="holds the images: DIR/images/NAME, DIR/NAME, DIR/images_*/images/NAME or DIR/images-*/images-*/NAME",
    )
    group.add_argument(
        "--classes",
        default="",
        metavar="A,B",
        help="classes to learn (default: all labels of the table)",
    )
    group.add_argument("--val_csv", metavar="CSV", help="validation table; shares no patient with --train_csv")
    # By patient: an image of a patient who is trained on would tell little of new ones.
    group.add_argument(
        "--val_fraction",
        type=number(float, 0, 0.9),
        default=0.1,
        metavar="0..0.9",
        help="share of images held out, by patient, where neither --val_csv nor rows marked val say who "
        "(default: %(default)s); 0: nobody",
    )


def add_test_set(group: argparse._ActionsContainer) -> None:
    """Who is kept for the test."""
    group.add_argument(
        "--exclude_csv",
        metavar="CSV",
        help="table whose images, and other images of their patients, are left out of training: the test set",
    )
    # Published training lists held all test images: here that must be asked for.
    group.add_argument(
        "--allow_leakage",
        action=on_off,
        default=False,
        help="train on test images too, and mark every output as contaminated (default: leave them out)",
    )


def add_size(group: argparse._ActionsContainer, unit: str = "images") -> None:
    """How many images, or studies, and how large."""
    # Two draws: of all images, for a quick run, and of the training images alone, as published recipes have it.
    group.add_argument(
        "--max_samples",
        type=number(int, 1),
        metavar="N",
        help=f"train on N {unit} drawn with --seed, before validation is split off; --max_train_samples N: once it is "
        "split off, whole patients (default: all)",
    )
    group.add_argument(
        "--max_train_samples",
        type=number(int, 1),
        help=argparse.SUPPRESS,
    )
    group.add_argument(
        "--img_size",
        type=number(int, 16),
        default=224,
        metavar="PX",
        help="side of the square input (default: %(default)s)",
    )


def add_reading(group: argparse._ActionsContainer) -> None:
    """How images are read, and where their pixels are kept."""
    add_loading(group)
    add_named_values(group, "--cache_args", "how training reads --cache_dir:", CACHE_ARGS)


def add_steps(group: argparse._ActionsContainer) -> None:
    """How long, how fast and in which batches."""
    count = number(int, 1)
    group.add_argument(
        "--epochs",
        type=count,
        default=8,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    group.add_argument(
        "--batch_size",
        type=count,
        default=8,
        metavar="N",
        help="images a forward and process; each has up to three views. A last batch of one, from which batch norm "
        "learns nothing, goes into the one before it (default: %(default)s)",
    )
    group.add_argument(
        "--accum_steps",
        type=count,
        default=1,
        metavar="N",
        help="batches an optimiser step (default: %(default)s)",
    )
    # No default here: it depends on --freeze_backbone (resolve_objective).
    group.add_argument(
        "--lr",
        type=number(float, 0),
        help="learning rate of AdamW (default: 1e-4; with --freeze_backbone 3e-3)",
    )


def add_output(group: argparse._ActionsContainer, required: bool) -> None:
    """What a training writes, and where it goes on."""
    group.add_argument(
        "--save",
        required=required,
        metavar="PT",
        help="checkpoint, written each epoch; the best by val_auroc is <stem>_best.pt beside it (of several data sets: "
        "the mean of theirs, for over all images together telling the sets apart would count)",
    )
    group.add_argument("--log_csv", metavar="CSV", help="metrics, a row each epoch as it ends (default: none)")
    # At 0.5 for all findings: thresholds that are chosen would be chosen on what is scored.
    group.add_argument(
        "--val_decisions",
        action=on_off,
        default=False,
        help="each epoch also F1, precision and recall, micro and macro, and Hamming accuracy of the findings at "
        "p = 0.5; thresholds that are chosen are evaluate.py's (default: no)",
    )
    group.add_argument("--tensorboard", type=tensorboard_folder, metavar="DIR", help="TensorBoard events (default: no)")
    # An epoch of a large table takes hours, and a cluster ends a job when it likes.
    group.add_argument(
        "--save_every_steps",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="also save every N optimiser steps; 0: each epoch (default: %(default)s)",
    )
    group.add_argument(
        "--resume",
        metavar="auto|PT",
        help="go on from a checkpoint; auto: from --save, if it is there; with --stage 2: begin from that of stage 1 "
        "(default: start anew)",
    )
    add_overwrite(group, "checkpoint and log of an earlier run")
    add_check(group)


def add_several_sets(group: argparse._ActionsContainer) -> None:
    """What is learned from a table of several data sets, and how often an image comes."""
    # Validation knows only what is certain: it must be the same whatever is learned from.
    group.add_argument(
        "--uncertain",
        choices=("ignore", "ones", "zeros", "soft"),
        default="ignore",
        help="training target of what the column uncertain names: none, 1, 0, or one number a cell from U(.55, .85), "
        "drawn with --seed; in validation and evaluate.py it is never scored (default: %(default)s)",
    )
    # Proportionally a small set is hardly seen beside a large one, a rare class beside a frequent one.
    group.add_argument(
        "--sampler",
        choices=("proportional", "balanced", "repeat_factor"),
        default="proportional",
        help="proportional: every training image once an epoch; balanced: as many images of each value of the column "
        "dataset, small sets again and again; repeat_factor: images of rare classes more often than others (Gupta et "
        "al. 2019); an epoch is as long in all of them (default: %(default)s)",
    )
    group.add_argument(
        "--repeat_threshold",
        type=number(float, 0, 1),
        default=0.05,
        metavar="0..1",
        help="repeat_factor: a class that a smaller share f of the images has makes them come sqrt(threshold / f) "
        "times as often, at most 10 times (default: %(default)s)",
    )


def add_mask_rate(group: argparse._ActionsContainer) -> None:
    """How fast the mask learns."""
    # The mask net begins untrained, the backbone does not: one rate for both is too small for it.
    group.add_argument(
        "--mask_lr",
        type=number(float, 0),
        help="learning rate of the mask net (default: 2e-3; 1e-3 with --freeze_backbone; that of --lr with "
        "--objective consistency)",
    )


def add_rates(group: argparse._ActionsContainer) -> None:
    """The rest of the optimiser, and where it computes."""
    group.add_argument(
        "--weight_decay",
        type=number(float, 0),
        default=0.01,
        help="weight decay of AdamW (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        help="of new layers, order, validation split, dropout and random masks (default: %(default)s)",
    )
    add_compute(group)
    # For backbones whose three views do not fit into the memory of a GPU.
    group.add_argument(
        "--checkpoint_activations",
        action=on_off,
        default=False,
        help="compute activations again when gradients need them: less memory, a third more time (default: no)",
    )


def add_schedule(group: argparse._ActionsContainer) -> None:
    """When the learning rate changes."""
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="cosine: down to 0 at the last epoch; plateau: times plateau_factor once val_auroc has not risen for "
        "more than plateau_patience epochs; onecycle: up in 30 %% of the steps, or in those of the warm-up, then "
        "down (default: constant; with --freeze_backbone cosine)",
    )
    add_named_values(group, "--schedule_args", "a warm-up, and what plateau takes:", SCHEDULE_ARGS)


def add_early_end(group: argparse._ActionsContainer) -> None:
    """When training ends early, which weights are kept, and which learn."""
    group.add_argument(
        "--patience",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="stop after N epochs without a better val_auroc; 0: never (default: %(default)s)",
    )
    group.add_argument(
        "--ema",
        type=number(float, 0, 0.999999),
        default=0.0,
        metavar="DECAY",
        help="validate, and save as the best, the moving average of the weights with this decay a step; 0: the weights "
        "as they are (default: %(default)s)",
    )
    # Statistics of batch norm are part of what stays: a frozen layer that goes on counting is not frozen.
    group.add_argument(
        "--train_parts",
        default="",
        metavar="A,B",
        help="of the backbone only what lies below these names learns, as in layer4,fc; batch norm elsewhere keeps its "
        "statistics (default: all of it)",
    )


def add_augment(group: argparse._ActionsContainer) -> None:
    """Random changes of training images (roi/data/augment.py)."""
    group.add_argument(
        "--augment",
        choices=list(AUGMENT),
        default="none",
        help="how strongly: values of --augment_args that are not given (default: %(default)s)",
    )
    add_named_values(group, "--augment_args", "values in the place of those of --augment:", AUGMENT_ARGS)


def select_flags(kind: type[T], args: argparse.Namespace) -> T:
    """The flags that a dataclass has fields for, as one of its kind."""
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def resolve_augment(args: argparse.Namespace) -> None:
    """Fill in what --augment stands for, where its own flags are not given."""
    for name, value in AUGMENT[args.augment].items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def resolve_objective(args: argparse.Namespace, objective: str) -> None:
    """Fill in --objective, and what its flags are by default under it."""
    args.objective = args.objective or objective
    evidence, frozen = args.objective == "evidence", args.freeze_backbone
    args.mask_net = args.mask_net or ("features" if evidence else "conv")
    if args.alpha is None:
        args.alpha = 0.5 if evidence else 1.0
    if args.mask_per_class is None:
        args.mask_per_class = evidence
    if args.lr is None:
        args.lr = 3e-3 if frozen else 1e-4
    if args.mask_lr is None:
        # As published, the mask net of the consistency objective learns at the rate of the backbone.
        args.mask_lr = args.lr
        if frozen:
            args.mask_lr = 1e-3
        elif evidence:
            args.mask_lr = 2e-3
    args.schedule = args.schedule or ("cosine" if frozen else "constant")
