"""The 14 findings of NIH ChestX-ray14, in the order that they have everywhere, and the names of their absence."""

import difflib
from collections.abc import Collection

LABELS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NORMAL = ("Normal", "No Finding")  # never findings: derived, and left out of every mean over classes
SPELLINGS = {"Infiltrate": "Infiltration", "Pleural Thickening": "Pleural_Thickening", "No_Finding": "No Finding"}


def canonical(label: str, known: Collection[str], where: str) -> str:
    """The name that `label` has here; `known` are the names that may be used. ValueError (begins with `where`) for any other."""
    name = SPELLINGS.get(label, label)
    if name not in known:
        near = difflib.get_close_matches(label, [*known, *SPELLINGS], n=1, cutoff=0.6)
        raise ValueError(
            f"{where}: unknown label {label!r}" + (f"; did you mean {SPELLINGS.get(near[0], near[0])!r}?" if near else f" (known: {', '.join(known)})")
        )
    return name
