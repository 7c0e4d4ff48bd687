"""Numbers with what they count, and what a run that goes on has behind it."""

import pytest

from roi.text import counted
from roi.training.start import epochs_done


@pytest.mark.parametrize(("count", "words"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (2000, "2,000 epochs")])
def test_one_is_singular(count: int, words: str) -> None:
    assert counted(count, "epoch") == words


def test_a_run_never_has_two_of_one_epoch() -> None:
    assert epochs_done(1, 3) == "1 of 3 epochs are done"
    assert epochs_done(1, 1) == "1 of 1 epoch is done"
    assert epochs_done(2, 1) == "2 epochs are done, more than --epochs 1 asks for"
