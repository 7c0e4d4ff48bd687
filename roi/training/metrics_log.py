"""The metrics CSV: one row an epoch, beside a console line and TensorBoard.

Loads no torch: the report reads its columns.
"""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from roi.errors import UserError
from roi.files import atomic_write
from roi.losses.loss_terms import TERMS
from roi.progress import say
from roi.scoring.metrics import VALIDATION_DECISIONS
from roi.training.mask_verdict import MASK_CONTROLS

COLUMNS = (
    "epoch",
    "steps",
    "loss",
    *(f"loss_{t}" for t in TERMS),
    *(f"w_{t}" for t in TERMS),
    "mask_mean",
    "mask_kept",
    "mask_tv",
    *MASK_CONTROLS,
    "val_loss",
    "val_auroc",
    "lr",
    "images_per_s",
    "seconds",
    "contaminated",
)
# The column of train_multiview.py beside COLUMNS: the term of single images.
VIEW_LOSS = "loss_view"
# On the console, to begin with.
SHOWN = ("loss", "loss_full", "loss_consist", "loss_drop", "loss_locate", "mask_kept")


class MetricsLog:
    """One row an epoch, on the disk when `row` returns. Rows of epochs that a resumed run does again are dropped first.

    Args:
        done: the rows that a checkpoint remembers, None for a new run
        more: columns of this run beside COLUMNS; they stand after val_auroc

    Raises:
        UserError: the file is there and this run does not continue it, or it is not a metrics file
    """

    def __init__(
        self,
        path: str | Path | None,
        done: Sequence[str] | None = None,
        tensorboard: str | None = None,
        overwrite: bool = False,
        more: Sequence[str] = (),
    ) -> None:
        self.path = Path(path) if path else None
        self.columns = with_more(more)
        # The rows of the epochs that are done, as they stand in the file.
        self.lines = list(done or ())
        self.writer: Any = None
        if self.path:
            # Before a step is made: a wrong file must not cost an epoch.
            self._begin(self.path, new=done is None, replace=overwrite and not done)
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
            self.writer = SummaryWriter(tensorboard, purge_step=len(self.lines) + 1)

    def _begin(self, path: Path, new: bool, replace: bool) -> None:
        header = _csv_line(self.columns)
        if path.exists() and path.stat().st_size and not replace:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            # Another header alone: a data set may be gone since, with images that cannot be read.
            if not has_no_row(path):
                self._check_continues(path, header, lines, new)
            if lines == [header, *self.lines]:
                return  # the same file goes on, and so does a `tail -f` on it
        _write(path, (header, *self.lines))

    def _check_continues(self, path: Path, header: str, lines: list[str], new: bool) -> None:
        """UserError unless the lines of a file are those of this run."""
        if lines[:1] != [header]:
            raise UserError(
                f"{path}: is not a metrics file of this program, or it is of a run on other data sets; "
                "choose another --log_csv"
            )
        # One row more than the checkpoint knows is ours: a run was killed between the two.
        if (new and len(lines) > 1) or (not self.lines and len(lines) > 2):
            raise UserError(
                f"{path} holds {len(lines) - 1} epochs of another run; choose another --log_csv, "
                "or replace it with --overwrite"
            )
        for epoch, (line, own) in enumerate(zip(lines[1:], self.lines, strict=False), 1):
            if line != own:
                raise UserError(
                    f"{path}: epoch {epoch} is not the one of this checkpoint, so it is of another run; move it away "
                    f"(mv {path} {path.with_name(path.stem + '-other.csv')}) and start again: the epochs of this run "
                    "stand in its checkpoint and are written anew. Or choose another --log_csv"
                )

    def row(self, values: dict[str, Any]) -> None:
        """Write one epoch. What a column has no value for stays empty."""
        self.lines.append(",".join(_cell(values.get(column)) for column in self.columns))
        if self.path:
            self._append(self.path)
        if self.writer:
            for column in self.columns[1:]:
                if isinstance(values.get(column), int | float):
                    self.writer.add_scalar(column, values[column], values["epoch"])
            self.writer.flush()
        validation = [column for column in self.columns if column.startswith("val_")]
        shown = [*SHOWN, *MASK_CONTROLS, *validation, "images_per_s"]
        parts = []
        for column in shown:
            if values.get(column) is not None:
                parts.append(f"{column} {values[column]:.4g}")
        say(f"epoch {values['epoch']}: {', '.join(parts)}")

    def hours(self) -> float:
        """What the epochs took so far, without their validation."""
        return hours_of(self.columns, self.lines)

    def _append(self, path: Path) -> None:
        try:
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(self.lines[-1] + "\n")
                file.flush()
                # The checkpoint that counts this row is written next.
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); then go on with --resume auto") from error


def with_more(columns: Sequence[str]) -> tuple[str, ...]:
    """COLUMNS, and those of a run after val_auroc."""
    at = COLUMNS.index("val_auroc") + 1
    return (*COLUMNS[:at], *columns, *COLUMNS[at:])


def validation_columns(datasets: np.ndarray | None, decisions: bool) -> list[str]:
    """Columns of a run that validates.

    Args:
        datasets: of each validation row, where there are several
        decisions: whether it counts right and wrong ones
    """
    columns = [] if datasets is None else [f"val_auroc_{name}" for name in sorted(set(datasets))]
    return [*columns, *(VALIDATION_DECISIONS if decisions else ())]


@contextmanager
def early_log(path: str | None, columns: Sequence[str], done: Sequence[str]) -> Iterator[None]:
    """A metrics CSV while a run is set up, with an hour of decoding perhaps: `tail -F` finds it from the first second.

    A file that is there stays as it is. One that was made here is removed where the set-up ends by an error: a run that
    is refused leaves nothing.

    Args:
        columns: of this run beside COLUMNS
        done: the rows that a checkpoint remembers
    """
    new = Path(path) if path and not Path(path).exists() else None
    if new:
        _write(new, (_csv_line(with_more(columns)), *done))
    try:
        yield
    except BaseException:
        if new:
            new.unlink(missing_ok=True)
        raise


def has_no_row(path: str | Path) -> bool:
    """Whether a file is the header of a metrics CSV and no more, of a run that was killed before its first epoch ended.

    Nothing is lost with it.
    """
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        first, second = file.readline(), file.readline()
    return not second and first.startswith(_csv_line(COLUMNS[:3]) + ",")


def hours_of(columns: Sequence[str], lines: Sequence[str]) -> float:
    """The hours in rows of a metrics CSV; `seconds` stands at the same place from the end in all of them."""
    place = list(columns).index("seconds") - len(columns)
    seconds = [float(line.split(",")[place] or 0) for line in lines]
    return round(sum(seconds) / 3600, 4)


def _write(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path) as file:
        file.writelines(f"{line}\n" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)  # -0.0 + 0.0 is 0.0


def _csv_line(values: Sequence[str]) -> str:
    """Joined by commas, quoted where a name needs it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
