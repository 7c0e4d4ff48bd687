"""The words for train, validation and test, of published sets and of tables made by hand."""

import re
from collections.abc import Sequence

import pandas as pd

from roi.errors import UserError

SPLITS = {
    "train": ("train", "training", "tr", "trn"),
    "train_val": ("train_val", "trainval", "train_valid", "training_validation", "train_validation", "train_and_val"),
    "val": ("val", "valid", "validation", "validate", "validating", "dev", "devel", "development", "tune", "tuning"),
    "test": ("test", "testing", "tst"),
}
SPLIT_OF: dict[str, str] = {}
for _split, _words in SPLITS.items():
    SPLIT_OF.update(dict.fromkeys(_words, _split))
ENDINGS = re.compile(r"_(?:set|split|data|subset|list|images)$|(?<=[a-z])set$")


def split_word(word: str) -> str | None:
    """'Validation', 'TEST_SET', 'Dev set' -> 'val', 'test', 'val'; '' stays; None for a word that means no split."""
    plain = re.sub(r"[\W_]+", "_", word.casefold()).strip("_")
    if not plain:
        return ""
    return SPLIT_OF.get(ENDINGS.sub("", plain))


def read_splits(words: pd.Series, rows: Sequence[int]) -> pd.Series:
    """Read a column of words (N,) as train, train_val, val, test or ''.

    Args:
        rows: their numbers, for messages.

    Raises:
        UserError: an unknown word, with its row and the words that are known.
    """
    split_of = {}
    for word in words.unique():
        split_of[word] = split_word(word)
        if split_of[word] is None:
            wrong = words == word
            row = rows[int(wrong.argmax())]
            known = ", ".join(SPLIT_OF)
            raise UserError(
                f"row {row}: split {word!r} ({int(wrong.sum()):,} rows) is none that is known; "
                f"write train, val or test (known in any case, with or without 'set': {known}), or leave it empty"
            )
    return words.map(split_of)
