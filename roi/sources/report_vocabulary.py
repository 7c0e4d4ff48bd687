"""The words of radiology reports that roi/sources/report_labeler.py knows: findings, parts of the body, cues, and spellings of each.

A phrase is a row of words; "a|b" is a choice and a slot that ends in "?" may be missing. Words of FORMS are read as
the first of their group, plurals lose their ending, a long word with a letter wrong is mended (`known`). Words that
stand in no phrase are dropped before phrases are looked for.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations, product

from roi.labels import LABELS
from roi.sources.near_names import words_of


def _words(text: str) -> set[str]:
    return set(text.split())


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
    "infection? infiltrate": ("Infiltration",),
    "lung|hilar? mass": ("Mass",),
    "nodule": ("Nodule",),
    "pneumonia|bronchopneumonia|pneumonitis": ("Pneumonia",),
    "infection? consolidation": ("Consolidation",),
    "edema": ("Edema",),
    "emphysema": ("Emphysema",),
    "fibrosis": ("Fibrosis",),
    "pleural base? thickening": ("Pleural_Thickening",),
    "pleural effusion|fluid or|and thickening": ("Effusion", "Pleural_Thickening"),
    "thickening side? pleural": ("Pleural_Thickening",),
    "hernia": ("Hernia",),
}
# How near words are to their findings; those that only may mean one are the same in all data sets (roi/sources/near_names.py).
SAYINGS = {
    "named": FINDINGS,
    "wider": words_of("reports"),  # where one is denied the finding is absent
    "neighbour": words_of("reports_open"),  # the denial of a granuloma leaves nodules open
    "shaped": words_of("reports_first"),  # "no nodular opacity" denies a nodule and no other opacity
}
OTHERS = (  # of other parts, or of other kinds, that share a word with one of ours; they take the place of a finding
    "#thing",  # that has no name here
    "pericardial effusion|fluid",
    "joint|suprapatellar|knee|hip|shoulder|ankle|elbow effusion|fluid",
    "mediastinal|breast|tissue|thyroid|abdomen|pericardial|adrenal|renal|liver|neck|pelvic|skin|bone|muscle mass",
    "chest wall mass|nodule|edema|emphysema|hernia",
    "mediastinal or|and hilar mass",
    "mass effect",
    "body mass",
    "thyroid|breast|adrenal|liver|skin|renal nodule",
    "nodular thyroid|liver",
    "subcutaneous|tissue|mediastinal|surgical emphysema",
    "subcutaneous|tissue|bowel|bone|skin|neck|leg wall? edema",
    "edema tissue|leg",
    "prior pneumonia|infection|pneumothorax",
    "cystic|liver|renal fibrosis",
    "liver|bone|tissue infiltrate",
    "inguinal|umbilical|ventral|incisional|abdomen|disc hernia",
    "hernia repair",
    "bone lesion|opacity|metastasis|tumor",
    "renal|liver|respiratory|hardware failure",
    "nasal congestion",
    "empyema? tube|catheter",
    "pacemaker",
)
# They deny all of them; those of ALONE as a whole sentence.
NEGATIVE = ("negative chest exam?", "negative exam", "chest exam? is? negative", "exam is? negative")
ALONE = ("normal", "negative", "unremarkable")
PARTS = {
    "heart": ("heart silhouette|size?",),
    "mediastinum": (
        "cardiomediastinal silhouette|size?",
        "cardio mediastinal silhouette?",
        "cardiopulmonary silhouette",
    ),
    "lung": ("lung field?",),
    "rest": ("remainder lung field?",),
    "pleura": ("pleural space?",),
    "angle": ("costophrenic angle?",),
    "vessel": ("lung? vascular",),
    "chest": ("chest exam?", "exam"),
    "all": ("cardiopulmonary|intrathoracic",),
    "nameless": ("#disease",),  # in "no tuberculous disease": of this and not of the 14
    "other": (
        "side|base|apical|upper|middle|lower lung",
        "lung base|apical|volume|artery|side",
        "mediastinal silhouette|size?",
        "hilar silhouette?",
        "aorta silhouette|size?",
        "bone",
        "spine",
        "rib",
        "vertebral",
        "abdomen",
        "trachea",
        "diaphragm",
        "artery",
        "tissue",
        "joint",
        "disc",
        "thyroid",
        "breast",
        "chest wall",
        "trauma",
        "bowel",
        "airway",
        "#part",
    ),
}
CUES = {
    # forward; backward where nothing but a finding before them is meant: "pneumothorax: no", "pneumonia is possible"
    "no": (
        "no",
        "not",
        "without",
        "clear of",
        "free of",
        "negative",
        "lack",
        "rather than",
        "instead of",
        "nor is? there?",
        "fail show",
        "no|without indication",
    ),
    "none": ("none seen?",),
    "maybe": (
        "possible",
        "may",
        "may not",
        "suspected",
        "question",
        "differential",
        "equivocal",
        "less likely",
        "concern",
    ),
    # forward only: what they point at may be a thing that has no name here
    "hint": (
        "suggest",
        "suspicious for",
        "concern for",
        "favor",
        "may|can due",
        "low likelihood",
        "more likely than",
        "cannot|not exclude",
        "cannot rule out",
        "cannot rule or rule out",
        "cannot certain|confirm which? there? is? no|absent",
    ),
    "either": ("either",),
    "whether": ("whether",),
    "versus": ("versus", "favor over"),
    "past": (
        "history",
        "indication",
        "evaluate",
        "rule out",
        "exclude",
        "if",
        "recommend",
        "correlate",
        "sensitive",
        "detection",
        "followup of|for",
        "reason for? exam",
        "reason :",
        "comparison :",
        "mimic",
        "limited for",
        "ensure|document|until|confirm|followup resolved|clearing",
    ),
    # of the past up to the next comma
    "post": ("status post", "prior exam ,? which? show|seen", "prior exam ,? which", "prior|previously there is"),
    "skip": (
        "no|not|without change|increase|progression|worsening|improvement|decrease|growth",
        "may is? change|increase|progression|worsening|improvement|decrease|growth",
        "not resolved|cleared|gone",
        "no resolved|cleared|clearing of",
        "not complete resolved|cleared|gone",
        "no complete resolved",
        "not? near complete? resolved|cleared|gone",
        "near complete? clearing of?",
        "most suggest",
        "not free of",
        "not clear of",
        "not without",
        "not absent",
        "not seen prior|previously exam?",
        "not prior|previously seen",
        "not only",
        "can seen",
        "no|without equivocal|question",
    ),
    # backward; forward where nothing has been said: "absence of edema", "difficult to exclude edema"
    "unseen": (
        "not seen",
        "cannot seen",
        "no longer seen?",
        "not suspected",
        "absent",
        "unlikely",
        "excluded",
        "ruled out",
        "resolved",
        "cleared",
        "gone",
        "clearing of",
        "not likely",
    ),
    "doubt": (
        "cannot|not complete|well? excluded",
        "cannot|not complete|well? ruled out",
        "difficult exclude",
        "difficult rule out",
        "consider",
        "should|must|need excluded",
        "should|must|need ruled out",
        "if any|seen",
        "may not excluded",
        "less likely than",
    ),
    "unproven": ("cannot certain|confirm absent|excluded?",),
    "unclear": (
        "cannot|not well? evaluate",
        "cannot|not well|reliable seen",
        "poor|difficult|limited seen|evaluate",
        "evaluate is? limited|difficult|poor",
        "may|can missed",
    ),
    "undone": ("drained|removed|resected|repaired|treated",),
    "taken": ("drainage|removal|resection|repair|treatment of", "resection for"),
    "link": ("compatible with?",),
    "stop": ("but", "however", "yet", "despite", "unlike", "positive", "because"),
    "while": ("although", "though", "while"),
    "except": ("except", "aside of", "other than"),
    "there": ("there is?",),
    "which": ("which",),
    "it": ("it",),
    "it is": ("it due",),
    "given": ("#given",),
    "is": ("is", "show"),
    ":": (":",),
    "-": ("-",),
    "(": ("(",),
    ",": (",", ")", ", none side", "side none"),  # "on the right, none on the left"
    "normal": ("normal", "unremarkable", "clear", "sharp", "nonenlarged"),
    "enlarged": ("borderline? enlarge", "borderline"),
    "large": ("large",),
    "abnormality": ("abnormality", "disease", "process"),
    "acute": ("acute",),
    "new": ("new",),
    "degree": (
        "stable",
        "mild",
        "moderate",
        "severe",
        "persistent",
        "chronic",
        "small",
        "residual",
        "only",
        "worsening",
        "increase",
        "decrease",
        "improvement",
    ),
    "and": ("and",),
    "with": ("with",),
    "or": ("or",),
}
COVERS = {  # part: what is absent where it is called normal, clear, unremarkable or without abnormality
    "heart": ("Cardiomegaly",),
    "mediastinum": ("Cardiomegaly",),  # the cardiomediastinal silhouette
    # clear lungs may be emphysematous
    "lung": ("Atelectasis", "Infiltration", "Mass", "Nodule", "Pneumonia", "Consolidation", "Edema"),
    "rest": ("Atelectasis", "Infiltration", "Pneumonia", "Consolidation", "Edema"),  # of the lungs, beside an opacity
    "pleura": ("Effusion", "Pneumothorax", "Pleural_Thickening"),
    "angle": ("Effusion",),
    "vessel": ("Edema",),
    "chest": LABELS,
    "all": LABELS[:-1],  # no cardiopulmonary disease, no abnormality
    "nameless": (),
    "other": (),  # bones, one side, one lobe
}
# Of these, what "no acute ..." is about.
ACUTE = ("Pneumonia", "Pneumothorax", "Consolidation", "Edema", "Infiltration")

ALIKE = """
atelectasis atelectases atelectatic atx atel; pneumothorax pneumothoraces pneumothoraxes ptx pnx
hydropneumothorax hydropneumothoraces; hemopneumothorax hemopneumothoraces; effusion eff; cardiomegaly cmg
collapse collapsed; heart cardiac; silhouette contour shadow border configuration
enlarge enlarged enlargement enlarges; mediastinal mediastinum paratracheal; blunt blunted blunting
cardiomediastinal cardiomediastinum; hilar hilum hila perihilar; aorta aortic; pericardial pericardium
angle sulcus sulci recess; pleural pleura pleurae pleuro pleuroparenchymal pl plural
prior previous old past; opacity opacities opacification opacifications opacified density densities ggo
consolidation consolidative consolidated consolidating consol; infiltrate infiltration infiltrative
lung pulmonary lobe lobar parenchyma parenchymal; granuloma granulomata granulomatous histoplasmoma
infection infectious; edema odema; pneumonia pneumonic pna; congestion congested engorgement engorged; failure chf
vascular vasculature vascularity vessel; kerley cephalization; emphysema emphysematous; bulla bullous bullae bleb
fibrosis fibrotic; scar scarring scarred cicatrix; thickening thickened; cap capping; apical apex apices biapical
tissue soft; base basilar basal bibasilar; side right left bilateral; nodular nodularity reticulonodular
bone bony osseous skeletal skeleton osseus musculoskeletal marrow; spine spinal thoracolumbar; abdomen abdominal
trachea tracheal; diaphragm hemidiaphragm diaphragmatic; artery arterial; trauma traumatic posttraumatic; renal kidney
liver hepatic; skin cutaneous; leg extremity; cardiopulmonary cardiorespiratory
metastasis metastases metastatic metastatis; malignancy malignant neoplasm neoplastic cancer carcinoma; tumor tumoral
exam examination study radiograph film xray cxr; no neither nothing; none nil; lack lacking; of from; absent absence
free devoid; cleared cleares; gone disappeared vanished disappearance; resolved resolution
seen see identify visualize appreciate detect identified visualized appreciated demonstrated noted
seen present evident detected observed visible found apparent; seen recognized developed recurred reaccumulated
seen occurred returned
change changed; increase increased increasing; decrease decreased decreasing; improvement improved; growth grown
near nearly almost partial partially incomplete incompletely mostly largely; complete completely
possible possibly potential potentially perhaps maybe possibility poss; may might could
suggest suggesting suggestive suggestion suggests; suspected suspect suspicion suggested
suspicious worrisome worrying worry; concern concerning; for about regarding; question questionable questioned query
equivocal indeterminate doubtful doubt uncertain unclear; favor favored favoring
due secondary related represent represents representing reflect reflecting; certain sure confident
consider considered consideration; versus vs; difficult hard; limited suboptimal suboptimally; poor poorly
well fully adequately; reliable reliably; cannot unable; differential ddx; exclude exclusion
confirm confirmation confirmed
except exception excepting besides beyond
aside apart; despite notwithstanding; while whereas; which who that; it this these they one those
show demonstrate reveal showed revealed
is are was were appear appeared remain remained has have had persist persisted; history hx
evaluate evaluation assess assessment evaluating assessed evaluated; recommend recommended advised
correlate correlation; sensitive sensitivity insensitive
mimic mimics mimicking simulate simulates simulating resembling; likelihood probability chance
detection detecting characterization characterizing; followup; drainage evacuation aspirated thoracentesis
resection excision lobectomy pneumonectomy; drained evacuated; resected excised; missed overlooked obscured hidden
abnormality abnormal finding; disease dz; acute active; mild mildly minimal minimally slight slightly
moderate moderately; severe severely; compatible consistent; stable unchanged; small tiny trace; new recent
remainder rest remaining
only just merely; disc disk; negative neg; normal nl wnl; need needs
""".replace("\n", ";")
FORMS = {form: words.split()[0] for words in ALIKE.split(";") for form in words.split()}
IN_WORDS = {  # an abbreviation -> the words that it stands for
    "nad": "no acute disease",
    "ctab": "clear",
    "rul": "side upper lung",
    "rml": "side middle lung",
    "rll": "side lower lung",
    "lul": "side upper lung",
    "lll": "side lower lung",
}
SHORTER = {
    "r/o": "rule out",
    "s/p": "status post",
    "h/o": "history",
    "c/w": "compatible with",
    "w/o": "without",
    "w/": "with ",
    "f/u": "followup",
    "n/a": "not assessed",
}
# Words between a cue and its object, and adjectives that leave "no ... disease" as wide as it is.
FILLERS = _words("""
a an the any some be been being to as into also very too now today currently there given definite definitely
appearance area areas component demonstration development diagnosis evidence foci focus image indication patient
reaccumulation reappearance recurrence recurrent redemonstration region sign signs technique time view xxxx br
""")
ADJUNCTS = _words("in on at by within during given under near from")  # what follows them is no object of a cue
GENERAL = _words("""
significant focal evident gross overt obvious discrete convincing demonstrable detectable appreciable radiographic
radiographically radiologic radiological further additional major important relevant clinically interval superimposed
underlying other typical progressive suspicious preoperative cardiothoracic thoracic cardiovascular concerning
clinical intra intrapulmonary plain acutely convincingly pathologic pathological xray ray visible
""")


def phrases(pattern: str) -> Iterator[str]:
    """'pleural? effusion|fluid' -> 'pleural effusion', 'pleural fluid', 'effusion', 'fluid'."""
    slots = []
    for slot in pattern.split():
        words = slot.replace("?", "").split("|")
        slots.append([*words, ""] if "?" in slot else words)
    for row in product(*slots):
        yield " ".join(filter(None, row))


def _vocabulary() -> set[str]:
    patterns = [*OTHERS, *NEGATIVE]
    groups: list[Iterable[str]] = [*SAYINGS.values(), *PARTS.values(), *CUES.values()]
    for group in groups:
        patterns += group
    return {word for pattern in patterns for phrase in phrases(pattern) for word in phrase.split()}


VOCABULARY = _vocabulary()
BRITISH = (("oed", "ed"), ("haem", "hem"), ("tumour", "tumor"), ("isation", "ization"), ("ised", "ized"))
# Only words of these groups are looked for in misspelled ones: nothing else in a report is spelled nearly so.
MENDED_GROUPS = _words("""
absent airspace atelectasis cardiomegaly cardiopulmonary congestion consolidation costophrenic effusion emphysema
enlarge fibrosis granuloma hydropneumothorax infiltrate mediastinal negative pneumonia pneumothorax resolved seen
silhouette thickening without
""")
LONG = [word for word in sorted({*FORMS, *VOCABULARY}) if len(word) >= 8]
MENDED = ["without", "pleural", "nodule", *[word for word in LONG if FORMS.get(word, word) in MENDED_GROUPS]]
NOT_MENDED = _words(
    "absences appreciable demonstrable dissolved filtration identity infusion presented presents resolve"
)


def shortened(word: str, letters: int) -> set[str]:
    """The word without that many letters, in all ways: words that share one differ by so many letters."""
    return {"".join(kept) for kept in combinations(word, len(word) - letters)}


def _neighbours() -> tuple[dict[str, str], dict[str, str]]:
    """What is left of the words of MENDED without one letter, and of the long ones without two."""
    one: dict[str, str] = {}
    two: dict[str, str] = {}
    for word in MENDED:
        one |= dict.fromkeys(shortened(word, 1) | {word}, word)
        if len(word) >= 11:
            two |= dict.fromkeys(shortened(word, 2), word)
    return one, two


ONE_LETTER, TWO_LETTERS = _neighbours()


@cache
def known(word: str) -> str:
    """A word in lower case -> the first of its group; "" if it stands in no phrase."""
    for spelling in (word, mended(word)):
        for form in (spelling, spelling.removesuffix("s"), spelling.removesuffix("es")):
            form = FORMS.get(form, form)
            if form in VOCABULARY:
                return form
    return ""


def mended(word: str) -> str:
    """British spellings and, in words of seven letters and more, a misspelling -> the usual spelling."""
    for british, american in BRITISH:
        word = word.replace(british, american)
    if len(word) < 7 or word in NOT_MENDED or word in FORMS:
        return word
    for letters, left in ((1, ONE_LETTER), (2, TWO_LETTERS))[: 1 + (len(word) >= 10)]:
        for rest in sorted(shortened(word, letters) | {word}):
            if rest in left:
                return left[rest]
    return word
