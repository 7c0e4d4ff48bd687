"""Who an image is of: one normal form for a patient, in whatever table, list or path it stands.

`nih:13` is the patient of `00000013_005.png`, of patient_id 13 beside that name, of `13.0`, `P13`, `NIH:00000013` and
`nih:13.0`. Everything that asks whether two images are of one patient compares these forms: official lists,
--exclude_csv, --val_csv, the audit and the marks of inference.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pandas as pd

from roi.errors import UserError

# How people write the names of the published sets, letters and digits alone.
SET_NAMES = {
    "nih": (
        "nih",
        "nihcxr",
        "nihcxr14",
        "nihchestxray",
        "nihchestxray14",
        "chestxray8",
        "chestxray14",
        "cxr8",
        "cxr14",
    ),
    "openi": ("openi", "iuxray", "iucxr", "indiana", "indianauniversity", "nlmcxr"),
    "rexgradient": ("rexgradient", "rexgradient160k"),
    "chexpert": ("chexpert", "chexpertsmall", "chexpertplus", "chexpertv10", "chexpertv10small"),
    "mimic": ("mimic", "mimiccxr", "mimiccxrjpg", "cxrlt"),  # CXR-LT's images are MIMIC's
    "padchest": ("padchest", "bimcvpadchest"),
    "vindr": ("vindr", "vindrcxr"),
    "vinbigdata": ("vinbigdata", "vinbig"),
}
SET_OF: dict[str, str] = {}
for _set, _spellings in SET_NAMES.items():
    SET_OF.update(dict.fromkeys(_spellings, _set))

# Where a published layout names the patient. The first that fits counts.
LAYOUTS = {
    "nih": r"(?:^|/)(?P<nih>\d{8})_\d{3}(?:\.\w+)*$",  # 00000013_005.png
    "chexpert": r"(?:^|/)patient(?P<chexpert>\d+)[/_-]study\d+[/_-]",  # train/patient00001/study1/view1_frontal.jpg
    "mimic": r"(?:^|/)p(?P<mimic>\d{8})[/_-]s\d{8}[/_.-]",  # files/p10/p10000032/s50414267/….jpg
    # deid_png/GRDN…/GRDN…/studies/…/series/…/….png
    "rexgradient": r"(?:^|/)(?P<rexgradient>[^/]+)/studies/[^/]+/series/",
    # CXR1_1_IM-0001-3001.png, on Kaggle 1_IM-0001-3001.dcm.png
    "openi": r"(?:^|/)(?:CXR)?(?P<openi>\d+)_(?:\d+_)?IM-\d+",
    "padchest": r"(?:^|/)(?P<padchest>\d{20,})_[\w-]+(?:\.\w+)*$",  # the study: no name says the patient
    "vindr": r"(?:^|/)(?P<vindr>[0-9a-fA-F]{32})(?:\.\w+)*$",  # each image is a patient of its own, as published
}
# All begin alike: tried where a folder ends alone, they take a third of the time.
FOLDER_END = "(?:^|/)"
_after_folder = "|".join(layout.removeprefix(FOLDER_END) for layout in LAYOUTS.values())
LAYOUT = re.compile(f"{FOLDER_END}(?:{_after_folder})")
VAGUE = ("padchest", "vindr", "vinbigdata")  # their names say less than a column patient_id may
NIH_PATIENTS = 30_805
NUMBERED = ("nih", "chexpert", "mimic", "openi")  # whose patients are numbers

PREFIX = re.compile(r"([^:]*[^:\s])\s*:\s*(.*)", re.DOTALL)
SET_PREFIX = re.compile(r"([a-z][a-z0-9 .-]*[a-z0-9])[\s_/-]+(.*)", re.DOTALL)  # nih_13, MIMIC-CXR/10000032
WORD = r"(?:patients?|subjects?|pat|pt|subj|sub|cxr|pid|id|p)[\s_.#-]*(?:id|no|nr|number|num)?[\s_.#:-]*"
NUMBER = re.compile(rf"(?:{WORD})?0*(\d+)(?:\.0*)?")
ROUNDED = re.compile(r"\d\.\d+e\+?\d+|(\d{16,})\.0*")  # a long number that was stored as a float
EXACT = 2**53  # whole numbers up to it survive that
MISSING = {"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "unknown", "missing", "-", "--", "?", "-1", "-1.0"}

Form = tuple[str, str]  # the set that a patient's name begins with, '' for none; the rest

IDENTITY = "image:"  # of images that are taken as patients
COLUMN_NAMES = {
    "patient",
    "patientid",
    "patientids",
    "patientno",
    "patientnumber",
    "patientname",
    "patid",
    "ptid",
    "subject",
    "subjectid",
    "subjectno",
    "mrn",
}


@cache
def published_set(name: str) -> str:
    """'MIMIC-CXR' -> 'mimic'; '' for a name that is no published set."""
    letters = re.sub(r"[\W_]+", "", name.casefold())
    return SET_OF.get(letters, "")


def is_missing(patient: str) -> bool:
    """Is this field of a table empty, a word for that, or what stands for a patient whom nobody named?"""
    word = patient.strip().casefold()
    return word in MISSING or patient.startswith(IDENTITY)


# The normal form of a patient


def split_patient(patient: str) -> Form:
    """The set that a patient's name begins with, '' for none, and the normal form of the rest.

    'NIH:00000001', 'nih:1.0', 'nih_1' -> ('nih', '1'); '00000005', '5.0', 'P5' -> ('', '5')

    Raises:
        UserError: a number whose digits were lost where it was stored as a float.
    """
    text = " ".join(patient.casefold().split())
    prefix, rest = _split_prefix(text)
    rounded = ROUNDED.fullmatch(rest)
    # What was written with an exponent has no group 1.
    if rounded and (rounded[1] is None or int(rounded[1]) > EXACT):
        reason = "it was stored as a floating-point number"
        raise UserError(f"patient {patient!r} has lost its digits: {reason}. Write it again, as text")
    number = NUMBER.fullmatch(rest)
    return prefix, number[1] if number else one_case(rest)


def _split_prefix(text: str) -> Form:
    """'nih:1', 'nih_1' -> ('nih', '1'); 'hospital a: 1' -> ('hospital a', '1'), but 'x_1' -> ('', 'x_1')."""
    with_colon = PREFIX.fullmatch(text)
    if with_colon:
        prefix, rest = with_colon.groups()
        return published_set(prefix) or prefix.strip(), rest
    # Without a colon only a published set is a prefix: any other word may be part of the patient's name.
    with_other_sign = SET_PREFIX.fullmatch(text)
    if with_other_sign:
        prefix, rest = with_other_sign.groups()
        if published_set(prefix):
            return published_set(prefix), rest
    return "", text


def join_patient(prefix: str, rest: str) -> str:
    """The name that stands in tables: ('nih', '1') -> 'nih:1', ('', '5') -> '5'."""
    return f"{prefix}:{rest}" if prefix else rest


def one_case(code: str) -> str:
    """A patient's code as the sets publish it: 'grdn0001' -> 'GRDN0001', hexadecimal digits and words in lower case."""
    has_digit = re.search(r"\d", code)
    is_hexadecimal = re.fullmatch(r"[0-9a-fA-F-]+", code)
    if has_digit and not is_hexadecimal and " " not in code:
        return code.upper()
    return code.casefold()


