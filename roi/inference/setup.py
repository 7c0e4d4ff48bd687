"""From the flags of infer_roi_consistency.py to its outputs: checks, the checkpoint, rows of the table, files."""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.boxes import Box
from roi.errors import UserError
from roi.files import can_be_made, locked, refuse_existing, refuse_inputs, writable
from roi.inference.flags import EVIDENCE, INPUTS, OUTPUTS, STDOUT
from roi.inference.grad_cam import GradCam
from roi.inference.loading import Loading, row_loader
from roi.inference.map_writers import CamMaps, ClassMaps, MaskMaps, Output
from roi.inference.model_setup import (
    OF_MASK,
    ask_new_names,
    asking,
    check_model,
    check_study_outputs,
    mask_predictor,
    thresholds_of,
)
from roi.inference.one_image import ImageOutputs, predict_image
from roi.inference.origin import mark_origin, marks_of, provenance, refuse_untrained
from roi.inference.perturbation import Curves
from roi.inference.pictures.overlay_writer import OverlayWriter, is_one_page
from roi.inference.pictures.picture_writer import PictureWriter, cam_of_files, refuse_among_images
from roi.inference.predict import Predictor, Target, save_predictions, say_contaminated, sets_of_checkpoint
from roi.inference.predict_studies import predict_studies, shown_in_pictures, study_records
from roi.inference.predict_table import Pictures, TableOutputs, predict_table
from roi.inference.rows_setup import Rows, choose_rows, located, row_of_file, seen_of, side_file_base
from roi.inference.thresholds import Thresholds, is_metrics
from roi.models.compile import compiled
from roi.models.fusion import StudyModel
from roi.models.roi_model import LEARNED, reinitialised
from roi.scoring import predictions
from roi.scoring.pictures import dropped_grey
from roi.training import checkpoint
from roi.training.device import explain_error, pick_device, pick_dtype


def run(args: argparse.Namespace) -> None:
    """Predict what the flags ask for, in each process of a torchrun."""
    if args.image and distributed.world() > 1:
        raise UserError("--image is one image; several processes (torchrun) share a table, --csv, or --images")
    if args.save_json == STDOUT:
        if distributed.world() > 1:
            raise UserError("--save -: several processes (torchrun) have no standard output in common; give a file")
        # Predictions alone may stand there: what is said on the way is another stream's.
        stream = sys.stdout
        with redirect_stdout(sys.stderr):
            compute(args, stream)
    else:
        compute(args, args.save_json)


def compute(args: argparse.Namespace, target: Target | None) -> None:
    """Predict on the device of the flags; `target`: of the predictions."""
    with distributed.processes(pick_device(args.device)) as device:
        try:
            predict(args, device, target)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "inference", "give a smaller --batch_size, or --autocast_dtype bf16") from error


def output_files(args: argparse.Namespace) -> list[str]:
    """What is written."""
    paths = [getattr(args, name) for name in OUTPUTS]
    return [path for path in paths if path and path != STDOUT]


def check_places(args: argparse.Namespace, outputs: list[str], target: Target | None) -> None:
    """UserError where an output is there already, or cannot be written."""
    meta = predictions.meta_path(target) if isinstance(target, str) else None
    refuse_inputs({name: getattr(args, name) for name in INPUTS}, outputs)
    refuse_existing(*outputs, meta, overwrite=args.overwrite)
    folders = [args.save_vis_dir, args.save_overlay if not is_one_page(args.save_overlay) else None]
    for output in outputs:
        can_be_made(Path(output), is_folder=output in folders)
    for name in EVIDENCE:
        path = getattr(args, name)
        if path:
            writable(Path(path))


