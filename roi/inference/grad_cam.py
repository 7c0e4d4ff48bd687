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
# They only resize what stands before them.
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


class GradCam:
    """A model cut at its last spatial features: a batch needs one forward of the backbone and K short gradients.

    Args:
        img_size: pixels a side of the input.

    Raises:
        UserError: the backbone has no spatial features, or a single cell of them.
    """

    def __init__(self, model: RoiModel, img_size: int) -> None:
        self.model = model.eval()
        backbone = model.backbone
        pixels = torch.zeros(2, 1, img_size, img_size, dtype=torch.uint8, device=model.mean.device)
        with torch.no_grad():
            x = model.normalise(pixels)
            self.body, self.rest = _split(backbone, x)
            features = self.body(x)
        if not isinstance(features, Tensor) or features.ndim != 4:
            raise no_map(backbone)
        self.axes = (2, 3)  # of h and w
        self.channels = 1  # of D
        # Some models of timm (Swin) keep their channels last.
        layout = str(getattr(backbone, "output_fmt", "NCHW"))
        if layout.endswith("NHWC"):
            self.axes = (1, 2)
            self.channels = 3
        cells = features[0].numel() // features.shape[self.channels]
        if cells < 2:
            raise UserError(
                f"{type(backbone).__name__} has a single cell left of an image of {img_size} pixels, no map; "
                "Grad-CAM needs a larger --img_size"
            )

    def __call__(self, pixels: Tensor, size: int) -> Tensor:
        """The map of each class: (B, 1, H, W) uint8 -> (B, K, m, m) float32 >= 0, m = `size`."""
        with torch.no_grad():
            features = self.body(self.model.normalise(pixels))
        # Small gradients need fp32.
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            features = features.detach().float().requires_grad_()
            # A copy: layers that work in place may not touch a leaf.
            logits = self.rest(features.clone())
            classes = logits.shape[1]
            cams = []
            for k in range(classes):
                # Images do not mix in eval mode, so that one gradient of their sum serves all.
                total = logits[:, k].sum()
                (gradient,) = torch.autograd.grad(total, features, retain_graph=k + 1 < classes)
                weight = gradient.mean(self.axes, keepdim=True)  # eq. 1, of a channel
                weighted = weight * features.detach()
                cams.append(weighted.sum(self.channels).relu())  # eq. 2
        maps = torch.stack(cams, 1)
        return F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)


def grad_cam(model: RoiModel, pixels: Tensor, size: int) -> Tensor:
    """The map of each class: (B, 1, P, P) uint8 -> (B, K, m, m) float32 >= 0. For many batches make one GradCam."""
    return GradCam(model, pixels.shape[-1])(pixels, size)


def no_map(backbone: nn.Module) -> UserError:
    return UserError(f"{type(backbone).__name__} has no spatial feature map; Grad-CAM needs a convolutional backbone")


def _split(backbone: Any, x: Tensor) -> tuple[Part, Part]:
    """The backbone as two functions, images to features and features to logits; timm's models are made of them."""
    if hasattr(backbone, "forward_features"):
        return backbone.forward_features, backbone.forward_head
    return _split_traced(backbone, x)


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        modules: Any = (math, torchvision.ops)  # torch declares a tuple of one
        super().__init__(autowrap_modules=modules)


def _split_traced(backbone: nn.Module, x: Tensor) -> tuple[Part, Part]:
    """Cut the graph of a backbone before its classifier.

    It is cut at the last (B, D, h, w) activation with more than one cell that everything passes through.
    """
    graph = _Tracer().trace(backbone)
    ShapeProp(fx.GraphModule(backbone, graph)).propagate(x)
    nodes = list(graph.nodes)
    for node in reversed(nodes[: _classifier_place(backbone, nodes)]):
        shape = _shape_of(node)
        # Tokens: a map that comes before them, as that of patches, is not of the last features.
        if len(shape) == 3:
            break
        if not _is_map(shape) or node.op == "placeholder" or _resizes(backbone, node):
            continue
        rest = _needed(nodes[-1], stop=node)
        # Where the input is needed too, something goes round this activation.
        if not any(other.op == "placeholder" for other in rest):
            to_features = _body(backbone, nodes, _needed(node), node)
            to_logits = _rest(backbone, nodes, rest, node)
            return to_features, to_logits
    raise no_map(backbone)


def _classifier_place(backbone: nn.Module, nodes: list[fx.Node]) -> int:
    classifier, _ = classifier_layer(backbone)
    for place, node in enumerate(nodes):
        if node.op == "call_module" and node.target == classifier:
            return place
    raise no_map(backbone)


def _shape_of(node: fx.Node) -> Sequence[int]:
    return getattr(node.meta.get("tensor_meta"), "shape", ())


def _is_map(shape: Sequence[int]) -> bool:
    # One cell, (B, D, 1, 1) or (B, 1, 1, D) on its way through a layer norm, is no map.
    if len(shape) < 4:
        return False
    return shape[2] * shape[3] >= 2 and shape[1] * shape[2] >= 2


def _resizes(backbone: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(backbone.get_submodule(str(node.target)), POOLS)
    return node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


def _needed(node: fx.Node, stop: fx.Node | None = None) -> set[fx.Node]:
    """What `node` is computed from, itself included, back to `stop` or the input."""
    needed: set[fx.Node] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node is not stop and node not in needed:
            needed.add(node)
            todo += node.all_input_nodes
    return needed


def _body(backbone: nn.Module, nodes: list[fx.Node], needed: set[fx.Node], cut: fx.Node) -> fx.GraphModule:
    """From the input to `cut`, as a module that shares the weights of the backbone."""
    graph = fx.Graph()
    copies = _copy_nodes(graph, nodes, needed, {})
    graph.output(copies[cut])
    return fx.GraphModule(backbone, graph).eval()


def _rest(backbone: nn.Module, nodes: list[fx.Node], needed: set[fx.Node], cut: fx.Node) -> fx.GraphModule:
    """From `cut` to the output, as a module that shares the weights of the backbone."""
    graph = fx.Graph()
    _copy_nodes(graph, nodes, needed, {cut: graph.placeholder("features")})
    return fx.GraphModule(backbone, graph).eval()


def _copy_nodes(
    graph: fx.Graph,
    nodes: list[fx.Node],
    needed: set[fx.Node],
    copies: dict[fx.Node, fx.Node],
) -> dict[fx.Node, fx.Node]:
    """Copy what is needed into a graph, in the order of `nodes`; `copies` has what is there already."""
    for node in nodes:
        if node in needed:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    return copies
