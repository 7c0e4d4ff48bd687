"""A training of three epochs on 26 tiny images, as small as all that makes an exact resume hard allows.

Tests of several rooms begin from it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from roi.counter_rng import row_seeds
from roi.data.dataset import Batch, XrayDataset
from roi.data.identity import fingerprints
from roi.data.loader import make_loader
from roi.losses.gradnorm import FixedWeights, GradNorm, Taps
from roi.losses.loss_terms import LAYERS, OBJECTIVES
from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
from roi.losses.terms import bce
from roi.models.roi_model import ModelOptions, RoiModel
from roi.training.metrics_log import MetricsLog
from roi.training.optim import make_optimizer
from roi.training.training_run import TrainingRun

CPU = torch.device("cpu")


class Net(nn.Module):
    """Batch norm, dropout and three convolutions of stride 2.

    All that makes an exact resume hard, and a stage for a mask of features.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(channels, 8, 3, stride=2, padding=1) for channels in (3, 8, 8))
        self.layers = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), second, nn.Dropout(0.3), third)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))


def dataset(folder: Path, rows: int) -> XrayDataset:
    paths = [str(folder / f"{n:02d}.png") for n in range(rows)]
    return XrayDataset(paths, np.random.default_rng(1).integers(0, 2, (rows, 3)).astype(np.float32), 20)


def make_fit(
    folder: Path,
    out: Path,
    losses_fn: Callable[..., dict[str, Tensor]] | None = None,
    dynamic: bool = True,
    objective: str = "evidence",
    **more: Any,
) -> TrainingRun:
    """Three epochs; of the evidence objective the first is warm-up."""
    torch.manual_seed(0)
    evidence = objective == "evidence"
    model = RoiModel(Net(), "features" if evidence else "conv", ModelOptions(per_class=evidence), img_size=20)
    data = dataset(folder, 26)
    loader, sampler = make_loader(data, 4, shuffle_seed=7, workers=more.pop("workers", 0), persistent_workers=True)
    val_loader, _ = make_loader(dataset(folder, 10), 4)
    weights = dict.fromkeys(OBJECTIVES[objective], 0.5)
    meta: dict[str, Any] = {
        "classes": ["Mass", "Edema", "Normal"],
        "args": {},
        "contaminated": False,
        "train_images": fingerprints(["a"]),
        "train_patients": fingerprints(["nih:1"]),
        "versions": {},
    }
    return TrainingRun(
        model=model,
        train_loader=loader,
        sampler=sampler,
        val_loader=val_loader,
        classes=meta["classes"],
        losses_fn=losses_fn or TERMS_OF[objective],
        balance=GradNorm(weights, Taps(model.last_layers()), LAYERS) if dynamic else FixedWeights(weights),
        optimizer=make_optimizer(model, 1e-3, 0.01, 1e-2),
        device=CPU,
        dtype=torch.float32,
        epochs=3,
        accum_steps=2,
        names=lambda index: [f"{n:02d}.png" for n in index.tolist()],
        log=MetricsLog(out / "log.csv", **({"done": more.pop("done")} if "done" in more else {})),
        save=out / "c.pt",
        meta=meta,
        **more,
    )


def consistency(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
    return consistency_terms(model, batch.pixels, batch.target, 0.1, row_seeds(0, epoch, batch.index))


def evidence(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
    return evidence_terms(
        model,
        batch.pixels,
        batch.target,
        EvidenceOptions(0.1, 0.3),
        row_seeds(0, epoch, batch.index),
        warm_up=epoch < 1,
    )


TERMS_OF = {"consistency": consistency, "evidence": evidence}


def full_term(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
    return {"full": bce(model(batch.pixels, 0.1).logits_full, batch.target)}
