"""The editions of CXR-LT: what each asks for, and which files it consists of."""

from dataclasses import dataclass

from roi.cxrlt_labels import PADCHEST_30, TASK_1, TASK_2, TASK_3, ZERO_SHOT
from roi.labels import published_name


@dataclass(frozen=True)
class EditionTable:
    """One file of an edition."""

    names: tuple[str, ...]  # under any of which it may lie there
    split: str  # '': it has a column of it
    labels: tuple[str, ...]  # that it must have; what else the edition asks for is unknown there


@dataclass(frozen=True)
class Edition:
    """What a challenge asked for, and the sets of files of which one must be there, the first that is counts."""

    labels: tuple[str, ...]
    file_sets: tuple[tuple[EditionTable, ...], ...]

    @property
    def classes(self) -> list[str]:
        """As they are named in a table."""
        return [published_name(label) for label in self.labels]


def _three_files(
    train: str,
    development: tuple[str, ...],
    test: tuple[str, ...],
    of_train: tuple[str, ...],
    of_others: tuple[str, ...],
) -> tuple[EditionTable, ...]:
    """A file a split; the labels of the first, and those of the others."""
    return (
        EditionTable((train,), "train", of_train),
        EditionTable(development, "val", of_others),
        EditionTable(test, "test", of_others),
    )


def _task(number: int, of_train: tuple[str, ...], of_others: tuple[str, ...]) -> tuple[EditionTable, ...]:
    """The files of a task of 2024; without labels in the name as some copies have them."""
    development = (f"development_labeled_task{number}.csv", f"development_task{number}.csv")
    test = (f"test_labeled_task{number}.csv", f"test_task{number}.csv")
    return _three_files("train_labeled.csv", development, test, of_train, of_others)


def _one_file(labels: tuple[str, ...]) -> tuple[EditionTable, ...]:
    return (EditionTable(("labels.csv",), "", labels),)


EDITIONS = {
    "2023": Edition(TASK_2, (_three_files("train.csv", ("development.csv",), ("test.csv",), TASK_2, TASK_2),)),
    "2024.1": Edition(TASK_1, (_task(1, TASK_1, TASK_1), _one_file(TASK_1))),
    "2024.2": Edition(TASK_2, (_task(2, TASK_2, TASK_2), _one_file(TASK_2))),
    # The one table says of every image what task 3 asks; its own files say it of development and test alone.
    "2024.3": Edition(TASK_3, (_one_file(TASK_3), _task(3, TASK_1, ZERO_SHOT))),
    "2026": Edition(PADCHEST_30, ((EditionTable(("CXRLT_2026_training.csv",), "train", PADCHEST_30),),)),
}
