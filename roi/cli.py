"""What the command lines share: one-line errors, exit codes, groups of flags. No torch here: tables start fast."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from roi.errors import RunError, UserError
from roi.files import locked, writable
from roi.process_pool import children, kill
from roi.text import Console, printable

on_off = argparse.BooleanOptionalAction
SCHEDULES = ("constant", "cosine", "plateau", "onecycle")
AUGMENT: dict[str, dict[str, Any]] = {  # what --augment stands for
    "none": {
        "rotate": 0.0,
        "shift": 0.0,
        "scale": 0.0,
        "flip": False,
        "dropout_holes": 0,
        "brightness": 0.0,
        "contrast": 0.0,
    },
    "light": {
        "rotate": 7.0,
        "shift": 0.03,
        "scale": 0.05,
        "flip": False,
        "dropout_holes": 0,
        "brightness": 0.1,
        "contrast": 0.1,
    },
    "seven_sets": {
        "rotate": 25.0,
        "shift": 0.0625,
        "scale": 0.1,
        "flip": False,
        "dropout_holes": 8,
        "brightness": 0.2,
        "contrast": 0.2,
    },
}
OTHERS_END = 5.0  # seconds; torchrun looks every tenth of a second whether a process has failed
LOSSES = ("bce", "weighted", "focal", "asymmetric", "class_balanced", "ldam")


class Parser(argparse.ArgumentParser):
    """argparse with the script's docstring as its manual, and one line (exit code 2) for a wrong flag."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (all flags: {self.prog} --help)\n")


def run(main: Callable[[argparse.Namespace], int | None], parse_args: Callable[[], argparse.Namespace]) -> NoReturn:
    """Run a script, and end the processes that it started.

    What the user gave wrong (UserError, OSError) is one line and exit code 2, what went wrong around it (RunError) one
    line and exit code 1, Ctrl-C exit code 130. Any other exception is ours and shows its traceback.
    SIGTERM ends it as Ctrl-C does, so that nothing half-written stays (training has its own answer to both).
    ROI_DEBUG=1 in the environment shows every traceback.
    """
    # The one place where what file names hold is kept from the terminal.
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), Console):
            setattr(sys, name, Console(getattr(sys, name)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with Ctrl-C ignored
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    before = children()
    try:
        code = main(parse_args()) or 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            leave(code)
        sys.exit(code)
    except BrokenPipeError:  # | head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, RunError, OSError, UnicodeDecodeError) as error:  # the last: a file that is not text in UTF-8
        if os.environ.get("ROI_DEBUG"):
            raise
        let_the_cause_speak_first(error)
        print(f"error: {printable(str(error))}", file=sys.stderr)
        leave(1 if isinstance(error, RunError) else 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # The interpreter waits for them at its end, and they do not answer SIGTERM.
        kill(children() - before)


def leave(code: int) -> NoReturn:
    """End; under torchrun at once: an error, so that it ends the others before they say the same, a success, because
    threads of gloo (torch 2.14) now and then abort a process while its interpreter takes itself apart."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        kill(children())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def let_the_cause_speak_first(error: Exception) -> None:
    """Under torchrun most errors happen in all processes, and one that ends takes the others' connections with it.

    Process 0 speaks at once of what a user gave wrong. The others, and whoever lost a connection, wait: torchrun ends
    them when the first one has failed. Who is still there after that has an error of its own.
    """
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    first = os.environ.get("RANK", "0") == "0" and not isinstance(error, RunError)
    if not alone and not first:
        time.sleep(OTHERS_END)


@contextmanager
def writing_alone(args: argparse.Namespace) -> Iterator[None]:
    """Nobody else writes the checkpoint and the log of a training for the length of a block.

    Before torch is imported: a second start of the same command ends at once.
    """
    files = [Path(path) for path in (args.save, args.log_csv) if path]
    for path in files:
        writable(path)
    writes = os.environ.get("RANK", "0") == "0"  # of several processes the first one
    with locked(*(files if writes else ())):
        yield


def given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Names of the flags that stand on the command line."""
    unset = object()
    marked = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args(argv)), unset))
    return {name for name, value in vars(parser.parse_args(argv, marked)).items() if value is not unset}


