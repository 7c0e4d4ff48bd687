"""Overlays: the page of an X-ray, and from which probability on a finding is shown."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run
from PIL import Image, ImageFont
from tiny_checkpoint import CLASSES, draw, save_checkpoint

from roi.errors import UserError
from roi.inference.pictures import overlay
from roi.inference.pictures.overlay import OUTLINE, Case, ShownFinding, page, panel_size, wrapped
from roi.inference.pictures.overlay_writer import OverlayWriter
from roi.inference.thresholds import Thresholds, default_thresholds, given_thresholds, read_thresholds
from roi.scoring import prediction_sets

SCRIPT = "infer_roi_consistency.py"
MASK = np.zeros((64, 64), dtype=np.uint8)
MASK[16:32, 8:40] = 1
CELLS = np.zeros((8, 8))
CELLS[6, 1] = 4.0
CASE = Case(
    image="a/b.png",
    grey=np.full((600, 900), 100, dtype=np.uint8),
    findings=[ShownFinding("Mass", 0.81, 0.3, CELLS)],
    next_finding="",
    mask=MASK,
    boxes=[],
    map_name="map",
    thresholds="metrics.json",
    contaminated=False,
)


def words(case: Case) -> str:
    return "\n".join(text for text, _ in overlay._words(case))


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "longest", "size"),
    [
        ((3000, 2400), 1024, (819, 1024)),
        ((3000, 2400), 0, (2400, 3000)),
        ((400, 512), 1024, (512, 400)),
        ((30, 60), 1024, (384, 192)),
        ((2000, 500), 512, (128, 512)),
    ],
)
def test_a_panel_has_the_proportions_of_the_x_ray(shape: tuple[int, int], longest: int, size: tuple[int, int]) -> None:
    assert panel_size(shape, longest) == size


def test_the_outline_runs_along_the_mask_in_the_place_where_the_x_ray_has_it() -> None:
    picture = np.asarray(overlay._outlined(CASE.grey, CASE))
    rows, columns = np.nonzero((picture == OUTLINE).all(axis=2))
    # 64 cells are 600 rows and 900 columns.
    found = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
    np.testing.assert_allclose(found, (150, 300, 112.5, 562.5), atol=1)
    inside = picture[160:290, 125:550]
    assert (inside == 100).all()


def test_without_a_finding_there_are_words_and_no_outline() -> None:
    nothing = dataclasses.replace(CASE, findings=[], next_finding="most probable: Mass 0.20, shown from 0.30")
    assert not (np.asarray(page(nothing, 1024)) == OUTLINE).all(axis=2).any()
    assert (np.asarray(page(CASE, 1024)) == OUTLINE).all(axis=2).any()
    assert "no finding above its threshold (most probable: Mass 0.20, shown from 0.30)" in words(nothing)
    assert "no finding" not in words(CASE)
    assert page(nothing, 1024).width == 900 and page(CASE, 1024).width == 2 * 900 + overlay.GAP


def test_a_map_colours_its_highest_place_most_and_leaves_what_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    crossed = np.asarray(overlay._heated(CASE.grey, CELLS))
    monkeypatch.setattr(overlay, "_draw_cross", lambda picture, cells: None)
    picture = np.asarray(overlay._heated(CASE.grey, CELLS))
    colour = np.abs(picture.astype(int) - 100).sum(axis=2)
    # The middle of cell (6, 1) of 8 x 8 in 600 x 900 pixels: there the cross is, too.
    highest = np.unravel_index(colour.argmax(), colour.shape)
    np.testing.assert_allclose(highest, (487.5, 168.75), atol=2)
    rows, columns = np.nonzero((crossed != picture).any(axis=2))
    np.testing.assert_allclose((rows.mean(), columns.mean()), (487.5, 168.75), atol=2)
    assert colour[:300].max() == colour[:, 450:].max() == 0
    flat = np.asarray(overlay._heated(CASE.grey, np.zeros((8, 8))))
    assert (flat == 100).all()


def test_what_has_no_panel_is_named() -> None:
    many = [ShownFinding(f"F{n}", 0.9 - n / 20, 0.3, CELLS) for n in range(7)]
    case = dataclasses.replace(CASE, findings=many, contaminated=True)
    assert "also above their thresholds: F5 0.65, F6 0.60" in words(case) and "CONTAMINATED" in words(case)
    # The X-ray and five maps, three beside each other.
    assert page(case, 400).width == 3 * 400 + 2 * overlay.GAP
    unmapped = dataclasses.replace(CASE, findings=[ShownFinding("Mass", 0.81, 0.3, None)])
    assert "above their thresholds: Mass 0.81" in words(unmapped)


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ({"trained_on_synthetic": True}, "has seen drawn images alone; this page says nothing about a patient"),
        ({"synthetic": True}, "a drawn image, no X-ray"),
        ({}, ""),
    ],
)
def test_a_page_says_itself_what_is_drawn(origin: dict[str, bool], said: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"image": ["a.png"], "path": ["a.png"], "contaminated": [False]})
    limits = default_thresholds(["Mass"])
    writer = OverlayWriter(tmp_path / "pages", table, 1, 0, ["Mass"], limits, {})
    writer.mark(origin)
    text = words(dataclasses.replace(CASE, synthetic=writer.synthetic))
    assert said in text and ("SYNTHETIC" in text) == bool(said)


def test_lines_are_never_wider_than_the_page() -> None:
    font = ImageFont.load_default(size=14)
    text = "no finding above its threshold " + "a_very_long_name_of_a_file" * 9 + " end"
    for width in (80, 200, 900):
        lines = wrapped(text, font, width)
        assert max(map(font.getlength, lines)) <= width
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")


# --- thresholds ------------------------------------------------------------------------------------------------------


def test_findings_reach_their_thresholds_and_normal_is_none() -> None:
    limits = given_thresholds({"Mass": 0.2, "Effusion": 0.9}, CLASSES)
    np.testing.assert_array_equal(limits.values, [0.2, 0.5, 0.9, np.nan])
    assert limits.above(np.array([0.2, 0.6, 0.89, 0.99])).tolist() == [1, 0]
    assert default_thresholds(CLASSES).above(np.array([0.1, 0.2, 0.3, 0.9])).tolist() == []
    for wrong in ({"Masse": 0.5}, {"Mass": 1.5}):
        with pytest.raises(UserError, match="thresholds"):
            given_thresholds(wrong, CLASSES)


def conformal(scale: str, scaling: dict[str, list[float]] | None, fnr: float | None) -> dict[str, object]:
    each = dict.fromkeys(prediction_sets.EACH)
    return {
        **{"version": 1, "alpha": 0.1, "delta": 0.1, "unit": "patient", "classes": CLASSES[:3]},
        **{"fnr": fnr, "fnr_with_finding": None, "fnr_shifted": None, "fdr": None, "shift": None},
        **{"scale": scale, "scaling": scaling, "curve": [], "n_patients": 9, "with_finding": 0.5},
        **{"each": dict.fromkeys(CLASSES[:3], each), "prevalence": dict.fromkeys(CLASSES[:3], 0.1)},
        **{"patients": [], "model": {}},
    }


@pytest.mark.parametrize(
    ("scale", "parameters"), [("none", None), ("temperature", [1.7]), ("platt", [0.6, -0.8]), ("platt", [1.9, 0.4])]
)
def test_thresholds_of_sets_show_what_the_sets_hold(tmp_path: Path, scale: str, parameters: list[float] | None) -> None:
    scaling = None if parameters is None else dict.fromkeys(CLASSES[:3], parameters)
    file = tmp_path / "thresholds.json"
    file.write_text(json.dumps(conformal(scale, scaling, 0.37)))
    limits = read_thresholds(file, CLASSES)
    prob = np.random.default_rng(0).random((400, 4))
    sets = prediction_sets.described(prediction_sets.read(file), prob[:, :3])
    for row, held in zip(prob, sets, strict=True):
        assert {CLASSES[k] for k in limits.above(row)} == set(held["set"])
    file.write_text(json.dumps(conformal("none", None, None)))
    with pytest.raises(UserError, match="no threshold of a class"):
        read_thresholds(file, CLASSES)


def test_thresholds_of_scores_are_those_of_each_finding(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    scores = {"Mass": {"threshold": 0.07}, "Nodule": {"threshold": None}, "Hernia": {"threshold": 0.2}}
    file.write_text(json.dumps({"n_images": 1, "contaminated": False, "mean": {}, "per_class": scores}))
    np.testing.assert_array_equal(read_thresholds(file, CLASSES).values, [0.07, 0.5, 0.5, np.nan])
    assert isinstance(read_thresholds(file, CLASSES), Thresholds)
    file.write_text("{")
    with pytest.raises(UserError, match="not a file of thresholds"):
        read_thresholds(file, CLASSES)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for n, name in enumerate(("a.png", "b.png", "c/a.png")):
        draw(root / name, n, (200, 120))
    return root


def infer(model: Path, *flags: object) -> tuple[object, ...]:
    return (SCRIPT, "--checkpoint", model, "--workers", 0, "--device", "cpu", *flags)


@pytest.mark.parametrize("mask", ["features", "conv", "none"])
def test_a_folder_has_a_page_an_image(scans: Path, tmp_path: Path, mask: str) -> None:
    """Of a model without a map of each class Grad-CAM stands in its place."""
    model = save_checkpoint(tmp_path / "m.pt", mask)
    metrics = {"n_images": 1, "contaminated": False, "mean": {}, "per_class": {}}
    for name, limit in (("all", 0.0), ("nothing", 1.0)):
        metrics["per_class"] = {c: {"threshold": limit} for c in CLASSES}
        (tmp_path / f"{name}.json").write_text(json.dumps(metrics))
        flags = ("--thresholds", tmp_path / f"{name}.json", "--save_overlay", tmp_path / name)
        said = run(*infer(model, "--images", scans, *flags))
        assert f"overlays of 3 images; findings are shown from: {name}.json" in said
    panels = {}
    for name in ("all", "nothing"):
        files = sorted(path.name for path in (tmp_path / name).iterdir())
        assert files == ["a.png_overlay.png", "b.png_overlay.png", "c__a.png_overlay.png"]
        panels[name] = Image.open(tmp_path / name / "b.png_overlay.png").width
    # Small X-rays are enlarged, so that the words have room; three findings, four panels in two rows.
    assert panels == {"all": 2 * overlay.SMALLEST + overlay.GAP, "nothing": overlay.SMALLEST}


def test_an_overlay_of_one_image_is_a_file_and_is_no_image_of_the_next_run(scans: Path, tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "m.pt")
    run(*infer(model, "--image", scans / "a.png", "--save_overlay", tmp_path / "one.png"))
    run(*infer(model, "--images", scans / "a.png", "--save_overlay", tmp_path / "two.png"))
    one, two = (np.asarray(Image.open(tmp_path / name)) for name in ("one.png", "two.png"))
    np.testing.assert_array_equal(one, two)
    draw(tmp_path / "mine" / "a.png", 1)
    inside = ("--images", tmp_path / "mine", "--save_overlay", tmp_path / "mine" / "overlays")
    for more in ((), ("--overwrite",)):
        assert "overlays of 1 image;" in run(*infer(model, *inside, *more))
    assert "exists" in one_line_error(*infer(model, *inside))


def test_thresholds_of_another_checkpoint_are_refused(scans: Path, tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "m.pt")
    metrics = {"n_images": 1, "contaminated": False, "mean": {}, "per_class": {"Mass": {"threshold": 0.1}}}
    metrics["predictions"] = {"file": "p.json", "checkpoint": "other.pt", "epoch": 4}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    flags = ("--images", scans, "--save_overlay", tmp_path / "o", "--thresholds", tmp_path / "metrics.json")
    assert "they are of other.pt, epoch 4" in one_line_error(*infer(model, *flags))
