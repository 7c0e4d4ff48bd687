"""A checkpoint as a function of Python: X-rays in, arrays of numpy out.

    import roi

    model = roi.load_model("checkpoints/nih_roi_consistency_best.pt")
    out = model.predict("scans/")
    out.probabilities  # (N, K), columns as out.classes

Letters: N images, K classes, S x S the pixels of the model's input, m x n the cells of a map.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from roi import accelerator, cli
from roi.counter_rng import row_seeds
from roi.data.dataset import Batch, XrayDataset
from roi.data.identity import Seen, trained_on_files
from roi.data.images import UnreadableImageError
from roi.data.loader import make_loader
from roi.errors import UserError
from roi.inference.array_images import ArrayImages
from roi.inference.image_files import check_readers, find_images, read_xray
from roi.inference.origin import marks_of, provenance, refuse_untrained
from roi.inference.predict import Predictor, contamination, probabilities
from roi.inference.thresholds import Thresholds, default_thresholds, given_thresholds, read_thresholds
from roi.models.fusion import StudyModel
from roi.models.roi_model import Views
from roi.synthetic import sets_of_files
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
    # N: whether the model was trained on the image or its patient; None where it cannot be told, as of arrays.
    contaminated: list[bool | None]
    meta: dict[str, Any]  # where all of it comes from: the keys of preds.meta.json, of all images that were given

    def findings(self) -> list[list[str]]:
        """The findings of each image that reach their thresholds, most probable first."""
        limits = Thresholds(self.thresholds, "")
        return [[self.classes[k] for k in limits.above(prob)] for prob in self.probabilities]


class Model:
    """A checkpoint that predicts. Made by `load_model`."""

    def __init__(self, path: str | Path, predictor: Predictor, thresholds: Thresholds) -> None:
        self.path = str(path)
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

        Warns:
            UserWarning: the model was trained on some of the images, that cannot be told, or they, or all that it
                has seen, are drawn; `contaminated` and `meta` of what is returned say so as well. Also where paths are
                left out: pictures that this program made, DICOM beside its PNG; `images` names what is predicted.

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
        contaminated = [answer for part in parts for answer in part.contaminated]
        return Predictions(
            names,
            self.classes,
            thresholds=self.thresholds,
            contaminated=contaminated,
            meta=parts[0].meta,
            **joined,
        )

    def predict_batches(
        self, images: Image | Sequence[Image], batch_size: int = 32, keep_ratio: float | None = None, workers: int = 0
    ) -> Iterator[Predictions]:
        """`predict`, batch by batch: memory does not grow with the images."""
        ratio = self.keep_ratio if keep_ratio is None else keep_ratio
        if not 0 < ratio <= 1:
            raise UserError(f"keep_ratio {ratio}: is a share of the pixels, above 0 and at most 1")
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: is a number of images, at least 1")
        own = self.predictor
        names, dataset, paths = _dataset(images, own)
        answers, meta = self._origin(len(names), paths, ratio)
        loader, _ = make_loader(dataset, batch_size, workers=workers, pin_memory=accelerator.of(own.device).pins)

        def seeds(index: Tensor) -> Tensor:
            return row_seeds(own.seed, 0, index)

        for batch, views in predict(own.model, _readable(loader), own.device, own.dtype, ratio, seeds):
            rows = batch.index.tolist()
            yield self._of_batch([names[row] for row in rows], views, [answers[row] for row in rows], meta)

    def _origin(self, count: int, paths: list[str], ratio: float) -> tuple[list[bool | None], dict[str, Any]]:
        """Which images were trained on, and where the predictions come from; what is amiss is a warning.

        Args:
            count: images.
            paths: of their files; of arrays none.
        """
        state = self.predictor.state
        sets = sets_of_files(paths)
        # Arrays have no name by which they could be known.
        nothing = np.zeros(count, dtype=bool)
        found = trained_on_files(state, paths, sets) if paths else Seen(nothing, nothing)
        unknown = found.doubt if paths else ~nothing
        # Without fingerprints nobody can tell it of any image.
        if state["contaminated"] is None:
            unknown = ~found.seen
        answers: list[bool | None] = []
        for seen, is_unknown in zip(found.seen.tolist(), unknown.tolist(), strict=True):
            answers.append(None if is_unknown else seen)
        marks, said = marks_of(state, found, any(sets))
        meta = provenance(self.path, self.predictor, None, None) | {"keep_ratio": ratio} | marks
        seen_images = int(found.seen.sum())
        if seen_images:
            meta["contaminated"] = True
        elif None in answers:
            meta["contaminated"] = state["contaminated"] or None
        meta |= {"images": count, "contaminated_images": seen_images}
        for sentence in (*said, contamination(seen_images, count, state)):
            if sentence:
                warnings.warn(sentence, stacklevel=3)
        return answers, meta

    def _of_batch(
        self, names: list[str], views: Views, contaminated: list[bool | None], meta: dict[str, Any]
    ) -> Predictions:
        prob = probabilities(views)
        masks = None
        if views.binary_mask is not None:
            masks = views.binary_mask[:, 0].to(torch.uint8).cpu().numpy()
        maps = None if views.maps is None else views.maps.cpu().numpy()
        return Predictions(
            images=names,
            classes=self.classes,
            probabilities=prob["full"],
            thresholds=self.thresholds,
            crop=prob.get("crop"),
            drop=prob.get("drop"),
            masks=masks,
            maps=maps,
            contaminated=contaminated,
            meta=meta,
        )


def load_model(
    path: str | Path,
    device: str = "auto",
    thresholds: str | Path | Mapping[str, float] | None = None,
    autocast_dtype: str = "auto",
    untrained: bool = False,
) -> Model:
    """Load a checkpoint of a train script, or what export_model.py made of one.

    Args:
        path: of the checkpoint, or of model.safetensors.
        device: cpu, cuda, cuda:1, mps; auto: the best there is.
        thresholds: from which probability on a finding is called present: metrics.json of evaluate.py, thresholds.json
            of calibrate_conformal.py, or class -> number. Without it, and for classes that it lacks, 0.5.
        autocast_dtype: bf16, fp16 or fp32; auto: as the scripts choose for the device.
        untrained: also a checkpoint that was never trained, whose predictions are chance.

    Raises:
        UserError: a ValueError in one line: no such file, not a checkpoint of images, or never trained.
    """
    # The scripts set it too: sums would differ in their last bits.
    cli.set_environment()
    model, state = checkpoint.load_model(path)
    refuse_untrained(str(path), state, untrained)
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
    return Model(path, Predictor(model.to(place), state, place, dtype, state["args"]["keep_ratio"]), limits)


def _listed(images: Any) -> list[Image]:
    """What is neither a path nor an array, as a list of these.

    Raises:
        UserError: it is none.
    """
    # The letters of bytes are numbers.
    listed = [images]
    if isinstance(images, Iterable) and not isinstance(images, bytes | Mapping):
        listed = list(images)
    for image in listed:
        if not isinstance(image, Image):
            kind = type(image).__name__
            raise UserError(f"{kind} is no image: give a path or an array of numpy, or a list of these")
    return listed


def _dataset(images: Image | Sequence[Image], predictor: Predictor) -> tuple[list[str], XrayDataset, list[str]]:
    """The names of images, what reads them, and the paths of their files (none of arrays), in order."""
    given: Sequence[Image] = [images] if isinstance(images, Image) else _listed(images)
    arrays = [image for image in given if isinstance(image, np.ndarray)]
    paths = [image for image in given if not isinstance(image, np.ndarray)]
    if not given:
        raise UserError("there is no image to predict: the list is empty")
    # A folder stands for many images, so that rows could not be told apart by their place in the list.
    if arrays and paths:
        raise UserError(f"paths ({paths[0]}) and arrays stand in one list; predict them one after the other")
    if arrays:
        names = [f"array {n}" for n in range(len(arrays))]
        return names, ArrayImages(arrays, names, predictor.no_targets(len(arrays)), predictor.img_size), []
    found = find_images(paths, say=partial(warnings.warn, stacklevel=5))
    missing = [image.name for image in found if image.path is None]
    if missing:
        raise UserError(f"{missing[0]}: is listed and not there ({len(missing):,} such images)")
    files = [image.path for image in found if image.path is not None]
    check_readers(files)
    dataset = XrayDataset(files, predictor.no_targets(len(files)), predictor.img_size, read_xray)
    return [image.name for image in found], dataset, files


def _readable(batches: Iterable[Batch]) -> Iterator[Batch]:
    for batch in batches:
        for _, reason in batch.failed:
            raise UnreadableImageError(reason)
        yield batch
