"""What all command lines share: the parser, number types, how errors end, groups of flags that several scripts have.

No torch here, so that a script answers --help within a second.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from roi import WRITTEN_BY
from roi.choices import NamedValue, add_named_values, yes_no
from roi.config_file import add_config_flags, with_file
from roi.errors import RunError, UserError
from roi.files import locked, writable
from roi.help_text import Formatter, short_usage
from roi.process_pool import children, kill
from roi.text import Console, printable
from roi.threads import bound_threads

on_off = argparse.BooleanOptionalAction
# Seconds; torchrun looks every tenth of a second whether a process has failed.
OTHERS_END = 5.0


class Parser(argparse.ArgumentParser):
    """argparse with the script's docstring as its manual, and one line (exit code 2) for a wrong flag."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=Formatter, allow_abbrev=False)
        self.add_argument("--version", action="version", version=WRITTEN_BY, help="print the version and end")

    def format_usage(self) -> str:
        """Short: all flags stand below it, in groups."""
        self.usage = self.usage or short_usage(self)
        return super().format_usage()

    def format_help(self) -> str:
        self.usage = self.usage or short_usage(self)
        return super().format_help()

    def add_spelling(self, spelling: str, option: str, kind: Callable[[str], Any] | None = None) -> None:
        """Another spelling of a flag, which neither --help nor --print_config shows.

        Args:
            kind: reads the values of this spelling, where they are spelled otherwise, too
        """
        action = self._option_string_actions[option]
        if kind:
            action = argparse.ArgumentParser(add_help=False).add_argument(spelling, dest=action.dest, type=kind)
        # argparse finds flags in this table and shows those of another: what is in the first alone is known, not shown.
        self._option_string_actions[spelling] = action

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (all flags: {self.prog} --help)\n")


def set_environment() -> None:
    """What libraries read from the environment once, before their first work."""
    # MKL may split a product of small matrices among threads as it finds them free, so that sums round differently from
    # run to run: a last batch of one image is enough. With this it does not; the cost is below the noise.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    bound_threads()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # torchrun: a warning of each process about parameters that a warm-up does not use.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def run(main: Callable[[argparse.Namespace], int | None], parse_args: Callable[[], argparse.Namespace]) -> NoReturn:
    """Run a script, and end the processes that it started.

    What the user gave wrong (UserError, OSError) is one line and exit code 2, what went wrong around it (RunError) one
    line and exit code 1, Ctrl-C exit code 130. Any other exception is ours and shows its traceback.
    SIGTERM ends it as Ctrl-C does, so that nothing half-written stays (training has its own answer to both).
    ROI_DEBUG=1 in the environment shows every traceback.
    """
    set_environment()
    # The one place where what file names hold is kept from the terminal.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, Console):
            setattr(sys, name, Console(stream))
    # A shell may have started us with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    children_before = children()
    try:
        code = main(parse_args()) or 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            leave(code)
        sys.exit(code)
    except BrokenPipeError:  # | head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (UserError, RunError, OSError, UnicodeDecodeError) as error:  # the last: a file that is not text in UTF-8
        if os.environ.get("ROI_DEBUG"):
            raise
        let_the_cause_speak_first(error)
        print(f"error: {printable(_in_words(error))}", file=sys.stderr)
        leave(1 if isinstance(error, RunError) else 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        # The interpreter waits for them at its end, and they do not answer SIGTERM.
        kill(children() - children_before)


def _in_words(error: Exception) -> str:
    """An error as a user reads it: of the system the file first, without its number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error)


def leave(code: int) -> NoReturn:
    """End this process with an exit code; under torchrun at once, without taking the interpreter apart."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # An error ends so, that it ends the other processes before they say the same. A success too, because threads
        # of gloo (torch 2.14) now and then abort a process while its interpreter takes itself apart.
        kill(children())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def let_the_cause_speak_first(error: Exception) -> None:
    """Under torchrun most errors happen in all processes, and one that ends takes the others' connections with it.

    Process 0 speaks at once of what a user gave wrong. The others, and whoever lost a connection, wait: torchrun ends
    them when the first one has failed. Who is still there after that has an error of its own.
    """
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    first = os.environ.get("RANK", "0") == "0" and not isinstance(error, RunError)
    if not alone and not first:
        time.sleep(OTHERS_END)


def say_loading(stream: TextIO | None = None) -> None:
    """Tell the user what the seconds go to before the first line of a script that needs torch.

    Args:
        stream: where; stdout if not given
    """
    if "torch" not in sys.modules and os.environ.get("RANK", "0") == "0":
        print("loading PyTorch", file=stream, flush=True)


@contextmanager
def writing_alone(*files: str | None) -> Iterator[None]:
    """Nobody else writes these files (checkpoint and log of a training) for the length of a block.

    Entered before torch is imported: a second start of the same command ends at once.
    """
    paths = [Path(path) for path in files if path]
    for path in paths:
        writable(path)
    say_loading()
    # Of several processes the first one alone writes.
    is_writer = os.environ.get("RANK", "0") == "0"
    with locked(*(paths if is_writer else ())):
        yield


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags of a script, those of a file (--config) among them; nothing tells them from flags afterwards."""
    add_config_flags(parser, printing=False)
    args = parser.parse_args(with_file(parser, sys.argv[1:] if argv is None else argv))
    del args.config
    return args


def given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Names of the flags that stand on the command line."""
    # A namespace that already has a value keeps it, unless the command line gives another.
    unset = object()
    marked = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args(argv)), unset))
    return {name for name, value in vars(parser.parse_args(argv, marked)).items() if value is not unset}


