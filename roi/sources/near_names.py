"""Words that may mean a finding without naming it: where one is present, the finding is unknown, not absent.

One table for all data sets, so that a word means the same in each of them. Each source has its own spelling: OpenI its
MeSH codes, PadChest its label names, VinDr-CXR and VinBigData their classes, CheXpert and MIMIC-CXR the columns of the
CheXpert labeler, CXR-LT its columns, and reports the phrases of the report labeler. What a source denies or calls
uncertain by name stays as it is. docs/datasets.md shows the table.
"""

from dataclasses import dataclass

OPACITIES = ("Infiltration", "Consolidation", "Pneumonia")


@dataclass(frozen=True)
class Neighbour:
    """A notion that may be one of `findings`, and its spelling in each source."""

    notion: str
    findings: tuple[str, ...]
    openi: tuple[str, ...] = ()  # MeSH head, or head/qualifier
    padchest: tuple[str, ...] = ()
    vindr: tuple[str, ...] = ()
    chexpert: tuple[str, ...] = ()  # MIMIC-CXR's columns have the same names
    cxrlt: tuple[str, ...] = ()
    # Phrases of the report labeler ("a|b" a choice, "a?" may be missing), by what their denial says:
    reports: tuple[str, ...] = ()  # the findings are absent
    reports_open: tuple[str, ...] = ()  # nothing: no granuloma is not no nodule
    reports_first: tuple[str, ...] = ()  # the first finding is absent: no nodular opacity


