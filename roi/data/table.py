"""The table that every stage reads: one row an image, checked once; and which of two names mean the same image.

Letters: N rows. A field of labels holds names with commas between them.
"""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data import patients
from roi.data.split_words import read_splits, split_word
from roi.data.text_table import read_text_table
from roi.errors import UserError
from roi.labels import LABELS, NORMAL, SPELLINGS, normal_name, refuse_no_label, spelled

COLUMNS = (
    "image",
    "labels",
    "unknown",
    "uncertain",
    "soft",
    "patient_id",
    "study_id",
    "view",
    "age",
    "sex",
    "dataset",
    "split",
    "label_source",
)
LABEL_COLUMNS = ("labels", "unknown", "uncertain")
SPLIT_COLUMNS = ("subset", "partition", "phase", "datasplit", "splits", "set", "usage")  # other names, letters alone
SLASHES = re.compile(r"/+(?:\./+)*")
UNUSUAL = ("images", ".", "/")  # how a path may begin that is spelled otherwise elsewhere
SHARD = re.compile(r"^(?:\./)?(?:images(?:_\d+/images|-\d+/images-\d+)?/)?")
ABSENT = -1  # in the place of a row: match_images has not found the image
AMBIGUOUS = -2  # the name may mean several


def tokens(field: str) -> list[str]:
    """'Mass, Nodule' -> ['Mass', 'Nodule']; never by substring."""
    parts = [part.strip() for part in field.split(",")]
    return [part for part in parts if part]


def shares(field: str) -> dict[str, float]:
    """The share of the readers who say that a finding is present: 'Mass=0.333,Nodule=0.667' -> {'Mass': 0.333, …}."""
    share_of = {}
    for token in tokens(field):
        finding, _, share = token.partition("=")
        share_of[finding.strip()] = float(share)
    return share_of


# Reading and checking


def read_table(
    path: str | Path, compare_names: bool = True, needed: Sequence[str] = ("image", "labels")
) -> pd.DataFrame:
    """Read and check a table: text columns of COLUMNS, missing ones empty, `patient_id` always filled.

    Prints which columns of another name are read, and how many images are taken as patients.

    Args:
        compare_names: a patient_id that is not the patient in the name of its image is an error.
        needed: columns without which a file is no table.

    Raises:
        UserError: no such file, a column missing or twice, a row of another length than the header, and what
            check_table refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table; make it with make_chexmultimodal_csv.py")
    table = rename_columns(read_text_table(path), str(path))
    for column in needed:
        if column not in table:
            raise UserError(
                f"{path}: no column {column!r} (found {list(table)}); make the table with make_chexmultimodal_csv.py"
            )
    # Messages name the lines of the file; everything else counts rows from 0.
    lines = table.index.tolist()
    table = table.reset_index(drop=True)
    others = [column for column in table if column not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *others], fill_value="")
    table["image"] = table["image"].str.strip()
    table = check_table(table, str(path), lines, compare_names=compare_names)
    for remark in patients.remarks(table):
        print(f"{path}: {remark}")
    return table


def rename_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Give columns that are known under another spelling the name that they have here, and say so.

    'Patient ID', 'subject_id' -> patient_id; 'Split' -> split

    Raises:
        UserError: two columns may be the same one of COLUMNS.
    """
    candidates: dict[str, list[str]] = {}  # one of COLUMNS -> columns that may be it
    for column in table.columns.difference(COLUMNS, sort=False):
        standard = _standard_name(column, table[column])
        if standard:
            candidates.setdefault(standard, []).append(column)
    for standard, columns in candidates.items():
        first = columns[0]
        if standard in table and _has_text(table[standard]):
            _refuse_two_spellings(standard, columns, name)
            print(f"{name}: column {first!r} is not read, since {standard!r} is there")
            continue
        if len(columns) > 1:
            several = ", ".join(map(repr, columns))
            raise UserError(f"{name}: columns {several} may each be {standard!r}; give that name to one of them")
        print(f"{name}: column {first!r} is read as {standard!r}")
        # An empty column of that name makes room.
        table = table.drop(columns=standard, errors="ignore")
        table = table.rename(columns={first: standard})
    return table


def _has_text(column: pd.Series) -> bool:
    return bool((column.str.strip() != "").any())


def _refuse_two_spellings(standard: str, columns: list[str], name: str) -> None:
    for column in columns:
        if _letters(column) == _letters(standard):
            both = f"columns {standard!r} and {column!r}"
            raise UserError(f"{name}: {both} have one name in two spellings; keep one of them")


def _letters(column: str) -> str:
    """'Patient-ID' -> 'patientid'"""
    return re.sub(r"[\W_]+", "", column.casefold())


STANDARD_NAMES = {_letters(column): column for column in COLUMNS}


