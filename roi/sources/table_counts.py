"""What a table of several data sets holds: counts by set, split, view and finding, for a file and for people."""

import gzip
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

NIH_NAME = re.compile(r"\b\d{8}_\d{3}\.(?:png|jpg|jpeg|dcm)\b")
SHOWN = 6  # counts of a fact that are printed; all stand in the summary


def count_rows(groups: pd.Series) -> dict[str, int]:
    """How many rows each group has, most frequent first; {} for no rows."""
    return {str(group): int(rows) for group, rows in groups.value_counts().items()}


def format_fact(name: str, fact: object) -> str:
    """A fact in one line: a number, or the first counts of several; 'none' where there is nothing to count."""
    if not isinstance(fact, dict):
        return f"{name}: {_number(fact)}"
    if not fact:
        return f"{name}: none"
    first = [f"{str(key).replace('_', ' ')} {_number(count)}" for key, count in list(fact.items())[:SHOWN]]
    if len(fact) > SHOWN:
        first.append(f"and {len(fact) - SHOWN} more")
    return f"{name}: {', '.join(first)}"


def _number(count: object) -> str:
    return f"{count:,}" if isinstance(count, int | float) else str(count)


def count_findings(table: pd.DataFrame) -> dict[str, Any]:
    """Count images, patients, splits and views, and for each finding what is positive, negative, uncertain or unknown.

    Everything is counted by set; unknown cells also by their reason.
    """
    datasets = {str(name): _count_dataset(rows) for name, rows in table.groupby("dataset", sort=False)}
    return {"images": len(table), "patients": int(table["patient_id"].nunique()), "datasets": datasets}


def _count_dataset(rows: pd.DataFrame) -> dict[str, Any]:
    findings = {}
    for label in LABELS:
        counts = np.bincount(rows[label].to_numpy(), minlength=max(REASONS) + 1).tolist()
        findings[label] = {
            "positive": counts[PRESENT],
            "negative": counts[ABSENT],
            "uncertain": counts[UNCERTAIN],
            "unknown": sum(counts[UNCERTAIN + 1 :]),
            "because": {reason: counts[code] for code, reason in REASONS.items() if counts[code]},
        }
    return {
        "images": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "splits": count_rows(rows["split"].replace("", "none")),
        "views": count_rows(rows["view"].replace("", NOT_SAID)),
        "findings": findings,
    }


def format_counts(counts: dict[str, Any]) -> str:
    """What count_findings gives, as a table with a row a finding and a column a set."""
    datasets = counts["datasets"]
    lines = [["", *datasets]]
    for what in ("images", "patients"):
        lines.append([what, *(f"{dataset[what]:,}" for dataset in datasets.values())])
    for label in LABELS:
        line = [label]
        for dataset in datasets.values():
            finding = dataset["findings"][label]
            open_ones = finding["uncertain"] + finding["unknown"]
            line.append(f"{finding['positive']:,} / {finding['negative']:,} / {open_ones:,}")
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = []
    for name, *cells in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        rows.append("  ".join([name.ljust(widths[0]), *aligned]))
    return "\n".join([*rows, "(of each finding: present / absent / uncertain or unknown)"])


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
    # RSNA's images are DICOM files of the same names.
    stems = {name.split(".")[0] for name in names}
    own_stems = table["image"].str.rsplit("/", n=1).str[-1].str.split(".").str[0]
    is_named = own_stems.isin(stems) & (table["dataset"] == "nih")
    splits = table.loc[is_named, "split"].value_counts()
    counts = {"nih_images_named": len(names), "in_this_table": int(is_named.sum())}
    for split in ("train", "val", "test"):
        counts[f"of_{split}"] = int(splits.get(split, 0))
    return counts
