"""The manual of a script on a terminal: its docstring and flags in 80 columns, the usage in a line or two."""

import argparse
import re
import textwrap
from collections.abc import Callable
from typing import Any

WIDTH = 80
COMMAND = re.compile(r"(?:python|pip|\./|torchrun|sbatch|tmux)\b|(?:\w+=\S+ )+\./")
# A name, then at least two spaces, then what it is.
ITEM = re.compile(r"(\s+\S+(?: \S+)*?\s{2,})\S")


class Family(argparse._StoreAction):
    """A flag that --help shows under the name of its kind: one entry for several alike."""

    def __init__(self, *, shown_as: str, **options: Any) -> None:
        super().__init__(**options)
        self.shown_as = shown_as


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Of one width whatever the terminal has, so that the manual looks alike everywhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=22, width=WIDTH)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return reflow(text, width)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str) -> Callable[[int], tuple[str, ...]]:
        if _has_many_choices(action):
            return lambda size: ("NAME",) * size
        return super()._metavar_formatter(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Lines of a help stay lines: what --loss_args takes is a list."""
        lines: list[str] = []
        for line in text.split("\n"):
            lines += textwrap.wrap(line, width, subsequent_indent="  " if lines else "", break_on_hyphens=False)
        return lines

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return action.shown_as if isinstance(action, Family) else super()._format_action_invocation(action)

    def _expand_help(self, action: argparse.Action) -> str:
        text = super()._expand_help(action)
        if _has_many_choices(action):
            text += f"; NAME: {', '.join(map(str, action.choices or ()))}"
        return text


def _has_many_choices(action: argparse.Action) -> bool:
    """Whether they do not fit beside the flag."""
    names = ",".join(map(str, action.choices or ()))
    return action.metavar is None and len(names) > WIDTH // 2


def reflow(text: str, width: int = WIDTH) -> str:
    """A docstring in `width` columns: paragraphs, commands (continued by a backslash) and lists keep their kinds."""
    lines = textwrap.dedent(text).strip().splitlines()
    blocks: list[str] = []
    for line in lines:
        if blocks and _continues(blocks[-1], line):
            blocks[-1] = _joined(blocks[-1], line)
        else:
            blocks.append(line.rstrip())
    return "\n".join(_wrapped(block, width) for block in blocks)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _continues(block: str, line: str) -> bool:
    """Whether a line goes on with the block above it."""
    if not block.strip() or not line.strip():
        return False
    # As a shell reads it.
    if block.endswith("\\"):
        return True
    if COMMAND.match(line.strip()) or COMMAND.match(block.strip()):
        return False
    # Deeper: the second line of an item. Text at the margin: the same paragraph.
    deeper = _indent(line) > _indent(block) > 0
    return deeper or (_indent(line) == _indent(block) == 0)


def _joined(block: str, line: str) -> str:
    return f"{block.removesuffix(chr(92)).rstrip()} {line.strip()}"


def _wrapped(block: str, width: int) -> str:
    if len(block) <= width:
        return block
    margin = " " * _indent(block)
    if COMMAND.match(block.strip()):
        return _command(block.strip(), margin, width)
    item = ITEM.match(block)
    hanging = margin
    # Names longer than a third of the line would leave no room for what they are.
    if item and margin:
        hanging = " " * min(len(item[1]), width // 3)
    return textwrap.fill(
        block.strip(),
        width,
        initial_indent=margin,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _command(command: str, margin: str, width: int) -> str:
    """A command broken before its flags, so that it can be pasted as it stands."""
    # A remark at the end of a broken command would comment out what follows.
    command, _, remark = command.partition("  #")
    parts = re.split(r" (?=-)", command.rstrip())
    lines = [margin + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) + 2 <= width:
            lines[-1] += f" {part}"
        else:
            lines.append(f"{margin}    {part}")
    text = " \\\n".join(lines)
    return f"{margin}# {remark.strip()}\n{text}" if remark.strip() else text


def short_usage(parser: argparse.ArgumentParser) -> str:
    """The flags that must be given, and that there are others."""
    # The flags that may be left out are listed below, in their groups.
    parts = []
    for action in parser._actions:
        if action.required and action.option_strings:
            parts.append(f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}")
    for group in parser._mutually_exclusive_groups:
        if group.required:
            names = [action.option_strings[-1] for action in group._group_actions]
            parts.append(f"({' | '.join(names)})")
    words = " ".join([parser.prog, *parts, "[flags]"]).replace("%", "%%")
    return textwrap.fill(words, WIDTH - len("usage: "), subsequent_indent=" " * 7, break_on_hyphens=False)
