"""Radiology reports -> cells of the 14 findings: what is asserted, denied, hedged, or not mentioned. No model, no random numbers.

A sentence is read word by word. Words that no rule knows are dropped (the XXXX of a de-identified text too), the others lose their endings, and the
longest phrases among them become items (roi/report_vocabulary.py): a finding is said, a cue opens a scope, a part of the body meets "normal" or
"enlarged". The scopes are those of NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a cue reaches to the end of its clause; some reach
backwards, as the answers of a structured report do ("Pneumothorax: none").

- PRESENT: said outside any scope. Also "consistent with", "probable", "borderline enlarged", "A or B": people who coded such reports took them as present.
- UNCERTAIN: "possible", "may", "suggests", "suspicious for", "versus", "favor", "cannot be excluded", "cannot be assessed" ...
- ABSENT: denied or resolved, or covered by a normal statement (COVERS): a normal heart, clear lungs, no acute disease ...
- COARSE: a wider or neighbouring word is asserted: an opacity is not by itself an infiltrate, a granuloma not by itself a nodule.
- BLANK: none of these; what is recommended, looked for, removed or a matter of history is not mentioned.

Within a section PRESENT > UNCERTAIN > denied > COARSE > covered. What the impression asserts, hedges or denies outranks the findings.
Letters: N reports, K = 14 findings, S sentences of all reports, U different ones.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from roi import report_vocabulary as vocabulary
from roi.cells import ABSENT, BLANK, COARSE, PRESENT, UNCERTAIN
from roi.labels import LABELS
from roi.report_vocabulary import ACUTE, ADJUNCTS, FILLERS, GENERAL, known, phrases

NOTHING, COVERED, NEAR, DENIED, HEDGED, SAID = range(6)  # what a sentence says of a finding; the higher outranks within a section
CODES = np.array([BLANK, ABSENT, COARSE, ABSENT, UNCERTAIN, PRESENT], dtype=np.int8)

ABOUT = ("say", "negative", "part", "abnormality")  # kinds without which a sentence says nothing of the 14
PREDICATES = ("normal", "enlarged", "abnormality")
BREAKS = ("stop", "while", "except")  # they end a clause
ENDS = ("", *BREAKS, "there", ",", "(", ":", "-", "and", "or", "with", "which", "is")
BACKWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "maybe", "undone": "past"}  # kind -> the scope that it gives
FORWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "past"}  # where nothing has been said before it
NEW_CUES = (*BREAKS, "there", "no", "none", "unseen", "doubt", "unclear", "maybe", ":")  # no list goes on beyond them
BOUND = ("no", "maybe", "hint", "whether", "past", "which")  # a clause behind them is theirs: "no evidence that there is ..."
OBJECTS = ("say", "part", "other", *PREDICATES, "large", "degree", "new", "acute", "link", "skip")  # behind a cue: it reaches forward
LIGHT = ("degree", "new", "acute", "link")  # between a cue and its object

WRAPPED = re.compile(r"\s*\n\s*(?=[a-z]|\d+(?:\.\d+)?(?![.)\d]))")  # before a small letter or a number that does not number a list
HEADING = re.compile(r":[ \t]*\r?\n\s*(?![^\n:.]{1,40}:)")  # its text stands on the next line
LEADER = re.compile(r"(?:\.{3,}|_{2,})[ \t]*(?=\w)")  # "Pneumothorax ...... none"
NUMBER_NONE = re.compile(r":[ \t]*0(?![\d.])")
ANSWERED = re.compile(r"\?\s*(?=(?:no|none|negative|absent)\b)", re.IGNORECASE)  # "Pneumonia? No"
# "No pneumothorax. A tiny one cannot be excluded", "the effusion has cleared; the consolidation has not"
TAKEN_UP = re.compile(r"[.;](?=\s+(?:an?|the|very|tiny|small|another|subtle|minimal|\s)+one\b|[^.;\n]*\b(?:has|have) not\s*(?:[.;\n]|$))", re.IGNORECASE)
DOTTED = re.compile(r"\b(pl|eff|vs|approx)\.(?=\s*(?:[,a-z]|OR|AND|EFF|Eff))", re.IGNORECASE)
SENTENCE_ENDS = ";!\n\r"
DECIMAL = re.compile(r"\.(?<=\d\.)(?=\d)")  # begins with the point: quick to search for
WORD = re.compile(r"[a-z]+|[,:()-]")
DASH = re.compile(r"\s-+\s|=")
SHORTER = re.compile("|".join(rf"\b{re.escape(short)}" for short in sorted(vocabulary.SHORTER, key=len, reverse=True)))


def label_reports(findings: Sequence[str], impressions: Sequence[str]) -> np.ndarray:
    """Two sections of each report, "" where one is missing -> cells (N, K) int8. ValueError if there are not as many of one as of the other."""
    if len(findings) != len(impressions):
        raise ValueError(f"{len(findings)} findings and {len(impressions)} impressions; a report has one of each, empty where it is missing")
    levels = _levels([*findings, *impressions])
    found, concluded = levels[: len(findings)], levels[len(findings) :]
    return CODES[np.where(concluded >= DENIED, concluded, np.maximum(found, concluded))]


def _levels(texts: Sequence[str]) -> np.ndarray:
    """-> (len(texts), K) int8: the highest level that a sentence of each gives a finding. A sentence is read once, however often it occurs."""
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
    levels = np.frombuffer(b"".join(table), dtype=np.int8).reshape(-1, len(LABELS))[np.array(said, dtype=np.intp)]  # (S, K)
    return np.maximum.reduceat(levels, starts) if starts else levels


# Text -> sentences -> the words that count


def sentences(text: str) -> list[str]:
    """In lower case, at least one. A line that goes on in lower case does not end a sentence, nor does the point in 1.5 or behind vs. or pl."""
    if "\n" in text:
        text = WRAPPED.sub(" ", HEADING.sub(": ", text))
    if ".." in text or "__" in text:
        text = LEADER.sub(": ", text)
    if ": 0" in text:
        text = NUMBER_NONE.sub(": none", text)
    if "?" in text:
        text = ANSWERED.sub(": ", text)
        text = re.sub(r"(?<=\w)\?", " question.", text).replace("?", " question ")
    if not text.isascii():
        text = re.sub("[\u2010-\u2015\u2212]", " - ", text)
    if " one " in text or "ve not" in text or "as not" in text:
        text = TAKEN_UP.sub(" but", text)
    text = DOTTED.sub(r"\1", text).lower()
    for end in SENTENCE_ENDS:
        if end in text:
            text = text.replace(end, ".")
    return DECIMAL.sub("", text).split(".")


def signature(sentence: str) -> str:
    """A sentence in lower case -> the words of it that rules know, without their endings: 'there are no xxxx effusions' -> 'there is no effusion'.

    "" where none of them is about one of the 14."""
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
    if "pulmonary" in raw and not {"normal", "unremarkable"}.isdisjoint(words):
        _mark_parts(raw, words)
    if not OPENERS.isdisjoint(words):
        _mark_things(raw, words)
    left = " ".join(filter(None, words)).replace(" is is", " is")
    return PREPOSITION.sub("", left) if " of" in left or " for" in left else left


def _spelled_out(sentence: str) -> str:
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
    if "can not" in sentence:
        sentence = sentence.replace("can not", "cannot")
    return sentence


def _mark_parts(raw: list[str], words: list[str]) -> None:
    """The noun of 'heart and pulmonary XXXX are normal' has been removed: this is not about the lungs."""
    for place, word in enumerate(raw):
        following = next(filter(None, words[place + 1 :]), "")
        if word == "pulmonary" and following in NO_NOUNS:
            words[place] = "#part"


def _mark_things(raw: list[str], words: list[str]) -> None:
    """Put "#thing" where a cue, "#disease" where an "... disease" is about something that has no name here: 'no midline shift', 'no tuberculous disease'."""
    for place, word in enumerate(words):
        if word in CUE_WORDS:
            end = place + 1
            while end < len(raw) and (raw[end] in FILLERS or raw[end] in GENERAL or words[end] in MODIFIERS or raw[end].endswith("ly")):
                end += 1
            if word == "not" and raw[place + 1 : place + 2] and raw[place + 1] in ADJUNCTS:
                words[place + 1] = "#thing"  # "the pneumothorax is not under tension"
            thing = end
            while end < len(raw) and not words[end] and raw[end] not in FILLERS | ADJUNCTS:
                end += 1
            if end > thing and (end == len(raw) or raw[end] in FILLERS | ADJUNCTS or words[end] in CONNECTORS):
                words[thing] = "#thing"
            if word == "no":
                _mark_given(raw, words, end)
        elif word in ("abnormality", "disease", "process"):
            before = place - 1
            while before >= 0 and (words[before] in WIDE or raw[before] in FILLERS | GENERAL | ADJUNCTS):
                before -= 1
            if before >= 0 and not words[before]:
                words[before] = "#disease"
            after = place + 1
            if after < len(raw) and raw[after] in LINKS:
                while after < len(raw) and (raw[after] in FILLERS or words[after] in WIDE or raw[after] in GENERAL | LINKS):
                    after += 1
                if after < len(raw) and not words[after]:
                    words[after] = "#disease"


def _mark_given(raw: list[str], words: list[str], start: int) -> None:
    """Put "#given" for the "the" of a finding that a denial takes for granted: 'no calcification within the nodule'."""
    for place in range(start, len(raw)):
        if raw[place] == "the" and words[place - 1] not in ("and", "or", ",", "no", "for"):
            ahead = place + 1
            while ahead < len(raw) and (words[ahead] in MODIFIERS or not words[ahead]):
                ahead += 1
            if ahead < len(raw) and words[ahead] in SAID_ALONE:
                words[place] = "#given"


def _items() -> dict[str, tuple[str, Any]]:
    """Each phrase -> its kind and what is to be known of it: of a finding its places, its level where asserted, and each place's level where denied."""
    lines: list[tuple[str, str, Any]] = []
    for words, asserted, denied in (
        (vocabulary.FINDINGS, SAID, DENIED), (vocabulary.WIDER, NEAR, COVERED), (vocabulary.NEIGHBOURS, NEAR, NOTHING),
    ):  # fmt: skip
        lines += [(p, "say", (_places(f), asserted, [denied] * len(f))) for p, f in words.items()]
    lines += [(p, "say", (_places(f), NEAR, [COVERED] + [NOTHING] * (len(f) - 1))) for p, f in vocabulary.SHAPED.items()]
    lines += [(p, "negative", None) for p in vocabulary.NEGATIVE]
    lines += [(p, "other", None) for p in vocabulary.OTHERS]
    lines += [(p, "part", name) for name, patterns in vocabulary.PARTS.items() for p in patterns]
    lines += [(p, kind, None) for kind, patterns in vocabulary.CUES.items() for p in patterns]
    return {phrase: (kind, value) for pattern, kind, value in lines for phrase in phrases(pattern)}


