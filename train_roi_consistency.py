"""Train a classifier and the mask of its evidence.

The prediction survives on what the mask keeps, and falls on the rest.

    python train_roi_consistency.py --train_csv nih_roi_train.csv --image_root "$D" --backbone convnext_base \\
        --batch_size 8 --accum_steps 2 --epochs 8 --save checkpoints/nih_roi_consistency.pt --log_csv train_metrics.csv

Test images (of --exclude_csv, of an official test_list.txt beside the images, or with split = test) are left out, and
validation is split off by patient. Ctrl-C and SIGTERM save a checkpoint; the same command with --resume auto goes on
exactly there. Ablations and baselines: train_roi_baselines.py.
"""

import argparse
import sys

from roi import cli
from roi.training.flags import add_training_flags, resolve_augment, resolve_objective
from roi.training.preflight.flags import written_files
from roi.training.recipes import print_and_end, words_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.Parser(__doc__)
    # A check may come before the data.
    add_training_flags(parser, required="--check" not in argv)
    words = words_of(parser, argv)
    args = parser.parse_args(words)
    resolve_augment(args)
    resolve_objective(args, "evidence")
    print_and_end(parser, vars(args), argv, words)
    del args.print_config
    return args


def main(args: argparse.Namespace) -> int:
    with cli.writing_alone(*written_files(args)):
        # Torch takes seconds to load: a wrong flag, or a second start of the same command, is told before.
        import torch

        from roi import distributed
        from roi.training.preflight.setup import train

        torch.manual_seed(args.seed + distributed.rank())
        return train(args, args.mask_net)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
