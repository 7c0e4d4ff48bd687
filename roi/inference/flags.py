"""The flags of infer_roi_consistency.py. Loads no torch, so that --help is quick."""

import argparse

from roi import cli

# Flags that name an output.
OUTPUTS = (
    "save_json",
    "save_overlay",
    "save_vis_dir",
    "save_mask",
    "save_crop",
    "save_masks",
    "cam",
    "class_masks",
    "curves",
)
# Flags that name what is read.
INPUTS = ("checkpoint", "mask_checkpoint", "images", "csv", "image", "bbox_csv", "thresholds", "queries")
# Those of them that evaluate.py reads to judge the masks.
EVIDENCE = ("save_masks", "cam", "class_masks", "curves")
# Where predictions may go.
STDOUT = "-"
FORMATS = (".json", ".csv")
# A page or a mask is PNG; a name of another kind would be a folder of that name, or not what it says.
OTHER_PICTURES = (".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".svg", ".pdf")


def add_flags(parser: cli.Parser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PT",
        help="of a train script; it says which backbone and classes",
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
    group = parser.add_argument_group("images: files, a table, or one file")
    group.add_argument(
        "--images",
        nargs="+",
        metavar="PATH",
        help="files (PNG, JPEG, TIFF, DICOM ...), folders with all below them, patterns in quotes ('scans/**/*.png'), "
        "or a .txt that lists files",
    )
    group.add_argument("--csv", metavar="CSV", help="table of make_chexmultimodal_csv.py, or any with a column 'image'")
    group.add_argument(
        "--image_root",
        metavar="DIR",
        help="holds the images of --csv: DIR/images/NAME, DIR/NAME, DIR/images_*/images/NAME or "
        "DIR/images-*/images-*/NAME (default: names are paths, from the folder of --csv)",
    )
    group.add_argument("--image", metavar="FILE", help="one image file, its probabilities on the console")
    group.add_argument(
        "--max_samples",
        type=cli.number(int, 1),
        metavar="N",
        help="the first N rows of the table (default: all)",
    )
    group.add_argument(
        "--max_test_samples",
        type=cli.number(int, 1),
        metavar="N",
        help="at most N rows of the table, whole patients drawn with --seed (default: all)",
    )
    cli.add_loading(group)


def add_overlay(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--save_overlay",
        metavar="DIR",
        help="folder for a page an image (of one image also a .png): the X-ray, the map of each finding above its "
        "threshold with its probability, the outline of the mask; or that no finding is above its threshold",
    )
    group.add_argument(
        "--overlay_size",
        type=cli.number(int, 0),
        default=1024,
        metavar="PX",
        help="longer side of an X-ray in an overlay, its own at most; 0: as in its file (default: %(default)s)",
    )
    group.add_argument(
        "--thresholds",
        metavar="JSON",
        help="from which probability on an overlay shows a finding (default: 0.5): metrics.json of evaluate.py "
        "--threshold_preds, or thresholds.json of calibrate_conformal.py, which also adds the prediction set of each "
        "image (set, certain, possible)",
    )


def add_outputs(parser: cli.Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save",
        "--save_json",
        dest="save_json",
        metavar="FILE",
        help="predictions: .json, .csv (a column a class and view), or - for CSV on the standard output",
    )
    add_overlay(group)
    group.add_argument(
        "--save_vis_dir",
        metavar="DIR",
        help="folder for three pictures an image; of a checkpoint without a mask one, Grad-CAM of its most probable "
        "finding",
    )
    group.add_argument(
        "--max_vis",
        type=cli.number(int, 1),
        metavar="N",
        help="pictures for the first N images alone (default: all)",
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
        "--save_masks",
        metavar="NPZ",
        help="masks of all images, and of a re-initialised model (default: none)",
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
        "--batch_size",
        type=cli.number(int, 1),
        default=32,
        metavar="N",
        help="images a forward (default: %(default)s)",
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
    if sum(map(bool, (args.csv, args.image, args.images))) != 1:
        parser.error("give one of --images, --csv and --image")
    if args.image_root and not args.csv:
        parser.error("--image_root holds the images of --csv; leave it out")
    if args.cache_dir and args.images:
        parser.error("--cache_dir goes with --csv: images that are looked at once need no cache")
    check_outputs(parser, args)


def check_outputs(parser: cli.Parser, args: argparse.Namespace) -> None:
    """`check_flags` of the outputs."""
    asks_evidence = any(getattr(args, name) for name in EVIDENCE)
    if args.save_json == STDOUT:
        if args.cache_dir:
            parser.error("--save - has no file beside which --cache_dir could list images; give --save a file")
    elif args.save_json and not args.save_json.lower().endswith(FORMATS):
        parser.error(f"--save {args.save_json}: give a name that ends in .json or .csv, or - for the standard output")
    for name in ("save_overlay", "save_mask", "save_crop"):
        path = getattr(args, name) or ""
        if path.lower().endswith(OTHER_PICTURES):
            parser.error(f"--{name} {path}: pictures are written as PNG; give a name that ends in .png")
    if (args.image and args.save_vis_dir) or (not args.image and (args.save_mask or args.save_crop)):
        parser.error("--save_vis_dir goes with --csv or --images, --save_mask and --save_crop with --image")
    if args.image and asks_evidence:
        parser.error("--save_masks, --cam, --class_masks and --curves go with --csv or --images")
    if args.tta != "none" and args.curves:
        parser.error(f"--curves are predictions on the image as it is; leave out --tta {args.tta}")
    asked = (args.save_json, args.save_overlay, args.save_vis_dir, asks_evidence)
    if not args.image and not any(asked):
        parser.error(
            "nothing to write: give --save, --save_overlay, --save_vis_dir, --save_masks, --cam, --class_masks or "
            "--curves"
        )
