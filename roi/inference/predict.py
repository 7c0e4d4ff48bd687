"""Predictions of a checkpoint, batch by batch: probabilities of each view, prediction sets, masks.

Letters: B images of a batch, K classes, S x S the pixels of the input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.augment import OTHER_VIEWS
from roi.data.dataset import Batch, check_batches, note_unreadable
from roi.errors import UserError
from roi.inference.map_writers import Output
from roi.models.roi_model import RoiModel, Views
from roi.scoring import prediction_sets
from roi.scoring.prediction_files.flat_csv import write_stream
from roi.scoring.predictions import PARTS, record, write
from roi.training.loop import predict

Target = str | TextIO  # where predictions go: a file by its name, or a stream


class Outcome(NamedTuple):
    """What is predicted of an image."""

    row: int  # of the table
    record: dict[str, Any]  # as it stands in preds.json
    mask: np.ndarray | None  # (S, S) 0/1, where there is one
    maps: np.ndarray | None = None  # (K, m, n) of each class, where the model has them


@dataclass(frozen=True)
class Predictor:
    """A checkpoint and how it predicts."""

    model: RoiModel  # on `device`
    state: dict[str, Any]  # the checkpoint
    device: torch.device
    dtype: torch.dtype  # of autocast
    keep_ratio: float
    seed: int = 0  # of random masks
    tta: str = "none"  # the views over which probabilities are averaged (OTHER_VIEWS)
    sets: Callable[[np.ndarray], list[dict[str, Any]]] | None = None  # (B, K) probabilities -> sets of each image

    @property
    def classes(self) -> list[str]:
        return self.state["classes"]

    @property
    def img_size(self) -> int:
        return self.state["args"]["img_size"]

    def no_targets(self, rows: int) -> np.ndarray:
        """(rows, K): of images to predict nothing is known."""
        return np.full((rows, len(self.classes)), np.nan, dtype=np.float32)

    def outcomes(
        self,
        table: pd.DataFrame,
        batches: Iterable[Batch],
        side_file: Path | None,
        skip_unreadable: bool = False,
        first: int = 0,
        outputs: Sequence[Output] = (),
    ) -> Iterator[Outcome]:
        """Predict batch by batch.

        Args:
            table: image and contaminated (trained on) of each row.
            batches: of these rows.
            side_file: the output beside which images that cannot be read are listed; None: on the console.
            skip_unreadable: leave them out; else the first one is an error.
            first: the place of the first row in the whole table, which has an influence on random masks.
            outputs: see each batch.
        """
        images = table["image"].tolist()
        contaminated = table["contaminated"].tolist()
        unreadable: set[str] = set()

        def seeds(index: Tensor) -> Tensor:
            # By the place in the whole table: random masks are the same however many processes share it.
            return row_seeds(self.seed, 0, index + first)

        readable = check_batches(batches, skip_unreadable, unreadable)
        others = OTHER_VIEWS[self.tta]
        for batch, views in predict(
            self.model, readable, self.device, self.dtype, self.keep_ratio, seeds, others=others
        ):
            rows = batch.index.tolist()
            # Nothing of this batch could be read.
            if not rows:
                continue
            names = [images[row] for row in rows]
            for output in outputs:
                output.add(batch, names, views)
            yield from self._of_batch(rows, names, [contaminated[row] for row in rows], views)
        # Each process has seen its own rows; the first one lists those of all.
        unreadable = set().union(*distributed.all_gather_objects(unreadable))
        if distributed.rank() == 0:
            note_unreadable(unreadable, side_file)

    def _of_batch(self, rows: list[int], names: list[str], contaminated: list[bool], views: Views) -> Iterator[Outcome]:
        prob = probabilities(views)
        # One transfer a batch, not one an image.
        masks: Sequence[np.ndarray | None] = [None] * len(rows)
        if views.binary_mask is not None:
            masks = list(views.binary_mask[:, 0].cpu().numpy())
        maps: Sequence[np.ndarray | None] = [None] * len(rows)
        if views.maps is not None:
            maps = list(views.maps.cpu().numpy())
        sets: list[dict[str, Any]] = [{}] * len(rows)
        if self.sets:
            sets = self.sets(prob["full"])
        for i, row in enumerate(rows):
            values = {part: of_batch[i] for part, of_batch in prob.items()}
            entry = record(names[i], self.classes, values, contaminated[i])
            yield Outcome(row, entry | sets[i], masks[i], maps[i])


def probabilities(views: Views) -> dict[str, np.ndarray]:
    """View -> (B, K), for the views that there are."""
    prob = {}
    for part in PARTS:
        logits = getattr(views, f"logits_{part}")
        if logits is not None:
            prob[part] = logits.sigmoid().cpu().numpy()
    return prob


def sets_of_checkpoint(
    path: str,
    checkpoint: str,
    state: dict[str, Any],
) -> Callable[[np.ndarray], list[dict[str, Any]]]:
    """The function from (B, K) probabilities of a checkpoint to the prediction sets of each image.

    Args:
        path: the thresholds, which must have been calibrated on predictions of this checkpoint.
        checkpoint: its path.
        state: the checkpoint.
    """
    thresholds = prediction_sets.read(path)
    same_checkpoint(path, thresholds["classes"], thresholds["model"], checkpoint, state)
    columns = [state["classes"].index(c) for c in thresholds["classes"]]

    def sets(prob: np.ndarray) -> list[dict[str, Any]]:
        return prediction_sets.described(thresholds, prob[:, columns])

    return sets


def same_checkpoint(
    path: str,
    classes: Sequence[str],
    origin: dict[str, Any],
    checkpoint: str,
    state: dict[str, Any],
) -> None:
    """UserError where thresholds are not of a checkpoint.

    Args:
        path: the thresholds.
        classes: of which they are.
        origin: checkpoint and epoch whose predictions they were chosen on; empty: nobody says.
    """
    unknown = [c for c in classes if c not in state["classes"]]
    # Thresholds hold for the scores that they were chosen on: another epoch has others.
    message = ""
    if unknown:
        message = f"it has {unknown[0]!r}, which this one does not predict"
    elif origin:
        same_name = Path(origin.get("checkpoint") or "").name == Path(checkpoint).name
        if not same_name or origin.get("epoch") != state["epoch"]:
            message = f"they are of {origin.get('checkpoint')}, epoch {origin.get('epoch')}"
    if message:
        raise UserError(
            f"--thresholds {path}: not of {checkpoint}, epoch {state['epoch']}: {message}; "
            "calibrate on predictions of this checkpoint"
        )


def save_predictions(target: Target, records: Iterator[dict[str, Any]], origin: dict[str, Any]) -> None:
    """Write records as they come, and beside a file where they come from; a stream gets them as CSV."""
    if not isinstance(target, str):
        write_stream(target, records)
        return
    count, _ = write(target, records, origin)
    print(f"{target}: {count:,} images")


def say_contaminated(contaminated: int, images: int, state: dict[str, Any]) -> None:
    """Say on the console, whatever was written, how many of the images the checkpoint was trained on."""
    sentence = contamination(contaminated, images, state)
    if sentence:
        print(sentence)


def contamination(contaminated: int, images: int, state: dict[str, Any]) -> str:
    """In words, how many of the images the checkpoint was trained on; '' where it is as it should be."""
    if contaminated:
        return (
            f"CONTAMINATED: the checkpoint was trained on {contaminated:,} of these {images:,} images "
            "or on other images of their patients; their scores are not test scores"
        )
    if state["contaminated"]:
        return (
            "CONTAMINATED: the checkpoint was trained on test images (--allow_leakage), "
            "though on none of these or their patients"
        )
    return ""
