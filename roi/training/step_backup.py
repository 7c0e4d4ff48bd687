"""What a training step changes before its end, kept so that a step which fails half-way can be taken back."""

import torch
from torch import Tensor, nn

from roi import distributed
from roi.losses.gradnorm import FixedWeights
from roi.training import checkpoint
from roi.training.loop import Meter


class StepBackup:
    """Batch norm's statistics, random numbers, weights of the terms and sums, as they were after the last step.

    With them the steps before one that fails can be saved as they were. In one process: several do not stand at the
    same step when one of them fails.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, balance: FixedWeights, device: torch.device
    ) -> None:
        self.balance, self.device = balance, device
        self.between_steps = False  # whether the weights are those of finished steps
        # Buffers of one type, and their copies: copied in one call each.
        self.kept: list[tuple[list[Tensor], list[Tensor]]] = []
        live = list(model.buffers())
        for dtype in {buffer.dtype for buffer in live}:
            buffers = [buffer for buffer in live if buffer.dtype == dtype]
            self.kept.append((buffers, [buffer.clone() for buffer in buffers]))
        self.hook = optimizer.register_step_pre_hook(self._optimizer_begins)

    def _optimizer_begins(self, *step: object) -> None:
        self.between_steps = False

    @torch.no_grad()
    def take(self, meter: Meter) -> None:
        """Before the first step, and after each; `meter` has the sums of the epoch."""
        if distributed.world() > 1:
            return
        for buffers, copies in self.kept:
            torch._foreach_copy_(copies, buffers)
        self.rng = checkpoint.rng_state(self.device)
        # Its tensors are replaced, never changed: the dict alone is copied.
        self.balance_state = dict(vars(self.balance))
        self.meter, self.terms_seen = meter, len(meter.unseen)
        self.between_steps = True

    @torch.no_grad()
    def restore(self) -> bool:
        """Take back what was changed since the last step.

        Returns:
            whether all is as it was then; False when the optimiser had begun to change the weights
        """
        if not self.between_steps:
            return False
        try:
            for buffers, copies in self.kept:
                torch._foreach_copy_(buffers, copies)
            checkpoint.restore_rng([self.rng], self.device)
        except RuntimeError:  # a GPU that answers no more
            return False
        vars(self.balance).update(self.balance_state)
        del self.meter.unseen[self.terms_seen :]
        return True

    def close(self) -> None:
        self.hook.remove()
