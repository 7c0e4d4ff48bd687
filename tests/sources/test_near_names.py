"""A word means the same in every data set: what it leaves unknown, set by set, and what docs/datasets.md says of it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from roi.demo.source_layouts import CXRLT, VINDR, WRITERS
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, NOT_LABELED, NOT_MENTIONED, PARENT_ONLY, PRESENT, UNCERTAIN
from roi.sources.mesh import mesh_cells
from roi.sources.near_names import NEIGHBOURS, REPORTS, SOURCES, phrases_of, words_of
from roi.sources.readers import CHEXPERT_NAMES, chexpert_cells, padchest_cells, read_cxrlt, read_padchest, voted
from roi.sources.report_labeler import label_reports
from roi.sources.report_labeler.spelling import phrases

DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"
OPACITIES = {"Infiltration", "Consolidation", "Pneumonia"}
# What each notion leaves unknown, worked out by hand, and its word in each set that has one.
EXPECTED = [
    ("Atelectasis", {"openi": "Volume Loss", "padchest": "volume loss", "reports": "volume loss"}),
    (
        "Nodule",
        {"openi": "Granuloma/lung", "padchest": "granuloma", "cxrlt": "Granuloma", "reports": "a granuloma"},
    ),
    ("Nodule", {"openi": "Calcified Granuloma", "padchest": "calcified granuloma", "reports": "a calcified granuloma"}),
    ("Nodule", {"padchest": "pseudonodule", "reports": "a pseudonodule"}),
    ("Mass Nodule", {"padchest": "lung metastasis", "reports": "pulmonary metastases"}),
    ("Edema", {"openi": "Heart Failure", "padchest": "heart insufficiency", "reports": "heart failure"}),
    ("Edema", {"openi": "Pulmonary Congestion", "padchest": "hilar congestion", "reports": "hilar congestion"}),
    ("Edema", {"padchest": "vascular redistribution", "reports": "pulmonary vascular redistribution"}),
    ("Edema", {"padchest": "kerley lines", "reports": "kerley lines"}),
    (
        "Emphysema",
        {
            "openi": "Pulmonary Disease, Chronic Obstructive",
            "padchest": "COPD signs",
            "vindr": "COPD",
            "reports": "COPD",
        },
    ),
    ("Emphysema", {"openi": "Blister/lung", "padchest": "bullas", "cxrlt": "Bulla", "reports": "a bulla"}),
    (
        "Pleural_Thickening",
        {"openi": "Calcinosis/pleura", "padchest": "calcified pleural plaques", "reports": "pleural plaques"},
    ),
    ("Pleural_Thickening", {"chexpert": "Pleural Other", "cxrlt": "Pleural Other"}),
    (
        "Cardiomegaly",
        {
            "openi": "Cardiac Shadow/enlarged",
            "chexpert": "Enlarged Cardiomediastinum",
            "cxrlt": "Enlarged Cardiomediastinum",
        },
    ),
    ("Fibrosis", {"openi": "Cicatrix/lung", "padchest": "fibrotic band", "reports": "fibrotic bands"}),
    ("Fibrosis", {"openi": "Lung Diseases, Interstitial", "reports": "interstitial lung disease"}),
    ("Effusion", {"openi": "Hemothorax", "padchest": "hemothorax", "reports": "a hemothorax"}),
    ("Mass Nodule", {"padchest": "lepidic adenocarcinoma", "reports": "a carcinoma"}),
    ("Mass", {"vindr": "Lung tumor", "reports": "a lung tumor"}),
    (
        "Effusion Pleural_Thickening",
        {
            "openi": "Costophrenic Angle/blunted",
            "padchest": "costophrenic angle blunting",
            "reports": "blunting of the costophrenic angle",
        },
    ),
    (
        "Mass Nodule",
        {"vindr": "Nodule/Mass", "chexpert": "Lung Lesion", "cxrlt": "Lung Lesion", "reports": "a lung lesion"},
    ),
    (
        "Infiltration Consolidation Pneumonia",
        {"openi": "Opacity/lung", "chexpert": "Lung Opacity", "cxrlt": "Lung Opacity", "reports": "an opacity"},
    ),
    (
        "Infiltration Consolidation Pneumonia",
        {"openi": "Density", "padchest": "increased density", "reports": "a density"},
    ),
    (
        "Infiltration Consolidation Pneumonia",
        {"openi": "Airspace Disease", "padchest": "alveolar pattern", "reports": "an alveolar pattern"},
    ),
    ("Nodule Infiltration Consolidation Pneumonia", {"padchest": "miliary opacities", "reports": "miliary opacities"}),
    # What only one set has, or says of its own word.
    ("Infiltration Consolidation Pneumonia Fibrosis", {"vindr": "Lung Opacity"}),
    ("Infiltration Fibrosis", {"vindr": "ILD"}),
    ("Infiltration Fibrosis", {"vindr": "Other lesion"}),
    ("Infiltration Fibrosis", {"padchest": "interstitial pattern"}),
    ("Infiltration", {"padchest": "ground glass pattern"}),
    ("Infiltration Consolidation", {"padchest": "air bronchogram"}),
    ("Mass", {"openi": "Mass/thorax"}),
    ("Pneumonia", {"reports": "an infection"}),
]
CASES = [(source, word, set(found.split())) for found, words in EXPECTED for source, word in words.items()]


def cells_of(source: str, word: str, folder: Path) -> np.ndarray:
    """(14,) of an image of which a set says this word alone; what is blank is negative."""
    if source == "openi":
        return mesh_cells([word])[0]
    if source == "padchest":
        return padchest_cells(str([f" {word}"]))
    if source == "vindr":
        return voted({name: np.array([float(name == word)]) for name in VINDR}, "majority")[0][0]
    if source == "chexpert":
        row = dict.fromkeys(CHEXPERT_NAMES, "") | {word: "1.0"}
        return chexpert_cells(pd.DataFrame([row]), "train.csv", "negative")[0]
    if source == "cxrlt":
        return cxrlt_cells({word}, folder)
    return label_reports([f"There is {word}."], [""])[0]


def cxrlt_cells(found: set[str], folder: Path) -> np.ndarray:
    row = {"dicom_id": "a", "subject_id": "10000032", "study_id": "s1", "fpath": "files/a.jpg", "split": "train"}
    pd.DataFrame([row | {name: int(name in found) for name in CXRLT}]).to_csv(folder / "labels.csv", index=False)
    return read_cxrlt(folder)[list(LABELS)].to_numpy()[0]


@pytest.mark.parametrize(("source", "word", "findings"), CASES)
def test_what_a_word_leaves_unknown(source: str, word: str, findings: set[str], tmp_path: Path) -> None:
    cells = cells_of(source, word, tmp_path)
    assert {label for label, cell in zip(LABELS, cells, strict=True) if cell == PARENT_ONLY} == findings
    assert set(cells[cells != PARENT_ONLY].tolist()) <= {ABSENT, NOT_MENTIONED, NOT_LABELED}


def test_every_word_of_the_table_is_read(tmp_path: Path) -> None:
    """By the set that has it: unknown is what the table says, less what the word itself names."""
    for source in SOURCES:
        for word, findings in words_of(source).items():
            spoken = next(phrases(word)) if source in REPORTS else word
            cells = dict(zip(LABELS, cells_of(source, spoken, tmp_path), strict=True))
            assert {label for label, cell in cells.items() if cell == PARENT_ONLY} | {
                label for label in findings if cells[label] == PRESENT
            } == set(findings), (source, word)


def test_a_notion_is_in_the_table_once() -> None:
    """No word stands in two general rows: one row says all of it. Rows of one set's own scheme come last."""
    own = [n for n, row in enumerate(NEIGHBOURS) if sum(bool(getattr(row, source)) for source in SOURCES) == 1]
    general = [row for n, row in enumerate(NEIGHBOURS) if n not in own]
    for source in SOURCES:
        words = [word for row in general for word in getattr(row, source)]
        assert len(words) == len(set(words)), source
    assert {finding for row in NEIGHBOURS for finding in row.findings} <= set(LABELS)


