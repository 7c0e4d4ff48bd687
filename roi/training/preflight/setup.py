"""--check: all that a training needs, looked at in a minute, with a step of made-up pixels; nothing is written."""

import argparse
import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from roi import accelerator, distributed
from roi.accelerator import GIB
from roi.data.dataset import Batch, StudyBatch
from roi.data.images import locate, read_grey
from roi.data.sampler import ShardedBatchSampler
from roi.errors import UserError
from roi.labels import LABELS
from roi.losses.gradnorm import FixedWeights
from roi.losses.terms import bce
from roi.models.roi_model import RoiModel
from roi.progress import say
from roi.text import counted
from roi.training import setup
from roi.training.device import explain_error, pick_device, pick_dtype
from roi.training.flags import resolve_augment, select_flags
from roi.training.loop import LossesFn, Meter, Step, train_one_epoch
from roi.training.metrics_log import VIEW_LOSS
from roi.training.multiview import setup as study_setup
from roi.training.multiview.objective import StudyTerms
from roi.training.objective import WeightFlags, loss_weights
from roi.training.optim import make_optimizer
from roi.training.preflight.first_lines import device_text, parameters_of
from roi.training.preflight.flags import is_check
from roi.training.preflight.forecast import FORWARDS, in_words, short
from roi.training.preflight.needs import find_weights, gigabytes, rooms
from roi.training.rows import RowFlags, choose_rows
from roi.training.start import Start, StartFlags, find_start

NIH_TRAINING_IMAGES = 86_524  # of the official train_val list, for who has no table yet
DECODED = 16  # images that are read to see how long it takes
NOTHING = Start(Path("-"))  # a run that begins from no checkpoint
SLOW = 10.0  # seconds of a batch with masks, above which one without is not tried
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
    return check(args, partial(look, args, mask, without))


def train_studies(args: argparse.Namespace) -> int:
    """The same for train_multiview.py."""
    if not is_check(args):
        return study_setup.train_studies(args)
    return check(args, partial(look_at_studies, args))


def check(args: argparse.Namespace, look_at: Callable[[torch.device], list[str]]) -> int:
    """Look; the exit code. UserError: something stands in the way."""
    with distributed.processes(pick_device(args.device)) as device:
        try:
            problems = [problem for problem in look_at(device) if problem]
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
    start = find_start(select_flags(StartFlags, args)) if args.save else NOTHING
    setup.resolve_from_start(args, start, mask)
    data = find_data(args, mask)
    weights = "none" if start.checkpoint else args.weights
    # Weights are looked for, not fetched: the step is as long with any.
    args.weights = "none"
    model = setup.make_model(args, data.classes, mask, NOTHING).to(device)
    problems = say_needs(args, weights, data, model, device, dtype)
    setup.set_trainable(args, model, without, NOTHING)
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, (args.batch_size, len(data.classes))).astype(np.float32)
    batch = Batch(made_up(args.batch_size, args.img_size), torch.from_numpy(target), torch.arange(args.batch_size), [])
    losses_fn = setup.make_losses_fn(args, lambda: target, setup.learns_evidence(args, mask), device)
    balance = loss_weights(select_flags(WeightFlags, args), model, without, device)
    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    one_step = partial(run_step, model, losses_fn, balance, optimizer, batch, device, dtype)
    seconds: dict[bool, float] = {}
    for masked in phases(args, mask):
        # A check takes seconds where it can: what is known of one kind of step says enough of the other.
        if seconds.get(True, 0.0) > SLOW:
            seconds[masked] = seconds[True] * FORWARDS[False] / FORWARDS[True]
            continue
        seconds[masked] = measure(one_step, args.warmup_epochs if masked else 0, device)
        kind = "with masks" if masked else "without masks"
        say(f"step {kind}: {args.batch_size} images in {short(seconds[masked])} s; {memory_text(device)}")
    say_forecast(args, data, seconds)
    return problems


