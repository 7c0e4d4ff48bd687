"""The words of radiology reports that the labeler knows: findings, parts of the body, cues, and other forms of each.

A phrase is a row of words; "a|b" is a choice and a slot that ends in "?" may be missing. Words of FORMS are read as
the first of their group, plurals lose their ending, a long word with a letter wrong is mended (spelling.py). Words that
stand in no phrase are dropped before phrases are looked for.
"""

from roi.labels import LABELS
from roi.sources.near_names import words_of


def word_set(text: str) -> set[str]:
    return set(text.split())


# What names a finding.
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
# How near words are to their findings. Those that only may mean one are the same in all data sets (near_names.py).
SAYINGS = {
    "named": FINDINGS,
    # Where one is denied the finding is absent.
    "wider": words_of("reports"),
    # The denial of a granuloma leaves nodules open.
    "neighbour": words_of("reports_open"),
    # "No nodular opacity" denies a nodule and no other opacity.
    "shaped": words_of("reports_first"),
}
# Of other parts or of other kinds, that share a word with one of ours; they take the place of a finding.
OTHERS = (
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
# Parts of the body of which "normal" or "enlarged" may be said.
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
    # In "no tuberculous disease": of this and not of the 14.
    "nameless": ("#disease",),
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
# What gives findings a scope, ends one, or stands between; by kind. scopes.py has the rules.
CUES = {
    # Forward; backward where nothing but a finding before them is meant: "pneumothorax: no", "pneumonia is possible"
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
    # Forward only: what they point at may be a thing that has no name here
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
    # What is looked for, advised or over is not mentioned.
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
    # Of the past up to the next comma
    "post": ("status post", "prior exam ,? which? show|seen", "prior exam ,? which", "prior|previously there is"),
    # No cue at all, although they hold one: "no change in the effusion" asserts it.
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
    # Backward; forward where nothing has been named: "absence of edema", "difficult to exclude edema"
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
    # "Effusion on the right, none on the left" denies nothing.
    ",": (",", ")", ", none side", "side none"),
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
# What is absent where a part is called normal, clear, unremarkable or without abnormality.
COVERS = {
    "heart": ("Cardiomegaly",),
    "mediastinum": ("Cardiomegaly",),  # the cardiomediastinal silhouette
    # Clear lungs may be emphysematous.
    "lung": ("Atelectasis", "Infiltration", "Mass", "Nodule", "Pneumonia", "Consolidation", "Edema"),
    # Of the lungs, beside an opacity.
    "rest": ("Atelectasis", "Infiltration", "Pneumonia", "Consolidation", "Edema"),
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

# Groups of words that are read as the first of each.
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
FORMS = {form: group.split()[0] for group in ALIKE.split(";") for form in group.split()}
# Abbreviations of one word, and those with a slash.
IN_WORDS = {
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
FILLERS = word_set("""
a an the any some be been being to as into also very too now today currently there given definite definitely
appearance area areas component demonstration development diagnosis evidence foci focus image indication patient
reaccumulation reappearance recurrence recurrent redemonstration region sign signs technique time view xxxx br
""")
# What follows them is no object of a cue.
ADJUNCTS = word_set("in on at by within during given under near from")
GENERAL = word_set("""
significant focal evident gross overt obvious discrete convincing demonstrable detectable appreciable radiographic
radiographically radiologic radiological further additional major important relevant clinically interval superimposed
underlying other typical progressive suspicious preoperative cardiothoracic thoracic cardiovascular concerning
clinical intra intrapulmonary plain acutely convincingly pathologic pathological xray ray visible
""")
