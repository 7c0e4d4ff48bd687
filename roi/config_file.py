"""Flags from a file: --config FILE, in YAML or JSON, and --print_config, which writes one.

    lr: 1e-4                                                      a flag's name without its hyphens, and its value
    "lr": {"value": 0.0001, "from": "default"}                    the same as --print_config writes it

The entries become words that stand before those of the command line. So argparse checks them as it checks those, and
what the command line says, which comes later, holds.
"""

import argparse
import difflib
import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from roi.choices import NamedValues
from roi.errors import UserError

CONFIG = "--config"
PRINT_CONFIG = "--print_config"
JSON_SUFFIX = ".json"
NOT_SAID = ("default", "recipe")  # origins of what nobody chose
# Of what these stand for, other flags have their values where those are not given.
CHOOSERS = ("recipe", "stage", "mode", "objective", "augment", "freeze_backbone", "init")
YAML_WORDS = {True: ("yes", "on", "true"), False: ("no", "off", "false")}  # which YAML takes for a truth value
Elsewhere = Callable[[], Mapping[str, str]]


class Entry(NamedTuple):
    """A line of a file."""

    value: Any
    origin: str  # of --print_config; "config" where the file does not say


def add_config_flags(parser: argparse.ArgumentParser, printing: bool = True) -> None:
    """The flags in a group of their own; `printing`: --print_config, too."""
    group = parser.add_argument_group("flags from a file")
    text = "read flags from this file, 'flag: value' lines in YAML or JSON; the command line goes before it"
    group.add_argument(CONFIG, metavar="FILE", help=text)
    if printing:
        text = "print all flags as JSON, with where each comes from, and end; --config reads it"
        group.add_argument(PRINT_CONFIG, action="store_true", help=text)


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags that a file may have, by their names."""
    flags = {}
    for action in parser._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in ("--help", "--version", CONFIG, PRINT_CONFIG):
                flags[option.removeprefix("--")] = action
    # --no-x is not a flag of its own but x: false.
    return {name: action for name, action in flags.items() if not name.startswith("no-")}


def named_on(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """The names of the flags that stand on a command line which may lack required ones."""
    options = {word.partition("=")[0] for word in argv}
    # Of this table, and not of what each flag shows: it has their other spellings, too (cli.Parser.add_spelling).
    known = parser._option_string_actions
    names = set()
    for option in options & known.keys():
        action = known[option]
        names.add(action.dest)
        # --loss_args focal_gamma=1 says what --focal_gamma 1 says.
        if isinstance(action, NamedValues):
            names |= options & action.table.keys()
    return names


def with_file(parser: argparse.ArgumentParser, argv: Sequence[str], elsewhere: Elsewhere = dict) -> list[str]:
    """The command line, before it the words of the file that its --config names.

    Args:
        parser: has the flags of add_config_flags.
        argv: the command line.
        elsewhere: name of a flag -> the script that has it, where this one does not; called where that helps.

    Raises:
        UserError: the file cannot be read, or an entry is no flag or has a value that its flag does not take.
    """
    # Read alone first: what is required may stand in the file.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(CONFIG)
    path = first.parse_known_args(argv)[0].config
    if path is None:
        return list(argv)
    entries = read_entries(path)
    flags = flags_of(parser)
    # Their values were made for another choice: they are made anew.
    remade = bool(named_on(parser, argv) & set(CHOOSERS))
    words: list[str] = []
    for name, entry in entries.items():
        if name not in flags:
            raise UserError(f"{path}: {name}: {entry.value!r}: {_not_a_flag(name, parser.prog, flags, elsewhere)}")
        if not (remade and entry.origin in NOT_SAID):
            words += _words(f"{path}: {name}: {entry.value!r}", name, flags[name], entry.value)
    return words + list(argv)


def read_entries(path: str) -> dict[str, Entry]:
    """What a file says, in its order."""
    if not Path(path).is_file():
        raise UserError(f"{CONFIG} {path}: no such file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        found = json.loads(text) if path.lower().endswith(JSON_SUFFIX) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{CONFIG} {path}: neither YAML nor JSON ({line}); --print_config shows its form") from error
    if not isinstance(found, dict):
        raise UserError(f"{CONFIG} {path}: holds no 'flag: value' lines; --print_config shows its form")
    entries = {}
    for name, value in found.items():
        # A mapping is also a value, that of --loss_args.
        is_printed = isinstance(value, dict) and set(value) == {"value", "from"}
        entries[str(name)] = Entry(value["value"], value["from"]) if is_printed else Entry(value, "config")
    return entries


def _not_a_flag(name: str, script: str, flags: Container[str], elsewhere: Elsewhere) -> str:
    """Why a name is no flag here, and which flag may be meant."""
    other = elsewhere().get(name)
    why = f"{name} is a flag of {other}, not of {script}" if other else f"{name} is no flag of {script}"
    nearest = difflib.get_close_matches(name, list(flags), 1, 0.65)  # type: ignore[call-overload]
    return f"{why}; the nearest is {nearest[0]}" if nearest else f"{why}; all flags: {script} --help"


def _words(where: str, name: str, action: argparse.Action, value: Any) -> list[str]:
    """The words of a command line that say the same as an entry."""
    if value is None:  # not given
        return []
    option = f"--{name}"
    if action.nargs == 0:
        return _switch(where, option, action, value)
    # --check alone is a switch, --check 3000 has a value.
    if action.nargs == "?" and isinstance(value, bool):
        return [option] if value else []
    # One word, so that a value may begin with a hyphen.
    if action.nargs in (None, "?"):
        return [f"{option}={_text(where, option, action, value)}"]
    # Flags with several values; a mapping stands for NAME=VALUE pairs.
    if isinstance(value, dict):
        value = _pairs(value)
    if not isinstance(value, list):
        raise UserError(f"{where}: {option} takes a list of values, [A, B]")
    return [option, *(_text(where, option, action, part) for part in value)]


def _pairs(values: Mapping[str, Any]) -> list[str]:
    """A mapping as the NAME=VALUE words of a command line."""
    pairs = []
    for name, value in values.items():
        if isinstance(value, bool):
            # As YAML reads an unquoted yes.
            value = "yes" if value else "no"
        if value is not None:  # not given
            pairs.append(f"{name}={value}")
    return pairs


def _switch(where: str, option: str, action: argparse.Action, value: Any) -> list[str]:
    """A flag that is there or not."""
    if not isinstance(value, bool):
        raise UserError(f"{where}: {option} is a switch; write true or false")
    if value:
        return [option]
    no = f"--no-{option.removeprefix('--')}"
    return [no] if no in action.option_strings else []


def _text(where: str, option: str, action: argparse.Action, value: Any) -> str:
    """The value as a word, once its flag is seen to take it."""
    choices = action.choices
    if isinstance(value, bool):
        # An unquoted yes is true in YAML, and some flags have a choice of that name.
        value = next((word for word in YAML_WORDS[value] if word in (choices or ())), value)
    kind = action.type or str
    if isinstance(value, bool | list | dict):
        raise UserError(f"{where}: {option} takes one {_kind_name(kind)}")
    # YAML makes 7 of 007 and a day of 2024-01-01: the text is lost by then.
    if kind is str and not isinstance(value, str):
        raise UserError(f'{where}: {option} takes text; write "{value}" in quotes')
    try:
        parsed = kind(str(value)) if callable(kind) else value
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{where}: {option}: {error}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {option} takes one {_kind_name(kind)}") from error
    if choices is not None and parsed not in choices:
        raise UserError(f"{where}: {option} takes one of {', '.join(map(str, choices))}")
    return str(value)


def _kind_name(kind: Any) -> str:
    """What people call a type."""
    names = {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "Path": "path",
        "tensorboard_folder": "path",
    }
    name = getattr(kind, "__name__", "value")
    return names.get(name, name)


def origins(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    words: Sequence[str],
    recipe: Container[str] = (),
) -> Callable[[str], str]:
    """Where the value of a flag comes from, as a function of its name.

    Args:
        argv: the command line as it was typed.
        words: what with_file made of it.
        recipe: flags that a recipe stands for; what the command line or a file says goes before it.
    """
    from_file = words[: len(words) - len(argv)]
    # Words of the file stand before the others.
    typed = named_on(parser, argv)
    filed = named_on(parser, from_file) - typed

    def origin(name: str) -> str:
        if name in typed:
            return "command line"
        if name in filed:
            return "config"
        return "recipe" if name in recipe else "default"

    return origin


def print_config(parser: argparse.ArgumentParser, values: Mapping[str, Any], origin: Callable[[str], str]) -> None:
    """All flags as JSON, a line each, with where each comes from; such a file gives the same run by --config."""
    # One line a flag, so that two files can be compared by diff.
    lines = []
    for name, action in flags_of(parser).items():
        # --pretrained is another word for a value of --weights.
        is_short_form = isinstance(action.const, str)
        if action.dest in values and not is_short_form:
            value = values[action.dest]
            # What --check alone stands for is no value that it takes.
            if action.nargs == "?" and value == action.const:
                value = True
            entry = {"value": value, "from": origin(action.dest)}
            lines.append(f" {json.dumps(name)}: {json.dumps(entry, default=str)}")
    print("{\n" + ",\n".join(lines) + "\n}")
