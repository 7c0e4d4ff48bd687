"""Files of predictions (preds.json): written as a stream, complete or absent; read back as arrays.

Letters: N images, K classes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi.files import replacing

PARTS = ("full", "crop", "drop")


@dataclass
class Predictions:
    images: list[str]
    classes: list[str]
    prob: dict[str, np.ndarray]  # part -> (N, K) in [0, 1]; "full", and "crop" and "drop" where there is a mask
    contaminated: np.ndarray  # (N,) bool: the checkpoint was trained on the image
    meta: dict[str, Any]  # where the predictions come from; empty if unknown


def meta_path(path: str | Path) -> Path:
    return Path(path).with_suffix(".meta.json")


def record(image: str, classes: list[str], prob: dict[str, np.ndarray], contaminated: bool) -> dict[str, Any]:
    """One image as it stands in the file; prob: part -> (K,). Seven digits, as many as a float32 has."""
    row: dict[str, Any] = {"image": image}
    for part, values in prob.items():
        row[f"prob_{part}"] = {c: float(f"{p:.7g}") for c, p in zip(classes, values.tolist(), strict=True)}
    if "drop" in prob:
        row["faithfulness"] = {c: float(f"{p:.7g}") for c, p in zip(classes, (prob["full"] - prob["drop"]).tolist(), strict=True)}
    return {**row, "contaminated": True} if contaminated else row


def write(path: str | Path, rows: Iterable[dict[str, Any]], meta: dict[str, Any]) -> tuple[int, int]:
    """Write rows one by one, then `meta` beside them; memory does not grow with the rows. -> images, contaminated ones"""
    count = marked = 0
    with replacing(path) as file:
        file.write("[")
        for row in rows:
            file.write(("," if count else "") + "\n" + json.dumps(row))
            count += 1
            marked += bool(row.get("contaminated"))
        file.write("\n]\n")
    with replacing(meta_path(path)) as file:
        json.dump({**meta, "images": count, "contaminated_images": marked}, file, indent=1)
    return count, marked


def read(path: str | Path) -> Predictions:
    """ValueError: not such a file, an image twice, other classes in one row than in the first, not a probability."""
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        classes = list(rows[0]["prob_full"])
        parts = [p for p in PARTS if f"prob_{p}" in rows[0]]
        images = [row["image"] for row in rows]
        prob = {p: np.array([[row[f"prob_{p}"][c] for c in classes] for row in rows], dtype=np.float64) for p in parts}
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of predictions; make it with infer_roi_consistency.py --save_json") from error
    except (json.JSONDecodeError, UnicodeDecodeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of predictions ({type(error).__name__}: {error})") from error
    if len(set(images)) < len(images):
        raise ValueError(f"{path}: lists {next(i for n, i in enumerate(images) if i in images[:n])!r} twice")
    for part, values in prob.items():
        if not ((values >= 0) & (values <= 1)).all():
            n, k = np.argwhere(~((values >= 0) & (values <= 1)))[0]
            raise ValueError(f"{path}: prob_{part} of {images[n]!r} for {classes[k]!r} is {values[n, k]}, not a probability")
    meta = json.loads(meta_path(path).read_text(encoding="utf-8")) if meta_path(path).is_file() else {}
    return Predictions(images, classes, prob, np.array([bool(row.get("contaminated")) for row in rows]), meta)
