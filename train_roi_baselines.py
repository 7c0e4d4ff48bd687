"""Train an ablation, a baseline or a published recipe, with the flags of train_roi_consistency.py.

    python train_roi_baselines.py --mode standard --train_csv nih_roi_train.csv --image_root "$D" \\
        --save checkpoints/nih_roi_standard.pt --log_csv train_metrics_standard.csv
    python train_roi_baselines.py --recipe timm_focal --train_csv nih_roi_train.csv --image_root "$D" --save checkpoints/nih_timm_focal.pt
    python train_roi_baselines.py --test --checkpoint checkpoints/nih_timm_focal_best.pt --test_csv nih_roi_test.csv --image_root "$D" --test_out scores

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

recipes: flags of published systems, each --mode standard; any flag on the command line goes before them, --print_config shows the result
  timm_focal       ConvNeXt-Base of timm at 384 px, or any other timm model by --backbone; focal loss; the learning rate falls on a plateau, and 15 epochs
                   without a better mean AUROC end the training; at most 80,000 images to train and, with --test, 20,000 to test, by patient.
                   The published best_model is <stem>_best.pt here
  seven_sets       ConvNeXt-Large with ImageNet-22k weights, for a table of several data sets (make_chexmultimodal_csv.py --datasets); focal loss without
                   alpha, strong augmentation, F1, precision, recall and Hamming accuracy each epoch. No flip, unlike the published one:
                   it turns the heart to the right and the side markers about; --flip brings it back
  staged_resnet50  14 findings and No Finding; focal loss. --stage 1, the default, trains layer2, layer3, layer4 and fc for 4 epochs; the first
                   layers, statistics of batch norm among them, stay as they came. --stage 2 --resume CKPT goes on from its weights with all
                   layers and a new optimiser, and writes another --save; the same command again goes on there
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from roi import cli
from roi.errors import UserError
from roi.labels import LABELS

MODES: dict[
    str, tuple[str, tuple[str, ...], str]
] = {  # mode: (mask, or that of --mask_net; terms of weight 0; the only objective that has it)
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
}
STAGES = {1: {"train_parts": "layer2,layer3,layer4,fc"}, 2: {"train_parts": ""}}  # of staged_resnet50


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    argv = sys.argv[1:] if argv is None else argv
    parser = cli.Parser(__doc__)
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
    cli.add_training_flags(parser, required=not {"--test", "--print_config"} & set(argv))
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
        type=cli.number(int, 1),
        metavar="N",
        help="at most N of its images, by patient, drawn with --seed (default: all)",
    )
    args = parser.parse_args(argv)
    recipe = recipe_of(parser, args)
    parser.set_defaults(**recipe)
    args = resolve_defaults(parser.parse_args(argv))
    if args.print_config:
        given = cli.given(parser, argv)
        origin = {
            name: "command line" if name in given else "recipe" if name in recipe else "default" for name in vars(args)
        }
        lines = [
            f" {json.dumps(name)}: {json.dumps({'value': value, 'from': origin[name]})}"
            for name, value in vars(args).items()
            if name != "print_config"
        ]
        print("{\n" + ",\n".join(lines) + "\n}")
        parser.exit()
    if args.test and not (args.checkpoint and args.test_csv and args.image_root):
        parser.error("--test needs --checkpoint, --test_csv and --image_root")
    if not args.mode and not args.test:
        parser.error("the following arguments are required: --mode, or --recipe")
    return args


def recipe_of(parser: cli.Parser, args: argparse.Namespace) -> dict[str, Any]:
    """The flags that --recipe and --stage stand for."""
    if not args.recipe:
        if args.stage is not None:
            parser.error(
                f"--stage {args.stage} belongs to --recipe staged_resnet50; without it --train_parts says what learns"
            )
        return {}
    recipe = {"mode": "standard", **RECIPES[args.recipe]}
    if args.recipe != "staged_resnet50" and args.stage is not None:
        parser.error(f"--stage {args.stage}: {args.recipe} has no stages, only staged_resnet50 has")
    if args.recipe != "staged_resnet50":
        return recipe
    stage = 1 if args.stage is None else args.stage
    if stage not in STAGES:
        parser.error(
            f"--stage {stage}: there is stage 1 ({STAGES[1]['train_parts']} learn) and stage 2 (everything, from --resume CKPT of stage 1)"
        )
    return {**recipe, "stage": stage, **STAGES[stage]}


def resolve_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """With what --augment and --mode stand for."""
    cli.settle_augment(args)
    if args.mode:
        only = MODES[args.mode][2]
        if only and args.objective not in (None, only):
            raise UserError(
                f"--mode {args.mode}: belongs to --objective {only}, not to {args.objective}; leave out --objective"
            )
        cli.settle_objective(args, only or "evidence")
    return args


def main(args: argparse.Namespace) -> int:
    if args.test:
        return test(args)
    with cli.writing_alone(args):
        import torch

        from roi import distributed
        from roi.training.setup import train

        torch.manual_seed(args.seed + distributed.rank())
        mask, without, _ = MODES[args.mode]
        return train(args, mask or args.mask_net, without)


def test(args: argparse.Namespace) -> int:
    """What the two scripts do: predictions of --checkpoint on --test_csv, and their scores."""
    import evaluate
    import infer_roi_consistency
    from roi import distributed

    out = Path(args.test_out or Path(args.checkpoint).with_name(f"{Path(args.checkpoint).stem}_test"))
    again = ["--overwrite"] if args.overwrite else []
    how = [
        f"--{name}={getattr(args, name)}"
        for name in ("batch_size", "workers", "prefetch_factor", "seed", "device", "autocast_dtype")
    ]
    how += [f"--{name}={value}" for name in ("cache_dir", "max_test_samples") if (value := getattr(args, name))]
    how += [
        f"--{'' if getattr(args, name) else 'no-'}{name}" for name in ("skip_unreadable", "compile", "channels_last")
    ]
    given = [
        "--checkpoint",
        args.checkpoint,
        "--csv",
        args.test_csv,
        "--image_root",
        args.image_root,
        "--save_json",
        str(out / "preds.json"),
    ]
    infer_roi_consistency.main(infer_roi_consistency.parse_args([*given, *how, *again]))
    if distributed.rank() == 0:
        evaluate.main(
            evaluate.parse_args(["--preds", str(out / "preds.json"), "--csv", args.test_csv, "--out", str(out), *again])
        )
    return 0


if __name__ == "__main__":
    cli.run(main, parse_args)
