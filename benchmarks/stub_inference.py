"""Predict a table of many images without a network: what the writing of predictions costs in memory.

    python benchmarks/stub_inference.py --images 900000 --out /tmp/preds.json

predict_table of infer_roi_consistency.py writes the rows, from batches of 1-pixel images and a stub that gives random
logits. benchmarks/score_speed.py runs it with few and with many images.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from harness import ROOT  # noqa: F401  # the project can be imported from here on
from torch import Tensor, nn

from roi import cli
from roi.data.dataset import Batch
from roi.inference.predict import Predictor
from roi.inference.predict_table import TableOutputs, predict_table
from roi.labels import LABELS
from roi.models.roi_model import Views

BATCH = 256


class Stub(nn.Module):
    """In the place of a RoiModel: random logits of the whole image."""

    def views_of(self, batch: Batch, keep_ratio: float, seeds: Tensor | None = None, full_only: bool = False) -> Views:
        return Views(torch.randn(len(batch.index), len(LABELS)))


def load(first: int, end: int) -> Iterator[Batch]:
    pixels, target = torch.zeros(BATCH, 1, 1, 1, dtype=torch.uint8), torch.zeros(BATCH, len(LABELS))
    for begin in range(0, end - first, BATCH):
        index = torch.arange(begin, min(begin + BATCH, end - first))
        yield Batch(pixels[: len(index)], target[: len(index)], index, [])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--images", type=cli.number(int, 1), required=True, metavar="N", help="rows of the table")
    parser.add_argument("--out", type=Path, required=True, metavar="JSON", help="predictions")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    images = [f"images/{n:08d}_000.png" for n in range(args.images)]
    table = pd.DataFrame({"image": images, "path": images, "labels": "", "contaminated": False})
    state: dict[str, Any] = {"classes": list(LABELS), "args": {"img_size": 1}, "contaminated": False}
    model: Any = Stub()
    predictor = Predictor(model, state, torch.device("cpu"), torch.float32, 0.1)
    outputs = TableOutputs(str(args.out), [], [], args.out, {})
    predict_table(predictor, table, load, outputs, skip_unreadable=False)


if __name__ == "__main__":
    cli.run(main, parse_args)