def _standard_name(column: str, values: pd.Series) -> str | None:
    """Which of COLUMNS a column of another name is; None for none of them."""
    plain = _letters(column)
    if plain in STANDARD_NAMES:
        return STANDARD_NAMES[plain]
    if plain in patients.COLUMN_NAMES:
        return "patient_id"
    # A column with a looser name holds splits if all its words are such.
    if plain in SPLIT_COLUMNS and (values != "").any():
        splits = [split_word(word) for word in values.unique()]
        if None not in splits:
            return "split"
    return None


def check_table(
    table: pd.DataFrame, name: str, rows: Sequence[int] | None = None, separator: str = ",", compare_names: bool = True
) -> pd.DataFrame:
    """The rules that every table obeys, whoever made it: one spelling of each label, split and patient.

    Args:
        name: begins the messages
        rows: the number of each row, for messages (default: as in a file with a header)
        separator: what stands between labels in the file that the user gave, for messages
        compare_names: a patient_id that is not the patient in the name of its image is an error
    """
    if table.empty:
        raise UserError(f"{name}: no rows")
    if rows is None:
        rows = range(2, len(table) + 2)
    keys = _check_images(table["image"], name, rows)
    spell = partial(_spell_labels, separator=separator)
    for column in LABEL_COLUMNS:
        table[column] = _map_each_kind(table[column], spell, name, rows)
    _check_unknown(table, name)
    if "soft" in table:
        _check_shares(table, name, rows)
    given = table["patient_id"]
    datasets = table.get("dataset", pd.Series("", index=table.index))
    try:
        if "split" in table:
            table["split"] = read_splits(table["split"], rows)
        table["patient_id"] = patients.resolve(table["image"], keys, given, datasets, rows, compare_names)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return table


def _check_images(images: pd.Series, name: str, rows: Sequence[int]) -> pd.Series:
    """The keys of the images, each there once. UserError: a row names none, or an image has two rows."""
    unnamed = images == ""
    if unnamed.any():
        row = rows[int(unnamed.argmax())]
        raise UserError(f"{name}: row {row} names no image")
    keys = image_keys(images)
    twice = images[keys.duplicated()]
    if len(twice):
        raise UserError(
            f"{name}: {len(twice)} images are listed twice, the first is {twice.iloc[0]!r}; one row an image"
        )
    return keys


def _map_each_kind(column: pd.Series, change: Callable[[str], str], name: str, rows: Sequence[int]) -> pd.Series:
    """`change` of each text, asked once a kind; its errors begin with the table and the first row of that kind."""
    # A column of 100,000 rows has some hundred different fields.
    changed = {}
    for field in column.unique():
        try:
            changed[field] = change(field)
        except UserError as error:
            is_field = column == field
            row = rows[int(is_field.argmax())]
            raise UserError(f"{name}: row {row}: {error}") from error
    return column.map(changed)


def _check_unknown(table: pd.DataFrame, name: str) -> None:
    has_unknown = table["unknown"] != ""
    fields = table.loc[has_unknown, ["labels", "unknown"]].drop_duplicates()
    for labels, unknown in fields.itertuples(index=False):
        both = set(tokens(labels)).intersection(tokens(unknown))
        if both:
            first = min(both)
            raise UserError(f"{name}: {first!r} is both present and unknown in one row (labels {labels!r})")


def _check_shares(table: pd.DataFrame, name: str, rows: Sequence[int]) -> None:
    """Column `soft`: shares between 0 and 1, each of another finding."""
    table["soft"] = _map_each_kind(table["soft"], _spell_shares, name, rows)
    # Who does not read `soft` takes these findings as unknown: they must stand there, too.
    has_shares = table["soft"] != ""
    fields = table.loc[has_shares, ["unknown", "soft"]].drop_duplicates()
    for unknown, soft in fields.itertuples(index=False):
        missing = shares(soft).keys() - set(tokens(unknown))
        if missing:
            first = min(missing)
            raise UserError(
                f"{name}: {first!r} has a share in column 'soft' ({soft!r}) but is not in 'unknown' of "
                "that row; name it there too"
            )


def _spell_shares(field: str) -> str:
    share_of: dict[str, str] = {}
    for token in tokens(field):
        label, _, share = map(str.strip, token.partition("="))
        try:
            is_share = 0 < float(share) < 1
        except ValueError:
            is_share = False
        if not label or not is_share:
            remedy = "it must be Finding=p with p between 0 and 1, both left out, as in 'Mass=0.333'"
            raise UserError(f"column 'soft' holds {token!r}; {remedy}")
        label = _spell_labels(label)
        if label in share_of:
            raise UserError(f"column 'soft' has two shares for {label!r} in one row ({field!r})")
        share_of[label] = share
    return ",".join(map("=".join, share_of.items()))


def _spell_labels(field: str, separator: str = ",") -> str:
    """A field of labels with each as it is spelled here.

    Raises:
        UserError: one that is nearly one of LABELS, or no label at all.
    """
    labels = tokens(field)
    names = [_spell_label(label, separator) for label in labels]
    return ",".join(names) if names != labels else field


