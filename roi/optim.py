"""Optimiser of every train script."""

import torch
from torch import nn


def make_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) on all parameters, one fused kernel on a GPU."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=parameters[0].is_cuda)