def predict(args: argparse.Namespace, device: torch.device, target: Target | None) -> None:
    """Check what can be checked before the first batch, then predict the image or the table."""
    # Before the checkpoint is read: what the user must know is said in the first second.
    outputs = output_files(args)
    check_places(args, outputs, target)
    model, state = checkpoint.load_model(args.checkpoint, args.channels_last)
    refuse_untrained(args.checkpoint, state, args.untrained)
    if isinstance(model, StudyModel):
        check_study_outputs(args, state)
    else:
        check_model(args, model)
    masks = mask_predictor(args, state, device) if args.mask_checkpoint else None
    if args.queries:
        ask_new_names(args, model, state)
    keep_ratio, sets = args.keep_ratio, None
    if keep_ratio is None:
        keep_ratio = state["args"]["keep_ratio"]
    # Before the images are looked for: a wrong file of thresholds is said at once.
    limits = thresholds_of(args, state)
    if args.thresholds and not is_metrics(Path(args.thresholds)):
        sets = sets_of_checkpoint(args.thresholds, args.checkpoint, state)
    dtype = pick_dtype(args.autocast_dtype, device)
    predictor = Predictor(model.to(device), state, device, dtype, keep_ratio, args.seed, args.tta, sets)
    if args.tta == "flips":
        print(
            "--tta flips: half of each mean sees the heart on the right, and side markers mirrored; "
            "laterality and dextrocardia are lost to it"
        )
    # From here on files are written: every process has looked at what is there.
    distributed.barrier()
    # The first process holds the locks for all, so that no other run writes the same files.
    locks = outputs if distributed.rank() == 0 else []
    with locked(*locks):
        origin = provenance(args.checkpoint, predictor, args.csv, args.image_root)
        if args.image:
            place = row_of_file(Path(args.image), state)
            mark_origin(origin, state, place.found, place.is_drawn)
            files = ImageOutputs(target, args.save_mask, args.save_crop)
            pages = overlay_writer(args, predictor, place.table, {}, limits, origin) if args.save_overlay else None
            predict_image(predictor, place.table, files, origin, pages)
        else:
            predict_rows(args, predictor, masks, origin, target)


def predict_rows(
    args: argparse.Namespace,
    predictor: Predictor,
    masks: Predictor | None,
    origin: dict[str, Any],
    target: Target | None,
) -> None:
    """Predict the rows of --csv or --images, with `masks` of another checkpoint where predictions are of studies."""
    rows = choose_rows(args)
    place = located(args, rows.table, predictor.state)
    table = place.table
    mark_origin(origin, predictor.state, place.found, place.is_drawn)
    loading = Loading(args.batch_size, args.workers, args.prefetch_factor, args.cache_dir, args.skip_unreadable)
    if not isinstance(predictor.model, StudyModel):
        predict_images(args, predictor, rows, table, loading, origin, target=target)
        return
    # Pictures show a mask where there is one.
    of_backbone = ("cam",) if masks else ("cam", "save_vis_dir")
    own = asking(args, of_backbone, args.checkpoint)
    if own.cam or own.save_vis_dir:
        # A backbone without a map is told before the studies are predicted.
        GradCam(predictor.model, predictor.img_size)
    shown = predict_rows_as_studies(args, predictor, table, loading, origin)
    # An image at a time, as an image model would: the backbone of studies for Grad-CAM, an image model for masks.
    if own.cam or own.save_vis_dir:
        predict_images(own, predictor, rows, table, loading, origin, shown)
    # A patient whom either model has seen is no test of the picture.
    if masks:
        of_mask = asking(args, OF_MASK, args.mask_checkpoint)
        found = seen_of(args, table, masks.state)
        table["contaminated"] |= found.seen
        marks, _ = marks_of(masks.state, found, place.is_drawn)
        mask_origin = provenance(of_mask.checkpoint, masks, args.csv, args.image_root) | marks
        mask_origin["study_checkpoint"] = args.checkpoint
        predict_images(of_mask, masks, rows, table, loading, mask_origin, shown)


