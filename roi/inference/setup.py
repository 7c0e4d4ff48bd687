"""From the flags of infer_roi_consistency.py to its outputs: checks, the checkpoint, rows of the table, files."""

import argparse
import copy
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.boxes import Box, boxes_by_image, read_boxes
from roi.data.dataset import rows_with_images
from roi.data.identity import trained_on
from roi.data.splits import some_patients
from roi.data.table import read_table
from roi.errors import UserError
from roi.files import locked, refuse_existing, writable
from roi.inference.flags import EVIDENCE, OUTPUTS
from roi.inference.grad_cam import GradCam
from roi.inference.loading import Loading, row_loader
from roi.inference.map_writers import CamMaps, ClassMaps, MaskMaps, Output
from roi.inference.new_names import ask_new_names
from roi.inference.one_image import ImageOutputs, predict_image
from roi.inference.origin import facts_of
from roi.inference.perturbation import Curves
from roi.inference.picture_writer import PictureWriter, cam_of_files
from roi.inference.predict import (
    Predictor,
    mark_origin,
    refuse_untrained,
    save_predictions,
    say_contaminated,
    sets_of_checkpoint,
)
from roi.inference.predict_studies import predict_studies, shown_in_pictures, study_records
from roi.inference.predict_table import TableOutputs, predict_table
from roi.models.compile import compiled
from roi.models.fusion import StudyModel
from roi.models.roi_model import LEARNED, RoiModel, reinitialised
from roi.scoring import predictions
from roi.scoring.pictures import dropped_grey
from roi.synthetic import named_sets
from roi.training import checkpoint
from roi.training.device import explain_error, pick_device, pick_dtype

# Outputs that a model of studies has of an image model alone (--mask_checkpoint).
OF_MASK = ("save_masks", "class_masks", "save_vis_dir")


def run(args: argparse.Namespace) -> None:
    """Predict what the flags ask for, in each process of a torchrun."""
    if args.image and distributed.world() > 1:
        raise UserError("--image is one image; several processes (torchrun) share a table, --csv")
    with distributed.processes(pick_device(args.device)) as device:
        try:
            predict(args, device)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "inference", "give a smaller --batch_size, or --autocast_dtype bf16") from error


def predict(args: argparse.Namespace, device: torch.device) -> None:
    """Check what can be checked before the first batch, then predict the image or the table."""
    # Before the checkpoint is read: what the user must know is said in the first second.
    outputs = [getattr(args, name) for name in OUTPUTS]
    meta = predictions.meta_path(args.save_json) if args.save_json else None
    refuse_existing(meta, *outputs, overwrite=args.overwrite)
    for name in EVIDENCE:
        path = getattr(args, name)
        if path:
            writable(Path(path))
    model, state = checkpoint.load_model(args.checkpoint, args.channels_last)
    refuse_untrained(args.checkpoint, state, args.untrained)
    if isinstance(model, StudyModel):
        check_study_outputs(args, state)
    else:
        check_model(args, model)
    masks = mask_predictor(args, state, device) if args.mask_checkpoint else None
    if args.queries:
        asked = [name for name in (*OUTPUTS, "thresholds") if getattr(args, name)]
        ask_new_names(args.queries, asked, args.checkpoint, model, state)
    keep_ratio, sets = args.keep_ratio, None
    if keep_ratio is None:
        keep_ratio = state["args"]["keep_ratio"]
    if args.thresholds:
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
    locks = [path for path in outputs if path and distributed.rank() == 0]
    with locked(*locks):
        origin = provenance(args, predictor)
        if args.image:
            files = ImageOutputs(args.save_json, args.save_mask, args.save_crop, side_file_base(args))
            predict_image(predictor, Path(args.image), files, origin, args.skip_unreadable)
        else:
            predict_rows(args, predictor, masks, origin)


