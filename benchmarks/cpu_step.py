"""A step of training on a CPU: what the evidence objective costs beside `standard`, and what makes it cheaper.

    python benchmarks/cpu_step.py
    python benchmarks/cpu_step.py --rows step --backbones test_resnet:96:32

step    One thread, random pixels, the same weights and batch on both sides, in turns (ABAB …). Times are processor
        time, so that what else the machine does counts less; each figure is the median over the turns of a ratio.
        Operators are those of torch's own counter, a multiplication and an addition each. What a variant changes in
        the loss is the largest difference of a term in the first step: 0 is bit for bit.
frozen  An epoch of the head and the maps on features of 600 images that are there, their loader included, beside as
        many steps of fine-tuning on pixels that are there. Validation and checkpoints are left out on both sides.
compile  The step with --compile beside the same without, and what it takes until the third step is done, compilers
        included: processor time from an empty cache, one compiler at a time. Not among the default rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from harness import Figure, Training, add_machine, drawn, table, training, write_result
from torch.utils.flop_counter import FlopCounterMode

from roi import cli
from roi.data.dataset import Batch
from roi.data.sampler import ShardedBatchSampler
from roi.labels import LABELS
from roi.losses import objectives
from roi.losses.objectives import RandomViews, label_terms
from roi.models.backbones import classifier_layer
from roi.models.compile import compiled
from roi.models.masks import kept_pixels
from roi.models.roi_model import ModelOptions, RoiModel, build_model
from roi.training.device import pick_device
from roi.training.flags import select_flags
from roi.training.frozen_features import FeatureArrays, FeatureLoader, compute_features
from roi.training.loop import Step
from roi.training.objective import WeightFlags, loss_weights
from roi.training.optim import learn_only, make_optimizer
from roi.training.recipes import MODES

CPU = torch.device("cpu")
BACKBONES = ("test_resnet:96:32", "resnet18:128:8")  # name, side, batch
VIEW_SHARES = (0.5, 0.33, 0.25)
FROZEN = ("test_resnet", "resnet18")
IMAGES, SIDE, BATCH = 600, 96, 32  # of an epoch of a frozen backbone
Work = Callable[[], object]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    kinds, default = ("step", "frozen", "compile"), ["step", "frozen"]
    rows = "which are measured (default: step frozen)"
    parser.add_argument("--rows", nargs="+", choices=kinds, default=default, help=rows)
    sizes = "of the step: name, side in pixels and images a batch (default: %(default)s)"
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), metavar="NAME:PX:B", help=sizes)
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="of each pair (default: %(default)s)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    pick_device("cpu")  # as the scripts do: freed memory is kept
    if "step" in args.rows:
        for words in args.backbones:
            name, side, images = words.split(":")
            figures = steps(name, int(side), int(images), args.turns)
            # A file each: large backbones take long, and what is done stays.
            save(name, f"--rows step --backbones {words} --turns {args.turns}", args.machine, figures)
    if "compile" in args.rows:
        for words in args.backbones:
            name, side, images = words.split(":")
            figures = compiling(name, int(side), int(images), args.turns)
            save(f"compile_{name}", f"--rows compile --backbones {words} --turns {args.turns}", args.machine, figures)
    if "frozen" in args.rows:
        figures = []
        for name in FROZEN:
            figures += frozen(name, args.turns)
        save("frozen", f"--rows frozen --turns {args.turns}", args.machine, figures)


def save(row: str, flags: str, machine: str, figures: list[Figure]) -> None:
    print(table(figures), flush=True)
    result = {
        "what": "a step of training on a CPU; medians over turns of ratios of processor time",
        "command": f"python benchmarks/cpu_step.py {flags}",
        "figures": [figure.as_dict() for figure in figures],
    }
    print(write_result(f"cpu_step_{row}", machine, result), flush=True)


def steps(name: str, side: int, images: int, turns: int) -> list[Figure]:
    """All figures of one backbone."""
    batch = drawn(images, side, CPU)
    make = partial(evidence, name, side, images)
    ours, warm_up, plain = make(), make("--warmup_epochs", 1), standard(name, side, images)
    at = f"{name} {side} px, {images} a batch"
    below = operators(plain, batch)
    figures = [
        compare(f"evidence / standard, {at}", one_step(ours, batch), one_step(plain, batch), turns, "<= 1.6"),
        Figure(f"… operators, {at}", operators(ours, batch) / below),
        compare(f"warm-up / standard, {at}", one_step(warm_up, batch), one_step(plain, batch), turns),
        Figure(f"… operators, {at}", operators(warm_up, batch) / below),
    ]
    for share in VIEW_SHARES:
        run = make("--view_share", share)
        title = f"evidence with --view_share {share:g} / standard, {at}"
        figures.append(compare(title, one_step(run, batch), one_step(plain, batch), turns, "<= 1.6"))
        figures.append(Figure(f"… operators, {at}", operators(run, batch) / below))
    for part, work in parts(ours.model, batch, ours.args.keep_ratio).items():
        figures.append(compare(f"{part}, of the evidence step, {at}", work, one_step(ours, batch), turns))
    figures.append(views_together(ours.model, batch, turns, at))
    for variant in variants(make):
        difference = largest_difference(make(), variant, batch)
        work = one_step(variant.run, batch, variant.patch)
        title = f"{variant.name} / default, {at}"
        figures.append(compare(title, work, one_step(ours, batch), turns, loss_differs_by=difference))
    return figures


def evidence(name: str, side: int, images: int, *flags: object, dtype: torch.dtype | None = None) -> Training:
    """The evidence objective after its warm-up, unless `flags` say otherwise."""
    return training("evidence", name, side, CPU, "--batch_size", images, *flags, dtype=dtype)


def standard(name: str, side: int, images: int, *flags: object) -> Training:
    """The classifier alone, as --mode standard trains it."""
    run = training("consistency", name, side, CPU, "--batch_size", images, *flags)
    mode, args = MODES["standard"], run.args
    options = ModelOptions(channels_last=args.channels_last)
    run.model = build_model(name, len(LABELS), "none", "none", side, args.seed, options=options)
    run.balance = loss_weights(select_flags(WeightFlags, args), run.model, mode.without, CPU)
    if args.compile:
        compiled(run.model)
    run.optimizer = make_optimizer(run.model, args.lr, args.weight_decay, args.mask_lr)
    run.step = Step(run.model, run.step.losses_fn)
    return run


def parts(model: RoiModel, batch: Batch, keep_ratio: float) -> dict[str, Work]:
    """What the evidence step does beside convolutions, each alone."""
    model.train()
    x = model.normalise(batch.pixels)
    size = (x.shape[-2], x.shape[-1])
    with torch.no_grad():
        logits, maps = model.logits_and_maps(x)
    random = RandomViews.draw(batch.index, batch.target, size, 0.5)
    pixels = kept_pixels(*size, keep_ratio)

    def masks() -> None:
        score = maps.clone().requires_grad_()
        found = objectives._masks_of_step(model, score, logits, batch.target, random, pixels)
        (found.kept.sum() + found.dropped.sum()).backward()

    return {
        "bytes to floats": lambda: model.normalise(batch.pixels),
        "random views": lambda: RandomViews.draw(batch.index, batch.target, size, 0.5),
        "masks, with their gradients": masks,
    }


def views_together(model: RoiModel, batch: Batch, turns: int, at: str) -> Figure:
    """Two views as one batch over one after the other, both without gradients of weights, batch norm over both.

    What batching can save at most: statistics of each view and gradients of the crop's weights would come on top.
    """
    model.train()
    x = model.normalise(batch.pixels)
    both = torch.cat([x, x])

    def forward_and_back(images: torch.Tensor) -> None:
        images = images.clone().requires_grad_()
        with objectives.frozen(model.backbone):
            logits = model.backbone(images)
        logits.sum().backward()

    def one_by_one() -> None:
        forward_and_back(x)
        forward_and_back(x)

    return compare(f"two views in one batch / in two, {at}", lambda: forward_and_back(both), one_by_one, turns)


@dataclass(frozen=True)
class Variant:
    """A way to compute the evidence step that is not the default."""

    name: str
    run: Training
    patch: Callable[[], AbstractContextManager[None]] = nullcontext


def variants(make: Callable[..., Training]) -> Iterator[Variant]:
    """What was tried, one by one."""
    yield Variant("drop view with gradients of weights", make(), weights_learn_from_drop)
    run = make()
    yield Variant("maps from a forward of their own", run, partial(maps_apart, run.model))
    yield Variant("channels first", make("--no-channels_last"))
    yield Variant("bf16", make(dtype=torch.bfloat16))


@contextmanager
def weights_learn_from_drop() -> Iterator[None]:
    """The drop view as it would be if the classifier learned from it."""
    frozen_before = objectives.frozen
    objectives.frozen = nullcontext  # type: ignore[assignment]
    try:
        yield
    finally:
        objectives.frozen = frozen_before


@contextmanager
def maps_apart(model: RoiModel) -> Iterator[None]:
    """The maps made from features of a second forward, which learns nothing."""
    together = model.logits_and_maps

    def apart(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            model.backbone(x)
        return together(x)

    model.logits_and_maps = apart  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.logits_and_maps


def largest_difference(default: Training, variant: Variant, batch: Batch) -> float:
    """The largest difference of a term of the first step."""
    expected = first_losses(default, batch)
    with variant.patch():
        found = first_losses(variant.run, batch)
    return max(abs(found[term] - expected[term]) for term in expected)


def first_losses(run: Training, batch: Batch) -> dict[str, float]:
    run.step.train()
    with torch.no_grad(), torch.autocast("cpu", run.dtype, enabled=run.dtype != torch.float32):
        return {term: value.item() for term, value in run.step(batch, 0).items()}


def one_step(run: Training, batch: Batch, patch: Callable[[], AbstractContextManager[None]] = nullcontext) -> Work:
    def work() -> None:
        with patch():
            run.run([batch])

    return work


def operators(run: Training, batch: Batch) -> float:
    """Floating point operations of a step, in the convolutions and matrix products that torch counts."""
    with FlopCounterMode(display=False) as counter:
        run.run([batch])
    return float(counter.get_total_flops())


def compare(name: str, above: Work, below: Work, turns: int, goal: str = "", **details: float) -> Figure:
    """Median over the turns of the processor time of `above` over that of `below`; the first turn is not counted."""
    seconds: list[tuple[float, float]] = []
    for _ in range(turns + 1):
        seconds.append((processor_seconds(above), processor_seconds(below)))
    counted = seconds[1:]
    ratios = [first / second for first, second in counted]
    spread = {"lowest": min(ratios), "highest": max(ratios), "turns": turns}
    milliseconds = {
        "ms": 1e3 * statistics.median(first for first, _ in counted),
        "ms_of_other": 1e3 * statistics.median(second for _, second in counted),
    }
    return Figure(name, statistics.median(ratios), goal, details=spread | milliseconds | details)


def processor_seconds(work: Work) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def compiling(name: str, side: int, images: int, turns: int) -> list[Figure]:
    """What --compile costs first, and what a step takes then; the evidence step, and that of `standard`."""
    batch = drawn(images, side, CPU)
    at = f"{name} {side} px, {images} a batch"
    figures = []
    for kind, make in (("evidence", evidence), ("standard", standard)):
        with tempfile.TemporaryDirectory() as cache:
            os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            plain, fast = make(name, side, images), make(name, side, images, "--compile")
            expected, began = first_losses(plain, batch), seconds_with_children()
            found = first_losses(fast, batch)
            difference = max(abs(found[term] - expected[term]) for term in expected)
            for _ in range(3):
                fast.run([batch])
            spent = seconds_with_children() - began
            # `standard` finds what evidence has compiled.
            if kind == "evidence":
                figures.append(Figure(f"{kind}, until three steps are done with --compile, {at}", spent, unit="s"))
            title = f"{kind} with --compile / without, {at}"
            work = one_step(fast, batch), one_step(plain, batch)
            figures.append(compare(title, *work, turns, loss_differs_by=difference))
    return figures


def seconds_with_children() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def frozen(name: str, turns: int) -> list[Figure]:
    """An epoch of fine-tuning over one of a frozen backbone, after its features are there."""
    batch = drawn(BATCH, SIDE, CPU)
    run, loader = frozen_run(name, batch)
    figures = []
    for kind, other in (("evidence", evidence(name, SIDE, BATCH)), ("standard", standard(name, SIDE, BATCH))):
        title = f"epoch of fine-tuning ({kind}) / frozen, {name} {SIDE} px, {IMAGES} images, {BATCH} a batch"
        step_over_epoch = compare(title, one_step(other, batch), lambda: run.run(loader), turns)
        epoch_over_epoch = (step_over_epoch.value or 0.0) * IMAGES / BATCH
        figures.append(Figure(title, epoch_over_epoch, ">= 30", details=step_over_epoch.details))
    return figures


def frozen_run(name: str, batch: Batch) -> tuple[Training, FeatureLoader]:
    """The training of a head and its maps, and batches of the features of IMAGES images, all in memory."""
    run = evidence(name, SIDE, BATCH, "--freeze_backbone")
    model = run.model
    learn_only(model, [classifier_layer(model.backbone)[0]])
    run.optimizer = make_optimizer(model, run.args.lr, run.args.weight_decay, run.args.mask_lr)

    def losses_fn(model: RoiModel, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        assert batch.features is not None
        logits, maps = model.read_features(batch.features.head, batch.features.stages)
        return label_terms(logits, maps, batch.target, batch.target, run.args.locate_sharpness)

    run.step = Step(model, losses_fn)
    features = compute_features(model.eval(), batch.pixels)
    rows = np.arange(IMAGES) % BATCH
    stages = [stage.half().numpy()[rows] for stage in features.stages]
    arrays = FeatureArrays(features.head.half().numpy()[rows], stages)
    sampler = ShardedBatchSampler(IMAGES, BATCH, seed=0)
    return run, FeatureLoader(arrays, batch.target.numpy()[rows], sampler)


if __name__ == "__main__":
    cli.run(main, parse_args)
