"""What a table of several data sets holds: counts by set, split, view and finding, for a file and for people."""

import gzip
import itertools
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, PRESENT, REASONS, UNCERTAIN
from roi.sources.views import NOT_SAID

# Images of NIH are known by their names wherever these stand: in a column, a path or JSON.
NIH_NAME = re.compile(r"\b\d{8}_\d{3}\.(?:png|jpg|jpeg|dcm)\b")
# Counts of a fact that are printed; all stand in the summary.
SHOWN = 6


def count_rows(groups: pd.Series) -> dict[str, int]:
    """How many rows each group has, most frequent first; {} for no rows."""
    counts = groups.value_counts()
    # As a list, because JSON knows no numbers of numpy.
    return dict(zip(counts.index, counts.tolist(), strict=True))


def format_fact(name: str, fact: object) -> str:
    """A fact in one line: a number, or the first counts of several; 'none' where there is nothing to count."""
    if not isinstance(fact, dict):
        return f"{name}: {_number(fact)}"
    if not fact:
        return f"{name}: none"
    parts = []
    for key, count in itertools.islice(fact.items(), SHOWN):
        words = str(key).replace("_", " ")
        parts.append(f"{words} {_number(count)}")
    rest = len(fact) - SHOWN
    if rest > 0:
        parts.append(f"and {rest} more")
    counts = ", ".join(parts)
    return f"{name}: {counts}"


def _number(count: object) -> str:
    if isinstance(count, int | float):
        return f"{count:,}"
    return str(count)


def count_findings(table: pd.DataFrame) -> dict[str, Any]:
    """Count images, patients, splits and views, and for each finding what is positive, negative, uncertain or unknown.

    Everything is counted by set; unknown cells also by their reason.
    """
    datasets = {}
    for name, rows in table.groupby("dataset", sort=False):
        datasets[str(name)] = _count_dataset(rows)
    return {"images": len(table), "patients": table["patient_id"].nunique(), "datasets": datasets}


def _count_dataset(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "images": len(rows),
        "patients": rows["patient_id"].nunique(),
        "splits": count_rows(rows["split"].replace("", "none")),
        "views": count_rows(rows["view"].replace("", NOT_SAID)),
        "findings": {label: _count_finding(rows[label].to_numpy()) for label in LABELS},
    }


def _count_finding(codes: np.ndarray) -> dict[str, Any]:
    """Counts of one finding, (N,) codes."""
    counts = np.bincount(codes, minlength=max(REASONS) + 1).tolist()
    return {
        "positive": counts[PRESENT],
        "negative": counts[ABSENT],
        "uncertain": counts[UNCERTAIN],
        "unknown": sum(counts[UNCERTAIN + 1 :]),
        "because": {reason: counts[code] for code, reason in REASONS.items() if counts[code]},
    }


def format_counts(counts: dict[str, Any]) -> str:
    """What count_findings gives, as a table with a row a finding and a column a set."""
    # The first column, then one a set: each as wide as its longest cell.
    names = ["", "images", "patients", *LABELS]
    width = max(map(len, names))
    columns = [[name.ljust(width) for name in names]]
    for name, dataset in counts["datasets"].items():
        images, patients = dataset["images"], dataset["patients"]
        column = [name, f"{images:,}", f"{patients:,}"]
        for label in LABELS:
            column.append(_finding_in_text(dataset["findings"][label]))
        width = max(map(len, column))
        columns.append([cell.rjust(width) for cell in column])
    lines = ["  ".join(line) for line in zip(*columns, strict=True)]
    lines.append("(of each finding: present / absent / uncertain or unknown)")
    return "\n".join(lines)


def _finding_in_text(counts: dict[str, Any]) -> str:
    present, absent = counts["positive"], counts["negative"]
    unknown = counts["uncertain"] + counts["unknown"]
    return f"{present:,} / {absent:,} / {unknown:,}"


def count_nih_images(table: pd.DataFrame, csv: Path) -> dict[str, int]:
    """How many images of NIH a file of text (CSV, JSON) names, wherever, and how many of them this table trains on.

    RSNA's pneumonia challenge (its mapping names them), Google's expert labels and ChestMNIST (pictures alone) are
    made of NIH's images: no test for a model that was trained on them.

    Raises:
        UserError: it names none.
    """
    try:
        content = csv.read_bytes()
        if csv.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{csv}: cannot be read ({error})") from error
    names = set(NIH_NAME.findall(content.decode(errors="replace")))
    if not names:
        raise UserError(
            f"{csv}: names no image of NIH (like 00000013_005.png); where only pictures are given, see "
            "--check_duplicates"
        )
    # Without their endings: RSNA's images are DICOM files of the same names.
    stems = {name.split(".")[0] for name in names}
    file_name = table["image"].str.rsplit("/", n=1).str[-1]
    stem = file_name.str.split(".").str[0]
    is_named = stem.isin(stems) & (table["dataset"] == "nih")
    splits = table.loc[is_named, "split"].value_counts()
    counts = {"nih_images_named": len(names), "in_this_table": int(is_named.sum())}
    for split in ("train", "val", "test"):
        counts[f"of_{split}"] = int(splits.get(split, 0))
    return counts