def _places(findings: Iterable[str]) -> list[int]:
    return [LABELS.index(finding) for finding in findings]


def _lengths() -> dict[str, list[int]]:
    """The first word of a phrase -> the numbers of words of the phrases that begin so, longest first."""
    lengths: dict[str, set[int]] = {}
    for phrase in ITEMS:
        words = phrase.split()
        lengths.setdefault(words[0], set()).add(len(words))
    return {first: sorted(numbers, reverse=True) for first, numbers in lengths.items()}


def _words_of(*kinds: str) -> set[str]:
    return {phrase for phrase, (kind, _) in ITEMS.items() if kind in kinds and " " not in phrase}


ITEMS = _items()
LENGTHS = _lengths()
SUBJECTS = {word for phrase, (kind, part) in ITEMS.items() if kind in ABOUT and part != "other" for word in phrase.split()}
SUBJECTS -= {"is", "and", "or", "side"}
PREPOSITION = re.compile(r" (?:of|for)\b" + "".join(f"(?<!{p})" for p in ITEMS if p.endswith((" of", " for"))))
COVERED_BY = {part: _places(findings) for part, findings in vocabulary.COVERS.items()}
HEART = LABELS.index("Cardiomegaly")
CUE_WORDS = _words_of("no", "maybe", "unseen") | {"drainage", "removal", "resection", "treatment"}
OPENERS = CUE_WORDS | {"abnormality", "disease", "process"}
SAID_ALONE = _words_of("say")
MODIFIERS = _words_of("degree", "acute") | {"side", "seen", "certain", "of", "for"}
WIDE = MODIFIERS | {"lung", "pleural", "cardiopulmonary", "intrathoracic", "chest", "heart", "vascular", "bone", "exam"}
NO_NOUNS = _words_of("is", ",", "and", "or", "normal", "with", "(") | {""}
CONNECTORS = _words_of(*ENDS) | {"of", "for", "suggest"}
# between "findings" and what they are of
LINKS = {"of", "to", "suggest", "suggesting", "suggestive", "indicate", "for", "consistent", "compatible"}


