"""What flags offer: values that belong to a choice, and names of rooms that are slow to load.

Values that belong to a choice are given in one flag: --loss_args focal_gamma=1 asl_clip=0. Each is a flag of its own,
too (--focal_gamma 1), and a run's configuration and its checkpoint know it by that name. --help shows the list alone,
so that what few runs give does not hide what most runs give. It does not wait for a slow room either: what such a room
knows by name stands here.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# make_chexmultimodal_csv.py: what a report does not mention; how VinDr's readers become one label.
BLANK_POLICIES = ("unknown", "negative")
VOTES = ("majority", "any", "fraction")
# convert_dicom.py: of grey values; sides in px, outside of which is no chest X-ray: 6,000 x 6,000 of 16 bit are 72 MB.
WINDOWS = ("voi", "percentile")
SIDES = (64, 6000)
# make_demo_dataset.py: whose layout it writes, as roi/demo/source_layouts.py and, the last one, study_layouts.py can.
LAYOUTS = ("nih", "openi", "rexgradient", "chexpert", "mimic", "padchest", "vindr", "vinbigdata", "cxrlt", "table")
# Its fewest images, and sides in px.
MIN_IMAGES, SIZES = 20, (32, 2048)

YES_NO = {"yes": True, "no": False, "true": True, "false": False}


class NamedValue(NamedTuple):
    """What a list takes under a name."""

    kind: Callable[[str], Any]  # an argparse type
    default: Any  # None: another flag says it
    help: str
    choices: tuple[Any, ...] = ()  # empty: all that `kind` takes

    def parse(self, text: str) -> Any:
        """The value of a word.

        Raises:
            ValueError, argparse.ArgumentTypeError: it is none
        """
        value = self.kind(text)
        if self.choices and value not in self.choices:
            allowed = ", ".join(map(str, self.choices))
            raise argparse.ArgumentTypeError(f"{text} is not one of {allowed}")
        return value

    def describe(self) -> str:
        """Its help, with the default."""
        return self.help if self.default is None else f"{self.help} (default: {_shown(self.default)})"


def _shown(value: Any) -> str:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:g}"


def yes_no(text: str) -> bool:
    """An argparse type: a switch in a list."""
    if text.lower() not in YES_NO:
        raise argparse.ArgumentTypeError(f"{text} is not yes or no")
    return YES_NO[text.lower()]


class NamedValues(argparse.Action):
    """name=value … of a table: each becomes a value of its own among the flags."""

    def __init__(self, table: Mapping[str, NamedValue], **options: Any) -> None:
        super().__init__(**options)
        self.table = table

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for pair in values:
            name, equals, text = pair.partition("=")
            if not equals or name not in self.table:
                raise argparse.ArgumentError(self, f"{pair!r} is not NAME=VALUE with one of {', '.join(self.table)}")
            setattr(namespace, name, self._parse(name, text))

    def _parse(self, name: str, text: str) -> Any:
        value = self.table[name]
        try:
            return value.parse(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentError(self, f"{name}={error}") from error
        except ValueError as error:
            kind = value.kind.__name__
            raise argparse.ArgumentError(self, f"invalid {kind} value of {name}: {text!r}") from error


def add_named_values(
    group: argparse._ActionsContainer,
    option: str,
    what: str,
    table: Mapping[str, NamedValue],
) -> None:
    """The list, and each of its values as a flag that --help does not show.

    Args:
        option: of the list, as --loss_args
        what: what the values belong to
    """
    add_named_list(group, option, what, table)
    add_hidden_flags(group, table)


def add_named_list(group: argparse._ActionsContainer, option: str, what: str, table: Mapping[str, NamedValue]) -> None:
    """The list alone; flags keep the order in which they are added, in a checkpoint, too."""
    # A line a value (roi/help_text.py keeps them apart).
    lines = [what] + [f"{name}  {value.describe()}" for name, value in table.items()]
    group.add_argument(
        option,
        action=NamedValues,
        table=table,
        nargs="+",
        # The list itself is no value: what is written of a run has the names that it gives.
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help="\n".join(lines).replace("%", "%%"),
    )


def add_hidden_flags(group: argparse._ActionsContainer, table: Mapping[str, NamedValue]) -> None:
    """Each value as a flag of its own, which --help does not show."""
    for name, value in table.items():
        options: dict[str, Any] = {"type": value.kind, "choices": value.choices or None}
        if value.kind is yes_no:
            options = {"action": argparse.BooleanOptionalAction}
        action = group.add_argument(f"--{name}", default=value.default, **options)
        # Not as an argument: up to Python 3.12 a switch adds its default to what it is given, and would be shown.
        action.help = argparse.SUPPRESS
