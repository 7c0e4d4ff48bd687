"""The scope of each item of a sentence: whether what it names is asserted, denied, hedged or of the past.

A cue reaches from its place to the end of its clause; some reach backwards, as the answers of a structured report do
("Pneumothorax: none"). After NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009).
"""

from roi.sources.report_labeler.items import Item
from roi.sources.report_labeler.predicates import BREAKS, PREDICATES

# A clause behind them is theirs: "no evidence that there is ...".
BOUND = ("no", "maybe", "hint", "whether", "past", "which")
# No list goes on beyond them.
NEW_CUES = (*BREAKS, "there", "no", "none", "unseen", "doubt", "unclear", "maybe", ":")
LIGHT = ("degree", "new", "acute", "link")  # between a cue and its object
OBJECTS = ("finding", "part", "other", *PREDICATES)
FORWARD = (*OBJECTS, *LIGHT, "large", "skip")  # directly behind a cue: it does not reach backwards
HEADING_STARTS = (*BREAKS, ",", "unseen", "none", "normal", "part", "(", ":")  # before the first finding of a heading

# Kind of a cue -> the scope that it gives.
POINTING = {"no": "no", "none": "no", "maybe": "maybe", "hint": "maybe", "either": "maybe", "whether": "maybe"}
ANSWERS = ("no", "none", "maybe")  # those of them that may stand behind what they are about
BACKWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "maybe", "undone": "past"}
# The same cues where nothing has been named before them: "absence of edema", "cannot assess for edema".
FORWARDS = {"unseen": "no", "doubt": "maybe", "unproven": "maybe", "unclear": "past"}


def scopes_of(row: list[Item]) -> list[str]:
    """The scope of each item: "", "no", "maybe" or "past"."""
    return _ScopeReader(row).read()


def _up_to(kinds: list[str], kind: str) -> list[str]:
    """Those before the first of this kind; all where there is none."""
    return kinds[: kinds.index(kind)] if kind in kinds else kinds


def _asserts(kinds: list[str]) -> bool:
    """'No effusion, consolidation is present': a finding with a verb behind it."""
    if "finding" not in kinds:
        return False
    finding = kinds.index("finding")
    return "is" in kinds[finding:]


