"""A checkpoint as a function of Python: X-rays in, arrays of numpy out.

    import roi

    model = roi.load_model("checkpoints/nih_roi_consistency_best.pt")
    out = model.predict("scans/")
    out.probabilities  # (N, K), columns as out.classes

Letters: N images, K classes, S x S the pixels of the model's input, m x n the cells of a map.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roi import cli
from roi.counter_rng import row_seeds
from roi.data.dataset import Batch, XrayDataset
from roi.data.images import UnreadableImageError
from roi.data.loader import make_loader
from roi.errors import UserError
from roi.inference.array_images import ArrayImages
from roi.inference.image_files import check_readers, find_images, read_xray
from roi.inference.predict import Predictor, probabilities
from roi.inference.thresholds import Thresholds, default_thresholds, given_thresholds, read_thresholds
from roi.models.fusion import StudyModel
from roi.models.roi_model import Views
from roi.training import checkpoint
from roi.training.device import pick_device, pick_dtype
from roi.training.loop import predict

Image = str | Path | np.ndarray  # a path may also be a folder, a pattern or a list (find_images)


@dataclass(frozen=True)
class Predictions:
    """What is predicted of N images."""

    images: list[str]  # names as in the files of predictions; of arrays "array 0", ...
    classes: list[str]  # K
    probabilities: np.ndarray  # (N, K) float32, on the whole image
    thresholds: np.ndarray  # (K,) from which on a finding is called present; NaN for Normal
    crop: np.ndarray | None  # (N, K) on what the mask keeps; None without a mask, as the next two
    drop: np.ndarray | None  # (N, K) on what it drops
    masks: np.ndarray | None  # (N, S, S) uint8, 1 where kept: of the image as the model sees it, a square
    maps: np.ndarray | None  # (N, K, m, n) float32, where the model has a map of each class; their order counts

    def findings(self) -> list[list[str]]:
        """The findings of each image that reach their thresholds, most probable first."""
        limits = Thresholds(self.thresholds, "")
        return [[self.classes[k] for k in limits.above(prob)] for prob in self.probabilities]


class Model:
    """A checkpoint that predicts. Made by `load_model`."""

    def __init__(self, predictor: Predictor, thresholds: Thresholds) -> None:
        self.predictor = predictor
        self.classes = list(predictor.classes)
        self.img_size = predictor.img_size  # S
        self.keep_ratio = predictor.keep_ratio  # as trained
        self.thresholds = thresholds.values  # (K,)
        self.device = predictor.device

    def __repr__(self) -> str:
        backbone = self.predictor.state["args"]["backbone"]
        return f"Model({backbone}, {len(self.classes)} classes, {self.img_size} px, on {self.device})"

    def predict(
        self, images: Image | Sequence[Image], batch_size: int = 32, keep_ratio: float | None = None, workers: int = 0
    ) -> Predictions:
        """Predict images: the same numbers as infer_roi_consistency.py gives for the same files.

        Args:
            images: a path or an array, or a list of them. A path is a file (PNG, JPEG, TIFF, DICOM ...), a folder with
                all below it, a pattern, or a .txt that lists files. An array is (H, W) or (H, W, 3), uint8, uint16 or
                floating point (roi.inference.array_images.grey_pixels).
            batch_size: images a forward.
            keep_ratio: share of the pixels that the mask keeps; as trained, if not given.
            workers: processes that decode; 0: this one.

        Raises:
            UserError: a ValueError in one line: no such file, an image that cannot be read.
        """
        # Whole batches are joined: a part that no image has is None in each of them.
        parts = list(self.predict_batches(images, batch_size, keep_ratio, workers))
        joined: dict[str, Any] = {}
        for name in ("probabilities", "crop", "drop", "masks", "maps"):
            arrays = [getattr(part, name) for part in parts]
            joined[name] = None if arrays[0] is None else np.concatenate(arrays)
        names = [name for part in parts for name in part.images]
        return Predictions(names, self.classes, thresholds=self.thresholds, **joined)

    def predict_batches(
        self, images: Image | Sequence[Image], batch_size: int = 32, keep_ratio: float | None = None, workers: int = 0
    ) -> Iterator[Predictions]:
        """`predict`, batch by batch: memory does not grow with the images."""
        ratio = self.keep_ratio if keep_ratio is None else keep_ratio
        if not 0 < ratio <= 1:
            raise UserError(f"keep_ratio {ratio}: is a share of the pixels, above 0 and at most 1")
        own = self.predictor
        names, dataset = _dataset(images, own)
        loader, _ = make_loader(dataset, batch_size, workers=workers, pin_memory=own.device.type == "cuda")

        def seeds(index: Tensor) -> Tensor:
            return row_seeds(own.seed, 0, index)

        for batch, views in predict(own.model, _readable(loader), own.device, own.dtype, ratio, seeds):
            yield self._of_batch([names[row] for row in batch.index.tolist()], views)

    def _of_batch(self, names: list[str], views: Views) -> Predictions:
        prob = probabilities(views)
        masks = None
        if views.binary_mask is not None:
            masks = views.binary_mask[:, 0].to(torch.uint8).cpu().numpy()
        maps = None if views.maps is None else views.maps.cpu().numpy()
        return Predictions(
            names, self.classes, prob["full"], self.thresholds, prob.get("crop"), prob.get("drop"), masks, maps
        )


def load_model(
    path: str | Path,
    device: str = "auto",
    thresholds: str | Path | Mapping[str, float] | None = None,
    autocast_dtype: str = "auto",
) -> Model:
    """Load a checkpoint of a train script.

    Args:
        path: of the checkpoint.
        device: cpu, cuda, cuda:1, mps; auto: the best there is.
        thresholds: from which probability on a finding is called present: metrics.json of evaluate.py, thresholds.json
            of calibrate_conformal.py, or class -> number. Without it, and for classes that it lacks, 0.5.
        autocast_dtype: bf16, fp16 or fp32; auto: as the scripts choose for the device.

    Raises:
        UserError: a ValueError in one line: no such file, or not a checkpoint of images.
    """
    # The scripts set it too: sums would differ in their last bits.
    cli.set_environment()
    model, state = checkpoint.load_model(path)
    if isinstance(model, StudyModel):
        raise UserError(
            f"{path}: is a model of studies; infer_roi_consistency.py --csv predicts with it, by the studies of a table"
        )
    classes = state["classes"]
    if thresholds is None:
        limits = default_thresholds(classes)
    elif isinstance(thresholds, Mapping):
        limits = given_thresholds(thresholds, classes)
    else:
        limits = read_thresholds(thresholds, classes)
    place = pick_device(device)
    dtype = pick_dtype(autocast_dtype, place)
    return Model(Predictor(model.to(place), state, place, dtype, state["args"]["keep_ratio"]), limits)


def _dataset(images: Image | Sequence[Image], predictor: Predictor) -> tuple[list[str], XrayDataset]:
    """The names of images and what reads them, in order."""
    given: Sequence[Image] = [images] if isinstance(images, str | Path | np.ndarray) else list(images)
    arrays = [image for image in given if isinstance(image, np.ndarray)]
    paths = [image for image in given if not isinstance(image, np.ndarray)]
    if not given:
        raise UserError("there is no image to predict: the list is empty")
    # A folder stands for many images, so that rows could not be told apart by their place in the list.
    if arrays and paths:
        raise UserError(f"paths ({paths[0]}) and arrays stand in one list; predict them one after the other")
    if arrays:
        names = [f"array {n}" for n in range(len(arrays))]
        return names, ArrayImages(arrays, names, predictor.no_targets(len(arrays)), predictor.img_size)
    found = find_images(paths)
    missing = [image.name for image in found if image.path is None]
    if missing:
        raise UserError(f"{missing[0]}: is listed and not there ({len(missing):,} such images)")
    files = [image.path for image in found if image.path is not None]
    check_readers(files)
    dataset = XrayDataset(files, predictor.no_targets(len(files)), predictor.img_size, read_xray)
    return [image.name for image in found], dataset


def _readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        for _, reason in batch.failed:
            raise UnreadableImageError(reason)
        yield batch
