"""Sections of the report on the long tail and on studies: what they show, in which order, and what a bar means."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_report import EVIL, FINDINGS, browser, changed_run, made, sections, table_rows, v, whole

from roi.report import plots
from roi.report.build import page
from roi.report.case_pictures import Evidence
from roi.report.html import esc
from roi.report.run_folder import Run, read_run, run_name
from roi.report.sections import cases
from roi.report.sections import studies as studies_section
from roi.report.sections.long_tail import long_tail
from roi.report.sections.studies import bar_html, signed, studies
from roi.report.sections.subgroups import subgroups
from roi.scoring import predictions
from roi.scoring.map_file import Maps

__all__ = ["browser", "made", "whole"]  # fixtures of the page of one run
CLASSES = ["Mass", "Edema"]
VIEWS = ("LATERAL", "PA", "", "AP")


# --- long tail ---


def test_classes_stand_by_their_training_images(made: Path) -> None:
    section = sections(made.read_text())["long_tail"]
    rows = table_rows(section, "Classes by their training images; click a header to sort")
    counts = [2000 // 3**k for k in range(9)] + [0]
    assert [row[0][0] for row in rows] == [*map(esc, FINDINGS), "Normal"]
    assert [row[2][0] for row in rows] == [f"{count:,}" for count in counts] + ["–"]
    assert [row[1][0] for row in rows] == ["head"] * 3 + ["medium"] * 2 + ["tail"] * 5 + ["–"]
    assert rows[0][3][0] == "50.00 %" and "4,000 training images of train " in section
    for said in ("0.310", "0.720", "0.210", "0.090", "9 classes", "(2 left out)", "15 bins", "Hernia"):
        assert said in section
    assert "has no place for them: Pneumothorax, " in section and f", {esc(FINDINGS[-1])}." in section


def test_the_axis_of_counts_is_logarithmic() -> None:
    """Each count is a third of the one before: the dots stand at even steps."""
    dots = [plots.Dot(2000 / 3**k, v(0.5), None) for k in range(6)]
    drawn = plots.dots("t", "x", "y", {"a": dots, "b": [plots.Dot(0, v(0.4), 0.1), plots.Dot(5, v(None), 0.1)]})
    xs = marks(drawn, plots.PALETTE[0])
    assert len(xs) == 6
    np.testing.assert_allclose(np.diff(xs), np.diff(xs)[0], rtol=1e-3)
    # Neither a count of 0 nor a class without a value has a dot.
    assert marks(drawn, plots.PALETTE[1]) == []


def marks(drawn: bytes, colour: str) -> list[float]:
    """x of the markers of a colour, from the left to the right of the data."""
    found = []
    for group in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}g"):
        # A group of markers is cut to the axes; the legend is not.
        if "clip-path" in group.attrib:
            for use in group.iter("{http://www.w3.org/2000/svg}use"):
                if colour.lower() in use.get("style", "").lower():
                    found.append(float(use.attrib["x"]))
    return found


def test_without_a_training_table_there_is_no_section(whole: Path, tmp_path: Path) -> None:
    run = changed_run(whole, tmp_path / "none", lambda data: (data.pop("long_tail"), data.pop("view_pointing")))
    parts = sections(page([run], count=2))
    assert "long_tail" not in parts and "studies" not in parts
    odd = changed_run(whole, tmp_path / "odd", lambda data: data["long_tail"].pop("rule"))
    assert "&#x27;long_tail.rule&#x27; is missing" in sections(page([odd], count=0))["long_tail"]
    bare = changed_run(whole, tmp_path / "bare", lambda data: [data["long_tail"].pop(k) for k in ("bins", "challenge")])
    assert "No figures of the challenge" in long_tail(bare)


def test_groups_of_views_have_their_names(whole: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        group = {"n_images": 8, "n_patients": 4, "auroc": v(0.8)}
        names = {"n_views": ("1 view", "2 views"), "in_training": ("seen", "unseen")}
        data["subgroups"] = {a: {"findings": ["Mass"], "groups": dict.fromkeys(g, group)} for a, g in names.items()}

    text = subgroups(changed_run(whole, tmp_path, change))
    assert re.findall("<h3>(.*?)</h3>", text) == ["Number of views", "Patients of the training table"]


# --- studies ---


@pytest.fixture(scope="module")
def study_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """24 studies of 1 to 4 views, lateral listed before frontal; study 3 has a view that was not looked at."""
    root = tmp_path_factory.mktemp("studies")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows, records = [], []
    for study in range(24):
        views = study % 4 + 1
        prob = rng.uniform(0.1, 0.9, (views, 2))
        for n in range(views):
            name = f"{study}_{n}.png"
            pixels = rng.integers(0, 255, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / name)
            labels = ["Mass", "Edema", "", "Mass,Edema"][study // 4 % 4]
            rows.append((name, labels, f"p{study}", f"s{study}", VIEWS[n]))
            entry = predictions.record(name, CLASSES, {"full": prob.mean(0)}, study == 6)
            entry["study"] = f"s{study}"
            if (study, n) != (3, 2):
                entry["prob_view"] = predictions.by_class(CLASSES, prob[n])
                if views > 1:
                    entry["without"] = predictions.by_class(CLASSES, np.delete(prob, n, axis=0).mean(0))
            records.append(entry)
    table = pd.DataFrame(rows, columns=["image", "labels", "patient_id", "study_id", "view"])
    table.to_csv(root / "table.csv", index=False)
    predictions.write(root / "preds.json", records, {"checkpoint": "x.pt"})
    scores = {"auroc": v(0.8), "ap": v(0.5), "positives": 9, "known": 24}
    data = {
        "n_images": len(rows),
        "contaminated": False,
        "mean": {"auroc": v(0.8)},
        "per_class": dict.fromkeys(CLASSES, scores),
        "inputs": {"preds": "preds.json", "csv": "table.csv"},
        "predictions": {"image_root": str(root / "images")},
    }
    (root / "metrics.json").write_text(json.dumps(data))
    return read_run(root)


def test_a_study_is_a_row_of_its_views_with_what_each_adds(study_run: Run) -> None:
    text = studies(study_run, None, 40)
    records = {r["image"]: r for r in json.loads((study_run.folder / "preds.json").read_text())}
    articles = re.findall(r"<article.*?</article>", text)
    assert articles and text.count("<img") == text.count('class="view"')
    seen = set()
    for article in articles:
        finding = re.search(r"<p><b>(\w+)</b>: study", article)
        name = re.search(r"Study s(\d+), (\d) views", article)
        assert finding and name
        study, views = map(int, name.groups())
        seen.add(study)
        # A study of one view has nothing to compare.
        assert views == study % 4 + 1 > 1
        members = re.findall(r"(?:<br>)(\d+_\d)\.png</p><p>alone ([.\d]+)<br>adds ([-+.\d]+)", article)
        expected = [n for n in (1, 3, 0, 2) if n < views and (study, n) != (3, 2)]
        assert [member for member, *_ in members] == [f"{study}_{n}" for n in expected]
        added = []
        for member, alone, adds in members:
            record = records[f"{member}.png"]
            assert float(alone) == pytest.approx(record["prob_view"][finding[1]], abs=0.0051)
            difference = record["prob_full"][finding[1]] - record["without"][finding[1]]
            assert float(adds) == pytest.approx(difference, abs=0.00051)
            added.append(difference)
        bars = re.findall(r"left:([.\d]+)%;width:([.\d]+)%", article)
        for (left, width), difference in zip(bars, added, strict=True):
            assert float(width) == pytest.approx(50 * abs(difference) / np.abs(added).max(), abs=0.06)
            assert float(left) == pytest.approx(50 if difference >= 0 else 50 - float(width), abs=0.11)
        assert ("CONTAMINATED" in article) == (study == 6)
        assert ("not looked at" in article) == (study == 3)
    assert {3, 6} < seen and len(seen) == 18
    assert text.index("PA, frontal") < text.index("LATERAL, lateral") < text.index("view not said")


def test_a_run_of_studies_has_the_name_of_its_fusion(tmp_path: Path) -> None:
    args = {"mode": None, "mask": "none", "without": [], "fusion": "attention"}
    assert run_name({"predictions": {"args": args}}, tmp_path) == "studies, attention"


def test_nothing_is_proposed_that_a_run_of_studies_refuses(whole: Path, tmp_path: Path) -> None:
    """Such a model has no mask of its own: infer_roi_consistency.py refuses --class_masks and --save_masks for it."""

    def change(data: dict[str, Any]) -> None:
        args = data["predictions"]["args"]
        args |= {"fusion": "attention", "mask": "none"}
        del data["localization"], data["faithfulness"]
        data["inputs"] |= {"masks": None, "bbox_csv": None}
        data["predictions"]["keep_ratio"] = 1.0

    run = changed_run(whole, tmp_path, change)
    text = page([run], count=4)
    parts = sections(text)
    for section in ("localisation", "faithfulness", "gallery"):
        assert "class_masks" not in parts[section] and "--save_masks" not in parts[section], parts[section]
    assert "--cam cam.npz" in parts["localisation"] and "--cam cam.npz" in parts["gallery"]
    assert "Share of pixels kept" not in text


def test_a_calibration_error_outside_its_interval_is_explained(whole: Path, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["long_tail"]["challenge"]["mece"] = {"value": 0.021, "low": 0.022, "high": 0.029}

    said = "lies below its own interval"
    assert said in long_tail(changed_run(whole, tmp_path, change)) and said not in long_tail(read_run(whole))


def test_grad_cam_has_one_name_on_the_page() -> None:
    maps = Maps(["a.png"], CLASSES[:1], {"cam": np.zeros((1, 1, 2, 2), np.float32)}, {}, 1.0, {})
    for section in (cases, studies_section):
        assert "Heat: Grad-CAM of the finding, over" in section.legend(Evidence([maps]), False)


def test_half_as_many_studies_as_cases(study_run: Run) -> None:
    parts = sections(page([study_run], count=8))
    assert parts["gallery"].count("<article") == 8 and parts["studies"].count("<article") == 4
    assert "<article" not in sections(page([study_run], count=0))["studies"]


def test_images_that_are_not_there_leave_the_others_their_pictures(study_run: Run, tmp_path: Path) -> None:
    for image in (study_run.folder / "images").glob("*_0.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    text = studies(study_run, str(tmp_path), 4)
    assert text.count("<img") == 4 and "the image is not under the folder" in text


def test_view_pointing_stands_beside_chance(made: Path) -> None:
    section = sections(made.read_text())["studies"]
    assert "0.910" in section and "0.440" in section and "0.470" in section and "70 findings of 60 studies" in section
    assert esc(EVIL) in section and EVIL not in section


def test_a_bar_begins_in_the_middle() -> None:
    assert "left:50.0%;width:50.0%" in bar_html(0.2, 0.2) and "left:25.0%;width:25.0%" in bar_html(-0.1, 0.2)
    assert 'class="less"' in bar_html(-0.1, 0.2) and "width:0.0%" in bar_html(0.0, 0.0)
    assert [signed(x) for x in (0.1234, -0.1234, -0.0001, 0.0)] == ["+0.123", "-0.123", "0.000", "0.000"]


@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_studies_without_overflow(browser: Any, study_run: Run, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(page([study_run], count=24))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto((tmp_path / "report.html").as_uri())
    assert said == [] and tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    four = tab.locator("#studies .views").filter(has_text="view not said").first.locator(".view")
    tops = [four.nth(n).bounding_box()["y"] for n in range(four.count())]
    assert len(set(tops)) == (1 if width == 1280 else 2)
    tab.close()
