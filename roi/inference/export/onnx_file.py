"""A model as ONNX: grey pixels in, probabilities and the mask out, any number of images at a time.

Letters: B images, K classes, S x S pixels.
"""

import importlib.util
import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from roi.errors import RunError, UserError
from roi.files import atomic_write, reason
from roi.inference.export.model import Export, header_of
from roi.models.fusion import StudyModel
from roi.models.roi_model import LEARNED, RoiModel

# Of a probability, between torch and onnxruntime.
TOLERANCE = 1e-4
# Of the pixels of a mask: those at its edge may change sides by rounding.
EDGE = 0.005
KEPT_IN_HEADER = (
    *("written_by", "classes", "side", "normalisation", "thresholds", "keep_ratio", "contaminated"),
    "synthetic",
)


class Graph(nn.Module):
    """What the file computes: (B, 1, S, S) grey in 0..255 -> (B, K) probabilities, and (B, 1, S, S) of 0 and 1."""

    def __init__(self, model: RoiModel, keep_ratio: float) -> None:
        super().__init__()
        self.model, self.keep_ratio = model, keep_ratio

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        x = model.normalise(pixels)
        logits, _, score = model.score(x)
        if logits is None:
            logits = model.backbone(x).float()
        if score is None:
            return (logits.sigmoid(),)
        return logits.sigmoid(), model.binary_mask(x, score, self.keep_ratio, None)


def write_onnx(export: Export, path: Path, keep_ratio: float | None) -> None:
    """Write MODEL.onnx.

    Raises:
        UserError: a package is missing, or torch cannot express the model in ONNX.
        RunError: onnxruntime computes something else than torch.
    """
    if isinstance(export.model, StudyModel):
        raise UserError(
            f"--out {path}: a model of studies takes any number of views an image, which ONNX has no form for"
        )
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"--out {path}: needs the package {package}: pip install onnx onnxscript onnxruntime")
    graph = Graph(export.model, keep_ratio or export.args["keep_ratio"]).eval()
    data = serialized(graph, export)
    found = difference(graph, data, export.side)
    # Nothing is written that was seen to be wrong.
    if found is not None and (found[0] > TOLERANCE or found[1] > EDGE):
        raise RunError(f"{path}: onnxruntime gives probabilities that differ by {found[0]:.2g}; nothing was written")
    with atomic_write(path, "wb") as file:
        file.write(data)
    checked = "not compared with torch (pip install onnxruntime)"
    if found is not None:
        checked = f"probabilities within {found[0]:.1g} of torch's"
    print(f"{path}: {len(data) / 1e6:.1f} MB; {checked}")


def serialized(graph: Graph, export: Export) -> bytes:
    """The file, of the opset that this torch writes; classes and the like stand in its metadata."""
    # A random mask needs seeds, which the file does not take.
    names = ["probabilities", "mask"] if export.model.mask in LEARNED else ["probabilities"]
    example = torch.zeros(2, 1, export.side, export.side)
    batch = torch.export.Dim("batch")
    try:
        # It talks much of its steps, on the console and in warnings.
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                (example,),
                input_names=["pixels"],
                output_names=names,
                dynamic_shapes=({0: batch},),
                dynamo=True,
            )
    except Exception as error:  # the exporter has a class of errors for each of its steps
        raise UserError(
            f"--out: torch {torch.__version__} cannot write this model as ONNX ({reason(error)}); export safetensors"
        ) from error
    assert program is not None
    # Not the flags of training: whoever runs the file needs what goes in and out.
    header = header_of(export)
    for key in KEPT_IN_HEADER:
        if key in header:
            program.model.metadata_props[key] = str(header[key])
    return program.model_proto.SerializeToString()


def difference(graph: Graph, data: bytes, side: int) -> tuple[float, float] | None:
    """The largest difference of a probability, and the share of other pixels in the masks; None without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return None
    # Three images where the example had two: the batch is free.
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, side, side)).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    computed = session.run(None, {"pixels": pixels})
    with torch.no_grad():
        expected = [value.numpy() for value in graph(torch.from_numpy(pixels))]
    probability = float(np.abs(computed[0] - expected[0]).max())
    mask = float(np.mean(computed[1] != expected[1])) if len(expected) > 1 else 0.0
    return probability, mask
