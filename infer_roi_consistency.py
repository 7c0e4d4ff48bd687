"""Predict with a checkpoint: probabilities on the whole image, on what the mask keeps and on what it drops; pictures.

    python infer_roi_consistency.py --checkpoint model.pt --images my_xrays --save preds.csv --save_overlay overlays
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt \\
        --csv nih_roi_test.csv --image_root "$D" --keep_ratio 0.1 --save_vis_dir roi_vis --save_json preds.json
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt \\
        --image "$D/images/00000013_005.png" --save_mask mask.png --save_crop crop.png

preds.json is a list, one object an image in the order of the table: image, prob_full, prob_crop, prob_drop,
faithfulness (= full - drop), each {class: number}. A checkpoint without a mask (--mode standard) has prob_full alone.
An image is marked "contaminated": true if the checkpoint was trained on it or on another image of its patient. The file
is complete or absent; preds.meta.json beside it says where it comes from. preds.csv is the same as a flat table
(prob_full_Mass, prob_crop_Mass ...), which evaluate.py reads as well. Of --csv the column image alone is needed.

An overlay is a page an image: the X-ray, the map of each finding above its threshold, the outline of the mask.
--save_vis_dir writes of an image x.png: x_mask.png, x_crop.png (true grey levels), x_overlay.png; without a mask
x_cam.png alone: Grad-CAM of the finding that is most probable. Pictures of images that were trained on say so (masks
and crops in their text chunk; CONTAMINATED.txt beside them lists all), and so do files of maps and curves.

With --thresholds of calibrate_conformal.py each object also has its prediction sets: "set" (at most alpha of its
findings are not in it, in expectation), "certain" (absence can be ruled out) and "possible" (neither presence nor
absence can).

What evaluate.py reads to judge the masks:
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_consistency.pt \\
        --csv nih_roi_test.csv --image_root "$D" --bbox_csv "$D/BBox_List_2017.csv" \\
        --save_masks masks.npz --class_masks class_masks.npz --curves curves.npz
    python infer_roi_consistency.py --checkpoint checkpoints/nih_roi_standard.pt \\
        --csv nih_roi_test.csv --image_root "$D" --bbox_csv "$D/BBox_List_2017.csv" --cam cam.npz

A checkpoint of train_multiview.py predicts studies. Grad-CAM and pictures are of each of their images; masks and maps
of classes are those of the image model that it began from, --mask_checkpoint:
    python infer_roi_consistency.py --checkpoint checkpoints/studies_best.pt --csv test.csv --image_root "$D" \\
        --cache_dir cache --save_json preds.json --mask_checkpoint checkpoints/images_best.pt \\
        --save_masks masks.npz --class_masks class_masks.npz --cam cam.npz --save_vis_dir roi_vis
"""

import argparse
import sys

from roi import cli
from roi.inference.flags import add_flags, check_flags


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    add_flags(parser)
    args = cli.parse(parser, argv)
    check_flags(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    # Not on stdout, where the predictions may go.
    cli.say_loading(sys.stderr)
    # It brings torch, which --help does without.
    from roi.inference.setup import run

    run(args)


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
