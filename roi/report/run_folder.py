"""Runs of the report: which files a run folder has, and what is wrong with them."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from roi import run_paths
from roi.errors import UserError
from roi.report.html import Block, missing
from roi.scoring.metrics_file import read_metrics
from roi.training.metrics_log import COLUMNS, VIEW_LOSS

OFFICIAL_TEST_IMAGES = 25596  # of ChestX-ray14, test_list.txt
OF_SET = "val_auroc_"  # column of a data set, where the run has several
EVALUATE = "evaluate.py --preds preds.json --csv nih_roi_test.csv --out scores"


@dataclass
class Run:
    """What is known of a run: its scores, its training log, and why parts of them cannot be shown."""

    folder: Path
    name: str
    metrics: Block
    log: pd.DataFrame | None  # the metrics CSV of training, a row an epoch
    log_file: str  # where it was read
    file: str = ""  # metrics.json
    problems: dict[str, str] = field(default_factory=dict)  # block of metrics.json that is left out -> why
    log_problem: str = ""  # why the log is left out

    def block(self, name: str) -> Block:
        """A block of metrics.json; {} where it is not there, or null."""
        return self.metrics.get(name) or {}

    @property
    def on_official_test(self) -> bool:
        """Whether the whole official test list of ChestX-ray14 was scored: published figures are of no other images."""
        # The number alone: no other test set of this size is known.
        return self.metrics["n_images"] == OFFICIAL_TEST_IMAGES and not self.metrics.get("synthetic")

    @property
    def training_flags(self) -> Block:
        """The flags of the model that was scored; {} of predictions of others."""
        return (self.metrics.get("predictions") or {}).get("args") or {}

    @property
    def has_mask(self) -> bool:
        """Whether the model has a mask of its own, as far as is known: a model of studies has none."""
        return "fusion" not in self.training_flags and self.training_flags.get("mask") != "none"

    def left_out(self, *blocks: str) -> str:
        """What is wrong with these blocks of metrics.json, for the page; "" where nothing is."""
        text = ""
        for block in blocks:
            if block in self.problems:
                why = self.problems[block]
                text += missing(f"Left out: {self.file}: {why}.")
        return text

    def find(self, file: str | None) -> Path | None:
        """A path of metrics.json, wherever the run was moved; None where there is no such file."""
        holder = Path(self.file) if self.file else self.folder / "metrics.json"
        return run_paths.find(file, holder, self.metrics.get("paths") == run_paths.MARK)


def read_run(path: str | Path) -> Run:
    """A run folder (DIR/scores/metrics.json or DIR/metrics.json), or the file itself.

    Raises:
        UserError: there is no metrics.json, or the file is not one.
    """
    file = find_metrics(Path(path))
    metrics, problems = read_metrics(file)
    folder = run_paths.run_folder(file)
    run = Run(folder, run_name(metrics, folder), metrics, None, "", str(file), problems)
    # The names of the README first; a log of another name is where the training flags say.
    for log in (folder / "train_metrics.csv", folder / "metrics.csv", run.find(run.training_flags.get("log_csv"))):
        if log is not None and log.is_file():
            attach_log(run, log)
            break
    return run


def find_metrics(path: Path) -> Path:
    """The metrics.json of a run folder, or the file that was named itself."""
    candidates = [path]
    if path.is_dir():
        candidates = [path / "scores" / "metrics.json", path / "metrics.json"]
    for file in candidates:
        if file.is_file():
            return file
    command = EVALUATE.replace("--out scores", f"--out {path}/scores")
    raise UserError(f"{path}: no scores/metrics.json there (--runs); make it with {command}")


def attach_log(run: Run, path: Path) -> None:
    """Read the log of training. One that cannot be read does not stop the report: its section says why."""
    run.log_file = str(path)
    try:
        run.log = read_log(path)
    except (ValueError, OSError) as error:
        run.log_problem = str(error)


def read_log(path: Path) -> pd.DataFrame:
    """The metrics CSV of a training, all columns as numbers.

    Raises:
        UserError: it is no such table, or a cell holds something else than a number.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV table ({str(error).strip()})") from error
    if "epoch" not in table:
        raise UserError(f"{path}: is not a log of training: it has no column 'epoch'")
    if table.empty:
        raise UserError(f"{path}: is not a log of training: it has no row")
    # Columns of the user's own may hold anything; they are not shown, so they are not checked.
    known = [name for name in map(str, table) if name in (*COLUMNS, VIEW_LOSS) or name.startswith(OF_SET)]
    table = table[known]
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(float)
    text = table.apply(lambda column: column.str.strip().str.lower())
    wrong = numbers.isna() & ~text.isin(("", "nan"))
    # Only the epoch must be there in every row: it is the x of all curves.
    wrong["epoch"] |= ~numbers["epoch"].map(math.isfinite)
    if wrong.any(axis=None):
        column = wrong.columns[wrong.any()][0]
        row = int(wrong[column].to_numpy().argmax())
        cell = table[column].iloc[row]
        # As a spreadsheet counts: the header is row 1.
        raise UserError(f"{path}: column {column!r} holds {cell!r} in row {row + 2}, not a number")
    return numbers


def run_name(metrics: Block, folder: Path) -> str:
    """What the training flags call it: the mode, the fusion of studies, or the kind of mask and the terms left out.

    Else the folder's name.
    """
    args = (metrics.get("predictions") or {}).get("args") or {}
    if args.get("fusion"):
        return f"studies, {args['fusion']}"
    if args.get("mode"):
        return str(args["mode"])
    # Predictions of others have no flags.
    if not args.get("mask"):
        return folder.resolve().name
    name = f"{args['mask']} mask"
    if args.get("without"):
        name += f" without {', '.join(args['without'])}"
    return name
