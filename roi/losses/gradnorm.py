"""How the loss terms add up: fixed weights, or weights learned by GradNorm.

Letters: T terms.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

# What a layer was given, and what it gave.
Call = tuple[Tensor, Tensor]
# What is learned, (T,) each: attributes, and keys of a checkpoint.
STATE = ("w", "first", "slope", "square", "steps")


class FixedWeights:
    """The sum of w_i L_i. A term without a weight, or with weight 0, takes no part."""

    def __init__(self, weights: dict[str, float]) -> None:
        self._weights = dict(weights)

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)

    def __call__(self, losses: dict[str, Tensor], share: float = 1.0) -> Tensor:
        """The total of a batch.

        Args:
            losses: the terms by name.
            share: what the batch counts among those of all processes, 1 where each has as many images.
        """
        weighted = []
        for name, weight in self._weights.items():
            if weight and name in losses:
                weighted.append(weight * losses[name])
        return torch.stack(weighted).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._weights = dict(state["weights"])


class Taps:
    """What layers were given and gave since `clear`, in the order of their calls.

    Nothing is kept until the first `clear`.
    """

    def __init__(self, layers: dict[str, nn.Module]) -> None:
        self.layers = layers
        self.calls: dict[str, list[Call]] | None = None
        for name, layer in layers.items():
            layer.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            # Validation and maps go through the same layers, without gradients.
            if self.calls is not None and torch.is_grad_enabled():
                self.calls[name].append((inputs[0].detach(), output))

        return note

    def clear(self) -> None:
        self.calls = {name: [] for name in self.layers}


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


class GradNorm(FixedWeights):
    """Loss weights that even out how much each term pulls (Chen et al. 2018, eqs. 1-2 and algorithm 1).

    G_i = ||grad_W w_i L_i||, W the last layer whose output term i is made of; its target is mean(G) * r_i^alpha, where
    r_i = (L_i / L_i(0)) / mean_j(L_j / L_j(0)) is the inverse training rate of term i. The weights descend
    sum_i |G_i - target_i| (target constant), whose gradient in w_i has the closed form g_i sign(G_i - target_i),
    G_i = w_i g_i: no second-order graph. g_i itself needs the gradient at the outputs of W alone, not a backward
    through the backbone: what W was given is at hand.

    Two departures, both so that weights which differ by 10^5 stay positive and move alike: log w is learned (Adam, rate
    `lr`), and the sum is kept at the sum of the initial weights, not their number.

    Everything stays on the device of the losses; a step whose numbers are not finite changes nothing. A term whose
    initial weight is 0, or that the losses lack, takes no part and keeps its weight.

    Args:
        weights: the initial ones, by term.
        taps: on the last layers.
        at: term -> its layer in `taps`.
        alpha: how strongly a term that trains slower than the others is pulled.
        lr: of log w.
        mean: averages a tensor over the processes that share a batch, in place.
    """

    def __init__(
        self,
        weights: dict[str, float],
        taps: Taps,
        at: Mapping[str, str],
        alpha: float = 1.5,
        lr: float = 0.025,
        device: torch.device | str = "cpu",
        mean: Callable[[Tensor], Tensor] = _unchanged,
    ) -> None:
        super().__init__(weights)
        self.taps = taps
        self.at = at
        self.mean = mean
        self.alpha, self.lr = alpha, lr
        self.names = list(weights)
        self.total = sum(weights.values())
        self.w = torch.tensor(list(weights.values()), dtype=torch.float32, device=device)
        # L_i(0); 0: not seen yet.
        self.first = torch.zeros_like(self.w)
        # Adam's moments and count of each term: one that joins after the warm-up begins its own.
        self.slope = torch.zeros_like(self.w)
        self.square = torch.zeros_like(self.w)
        self.steps = torch.zeros_like(self.w)
        taps.clear()

    @property
    def weights(self) -> dict[str, float]:
        return dict(zip(self.names, self.w.tolist(), strict=True))

    def __call__(self, losses: dict[str, Tensor], share: float = 1.0) -> Tensor:
        # A term may be missing in the warm-up.
        terms = [name for name in self.names if self._weights[name] and name in losses]
        places = self._places(tuple(terms))
        values = torch.stack([losses[name] for name in terms])
        weights = self.w[places].to(values.dtype)
        total = (weights * values).sum()
        if torch.is_grad_enabled():
            norms, means = self._measure(losses, terms, share)
            self.update(places, norms, means)
            self.taps.clear()
        return total

    @lru_cache(maxsize=8)  # noqa: B019  # one balance a run
    def _places(self, terms: tuple[str, ...]) -> Tensor:
        """The places of terms among `names`, brought to the device once and not at each step."""
        return torch.tensor([self.names.index(name) for name in terms], device=self.w.device)

    def _measure(self, losses: dict[str, Tensor], terms: Sequence[str], share: float) -> tuple[Tensor, Tensor]:
        """g_i and L_i of the images of all processes, (T,) each."""
        gradients, values = [], []
        for name in terms:
            gradient = self._gradient(losses[name], self.at[name])
            gradients.append(gradient.flatten())
            values.append(losses[name].detach().float())
        # One tensor, so that processes talk to each other once a step.
        flat = torch.cat([*gradients, torch.stack(values)])
        sizes = [gradient.numel() for gradient in gradients]
        means = self.mean(flat * share).split([*sizes, len(values)])
        norms = [gradient.norm() for gradient in means[:-1]]
        return torch.stack(norms), means[-1]

    def _gradient(self, loss: Tensor, layer_name: str) -> Tensor:
        """The gradient of `loss` in the weight of a layer, fp32.

        It is made from what the layer was given, and the gradient at what it gave.
        """
        assert self.taps.calls is not None
        layer = self.taps.layers[layer_name]
        weight: Tensor = layer.weight  # type: ignore[assignment]
        total = torch.zeros_like(weight, dtype=torch.float32)
        calls = [call for call in self.taps.calls[layer_name] if call[1].requires_grad]
        if not loss.requires_grad or not calls:
            return total
        outputs = [output for _, output in calls]
        gradients = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
        for (x, _), gradient in zip(calls, gradients, strict=True):
            if gradient is None:
                continue
            if isinstance(layer, nn.Conv2d):
                total += _convolution_gradient(layer, x.float(), gradient.float())
            else:
                # Tokens of an image are rows like images.
                inputs = x.float().flatten(0, -2)
                slopes = gradient.float().flatten(0, -2)
                total += slopes.T @ inputs
        return total

    @torch.no_grad()
    def update(self, places: Tensor, norms: Tensor, values: Tensor) -> None:
        """One step of Adam (Kingma & Ba 2015) on log w.

        Args:
            places: of the terms that take part, among `names`.
            norms: (T,) their g_i.
            values: (T,) their L_i.
        """
        # The loop stops on a loss that is not finite, later; overflows of fp16 are skipped by the scaler too.
        finite = norms.isfinite().all() & values.isfinite().all()
        weights = self.w[places]
        is_new = (self.first[places] == 0) & (values > 1e-12)
        first = torch.where(is_new, values, self.first[places])
        rate = torch.where(first > 0, values / first, 1.0)
        pull = weights * norms  # G_i
        relative_rate = rate / rate.mean().clamp(min=1e-12)
        target = pull.mean() * relative_rate**self.alpha
        gradient = pull * (pull - target).sign()  # d/d(log w) of |G - target|
        steps = self.steps[places] + 1
        slope = 0.9 * self.slope[places] + 0.1 * gradient
        square = 0.999 * self.square[places] + 0.001 * gradient**2
        mean_slope = slope / (1 - 0.9**steps)
        mean_square = square / (1 - 0.999**steps)
        move = mean_slope / (mean_square.sqrt() + 1e-12)
        moved = weights * (-self.lr * move).exp()
        # The others keep their weight; the sum of all stays.
        sum_of_others = self.w.index_fill(0, places, 0.0).sum()
        moved = moved * ((self.total - sum_of_others) / moved.sum())
        # Chosen on the device: to ask here whether the numbers are finite would make each step wait for it.
        state = {"w": moved, "first": first, "slope": slope, "square": square, "steps": steps}
        for key, of_terms in state.items():
            old = getattr(self, key)
            new = old.index_copy(0, places, of_terms)
            setattr(self, key, torch.where(finite, new, old))

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"names": list(self.names)}
        for key in STATE:
            state[key] = getattr(self, key).cpu()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in STATE:
            setattr(self, key, state[key].to(self.w.device))


def _convolution_gradient(layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient in the weight of a convolution, of its input and the gradient at its output."""
    return conv2d_weight(
        x,
        layer.weight.shape,
        gradient,
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    )
