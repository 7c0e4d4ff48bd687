"""Convert a tree of DICOM X-rays into a tree of grey PNG: same folders, same names, .png for .dicom, .dcm or .dic.

    python convert_dicom.py --src vindr-cxr/1.0.0 --out vindr-cxr/1.0.0 --size 1024 --workers 8 \\
        --boxes vindr-cxr/1.0.0/annotations/annotations_train.csv --boxes_out data/vindr_boxes_train.csv

DIR/**/NAME.png        nothing but the picture: no word of the DICOM header
DIR/dicom_facts.csv    a row each PNG: size, photometric interpretation, view, bits of the original, how the PNG was
                       made, what was not as the header has it; nothing that tells whose it is
DIR/dicom_people.csv   with --salt: patient, study and accession as keys, dates shifted by patient, sex, age by decade
DIR/unreadable.csv     what could not be converted, and why; exit code 1 if it is there

Killed at any moment, the same command goes on where it stopped, and the tree is then what it would have been. A PNG
that this program did not make (dicom_facts.csv does not name it) is never touched. Boxes are in pixels of the PNG.
"""

import argparse
import os
from pathlib import Path

from roi import cli
from roi.choices import SIDES, WINDOWS
from roi.errors import UserError


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--src",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds the DICOM files: .dicom, .dcm, .dic, or no suffix and the DICM mark",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the PNG go; may be --src")
    size = "longer side of the PNG; none is enlarged (default: as it is)"
    parser.add_argument("--size", type=cli.number(int, 16), metavar="PX", help=size)
    bits = "of a pixel of the PNG (default: %(default)s)"
    parser.add_argument("--bits", type=int, choices=(8, 16), default=8, help=bits)
    window = (
        "voi: the VOI LUT or window of the file, percentiles where it has none or one that leaves fewer than 32 grey "
        "levels or misses 95 %% of the pixels; percentile: always those, 0.5 and 99.5 (default: %(default)s)"
    )
    parser.add_argument("--window", choices=WINDOWS, default="voi", help=window)
    parser.add_argument(
        "--workers",
        type=cli.number(int, 1),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes; change no file (default: %(default)s)",
    )
    text = "write dicom_people.csv with keys by the salt in this file (made where it is not there), outside --out"
    parser.add_argument("--salt", type=Path, metavar="FILE", help=text)
    add_limits(parser)
    add_boxes(parser)
    cli.add_overwrite(parser, "PNG of this program that were made with other settings")
    return cli.parse(parser, argv)


def add_limits(parser: cli.Parser) -> None:
    """Flags that say which images are refused."""
    parser.add_argument(
        "--min_side",
        type=cli.number(int, 1),
        default=SIDES[0],
        metavar="PX",
        help="refuse images with a shorter side (default: %(default)s)",
    )
    parser.add_argument(
        "--max_side",
        type=cli.number(int, 1),
        default=SIDES[1],
        metavar="PX",
        help="refuse images with a longer side (default: %(default)s)",
    )
    parser.add_argument(
        "--allow_burned_in",
        action=cli.on_off,
        default=False,
        help="take images whose header says that text is burnt in, perhaps a name (default: refuse)",
    )


def add_boxes(parser: cli.Parser) -> None:
    group = parser.add_argument_group("boxes of radiologists")
    group.add_argument(
        "--boxes",
        type=Path,
        metavar="CSV",
        help="annotations_train.csv, annotations_test.csv of VinDr-CXR, or train.csv of VinBigData",
    )
    group.add_argument(
        "--boxes_out",
        type=Path,
        metavar="CSV",
        help="the same boxes in pixels of the PNG; what is left out stands in <stem>_left_out.csv",
    )


def main(args: argparse.Namespace) -> int:
    # They bring pandas, for which --help should not wait.
    from roi.sources.dicom import convert
    from roi.sources.dicom.people import read_salt, write_people
    from roi.sources.vindr import read_marks, write_boxes

    check(args)
    salt = read_salt(args.salt) if args.salt else None
    marks = read_marks(args.boxes) if args.boxes else None
    sides = (args.min_side, args.max_side)
    settings = convert.ConvertSettings(args.size, args.window, args.bits, sides, args.allow_burned_in)
    rows, refused = convert.convert_tree(args.src, args.out, settings, args.workers, args.overwrite)
    if salt is not None:
        names = convert.find_dicoms(args.src)[0]
        write_people(args.src, args.out, {row["image"]: names[row["image"]] for row in rows}, salt)
    if marks is not None:
        write_boxes(marks, args.boxes, args.boxes_out, rows)
    return 1 if refused else 0


def check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that cannot be, and for files of somebody else under the names that are written."""
    from roi.sources.dicom import convert
    from roi.sources.dicom.header import needs_pydicom
    from roi.sources.dicom.people import PEOPLE_COLUMNS, PEOPLE_FILE
    from roi.sources.vindr import BOXES, MARKS, left_out

    needs_pydicom()
    if not args.src.is_dir():
        raise UserError(f"--src {args.src}: no such folder")
    if args.min_side > args.max_side:
        raise UserError(f"--min_side {args.min_side} is above --max_side {args.max_side}")
    if (args.boxes is None) != (args.boxes_out is None):
        raise UserError("--boxes and --boxes_out go together: give both or none")
    # A tree of the version before is known by its columns, so that --overwrite can make it anew.
    convert.check_own(args.out / convert.FACTS_FILE, convert.FACT_COLUMNS, convert.FACT_COLUMNS_BEFORE)
    convert.check_own(args.out / convert.UNREADABLE_FILE, convert.UNREADABLE_COLUMNS)
    if args.salt:
        convert.check_own(args.out / PEOPLE_FILE, PEOPLE_COLUMNS)
        if args.salt.resolve().is_relative_to(args.out.resolve()):
            raise UserError(f"--salt {args.salt} lies in --out {args.out}, with which it would be handed over")
    if args.boxes_out:
        convert.check_own(args.boxes_out, BOXES)
        convert.check_own(left_out(args.boxes_out), (*MARKS, "why"))


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
