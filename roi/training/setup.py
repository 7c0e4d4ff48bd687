"""What the train scripts share: from flags to a finished run. Tables, leakage audit, loaders, model, fit."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from roi import cli, distributed
from roi.counter_rng import row_seeds
from roi.data.augment import Augment, augmented
from roi.data.dataset import Batch, XrayDataset, check_batches, open_cache_of_run, rows_with_images
from roi.data.loader import CacheLoader, fits_on_device, make_loader
from roi.data.patients import named_patients
from roi.data.sampler import ShardedBatchSampler
from roi.data.split_words import split_word
from roi.data.splits import belongs_to, official_list, overlap, read_list, some_patients, split_by_patient
from roi.data.table import image_keys, read_table, tokens
from roi.data.targets import class_list, target_matrix
from roi.errors import UserError
from roi.files import atomic_write, refuse_existing, writable
from roi.labels import is_finding
from roi.losses import terms as losses
from roi.losses.gradnorm import FixedWeights, GradNorm, Taps
from roi.losses.loss_terms import LAYERS, LOSS_TERMS
from roi.losses.objectives import LabelLoss, consistency_terms, evidence_terms, label_terms
from roi.models.backbones import IMAGENET, classifier_layer, normalisation_of
from roi.models.compile import compiled, recomputed
from roi.models.roi_model import LEARNED, RoiModel, build_model
from roi.scoring.metrics import VALIDATION_DECISIONS, can_be_scored
from roi.training import checkpoint, mask_controls
from roi.training.frozen_features import FeatureLoader, check_head, frozen_features
from roi.training.loop import LossesFn, TrainingRun, best_path, pick_device, pick_dtype, previous_path, what_failed
from roi.training.metrics_log import MetricsLog
from roi.training.optim import EMA, Schedule, batch_norms, learn_only, make_optimizer

FEW = 5  # images with a finding, below which a class is warned of


@dataclass
class Rows:
    """What a run trains on: tables of images that are there, and whether test images are among them."""

    train: pd.DataFrame
    val: pd.DataFrame | None
    classes: list[str]
    contaminated: bool


def train(args: argparse.Namespace, mask: str, without: Sequence[str] = ()) -> int:
    """Train with a `mask` (roi/models/roi_model.py MASKS) and args.objective; the terms in `without` get weight 0. -> exit code"""
    with distributed.processes(pick_device(args.device)) as device:
        try:
            fit = fit_of(args, mask, without, device)
        except (RuntimeError, MemoryError) as error:
            raise what_failed(error, "the set-up") from error
        return fit.run()


def fit_of(args: argparse.Namespace, mask: str, without: Sequence[str], device: torch.device) -> TrainingRun:
    """From flags to a run that is ready. All checks come before the first file is written or removed."""
    cli.settle_augment(args)
    evidence = args.objective == "evidence" and mask in LEARNED
    save = Path(args.save)
    writable(save)
    dtype = pick_dtype(args.autocast_dtype, device)
    before = stage_before(args, save)
    state = None if before else resumed(args, save)
    settle_warmup(args, state, evidence)
    earlier = state or before
    if earlier:
        args.normalisation = earlier["args"].get("normalisation", IMAGENET)
        args.map_stride = args.map_stride or earlier["args"].get("map_stride", 8)
        args.widened_stage = earlier["args"].get("widened_stage", True)
    else:
        args.normalisation, args.widened_stage = normalisation_of(args.backbone, args.weights), False
    if mask != "features":
        args.map_stride = 0
    flags = flags_of(args, mask, without, dtype)
    source = save if args.resume in (None, "auto") else Path(args.resume)
    if state:
        checkpoint.same_flags(state, flags, source)
    rows = choose_rows(args)
    check_sampler(args, rows.train)
    check_schedule(args, rows.val is not None)
    check_scorable(args, rows)
    if evidence and not is_finding(rows.classes).any():
        raise UserError(
            f"--classes {','.join(rows.classes)}: none of them is a finding, there is no evidence to look for; give --objective consistency"
        )
    if earlier and not args.skip_unreadable:  # which leaves out rows; else they are known before an image is decoded
        checkpoint.same_rows(earlier, meta_of(flags, rows, False), source)
    with distributed.one_a_machine_first():  # it downloads
        model = build_model(
            args.backbone,
            len(rows.classes),
            mask,
            "none" if earlier else args.weights,
            args.img_size,
            args.seed,
            args.channels_last,
            per_class=args.mask_per_class,
            fill=args.fill,
            findings=is_finding(rows.classes).tolist(),
            class_names=rows.classes,
            map_stride=args.map_stride,
            widened_stage=args.widened_stage,
            normalisation=args.normalisation,
            zero_head=args.freeze_backbone,
        )
    model.to(device)
    if args.freeze_backbone:
        freeze(args, model, mask, without)
        if earlier:  # features are made with the weights that the run goes on from
            checkpoint.load_parts(model, earlier | (before or {}).get("average", {}), source)
    elif args.train_parts:
        learn_only(model, tokens(args.train_parts))
    loader = partial(frozen_loader, model, dtype) if args.freeze_backbone else loader_of
    train_loader, sampler, rows.train = loader(rows.train, rows.classes, args, device, save, args.seed)
    if batch_norms(model):
        sampler.least = 2
    if sampler.merged:
        print(
            f"the last {sampler.merged} images of an epoch are too few for batch norm: they go into the batch before "
            f"them, which has {sampler.last_batch:,} images"
        )
    val_loader, mask_loader, mask_every = None, None, 0
    if rows.val is not None:
        beside = save.with_name(f"{save.stem}_val.pt")
        val_loader, _, rows.val = loader(rows.val, rows.classes, args, device, beside, None)
        if mask in LEARNED:
            mask_every = -(-len(rows.val) // mask_controls.ROWS)
            if args.freeze_backbone:
                mask_loader = loader_of(rows.val, rows.classes, args, device, beside, None)[0]
    flags["map_stride"] = args.map_stride = model.stages.finest if model.stages else 0
    meta = meta_of(flags, rows, any(s["contaminated"] for s in (state, before) if s))
    if earlier:
        checkpoint.same_rows(earlier, meta, source)
    if before:
        checkpoint.load_parts(model, before | before.get("average", {}), args.resume)
        print(f"stage 2 begins from {args.resume}, epoch {before['epoch']}")
        meta["begun_from"] = checkpoint.identity(before)
    if state:
        meta |= {"begun_from": state["begun_from"]} if "begun_from" in state else {}
    names = rows.train["image"].to_numpy()
    balance = loss_weights(args, model, without, device)
    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    schedule = schedule_of(args, optimizer, -(-len(sampler) // args.accum_steps))
    if args.checkpoint_activations:
        recomputed(model)
    if args.compile:
        compiled(model)
    distributed.barrier()  # every process has looked at what is there
    fit = TrainingRun(
        model,
        train_loader,
        sampler,
        val_loader,
        rows.classes,
        losses_fn_of(args, rows, evidence, device),
        balance,
        optimizer,
        device,
        dtype,
        args.epochs,
        args.accum_steps,
        lambda index: names[index.numpy() % len(names)].tolist(),
        MetricsLog(None),
        save,
        meta,
        args.skip_unreadable,
        first_best=args.warmup_epochs + 1 if evidence else 1,
        mask_every=mask_every,
        mask_loader=mask_loader,
        save_every_steps=args.save_every_steps,
        datasets=None if rows.val is None else datasets_of(rows.val),
        schedule=schedule,
        average=EMA(model, args.ema) if args.ema else None,
        patience=args.patience,
        decisions=args.val_decisions,
    )
    fit.begin = partial(open_files, fit, args, rows, state)
    if state is not None:
        fit.resume(state)
        print(
            f"resumed {args.resume if args.resume != 'auto' else save}: {fit.epoch} of {args.epochs} epochs are done"
            + (f", and {sampler.start} batches of the next" if sampler.start else "")
        )
    return fit


def flags_of(args: argparse.Namespace, mask: str, without: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """The flags as a checkpoint remembers them; `together`: images of a batch over all processes."""
    flags = {**vars(args), "mask": mask, "without": list(without), "world": distributed.world()}
    flags["autocast_dtype"] = str(dtype).removeprefix("torch.")
    flags["together"] = args.batch_size * distributed.world()
    return flags


def open_files(fit: TrainingRun, args: argparse.Namespace, rows: Rows, state: dict[str, Any] | None) -> None:
    """What a run writes beside its checkpoints; `state`: the checkpoint that it goes on from."""
    if state is None:
        if distributed.rank() == 0:
            clear_away(args, fit.save)
        fit.save_checkpoint()  # before any other file: a run that is killed early goes on with the same command
    if distributed.rank() == 0:
        each = [] if fit.datasets is None else [f"val_auroc_{name}" for name in sorted(set(fit.datasets))]
        each += VALIDATION_DECISIONS if args.val_decisions and rows.val is not None else ()
        fit.log = MetricsLog(args.log_csv, state["log"] if state else None, args.tensorboard, args.overwrite, each)
        if (
            rows.val is not None and not args.val_csv and not rows.contaminated
        ):  # with test images among them they would choose nothing
            write_validation(rows.val, fit.save)


def losses_fn_of(args: argparse.Namespace, rows: Rows, evidence: bool, device: torch.device) -> LossesFn:
    """The terms of a batch: its images, changed by --augment, under the objective, with --loss for the labels."""
    label_loss = label_loss_of(args, lambda: learned_from(rows.train, rows.classes, args, args.seed)[0], device)
    how = Augment.of(vars(args))

    def losses_fn(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        over = partial(distributed.counting, share=batch.share)
        if batch.features is not None:
            logits, maps = model.read_features(batch.features.head, batch.features.stages)
            findings = batch.target.masked_fill(~model.findings, torch.nan)  # Normal has no place
            return label_terms(
                logits,
                maps if model.per_class else None,
                batch.target,
                findings,
                args.locate_sharpness,
                over,
                label_loss,
            )
        seeds = row_seeds(args.seed, epoch, batch.index.to(device, non_blocking=True))
        pixels = batch.pixels if how is None else augmented(batch.pixels, seeds, how)
        if evidence:
            warm_up = epoch < args.warmup_epochs
            return evidence_terms(
                model,
                pixels,
                batch.target,
                args.keep_ratio,
                seeds,
                args.random_views,
                warm_up,
                over,
                label_loss,
                args.locate_sharpness,
            )
        return consistency_terms(model, pixels, batch.target, args.keep_ratio, seeds, over, label_loss)

    return losses_fn


def settle_warmup(args: argparse.Namespace, state: dict[str, Any] | None, evidence: bool) -> None:
    if args.warmup_epochs is None:
        masks_learn = evidence and not args.freeze_backbone
        args.warmup_epochs = state["args"]["warmup_epochs"] if state else args.epochs // 2 if masks_learn else 0
    if state is None and evidence and args.warmup_epochs >= args.epochs:
        raise UserError(
            f"--warmup_epochs {args.warmup_epochs} of --epochs {args.epochs}: no epoch is left in which the mask learns"
        )


def meta_of(flags: dict[str, Any], rows: Rows, contaminated: bool) -> dict[str, Any]:
    """What a checkpoint says about its run."""
    data = data_of(rows.train, rows.classes, flags["uncertain"], flags["seed"]) + (
        data_of(rows.val, rows.classes) if rows.val is not None else ()
    )
    return {
        "classes": rows.classes,
        "args": flags,
        "contaminated": rows.contaminated or contaminated,
        "train_images": checkpoint.fingerprints(image_keys(rows.train["image"]).tolist()),
        "val_images": checkpoint.fingerprints([] if rows.val is None else image_keys(rows.val["image"]).tolist()),
        "train_patients": checkpoint.fingerprints(sorted({*rows.train["patient_id"], *named_patients(rows.train)})),
        "labels": checkpoint.digest(rows.classes, *data),
        "versions": {"python": sys.version.split()[0], "torch": str(torch.__version__), "numpy": np.__version__},
    }


def clear_away(args: argparse.Namespace, save: Path) -> None:
    """Remove what lies beside the checkpoint of a run that is replaced."""
    for path in (best_path(save), previous_path(save), None if args.val_csv else val_path(save)):
        if path:
            path.unlink(missing_ok=True)


def val_path(save: Path) -> Path:
    """Where the validation rows lie that training held out."""
    return save.with_name(f"{save.stem}_val.csv")


def write_validation(table: pd.DataFrame, save: Path) -> None:
    """<stem>_val.csv beside the checkpoint: the rows to choose thresholds and calibration on."""
    path, text = val_path(save), table.to_csv(index=False, lineterminator="\n")
    if (
        not path.is_file() or path.read_text(encoding="utf-8") != text
    ):  # a finished run that is resumed leaves it as it is
        with atomic_write(path) as file:
            file.write(text)


def data_of(
    table: pd.DataFrame, classes: list[str], uncertain: str = "ignore", seed: int | None = None
) -> tuple[list[str], list[str], np.ndarray]:
    """Names, data sets where there are several, and targets: what must be the same for a run to go on."""
    datasets = datasets_of(table)
    return (
        table["image"].tolist(),
        [] if datasets is None else datasets.tolist(),
        target_matrix(table, classes, uncertain, seed),
    )


def datasets_of(table: pd.DataFrame) -> np.ndarray | None:
    """(N,) data set of each row; None where all are of one."""
    named = {name: " ".join(name.split()) or "unnamed" for name in table["dataset"].unique()}
    return table["dataset"].map(named).to_numpy(dtype=object) if len(set(named.values())) > 1 else None


def resumed(args: argparse.Namespace, save: Path) -> dict[str, Any] | None:
    """The checkpoint to go on from. Nothing else that is there is replaced unless --overwrite says so."""
    best = best_path(save)
    path = save if args.resume in (None, "auto") else Path(args.resume)
    if args.resume and (args.resume != "auto" or path.exists()):
        state = last_good(path) if args.resume == "auto" else checkpoint.load(path)
        if path.resolve() != save.resolve():  # goes on under another name
            refuse_existing(
                save, best, args.log_csv, None if args.val_csv else val_path(save), overwrite=args.overwrite
            )
        return state
    if save.exists() and not args.overwrite:
        raise UserError(
            f"{save} exists; go on from it with --resume auto, replace it with --overwrite, or choose another --save"
        )
    refuse_existing(best, args.log_csv, None if args.val_csv else val_path(save), overwrite=args.overwrite)
    return None


def stage_before(args: argparse.Namespace, save: Path) -> dict[str, Any] | None:
    """The checkpoint of stage 1 that --stage 2 begins from; None where nothing of the kind is asked for, or where --save holds stage 2 and goes on."""
    if args.stage != 2 or args.resume == "auto" and save.exists():
        return None
    if args.resume in (None, "auto"):
        raise UserError("--stage 2 goes on from stage 1: give its checkpoint with --resume CKPT, and another --save")
    path = Path(args.resume)
    state = checkpoint.load(path)
    if state["args"].get("stage") == 2:
        return None
    if state["args"].get("stage") != 1:
        raise UserError(
            f"--resume {path}: was not trained by --recipe staged_resnet50 --stage 1, from which --stage 2 goes on; --weights takes any model"
        )
    if state["args"]["backbone"] != args.backbone:
        raise UserError(
            f"--resume {path}: is a {state['args']['backbone']}, not a {args.backbone}; give the --backbone of stage 1"
        )
    if path.resolve() in (save.resolve(), best_path(save).resolve()):
        raise UserError(f"--save {save} is stage 1 itself; give --stage 2 another name")
    if save.exists() and not args.overwrite:
        if checkpoint.load(save).get("begun_from") != checkpoint.identity(state):
            raise UserError(
                f"--save {save} exists and did not begin from {path}; choose another name, or replace it with --overwrite"
            )
        args.resume = "auto"
        return None
    refuse_existing(best_path(save), args.log_csv, None if args.val_csv else val_path(save), overwrite=args.overwrite)
    return state


def last_good(save: Path) -> dict[str, Any]:
    """The checkpoint `save`, or the one before it where a disk has damaged it."""
    try:
        return checkpoint.load(save)
    except ValueError as error:
        if not previous_path(save).is_file():
            raise
        state = checkpoint.load(previous_path(save))
        print(f"{error}; going on from the one before it, {previous_path(save)}")
        return state | {"fell_back": True}


def choose_rows(args: argparse.Namespace) -> Rows:
    """Tables -> who trains and who validates, with the leakage audit printed."""
    table = read_table(args.train_csv)
    classes = class_list(table, args.classes)
    val = read_table(args.val_csv) if args.val_csv else None
    tests = test_tables(args, table if val is None else pd.concat([table, val]))
    is_test = belongs_to(table, tests.values())
    named = ", ".join(f"{name} {overlap(table, other)[0]:,}" for name, other in tests.items()) or "no test list found"
    contaminated = bool(
        args.allow_leakage and (is_test.any() or val is not None and belongs_to(val, tests.values()).any())
    )
    if not args.allow_leakage:
        table = table[~is_test]
    if table.empty:
        raise UserError(
            f"{args.train_csv}: all its images belong to the test set ({named}); give the training table, or --allow_leakage"
        )
    if args.max_samples and args.max_samples < len(table):
        keep = np.random.default_rng(args.seed).choice(len(table), args.max_samples, replace=False)
        table = table.iloc[np.sort(keep)]
    if val is not None:
        check_validation(args, table, val, tests, named)
    elif args.val_fraction:
        table, val = held_out(table, args.val_fraction, args.seed)
    if args.max_train_samples and args.max_train_samples < len(table):
        table = table[some_patients(table, args.max_train_samples, args.seed)]
    print_classes(table, val, classes, args.uncertain, args.seed)
    print_audit(table, val, tests, named, int(is_test.sum()), contaminated)
    return Rows(table, val, classes, contaminated)


def held_out(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> (train, validation): patients of the rows whose column split says val; where none does, or all do, patients are drawn."""
    marked = table["split"].map(split_word) == "val"
    chosen = belongs_to(table, [table[marked]])
    return (
        (table[~chosen], table[chosen])
        if marked.any() and not chosen.all()
        else split_by_patient(table, fraction, seed)
    )


