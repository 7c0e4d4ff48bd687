"""Who an image is of, without saying who: keys made with a salt, dates shifted by patient, ages in bands.

    write_people(src, out, {"a.png": "a.dcm"}, read_salt(Path("salt.txt")))    # out/dicom_people.csv

A key is an HMAC-SHA256 (RFC 2104): without the salt nobody can try all patient numbers of a hospital against it.
Whoever has the salt can; so it lies outside the folder that is handed over. The table is still data of people.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from roi.errors import UserError
from roi.sources.dicom.convert import write_rows
from roi.sources.dicom.header import describe_view, silent_pydicom

PEOPLE_FILE = "dicom_people.csv"
PEOPLE_COLUMNS = ("image", "patient_key", "study_key", "accession_key", "view", "shifted_date", "sex", "age_band")
# Beside the view; no picture element, and none of these is written as it is.
ELEMENTS = "PatientID IssuerOfPatientID StudyInstanceUID AccessionNumber StudyDate PatientSex PatientAge ViewPosition"
SHORTEST_SALT = 16  # characters
KEY_LENGTH = 16  # hexadecimal digits: 64 bits, so that a million patients do not meet by chance
LONGEST_SHIFT = 365  # days back
A_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}  # has so many of each unit of an age
OLDEST = 90  # years; older people are few enough to be told apart


def read_salt(path: Path) -> bytes:
    """The salt of a file, which is made where it is not there.

    Raises:
        UserError: it is too short to keep anybody from trying.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of the owner alone, from its first moment.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        print(f"{path}: a new salt; keep it for later joins, and from everybody who gets the table")
    salt = path.read_bytes().strip()
    if len(salt) < SHORTEST_SALT:
        raise UserError(f"--salt {path}: {len(salt)} characters; {SHORTEST_SALT} are needed, or name a new file")
    return salt


def key(salt: bytes, kind: str, text: str) -> str:
    """What stands for a number; "" for none."""
    if not text.strip():
        return ""
    # The kind is in it: a study and a patient of one number have two keys.
    message = f"{kind}\0{text.strip()}".encode()
    return hmac.new(salt, message, hashlib.sha256).hexdigest()[:KEY_LENGTH]


def shifted_date(salt: bytes, patient: str, day: str) -> str:
    """YYYYMMDD -> a day 1 to 365 days before it, as many for all of a patient's; "" where it is no day."""
    if not patient or not re.fullmatch(r"\d{8}", day):
        return ""
    # By patient, so that the time between two studies stays true.
    shift = int(key(salt, "shift", patient), 16)
    days = 1 + shift % LONGEST_SHIFT
    year = int(day[:4])
    month = int(day[4:6])
    of_month = int(day[6:])
    try:
        return str(date(year, month, of_month) - timedelta(days))
    except ValueError:  # the 30th of February
        return ""


def age_band(age: str) -> str:
    """'067Y' -> '60-69', '018M' -> '0-9', '093Y' -> '90+'; "" where it says no age."""
    match = re.fullmatch(r"(\d{1,3})([YMWD])", age.strip().upper())
    if not match:
        return ""
    number, unit = match.groups()
    years = int(number) // A_YEAR[unit]
    if years >= OLDEST:
        return f"{OLDEST}+"
    low = years // 10 * 10
    return f"{low}-{low + 9}"


def write_people(src: Path, out: Path, files: Mapping[str, str], salt: bytes) -> None:
    """Writes dicom_people.csv: a row for each PNG.

    Args:
        src: folder of the DICOM files.
        out: folder of the PNG and of the table.
        files: PNG -> DICOM, paths below the folders.
        salt: of the keys.
    """
    rows = []
    for image, name in sorted(files.items()):
        header = read_header(src / name)
        rows.append(person(image, header, salt))
    write_rows(out / PEOPLE_FILE, PEOPLE_COLUMNS, rows)
    patients = {row["patient_key"] for row in rows} - {""}
    nameless = sum(not row["patient_key"] for row in rows)
    print(f"{out / PEOPLE_FILE}: {len(rows):,} images of {len(patients):,} patients, by keys alone")
    if nameless:
        print(f"  {nameless:,} images have no patient number: nothing keeps theirs from training and test at once")


def read_header(path: Path) -> Any:
    """The elements of ELEMENTS as a pydicom Dataset."""
    import pydicom

    with silent_pydicom():  # its warnings quote what they are about
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=ELEMENTS.split())


def person(image: str, header: Any, salt: bytes) -> dict[str, str]:
    """The row of an image."""
    text = {}
    for name in ELEMENTS.split():
        text[name] = str(header.get(name) or "").strip()
    patient = text["PatientID"]
    hospital = text["IssuerOfPatientID"]
    # Two hospitals may each have a patient 1.
    whose = f"{hospital}\0{patient}" if patient else ""
    # Any other text of this element may be anything.
    sex = text["PatientSex"].upper()
    return {
        "image": image,
        "patient_key": key(salt, "patient", whose),
        "study_key": key(salt, "study", text["StudyInstanceUID"]),
        "accession_key": key(salt, "accession", text["AccessionNumber"]),
        "view": describe_view(header),
        "shifted_date": shifted_date(salt, whose, text["StudyDate"]),
        "sex": sex if sex in ("M", "F") else "",
        "age_band": age_band(text["PatientAge"]),
    }
