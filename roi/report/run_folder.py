"""Runs of the report: which files a run folder has, and what is wrong with them."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from roi.errors import UserError
from roi.report.html import missing
from roi.scoring.metrics_file import read_metrics
from roi.training.metrics_log import COLUMNS

OF_SET = "val_auroc_"  # column of a data set, where the run has several
EVALUATE = "evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores"


@dataclass
class Run:
    folder: Path
    name: str
    metrics: dict[str, Any]
    log: pd.DataFrame | None  # columns of roi/progress.py, a row an epoch
    log_file: str  # where it was read
    file: str = ""  # metrics.json
    odd: dict[str, str] = field(default_factory=dict)  # block of metrics.json that is left out -> why
    log_odd: str = ""  # why the log is left out

    def left_out(self, *blocks: str) -> str:
        """What is wrong with these blocks of metrics.json, for the page; "" where nothing is."""
        return "".join(missing(f"Left out: {self.file}: {self.odd[block]}.") for block in blocks if block in self.odd)

    def find(self, file: str | None) -> Path | None:
        """A path of metrics.json: from the current folder, else from the run's; None where there is no such file."""
        candidates = [Path(file), self.folder / file] if file else []
        return next((p for p in candidates if p.exists()), None)


def read_run(path: str | Path) -> Run:
    """A run folder (DIR/scores/metrics.json or DIR/metrics.json), or the file itself. UserError: there is none, or it is not one."""
    path = Path(path)
    files = [path / "scores" / "metrics.json", path / "metrics.json"] if path.is_dir() else [path]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise UserError(
            f"{path}: no scores/metrics.json there (--runs); make it with {EVALUATE.replace('--out scores', f'--out {path}/scores')}"
        )
    metrics, odd = read_metrics(file)
    folder = file.parent.parent if file.parent.name == "scores" else file.parent
    run = Run(folder, run_name(metrics, folder), metrics, None, "", str(file), odd)
    flagged = (metrics.get("predictions") or {}).get("args") or {}
    for log in (folder / "train_metrics.csv", folder / "metrics.csv", run.find(flagged.get("log_csv"))):
        if log is not None and log.is_file():
            run.log_file = str(log)
            try:
                run.log = read_log(log)
            except (ValueError, OSError) as error:
                run.log_odd = str(error)
            break
    return run


def read_log(path: Path) -> pd.DataFrame:
    """The metrics CSV of a training, all columns as numbers. UserError: it is none, or a cell holds something else."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).strip()})") from error
    if "epoch" not in table or table.empty:
        raise UserError(
            f"{path}: is not a log of training: "
            + ("it has no row" if "epoch" in table else "it has no column 'epoch'")
        )
    table = table[[c for c in map(str, table) if c in COLUMNS or c.startswith(OF_SET)]]
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = numbers.isna() & ~table.apply(lambda column: column.str.strip().str.lower()).isin(("", "nan"))
    wrong["epoch"] |= ~numbers["epoch"].map(math.isfinite)
    if wrong.any(axis=None):
        column = wrong.columns[wrong.any()][0]
        row = int(wrong[column].to_numpy().argmax())
        raise UserError(f"{path}: column {column!r} holds {table[column].iloc[row]!r} in row {row + 2}, not a number")
    return numbers


def run_name(metrics: dict[str, Any], folder: Path) -> str:
    """What the training flags call it: the mode, or the kind of mask and the terms left out; else the folder's name."""
    args = (metrics.get("predictions") or {}).get("args") or {}
    if args.get("mode"):
        return str(args["mode"])
    if args.get("mask"):
        return f"{args['mask']} mask" + (f" without {', '.join(args['without'])}" if args.get("without") else "")
    return folder.resolve().name