class _ScopeReader:
    """Reads a sentence from left to right.

    A clause begins after a word like "but", at the heading of a structured report, and at a comma or "and" behind which
    a new statement begins. A cue behind findings is about those since `subject`.
    """

    def __init__(self, row: list[Item]) -> None:
        self.row = row
        self.kinds = [item.kind for item in row]
        self.scopes: list[str] = []
        self.scope = ""  # that is open, and where it was opened
        self.opened = 0
        self.clause = self.subject = 0
        self.clause_opener = ""  # the kind of the word that began the clause
        self.verb = False  # one stands behind the subject
        self.given = False  # the next finding is taken for granted by what is denied
        self.headings: dict[int, int] = {}  # first item of a heading -> its colon

    def read(self) -> list[str]:
        self._find_headings()
        previous = ""
        for place, kind in enumerate(self.kinds):
            self._end_clause(place, kind, previous)
            self._apply_cue(place, kind, previous)
            self._follow_subject(place, kind)
            if kind == "finding":
                self._add_finding(place)
            else:
                self.scopes.append(self.scope)
            previous = kind
        for first, colon in self.headings.items():
            self._close_heading(first, colon)
        for place, kind in enumerate(self.kinds):
            if kind == "except":
                self._close_exception(place)
        return self.scopes

    def _add_finding(self, place: int) -> None:
        granted = self.given and self.scope == "no"
        self.scopes.append("" if granted else self.scope)
        self.given = False
        # A list of what was removed ends: "after drainage of the empyema a small effusion remains".
        if self.scope == "past" and self.kinds[self.opened] == "taken" and self._kind(place + 1) not in ("and", "or"):
            self.scope = ""

    def _kind(self, place: int) -> str:
        """The kind of the item at a place, "" behind the last one."""
        return self.kinds[place] if place < len(self.kinds) else ""

    def _places(self, kind: str, first: int, end: int) -> list[int]:
        """Of the items of this kind from `first` up to `end`."""
        return [place for place in range(first, end) if self.kinds[place] == kind]

    # Clauses

    def _end_clause(self, place: int, kind: str, previous: str) -> None:
        """Closes the scope where a new clause begins."""
        if place in self.headings:
            self._begin_clause(place)
        if kind in BREAKS or (kind == "there" and previous not in BOUND):
            self._begin_clause(place, kind)
        elif kind in (",", "and", "with"):
            if self.scope and self._starts_statement(place):
                self._begin_clause(place)
        elif kind in (":", "-"):
            if self.scope and "finding" in self.kinds[self.opened : place]:
                self._begin_clause(place)
        elif kind == "it":
            if previous in (",", "and"):
                self._begin_clause(place)
        elif kind == "it is":
            if previous not in BOUND:
                self._begin_clause(place)
        elif kind == "is" and previous == "part":
            self._end_scope_at_part(place)

    def _end_scope_at_part(self, place: int) -> None:
        """'No effusion, heart is enlarged', but 'neither lung shows an effusion'."""
        neither = self.kinds[max(place - 2, 0)] == "no"
        if not neither or "normal" in self.kinds[place:]:
            self.scope = ""

    def _begin_clause(self, place: int, kind: str = "") -> None:
        self.scope = ""
        self.subject = self.clause = place
        self.clause_opener = kind
        self.verb = False

    def _follow_subject(self, place: int, kind: str) -> None:
        """Keeps what a cue behind it is about, and whether a verb has followed."""
        if kind in ("is", ":", "unseen", "doubt"):
            self.verb = True
        elif self.verb and self._is_subject(place, kind):
            self.subject = place
            self.verb = False
        elif kind == "other":
            self.subject = place + 1
        elif kind == "given":
            so_far = set(self.kinds[self.opened : place])
            self.given = not so_far.isdisjoint(("finding", "other"))

    def _is_subject(self, place: int, kind: str) -> bool:
        """An exam is none: 'effusion, which was seen on the prior exam, is gone'."""
        return kind == "finding" or (kind == "part" and self.row[place].value != "chest")

    def _starts_statement(self, place: int) -> bool:
        """Whether behind this comma, "and" or "with" something new begins, and not more of what the scope is about."""
        kind = self.kinds[place]
        previous = self.kinds[place - 1]
        if self.scope == "past":
            return self._leaves_past(place)
        rest = self._up_to_next_cue(place)
        # "Effusion, no pneumothorax, and cardiomegaly": what counts stands behind "and".
        resumed = rest[:1] == ["and"]
        if resumed:
            rest = rest[1:]
        if not rest or "or" in _up_to(rest, "is"):
            return False
        if rest[0] in ("degree", "new"):  # "no edema, stable cardiomegaly"
            if kind == "and" and self.scope == "maybe":
                return False
            return previous not in ("no", "maybe", "hint", *LIGHT)
        if kind != ",":
            return False
        if previous == "abnormality" and self.scope == "no":  # "no acute disease, emphysema"
            return "finding" in rest
        in_scope = self.kinds[self.opened : place]
        if resumed and "," not in in_scope and self._findings_before(self.opened):
            return True
        # Behind a comma of a list a finding with a verb is the list's last one.
        is_list = "," in in_scope and "or" not in in_scope
        if is_list and self.clause_opener != "while":
            return False
        return _asserts(_up_to(rest, ","))

    def _leaves_past(self, place: int) -> bool:
        """'Status post resection, small effusion': the effusion is there now."""
        cue = self.kinds[self.opened]
        if cue not in ("post", "taken") or self.kinds[place] not in (",", "with"):
            return False
        rest = self.kinds[place:]
        return "finding" in rest or "part" in rest

    def _up_to_next_cue(self, place: int) -> list[str]:
        end = place + 1
        while end < len(self.kinds) and self.kinds[end] not in NEW_CUES:
            end += 1
        return self.kinds[place + 1 : end]

    # Cues

    def _apply_cue(self, place: int, kind: str, previous: str) -> None:
        if kind == "negative":
            self._open("no", place)
        elif kind in ("past", "post") or (kind == "taken" and self._object(place) == "finding"):
            self._open("past", place)
        elif kind == "versus":
            self._rescope(self._findings_before(place)[-1:], "maybe")
            self._point(place, "maybe", previous)
        elif kind in ANSWERS and self._is_answer(place, kind, previous):
            self._rescope(self._findings_before(place), POINTING[kind])
        elif kind in POINTING:
            self._point_from(place, kind, previous)
        elif kind in BACKWARDS:
            self._reach_back(place, kind, previous)

    def _open(self, scope: str, place: int) -> None:
        self.scope = scope
        self.opened = place

    def _point_from(self, place: int, kind: str, previous: str) -> None:
        ahead = [kind for kind in self.kinds[place + 1 : place + 4] if kind != "given"]
        if kind == "no" and ahead[:2] == ["enlarged", "finding"]:  # "no enlargement of the nodule"
            return
        if kind == "either" and "or" not in self.kinds[place:]:
            return
        if kind == "whether":
            self.scope = ""
        self._point(place, POINTING[kind], previous)

    def _point(self, place: int, scope: str, previous: str) -> None:
        """Opens a scope. Doubt within a denial is none: 'no findings to suggest pneumonia'."""
        if scope == "no" or self.scope in ("", "maybe") or previous in (",", "and"):
            self._open(scope, place)

    def _reach_back(self, place: int, kind: str, previous: str) -> None:
        findings = self._findings_before(place)
        ahead = self._object(place) in ("finding", "other")
        if findings:
            if previous in ("is", ":", "finding", "-") or not ahead:
                self._rescope(findings, BACKWARDS[kind], denials_too=kind == "unproven")
                return
        elif not ahead and self._takes_up(place):
            # "No pneumothorax, but a tiny one is not excluded".
            self._rescope(self._findings_before(self.clause, 0), BACKWARDS[kind], denials_too=True)
            return
        if kind == "undone":
            if ahead:
                self._open("past", place)
        elif self.scope != "no" or previous in (",", "and"):
            self._open(FORWARDS[kind], place)

    def _takes_up(self, place: int) -> bool:
        """'... but it has resolved', '... but is not seen': the clause is about what the one before it has said."""
        clause = self.kinds[self.clause : place]
        if "it" in clause:
            return True
        return clause[:1] == ["stop"] and set(clause[1:]) <= {"is"}

    def _rescope(self, findings: list[int], scope: str, denials_too: bool = False) -> None:
        """Changes the scope of findings before a cue; doubt changes those that a "no" denies only if `denials_too`."""
        after_operation = self.kinds[self.opened] == "post"
        for place in findings:
            old = self.scopes[place]
            if old == "past" and not (scope == "no" and after_operation):
                continue
            denied = old == "no" and "," not in self.kinds[self.opened : place]
            if scope == "maybe" and denied and not denials_too:
                continue
            self.scopes[place] = scope

    def _findings_before(self, place: int, first: int | None = None) -> list[int]:
        """The list of findings before a place: since the last comma, or all if "and" ends it or none is so near."""
        if first is None:
            first = self.subject
        findings = self._places("finding", first, place)
        near = first
        for comma in self._places(",", first, place):
            if self._kind(comma + 1) != "which":
                near = comma
        since_comma = [finding for finding in findings if finding >= near]
        joined = not {"and", "or"}.isdisjoint(self.kinds[near:place])
        return findings if joined or not since_comma else since_comma

    def _object(self, place: int) -> str:
        """The kind of what a cue points at, "" if it is nothing; of 'right lower lobe nodule' it is the nodule."""
        target = ""
        for kind in self.kinds[place + 1 :]:
            if target not in ("", "part"):
                break
            if kind in OBJECTS:
                target = kind
            elif kind not in LIGHT:
                break
        return target

    def _is_answer(self, place: int, kind: str, previous: str) -> bool:
        """'pneumothorax: no', 'pneumonia may be present', 'nodule (?)', 'pneumonia, possibly'."""
        ahead = self._kind(place + 1)
        if ahead in FORWARD or not self._findings_before(place):
            return False
        if kind == "no" and previous == "is" and "unseen" in self.kinds[:place]:
            return False  # "the effusion has cleared, the consolidation has not"
        if previous == ",":
            return kind == "none" or (kind == "maybe" and ahead == "")
        if previous == "degree":
            return kind == "maybe"
        return previous in ("is", ":", "-", "(", "finding", "unseen")

    # What is known only at the end

    def _find_headings(self) -> None:
        for place, kind in enumerate(self.kinds):
            if kind in (":", "-"):
                first = self._heading_start(place)
                if first is not None:
                    self.headings[first] = place

    def _heading_start(self, colon: int) -> int | None:
        """Where the findings before a colon begin; None if they are no heading."""
        first = colon
        while first and self.kinds[first - 1] in ("finding", "or", "and", *LIGHT):
            first -= 1
        if first and self.kinds[first - 1] not in HEADING_STARTS:
            return None
        return first if "finding" in self.kinds[first:colon] else None

    def _close_heading(self, first: int, colon: int) -> None:
        """A heading says nothing where its finding is named again: 'Effusion: no effusion'."""
        end = colon + 1
        while end < len(self.kinds) and self.kinds[end] not in BREAKS and end not in self.headings:
            end += 1
        named_again = self._findings(colon, end)
        for place in self._places("finding", first, colon):
            if self._findings(place, place + 1) <= named_again:
                self.scopes[place] = "past"

    def _findings(self, start: int, end: int) -> set[int]:
        """What items from `start` up to `end` name, as indices of LABELS."""
        findings: set[int] = set()
        for place in self._places("finding", start, end):
            findings.update(self.row[place].value[0])
        return findings

    def _close_exception(self, place: int) -> None:
        """'No nodule except a granuloma', 'clear except for the left base': what was said before does not hold."""
        excepted = self._findings(place, len(self.row))
        statements = ("finding", *PREDICATES)
        before = [n for n in range(place) if self.kinds[n] in statements]
        for n in before:
            if self.scopes[n] == "no" and excepted & self._findings(n, n + 1):
                self.scopes[n] = "past"
        # "No consolidation except in the lingula" asserts it there.
        names_nothing = {"finding", "other", "no", *PREDICATES}.isdisjoint(self.kinds[place:])
        if before and names_nothing:
            last = before[-1]
            self.scopes[last] = "" if self.kinds[last] == "finding" else "past"
