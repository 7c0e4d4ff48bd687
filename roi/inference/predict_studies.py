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
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies, studies_of
from roi.data.study_loader import StudyLoader, ViewChoice
from roi.errors import UserError
from roi.inference.loading import Loading
from roi.inference.predict import Predictor, save_predictions, say_contaminated
from roi.models.fusion import StudyModel, leave_one_out
from roi.progress import progress
from roi.scoring.predictions import record, seven_digits


@dataclass
class StudyProbabilities:
    """Of each image of a table, (N, K) each; NaN where there is none."""

    study: np.ndarray  # of its study, from all images that are looked at
    alone: np.ndarray  # of the image alone; none of an image beyond --max_views
    without: np.ndarray  # of its study without the image; none where that leaves no image


def predict_studies(
    predictor: Predictor, table: pd.DataFrame, loading: Loading, save_json: str, origin: dict[str, Any]
) -> None:
    """Predict the studies of a table and write the predictions, one object an image in the order of the table.

    Args:
        table: image, path, study_id, view, patient_id, dataset and contaminated of each row.
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
        Path(save_json),
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
    found = study_probabilities(predictor, loader, studies)
    save_predictions(save_json, _records(predictor, table, studies, found), origin)
    contaminated = table["contaminated"]
    say_contaminated(int(contaminated.sum()), len(table), predictor.state)


def study_probabilities(predictor: Predictor, loader: StudyLoader, studies: Studies) -> StudyProbabilities:
    """The probabilities of all images, from all processes."""
    shape = (len(studies.rows), len(predictor.classes))
    of_studies = np.full((len(studies), len(predictor.classes)), np.nan, dtype=np.float32)
    alone = np.full(shape, np.nan, dtype=np.float32)
    without = np.full(shape, np.nan, dtype=np.float32)
    predictor.model.eval()
    with progress(None, len(loader), "predict") as bar:
        for batch in loader:
            assert batch.studies is not None
            rows = batch.studies.rows.numpy()
            of_batch = _of_batch(predictor, batch, batch.studies)
            of_studies[batch.index.numpy()] = of_batch.studies
            alone[rows] = of_batch.alone
            without[rows[of_batch.left_out]] = of_batch.without
            bar.update()
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
    pixels, views, staying = batch.pixels.to(device), studies.to(device), staying.to(device)
    several = []
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        for change in (_unchanged, *OTHER_VIEWS[predictor.tta]):
            # What the backbone sees is computed once; without an image it is only fused again.
            seen = model.see(change(pixels), views.kinds)
            without = seen.logits[:0]
            if len(left_out):
                without = model.fuse(seen, staying)
            several.append((model.fuse(seen, views.place), seen.logits, without))
    means = []
    for logits in zip(*several, strict=True):
        probabilities = torch.stack(logits).sigmoid()
        means.append(probabilities.mean(0).cpu().numpy())
    of_studies, of_images, without_image = means
    return BatchProbabilities(of_studies, of_images, without_image, left_out.numpy())


def _unchanged(pixels: Tensor) -> Tensor:
    return pixels


def _records(
    predictor: Predictor, table: pd.DataFrame, studies: Studies, found: StudyProbabilities
) -> Iterator[dict[str, Any]]:
    """One object an image; of several processes the first one has all."""
    if distributed.rank() != 0:
        return
    classes = predictor.classes
    names = studies.names[studies.study_of_row]
    sets: list[dict[str, Any]] = [{}] * len(table)
    if predictor.sets:
        sets = predictor.sets(found.study)
    contaminated = table["contaminated"].tolist()
    for row, image in enumerate(table["image"].tolist()):
        entry = record(image, classes, {"full": found.study[row]}, contaminated[row])
        entry["study"] = names[row]
        for name, values in (("prob_view", found.alone[row]), ("without", found.without[row])):
            if np.isnan(values).any():
                continue
            digits = map(seven_digits, values.tolist())
            entry[name] = dict(zip(classes, digits, strict=True))
        yield entry | sets[row]
