"""What infer_roi_consistency.py writes beside its predictions, while the images go by: maps of masks, Grad-CAM, curves.

Each output has `add(batch, names, views)` and `close`; as a context manager it leaves no file when an error comes
first.
Letters: B images of a batch, m x m the cells of a map, P x P the pixels of the input.
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
    file: ArrayWriter

    def __enter__(self) -> object: ...
    def __exit__(self, *exc: object) -> None: ...
    def add(self, batch: Batch, names: list[str], views: Views) -> None: ...
    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int: ...


class MapsFile:
    """A file of maps (roi/scoring/map_file.py) being written."""

    def __init__(self, path: str | Path, sources: list[str], keep_ratio: float, side: int = 0) -> None:
        self.file = ArrayWriter(path)
        self.sources, self.keep_ratio, self.side = sources, keep_ratio, side
        self.images: list[str] = []

    def __enter__(self) -> "MapsFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.file.__exit__(*exc)

    def rows(self, names: list[str], maps: dict[str, Tensor], hard: dict[str, Tensor]) -> None:
        """source -> (B, C, m, m), and (B, C, P, P) 0/1 for sources that have a mask."""
        limit = float(np.finfo(np.float16).max)
        self.file.add(
            **{f"map_{s}": m.clamp(-limit, limit).half().cpu().numpy() for s, m in maps.items()},
            **{f"kept_{s}": pack(m.cpu().numpy()) for s, m in hard.items()},
        )
        self.images += names

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        """Write the file; -> its images.

        Args:
            classes: [""] where one map serves all.
            meta: where the maps come from.
            contaminated: the images that the checkpoint was trained on, or on others of their patients.
        """
        self.images = [name for names in distributed.all_gather_objects(self.images) for name in names]
        self.file.close(
            **origin(self.images, meta, contaminated),
            classes=np.array(classes),
            sources=np.array(self.sources),
            side=self.side,
            keep_ratio=self.keep_ratio,
        )
        return len(self.images)


class MaskMaps(MapsFile):
    """The masks of all images: score (or the 0/1 mask where none is learned) averaged over m x m cells, and the kept pixels.

    `reinit`: the re-initialised model, given where the mask is learned.
    """

    def __init__(
        self, path: str | Path, reinit: RoiModel | None, keep_ratio: float, size: int, side: int, dtype: torch.dtype
    ) -> None:
        super().__init__(path, ["mask"] if reinit is None else ["mask", "mask" + REINIT], keep_ratio, side)
        self.reinit, self.size, self.dtype = reinit, size, dtype

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        if views.binary_mask is None:
            raise UserError(f"{self.file.path}: the checkpoint has no mask; leave out --save_masks")
        scores = {"mask": views.binary_mask if views.score is None else views.score}
        hard = {"mask": views.binary_mask}
        if self.reinit is not None:
            device = views.binary_mask.device
            with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
                z, _ = self.reinit.masks(self.reinit.normalise(batch.pixels.to(device)), self.keep_ratio, None)
            if z is not None:
                scores["mask" + REINIT] = z
                hard["mask" + REINIT] = exact_topk(z, kept_pixels(self.side, self.side, self.keep_ratio))
        self.rows(names, {s: F.adaptive_avg_pool2d(z.cpu(), self.size) for s, z in scores.items()}, hard)

    def close(self, classes: list[str], meta: dict[str, Any], contaminated: Collection[str]) -> int:
        return super().close([""], meta, contaminated)


def boxed(names: list[str], only: Collection[str] | None) -> list[int]:
    """The places of the images that are in `only` (None: of all)."""
    return [n for n, name in enumerate(names) if only is None or name in only]


class ClassMaps(MapsFile):
    """The map of each class behind a mask, of the model and of the re-initialised one, for the images in `only`."""

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
        self.reinit, self.size, self.dtype, self.only = reinit, size, dtype, only

    @torch.inference_mode()
    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        chosen = boxed(names, self.only)
        if not chosen:
            return
        if views.maps is None:
            raise UserError(f"{self.file.path}: the checkpoint has one map for all classes; leave out --class_masks")
        device = views.maps.device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            _, other = self.reinit.logits_and_maps(self.reinit.normalise(batch.pixels[chosen].to(device)))
        maps = {"class_mask": views.maps[chosen], "class_mask" + REINIT: other}
        self.rows([names[n] for n in chosen], {s: self._sized(m) for s, m in maps.items()}, {})

    def _sized(self, maps: Tensor) -> Tensor:
        return (
            upsample(maps, (self.size, self.size))
            if maps.shape[-1] < self.size
            else F.adaptive_avg_pool2d(maps, self.size)
        )


class CamMaps(MapsFile):
    """Grad-CAM of every class, of the model and of the re-initialised one, for the images in `only` (None: all).

    A map is divided by its highest value: the ranking of its cells stays, small gradients survive the two bytes of a number.
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
        self.cams = {source: GradCam(model, side) for source, model in zip(self.sources, models, strict=True)}
        self.size, self.dtype, self.only = size, dtype, only

    def add(self, batch: Batch, names: list[str], views: Views) -> None:
        chosen = boxed(names, self.only)
        if not chosen:
            return
        pixels = batch.pixels[chosen].to(views.logits_full.device)
        with torch.autocast(pixels.device.type, self.dtype, enabled=self.dtype != torch.float32):
            maps = {source: cam(pixels, self.size) for source, cam in self.cams.items()}
        self.rows(
            [names[n] for n in chosen],
            {s: m / m.amax((2, 3), keepdim=True).clamp_min(1e-30) for s, m in maps.items()},
            {},
        )