def matches(words: Sequence[str]) -> Iterator[tuple[int, int, tuple[str, Any]]]:
    """The longest phrases among the words of a signature, from left to right -> (place, words, item); words that are none by themselves are passed over."""
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


# Scopes


class Scopes:
    """Gives each item of a sentence the scope that it stands in: "", "no", "maybe" or "past".

    Read from left to right. A clause begins after a word like "but", at the heading of a structured report, and at a comma or "and" behind which
    a new statement begins. `subject` is where the findings begin that a cue behind them is about.
    """

    def __init__(self, row: list[tuple[str, Any]]) -> None:
        self.row = row
        self.kinds = [kind for kind, _ in row]
        self.scopes: list[str] = []
        self.scope = ""
        self.opened = 0  # where the scope began
        self.subject = 0
        self.verb = False  # one has been read since `subject`
        self.after = ""  # the word that began the clause: "while", "except" ...
        self.clause = 0
        self.given = False  # the next finding is not what is denied

    def read(self) -> list[str]:
        self.headings = {self._heading(place): place for place, kind in enumerate(self.kinds) if kind in (":", "-")}
        for place, kind in enumerate(self.kinds):
            before = self.kinds[place - 1] if place else ""
            if self.headings.get(place):
                self._begin(place)
            if kind in BREAKS or (kind == "there" and before not in BOUND):
                self._begin(place, kind)
            elif kind in (",", "and", "with") and self.scope and self._new_statement(place):
                self._begin(place)
            elif (kind == "it" and before in (",", "and")) or (kind == "it is" and before not in BOUND):
                self._begin(place)
            elif kind == "is" and before == "part" and (self.kinds[place - 2] != "no" or "normal" in self.kinds[place:]):
                self._end_scope()  # but "neither lung shows ..."
            elif kind in (":", "-") and self.scope and "say" in self.kinds[self.opened : place]:
                self._begin(place)
            self._cue(place, kind, before)
            if kind in ("is", ":", "unseen", "doubt"):
                self.verb = True
            elif kind in ("say", "part") and self.verb:
                self.subject, self.verb = place, False
            elif kind == "other":
                self.subject = place + 1
            if kind == "given":
                self.given = bool({"say", "other"} & set(self.kinds[self.opened : place]))
            taken_for_granted = kind == "say" and self.given and self.scope == "no"
            self.scopes.append("" if taken_for_granted else self.scope)
            self.given = self.given and kind != "say"
        for first, colon in self.headings.items():
            self._close_heading(first, colon)
        self._close_exceptions()
        return self.scopes

    def _begin(self, place: int, word: str = "") -> None:
        self._end_scope()
        self.subject = self.clause = place
        self.verb, self.after = False, word

    def _end_scope(self) -> None:
        self.scope = ""

    def _open(self, scope: str, place: int) -> None:
        self.scope, self.opened = scope, place

    def _cue(self, place: int, kind: str, before: str) -> None:
        if kind == "negative":
            self._open("no", place)
        elif kind in ("past", "post") or (kind == "taken" and self._object(place) == "say"):
            self._open("past", place)
        elif kind in ("no", "none", "maybe", "hint", "versus", "either", "whether"):
            scope = "no" if kind in ("no", "none") else "maybe"
            if kind == "whether":
                scope, self.scope = "maybe", ""
            if kind == "versus" or (kind in ("no", "none", "maybe") and self._answers(place, kind, before)):
                said = self._said(place)
                self._give(said[-1:] if kind == "versus" else said, scope, place)
                if kind != "versus":
                    return
            if kind == "no" and [k for k in self.kinds[place + 1 : place + 4] if k != "given"][:2] == ["enlarged", "say"]:
                return
            if kind == "either" and "or" not in self.kinds[place:]:
                return
            if scope == "no" or self.scope in ("", "maybe") or before in (",", "and"):
                self._open(scope, place)
        elif kind in BACKWARDS:
            said = self._said(place)
            ahead = self._object(place) in ("say", "other")
            if said and not (ahead and before not in ("is", ":", "say", "-")):
                self._give(said, BACKWARDS[kind], -1 if kind == "unproven" else place)
            elif not said and not ahead and "it" in self.kinds[self.clause : place]:
                self._give(self._said(self.clause, 0), BACKWARDS[kind], -1)
            elif kind != "undone" and (self.scope != "no" or before in (",", "and")):
                self._open(FORWARDS[kind], place)

    def _give(self, said: list[int], scope: str, cue: int) -> None:
        """A cue behind findings: doubt of what a "no" just before denies is none."""
        for n in said:
            denied = self.scopes[n] == "no" and cue >= 0 and "," not in self.kinds[self.opened : n]
            past = self.scopes[n] == "past" and not (scope == "no" and self.kinds[self.opened] == "post")
            if not past and not (scope == "maybe" and denied):
                self.scopes[n] = scope

    def _said(self, place: int, first: int | None = None) -> list[int]:
        """The findings of the list before a place: those since the last comma, all of them if "and" or "or" ends the list or none is so near."""
        first = self.subject if first is None else first
        commas = [n for n in range(first, place) if self.kinds[n] == "," and self.kinds[n + 1 : n + 2] != ["which"]]
        near = commas[-1] if commas else first
        said = [n for n in range(first, place) if self.kinds[n] == "say"]
        last = [n for n in said if n >= near]
        ended = {"and", "or"} & set(self.kinds[near:place])
        return said if ended or not last else last

    def _object(self, place: int) -> str:
        """The kind of what a cue points at, "" if it points at nothing; of 'right lower lobe nodule' it is the nodule."""
        objects = ("say", "part", "other", *PREDICATES)
        found = ""
        for kind in self.kinds[place + 1 :]:
            if kind not in (*objects, *LIGHT) or found not in ("", "part"):
                break
            found = kind if kind in objects else found
        return found

    def _answers(self, place: int, kind: str, before: str) -> bool:
        """A cue that stands behind what it is about: 'pneumothorax: no', 'pneumonia may be present', 'nodule (?)', 'pneumonia, possibly'."""
        ahead = self.kinds[place + 1] if place + 1 < len(self.kinds) else ""
        if ahead in OBJECTS or not self._said(place):
            return False
        if kind == "no" and before == "is" and "unseen" in self.kinds[:place]:
            return False  # "the effusion has cleared, the consolidation has not"
        if before == "," and ((kind == "maybe" and ahead == "") or kind == "none"):
            return True
        return before in ("is", ":", "-", "(", "say", "unseen") or (before == "degree" and kind == "maybe")

    def _new_statement(self, place: int) -> bool:
        """Whether behind this comma, "and" or "with" the list of what the scope is about does not go on, but something else begins."""
        kinds = self.kinds
        if self.scope == "past":
            ends = kinds[self.opened] in ("post", "taken") and kinds[place] in (",", "with")
            return ends and bool({"say", "part"} & set(kinds[place:]))
        end = place + 1
        while end < len(kinds) and kinds[end] not in NEW_CUES:
            end += 1
        rest = kinds[place + 1 : end]
        resumed = rest[:1] == ["and"]
        rest = rest[resumed:]
        verb = rest.index("is") if "is" in rest else len(rest)
        if not rest or "or" in rest[:verb]:
            return False
        if rest[0] in ("degree", "new"):  # "no edema, stable cardiomegaly"
            ends = (",", "with") if self.scope == "maybe" else (",", "and", "with")
            return kinds[place] in ends and kinds[place - 1] not in ("no", "maybe", "hint", *LIGHT)
        if kinds[place] != ",":
            return False
        if kinds[place - 1] == "abnormality" and self.scope == "no":  # "no acute disease, emphysema"
            return "say" in rest
        so_far = kinds[self.opened : place]
        if resumed and "," not in so_far and self._said(self.opened):  # "effusion, no pneumothorax, and cardiomegaly"
            return True
        segment = rest[: rest.index(",")] if "," in rest else rest
        states = "say" in segment and "is" in segment[segment.index("say") :]  # "no effusion, consolidation is present"
        return states and ("," not in so_far or "or" in so_far or self.after == "while")

    def _heading(self, colon: int) -> int:
        """Where the findings before a colon begin; -1 if they are no heading."""
        first = colon
        while first and self.kinds[first - 1] in ("say", "or", "and", *LIGHT):
            first -= 1
        stands_free = first == 0 or self.kinds[first - 1] in (*BREAKS, ",", "unseen", "normal", "part", "(", ":")
        return first if stands_free and "say" in self.kinds[first:colon] else -1

    def _close_heading(self, first: int, colon: int) -> None:
        """A heading says nothing where its finding is named again."""
        if first < 0:
            return
        later = [place for place in (*self.headings, *[n for n, k in enumerate(self.kinds) if k in BREAKS]) if place > colon]
        end = min(later, default=len(self.kinds))
        again = {n for kind, value in self.row[colon:end] if kind == "say" for n in value[0]}
        for n in range(first, colon):
            if self.kinds[n] == "say" and again.issuperset(self.row[n][1][0]):
                self.scopes[n] = "past"

    def _close_exceptions(self) -> None:
        """'No consolidation except in the lingula', 'clear except for the left base', 'no nodule except a granuloma': what was said before does not hold."""
        for place, kind in enumerate(self.kinds):
            if kind != "except":
                continue
            held = [n for n in range(place) if self.kinds[n] in ("say", *PREDICATES)]
            excepted = {n for kind, value in self.row[place:] if kind == "say" for n in value[0]}
            for n in held:
                if self.kinds[n] == "say" and self.scopes[n] == "no" and excepted & set(self.row[n][1][0]):
                    self.scopes[n] = "past"
            if held and not {"say", "other", "no", *PREDICATES} & set(self.kinds[place:]):
                self.scopes[held[-1]] = "" if self.kinds[held[-1]] == "say" else "past"


