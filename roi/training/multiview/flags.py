"""The flags of train_multiview.py: those of every training, and how the images of a study become one prediction."""

import argparse
from collections.abc import Sequence

from roi import cli
from roi.cli import number, on_off
from roi.errors import UserError
from roi.training import flags
from roi.training.objective_flags import add_backbone, add_label_loss

FUSIONS = ("mean_p", "max", "lse", "attention")
DEFAULTS = {"backbone": "convnext_base", "img_size": 224}  # where no --init says them
# A study model has no mask: what the code of every training asks of one.
WITHOUT_MASK = {
    "stage": None,
    "objective": "consistency",
    "warmup_epochs": 0,
    "mask_per_class": False,
    "map_stride": 0,
    "fill": "mean",
    "keep_ratio": 1.0,
    "view_share": 1.0,
    "map_average": 0.0,
}


def add_study_training_flags(parser: cli.Parser) -> None:
    """Every flag of the script."""
    parser.set_defaults(**WITHOUT_MASK)
    data = parser.add_argument_group("data")
    studies = parser.add_argument_group("studies and their fusion")
    optimisation = parser.add_argument_group("optimisation")
    output = parser.add_argument_group("output")
    reading = parser.add_argument_group("reading of images; --cache_dir is needed")
    several_sets = parser.add_argument_group("tables of several data sets")
    schedule = parser.add_argument_group("learning rate, early end, averages, parts of the backbone")
    augment = parser.add_argument_group("augmentation of training images, on the device")
    loss = parser.add_argument_group("loss of the labels (roi/losses/terms.py); validation is always in BCE")
    flags.add_tables(data, required=True)
    flags.add_test_set(data)
    flags.add_several_sets(several_sets)
    flags.add_size(data, "studies")
    flags.add_augment(augment)
    flags.add_reading(reading)
    add_fusion(studies)
    add_queries(studies)
    add_views(studies)
    add_backbone(studies)
    add_label_loss(loss)
    flags.add_steps(optimisation)
    flags.add_schedule(schedule)
    flags.add_early_end(schedule)
    # What makes an optimiser knows the rate of new layers by this name.
    optimisation.add_argument(
        "--fusion_lr",
        dest="mask_lr",
        metavar="LR",
        type=number(float, 0),
        help="learning rate of the attention, which begins untrained (default: 3e-4)",
    )
    flags.add_rates(optimisation)
    flags.add_output(output, required=True)


def add_fusion(group: argparse._ActionsContainer) -> None:
    """What is made of the images of a study, and what the model begins from."""
    # The mean costs nothing and has most of what several views are worth.
    group.add_argument(
        "--fusion",
        choices=FUSIONS,
        default="mean_p",
        help="mean_p: mean of the probabilities of the images; max: the highest; lse: log-sum-exp of their logits; "
        "attention: lse, corrected by what the cells of all images say together (default: %(default)s)",
    )
    group.add_argument(
        "--init",
        metavar="PT",
        help="begin from this image model, as <stem>_best.pt of another train script: its backbone, image size and "
        "weights, the last layer by the names of the classes (default: --backbone with --weights)",
    )
    group.add_argument(
        "--freeze_backbone",
        action=on_off,
        default=False,
        help="of the backbone the classifier layer alone learns, batch norm keeps its statistics (default: no)",
    )
    group.add_argument(
        "--fusion_width",
        type=number(int, 1),
        default=256,
        metavar="D",
        help="width of the attention, a multiple of 8 (default: %(default)s)",
    )
    group.add_argument(
        "--fusion_cells",
        type=number(int, 1),
        default=12,
        metavar="N",
        help="cells a side of an image that attention looks at, at most (default: %(default)s)",
    )


def add_queries(group: argparse._ActionsContainer) -> None:
    """What the classes ask the cells with."""
    group.add_argument(
        "--queries",
        default="learned",
        metavar="learned|random|NPZ|permuted:NPZ",
        help="with --fusion attention the query of each class: learned; random and never learned; of its name, as "
        "make_queries.py wrote it; or of another class's name, the control of that (default: %(default)s)",
    )
    group.add_argument(
        "--shared_queries",
        action=on_off,
        default=False,
        help="with --queries NPZ: one last layer for all classes, so that infer_roi_consistency.py --queries predicts "
        "names that were not trained on (default: no)",
    )


def add_views(group: argparse._ActionsContainer) -> None:
    """Which images of a study are looked at, and what a study has."""
    group.add_argument(
        "--max_views",
        type=number(int, 1),
        default=4,
        metavar="N",
        help="images of a study that are looked at: training draws them anew each epoch, prediction takes the first, "
        "frontal before lateral (default: %(default)s)",
    )
    group.add_argument(
        "--view_dropout",
        type=number(float, 0, 1),
        default=0.2,
        metavar="0..1",
        help="share of the images that training leaves out of studies of several; one stays (default: %(default)s)",
    )
    group.add_argument(
        "--view_weight",
        type=number(float, 0),
        default=0.25,
        metavar="W",
        help="weight of the BCE of each image alone with the labels of its study (default: %(default)s)",
    )
    group.add_argument(
        "--study_labels",
        choices=("agree", "any"),
        default="agree",
        help="agree: images of a study that contradict each other are an error; any: what one of them has, the study "
        "has (default: %(default)s)",
    )


def parse_study_flags(parser: cli.Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The flags of a command line; backbone and img_size are None where --init is to say them."""
    args = parser.parse_args(argv)
    if args.init:
        given = cli.given(parser, argv)
        for name in DEFAULTS:
            if name not in given:
                setattr(args, name, None)
    args.lr = 1e-4 if args.lr is None else args.lr
    args.mask_lr = 3e-4 if args.mask_lr is None else args.mask_lr
    args.schedule = args.schedule or "constant"
    return args


def check_study_flags(args: argparse.Namespace) -> None:
    """UserError for flags that do not go together, before anything is read."""
    if not args.cache_dir:
        raise UserError("studies are read from a pixel cache; give --cache_dir DIR, where each image is decoded once")
    if args.fusion_width % 8:
        raise UserError(f"--fusion_width {args.fusion_width} is not a multiple of 8, the heads of the attention")
    if args.queries != "learned" and args.fusion != "attention":
        raise UserError(f"--queries {args.queries} asks by attention, not by {args.fusion}; give --fusion attention")
    # Queries that are learned belong to the classes that they were learned with.
    if args.shared_queries and args.queries in ("learned", "random"):
        raise UserError(f"--shared_queries with --queries {args.queries}: a new name has none; give --queries NPZ")
    # Of imagenet nobody can tell whether it was given: it is the default.
    if args.init and args.weights not in ("imagenet", args.init):
        raise UserError(
            f"--weights {args.weights} and --init {args.init}: each says what to begin from; give one of them"
        )
    if args.freeze_backbone and args.train_parts:
        raise UserError(f"--freeze_backbone and --train_parts {args.train_parts}: give one of them")
    if args.freeze_backbone and not args.init and args.weights == "none":
        raise UserError("--freeze_backbone with --weights none: a backbone that knows nothing; give --init PT")
