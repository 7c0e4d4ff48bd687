"""Images of a hospital: nothing that tells whose they are is written, and labels find their images all the same."""

import hashlib
import hmac
import json
import os
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import one_line_error, run

from roi.sources.dicom.people import age_band, key, shifted_date

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install -r requirements-dicom.txt)")

SALT = b"0123456789abcdef0123456789abcdef"
# Path, patient, study, accession, day, sex, age, view: two patients of one number in two hospitals.
FILES = (
    ("a/1.dcm", "ID-77315", "H1", "1.2.7", "ACC-1", "20200229", "F", "067Y", "PA"),
    ("a/2.dcm", "ID-77315", "H1", "1.2.7", "ACC-1", "20200229", "F", "067Y", "LL"),
    ("b/1.dcm", "ID-77315", "H1", "1.2.8", "ACC-2", "20200331", "F", "067Y", "AP"),
    ("c/1.dcm", "ID-77315", "H2", "1.2.9", "ACC-3", "20200229", "M", "093Y", "PA"),
    ("d/1.dcm", "ID-4", "H1", "1.2.10", "ACC-4", "", "O", "", "QUIXOTE"),
)
SECRETS = (
    "ID-77315",
    "ID-4",
    "ACC-",
    "1.2.7",
    "1.2.10",
    "20200229",
    "2020-02-29",
    "67",
    "93",
    "Quixote",
    "H1",
    "Alonso",
)


