"""Batch norm for the crop and the drop view, which are no whole images: each has running statistics of its own.

Weights and biases are shared with the full view, statistics are not (auxiliary batch norm, Xie et al. 2020, section 4.2, there for adversarial
images): in training a view is normalised by its own batch, afterwards by what these batches were like. Statistics of whole images would
normalise a crop that is nine parts grey by what an X-ray is like.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

VIEWS = ("crop", "drop")


class ViewNorms(nn.Module):
    """Running mean and variance of each batch norm of a backbone, once for every view of VIEWS.

    A view whose statistics were never learned (no mask yet, another objective, a checkpoint from before they were kept) has those of whole images.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = [backbone]  # in a list: its weights are not ours
        self.norms = [
            m
            for m in backbone.modules()
            if isinstance(m, _BatchNorm) and m.running_mean is not None and m.running_var is not None
        ]
        for view in VIEWS if self.norms else ():
            self.register_buffer(f"{view}_batches", torch.zeros((), dtype=torch.long))
            for n, norm in enumerate(self.norms):
                self.register_buffer(f"{view}_{n}_mean", norm.running_mean.clone())  # type: ignore[union-attr]
                self.register_buffer(f"{view}_{n}_var", norm.running_var.clone())  # type: ignore[union-attr]
        self.learned = dict.fromkeys(VIEWS, False)  # on the host, so that no step waits for the device

    @contextmanager
    def of(self, view: str) -> Iterator[None]:
        """The backbone in eval mode for a while, its batch norms with the statistics of `view`; those that were learning learn them."""
        backbone = self.backbone[0]
        training = [module for module in backbone.modules() if module.training]
        learning = [norm for norm in self.norms if norm.training]
        if learning and not self.learned[view]:
            self._begin(view)
        own = [dict(norm._buffers) for norm in self.norms]
        backbone.eval()
        for norm in learning:
            norm.train()
        if self.learned[view]:
            for n, norm in enumerate(self.norms):
                norm._buffers.update(
                    running_mean=self._get(view, n, "mean"),
                    running_var=self._get(view, n, "var"),
                    num_batches_tracked=None,
                )
        if learning:
            self.get_buffer(f"{view}_batches").add_(1)
        try:
            yield
        finally:
            for norm, buffers in zip(self.norms, own, strict=True):
                norm._buffers.update(buffers)
            for module in training:
                module.training = True

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False):  # type: ignore[no-untyped-def]
        result = super().load_state_dict(state, strict, assign)
        for view in VIEWS if self.norms else ():
            self.learned[view] = int(state[f"{view}_batches"]) > 0
        return result

    @torch.no_grad()
    def _begin(self, view: str) -> None:
        """From the statistics of whole images, which a batch norm that is frozen keeps."""
        for n, norm in enumerate(self.norms):
            self._get(view, n, "mean").copy_(norm.running_mean)  # type: ignore[arg-type]
            self._get(view, n, "var").copy_(norm.running_var)  # type: ignore[arg-type]
        self.learned[view] = True

    def _get(self, view: str, n: int, kind: str) -> Tensor:
        return self.get_buffer(f"{view}_{n}_{kind}")
