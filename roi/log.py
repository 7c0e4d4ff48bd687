"""What a run says while it goes on: a console line, a row of the metrics CSV, TensorBoard; and a progress bar."""

import csv
import io
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from roi.files import replacing
from roi.losses import TERMS

COLUMNS = (
    "epoch", "steps", "loss", *(f"loss_{t}" for t in TERMS), *(f"w_{t}" for t in TERMS), "mask_mean", "mask_kept", "mask_tv",
    "val_loss", "val_auroc", "lr", "images_per_s", "seconds", "contaminated",
)  # fmt: skip


def say(text: str) -> None:
    """Print a line at once. Where nobody reads any more (Ctrl-C ended the `| tee`) the run goes on to save its work."""
    with suppress(OSError):
        print(text, flush=True)


class MetricsLog:
    """One row an epoch, on the disk when `row` returns. Rows of epochs that a resumed run does again are dropped first.

    ValueError: the file is there and this run does not continue it, or it is not a metrics file.
    """

    def __init__(self, path: str | Path | None, done_epochs: int, tensorboard: str | None = None, overwrite: bool = False) -> None:
        self.path = Path(path) if path else None
        self.writer: Any = None
        if self.path:
            self._begin(self.path, done_epochs, overwrite)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
            self.writer = SummaryWriter(tensorboard, purge_step=done_epochs + 1)

    def _begin(self, path: Path, done_epochs: int, overwrite: bool) -> None:
        kept: list[list[str]] = []
        if path.exists() and path.stat().st_size and not (overwrite and not done_epochs):
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            if rows[0] != list(COLUMNS):
                raise ValueError(f"{path}: is not a metrics file of this program; choose another --log_csv")
            kept = [r for r in rows[1:] if len(r) == len(COLUMNS) and r[0].isdigit() and int(r[0]) <= done_epochs]
            if not done_epochs and rows[1:]:
                raise ValueError(f"{path} holds {len(rows) - 1} epochs of another run; choose another --log_csv, or replace it with --overwrite")
            if kept and [int(r[0]) for r in kept] != list(range(1, done_epochs + 1)):
                raise ValueError(f"{path} does not hold the {done_epochs} epochs that are done, so it is of another run; choose another --log_csv")
            if kept and len(kept) == len(rows) - 1:
                return  # the same file goes on, and so does a `tail -f` on it
        with replacing(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(kept)

    def row(self, values: dict[str, Any]) -> None:
        """Write one epoch. What a column has no value for stays empty."""
        text = {c: f"{v:.6g}" if isinstance(v, float) else str(v) for c in COLUMNS if (v := values.get(c)) is not None}
        if self.path:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow([text.get(c, "") for c in COLUMNS])
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(line.getvalue())
                file.flush()
                os.fsync(file.fileno())
        if self.writer:
            for column in COLUMNS[1:]:
                if isinstance(values.get(column), int | float):
                    self.writer.add_scalar(column, values[column], values["epoch"])
            self.writer.flush()
        shown = ("loss", "loss_full", "loss_consist", "loss_drop", "mask_kept", "val_loss", "val_auroc", "images_per_s")
        say(f"epoch {values['epoch']}: " + ", ".join(f"{c} {values[c]:.4g}" for c in shown if values.get(c) is not None))


class _Lines:
    """A file for tqdm where there is no terminal: each refresh is a line of its own, so that a log can be followed."""

    def write(self, text: str) -> None:
        if text.strip():
            with suppress(OSError):
                sys.stderr.write(text.strip("\r\n\x1b[A ") + "\n")

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def progress(iterable: Iterable | None, total: int, what: str, unit: str = "image", initial: int = 0) -> tqdm:
    """A bar on a terminal; a line every 20 seconds in a log."""
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, desc=what, unit=unit, initial=initial, leave=False)
    return tqdm(iterable, total=total, desc=what, unit=unit, initial=initial, leave=False, mininterval=20, maxinterval=20, ascii=True, ncols=100, file=_Lines())
