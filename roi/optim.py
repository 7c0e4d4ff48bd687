"""Optimiser of every train script."""

from typing import Any

import torch

from roi.model import RoiModel


def make_optimizer(model: RoiModel, lr: float, weight_decay: float, mask_lr: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), fused: one kernel for all parameters. `mask_lr` is the rate of the mask net, which begins untrained."""
    groups: list[dict[str, Any]] = [{"params": list(model.backbone.parameters())}]
    if model.mask_net is not None:
        groups.append({"params": list(model.mask_net.parameters()), "lr": mask_lr})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=True)
