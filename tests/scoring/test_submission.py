"""make_submission.py: the template's columns and rows by name, what it refuses, what the zip holds."""

import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run

from roi.scoring import predictions
from roi.scoring.challenge.submission import image_id

# As the development table of task 2 lists them: Normal before Nodule.
TEMPLATE = ["Mass", "Normal", "Nodule", "Pleural Effusion", "Pleural Thickening", "Support Devices"]
# As a model of make_chexmultimodal_csv.py --cxrlt has them.
CLASSES = ["Effusion", "Mass", "Nodule", "Pleural_Thickening", "Normal (labelled)", "Support Devices"]
SAME_CLASS = {"Normal": "Normal (labelled)", "Pleural Effusion": "Effusion", "Pleural Thickening": "Pleural_Thickening"}


class Task:
    """Six images of four studies, their predictions, a template in another order of rows and columns."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.preds = folder, folder / "p.json"
        self.template, self.csv, self.out = folder / "sample.csv", folder / "t.csv", folder / "out.zip"
        rng = np.random.default_rng(0)
        self.ids = [f"0{n}aa804e-bde0afdd" for n in range(6)]
        self.images = [f"mimic/files/p10/p1000003{n % 4}/s5/{name}.jpg" for n, name in enumerate(self.ids)]
        self.prob = pd.DataFrame(rng.random((6, 6)).round(6), columns=CLASSES, index=self.ids)
        self.table = pd.DataFrame({"image": self.images, "labels": "", "patient_id": [f"m{n % 4}" for n in range(6)]})
        self.table["study_id"] = self.table["patient_id"] + ":s"
        self.table.to_csv(self.csv, index=False)
        self.write_template(self.ids[::-1])
        self.write_predictions()

    def write_template(self, ids: Sequence[str], classes: Sequence[str] = TEMPLATE, **more: object) -> None:
        template = pd.DataFrame({"dicom_id": list(ids), **more, **dict.fromkeys(classes, 0)})
        template.to_csv(self.template, index=False)

    def write_predictions(self) -> None:
        rows = zip(self.images, self.prob.to_numpy(), strict=True)
        records = [predictions.record(image, list(self.prob), {"full": p}, False) for image, p in rows]
        predictions.write(self.preds, iter(records), {})

    @property
    def command(self) -> tuple[object, ...]:
        return (
            "make_submission.py",
            "--preds",
            self.preds,
            "--template",
            self.template,
            "--out",
            self.out,
            "--overwrite",
        )

    def submit(self, *flags: object) -> pd.DataFrame:
        self.said = run(*self.command, *flags)
        with zipfile.ZipFile(self.out) as archive:
            return pd.read_csv(BytesIO(archive.read("predictions.csv")))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return Task(tmp_path)


def test_columns_and_rows_are_those_of_the_template_by_name(task: Task) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        columns, ids = rng.permutation(TEMPLATE).tolist(), rng.permutation(task.ids).tolist()
        task.write_template(ids, columns)
        written = task.submit()
        assert list(written) == ["dicom_id", *columns] and written["dicom_id"].tolist() == ids
        for column in columns:
            own = task.prob.loc[ids, SAME_CLASS.get(column, column)]
            np.testing.assert_allclose(written[column], own, atol=1e-7)


def test_the_table_of_a_task_is_a_template_and_a_submission_scores_as_predictions_do(task: Task) -> None:
    """Its columns that are no classes are not written; what is written reads as the same probabilities."""
    more = {"subject_id": 1, "study_id": "s5", "ViewPosition": "", "ViewCodeSequence_CodeMeaning": "", "fpath": "x"}
    task.write_template(task.ids, TEMPLATE, **more)
    written = task.submit()
    assert list(written) == ["dicom_id", *TEMPLATE]
    own = task.prob.rename(columns={ours: theirs for theirs, ours in SAME_CLASS.items()})[TEMPLATE]
    np.testing.assert_allclose(written[TEMPLATE], own, atol=1e-7)


def test_published_names_go_before_ours(task: Task) -> None:
    """A model that was trained on the published names; its Normal is that column."""
    task.prob.columns = [{v: k for k, v in SAME_CLASS.items()}.get(c, c) for c in CLASSES]
    task.write_predictions()
    np.testing.assert_allclose(task.submit()["Normal"], task.prob["Normal"][::-1], atol=1e-7)


def test_the_images_of_a_study_get_one_probability(task: Task) -> None:
    written = task.submit("--unit", "study", "--csv", task.csv).set_index("dicom_id")
    expected = task.prob.groupby(task.table["study_id"].to_numpy()).transform("mean")
    np.testing.assert_allclose(written.loc[task.ids, "Mass"], expected["Mass"], atol=1e-7)
    assert written["Mass"].nunique() == 4


def test_the_zip_holds_the_csv_and_the_code(task: Task) -> None:
    code = task.folder / "my_code"
    for name in ("main.py", "models/net.py", ".git/config", "__pycache__/x.pyc"):
        path = code / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    task.submit("--code", code)
    with zipfile.ZipFile(task.out) as archive:
        assert archive.namelist() == ["predictions.csv", "code/main.py", "code/models/net.py"]
        assert archive.read("code/models/net.py") == b"models/net.py" and archive.testzip() is None
    first = task.out.read_bytes()
    task.submit("--code", code)
    assert task.out.read_bytes() == first
    run(*task.command[:-3], "--out", task.folder / "x.csv")
    assert pd.read_csv(task.folder / "x.csv").shape == (6, 7)


def test_what_is_refused(task: Task) -> None:
    task.write_template(task.ids, [*TEMPLATE, "Bulla", "Hilum"])
    assert "2 classes of" in one_line_error(*task.command) and "Bulla, Hilum" in one_line_error(*task.command)
    task.write_template(task.ids, TEMPLATE[:4])
    assert "predicts 2 classes that" in one_line_error(*task.command)
    assert list(task.submit("--allow_extra")) == ["dicom_id", *TEMPLATE[:4]]
    task.write_template([*task.ids, "nowhere"])
    assert "1 of the 7 images" in one_line_error(*task.command) and "nowhere" in one_line_error(*task.command)
    task.write_template([*task.ids, task.ids[0]])
    assert "twice" in one_line_error(*task.command)
    task.write_template(task.ids[:4])
    task.submit()
    assert "2 predicted images are not in the template" in task.said
    task.prob["Mass"] = (task.prob["Mass"] > 0.5).astype(float)
    task.write_predictions()
    assert "1 classes are 0 or 1 in every row: Mass" in one_line_error(*task.command)
    assert set(task.submit("--allow_binary")["Mass"]) <= {0, 1}
    table = task.prob.add_prefix("prob_").assign(image=task.images)
    table.iloc[1, 1] = np.nan
    task.preds = task.folder / "p.csv"
    table.to_csv(task.preds, index=False)
    assert "not a probability" in one_line_error(*task.command)


def test_two_images_of_one_id_and_flags_that_do_not_go_together(task: Task) -> None:
    task.images[1] = f"elsewhere/{task.ids[0]}.png"
    task.write_predictions()
    assert "two images have the id" in one_line_error(*task.command)
    assert "go together" in run(*task.command, "--unit", "study", code=2)
    assert "no column dicom_id or ImageID" in one_line_error(
        *task.command[:3], "--template", task.csv, *task.command[5:]
    )


def test_what_it_reads_is_never_replaced(task: Task) -> None:
    table = task.folder / "table.csv"
    pd.DataFrame({"image": task.images, "study_id": "s"}).to_csv(table, index=False)
    task.out = task.template
    before = task.template.read_bytes()
    assert "is what --template names, and would be lost" in one_line_error(*task.command)
    assert task.template.read_bytes() == before
    task.out = table
    command = (*task.command, "--unit", "study", "--csv", table)
    assert "is what --csv names, and would be lost" in one_line_error(*command)


@pytest.mark.parametrize(
    ("image", "name"),
    [("files/p10/a-b.jpg", "a-b"), ("a-b", "a-b"), ("1.2.840.png", "1.2.840"), ("1.2.840", "1.2.840")],
)
def test_ids_are_file_names_without_the_ending_of_a_picture(image: str, name: str) -> None:
    assert image_id(image) == name
