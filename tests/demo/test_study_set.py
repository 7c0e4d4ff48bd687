"""Synthetic studies: one body, findings where truth.csv says, two that no single view decides, a seed is one set."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from sklearn.metrics import average_precision_score, mutual_info_score

from roi.cxrlt_labels import TASK_2
from roi.data.studies import KINDS, studies_of, study_targets
from roi.data.table import read_table
from roi.data.targets import class_list, target_matrix
from roi.demo.phantom_body import body_of
from roi.demo.studies.frontal_findings import FRONTAL, SIGNS
from roi.demo.studies.lateral_body import side_body_of
from roi.demo.studies.lateral_findings import LATERAL, SAME_HEIGHT
from roi.demo.studies.study_pictures import places_of, plant_study_view, render_study_view
from roi.demo.studies.study_plan import (
    CLASSES,
    CONJUNCTIONS,
    FREQUENT_FIRST,
    OPACITIES,
    OPACITY,
    STUDIES_OF_SIZE,
    Lesion,
    Study,
    plan_studies,
    prevalences,
)
from roi.demo.studies.study_set import TRUTH, TRUTH_COLUMNS, StudySetRequest, make_study_set
from roi.labels import LABELS, NORMAL_LABELLED, published_name
from roi.scoring.challenge import perfect_reader
from roi.scoring.challenge.perfect_reader import lone_views, perfect_scores, posterior, read_truth

STUDIES, SIZE = 40, 48


@pytest.fixture(scope="module")
def planned() -> list[Study]:
    return plan_studies(6000, 0, long_tail=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sets: the same studies in each layout."""
    root = tmp_path_factory.mktemp("studies")
    for layout in ("cxrlt", "mimic", "chexpert", "padchest", "openi", "rexgradient", "table"):
        make_study_set(root / layout, StudySetRequest(STUDIES, SIZE, 5, layout), workers=1)
    return root


