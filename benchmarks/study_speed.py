"""What does a study cost beside its images: a batch from the pixel cache, and the step of a model with attention?

    python benchmarks/study_speed.py --out /tmp/study_speed

Batches: random pixels in a cache, studies of as many images as those of the training table of CXR-LT 2024, through the
loader of studies and through that of images with as many views a batch; epochs in turns, seconds a view. Step: forward,
loss, backward and optimiser of 2 studies of 4 views, with attention 256 wide over 12 x 12 cells and with the mean of
the views, at 384 px. Goals: a study batch at most 1.05 times an image batch, attention at most 1.15 times the mean.
Prints a table and writes benchmarks/results/study_speed-<machine>.json; --smoke: tiny sizes, written to --out.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from cxrlt_speed import study_sizes
from harness import Figure, add_machine, table, write_result

from roi import cli
from roi.cxrlt_labels import TASK_1
from roi.data.dataset import Batch, StudyBatch
from roi.data.loader import CacheLoader
from roi.data.pixel_cache import PixelCache
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies
from roi.data.study_loader import StudyLoader, ViewChoice
from roi.losses.terms import bce
from roi.models.fusion import build_study_model
from roi.training.multiview.objective import StudyTerms

CPU = torch.device("cpu")
SIDE = 224
STUDIES_A_BATCH = 20
VIEWS = 4  # of a study in the step
STEP_SIDE = 384  # 12 x 12 cells at stride 32
CLASSES = sorted(TASK_1)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder, for a cache of 0.6 GB")
    parser.add_argument("--images", type=cli.number(int, 50), default=12_000, metavar="N", help="(default: 12000)")
    parser.add_argument("--turns", type=cli.number(int, 1), default=25, metavar="N", help="(default: %(default)s)")
    backbones = "of the step; none: batches alone (default: resnet18 convnext_tiny)"
    parser.add_argument("--backbones", nargs="*", default=["resnet18", "convnext_tiny"], metavar="NAME", help=backbones)
    parser.add_argument("--smoke", action=cli.on_off, default=False, help="tiny sizes (default: no)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    images, turns, backbones, side = args.images, args.turns, args.backbones, STEP_SIDE
    if args.smoke:
        images, turns, backbones, side = 100, 1, ["test_resnet"], 64
    figures = []
    for dropout in (0.0, 0.2):
        figures += batches(args.out / "pixels.u8", images, turns, dropout)
    for backbone in backbones:
        figures += step(backbone, side, min(turns, 5))
    print(table(figures))
    result = {
        "what": "a batch of studies against a batch of as many images from the pixel cache; the step of a study model "
        "with attention against one with the mean of the views; medians over turns, processor and clock time",
        "command": "python benchmarks/study_speed.py --out …",
        "figures": [figure.as_dict() for figure in figures],
    }
    print(write_result("study_speed", args.machine, result, args.out if args.smoke else None))


def batches(path: Path, images: int, turns: int, dropout: float) -> list[Figure]:
    """Seconds a view of the loader of studies over those of the loader of images."""
    cache, studies = make_cache(path, images), make_studies(images)
    choice = ViewChoice(VIEWS, 0, dropout)
    count = len(studies)
    targets = np.zeros((count, len(CLASSES)), dtype=np.float32)
    sampler = ShardedBatchSampler(count, STUDIES_A_BATCH, seed=0)
    of_studies = StudyLoader(cache, studies, targets, sampler, choice, CPU, False, 2)
    views = statistics.fmean(len(batch.pixels) for batch in of_studies)
    targets = np.zeros((images, len(CLASSES)), dtype=np.float32)
    sampler = ShardedBatchSampler(images, round(views), seed=0)
    of_images = CacheLoader(cache, targets, sampler, CPU, False, 2)
    name = f"batch of studies / of images, view dropout {dropout}"
    return compare(name, "<= 1.05", lambda: epoch(of_studies), lambda: epoch(of_images), turns, views=views)


def make_cache(path: Path, images: int) -> PixelCache:
    """Random pixels in a file, mapped."""
    if not path.exists() or path.stat().st_size != images * SIDE**2:
        np.random.default_rng(0).integers(0, 256, (images, SIDE, SIDE), dtype=np.uint8).tofile(path)
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=(images, SIDE, SIDE))
    return PixelCache(pixels, np.arange(images), {})


def make_studies(images: int) -> Studies:
    """Studies whose images lie anywhere in the table."""
    rng = np.random.default_rng(1)
    start = np.append(0, study_sizes(images, rng).cumsum())
    kinds = rng.integers(0, 3, images).astype(np.int8)
    return Studies(np.arange(len(start) - 1).astype(str), rng.permutation(images), start, kinds)


def epoch(batches: Iterable[Batch]) -> int:
    """Take all batches -> images in them."""
    return sum(len(batch.pixels) for batch in batches)


def step(backbone: str, side: int, turns: int) -> list[Figure]:
    """Seconds of a step with attention over those of one with the mean probability of the views."""
    batch = drawn(side)
    attention, mean = stepper(backbone, side, "attention", batch), stepper(backbone, side, "mean_p", batch)
    name = f"step with attention / with the mean of views, {backbone}"
    return compare(name, "<= 1.15", attention, mean, turns)


def drawn(side: int) -> Batch:
    """Two studies of random pixels and labels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * VIEWS, 1, side, side), dtype=torch.uint8, generator=generator)
    target = (torch.rand(2, len(CLASSES), generator=generator) < 0.1).float()
    rows = torch.arange(2 * VIEWS)
    views = StudyBatch(rows.reshape(2, VIEWS), rows // VIEWS, rows % 2, rows)
    return Batch(pixels, target, torch.arange(2), [], studies=views)


def stepper(backbone: str, side: int, fusion: str, batch: Batch) -> Callable[[], int]:
    """A function that does one step -> its images."""
    model = build_study_model(backbone, CLASSES, fusion, "none", side, 0, True, width=256, cells=12).train()
    optimizer = torch.optim.AdamW(model.parameters())
    terms = StudyTerms(bce, None, 0, 0.25)

    def one_step() -> int:
        optimizer.zero_grad()
        losses = terms(model, batch, 0)
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()
        return len(batch.pixels)

    return one_step


def compare(
    name: str, goal: str, first: Callable[[], int], second: Callable[[], int], turns: int, **details: float
) -> list[Figure]:
    """Median over turns (ABAB ...) of the time an image of `first` over that of `second`: processor, then clock."""
    ratios: tuple[list[float], list[float]] = ([], [])
    micro: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        ours, theirs = cost(first), cost(second)
        if turn == 0:
            continue
        for clock in (0, 1):
            ratios[clock].append(ours[clock] / theirs[clock])
        micro[0].append(ours[0] * 1e6)
        micro[1].append(theirs[0] * 1e6)
    medians = {"us_an_image": statistics.median(micro[0]), "us_an_image_of_other": statistics.median(micro[1])}
    figures = []
    for kind, found in zip(("processor", "clock"), ratios, strict=True):
        spread = {"lowest": min(found), "highest": max(found), "turns": len(found)}
        figures.append(Figure(f"{name}, {kind}", statistics.median(found), goal, details=spread | medians | details))
    return figures


def cost(work: Callable[[], int]) -> tuple[float, float]:
    """Processor and clock seconds an image."""
    processor, began = time.process_time(), time.perf_counter()
    images = work()
    return (time.process_time() - processor) / images, (time.perf_counter() - began) / images


if __name__ == "__main__":
    cli.run(main, parse_args)
