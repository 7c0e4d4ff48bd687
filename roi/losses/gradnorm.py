"""How the loss terms add up: fixed weights, or weights learned by GradNorm."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

Call = tuple[Tensor, Tensor]  # what a layer was given, and what it gave


class FixedWeights:
    """total = sum of w_i L_i. A term without a weight, or with weight 0, takes no part."""

    def __init__(self, weights: dict[str, float]) -> None:
        self._weights = dict(weights)

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)

    def __call__(self, losses: dict[str, Tensor], share: float = 1.0) -> Tensor:
        """`share`: what the batch counts among those of all processes, 1 where each has as many images."""
        return torch.stack([w * losses[name] for name, w in self._weights.items() if w and name in losses]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights = dict(state["weights"])


class Taps:
    """What layers were given and gave since `clear`, in the order of their calls; nothing is kept until the first `clear`."""

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.layers = layers
        self.calls: dict[str, list[Call]] | None = None
        for name, layer in layers.items():
            layer.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if self.calls is not None and torch.is_grad_enabled():
                self.calls[name].append((inputs[0].detach(), output))

        return note

    def clear(self) -> None:
        self.calls = {name: [] for name in self.layers}


class GradNorm(FixedWeights):
    """Loss weights that even out how much each term pulls (Chen et al. 2018, eqs. 1-2 and algorithm 1).

    G_i = ||grad_W w_i L_i||, W the last layer whose output term i is made of (`at`: term -> name in `taps`); its target is
    mean(G) * r_i^alpha, where r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)) is the inverse training rate of term i. The weights
    descend sum_i |G_i - target_i| (target constant), whose gradient in w_i has the closed form g_i sign(G_i - target_i),
    G_i = w_i g_i: no second-order graph. g_i itself needs the gradient at the outputs of W alone, not a backward through the
    backbone: what W was given is at hand. Two departures, both so that weights which differ by 10^5 stay positive and
    move alike: log w is learned (Adam, rate `lr`), and the sum is kept at the sum of the initial weights, not their number.

    Everything stays on the device of the losses; a step whose numbers are not finite changes nothing. `mean` averages a tensor
    over the processes that share a batch, in place. A term whose initial weight is 0, or that the losses lack, takes no
    part and keeps its weight.
    """

    def __init__(
        self,
        weights: dict[str, float],
        taps: Taps,
        at: Mapping[str, str],
        alpha: float = 1.5,
        lr: float = 0.025,
        device: torch.device | str = "cpu",
        mean: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        super().__init__(weights)
        self.taps, self.at, self.mean = taps, at, mean
        self.alpha, self.lr = alpha, lr
        self.names = list(weights)
        self.total = sum(weights.values())
        self.w = torch.tensor(list(weights.values()), dtype=torch.float32, device=device)  # (T,)
        self.first, self.slope, self.square, self.steps = (
            torch.zeros_like(self.w) for _ in range(4)
        )  # first: L_i(0), 0 = not seen yet
        taps.clear()

    @property
    def weights(self) -> dict[str, float]:
        return dict(zip(self.names, self.w.tolist(), strict=True))

    def __call__(self, losses: dict[str, Tensor], share: float = 1.0) -> Tensor:
        terms = [name for name in self.names if self._weights[name] and name in losses]
        here = self._places(tuple(terms))
        values = torch.stack([losses[name] for name in terms])
        total = (self.w[here].to(values.dtype) * values).sum()
        if torch.is_grad_enabled():
            g, now = self._measured([losses[name] for name in terms], terms, share)
            self.update(here, g, now)
            self.taps.clear()
        return total

    @lru_cache(maxsize=8)  # noqa: B019  # one balance a run
    def _places(self, terms: tuple[str, ...]) -> Tensor:
        """On the device once, not copied at each step."""
        return torch.tensor([self.names.index(name) for name in terms], device=self.w.device)

    def _measured(self, losses: Sequence[Tensor], terms: Sequence[str], share: float) -> tuple[Tensor, Tensor]:
        """-> g_i and L_i, (T,) each, of the images of all processes."""
        grads = [self._gradient(loss, self.at[name]) for name, loss in zip(terms, losses, strict=True)]
        flat = torch.cat([*(g.flatten() for g in grads), torch.stack([loss.detach().float() for loss in losses])])
        parts = self.mean(flat * share).split([*(g.numel() for g in grads), len(losses)])
        return torch.stack([part.norm() for part in parts[:-1]]), parts[-1]

    def _gradient(self, loss: Tensor, name: str) -> Tensor:
        """grad of `loss` in the weight of layer `name`, fp32: from what the layer was given, and the gradient at what it gave."""
        layer = self.taps.layers[name]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        total = torch.zeros_like(weight, dtype=torch.float32)
        assert self.taps.calls is not None
        calls = [(x, y) for x, y in self.taps.calls[name] if y.requires_grad]
        if not loss.requires_grad or not calls:
            return total
        found = torch.autograd.grad(loss, [y for _, y in calls], retain_graph=True, allow_unused=True)
        for (x, _), d in ((call, d) for call, d in zip(calls, found, strict=True) if d is not None):
            if isinstance(layer, nn.Conv2d):
                total += conv2d_weight(
                    x.float(), weight.shape, d.float(), layer.stride, layer.padding, layer.dilation, layer.groups
                )
            else:
                total += d.float().flatten(0, -2).T @ x.float().flatten(0, -2)
        return total

    @torch.no_grad()
    def update(self, here: Tensor, g: Tensor, now: Tensor) -> None:
        """One step of Adam (Kingma & Ba 2015) on log w of the terms `here`, from their g_i and L_i, (T,) each."""
        fine = (
            g.isfinite().all() & now.isfinite().all()
        )  # the loop stops on a loss that is not; fp16 overflows are skipped by the scaler too
        first = torch.where((self.first[here] == 0) & (now > 1e-12), now, self.first[here])
        rate = torch.where(first > 0, now / first, 1.0)
        pull = self.w[here] * g  # G_i
        target = pull.mean() * (rate / rate.mean().clamp(min=1e-12)) ** self.alpha
        slope = pull * (pull - target).sign()  # d/d(log w) of |G - target|
        steps = self.steps[here] + 1
        mean, square = 0.9 * self.slope[here] + 0.1 * slope, 0.999 * self.square[here] + 0.001 * slope**2
        move = (mean / (1 - 0.9**steps)) / ((square / (1 - 0.999**steps)).sqrt() + 1e-12)
        moved = self.w[here] * (-self.lr * move).exp()
        # The others keep their weight; the sum of all stays.
        total = self.total - self.w.index_fill(0, here, 0.0).sum()
        w = self.w.index_copy(0, here, moved * (total / moved.sum()))
        new = {"first": first, "steps": steps, "slope": mean, "square": square}
        for name, values in new.items():
            old = getattr(self, name)
            setattr(self, name, torch.where(fine, old.index_copy(0, here, values), old))
        self.w = torch.where(fine, w, self.w)

    def state_dict(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            **{key: getattr(self, key).cpu() for key in ("w", "first", "slope", "square", "steps")},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in ("w", "first", "slope", "square", "steps"):
            setattr(self, key, state[key].to(self.w.device))