def meetings(row: list[tuple[str, Any]]) -> list[tuple[int, list[str]]]:
    """The places of the predicates in a row, each with the parts that it is said of: those before it if a verb or at least no comma stands between
    ("heart and lungs are normal"), otherwise those after it, up to the next verb, finding or predicate ("normal heart size, clear lungs")."""
    meetings: list[tuple[int, list[str]]] = []
    parts: list[str] = []  # that have met no predicate
    open_ = linked = apart = False  # the last predicate takes what follows; a verb, a comma or "and" since the last part
    before = ""
    for place, (kind, value) in enumerate(row):
        if kind == "-":
            kind = "," if open_ else "is"
        if kind == "part":
            (meetings[-1][1] if open_ else parts).append(value)
            apart = False
        elif kind == "abnormality" and before == "say":
            open_ = False  # "infectious process", "granulomatous disease": the finding has said it
        elif kind in PREDICATES or (kind == "large" and linked):
            met = parts if parts and (linked or not apart) else []
            meetings.append((place, met))
            parts, open_, linked, apart = [], not met, False, False
        elif kind == "say":
            if open_ and not apart and (not meetings[-1][1] or row[meetings[-1][0]][0] == "abnormality"):
                meetings.pop()  # "findings of pneumonia", "findings of lung edema": a word about the finding
            parts, open_ = [], False
        elif kind in ("is", ":"):
            parts = [meetings[-1][1].pop()] if open_ and before == "part" else parts  # "normal heart size, lungs are": the lungs begin anew
            open_, linked = False, bool(parts)
        elif kind in BREAKS or kind == "there":
            parts, open_, linked = [], False, False
        apart = apart or kind in (",", "(", "and", "or", "with")
        before = kind
    return meetings


