"""Flags of make_chexmultimodal_csv.py for the images of a hospital."""

from pathlib import Path

from roi import cli


def add_people(parser: cli.Parser) -> None:
    group = parser.add_argument_group("with --people")
    text = "labels or reports by accession number, or by file: a column labels, report, or one a finding"
    group.add_argument("--labels", type=Path, metavar="CSV", help=text)
    group.add_argument("--salt", type=Path, metavar="FILE", help="that of convert_dicom.py, for accession numbers")
