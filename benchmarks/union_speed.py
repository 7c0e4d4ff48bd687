"""How long 900,000 rows of all sets take to become one table, and in how much memory.

    python benchmarks/union_speed.py --out /tmp/union

Writes the tables (no images) of all nine sets in their published layouts, with sizes in proportion to the published
ones, then runs make_chexmultimodal_csv.py --datasets all on them as a whole process. Labels are drawn at the prevalence
of NIH; CheXpert's and MIMIC's have -1 and blanks; reports are as long as OpenI's (6 sentences) and as varied (3 of 10
sentences stand nowhere else). VinBigData is written but not read: `all` leaves it out beside VinDr, so it does not
count among the rows; CXR-LT's images are MIMIC's, as published, so the table has fewer rows than are read.

Prints a table and writes benchmarks/results/union_speed-<machine>.json. --rows 20000 for a quick look: its figures mean
nothing and go to --out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
from harness import Figure, add_machine, counted, table, write_result

from roi import cli
from roi.demo.source_layouts import WRITERS
from roi.demo.source_tables import CHEXPERT, WORDS_OF
from roi.labels import LABELS

ROWS = 900_000
PUBLISHED = {
    "nih": 112_120,
    "openi": 7_470,
    "rexgradient": 273_004,
    "chexpert": 224_316,
    "mimic": 377_110,
    "padchest": 160_861,
    "vindr": 18_000,
    "vinbigdata": 15_000,
    "cxrlt": 377_110,
}
NOT_READ = ("vinbigdata",)
PREVALENCE = (
    np.array([11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227]) / 112_120
)  # of NIH, in the order of LABELS
OPENINGS = (
    "there is",
    "again seen is",
    "interval development of",
    "stable",
    "new",
    "persistent",
    "findings consistent with",
    "possible",
    "no evidence of",
    "no new",
    "unchanged",
    "mild",
    "moderate",
    "small",
    "large",
    "suspicion of",
    "resolved",
    "decreased",
    "increased",
    "bilateral",
)
MEANT = (
    "opacity",
    "airspace disease",
    "scarring",
    "a granuloma",
    "vascular congestion",
    "blunting of the costophrenic angle",
    "a calcified node",
    "elevation of the hemidiaphragm",
    "tortuosity of the aorta",
    "a rib fracture",
    "a central venous catheter",
    "degenerative change of the spine",
    "hyperinflation",
    "an enlarged heart",
    "volume loss",
    "interstitial markings",
    "sternal wires",
    "a pacemaker",
    "a density",
    "a shadow",
)
PLACES = (
    "in the left base",
    "in the right base",
    "of the upper lobes",
    "of the left lung",
    "of the right lung",
    "at the apex",
    "at the hilum",
    "in the lingula",
    "in the middle lobe",
    "of the chest",
    "behind the heart",
    "near the carina",
    "in the lower lobes",
    "of the pleura",
    "on the lateral view",
)
TAILS = (
    "",
    " as before",
    " which may be chronic",
    " compared with the prior study",
    " without change",
    " likely from the portable technique",
    " since then",
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder: the sets, the table")
    parser.add_argument(
        "--rows",
        type=cli.number(int, 5000),
        default=ROWS,
        metavar="N",
        help="rows that are read, of all sets together (default: %(default)s)",
    )
    parser.add_argument(
        "--turns",
        type=cli.number(int, 1),
        default=3,
        metavar="N",
        help="times that the table is made; the median counts (default: %(default)s)",
    )
    parser.add_argument("--write_only", action=cli.on_off, default=False, help="write the sets and stop (default: no)")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    began = time.perf_counter()
    rows = write_sets(args.out / "Dataset", args.rows)
    writing = time.perf_counter() - began
    print(
        f"{sum(rows.values()):,} rows written in {writing:.1f} s: "
        + ", ".join(f"{name} {n:,}" for name, n in rows.items()),
        flush=True,
    )
    if args.write_only:
        return
    out = args.out / "union.csv"
    flags = [
        "make_chexmultimodal_csv.py",
        "--datasets",
        "all",
        "--data_root",
        args.out / "Dataset",
        "--out_csv",
        out,
        "--no-check_images",
        "--overwrite",
    ]
    taken = []
    for _ in range(args.turns):
        out.unlink(missing_ok=True)
        taken.append(counted(flags))
        print(f"{taken[-1][0]:.1f} s, {taken[-1][1]:,.0f} MB", flush=True)
    read = sum(n for name, n in rows.items() if name not in NOT_READ)
    facts = {
        "rows_read": read,
        "rows_of_the_table": lines(out) - 1,
        "rows": rows,
        "turns": [{"seconds": s, "megabytes": m} for s, m in taken],
    }
    figures = [
        Figure(
            "one table of all sets, the whole process",
            statistics.median(s for s, _ in taken),
            "<= 20",
            "s",
            details=facts,
        ),
        Figure(
            "its most memory",
            max(m for _, m in taken),
            "<= 1907",
            "MB (2^20 bytes)",
            details={"goal": "2 GB are 1,907 MB of 2^20 bytes"},
        ),
        Figure("writing the tables", writing, unit="s"),
    ]
    print(table(figures))
    result = {
        "what": "make_chexmultimodal_csv.py --datasets all on synthetic tables of all nine sets in their published "
        "layouts; median and most of the turns",
        "command": shlex.join(
            ["python", "benchmarks/union_speed.py", "--out", "…", "--rows", str(args.rows), "--turns", str(args.turns)]
        ),
        "figures": [figure.as_dict() for figure in figures],
        "summary": json.loads(out.with_name("union_summary.json").read_text())["facts"],
    }
    print(write_result("union_speed", args.machine, result, None if args.rows == ROWS else args.out))


def write_sets(folder: Path, rows: int) -> dict[str, int]:
    """All nine, in proportion -> rows of each."""
    shutil.rmtree(folder, ignore_errors=True)
    share = rows / sum(n for name, n in PUBLISHED.items() if name not in NOT_READ)
    sizes = {name: max(100, round(share * n)) for name, n in PUBLISHED.items()}
    for number, (name, images) in enumerate(sizes.items()):
        rng = np.random.default_rng(
            list(PUBLISHED).index("mimic") if name == "cxrlt" else number
        )  # the images of CXR-LT are MIMIC's
        truth = drawn(images, rng)
        if name == "rexgradient":
            truth["report"] = prose(truth, rng)
        WRITERS[name](truth, folder / name, None)
        if name in ("chexpert", "mimic"):
            for file in ("train.csv",) if name == "chexpert" else ("mimic-cxr-2.0.0-chexpert.csv.gz",):
                with_gaps(folder / name / file, rng)
    return sizes


def drawn(images: int, rng: np.random.Generator) -> pd.DataFrame:
    """A table of truth (roi/demo/source_layouts.py): two images a study, three studies a patient on average."""
    study = np.sort(rng.integers(0, max(2, images // 2), images))
    patient = study // 3 + 1
    truth = pd.DataFrame((rng.random((images, len(LABELS))) < PREVALENCE).astype(np.int8), columns=list(LABELS))
    truth["image"], truth["patient"], truth["study"] = "", patient, study
    truth["view"] = rng.choice(["PA", "AP", "LATERAL"], images, p=[0.5, 0.3, 0.2])
    truth["age"], truth["sex"] = 20 + patient % 70, np.where(patient % 2, "M", "F")
    truth["split"] = np.choose(patient % 10, ["test", "val"] + ["train"] * 8)
    return truth


def prose(truth: pd.DataFrame, rng: np.random.Generator) -> list[str]:
    """A report each image: what is present, what is not, and sentences of other things, six in all."""
    words = [WORDS_OF.get(label, label.lower()) for label in LABELS]
    found = truth[list(LABELS)].to_numpy(bool)
    of = rng.integers(0, len(LABELS), (len(truth), 6))
    kind = rng.random(of.shape)
    draws = [rng.integers(0, len(choice), of.shape) for choice in (OPENINGS, MEANT, PLACES, TAILS)]
    texts = []
    for row, (present, chosen, kinds) in enumerate(zip(found, of.tolist(), kind.tolist(), strict=True)):
        said = [f"There is {words[k]} {PLACES[draws[2][row, 0]]}." for k in np.flatnonzero(present).tolist()]
        for n in range(len(said), 6):
            opening, meant, spot, tail = (
                choice[pick[row, n]] for choice, pick in zip((OPENINGS, MEANT, PLACES, TAILS), draws, strict=True)
            )
            said.append(
                f"There is no {words[chosen[n]]}."
                if kinds[n] < 0.6
                else f"{opening} {meant} {spot}{tail}.".capitalize()
            )
        texts.append(" ".join(said))
    return texts


def with_gaps(csv: Path, rng: np.random.Generator) -> None:
    """Half of the cells blank, one in ten uncertain."""
    labels = pd.read_csv(csv, dtype=str, keep_default_na=False)
    for name in CHEXPERT:
        u = rng.random(len(labels))
        labels[name] = labels[name].mask(u < 0.5, "").mask(u > 0.9, "-1.0")
    labels.to_csv(csv, index=False, compression={"method": "gzip", "compresslevel": 1} if csv.suffix == ".gz" else None)


def lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


if __name__ == "__main__":
    cli.run(main, parse_args)
