"""--config FILE: a file says what the command line says, over every flag; what it says wrongly is one line."""

import argparse
import importlib
import io
import json
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import one_line_error, run

from roi import cli
from roi.config_file import flags_of
from roi.training.recipes import scripts_of_flags

TRAIN = ("train_roi_consistency", "train_roi_baselines", "train_multiview")
GIVEN = ["--train_csv=t.csv", "--image_root=images", "--save=roi.pt", "--cache_dir=cache"]
# Words that are taken only together with others, or end the script.
ALONE = {"recipe", "stage", "pretrained", "help", "config", "print_config", "test", "max_samples"}
# What they take are flags, too (tests/test_choices.py).
LISTS = {"augment_args", "cache_args", "loader_args", "loss_args", "mask_args", "objective_args", "schedule_args"}
if find_spec("tensorboard") is None:
    # Refused at once where the package is not installed.
    ALONE.add("tensorboard")
# What some flags are taken with alone.
BESIDE = {
    "queries": ["--fusion=attention"],
    "shared_queries": ["--queries=q.npz", "--fusion=attention"],
}
TAKEN = {"mode": "full", "fusion_width": "512", "train_parts": "fc", "tensorboard": "board"}


def other_value(name: str, action: argparse.Action) -> list[str]:
    """A word that gives the flag another value than its default."""
    if name in TAKEN:
        return [f"--{name}={TAKEN[name]}"]
    if isinstance(action, argparse.BooleanOptionalAction):
        return [f"--no-{name}" if action.default else f"--{name}"]
    if action.nargs == 0:
        return [f"--{name}"]
    if action.choices is not None:
        return [f"--{name}={next(choice for choice in action.choices if choice != action.default)}"]
    kind = getattr(action.type, "__name__", "str")
    words = {"int": ("48", "64"), "float": ("0.3", "0.6", "2.5"), "str": ("some text", "-other")}[kind]
    return [f"--{name}={next(word for word in words if word != str(action.default) and takes(action, word))}"]


def takes(action: argparse.Action, word: str) -> bool:
    try:
        return not callable(action.type) or action.type(word) is not None
    except argparse.ArgumentTypeError:
        return False


def parser_of(script: str, monkeypatch: pytest.MonkeyPatch) -> cli.Parser:
    """The parser of a script, with all its flags."""
    found: list[cli.Parser] = []
    init = cli.Parser.__init__

    def kept(self: cli.Parser, doc: str | None) -> None:
        found.append(self)
        init(self, doc)

    with monkeypatch.context() as patch:
        patch.setattr(cli.Parser, "__init__", kept)
        parse(script, [*GIVEN, *mode(script)])
    return found[0]


def parse(script: str, argv: list[str]) -> dict[str, Any]:
    return vars(importlib.import_module(script).parse_args(argv))


def mode(script: str) -> list[str]:
    return ["--mode=full"] if script == "train_roi_baselines" else []


