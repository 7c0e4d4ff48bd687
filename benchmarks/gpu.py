"""What a GPU makes of it: images/s of the ROI step against the published loop, share of the card's rate, memory.

    python benchmarks/gpu.py

ConvNeXt-Base at 224 px in bf16, on pixels drawn at random that are on the card for both sides, which also have the same
settings of cuDNN (it picks its kernels by trial); ratios are medians over turns (ABAB). Rows that torch.compile come
last and are left out when --minutes are over. Prints a table and writes benchmarks/results/gpu-<card>.json, anew after
each row; a row that fails does not end the others. --device cpu --smoke runs every row with a tiny backbone; its
figures mean nothing and go to --out.

What counts as work: a forward of the backbone is F FLOP an image (2 a multiply-add, counted by torch; 30.7 GFLOP for
ConvNeXt-Base at 224 px), a backward 2 F, F where no weight learns. consistency: three views forward and backward, 9 F =
276 GFLOP an image. evidence: image and crop 3 F each, drop 2 F, 8 F. inference: 3 F. Computing activations again
(--checkpoint_activations) is no work. The share is images/s times that, over the rate of a large bf16 matrix product on
the same card.
"""

from __future__ import annotations

import argparse
import gc
import re
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import Figure, Training, alternated, drawn, ratio, table, timed, training, write_result

from roi import cli
from roi.errors import UserError

if TYPE_CHECKING:
    import torch

    from roi.data.dataset import Batch

