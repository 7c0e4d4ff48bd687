"""ROI consistency for chest X-rays: the maths and the one training loop behind the scripts.

For Python: `roi.load_model("model.pt").predict("scans/")` (roi/inference/model.py).
"""

from importlib import import_module
from typing import Any

__version__ = "0.9.0"
WRITTEN_BY = f"roi-consistency {__version__}"  # stands in the files that are written


def __getattr__(name: str) -> Any:
    """`load_model`, when it is first asked for: it brings torch, which reading files does without."""
    if name == "load_model":
        return import_module("roi.inference.model").load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "load_model"])