def check_validation(
    args: argparse.Namespace, table: pd.DataFrame, val: pd.DataFrame, tests: dict[str, pd.DataFrame], named: str
) -> None:
    """--val_csv may share nobody with training and nothing with the test set."""
    images, patients = overlap(table, val)
    if patients or images:
        raise UserError(
            f"--val_csv {args.val_csv}: shares {patients:,} patients and {images:,} images with --train_csv; a patient stands in one of them"
        )
    if not args.allow_leakage and belongs_to(val, tests.values()).any():
        raise UserError(
            f"--val_csv {args.val_csv}: holds test images ({named}); choosing the best epoch on them would spoil the test. Give other images"
        )


def test_tables(args: argparse.Namespace, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Every source that says which images are test images: --exclude_csv, the official list beside the images, the column split."""
    tests = {str(args.exclude_csv): read_table(args.exclude_csv)} if args.exclude_csv else {}
    root = Path(args.image_root)
    official = official_list(root, "test") or official_list(root.parent, "test")
    if official:
        tests[official.name] = read_list(official)
    marked = table[table["split"].map(split_word) == "test"]
    if len(marked):
        tests["split = test"] = marked
    return tests


def check_sampler(args: argparse.Namespace, table: pd.DataFrame) -> None:
    """--sampler balanced must know which data set each training image is of, and there must be several."""
    if args.sampler != "balanced":
        return
    unnamed, names = int((table["dataset"] == "").sum()), sorted(set(table["dataset"]) - {""})
    if unnamed:
        raise UserError(
            f"--sampler balanced: column 'dataset' of {args.train_csv} is empty for {unnamed:,} of {len(table):,} training images; fill it in"
        )
    if len(names) < 2:
        raise UserError(
            f"--sampler balanced: column 'dataset' of {args.train_csv} names {names[0]!r} alone; leave the flag out, or give a table of several sets"
        )


def print_classes(table: pd.DataFrame, val: pd.DataFrame | None, classes: list[str], uncertain: str, seed: int) -> None:
    """What is learned: how many images have each class, lack it, or say nothing of it; warns of what is too rare."""
    learned = target_matrix(table, classes, uncertain, seed)  # (N, K)
    judged = None if val is None else target_matrix(val, classes)
    lines: list[list[str]] = [["class", "positive", "negative", "unknown"]]
    if judged is not None:
        lines[0] += ["validation: positive", "negative", "unknown"]
    for k, c in enumerate(classes):
        counts = counts_of(learned[:, k])
        if judged is not None:
            counts += counts_of(judged[:, k])
        lines.append([c, *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]))
    positives = (learned == 1).sum(axis=0)
    few = [f"{c} ({n})" for c, n in zip(classes, positives.tolist(), strict=True) if n < FEW]
    if few:
        print(f"WARNING: fewer than {FEW} training images have {', '.join(few)}: nothing can be learned from so few")
    if judged is not None:
        absent = [c for c, n in zip(classes, (judged == 1).sum(axis=0).tolist(), strict=True) if not n]
        if absent:
            print(f"WARNING: no validation image has {', '.join(absent)}: not part of val_auroc")


def counts_of(target: np.ndarray) -> list[int]:
    """(N,) -> how many are present, absent, and neither for certain"""
    positive, negative = int((target == 1).sum()), int((target == 0).sum())
    return [positive, negative, len(target) - positive - negative]


def print_audit(
    table: pd.DataFrame,
    val: pd.DataFrame | None,
    tests: dict[str, pd.DataFrame],
    named: str,
    found: int,
    contaminated: bool,
) -> None:
    def size(rows: pd.DataFrame) -> str:
        return f"{len(rows):,} images of {rows['patient_id'].nunique():,} patients"

    print(f"train {size(table)}" + (f"; validation {size(val)}" if val is not None else "; no validation"))
    if contaminated:
        print(f"CONTAMINATED: {found:,} test images are trained on ({named}); scores on them are not test scores")
    else:
        print(f"left out of training: {found:,} test images and images of test patients ({named})")
    parts = {"train": table, **({"validation": val} if val is not None else {}), **tests}
    sets = table["dataset"].value_counts()
    if len(sets) > 1:
        print(
            "training images of each data set: "
            + ", ".join(f"{name or '(no name)'} {count:,}" for name, count in sets.items())
        )
    pairs = [(a, b) for i, a in enumerate(parts) for b in list(parts)[i + 1 :] if a in ("train", "validation")]
    print(
        "shared images and patients: "
        + "; ".join(f"{a} and {b} {'{:,} and {:,}'.format(*overlap(parts[a], parts[b]))}" for a, b in pairs),
        flush=True,
    )


def loader_of(
    table: pd.DataFrame,
    classes: list[str],
    args: argparse.Namespace,
    device: torch.device,
    output: Path,
    seed: int | None,
) -> tuple[Iterable[Batch], ShardedBatchSampler, pd.DataFrame]:
    """-> (batches, their sampler, the rows whose image is there): for validation in table order, for training shuffled.

    The rows are the same with and without a cache: what cannot be read is left out of its batch.
    """
    table, paths = rows_with_images(table, args.image_root, args.skip_unreadable, output)
    share = (distributed.rank(), distributed.world())
    if not args.cache_dir:
        if args.skip_unreadable and distributed.world() > 1:
            raise UserError(
                "--skip_unreadable with several processes needs --cache_dir: which images cannot be read must be known before they share them"
            )
        targets, groups = learned_from(table, classes, args, seed)
        loader = make_loader(
            XrayDataset(paths, targets, args.img_size),
            args.batch_size,
            seed,
            args.workers,
            args.prefetch_factor,
            args.persistent_workers,
            device.type == "cuda",
            *share,
            groups,
        )
        return *loader, table
    images = table["image"].tolist()
    cache = open_cache_of_run(images, paths, args.cache_dir, args.img_size, args.workers, args.skip_unreadable, output)
    targets, groups = learned_from(table, classes, args, seed)
    sampler = ShardedBatchSampler(len(table), args.batch_size, seed, *share, groups)
    if cache.unreadable:
        sampler.unreadable = cache.rows < 0
    on_device = fits_on_device(cache, len(table), device, args.cache_on_device)
    return CacheLoader(cache, targets, sampler, device, on_device, args.prefetch_factor), sampler, table


def freeze(args: argparse.Namespace, model: RoiModel, mask: str, without: Sequence[str]) -> None:
    """--freeze_backbone: of the backbone the classifier layer alone learns. UserError for flags that features cannot serve."""
    if distributed.world() > 1:
        raise UserError("--freeze_backbone trains in seconds in one process; start it without torchrun")
    if mask not in ("none", "features"):
        raise UserError(
            f"--freeze_backbone keeps features, and the mask {mask!r} is made from pixels; give --mask_net features, or --mode standard"
        )
    if mask == "features" and (args.objective != "evidence" or not args.mask_per_class or "locate" in without):
        raise UserError(
            "--freeze_backbone: maps learn from the term locate alone, which this run lacks; give --objective evidence with --mask_per_class"
        )
    if args.train_parts:
        raise UserError(f"--freeze_backbone and --train_parts {args.train_parts}: give one of them")
    if Augment.of(vars(args)) is not None:
        raise UserError(
            "--freeze_backbone keeps the features of each image as it is; leave out --augment and its flags, or the freezing"
        )
    if args.skip_unreadable and not args.cache_dir:
        raise UserError(
            "--freeze_backbone with --skip_unreadable needs --cache_dir: which images cannot be read must be known before their features are made"
        )
    check_head(model, args.img_size)
    learn_only(model, [classifier_layer(model.backbone)[0]])


def frozen_loader(
    model: RoiModel,
    dtype: torch.dtype,
    table: pd.DataFrame,
    classes: list[str],
    args: argparse.Namespace,
    device: torch.device,
    output: Path,
    seed: int | None,
) -> tuple[Iterable[Batch], ShardedBatchSampler, pd.DataFrame]:
    """`loader_of` for a frozen backbone: batches of its features in the place of pixels."""
    pixels, in_order, table = loader_of(table, classes, args, device, output, None)
    features = frozen_features(
        model, lambda: check_batches(pixels, False, set()), len(table), args.cache_dir, device, dtype
    )
    targets, groups = learned_from(table, classes, args, seed)
    sampler = ShardedBatchSampler(len(table), args.batch_size, seed, groups=groups)
    sampler.unreadable = in_order.unreadable
    return FeatureLoader(features, targets, sampler, args.prefetch_factor), sampler, table


def learned_from(
    table: pd.DataFrame, classes: list[str], args: argparse.Namespace, seed: int | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """-> targets (N, K), and with --sampler balanced the data set of each row (N,). Validation, which has no seed, knows only what is certain."""
    if seed is None:
        return target_matrix(table, classes), None
    return target_matrix(table, classes, args.uncertain, seed), table["dataset"].to_numpy(
        dtype=object
    ) if args.sampler == "balanced" else None


def check_schedule(args: argparse.Namespace, validated: bool) -> None:
    """What can be said of the flags before an image is read."""
    if args.lr_warmup_steps and args.lr_warmup_epochs:
        raise UserError(
            f"--lr_warmup_steps {args.lr_warmup_steps} and --lr_warmup_epochs {args.lr_warmup_epochs:g}: give one of them"
        )
    if not validated and (args.patience or args.schedule == "plateau"):
        flag = f"--patience {args.patience}" if args.patience else "--schedule plateau"
        raise UserError(
            f"{flag} looks at val_auroc, and nothing is validated; give --val_csv, or a --val_fraction above 0"
        )


def check_scorable(args: argparse.Namespace, rows: Rows) -> None:
    """Say, or refuse, that validation cannot tell one epoch from another."""
    if rows.val is None or can_be_scored(target_matrix(rows.val, rows.classes), rows.classes, datasets_of(rows.val)):
        return
    images = f"{len(rows.val):,} validation images"
    why = f"in the {images} no finding is both present and absent, so that there is no val_auroc"
    remedy = "give other rows with --val_csv, or more with --val_fraction"
    if args.patience or args.schedule == "plateau":
        flag = f"--patience {args.patience}" if args.patience else "--schedule plateau"
        raise UserError(f"{flag} looks at val_auroc: {why}; {remedy}")
    print(f"{why} and no best checkpoint; {remedy}")


def schedule_of(args: argparse.Namespace, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
    """--schedule over epochs of so many optimiser steps."""
    total, warmup = steps * args.epochs, args.lr_warmup_steps or round(args.lr_warmup_epochs * steps)
    if warmup >= total and warmup:
        raise UserError(
            f"the warm-up takes {warmup:,} steps, the whole training {total:,} ({steps:,} an epoch); shorten it, or give more --epochs"
        )
    return Schedule(optimizer, args.schedule, total, warmup, args.plateau_factor, args.plateau_patience)


def label_loss_of(args: argparse.Namespace, targets: Callable[[], np.ndarray], device: torch.device) -> LabelLoss:
    """--loss with its flags; where it counts, `targets` (N, K) of the training table say how rare each finding is."""
    if args.loss == "bce":
        return losses.bce
    if args.loss == "focal":
        return partial(losses.focal, alpha=args.focal_alpha, gamma=args.focal_gamma)
    if args.loss == "asymmetric":
        return partial(
            losses.asymmetric, gamma_pos=args.asl_gamma_pos, gamma_neg=args.asl_gamma_neg, clip=args.asl_clip
        )
    counts = losses.counted(targets())

    def there(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(device)

    if args.loss == "weighted":
        return partial(losses.weighted, weight=there(losses.positive_weights(*counts, args.pos_weight_cap)))
    if args.loss == "class_balanced":
        return partial(losses.class_balanced, weight=there(losses.balanced_weights(*counts, args.cb_beta)))
    return partial(losses.ldam, margin=there(losses.margins(*counts, args.ldam_margin)), scale=args.ldam_scale)


def loss_weights(
    args: argparse.Namespace, model: RoiModel, without: Sequence[str], device: torch.device
) -> FixedWeights:
    """The weights of --alpha … --epsilon, or GradNorm from --w_*_init; 0 for the terms in `without`."""
    weights = {}
    for term in LOSS_TERMS:
        if args.objective not in term.objectives:
            continue
        if term.name in without:
            weights[term.name] = 0.0
        elif args.dynamic_weights:
            weights[term.name] = getattr(args, f"w_{term.name}_init")
        else:
            weights[term.name] = getattr(args, term.weight_flag) if term.weight_flag else 1.0
    if args.warmup_epochs and not weights["full"] + weights.get("locate", 0) * args.mask_per_class:
        raise UserError(
            "full and locate, the terms of the warm-up, have weight 0; give one of them a weight, or --warmup_epochs 0"
        )
    if not any(weights.values()):
        raise UserError("every term of the loss has weight 0; there is nothing to learn")
    if not args.dynamic_weights:
        return FixedWeights(weights)
    return GradNorm(weights, Taps(model.last_layers()), LAYERS, device=device, mean=distributed.mean)
