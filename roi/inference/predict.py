"""Predictions of a checkpoint, batch by batch: probabilities of each view, prediction sets, masks.

Letters: B images of a batch, K classes, S x S the pixels of the input.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.augment import OTHER_VIEWS
from roi.data.dataset import Batch, check_batches, note_unreadable
from roi.data.identity import Seen
from roi.errors import UserError
from roi.inference.map_writers import Output
from roi.models.roi_model import RoiModel, Views
from roi.scoring import prediction_sets
from roi.scoring.predictions import PARTS, record, write
from roi.training.loop import predict


class Outcome(NamedTuple):
    """What is predicted of an image."""

    row: int  # of the table
    record: dict[str, Any]  # as it stands in preds.json
    mask: np.ndarray | None  # (S, S) 0/1, where there is one


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
        side_file: Path,
        skip_unreadable: bool = False,
        first: int = 0,
        outputs: Sequence[Output] = (),
    ) -> Iterator[Outcome]:
        """Predict batch by batch.

        Args:
            table: image and contaminated (trained on) of each row.
            batches: of these rows.
            side_file: the output beside which images that cannot be read are listed.
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
        sets: list[dict[str, Any]] = [{}] * len(rows)
        if self.sets:
            sets = self.sets(prob["full"])
        for i, row in enumerate(rows):
            values = {part: of_batch[i] for part, of_batch in prob.items()}
            entry = record(names[i], self.classes, values, contaminated[i])
            yield Outcome(row, entry | sets[i], masks[i])


def probabilities(views: Views) -> dict[str, np.ndarray]:
    """View -> (B, K), for the views that there are."""
    prob = {}
    for part in PARTS:
        logits = getattr(views, f"logits_{part}")
        if logits is not None:
            prob[part] = logits.sigmoid().cpu().numpy()
    return prob


def sets_of_checkpoint(
    path: str, checkpoint: str, state: dict[str, Any]
) -> Callable[[np.ndarray], list[dict[str, Any]]]:
    """The function from (B, K) probabilities of a checkpoint to the prediction sets of each image.

    Args:
        path: the thresholds, which must have been calibrated on predictions of this checkpoint.
        checkpoint: its path.
        state: the checkpoint.
    """
    thresholds = prediction_sets.read(path)
    unknown = [c for c in thresholds["classes"] if c not in state["classes"]]
    origin = thresholds["model"]
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
    columns = [state["classes"].index(c) for c in thresholds["classes"]]

    def sets(prob: np.ndarray) -> list[dict[str, Any]]:
        return prediction_sets.described(thresholds, prob[:, columns])

    return sets


def save_predictions(path: str, records: Iterator[dict[str, Any]], origin: dict[str, Any]) -> None:
    """Write records as they come, and where they come from beside them."""
    count, _ = write(path, records, origin)
    print(f"{path}: {count:,} images")


def mark_origin(origin: dict[str, Any], state: dict[str, Any], found: Seen, is_drawn: bool) -> None:
    """Note in `origin`, and say, what the predictions must not be taken for.

    Args:
        found: which of the images were trained on.
        is_drawn: the images are of a synthetic set.
    """
    doubtful = int(found.doubt.sum())
    if doubtful:
        # Neither yes nor no: the answer of who reads it is "unknown".
        origin["contaminated"] = state["contaminated"] or None
        print(
            f"CANNOT BE TOLD whether the checkpoint was trained on {doubtful:,} of these {len(found.doubt):,} images: "
            "images of their names were trained on, and nobody says of which data set the two are; name it in the "
            "column 'dataset' of both tables"
        )
    if is_drawn:
        origin["synthetic"] = True
        print("SYNTHETIC: these images are drawn, no X-rays; their scores say nothing about patients")
    elif state.get("synthetic"):
        origin["trained_on_synthetic"] = True
        print("SYNTHETIC: the checkpoint was trained on drawn images alone; it has never seen an X-ray")


def refuse_untrained(path: str, state: dict[str, Any], untrained: bool) -> None:
    """UserError for a checkpoint in which nothing was learned yet, unless that is asked for.

    A training writes it before its first step, so that it can be resumed whenever it is killed.
    """
    # What began from another checkpoint has its weights.
    if untrained or state["epoch"] or state.get("steps") or state.get("begun_from"):
        return
    raise UserError(
        f"{path}: was never trained (epoch 0, step 0): its predictions are chance; go on with the training by "
        "--resume auto, or ask for them with --untrained"
    )


def say_contaminated(contaminated: int, images: int, state: dict[str, Any]) -> None:
    """Say on the console, whatever was written, how many of the images the checkpoint was trained on."""
    if contaminated:
        print(
            f"CONTAMINATED: the checkpoint was trained on {contaminated:,} of these {images:,} images "
            "or on other images of their patients; their scores are not test scores"
        )
    elif state["contaminated"]:
        print(
            "CONTAMINATED: the checkpoint was trained on test images (--allow_leakage), "
            "though on none of these or their patients"
        )
