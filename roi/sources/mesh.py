"""OpenI's MeSH codes, given by people who read the reports -> cells of the 14 findings.

An entry is `Head/qualifier/qualifier`, those of a report are joined by ';'. Only whole heads and whole qualifiers count, so that
`Pericardial Effusion`, `Subcutaneous Emphysema`, `Cystic Fibrosis` and `Pneumonectomy` are none of the 14. Letters: N reports, K = 14.
"""

from collections.abc import Sequence

import numpy as np

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, EXCLUDED, PARENT_ONLY, PRESENT
from roi.sources.near_names import words_of

SAYS = {  # head, or head/qualifier wherever the qualifier stands
    "Pulmonary Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Pleural Effusion": ("Effusion",),
    "Infiltrate": ("Infiltration",),
    "Mass/lung": ("Mass",),
    "Mass/hilum": ("Mass",),
    "Nodule": ("Nodule",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
    "Hydropneumothorax": ("Pneumothorax", "Effusion"),
    "Hemopneumothorax": ("Pneumothorax",),
    "Consolidation": ("Consolidation",),
    "Pulmonary Edema": ("Edema",),
    "Emphysema": ("Emphysema",),
    "Pulmonary Emphysema": ("Emphysema",),
    "Bullous Emphysema": ("Emphysema",),
    "Pulmonary Fibrosis": ("Fibrosis",),
    "Thickening/pleura": ("Pleural_Thickening",),
    "Hernia, Hiatal": ("Hernia",),
    "Hernia, Diaphragmatic": ("Hernia",),
}
# Codes that stand for a wider word; the other neighbours name half of a finding, or its shadow.
WIDER = (
    "Opacity",
    "Airspace Disease",
    "Density",
    "Granuloma",
    "Calcified Granuloma",
    "Pulmonary Congestion",
    "Lung Diseases, Interstitial",
)
NEIGHBOURS = words_of("openi")
USELESS = ("no indexing", "technical quality of image unsatisfactory")  # the whole report


def mesh_cells(entries: Sequence[str], neighbours: bool = True) -> np.ndarray:
    """One ';'-joined string a report -> (N, K) int8: PRESENT, COARSE (a neighbour is there), ABSENT, or UNFIT (all).

    Without `neighbours` only the codes of WIDER make a finding COARSE; the others leave it ABSENT. `normal` and heads
    that say nothing of the 14 are ABSENT. UserError: a report without any code, which is not the same as `normal`.
    """
    near = NEIGHBOURS if neighbours else {code: NEIGHBOURS[code] for code in WIDER}
    rules = [(SAYS, PRESENT), (near, PARENT_ONLY)]
    known: dict[str, np.ndarray] = {}
    for number, entry in enumerate(entries):
        if entry not in known:
            known[entry] = _row(entry, rules, number)
    return np.array([known[entry] for entry in entries], dtype=np.int8).reshape(len(entries), len(LABELS))


def mesh_names(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'mass/lung', 'mass/right', 'nodule'}: what the rules are looked up by."""
    names = set()
    for code in entry.split(";"):
        head, *qualifiers = (" ".join(part.split()).lower() for part in code.split("/"))
        names |= {head, *(f"{head}/{qualifier}" for qualifier in qualifiers)} if head else set()
    return names


def _row(entry: str, rules: list[tuple[dict[str, tuple[str, ...]], int]], number: int) -> np.ndarray:
    names = mesh_names(entry)
    if not names:
        raise UserError(
            f"report {number} has no MeSH code ({entry!r}); a normal one says 'normal', so is the file cut off?"
        )
    if not names.isdisjoint(USELESS):
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    row = np.full(len(LABELS), ABSENT, dtype=np.int8)
    for rule, code in reversed(rules):  # what is said outranks what may be meant
        for name, findings in rule.items():
            if name.lower() in names:
                row[[LABELS.index(finding) for finding in findings]] = code
    return row


def heads(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'nodule'}"""
    return {name for name in mesh_names(entry) if "/" not in name}


def known_heads() -> set[str]:
    """What some rule reads, and `normal`."""
    return {name.split("/")[0].lower() for name in (*SAYS, *NEIGHBOURS)} | {"normal", *USELESS}