REPORTS = ("reports", "reports_open", "reports_first")
SOURCES = ("openi", "padchest", "vindr", "chexpert", "cxrlt", *REPORTS)
NEIGHBOURS = (
    Neighbour(
        "volume loss",
        ("Atelectasis",),
        openi=("Volume Loss",),
        padchest=("volume loss",),
        reports=("volume loss",),
    ),
    Neighbour(
        "enlarged or borderline silhouette",
        ("Cardiomegaly",),
        openi=("Cardiac Shadow/enlarged", "Cardiac Shadow/borderline"),
        chexpert=("Enlarged Cardiomediastinum",),
        cxrlt=("Enlarged Cardiomediastinum",),  # in reports the labeler has a rule: "mediastinum" meets "enlarged"
    ),
    Neighbour(
        "blunted costophrenic angle",
        ("Effusion", "Pleural_Thickening"),
        openi=("Costophrenic Angle/blunted", "Sulcus/blunted", "Pleura/blunted"),
        padchest=("costophrenic angle blunting",),
        reports=("side? costophrenic angle? is? blunt", "blunt side? costophrenic angle?"),
    ),
    Neighbour(
        "blood or pus in the pleural space",
        ("Effusion",),
        openi=("Hemothorax", "Hemopneumothorax"),
        padchest=("hemothorax", "empyema"),
        reports=("hemothorax",),
        reports_open=("empyema",),
    ),
    Neighbour(
        "opacity, airspace disease, density",
        OPACITIES,
        openi=("Opacity", "Airspace Disease", "Density"),
        padchest=("alveolar pattern", "increased density"),
        vindr=("Lung Opacity",),
        chexpert=("Lung Opacity",),
        cxrlt=("Lung Opacity",),
        reports=(
            "infection? opacity",
            "airspace disease|opacity|process|abnormality|change",
            "air space disease|opacity|process|abnormality|change",
            "alveolar pattern|disease",
        ),
    ),
    Neighbour(
        "nodular or miliary opacity",
        ("Nodule", *OPACITIES),
        padchest=("miliary opacities",),
        reports_first=("nodular opacity?", "miliary opacity?"),
    ),
    Neighbour(
        "masslike opacity",
        ("Mass", *OPACITIES),
        reports_first=("masslike opacity?", "mass like opacity?"),
    ),
    Neighbour(
        "lung lesion, nodule or mass",
        ("Mass", "Nodule"),
        vindr=("Nodule/Mass",),
        chexpert=("Lung Lesion",),
        cxrlt=("Lung Lesion",),
        reports=("side|base|apical? upper|middle|lower? lung lesion",),
    ),
    Neighbour(
        "metastasis, malignancy",
        ("Mass", "Nodule"),
        padchest=("lung metastasis", "lepidic adenocarcinoma"),
        reports=("metastasis|malignancy",),
    ),
    Neighbour("tumor", ("Mass",), vindr=("Lung tumor",), reports=("tumor",)),
    Neighbour("mass of the thorax", ("Mass",), openi=("Mass/thorax",)),
    Neighbour(
        "granuloma",
        ("Nodule",),
        openi=("Granuloma", "Calcified Granuloma", "Granulomatous Disease"),
        padchest=("granuloma", "calcified granuloma"),
        cxrlt=("Granuloma",),
        reports_open=("granuloma",),
    ),
    Neighbour("pseudonodule", ("Nodule",), padchest=("pseudonodule",), reports_open=("pseudonodule",)),
    Neighbour("infection, aspiration", ("Pneumonia",), reports=("infection",), reports_open=("aspiration",)),
    Neighbour(
        "congestion, heart failure",
        ("Edema",),
        openi=("Pulmonary Congestion", "Heart Failure"),
        padchest=(
            "heart insufficiency",
            "hilar congestion",
            "kerley lines",
            "vascular redistribution",
            "central vascular redistribution",
        ),
        reports=("congestion", "heart? failure", "heart insufficiency", "overload"),
        reports_open=("kerley", "lung? vascular redistribution"),
    ),
    Neighbour(
        "obstructive disease, bulla",
        ("Emphysema",),
        openi=("Pulmonary Disease, Chronic Obstructive", "Blister"),
        padchest=("copd signs", "bullas"),
        vindr=("COPD",),
        cxrlt=("Bulla",),
        reports=("copd", "obstructive lung|airway? disease|change"),
        reports_open=("bulla",),
    ),
    Neighbour(
        "interstitial disease or pattern",
        ("Fibrosis",),
        openi=("Lung Diseases, Interstitial",),
        padchest=("interstitial pattern", "reticular interstitial pattern", "reticulonodular interstitial pattern"),
        vindr=("ILD",),
        reports=("interstitial lung? disease",),
        reports_open=("interstitial pattern",),
    ),
    Neighbour(
        "scar of the lung",
        ("Fibrosis",),
        openi=("Fibrosis", "Cicatrix/lung"),
        padchest=("fibrotic band", "post radiotherapy changes", "asbestosis signs"),
        reports=("scar",),
        reports_open=("fibrosis band", "radiation|radiotherapy change"),
    ),
    Neighbour(
        "scar of lung and pleura",
        ("Fibrosis", "Pleural_Thickening"),
        reports_open=("pleural lung scar",),
    ),
    Neighbour(
        "pleural plaque, scar or calcification, apical cap",
        ("Pleural_Thickening",),
        openi=("Cicatrix/pleura", "Calcinosis/pleura"),
        padchest=("pleural plaques", "calcified pleural plaques"),
        chexpert=("Pleural Other",),
        cxrlt=("Pleural Other",),
        reports=("apical thickening",),
        reports_open=("pleural plaque", "pleural scar", "apical pleural? cap"),
    ),
    # What the scheme of one set says of its own words: a leaf of PadChest's tree is named without the branch that it
    # grows on, and VinDr-CXR explains three classes to its readers as any opacity or lesion.
    Neighbour(
        "below infiltrates in the tree of PadChest",
        ("Infiltration",),
        padchest=(
            "interstitial pattern",
            "reticular interstitial pattern",
            "reticulonodular interstitial pattern",
            "ground glass pattern",
            "miliary opacities",
            "alveolar pattern",
            "consolidation",
            "air bronchogram",
        ),
    ),
    Neighbour("below consolidation in the tree of PadChest", ("Consolidation",), padchest=("air bronchogram",)),
    Neighbour(
        "wide classes of VinDr-CXR",
        ("Infiltration", "Fibrosis"),
        vindr=("ILD", "Lung Opacity", "Other lesion"),
    ),
)


def words_of(source: str) -> dict[str, tuple[str, ...]]:
    """What each word of a source leaves unknown.

    Args:
        source: one of SOURCES.

    Returns:
        Word -> findings, of all rows in which it stands.
    """
    findings_of: dict[str, tuple[str, ...]] = {}
    for neighbour in NEIGHBOURS:
        for word in getattr(neighbour, source):
            earlier = findings_of.get(word, ())
            new = [finding for finding in neighbour.findings if finding not in earlier]
            findings_of[word] = (*earlier, *new)
    return findings_of


def phrases_of(neighbour: Neighbour) -> tuple[str, ...]:
    """All its phrases of reports."""
    return neighbour.reports + neighbour.reports_open + neighbour.reports_first
