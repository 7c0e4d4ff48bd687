"""The words for a view: as every set publishes them, as users type them, and those that nobody knows."""

from pathlib import Path

import pandas as pd
import pytest

from roi.sources.views import LEFT_OUT, VIEWS, chosen_views, plain, unknown_views, view_name, view_of

PUBLISHED = {
    "nih": {"PA": "PA", "AP": "AP"},
    "openi": {"Frontal": "FRONTAL", "Lateral": "LATERAL"},
    "chexpert": {
        "AP": "AP",
        "PA": "PA",
        "LL": "LATERAL",
        "RL": "LATERAL",
        "Frontal": "FRONTAL",
        "Lateral": "LATERAL",
        "": "",
    },
    "mimic": {
        "AP": "AP",
        "PA": "PA",
        "LATERAL": "LATERAL",
        "LL": "LATERAL",
        "": "",
        "AP AXIAL": "AP",
        "AP LLD": "AP",
        "AP RLD": "AP",
        "PA LLD": "PA",
        "PA RLD": "PA",
        "XTABLE LATERAL": "LATERAL",
        "LAO": "OBLIQUE",
        "RAO": "OBLIQUE",
        "LPO": "OBLIQUE",
        "SWIMMERS": "SWIMMERS",
    },
    "padchest": {
        "PA": "PA",
        "L": "LATERAL",
        "AP": "AP",
        "AP_horizontal": "AP",
        "COSTAL": "COSTAL",
        "EXCLUDE": "EXCLUDE",
        "UNK": "",
    },
    "rexgradient": {
        "ANTERO_POSTERIOR": "AP",
        "AP": "AP",
        "AP AXIAL": "AP",
        "DECUBITUS": "FRONTAL",
        "ERECT": "",
        "KUB": "KUB",
        "LAO": "OBLIQUE",
        "LAT": "LATERAL",
        "LATERAL": "LATERAL",
        "LL": "LATERAL",
        "LPO": "OBLIQUE",
        "N/A": "",
        "None": "",
        "OBLIQUE": "OBLIQUE",
        "OTHER": "",
        "PA": "PA",
        "PICC LINE": "",
        "POSTERO_ANTERIOR": "PA",
        "RAO": "OBLIQUE",
        "RPO": "OBLIQUE",
        "SUPINE": "",
        "UNKNOWN": "",
    },
}
DOCS = Path(__file__).parents[2] / "docs" / "datasets.md"


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_word_has_its_view(name: str) -> None:
    words = PUBLISHED[name]
    assert {word: view_name(word) for word in words} == words
    spelled = pd.Series([f" {word.lower()} " for word in words])  # case and blanks say nothing
    assert view_of(spelled).tolist() == list(words.values()) and not unknown_views(view_of(spelled))


def test_a_word_that_nobody_knows_is_kept_and_counted() -> None:
    views = view_of(pd.Series(["PA", "skyline", "Skyline", "N/A"]))
    assert views.tolist() == ["PA", "SKYLINE", "SKYLINE", ""] and unknown_views(views) == {"SKYLINE": 2}


def test_each_word_is_of_one_view() -> None:
    words = [word for several in VIEWS.values() for word in several]
    assert len(words) == len(set(words)) and all(plain(word) == word for word in words)
    assert LEFT_OUT.keys() <= VIEWS.keys() and all(view_name(view) == view for view in VIEWS)


def test_what_users_ask_for() -> None:
    assert chosen_views(["pa", "AP_horizontal", "l", "unknown", "skyline"], {"SKYLINE"}) == [
        "PA",
        "AP",
        "LATERAL",
        "",
        "SKYLINE",
    ]
    with pytest.raises(ValueError, match=r"--views FRONTL: no such view \(known: PA, AP, FRONTAL"):
        chosen_views(["PA", "FRONTL"], {"PA"})


def test_the_page_shows_every_word() -> None:
    page = DOCS.read_text(encoding="utf-8").split("## Views")[1].split("\n## ")[0]
    for name, words in VIEWS.items():
        assert f"| {name or 'not said'} | {', '.join(word or '(blank)' for word in words)} |" in page, name
