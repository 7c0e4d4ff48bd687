"""From the flags of train_multiview.py to a finished run: studies, their batches, their model and their terms.

Letters: M studies, K classes.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from roi import distributed
from roi.data.study_loader import StudyLoader
from roi.data.table import tokens
from roi.errors import UserError
from roi.files import writable
from roi.losses.gradnorm import FixedWeights
from roi.models.backbones import classifier_layer
from roi.models.fusion import StudyModel, build_study_model
from roi.models.queries import PERMUTED, RANDOM, Queries, QueryFile, file_of, permuted, read_queries, vectors_by_name
from roi.training import checkpoint
from roi.training.checkpoint import Checkpoint
from roi.training.device import explain_error, pick_device, pick_dtype
from roi.training.flags import resolve_augment, select_flags
from roi.training.loaders import LoaderFlags, Loaders
from roi.training.metrics_log import VIEW_LOSS
from roi.training.multiview.flags import DEFAULTS
from roi.training.multiview.loaders import StudyFlags, StudyReader, check_studies, make_study_loaders
from roi.training.multiview.objective import StudyTerms
from roi.training.objective import LabelLossFlags, make_label_loss
from roi.training.optim import learn_only
from roi.training.rows import RowFlags, Rows, choose_rows
from roi.training.setup import (
    assemble,
    augment_of,
    check_flags,
    checkpoint_args,
    describe_run,
    log_from_here,
    open_files,
    resolve_from_start,
)
from roi.training.start import Start, StartFlags, find_start, pretrained, remember_seen, say_seen_before
from roi.training.training_run import TrainingRun


def train_studies(args: argparse.Namespace) -> int:
    """Train a study model; the exit code."""
    with distributed.processes(pick_device(args.device)) as device:
        try:
            run = build_study_run(args, device)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "the set-up") from error
        return run.run()


def build_study_run(args: argparse.Namespace, device: torch.device) -> TrainingRun:
    """From flags to a run that is ready. All checks come before the first file is written or removed."""
    resolve_augment(args)
    writable(Path(args.save))
    dtype = pick_dtype(args.autocast_dtype, device)
    start = find_start(select_flags(StartFlags, args))
    image_model = resolve_init(args, start)
    resolve_from_start(args, start, "none")
    query_file = resolve_queries(args, start)
    flags = checkpoint_args(args, "none", (), dtype)
    if start.resumed:
        checkpoint.same_flags(start.resumed, flags, start.path)
    rows = choose_rows(select_flags(RowFlags, args), by_study=True)
    check_flags(args, rows, "none")
    study_flags = select_flags(StudyFlags, args)
    check_studies(rows, study_flags.union)
    first_weights = image_model or pretrained(args.weights, "new_head" in args, start)
    say_seen_before("--init" if image_model else "--weights", first_weights, rows, args.image_root)
    with log_from_here(args, rows, start, [VIEW_LOSS]):
        model = make_study_model(args, rows.classes, start, query_file).to(device)
        reader = StudyReader(select_flags(LoaderFlags, args), study_flags, device)
        loaders = make_study_loaders(rows, reader, model, Path(args.save), args.seed)
        meta = describe_study_run(describe_run(flags, rows, start), rows, image_model, start)
        remember_seen(meta, first_weights or start.resumed)
        if start.resumed:
            checkpoint.same_rows(start.resumed, meta, start.path)
        losses_fn = StudyTerms(
            make_label_loss(select_flags(LabelLossFlags, args), partial(targets_of, loaders), device),
            augment_of(args),
            args.seed,
            args.view_weight,
        )
        balance = FixedWeights({"full": 1.0, VIEW_LOSS: args.view_weight})
        run = assemble(args, model, rows, loaders, losses_fn, balance, meta, device, dtype)
    run.unit = "study"
    run.begin = partial(open_files, run, args, rows, start.resumed, [VIEW_LOSS])
    if start.resumed:
        run.resume(start.resumed)
        start.say_resumed(run.epoch, args.epochs, run.sampler.start)
    return run


def targets_of(loaders: Loaders) -> np.ndarray:
    """(M, K) of the training studies, for losses that count how rare a finding is."""
    assert isinstance(loaders.train, StudyLoader)
    return loaders.train.targets.cpu().numpy()


def resolve_init(args: argparse.Namespace, start: Start) -> Checkpoint | None:
    """Fill in backbone, image size and weights from --init; its checkpoint, None where a run goes on or there is none.

    Raises:
        UserError: it is contaminated, or another backbone is asked for
    """
    # A run that goes on has all of it, and the image model may be gone.
    if not args.init or start.resumed:
        known = start.resumed["args"] if start.resumed else DEFAULTS
        for name in DEFAULTS:
            if getattr(args, name) is None:
                setattr(args, name, known[name])
        return None
    state = checkpoint.load(args.init)
    if "fusion" in state["args"]:
        image_model = state["args"].get("init") or "an image model"
        raise UserError(
            f"--init {args.init}: is a model of studies, whose fusion would be lost; go on with it by --resume "
            f"{args.init}, or begin from {image_model}"
        )
    if checkpoint.is_untrained(state):
        raise UserError(
            f"--init {args.init}: was never trained (epoch 0, step 0); go on with its training by --resume auto, or "
            "begin without it (--backbone, --weights)"
        )
    if state["contaminated"]:
        raise UserError(f"--init {args.init}: was trained on test images; what begins from it has seen them too")
    if state["contaminated"] is None:
        raise UserError(
            f"--init {args.init}: was exported without fingerprints, so that nobody can tell which test patients it "
            "has seen; give the checkpoint itself"
        )
    backbone = state["args"]["backbone"]
    if args.backbone not in (None, backbone):
        raise UserError(f"--init {args.init}: is a {backbone}, not a {args.backbone}; leave out --backbone")
    args.backbone, args.weights = backbone, args.init
    args.img_size = args.img_size or state["args"]["img_size"]
    return state


def resolve_queries(args: argparse.Namespace, start: Start) -> QueryFile | None:
    """Note which vectors --queries means; its file, None where a run goes on (it has them) or names no file."""
    path = file_of(args.queries)
    args.query_size, args.query_model = 0, ""
    if path is None:
        return None
    if start.resumed:
        for name in ("query_size", "query_model"):
            setattr(args, name, start.resumed["args"].get(name))
        return None
    file = read_queries(path)
    args.query_size, args.query_model = file.vectors.shape[1], file.model_sha256
    return file


def make_queries(args: argparse.Namespace, classes: list[str], file: QueryFile | None) -> Queries:
    """What --queries stands for."""
    text = None
    if file is not None:
        text = vectors_by_name(file, classes)
        if args.queries.startswith(PERMUTED):
            text = permuted(text, args.seed)
    elif args.query_size:
        # A run that goes on has the vectors in its checkpoint.
        text = torch.zeros(len(classes), args.query_size)
    return Queries(args.queries == RANDOM, text, args.shared_queries)


def make_study_model(
    args: argparse.Namespace, classes: list[str], start: Start, query_file: QueryFile | None
) -> StudyModel:
    """The model of a run; where it goes on from a checkpoint, its first weights are not looked for."""
    queries = make_queries(args, classes, query_file)
    # It downloads.
    with distributed.one_a_machine_first():
        model = build_study_model(
            args.backbone,
            classes,
            args.fusion,
            "none" if start.resumed else args.weights,
            args.img_size,
            args.seed,
            args.channels_last,
            width=args.fusion_width,
            cells=args.fusion_cells,
            normalisation=args.normalisation,
            new_head="new_head" in args,
            queries=queries,
        )
    if args.freeze_backbone:
        learn_only(model, [classifier_layer(model.backbone)[0]])
    elif args.train_parts:
        learn_only(model, tokens(args.train_parts))
    return model


def describe_study_run(meta: Checkpoint, rows: Rows, image_model: Checkpoint | None, start: Start) -> Checkpoint:
    """What a checkpoint says about its run, with the studies and the image model that it began from."""
    columns: list[str] = []
    for table in (rows.train, rows.val):
        if table is not None:
            columns += [*table["study_id"], *table["view"]]
    meta["labels"] = checkpoint.digest([meta["labels"]], columns)
    if image_model is not None:
        meta["begun_from"] = checkpoint.identity(image_model)
    elif start.begun_from:
        meta["begun_from"] = start.begun_from
    return meta
