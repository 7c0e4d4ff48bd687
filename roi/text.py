"""How names and numbers are written for a person: on the console, on pictures, on the page."""

import math
import re
from typing import Any, TextIO

# What a terminal obeys, or what reorders the text around it: C0 and C1 controls, line separators, bidirectional marks;
# and surrogates, which stand for bytes of file names that are no UTF-8 and which no stream can write.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
LAYOUT = "\n\t"  # what our own texts are made of
SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, keep: str = "") -> str:
    r"""`text` with control characters as escapes (ESC as \x1b), those in `keep` left as they are."""

    def shown(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else _escape(character)

    return CONTROL.sub(shown, text)


def _escape(character: str) -> str:
    if character in SHORT:
        return SHORT[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that os.fsdecode found
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}"


class Console:
    """A stream that shows what it is given and obeys none of it.

    File names may hold bytes that move the cursor or clear the screen. A carriage return at the begin of a text is that
    of a progress bar and stays.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        begin = "\r" if text.startswith("\r") else ""
        shown = begin + printable(text[len(begin) :], LAYOUT)
        # What the terminal's encoding lacks is an error in Python: as an escape it can be read.
        encoding = self.stream.encoding or "utf-8"
        encoded = shown.encode(encoding, "backslashreplace")
        self.stream.write(encoded.decode(encoding))
        return len(text)


def decimal(value: float, digits: int, sign: str = "") -> str:
    """`value` with so many digits; `sign` "+" stands also before what is positive."""
    text = f"{value:{sign}.{digits}f}"
    # What rounds to zero is 0.000, never -0.000.
    if float(text) == 0:
        return text.lstrip("+-")
    return text


def counted(number: int, noun: str) -> str:
    """1 image; 2 images."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def of_hundred(share: float) -> str:
    """A share as so many of 100; what is not all, or not none, is not called so."""
    count = round(100 * share)
    if count == 100 and share < 1:
        return "more than 99 of 100"
    if count == 0 and share > 0:
        return "fewer than 1 of 100"
    return f"{count} of 100"


def probability(value: float) -> str:
    """Two decimals, or as many as the first two digits of a small one need: 0.31, 0.0042."""
    digits = 2
    if 0 < value < 0.1:
        digits = 1 - math.floor(math.log10(value))
    return decimal(value, digits)
