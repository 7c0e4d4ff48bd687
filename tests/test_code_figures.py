"""The figures of the code (benchmarks/code_figures.py) stay where they are good.

Two targets are missed, and held where they are, so that they get no worse: 4.5 expression nodes a line of code (there
are 4.91 of them, an eighth of which are annotations of types: 4.34 without these) and 62 flags of --help (66).
"""

import sys
from typing import Any

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import code_figures

MOST_COLUMNS = 120
LINES = {"module": 400, "script": 150, "function": 45, "epoch loop": 60}
EPOCH_LOOPS = ("train_one_epoch", "_train")
MODULES_A_FOLDER = 19
LIMITS_A_LINE = {"expressions": 4.95, "comprehensions": 0.035, "ternaries": 0.018}
LEAST_COMMENTS = 0.04
MOST_FLAGS = 66


@pytest.fixture(scope="module")
def scripts() -> list[Any]:
    return code_figures.scripts_of_project()


@pytest.fixture(scope="module")
def modules() -> list[Any]:
    return code_figures.modules_of_package()


def test_no_line_is_longer_than_the_page() -> None:
    """Ruff lets a line pass whose end is a comment for a tool; this does not."""
    wide = []
    paths = list(ROOT.glob("*.py"))
    for folder in ("roi", "tests", "benchmarks", "scripts"):
        paths += (ROOT / folder).rglob("*.py")
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > MOST_COLUMNS:
                wide.append(f"{path.relative_to(ROOT)}:{number}: {len(line)}")
    assert len(paths) > 200 and not wide, wide


def test_modules_scripts_and_folders_are_small(scripts: list[Any], modules: list[Any]) -> None:
    long = []
    for kind, group in (("script", scripts), ("module", modules)):
        for figures in group:
            lines = code_figures.total(figures.path)
            if lines > LINES[kind]:
                long.append(f"{figures.path}: {lines} lines, a {kind} has {LINES[kind]} at most")
    assert not long, long
    folders = code_figures.modules_a_folder(modules)
    full = {name: count for name, count in folders.items() if count > MODULES_A_FOLDER}
    assert len(folders) > 10 and not full, full


def test_functions_are_short(scripts: list[Any], modules: list[Any]) -> None:
    long = []
    for figures in scripts + modules:
        for lines, name in figures.functions:
            if lines > LINES["epoch loop" if name in EPOCH_LOOPS else "function"]:
                long.append(f"{figures.path}:{name}: {lines} lines")
    assert not long, long


@pytest.mark.parametrize("kind", LIMITS_A_LINE)
def test_statements_are_not_dense(scripts: list[Any], modules: list[Any], kind: str) -> None:
    assert 0 < code_figures.a_line(scripts + modules, kind) <= LIMITS_A_LINE[kind]


def test_reasons_stand_above_blocks(scripts: list[Any], modules: list[Any]) -> None:
    assert code_figures.share_of_comments(scripts + modules) >= LEAST_COMMENTS


def test_nothing_below_setup_takes_the_whole_args(modules: list[Any]) -> None:
    assert code_figures.whole_args(modules) == 0


def test_the_manual_of_training_is_no_longer_than_it_was() -> None:
    """A value that only makes sense beside another choice belongs into the list of that choice."""
    assert 40 < code_figures.flags_of("train_roi_consistency.py") <= MOST_FLAGS


def test_no_two_files_of_tests_have_one_name() -> None:
    """Pytest imports them by name alone: of two it refuses the second, and with it the whole run."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert len(names) == len(set(names)), sorted({name for name in names if names.count(name) > 1})
