"""A checkpoint of a small model with weights as they were drawn, and pictures to predict."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from roi.models.roi_model import ModelOptions, build_model
from roi.training import checkpoint

CLASSES = ["Mass", "Nodule", "Effusion", "Normal"]
SIDE = 64


def save_checkpoint(path: Path, mask: str = "features", **more: object) -> Path:
    """Write a checkpoint of a model with this mask; a learned one is of one map a class."""
    per_class = mask == "features"
    model = build_model(
        "test_resnet", CLASSES, mask, "none", SIDE, seed=3, options=ModelOptions(per_class=per_class, map_stride=8)
    )
    with torch.no_grad():
        head = model.last_layers()["head"]
        # Large: images differ in their findings.
        head.weight.mul_(20)
    flags = {
        "backbone": "test_resnet",
        "mask": mask,
        "img_size": SIDE,
        "mask_per_class": per_class,
        "fill": "mean",
        "keep_ratio": 0.1,
        "map_stride": 8,
        "widened_stage": False,
        "normalisation": None,
        "seed": 3,
        "image_root": "nowhere",
    }
    nothing = torch.zeros(0, dtype=torch.int64)
    seen = {"train_images": nothing, "val_images": nothing, "train_patients": nothing}
    state = {
        **checkpoint.parts(model),
        **seen,
        "classes": CLASSES,
        "args": flags,
        "epoch": 1,
        "steps": 1,
        "contaminated": False,
        "versions": checkpoint.versions(),
        **more,
    }
    checkpoint.save(path, state)
    return path


def draw(path: Path, seed: int, size: tuple[int, int] = (80, 60)) -> np.ndarray:
    """Write a picture of (W, H) of soft noise; -> its pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return np.asarray(Image.open(path).convert("L"))
