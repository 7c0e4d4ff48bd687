"""The text of a report as sentences, and a sentence as its signature: the words that rules know."""

import re

from roi.sources.report_labeler import vocabulary
from roi.sources.report_labeler.items import ITEMS, single_words
from roi.sources.report_labeler.spelling import known

# Where a sentence ends.
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

# The words of a sentence.
WORD = re.compile(r"[a-z]+|[,:()-]")
CANNOT = re.compile(r"\b(?:can not|could not|not able to|not possible to)\b")
DASH = re.compile(r"\s-+\s|=")
LONGEST_FIRST = sorted(vocabulary.SHORTER, key=len, reverse=True)
SHORTER = re.compile("|".join(rf"\b{re.escape(short)}" for short in LONGEST_FIRST))

# Groups of words, by what they decide.
ABOUT = ("finding", "negative", "part", "abnormality")  # kinds without which a sentence says nothing of the 14
NORMAL = {"normal", "unremarkable"}
ABNORMALITIES = single_words("abnormality")
CUES = single_words("no", "maybe", "unseen") | {"drainage", "removal", "resection", "treatment"}
POINTERS = CUES | ABNORMALITIES
FINDINGS = single_words("finding")
BETWEEN = vocabulary.FILLERS | vocabulary.GENERAL
MODIFIERS = single_words("degree", "acute") | {"side", "seen", "certain", "of", "for"}
WIDE = MODIFIERS | {"lung", "pleural", "cardiopulmonary", "intrathoracic", "chest", "heart", "vascular", "bone", "exam"}
NO_NOUNS = single_words("is", ",", "and", "or", "normal", "with", "(") | {""}
CONNECTORS = single_words("stop", "while", "except", "there", ",", "(", ":", "-", "and", "or", "with", "which", "is")
CONNECTORS |= {"of", "for", "suggest"}
LINKS = {"of", "to", "suggest", "suggesting", "suggestive", "indicate", "for", "consistent", "compatible"}
NO_OBJECT = vocabulary.FILLERS | vocabulary.ADJUNCTS
BEFORE_DISEASE = BETWEEN | vocabulary.ADJUNCTS
AFTER_DISEASE = BETWEEN | LINKS


def _subjects() -> set[str]:
    """The words of which a sentence about the 14 has at least one."""
    words: set[str] = set()
    for phrase, item in ITEMS.items():
        if item.kind in ABOUT and item.value != "other":
            words.update(phrase.split())
    return words - {"is", "and", "or", "side"}


SUBJECTS = _subjects()
# A preposition is dropped where no phrase ends with it.
WITH_PREPOSITION = "".join(f"(?<!{phrase})" for phrase in ITEMS if phrase.endswith((" of", " for")))
PREPOSITION = re.compile(r" (?:of|for)\b" + WITH_PREPOSITION)


def sentences(text: str) -> list[str]:
    """Splits a text into its sentences in lower case, at least one.

    A line that goes on does not end a sentence, nor does the point of 1.5 or pl.
    """
    # A look for a few characters costs a tenth of a regular expression that finds nothing.
    if "\n" in text:
        text = WRAPPED.sub(" ", HEADING.sub(": ", text))
    if ".." in text or "__" in text:
        text = LEADER.sub(": ", text)
    if ": 0" in text:
        text = ZERO.sub(": none", text)
    if "?" in text:
        text = ANSWERED.sub(": ", text)
        text = ASKED.sub(" question.", text).replace("?", " question ")
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
        raw = _written_out(raw)
    words = list(map(known, raw))
    if SUBJECTS.isdisjoint(words):
        return ""
    if "pulmonary" in raw and not NORMAL.isdisjoint(words):
        _mark_removed_nouns(raw, words)
    if not POINTERS.isdisjoint(words):
        _mark_nameless(raw, words)
    kept = " ".join(filter(None, words)).replace(" is is", " is")
    if " of" in kept or " for" in kept:
        kept = PREPOSITION.sub("", kept)
    return kept