def number(kind: Callable[[str], Any], low: float | None = None, high: float | None = None) -> Callable[[str], Any]:
    """An argparse type: `kind` (int or float) with closed bounds."""

    def parse(text: str) -> Any:
        value = kind(text)
        above_low = low is None or value >= low
        below_high = high is None or value <= high
        if above_low and below_high:
            return value
        if high is None:
            raise argparse.ArgumentTypeError(f"{text} is below {low}")
        raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")

    parse.__name__ = kind.__name__
    return parse


# What beside --workers and --cache_dir says how images are read.
LOADER_ARGS = {
    "prefetch_factor": NamedValue(
        number(int, 1),
        2,
        "batches that each worker, or the thread that reads --cache_dir, keeps ready",
    ),
    "persistent_workers": NamedValue(yes_no, True, "keep the workers between epochs"),
}


def add_overwrite(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument("--overwrite", action=on_off, default=False, help=f"replace {what} if there (default: refuse)")


def add_loading(group: argparse._ActionsContainer) -> None:
    """How images are read: processes, cache, what is done with unreadable ones."""
    group.add_argument(
        "--workers",
        type=number(int, 0),
        default=min(8, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode images; 0: none (default: %(default)s)",
    )
    add_named_values(group, "--loader_args", "how images are handed on:", LOADER_ARGS)
    group.add_argument(
        "--cache_dir",
        metavar="DIR",
        help="decode each image once, into a memory-mapped file here; shared by all runs and processes "
        "(default: decode anew)",
    )
    group.add_argument(
        "--skip_unreadable",
        action=on_off,
        default=False,
        help="leave out missing or broken images, counted and listed in a side file (default: stop)",
    )


def add_compute(group: argparse._ActionsContainer) -> None:
    """Where and in which precision the model runs."""
    group.add_argument(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda|mps",
        help="where to compute (default: the best there is)",
    )
    group.add_argument(
        "--autocast_dtype",
        choices=("auto", "bf16", "fp16", "fp32"),
        default="auto",
        help="type of the forward pass; auto: bf16 on CUDA (fp16 if it lacks it), fp32 elsewhere "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--compile",
        action=on_off,
        default=False,
        help="torch.compile the parts of the backbone; pays on a GPU after minutes (default: no)",
    )
    group.add_argument("--channels_last", action=on_off, default=True, help="NHWC memory format (default: yes)")
