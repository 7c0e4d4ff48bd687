"""What a run says while it goes on: lines at once, and a progress bar."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from tqdm import tqdm


def say(text: str) -> None:
    """Print a line at once. Where nobody reads any more (Ctrl-C ended the `| tee`) the run goes on to save its work."""
    with suppress(OSError):
        print(text, flush=True)


class _Lines:
    """A file for tqdm where there is no terminal: each refresh is a line of its own, so that a log can be followed."""

    def write(self, text: str) -> None:
        if text.strip():
            with suppress(OSError):
                sys.stderr.write(text.strip("\r\n\x1b[A ") + "\n")

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def progress(iterable: Iterable | None, total: int, title: str, unit: str = "image", initial: int = 0) -> tqdm:
    """A bar on a terminal; a line every 20 seconds in a log."""
    # Of several processes one shows how far they are. The variable is torchrun's: this module loads no torch.
    if os.environ.get("RANK", "0") != "0":
        return tqdm(iterable, total=total, disable=True)
    if sys.stderr.isatty():
        return tqdm(iterable, total=total, desc=title, unit=unit, initial=initial, leave=False)
    return tqdm(
        iterable,
        total=total,
        desc=title,
        unit=unit,
        initial=initial,
        leave=False,
        mininterval=20,
        maxinterval=20,
        ascii=True,
        ncols=100,
        file=_Lines(),
    )
