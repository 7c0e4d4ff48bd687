"""The scope of each item of a sentence, and what a predicate is said of.

A cue reaches from its place to the end of its clause; some reach backwards, as the answers of a structured report do
("Pneumothorax: none"). After NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009).
"""

from roi.sources.report_text import Item

PREDICATES = ("normal", "enlarged", "abnormality")
BREAKS = ("stop", "while", "except")  # they end a clause
# A clause behind them is theirs: "no evidence that there is ...".
BOUND = ("no", "maybe", "hint", "whether", "past", "which")
NEW_CUES = (*BREAKS, "there", "no", "none", "unseen", "doubt", "unclear", "maybe", ":")  # no list goes on beyond them
LIGHT = ("degree", "new", "acute", "link")  # between a cue and its object
OBJECTS = ("say", "part", "other", *PREDICATES)
FORWARD = (*OBJECTS, *LIGHT, "large", "skip")  # directly behind a cue: it does not reach backwards

# Kind of a cue -> the scope that it gives.
POINTING = {"no": "no", "none": "no", "maybe": "maybe", "hint": "maybe", "either": "maybe", "whether": "maybe"}
ANSWERS = ("no", "none", "maybe")  # those of them that may stand behind what they are about
BACKWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "maybe", "undone": "past"}
# The same cues where nothing has been said before them: "absence of edema", "cannot assess for edema".
FORWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "past"}


def scopes_of(row: list[Item]) -> list[str]:
    """The scope of each item: "", "no", "maybe" or "past"."""
    return _Reader(row).read()


