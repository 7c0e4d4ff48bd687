"""--check: all that a training needs, looked at in a minute, with a step of made-up pixels; nothing is written."""

import argparse
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from roi import distributed
from roi.data.dataset import Batch
from roi.data.images import locate, read_grey
from roi.data.sampler import ShardedBatchSampler
from roi.errors import UserError
from roi.labels import LABELS
from roi.models.roi_model import RoiModel
from roi.progress import say
from roi.training import setup
from roi.training.device import explain_error, pick_device, pick_dtype
from roi.training.flags import resolve_augment, select_flags
from roi.training.loop import LossesFn, Meter, Step, train_one_epoch
from roi.training.objective import WeightFlags, loss_weights
from roi.training.optim import make_optimizer
from roi.training.preflight.first_lines import device_text, parameters_of
from roi.training.preflight.flags import is_check
from roi.training.preflight.forecast import FORWARDS, in_words
from roi.training.preflight.needs import find_weights, gigabytes, rooms
from roi.training.rows import RowFlags, choose_rows
from roi.training.start import Start, StartFlags, find_start

NIH_TRAINING_IMAGES = 86_524  # of the official train_val list, for who has no table yet
DECODED = 16  # images that are read to see how long it takes
QUICK = 3.0  # seconds of a batch, below which it is run again without its first time


@dataclass(frozen=True)
class Data:
    """What would be trained on."""

    images: int
    validation: int
    classes: list[str]
    decode: float | None  # seconds an image; None where there is none to try


def train(args: argparse.Namespace, mask: str, without: Sequence[str] = ()) -> int:
    """setup.train, or with --check a look at all it needs."""
    if not is_check(args):
        return setup.train(args, mask, without)
    with distributed.processes(pick_device(args.device)) as device:
        try:
            problems = look(args, mask, without, device)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "a step of the check") from error
    if problems:
        raise UserError(f"check: {'; and '.join(problems)}")
    say("check: nothing stands in the way")
    return 0


def look(args: argparse.Namespace, mask: str, without: Sequence[str], device: torch.device) -> list[str]:
    """Say what there is; -> what stands in the way."""
    resolve_augment(args)
    dtype = pick_dtype(args.autocast_dtype, device)
    start = find_start(select_flags(StartFlags, args)) if args.save else Start(Path("-"))
    setup.resolve_from_start(args, start, mask)
    data = find_data(args, mask)
    weights = find_weights(args.backbone, "none" if start.checkpoint else args.weights)
    say(f"weights: {weights.text}")
    problems = [weights.problem]
    args.weights = "none"
    model = setup.make_model(args, data.classes, mask, Start(Path("-"))).to(device)
    parameters = parameters_of(model)
    say(f"model: {args.backbone}, {parameters / 1e6:.1f} million parameters, {len(data.classes)} classes")
    save = Path(args.save or "checkpoints/model.pt")
    for room in rooms(save, parameters, args.cache_dir, data.images + data.validation, args.img_size):
        say(f"disk: {room.text}")
        problems.append(room.problem)
    say(f"device: {device_text(device)}, {str(dtype).removeprefix('torch.')}")
    setup.set_trainable(args, model, without, Start(Path("-")))
    seconds = {masked: measure(args, mask, without, model, device, dtype, masked) for masked in phases(args, mask)}
    say_forecast(args, data, seconds)
    return [problem for problem in problems if problem]


def find_data(args: argparse.Namespace, mask: str) -> Data:
    """The rows of the tables; without a table what --check says, or the official list of NIH."""
    if not args.train_csv:
        count = args.check or NIH_TRAINING_IMAGES
        held = round(count * args.val_fraction)
        say(f"data: no table yet; forecast for {count:,} images, {held:,} of them for validation")
        return Data(count - held, held, list(LABELS), None)
    rows = choose_rows(select_flags(RowFlags, args))
    setup.check_flags(args, rows, mask)
    names = rows.train["image"].tolist()[:DECODED]
    paths = [path for path in locate(args.image_root, names) if path is not None]
    if not paths:
        raise UserError(f"none of the images is under {args.image_root}, the first is {names[0]}; check --image_root")
    began = perf_counter()
    for path in paths:
        read_grey(path, args.img_size)
    decode = (perf_counter() - began) / len(paths)
    return Data(len(rows.train), 0 if rows.val is None else len(rows.val), rows.classes, decode)


