"""The flags of infer_roi_consistency.py. Loads no torch, so that --help is quick."""

import argparse

from roi import cli

# Flags that name an output.
OUTPUTS = ("save_json", "save_vis_dir", "save_mask", "save_crop", "save_masks", "cam", "class_masks", "curves")
# Those of them that evaluate.py reads to judge the masks.
EVIDENCE = ("save_masks", "cam", "class_masks", "curves")


def add_flags(parser: cli.Parser) -> None:
    parser.add_argument(
        "--checkpoint", required=True, metavar="PT", help="of a train script; it says which backbone and classes"
    )
    parser.add_argument(
        "--untrained",
        action=cli.on_off,
        default=False,
        help="predict though the checkpoint was never trained (default: refuse)",
    )
    parser.add_argument(
        "--mask_checkpoint",
        metavar="PT",
        help="with a --checkpoint of train_multiview.py: the image model that it began from (--init), whose masks and "
        "maps of the classes are written; predictions and Grad-CAM are those of --checkpoint",
    )
    add_images(parser)
    add_outputs(parser)
    add_evidence(parser)
    add_computing(parser)


def add_images(parser: cli.Parser) -> None:
    group = parser.add_argument_group("images: a table, or one file")
    group.add_argument("--csv", metavar="CSV", help="table of make_chexmultimodal_csv.py")
    group.add_argument(
        "--image_root",
        metavar="DIR",
        help="holds the images of --csv: DIR/images/NAME, DIR/NAME, DIR/images_*/images/NAME or "
        "DIR/images-*/images-*/NAME",
    )
    group.add_argument("--image", metavar="FILE", help="one image file")
    group.add_argument(
        "--max_samples", type=cli.number(int, 1), metavar="N", help="the first N rows of the table (default: all)"
    )
    group.add_argument(
        "--max_test_samples",
        type=cli.number(int, 1),
        metavar="N",
        help="at most N rows of the table, whole patients drawn with --seed (default: all)",
    )
    cli.add_loading(group)


def add_outputs(parser: cli.Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--save_json", metavar="JSON", help="predictions")
    group.add_argument(
        "--save_vis_dir",
        metavar="DIR",
        help="folder for three pictures an image; of a checkpoint without a mask one, Grad-CAM of its most probable "
        "finding",
    )
    group.add_argument(
        "--max_vis", type=cli.number(int, 1), metavar="N", help="pictures for the first N images alone (default: all)"
    )
    group.add_argument(
        "--vis_size",
        type=cli.number(int, 64, 4096),
        default=512,
        metavar="PX",
        help="side of the pictures (default: %(default)s)",
    )
    group.add_argument(
        "--bbox_csv",
        metavar="CSV",
        help="boxes for the overlays, --cam and --class_masks: BBox_List_2017.csv, or image,label,x,y,w,h",
    )
    group.add_argument(
        "--thresholds",
        metavar="JSON",
        help="of calibrate_conformal.py: adds the prediction set of each image (set, certain, possible)",
    )
    group.add_argument(
        "--queries",
        metavar="NPZ",
        help="of make_queries.py: predict these names, trained on or not, with a checkpoint of --shared_queries",
    )
    group.add_argument("--save_mask", metavar="PNG", help="mask of --image, at its own size")
    group.add_argument("--save_crop", metavar="PNG", help="what the mask keeps of --image, at its own size")
    cli.add_overwrite(group, "outputs of an earlier run")


def add_evidence(parser: cli.Parser) -> None:
    group = parser.add_argument_group("evidence", "files for evaluate.py; each is complete or absent")
    group.add_argument(
        "--save_masks", metavar="NPZ", help="masks of all images, and of a re-initialised model (default: none)"
    )
    group.add_argument(
        "--cam",
        metavar="NPZ",
        help="Grad-CAM of each class, of the images in --bbox_csv if given, otherwise of all (default: none)",
    )
    group.add_argument(
        "--class_masks",
        metavar="NPZ",
        help="the map of each class behind the mask, of the same images as --cam (default: none)",
    )
    group.add_argument(
        "--map_size",
        type=cli.number(int, 1, 512),
        default=32,
        metavar="M",
        help="cells a side of these maps (default: %(default)s)",
    )
    group.add_argument(
        "--curves",
        metavar="NPZ",
        help="predictions on what masks and controls of many areas keep and drop (default: none)",
    )
    group.add_argument(
        "--curve_samples",
        type=cli.number(int, 1),
        default=1000,
        metavar="N",
        help="images for --curves, drawn with --seed (default: %(default)s)",
    )


def add_computing(parser: cli.Parser) -> None:
    group = parser.add_argument_group("computing")
    group.add_argument(
        "--keep_ratio",
        type=cli.number(float, 0, 1),
        metavar="0..1",
        help="share of the pixels that the mask keeps (default: as trained)",
    )
    group.add_argument(
        "--tta",
        choices=("none", "flips", "scales"),
        default="none",
        help="probabilities are means over views of the image: as it is and mirrored, which shows the heart on the "
        "wrong side, or as it is and .9 and 1.1 times as large; masks and maps stay those of the image as it is "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--batch_size", type=cli.number(int, 1), default=32, metavar="N", help="images a forward (default: %(default)s)"
    )
    group.add_argument(
        "--seed",
        type=cli.number(int, 0),
        default=0,
        help="of random masks, re-initialised weights and the draw for --curves (default: %(default)s)",
    )
    cli.add_compute(group)


def check_flags(parser: cli.Parser, args: argparse.Namespace) -> None:
    """End with an error where flags do not go together."""
    # Here and not later: torch and the checkpoint are not even loaded.
    asks_evidence = any(getattr(args, name) for name in EVIDENCE)
    if bool(args.csv) == bool(args.image):
        parser.error("give either --csv with --image_root, or --image")
    if args.csv and not args.image_root:
        parser.error("--csv needs --image_root")
    if (args.image and args.save_vis_dir) or (args.csv and (args.save_mask or args.save_crop)):
        parser.error("--save_vis_dir goes with --csv, --save_mask and --save_crop with --image")
    if args.image and asks_evidence:
        parser.error("--save_masks, --cam, --class_masks and --curves go with --csv")
    if args.tta != "none" and args.curves:
        parser.error(f"--curves are predictions on the image as it is; leave out --tta {args.tta}")
    if args.csv and not (args.save_json or args.save_vis_dir or asks_evidence):
        parser.error(
            "nothing to write: give --save_json, --save_vis_dir, --save_masks, --cam, --class_masks or --curves"
        )
