"""Batch norm for the crop and the drop view, which are no whole images: each has running statistics of its own.

Weights and biases are shared with the full view, statistics are not (auxiliary batch norm, Xie et al. 2020, section
4.2, there for adversarial images): in training a view is normalised by its own batch, afterwards by what these batches
were like. Statistics of whole images would normalise a crop that is nine parts grey by what an X-ray is like.
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

    A view whose statistics were never learned (no mask yet, another objective, a checkpoint from before they were kept)
    has those of whole images.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        # In a list, so that its weights are not counted among those of this module.
        self.backbone = [backbone]
        self.norms: list[_BatchNorm] = []
        for module in backbone.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                self.norms.append(module)
        for view in self._views():
            count = torch.zeros((), dtype=torch.long)
            self.register_buffer(f"{view}_batches", count)
            for n, norm in enumerate(self.norms):
                mean, var = _statistics(norm)
                self.register_buffer(f"{view}_{n}_mean", mean.clone())
                self.register_buffer(f"{view}_{n}_var", var.clone())
        # On the host beside {view}_batches, so that no step waits for the device.
        self.learned = dict.fromkeys(VIEWS, False)

    def _views(self) -> tuple[str, ...]:
        """Those that have statistics: none in a backbone without batch norm."""
        return VIEWS if self.norms else ()

    @contextmanager
    def of(self, view: str) -> Iterator[None]:
        """The backbone in eval mode for a while, its batch norms with the statistics of `view`.

        Batch norms that were learning learn these statistics.
        """
        backbone = self.backbone[0]
        training = [module for module in backbone.modules() if module.training]
        learning = [norm for norm in self.norms if norm.training]
        if learning and not self.learned[view]:
            self._begin(view)
        buffers_before = [dict(norm._buffers) for norm in self.norms]
        backbone.eval()
        for norm in learning:
            norm.train()
        if self.learned[view]:
            self._put(view)
        if learning:
            self.get_buffer(f"{view}_batches").add_(1)
        try:
            yield
        finally:
            for norm, buffers in zip(self.norms, buffers_before, strict=True):
                norm._buffers.update(buffers)
            for module in training:
                module.training = True

    def _put(self, view: str) -> None:
        """Give the batch norms the statistics of `view`, as the tensors that they are: a batch is learned in place."""
        for n, norm in enumerate(self.norms):
            mean = self._get(view, n, "mean")
            var = self._get(view, n, "var")
            # Without a count of its own a batch norm leaves that of whole images alone.
            norm._buffers.update(running_mean=mean, running_var=var, num_batches_tracked=None)

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        result = super().load_state_dict(state, strict, assign)
        for view in self._views():
            self.learned[view] = int(state[f"{view}_batches"]) > 0
        return result

    @torch.no_grad()
    def _begin(self, view: str) -> None:
        """Begin from the statistics of whole images, which a batch norm that is frozen keeps."""
        for n, norm in enumerate(self.norms):
            mean, var = _statistics(norm)
            self._get(view, n, "mean").copy_(mean)
            self._get(view, n, "var").copy_(var)
        self.learned[view] = True

    def _get(self, view: str, n: int, statistic: str) -> Tensor:
        return self.get_buffer(f"{view}_{n}_{statistic}")


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    return norm.running_mean, norm.running_var
