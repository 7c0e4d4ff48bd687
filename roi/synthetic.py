"""Which images are drawn and no X-rays: the folder of a demo set holds demo.json, and its tables say so as well.

A score on such images says nothing about patients. The name of a set begins the column label_source of its rows; a
table that does not have it is asked by its folder. Checkpoint, predictions, scores and report pass it on.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

MARKER = "demo.json"
MAKER = "make_demo_dataset.py"
SYNTHETIC = "synthetic set"


def synthetic_set(folder: Path) -> str:
    """'synthetic set (seed 0; 3000 images of 128 px)' where a folder is one of make_demo_dataset.py; else ''."""
    try:
        about = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    # Anybody may have a file of that name.
    if not isinstance(about, dict) or about.get("made_by") != MAKER:
        return ""
    seed, images, size = (about.get(name) for name in ("seed", "images", "size"))
    hard = "; hard" if about.get("hard") else ""
    return f"{SYNTHETIC} (seed {seed}; {images} images of {size} px{hard})"


def synthetic_root(folder: Path) -> str:
    """The same for a folder of images, which may lie in that of the set."""
    return synthetic_set(folder) or synthetic_set(folder.absolute().parent)


def sets_of_files(paths: Sequence[str]) -> list[str]:
    """The synthetic set of each file, '' for none: that of the nearest folder above it that is one."""
    known: dict[Path, str] = {}

    def of_folder(folder: Path) -> str:
        # Asked once a folder, however many files lie below it.
        if folder not in known:
            above = of_folder(folder.parent) if folder != folder.parent else ""
            known[folder] = synthetic_set(folder) or above
        return known[folder]

    return [of_folder(Path(path).absolute().parent) for path in paths]


def synthetic_rows(images: Sequence[str], root: Path) -> list[str]:
    """The synthetic set of each image below `root`, '' for none: the root's own, else that of the image's folder."""
    whole = synthetic_root(root)
    if whole:
        return [whole] * len(images)
    # Tables of several sets: NAME/… below the root.
    tops = [image.partition("/")[0] if "/" in image else "" for image in images]
    # Asked once a folder: a table has 100,000 rows and a few of them.
    set_of = {top: synthetic_set(root / top) if top else "" for top in set(tops)}
    return [set_of[top] for top in tops]


def mark_synthetic(table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The table with the names of synthetic sets before what label_source says."""
    sets = pd.Series(synthetic_rows(table["image"].tolist(), root), index=table.index, dtype=str)
    # A table that was made before, or merged from such, keeps what it says.
    is_new = (sets != "") & ~is_synthetic(table)
    if is_new.any():
        print(f"SYNTHETIC: {int(is_new.sum()):,} of {len(table):,} images are drawn, no X-rays; label_source says so")
    marked = sets + ": " + table["label_source"]
    return table.assign(label_source=table["label_source"].mask(is_new, marked))


def is_synthetic(table: pd.DataFrame) -> pd.Series:
    """Which rows of a table say that they are of a synthetic set. -> bool, a row of the table"""
    return table["label_source"].str.startswith(SYNTHETIC)


def named_sets(table: pd.DataFrame, root: Path) -> list[str]:
    """The synthetic set of each row by what its table says, else by its folder; '' for X-rays."""
    # The table first: it may have left the folder that it was made of.
    by_folder = synthetic_rows(table["image"].tolist(), root)
    said = table["label_source"].where(is_synthetic(table), "").str.partition(": ")[0].tolist()
    return [own or folder for own, folder in zip(said, by_folder, strict=True)]
