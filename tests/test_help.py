"""What --help shows: 80 columns, a usage of a line or two, commands that can be pasted, groups."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from roi.help_text import reflow

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_manual_fits_on_a_terminal(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if len(line) > 80]
    assert lines.index("") <= 2 and lines[0].startswith(f"usage: {script} ")
    # The flags that a script itself describes stand in groups; what no group has are the few of the whole script.
    ungrouped = done.stdout.partition("\noptions:\n")[2].partition("\n\n")[0]
    assert len(re.findall(r"^  --", ungrouped, re.MULTILINE)) <= 13


def test_a_command_can_be_pasted_and_says_the_same() -> None:
    doc = """One.

        python a.py --first "some thing" --second \\\\
            --third 3 --fourth four --fifth five --sixth six --seventh seven
    """.replace("\\\\", "\\")
    shown = reflow(doc)
    assert max(map(len, shown.splitlines())) <= 80 and shown.count("\\\n") == 1
    command = shown.partition("\n\n")[2].replace("\\\n", " ")
    assert shlex.split(command) == shlex.split(doc.partition("\n\n")[2].replace("\\\n", " "))


def test_lists_keep_their_names_and_paragraphs_flow() -> None:
    long = "word " * 30
    listed = f"modes\n  full     {long}\n           {long}\n  none     nothing"
    shown = reflow(f"Title.\n\n{long}\n{long}\n\n{listed}").split("\n")
    assert max(map(len, shown)) <= 80 and shown[-1] == "  none     nothing"
    assert sum(line.startswith("  full     word") for line in shown) == 1
    assert sum(line.startswith("           word") for line in shown) >= 3


def test_the_train_scripts_say_what_must_be_given() -> None:
    done = subprocess.run(
        [sys.executable, "train_roi_consistency.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    usage = " ".join(done.stdout.partition("\n\n")[0].split())
    assert usage == "usage: train_roi_consistency.py --train_csv CSV --image_root DIR --save PT [flags]"
    titles = re.findall(r"^(\w[^\n]*):$", done.stdout, re.MULTILINE)
    assert titles.index("data") < titles.index("objective") < titles.index("learned weights of the terms")