# What the name of an image says


def layout_of(image: str) -> tuple[str, str]:
    """The published layout that a path follows, and the patient that it names.

    Returns:
        ('nih', '13'), ('padchest', 'study …'), …; ('', '') where it says nothing
    """
    path = image.replace("\\", "/")
    match = LAYOUT.search(path)
    if not match:
        return "", ""
    layout = str(match.lastgroup)
    patient = match[layout]
    if layout == "padchest":
        return layout, f"study {patient}"
    if layout == "vindr":
        # VinBigData's files are named as VinDr's; only a folder tells them apart.
        layout = "vinbigdata" if "vinbig" in path.casefold() else layout
        return layout, patient.casefold()
    if patient.isdigit():
        return layout, patient.lstrip("0") or "0"
    return layout, one_case(patient)


def from_names(images: pd.Series, keys: pd.Series) -> pd.Series:
    """Patients that the names of the images say; a name that says nothing is a patient of its own.

    `keys`: each image's own key (roi/data/table.py image_keys).
    """
    names = []
    for image, key in zip(images.tolist(), keys.tolist(), strict=True):
        layout, patient = layout_of(image)
        name = join_patient(layout, patient) if layout else IDENTITY + key
        names.append(name)
    return pd.Series(names, index=images.index, dtype=str)


