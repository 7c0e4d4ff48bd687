"""What the train scripts share: from flags to a finished run.

The one module of this room that knows all flags. What it hands on are plain values, or the flags that a part asks for
as a small dataclass (flags.select_flags).
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roi import distributed, run_facts
from roi.data.augment import Augment
from roi.data.identity import fingerprints, set_names, training_sets
from roi.data.patients import named_patients
from roi.data.table import image_keys, tokens
from roi.errors import UserError
from roi.files import writable
from roi.labels import has_place
from roi.losses.gradnorm import FixedWeights
from roi.models.backbones import IMAGENET, classifier_layer, normalisation_of, say_normalisation
from roi.models.compile import compiled, recomputed
from roi.models.roi_model import LEARNED, ModelOptions, RoiModel, build_model
from roi.progress import say
from roi.training import checkpoint
from roi.training.checkpoint import Checkpoint
from roi.training.device import explain_error, pick_device, pick_dtype
from roi.training.flags import resolve_augment, select_flags
from roi.training.frozen_features import check_head
from roi.training.loaders import LoaderFlags, Loaders, make_loaders, names_of_batch, training_targets
from roi.training.loop import LossesFn
from roi.training.metrics_log import MetricsLog, early_log, validation_columns
from roi.training.objective import LabelLossFlags, TermsOfBatch, WeightFlags, check_maps, loss_weights, make_label_loss
from roi.training.optim import Schedule, averages, learn_only, make_optimizer
from roi.training.preflight.first_lines import FirstLinesFlags, Work, say_first_lines
from roi.training.preflight.forecast import Forecast
from roi.training.rows import RowFlags, Rows, check_sampler, check_validated, choose_rows, match_data, write_validation
from roi.training.start import Start, StartFlags, find_start, load_weights, pretrained, remember_seen, say_seen_before
from roi.training.training_run import TrainingRun


def train(args: argparse.Namespace, mask: str, without: Sequence[str] = ()) -> int:
    """Train with args.objective.

    Args:
        mask: one of roi/models/roi_model.py MASKS
        without: terms that get weight 0

    Returns:
        the exit code
    """
    with distributed.processes(pick_device(args.device)) as device:
        try:
            run = build_training_run(args, mask, without, device)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "the set-up") from error
        return run.run()


def build_training_run(
    args: argparse.Namespace, mask: str, without: Sequence[str], device: torch.device
) -> TrainingRun:
    """From flags to a run that is ready. All checks come before the first file is written or removed."""
    resolve_augment(args)
    writable(Path(args.save))
    dtype = pick_dtype(args.autocast_dtype, device)
    start = find_start(select_flags(StartFlags, args))
    resolve_from_start(args, start, mask)
    flags = checkpoint_args(args, mask, without, dtype)
    if start.resumed:
        checkpoint.same_flags(start.resumed, flags, start.path)
    rows = choose_rows(select_flags(RowFlags, args))
    check_flags(args, rows, mask)
    # Before images are decoded, which takes long. With --skip_unreadable rows are left out only then.
    if start.checkpoint and not args.skip_unreadable:
        checkpoint.same_rows(start.checkpoint, describe_run(flags, rows, start), start.path)
    first_weights = pretrained(args.weights, "new_head" in args, start)
    say_seen_before("--weights", first_weights, rows, args.image_root)
    with log_from_here(args, rows, start):
        model = make_model(args, rows.classes, mask, start).to(device)
        set_trainable(args, model, without, start)
        reading = select_flags(LoaderFlags, args)
        loaders = make_loaders(rows, reading, model, args.freeze_backbone, device, dtype, Path(args.save), args.seed)
        # Which stride 0 stands for depends on the backbone; a checkpoint says what it was.
        flags["map_stride"] = args.map_stride = model.stages.finest if model.stages else 0
        meta = describe_run(flags, rows, start)
        if start.checkpoint:
            checkpoint.same_rows(start.checkpoint, meta, start.path)
        remember_seen(meta, first_weights or start.checkpoint)
        load_weights(model, meta, start)
        balance = loss_weights(select_flags(WeightFlags, args), model, without, device)
        targets = partial(training_targets, rows.train, rows.classes, reading, args.seed)
        losses_fn = make_losses_fn(args, targets, learns_evidence(args, mask), device)
        run = assemble(args, model, rows, loaders, losses_fn, balance, meta, device, dtype)
    # Files are opened by the run, once signals are answered by a checkpoint.
    run.begin = partial(open_files, run, args, rows, start.resumed)
    if start.resumed:
        run.resume(start.resumed)
        start.say_resumed(run.epoch, args.epochs, run.sampler.start)
    return run


def assemble(  # noqa: PLR0913  # each part is made elsewhere
    args: argparse.Namespace,
    model: RoiModel,
    rows: Rows,
    loaders: Loaders,
    losses_fn: LossesFn,
    balance: FixedWeights,
    meta: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
) -> TrainingRun:
    """The run of a model on its batches, with optimiser and schedule, and what is computed how."""
    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    schedule = make_schedule(args, optimizer, -(-len(loaders.sampler) // args.accum_steps))
    wrap_parts(args, model)
    evidence = learns_evidence(args, model.mask)
    return TrainingRun(
        model=model,
        train_loader=loaders.train,
        sampler=loaders.sampler,
        val_loader=loaders.val,
        classes=rows.classes,
        losses_fn=losses_fn,
        balance=balance,
        optimizer=optimizer,
        device=device,
        dtype=dtype,
        epochs=args.epochs,
        accum_steps=args.accum_steps,
        names=partial(names_of_batch, loaders.names),
        log=MetricsLog(None),
        save=Path(args.save),
        meta=meta,
        skip_unreadable=args.skip_unreadable,
        # The best epoch of the warm-up has no masks to show.
        first_best=args.warmup_epochs + 1 if evidence else 1,
        mask_every=loaders.mask_every,
        mask_loader=loaders.mask,
        save_every_steps=args.save_every_steps,
        datasets=loaders.val_datasets,
        schedule=schedule,
        average=averages(model, args.ema, args.map_average),
        patience=args.patience,
        decisions=args.val_decisions,
    )


def wrap_parts(args: argparse.Namespace, model: RoiModel) -> None:
    """--checkpoint_activations and --compile, after GradNorm has hooked the layers that it looks at."""
    if args.checkpoint_activations:
        recomputed(model)
    if args.compile:
        compiled(model)


def learns_evidence(args: argparse.Namespace, mask: str) -> bool:
    """Whether the mask is learned under the evidence objective."""
    return args.objective == "evidence" and mask in LEARNED


def resolve_from_start(args: argparse.Namespace, start: Start, mask: str) -> None:
    """Fill in the flags whose default depends on the objective, on the weights, or on what the run begins from."""
    evidence = learns_evidence(args, mask)
    if args.warmup_epochs is None:
        # Half of the run for the labels: masks of a classifier that has not learned are worth nothing.
        args.warmup_epochs = args.epochs // 2 if evidence and not args.freeze_backbone else 0
        if start.resumed:
            args.warmup_epochs = start.resumed["args"]["warmup_epochs"]
    # A run that goes on may have fewer epochs than it had: then it is done.
    if not start.resumed and evidence and args.warmup_epochs >= args.epochs:
        raise UserError(
            f"--warmup_epochs {args.warmup_epochs} of --epochs {args.epochs}: no epoch is left in which the mask learns"
        )
    if start.checkpoint:
        # What these were before a checkpoint said them stands here as their default.
        earlier = start.checkpoint["args"]
        args.normalisation = earlier.get("normalisation", IMAGENET)
        args.map_stride = args.map_stride or earlier.get("map_stride", 8)
        args.widened_stage = earlier.get("widened_stage", True)
    else:
        args.normalisation, args.widened_stage = normalisation_of(args.backbone, args.weights), False
    say_normalisation(args.normalisation)
    if mask != "features":
        args.map_stride = 0


def checkpoint_args(args: argparse.Namespace, mask: str, without: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """The flags as a checkpoint remembers them; `together`: images of a batch over all processes."""
    flags = {**vars(args), "mask": mask, "without": list(without), "world": distributed.world()}
    # As it was chosen: auto means another type on another machine.
    flags["autocast_dtype"] = str(dtype).removeprefix("torch.")
    flags["together"] = args.batch_size * distributed.world()
    return flags


def check_flags(args: argparse.Namespace, rows: Rows, mask: str) -> None:
    """What can be said of flags and tables before an image is read."""
    check_sampler(args.sampler, args.train_csv, rows.train)
    if args.lr_warmup_steps and args.lr_warmup_epochs:
        raise UserError(
            f"--lr_warmup_steps {args.lr_warmup_steps} and --lr_warmup_epochs {args.lr_warmup_epochs:g}: "
            "give one of them"
        )
    check_validated(rows, args.patience, args.schedule)
    check_maps(args.view_share, args.map_average, args.ema, learns_evidence(args, mask), args.freeze_backbone)
    if learns_evidence(args, mask) and not has_place(rows.classes).any():
        raise UserError(
            f"--classes {','.join(rows.classes)}: none of them is a finding, there is no evidence to look for; "
            "give --objective consistency"
        )


def describe_run(flags: dict[str, Any], rows: Rows, start: Start) -> Checkpoint:
    """What a checkpoint says about its run."""
    # Targets as they are learned: another --uncertain or seed is another run.
    data = [*match_data(rows.train, rows.classes, flags["uncertain"], flags["seed"])]
    val_images: list[str] = []
    if rows.val is not None:
        data += match_data(rows.val, rows.classes)
        val_images = image_keys(rows.val["image"]).tolist()
    patients = sorted({*rows.train["patient_id"], *named_patients(rows.train)})
    host, begun = run_facts.begun(start.resumed)
    return {
        "classes": rows.classes,
        "args": flags,
        "contaminated": rows.contaminated or bool(start.checkpoint and start.checkpoint["contaminated"]),
        "train_images": fingerprints(image_keys(rows.train["image"]).tolist()),
        "val_images": fingerprints(val_images),
        "train_patients": fingerprints(patients),
        **training_sets(set_names(rows.train, flags["image_root"])),
        "labels": checkpoint.digest(rows.classes, *data),
        "versions": checkpoint.versions(),
        "host": host,
        "begun": begun,
    }


def make_model(args: argparse.Namespace, classes: list[str], mask: str, start: Start) -> RoiModel:
    """The model of a run; where it begins from a checkpoint, its first weights are not looked for."""
    options = ModelOptions(
        per_class=args.mask_per_class,
        fill=args.fill,
        map_stride=args.map_stride,
        widened_stage=args.widened_stage,
        normalisation=args.normalisation,
        channels_last=args.channels_last,
    )
    weights = "none" if start.checkpoint else args.weights
    if weights != "none" and distributed.rank() == 0:
        say(f"loading the first weights of {args.backbone}: {weights}")
    # It downloads.
    with distributed.one_a_machine_first():
        return build_model(
            args.backbone,
            classes,
            mask,
            weights,
            args.img_size,
            args.seed,
            options=options,
            zero_head=args.freeze_backbone,
            new_head="new_head" in args,
        )


def set_trainable(args: argparse.Namespace, model: RoiModel, without: Sequence[str], start: Start) -> None:
    """--freeze_backbone, or --train_parts."""
    if args.freeze_backbone:
        check_freezing(args, model.mask, without)
        check_head(model, args.img_size)
        learn_only(model, [classifier_layer(model.backbone)[0]])
        # Features are made with the weights that the run goes on from.
        if start.weights:
            checkpoint.load_parts(model, start.weights, start.path)
    elif args.train_parts:
        learn_only(model, tokens(args.train_parts))


def check_freezing(args: argparse.Namespace, mask: str, without: Sequence[str]) -> None:
    """UserError for flags that features of a frozen backbone cannot serve."""
    if distributed.world() > 1:
        raise UserError("--freeze_backbone trains in seconds in one process; start it without torchrun")
    if mask not in ("none", "features"):
        raise UserError(
            f"--freeze_backbone keeps features, and the mask {mask!r} is made from pixels; give --mask_net features, "
            "or --mode standard"
        )
    if mask == "features" and (args.objective != "evidence" or not args.mask_per_class or "locate" in without):
        raise UserError(
            "--freeze_backbone: maps learn from the term locate alone, which this run lacks; give --objective evidence "
            "with --mask_per_class"
        )
    if args.train_parts:
        raise UserError(f"--freeze_backbone and --train_parts {args.train_parts}: give one of them")
    if augment_of(args) is not None:
        raise UserError(
            "--freeze_backbone keeps the features of each image as it is; leave out --augment and its flags, "
            "or the freezing"
        )
    if args.skip_unreadable and not args.cache_dir:
        raise UserError(
            "--freeze_backbone with --skip_unreadable needs --cache_dir: which images cannot be read must be known "
            "before their features are made"
        )


def augment_of(args: argparse.Namespace) -> Augment | None:
    """How training images are changed; None where all flags of --augment are 0."""
    # None rather than zeros: pixels then stay bytes, and nothing is resampled.
    augment = select_flags(Augment, args)
    return None if augment == Augment() else augment


def make_losses_fn(
    args: argparse.Namespace, targets: Callable[[], np.ndarray], evidence: bool, device: torch.device
) -> TermsOfBatch:
    """The terms of a batch under the objective, with --loss for the labels.

    Args:
        targets: gives (N, K) of the training table
    """
    return TermsOfBatch(
        evidence,
        make_label_loss(select_flags(LabelLossFlags, args), targets, device),
        augment_of(args),
        args.seed,
        args.keep_ratio,
        args.warmup_epochs,
        args.random_views,
        args.locate_sharpness,
        args.view_share,
    )


def make_schedule(args: argparse.Namespace, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
    """--schedule over epochs of so many optimiser steps."""
    total = steps * args.epochs
    warmup = args.lr_warmup_steps or round(args.lr_warmup_epochs * steps)
    if warmup and warmup >= total:
        raise UserError(
            f"the warm-up takes {warmup:,} steps, the whole training {total:,} ({steps:,} an epoch); shorten it, "
            "or give more --epochs"
        )
    return Schedule(optimizer, args.schedule, total, warmup, args.plateau_factor, args.plateau_patience)


def open_files(
    run: TrainingRun,
    args: argparse.Namespace,
    rows: Rows,
    resumed: Checkpoint | None,
    columns: Sequence[str] = (),
) -> None:
    """What a run writes beside its checkpoints.

    Args:
        resumed: the checkpoint that it goes on from
        columns: of the metrics CSV beside those of every run
    """
    steps = -(-len(run.sampler) // args.accum_steps)
    if distributed.rank() == 0 and run.epoch < args.epochs:
        work = Work(run.sampler.rows, steps, len(rows.classes))
        say_first_lines(select_flags(FirstLinesFlags, args), work, run.model, run.device, run.dtype)
    if resumed is None:
        if distributed.rank() == 0:
            checkpoint.clear_away(run.save, args.val_csv)
        # Before any other file: a run that is killed early goes on with the same command.
        run.save_checkpoint()
    if distributed.rank() != 0:
        return
    run.forecast = Forecast(steps, args.epochs, args.warmup_epochs)
    done = resumed["log"] if resumed else None
    run.log = MetricsLog(args.log_csv, done, args.tensorboard, args.overwrite, log_columns(args, rows, columns))
    # With test images among them they would choose nothing.
    if rows.val is not None and not args.val_csv and not rows.contaminated:
        write_validation(rows.val, checkpoint.val_path(run.save))


def log_columns(args: argparse.Namespace, rows: Rows, more: Sequence[str] = ()) -> list[str]:
    """Columns of the metrics CSV beside those of every run."""
    return [*more, *validation_columns(rows.val_datasets, args.val_decisions and rows.val is not None)]


def log_from_here(
    args: argparse.Namespace, rows: Rows, start: Start, more: Sequence[str] = ()
) -> AbstractContextManager[None]:
    """The metrics CSV is there while weights are fetched and images decoded."""
    # Every process has looked at what is there.
    distributed.barrier()
    done = start.resumed["log"] if start.resumed else ()
    return early_log(args.log_csv if distributed.rank() == 0 else None, log_columns(args, rows, more), done)
