"""The 14 findings of NIH ChestX-ray14, in the order that they have everywhere; names of their absence; spellings."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from roi.errors import UserError

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NORMAL = ("Normal", "No Finding")  # never findings: derived, and left out of every mean over classes
# What a data set calls normal itself, in a column of its own (CXR-LT): a class like any other, not derived from the
# others. It may stand beside Support Devices, and counts in means.
NORMAL_LABELLED = "Normal (labelled)"
# NIH's own lists of boxes and of labels differ in the first, other sets in the second.
SPELLINGS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening"}

# Words for an image on which nothing was found, as letters alone.
NOTHING_FOUND = {
    "normal": "Normal",
    "normals": "Normal",
    "healthy": "Normal",
    "nofinding": "No Finding",
    "nofindings": "No Finding",
    "nothingfound": "No Finding",
    "nodisease": "No Finding",
    "noabnormality": "No Finding",
    "noabnormalities": "No Finding",
    "noabnormalfinding": "No Finding",
    "noabnormalfindings": "No Finding",
}
FINDINGS = {name.casefold().replace("_", " ") for name in (*LABELS, *SPELLINGS)}  # as is_ours compares
# As published_name compares.
PUBLISHED_FINDINGS = {name.casefold().replace("_", " "): name for name in LABELS} | {"pleural effusion": "Effusion"}
COMPOUND = ("Nodule/Mass",)  # one label of VinDr-CXR, whose name looks like two
# What stands in tables where no label is meant.
NO_LABEL = {
    "none",
    "n/a",
    "na",
    "nan",
    "<na>",
    "null",
    "nil",
    "true",
    "false",
    "yes",
    "no",
    "unknown",
    "missing",
    "-",
    "--",
    "?",
    ".",
}


def normal_name(label: str) -> str | None:
    """'no_finding', 'NORMAL', 'No  Findings' -> the name in NORMAL; None for any other label."""
    return NOTHING_FOUND.get(re.sub(r"[\W_]+", "", label.casefold()))


def spelled(label: str) -> str:
    """The name that `label` has here; one that is not known stays."""
    return SPELLINGS.get(label) or normal_name(label) or label


def published_name(column: str) -> str:
    """The class that a published column of labels is in a table of its own label space.

    'Pleural Effusion' -> 'Effusion', 'cardiomegaly' -> 'Cardiomegaly', 'Fracture' -> 'Fracture',
    'No Finding' -> 'Normal (labelled)'
    """
    if normal_name(column) is not None:
        return NORMAL_LABELLED
    plain = column.casefold().replace("_", " ").strip()
    return PUBLISHED_FINDINGS.get(plain, column.strip())


def class_key(label: str) -> str:
    """What two spellings of one class have in common.

    'Pleural Effusion', 'effusion' -> 'effusion'; 'Infiltrate' -> 'infiltration'; 'No Finding' -> 'normal'.
    'Normal (labelled)' is a class of its own: others derive their Normal from what they looked for.
    """
    if normal_name(label) is not None:
        return NORMAL[0].casefold()
    name = published_name(SPELLINGS.get(label, label))
    return name.casefold().replace("_", " ")


def same_classes(classes: Sequence[str], others: Sequence[str]) -> dict[str, str]:
    """The classes that `others` have, too, each with its name there: the same one, else another spelling of it.

    'Effusion' -> 'Pleural Effusion'. Where two of the others may be meant, or one is meant twice, none is.
    """
    # A class that is there by its own name is not looked for under another.
    exact = set(classes) & set(others)
    ours = Counter(class_key(c) for c in classes)
    by_key: dict[str, list[str]] = {}
    for c in others:
        by_key.setdefault(class_key(c), []).append(c)
    names = {}
    for c in classes:
        key = class_key(c)
        meant = by_key.get(key, [])
        if c in exact:
            names[c] = c
        elif ours[key] == 1 and len(meant) == 1:
            names[c] = meant[0]
    return names


def is_ours(label: str) -> bool:
    """Is it, in any case, a finding of LABELS or a word for their absence?"""
    plain = label.casefold().replace("_", " ").strip()
    return plain in FINDINGS or normal_name(label) is not None


def refuse_no_label(label: str, separator: str = ",") -> None:
    """Refuse what cannot be a label: several in one, a list as Python writes it, a number, a word for nothing.

    Raises:
        UserError: with the remedy; `separator` is what stands between labels in the file.
    """
    example = f"'Mass{separator}Edema'"
    meant = several(label)
    if len(meant) > 1:
        joined = separator.join(filter(None, meant))
        raise UserError(f"{label!r} is no label but several; labels are separated by {separator!r}, as in {joined!r}")
    if re.search(r"^[\[{(\"']|[\]}\"']$|^[^(]*\)$", label):
        remedy = f"write the labels alone, as in {example}"
        raise UserError(f"{label!r} is no label but a list as Python writes it; {remedy}")
    if is_number(label):
        remedy = f"write the names of the findings that are present, as in {example}"
        raise UserError(f"{label!r} is no label but a number; {remedy}")
    if label.casefold() in NO_LABEL:
        remedy = "leave the field empty where no finding is present, and name in column 'unknown' what is not known"
        raise UserError(f"{label!r} is no label; {remedy}")


def several(label: str) -> list[str]:
    """The labels that stand in one, separated by something else than a comma.

    'Mass;Edema', 'Mass/Edema', 'Mass and Edema' -> ['Mass', 'Edema']; 'Nodule/Mass' is one label of VinDr-CXR
    """
    if label in COMPOUND:
        return [label]
    # Signs that no name has.
    parts = _parts(r"[;|\t\n\r,]", label)
    if len(parts) > 1:
        return parts
    if re.search(r"[;|\t\n\r]", label):
        return [*parts, ""]
    # Signs that also stand inside a name separate where what they separate is ours.
    for sign in (r"/", r"\\", r"\+", r"&", r"\s+and\s+", r"\s*-\s*", r":", r"\.", r"\s+"):
        parts = _parts(sign, label)
        are_ours = len(parts) > 1 and all(map(is_ours, parts))
        if are_ours and not is_ours(label):
            return parts
    return [label]


def _parts(separator: str, label: str) -> list[str]:
    """What stands between separators, a pattern, and is not blank."""
    parts = [part.strip() for part in re.split(separator, label)]
    return [part for part in parts if part]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.casefold() not in NO_LABEL


def canonical(label: str, known: Collection[str], where: str) -> str:
    """The name that `label` has here.

    Args:
        known: the names that may be used.
        where: begins the message.

    Raises:
        UserError: any other name.
    """
    name = label if label in known else spelled(label)
    if name not in known:
        near = difflib.get_close_matches(label, [*known, *SPELLINGS], n=1, cutoff=0.6)
        remedy = f" (known: {', '.join(known)})"
        if near:
            remedy = f"; did you mean {spelled(near[0])!r}?"
        raise UserError(f"{where}: unknown label {label!r}{remedy}")
    return name


def is_finding(classes: Sequence[str]) -> np.ndarray:
    """Which classes are findings, and so part of every mean over classes: (K,) bool."""
    return np.array([normal_name(name) is None for name in classes], dtype=bool)


def has_place(classes: Sequence[str]) -> np.ndarray:
    """Which classes can be pointed at in an image, and so have evidence: findings, but no kind of Normal. (K,) bool"""
    is_normal = np.array([name == NORMAL_LABELLED for name in classes], dtype=bool)
    return is_finding(classes) & ~is_normal