def number(kind: Callable[[str], Any], low: float | None = None, high: float | None = None) -> Callable[[str], Any]:
    """An argparse type: `kind` (int or float) with closed bounds."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not ((low is None or value >= low) and (high is None or value <= high)):
            raise argparse.ArgumentTypeError(
                f"{text} is not between {low} and {high}" if high is not None else f"{text} is below {low}"
            )
        return value

    parse.__name__ = kind.__name__
    return parse


def add_overwrite(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument("--overwrite", action=on_off, default=False, help=f"replace {what} if there (default: refuse)")


def add_training_flags(parser: Parser, required: bool = True) -> None:
    """Every flag that the train scripts share; `required`: a run is wanted, so tables and --save are."""
    count, weight = number(int, 1), number(float, 0)
    data = parser.add_argument_group("data")
    parser.set_defaults(stage=None)  # of a recipe in stages
    data.add_argument(
        "--train_csv",
        required=required,
        metavar="CSV",
        help="table of make_chexmultimodal_csv.py; image and labels suffice",
    )
    data.add_argument(
        "--image_root",
        required=required,
        metavar="DIR",
        help="holds the images: DIR/images/NAME, DIR/NAME, DIR/images_*/images/NAME or DIR/images-*/images-*/NAME",
    )
    data.add_argument(
        "--classes", default="", metavar="A,B", help="classes to learn (default: all labels of the table)"
    )
    data.add_argument("--val_csv", metavar="CSV", help="validation table; shares no patient with --train_csv")
    data.add_argument(
        "--val_fraction",
        type=number(float, 0, 0.9),
        default=0.1,
        metavar="0..0.9",
        help="share of images held out, by patient, where neither --val_csv nor rows marked val say who (default: %(default)s); 0: nobody",
    )
    data.add_argument(
        "--exclude_csv",
        metavar="CSV",
        help="table whose images, and other images of their patients, are left out of training: the test set",
    )
    data.add_argument(
        "--allow_leakage",
        action=on_off,
        default=False,
        help="train on test images too, and mark every output as contaminated (default: leave them out)",
    )
    add_union(data)
    data.add_argument(
        "--max_samples",
        type=count,
        metavar="N",
        help="train on N images drawn with --seed, before validation is split off (default: all)",
    )
    data.add_argument(
        "--max_train_samples",
        type=count,
        metavar="N",
        help="train on at most N images once validation is split off, by patient, drawn with --seed (default: all)",
    )
    data.add_argument(
        "--img_size",
        type=number(int, 16),
        default=224,
        metavar="PX",
        help="side of the square input (default: %(default)s)",
    )
    add_augment(parser)
    add_loading(data)
    data.add_argument(
        "--cache_on_device",
        choices=("auto", "yes", "no"),
        default="auto",
        help="with --cache_dir: all pixels in the memory of the GPU; auto: where half of what is free holds them (default: %(default)s)",
    )
    add_objective(parser)
    steps = parser.add_argument_group("optimisation")
    steps.add_argument(
        "--epochs", type=count, default=8, metavar="N", help="passes over the training images (default: %(default)s)"
    )
    steps.add_argument(
        "--batch_size",
        type=count,
        default=8,
        metavar="N",
        help="images a forward and process; each has up to three views. A last batch of one, from which batch norm "
        "learns nothing, goes into the one before it (default: %(default)s)",
    )
    steps.add_argument(
        "--accum_steps", type=count, default=1, metavar="N", help="batches an optimiser step (default: %(default)s)"
    )
    steps.add_argument("--lr", type=weight, help="learning rate of AdamW (default: 1e-4; with --freeze_backbone 3e-3)")
    add_schedule(steps)
    steps.add_argument(
        "--mask_lr",
        type=weight,
        help="learning rate of the mask net (default: 2e-3; 1e-3 with --freeze_backbone; that of --lr with --objective consistency)",
    )
    steps.add_argument("--weight_decay", type=weight, default=0.01, help="weight decay of AdamW (default: %(default)s)")
    steps.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        help="of new layers, order, validation split, dropout and random masks (default: %(default)s)",
    )
    add_compute(steps)
    steps.add_argument(
        "--checkpoint_activations",
        action=on_off,
        default=False,
        help="compute activations again when gradients need them: less memory, a third more time (default: no)",
    )
    add_run_files(parser, required)


def add_run_files(parser: Parser, required: bool) -> None:
    """What a training writes, and where it goes on."""
    out = parser.add_argument_group("output")
    out.add_argument(
        "--save",
        required=required,
        metavar="PT",
        help="checkpoint, written each epoch; the best by val_auroc is <stem>_best.pt beside it (of several data sets: the mean of theirs, for over all images "
        "together telling the sets apart would count)",
    )
    out.add_argument("--log_csv", metavar="CSV", help="metrics, a row each epoch as it ends (default: none)")
    out.add_argument(
        "--val_decisions",
        action=on_off,
        default=False,
        help="each epoch also F1, precision and recall, micro and macro, and Hamming accuracy of the findings at p = 0.5; thresholds that are chosen are "
        "evaluate.py's (default: no)",
    )
    out.add_argument("--tensorboard", metavar="DIR", help="TensorBoard events (default: none)")
    out.add_argument(
        "--save_every_steps",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="also save every N optimiser steps; 0: each epoch (default: %(default)s)",
    )
    out.add_argument(
        "--resume",
        metavar="auto|PT",
        help="go on from a checkpoint; auto: from --save, if it is there; with --stage 2: begin from that of stage 1 (default: start anew)",
    )
    add_overwrite(out, "checkpoint and log of an earlier run")


def add_augment(parser: Parser) -> None:
    """Random changes of training images (roi/data/augment.py)."""
    group = parser.add_argument_group("augmentation of training images, on the device")
    share = number(float, 0, 1)
    group.add_argument(
        "--augment",
        choices=list(AUGMENT),
        default="none",
        help="what the flags below are where they are not given (default: %(default)s)",
    )
    group.add_argument(
        "--rotate", type=number(float, 0, 180), metavar="DEG", help="turned by up to DEG degrees either way"
    )
    group.add_argument(
        "--shift", type=share, metavar="0..1", help="shifted by up to this share of the side, down and across"
    )
    group.add_argument(
        "--scale", type=number(float, 0, 0.9), metavar="0..0.9", help=".1: from .9 to 1.1 times as large"
    )
    group.add_argument(
        "--flip",
        action=on_off,
        default=None,
        help="half of the images left for right (default: no, in every recipe: the heart moves to the right as in dextrocardia, side markers are mirrored)",
    )
    group.add_argument(
        "--dropout_holes",
        type=number(int, 0),
        metavar="N",
        help="N grey rectangles, each side 2 to 12 %% of the image's",
    )
    group.add_argument(
        "--brightness", type=share, metavar="0..1", help="lighter or darker by up to this share of the range"
    )
    group.add_argument("--contrast", type=share, metavar="0..1", help=".2: contrast times .8 to 1.2")


def settle_augment(args: argparse.Namespace) -> None:
    """Fill in what --augment stands for."""
    for name, value in AUGMENT[args.augment].items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))


def add_schedule(group: argparse._ActionsContainer) -> None:
    """When the learning rate changes, when training ends, and which weights are kept."""
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate; cosine: down to 0 at the last epoch; plateau: times --plateau_factor once val_auroc has not risen for more than "
        "--plateau_patience epochs; onecycle: up in 30 %% of the steps, or in those of the warm-up, then down (default: constant; with --freeze_backbone "
        "cosine)",
    )
    group.add_argument(
        "--lr_warmup_steps",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="optimiser steps of a linear climb (default: %(default)s)",
    )
    group.add_argument(
        "--lr_warmup_epochs",
        type=number(float, 0),
        default=0.0,
        metavar="N",
        help="the same in epochs, or parts (default: %(default)s)",
    )
    group.add_argument(
        "--plateau_patience",
        type=number(int, 0),
        default=3,
        metavar="N",
        help="epochs that may pass so (default: %(default)s)",
    )
    group.add_argument(
        "--plateau_factor", type=number(float, 0, 0.999), default=0.1, metavar="0..1", help="(default: %(default)s)"
    )
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
        help="validate, and save as the best, the moving average of the weights with this decay a step; 0: the weights as they are (default: %(default)s)",
    )
    group.add_argument(
        "--train_parts",
        default="",
        metavar="A,B",
        help="of the backbone only what lies below these names learns, as in layer4,fc; batch norm elsewhere keeps its statistics (default: all of it)",
    )


def add_union(group: argparse._ActionsContainer) -> None:
    """What is learned from a table of several data sets."""
    group.add_argument(
        "--uncertain",
        choices=("ignore", "ones", "zeros", "soft"),
        default="ignore",
        help="training target of what the column uncertain names: none, 1, 0, or one number a cell from U(.55, .85), drawn with --seed; "
        "in validation and evaluate.py it is never scored (default: %(default)s)",
    )
    group.add_argument(
        "--sampler",
        choices=("proportional", "balanced"),
        default="proportional",
        help="proportional: every training image once an epoch; balanced: as many images of each value of the column dataset, in an epoch as long as that, "
        "small sets again and again (default: %(default)s)",
    )


def add_objective(parser: Parser) -> None:
    """The model, its mask, and what both must do."""
    ratio, weight = number(float, 0, 1), number(float, 0)
    model = parser.add_argument_group("model")
    add_model(model)
    model.add_argument(
        "--mask_net",
        choices=("features", "conv"),
        default=None,
        help="what the mask sees: features of the backbone, or, as published, 5 x 5 pixels (default: features; conv with --objective consistency)",
    )
    model.add_argument(
        "--mask_per_class",
        action=on_off,
        default=None,
        help="one map a finding, their union is the mask (default: yes with --objective evidence)",
    )
    model.add_argument(
        "--map_stride",
        type=int,
        choices=(0, 8, 16, 32),
        default=0,
        metavar="PX",
        help="pixels a cell of the maps, 8, 16 or 32; 0: 16 where that gives 10 cells a side, else 8 (default: %(default)s)",
    )
    model.add_argument(
        "--freeze_backbone",
        action=on_off,
        default=False,
        help="the backbone stays as it came: its features are computed once, kept in --cache_dir, and the classifier layer and the maps learn from them in "
        "seconds; for a few thousand images (default: no)",
    )
    model.add_argument(
        "--fill",
        choices=("mean", "blur", "noise"),
        default="mean",
        help="what stands where pixels are taken away: mean grey, the image blurred, or noise (default: %(default)s)",
    )
    add_loss(parser)
    loss = parser.add_argument_group("objective")
    loss.add_argument(
        "--objective",
        choices=("evidence", "consistency"),
        default=None,
        help="what the mask must do; consistency: as published (default: evidence)",
    )
    loss.add_argument(
        "--warmup_epochs",
        type=number(int, 0),
        metavar="N",
        help="evidence: first epochs, without masks: the classifier and the maps learn from the labels alone (default: half of --epochs)",
    )
    loss.add_argument(
        "--random_views",
        type=ratio,
        default=0.15,
        metavar="0..1",
        help="evidence: share of the images that the classifier then sees through random blobs (default: %(default)s)",
    )
    loss.add_argument(
        "--alpha",
        type=weight,
        help="weight of consist: the labels from the crop; consistency: |p_full - p_crop| (default: 0.5; consistency: 1.0)",
    )
    loss.add_argument(
        "--beta",
        type=weight,
        default=0.5,
        help="weight of drop: what is present is lost; consistency: ReLU(p_drop - p_full) (default: %(default)s)",
    )
    loss.add_argument(
        "--gamma",
        type=weight,
        default=1e-3,
        help="consistency: weight of sparse, the mean of the soft mask (default: %(default)s)",
    )
    loss.add_argument(
        "--delta",
        type=weight,
        default=1e-4,
        help="consistency: weight of tv, the total variation of the soft mask (default: %(default)s)",
    )
    loss.add_argument(
        "--epsilon",
        type=weight,
        default=0.25,
        help="evidence: weight of locate, the labels from the maps alone (default: %(default)s)",
    )
    loss.add_argument(
        "--locate_sharpness",
        type=number(float, 0.01),
        default=4.0,
        metavar="R",
        help="evidence: a map becomes one logit by log-mean-exp of R times its cells, over R: small R their mean, large R their maximum "
        "(default: %(default)s)",
    )
    loss.add_argument(
        "--keep_ratio",
        type=ratio,
        default=0.1,
        metavar="0..1",
        help="share of the pixels that the mask keeps (default: %(default)s)",
    )
    loss.add_argument(
        "--dynamic_weights",
        action=on_off,
        default=False,
        help="learn the weights by GradNorm (Chen et al. 2018); the five above are then not used",
    )
    for name, value in (
        ("full", 1.0),
        ("consist", 0.5),
        ("drop", 1e-3),
        ("sparse", 1e-4),
        ("tv", 1e-5),
        ("locate", 0.25),
    ):
        loss.add_argument(
            f"--w_{name}_init",
            type=weight,
            default=value,
            metavar="W",
            help=f"first weight of {name} with --dynamic_weights (default: %(default)s)",
        )


def add_loss(parser: Parser) -> None:
    """The loss of the labels on the whole image: the term `full`."""
    share, power, weight = number(float, 0, 1), number(float, 0), number(float, 0)
    loss = parser.add_argument_group("loss of the labels (roi/losses/terms.py); validation is always in BCE")
    loss.add_argument(
        "--loss",
        choices=LOSSES,
        default="bce",
        help="weighted: what is present counts absent/present times; focal (Lin et al. 2017); asymmetric (Ridnik et al. 2021); class_balanced: by the "
        "effective number of images (Cui et al. 2019); ldam: a margin, the wider the rarer (Cao et al. 2019) (default: %(default)s)",
    )
    loss.add_argument(
        "--pos_weight_cap",
        type=weight,
        default=100.0,
        metavar="W",
        help="weighted: largest weight of what is present (default: %(default)s)",
    )
    loss.add_argument(
        "--focal_alpha",
        type=number(float, -1, 1),
        default=0.25,
        metavar="0..1",
        help="focal: weight of what is present; -1: none (default: %(default)s)",
    )
    loss.add_argument(
        "--focal_gamma",
        type=power,
        default=2.0,
        help="focal: power of 1 - p of the truth; 0: none (default: %(default)s)",
    )
    loss.add_argument(
        "--asl_gamma_pos", type=power, default=0.0, help="asymmetric: power for what is present (default: %(default)s)"
    )
    loss.add_argument(
        "--asl_gamma_neg", type=power, default=4.0, help="asymmetric: power for what is absent (default: %(default)s)"
    )
    loss.add_argument(
        "--asl_clip",
        type=number(float, 0, 0.5),
        default=0.05,
        help="asymmetric: absent and below this is right (default: %(default)s)",
    )
    loss.add_argument(
        "--cb_beta",
        type=share,
        default=0.9999,
        metavar="0..1",
        help="class_balanced: 0 weighs nothing, 1 by 1/n (default: %(default)s)",
    )
    loss.add_argument(
        "--ldam_margin",
        type=weight,
        default=0.5,
        help="ldam: margin of the rarest, in units of the logit (default: %(default)s)",
    )
    loss.add_argument(
        "--ldam_scale",
        type=weight,
        default=1.0,
        help="ldam: what the logit and its margin are multiplied by (default: %(default)s)",
    )


def settle_objective(args: argparse.Namespace, objective: str) -> None:
    """Fill in --objective, and what its flags are by default under it."""
    args.objective = args.objective or objective
    evidence = args.objective == "evidence"
    args.mask_net = args.mask_net or ("features" if evidence else "conv")
    args.alpha = (0.5 if evidence else 1.0) if args.alpha is None else args.alpha
    frozen = args.freeze_backbone
    args.lr = (3e-3 if frozen else 1e-4) if args.lr is None else args.lr
    if args.mask_lr is None:
        args.mask_lr = 1e-3 if frozen else 2e-3 if evidence else args.lr
    args.mask_per_class = evidence if args.mask_per_class is None else args.mask_per_class
    args.schedule = args.schedule or ("cosine" if frozen else "constant")


def add_model(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--backbone",
        default="convnext_base",
        metavar="NAME",
        help="any torchvision classifier, else any timm model (default: %(default)s)",
    )
    group.add_argument(
        "--pretrained",
        dest="weights",
        action="store_const",
        const="imagenet",
        default="imagenet",
        help="the same as --weights imagenet",
    )
    group.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE",
        help="first weights: downloaded, none, or a .safetensors, state-dict or checkpoint file, whose last layer comes "
        "by the names of its classes (default: %(default)s)",
    )


def add_loading(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--workers",
        type=number(int, 0),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode images; 0: none (default: %(default)s)",
    )
    group.add_argument(
        "--prefetch_factor",
        type=number(int, 1),
        default=2,
        metavar="N",
        help="batches each worker, or the thread that reads --cache_dir, keeps ready (default: %(default)s)",
    )
    group.add_argument(
        "--persistent_workers", action=on_off, default=True, help="keep the workers between epochs (default: yes)"
    )
    group.add_argument(
        "--cache_dir",
        metavar="DIR",
        help="decode each image once, into a memory-mapped file here; shared by all runs and processes (default: decode anew)",
    )
    group.add_argument(
        "--skip_unreadable",
        action=on_off,
        default=False,
        help="leave out missing or broken images, counted and listed in a side file (default: stop)",
    )


def add_compute(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda|mps", help="where to compute (default: the best there is)"
    )
    group.add_argument(
        "--autocast_dtype",
        choices=("auto", "bf16", "fp16", "fp32"),
        default="auto",
        help="type of the forward pass; auto: bf16 on CUDA (fp16 if it lacks it), fp32 elsewhere (default: %(default)s)",
    )
    group.add_argument(
        "--compile",
        action=on_off,
        default=False,
        help="torch.compile the parts of the backbone; pays on a GPU after minutes (default: no)",
    )
    group.add_argument("--channels_last", action=on_off, default=True, help="NHWC memory format (default: yes)")
