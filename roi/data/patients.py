"""Who an image is of: one normal form for a patient, in whatever table, list or path it stands.

`nih:13` is the patient of `00000013_005.png`, of patient_id 13 beside that name, of `13.0`, `P13`, `NIH:00000013` and
`nih:13.0`. Everything that asks whether two images are of one patient compares these forms: official lists,
--exclude_csv, --val_csv, the audit and the marks of inference.
"""

import re
from collections.abc import Sequence

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
SET_OF = {spelling: name for name, spellings in SET_NAMES.items() for spelling in spellings}

# Where a published layout names the patient. The first that fits counts.
LAYOUTS = {
    "nih": r"(?:^|/)(?P<nih>\d{8})_\d{3}(?:\.\w+)*$",  # 00000013_005.png
    "chexpert": r"(?:^|/)patient(?P<chexpert>\d+)[/_-]study\d+[/_-]",  # train/patient00001/study1/view1_frontal.jpg
    "mimic": r"(?:^|/)p(?P<mimic>\d{8})[/_-]s\d{8}[/_.-]",  # files/p10/p10000032/s50414267/….jpg
    "rexgradient": r"(?:^|/)(?P<rexgradient>[^/]+)/studies/[^/]+/series/",  # deid_png/GRDN…/GRDN…/studies/…/series/…/….png
    "openi": r"(?:^|/)(?:CXR)?(?P<openi>\d+)_(?:\d+_)?IM-\d+",  # CXR1_1_IM-0001-3001.png, on Kaggle 1_IM-0001-3001.dcm.png
    "padchest": r"(?:^|/)(?P<padchest>\d{20,})_[\w-]+(?:\.\w+)*$",  # the study: no name says the patient
    "vindr": r"(?:^|/)(?P<vindr>[0-9a-fA-F]{32})(?:\.\w+)*$",  # each image is a patient of its own, as published
}
LAYOUT = re.compile("|".join(LAYOUTS.values()))
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


def published_set(name: str) -> str:
    """'MIMIC-CXR' -> 'mimic'; '' for a name that is no published set."""
    return SET_OF.get(re.sub(r"[\W_]+", "", name.casefold()), "")


def is_missing(patient: str) -> bool:
    """Is this field of a table empty, a word for that, or what stands for a patient whom nobody named?"""
    return patient.strip().casefold() in MISSING or patient.startswith(IDENTITY)


def split_patient(patient: str) -> tuple[str, str]:
    """-> (set, '' where none is named; normal form of the rest). 'NIH:00000001' -> ('nih', '1'), 'P5' -> ('', '5')

    Raises:
        UserError: a number whose digits were lost where it was stored as a float.
    """
    text = " ".join(patient.casefold().split())
    prefix = ""
    named = PREFIX.fullmatch(text)
    if named:
        prefix, text = published_set(named[1]) or named[1].strip(), named[2]
    else:
        joined = SET_PREFIX.fullmatch(text)
        if joined and published_set(joined[1]):
            prefix, text = published_set(joined[1]), joined[2]
    rounded = ROUNDED.fullmatch(text)
    if rounded and (rounded[1] is None or int(rounded[1]) > EXACT):
        why = "it was stored as a floating-point number"
        raise UserError(f"patient {patient!r} has lost its digits: {why}. Write it again, as text")
    number = NUMBER.fullmatch(text)
    return prefix, number[1] if number else one_case(text)


def one_case(code: str) -> str:
    """A patient's code as the sets publish it: 'grdn0001' -> 'GRDN0001', hexadecimal digits and words in lower case."""
    is_code = re.search(r"\d", code) and not re.fullmatch(r"[0-9a-fA-F-]+", code)
    return code.upper() if is_code and " " not in code else code.casefold()


def normal_form(patient: str) -> str:
    """'NIH:00000001', 'nih:1.0', 'nih_1' -> 'nih:1'; '00000005', '5.0', 'P5' -> '5'."""
    prefix, rest = split_patient(patient)
    return f"{prefix}:{rest}" if prefix else rest


def layout_of(image: str) -> tuple[str, str]:
    """The published layout that a path follows, and whom it names.

    Returns:
        ('nih', '13'), ('padchest', 'study …'), …; ('', '') where it says nothing
    """
    path = image.replace("\\", "/")
    found = LAYOUT.search(path)
    if not found:
        return "", ""
    name = str(found.lastgroup)
    whom = found[name]
    if name == "padchest":
        return name, f"study {whom}"
    if name == "vindr":
        return ("vinbigdata" if "vinbig" in path.casefold() else name), whom.casefold()
    return name, (whom.lstrip("0") or "0") if whom.isdigit() else one_case(whom)


def from_names(images: pd.Series, keys: pd.Series) -> pd.Series:
    """Patients that the names of the images say; a name that says nothing is a patient of its own.

    `keys`: each image's own key (roi/data/table.py image_keys).
    """
    names = []
    for image, key in zip(images.tolist(), keys.tolist(), strict=True):
        layout, whom = layout_of(image)
        names.append(f"{layout}:{whom}" if layout else IDENTITY + key)
    return pd.Series(names, index=images.index, dtype=str)