def check_study_outputs(args: argparse.Namespace, state: dict[str, Any]) -> None:
    """Refuse what a model of studies cannot give, or gives with an image model beside it alone."""
    if args.max_samples:
        raise UserError(
            f"--max_samples {args.max_samples} cuts studies apart; give --max_test_samples, which draws patients"
        )
    # Named in each message: it is what the user needs next.
    image_model = state["args"].get("init") or "of a train script"
    for name in ("image", "save_mask", "save_crop", "curves"):
        if getattr(args, name):
            raise UserError(
                f"{args.checkpoint}: is a model of studies, and --{name} is of one image; leave it out, or give an "
                f"image model (--checkpoint {image_model})"
            )
    # A file that nobody reads would be loaded for nothing.
    if args.mask_checkpoint:
        if not any(getattr(args, name) for name in OF_MASK):
            raise UserError(
                f"--mask_checkpoint {args.mask_checkpoint}: nothing of it is asked for; give --save_masks, "
                "--class_masks or --save_vis_dir, or leave it out"
            )
        return
    for name in ("save_masks", "class_masks"):
        if getattr(args, name):
            raise UserError(
                f"{args.checkpoint}: is a model of studies, which has no mask of its own for --{name}; give the image "
                f"model that it began from, --mask_checkpoint {image_model}, or --cam for Grad-CAM of each image"
            )


def mask_predictor(args: argparse.Namespace, state: dict[str, Any], device: torch.device) -> Predictor:
    """The image model of --mask_checkpoint, whose masks and maps stand beside the predictions of studies.

    Args:
        state: of --checkpoint.
    """
    path = args.mask_checkpoint
    if "fusion" not in state["args"]:
        raise UserError(
            f"--mask_checkpoint {path}: {args.checkpoint} is an image model, with its own mask; leave it out"
        )
    model, mask_state = checkpoint.load_model(path, args.channels_last)
    if isinstance(model, StudyModel) or model.mask == "none":
        what = "is a model of studies, too" if isinstance(model, StudyModel) else "was trained without a mask"
        raise UserError(
            f"--mask_checkpoint {path}: {what}; give an image model of train_roi_consistency.py, or --cam for Grad-CAM "
            f"of {args.checkpoint}"
        )
    # As for a checkpoint of its own, whose name the message has.
    check_model(asking(args, OF_MASK, path), model)
    if state.get("begun_from") != checkpoint.identity(cast(checkpoint.Checkpoint, mask_state)):
        print(f"{path}: is not the image model that {args.checkpoint} began from; its masks are those of another model")
    keep_ratio = args.keep_ratio
    if keep_ratio is None:
        keep_ratio = mask_state["args"]["keep_ratio"]
    dtype = pick_dtype(args.autocast_dtype, device)
    return Predictor(model.to(device), mask_state, device, dtype, keep_ratio, args.seed)


def asking(args: argparse.Namespace, outputs: Sequence[str], path: str) -> argparse.Namespace:
    """The flags with these outputs alone, of the checkpoint `path`."""
    # The flags themselves stay: provenance and locks are of all outputs.
    less = copy.copy(args)
    less.checkpoint = path
    for name in OUTPUTS:
        if name not in outputs:
            setattr(less, name, None)
    return less


def check_model(args: argparse.Namespace, model: RoiModel) -> None:
    """Refuse outputs that the model of the checkpoint cannot give."""
    if model.mask == "none" and (args.save_mask or args.save_crop or args.save_masks):
        raise UserError(
            f"{args.checkpoint}: was trained without a mask (--mode standard), there is none to show; "
            "leave out --save_mask, --save_crop, --save_masks"
        )
    if model.mask not in LEARNED and args.curves:
        raise UserError(
            f"{args.checkpoint}: its mask is not learned (mask {model.mask!r}), so that nothing ranks the pixels; "
            "leave out --curves"
        )
    if args.class_masks and not model.per_class:
        raise UserError(
            f"{args.checkpoint}: has no map a class (--mask_per_class when training); leave out --class_masks"
        )


