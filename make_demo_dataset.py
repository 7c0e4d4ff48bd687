"""Write a synthetic chest X-ray set in the layout of NIH ChestX-ray14, with 14 findings planted in known boxes.

    python make_demo_dataset.py --out demo_data --images 3000 --size 128 --seed 0
    python make_demo_dataset.py --out hard_data --hard
    python make_demo_dataset.py --out Dataset/padchest --layout padchest --images 300 --seed 1

Files, as NIH publishes them: images_001/images/*.png ... images_012/images/*.png (8-bit grey, 1 % of them RGBA),
Data_Entry_2017.csv, BBox_List_2017.csv (boxes in 1024 x 1024 space whatever --size is), train_val_list.txt,
test_list.txt (a quarter of the images, no patient in both), and demo.json, which marks the folder as a demo set.
The same seed and size give the same bytes; the same seed at another size gives the same pictures, larger or smaller.
A killed run leaves nothing under --out.

--hard makes a set that shows failures which the easy one hides: findings are faint and as rare as NIH's; black borders
and corners, side markers, text and devices lie where they lie on real X-rays, on ill and healthy alike; of each
finding's labels some are wrong (demo.json: wrong_labels). A box: the finding is there, and the table names it.

--layout NAME writes the same pictures and findings as another source publishes its own: its tables, its names, JPEG or
16 bits where it has them, and PNG where it has DICOM (roi/demo/source_layouts.py). Give each set a --seed of its own,
or they hold the same pictures; cxrlt and mimic the same --seed and --images, since they are the same pictures as
published. make_chexmultimodal_csv.py --datasets reads them all.

--studies N makes N studies of one to four images instead, as many as MIMIC's have: frontal and lateral views of one
body, the 26 classes of CXR-LT, each finding visible on frontal images, on lateral ones or on both, Nodule and Lung
Lesion decided by both together; truth.csv says what can be seen where, and the command what a perfect reader would
score. Layouts: table (the default), cxrlt, mimic, chexpert, padchest, openi, rexgradient.

    python make_demo_dataset.py --out Dataset/cxrlt --layout cxrlt --studies 2000 --size 96 --long_tail
    python make_chexmultimodal_csv.py --cxrlt 2024.2 --data_root Dataset --out_csv studies.csv
"""

import argparse
import math
from pathlib import Path
from typing import Any

from roi.choices import LAYOUTS, MIN_IMAGES, SIZES
from roi.cli import Parser, add_overwrite, run
from roi.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write (required)")
    parser.add_argument(
        "--images",
        type=int,
        default=3000,
        metavar="N",
        help=f"images, at least {MIN_IMAGES} (default: %(default)s)",
    )
    smallest, largest = SIZES
    side = f"side of the square images in pixels, {smallest} to {largest} (default: %(default)s)"
    parser.add_argument("--size", type=int, default=256, metavar="PX", help=side)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which set, 0 or more (default: %(default)s)")
    hard = "faint and rare findings, wrong labels, borders, markers and devices (default: %(default)s)"
    parser.add_argument("--hard", action=argparse.BooleanOptionalAction, default=False, help=hard)
    layout = "whose layout it has (default: nih; with --studies table, which is one table.csv beside images/)"
    parser.add_argument("--layout", choices=LAYOUTS, help=layout)
    studies = "make N studies of several views of one body instead of --images single ones (default: none)"
    parser.add_argument("--studies", type=int, metavar="N", help=studies)
    tail = "with --studies: findings from 30 %% down to 0.5 %% of the studies, else all alike (default: %(default)s)"
    parser.add_argument("--long_tail", action=argparse.BooleanOptionalAction, default=False, help=tail)
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes that draw; changes no file (default: %(default)s)",
    )
    add_overwrite(parser, "a demo set at --out (nothing else)")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    # They bring pandas and Pillow, for which --help should not wait.
    from roi.demo.hard_set import HARD
    from roi.demo.layout_set import make_demo_layout
    from roi.demo.nih_set import EASY
    from roi.demo.studies.study_set import StudySetRequest, make_study_set

    if args.studies is not None:
        if args.hard:
            raise UserError("--hard makes single images: it does not go with --studies")
        request = StudySetRequest(args.studies, args.size, args.seed, args.layout or "table", args.long_tail)
        print_studies(args.out, make_study_set(args.out, request, args.workers, args.overwrite))
        return
    if args.long_tail or args.layout == "table":
        flag = "--long_tail" if args.long_tail else "--layout table"
        raise UserError(f"{flag} goes with --studies N")
    phantom = HARD if args.hard else EASY
    made = make_demo_layout(
        args.out,
        args.layout or "nih",
        args.images,
        args.size,
        args.seed,
        args.workers,
        args.overwrite,
        phantom,
    )
    images = made["images"]
    print(f"{args.out}: {images} images of {made['patients']} patients, {made['test']} of them in the test list")
    for label, count in made["positives"].items():
        share = 100 * count / images
        print(f"  {label:<20}{count:>7}  {share:4.1f} %")
    print(f"{made['seconds']:.1f} s, {made['images_per_s']:.0f} images/s")


def print_studies(out: Path, made: dict[str, Any]) -> None:
    """What was made, and what somebody would score who misses nothing that can be seen."""
    from roi.demo.studies.study_set import TRUTH
    from roi.scoring.challenge.perfect_reader import perfect_scores, read_truth

    studies = made["studies"]
    scores = perfect_scores(read_truth(out / TRUTH))
    print(f"{out}: {made['images']} images of {studies} studies of {made['patients']} patients")
    print("                              studies         a perfect reader's AP: first frontal, all views")
    for label, count in made["positives"].items():
        # A rare class may have no study in a small set, and no average precision then.
        first = scores.first_frontal.get(label, math.nan)
        all_views = scores.all_views.get(label, math.nan)
        share = 100 * count / studies
        print(f"  {label:<28}{count:>7}  {share:4.1f} %  {first:14.3f} {all_views:10.3f}")
    print(f"  mean {scores.mean_first_frontal:47.3f} {scores.mean_all_views:10.3f}")
    print(f"{made['seconds']:.1f} s, {made['images_per_s']:.0f} images/s")


def command() -> None:
    run(main, parse_args)


if __name__ == "__main__":
    command()
