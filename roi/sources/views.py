"""Which way an X-ray was taken: the words of every data set -> one name for each view.

PA and AP are frontal; FRONTAL is one of the two, the source does not say which. A word about the patient alone (erect,
supine) says no view. Pictures that are not of the chest, or that their source excludes, are left out of a table of
several data sets.
"""

import re

import pandas as pd

from roi.errors import UserError

# Name -> the words of the sources, as `plain` writes them.
VIEWS = {
    "PA": ("PA", "POSTERO ANTERIOR", "POSTEROANTERIOR", "PA LLD", "PA RLD"),
    "AP": (
        "AP",
        "ANTERO POSTERIOR",
        "ANTEROPOSTERIOR",
        "AP HORIZONTAL",
        "AP SUPINE",
        "AP ERECT",
        "AP AXIAL",
        "AP LORDOTIC",
        "AP LLD",
        "AP RLD",
    ),
    "FRONTAL": ("FRONTAL", "DECUBITUS", "LLD", "RLD"),
    "LATERAL": ("LATERAL", "LAT", "L", "LL", "RL", "LEFT LATERAL", "RIGHT LATERAL", "XTABLE LATERAL"),
    "OBLIQUE": ("OBLIQUE", "LAO", "RAO", "LPO", "RPO", "LLO", "RLO"),
    "COSTAL": ("COSTAL",),
    "KUB": ("KUB",),
    "SWIMMERS": ("SWIMMERS",),
    "EXCLUDE": ("EXCLUDE",),
    "": ("", "UNK", "UNKNOWN", "N/A", "NA", "NAN", "NONE", "NULL", "OTHER", "ERECT", "SUPINE", "PICC LINE"),
}
# Pictures that are not of the chest as the others are, and why.
LEFT_OUT = {
    "COSTAL": "taken for the ribs",
    "KUB": "of the abdomen",
    "SWIMMERS": "of the spine",
    "EXCLUDE": "excluded by the source",
}
NAME_OF = {word: name for name, words in VIEWS.items() for word in words}
# How it is told to people that a source says no view.
NOT_SAID = "not said"


def plain(word: str) -> str:
    """'AP_horizontal' -> 'AP HORIZONTAL': capitals; a hyphen or an underscore is a space."""
    words = re.split(r"[_\-\s]+", word.upper())
    return " ".join(filter(None, words))


def view_name(word: str) -> str:
    """The name of a view, "" where the word says none. A word that is not known stays as it is, in capitals."""
    return NAME_OF.get(plain(word), plain(word))


def view_of(words: pd.Series) -> pd.Series:
    """The names of a column of words."""
    return words.map({word: view_name(word) for word in words.unique()})


def unknown_views(views: pd.Series) -> dict[str, int]:
    """Names that are none of VIEWS, and how many images have them."""
    # They are kept, and told to the user: they may be views that the next edition of a set has.
    counts = views[~views.isin(VIEWS)].value_counts()
    return dict(zip(counts.index, counts.tolist(), strict=True))


def chosen_views(words: list[str], present: set[str]) -> list[str]:
    """The names of --views. UserError: a view that is neither known nor in the table (`present`)."""
    names = [view_name(word) for word in words]
    for word, name in zip(words, names, strict=True):
        if name not in VIEWS and name not in present:
            known = ", ".join(filter(None, VIEWS))
            raise UserError(f"--views {word}: no such view (known: {known}, UNKNOWN where the source says none)")
    return names
