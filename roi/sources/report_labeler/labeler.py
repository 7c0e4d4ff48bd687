"""Labels radiology reports with the 14 findings. Rules alone: no model, no random numbers.

A sentence is read word by word (text.py). Words that no rule knows are dropped (the XXXX of a de-identified text too),
the others lose their endings (spelling.py), and the longest phrases among them become items (vocabulary.py): a finding
is named, a cue opens a scope (scopes.py), a part of the body meets "normal" or "enlarged" (predicates.py).

- PRESENT: named outside any scope. Also "consistent with", "probable", "borderline enlarged", "A or B": people who
  coded such reports took them as present.
- UNCERTAIN: "possible", "may", "suggests", "suspicious for", "versus", "favor", "cannot be excluded", "cannot be
  assessed" ...
- ABSENT: denied or resolved, or covered by a normal statement (COVERS): a normal heart, clear lungs, no acute
  disease.
- PARENT_ONLY: a wider or neighbouring word is asserted: an opacity is not by itself an infiltrate, a granuloma not a
  nodule.
- NOT_MENTIONED: none of these; what is recommended, looked for, removed or a matter of history is not mentioned.

Within a section PRESENT > UNCERTAIN > denied > PARENT_ONLY > covered. What the impression asserts, hedges or denies
outranks the findings. Letters: N reports, K = 14 findings, S sentences of all reports, U different ones.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, NOT_MENTIONED, PARENT_ONLY, PRESENT, UNCERTAIN
from roi.sources.report_labeler.items import Item, kind_at, label_indices, matches
from roi.sources.report_labeler.predicates import attach_parts
from roi.sources.report_labeler.scopes import scopes_of
from roi.sources.report_labeler.text import sentences, signature
from roi.sources.report_labeler.vocabulary import ACUTE, COVERS

# What a sentence says of a finding; the higher outranks within a section.
NOTHING, COVERED, NEAR, DENIED, HEDGED, ASSERTED = range(6)
CODES = np.array([NOT_MENTIONED, ABSENT, PARENT_ONLY, ABSENT, UNCERTAIN, PRESENT], dtype=np.int8)
WHERE_DENIED = {"named": DENIED, "wider": COVERED, "neighbour": NOTHING}
COVERED_BY = {part: label_indices(findings) for part, findings in COVERS.items()}
HEART = LABELS.index("Cardiomegaly")
ACUTE_INDICES = frozenset(label_indices(ACUTE))
# What "enlarged" says of cardiomegaly, by its scope. The cardiomediastinal silhouette may be wide without the heart.
HEART_ENLARGED = {"": ASSERTED, "maybe": HEDGED, "no": DENIED}
MEDIASTINUM_ENLARGED = {"": NEAR, "maybe": NEAR, "no": DENIED}


def label_reports(findings: Sequence[str], impressions: Sequence[str]) -> np.ndarray:
    """Labels each report by its two sections.

    Args:
        findings: a text of each report, "" where the section is missing.
        impressions: the same of the other section.

    Returns:
        (N, K) int8, codes of label_states.py.

    Raises:
        UserError: there are not as many of one section as of the other.
    """
    if len(findings) != len(impressions):
        counts = f"{len(findings)} findings and {len(impressions)} impressions"
        raise UserError(f"{counts}; a report has one of each, empty where it is missing")
    levels = _section_levels([*findings, *impressions])
    in_findings = levels[: len(findings)]
    in_impression = levels[len(findings) :]
    either = np.maximum(in_findings, in_impression)
    return CODES[np.where(in_impression >= DENIED, in_impression, either)]


def _section_levels(texts: Sequence[str]) -> np.ndarray:
    """The highest level that a sentence of each text gives a finding, (len(texts), K) int8."""
    # 160,000 reports have a million sentences, few of them different, and fewer still once they are reduced: each
    # signature is read once. Rows are bytes, which cost the garbage collector nothing.
    table = [bytes(len(LABELS))]  # (U, K)
    row_of_signature = {"": 0}
    row_of_sentence: dict[str, int] = {}
    rows: list[int] = []  # (S,) of `table`
    starts = []  # of each text in `rows`
    for text in texts:
        starts.append(len(rows))
        for sentence in sentences(text):
            row = row_of_sentence.get(sentence)
            if row is None:
                reduced = signature(sentence)
                row = row_of_signature.setdefault(reduced, len(table))
                if row == len(table):
                    table.append(_signature_levels(reduced))
                row_of_sentence[sentence] = row
            rows.append(row)
    by_signature = np.frombuffer(b"".join(table), dtype=np.int8)
    by_signature = by_signature.reshape(-1, len(LABELS))  # (U, K)
    levels = by_signature[np.array(rows, dtype=np.intp)]  # (S, K)
    # reduceat takes no empty list.
    if not starts:
        return levels
    return np.maximum.reduceat(levels, starts)


def _signature_levels(text: str) -> bytes:
    """The level of each finding in a signature, K bytes."""
    row = [item for _, _, item in matches(text.split())]
    scopes = scopes_of(row)
    levels = [NOTHING] * len(LABELS)
    if _denies_all(row):
        levels = [COVERED] * len(LABELS)
    for finding, level in chain(_levels_of_names(row, scopes), _levels_of_predicates(row, scopes)):
        levels[finding] = max(levels[finding], level)
    return bytes(levels)


def _denies_all(row: list[Item]) -> bool:
    """'The exam is negative', but not 'the exam is negative for pneumonia'."""
    for place, (kind, ends_negative) in enumerate(row):
        goes_on = ends_negative and kind_at(row, place + 1) == "finding"
        if kind == "negative" and not goes_on:
            return True
    return False


def _levels_of_names(row: list[Item], scopes: list[str]) -> Iterator[tuple[int, int]]:
    """Yields what the names of findings say as (finding, level)."""
    for item, scope in zip(row, scopes, strict=True):
        if item.kind != "finding" or scope == "past":
            continue
        findings, nearness = item.value
        for n, finding in enumerate(findings):
            if scope == "no":
                yield finding, _denied_level(nearness, first=n == 0)
            elif nearness != "named":
                yield finding, NEAR
            else:
                yield finding, HEDGED if scope == "maybe" else ASSERTED


def _denied_level(nearness: str, first: bool) -> int:
    """The level of a denied finding; `first`: whether it is the first that its words may mean."""
    if nearness == "shaped":
        # "No nodular opacity" denies a nodule and leaves other opacities open.
        nearness = "wider" if first else "neighbour"
    return WHERE_DENIED[nearness]


def _levels_of_predicates(row: list[Item], scopes: list[str]) -> Iterator[tuple[int, int]]:
    """Yields what predicates say of parts of the body as (finding, level)."""
    start = 0
    for place, parts in attach_parts(row):
        kinds = {item.kind for item in row[start:place]}
        modifiers = kinds & {"acute", "new"}
        predicate = row[place].kind
        yield from _predicate_levels(predicate, scopes[place], _meant_parts(parts), modifiers)
        start = place


def _meant_parts(parts: list[str]) -> list[str]:
    """Without those that only say where: the bones of the chest, "on the film of the chest lungs are clear"."""
    if "other" in parts:
        parts = [part for part in parts if part not in ("chest", "all")]
    if len(set(parts)) > 1:
        parts = [part for part in parts if part != "chest"]
    return parts


def _predicate_levels(predicate: str, scope: str, parts: list[str], modifiers: set[str]) -> Iterator[tuple[int, int]]:
    """Yields what one predicate says of these parts as (finding, level)."""
    if "nameless" in parts:
        return
    if predicate == "abnormality" and scope == "no":
        yield from _no_abnormality(parts or ["all"], modifiers)
    elif predicate == "normal" and scope in ("", "maybe"):
        # A normal heart denies cardiomegaly as its name would; what else is normal only covers.
        for part in parts:
            for finding in COVERED_BY[part]:
                yield finding, DENIED if finding == HEART else COVERED
    elif predicate in ("enlarged", "large"):
        if "heart" in parts:
            yield HEART, HEART_ENLARGED.get(scope, NOTHING)
        elif "mediastinum" in parts:
            yield HEART, MEDIASTINUM_ENLARGED.get(scope, NOTHING)


def _no_abnormality(parts: list[str], modifiers: set[str]) -> Iterator[tuple[int, int]]:
    """Yields what "no abnormality" of these parts covers as (finding, level)."""
    # What is not new may well be there.
    if modifiers == {"new"}:
        return
    for part in parts:
        for finding in COVERED_BY[part]:
            if not modifiers or finding in ACUTE_INDICES:
                yield finding, COVERED
