"""The rows of a table: predictions as a stream, pictures, maps and curves as the batches go by."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from roi import distributed
from roi.inference.loading import Loader
from roi.inference.map_writers import Output
from roi.inference.predict import Outcome, Predictor, Target, save_predictions, say_contaminated
from roi.progress import progress


class Pictures(Protocol):
    """What makes pictures of the images that go by."""

    target: Path  # where they are

    def write(self, outcome: Outcome) -> None: ...
    def close(self, predicted: Sequence[str]) -> None: ...


@dataclass(frozen=True)
class TableOutputs:
    """What is written of a table."""

    predictions: Target | None
    evidence: Sequence[Output]  # files of maps and curves
    pictures: Sequence[Pictures]
    side_file: Path | None  # the output beside which unreadable images are listed; None: on the console
    origin: dict[str, Any]  # where all of it comes from


def what_is_left(outputs: TableOutputs, done: int, count: int) -> str:
    """In words, what a run that was ended leaves behind, and how to go on. `done` of `count` images are predicted."""
    files = [str(output.file.path) for output in outputs.evidence]
    if isinstance(outputs.predictions, str):
        files.insert(0, outputs.predictions)
    folders = [str(pictures.target) for pictures in outputs.pictures if pictures.target.exists()]
    parts = [f"stopped after {done:,} of {count:,} images"]
    if folders:
        parts.append(f"the pictures in {', '.join(folders)} are whole, each of them")
    if files:
        parts.append(f"not written: {', '.join(files)}")
    overwrite = " with --overwrite" if folders else ""
    parts.append(f"the same command{overwrite} makes all of it")
    return "; ".join(parts)


@contextmanager
def _saying_what_is_left(outputs: TableOutputs, predicted: Sequence[str], count: int) -> Iterator[None]:
    """Say it where Ctrl-C or SIGTERM ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # Of several processes none knows what the others have made.
        if distributed.world() == 1:
            # The line of progress has no end yet.
            print(f"\n{what_is_left(outputs, len(predicted), count)}", file=sys.stderr)
        raise


def predict_table(
    predictor: Predictor, table: pd.DataFrame, load: Loader, outputs: TableOutputs, skip_unreadable: bool
) -> None:
    """Predict each row once, shared among the processes, and write the outputs.

    Args:
        table: image, path, labels and contaminated of each row.
    """
    # Each process has rows that follow each other, so that the parts of a file are put together in order.
    rank = distributed.rank()
    world = distributed.world()
    first = len(table) * rank // world
    end = len(table) * (rank + 1) // world
    predicted: list[str] = []  # images of this process

    # A generator: what is written does not gather in memory, however long the table is.
    def records() -> Iterator[dict[str, Any]]:
        with progress(None, end - first, "predict") as bar:
            for outcome in predictor.outcomes(
                table[first:end], load(first, end), outputs.side_file, skip_unreadable, first, outputs.evidence
            ):
                for pictures in outputs.pictures:
                    pictures.write(outcome._replace(row=first + outcome.row))
                bar.update()
                predicted.append(outcome.record["image"])
                yield outcome.record

    contaminated = set(table["image"][table["contaminated"]])
    # An error before the end leaves no file: each is complete or absent.
    with ExitStack() as stack:
        stack.enter_context(_saying_what_is_left(outputs, predicted, end - first))
        for output in outputs.evidence:
            stack.enter_context(output)
        if outputs.predictions:
            save_predictions(outputs.predictions, records(), outputs.origin)
        else:
            # Maps, curves and pictures are made on the way; nobody wants the records.
            deque(records(), maxlen=0)
        for output in outputs.evidence:
            count = output.close(predictor.classes, outputs.origin, contaminated)
            print(f"{output.file.path}: {count:,} images")
    images = [image for part in distributed.all_gather_objects(predicted) for image in part]
    for pictures in outputs.pictures:
        pictures.close(images)
    say_contaminated(len(contaminated & set(images)), len(images), predictor.state)
