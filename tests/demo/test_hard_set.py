"""The hard set: NIH's prevalences, labels that are wrong as often as said, nothing but the findings in their boxes."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import make_demo_dataset
from roi.cli import run
from roi.demo import nih_set
from roi.demo.hard_set import HARD, PREVALENCE, WRONG, MislabeledCase, plan_hard
from roi.demo.phantom_acquisition import edges_of, pose_of
from roi.demo.phantom_body import Case, body_of
from roi.demo.phantom_hard import plant_hard, render_hard
from roi.labels import LABELS

IMAGES, SIZE = 60, 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hard") / "set"
    nih_set.make_demo_dataset(out, images=IMAGES, size=SIZE, seed=3, workers=1, phantom=HARD)
    return out


@pytest.fixture(scope="module")
def planned() -> list[Case]:
    return plan_hard(15000, 1)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_prevalences_are_those_of_nih(shared: Path) -> None:
    table = pd.read_csv(shared / "nih_metadata" / "Data_Entry_2017_v2020.csv", index_col=False)
    labels = table["Finding Labels"].str.split("|")
    for label, prevalence in PREVALENCE.items():
        assert labels.map(lambda row, label=label: label in row).mean() == pytest.approx(prevalence, abs=5e-5)


def test_planned_findings_are_as_frequent_as_in_nih(planned: list[Case]) -> None:
    for label, prevalence in PREVALENCE.items():
        expected = prevalence * len(planned)
        margin = 0.08 * expected + 4 * np.sqrt(expected)  # patients come with several images
        for count in (
            sum(label in dict(case.findings) for case in planned),
            sum(label in case.labels for case in planned),
        ):
            assert abs(count - expected) < margin, label
    assert sum(not case.findings for case in planned) / len(planned) == pytest.approx(0.538, abs=0.02)


def test_labels_are_wrong_as_often_as_said(planned: list[Case]) -> None:
    pairs = [(label in dict(case.findings), label in case.labels) for case in planned for label in LABELS]
    present, named = (np.array(column) for column in zip(*pairs, strict=True))
    assert (present & ~named).sum() / present.sum() == pytest.approx(WRONG, abs=0.015)
    assert (named & ~present).sum() / named.sum() == pytest.approx(WRONG, abs=0.015)


def test_the_table_does_not_change_the_picture() -> None:
    case = next(case for case in plan_hard(60, 0) if case.findings)
    assert isinstance(case, MislabeledCase)
    other = replace(case, stated=("Hernia", "Mass"))
    assert (render_hard(case, SIZE) == render_hard(other, SIZE)).all()


def test_boxes_are_of_findings_that_are_there_and_named(made: Path) -> None:
    cases = plan_hard(IMAGES, 3)
    expected = {(case.name, label) for case in cases for label in case.labels if label in dict(case.findings)}
    named = {(case.name, label) for case in cases for label in case.labels}
    rows = list(csv.reader((made / "BBox_List_2017.csv").read_text().splitlines()))[1:]
    boxed = {(row[0], row[1].replace("Infiltrate", "Infiltration")) for row in rows}
    assert boxed == expected < named
    entries = list(csv.reader((made / "Data_Entry_2017.csv").read_text().splitlines()))[1:]
    in_table = {(row[0], label) for row in entries for label in row[1].split("|") if label != "No Finding"}
    assert in_table == named
    about = json.loads((made / "demo.json").read_text())
    assert about["hard"] is True
    assert about["wrong_labels"] == WRONG
    assert about["boxes"] == len(rows)


@pytest.mark.parametrize("size", [64, 101])
@pytest.mark.parametrize("label", LABELS)
def test_a_finding_changes_its_box_and_nothing_else(label: str, size: int) -> None:
    """Borders, markers, devices, tone and noise included: none of them knows what is ill."""
    strongest = 0
    for patient in range(1, 9):
        case = Case(seed=0, patient=patient, followup=0, view="AP" if patient % 2 else "PA", sex="F")
        ill = replace(case, findings=((label, 0),))
        assert (pose_of(ill), edges_of(ill)) == (pose_of(case), edges_of(case))
        change = np.abs(render_hard(ill, size).astype(int) - render_hard(case, size))
        inside = np.zeros((size, size), bool)
        for patch in plant_hard(ill):
            x, y, w, h = patch.box()
            assert min(x, y) >= 0
            assert min(w, h) >= 20
            assert max(x + w, y + h) <= 1024
            left, top, right, bottom = (v * size / 1024 for v in (x, y, x + w, y + h))
            rows = slice(int(np.floor(top + 1e-6)), int(np.ceil(bottom - 1e-6)))
            inside[rows, slice(int(np.floor(left + 1e-6)), int(np.ceil(right - 1e-6)))] = True
        assert change[~inside].max() == 0
        assert change[inside].max() >= 2, "nothing can be seen"
        strongest = max(strongest, change[inside].max())
    assert strongest >= 10


def test_pose_maps_back_and_forth() -> None:
    for case in plan_hard(40, 2):
        pose = pose_of(case)
        for u, v in ((0.2, 0.3), (0.9, 0.1), (0.5, 0.5)):
            x, y = pose.to_image(u, v)
            back = pose.to_body(np.full((1, 1), x, np.float32), np.full((1, 1), y, np.float32))
            assert np.allclose([float(back[0][0, 0]), float(back[1][0, 0])], [u, v], atol=1e-5)
        a, b, c, d, e, f = pose.affine(100)
        x, y = (100 * value for value in pose.to_image(0.2, 0.3))
        assert np.allclose([a * x + b * y + c, d * x + e * y + f], [20, 30], atol=1e-4)


def test_borders_leave_the_chest_open() -> None:
    """Black borders on many images, not on all, and never over the lungs."""
    bordered, covered = 0, []
    for case in plan_hard(200, 4):
        body, pose = body_of(case), pose_of(case)
        bordered += bool(edges_of(case))
        for side in (-1, 1):
            x, y = pose.to_image(*body.at(side, 0.9, 0.6))
            covered.append(min((a * x + b * y - c for a, b, c in edges_of(case)), default=1.0))
    assert 0.5 * 200 < bordered < 200
    assert np.mean(np.array(covered) > 0) > 0.97


def test_a_seed_is_one_picture_at_every_size_and_number_of_workers(made: Path, tmp_path: Path) -> None:
    nih_set.make_demo_dataset(tmp_path / "two", images=IMAGES, size=SIZE, seed=3, workers=2, phantom=HARD)
    assert files(tmp_path / "two") == files(made)
    for case in plan_hard(12, 3):
        (path,) = made.glob(f"images_*/images/{case.name}")
        small = np.asarray(Image.open(path).convert("L"), float)
        assert (small == render_hard(case, SIZE)).all()
        large = Image.fromarray(render_hard(case, 4 * SIZE)).resize((SIZE, SIZE), Image.Resampling.BOX)
        assert np.corrcoef(np.asarray(large, float).ravel(), small.ravel())[0, 1] > 0.98


def script(*flags: object) -> int:
    with pytest.raises(SystemExit) as end:
        run(make_demo_dataset.main, lambda: make_demo_dataset.parse_args([str(flag) for flag in flags]))
    return int(end.value.code or 0)


def test_the_command_writes_it_and_refuses_boxes_that_are_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("--images", 20, "--size", 32, "--workers", 1, "--hard")
    assert script("--out", tmp_path / "nih", *small) == 0
    assert json.loads((tmp_path / "nih" / "demo.json").read_text())["hard"] is True
    assert script("--out", tmp_path / "padchest", *small, "--layout", "padchest") == 0
    assert json.loads((tmp_path / "padchest" / "demo.json").read_text())["hard"] is True
    capsys.readouterr()
    assert script("--out", tmp_path / "vinbigdata", *small, "--layout", "vinbigdata") == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "choose vindr" in error
    assert {path.name for path in tmp_path.iterdir()} == {"nih", "padchest"}
