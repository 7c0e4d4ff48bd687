"""Hand a trained model on: weights that timm and torchvision load, ONNX, or a folder ready for the Hugging Face hub.

    python export_model.py --checkpoint checkpoints/nih_roi_consistency_best.pt --metrics scores/metrics.json \\
        --out model.safetensors
    python export_model.py --checkpoint checkpoints/nih_roi_consistency_best.pt --out model.onnx
    python export_model.py --checkpoint checkpoints/nih_roi_consistency_best.pt --metrics scores/metrics.json \\
        --data_licence "ChestX-ray14: free to use with citation (NIH)" --hub_dir my_model

model.safetensors holds the classifier under the keys of timm or torchvision; classes, side, normalisation, thresholds
and who wrote it stand in its header. model_roi.safetensors beside it holds the mask net and what else this project
needs: with both, infer_roi_consistency.py --checkpoint model.safetensors predicts as the checkpoint does, and training
begins from the first with --weights. Folders and machines that the flags of training name are left out.

model.onnx (pip install onnx onnxscript) takes `pixels`, (B, 1, side, side) grey in 0..255 as float32, and gives
`probabilities` (B, K) and, where the mask is learned, `mask` (B, 1, side, side) of 0 and 1. Where onnxruntime is
installed, it is compared with torch before it gets its name.

--hub_dir makes weights, config.json and README.md, a model card from metrics.json: data and split, scores with
intervals, subgroups, calibration, use and limits. What metrics.json does not say, the card says is missing.
"""

import argparse
from dataclasses import fields

from roi import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    checkpoint = "of training; the best epoch is <stem>_best.pt"
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help=checkpoint)
    out = "model.safetensors or model.onnx"
    parser.add_argument("--out", metavar="FILE", help=out)
    hub_dir = "a new folder in the format of the Hugging Face hub"
    parser.add_argument("--hub_dir", metavar="DIR", help=hub_dir)
    metrics = "metrics.json of evaluate.py with this checkpoint: thresholds, and what the model card says"
    parser.add_argument("--metrics", metavar="JSON", help=metrics)
    licence = "licence and terms of the training data, in a sentence for the model card"
    parser.add_argument("--data_licence", default="", metavar="TEXT", help=licence)
    fingerprints = (
        "hashes of the images and patients that were trained on, by which the leakage audit knows them; whoever can "
        "guess a name can ask for it (default: yes)"
    )
    parser.add_argument("--fingerprints", action=cli.on_off, default=True, help=fingerprints)
    keep_ratio = "share of the pixels that the mask of ONNX keeps (default: that of training)"
    parser.add_argument("--keep_ratio", type=cli.number(float, 0, 1), metavar="0..1", help=keep_ratio)
    cli.add_overwrite(parser, "an earlier export")
    args = parser.parse_args(argv)
    if not args.out and not args.hub_dir:
        parser.error("give --out FILE, or --hub_dir DIR")
    if args.out and not args.out.endswith((".safetensors", ".onnx")):
        parser.error(f"--out {args.out}: ends neither in .safetensors nor in .onnx")
    return args


def main(args: argparse.Namespace) -> None:
    # They bring torch, which --help does without.
    from roi.inference.export.setup import ExportFlags, export

    export(ExportFlags(**{field.name: getattr(args, field.name) for field in fields(ExportFlags)}))


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