@pytest.mark.parametrize("script", TRAIN)
def test_what_print_config_wrote_gives_the_same_flags(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flag at a time: its neighbours stay as they are, so that no flag hides behind another."""
    flags = flags_of(parser_of(script, monkeypatch))
    cases = [[], ["--check"]]
    for name, action in flags.items():
        if name not in ALONE | LISTS:
            cases.append([*other_value(name, action), *BESIDE.get(name, [])])
    assert len(cases) > 60
    for case in cases:
        # The init of studies says which backbone and size: then neither is given.
        given = [*GIVEN, *mode(script), *case]
        with redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
            parse(script, [*given, "--print_config"])
        (tmp_path / "c.json").write_text(printed.getvalue())
        assert parse(script, ["--config", str(tmp_path / "c.json")]) == parse(script, given), case
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(json.loads(printed.getvalue())))
    assert parse(script, ["--config", str(tmp_path / "c.yaml")]) == parse(script, given)


@pytest.mark.parametrize("script", TRAIN)
def test_a_file_by_hand_says_what_flags_say_and_the_command_line_wins(script: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "train_csv: t.csv\nimage_root: images\nsave: roi.pt\ncache_dir: cache\nlr: 1e-4\nepochs: 3\n"
        "channels_last: no\ncache_on_device: yes\naugment: none\nrotate: 5\n"
        "loss_args: {focal_gamma: 1.5, ldam_scale: 20}\n"
    )
    given = [*GIVEN, "--lr=1e-4", "--epochs=3", "--no-channels_last", "--cache_on_device=yes", "--augment=none"]
    given += ["--rotate=5", "--loss_args", "focal_gamma=1.5", "ldam_scale=20"]
    file = [*mode(script), "--config", str(path)]
    assert parse(script, file) == parse(script, [*mode(script), *given])
    late = ["--epochs=5", "--channels_last", "--loss_args", "focal_gamma=3"]
    assert parse(script, [*late, *file]) == parse(script, [*mode(script), *given, *late])
    origin = json.loads(run(f"{script}.py", *file, *late, "--print_config"))
    said = {
        name: origin[name]["from"] for name in ("lr", "epochs", "ldam_scale", "focal_gamma", "seed") if name in origin
    }
    expected = {
        "lr": "config",
        "ldam_scale": "config",
        "epochs": "command line",
        "focal_gamma": "command line",
        "seed": "default",
    }
    assert expected.items() <= said.items()


def test_a_choice_on_the_command_line_remakes_what_the_file_had_by_default(tmp_path: Path) -> None:
    """Else --augment light would change nothing beside the zeros that --augment none stands for."""
    path = tmp_path / "run.json"
    path.write_text(run("train_roi_baselines.py", "--recipe=timm_focal", *GIVEN, "--epochs=7", "--print_config"))
    file = ["--config", str(path)]
    light = parse("train_roi_baselines", [*file, "--augment=light"])
    assert light["rotate"] == 7 and light["epochs"] == 7 and light["backbone"] == "convnext_base.fb_in22k_ft_in1k"
    seven = parse("train_roi_baselines", [*file, "--recipe=seven_sets"])
    expected = parse("train_roi_baselines", [*GIVEN, "--epochs=7", "--recipe=seven_sets"])
    assert seven == expected and seven["lr"] == 5e-5
    frozen = parse("train_roi_baselines", ["--config", str(path), "--freeze_backbone"])
    assert frozen["lr"] == 1e-4  # of the recipe


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("learnin_rate: 0.1", ("learnin_rate: 0.1", "no flag", "all flags: ")),
        ("batch_sise: 4", ("batch_sise: 4", "the nearest is batch_size")),
        ("fusion: max", ("fusion: 'max'", "a flag of train_multiview.py")),
        ("test_csv: t.csv", ("test_csv: 't.csv'", "a flag of train_roi_baselines.py")),
        ("lr: fast", ("lr: 'fast'", "--lr takes one number")),
        ("epochs: 2.5", ("epochs: 2.5", "--epochs takes one whole number")),
        ("epochs: 0", ("epochs: 0", "0 is below 1")),
        ("epochs: true", ("epochs: True", "--epochs takes one whole number")),
        ("epochs: [1, 2]", ("epochs: [1, 2]", "--epochs takes one whole number")),
        ("compile: maybe", ("compile: 'maybe'", "--compile is a switch; write true or false")),
        ("loss: bcee", ("loss: 'bcee'", "--loss takes one of bce,")),
        ("classes: 7", ("classes: 7", "takes text", "in quotes")),
        ("loss_args: focal_gamma=1", ("loss_args", "takes a list of values")),
        ("loss_args: {nothing: 1}", ("nothing=1", "is not NAME=VALUE")),
        ("- lr", ("holds no 'flag: value' lines",)),
        ("lr: [", ("neither YAML nor JSON",)),
        ("config: other.yaml", ("config: 'other.yaml'", "no flag")),
        ("help: true", ("help: True", "no flag")),
    ],
)
def test_a_wrong_entry_is_one_line_with_key_value_and_remedy(line: str, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{line}\n")
    out = tmp_path / "out" / "roi.pt"
    given = ("--train_csv=t.csv", "--image_root=i", f"--save={out}")
    said = one_line_error("train_roi_consistency.py", *given, "--config", tmp_path / "run.yaml")
    assert all(word in said for word in words), said
    assert not out.parent.exists()


def test_each_flag_of_training_has_a_script() -> None:
    scripts = scripts_of_flags()
    assert scripts["fusion"] == "train_multiview.py" and scripts["mode"] == scripts["lr"] == "train_roi_baselines.py"


def test_a_file_is_no_file_of_code(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"lr: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    assert "neither YAML nor JSON" in one_line_error("train_roi_consistency.py", "--config", tmp_path / "run.yaml")
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    assert "x.png: neither YAML" in one_line_error("train_roi_consistency.py", "--config", tmp_path / "x.png")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("script", ["infer_roi_consistency", "evaluate", "calibrate_conformal"])
def test_the_other_scripts_read_files_too(script: str, tmp_path: Path) -> None:
    flags = {
        "infer_roi_consistency": {"checkpoint": "c.pt", "csv": "t.csv", "image_root": "i", "save_json": "p.json"},
        "evaluate": {"preds": "p.json", "csv": "t.csv", "out": "scores", "masks": ["a.npz", "b.npz"], "resamples": 5},
        "calibrate_conformal": {"preds": "p.json", "csv": "t.csv", "out": "t.json", "alpha": 0.2},
    }[script]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(flags))
    words = []
    for name, value in flags.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    found = parse(script, ["--config", str(tmp_path / "run.yaml")])
    assert found == parse(script, words) and "config" not in found


def test_nothing_that_is_written_tells_a_file_from_flags(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    flags: dict[str, Any] = {"train_csv": str(tables[0]), "image_root": str(demo), "backbone": "test_resnet"}
    flags |= {"weights": "none", "img_size": 32, "epochs": 1, "workers": 0, "device": "cpu", "max_samples": 24}
    flags |= {"val_fraction": 0, "batch_size": 8, "lr": 1e-3}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(flags))
    states = {}
    typed = [f"--{flag}={value}" for flag, value in flags.items()]
    for name, words in (("file", ["--config", tmp_path / "run.yaml"]), ("typed", typed)):
        run("train_roi_consistency.py", *words, "--save", tmp_path / name / "roi.pt", "--exclude_csv", tables[1])
        states[name] = torch.load(tmp_path / name / "roi.pt", weights_only=True)
    file, typed_state = states["file"], states["typed"]
    args = [{name: v for name, v in s["args"].items() if name != "save"} for s in (file, typed_state)]
    assert args[0] == args[1] and not {"config", "print_config"} & set(args[0])
    assert file.keys() == typed_state.keys()
    for name, weights in file["model"].items():
        assert torch.equal(weights, typed_state["model"][name]), name