def _spelled_out(sentence: str) -> str:
    """Without abbreviations that have a slash or an apostrophe; dashes are kept, hyphens are not."""
    if "-" in sentence or "=" in sentence:
        sentence = sentence.replace("non-", "non").replace("sub-", "sub").replace("follow-up", "followup")
        sentence = DASH.sub(" dash ", sentence)
        sentence = sentence.replace("-", " ").replace(" dash ", " - ")
    if "follow up" in sentence:
        sentence = sentence.replace("follow up", "followup")
    if "presence of" in sentence:
        sentence = sentence.replace("in the presence of", "despite").replace("presence of", "")
    if "/" in sentence:
        sentence = SHORTER.sub(_in_full, sentence)
    if "'" in sentence:
        sentence = sentence.replace("can't", "cannot").replace("n't", " not")
    if "not " in sentence:
        sentence = CANNOT.sub("cannot", sentence)
    return sentence


def _in_full(match: re.Match[str]) -> str:
    return vocabulary.SHORTER[match[0]]


def _written_out(words: list[str]) -> list[str]:
    """Abbreviations of one word as the words that they stand for."""
    text = " ".join(vocabulary.IN_WORDS.get(word, word) for word in words)
    return text.split()


# What has no name in the vocabulary, but decides what a cue is about, gets a word of its own.
# `raw` and `words` are as long: the words of a sentence and what is known of each.


def _mark_removed_nouns(raw: list[str], words: list[str]) -> None:
    """'heart and pulmonary XXXX are normal' is not about the lungs: "#part"."""
    for place, word in enumerate(raw):
        if word == "pulmonary":
            following = next(filter(None, words[place + 1 :]), "")
            if following in NO_NOUNS:
                words[place] = "#part"


def _mark_nameless(raw: list[str], words: list[str]) -> None:
    for place, word in enumerate(words):
        if word in CUES:
            end = _mark_thing(raw, words, place)
            if word == "no":
                _mark_given(raw, words, end)
        elif word in ABNORMALITIES:
            _mark_disease_before(raw, words, place)
            _mark_disease_behind(raw, words, place)


def _mark_thing(raw: list[str], words: list[str], cue: int) -> int:
    """'no midline shift', 'the effusion is not loculated': the cue has an object, "#thing". Returns where it ends."""
    start = cue + 1
    if words[cue] == "not" and start < len(raw) and raw[start] in vocabulary.ADJUNCTS:
        words[start] = "#thing"  # "the pneumothorax is not under tension"
    while start < len(raw) and _is_between(raw[start], words[start]):
        start += 1
    end = start
    while end < len(raw) and not words[end] and raw[end] not in NO_OBJECT:
        end += 1
    # An unknown word before a known one is an adjective of it: "no tension pneumothorax".
    stands_alone = end == len(raw) or raw[end] in NO_OBJECT or words[end] in CONNECTORS
    if end > start and stands_alone:
        words[start] = "#thing"
    return end


def _is_between(raw_word: str, word: str) -> bool:
    """Whether a word may stand between a cue and its object."""
    return raw_word in BETWEEN or word in MODIFIERS or raw_word.endswith("ly")


def _mark_given(raw: list[str], words: list[str], start: int) -> None:
    """'no calcification within the nodule' takes the nodule for granted: "#given" for its article."""
    for place in range(start, len(raw)):
        if raw[place] != "the" or words[place - 1] in ("and", "or", ",", "no", "for"):
            continue
        noun = place + 1
        while noun < len(raw) and (words[noun] in MODIFIERS or not words[noun]):
            noun += 1
        if noun < len(raw) and words[noun] in FINDINGS:
            words[place] = "#given"


def _mark_disease_before(raw: list[str], words: list[str], place: int) -> None:
    """'no tuberculous disease' denies that and no more: "#disease" for its name."""
    name = place - 1
    while name >= 0 and (words[name] in WIDE or raw[name] in BEFORE_DISEASE):
        name -= 1
    if name >= 0 and not words[name]:
        words[name] = "#disease"


def _mark_disease_behind(raw: list[str], words: list[str], place: int) -> None:
    """'no findings of sarcoidosis': "#disease" for the name behind the word."""
    name = place + 1
    if name == len(raw) or raw[name] not in LINKS:
        return
    while name < len(raw) and (words[name] in WIDE or raw[name] in AFTER_DISEASE):
        name += 1
    if name < len(raw) and not words[name]:
        words[name] = "#disease"
