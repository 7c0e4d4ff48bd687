"""Features of a frozen backbone, kept on the disk: a head and its maps train on them in seconds.

    features = frozen_features(model, batches, rows, folder, device, dtype)
    loader = FeatureLoader(features, targets, sampler)

DIR/features-1a2b3c4d5e6f7a8b/   of one backbone and one list of images in its order (digest of weights and pixels)
    head.npy                     (N, D) float16, what the classifier layer is given
    stage0.npy, stage1.npy, …    (N, D, h, w) float16, the stages that the maps are made of, finest first
    done.json                    sizes
It gets its name when it is whole: a killed run, or two at once, leave nothing half-made under it.

Letters: N images, B of a batch, D channels, h x w cells of a stage, K classes.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from roi.data.dataset import Batch, Features
from roi.data.loader import prefetch
from roi.data.order.choice import Order
from roi.data.order.read_ahead import CHUNK_BYTES, read_ahead
from roi.data.sampler import ShardedBatchSampler
from roi.errors import UserError
from roi.files import atomic_write
from roi.models.backbones import classifier_layer
from roi.models.roi_model import RoiModel
from roi.progress import progress, say


@dataclass
class FeatureArrays:
    """Features of N images, in the memory or mapped from the disk."""

    head: np.ndarray  # (N, D) float16
    stages: list[np.ndarray]  # (N, D_i, h_i, w_i) float16

    @property
    def row_bytes(self) -> int:
        """Of all features of an image."""
        arrays = (self.head, *self.stages)
        return sum(array[0].nbytes for array in arrays)

    def gather(self, rows: np.ndarray) -> Features:
        head = torch.from_numpy(self.head[rows]).float()
        stages = [torch.from_numpy(stage[rows]).float() for stage in self.stages]
        return Features(head, stages)


@dataclass
class FeatureLoader:
    """Batches of features, by a thread that is a few batches ahead."""

    features: FeatureArrays
    targets: np.ndarray  # (N, K) float32, in the order of the features
    sampler: ShardedBatchSampler
    prefetch: int = 2

    reads_ahead: bool = False

    def set_order(self, order: Order) -> None:
        self.sampler.blocks = order.blocks
        self.reads_ahead = order.reads_ahead

    def __iter__(self) -> Iterator[Batch]:
        rows_of_batches: Iterable[list[int]] = self.sampler
        if self.reads_ahead:
            arrays = [self.features.head, *self.features.stages]
            batch_bytes = self.sampler.batch_size * self.features.row_bytes
            chunks = self.sampler.chunks(max(1, CHUNK_BYTES // batch_bytes))
            rows_of_batches = read_ahead(self.sampler, self._images_of, chunks, arrays)
        batches = (self._gathered(np.asarray(rows)) for rows in rows_of_batches)
        return prefetch(batches, self.prefetch)

    def _images_of(self, rows: list[int]) -> np.ndarray:
        # A row that an epoch has had before comes as row + N (ShardedBatchSampler).
        return np.array(rows, dtype=np.int64) % len(self.targets)

    def __len__(self) -> int:
        return len(self.sampler)

    def _gathered(self, rows: np.ndarray) -> Batch:
        images = rows % len(self.targets)
        no_pixels = torch.empty(len(rows), 0, dtype=torch.uint8)
        target = torch.from_numpy(self.targets[images])
        features = self.features.gather(images)
        return Batch(no_pixels, target, torch.from_numpy(rows), [], features=features)


def check_head(model: RoiModel, img_size: int) -> None:
    """Refuse backbones of which the input of the classifier layer is not all there is to keep.

    Raises:
        UserError: the layer is not linear, or not the last thing that the backbone does
    """
    name, layer = classifier_layer(model.backbone)
    problem = f"its classifier {name!r} is a {type(layer).__name__}"
    if isinstance(layer, nn.Linear):
        if _is_last(layer, model, img_size):
            return
        problem = f"something follows its classifier {name!r}"
    kind = type(model.backbone).__name__
    raise UserError(
        f"--freeze_backbone: {kind} cannot be frozen to features, {problem}; give another --backbone, "
        f"or --train_parts {name}"
    )


def _is_last(layer: nn.Linear, model: RoiModel, img_size: int) -> bool:
    """Whether what the layer gives is what the backbone gives, seen on one grey image."""
    calls: list[tuple[Tensor, Tensor]] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: calls.append((inputs[0], output)))
    training = model.backbone.training
    try:
        with torch.no_grad():
            probe = torch.zeros(1, 1, img_size, img_size, device=model.mean.device)
            logits = model.backbone.eval()(model.normalise(probe))
    finally:
        hook.remove()
        model.backbone.train(training)
    features, output = calls[0]
    return features.ndim == 2 and output is logits


def compute_features(model: RoiModel, pixels: Tensor, dtype: torch.dtype = torch.float32) -> Features:
    """What the classifier layer and the maps are given, without gradients. (B, 1, H, W) uint8 -> Features"""
    given: list[Tensor] = []
    # The input of the layer is what there is to keep: all before it is frozen.
    hook = classifier_layer(model.backbone)[1].register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        with torch.no_grad(), torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            x = model.normalise(pixels)
            if model.stages is None:
                model.backbone(x)
                return Features(given[0], [])
            with model.stages.catch() as stages:
                model.backbone(x)
            return Features(given[0], list(stages))
    finally:
        hook.remove()


def frozen_features(
    model: RoiModel,
    batches: Callable[[], Iterable[Batch]],
    rows: int,
    folder: str | None,
    device: torch.device,
    dtype: torch.dtype,
) -> FeatureArrays:
    """The features of all images, in their order; from `folder` if they lie there, else computed and kept there.

    Args:
        batches: begins to read the images: for the key (weights and pixels) and, where features are missing, once more
        rows: how many images they are
        folder: None: kept in the memory

    Raises:
        UserError: the disk is too small
    """
    if folder is None:
        return compute_all(model, batches(), rows, None, device, dtype)
    home = Path(folder) / f"features-{features_key(model, batches(), dtype)}"
    if (home / "done.json").is_file():
        say(f"features {home}: all {rows:,} images there")
        return open_arrays(home)
    # Another run may be making the same ones: each makes its own, and the first that is whole stays.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".features-") as half_made:
        new = Path(half_made) / home.name
        compute_all(model, batches(), rows, new, device, dtype)
        with suppress(OSError):
            os.rename(new, home)
    size = sum(path.stat().st_size for path in home.iterdir())
    gigabytes = f"{size / 1e9:.1f} GB"
    say(f"features {home}: {rows:,} images, {gigabytes}")
    return open_arrays(home)


def features_key(model: RoiModel, batches: Iterable[Batch], dtype: torch.dtype) -> str:
    """Digest of all that features depend on.

    Weights below the classifier layer, stages, normalisation, type of the forward pass, and the pixels of all images.
    """
    name, _ = classifier_layer(model.backbone)
    digest = hashlib.blake2b(digest_size=8)
    for key, value in sorted(model.backbone.state_dict().items()):
        if not key.startswith(f"{name}."):
            digest.update(key.encode())
            digest.update(value.float().cpu().numpy().tobytes())
    names = model.stages.names if model.stages else []
    mean = model.mean.flatten().tolist()
    spread = model.std.flatten().tolist()
    settings = [names, mean, spread, str(dtype)]
    digest.update(json.dumps(settings).encode())
    rows = []
    # In the order of the table, whatever the size of a batch.
    for batch in batches:
        rows += batch.index.tolist()
        # Pixels, not names: a file may be replaced under its name.
        digest.update(batch.pixels.cpu().numpy().tobytes())
    digest.update(json.dumps(rows).encode())
    return digest.hexdigest()


def compute_all(
    model: RoiModel,
    batches: Iterable[Batch],
    rows: int,
    home: Path | None,
    device: torch.device,
    dtype: torch.dtype,
) -> FeatureArrays:
    """Run the backbone over all images; into files below `home`, or into the memory where it is None."""
    model.eval()
    arrays: list[np.ndarray] = []
    with progress(None, rows, "features of the frozen backbone") as bar:
        for batch in batches:
            features = compute_features(model, batch.pixels.to(device), dtype)
            # Half the disk, and more digits than a forward pass in bf16 has.
            halves = [part.half() for part in (features.head, *features.stages)]
            parts = [half.cpu().numpy() for half in halves]
            if not all(np.isfinite(part).all() for part in parts):
                raise UserError(
                    "--freeze_backbone: features of this backbone do not fit into 16 bits; give another --backbone"
                )
            if not arrays:
                shapes = [(rows, *part.shape[1:]) for part in parts]
                arrays = allocate(shapes, home)
            for array, part in zip(arrays, parts, strict=True):
                # Rows that cannot be read stay 0, and no batch has them.
                array[batch.index.numpy()] = part
            bar.update(len(batch.index))
    if home is None:
        return FeatureArrays(arrays[0], arrays[1:])
    for array in arrays:
        array.flush()  # type: ignore[attr-defined]  # a memory map
    with atomic_write(home / "done.json") as file:
        json.dump({"images": rows, "stages": len(arrays) - 1}, file)
    return open_arrays(home)


def allocate(shapes: list[tuple[int, ...]], home: Path | None) -> list[np.ndarray]:
    """Empty float16 arrays of these shapes, the first of them for the head; files below `home` if there is one.

    Raises:
        UserError: the disk has no room for them
    """
    if home is None:
        return [np.zeros(shape, dtype=np.float16) for shape in shapes]
    home.mkdir(parents=True)
    needed = 2 * sum(math.prod(shape) for shape in shapes)  # bytes
    free = shutil.disk_usage(home).free
    if needed > free:
        home.rmdir()
        raise UserError(
            f"{home.parent}: features take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "give another --cache_dir, or a smaller --img_size"
        )
    arrays: list[np.ndarray] = []
    for n, shape in enumerate(shapes):
        name = f"stage{n - 1}" if n else "head"
        file = home / f"{name}.npy"
        arrays.append(np.lib.format.open_memmap(file, "w+", np.float16, shape))
    return arrays


def open_arrays(home: Path) -> FeatureArrays:
    """The features of a folder that is whole, mapped from the disk."""
    done = json.loads((home / "done.json").read_text(encoding="utf-8"))
    count = done["stages"]
    stages = [np.load(home / f"stage{n}.npy", mmap_mode="r") for n in range(count)]
    return FeatureArrays(np.load(home / "head.npy", mmap_mode="r"), stages)
