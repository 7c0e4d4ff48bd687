"""--check: look at everything a training needs, and end. No torch here: --help is quick."""

import argparse
import importlib.util
from pathlib import Path

from roi.cli import number
from roi.errors import UserError
from roi.files import can_be_made, refuse_inputs

# Flags of the train scripts that name what is read.
INPUTS = ("train_csv", "val_csv", "exclude_csv", "test_csv", "bbox_csv", "weights", "init", "queries")


def add_check(group: argparse._ActionsContainer) -> None:
    # Not among the flags of a run: it changes none.
    group.add_argument(
        "--check",
        nargs="?",
        type=number(int, 1),
        const=0,
        default=argparse.SUPPRESS,
        metavar="IMAGES",
        help="write nothing, look and end: flags, weights, disk, device, memory and time of one step, forecast in "
        "hours; IMAGES: so many, where there is no table yet",
    )


def tensorboard_folder(folder: str) -> str:
    """An argparse type: told before anything is written, where the package is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise argparse.ArgumentTypeError("needs the package tensorboard: pip install tensorboard")
    try:
        can_be_made(Path(folder), is_folder=True)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return folder


def is_check(args: argparse.Namespace) -> bool:
    return hasattr(args, "check")


def written_files(args: argparse.Namespace) -> list[str]:
    """What a training writes from its first second on; nothing for a check. UserError: it is what is read."""
    if is_check(args):
        return []
    outputs = [path for path in (args.save, args.log_csv) if path]
    # --overwrite replaces an earlier run, no table of the user's.
    refuse_inputs({name: getattr(args, name, None) for name in INPUTS}, outputs)
    return outputs
