"""Train an ablation, a baseline or a published recipe, with the flags of train_roi_consistency.py.

    python train_roi_baselines.py --mode standard --train_csv nih_roi_train.csv --image_root "$D" \\
        --save checkpoints/nih_roi_standard.pt --log_csv train_metrics_standard.csv
    python train_roi_baselines.py --recipe timm_focal --train_csv nih_roi_train.csv --image_root "$D" \\
        --save checkpoints/nih_timm_focal.pt
    python train_roi_baselines.py --test --checkpoint checkpoints/nih_timm_focal_best.pt --test_csv nih_roi_test.csv \\
        --image_root "$D" --test_out scores

modes
  full           the whole objective, as train_roi_consistency.py: evidence, or --objective consistency
  standard       the classifier alone: no mask, no crop, no drop
  no_consist     full without the consist term
  no_drop        full without the drop term
  no_locate      full without the locate term, which only evidence has
of the consistency objective
  random_mask    the mask keeps blobs at random places, drawn anew each epoch; nothing to learn, so no sparse and no tv
  random_cutout  the mask keeps a square at a random place: the drop view is Cutout (DeVries & Taylor 2017)
  no_sparse, no_tv  full without that term

recipes: flags of published systems, each --mode standard; flags on the command line go before them (--print_config)
  timm_focal       ConvNeXt-Base of timm at 384 px, or any other timm model by --backbone; focal loss; the learning
                   rate falls on a plateau, and 15 epochs without a better mean AUROC end the training; at most 80,000
                   images to train and, with --test, 20,000 to test, by patient. best_model is <stem>_best.pt here
  seven_sets       ConvNeXt-Large with ImageNet-22k weights, for a table of several data sets; focal loss without alpha,
                   strong augmentation (no flip: it turns the heart), F1, precision, recall, Hamming accuracy each epoch
  staged_resnet50  14 findings and No Finding; focal loss. --stage 1, the default, trains layer2, layer3, layer4 and
                   fc for 4 epochs, nothing else; --stage 2 --resume CKPT goes on with all layers in another --save
  cxrlt            many findings, most of them rare: weighted asymmetric loss; images of rare ones come more often
  crt              a new head on the fixed features of --weights CKPT, images of rare findings more often
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from roi import cli
from roi.errors import UserError
from roi.training.flags import add_training_flags, resolve_augment, resolve_objective
from roi.training.preflight.flags import written_files
from roi.training.recipes import (
    MODES,
    add_recipe_flags,
    add_spellings,
    add_test_flags,
    print_and_end,
    published_words,
    recipe_flags,
    words_of,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    argv = published_words(sys.argv[1:] if argv is None else argv)
    parser = make_parser(argv)
    words = words_of(parser, argv)
    add_spellings(parser, words)
    args = parser.parse_args(words)
    try:
        recipe = recipe_flags(args.recipe, args.stage)
    except UserError as error:
        parser.error(str(error))
    # Read again: what stands on the command line, or in a file, goes before the recipe.
    parser.set_defaults(**recipe)
    args = resolve_defaults(parser.parse_args(words))
    print_and_end(parser, vars(args), argv, words, recipe)
    if args.test and not (args.checkpoint and args.test_csv and args.image_root):
        parser.error("--test needs --checkpoint, --test_csv and --image_root")
    if not args.mode and not args.test:
        parser.error("the following arguments are required: --mode, or --recipe")
    return args


def make_parser(argv: Sequence[str]) -> cli.Parser:
    parser = cli.Parser(__doc__)
    add_recipe_flags(parser)
    add_training_flags(parser, required=not {"--test", "-t", "--check"} & set(argv))
    add_test_flags(parser)
    return parser


def resolve_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """With what --augment and --mode stand for."""
    resolve_augment(args)
    if args.mode:
        only = MODES[args.mode].objective
        if only and args.objective not in (None, only):
            raise UserError(
                f"--mode {args.mode}: belongs to --objective {only}, not to {args.objective}; leave out --objective"
            )
        resolve_objective(args, only or "evidence")
    return args


def main(args: argparse.Namespace) -> int:
    if args.test:
        return test(args)
    with cli.writing_alone(*written_files(args)):
        # Torch takes seconds to load: a wrong flag, or a second start of the same command, is told before.
        import torch

        from roi import distributed
        from roi.training.preflight.setup import train

        torch.manual_seed(args.seed + distributed.rank())
        return train(args, MODES[args.mode].mask or args.mask_net, MODES[args.mode].without)


def test(args: argparse.Namespace) -> int:
    """What the two scripts do: predictions of --checkpoint on --test_csv, and their scores."""
    import evaluate
    import infer_roi_consistency
    from roi import distributed

    checkpoint = Path(args.checkpoint)
    out = Path(args.test_out or checkpoint.with_name(f"{checkpoint.stem}_test"))
    table = ["--csv", args.test_csv]
    overwrite = ["--overwrite"] if args.overwrite else []
    preds = str(out / "preds.json")
    flags = ["--checkpoint", args.checkpoint, *table, "--image_root", args.image_root, "--save_json", preds]
    for name in ("batch_size", "workers", "prefetch_factor", "seed", "device", "autocast_dtype"):
        flags.append(f"--{name}={getattr(args, name)}")
    for name in ("cache_dir", "max_test_samples"):
        if getattr(args, name):
            flags.append(f"--{name}={getattr(args, name)}")
    for name in ("skip_unreadable", "compile", "channels_last"):
        flags.append(f"--{name}" if getattr(args, name) else f"--no-{name}")
    infer_roi_consistency.main(infer_roi_consistency.parse_args([*flags, *overwrite]))
    # Scores are of one file, made of the predictions of all processes.
    if distributed.rank() == 0:
        evaluate.main(evaluate.parse_args(["--preds", preds, *table, "--out", str(out), *overwrite]))
    return 0


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
