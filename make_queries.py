"""Make class queries of the names of findings, with a language model: one vector a name, for train_multiview.py.

    python make_queries.py --model UmlsBERT --csv cxrlt.csv --out queries.npz
    python train_multiview.py --fusion attention --queries queries.npz --train_csv cxrlt.csv --image_root "$D" \\
        --cache_dir cache --save checkpoints/cxrlt_text.pt

--model is a folder on this machine in the layout of the package transformers (pip install -r requirements-text.txt):
nothing is downloaded, and no code of it is run. A vector is the mean of the last hidden states over the tokens of a
sentence. The file has names, vectors, the template and the SHA-256 of the folder, no pickles.
"""

import argparse
from pathlib import Path

from roi import cli
from roi.errors import UserError
from roi.files import refuse_existing


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    text = "folder of the language model"
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help=text)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--names", type=Path, metavar="TXT", help="names, one a line")
    source.add_argument("--csv", metavar="CSV", help="table: the names of its classes")
    parser.add_argument("--out", required=True, type=Path, metavar="NPZ", help="file of queries to write")
    text = "the sentence that is read, {} is the name (default: %(default)s)"
    parser.add_argument("--template", default="a chest x-ray showing {}", metavar="TEXT", help=text)
    cli.add_overwrite(parser, "an earlier file of queries")
    args = parser.parse_args(argv)
    if "{}" not in args.template:
        parser.error(f"--template {args.template!r}: {{}} must stand where the name goes")
    if args.out.suffix.lower() != ".npz":
        parser.error(f"--out {args.out}: write a .npz")
    return args


def main(args: argparse.Namespace) -> None:
    refuse_existing(args.out, overwrite=args.overwrite)
    # They bring torch, for which --help should not wait.
    from roi.models.queries import write_queries
    from roi.models.text_encoder import encode

    # Names that are wrong are said before a model of gigabytes is read.
    names = names_of_table(args.csv) if args.csv else names_of_file(args.names)
    vectors = encode(args.model, names, args.template)
    digest = write_queries(args.out, names, vectors, args.template, args.model)
    numbers = vectors.shape[1]
    print(f"{args.out}: {len(names)} names, {numbers} numbers each, of {args.model} ({digest[:12]})")


def names_of_table(csv: str) -> list[str]:
    from roi.data.table import read_table
    from roi.data.targets import class_list

    return class_list(read_table(csv))


def names_of_file(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"--names {path}: no such file; give a text file of one name a line, or a table with --csv")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"--names {path}: the file is empty; it has one name a line")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"--names {path}: has {twice[0]!r} twice; each name once")
    return names


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
