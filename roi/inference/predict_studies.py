"""Predictions of a study model: one probability of each finding for all images of a study, and what each image adds.

Letters: N images of a table, V images of a batch, B studies, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from roi import distributed
from roi.data.augment import OTHER_VIEWS
from roi.data.dataset import Batch, StudyBatch, open_cache_of_run
from roi.data.order.memory import holds, usable_memory
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies, studies_of
from roi.data.study_loader import StudyLoader, ViewChoice
from roi.errors import UserError
from roi.inference.loading import Loading
from roi.inference.predict import Predictor
from roi.models.fusion import StudyModel, leave_one_out
from roi.progress import progress
from roi.scoring.predictions import by_class, record


@dataclass
class StudyProbabilities:
    """Of each image of a table, (N, K) each; NaN where there is none."""

    study: np.ndarray  # of its study, from all images that are looked at
    alone: np.ndarray  # of the image alone; none of an image beyond --max_views
    without: np.ndarray  # of its study without the image; none where that leaves no image


@dataclass
class StudyTable:
    """The rows of a table whose image can be read, their studies, and what is predicted of them."""

    table: pd.DataFrame
    studies: Studies
    found: StudyProbabilities

    @property
    def names(self) -> np.ndarray:
        """(N,) the study of each image."""
        return self.studies.names[self.studies.study_of_row]


def predict_studies(predictor: Predictor, table: pd.DataFrame, loading: Loading, side_file: Path) -> StudyTable:
    """Predict the studies of a table.

    Args:
        table: image, path, study_id, view, patient_id, dataset and contaminated of each row.
        side_file: the output beside which images that cannot be read are listed.
    """
    if not loading.cache_dir:
        raise UserError("studies are read from a pixel cache; give --cache_dir DIR, where each image is decoded once")
    cache = open_cache_of_run(
        table["image"].tolist(),
        table["path"].tolist(),
        loading.cache_dir,
        predictor.img_size,
        loading.workers,
        loading.skip_unreadable,
        side_file,
    )
    readable = cache.rows >= 0
    # A study whose image cannot be read is one of fewer images.
    table = table[readable].reset_index(drop=True)
    cache.rows, cache.unreadable = cache.rows[readable], {}
    studies = studies_of(table)
    max_views = predictor.state["args"]["max_views"]
    print(studies.summary())
    large = int((studies.sizes > max_views).sum())
    if large:
        print(f"{large:,} studies have more than {max_views} images (--max_views in training): the first are looked at")
    sampler = ShardedBatchSampler(len(studies), loading.batch_size, rank=distributed.rank(), world=distributed.world())
    loader = StudyLoader(
        cache,
        studies,
        predictor.no_targets(len(studies)),
        sampler,
        ViewChoice(max_views),
        predictor.device,
        False,
        loading.prefetch_factor,
    )
    loader.reads_ahead = not holds(usable_memory(), len(cache.rows) * predictor.img_size**2)
    return StudyTable(table, studies, study_probabilities(predictor, loader, studies))


def study_probabilities(predictor: Predictor, loader: StudyLoader, studies: Studies) -> StudyProbabilities:
    """The probabilities of all images, from all processes."""
    shape = (len(studies.rows), len(predictor.classes))
    of_studies = np.full((len(studies), len(predictor.classes)), np.nan, dtype=np.float32)
    alone = np.full(shape, np.nan, dtype=np.float32)
    without = np.full(shape, np.nan, dtype=np.float32)
    predictor.model.eval()
    with progress(None, loader.sampler.rows, "predict", "study") as bar:
        for batch in loader:
            assert batch.studies is not None
            rows = batch.studies.rows.numpy()
            of_batch = _of_batch(predictor, batch, batch.studies)
            of_studies[batch.index.numpy()] = of_batch.studies
            alone[rows] = of_batch.alone
            without[rows[of_batch.left_out]] = of_batch.without
            bar.update(len(batch.index))
    # Each process has its own studies; those of the others are NaN.
    own = (of_studies, alone, without)
    for part in distributed.all_gather_objects(own):
        for values, other in zip(own, part, strict=True):
            known = ~np.isnan(other)
            np.copyto(values, other, where=known)
    return StudyProbabilities(of_studies[studies.study_of_row], alone, without)


class BatchProbabilities(NamedTuple):
    """Of a batch; R pairs of an image and its study."""

    studies: np.ndarray  # (B, K)
    alone: np.ndarray  # (V, K)
    without: np.ndarray  # (R, K) of the study without the image
    left_out: np.ndarray  # (R,) the image, among the V


@torch.inference_mode()
def _of_batch(predictor: Predictor, batch: Batch, studies: StudyBatch) -> BatchProbabilities:
    model, device, dtype = predictor.model, predictor.device, predictor.dtype
    assert isinstance(model, StudyModel)
    left_out, staying = leave_one_out(studies.place)
    pixels = batch.pixels.to(device)
    views = studies.to(device)
    staying = staying.to(device)
    several = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for change in (_unchanged, *OTHER_VIEWS[predictor.tta]):
            # What the backbone sees is computed once; without an image it is only fused again.
            seen = model.see(change(pixels), views.kinds)
            without = model.alone(seen)[:0]
            if len(left_out):
                without = model.fuse(seen, staying)
            several.append((model.fuse(seen, views.place), model.alone(seen), without))
    means = []
    for logits in zip(*several, strict=True):
        probabilities = torch.stack(logits).sigmoid()
        means.append(probabilities.mean(0).cpu().numpy())
    of_studies, of_images, without_image = means
    return BatchProbabilities(of_studies, of_images, without_image, left_out.numpy())


def _unchanged(pixels: Tensor) -> Tensor:
    return pixels


def study_records(predictor: Predictor, predicted: StudyTable) -> Iterator[dict[str, Any]]:
    """One object an image, in the order of the table; of several processes the first one has all."""
    if distributed.rank() != 0:
        return
    classes, found, table = predictor.classes, predicted.found, predicted.table
    names = predicted.names
    sets: list[dict[str, Any]] = [{}] * len(table)
    if predictor.sets:
        sets = predictor.sets(found.study)
    contaminated = table["contaminated"].tolist()
    for row, image in enumerate(table["image"].tolist()):
        entry = record(image, classes, {"full": found.study[row]}, contaminated[row])
        entry["study"] = names[row]
        yield entry | of_view(found, row, classes) | sets[row]


def of_view(found: StudyProbabilities, row: int, classes: list[str]) -> dict[str, dict[str, float]]:
    """What is known of an image apart from its study: `prob_view` and `without`, where there are such."""
    # An image beyond --max_views has neither; NaN is no JSON.
    known = {}
    for name, values in (("prob_view", found.alone[row]), ("without", found.without[row])):
        if not np.isnan(values).any():
            known[name] = by_class(classes, values)
    return known


def shown_in_pictures(predicted: StudyTable, classes: list[str], count: int) -> dict[str, dict[str, Any]]:
    """What the pictures of the first `count` images say of their studies, by image."""
    # Of the first images alone: the others have no picture.
    names = predicted.names
    shown = {}
    for row, image in enumerate(predicted.table["image"].tolist()[:count]):
        of_study = by_class(classes, predicted.found.study[row])
        known = of_view(predicted.found, row, classes)
        shown[image] = {"study": names[row], "prob_study": of_study, **known}
    return shown
