"""Values that belong to a choice are given by name, --augment_args rotate=10: as flags of their own, and as files."""

import argparse
import importlib
import re
from typing import Any

import pytest
from conftest import ROOT, one_line_error, run
from test_config_file import parser_of

from roi.choices import NamedValues

TRAIN = ("train_roi_consistency", "train_roi_baselines", "train_multiview")
GIVEN = ("--train_csv=t.csv", "--image_root=images", "--save=roi.pt", "--cache_dir=cache")
# The list, and the same as flags of their own.
SAME = {
    "--augment_args rotate=10 shift=.1 scale=.2 flip=yes dropout_holes=3 brightness=.3 contrast=.4": (
        "--rotate=10 --shift=.1 --scale=.2 --flip --dropout_holes=3 --brightness=.3 --contrast=.4"
    ),
    "--augment_args flip=no shift=.3": "--no-flip --shift=.3",
    "--schedule_args lr_warmup_steps=5 plateau_patience=1 plateau_factor=.5": (
        "--lr_warmup_steps=5 --plateau_patience=1 --plateau_factor=.5"
    ),
    "--schedule_args lr_warmup_epochs=.5": "--lr_warmup_epochs=.5",
    "--loader_args prefetch_factor=6 persistent_workers=no": "--prefetch_factor=6 --no-persistent_workers",
    "--cache_args order=blocks cache_on_device=yes": "--order=blocks --cache_on_device=yes",
    "--loss_args focal_gamma=3": "--focal_gamma=3",
}
OF_MASKS = {
    "--mask_args mask_per_class=no map_stride=32": "--no-mask_per_class --map_stride=32",
    "--objective_args warmup_epochs=2 random_views=.2 view_share=.5 map_average=.9 locate_sharpness=8": (
        "--warmup_epochs=2 --random_views=.2 --view_share=.5 --map_average=.9 --locate_sharpness=8"
    ),
}
LISTS = ("augment_args", "schedule_args", "loader_args", "cache_args", "mask_args", "objective_args", "loss_args")


def parse(script: str, *words: str) -> dict[str, Any]:
    mode = ["--mode=full"] if script == "train_roi_baselines" else []
    return vars(importlib.import_module(script).parse_args([*GIVEN, *mode, *words]))


@pytest.mark.parametrize("script", TRAIN)
def test_a_list_of_values_says_what_their_own_flags_say(script: str) -> None:
    plain = parse(script)
    cases = SAME if script == "train_multiview" else SAME | OF_MASKS
    for pairs, flags in cases.items():
        found = parse(script, *pairs.split())
        assert found == parse(script, *flags.split()) != plain, pairs
        # What is written of a run has neither new names nor another order.
        assert list(found) == list(plain) and not set(LISTS) & set(found)


def test_the_last_word_holds_whichever_way_it_is_spelled() -> None:
    assert parse(TRAIN[0], "--rotate=5", "--augment_args", "rotate=6")["rotate"] == 6
    assert parse(TRAIN[0], "--augment_args", "rotate=6", "rotate=7", "--rotate=5")["rotate"] == 5
    both = parse(TRAIN[0], "--augment=light", "--augment_args", "rotate=0", "--augment_args", "shift=0")
    assert (both["rotate"], both["shift"], both["scale"]) == (0, 0, 0.05)


def test_inference_reads_the_list_of_its_loader() -> None:
    given = ["--checkpoint=c.pt", "--csv=t.csv", "--image_root=i", "--save_json=p.json"]
    infer = importlib.import_module("infer_roi_consistency").parse_args
    found = infer([*given, "--loader_args", "prefetch_factor=4", "persistent_workers=no"])
    assert vars(found) == vars(infer([*given, "--prefetch_factor=4", "--no-persistent_workers"]))


def test_a_file_may_have_them_as_a_mapping_and_yaml_reads_yes_as_it_likes(tmp_path: Any) -> None:
    (tmp_path / "run.yaml").write_text(
        "augment_args: {rotate: 5, flip: yes, shift: null}\n"
        "cache_args: {cache_on_device: no, order: random}\nschedule_args: [lr_warmup_steps=7]\n"
    )
    words = ("--rotate=5", "--flip", "--cache_on_device=no", "--order=random", "--lr_warmup_steps=7")
    assert parse(TRAIN[0], "--config", str(tmp_path / "run.yaml")) == parse(TRAIN[0], *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--augment_args rotat=5", "'rotat=5' is not NAME=VALUE with one of rotate, shift, scale, flip, dropout_"),
        ("--augment_args light", "'light' is not NAME=VALUE with one of rotate, shift"),
        ("--augment_args rotate=181", "--augment_args: rotate=181 is not between 0 and 180"),
        ("--augment_args rotate=", "invalid float value of rotate: ''"),
        ("--augment_args flip=maybe", "flip=maybe is not yes or no"),
        ("--augment_args dropout_holes=1.5", "invalid int value of dropout_holes: '1.5'"),
        ("--schedule_args patience=3", "one of lr_warmup_steps, lr_warmup_epochs, plateau_patience, plateau_factor"),
        ("--cache_args order=sorted", "order=sorted is not one of auto, random, blocks"),
        ("--mask_args map_stride=9", "map_stride=9 is not one of 0, 8, 16, 32"),
        ("--schedule_args", "expected at least one argument"),
        ("--w_TERM_init 1", "unrecognized arguments: --w_TERM_init 1"),
        ("--w_full_init -1", "--w_full_init: -1 is below 0"),
    ],
)
def test_a_wrong_name_or_value_is_one_line(words: str, said: str) -> None:
    assert said in one_line_error("train_roi_consistency.py", *GIVEN, *words.split())


def test_the_first_weights_of_the_terms_are_one_entry_of_the_manual_and_six_flags() -> None:
    manual = run("train_roi_consistency.py", "--help")
    assert manual.count("--w_") == 1 and "  --w_TERM_init W     first weight of a term with --dynamic_weights" in manual
    # A line a value, so that they are found as flags are.
    assert "\n                      rotate  turned by up to so many degrees either way\n" in manual
    assert "locate 0.25" in " ".join(manual.split())
    for term in ("full", "consist", "drop", "sparse", "tv", "locate"):
        assert parse(TRAIN[0], f"--w_{term}_init=3")[f"w_{term}_init"] == 3


@pytest.mark.parametrize("script", TRAIN)
def test_what_the_manual_does_not_show_stands_once_in_the_docs(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = parser_of(script, monkeypatch)
    manual = parser.format_help()
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = page.partition("## Flags that --help does not show")[2].partition("\n## ")[0]
    hidden = [action for action in parser._actions if action.help == argparse.SUPPRESS]
    assert len(hidden) > 25
    for action in hidden:
        flag = action.option_strings[0]
        assert len(re.findall(rf"{flag}\b", section)) == 1, flag
        assert not re.search(rf"^  {flag}\b", manual, re.MULTILINE)
    for action in parser._actions:
        if isinstance(action, NamedValues):
            assert f"`{action.option_strings[0]}`" in section and set(action.table) <= {a.dest for a in hidden}