def digest(root: Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def one_finding(label: str, patient: int, frontal: bool = True, lateral: bool = True) -> Study:
    lesion = Lesion(label, 0, True, frontal, lateral, (patient % 2, patient % 2))
    return Study(7, patient, 0, ("PA", "LATERAL"), "MF"[patient % 2], 60, "train", (lesion,))


def test_a_seed_is_one_set_whatever_the_number_of_workers(data: Path, tmp_path: Path) -> None:
    make_study_set(tmp_path / "again", StudySetRequest(STUDIES, SIZE, 5, "cxrlt"), workers=2)
    assert digest(tmp_path / "again") == digest(data / "cxrlt")
    make_study_set(tmp_path / "other", StudySetRequest(STUDIES, SIZE, 6, "cxrlt"), workers=2)
    assert digest(tmp_path / "other").keys() != digest(data / "cxrlt").keys()


def test_studies_are_as_large_as_those_of_mimic_and_shown_as_planned(planned: list[Study]) -> None:
    sizes = np.bincount([len(study.views) for study in planned], minlength=5)[1:] / len(planned)
    assert np.abs(sizes - np.array(STUDIES_OF_SIZE) / sum(STUDIES_OF_SIZE)).max() < 0.02
    alone = [study.views[0] for study in planned if len(study.views) == 1]
    assert 0.10 < alone.count("LATERAL") / len(alone) < 0.20
    # Of first studies: what a later one has may be what the one before had.
    first = [study for study in planned if study.number == 0]
    shown = [(one.frontal, one.lateral) for s in first for one in s.lesions if one.label not in CONJUNCTIONS]
    for kinds, share in (((True, True), 0.40), ((True, False), 0.35), ((False, True), 0.25)):
        assert abs(shown.count(kinds) / len(shown) - share) < 0.02
    for study in planned:
        assert list(study.views) == sorted(study.views, key=lambda view: view == "LATERAL")


def test_classes_are_as_frequent_as_planned_and_follow_from_each_other(planned: list[Study]) -> None:
    assert set(CLASSES) == {published_name(name) for name in TASK_2} and len(CLASSES) == 26
    assert set(FREQUENT_FIRST) == set(CLASSES) - {OPACITY, NORMAL_LABELLED} and len(FREQUENT_FIRST) == 24
    assert set(FRONTAL) | set(SIGNS) == set(LATERAL) | set(SIGNS) == set(FREQUENT_FIRST) and set(SAME_HEIGHT) <= set(
        LATERAL
    )
    for is_long, studies in ((False, planned), (True, plan_studies(6000, 1, long_tail=True))):
        for label, share in prevalences(is_long).items():
            found = np.mean([label in study.labels for study in studies])
            assert abs(found - share) < 4 * np.sqrt(2 * share / len(studies)), label
        for study in studies:
            assert (OPACITY in study.labels) == bool(study.labels & set(OPACITIES))
            assert (NORMAL_LABELLED in study.labels) == (not study.labels - {"Support Devices", NORMAL_LABELLED})
    tail = list(prevalences(True).values())
    assert tail[0] == pytest.approx(0.30) and tail[-1] == pytest.approx(0.005) and tail == sorted(tail, reverse=True)


def test_a_patient_is_in_one_split(planned: list[Study]) -> None:
    splits = pd.DataFrame({"patient": [s.patient for s in planned], "split": [s.split for s in planned]})
    assert (splits.groupby("patient")["split"].nunique() == 1).all()
    shares = splits["split"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.25, abs=0.01) and shares["val"] == pytest.approx(0.10, abs=0.01)


# ---- what no single view decides ------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", CONJUNCTIONS)
def test_one_view_of_a_conjunction_says_no_more_than_that_it_may_be(planned: list[Study], label: str) -> None:
    """Given that a sign is drawn, no feature of its place or look knows the label; both views together do."""
    lesions = [one for study in planned if study.number == 0 for one in study.lesions if one.label == label]
    for kind in (0, 1):
        shown = [one for one in lesions if (one.frontal, one.lateral)[kind]]
        present = [one.present for one in shown]
        assert np.mean(present) == pytest.approx(0.4, abs=0.04)
        zone = [one.zones[kind] for one in shown]
        # Of independent variables 2 n I is chi squared of one degree.
        assert 2 * len(shown) * mutual_info_score(zone, present) < 10.8
    for one in lesions:
        assert one.present == (one.frontal and one.lateral and one.zones[0] == one.zones[1])
    # The control: the two zones together, where both are drawn, are the label.
    both = [one for one in lesions if one.frontal and one.lateral]
    same = [one.zones[0] == one.zones[1] for one in both]
    assert mutual_info_score(same, [one.present for one in both]) > 0.6


def test_a_sign_is_drawn_alike_whether_it_is_a_finding_or_not() -> None:
    study = one_finding("Nodule", 4)
    (nodule,) = study.lesions
    for place, zones in ((0, (0, 1)), (1, (1, 0))):
        nipple = Lesion("Nodule", 0, False, True, True, zones)
        same = Study(*list(vars(study).values())[:-1], (nipple,))
        patches = plant_study_view(study, place)
        assert [one.window for one in patches] == [one.window for one in plant_study_view(same, place)]
    heights = []
    for place in (0, 1):
        case = study.case(place)
        ((_, y0, _, y1), _), *_ = places_of(nodule, case)
        body = side_body_of(case) if place else body_of(case)
        heights.append(((y0 + y1) / 2 - body.top) / (body.dia[1] - body.top))
    assert heights[0] == pytest.approx(heights[1], abs=0.06)  # the two domes are not equally high


# ---- pictures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", FREQUENT_FIRST)
def test_a_finding_changes_its_boxes_and_nothing_else(label: str) -> None:
    for patient in (1, 2):
        study = one_finding(label, patient)
        for place in (0, 1):
            patches = plant_study_view(study, place)
            assert 1 <= len(patches) <= 2
            with_it = render_study_view(study, place, 100, patches).astype(int)
            change = np.abs(with_it - render_study_view(study, place, 100, []))
            inside = np.zeros((100, 100), dtype=bool)
            for patch in patches:
                x0, y0, x1, y1 = (edge * 100 for edge in patch.window)
                assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 100
                box = np.s_[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
                inside[box] = True
                assert (change[box] >= 12).mean() > 0.04, (patient, place)
            assert change[~inside].max(initial=0) == 0
        frontal_alone = one_finding(label, patient, lateral=False)
        assert plant_study_view(frontal_alone, 0) and not plant_study_view(frontal_alone, 1)


def test_the_body_is_the_same_from_the_side() -> None:
    for patient in range(1, 30):
        study = one_finding("Mass", patient)
        front, side = body_of(study.case(0)), side_body_of(study.case(1))
        # What differs is how he stands and breathes.
        assert abs(front.top - side.top) < 0.04 and abs(front.dia[0] - side.dia[0]) < 0.04
        assert front.dome == side.dome and front.vessels == side.vessels
        for label in SAME_HEIGHT:
            windows = []
            for place in (0, 1):
                (window, _), *_ = places_of(Lesion(label, 0, True, True, True), study.case(place))
                windows.append((window[1] + window[3]) / 2)
            # At the height it has, or as near as it could be moved.
            assert abs(windows[0] - windows[1]) < 0.25, label


def test_a_finding_keeps_its_shape_while_it_persists() -> None:
    lesion = Lesion("Mass", 0, True, True, True)
    first = Study(7, 3, 0, ("PA",), "M", 60, "train", (lesion,))
    later = Study(7, 3, 2, ("PA",), "M", 61, "train", (lesion,))
    sides = []
    for study in (first, later):
        x0, y0, x1, y1 = plant_study_view(study, 0)[0].window
        sides.append((x1 - x0, y1 - y0))
    assert sides[0] == pytest.approx(sides[1], abs=0.009)


# ---- files ----------------------------------------------------------------------------------------------------------


def test_truth_says_of_every_image_what_is_there(data: Path) -> None:
    truth = pd.read_csv(data / "cxrlt" / TRUTH, dtype=str, keep_default_na=False)
    assert tuple(truth) == TRUTH_COLUMNS == perfect_reader.TRUTH_COLUMNS
    images = {str(path.relative_to(data / "cxrlt")) for path in (data / "cxrlt").rglob("*.jpg")}
    assert set(truth["image"]) == images
    assert not truth.duplicated(["image", "finding"]).any()
    assert ((truth["box"] != "") == (truth["visible"] == "1")).all()
    for box in filter(None, ";".join(truth["box"]).split(";")):
        x, y, w, h = map(float, box.split())
        assert 0 <= x < x + w <= 1024.01 and 0 <= y < y + h <= 1024.01
    both = truth.groupby("study_id")["view"].agg(lambda views: len(set(views == "LATERAL")) == 2)
    signs = truth[truth["finding"].isin(CONJUNCTIONS)]
    assert (signs["decided"] == "1").tolist() == both[signs["study_id"]].tolist()
    seen = truth.groupby(["study_id", "finding"])["visible"].transform("max")
    ordinary = ~truth["finding"].isin([*CONJUNCTIONS, NORMAL_LABELLED])
    assert (truth["decided"] == seen)[ordinary].all() and (truth["present"] == "1")[ordinary].all()


def test_cxrlt_has_the_published_files_and_their_tables_the_labels_of_truth(data: Path, tmp_path: Path) -> None:
    folder = data / "cxrlt"
    header = (folder / "cxr-lt-2024" / "test_labeled_task2.csv").read_text().split("\n")[0].split(",")
    assert header[:6] == ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath"]
    assert header[6 + 13 : 6 + 16] == ["Mass", "Normal", "Nodule"] and len(header) == 6 + 26
    assert len((folder / "cxr-lt-2024" / "train_labeled.csv").read_text().split("\n")[0].split(",")) == 6 + 40
    truth = read_truth(folder / TRUTH)
    known = truth[truth["present"]].groupby("image")["finding"].agg(set)
    for edition in ("2023", "2024.1", "2024.2"):
        out = tmp_path / f"{edition}.csv"
        run("make_chexmultimodal_csv.py", "--cxrlt", edition, "--data_root", data, "--out_csv", out)
        table = read_table(out)
        image = table["image"].str.removeprefix("mimic/").str.removeprefix("cxrlt/")
        labels = [set(field.split(",")) for field in table["labels"]]
        assert dict(zip(image, labels, strict=True)) == known.to_dict()
        of_image = truth.drop_duplicates("image").set_index("image").loc[image]
        for column in ("study_id", "patient_id", "view", "split"):
            assert table[column].tolist() == of_image[column].tolist()
        assert table.groupby("patient_id")["split"].nunique().max() == 1
    studies = studies_of(table)
    assert len(studies) == STUDIES and KINDS[studies.kinds[studies.first_rows[0]]] in KINDS
    classes = class_list(table)
    assert set(classes) == set(CLASSES)
    study_targets(studies, target_matrix(table, classes), classes, table["image"].to_numpy())


def test_every_layout_has_the_studies_and_no_label_is_contradicted(data: Path, tmp_path: Path) -> None:
    names = ("mimic", "chexpert", "padchest", "openi", "rexgradient")
    out = tmp_path / "t.csv"
    run("make_chexmultimodal_csv.py", "--datasets", *names, "--data_root", data, "--out_csv", out)
    table = pd.concat([read_table(out), read_table(data / "table" / "table.csv")], ignore_index=True)
    for name in (*names, "demo"):
        rows = table[table["dataset"] == name].reset_index(drop=True)
        studies = studies_of(rows)
        truth = read_truth(data / ("table" if name == "demo" else name) / TRUTH)
        assert len(studies) == STUDIES and len(rows) == truth["image"].nunique(), name
        laterals = int((truth.drop_duplicates("image")["view"] == "LATERAL").sum())
        assert int((studies.kinds == 1).sum()) == laterals, name
        classes = [label for label in LABELS if rows["labels"].str.contains(label, regex=False).any()]
        target = target_matrix(rows, classes)
        study_targets(studies, target, classes, rows["image"].to_numpy())
        mass = truth[truth["present"] & (truth["finding"] == "Mass")]["study_id"].nunique()
        if "Mass" in classes:
            of_study = study_targets(studies, target, classes, rows["image"].to_numpy()).targets
            assert np.nansum(of_study[:, classes.index("Mass")]) == mass, name
    about = json.loads((data / "table" / "demo.json").read_text())
    assert about["studies"] == STUDIES and about["layout"] == "table" and set(about["positives"]) == set(CLASSES)


# ---- the perfect reader ---------------------------------------------------------------------------------------------


def write_truth(path: Path, rows: list[str]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([TRUTH_COLUMNS, *[row.split(",") for row in rows]])
    return path


def test_the_perfect_reader_on_six_studies(tmp_path: Path) -> None:
    rows = [
        "a0,a,p,test,PA,Mass,1,0,1,",
        "a1,a,p,test,LATERAL,Mass,1,1,1,1 1 2 2",
        "b0,b,p,test,PA,Mass,1,1,1,1 1 2 2",
        "c0,c,p,test,LATERAL,Mass,1,0,0,",
        # At one height, at two, and a sign of which one view is there.
        "d0,d,p,test,PA,Nodule,1,1,1,1 1 2 2",
        "d1,d,p,test,LATERAL,Nodule,1,1,1,1 1 2 2",
        "e0,e,p,test,PA,Nodule,0,1,1,1 1 2 2",
        "e1,e,p,test,LATERAL,Nodule,0,1,1,1 1 2 2",
        "f0,f,p,test,PA,Nodule,1,1,0,1 1 2 2",
    ]
    truth = read_truth(write_truth(tmp_path / TRUTH, rows))
    scores = perfect_scores(truth)
    mass = [1, 1, 1, 0, 0, 0]
    assert scores.first_frontal["Mass"] == pytest.approx(average_precision_score(mass, [0.4, 1, 0.4, 0.4, 0.4, 0.4]))
    assert scores.all_views["Mass"] == pytest.approx(average_precision_score(mass, [1, 1, 0.25, 0.25, 0.25, 0.25]))
    nodule = [0, 0, 0, 1, 0, 1]
    assert scores.first_frontal["Nodule"] == pytest.approx(
        average_precision_score(nodule, [0, 0, 0, 2 / 3, 2 / 3, 2 / 3])
    )
    assert scores.all_views["Nodule"] == 1
    assert scores.mean_all_views == pytest.approx((scores.all_views["Mass"] + 1) / 2)
    assert lone_views(truth).to_dict("records") == [{"study_id": "a", "finding": "Mass", "image": "a1", "views": 2}]


def test_all_views_are_worth_more_than_the_first(data: Path) -> None:
    scores = perfect_scores(read_truth(data / "table" / TRUTH))
    assert scores.mean_all_views > scores.mean_first_frontal + 0.05
    for finding, first in scores.first_frontal.items():
        assert scores.all_views[finding] >= first - 0.05, finding
    assert posterior(np.array(["s", "s", "u"]), np.array([1, 0, 0])).tolist() == [0.5, 0.5, 0]


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    command = ("make_demo_dataset.py", "--out", tmp_path / "x", "--size", 48)
    assert "--hard makes single images" in one_line_error(*command, "--studies", 30, "--hard")
    error = one_line_error(*command, "--studies", 30, "--layout", "vindr")
    assert "--layout vindr: it has no studies of several views; choose one of table, mimic" in error
    assert "--studies 5: at least 20 are needed" in one_line_error(*command, "--studies", 5)
    assert "--long_tail goes with --studies N" in one_line_error(*command, "--long_tail")
    assert not (tmp_path / "x").exists()
    for splits, words in (((), "no column 'image'"), (("val",), "no row of split val")):
        path = write_truth(tmp_path / TRUTH, ["a0,a,p,test,PA,Mass,1,1,1,1 1 2 2"])
        if not splits:
            path.write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match=words):
            read_truth(path, splits)