# A table of 40 classes has tens of thousands of different fields of the same labels.
@cache
def _spell_label(label: str, separator: str) -> str:
    is_known = label in LABELS or label in SPELLINGS or normal_name(label)
    # Any name may be a class of the user's own, but not a slip in one of ours.
    if not is_known:
        refuse_no_label(label, separator)
        near = _near_label(label)
        if near:
            raise UserError(f"unknown label {label!r}; did you mean {near!r}?")
    return spelled(label)


LOWER_CASE = {label.lower(): label for label in LABELS}


def _near_label(label: str) -> str | None:
    """The label of this project that was probably meant."""
    plain = label.lower().replace(" ", "_")
    if plain in LOWER_CASE:
        return LOWER_CASE[plain]
    # A high bar: 'Massive' is another label, not Mass.
    near = difflib.get_close_matches(label, [*LABELS, *NORMAL], n=1, cutoff=0.88)
    return near[0] if near else None


# Same image?


def image_keys(images: pd.Series) -> pd.Series:
    """The same image under two spellings ('images/x.png', 'images_003/images/x.png', 'x.png') gets one key."""
    keys = list(map(image_key, images.tolist()))
    return pd.Series(keys, index=images.index, dtype=str)


def image_key(image: str) -> str:
    """`image_keys` of one name."""
    # Most names need no change, and regular expressions are slow.
    if "//" in image or "/./" in image:
        image = SLASHES.sub("/", image)
    return SHARD.sub("", image, count=1) if image.startswith(UNUSUAL) else image


def patients_from_names(images: pd.Series) -> pd.Series:
    """'images_001/images/00000013_005.png' -> 'nih:13'; a name that says nothing is a patient of its own."""
    return patients.from_names(images, image_keys(images))


def match_images(wanted: Iterable[str], known: Iterable[str]) -> np.ndarray:
    """Place of each wanted image among the known ones: the one answer to "is this the same image?" of two files.

    Two names mean one image if they have one key (image_keys), or if one path is the end of the other, folder by
    folder: `x.png` and `nih/images/x.png`, but never `a/x.png` and `b/x.png`. A name that may mean several images, or
    one that shares its image with another name, is AMBIGUOUS: a guess would be a wrong picture or a wrong score.

    Args:
        wanted: (n,) names, which may come again (a list of boxes).
        known: (m,) names; one that stands there twice is AMBIGUOUS.

    Returns:
        (n,) places in `known`; ABSENT where it is not there, AMBIGUOUS where nobody can tell.
    """
    keys = list(map(image_key, wanted))
    known_keys = list(map(image_key, known))
    # A table and what was predicted of it, row by row: no need to look for each.
    if keys == known_keys and len(set(keys)) == len(keys):
        return np.arange(len(keys))
    place: dict[str, int] = {}
    for n, key in enumerate(known_keys):
        place[key] = AMBIGUOUS if key in place else n
    matches: dict[str, int] = {}
    others: list[str] = []
    for key in dict.fromkeys(keys):
        if key in place:
            matches[key] = place[key]
        else:
            others.append(key)
    # Whole names first: one that fits exactly has its image for itself.
    if others:
        taken = set(matches.values())
        matches |= _match_by_path_end(others, place, taken)
    return np.array([matches[key] for key in keys], dtype=np.int64)


def _match_by_path_end(keys: list[str], place: dict[str, int], taken: set[int]) -> dict[str, int]:
    """The keys that no known image has, by the ends of the paths; `taken`: places that a wanted name has exactly."""
    # Of one end are only paths of one file name: no need to compare each with each.
    by_name: dict[str, list[str]] = defaultdict(list)
    for key in place:
        by_name[_file_name(key)].append(key)
    matches: dict[str, int] = {}
    for key in keys:
        others = by_name.get(_file_name(key), [])
        fitting = [place[other] for other in others if _is_path_end(key, other)]
        if len(fitting) == 1:
            matches[key] = fitting[0]
        else:
            matches[key] = AMBIGUOUS if fitting else ABSENT
    claims = Counter(matches.values())
    for key, n in matches.items():
        is_shared = claims[n] > 1 or n in taken
        if is_shared and n != ABSENT:
            matches[key] = AMBIGUOUS
    return matches


def _file_name(key: str) -> str:
    return key.rpartition("/")[2]


def _is_path_end(key: str, other: str) -> bool:
    """Is one path the end of the other, folder by folder?"""
    return other.endswith(f"/{key}") or key.endswith(f"/{other}")


def unmatched(wanted: Sequence[str], place: np.ndarray) -> str:
    """For messages: the first image of `wanted` that is not there, or that may be any of several."""
    n = int((place < 0).argmax())
    several = ", which may be any of several there" if place[n] == AMBIGUOUS else ""
    return f"the first is {wanted[n]}{several}"
