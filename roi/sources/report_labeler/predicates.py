"""What "normal", "enlarged" and "abnormality" are said of: the parts of the body that a predicate takes."""

from roi.sources.report_labeler.items import Item, kind_at

PREDICATES = ("normal", "enlarged", "abnormality")
BREAKS = ("stop", "while", "except")  # they end a clause
SEPARATORS = (",", "(", "and", "or", "with")


def attach_parts(row: list[Item]) -> list[tuple[int, list[str]]]:
    """Finds the predicates of a sentence and the parts of the body that each is said of.

    Those are the parts before it if a verb or at least no comma stands between ("heart and lungs are normal"),
    otherwise those after it, up to the next verb, finding or predicate ("normal heart size, clear lungs").

    Returns:
        (place of the predicate in the row, its parts) from left to right.
    """
    return _PartReader(row).read()


class _PartReader:
    """Reads a sentence from left to right and keeps the parts that have met no predicate yet."""

    def __init__(self, row: list[Item]) -> None:
        self.row = row
        self.attached: list[tuple[int, list[str]]] = []
        self.parts: list[str] = []
        self.takes_next = False  # the last predicate takes the parts that follow
        self.verb = False  # one stands behind the parts
        self.apart = False  # a comma or "and" stands behind the last part

    def read(self) -> list[tuple[int, list[str]]]:
        previous = ""
        for place, (kind, value) in enumerate(self.row):
            if kind == "-":
                kind = "," if self.takes_next else "is"
            if kind == "part":
                self._add(value)
            elif kind == "abnormality" and previous == "finding":
                # "Infectious process", "granulomatous disease": the finding has said it.
                self.takes_next = False
            elif kind in PREDICATES or (kind == "large" and self.verb):
                self._attach(place)
            elif kind == "finding":
                self._meet_finding()
            elif kind == ":" and kind_at(self.row, place + 1) == "part":
                # "Chest: the heart is normal" is not about the chest.
                self._forget()
            elif kind in ("is", ":"):
                self._meet_verb(previous)
            elif kind in BREAKS or kind == "there":
                self._forget()
            self.apart = self.apart or kind in SEPARATORS
            previous = kind
        return self.attached

    def _forget(self) -> None:
        self.parts = []
        self.takes_next = self.verb = False

    def _add(self, part: str) -> None:
        parts = self.attached[-1][1] if self.takes_next else self.parts
        parts.append(part)
        self.apart = False

    def _attach(self, place: int) -> None:
        """A predicate takes the parts before it, or else those that follow."""
        parts = self.parts if self.verb or not self.apart else []
        if set(parts) == {"chest"} and kind_at(self.row, place + 1) == "part":
            parts = []  # "views of the chest show normal heart size"
        self.attached.append((place, parts))
        self._forget()
        self.takes_next = not parts
        self.apart = False

    def _meet_finding(self) -> None:
        if self.takes_next and not self.apart:
            predicate, parts = self.attached[-1]
            # "Findings of pneumonia", "findings of lung edema": the predicate is a word about the finding.
            if not parts or self.row[predicate].kind == "abnormality":
                self.attached.pop()
        self.parts = []
        self.takes_next = False

    def _meet_verb(self, previous: str) -> None:
        # "Normal heart size, lungs are": the lungs begin anew.
        if self.takes_next and previous == "part":
            self.parts = [self.attached[-1][1].pop()]
        self.takes_next = False
        self.verb = bool(self.parts)
