"""The comparison of benchmarks/peers.py: who is compared with whom, on which images."""

import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import peers


def laps(*seconds: float) -> list[peers.Lap]:
    return [peers.Lap(value, 2 * value) for value in seconds]


def test_the_ratio_is_that_of_the_best_rival_turn_by_turn() -> None:
    """The published loop, which does more, is no rival; turns are compared with each other, not medians."""
    raced = {"ours": laps(1, 2, 4), "plain": laps(9, 9, 9), "timm": laps(2, 6, 16), "published": laps(0.1, 0.1, 0.1)}
    clock, processor = peers.against_best("epochs", raced, 12, 3.0)
    assert clock.value == processor.value == 3 and clock.met
    assert clock.details["best"] == "timm" and clock.details["ours_images_per_s"] == 6
    assert (clock.details["lowest"], clock.details["highest"]) == (2, 4)


def test_no_patient_is_trained_on_and_validated() -> None:
    lines: list[dict[str, Any]] = [{"Patient ID": str(patient)} for patient in (1, 1, 2, 3, 3, 4)]
    rows = peers.Rows(["x.png"] * len(lines), np.zeros((len(lines), 14)), lines)
    assert rows.split(9, 2) == [0, 1, 2, 4, 5] and rows.split(2, 1) == [0, 1, 5]


@pytest.mark.parametrize(
    ("source", "lines"),
    [('def f():\n    """Text."""\n    # why\n\n    return [\n        1,\n    ]\n', 2), ("a = 1; b = 2", 1)],
)
def test_text_and_continued_lines_are_not_counted(source: str, lines: int) -> None:
    assert peers.code_lines(source) == lines