class _Reader:
    """Reads a sentence from left to right.

    A clause begins after a word like "but", at the heading of a structured report, and at a comma or "and" behind which
    a new statement begins. A cue behind findings is about those since `subject`.
    """

    def __init__(self, row: list[Item]) -> None:
        self.row = row
        self.kinds = [kind for kind, _ in row]
        self.scopes: list[str] = []
        self.scope = ""  # that is open, and where it was opened
        self.opened = 0
        self.clause = self.subject = 0
        self.began_with = ""  # the kind of the word that began the clause
        self.verb = False  # one stands behind the subject
        self.given = False  # the next finding is taken for granted by what is denied
        self.headings: dict[int, int] = {}  # first item of a heading -> its colon

    def read(self) -> list[str]:
        for place, kind in enumerate(self.kinds):
            if kind in (":", "-") and (first := self._heading(place)) is not None:
                self.headings[first] = place
        for place, kind in enumerate(self.kinds):
            before = self.kinds[place - 1] if place else ""
            self._boundary(place, kind, before)
            self._cue(place, kind, before)
            self._follow_subject(place, kind)
            granted = kind == "say" and self.given and self.scope == "no"
            self.scopes.append("" if granted else self.scope)
            self.given = self.given and kind != "say"
            if kind == "say" and self._taken(place):
                self.scope = ""
        for first, colon in self.headings.items():
            self._close_heading(first, colon)
        self._close_exceptions()
        return self.scopes

    # Clauses

    def _boundary(self, place: int, kind: str, before: str) -> None:
        if place in self.headings:
            self._begin(place)
        if kind in BREAKS or (kind == "there" and before not in BOUND):
            self._begin(place, kind)
        elif kind in (",", "and", "with"):
            if self.scope and self._new_statement(place):
                self._begin(place)
        elif kind in (":", "-"):
            if self.scope and "say" in self.kinds[self.opened : place]:
                self._begin(place)
        elif (kind == "it" and before in (",", "and")) or (kind == "it is" and before not in BOUND):
            self._begin(place)
        elif kind == "is" and before == "part":
            # "no effusion, heart is enlarged", but "neither lung shows an effusion"
            neither = self.kinds[max(place - 2, 0)] == "no" and "normal" not in self.kinds[place:]
            self.scope = self.scope if neither else ""

    def _taken(self, place: int) -> bool:
        """Whether a list of what was removed ends: 'after drainage of the empyema a small effusion remains'."""
        listed = self.kinds[place + 1 : place + 2] in (["and"], ["or"])
        return self.scope == "past" and self.kinds[self.opened] == "taken" and not listed

    def _begin(self, place: int, kind: str = "") -> None:
        self.scope = ""
        self.subject = self.clause = place
        self.verb, self.began_with = False, kind

    def _follow_subject(self, place: int, kind: str) -> None:
        if kind in ("is", ":", "unseen", "doubt"):
            self.verb = True
        elif self.verb and (kind == "say" or (kind == "part" and self.row[place][1] != "chest")):
            # an exam is no subject: "effusion, which was seen on the prior exam, is gone"
            self.subject, self.verb = place, False
        elif kind == "other":
            self.subject = place + 1
        elif kind == "given":
            self.given = bool({"say", "other"} & set(self.kinds[self.opened : place]))

    def _new_statement(self, place: int) -> bool:
        """Whether behind this comma, "and" or "with" something new begins, and not more of what the scope is about."""
        kinds = self.kinds
        if self.scope == "past":
            passing = kinds[self.opened] in ("post", "taken") and kinds[place] in (",", "with")
            return passing and not {"say", "part"}.isdisjoint(kinds[place:])
        rest = self._up_to_next_cue(place)
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
        return states and ("," not in so_far or "or" in so_far or self.began_with == "while")

    def _up_to_next_cue(self, place: int) -> list[str]:
        end = place + 1
        while end < len(self.kinds) and self.kinds[end] not in NEW_CUES:
            end += 1
        return self.kinds[place + 1 : end]

    # Cues

    def _cue(self, place: int, kind: str, before: str) -> None:
        if kind == "negative":
            self._open("no", place)
        elif kind in ("past", "post") or (kind == "taken" and self._object(place) == "say"):
            self._open("past", place)
        elif kind == "versus":
            self._give(self._said(place)[-1:], "maybe", place)
            self._point(place, "maybe", before)
        elif kind in ANSWERS and self._is_answer(place, kind, before):
            self._give(self._said(place), POINTING[kind], place)
        elif kind in POINTING:
            self._point_from(place, kind, before)
        elif kind in BACKWARDS:
            self._reach_back(place, kind, before)

    def _open(self, scope: str, place: int) -> None:
        self.scope, self.opened = scope, place

    def _point_from(self, place: int, kind: str, before: str) -> None:
        ahead = [kind for kind in self.kinds[place + 1 : place + 4] if kind != "given"]
        if kind == "no" and ahead[:2] == ["enlarged", "say"]:  # "no enlargement of the nodule"
            return
        if kind == "either" and "or" not in self.kinds[place:]:
            return
        if kind == "whether":
            self.scope = ""
        self._point(place, POINTING[kind], before)

    def _point(self, place: int, scope: str, before: str) -> None:
        """Doubt within a denial is none: 'no findings to suggest pneumonia'."""
        if scope == "no" or self.scope in ("", "maybe") or before in (",", "and"):
            self._open(scope, place)

    def _reach_back(self, place: int, kind: str, before: str) -> None:
        said = self._said(place)
        ahead = self._object(place) in ("say", "other")
        if said and (before in ("is", ":", "say", "-") or not ahead):
            self._give(said, BACKWARDS[kind], None if kind == "unproven" else place)
        elif not said and not ahead and self._takes_up(place):
            # "no pneumothorax, but a tiny one is not excluded"
            self._give(self._said(self.clause, 0), BACKWARDS[kind], None)
        elif kind == "undone":
            if ahead:
                self._open("past", place)
        elif kind in FORWARDS and (self.scope != "no" or before in (",", "and")):
            self._open(FORWARDS[kind], place)

    def _takes_up(self, place: int) -> bool:
        """'... but it has resolved', '... but is not seen': the clause is about what the one before it has said."""
        clause = self.kinds[self.clause : place]
        return "it" in clause or (clause[:1] == ["stop"] and set(clause[1:]) <= {"is"})

    def _give(self, said: list[int], scope: str, cue: int | None) -> None:
        """Changes the scope of findings before a cue; where its place is given, not of those that a "no" denies."""
        for n in said:
            denied = self.scopes[n] == "no" and cue is not None and "," not in self.kinds[self.opened : n]
            past = self.scopes[n] == "past" and not (scope == "no" and self.kinds[self.opened] == "post")
            if not past and not (scope == "maybe" and denied):
                self.scopes[n] = scope

    def _said(self, place: int, first: int | None = None) -> list[int]:
        """The list of findings before a place: since the last comma, or all if "and" ends it or none is so near."""
        first = self.subject if first is None else first
        commas = [n for n in range(first, place) if self.kinds[n] == "," and self.kinds[n + 1 : n + 2] != ["which"]]
        near = commas[-1] if commas else first
        said = [n for n in range(first, place) if self.kinds[n] == "say"]
        last = [n for n in said if n >= near]
        ended = {"and", "or"} & set(self.kinds[near:place])
        return said if ended or not last else last

    def _object(self, place: int) -> str:
        """The kind of what a cue points at, "" if it is nothing; of 'right lower lobe nodule' it is the nodule."""
        found = ""
        for kind in self.kinds[place + 1 :]:
            if kind not in (*OBJECTS, *LIGHT) or found not in ("", "part"):
                break
            found = kind if kind in OBJECTS else found
        return found

    def _is_answer(self, place: int, kind: str, before: str) -> bool:
        """'pneumothorax: no', 'pneumonia may be present', 'nodule (?)', 'pneumonia, possibly'."""
        ahead = self.kinds[place + 1] if place + 1 < len(self.kinds) else ""
        if ahead in FORWARD or not self._said(place):
            return False
        if kind == "no" and before == "is" and "unseen" in self.kinds[:place]:
            return False  # "the effusion has cleared, the consolidation has not"
        if before == ",":
            return kind == "none" or (kind == "maybe" and ahead == "")
        return before in ("is", ":", "-", "(", "say", "unseen") or (before == "degree" and kind == "maybe")

    # What is known only at the end

    def _heading(self, colon: int) -> int | None:
        """Where the findings before a colon begin; None if they are no heading."""
        first = colon
        while first and self.kinds[first - 1] in ("say", "or", "and", *LIGHT):
            first -= 1
        before = (*BREAKS, ",", "unseen", "none", "normal", "part", "(", ":")
        stands_free = first == 0 or self.kinds[first - 1] in before
        return first if stands_free and "say" in self.kinds[first:colon] else None

    def _close_heading(self, first: int, colon: int) -> None:
        """A heading says nothing where its finding is named again: 'Effusion: no effusion'."""
        breaks = [place for place, kind in enumerate(self.kinds) if kind in BREAKS]
        end = min((place for place in (*self.headings, *breaks) if place > colon), default=len(self.kinds))
        again = self._findings(colon, end)
        for n in range(first, colon):
            if self.kinds[n] == "say" and again >= self._findings(n, n + 1):
                self.scopes[n] = "past"

    def _findings(self, start: int, end: int) -> set[int]:
        return {finding for kind, value in self.row[start:end] if kind == "say" for finding in value[0]}

    def _close_exceptions(self) -> None:
        """'No nodule except a granuloma', 'clear except for the left base': what was said before does not hold."""
        for place, kind in enumerate(self.kinds):
            if kind != "except":
                continue
            held = [n for n in range(place) if self.kinds[n] in ("say", *PREDICATES)]
            excepted = self._findings(place, len(self.row))
            for n in held:
                if self.scopes[n] == "no" and excepted & self._findings(n, n + 1):
                    self.scopes[n] = "past"
            # "no consolidation except in the lingula" asserts it there
            if held and not {"say", "other", "no", *PREDICATES} & set(self.kinds[place:]):
                self.scopes[held[-1]] = "" if self.kinds[held[-1]] == "say" else "past"