def test_what_a_source_says_by_name_outranks_a_neighbour(tmp_path: Path) -> None:
    at = {label: k for k, label in enumerate(LABELS)}
    row = dict.fromkeys(CHEXPERT_NAMES, "") | {"Lung Opacity": "1.0", "Consolidation": "0.0", "Pneumonia": "-1.0"}
    cells = chexpert_cells(pd.DataFrame([row]), "train.csv", "negative")[0]
    assert cells[at["Consolidation"]] == ABSENT and cells[at["Pneumonia"]] == UNCERTAIN
    assert padchest_cells("['granuloma', 'nodule']")[at["Nodule"]] == PRESENT
    assert mesh_cells(["Granuloma;Nodule/lung"])[0][at["Nodule"]] == PRESENT
    assert cxrlt_cells({"Granuloma", "Nodule"}, tmp_path)[at["Nodule"]] == PRESENT
    denied = label_reports(["There is a granuloma. No nodules."], [""])[0]
    assert denied[at["Nodule"]] == ABSENT


def test_a_possible_neighbour_is_no_absence() -> None:
    """CheXpert's -1 of a wider label: what is blank beside it is not negative; what was never looked for stays that."""
    row = dict.fromkeys(CHEXPERT_NAMES, "") | {"Lung Opacity": "-1.0"}
    cells = dict(zip(LABELS, chexpert_cells(pd.DataFrame([row]), "train.csv", "negative")[0], strict=True))
    assert cells["Consolidation"] == cells["Pneumonia"] == PARENT_ONLY
    assert cells["Infiltration"] == NOT_LABELED and cells["Edema"] == ABSENT


