"""Cases of the report: chosen by the scores alone, never by how their masks look.

Letters: N images, K classes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from roi.labels import has_place

MIDDLE = 0.1  # positives of median rank: within this share of the positives from their median
KINDS = {
    "best": "Best: positives of the highest rank",
    "typical": "Typical: positives of median rank",
    "worst": "Worst: positives of the lowest rank (false negatives)",
    "false": "False positives: negatives of the highest rank",
}
RULE = (
    "Chosen by the scores alone, never by how the masks look. An image's rank is the share of the images of known "
    "label with a lower or equal full-view probability of the finding. Best: positives of the highest rank; typical: "
    "positives between the 40th and the 60th percentile of the positives, those with a box of the finding first; "
    "worst: positives of the lowest rank; false positives: negatives of the highest rank. Within each kind the "
    "findings differ as long as there are enough; patients are never shown twice while others are left."
)


@dataclass
class Case:
    kind: str  # of KINDS
    finding: str
    row: int  # of the predictions
    rank: float  # in 0..1 among the images of known label


class Candidate(NamedTuple):
    """An image that may be shown for a finding; the smallest is the first."""

    first: float
    second: float  # where the first is the same
    row: int
    rank: float


Queues = dict[str, list[Candidate]]  # finding -> its candidates in their order


def choose(
    prob: np.ndarray,
    target: np.ndarray,
    classes: Sequence[str],
    patients: Sequence[str],
    shown: np.ndarray,
    boxed: np.ndarray,
    count: int,
) -> list[Case]:
    """The cases of the gallery, as many of each kind, in the order of KINDS.

    Args:
        prob: (N, K) full-view probabilities.
        target: (N, K), NaN = unknown.
        classes: (K,); Normal is no finding and has no cases.
        patients: (N,).
        shown: (N,) bool: has a picture.
        boxed: (N, K) bool: has a box of the finding.
        count: at most so many cases.
    """
    queues: dict[str, Queues] = {kind: {} for kind in KINDS}
    for k in np.flatnonzero(has_place(classes)).tolist():
        by_kind = candidates_of(prob[:, k], target[:, k], boxed[:, k])
        for kind, candidates in by_kind.items():
            # After the ranking, which is among all images and not among those that can be shown.
            queue = [candidate for candidate in candidates if shown[candidate.row]]
            queues[kind][classes[k]] = queue
    cases: list[Case] = []
    # What cannot be shared out evenly goes to the first kinds.
    each, more = divmod(count, len(KINDS))
    for n, kind in enumerate(KINDS):
        some = each + 1 if n < more else each
        cases += pick(kind, queues[kind], patients, cases, some)
    return cases


def candidates_of(prob: np.ndarray, target: np.ndarray, boxed: np.ndarray) -> Queues:
    """Kind -> candidates of one finding in their order. (N,) each; nothing where a rank says nothing."""
    known = np.flatnonzero(~np.isnan(target))
    positive = np.flatnonzero(target == 1)
    negative = np.flatnonzero(target == 0)
    if not len(positive) or not len(negative):
        return {}
    # Ranks and not probabilities: those of a rare finding are all low.
    rank = np.full(len(prob), np.nan)
    rank[known] = rankdata(prob[known], method="max") / len(known)
    percentile = (rankdata(prob[positive]) - 0.5) / len(positive)  # among the positives, in 0..1
    from_median = np.abs(percentile - 0.5)
    # Of two or three positives none may lie within MIDDLE: the nearest is taken.
    near = from_median <= max(MIDDLE, from_median.min())
    typical = positive[near]
    # Typical cases with a box come first, as there the mask can be held to something.
    return {
        "best": in_order(positive, rank, -rank[positive]),
        "typical": in_order(typical, rank, -1.0 * boxed[typical], from_median[near]),
        "worst": in_order(positive, rank, rank[positive]),
        "false": in_order(negative, rank, -rank[negative]),
    }


def in_order(
    rows: np.ndarray,
    rank: np.ndarray,
    first: np.ndarray,
    second: np.ndarray | None = None,
) -> list[Candidate]:
    """Rows sorted by `first`, then by `second`, then by their place in the predictions. (M,); rank (N,)"""
    if second is None:
        second = np.zeros(len(rows))
    columns = (first, second, rows, rank[rows])
    return sorted(map(Candidate, *(column.tolist() for column in columns)))


def pick(kind: str, queues: Queues, patients: Sequence[str], before: Sequence[Case], count: int) -> list[Case]:
    """Round after round, each finding once in a round, the most extreme candidate first.

    Patients who are shown already come again only when no others are left.
    """
    cases: list[Case] = []
    seen = {patients[case.row] for case in before}
    pairs = {(case.finding, case.row) for case in before}
    for avoided in (seen, set[str]()):
        waiting: set[str] = set()  # findings that have not had their turn in this round
        while len(cases) < count:
            firsts: dict[str, Candidate] = {}
            for finding in waiting or queues:
                first = first_free(finding, queues[finding], pairs, patients, avoided)
                if first is not None:
                    firsts[finding] = first
            if firsts:
                candidate, finding = min((first, finding) for finding, first in firsts.items())
                cases.append(Case(kind, finding, candidate.row, candidate.rank))
                seen.add(patients[candidate.row])
                pairs.add((finding, candidate.row))
                waiting = set(firsts) - {finding}
            elif waiting:
                waiting = set()  # the next round
            else:
                break
    return cases


def first_free(
    finding: str,
    queue: Sequence[Candidate],
    pairs: Collection[tuple[str, int]],
    patients: Sequence[str],
    avoided: Collection[str],
) -> Candidate | None:
    """The first candidate that is not shown for this finding yet, and whose patient is not among those avoided."""
    for candidate in queue:
        if (finding, candidate.row) not in pairs and patients[candidate.row] not in avoided:
            return candidate
    return None
