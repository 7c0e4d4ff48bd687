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
MEANS = {word: split for split, words in SPLITS.items() for word in words}
ENDINGS = re.compile(r"_(?:set|split|data|subset|list|images)$|(?<=[a-z])set$")


def split_word(word: str) -> str | None:
    """'Validation', 'TEST_SET', 'Dev set' -> 'val', 'test', 'val'; '' stays; None for a word that means no split."""
    plain = re.sub(r"[\W_]+", "_", word.casefold()).strip("_")
    return MEANS.get(ENDINGS.sub("", plain)) if plain else ""


def read_splits(words: pd.Series, rows: Sequence[int]) -> pd.Series:
    """(N,) words of a column -> train, train_val, val, test or ''. `rows`: their numbers, for messages.

    Raises:
        UserError: an unknown word, with its row and the words that are known.
    """
    means = {word: split_word(word) for word in words.unique()}
    for word, split in means.items():
        if split is None:
            found = words == word
            known = ", ".join(word for words in SPLITS.values() for word in words)
            raise UserError(
                f"row {rows[int(found.argmax())]}: split {word!r} ({int(found.sum()):,} rows) is none that is known; "
                f"write train, val or test (known in any case, with or without 'set': {known}), or leave it empty"
            )
    return words.map(means)
