"""Predict with a checkpoint: probabilities on the whole image, on what the mask keeps and on what it drops; masks and pictures.

    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt --csv nih_roi_test.csv --image_root "$D" \\
        --keep_ratio 0.1 --save_vis_dir roi_vis --save_json preds.json
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt --image "$D/images/00000013_005.png" \\
        --save_mask mask.png --save_crop crop.png

preds.json is a list, one object an image in the order of the table: image, prob_full, prob_crop, prob_drop, faithfulness
(= full - drop), each {class: number}. A checkpoint without a mask (--mode standard) has prob_full alone. An image is marked
"contaminated": true if the checkpoint was trained on it or on another image of its patient. The file is complete or absent;
preds.meta.json beside it says where it comes from. Pictures of an image x.png: x_mask.png, x_crop.png (true grey levels),
x_overlay.png; without a mask x_cam.png alone: Grad-CAM of the finding that is most probable. Pictures of images that
were trained on say so (masks and crops in their text chunk; CONTAMINATED.txt beside them lists all), and so do files of
maps and curves. With --thresholds each object also has its
prediction sets: "set" (at most alpha of its findings are not in it, in expectation), "certain" (absence can be ruled out) and "possible"
(neither presence nor absence can).

What evaluate.py reads to judge the masks:
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt --csv nih_roi_test.csv --image_root "$D" \\
        --save_masks masks.npz --class_masks class_masks.npz --curves curves.npz --bbox_csv "$D/BBox_List_2017.csv"
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_standard.pt --csv nih_roi_test.csv --image_root "$D" \\
        --cam cam.npz --bbox_csv "$D/BBox_List_2017.csv"
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from roi import cli
from roi.errors import UserError
from roi.files import atomic_write, locked, refuse_existing, writable
from roi.text import decimal

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from roi.data.boxes import Box
    from roi.data.dataset import Batch
    from roi.inference.map_writers import Output
    from roi.models.roi_model import RoiModel

    Outcome = tuple[int, dict[str, Any], np.ndarray | None]  # row of the table, record of preds.json, mask (S, S) 0/1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--checkpoint", required=True, metavar="PT", help="of a train script; it says which backbone and classes"
    )
    source = parser.add_argument_group("images: a table, or one file")
    source.add_argument("--csv", metavar="CSV", help="table of make_chexmultimodal_csv.py")
    source.add_argument(
        "--image_root",
        metavar="DIR",
        help="holds the images of --csv: DIR/images/NAME, DIR/NAME, DIR/images_*/images/NAME or "
        "DIR/images-*/images-*/NAME",
    )
    source.add_argument("--image", metavar="FILE", help="one image file")
    source.add_argument(
        "--max_samples", type=cli.number(int, 1), metavar="N", help="the first N rows of the table (default: all)"
    )
    source.add_argument(
        "--max_test_samples",
        type=cli.number(int, 1),
        metavar="N",
        help="at most N rows of the table, whole patients drawn with --seed (default: all)",
    )
    cli.add_loading(source)
    out = parser.add_argument_group("output")
    out.add_argument("--save_json", metavar="JSON", help="predictions")
    pictures = (
        "folder for three pictures an image; of a checkpoint without a mask one, Grad-CAM of its most probable finding"
    )
    out.add_argument("--save_vis_dir", metavar="DIR", help=pictures)
    out.add_argument(
        "--max_vis", type=cli.number(int, 1), metavar="N", help="pictures for the first N images alone (default: all)"
    )
    out.add_argument(
        "--vis_size",
        type=cli.number(int, 64, 4096),
        default=512,
        metavar="PX",
        help="side of the pictures (default: %(default)s)",
    )
    out.add_argument(
        "--bbox_csv",
        metavar="CSV",
        help="boxes for the overlays, --cam and --class_masks: BBox_List_2017.csv, or image,label,x,y,w,h",
    )
    out.add_argument(
        "--thresholds",
        metavar="JSON",
        help="of calibrate_conformal.py: adds the prediction set of each image (set, certain, possible)",
    )
    out.add_argument("--save_mask", metavar="PNG", help="mask of --image, at its own size")
    out.add_argument("--save_crop", metavar="PNG", help="what the mask keeps of --image, at its own size")
    cli.add_overwrite(out, "outputs of an earlier run")
    evidence = parser.add_argument_group("evidence", "files for evaluate.py; each is complete or absent")
    evidence.add_argument(
        "--save_masks", metavar="NPZ", help="masks of all images, and of a re-initialised model (default: none)"
    )
    evidence.add_argument(
        "--cam",
        metavar="NPZ",
        help="Grad-CAM of each class, of the images in --bbox_csv if given, otherwise of all (default: none)",
    )
    evidence.add_argument(
        "--class_masks",
        metavar="NPZ",
        help="the map of each class behind the mask, of the same images as --cam (default: none)",
    )
    evidence.add_argument(
        "--map_size",
        type=cli.number(int, 1, 512),
        default=32,
        metavar="M",
        help="cells a side of these maps (default: %(default)s)",
    )
    evidence.add_argument(
        "--curves",
        metavar="NPZ",
        help="predictions on what masks and controls of many areas keep and drop (default: none)",
    )
    evidence.add_argument(
        "--curve_samples",
        type=cli.number(int, 1),
        default=1000,
        metavar="N",
        help="images for --curves, drawn with --seed (default: %(default)s)",
    )
    how = parser.add_argument_group("computing")
    how.add_argument(
        "--keep_ratio",
        type=cli.number(float, 0, 1),
        metavar="0..1",
        help="share of the pixels that the mask keeps (default: as trained)",
    )
    how.add_argument(
        "--tta",
        choices=("none", "flips", "scales"),
        default="none",
        help="probabilities are means over views of the image: as it is and mirrored, which shows the heart on the wrong side, or as it is and .9 and 1.1 "
        "times as large; masks and maps stay those of the image as it is (default: %(default)s)",
    )
    how.add_argument(
        "--batch_size", type=cli.number(int, 1), default=32, metavar="N", help="images a forward (default: %(default)s)"
    )
    how.add_argument(
        "--seed",
        type=cli.number(int, 0),
        default=0,
        help="of random masks, re-initialised weights and the draw for --curves (default: %(default)s)",
    )
    cli.add_compute(how)
    args = parser.parse_args(argv)
    if bool(args.csv) == bool(args.image):
        parser.error("give either --csv with --image_root, or --image")
    if args.csv and not args.image_root:
        parser.error("--csv needs --image_root")
    if args.image and args.save_vis_dir or args.csv and (args.save_mask or args.save_crop):
        parser.error("--save_vis_dir goes with --csv, --save_mask and --save_crop with --image")
    if args.image and (args.save_masks or args.cam or args.class_masks or args.curves):
        parser.error("--save_masks, --cam, --class_masks and --curves go with --csv")
    if args.tta != "none" and args.curves:
        parser.error(f"--curves are predictions on the image as it is; leave out --tta {args.tta}")
    if args.csv and not (
        args.save_json or args.save_vis_dir or args.save_masks or args.cam or args.class_masks or args.curves
    ):
        parser.error(
            "nothing to write: give --save_json, --save_vis_dir, --save_masks, --cam, --class_masks or --curves"
        )
    return args


def main(args: argparse.Namespace) -> None:
    from roi import distributed
    from roi.training.device import explain_error, pick_device

    if args.image and distributed.world() > 1:
        raise UserError("--image is one image; several processes (torchrun) share a table, --csv")
    with distributed.processes(pick_device(args.device)) as device:
        args.device = str(device)
        try:
            predict_with(args)
        except (RuntimeError, MemoryError) as error:
            raise explain_error(error, "inference", "give a smaller --batch_size, or --autocast_dtype bf16") from error


def predict_with(args: argparse.Namespace) -> None:
    from roi import distributed
    from roi.models.roi_model import LEARNED
    from roi.scoring.predictions import meta_path
    from roi.training import checkpoint

    files = (
        args.save_json,
        args.save_vis_dir,
        args.save_mask,
        args.save_crop,
        args.save_masks,
        args.cam,
        args.class_masks,
        args.curves,
    )
    refuse_existing(meta_path(args.save_json) if args.save_json else None, *files, overwrite=args.overwrite)
    for path in (args.save_masks, args.cam, args.class_masks, args.curves):
        if path:
            writable(Path(path))
    model, state = checkpoint.load_model(args.checkpoint, args.channels_last)
    if model.mask == "none" and (args.save_mask or args.save_crop or args.save_masks):
        raise UserError(
            f"{args.checkpoint}: was trained without a mask (--mode standard), there is none to show; leave out --save_mask, --save_crop, --save_masks"
        )
    if model.mask not in LEARNED and args.curves:
        raise UserError(
            f"{args.checkpoint}: its mask is not learned (mask {model.mask!r}), so that nothing ranks the pixels; leave out --curves"
        )
    if args.class_masks and not model.per_class:
        raise UserError(
            f"{args.checkpoint}: has no map a class (--mask_per_class when training); leave out --class_masks"
        )
    args.keep_ratio = state["args"]["keep_ratio"] if args.keep_ratio is None else args.keep_ratio
    args.sets = promised(args, state) if args.thresholds else None
    if args.tta == "flips":
        print(
            "--tta flips: half of each mean sees the heart on the right, and side markers mirrored; laterality and dextrocardia are lost to it"
        )
    distributed.barrier()  # every process has looked at what is there
    with locked(*(path for path in files if path and distributed.rank() == 0)):
        if args.image:
            predict_image(args, model, state)
        else:
            predict_table(args, model, state)


def promised(args: argparse.Namespace, state: dict[str, Any]) -> Callable[[np.ndarray], list[dict[str, Any]]]:
    """--thresholds -> f((B, K) probabilities of the classes of the checkpoint) = the prediction sets of each image."""
    from roi.scoring import prediction_sets

    thresholds = prediction_sets.read(args.thresholds)
    lacking = [c for c in thresholds["classes"] if c not in state["classes"]]
    theirs, ours = thresholds["model"], {"checkpoint": Path(args.checkpoint).name, "epoch": state["epoch"]}
    if lacking or theirs and (Path(theirs.get("checkpoint") or "").name, theirs.get("epoch")) != tuple(ours.values()):
        why = (
            f"it has {lacking[0]!r}, which this one does not predict"
            if lacking
            else f"they are of {theirs.get('checkpoint')}, epoch {theirs.get('epoch')}"
        )
        raise UserError(
            f"--thresholds {args.thresholds}: not of {args.checkpoint}, epoch {state['epoch']}: {why}; calibrate on predictions of this checkpoint"
        )
    place = [state["classes"].index(c) for c in thresholds["classes"]]
    return lambda prob: prediction_sets.described(thresholds, prob[:, place])


def outcomes(
    args: argparse.Namespace,
    model: RoiModel,
    state: dict[str, Any],
    table: pd.DataFrame,
    batches: Iterable[Batch],
    first: int = 0,
    outputs: Sequence[Output] = (),
) -> Iterator[Outcome]:
    """Predict batch by batch; `table` has image and contaminated (trained on) of the rows, which begin at row `first`
    of the whole one. `outputs` see each batch. An unreadable image stops it, or is left out and listed.
    """
    from roi import distributed
    from roi.counter_rng import row_seeds
    from roi.data.augment import OTHER_VIEWS
    from roi.data.dataset import checked, note_unreadable
    from roi.scoring.predictions import PARTS, record
    from roi.training.loop import predict

    device, dtype = computing(args)
    images = table["image"].tolist()
    contaminated = table["contaminated"].tolist()
    unreadable: set[str] = set()
    readable = checked(batches, args.skip_unreadable, unreadable)
    model, others = model.to(device), OTHER_VIEWS[args.tta]
    for batch, views in predict(
        model,
        readable,
        device,
        dtype,
        args.keep_ratio,
        lambda index: row_seeds(args.seed, 0, index + first),
        others=others,
    ):
        rows = batch.index.tolist()
        if not rows:
            continue
        for output in outputs:
            output.add(batch, [images[row] for row in rows], views)
        prob = {
            part: getattr(views, part).sigmoid().cpu().numpy() for part in PARTS if getattr(views, part) is not None
        }
        masks = None if views.hard is None else views.hard[:, 0].cpu().numpy()
        sets = args.sets(prob["full"]) if args.sets else [{}] * len(rows)
        for i, row in enumerate(rows):
            values = {part: p[i] for part, p in prob.items()}
            yield (
                row,
                record(images[row], state["classes"], values, contaminated[row]) | sets[i],
                None if masks is None else masks[i],
            )
    unreadable = set().union(*distributed.all_gather_objects(unreadable))
    if distributed.rank() == 0:
        note_unreadable(unreadable, output_of(args))


def computing(args: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    from roi.training.device import pick_device, pick_dtype

    device = pick_device(args.device)
    return device, pick_dtype(args.autocast_dtype, device)


def evidence(
    args: argparse.Namespace, model: RoiModel, state: dict[str, Any], images: list[str], boxed: set[str] | None
) -> list[Output]:
    """The files of maps and curves that were asked for; `boxed`: the images that have a box, if boxes were given."""
    import torch

    from roi.counter_rng import row_seeds
    from roi.inference.map_writers import CamMaps, ClassMaps, MaskMaps
    from roi.inference.perturbation import Curves
    from roi.models.roi_model import LEARNED, reinitialised

    if not (args.save_masks or args.cam or args.class_masks or args.curves):
        return []
    device, dtype = computing(args)
    side = state["args"]["img_size"]
    outputs: list[Output] = []
    models = model.to(device), reinitialised(state["args"], state["classes"], args.seed, args.channels_last).to(device)
    if args.save_masks:
        outputs.append(
            MaskMaps(
                args.save_masks,
                models[1] if model.mask in LEARNED else None,
                args.keep_ratio,
                args.map_size,
                side,
                dtype,
            )
        )
    if args.cam:
        outputs.append(CamMaps(args.cam, models, args.keep_ratio, args.map_size, side, dtype, boxed))
    if args.class_masks:
        outputs.append(ClassMaps(args.class_masks, models[1], args.keep_ratio, args.map_size, dtype, boxed))
    if args.curves:
        rows = np.random.default_rng(args.seed).permutation(len(images))[: args.curve_samples]
        seeds = dict(
            zip([images[n] for n in rows], row_seeds(args.seed, 0, torch.from_numpy(rows)).tolist(), strict=True)
        )
        outputs.append(Curves(args.curves, models, args.keep_ratio, args.batch_size, dtype, seeds))
    return outputs


def predict_image(args: argparse.Namespace, model: RoiModel, state: dict[str, Any]) -> None:
    """One image file: probabilities on the console; mask and crop at the size of the file."""
    import pandas as pd

    from roi.data.dataset import XrayDataset
    from roi.data.images import read_grey
    from roi.scoring.pictures import crop_picture, mask_picture, save_png
    from roi.training.checkpoint import trained_on_file

    path = Path(args.image)
    if not path.is_file():
        raise UserError(f"{path}: no such image (--image)")
    grey = read_grey(path)
    dataset = XrayDataset([str(path)], no_targets(1, state), state["args"]["img_size"])
    table = pd.DataFrame({"image": [path.name], "contaminated": [trained_on_file(state, path)]})
    ((_, row, mask),) = outcomes(args, model, state, table, [dataset.collate([dataset[0]])])
    parts = [key for key, values in row.items() if isinstance(values, dict)]
    for finding in state["classes"]:
        values = (f"  {part.removeprefix('prob_')} {decimal(row[part][finding], 3)}" for part in parts)
        print(f"{finding:20s}" + "".join(values))
    for kind in ("set", "certain", "possible") if args.sets else ():
        print(f"{kind:20s}  {', '.join(row[kind]) or '(empty)'}")
    if row.get("contaminated"):
        print("CONTAMINATED: the checkpoint was trained on this image or on another image of its patient")
    else:
        say_contaminated(0, 1, state)
    if args.save_json:
        save_predictions(args, state, iter([row]))
    if mask is not None:
        picture = mask_picture(mask, (grey.shape[1], grey.shape[0]))
        for target, image in ((args.save_mask, picture), (args.save_crop, crop_picture(grey, picture))):
            if target:
                save_png(image, target, bool(row.get("contaminated")))
                print(f"{target}: {image.width} x {image.height} pixels")


def predict_table(args: argparse.Namespace, model: RoiModel, state: dict[str, Any]) -> None:
    """A table: predictions as a stream, pictures, maps and curves as they come."""
    from roi import distributed
    from roi.data.boxes import boxes_by_image, read_boxes
    from roi.data.dataset import present
    from roi.data.table import read_table, some_patients
    from roi.models.compile import compiled
    from roi.progress import progress
    from roi.scoring.pictures import file_stems, save_cam, save_pictures
    from roi.training.checkpoint import is_contaminated

    whole = read_table(args.csv)
    table = whole[: args.max_samples]
    if args.max_test_samples and args.max_test_samples < len(table):
        table = table[some_patients(table, args.max_test_samples, args.seed)]
    boxes: dict[str, list[Box]] = {}  # image, as the table names it -> its boxes
    if args.bbox_csv:
        # All rows of the table have a say in which image a name means, those that are not predicted, too.
        boxes, unclear = boxes_by_image(read_boxes(args.bbox_csv), whole["image"].tolist())
        if unclear:
            print(f"{args.bbox_csv}: {unclear}")
    boxed = set(boxes) if args.bbox_csv else None
    if (args.cam or args.class_masks) and boxed is not None:
        has_box = table["image"].isin(boxed)
        if not has_box.any():
            raise UserError(
                f"{args.bbox_csv}: has no box in any of the {len(table):,} images of {args.csv}; without --bbox_csv all images are taken"
            )
        if not (args.save_json or args.save_vis_dir or args.save_masks or args.curves):
            table = table[has_box]  # the others would be predicted for nothing
    table, paths = present(table, args.image_root, args.skip_unreadable, output_of(args))
    table["path"] = paths
    loader = loader_of(args, state, table)
    table["contaminated"] = is_contaminated(state, table)
    marked = set(table["image"][table["contaminated"]])
    stems = file_stems(table["image"])
    shown = min(args.max_vis or len(table), len(table)) if args.save_vis_dir else 0
    first, end = (
        len(table) * n // distributed.world() for n in (distributed.rank(), distributed.rank() + 1)
    )  # rows of this process
    outputs = evidence(args, model, state, table["image"].tolist(), boxed)
    cam = cam_of(args, model, state) if shown and model.mask == "none" else None
    if args.compile:
        compiled(model)

    done: list[str] = []  # images of this process

    def rows() -> Iterator[dict[str, Any]]:
        with progress(None, end - first, "predict") as bar:
            for n, record, mask in outcomes(args, model, state, table[first:end], loader(first, end), first, outputs):
                row = table.iloc[first + n]
                if first + n < shown:
                    stem, here = Path(args.save_vis_dir) / stems[first + n], boxes.get(row["image"], [])
                    if cam is not None:
                        save_cam(cam(row["path"]), stem, row["path"], record, row["labels"], here, args.vis_size)
                    elif mask is not None:
                        save_pictures(stem, row["path"], mask, record, row["labels"], here, args.vis_size)
                bar.update()
                done.append(row["image"])
                yield record

    with ExitStack() as stack:
        for output in outputs:
            stack.enter_context(output)
        if args.save_json:
            save_predictions(args, state, rows())
        else:
            for _ in rows():
                pass
        for output in outputs:
            count = output.close(state["classes"], provenance(args, state), marked)
            print(f"{output.file.path}: {count:,} images")
    everyone = [image for images in distributed.all_gather_objects(done) for image in images]
    if shown:
        print(f"{args.save_vis_dir}: pictures of {shown:,} images")
        if distributed.rank() == 0:
            shown_images = set(table["image"].iloc[:shown])
            mark_folder(Path(args.save_vis_dir), [image for image in everyone if image in shown_images & marked])
    say_contaminated(len(marked & set(everyone)), len(everyone), state)


def mark_folder(folder: Path, images: list[str]) -> None:
    """CONTAMINATED.txt beside the pictures names those that were trained on: a mask or a crop has no room for words."""
    path = folder / "CONTAMINATED.txt"
    if not images:
        path.unlink(missing_ok=True)  # of an earlier run: no longer true
        return
    with atomic_write(path) as file:
        file.write("The checkpoint was trained on these images or on other images of their patients:\n")
        file.writelines(f"{image}\n" for image in images)


def say_contaminated(marked: int, images: int, state: dict[str, Any]) -> None:
    """On the console, whatever was written."""
    if marked:
        print(
            f"CONTAMINATED: the checkpoint was trained on {marked:,} of these {images:,} images "
            "or on other images of their patients; their scores are not test scores"
        )
    elif state["contaminated"]:
        print(
            "CONTAMINATED: the checkpoint was trained on test images (--allow_leakage), "
            "though on none of these or their patients"
        )


def cam_of(args: argparse.Namespace, model: RoiModel, state: dict[str, Any]) -> Callable[[str], np.ndarray]:
    """f(path of an image) = Grad-CAM of each class (K, m, m), each between 0 and 1."""
    import torch

    from roi.data.images import read_grey
    from roi.inference.grad_cam import GradCam

    side, device = state["args"]["img_size"], computing(args)[0]
    cam = GradCam(model.to(device), side)

    def of_image(path: str) -> np.ndarray:
        maps = cam(torch.from_numpy(read_grey(path, side).copy())[None, None].to(device), args.map_size)[0]
        return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-30)).cpu().numpy()

    return of_image


def loader_of(
    args: argparse.Namespace, state: dict[str, Any], table: pd.DataFrame
) -> Callable[[int, int], Iterable[Batch]]:
    """-> a loader of the rows from .. to, less those that cannot be read. `table` has a column path."""
    import torch

    from roi.data.dataset import CacheLoader, ShardedBatchSampler, XrayDataset, cached, make_loader

    device, size = computing(args)[0], state["args"]["img_size"]
    if not args.cache_dir:
        workers, ahead = args.workers, args.prefetch_factor

        def decoding(first: int, end: int) -> Iterable[Batch]:
            dataset = XrayDataset(table["path"].tolist()[first:end], no_targets(end - first, state), size)
            return make_loader(dataset, args.batch_size, None, workers, ahead, False, device.type == "cuda")[0]

        return decoding
    images, paths = table["image"].tolist(), table["path"].tolist()
    cache = cached(images, paths, args.cache_dir, size, args.workers, args.skip_unreadable, output_of(args))

    def gathering(first: int, end: int) -> Iterable[Batch]:
        part = replace(cache, rows=cache.rows[first:end])
        sampler = ShardedBatchSampler(end - first, args.batch_size)
        sampler.unreadable = part.rows < 0
        targets = no_targets(end - first, state)
        return CacheLoader(part, targets, sampler, torch.device(device), False, args.prefetch_factor)

    return gathering


def provenance(args: argparse.Namespace, state: dict[str, Any]) -> dict[str, Any]:
    """Where an output comes from."""
    return {
        "checkpoint": args.checkpoint,
        "epoch": state["epoch"],
        "table": args.csv,
        "image_root": args.image_root,
        "keep_ratio": args.keep_ratio,
        "tta": args.tta,
        "classes": state["classes"],
        "contaminated": state["contaminated"],
        "args": state["args"],
        "versions": state["versions"],
        "command": shlex.join(sys.argv),
    }


def save_predictions(args: argparse.Namespace, state: dict[str, Any], rows: Iterator[dict[str, Any]]) -> None:
    from roi.scoring.predictions import write

    count, _ = write(args.save_json, rows, provenance(args, state))
    print(f"{args.save_json}: {count:,} images")


def output_of(args: argparse.Namespace) -> Path:
    """The output beside which side files (missing, unreadable images) are written."""
    return Path(
        args.save_json
        or args.save_mask
        or args.save_crop
        or args.save_masks
        or args.cam
        or args.class_masks
        or args.curves
        or Path(args.save_vis_dir or ".") / "roi_vis.png"
    )


def no_targets(rows: int, state: dict[str, Any]) -> np.ndarray:
    return np.full((rows, len(state["classes"])), np.nan, dtype=np.float32)


if __name__ == "__main__":
    cli.run(main, parse_args)
