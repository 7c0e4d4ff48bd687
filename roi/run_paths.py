"""Paths inside the files of a run: counted from the file that holds them, so that a folder can be moved as a whole.

A path that the user gave as absolute and that lies outside the run stays absolute: it says where the data are.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Stands under the key `paths` of a file whose relative paths count from its own folder; before, they did from the
# folder in which the command was given.
MARK = "relative to the folder of this file"
OF_ORIGIN = ("checkpoint", "table", "image_root", "file")
OF_INPUTS = ("preds", "csv", "curves", "bbox_csv", "train_csv", "truth_csv", "masks", "train_masks")
# Paths of metrics.json beside those: block and key.
OF_METRICS = (
    ("thresholds", "file"),
    ("calibration", "fitted_on"),
    ("comparison", "file"),
    ("conformal", "file"),
    ("long_tail", "train_csv"),
    ("localization", "box_file"),
)


def run_folder(file: Path) -> Path:
    """The folder of a run: evaluate.py writes to scores/ inside it."""
    return file.parent.parent if file.parent.name == "scores" else file.parent


def portable(path: Any, file: Path) -> Any:
    """How `file` names a path that a user gave; what is no path (null, lists of paths) is kept, or done one by one."""
    if isinstance(path, list):
        return [portable(one, file) for one in path]
    if not isinstance(path, str) or not path:
        return path
    # As they are spelled: a link inside a run may lead to the data, and stays a link of the run.
    full = Path(os.path.abspath(path))
    home = Path(os.path.abspath(run_folder(file)))
    if Path(path).is_absolute() and home not in (full, *full.parents):
        return path
    # Slashes on Windows, too: the folder may go to another system.
    folder = os.path.abspath(file.parent)
    return Path(os.path.relpath(full, folder)).as_posix()


def portable_origin(origin: dict[str, Any], file: Path) -> dict[str, Any]:
    """Where predictions or maps come from, as `file` says it."""
    return {**_origin_as(origin, lambda path: portable(path, file)), "paths": MARK}


def read_origin(origin: dict[str, Any], file: Path) -> dict[str, Any]:
    """The origin that `file` holds, its paths counted from the current folder again."""
    if origin.get("paths") != MARK:
        return origin
    known = {key: value for key, value in origin.items() if key != "paths"}

    def from_here(path: Any) -> Any:
        # Relative again: who writes it into another file writes it relative there, too.
        return os.path.relpath(file.parent / path) if path and not os.path.isabs(path) else path

    return _origin_as(known, from_here)


def _origin_as(origin: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    changed = dict(origin)
    for key in OF_ORIGIN:
        if key in changed:
            changed[key] = change(changed[key])
    if isinstance(changed.get("ensemble"), list):
        changed["ensemble"] = [_origin_as(member, change) for member in changed["ensemble"]]
    return changed


def portable_metrics(metrics: dict[str, Any], file: Path) -> dict[str, Any]:
    """What evaluate.py found out, as metrics.json says it."""
    written = {**metrics, "paths": MARK}
    predictions = portable_origin(metrics["predictions"], file)
    # The mark stands once, at the top.
    del predictions["paths"]
    written["predictions"] = predictions
    # Copies: the caller prints the paths as they were typed.
    written["inputs"] = dict(metrics["inputs"])
    for key in OF_INPUTS:
        written["inputs"][key] = portable(metrics["inputs"].get(key), file)
    for block, key in OF_METRICS:
        if written.get(block) and key in written[block]:
            written[block] = {**written[block], key: portable(written[block][key], file)}
    if "maps" in (written.get("localization") or {}):
        maps = {}
        for path, origin in written["localization"]["maps"].items():
            maps[portable(path, file)] = _origin_as(origin, lambda path: portable(path, file))
        written["localization"] = {**written["localization"], "maps": maps}
    return written


def find(path: str | None, file: Path, from_file: bool) -> Path | None:
    """What a file of a run names; None where it is nowhere.

    Args:
        file: that holds the path.
        from_file: it carries MARK.
    """
    if not path:
        return None
    # The first that is there: what lies beside the file goes before what bears its name elsewhere.
    for candidate in _places(path, file, from_file):
        if candidate.exists():
            return candidate
    return None


def _places(path: str, file: Path, from_file: bool) -> Iterator[Path]:
    """Where it may be, likely places first."""
    home = run_folder(file)
    if from_file:
        yield Path(os.path.normpath(file.parent / path))
    yield Path(path)
    yield home / path
    # A folder that was moved without the mark, or away from its data: the end of the path may lie in it.
    below = [part for part in Path(path).parts if part not in ("..", Path(path).anchor)]
    if from_file and below:
        yield Path(*below)
    for first in range(len(below)):
        yield home.joinpath(*below[first:])
