"""How the loss terms add up: fixed weights, or weights learned by GradNorm."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class FixedWeights:
    """total = sum of w_i L_i. A term without a weight, or with weight 0, takes no part."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = dict(weights)

    def __call__(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([w * losses[name] for name, w in self.weights.items() if w and name in losses]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = dict(state["weights"])


class GradNorm(FixedWeights):
    """Loss weights that even out how much each term pulls (Chen et al. 2018, eqs. 1-2 and algorithm 1).

    G_i = ||grad_W w_i L_i|| over the last shared parameters W; its target is mean(G) * r_i^alpha, where
    r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)) is the inverse training rate of term i. The weights descend
    sum_i |G_i - target_i| (target constant), whose gradient in w_i has the closed form g_i sign(G_i - target_i),
    G_i = w_i g_i: no second-order graph. Two departures, both so that weights which differ by 10^5 stay positive and
    move alike: log w is learned (Adam, rate `lr`), and the sum is kept at the sum of the initial weights, not their number.

    A term whose initial weight is 0, or that the losses lack, takes no part.
    """

    def __init__(self, weights: dict[str, float], shared: Iterable[nn.Parameter], alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__(weights)
        self.shared = list(shared)
        self.alpha, self.lr = alpha, lr
        self.total = sum(weights.values())
        self.first: dict[str, float] = {}  # L_i(0): the first value that is not 0
        self.moments = {name: [0.0, 0.0] for name in weights}
        self.steps = 0

    def __call__(self, losses: dict[str, Tensor]) -> Tensor:
        total = super().__call__(losses)
        if torch.is_grad_enabled():
            self.update({name: losses[name] for name, w in self.weights.items() if w and name in losses})
        return total

    def update(self, losses: dict[str, Tensor]) -> None:
        norms = torch.stack([self._norm(loss) for loss in losses.values()])
        values = torch.stack([loss.detach() for loss in losses.values()])
        g, now = (dict(zip(losses, t.tolist(), strict=True)) for t in (norms, values))  # one transfer each
        if not all(math.isfinite(x) for x in (*g.values(), *now.values())):
            return  # the loop stops on it, naming the term; fp16 overflows here are skipped by the scaler too
        for name, value in now.items():
            if value > 1e-12:
                self.first.setdefault(name, value)
        rate = {name: now[name] / self.first[name] if name in self.first else 1.0 for name in losses}
        pull = {name: self.weights[name] * g[name] for name in losses}  # G_i
        mean_rate, mean_pull = (sum(d.values()) / len(d) for d in (rate, pull))
        self.steps += 1
        for name in losses:
            target = mean_pull * (rate[name] / max(mean_rate, 1e-12)) ** self.alpha
            self._descend(name, pull[name] * ((pull[name] > target) - (pull[name] < target)))
        scale = self.total / sum(self.weights.values())
        self.weights = {name: w * scale for name, w in self.weights.items()}

    def _norm(self, loss: Tensor) -> Tensor:
        """g_i = ||grad_W L_i||; parameters that the term does not reach add 0."""
        if not loss.requires_grad:
            return loss.new_zeros(())
        grads = torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)
        return torch.stack([x.float().norm() for x in grads if x is not None] or [loss.new_zeros(())]).norm()

    def _descend(self, name: str, slope: float) -> None:
        """One step of Adam (Kingma & Ba 2015) on log w; slope = d/d(log w) of |G - target|."""
        first, second = self.moments[name]
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        self.moments[name] = [first, second]
        step = (first / (1 - 0.9**self.steps)) / (math.sqrt(second / (1 - 0.999**self.steps)) + 1e-12)
        self.weights[name] *= math.exp(-self.lr * step)

    def state_dict(self) -> dict[str, Any]:
        moments = {name: list(m) for name, m in self.moments.items()}
        return {"weights": dict(self.weights), "first": dict(self.first), "moments": moments, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.first, self.steps = dict(state["first"]), state["steps"]
        self.moments = {name: list(m) for name, m in state["moments"].items()}
