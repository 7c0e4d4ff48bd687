"""Grad-CAM (Selvaraju et al. 2017): where in the last spatial features the evidence for a finding lies.

Letters: B images, K classes, D channels of the features, h x w their cells, m x m the cells of the map.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from roi.errors import UserError
from roi.models.backbones import classifier_layer
from roi.models.roi_model import RoiModel

Part = Callable[[Tensor], Tensor]
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)  # they only resize what stands before them


class GradCam:
    """A model cut at its last spatial features, so that a batch needs one forward of the backbone and K short gradients."""

    def __init__(self, model: RoiModel, img_size: int) -> None:
        self.model = model.eval()
        backbone = model.backbone
        with torch.no_grad():
            x = model.normalise(torch.zeros(2, 1, img_size, img_size, dtype=torch.uint8, device=model.mean.device))
            self.body, self.rest = _split(backbone, x)
            features = self.body(x)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise no_map(backbone)
        self.axes, self.channels = (
            ((1, 2), 3) if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC") else ((2, 3), 1)
        )  # of h and w, of D
        if features.shape[self.axes[0]] * features.shape[self.axes[1]] < 2:
            raise UserError(
                f"{type(backbone).__name__} has a single cell left of an image of {img_size} pixels, no map; Grad-CAM needs a larger --img_size"
            )

    def __call__(self, pixels: Tensor, size: int) -> Tensor:
        """(B, 1, H, W) uint8 -> (B, K, m, m) float32 >= 0, m = `size`."""
        with torch.no_grad():
            features = self.body(self.model.normalise(pixels))
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):  # small gradients need fp32
            features = features.detach().float().requires_grad_()
            logits = self.rest(features.clone())  # a copy: layers that work in place may not touch a leaf
            cams = []
            for k in range(
                logits.shape[1]
            ):  # eq. 1: the gradient, averaged over the cells, weighs a channel; images do not mix in eval mode
                (gradient,) = torch.autograd.grad(logits[:, k].sum(), features, retain_graph=k + 1 < logits.shape[1])
                weight = gradient.mean(self.axes, keepdim=True)
                cams.append((weight * features.detach()).sum(self.channels).relu())  # eq. 2
        return F.interpolate(torch.stack(cams, 1), size=(size, size), mode="bilinear", align_corners=False)


def grad_cam(model: RoiModel, pixels: Tensor, size: int) -> Tensor:
    """(B, 1, P, P) uint8 -> (B, K, m, m) float32 >= 0. For many batches make one GradCam."""
    return GradCam(model, pixels.shape[-1])(pixels, size)


def no_map(backbone: nn.Module) -> UserError:
    return UserError(f"{type(backbone).__name__} has no spatial feature map; Grad-CAM needs a convolutional backbone")


def _split(backbone: Any, x: Tensor) -> tuple[Part, Part]:
    """-> (images to features, features to logits); timm's models say so themselves."""
    return (
        (backbone.forward_features, backbone.forward_head)
        if hasattr(backbone, "forward_features")
        else _split_traced(backbone, x)
    )


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        modules: Any = (math, torchvision.ops)  # torch declares a tuple of one
        super().__init__(autowrap_modules=modules)


def _split_traced(backbone: nn.Module, x: Tensor) -> tuple[Part, Part]:
    """Cut the graph at the last (B, D, h, w) activation with h w > 1 before the classifier that everything passes through."""
    graph = _Tracer().trace(backbone)
    ShapeProp(fx.GraphModule(backbone, graph)).propagate(x)
    nodes = list(graph.nodes)
    name = classifier_layer(backbone)[0]
    end = next(n for n, node in enumerate(nodes) if node.op == "call_module" and node.target == name)
    for node in reversed(nodes[:end]):
        shape: Sequence[int] = getattr(node.meta.get("tensor_meta"), "shape", ())
        if len(shape) == 3:  # tokens
            break
        # one cell, (B, D, 1, 1) or (B, 1, 1, D) on its way through a layer norm, is no map
        if (
            len(shape) < 4
            or shape[2] * shape[3] < 2
            or shape[1] * shape[2] < 2
            or node.op == "placeholder"
            or _resizes(backbone, node)
        ):
            continue
        rest = _needed(nodes[-1], node)
        if not any(n.op == "placeholder" for n in rest):
            body = _needed(node, None)
            return _module(backbone, [n for n in nodes if n in body], None, node), _module(
                backbone, [n for n in nodes if n in rest], node, None
            )
    raise no_map(backbone)


def _resizes(backbone: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(backbone.get_submodule(str(node.target)), POOLS)
    return node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


def _needed(node: fx.Node, stop: fx.Node | None) -> set[fx.Node]:
    """What `node` is computed from, itself included, back to `stop` or the input."""
    found: set[fx.Node] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node is not stop and node not in found:
            found.add(node)
            todo += node.all_input_nodes
    return found


def _module(
    backbone: nn.Module, nodes: list[fx.Node], source: fx.Node | None, result: fx.Node | None
) -> fx.GraphModule:
    """The `nodes` as a module of its own that shares the weights: from `source` (or the input) to `result` (or the output)."""
    graph = fx.Graph()
    env = {} if source is None else {source: graph.placeholder("features")}
    for node in nodes:
        env[node] = graph.node_copy(node, env.__getitem__)
    if result is not None:
        graph.output(env[result])
    return fx.GraphModule(backbone, graph).eval()
