"""Train an ablation or a baseline of ROI consistency, with the flags of train_roi_consistency.py.

    python train_roi_baselines.py --mode standard --train_csv nih_roi_train.csv --image_root "$D" \\
        --save checkpoints/nih_roi_standard.pt --log_csv train_metrics_standard.csv

modes
  full           the whole objective, as train_roi_consistency.py: evidence, or --objective consistency
  standard       the classifier alone: no mask, no crop, no drop
  no_consist     full without the consist term
  no_drop        full without the drop term
  no_locate      full without the locate term, which only evidence has
of the consistency objective
  random_mask    the mask keeps blobs at random places, drawn anew each epoch; nothing to learn, so no sparse and no tv
  random_cutout  the mask keeps a square at a random place: the drop view is Cutout (DeVries & Taylor 2017)
  no_sparse      full without the sparse term
  no_tv          full without the tv term
"""

import argparse

from roi import cli

MODES: dict[str, tuple[str, tuple[str, ...], str]] = {  # mode: (mask, or that of --mask_net; terms of weight 0; the only objective that has it)
    "full": ("", (), ""),
    "standard": ("none", ("consist", "drop", "sparse", "tv"), "consistency"),
    "random_mask": ("random", ("sparse", "tv"), "consistency"),
    "random_cutout": ("cutout", ("sparse", "tv"), "consistency"),
    "no_consist": ("", ("consist",), ""),
    "no_drop": ("", ("drop",), ""),
    "no_locate": ("", ("locate",), "evidence"),
    "no_sparse": ("", ("sparse",), "consistency"),
    "no_tv": ("", ("tv",), "consistency"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--mode", choices=list(MODES), required=True, help="what to train; see above")
    cli.add_training_flags(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> int:
    import torch

    from roi import dist
    from roi.run import train

    torch.manual_seed(args.seed + dist.rank())
    mask, without, only = MODES[args.mode]
    if only and args.objective not in (None, only):
        raise ValueError(f"--mode {args.mode}: belongs to --objective {only}, not to {args.objective}; leave out --objective")
    cli.settle_objective(args, only or "evidence")
    return train(args, mask or args.mask_net, without)


if __name__ == "__main__":
    cli.run(main, parse_args)
