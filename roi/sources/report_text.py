"""Text of a report -> sentences -> the words that count -> items: phrases of roi/sources/report_vocabulary.py."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from roi.labels import LABELS
from roi.sources import report_vocabulary as vocabulary
from roi.sources.report_vocabulary import known, phrases

Item = tuple[str, Any]  # the kind of a phrase and what is to be known of it

ABOUT = ("say", "negative", "part", "abnormality")  # kinds without which a sentence says nothing of the 14

# A line goes on before a small letter, or a number that numbers no list; a heading's text may stand on the next line.
WRAPPED = re.compile(r"\s*\n\s*(?=[a-z]|\d+(?:\.\d+)?(?![.)\d]))")
HEADING = re.compile(r":[ \t]*\r?\n\s*(?![^\n:.]{1,40}:)")
# Answers: "Pneumothorax ...... none", "Effusion: 0", "Pneumonia? No".
LEADER = re.compile(r"(?:\.{3,}|_{2,})[ \t]*(?=\w)")
ZERO = re.compile(r":[ \t]*0(?![\d.])")
ANSWERED = re.compile(r"\?\s*(?=(?:no|none|negative|absent)\b)", re.IGNORECASE)
ASKED = re.compile(r"(?<=\w)\?")
# Taken up later: "No pneumothorax. A tiny one is not excluded", "the effusion has cleared; the consolidation has not".
A_ONE = r"\s+(?:an?|the|very|tiny|small|another|subtle|minimal|\s)+one\b"
HAS_NOT = r"[^.;\n]*\b(?:has|have) not\s*(?:[.;\n]|$)"
TAKEN_UP = re.compile(rf"[.;](?={A_ONE}|{HAS_NOT})", re.IGNORECASE)
DOTTED = re.compile(r"\b(pl|eff|vs|approx)\.(?=\s*(?:[,a-z]|OR|AND|EFF|Eff))", re.IGNORECASE)
DECIMAL = re.compile(r"\.(?<=\d\.)(?=\d)")  # begins with the point: quick to search for
DASHES = re.compile("[\u2010-\u2015\u2212]")
BULLETS = re.compile("[\u2022\u2023\u25aa\u25cf\u00b7]")
NUMBERED = re.compile(r"(?<![\w(.])\d{1,2}\)\s")  # "1) No effusion 2) Cardiomegaly"
SENTENCE_ENDS = ";!\n\r"

WORD = re.compile(r"[a-z]+|[,:()-]")
CANNOT = re.compile(r"\b(?:can not|could not|not able to|not possible to)\b")
DASH = re.compile(r"\s-+\s|=")
SHORTER = re.compile("|".join(rf"\b{re.escape(short)}" for short in sorted(vocabulary.SHORTER, key=len, reverse=True)))


def sentences(text: str) -> list[str]:
    """In lower case, at least one. A line that goes on does not end a sentence, nor does the point of 1.5 or pl."""
    if "\n" in text:
        text = WRAPPED.sub(" ", HEADING.sub(": ", text))
    if ".." in text or "__" in text:
        text = LEADER.sub(": ", text)
    if ": 0" in text:
        text = ZERO.sub(": none", text)
    if "?" in text:
        text = ASKED.sub(" question.", ANSWERED.sub(": ", text)).replace("?", " question ")
    if not text.isascii():
        text = BULLETS.sub(". ", DASHES.sub(" - ", text))
    if ") " in text:
        text = NUMBERED.sub(". ", text)
    if " one " in text or "ve not" in text or "as not" in text:
        text = TAKEN_UP.sub(" but", text)
    text = DOTTED.sub(r"\1", text).lower()
    for end in SENTENCE_ENDS:
        if end in text:
            text = text.replace(end, ".")
    return DECIMAL.sub("", text).split(".")


def signature(sentence: str) -> str:
    """Reduces a sentence to the words that rules know: 'there are no xxxx effusions' -> 'there is no effusion'.

    Returns "" where none of them is about one of the 14 findings.
    """
    sentence = sentence.strip()
    if sentence in vocabulary.ALONE:
        return vocabulary.NEGATIVE[1]
    if sentence.rstrip("- ").endswith(":"):
        return ""  # a heading without text
    raw = WORD.findall(_spelled_out(sentence))
    if not vocabulary.IN_WORDS.keys().isdisjoint(raw):
        raw = " ".join(vocabulary.IN_WORDS.get(word, word) for word in raw).split()
    words = list(map(known, raw))
    if SUBJECTS.isdisjoint(words):
        return ""
    if "pulmonary" in raw and not NORMAL.isdisjoint(words):
        _mark_removed_nouns(raw, words)
    if not POINTERS.isdisjoint(words):
        _mark_nameless(raw, words)
    left = " ".join(filter(None, words)).replace(" is is", " is")
    return PREPOSITION.sub("", left) if " of" in left or " for" in left else left


def _spelled_out(sentence: str) -> str:
    """Without abbreviations that have a slash or an apostrophe; dashes are kept, hyphens are not."""
    if "-" in sentence or "=" in sentence:
        sentence = sentence.replace("non-", "non").replace("sub-", "sub").replace("follow-up", "followup")
        sentence = DASH.sub(" dash ", sentence).replace("-", " ").replace(" dash ", " - ")
    if "follow up" in sentence:
        sentence = sentence.replace("follow up", "followup")
    if "presence of" in sentence:
        sentence = sentence.replace("in the presence of", "despite").replace("presence of", "")
    if "/" in sentence:
        sentence = SHORTER.sub(lambda found: vocabulary.SHORTER[found[0]], sentence)
    if "'" in sentence:
        sentence = sentence.replace("can't", "cannot").replace("n't", " not")
    if "not " in sentence:
        sentence = CANNOT.sub("cannot", sentence)
    return sentence


# What has no name in the vocabulary, but decides what a cue is about, gets a word of its own.
# `raw` and `words` are as long: the words of a sentence and what is known of each.


def _mark_removed_nouns(raw: list[str], words: list[str]) -> None:
    """'heart and pulmonary XXXX are normal' is not about the lungs: "#part"."""
    for place, word in enumerate(raw):
        following = next(filter(None, words[place + 1 :]), "")
        if word == "pulmonary" and following in NO_NOUNS:
            words[place] = "#part"


def _mark_nameless(raw: list[str], words: list[str]) -> None:
    for place, word in enumerate(words):
        if word in CUES:
            end = _mark_thing(raw, words, place)
            if word == "no":
                _mark_given(raw, words, end)
        elif word in ABNORMALITIES:
            _mark_disease(raw, words, place)


def _mark_thing(raw: list[str], words: list[str], cue: int) -> int:
    """'no midline shift', 'the effusion is not loculated': the cue has an object, "#thing". Returns where it ends."""
    adjuncts = vocabulary.ADJUNCTS
    if words[cue] == "not" and raw[cue + 1 : cue + 2] and raw[cue + 1] in adjuncts:
        words[cue + 1] = "#thing"  # "the pneumothorax is not under tension"
    thing = cue + 1
    while thing < len(raw) and (raw[thing] in BETWEEN or words[thing] in MODIFIERS or raw[thing].endswith("ly")):
        thing += 1
    end = thing
    while end < len(raw) and not words[end] and raw[end] not in vocabulary.FILLERS | adjuncts:
        end += 1
    # An unknown word before a known one is an adjective of it: 'no tension pneumothorax'.
    if end > thing and (end == len(raw) or raw[end] in vocabulary.FILLERS | adjuncts or words[end] in CONNECTORS):
        words[thing] = "#thing"
    return end


def _mark_given(raw: list[str], words: list[str], start: int) -> None:
    """'no calcification within the nodule' takes the nodule for granted: "#given" for its article."""
    for place in range(start, len(raw)):
        if raw[place] == "the" and words[place - 1] not in ("and", "or", ",", "no", "for"):
            ahead = place + 1
            while ahead < len(raw) and (words[ahead] in MODIFIERS or not words[ahead]):
                ahead += 1
            if ahead < len(raw) and words[ahead] in SAID_ALONE:
                words[place] = "#given"


def _mark_disease(raw: list[str], words: list[str], place: int) -> None:
    """'no tuberculous disease', 'no findings of sarcoidosis' deny that and no more: "#disease" for its name."""
    before = place - 1
    while before >= 0 and (words[before] in WIDE or raw[before] in BETWEEN | vocabulary.ADJUNCTS):
        before -= 1
    if before >= 0 and not words[before]:
        words[before] = "#disease"
    after = place + 1
    if after < len(raw) and raw[after] in LINKS:
        while after < len(raw) and (words[after] in WIDE or raw[after] in BETWEEN | LINKS):
            after += 1
        if after < len(raw) and not words[after]:
            words[after] = "#disease"


# The words that count -> items


def _items() -> dict[str, Item]:
    """Each phrase -> its kind and what is to be known of it: places among the 14, how near the word is ..."""
    items: dict[str, Item] = {}
    for nearness, words in vocabulary.SAYINGS.items():
        for pattern, findings in words.items():
            items |= dict.fromkeys(phrases(pattern), ("say", (places(findings), nearness)))
    for pattern in vocabulary.NEGATIVE:
        items |= {phrase: ("negative", phrase.endswith("negative")) for phrase in phrases(pattern)}
    for pattern in vocabulary.OTHERS:
        items |= dict.fromkeys(phrases(pattern), ("other", None))
    for part, patterns in vocabulary.PARTS.items():
        for pattern in patterns:
            items |= dict.fromkeys(phrases(pattern), ("part", part))
    for kind, patterns in vocabulary.CUES.items():
        for pattern in patterns:
            items |= dict.fromkeys(phrases(pattern), (kind, None))
    return items


def places(findings: Iterable[str]) -> list[int]:
    return [LABELS.index(finding) for finding in findings]


def _lengths() -> dict[str, list[int]]:
    """The first word of a phrase -> the numbers of words of the phrases that begin so, longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in ITEMS:
        words = phrase.split()
        lengths.setdefault(words[0], set()).add(len(words))
    return {first: sorted(numbers, reverse=True) for first, numbers in lengths.items()}


