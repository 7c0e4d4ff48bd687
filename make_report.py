"""Make one self-contained HTML page of what the scores and the masks of a run show; of several runs, their ablation.

    python make_report.py --runs demo_run --out report.html
    python make_report.py --runs runs/full runs/standard runs/no_drop --out ablation.html --image_root /data/nih

Each run is a folder with scores/metrics.json of evaluate.py (or that file itself) and, where present, train_metrics.csv
or metrics.csv of training. The first run is described in full. Predictions, table, masks and boxes are read for the
gallery where metrics.json says they are; what is not there is named on the page with the command that makes it, and
what is odd in a file is left out and said. No model is loaded.

The page opens in any browser, on a telephone too, and loads nothing. In it a slider shows what another threshold would
call, tables are saved as CSV, pictures are enlarged; printed it has some 12 pages. X-rays are inside: it is as private
as they are.
"""

import argparse
from pathlib import Path

from roi import cli


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--runs",
        required=True,
        nargs="+",
        metavar="DIR",
        help="run folders, or metrics.json files; the first is described in full",
    )
    parser.add_argument("--out", required=True, metavar="HTML", help="the page")
    parser.add_argument(
        "--image_root",
        metavar="DIR",
        help="folder of the images for the gallery (default: the one in metrics.json)",
    )
    parser.add_argument(
        "--cases",
        type=cli.number(int, 0, 200),
        default=24,
        metavar="N",
        help="cases in the gallery, and half as many studies of several views where there are some "
        "(default: %(default)s)",
    )
    parser.add_argument("--title", default="Evidence report", help="of the page (default: %(default)s)")
    hosts = "name the machines in the head of the page (default: yes)"
    parser.add_argument("--host", action=cli.on_off, default=True, help=hosts)
    cli.add_overwrite(parser, "an earlier page")
    return cli.parse(parser, argv)


def main(args: argparse.Namespace) -> None:
    from roi.files import atomic_write, refuse_existing, refuse_inputs, writable
    from roi.report.build import page
    from roi.report.run_folder import read_run

    refuse_existing(args.out, overwrite=args.overwrite)
    writable(Path(args.out))
    runs = [read_run(run) for run in args.runs]
    refuse_inputs({"runs": [run.file for run in runs]}, [args.out])
    for run in runs:
        for why in run.problems.values():
            print(f"{run.file}: {why}; what it belongs to is left out")
        if run.log_problem:
            print(f"{run.log_problem}; the curves of training are left out")
    text = page(runs, args.image_root, args.cases, args.title, args.host)
    with atomic_write(args.out) as file:
        file.write(text)
    size = len(text.encode()) / 1e6
    plural = "s" if len(runs) > 1 else ""
    print(f"{args.out}: {size:.1f} MB, {len(runs)} run{plural}")


def command() -> None:
    cli.run(main, parse_args)


if __name__ == "__main__":
    command()