# What a sentence says


def _read(text: str) -> bytes:
    """A signature -> the level of each finding, K bytes."""
    row = [item for _, _, item in matches(text.split())]
    scopes = Scopes(row).read()
    said = [COVERED if any(kind == "negative" for kind, _ in row) else NOTHING] * len(LABELS)
    for (kind, value), scope in zip(row, scopes, strict=True):
        if kind == "say":
            places, asserted, denied = value
            for n, if_denied in zip(places, denied, strict=True):
                level = {"": asserted, "maybe": min(asserted, HEDGED), "no": if_denied, "past": NOTHING}[scope]
                said[n] = max(said[n], level)
    since = 0
    for place, parts in meetings(row):
        modifiers = {kind for kind, _ in row[since:place]} & {"acute", "new"}
        for n, level in _judged(row[place][0], scopes[place], parts, modifiers):
            said[n] = max(said[n], level)
        since = place
    return bytes(said)


def _judged(predicate: str, scope: str, parts: list[str], modifiers: set[str]) -> Iterator[tuple[int, int]]:
    """What a predicate of these parts says -> (finding, level). The bones of the chest are not the chest."""
    if "nameless" in parts:
        return
    if "other" in parts:
        parts = [part for part in parts if part not in ("chest", "all")]
    if predicate == "abnormality" and scope == "no":
        if modifiers == {"new"}:
            return  # what is not new may well be there
        for part in parts or ["all"]:
            yield from ((n, COVERED) for n in COVERED_BY[part] if not modifiers or LABELS[n] in ACUTE)
    elif predicate == "normal" and scope in ("", "maybe"):
        for part in parts:
            yield from ((n, DENIED if n == HEART else COVERED) for n in COVERED_BY[part])
    elif predicate in ("enlarged", "large") and {"heart", "mediastinum"} & set(parts):
        levels = {"": SAID, "maybe": HEDGED, "no": DENIED} if "heart" in parts else {"": NEAR, "maybe": NEAR, "no": DENIED}
        yield HEART, levels.get(scope, NOTHING)