def _subjects() -> set[str]:
    words: set[str] = set()
    for phrase, (kind, part) in ITEMS.items():
        if kind in ABOUT and part != "other":
            words.update(phrase.split())
    return words - {"is", "and", "or", "side"}


def _words_of(*kinds: str) -> set[str]:
    """The phrases of these kinds that are one word."""
    return {phrase for phrase, (kind, _) in ITEMS.items() if kind in kinds and " " not in phrase}


ITEMS = _items()
LENGTHS = _lengths()
SUBJECTS = _subjects()
# A preposition is dropped where no phrase ends with it.
PREPOSITION = re.compile(r" (?:of|for)\b" + "".join(f"(?<!{p})" for p in ITEMS if p.endswith((" of", " for"))))
NORMAL = {"normal", "unremarkable"}
ABNORMALITIES = _words_of("abnormality")
CUES = _words_of("no", "maybe", "unseen") | {"drainage", "removal", "resection", "treatment"}
POINTERS = CUES | ABNORMALITIES
SAID_ALONE = _words_of("say")
BETWEEN = vocabulary.FILLERS | vocabulary.GENERAL
MODIFIERS = _words_of("degree", "acute") | {"side", "seen", "certain", "of", "for"}
WIDE = MODIFIERS | {"lung", "pleural", "cardiopulmonary", "intrathoracic", "chest", "heart", "vascular", "bone", "exam"}
NO_NOUNS = _words_of("is", ",", "and", "or", "normal", "with", "(") | {""}
CONNECTORS = _words_of("stop", "while", "except", "there", ",", "(", ":", "-", "and", "or", "with", "which", "is")
CONNECTORS |= {"of", "for", "suggest"}
LINKS = {"of", "to", "suggest", "suggesting", "suggestive", "indicate", "for", "consistent", "compatible"}


def matches(words: Sequence[str]) -> Iterator[tuple[int, int, Item]]:
    """Finds the longest phrases among the words of a signature, from left to right, and passes over other words.

    Yields:
        (place, number of words, item).
    """
    place = 0
    while place < len(words):
        for length in LENGTHS.get(words[place], ()):
            item = ITEMS.get(" ".join(words[place : place + length])) if place + length <= len(words) else None
            if item:
                yield place, length, item
                place += length
                break
        else:
            place += 1