def look_at_studies(args: argparse.Namespace, device: torch.device) -> list[str]:
    """The same for studies, each with as many images as one may have."""
    resolve_augment(args)
    dtype = pick_dtype(args.autocast_dtype, device)
    start = find_start(select_flags(StartFlags, args))
    study_setup.resolve_init(args, start)
    query_file = study_setup.resolve_queries(args, start)
    setup.resolve_from_start(args, start, "none")
    data = find_data(args, "none")
    weights = "none" if start.resumed else args.weights
    args.weights = "none"
    model = study_setup.make_study_model(args, data.classes, NOTHING, query_file).to(device)
    problems = say_needs(args, weights, data, model, device, dtype)
    images = args.batch_size * args.max_views
    rows = torch.arange(images)
    owner = rows // args.max_views
    studies = StudyBatch(rows.reshape(args.batch_size, args.max_views), owner, torch.zeros_like(rows), rows)
    target = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (args.batch_size, len(data.classes))))
    batch = Batch(made_up(images, args.img_size), target.float(), torch.arange(args.batch_size), [], studies=studies)
    losses_fn = StudyTerms(bce, setup.augment_of(args), args.seed, args.view_weight)
    balance = FixedWeights({"full": 1.0, VIEW_LOSS: args.view_weight})
    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    one_step = partial(run_step, model, losses_fn, balance, optimizer, batch, device, dtype)
    seconds = measure(one_step, 0, device)
    say(f"step: {args.batch_size} studies of {args.max_views} images in {short(seconds)} s; {memory_text(device)}")
    # Of a batch that has as many images as --batch_size: the forecast counts images.
    say_forecast(args, data, {False: seconds / args.max_views})
    return problems


def say_needs(
    args: argparse.Namespace,
    weights: str,
    data: Data,
    model: RoiModel,
    device: torch.device,
    dtype: torch.dtype,
) -> list[str]:
    """Weights, model, disk and device; -> what stands in the way, "" for what does not."""
    found = find_weights(args.backbone, weights)
    say(f"weights: {found.text}")
    problems = [found.problem]
    parameters = parameters_of(model)
    say(f"model: {args.backbone}, {parameters / 1e6:.1f} million parameters, {len(data.classes)} classes")
    save = Path(args.save or "checkpoints/model.pt")
    for room in rooms(save, parameters, args.cache_dir, data.images + data.validation, args.img_size):
        say(f"disk: {room.text}")
        problems.append(room.problem)
    say(f"device: {device_text(device)}, {str(dtype).removeprefix('torch.')}")
    return problems


def made_up(images: int, img_size: int) -> torch.Tensor:
    """Pixels of noise (images, 1, S, S): a step takes as long on them as on X-rays."""
    shape = (images, 1, img_size, img_size)
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


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
    # From the disk as it is: a second look would find the files in memory.
    began = perf_counter()
    for path in paths:
        read_grey(path, args.img_size)
    decode = (perf_counter() - began) / len(paths)
    return Data(len(rows.train), 0 if rows.val is None else len(rows.val), rows.classes, decode)


def phases(args: argparse.Namespace, mask: str) -> list[bool]:
    """The kinds of epochs of the run, by whether they have masks; the one that needs most memory first."""
    if mask == "none" or args.freeze_backbone:
        return [False]
    # Without a warm-up every epoch has masks.
    if not args.warmup_epochs:
        return [True]
    return [True, False]


def measure(one_step: Callable[[int], float], epoch: int, device: torch.device) -> float:
    """Seconds of a step of an epoch."""
    seconds = one_step(epoch)
    # The first time allocates, and tries kernels; on a slow machine it is not worth another.
    if seconds < QUICK or device.type != "cpu":
        seconds = one_step(epoch)
    return seconds


def run_step(  # what a step is made of
    model: RoiModel,
    losses_fn: LossesFn,
    balance: FixedWeights,
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
    for _ in train_one_epoch(
        step,
        [batch],
        epoch,
        balance,
        optimizer,
        scaler,
        meter,
        device,
        dtype,
        1,
        sampler.shares,
    ):
        meter.flush()
    return perf_counter() - began


def memory_text(device: torch.device) -> str:
    own = accelerator.of(device)
    memory = own.memory()
    if memory:
        return f"{own.peak_memory() / GIB:.1f} GiB of {memory.total / GIB:.0f} GiB of GPU memory at most"
    # Kilobytes; on a Mac bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{gigabytes(peak)} of memory at most"


def say_forecast(args: argparse.Namespace, data: Data, seconds: dict[bool, float]) -> None:
    """How long the whole run takes, and what of it is decoding.

    Args:
        seconds: of a batch, by whether it has masks
    """
    # The processes share the images of an epoch.
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
    epochs_of_images = f"{counted(args.epochs, 'epoch')} of {counted(data.images, 'image')}"
    text = f"forecast: {epochs_of_images} take about {in_words(total)} of computing"
    if args.freeze_backbone:
        text = f"forecast: at most {in_words(total)}; features of the frozen backbone are computed once, not each epoch"
    if data.decode is not None:
        # Decoding goes on beside the computing, by as many processes.
        workers = max(1, args.workers)
        once = data.decode * (data.images + data.validation) / workers
        often = "once" if args.cache_dir else "in every epoch, beside it (--cache_dir keeps them)"
        text += f"; all images are decoded in {in_words(once)} by {counted(workers, 'worker')}, {often}"
    say(text)