def write_dicom(path: Path, *facts: str) -> None:
    patient, issuer, study, accession, day, sex, age, view = facts
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID, ds.IssuerOfPatientID = "Quixote^Alonso", patient, issuer
    ds.StudyInstanceUID, ds.AccessionNumber, ds.StudyDate = study, accession, day
    ds.PatientSex, ds.PatientAge, ds.ViewPosition = sex, age, view
    ds.Rows = ds.Columns = 64
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 7, 0, 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.PixelData = np.arange(64 * 64, dtype=np.uint16).astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of PNG with its table, and the salt beside it."""
    root = tmp_path_factory.mktemp("pacs")
    for name, *facts in FILES:
        write_dicom(root / "dicom" / name, *facts)
    said = run(
        "convert_dicom.py", "--src", root / "dicom", "--out", root / "png", "--salt", root / "salt", "--workers", 1
    )
    assert "a new salt; keep it" in said and "5 images of 3 patients, by keys alone" in said
    return root


def people(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "png" / "dicom_people.csv", dtype=str, keep_default_na=False)


def test_the_table_tells_patients_apart_and_nobody_who_they_are(converted: Path) -> None:
    table = people(converted).set_index("image")
    written = (converted / "png" / "dicom_people.csv").read_text()
    rest = "".join(str(value) for column in ("view", "shifted_date", "sex", "age_band") for value in table[column])
    assert not [secret for secret in SECRETS[:3] + SECRETS[3:6] + SECRETS[9:] if secret in written]
    assert not [secret for secret in SECRETS if secret in rest]
    patient = table["patient_key"]
    assert patient["a/1.png"] == patient["a/2.png"] == patient["b/1.png"] and patient.nunique() == 3
    assert table["study_key"].nunique() == 4 and table["study_key"]["a/1.png"] == table["study_key"]["a/2.png"]
    assert table["age_band"].tolist() == ["60-69"] * 3 + ["90+", ""] and table["sex"].tolist() == [*"FFFM", ""]
    assert table["view"].tolist() == ["PA", "LL", "AP", "PA", "other"]
    # All days of a patient move alike; those of another one otherwise.
    days = [date.fromisoformat(day) for day in table["shifted_date"][:4]]
    assert (days[2] - days[0]).days == 31 and 1 <= (date(2020, 2, 29) - days[0]).days <= 365
    assert days[3] != days[0] and table["shifted_date"]["d/1.png"] == ""
    assert os.stat(converted / "salt").st_mode & 0o777 == 0o600


def test_a_key_is_the_published_one() -> None:
    expected = hmac.new(SALT, b"accession\0ACC-1", hashlib.sha256).hexdigest()[:16]
    assert key(SALT, "accession", " ACC-1 ") == expected and key(SALT, "accession", " ") == ""
    assert key(SALT, "study", "ACC-1") != expected != key(SALT[:-1], "accession", "ACC-1")
    assert shifted_date(SALT, "p", "20200230") == shifted_date(SALT, "", "20200229") == ""
    bands = {"089Y": "80-89", "090Y": "90+", "018M": "0-9", "130Y": "90+", "67": "", "": ""}
    assert {age: age_band(age) for age in bands} == bands


def test_the_same_salt_gives_the_same_table_and_another_one_another(converted: Path, tmp_path: Path) -> None:
    before = people(converted)
    command = ("convert_dicom.py", "--src", converted / "dicom", "--workers", 1, "--out")
    assert "a new salt" not in run(*command, converted / "png", "--salt", converted / "salt")
    assert people(converted).equals(before)
    run(*command, tmp_path / "png", "--salt", tmp_path / "salt")
    assert not set(people(tmp_path)["patient_key"]) & set(before["patient_key"])


def test_labels_and_reports_find_their_images(converted: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    make = ("make_chexmultimodal_csv.py", "--people", converted / "png" / "dicom_people.csv", "--labels", labels)
    salted = ("--salt", converted / "salt")
    labels.write_text("Accession,labels\nACC-1,Mass|Nodule\nACC-3,No Finding\nACC-9,Mass\n")
    said = run(*make, *salted, "--out_csv", tmp_path / "a.csv", "--fillna", "Normal")
    assert "3 images of 2 patients" in said and "2 images without a row of labels, 1 rows without an image" in said
    table = pd.read_csv(tmp_path / "a.csv", dtype=str, keep_default_na=False).set_index("image")
    assert table["labels"].to_dict() == {"a/1.png": "Mass,Nodule", "a/2.png": "Mass,Nodule", "c/1.png": "Normal"}
    assert table["view"].tolist() == ["PA", "LATERAL", "PA"] and table["age"].tolist() == ["60", "60", "90"]
    assert table["patient_id"]["a/1.png"] == "pacs:" + people(converted)["patient_key"][0]
    assert not [secret for secret in ("ACC-", "ID-77315") if secret in (tmp_path / "a.csv").read_text()]
    labels.write_text('accession_number,report\nACC-1,"There is a large pleural effusion. No pneumothorax."\n')
    run(*make, *salted, "--out_csv", tmp_path / "r.csv")
    report = pd.read_csv(tmp_path / "r.csv", dtype=str, keep_default_na=False)
    assert report["labels"].tolist() == ["Effusion"] * 2 and "Pneumothorax" not in report["unknown"][0]
    assert "Mass" in report["unknown"][0].split(",")
    for names in ("a/1.dcm,1,\nb/1.dcm,-1,0\n", "dicom/a/1.dcm,1,\n"):
        labels.write_text(f"file,Mass,Edema\n{names}")
        if names.startswith("dicom"):
            # 1.dcm alone may be any of four.
            assert "none of its 1 rows" in one_line_error(*make, "--out_csv", tmp_path / "n.csv")
            continue
        run(*make, "--out_csv", tmp_path / "f.csv")
        cells = pd.read_csv(tmp_path / "f.csv", dtype=str, keep_default_na=False).set_index("image")
        assert cells["labels"].tolist() == ["Mass", ""] and cells["uncertain"].tolist() == ["", "Mass"]
        assert "Edema" in cells["unknown"]["a/1.png"] and "Edema" not in cells["unknown"]["b/1.png"]


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("accession,labels\nACC-1,Mass\n", (), "--salt FILE"),
        ("accession,labels\nACC-1,Mass\n", ("--salt", "other"), "is {other} the salt"),
        ("accession,labels\nACC-1,Mass\nACC-1,\n", ("--salt", "salt"), "lines 2 and 3 are of the same images"),
        ("name,labels\nx,Mass\n", (), "no column accession or image"),
        ("file,finding\na/1.dcm,Mass\n", (), "no column labels, report, or one a finding"),
        ("file,Mass\na/1.dcm,maybe\n", (), "maybe"),
        ("file,labels\na/1.dcm,Emphysma\n", (), "did you mean 'Emphysema'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    text: str, flags: tuple[str, ...], words: str, converted: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    (tmp_path / "other").write_text("another salt of many letters")
    files = {"other": tmp_path / "other", "salt": converted / "salt"}
    make = ("make_chexmultimodal_csv.py", "--people", converted / "png" / "dicom_people.csv")
    given = (files.get(flag, flag) for flag in flags)
    said = one_line_error(*make, "--labels", tmp_path / "labels.csv", *given, "--out_csv", tmp_path / "t.csv")
    assert words.format(other=tmp_path / "other") in said and "ACC-1" not in said
    assert not (tmp_path / "t.csv").exists()


def test_a_salt_is_kept_apart_and_long_enough(converted: Path, tmp_path: Path) -> None:
    command = ("convert_dicom.py", "--src", converted / "dicom", "--workers", 1, "--out", tmp_path / "png")
    assert "handed over" in one_line_error(*command, "--salt", tmp_path / "png" / "salt")
    (tmp_path / "short").write_text("abc")
    assert "3 characters; 16 are needed" in one_line_error(*command, "--salt", tmp_path / "short")
    assert not (tmp_path / "png" / "dicom_people.csv").exists()
    facts = (converted / "png" / "dicom_facts.csv").read_text()
    assert "ID-77315" not in facts and json.dumps(SECRETS[0]) not in facts
