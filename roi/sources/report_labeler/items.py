"""The phrases of vocabulary.py as items: the kind of each and what is to be known of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from roi.labels import LABELS
from roi.sources.report_labeler import vocabulary
from roi.sources.report_labeler.spelling import phrases


class Item(NamedTuple):
    """A phrase of a sentence.

    `value`: of a finding (indices of LABELS, nearness), of a part its name, of "negative" whether the phrase ends so.
    """

    kind: str
    value: Any = None


def _items() -> dict[str, Item]:
    """Each phrase as an item; a later kind takes a phrase from an earlier one."""
    items: dict[str, Item] = {}
    for nearness, words in vocabulary.SAYINGS.items():
        for pattern, findings in words.items():
            item = Item("finding", (label_indices(findings), nearness))
            items |= dict.fromkeys(phrases(pattern), item)
    for pattern in vocabulary.NEGATIVE:
        for phrase in phrases(pattern):
            items[phrase] = Item("negative", phrase.endswith("negative"))
    for pattern in vocabulary.OTHERS:
        items |= dict.fromkeys(phrases(pattern), Item("other"))
    for part, patterns in vocabulary.PARTS.items():
        for pattern in patterns:
            items |= dict.fromkeys(phrases(pattern), Item("part", part))
    for kind, patterns in vocabulary.CUES.items():
        for pattern in patterns:
            items |= dict.fromkeys(phrases(pattern), Item(kind))
    return items


def label_indices(findings: Iterable[str]) -> list[int]:
    return [LABELS.index(finding) for finding in findings]


def _phrase_lengths() -> dict[str, list[int]]:
    """By the first word of phrases the numbers of words that they have, longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in ITEMS:
        words = phrase.split()
        lengths.setdefault(words[0], set()).add(len(words))
    return {first: sorted(numbers, reverse=True) for first, numbers in lengths.items()}


ITEMS = _items()
LENGTHS = _phrase_lengths()


def single_words(*kinds: str) -> set[str]:
    """The phrases of these kinds that are one word."""
    return {phrase for phrase, item in ITEMS.items() if item.kind in kinds and " " not in phrase}


def kind_at(row: Sequence[Item], place: int) -> str:
    """The kind of an item of a row, "" behind the last one."""
    return row[place].kind if place < len(row) else ""


def matches(words: Sequence[str]) -> Iterator[tuple[int, int, Item]]:
    """Finds the longest phrases among the words of a signature, from left to right, and passes over other words.

    Yields:
        (place, number of words, item).
    """
    place = 0
    while place < len(words):
        length, item = _longest_phrase(words, place)
        if item is not None:
            yield place, length, item
        place += length


def _longest_phrase(words: Sequence[str], place: int) -> tuple[int, Item | None]:
    """The number of words of the longest phrase that begins at a place, and its item; (1, None) if none does."""
    for length in LENGTHS.get(words[place], ()):
        # A slice beyond the end is a shorter phrase, which has its own turn.
        if place + length <= len(words):
            item = ITEMS.get(" ".join(words[place : place + length]))
            if item is not None:
                return length, item
    return 1, None
