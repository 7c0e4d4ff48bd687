"""Radiology reports -> cells of the 14 findings: what is asserted, denied, hedged, or not mentioned. No model, no random numbers.

A sentence is read word by word. Words that no rule knows are dropped (the XXXX of a de-identified text too), the others lose their endings, and the
longest phrases among them become items: a finding is said, a cue opens a scope, a part of the body meets "normal" or "enlarged". The scopes are those
of NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a cue reaches to the end of the sentence or to a terminator; some reach backwards.

- PRESENT: said outside any scope. Also "consistent with", "probable", "borderline enlarged", "A or B": people who coded such reports took them as present.
- UNCERTAIN: "possible", "may", "suggests", "suspicious for", "versus", "cannot be excluded" ...
- ABSENT: denied or resolved, or covered by a normal statement (COVERS): a normal heart, clear lungs, no acute disease ...
- COARSE: a wider or neighbouring word is asserted: an opacity is not by itself an infiltrate, a granuloma not by itself a nodule.
- BLANK: none of these; what is recommended, looked for or a matter of history is not mentioned.

Within a section PRESENT > UNCERTAIN > denied > COARSE > covered. What the impression asserts, hedges or denies outranks the findings.
Letters: N reports, K = 14 findings, S sentences of all reports, U different ones.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from roi.cells import ABSENT, BLANK, COARSE, PRESENT, UNCERTAIN
from roi.labels import LABELS
from roi.neighbours import words_of

NOTHING, COVERED, NEAR, DENIED, HEDGED, SAID = range(6)  # what a sentence says of a finding; the higher outranks within a section
CODES = np.array([BLANK, ABSENT, COARSE, ABSENT, UNCERTAIN, PRESENT], dtype=np.int8)

# A phrase is a row of words, "a|b" a choice, "a?" may be missing. Words that stand in no phrase are dropped before phrases are looked for.
FINDINGS = {
    "atelectasis": ("Atelectasis",),
    "side? upper|middle|lower? lung collapse": ("Atelectasis",),
    "collapse side? upper|middle? and? lower? lung": ("Atelectasis",),
    "cardiomegaly": ("Cardiomegaly",),
    "large heart": ("Cardiomegaly",),
    "pleural? effusion": ("Effusion",),
    "pleural or|and pericardial effusion": ("Effusion",),
    "pleural fluid": ("Effusion",),
    "fluid fissure": ("Effusion",),
    "hydrothorax": ("Effusion",),
    "hydropneumothorax": ("Effusion", "Pneumothorax"),
    "hemopneumothorax|pneumothorax": ("Pneumothorax",),
    "infiltrate": ("Infiltration",),
    "lung|hilar? mass": ("Mass",),
    "nodule": ("Nodule",),
    "pneumonia|bronchopneumonia|pneumonitis": ("Pneumonia",),
    "consolidation": ("Consolidation",),
    "edema": ("Edema",),
    "emphysema": ("Emphysema",),
    "fibrosis": ("Fibrosis",),
    "pleural base? thickening": ("Pleural_Thickening",),
    "pleural effusion|fluid or|and thickening": ("Effusion", "Pleural_Thickening"),
    "thickening side? pleural": ("Pleural_Thickening",),
    "hernia": ("Hernia",),
}
WIDER = words_of("reports") | words_of("reports_open") | words_of("reports_first")  # one table for all data sets
OTHERS = (  # of other parts, or of other kinds, that share a word with one of ours
    "pericardial effusion|fluid",
    "joint|suprapatellar|knee effusion|fluid",
    "mediastinal|breast|tissue|thyroid|abdomen|pericardial mass",
    "mediastinal or|and hilar mass",
    "mass effect",
    "body mass",
    "thyroid|breast nodule",
    "subcutaneous|tissue|mediastinal|surgical emphysema",
    "subcutaneous|tissue edema",
    "edema tissue",
    "prior pneumonia|infection|pneumothorax",
    "cystic fibrosis",
    "inguinal|umbilical|ventral|incisional|abdomen|disc hernia",
    "bone lesion|opacity",
    "renal|liver|respiratory|hardware failure",
    "nasal congestion",
)
NEGATIVE = ("negative chest exam?", "negative exam", "chest exam? is? negative", "exam is? negative")  # they deny all of them
ALONE = ("normal", "negative", "unremarkable")  # as a whole sentence
PARTS = {
    "heart": ("heart silhouette|size?",),
    "mediastinum": ("cardiomediastinal silhouette|size?", "cardio mediastinal silhouette?"),
    "lung": ("lung field?",),
    "pleura": ("pleural space?",),
    "angle": ("costophrenic angle?",),
    "vessel": ("lung? vascular",),
    "chest": ("chest exam?", "exam"),
    "all": ("cardiopulmonary|intrathoracic",),
    "other": (
        "side|base|apical|upper|middle|lower lung", "lung base|apical|volume|artery|side", "mediastinal silhouette|size?", "hilar silhouette?",
        "aorta silhouette|size?", "bone", "spine", "rib", "vertebral", "abdomen", "trachea", "diaphragm", "artery", "tissue", "joint", "disc",
        "thyroid", "breast", "chest wall", "trauma", "bowel",
    ),
}  # fmt: skip
CUES = {
    "no": (
        "no", "not", "without", "clear of", "free of", "negative", "absent", "lack", "rather than",
        "nor is? there?",
    ),
    "maybe": (
        "possible", "may", "suggest", "suspicious for", "suspected", "concern for", "question", "differential", "equivocal",
        "cannot|not exclude", "cannot rule out",
    ),
    "versus": ("versus",),
    "past": ("history", "indication", "evaluate", "rule out", "exclude", "if", "recommend", "correlate", "ensure|document|until|confirm resolved"),
    "skip": ("no|not|without change|increase|progression|worsening", "near|partial complete? resolved", "most suggest"),
    "gone": ("is? resolved",),
    "unsure": ("is? difficult exclude", "consider"),
    "unseen": ("is? not seen", "is? no longer seen?", "is absent", "is? unlikely", "is excluded", "is ruled out"),
    "doubt": ("cannot is? excluded", "is? not excluded", "cannot is? ruled out", "is possible", "is suspected", "is question", "is? less likely"),
    "stop": ("but", "however", "although", "though", "except", "while", "there is?", "aside of", "other than"),
    "which": ("which",),
    "is": ("is", "show", ":"),
    "normal": ("normal", "unremarkable", "clear", "sharp", "nonenlarged"),
    "enlarged": ("borderline? enlarge", "borderline"),
    "large": ("large",),
    "abnormality": ("abnormality", "disease", "process"),
    "acute": ("acute",),
    "degree": ("stable", "mild", "moderate", "severe", "persistent", "chronic", "small"),
    ",": (",",),
    "and": ("and", "with"),
    "or": ("or",),
}  # fmt: skip
COVERS = {  # part: what is absent where it is called normal, clear, unremarkable or without abnormality
    "heart": ("Cardiomegaly",),
    "mediastinum": ("Cardiomegaly",),  # the cardiomediastinal silhouette
    "lung": ("Atelectasis", "Infiltration", "Mass", "Nodule", "Pneumonia", "Consolidation", "Edema"),  # clear lungs may be emphysematous
    "pleura": ("Effusion", "Pneumothorax", "Pleural_Thickening"),
    "angle": ("Effusion",),
    "vessel": ("Edema",),
    "chest": LABELS,
    "all": LABELS[:-1],  # no cardiopulmonary disease, no abnormality
    "other": (),  # bones, one side, one lobe
}
ACUTE = ("Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Infiltration")  # of these, what "no acute ..." is about
EITHER = {"gone": ("no", "unseen"), "unsure": ("maybe", "doubt")}  # the second where something has been said since the last comma
ENDS_OF_NO = {("degree", ","), ("degree", "and")}  # "no edema, stable cardiomegaly": item and the one before it
BACKWARDS = ("unseen", "doubt", "versus")
ABOUT = ("say", "negative", "part", "abnormality")  # kinds without which a sentence says nothing of the 14
PREDICATES = ("normal", "enlarged", "abnormality")
# Words read as the first of their group; a plural in -s needs no entry.
ALIKE = """
atelectasis atelectases atelectatic; pneumothorax pneumothoraces pneumothoraxes; hydropneumothorax hydropneumothoraces; nodular nodularity reticulonodular
collapse collapsed; heart cardiac; silhouette contour shadow border configuration; enlarge enlarged enlargement enlarges
mediastinal mediastinum paratracheal; blunt blunted blunting; cardiomediastinal cardiomediastinum; hilar hilum hila perihilar; aorta aortic
pericardial pericardium; angle sulcus sulci recess; pleural pleura pleurae pleuro pleuroparenchymal; prior previous old
opacity opacities opacification opacifications opacified density densities; consolidation consolidative consolidated consolidating
infiltrate infiltration infiltrative; lung pulmonary lobe lobar parenchyma parenchymal; granuloma granulomata granulomatous histoplasmoma
infection infectious; edema oedema; pneumonia pneumonic; congestion congested engorgement engorged; failure chf; vascular vasculature vascularity vessel
kerley cephalization; emphysema emphysematous; bulla bullous bullae bleb; fibrosis fibrotic; scar scarring scarred cicatrix; thickening thickened
cap capping; apical apex apices biapical; tissue soft; base basilar basal bibasilar; side right left
bone bony osseous skeletal skeleton osseus musculoskeletal; spine spinal thoracolumbar; abdomen abdominal; trachea tracheal
diaphragm hemidiaphragm diaphragmatic; artery arterial; trauma traumatic posttraumatic; cardiopulmonary cardiorespiratory
metastasis metastases metastatic; malignancy malignant neoplasm neoplastic cancer carcinoma
exam examination study radiograph film xray; no neither; lack lacking; of from; absent absence; resolved resolution cleared
seen identified visualized appreciated demonstrated noted present evident detected observed visible found apparent; change changed; increase increased
possible possibly potential potentially perhaps maybe; may might could can; suggest suggesting suggestive suggested suggestion; suspected suspect suspicion
suspicious worrisome worrying; concern concerning; question questionable questioned query; equivocal indeterminate doubtful
consider considered consideration; versus vs; difficult hard; except excepting; while whereas; which who
is are was were appear appeared remain remained remaining has have had; show demonstrate reveal reflect; history hx
evaluate evaluation assess assessment evaluating; recommend recommended advised; correlate correlation; confirm confirmation; abnormality abnormal finding
acute active; mild mildly minimal minimally slight slightly; moderate moderately; severe severely; stable unchanged; disc disk
"""
FORMS = {form: words.split()[0] for line in ALIKE.strip().splitlines() for words in line.split(";") for form in words.split()}
WRAPPED = re.compile(r"\s*\n\s*(?=[a-z]|\d+(?:\.\d+)?(?![.)\d]))")  # before a small letter or a number that does not number a list
ENDS = ";?!\n\r"
DECIMAL = re.compile(r"\.(?<=\d\.)(?=\d)")  # begins with the point: quick to search for
WORD = re.compile(r"[a-z]+|[,:()]")


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


def sentences(text: str) -> list[str]:
    """In lower case, at least one. A line that goes on in lower case does not end a sentence, nor does the point in 1.5 or behind vs."""
    if "\n" in text:
        text = WRAPPED.sub(" ", text)
    text = text.lower()
    for end in ENDS:
        if end in text:
            text = text.replace(end, ".")
    return DECIMAL.sub("", text.replace("vs.", "vs")).split(".")


def signature(sentence: str) -> str:
    """A sentence in lower case -> the words of it that rules know, without their endings: 'there are no xxxx effusions' -> 'there is no effusion'.

    "" where none of them is about one of the 14."""
    if sentence.strip() in ALONE:
        return NEGATIVE[1]
    if "-" in sentence:
        sentence = sentence.replace("non-", "non").replace("sub-", "sub").replace(" - ", " , ")
    words = list(filter(None, map(known, WORD.findall(sentence))))
    if SUBJECTS.isdisjoint(words):
        return ""
    left = " ".join(words).replace(" is is", " is")
    return PREPOSITION.sub("", left) if " of" in left or " for" in left else left


@cache
def known(word: str) -> str:
    if word in "()":
        return ","
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        form = FORMS.get(form, form)
        if form in VOCABULARY:
            return form
    return ""


def phrases(pattern: str) -> Iterator[str]:
    """'pleural? effusion|fluid' -> 'pleural effusion', 'pleural fluid', 'effusion', 'fluid'."""
    slots = [[*slot.removesuffix("?").split("|"), *([""] if slot.endswith("?") else [])] for slot in pattern.split()]
    return (" ".join(filter(None, row)) for row in product(*slots))


def _items() -> dict[str, tuple[str, Any]]:
    """Each phrase -> its kind and what is to be known of it."""
    lines: list[tuple[str, str, Any]] = [(p, "say", (_places(f), SAID)) for p, f in FINDINGS.items()]
    lines += [(p, "say", (_places(f), NEAR)) for p, f in WIDER.items()]
    lines += [(p, "negative", None) for p in NEGATIVE]
    lines += [(p, "other", None) for p in OTHERS]
    lines += [(p, "part", name) for name, patterns in PARTS.items() for p in patterns]
    lines += [(p, kind, None) for kind, patterns in CUES.items() for p in patterns]
    return {phrase: (kind, value) for pattern, kind, value in lines for phrase in phrases(pattern)}


def _places(findings: Iterable[str]) -> list[int]:
    return [LABELS.index(finding) for finding in findings]


ITEMS = _items()
VOCABULARY = {word for phrase in ITEMS for word in phrase.split()}
SUBJECTS = {word for phrase, (kind, part) in ITEMS.items() if kind in ABOUT and part != "other" for word in phrase.split()} - {"is", "and", "or", "side"}
LENGTHS = {first: sorted({p.count(" ") + 1 for p in ITEMS if p.split()[0] == first}, reverse=True) for first in {p.split()[0] for p in ITEMS}}
PREPOSITION = re.compile(r" (?:of|for)\b" + "".join(f"(?<!{p})" for p in ITEMS if p.endswith((" of", " for"))))
COVERED_BY = {part: _places(findings) for part, findings in COVERS.items()}
HEART = LABELS.index("Cardiomegaly")


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


def _scopes(row: list[tuple[str, Any]]) -> list[str]:
    """Each item -> the scope that it stands in: "", "no", "maybe" or "past"."""
    kinds = [kind for kind, _ in row]
    scopes: list[str] = []
    scope, start, comma = "", 0, 0  # since where cues reach backwards: the last verb or terminator, within a denial the last comma
    for place, kind in enumerate(kinds):
        before = kinds[place - 1] if place else ""
        if kind in EITHER:
            kind = EITHER[kind]["say" in kinds[max(start, comma) : place]]
        if kind in ("no", "negative"):
            scope = "no"
        elif kind == "past":
            scope = "past"
        elif kind in ("maybe", "versus") and (scope in ("", "maybe") or before == ","):
            scope = "maybe"
        elif kind == "stop" or (kind == "is" and before == "part") or (scope == "no" and (kind, before) in ENDS_OF_NO):
            scope = ""
        if kind in BACKWARDS:
            first = max(start, comma) if scope == "no" else start
            said = [n for n in range(first, place) if kinds[n] == "say"]
            for n in said[-1:] if kind == "versus" else said:
                scopes[n] = "no" if kind == "unseen" else scopes[n] or "maybe"
        if kind in ("stop", "is", "unseen", "doubt"):
            start = place
        comma = place if kind == "," else start if kind == "which" else comma
        scopes.append(scope)
    return scopes


def meetings(row: list[tuple[str, Any]]) -> list[tuple[int, list[str]]]:
    """The places of the predicates in a row, each with the parts that it is said of: those before it if a verb or at least no comma stands between
    ("heart and lungs are normal"), otherwise those after it, up to the next verb, finding or predicate ("normal heart size, clear lungs")."""
    meetings: list[tuple[int, list[str]]] = []
    parts: list[str] = []  # that have met no predicate
    open_ = linked = apart = False  # the last predicate takes what follows; a verb, a comma or "and" since the last part
    before = ""
    for place, (kind, value) in enumerate(row):
        if kind == "part":
            (meetings[-1][1] if open_ else parts).append(value)
            apart = False
        elif kind in PREDICATES or (kind == "large" and linked):
            met = parts if parts and (linked or not apart) else []
            meetings.append((place, met))
            parts, open_, linked, apart = [], not met, False, False
        elif kind == "say":
            if open_ and not apart and not meetings[-1][1]:
                meetings.pop()  # "findings of pneumonia": a word about the finding
            parts, open_ = [], False
        elif kind == "is":
            parts = [meetings[-1][1].pop()] if open_ and before == "part" else parts  # "normal heart size, lungs are": the lungs begin anew
            open_, linked = False, bool(parts)
        elif kind == "stop":
            parts, open_, linked = [], False, False
        apart = apart or kind in (",", "and", "or")
        before = kind
    return meetings


def _read(text: str) -> bytes:
    """A signature -> the level of each finding, K bytes."""
    row = [item for _, _, item in matches(text.split())]
    scopes = _scopes(row)
    said = [COVERED if any(kind == "negative" for kind, _ in row) else NOTHING] * len(LABELS)
    for (kind, value), scope in zip(row, scopes, strict=True):
        if kind == "say":
            places, level = value
            level = {"": level, "maybe": min(level, HEDGED), "no": DENIED if level == SAID else COVERED, "past": NOTHING}[scope]
            for n in places:
                said[n] = max(said[n], level)
    since = 0
    for place, parts in meetings(row):
        sudden = any(kind == "acute" for kind, _ in row[since:place])
        for n, level in _judged(row[place][0], scopes[place], parts, sudden):
            said[n] = max(said[n], level)
        since = place
    return bytes(said)


def _judged(predicate: str, scope: str, parts: list[str], sudden: bool) -> Iterator[tuple[int, int]]:
    """What a predicate of these parts says -> (finding, level). The bones of the chest are not the chest."""
    if "other" in parts:
        parts = [part for part in parts if part not in ("chest", "all")]
    if predicate == "abnormality" and scope == "no":
        for part in parts or ["all"]:
            yield from ((n, COVERED) for n in COVERED_BY[part] if not sudden or LABELS[n] in ACUTE)
    elif predicate == "normal" and scope in ("", "maybe"):
        for part in parts:
            yield from ((n, DENIED if n == HEART else COVERED) for n in COVERED_BY[part])
    elif predicate in ("enlarged", "large") and {"heart", "mediastinum"} & set(parts):
        levels = {"": SAID, "maybe": HEDGED, "no": DENIED} if "heart" in parts else {"": NEAR, "maybe": NEAR, "no": DENIED}
        yield HEART, levels.get(scope, NOTHING)
