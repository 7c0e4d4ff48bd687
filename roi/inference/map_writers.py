"""Files of maps that are written beside predictions while the images go by: masks, maps of classes, Grad-CAM.

Each output has `add(batch, names, views)` and `close`; as a context manager it leaves no file when an error comes
first. Letters: B images of a batch, C classes of a map, m x m its cells, P x P the pixels of the input.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from roi import distributed
from roi.data.dataset import Batch
from roi.errors import UserError
from roi.inference.grad_cam import GradCam
from roi.models.masks import exact_topk, kept_pixels, upsample
from roi.models.roi_model import RoiModel, Views
from roi.scoring.map_file import REINIT, pack
from roi.scoring.npz_stream import ArrayWriter, origin


class Output(Protocol):
    """What is written beside predictions."""

    file: ArrayWriter

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...
    def add(self, batch: Batch, names: list[str], views: Views) -> None: ...
    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int: ...


class MapsFile:
    """A file of maps (roi/scoring/map_file.py) being written."""

    def __init__(self, path: str | Path, sources: list[str], keep_ratio: float, side: int = 0) -> None:
        self.file = ArrayWriter(path)
        self.sources = sources
        self.keep_ratio = keep_ratio
        self.side = side
        self.images: list[str] = []

    def __enter__(self) -> "MapsFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.__exit__(*exc)

    def write(self, names: list[str], maps: dict[str, Tensor], masks: dict[str, Tensor]) -> None:
        """Write the rows of some images.

        Args:
            maps: source -> (B, C, m, m).
            masks: source -> (B, C, P, P) 0/1, for sources that have one.
        """
        # A number has two bytes: what is beyond them would become infinite.
        limit = float(np.finfo(np.float16).max)
        arrays = {}
        for source, values in maps.items():
            arrays[f"map_{source}"] = values.clamp(-limit, limit).half().cpu().numpy()
        for source, mask in masks.items():
            arrays[f"kept_{source}"] = pack(mask.cpu().numpy())
        self.file.add(**arrays)
        self.images += names

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        """Write the file, and count its images.

        Args:
            classes: [""] where one map serves all.
            meta: where the maps come from.
            contaminated: the images that the checkpoint was trained on, or on others of their patients.
        """
        # Those of process 0 come first, as do its rows in the file.
        self.images = [name for names in distributed.all_gather_objects(self.images) for name in names]
        self.file.close(
            **origin(self.images, meta, contaminated, self.file.path),
            classes=np.array(classes),
            sources=np.array(self.sources),
            side=self.side,
            keep_ratio=self.keep_ratio,
        )
        return len(self.images)


class MaskMaps(MapsFile):
    """The masks of all images: score, averaged over m x m cells, and the kept pixels.

    Where no mask is learned the 0/1 mask stands for its score.

    Args:
        reinit: the re-initialised model, given where the mask is learned.
        size: cells a side.
        side: pixels a side of the input.
    """

    def __init__(
        self,
        path: str | Path,
        reinit: RoiModel | None,
        keep_ratio: float,
        size: int,
        side: int,
        dtype: torch.dtype,
    ) -> None:
        sources = ["mask"] if reinit is None else ["mask", "mask" + REINIT]
        super().__init__(path, sources, keep_ratio, side)
        self.reinit = reinit
        self.size = size
        self.dtype = dtype

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        if views.binary_mask is None:
            raise UserError(f"{self.file.path}: the checkpoint has no mask; leave out --save_masks")
        scores = {"mask": views.binary_mask if views.score is None else views.score}
        masks = {"mask": views.binary_mask}
        if self.reinit is not None:
            device = views.binary_mask.device
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                x = self.reinit.normalise(batch.pixels.to(device))
                score, _ = self.reinit.masks(x, self.keep_ratio, None)
            if score is not None:
                k = kept_pixels(self.side, self.side, self.keep_ratio)
                scores["mask" + REINIT] = score
                masks["mask" + REINIT] = exact_topk(score, k)
        maps = {}
        for source, score in scores.items():
            maps[source] = F.adaptive_avg_pool2d(score.cpu(), self.size)
        self.write(names, maps, masks)

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        # One mask serves all classes.
        return super().close([""], meta, contaminated)


def places_of(names: list[str], only: Collection[str] | None) -> list[int]:
    """The places of the images that are in `only` (None: of all)."""
    return [n for n, name in enumerate(names) if only is None or name in only]


class ClassMaps(MapsFile):
    """The map of each class behind a mask, of the model and of the re-initialised one.

    Args:
        size: cells a side.
        only: the images that are written; None: all.
    """

    def __init__(
        self,
        path: str | Path,
        reinit: RoiModel,
        keep_ratio: float,
        size: int,
        dtype: torch.dtype,
        only: Collection[str] | None,
    ) -> None:
        super().__init__(path, ["class_mask", "class_mask" + REINIT], keep_ratio)
        self.reinit = reinit
        self.size = size
        self.dtype = dtype
        self.only = only

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        chosen = places_of(names, self.only)
        if not chosen:
            return
        if views.maps is None:
            raise UserError(f"{self.file.path}: the checkpoint has one map for all classes; leave out --class_masks")
        device = views.maps.device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            x = self.reinit.normalise(batch.pixels[chosen].to(device))
            _, maps_reinit = self.reinit.logits_and_maps(x)
        maps = {
            "class_mask": self._resized(views.maps[chosen]),
            "class_mask" + REINIT: self._resized(maps_reinit),
        }
        chosen_names = [names[n] for n in chosen]
        self.write(chosen_names, maps, {})

    def _resized(self, maps: Tensor) -> Tensor:
        # Averages of what is finer, so that no cell is passed over.
        if maps.shape[-1] < self.size:
            return upsample(maps, (self.size, self.size))
        return F.adaptive_avg_pool2d(maps, self.size)


class CamMaps(MapsFile):
    """Grad-CAM of every class, of the model and of the re-initialised one.

    Args:
        models: the two.
        size: cells a side.
        side: pixels a side of the input.
        only: the images that are written; None: all.
    """

    def __init__(
        self,
        path: str | Path,
        models: tuple[RoiModel, RoiModel],
        keep_ratio: float,
        size: int,
        side: int,
        dtype: torch.dtype,
        only: Collection[str] | None,
    ) -> None:
        super().__init__(path, ["cam", "cam" + REINIT], keep_ratio)
        model, reinit = models
        self.cams = {"cam": GradCam(model, side), "cam" + REINIT: GradCam(reinit, side)}
        self.size = size
        self.dtype = dtype
        self.only = only

    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        chosen = places_of(names, self.only)
        if not chosen:
            return
        pixels = batch.pixels[chosen].to(views.logits_full.device)
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            cams = {source: cam(pixels, self.size) for source, cam in self.cams.items()}
        maps = {}
        for source, values in cams.items():
            # By the highest value: the ranking of the cells stays, small gradients survive the two bytes of a number.
            highest = values.amax((2, 3), keepdim=True)
            maps[source] = values / highest.clamp_min(1e-30)
        chosen_names = [names[n] for n in chosen]
        self.write(chosen_names, maps, {})
