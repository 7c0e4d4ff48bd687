"""Whether the checkpoint can give what the flags of infer_roi_consistency.py ask for, and the models beside it."""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from roi.errors import UserError
from roi.inference.flags import OUTPUTS, STDOUT
from roi.inference.origin import refuse_untrained
from roi.inference.predict import Predictor, same_checkpoint
from roi.inference.thresholds import Thresholds, default_thresholds, is_metrics, model_of_metrics, read_thresholds
from roi.models.fusion import StudyModel, ViewAttention
from roi.models.queries import read_queries, vectors_of_new_names
from roi.models.roi_model import LEARNED, RoiModel
from roi.training import checkpoint
from roi.training.device import pick_dtype

# Outputs that a model of studies has of an image model alone (--mask_checkpoint).
OF_MASK = ("save_masks", "class_masks", "save_vis_dir")


def check_study_outputs(args: argparse.Namespace, state: dict[str, Any]) -> None:
    """Refuse what a model of studies cannot give, or gives with an image model beside it alone."""
    if args.max_samples:
        raise UserError(
            f"--max_samples {args.max_samples} cuts studies apart; give --max_test_samples, which draws patients"
        )
    # Named in each message: it is what the user needs next.
    image_model = state["args"].get("init") or "of a train script"
    if args.images or args.save_json == STDOUT:
        raise UserError(
            f"{args.checkpoint}: is a model of studies, of which files do not say which of them are one; give a "
            "table: --csv with the columns image and study_id, --image_root, --save with a file, and --cache_dir"
        )
    for name in ("image", "save_mask", "save_crop", "save_overlay", "curves"):
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
    refuse_untrained(f"--mask_checkpoint {path}", mask_state, args.untrained)
    # As for a checkpoint of its own, whose name the message has.
    check_model(asking(args, OF_MASK, path), model)
    remark = remark_on_mask_model(path, model, mask_state, args.checkpoint, state)
    if remark:
        print(remark)
    keep_ratio = args.keep_ratio
    if keep_ratio is None:
        keep_ratio = mask_state["args"]["keep_ratio"]
    dtype = pick_dtype(args.autocast_dtype, device)
    return Predictor(model.to(device), mask_state, device, dtype, keep_ratio, args.seed)


def remark_on_mask_model(
    path: str, model: RoiModel, mask_state: dict[str, Any], study: str, study_state: dict[str, Any]
) -> str:
    """In words, where the model of --mask_checkpoint is not, or may not be, the one that a study model began from.

    Args:
        path: of --mask_checkpoint, whose model and checkpoint follow.
        study: path of the study model, whose checkpoint follows.
    """
    begun_from = study_state.get("begun_from")
    if begun_from is None and study_state["args"].get("init"):
        return f"{path}: cannot be told to be the image model that {study} began from, which does not say it"
    # An export of before does not say what it is of, and its file has the weights in another order.
    in_order = checkpoint.Checkpoint(model=model.backbone.state_dict())
    known = (checkpoint.identity(cast(checkpoint.Checkpoint, mask_state)), checkpoint.identity(in_order))
    if begun_from in known:
        return ""
    return f"{path}: is not the image model that {study} began from; its masks are those of another model"


def asking(args: argparse.Namespace, outputs: Sequence[str], path: str) -> argparse.Namespace:
    """The flags with these outputs alone, of the checkpoint `path`."""
    # The flags themselves stay: provenance and locks are of all outputs.
    less = copy.copy(args)
    less.checkpoint = path
    for name in OUTPUTS:
        if name not in outputs:
            setattr(less, name, None)
    return less


def ask_new_names(args: argparse.Namespace, model: RoiModel, state: dict[str, Any]) -> None:
    """--queries: the model predicts these names in the place of its own classes, whether trained on or not."""
    if not isinstance(model, StudyModel) or not model.shared:
        raise UserError(
            f"--queries {args.queries}: {args.checkpoint} has a last layer for each of its own classes; train with "
            "train_multiview.py --queries NPZ --shared_queries"
        )
    # Maps and thresholds are of the classes that the backbone was trained on.
    others = [name for name in (*OUTPUTS, "thresholds") if name != "save_json" and getattr(args, name)]
    if others:
        raise UserError(f"--queries {args.queries} gives probabilities of other names alone; leave out --{others[0]}")
    file = read_queries(args.queries)
    # Everything else of the model is the same for any name.
    assert isinstance(model.fusion, ViewAttention)
    model.fusion.text = vectors_of_new_names(file, state["args"].get("query_model"))
    trained = [name for name in file.names if name in state["classes"]]
    print(f"--queries: {len(file.names)} names, of which {len(trained)} were trained on")
    state["classes"] = file.names


def thresholds_of(args: argparse.Namespace, state: dict[str, Any]) -> Thresholds:
    """From which probability on a finding is shown."""
    classes = state["classes"]
    if not args.thresholds:
        return default_thresholds(classes)
    path = Path(args.thresholds)
    if is_metrics(path):
        # Files of calibrate_conformal.py are looked at by sets_of_checkpoint.
        same_checkpoint(args.thresholds, [], model_of_metrics(path), args.checkpoint, state)
    elif not args.save_overlay:
        return default_thresholds(classes)
    return read_thresholds(path, classes)


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