# The patient of a row of a table


def resolve(
    images: pd.Series,
    keys: pd.Series,
    given: pd.Series,
    datasets: pd.Series,
    rows: Sequence[int],
    compare: bool = True,
) -> pd.Series:
    """The patient of each image, from the column patient_id and the name of the image together.

    Where nothing is given the name counts. A name of another set than column dataset says counts for nothing. A
    pseudonym beside a name that says the patient is kept (named_patients knows both).

    Args: all (N,)
        images, keys, given, datasets: the names, their keys (image_keys), columns patient_id and dataset
        rows: numbers for messages
        compare: whether the two must be the same patient; without it what is given counts

    Raises:
        UserError: with the row, where the two are not the same patient, or two pseudonyms are.
    """
    forms: dict[str, Form | None] = {}
    for patient in given.unique():
        forms[patient] = None
        # Asked once a patient: the regular expressions are slow.
        if not is_missing(patient):
            try:
                forms[patient] = split_patient(patient)
            except UserError as error:
                is_patient = given == patient
                row = rows[int(is_patient.argmax())]
                raise UserError(f"row {row}: {error}") from error
    resolver = _Resolver(compare)
    # Lists: a pandas column hands out its texts one by one at the price of the search itself.
    columns = [column.tolist() for column in (images, keys, given, datasets)]
    resolved = []
    for row, image, key, patient, dataset in zip(rows, *columns, strict=True):
        form = forms[patient]
        resolved.append(resolver.patient_of(row, image, key, patient, form, dataset))
    return pd.Series(resolved, index=images.index, dtype=str)


@dataclass
class _Resolver:
    """Decides between column patient_id and the name of the image, row by row."""

    compare: bool
    pseudonyms: dict[str, str] = field(default_factory=dict)  # patient that the names say -> patient_id

    def patient_of(
        self,
        row: int,
        image: str,
        key: str,
        given: str,
        form: Form | None,
        dataset: str,
    ) -> str:
        """The patient of a row; `form`: split_patient of patient_id, None where nothing is `given`."""
        own_set = published_set(dataset)
        # Most rows are of readers, which give set and patient: one look instead of the whole search.
        prefix, rest = form or ("", "")
        if form and prefix == own_set and _in_name(own_set, rest, image):
            return join_patient(prefix, rest)
        layout, named = _layout_in(image, own_set)
        if form is None:
            return join_patient(layout, named) if layout else IDENTITY + key
        if layout in VAGUE:
            prefix = prefix or layout
        elif layout and rest == named:
            prefix = layout
        elif self.compare and layout and _says_more(layout, named, dataset):
            self._check_same(row, image, given, form, f"{layout}:{named}")
        if not is_pseudonym(own_set, prefix, rest):
            prefix = prefix or own_set
        return join_patient(prefix, rest)

    def _check_same(
        self,
        row: int,
        image: str,
        given: str,
        form: Form,
        named: str,
    ) -> None:
        """UserError: patient_id is a number and not that in the name, or the second pseudonym of one patient."""
        layout, _, number = named.partition(":")
        prefix, rest = form
        also = ""
        if is_pseudonym(layout, prefix, rest):
            known = self.pseudonyms.setdefault(named, rest)
            also = f", whose patient_id is {known!r} elsewhere"
        else:
            known = number
        if known != rest:
            raise UserError(
                f"row {row}: patient_id {given!r}, but the name of its image, {image!r}, is of patient "
                f"{named}{also}; correct it or leave it empty, or, where these are no images of {layout}, "
                "name their set in column 'dataset'"
            )