WORK = {"consistency": 9, "evidence": 8, "inference": 3}  # forwards of the backbone that a step is worth
TURNS = 5


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--device", default="cuda", help="where to compute (default: %(default)s)")
    parser.add_argument("--backbone", metavar="NAME", help="default: convnext_base; test_convnext with --smoke")
    parser.add_argument("--img_size", type=cli.number(int, 16), metavar="PX", help="default: 224; 32 with --smoke")
    parser.add_argument("--rows", default=",".join(ROWS), metavar="A,B", help="what to measure (default: %(default)s)")
    parser.add_argument(
        "--minutes",
        type=cli.number(float, 0),
        default=7.5,
        metavar="M",
        help="no new row after these (default: %(default)s)",
    )
    parser.add_argument("--machine", metavar="NAME", help="names the result file (default: the card)")
    parser.add_argument("--smoke", action=cli.on_off, default=False, help="tiny sizes (default: no)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        metavar="DIR",
        help="where the result of --smoke goes (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    unknown = set(args.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    args.backbone = args.backbone or ("test_convnext" if args.smoke else "convnext_base")
    args.img_size = args.img_size or (32 if args.smoke else 224)
    return args


@dataclass
class Bench:
    """What the rows share."""

    args: argparse.Namespace
    device: torch.device
    began: float = field(default_factory=time.monotonic)
    rate: float | None = None  # FLOP/s of a large matrix product
    theirs: Callable[[], None] | None = None  # one optimiser step of the published loop
    best: dict[str, int] = field(default_factory=dict)  # objective -> images of the fastest batch
    forward: float | None = None  # FLOP an image

    @property
    def small(self) -> int:
        return 2 if self.args.smoke else 16

    def train(self, objective: str, batch: int, *flags: object) -> Training:
        import torch

        return training(
            objective,
            self.args.backbone,
            self.args.img_size,
            self.device,
            "--batch_size",
            batch,
            *flags,
            dtype=torch.bfloat16,
        )

    def images(self, number: int) -> Batch:
        return drawn(number, self.args.img_size, self.device)

    def wait(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def whole(self, work: Callable[[], object]) -> Callable[[], None]:
        """The work, until the device has done it."""

        def done() -> None:
            work()
            self.wait()

        return done

    def flops(self) -> float:
        """F of one image, as torch counts it."""
        if self.forward is None:
            import torch
            from torch.utils.flop_counter import FlopCounterMode

            model = self.train("consistency", 1).model.eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model.backbone(torch.zeros(1, 3, self.args.img_size, self.args.img_size, device=self.device))
            self.forward = float(counter.get_total_flops())
        return self.forward

    def share(self, name: str, what: str, images_per_s: float, goal: str, **details: Any) -> list[Figure]:
        """Of the rate of the card."""
        work = WORK[what] * self.flops()
        why = "" if self.rate else "row matmul was not measured"
        found = {"gflop_an_image": work / 1e9, "images_per_s": images_per_s, "tflop_per_s": work * images_per_s / 1e12}
        return [
            Figure(
                name, work * images_per_s / self.rate if self.rate else None, goal, "of the rate", why, found | details
            )
        ]


def main(args: argparse.Namespace) -> None:
    import torch

    from roi.training.device import pick_device

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; --device cpu --smoke shows that every row runs")
    bench = Bench(args, pick_device(args.device))
    card = (
        re.sub(r"[^A-Za-z0-9]+", "-", torch.cuda.get_device_name(bench.device))
        if bench.device.type == "cuda"
        else "cpu"
    )
    figures: list[Figure] = []
    path = Path()
    for name in args.rows.split(","):
        found = attempted(bench, name)
        figures += found
        print(f"== {name}, {time.monotonic() - bench.began:.0f} s\n{table(found)}", flush=True)
        path = write_result(
            "gpu", args.machine or card, result_of(args, card, figures), args.out if args.smoke else None
        )
    print(f"\n{table(figures)}\n{path}")


def result_of(args: argparse.Namespace, card: str, figures: list[Figure]) -> dict[str, Any]:
    import torch

    words = [
        "python",
        "benchmarks/gpu.py",
        "--backbone",
        args.backbone,
        "--img_size",
        str(args.img_size),
        "--rows",
        args.rows,
    ]
    return {
        "what": f"{args.backbone} at {args.img_size} px, bf16, against the published loop on the same card; "
        "ratios are medians over turns",
        "card": card,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "command": shlex.join(words),
        "work": {name: f"{number} forwards of the backbone an image" for name, number in WORK.items()},
        "figures": [figure.as_dict() for figure in figures],
    }


def attempted(bench: Bench, name: str) -> list[Figure]:
    """The figures of a row; what goes wrong in it is the reason why it was not measured."""
    import torch

    if time.monotonic() - bench.began > 60 * bench.args.minutes:
        return [Figure(name, None, why="no time left (--minutes)")]
    try:
        return ROWS[name](bench)
    except torch.OutOfMemoryError:
        return [Figure(name, None, why="out of memory")]
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return [Figure(name, None, why=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    finally:
        cleared(bench)


def cleared(bench: Bench) -> None:
    """Give back what the row had."""
    import torch

    gc.collect()
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()


def matmul(bench: Bench) -> list[Figure]:
    """The rate that shares are shares of: a bf16 product of two square matrices."""
    import torch

    side = 256 if bench.args.smoke else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    work = bench.whole(lambda: [a @ b for _ in range(20)])
    work()
    seconds = statistics.median(timed(work) for _ in range(TURNS)) / 20
    bench.rate = 2 * side**3 / seconds
    return [Figure("bf16 matrix product", bench.rate / 1e12, unit="TFLOP/s", details={"side": side})]


def published(bench: Bench) -> list[Figure]:
    """The published loop: 2 batches of 8, three forwards each, .item() for each term, AdamW as it is by default."""
    from published import ACCUM, BATCH, PublishedModel, make_optimizer, train

    from roi.labels import LABELS
    from roi.models.backbones import IMAGENET, build_backbone

    args = bench.args
    model = PublishedModel(build_backbone(args.backbone, len(LABELS), "none", args.img_size)).to(bench.device)
    optimizer, batch = make_optimizer(model), bench.images(BATCH)
    mean, std = (batch.pixels.new_tensor(values, dtype=batch.target.dtype).view(1, 3, 1, 1) for values in IMAGENET)
    x = (batch.pixels.expand(-1, 3, -1, -1) / 255 - mean) / std
    bench.theirs = bench.whole(lambda: train(model, optimizer, [(x, batch.target)] * ACCUM, bench.device))
    for _ in range(3):
        bench.theirs()
    seconds = statistics.median(timed(bench.theirs) for _ in range(3 * TURNS))
    return [
        Figure(
            "published loop", BATCH * ACCUM / seconds, unit="images/s", details={"batch": BATCH, "accum_steps": ACCUM}
        )
    ]


def fastest(rate: Callable[[int], float], first: int, most: int) -> tuple[int, dict[int, float]]:
    """Double the batch until the memory is full or 2 % are not gained: the best size, and images/s of all."""
    import torch

    rates: dict[int, float] = {}
    size = first
    while size <= most:
        gc.collect()
        try:
            rates[size] = rate(size)
        except torch.OutOfMemoryError:
            break
        if size > first and rates[size] < 1.02 * max(value for tried, value in rates.items() if tried < size):
            break
        size *= 2
    if not rates:
        raise torch.OutOfMemoryError(f"a batch of {first} does not fit")
    return max(rates, key=lambda tried: rates[tried]), rates


def step_rate(bench: Bench, run: Training, size: int) -> float:
    """Images/s of a few steps; the first ones, in which kernels are picked, are not counted."""
    work = bench.whole(partial(run.run, [bench.images(size)] * 4))
    work()
    return statistics.median(4 * size / timed(work) for _ in range(3))


def against(bench: Bench, run: Training, name: str, size: int, goal: str, **details: Any) -> Figure:
    """Steps of `size` images and of the published loop in turns."""
    from published import ACCUM, BATCH

    assert bench.theirs is not None, "row published was not measured"
    batches = [bench.images(size)] * 4
    mine, theirs = alternated(bench.whole(lambda: run.run(batches)), bench.theirs, 2 * TURNS, warm=2)
    rates = {
        "images_per_s": 4 * size / statistics.median(mine),
        "published_images_per_s": BATCH * ACCUM / statistics.median(theirs),
        "batch": size,
    }
    return ratio(name, [s / (BATCH * ACCUM) for s in theirs], [s / (4 * size) for s in mine], goal, **rates, **details)


def step(bench: Bench, objective: str, *flags: str) -> list[Figure]:
    """Batch 16 and the best batch against the published loop, and the share of the card's rate of the best one."""
    run = bench.train(objective, bench.small, *flags)
    best, rates = fastest(partial(step_rate, bench, run), bench.small, 8 if bench.args.smoke else 1024)
    if not flags:
        bench.best[objective] = best
    title = f"step, {objective}{''.join(f' {flag}' for flag in flags)}"
    plain = not flags or flags == ("--compile",)
    tried = {"images_per_s_by_batch": rates}
    found = [
        against(
            bench,
            run,
            f"{title}, batch {bench.small}, images/s against the published",
            bench.small,
            ">= 3" if plain else "",
        ),
        against(
            bench, run, f"{title}, batch {best}, images/s against the published", best, ">= 4" if plain else "", **tried
        ),
    ]
    goal = ">= 0.3" if plain and objective == "consistency" else ""
    return found + bench.share(
        f"{title}, batch {best}, share of the matmul rate", objective, found[1].details["images_per_s"], goal, aim=0.4
    )


def compiled(bench: Bench, objective: str, best: bool) -> list[Figure]:
    """torch.compile, at the best batch of the plain step or at 16: each size takes a minute or more."""
    size = bench.best.get(objective, bench.small) if best else bench.small
    run, batch = bench.train(objective, size, "--compile"), bench.images(size)
    first = timed(bench.whole(lambda: run.run([batch])))
    title = f"step, {objective} --compile, batch {size}"
    found = against(
        bench, run, f"{title}, images/s against the published", size, ">= 4" if best else ">= 3", first_step_s=first
    )
    goal = ">= 0.3" if objective == "consistency" and best else ""
    return [
        found,
        *bench.share(f"{title}, share of the matmul rate", objective, found.details["images_per_s"], goal, aim=0.4),
    ]


def peak_memory(bench: Bench) -> list[Figure]:
    """Most memory of a training with batch 8, 24 views: weights, gradients, optimiser, activations, working space."""
    import torch

    figures = []
    for objective in ("consistency", "evidence"):
        for flags in ((), ("--checkpoint_activations",)):
            name = f"memory, {objective}, batch 8{''.join(f' {flag}' for flag in flags)}"
            if bench.device.type != "cuda":
                bench.train(objective, 8, *flags).run([bench.images(8)] * 2)
                figures.append(Figure(name, None, "<= 6", "GB", "the device is not a GPU"))
                continue
            cleared(bench)
            before = torch.cuda.memory_allocated(bench.device)  # of the published loop, which the rows share
            run = bench.train(objective, 8, *flags)
            torch.cuda.reset_peak_memory_stats(bench.device)
            run.run([bench.images(8)] * 3)
            bench.wait()
            most = torch.cuda.max_memory_allocated(bench.device) - before
            figures.append(Figure(name, most / 1e9, "<= 6", "GB", details={"GB": "10^9 bytes, allocated by torch"}))
            del run
    return figures


def inference(bench: Bench) -> list[Figure]:
    """Full, crop and drop as infer_roi_consistency.py computes them, probabilities copied to the host."""
    import torch
    from published import PublishedModel, predict_one

    from roi.labels import LABELS
    from roi.scoring.predictions import PARTS
    from roi.training.loop import predict

    model = bench.train("consistency", 1).model.eval()

    def ours(batches: Iterable[Batch]) -> None:
        for _, views in predict(model, batches, bench.device, torch.bfloat16, 0.1, lambda index: None):
            for part in PARTS:
                getattr(views, f"logits_{part}").sigmoid().cpu()

    def rate(size: int) -> float:
        batches = [bench.images(size)] * 4
        ours(batches)
        return statistics.median(4 * size / timed(bench.whole(lambda: ours(batches))) for _ in range(3))

    best, rates = fastest(rate, bench.small, 8 if bench.args.smoke else 2048)
    single, x = PublishedModel(model.backbone).to(bench.device).eval(), model.normalise(bench.images(1).pixels)
    many = [bench.images(best)] * 4
    mine, theirs = alternated(
        bench.whole(lambda: ours(many)), bench.whole(lambda: [predict_one(single, x, LABELS) for _ in range(32)]), TURNS
    )
    per_image = [s / (4 * best) for s in mine], [s / 32 for s in theirs]
    speed = 1 / statistics.median(per_image[0])
    details = {
        "images_per_s": speed,
        "published_images_per_s": 1 / statistics.median(per_image[1]),
        "batch": best,
        "images_per_s_by_batch": rates,
    }
    name = f"inference full + crop + drop, batch {best}"
    return [
        ratio(f"{name}, images/s against one at a time", per_image[1], per_image[0], "", **details),
        *bench.share(f"{name}, share of the matmul rate", "inference", speed, ">= 0.45"),
    ]


def forward_ten_times(layer: torch.nn.Module, x: torch.Tensor) -> None:
    for _ in range(10):
        layer(x)


def both_ways_ten_times(layer: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> None:
    for _ in range(10):
        layer(x).backward(grad)


def depthwise(bench: Bench) -> list[Figure]:
    """Each depthwise convolution shape of the backbone alone: three views of 16 images, both ways, channels last."""
    import torch

    figures = []
    for (channels, side, kernel), times in depthwise_shapes(bench).items():
        views, took = 3 * bench.small, {}
        for name, layout in (("channels last", torch.channels_last), ("contiguous", torch.contiguous_format)):
            layer = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
            layer = layer.to(bench.device, torch.bfloat16, memory_format=layout)  # type: ignore[call-overload]
            x = (
                torch.randn(views, channels, side, side, device=bench.device, dtype=torch.bfloat16)
                .contiguous(memory_format=layout)
                .requires_grad_()
            )
            grad = torch.randn_like(x)
            forward = bench.whole(partial(forward_ten_times, layer, x))
            both = bench.whole(partial(both_ways_ten_times, layer, x, grad))
            for key, work in (("forward", forward), ("forward and backward", both)):
                work()
                took[f"{name}, {key}, ms"] = 100 * statistics.median(timed(work) for _ in range(TURNS))
        details = {
            "layers": times,
            "views": views,
            "GB/s of forward": 2 * 2 * views * channels * side**2 / took["channels last, forward, ms"] / 1e6,
        }
        title = f"depthwise {kernel} x {kernel}, {channels} channels at {side} x {side}, forward and backward"
        figures.append(
            Figure(title, took["channels last, forward and backward, ms"], unit="ms", details=took | details)
        )
    return figures or [Figure("depthwise", None, why="the backbone has no depthwise convolution")]


def depthwise_shapes(bench: Bench) -> dict[tuple[int, int, int], int]:
    """-> (channels, side, kernel): how many layers have it"""
    import torch
    from torch import nn

    model = bench.train("consistency", 1).model.eval()
    found: dict[tuple[int, int, int], int] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        key = (layer.in_channels, inputs[0].shape[-1], layer.kernel_size[0])
        if output.shape == inputs[0].shape:
            found[key] = found.get(key, 0) + 1

    for layer in model.backbone.modules():
        if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
            layer.register_forward_hook(note)
    with torch.no_grad():
        model.backbone(torch.zeros(1, 3, bench.args.img_size, bench.args.img_size, device=bench.device))
    return found


def launches(bench: Bench) -> list[Figure]:
    """What an operator costs whose work is nothing, and what it costs to read a number back."""
    import torch

    x = torch.zeros(1, device=bench.device)
    tiny = bench.whole(lambda: [x.add_(1) for _ in range(1000)])
    read = bench.whole(lambda: [x.add_(1).item() for _ in range(100)])
    tiny()
    return [
        Figure("launch of an operator", 1e3 * statistics.median(timed(tiny) for _ in range(2 * TURNS)), unit="µs"),
        Figure("launch and .item()", 1e4 * statistics.median(timed(read) for _ in range(2 * TURNS)), unit="µs"),
    ]


def loader(bench: Bench) -> list[Figure]:
    """CacheLoader alone: from the memory of the host through pinned pages, and with all pixels on the device."""
    from roi.data.loader import CacheLoader
    from roi.data.pixel_cache import PixelCache
    from roi.data.sampler import ShardedBatchSampler
    from roi.labels import LABELS

    rows, size = (64, 8) if bench.args.smoke else (16384, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (rows, bench.args.img_size, bench.args.img_size), dtype=np.uint8)
    cache, targets = PixelCache(pixels, np.arange(rows), {}), np.zeros((rows, len(LABELS)), dtype=np.float32)
    figures = []
    for name, on_device in (("from the host", False), ("on the device", True)):
        batches = CacheLoader(cache, targets, ShardedBatchSampler(rows, size, seed=0), bench.device, on_device, 6)
        epoch = bench.whole(lambda batches=batches: [batch.to(bench.device) for batch in batches])  # type: ignore[misc]
        epoch()
        rate = rows / statistics.median(timed(epoch) for _ in range(3))
        figures.append(
            Figure(
                f"loader, pixels {name}, batch {size}",
                rate,
                unit="images/s",
                details={"rows": rows, "MB": pixels.nbytes / 1e6},
            )
        )
    return figures


def gradnorm(bench: Bench) -> list[Figure]:
    """A step with learned loss weights, against one with fixed ones."""
    figures = []
    for objective in ("consistency", "evidence"):
        batches = [bench.images(bench.small)] * 4
        learned, fixed = bench.train(objective, bench.small, "--dynamic_weights"), bench.train(objective, bench.small)
        mine, plain = alternated(
            bench.whole(partial(learned.run, batches)), bench.whole(partial(fixed.run, batches)), 2 * TURNS, warm=2
        )
        name = f"step with GradNorm against one without, {objective}, batch {bench.small}"
        figures.append(
            ratio(
                name,
                mine,
                plain,
                "<= 1.03",
                step_s=statistics.median(mine) / 4,
                plain_step_s=statistics.median(plain) / 4,
            )
        )
        del learned, fixed
        cleared(bench)
    return figures


def syncs(bench: Bench) -> list[Figure]:
    """Steps in which torch may not wait for the GPU (it raises where it would), pixels from host and device."""
    from roi.data.loader import CacheLoader
    from roi.data.pixel_cache import PixelCache
    from roi.data.sampler import ShardedBatchSampler
    from roi.labels import LABELS

    rows = 4 * bench.small
    pixels = np.random.default_rng(0).integers(0, 256, (rows, bench.args.img_size, bench.args.img_size), dtype=np.uint8)
    cache, targets = PixelCache(pixels, np.arange(rows), {}), np.zeros((rows, len(LABELS)), dtype=np.float32)
    found: dict[str, str] = {}
    kinds = [(o, *flags) for o in ("consistency", "evidence") for flags in ((), ("--dynamic_weights",))] + [
        ("evidence", "--warmup_epochs", "2")
    ]
    for objective, *flags in kinds:
        run = bench.train(objective, bench.small, *flags)
        for place, on_device in (("host", False), ("device", True)):
            batches = CacheLoader(
                cache, targets, ShardedBatchSampler(rows, bench.small, seed=0), bench.device, on_device, 2
            )
            run.run(batches)  # what is done once may wait
            found[" ".join([objective, *flags, f"({place})"])] = waited(bench, run, batches)
        del run
    waits = {name: why for name, why in found.items() if why}
    why = "" if bench.device.type == "cuda" else "the device is not a GPU"
    return [
        Figure(
            "kinds of steps that wait for the GPU",
            None if why else len(waits),
            "<= 0",
            f"of {len(found)}",
            why,
            {"waits": waits},
        )
    ]


def waited(bench: Bench, run: Training, batches: Iterable[Batch]) -> str:
    """-> where a step waits, "" if nowhere"""
    import torch

    meter = run.meter()
    if bench.device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in run.steps(batches, meter):
            pass
    except RuntimeError as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if "/roi/" in frame.filename or "benchmarks" in frame.filename
        ]
        return (
            f"{error} at {Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}"
            if frames
            else str(error)
        )
    finally:
        if bench.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    meter.flush()
    return ""


ROWS: dict[str, Callable[[Bench], list[Figure]]] = {
    "matmul": matmul,
    "published": published,
    "consistency": lambda bench: step(bench, "consistency"),
    "evidence": lambda bench: step(bench, "evidence"),
    "memory": peak_memory,
    "inference": inference,
    "gradnorm": gradnorm,
    "syncs": syncs,
    "launches": launches,
    "depthwise": depthwise,
    "loader": loader,
    "consistency_checkpointed": lambda bench: step(bench, "consistency", "--checkpoint_activations"),
    "evidence_checkpointed": lambda bench: step(bench, "evidence", "--checkpoint_activations"),
    "consistency_compiled": lambda bench: compiled(bench, "consistency", best=True),
    "consistency_compiled_16": lambda bench: compiled(bench, "consistency", best=False),
    "evidence_compiled": lambda bench: compiled(bench, "evidence", best=True),
    "evidence_compiled_16": lambda bench: compiled(bench, "evidence", best=False),
}

if __name__ == "__main__":
    cli.run(main, parse_args)
