"""The demo set in the layout of a source, whole or not at all."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from roi.demo.nih_set import EASY, Phantom, check_request, make_demo_dataset, new_folder
from roi.demo.source_layouts import WRITERS
from roi.demo.truth_table import read_demo_truth
from roi.errors import UserError
from roi.synthetic import MARKER


def make_demo_layout(
    out: Path,
    layout: str,
    images: int,
    size: int,
    seed: int,
    workers: int,
    overwrite: bool,
    phantom: Phantom = EASY,
) -> dict[str, Any]:
    """The demo set of roi/demo/nih_set.py in another layout, whole or not at all; its summary, with the same fields."""
    if layout == "nih":
        return make_demo_dataset(out, images, size, seed, workers, overwrite, phantom)
    if layout == "vinbigdata" and phantom.about.get("hard"):
        # There every label is a box, and a wrong label of the hard set has none.
        raise UserError(
            "--hard --layout vinbigdata: its labels are boxes, and the hard set has labels without one; choose vindr"
        )
    started = time.perf_counter()
    out = Path(out).resolve()
    check_request(out, images, size, seed, workers, overwrite)
    with new_folder(out) as folder:
        # The pictures are drawn once as NIH's, then copied or encoded to where this source has them.
        nih = folder / "nih"
        summary = make_demo_dataset(nih, images, size, seed, workers, phantom=phantom)
        truth, boxes = read_demo_truth(nih)
        WRITERS[layout](truth, folder, boxes)
        about = json.loads((nih / MARKER).read_text())
        about["layout"] = layout
        text = json.dumps(about, indent=1)
        (folder / MARKER).write_text(text + "\n")
        shutil.rmtree(nih)
    seconds = time.perf_counter() - started
    return summary | {"seconds": seconds, "images_per_s": images / seconds}