def phases(args: argparse.Namespace, mask: str) -> list[bool]:
    """The kinds of epochs of the run, by whether they have masks; the one that needs most memory first."""
    if mask == "none" or args.freeze_backbone:
        return [False]
    if not args.warmup_epochs:
        return [True]
    return [True, False]


def measure(
    args: argparse.Namespace,
    mask: str,
    without: Sequence[str],
    model: RoiModel,
    device: torch.device,
    dtype: torch.dtype,
    masked: bool,
) -> float:
    """Seconds of a batch forward and backward with its optimiser step; says what memory it took."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (args.batch_size, len(model.findings))).astype(np.float32)
    losses_fn = setup.make_losses_fn(args, lambda: target, setup.learns_evidence(args, mask), device)
    pixels = rng.integers(0, 256, (args.batch_size, 1, args.img_size, args.img_size), dtype=np.uint8)
    batch = Batch(torch.from_numpy(pixels), torch.from_numpy(target), torch.arange(args.batch_size), [])
    balance = loss_weights(select_flags(WeightFlags, args), model, without, device)
    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    one_step = partial(run_step, model, losses_fn, balance, optimizer, batch, device, dtype)
    epoch = args.warmup_epochs if masked else 0
    seconds = one_step(epoch)
    # The first time allocates, and tries kernels; on a slow machine it is not worth another.
    if seconds < QUICK or device.type != "cpu":
        seconds = one_step(epoch)
    kind = "with masks" if masked else "without masks"
    say(f"step {kind}: {args.batch_size} images in {seconds:.2g} s; {memory_text(device)}")
    return seconds


def run_step(  # what a step is made of
    model: RoiModel,
    losses_fn: LossesFn,
    balance: setup.FixedWeights,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
    dtype: torch.dtype,
    epoch: int,
) -> float:
    """One optimiser step of one batch; its seconds."""
    began = perf_counter()
    sampler = ShardedBatchSampler(len(batch.index), len(batch.index))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    meter = Meter(lambda index: ["made-up pixels"])
    step = Step(model, losses_fn)
    for _ in train_one_epoch(step, [batch], epoch, balance, optimizer, scaler, meter, device, dtype, 1, sampler.shares):
        meter.flush()
    return perf_counter() - began


def memory_text(device: torch.device) -> str:
    if device.type == "cuda":
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        return f"{peak / 2**30:.1f} GiB of {total / 2**30:.0f} GiB of GPU memory at most"
    # Kilobytes; on a Mac bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{gigabytes(peak)} of memory at most"


def say_forecast(args: argparse.Namespace, data: Data, seconds: dict[bool, float]) -> None:
    """How long the whole run takes, and what of it is decoding.

    Args:
        seconds: of a batch, by whether it has masks
    """
    together = args.batch_size * distributed.world()
    batches = -(-data.images // together)
    total = 0.0
    for masked, of_batch in seconds.items():
        epochs = args.epochs if len(seconds) == 1 else args.warmup_epochs
        if masked and len(seconds) > 1:
            epochs = args.epochs - args.warmup_epochs
        total += epochs * batches * of_batch
    # A validation is one forward, which is a third of a step without masks.
    forward = min(seconds.values()) / FORWARDS[False]
    if True in seconds and False not in seconds:
        forward = seconds[True] / FORWARDS[True]
    total += args.epochs * forward * data.validation / together
    text = f"forecast: {args.epochs} epochs of {data.images:,} images take about {in_words(total)} of computing"
    if args.freeze_backbone:
        text = f"forecast: at most {in_words(total)}; features of the frozen backbone are computed once, not each epoch"
    if data.decode is not None:
        workers = max(1, args.workers)
        once = data.decode * (data.images + data.validation) / workers
        often = "once" if args.cache_dir else "in every epoch, beside it (--cache_dir keeps them)"
        text += f"; {workers} workers decode all images in {in_words(once)}, {often}"
    say(text)