def _layout_in(image: str, own_set: str) -> tuple[str, str]:
    """layout_of an image of a published set ("" where that is not known): the layout of another set says nothing."""
    layout, patient = layout_of(image)
    if own_set == "vinbigdata" and layout == "vindr":
        layout = own_set
    if own_set and layout != own_set:
        return "", ""
    return layout, patient


def _in_name(own_set: str, patient: str, image: str) -> bool:
    """Does the name of an image of a published set say this patient, or has it no say?"""
    if own_set == "nih":
        return f"{patient:0>8}_" in image
    if own_set == "chexpert":
        return f"patient{patient:0>5}/" in image
    if own_set == "mimic":
        return f"/p{patient}/s" in image
    return own_set in VAGUE


def _says_more(layout: str, patient: str, dataset: str) -> bool:
    """Does the name of an image say its patient more surely than a column patient_id?"""
    # Not where names say an image or a study, nor where the images are of a set of the user's own.
    of_own_set = dataset.strip() and not published_set(dataset)
    if layout in VAGUE or of_own_set:
        return False
    if layout == "nih":
        return 1 <= int(patient) <= NIH_PATIENTS  # a larger number is another hospital's
    return True


def is_pseudonym(layout: str, prefix: str, rest: str) -> bool:
    """Is a patient_id a word in the place of the number that patients of this layout have?"""
    of_layout = layout in NUMBERED and prefix in ("", layout)
    return of_layout and not rest.isdigit()


def named_patients(table: pd.DataFrame) -> pd.Series:
    """The patients (N,) of a table that was read; where patient_id is a pseudonym, those that the names say."""
    patients = table["patient_id"]
    is_numbered = patients.str.fullmatch(r"[a-z]+:\d+").to_numpy(dtype=bool)
    is_alone = patients.str.startswith(IDENTITY).to_numpy(dtype=bool)
    maybe_pseudonyms = np.flatnonzero(~is_numbered & ~is_alone)
    # So it is with sets whose patients are numbers; the search below is slow on large tables.
    if not len(maybe_pseudonyms):
        return patients
    named = patients.to_numpy(dtype=object, copy=True)
    images = table["image"].tolist()
    datasets = [""] * len(table)
    if "dataset" in table:
        datasets = table["dataset"].tolist()
    for n in maybe_pseudonyms.tolist():
        dataset = datasets[n]
        layout, patient = layout_of(images[n])
        of_this_set = layout in NUMBERED and published_set(dataset) in ("", layout)
        if of_this_set and _says_more(layout, patient, dataset):
            named[n] = join_patient(layout, patient)
    return pd.Series(named, index=table.index, dtype=str)


# What must be said of the patients of a table


def remarks(table: pd.DataFrame) -> list[str]:
    """Who has two names, and whom nobody names."""
    remarks = [_taken_as_patients(table), _pseudonyms(table)]
    return list(filter(None, remarks))


def _pseudonyms(table: pd.DataFrame) -> str:
    named = named_patients(table)
    differs = (named != table["patient_id"]).to_numpy()
    if not differs.any():
        return ""
    first = int(differs.argmax())
    return (
        f"{int(differs.sum()):,} images have a patient_id that is not the number in their names, the first is "
        f"{table['patient_id'].iloc[first]!r} for {named.iloc[first]!r}; the splits are compared by both"
    )


def _taken_as_patients(table: pd.DataFrame) -> str:
    """Images, or studies, that stand for patients whom nobody names."""
    patients = table["patient_id"]
    alone = int(patients.str.startswith(IDENTITY).sum())
    studies = int(patients.str.startswith("padchest:study ").sum())
    parts = []
    if alone:
        parts.append(f"{alone:,} images are taken as patients of their own")
    if studies:
        parts.append(f"{studies:,} images of PadChest are told apart by study")
    if not parts:
        return ""
    return (
        f"{' and '.join(parts)}, of {len(table):,}: neither a column nor their names say whose they are; "
        "if a patient has several images, name the patient in column patient_id"
    )
