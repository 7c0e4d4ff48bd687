"""Flags as published systems spell them: taken with their recipe, shown nowhere, never two meanings."""

import json
from typing import Any

import pytest
from conftest import one_line_error, run

from roi.cli import Parser
from roi.config_file import flags_of
from roi.training.flags import add_training_flags
from roi.training.recipes import CKPT, LOSS_SPELLINGS, SPELLINGS, add_recipe_flags, add_spellings, add_test_flags

# What each flag of ours takes; another value than that of any recipe.
VALUES = {
    "--workers": "3",
    "--epochs": "7",
    "--lr": "0.0005",
    "--batch_size": "48",
    "--img_size": "320",
    "--backbone": "resnet18",
    "--train_csv": "t.csv",
}
RENAMED = [(recipe, theirs, ours) for recipe, names in SPELLINGS.items() for theirs, ours in names.items()]
LOSSES = [
    (recipe, flag, theirs, ours) for recipe, (flag, names) in LOSS_SPELLINGS.items() for theirs, ours in names.items()
]


def config(*flags: object) -> dict[str, dict[str, Any]]:
    return json.loads(run("train_roi_baselines.py", *flags, "--print_config"))


@pytest.mark.parametrize(("recipe", "theirs", "ours"), RENAMED)
def test_a_published_spelling_says_what_our_flag_says(recipe: str, theirs: str, ours: str) -> None:
    value = [VALUES[ours]] if ours in VALUES else []
    found = config("--recipe", recipe, theirs, *value)
    assert found == config("--recipe", recipe, ours, *value)
    assert found[ours.removeprefix("--")]["from"] == "command line"
    assert theirs.removeprefix("--") not in found


@pytest.mark.parametrize(("recipe", "flag", "theirs", "ours"), LOSSES)
def test_a_published_loss_is_ours_of_another_name(recipe: str, flag: str, theirs: str, ours: str) -> None:
    found = config("--recipe", recipe, flag, theirs)
    assert found["loss"] == {"value": ours, "from": "command line"} and flag.removeprefix("--") not in found


def test_a_checkpoint_is_gone_on_from_or_scored() -> None:
    again = config("--recipe", "staged_resnet50", "--stage", 2, "--resume", CKPT, "a.pt", "--bs", 4)
    assert again == config("--recipe", "staged_resnet50", "--stage", 2, "--resume", "a.pt", "--batch_size", 4)
    scored = config("--recipe", "staged_resnet50", "-t", CKPT, "a.pt")
    assert scored["checkpoint"]["value"] == "a.pt" and scored["test"]["value"] is True
    assert scored["resume"]["value"] is None


@pytest.mark.parametrize("recipe", SPELLINGS)
def test_no_spelling_hides_a_flag_of_ours_or_is_shown(recipe: str) -> None:
    parser = Parser(None)
    for add in (add_training_flags, add_recipe_flags, add_test_flags):
        add(parser)
    before, ours = parser.format_help(), set(flags_of(parser))
    theirs = {*SPELLINGS[recipe], LOSS_SPELLINGS.get(recipe, (CKPT,))[0], CKPT}
    assert not {word.removeprefix("--") for word in theirs} & ours
    add_spellings(parser, ["--recipe", recipe])
    assert parser.format_help() == before and set(flags_of(parser)) == ours


def test_without_its_recipe_a_spelling_is_unknown_and_a_wrong_value_is_named() -> None:
    table = ("--train_csv", "t.csv", "--image_root", ".", "--save", "x.pt")
    for flags in (("--mode", "standard", "--bs", 4), ("--recipe", "timm_focal", "--bs", 4), ("--recipe", "crt", "-t")):
        assert f"unrecognized arguments: {flags[2]}" in one_line_error("train_roi_baselines.py", *table, *flags)
    wrong = ("--recipe", "staged_resnet50", "--loss_func", "MSE")
    assert "'MSE' is not one of BCE, FocalLoss" in one_line_error("train_roi_baselines.py", *table, *wrong)
    wrong = ("--recipe", "timm_focal", "--num_epochs", "0")
    assert "argument --epochs: 0 is below 1" in one_line_error("train_roi_baselines.py", *table, *wrong)
