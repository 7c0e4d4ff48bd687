"""Radiology reports -> cells of the 14 findings. No model, no random numbers.

A sentence is read word by word (roi/sources/report_text.py). Words that no rule knows are dropped (the XXXX of a de-
identified text too), the others lose their endings, and the longest phrases among them become items
(roi/sources/report_vocabulary.py): a finding is said, a cue opens a scope (roi/sources/report_scopes.py), a part of the body meets
"normal" or "enlarged".

- PRESENT: said outside any scope. Also "consistent with", "probable", "borderline enlarged", "A or B": people who
  coded such reports took them as present.
- UNCERTAIN: "possible", "may", "suggests", "suspicious for", "versus", "favor", "cannot be excluded", "cannot be
  assessed" ...
- ABSENT: denied or resolved, or covered by a normal statement (COVERS): a normal heart, clear lungs, no acute
  disease.
- COARSE: a wider or neighbouring word is asserted: an opacity is not by itself an infiltrate, a granuloma not a
  nodule.
- BLANK: none of these; what is recommended, looked for, removed or a matter of history is not mentioned.

Within a section PRESENT > UNCERTAIN > denied > COARSE > covered. What the impression asserts, hedges or denies
outranks the findings. Letters: N reports, K = 14 findings, S sentences of all reports, U different ones.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, NOT_MENTIONED, PARENT_ONLY, PRESENT, UNCERTAIN
from roi.sources.report_scopes import meetings, scopes_of
from roi.sources.report_text import Item, matches, places, sentences, signature
from roi.sources.report_vocabulary import ACUTE, COVERS

# What a sentence says of a finding; the higher outranks within a section.
NOTHING, COVERED, NEAR, DENIED, HEDGED, SAID = range(6)
CODES = np.array([NOT_MENTIONED, ABSENT, PARENT_ONLY, ABSENT, UNCERTAIN, PRESENT], dtype=np.int8)
WHERE_DENIED = {"named": DENIED, "wider": COVERED, "neighbour": NOTHING}
COVERED_BY = {part: places(findings) for part, findings in COVERS.items()}
HEART = LABELS.index("Cardiomegaly")


def label_reports(findings: Sequence[str], impressions: Sequence[str]) -> np.ndarray:
    """Reads two sections of each report, "" where one is missing.

    Returns:
        (N, K) int8, cells.

    Raises:
        UserError: there are not as many of one section as of the other.
    """
    if len(findings) != len(impressions):
        counts = f"{len(findings)} findings and {len(impressions)} impressions"
        raise UserError(f"{counts}; a report has one of each, empty where it is missing")
    levels = _levels([*findings, *impressions])
    found, concluded = levels[: len(findings)], levels[len(findings) :]
    return CODES[np.where(concluded >= DENIED, concluded, np.maximum(found, concluded))]


def _levels(texts: Sequence[str]) -> np.ndarray:
    """The highest level that a sentence of each text gives a finding, (len(texts), K) int8.

    A sentence is read once, however often it occurs.
    """
    table = [bytes(len(LABELS))]  # (U, K); bytes, which cost the garbage collector nothing
    rows = {"": 0}  # what is left of a sentence -> its row in `table`
    seen: dict[str, int | None] = {}  # a sentence -> the same
    said: list[int | None] = []  # (S,) rows
    starts = []
    for text in texts:
        starts.append(len(said))
        parts = sentences(text)
        found = list(map(seen.get, parts))
        if None in found:
            for n, part in enumerate(parts):
                if found[n] is None:
                    left = signature(part)
                    if left not in rows:
                        rows[left] = len(table)
                        table.append(_read(left))
                    found[n] = seen[part] = rows[left]
        said += found
    different = np.frombuffer(b"".join(table), dtype=np.int8).reshape(-1, len(LABELS))  # (U, K)
    levels = different[np.array(said, dtype=np.intp)]  # (S, K)
    return np.maximum.reduceat(levels, starts) if starts else levels


def _read(text: str) -> bytes:
    """A signature -> the level of each finding, K bytes."""
    row = [item for _, _, item in matches(text.split())]
    scopes = scopes_of(row)
    said = [COVERED if _all_negative(row) else NOTHING] * len(LABELS)
    for n, level in [*_said(row, scopes), *_met(row, scopes)]:
        said[n] = max(said[n], level)
    return bytes(said)


def _all_negative(row: list[Item]) -> bool:
    """'The exam is negative', but not 'the exam is negative for pneumonia'."""
    for place, (kind, at_its_end) in enumerate(row):
        if kind == "negative" and not (at_its_end and [kind for kind, _ in row[place + 1 : place + 2]] == ["say"]):
            return True
    return False


def _said(row: list[Item], scopes: list[str]) -> Iterator[tuple[int, int]]:
    """What the words for findings say -> (finding, level)."""
    for (kind, value), scope in zip(row, scopes, strict=True):
        if kind == "say" and scope != "past":
            found, nearness = value
            asserted = SAID if nearness == "named" else NEAR
            for n, finding in enumerate(found):
                if scope == "no" and nearness == "shaped":
                    # "no nodular opacity" denies a nodule and leaves other opacities open
                    yield finding, WHERE_DENIED["neighbour" if n else "wider"]
                elif scope == "no":
                    yield finding, WHERE_DENIED[nearness]
                else:
                    yield finding, min(asserted, HEDGED) if scope == "maybe" else asserted


def _met(row: list[Item], scopes: list[str]) -> Iterator[tuple[int, int]]:
    """What the predicates say of parts of the body -> (finding, level)."""
    since = 0
    for place, parts in meetings(row):
        modifiers = {kind for kind, _ in row[since:place]} & {"acute", "new"}
        yield from _judged(row[place][0], scopes[place], parts, modifiers)
        since = place


def _judged(predicate: str, scope: str, parts: list[str], modifiers: set[str]) -> Iterator[tuple[int, int]]:
    """What one predicate of these parts says -> (finding, level)."""
    if "nameless" in parts:
        return
    if "other" in parts:  # the bones of the chest are not the chest
        parts = [part for part in parts if part not in ("chest", "all")]
    if len(set(parts)) > 1:  # "on the film of the chest lungs are clear"
        parts = [part for part in parts if part != "chest"]
    if predicate == "abnormality" and scope == "no":
        if modifiers == {"new"}:
            return  # what is not new may well be there
        for part in parts or ["all"]:
            yield from ((n, COVERED) for n in COVERED_BY[part] if not modifiers or LABELS[n] in ACUTE)
    elif predicate == "normal" and scope in ("", "maybe"):
        for part in parts:
            yield from ((n, DENIED if n == HEART else COVERED) for n in COVERED_BY[part])
    elif predicate in ("enlarged", "large") and {"heart", "mediastinum"} & set(parts):
        by_scope = {"": SAID, "maybe": HEDGED, "no": DENIED}
        if "heart" not in parts:  # the cardiomediastinal silhouette
            by_scope |= {"": NEAR, "maybe": NEAR}
        yield HEART, by_scope.get(scope, NOTHING)
