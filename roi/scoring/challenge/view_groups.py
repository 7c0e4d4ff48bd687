"""Groups of what is scored: by the views of its study, and by whether its patient is in the training table.

Letters: N images, U units that are scored, images or studies, S studies.
"""

import numpy as np

from roi.data.studies import KINDS
from roi.scoring.challenge.long_tail import TrainingCounts
from roi.scoring.challenge.studies import StudyRows, Units

Groups = dict[str, dict[str, np.ndarray]]  # attribute -> group -> (U,) bool
# What the attributes of metrics.json are called.
TITLES = {
    "n_views": "number of views",
    "view_kind": "kind of view",
    "in_training": "patients of the training table",
}
MOST_VIEWS = 4  # studies of so many and more are one group


def attribute_name(attribute: str) -> str:
    return TITLES.get(attribute, attribute)


def groups_of_units(units: Units, counts: TrainingCounts | None) -> Groups:
    """The attributes by which the units are of at least two groups."""
    groups: Groups = {}
    if units.studies is not None:
        groups |= groups_of_views(units.studies, units.target.shape[0] != units.n_images)
    if counts is not None:
        seen = counts.knows_patient(units.rows)
        groups["in_training"] = {"seen": seen, "unseen": ~seen}
    # Where all are of one group there is nothing to compare.
    several = {}
    for attribute, members in groups.items():
        held = {name: rows for name, rows in members.items() if rows.any()}
        if len(held) > 1:
            several[attribute] = held
    return several


def groups_of_views(studies: StudyRows, of_studies: bool) -> Groups:
    """By the number of views of the study and by their kind, of studies or of their images."""
    sizes = np.bincount(studies.study)  # (S,)
    has_kind = np.zeros((len(sizes), len(KINDS)), dtype=bool)
    has_kind[studies.study, studies.kinds] = True
    # An image is of one kind, a study may be of both.
    if not of_studies:
        sizes = sizes[studies.study]
        has_kind = np.eye(len(KINDS), dtype=bool)[studies.kinds]
    # Few studies have more than four views: groups of them could not be scored.
    by_number = {}
    for number in range(1, MOST_VIEWS):
        by_number[f"{number} view{'s' if number > 1 else ''}"] = sizes == number
    by_number[f"{MOST_VIEWS} or more views"] = sizes >= MOST_VIEWS
    frontal, lateral, _ = has_kind.T
    by_kind = {
        "frontal": frontal & ~lateral,
        "lateral": lateral & ~frontal,
        "frontal and lateral": frontal & lateral,
        "not said": ~(frontal | lateral),
    }
    return {"n_views": by_number, "view_kind": by_kind}