def predict_rows_as_studies(
    args: argparse.Namespace, predictor: Predictor, table: pd.DataFrame, loading: Loading, origin: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Predict the studies of a table, where anything asks for them; what pictures say of them, by image."""
    if not (args.save_json or args.save_vis_dir):
        return {}
    # Grad-CAM cuts the backbone afterwards, by tracing it as it is written.
    if args.compile and not (args.cam or args.save_vis_dir):
        compiled(predictor.model)
    predicted = predict_studies(predictor, table, loading, Path(args.save_json or side_file_base(args) or "."))
    # Pictures alone need what their captions say of the study.
    if args.save_json:
        save_predictions(args.save_json, study_records(predictor, predicted), origin)
        contaminated = int(predicted.table["contaminated"].sum())
        say_contaminated(contaminated, len(predicted.table), predictor.state)
    if not args.save_vis_dir:
        return {}
    return shown_in_pictures(predicted, predictor.classes, args.max_vis or len(table))


def predict_images(
    args: argparse.Namespace,
    predictor: Predictor,
    rows: Rows,
    table: pd.DataFrame,
    loading: Loading,
    origin: dict[str, Any],
    studies: dict[str, dict[str, Any]] | None = None,
    target: Target | None = None,
) -> None:
    """Predict each image of a table for itself, and write what the flags ask for.

    Args:
        rows: chosen of --csv, with their boxes.
        table: image, path, labels and contaminated of those that there are.
        studies: what pictures say of the study of an image.
        target: of the predictions; None: not asked for.
    """
    side_file = side_file_base(args)
    load = row_loader(predictor, table, loading, side_file)
    evidence = evidence_outputs(args, predictor, table["image"].tolist(), rows.boxed)
    pictures: list[Pictures] = []
    # Without a mask there is Grad-CAM to look at.
    if args.save_vis_dir:
        refuse_among_images("--save_vis_dir", Path(args.save_vis_dir), table)
        count = min(args.max_vis or len(table), len(table))
        cam = cam_of_files(predictor, args.map_size) if predictor.model.mask == "none" else None
        dropped = dropped_grey(predictor.state["args"])
        pictures.append(
            PictureWriter(args.save_vis_dir, table, count, args.vis_size, rows.boxes, cam, studies, dropped=dropped)
        )
    if args.save_overlay:
        limits = thresholds_of(args, predictor.state)
        pictures.append(overlay_writer(args, predictor, table, rows.boxes, limits, origin))
    # Last: Grad-CAM cuts the backbone by tracing it as it is written.
    if args.compile:
        compiled(predictor.model)
    outputs = TableOutputs(target, evidence, pictures, side_file, origin)
    predict_table(predictor, table, load, outputs, args.skip_unreadable)


def overlay_writer(
    args: argparse.Namespace,
    predictor: Predictor,
    table: pd.DataFrame,
    boxes: dict[str, list[Box]],
    limits: Thresholds,
    origin: dict[str, Any],
) -> OverlayWriter:
    """What makes the overlays."""
    # A model without a map of each class has Grad-CAM.
    cam = None if predictor.model.per_class else cam_of_files(predictor, args.map_size)
    count = min(args.max_vis or len(table), len(table))
    size = args.overlay_size
    writer = OverlayWriter(args.save_overlay, table, count, size, predictor.classes, limits, boxes, cam)
    writer.mark(origin)
    return writer


def evidence_outputs(
    args: argparse.Namespace, predictor: Predictor, images: list[str], boxed: set[str] | None
) -> list[Output]:
    """The files of maps and curves that were asked for.

    Args:
        images: of the table.
        boxed: those that have a box, None where no boxes were given.
    """
    if not any(getattr(args, name) for name in EVIDENCE):
        return []
    outputs: list[Output] = []
    model = predictor.model
    dtype = predictor.dtype
    keep_ratio = predictor.keep_ratio
    # What a map shows that a network without training shows as well is no evidence.
    reinit = reinitialised(predictor.state["args"], predictor.classes, args.seed, args.channels_last)
    reinit = reinit.to(predictor.device)
    cells, side = args.map_size, predictor.img_size
    if args.save_masks:
        learned = model.mask in LEARNED
        outputs.append(MaskMaps(args.save_masks, reinit if learned else None, keep_ratio, cells, side, dtype))
    if args.cam:
        outputs.append(CamMaps(args.cam, (model, reinit), keep_ratio, cells, side, dtype, boxed))
    if args.class_masks:
        outputs.append(ClassMaps(args.class_masks, reinit, keep_ratio, cells, dtype, boxed))
    if args.curves:
        seeds = curve_seeds(images, args.curve_samples, args.seed)
        outputs.append(Curves(args.curves, (model, reinit), keep_ratio, args.batch_size, dtype, seeds))
    return outputs


def curve_seeds(images: list[str], count: int, seed: int) -> dict[str, int]:
    """The images of the curves, drawn with `seed`, and the seed of the random blobs of each."""
    rows = np.random.default_rng(seed).permutation(len(images))[:count]
    # By the row, so that an image has the same blobs however many processes share the table.
    row_numbers = torch.from_numpy(rows)
    chosen = [images[row] for row in rows]
    return dict(zip(chosen, row_seeds(seed, 0, row_numbers).tolist(), strict=True))