def meetings(row: list[Item]) -> list[tuple[int, list[str]]]:
    """The places of the predicates in a row, each with the parts of the body that it is said of.

    Those are the parts before it if a verb or at least no comma stands between ("heart and lungs are normal"),
    otherwise those after it, up to the next verb, finding or predicate ("normal heart size, clear lungs").
    """
    meetings: list[tuple[int, list[str]]] = []
    parts: list[str] = []  # that have met no predicate
    open_ = False  # the last predicate takes what follows
    linked = apart = False  # a verb; a comma or "and" since the last part
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
            if set(met) == {"chest"} and [kind for kind, _ in row[place + 1 : place + 2]] == ["part"]:
                met = []  # "views of the chest show normal heart size"
            meetings.append((place, met))
            parts, open_, linked, apart = [], not met, False, False
        elif kind == "say":
            if open_ and not apart and (not meetings[-1][1] or row[meetings[-1][0]][0] == "abnormality"):
                meetings.pop()  # "findings of pneumonia", "findings of lung edema": a word about the finding
            parts, open_ = [], False
        elif kind == ":" and row[place + 1 : place + 2] and row[place + 1][0] == "part":
            parts, open_, linked = [], False, False  # "Chest: the heart is normal": not the chest
        elif kind in ("is", ":"):
            # "normal heart size, lungs are": the lungs begin anew
            parts = [meetings[-1][1].pop()] if open_ and before == "part" else parts
            open_, linked = False, bool(parts)
        elif kind in BREAKS or kind == "there":
            parts, open_, linked = [], False, False
        apart = apart or kind in (",", "(", "and", "or", "with")
        before = kind
    return meetings
