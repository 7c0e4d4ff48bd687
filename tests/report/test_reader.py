"""What a reader does with the page in a real browser: a threshold, a filter, a picture, a table, a word, paper."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_report import EVIL, FINDINGS, QUOTED, browser, changed_run, made, sections, whole

from roi.report import case_pictures, plots
from roi.report.case_pictures import SIZE, add_boxes
from roi.report.gallery_files import NotThere, Scored, locate_below, read_scored
from roi.report.glossary import WORDS, hint
from roi.report.html import esc
from roi.report.panel_titles import titles_of, width_of
from roi.report.run_folder import read_run
from roi.report.sections.cases import Gallery, four_cases, read_gallery, verdict
from roi.report.sections.thresholds import STEPS, counts_of, threshold_slider

__all__ = ["browser", "made", "whole"]  # fixtures of the page of one run


@pytest.fixture(scope="module")
def scored(whole: Path) -> Scored:
    found = read_scored(read_run(whole))
    assert not isinstance(found, NotThere)
    return found


@pytest.fixture
def tab(browser: Any, made: Path) -> Any:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(made.as_uri())
    yield tab
    tab.close()


# --- the beginning ---


def test_the_page_begins_with_what_it_is_and_four_cases(made: Path) -> None:
    text = made.read_text()
    head = re.sub("<.*?>", "", text[text.index("<body>") : text.index("<main>")])
    assert "How well one model recognises 10 findings on 160 chest X-rays" in head
    assert "Not a medical device" in head and "Private: X-rays and names" in head
    assert list(sections(text))[:3] == ["scores", "cases", "findings"]
    four = sections(text)["cases"]
    titles = re.findall("<h3>(.*?):", four)
    assert titles == ["Best right", "Most certain wrong", "Missed", "Typical"]
    assert four.count("<img ") == 8 and "Chosen by the scores alone" in four


def test_the_four_are_the_first_of_their_kinds(whole: Path, scored: Scored) -> None:
    gallery = read_gallery(read_run(whole), scored, None, 8)
    assert isinstance(gallery, Gallery)
    text = four_cases(gallery)
    for kind, title in (("best", "Best right"), ("false", "Most certain wrong"), ("worst", "Missed")):
        first = next(case for case in gallery.chosen if case.kind == kind)
        assert f"<h3>{title}: {esc(first.finding)}</h3>" in text
        assert esc(scored.preds.images[first.row]) in text
    assert four_cases("<p>no pictures</p>") == ""


def test_the_verdict_on_a_case_is_that_of_its_threshold(whole: Path, scored: Scored) -> None:
    gallery = read_gallery(read_run(whole), scored, None, 24)
    assert isinstance(gallery, Gallery)
    seen = set()
    for case in gallery.chosen:
        column = scored.preds.classes.index(case.finding)
        is_called = scored.preds.prob["full"][case.row, column] >= gallery.thresholds[case.finding]
        present = scored.target[case.row, column] == 1
        expected = "right" if is_called == present else "missed" if present else "alarm"
        said, kinds = verdict(gallery, case)
        assert kinds == [case.kind, expected]
        assert ("not called" in said) != is_called and f"{100 * case.rank:.1f} % of the images" in said
        seen.add(expected)
    assert seen == {"right", "missed", "alarm"}
    gallery.thresholds.clear()
    assert verdict(gallery, gallery.chosen[0])[1] == ["best"]


def test_every_word_is_explained_by_key_and_finger(tab: Any) -> None:
    words = tab.locator("details.words")
    words.locator("summary").click()
    assert words.locator("dt").all_inner_texts() == list(WORDS)
    assert words.locator("dl").bounding_box()["height"] <= 0.61 * 900
    words.locator("summary").click()
    term = tab.locator("#scores .term").first
    assert not term.locator("span").is_visible()
    term.focus()
    shown = term.locator("span").bounding_box()
    assert term.locator("span").is_visible() and shown["x"] >= 0 and shown["x"] + shown["width"] <= 1280
    assert esc(WORDS["AUROC"]) in hint("AUROC") and 'tabindex="0"' in hint("AUROC")


# --- findings ---


def test_a_slider_counts_what_each_threshold_calls(scored: Scored) -> None:
    rng = np.random.default_rng(0)
    target = (rng.random(500) < 0.2).astype(float)
    score = np.round(np.clip(rng.normal(0.3 + 0.2 * target, 0.2), 0, 1), 3)
    counts = counts_of("Mass", score, target, 0.4444)
    assert counts.steps[counts.start] == 0.4444 and len(counts.steps) <= STEPS + 1
    assert counts.steps == sorted(counts.steps)
    for step, calls, hits in zip(counts.steps, counts.calls, counts.hits, strict=True):
        assert calls == (score >= step).sum() and hits == (score >= step) @ target
    assert counts_of("Mass", score, target, 2.0).calls[-1] == 0
    assert counts_of("Mass", score, target, None).steps[counts_of("Mass", score, target, None).start] == 0.5


def test_the_figures_move_with_the_slider(tab: Any, scored: Scored) -> None:
    box = tab.locator(".try")
    box.locator("select").select_option(label="Effusion")
    data = next(c for c in json.loads(box.get_attribute("data-counts")) if c["finding"] == "Effusion")
    column = scored.preds.classes.index("Effusion")
    prob, target = scored.preds.prob["full"][:, column], scored.target[:, column]

    def shown(name: str) -> str:
        return str(box.locator(f"[data-is={name}]").inner_text())

    assert shown("threshold") == "0.2"
    for n in (0, 7, len(data["steps"]) - 1):
        box.locator("input").evaluate(f"i => {{ i.value = {n}; i.dispatchEvent(new Event('input')); }}")
        called = prob >= data["steps"][n] - 1e-6
        hits, wrong = (called & (target == 1)).sum(), (called & (target == 0)).sum()
        assert [shown(k) for k in ("hits", "wrong")] == [str(hits), str(wrong)]
        assert shown("missed") == str(int((target == 1).sum() - hits))
        assert float(shown("sensitivity")) == pytest.approx(hits / (target == 1).sum(), abs=6e-4)
        assert float(shown("specificity")) == pytest.approx(1 - wrong / (target == 0).sum(), abs=6e-4)
        assert float(shown("ppv")) == pytest.approx(hits / called.sum(), abs=6e-4)


def test_without_predictions_there_is_a_sentence_and_no_slider(whole: Path, tmp_path: Path) -> None:
    run = changed_run(whole, tmp_path, lambda m: m["inputs"].update(preds="gone.json"))
    text = threshold_slider(run, read_scored(run))
    assert "No slider of thresholds: the predictions (gone.json) cannot be found" in text and "data-counts" not in text


@pytest.mark.parametrize("width", [1280, 400])
def test_the_findings_fit_or_say_that_they_scroll(browser: Any, made: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark")
    tab.goto(made.as_uri())
    box = tab.locator("#findings .scroll").first
    cut = box.evaluate("b => b.scrollWidth > b.clientWidth + 1")
    cue = tab.locator("#findings .cue").first
    assert cut == cue.is_visible() == (width == 400)
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # By night: light letters on a dark page.
    ink, ground = (tab.evaluate(f"getComputedStyle(document.body).{p}") for p in ("color", "backgroundColor"))
    light, dark = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground))
    assert light > 600 and dark < 100
    tab.close()


def test_a_table_is_saved_with_its_intervals_in_columns(tab: Any, tmp_path: Path) -> None:
    with tab.expect_download() as waiting:
        tab.locator("#findings .tools button").first.click()
    assert waiting.value.suggested_filename == "findings-1.csv"
    waiting.value.save_as(tmp_path / "findings.csv")
    text = (tmp_path / "findings.csv").read_text(encoding="utf-8-sig")
    rows = {row["Finding"]: row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == [*FINDINGS, "Normal", "Mean"] and EVIL in rows and QUOTED in rows
    first = rows["Atelectasis"]
    assert (first["AUROC"], first["AUROC low"], first["AUROC high"]) == ("0.7", "0.680", "0.720")
    assert rows["Mass"]["AUROC"] == "" and rows["Nodule"]["Threshold"] == "0.5"


def test_each_finding_has_its_panel(made: Path) -> None:
    parts = sections(made.read_text())
    drawn = re.findall(r'alt="(ROC curves|Precision and recall) of (.*?)"', parts["findings"])
    assert len(drawn) == 2 * 11 and ("ROC curves", "Atelectasis 0.700") in drawn
    assert parts["calibration"].count('alt="Reliability of ') == 11
    curves = [plots.Curve(str(n), [0, 0.5, 1], [0, 0.1 * n, 1]) for n in range(4)]
    panels = plots.small_multiples(list("abcd"), curves, "x")
    assert len(panels) == 4 and all(panel.count(plots.PALETTE[0].lower().encode()) >= 1 for panel in panels)


def test_a_title_is_broken_before_it_is_cut() -> None:
    width = 145.0
    names = ["Mass", "Enlarged Cardiomediastinum", "Calcification of the Abdominal Aorta", "x" * 90, "a b " * 40]
    titles = titles_of(names, ["0.926"] * len(names), width)
    assert titles[0] == "Mass 0.926" and titles[1].split() == ["Enlarged", "Cardiomediastinum", "0.926"]
    assert titles[2].split() == [*names[2].split(), "0.926"]
    for title in titles:
        lines = title.split("\n")
        assert len(lines) <= 2 and title.endswith("0.926") and max(map(width_of, lines)) <= width
    assert "…" in titles[3] and "…" in titles[4]


def test_one_epoch_is_labelled_once_and_as_a_whole_number() -> None:
    def labels(epochs: list[int]) -> list[str]:
        drawn = plots.lines("t", "epoch", "y", [plots.Curve("a", epochs, [0.5] * len(epochs))]).decode()
        axis = drawn[drawn.index('id="matplotlib.axis_1"') : drawn.index('id="matplotlib.axis_2"')]
        return re.findall(r"<text[^>]*>([^<]*)</text>", axis)

    assert labels([1]) == ["1", "epoch"] and labels([7]) == ["7", "epoch"]
    assert all(re.fullmatch(r"\d+|epoch", label) for label in labels(list(range(1, 41))))
    assert len(labels(list(range(1, 41)))) <= 10


# --- gallery ---


def test_a_filter_shows_the_cases_asked_for(tab: Any) -> None:
    cards = tab.locator("#gallery .case")
    finding, kind = (tab.locator("#gallery .filter select").nth(n) for n in (0, 1))
    kind.select_option("missed")
    shown = [card.get_attribute("data-kinds") for card in cards.all() if card.is_visible()]
    assert shown and all("missed" in kinds for kinds in shown)
    assert tab.locator("#gallery output").inner_text() == f"{len(shown)} of 24 cases"
    kind.select_option("")
    finding.select_option("Mass")
    assert {card.get_attribute("data-finding") for card in cards.all() if card.is_visible()} == {"Mass"}
    # The four of the beginning stay.
    assert tab.locator("#cases .case:visible").count() == 4


def test_a_click_enlarges_a_picture(tab: Any) -> None:
    small = tab.locator("#gallery .zoom").first
    small.click()
    large = tab.locator("dialog img")
    assert large.bounding_box()["width"] > 1.5 * small.bounding_box()["width"]
    assert large.get_attribute("alt") == small.locator("img").get_attribute("alt")
    tab.keyboard.press("Escape")
    # The browser tells of the end a moment later.
    tab.locator("dialog").wait_for(state="detached", timeout=10_000)


def test_images_are_found_in_any_folder_below(tmp_path: Path) -> None:
    for name in ("a/deep/1.png", "b/2.png", "c/2.png", "3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = locate_below(tmp_path, ["1.png", "2.png", "3.png", "deep/1.png", "x/1.png", "gone.png"])
    # Of two files of one name neither is shown; nor is one that the table names with another folder.
    deep = str(tmp_path / "a/deep/1.png")
    assert found == [deep, None, str(tmp_path / "3.png"), deep, None, None]


def test_names_of_boxes_stand_inside_and_apart() -> None:
    boxes = [
        ("Mass", 0.5, 0.5, 0.1, 0.1),
        ("Pleural_Thickening", 0.52, 0.52, 0.1, 0.1),
        ("Edema", 0.95, 0.0, 0.05, 0.05),
    ]
    taken: list[tuple[float, float, float, float]] = []
    for _, x, y, _, _ in boxes:
        x0, y0, x1, y1 = case_pictures.free_place((0, 0, 150, 20), x * SIZE, y * SIZE, taken)
        assert x0 >= 0 and x1 <= SIZE and y0 >= 0 and y1 <= SIZE
        for a0, b0, a1, b1 in taken:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0
        taken.append((x0, y0, x1, y1))
    drawn = np.asarray(add_boxes(Image.new("RGB", (SIZE, SIZE)), boxes, "Mass"))
    assert tuple(drawn[239, 225]) == (64, 208, 255) and tuple(drawn[244, 209]) == case_pictures.OTHER_BOX


# --- paper ---


def test_it_prints_on_twelve_pages(tab: Any) -> None:
    pages = re.findall(rb"/Type\s*/Page\b", tab.pdf(format="A4"))
    assert 3 < len(pages) <= 12


# --- night ---


def test_colours_are_told_apart_by_night_as_by_day_with_deuteranopia() -> None:
    """Simulated as Machado et al. 2009 do it, in linear light; the least distance of two colours of a figure."""
    matrix = np.array([[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]])

    def seen(colour: str) -> np.ndarray:
        value = np.array([int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)])
        linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        mixed = np.clip(matrix @ linear, 0, 1)
        return np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)

    def least(palette: list[str]) -> float:
        colours = [seen(colour) for colour in palette]
        return min(float(np.linalg.norm(a - b)) for n, a in enumerate(colours) for b in colours[n + 1 :])

    day = [colour.lower() for colour in plots.PALETTE]
    night = [plots.AT_NIGHT.get(colour, colour) for colour in day]
    assert night != day and least(night) >= least(day) - 1e-9 > 0.15
    drawn = plots.lines("t", "x", "y", [plots.Curve("a", [0, 1], [0, 1])])
    assert b"prefers-color-scheme: dark" in drawn and night[0].encode() in drawn