PADCHEST_ALIKE = (  # names as published that are near to a name of ours, and none of the 14
    "pericardial effusion",
    "subcutaneous emphysema",
    "nipple shadow",
    "end on vessel",
    "mediastinal mass",
    "pleural mass",
    "breast mass",
    "soft tissue mass",
    "bone metastasis",
    "calcified adenopathy",
    "calcified mediastinal adenopathy",
    "calcified densities",
    "calcified fibroadenoma",
    "hilar enlargement",
    "vascular hilar enlargement",
    "fissure thickening",
    "minor fissure thickening",
    "major fissure thickening",
    "hypoexpansion",
    "hypoexpansion basal",
    "pulmonary venous hypertension",
    "pulmonary artery hypertension",
    "pulmonary hypertension",
    "lung vascular paucity",
    "lymphangitis carcinomatosa",
    "bronchovascular markings",
    "cavitation",
    "abscess",
    "cyst",
    "chronic changes",
    "tuberculosis",
    "tuberculosis sequelae",
    "air trapping",
    "hyperinflated lung",
    "pneumomediastinum",
    "pneumoperitoneo",
)


def test_names_of_padchest_that_are_alike_are_counted_and_absent(tmp_path: Path) -> None:
    """The table of neighbours makes none of them a misspelling."""
    known = pd.DataFrame(
        {
            "image": "",
            "patient": [1],
            "study": [1],
            "view": "PA",
            "age": 40,
            "sex": "F",
            "split": "train",
            **dict.fromkeys(LABELS, 0),
        }
    )
    WRITERS["padchest"](pd.concat([known] * 2, ignore_index=True), tmp_path, None)
    path = next(tmp_path.glob("PADCHEST*"))
    table = pd.read_csv(path, dtype=str, keep_default_na=False).assign(Labels=str(list(PADCHEST_ALIKE)))
    table.to_csv(path, index=False)
    read = read_padchest(tmp_path)
    assert set(read.attrs["others"]) == set(PADCHEST_ALIKE)
    assert (read[list(LABELS)] == ABSENT).all(axis=None)


def test_the_page_shows_the_table() -> None:
    page = DOCS.read_text(encoding="utf-8")
    for row in NEIGHBOURS:
        columns = [*(getattr(row, source) for source in SOURCES if source not in REPORTS), phrases_of(row)]
        words = [", ".join(column).replace("|", "/") for column in columns]
        assert f"| {row.notion} | {', '.join(row.findings)} | {' | '.join(words)} |" in page, row.notion
    rows = page.split("## Neighbours")[1].split("\n## ")[0].count("\n| ")
    assert rows == len(NEIGHBOURS) + 1
