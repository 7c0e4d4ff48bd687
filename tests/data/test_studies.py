"""Studies of a table: who belongs together, in which order, with which labels; against a plain loop."""

import time

import numpy as np
import pandas as pd
import pytest

from roi.data.studies import KINDS, Studies, kinds_of, studies_of, study_targets
from roi.errors import UserError

NAN = float("nan")


def table_of(*rows: tuple[str, str, str, str], dataset: str = "mimic") -> pd.DataFrame:
    """(image, study_id, view, patient_id) each"""
    table = pd.DataFrame(list(rows), columns=["image", "study_id", "view", "patient_id"])
    return table.assign(dataset=dataset)


def lists(studies: Studies) -> dict[str, list[int]]:
    ends = zip(studies.start[:-1], studies.start[1:], strict=True)
    return {str(name): studies.rows[a:b].tolist() for name, (a, b) in zip(studies.names, ends, strict=True)}


def test_frontal_comes_before_lateral_before_not_said_and_then_the_table_counts() -> None:
    table = table_of(
        ("a", "s2", "", "1"),
        ("b", "s1", "LATERAL", "2"),
        ("c", "s2", "LL", "1"),
        ("d", "s2", "AP", "1"),
        ("e", "", "PA", "1"),
        ("f", "s2", "PA", "1"),
        ("g", "s2", "AP", "1"),
        ("h", " ", "PA", "1"),
    )
    studies = studies_of(table)
    assert lists(studies) == {"s2": [5, 3, 6, 2, 0], "s1": [1], "e": [4], "h": [7]}
    assert studies.study_of_row.tolist() == [0, 1, 0, 0, 2, 0, 0, 3]
    assert "4 studies (3 of 1, 0 of 2, 0 of 3, 0 of 4, 1 of 5 or more images)" in studies.summary()


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("PA", "frontal"),
        ("AP AXIAL", "frontal"),
        ("AP RLD", "frontal"),
        ("LAO", "frontal"),
        ("antero-posterior", "frontal"),
        ("LATERAL", "lateral"),
        ("XTABLE LATERAL", "lateral"),
        ("LL", "lateral"),
        ("SWIMMERS", "lateral"),
        ("", "not said"),
        ("supine", "not said"),
    ],
)
def test_the_words_of_mimic_are_known(word: str, kind: str) -> None:
    assert KINDS[kinds_of(pd.Series([word]))[0][0]] == kind


def test_a_study_of_two_patients_is_refused_by_name() -> None:
    table = table_of(("a", "s1", "", "1"), ("b", "s2", "", "1"), ("c", "s2", "", "2"), ("d", "s2", "", "2"))
    with pytest.raises(UserError, match=r"study 's2' has images of two patients, '1' and '2' \(1 such studies\)"):
        studies_of(table)


def test_two_data_sets_may_use_one_number() -> None:
    table = table_of(("a", "1", "", "x"), ("b", "1", "", "y"))
    table["dataset"] = ["nih", "padchest"]
    assert studies_of(table).sizes.tolist() == [1, 1]


def test_labels_of_a_study_come_from_all_its_images() -> None:
    studies = studies_of(table_of(("a", "s", "", "1"), ("b", "s", "", "1"), ("c", "", "", "1")))
    images = np.array(["a", "b", "c"], dtype=object)
    targets = np.array([[1, NAN, NAN, 0.25, NAN], [1, 0, 0.25, 0.75, NAN], [0, NAN, 0.5, 1, 0]], dtype=np.float32)
    found = study_targets(studies, targets, list("ABCDE"), images)
    expected = np.array([[1, 0, 0.25, 0.5, NAN], [0, NAN, 0.5, 1, 0]], dtype=np.float32)
    np.testing.assert_array_equal(found.targets, expected)
    assert found.filled == 2


def test_contradicting_labels_are_refused_or_united() -> None:
    studies = studies_of(table_of(("a", "s", "", "1"), ("b", "s", "", "1"), ("c", "t", "", "1")))
    images = np.array(["a", "b", "c"], dtype=object)
    targets = np.array([[0, 1], [1, 0], [0, 1]], dtype=np.float32)
    with pytest.raises(UserError, match="study 's': b has Mass, a of the same study lacks it .*--study_labels any"):
        study_targets(studies, targets, ["Mass", "Normal"], images)
    united = study_targets(studies, targets, ["Mass", "Normal"], images, union=True)
    assert united.targets.tolist() == [[1, 0], [0, 1]]


def test_a_plain_loop_gives_the_same_on_random_tables() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(1, 60))
        ids = rng.integers(0, 20, count)
        names = [f"s{n}" if n else "" for n in ids]
        views = rng.choice(["PA", "AP", "LATERAL", ""], count).tolist()
        rows = zip([f"i{n}" for n in range(count)], names, views, ["p"] * count, strict=True)
        studies = studies_of(table_of(*rows))
        expected: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            expected.setdefault(name or f"i{row}", []).append(row)
        order = ["PA", "AP", "LATERAL", ""]
        for members in expected.values():
            members.sort(key=lambda row: order.index(views[row]))
        assert lists(studies) == expected


def test_a_table_as_long_as_the_challenges_takes_a_second() -> None:
    rows, studies = 258_871, 155_823
    rng = np.random.default_rng(0)
    of = np.sort(np.concatenate([np.arange(studies), rng.integers(0, studies, rows - studies)]))
    table = pd.DataFrame(
        {
            "image": [f"files/p{s}/{n}.jpg" for n, s in enumerate(of)],
            "study_id": [f"mimic:{s // 3}:{s}" for s in of],
            "patient_id": [f"mimic:{s // 3}" for s in of],
            "view": rng.choice(["PA", "AP", "LATERAL", ""], rows),
            "dataset": "mimic",
        }
    )
    began = time.process_time()
    found = studies_of(table)
    took = time.process_time() - began
    print(f"studies of {rows:,} rows: {took:.2f} s")
    assert len(found) == studies and took < 1.0
