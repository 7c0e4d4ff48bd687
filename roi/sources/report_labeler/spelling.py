"""Spellings of the words of vocabulary.py: patterns unfolded, forms and misspellings read as the usual word."""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations, product

from roi.sources.report_labeler.vocabulary import CUES, FORMS, NEGATIVE, OTHERS, PARTS, SAYINGS, word_set


def phrases(pattern: str) -> Iterator[str]:
    """Yields the phrases of a pattern: of 'pleural? mass|fluid' 'pleural mass', 'pleural fluid', 'mass', 'fluid'."""
    slots = []
    for slot in pattern.split():
        words = slot.replace("?", "").split("|")
        if "?" in slot:
            words.append("")
        slots.append(words)
    for row in product(*slots):
        yield " ".join(filter(None, row))


def _vocabulary() -> set[str]:
    """Each word that stands in a phrase."""
    patterns = [*OTHERS, *NEGATIVE]
    groups: list[Iterable[str]] = [*SAYINGS.values(), *PARTS.values(), *CUES.values()]
    for group in groups:
        patterns += group
    words: set[str] = set()
    for pattern in patterns:
        for phrase in phrases(pattern):
            words.update(phrase.split())
    return words


VOCABULARY = _vocabulary()
BRITISH = (
    ("oed", "ed"),
    ("haem", "hem"),
    ("tumour", "tumor"),
    ("isation", "ization"),
    ("ised", "ized"),
)
# Only words of these groups are looked for in misspelled ones: nothing else in a report is spelled nearly so.
MENDED_GROUPS = word_set("""
absent airspace atelectasis cardiomegaly cardiopulmonary congestion consolidation costophrenic effusion emphysema
enlarge fibrosis granuloma hydropneumothorax infiltrate mediastinal negative pneumonia pneumothorax resolved seen
silhouette thickening without
""")
LONG_WORDS = [word for word in sorted({*FORMS, *VOCABULARY}) if len(word) >= 8]
MENDED = ["without", "pleural", "nodule"]
MENDED += [word for word in LONG_WORDS if FORMS.get(word, word) in MENDED_GROUPS]
# Words of their own, a letter or two beside one of those.
NOT_MENDED = word_set(
    "absences appreciable demonstrable dissolved filtration identity infusion presented presents resolve"
)


def shortened(word: str, letters: int) -> set[str]:
    """The word without that many letters, in all ways: words that share one differ by so many letters."""
    return {"".join(kept) for kept in combinations(word, len(word) - letters)}


def _remainders() -> tuple[dict[str, str], dict[str, str]]:
    """What is left of the words of MENDED without one letter, and of the long ones without two."""
    without_one: dict[str, str] = {}
    without_two: dict[str, str] = {}
    for word in MENDED:
        without_one |= dict.fromkeys(shortened(word, 1) | {word}, word)
        if len(word) >= 11:
            without_two |= dict.fromkeys(shortened(word, 2), word)
    return without_one, without_two


WITHOUT_ONE, WITHOUT_TWO = _remainders()


@cache
def known(word: str) -> str:
    """A word in lower case as the first of its group; "" if it stands in no phrase."""
    for spelling in (word, mended(word)):
        for form in (spelling, spelling.removesuffix("s"), spelling.removesuffix("es")):
            form = FORMS.get(form, form)
            if form in VOCABULARY:
                return form
    return ""


def mended(word: str) -> str:
    """The American spelling of a word; of a word of seven letters and more also what a misspelling stands for."""
    for british, american in BRITISH:
        word = word.replace(british, american)
    if len(word) < 7 or word in NOT_MENDED or word in FORMS:
        return word
    original = _nearest(word, 1, WITHOUT_ONE)
    # In a shorter word two letters are too many: another word may be meant.
    if original is None and len(word) >= 10:
        original = _nearest(word, 2, WITHOUT_TWO)
    return word if original is None else original


def _nearest(word: str, letters: int, remainders: dict[str, str]) -> str | None:
    """The word of MENDED that shares a remainder with this one, None if none does."""
    # In order, so that a word near two others is always read as the same one.
    for remainder in sorted(shortened(word, letters) | {word}):
        if remainder in remainders:
            return remainders[remainder]
    return None
