"""Train a classifier of studies: the images of one examination, frontal and lateral, give one prediction.

    python train_multiview.py --train_csv mimic_train.csv --image_root "$D" --cache_dir cache \\
        --init checkpoints/mimic_images_best.pt --fusion attention --save checkpoints/mimic_studies.pt
    python infer_roi_consistency.py --checkpoint checkpoints/mimic_studies_best.pt --csv mimic_test.csv \\
        --image_root "$D" --cache_dir cache --save_json preds.json

A study is the rows of a table with one study_id; an image without one is a study of its own. Frontal images come before
lateral ones, then those whose column view says neither. Batches, epochs and val_auroc are of studies. Test images are
left out, and validation is split off by patient, as in the other train scripts. Ctrl-C and SIGTERM save a checkpoint;
the same command with --resume auto goes on exactly there.
"""

import argparse
import sys

from roi import cli
from roi.training.multiview.flags import add_study_training_flags, check_study_flags, parse_study_flags
from roi.training.preflight.flags import written_files
from roi.training.recipes import print_and_end, words_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.Parser(__doc__)
    add_study_training_flags(parser)
    words = words_of(parser, argv)
    args = parse_study_flags(parser, words)
    print_and_end(parser, vars(args), argv, words)
    del args.print_config
    check_study_flags(args)
    return args


def main(args: argparse.Namespace) -> int:
    with cli.writing_alone(*written_files(args)):
        # Torch takes seconds to load: a wrong flag, or a second start of the same command, is told before.
        import torch

        from roi import distributed
        from roi.training.preflight.setup import train_studies

        torch.manual_seed(args.seed + distributed.rank())
        return train_studies(args)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