def provenance(args: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """Where an output comes from."""
    state = predictor.state
    return {
        "checkpoint": args.checkpoint,
        "epoch": state["epoch"],
        "table": args.csv,
        "image_root": args.image_root,
        "keep_ratio": predictor.keep_ratio,
        "tta": args.tta,
        "classes": state["classes"],
        "contaminated": state["contaminated"],
        # The key above is also true of a model that has seen one of the images, test or not.
        "trained_on_tests": state["contaminated"],
        "args": state["args"],
        "versions": state["versions"],
        "command": shlex.join(sys.argv),
        **facts_of(predictor.model, state),
    }


def side_file_base(args: argparse.Namespace) -> Path:
    """The output beside which side files (missing, unreadable images) are written."""
    for name in ("save_json", "save_mask", "save_crop", *EVIDENCE):
        path = getattr(args, name)
        if path:
            return Path(path)
    return Path(args.save_vis_dir or ".") / "roi_vis.png"


@dataclass(frozen=True)
class Rows:
    """The rows of a table that are predicted, and the boxes of radiologists in them."""

    table: pd.DataFrame
    boxes: dict[str, list[Box]]  # image, as the table names it -> its boxes
    boxed: set[str] | None  # images that have a box; None where no boxes were given


def choose_rows(args: argparse.Namespace) -> Rows:
    """The rows of --csv that the flags leave."""
    all_rows = read_table(args.csv)
    table = all_rows[: args.max_samples]
    if args.max_test_samples and args.max_test_samples < len(table):
        table = table[some_patients(table, args.max_test_samples, args.seed)]
    if not args.bbox_csv:
        return Rows(table, {}, None)
    # All rows of the table have a say in which image a name means, those that are not predicted, too.
    boxes, unclear = boxes_by_image(read_boxes(args.bbox_csv), all_rows["image"].tolist())
    if unclear:
        print(f"{args.bbox_csv}: {unclear}")
    if args.cam or args.class_masks:
        has_box = table["image"].isin(set(boxes))
        if not has_box.any():
            raise UserError(
                f"{args.bbox_csv}: has no box in any of the {len(table):,} images of {args.csv}; "
                "without --bbox_csv all images are taken"
            )
        # Maps are written of images with a box; the others would be predicted for nothing.
        if not (args.save_json or args.save_vis_dir or args.save_masks or args.curves):
            table = table[has_box]
    return Rows(table, boxes, set(boxes))


def predict_rows(
    args: argparse.Namespace, predictor: Predictor, masks: Predictor | None, origin: dict[str, Any]
) -> None:
    """Predict the rows of --csv, with `masks` of another checkpoint where predictions are of studies."""
    rows = choose_rows(args)
    side_file = side_file_base(args)
    table, paths = rows_with_images(rows.table, args.image_root, args.skip_unreadable, side_file)
    table["path"] = paths
    found = trained_on(predictor.state, table, args.image_root)
    table["contaminated"] = found.seen
    mark_origin(origin, predictor.state, found, is_drawn=any(named_sets(table, Path(args.image_root))))
    loading = Loading(args.batch_size, args.workers, args.prefetch_factor, args.cache_dir, args.skip_unreadable)
    if not isinstance(predictor.model, StudyModel):
        predict_images(args, predictor, rows, table, loading, origin)
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
        table["contaminated"] |= trained_on(masks.state, table, args.image_root).seen
        mask_origin = provenance(of_mask, masks) | {"study_checkpoint": args.checkpoint}
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
    predicted = predict_studies(predictor, table, loading, side_file_base(args))
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
) -> None:
    """Predict each image of a table for itself, and write what the flags ask for.

    Args:
        rows: chosen of --csv, with their boxes.
        table: image, path, labels and contaminated of those that there are.
        studies: what pictures say of the study of an image.
    """
    side_file = side_file_base(args)
    load = row_loader(predictor, table, loading, side_file)
    evidence = evidence_outputs(args, predictor, table["image"].tolist(), rows.boxed)
    # Without a mask there is Grad-CAM to look at.
    pictures = None
    if args.save_vis_dir:
        count = min(args.max_vis or len(table), len(table))
        cam = cam_of_files(predictor, args.map_size) if predictor.model.mask == "none" else None
        dropped = dropped_grey(predictor.state["args"])
        pictures = PictureWriter(
            args.save_vis_dir, table, count, args.vis_size, rows.boxes, cam, studies, dropped=dropped
        )
    # Last: Grad-CAM cuts the backbone by tracing it as it is written.
    if args.compile:
        compiled(predictor.model)
    outputs = TableOutputs(args.save_json, evidence, pictures, side_file, origin)
    predict_table(predictor, table, load, outputs, args.skip_unreadable)


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
