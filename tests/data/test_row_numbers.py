"""The row numbers that pandas writes beside a table are no class and no column, in whatever table they stand."""

from pathlib import Path

import pandas as pd
import pytest

from roi.data.text_table import read_text_table
from roi.errors import UserError
from roi.scoring.challenge.submission import read_template
from roi.sources.cxrlt_native import _label_columns


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Written with its index by pandas, read and written once more."""
    once, twice = tmp_path / "once.csv", tmp_path / "twice.csv"
    pd.DataFrame({"dicom_id": ["a", "b"], "Mass": [0, 1], "Edema": [1, 0]}).to_csv(once)
    pd.read_csv(once).to_csv(twice)
    assert twice.read_text().startswith(",Unnamed: 0,dicom_id")
    return twice


def test_row_numbers_are_left_out_with_a_line(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(read_text_table(table)) == ["dicom_id", "Mass", "Edema"]
    assert capsys.readouterr().out == f"{table}: column 'Unnamed: 0' is the row numbers of pandas; it is left out\n"
    assert read_template(str(table)).classes == ["Mass", "Edema"]
    assert list(_label_columns(table)) == ["Mass", "Edema"] or "dicom_id" in _label_columns(table)
    assert not [name for name in _label_columns(table) if name.startswith("Unnamed")]


def test_what_is_no_row_number_is_not_dropped(table: Path) -> None:
    table.write_text("Unnamed: 0,dicom_id,Mass\nleft,a,1\n")
    with pytest.raises(UserError, match="line 2 has 'left' in a column without a name"):
        read_text_table(table)