def resolve(
    images: pd.Series, keys: pd.Series, given: pd.Series, datasets: pd.Series, rows: Sequence[int], compare: bool = True
) -> pd.Series:
    """The patient of each image, from the column patient_id and the name of the image together.

    Where nothing is given the name counts. A name of another set than column dataset says counts for nothing.

    Args: all (N,)
        images, keys, given, datasets: the names, their keys (image_keys), columns patient_id and dataset
        rows: numbers for messages
        compare: whether the two must be the same patient; without it what is given counts

    A pseudonym beside a name that says the patient is kept (named_patients knows both).

    Raises:
        UserError: with the row, where the two are not the same patient, or two pseudonyms are.
    """
    kinds = {name: published_set(name) for name in datasets.unique()}
    forms: dict[str, tuple[str, str] | None] = {}
    for patient in given.unique():
        try:
            forms[patient] = None if is_missing(patient) else split_patient(patient)
        except UserError as error:
            raise UserError(f"row {rows[int((given == patient).argmax())]}: {error}") from error
    out = []
    pseudonyms: dict[str, str] = {}
    columns = (images.tolist(), keys.tolist(), given.tolist(), datasets.tolist())
    for n, (image, key, patient, dataset) in enumerate(zip(*columns, strict=True)):
        kind = kinds[dataset]
        form = forms[patient]
        # Most rows are of readers, which give set and patient: one look instead of the whole search.
        if form and form[0] == kind and _in_name(kind, form[1], image):
            out.append(f"{kind}:{form[1]}" if kind else form[1])
            continue
        layout, whom = _layout_in(image, kind)
        if form is None:
            out.append(f"{layout}:{whom}" if layout else IDENTITY + key)
            continue
        prefix, rest = form
        if layout in VAGUE or layout and rest == whom:
            prefix = prefix if prefix and layout in VAGUE else layout
        elif compare and layout and _says_more(layout, whom, dataset):
            pseudonym = is_pseudonym(layout, prefix, rest)
            known = pseudonyms.setdefault(f"{layout}:{whom}", rest) if pseudonym else whom
            if known != rest:
                also = f", whose patient_id is {known!r} elsewhere" if pseudonym else ""
                raise UserError(
                    f"row {rows[n]}: patient_id {patient!r}, but the name of its image, {image!r}, is of patient "
                    f"{layout}:{whom}{also}; correct it or leave it empty, or, where these are no images of {layout}, "
                    "name their set in column 'dataset'"
                )
        if not is_pseudonym(kind, prefix, rest):
            prefix = prefix or kind
        out.append(f"{prefix}:{rest}" if prefix else rest)
    return pd.Series(out, index=images.index, dtype=str)


def _layout_in(image: str, kind: str) -> tuple[str, str]:
    """layout_of an image of the set `kind` ("" where that is not known): the layout of another set says nothing."""
    layout, whom = layout_of(image)
    if kind == "vinbigdata" and layout == "vindr":
        layout = kind
    return ("", "") if kind and layout != kind else (layout, whom)


def _in_name(kind: str, whom: str, image: str) -> bool:
    """Does the name of an image of the published set `kind` say this patient, or has it no say?"""
    if kind == "nih":
        return f"{whom:0>8}_" in image
    if kind == "chexpert":
        return f"patient{whom:0>5}/" in image
    if kind == "mimic":
        return f"/p{whom}/s" in image
    return kind in VAGUE


def _says_more(layout: str, whom: str, dataset: str) -> bool:
    """Does the name of an image say its patient more surely than a column patient_id?"""
    # Not where names say an image or a study, nor where the images are of a set of the user's own.
    if layout in VAGUE or dataset.strip() and not published_set(dataset):
        return False
    return layout != "nih" or 1 <= int(whom) <= NIH_PATIENTS  # a larger number is another hospital's


def is_pseudonym(layout: str, prefix: str, rest: str) -> bool:
    """Is a patient_id a word in the place of the number that patients of this layout have?"""
    return layout in NUMBERED and prefix in ("", layout) and not rest.isdigit()


def named_patients(table: pd.DataFrame) -> pd.Series:
    """(N,) the patients of a table that was read; where patient_id is a pseudonym, those that the names say."""
    patients = table["patient_id"]
    numbered = patients.str.fullmatch(r"[a-z]+:\d+").to_numpy(dtype=bool)
    open_to = np.flatnonzero(~numbered & ~patients.str.startswith(IDENTITY).to_numpy(dtype=bool))
    if not len(open_to):
        return patients
    out = patients.to_numpy(dtype=object, copy=True)
    datasets = table["dataset"].tolist() if "dataset" in table else [""] * len(table)
    images = table["image"].tolist()
    for n in open_to.tolist():
        layout, whom = layout_of(images[n])
        if layout in NUMBERED and _says_more(layout, whom, datasets[n]) and published_set(datasets[n]) in ("", layout):
            out[n] = f"{layout}:{whom}"
    return pd.Series(out, index=table.index, dtype=str)


def remarks(table: pd.DataFrame) -> list[str]:
    """What must be said of the patients of a table: whom nobody names, and who has two names."""
    return [said for said in (_taken_as_patients(table), _pseudonyms(table)) if said]


def _pseudonyms(table: pd.DataFrame) -> str:
    named = named_patients(table)
    other = (named != table["patient_id"]).to_numpy()
    if not other.any():
        return ""
    first = int(other.argmax())
    return (
        f"{int(other.sum()):,} images have a patient_id that is not the number in their names, the first is "
        f"{table['patient_id'].iloc[first]!r} for {named.iloc[first]!r}; the splits are compared by both"
    )


def _taken_as_patients(table: pd.DataFrame) -> str:
    """Images, or studies, that stand for patients whom nobody names."""
    alone = int(table["patient_id"].str.startswith(IDENTITY).sum())
    studies = int(table["patient_id"].str.startswith("padchest:study ").sum())
    parts = [
        f"{alone:,} images are taken as patients of their own" if alone else "",
        f"{studies:,} images of PadChest are told apart by study" if studies else "",
    ]
    if not any(parts):
        return ""
    what = " and ".join(part for part in parts if part)
    return (
        f"{what}, of {len(table):,}: neither a column nor their names say whose they are; "
        "if a patient has several images, name the patient in column patient_id"
    )
