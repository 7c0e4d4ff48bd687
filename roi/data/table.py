"""The table that every stage reads: one row an image, checked once; who is in which split; who leaks into which.

Letters: N rows, K classes. Unknown is NaN from here to the loss; 0 means looked for and absent.
"""

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from roi.data import patients
from roi.data.splits import read_splits, split_word
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
SLASHES = re.compile(r"/+(?:\./+)*")
SPLIT_COLUMNS = ("subset", "partition", "phase", "datasplit", "splits", "set", "usage")  # other names, letters alone
QUOTED = (",", '"', "\n", "\r")
UNUSUAL = ("images", ".", "/")  # how a path may begin that is spelled otherwise elsewhere
SHARD = re.compile(r"^(?:\./)?(?:images(?:_\d+/images|-\d+/images-\d+)?/)?")
PICTURE = re.compile(r"\.(?:png|jpe?g|tiff?|bmp|dcm|dicom)$", re.IGNORECASE)
IN_DOUBT = 2.0  # stands for a target that is still to be drawn
ABSENT, AMBIGUOUS = (
    -1,
    -2,
)  # places that match_images gives to images that are not there, and to names that may mean several


def tokens(field: str) -> list[str]:
    """'Mass, Nodule' -> ['Mass', 'Nodule']; never by substring."""
    return [t for t in (part.strip() for part in field.split(",")) if t]


def shares(field: str) -> dict[str, float]:
    """'Mass=0.333,Nodule=0.667' -> {'Mass': 0.333, 'Nodule': 0.667}: the share of the readers who say that a finding is present."""
    parts = [token.partition("=") for token in tokens(field)]
    return {finding.strip(): float(share) for finding, _, share in parts}


def read_table(path: str | Path, compare_names: bool = True) -> pd.DataFrame:
    """Read and check a table: text columns of COLUMNS, missing ones empty, `patient_id` always filled.

    Prints which columns of another name are read, and how many images are taken as patients.

    `compare_names`: a patient_id that is not the patient in the name of its image is an error.

    Raises:
        UserError: no such file, a column missing or twice, a row of another length than the header, and what
            check_table refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such table; make it with make_chexmultimodal_csv.py")
    table = known_columns(read_text_table(path), str(path))
    for column in ("image", "labels"):
        if column not in table:
            raise UserError(
                f"{path}: no column {column!r} (found {list(table)}); make the table with make_chexmultimodal_csv.py"
            )
    lines = table.index.tolist()
    table = table.reset_index(drop=True)
    table = table.reindex(columns=[*COLUMNS, *(c for c in table if c not in COLUMNS)], fill_value="")
    table["image"] = table["image"].str.strip()
    table = check_table(table, str(path), lines, compare_names=compare_names)
    for said in patients.remarks(table):
        print(f"{path}: {said}")
    return table


def known_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns that are ours under another spelling get our name, which is said.

    'Patient ID', 'subject_id' -> patient_id; 'Split' -> split

    Raises:
        UserError: two columns may be the same one of ours.
    """
    found: dict[str, list[str]] = {}
    for column in table.columns.difference(COLUMNS, sort=False):
        ours = _our_name(column, table[column])
        if ours:
            found.setdefault(ours, []).append(column)
    for ours, theirs in found.items():
        if ours in table and (table[ours].str.strip() != "").any():
            again = [column for column in theirs if _letters(column) == _letters(ours)]
            if again:
                both = f"columns {ours!r} and {again[0]!r}"
                raise UserError(f"{name}: {both} have one name in two spellings; keep one of them")
            print(f"{name}: column {theirs[0]!r} is not read, since {ours!r} is there")
            continue
        if len(theirs) > 1:
            several = ", ".join(map(repr, theirs))
            raise UserError(f"{name}: columns {several} may each be {ours!r}; give that name to one of them")
        print(f"{name}: column {theirs[0]!r} is read as {ours!r}")
        table = table.drop(columns=ours, errors="ignore").rename(columns={theirs[0]: ours})
    return table


def _letters(column: str) -> str:
    """'Patient-ID' -> 'patientid'"""
    return re.sub(r"[\W_]+", "", column.casefold())


def _our_name(column: str, values: pd.Series) -> str | None:
    """Which of COLUMNS a column of another name is; None for none of them."""
    plain = _letters(column)
    ours = {_letters(c): c for c in COLUMNS}.get(plain)
    if ours:
        return ours
    if plain in patients.COLUMN_NAMES:
        return "patient_id"
    # A column with a looser name holds splits if all its words are such.
    if plain in SPLIT_COLUMNS and (values != "").any():
        is_split = all(split_word(word) is not None for word in values.unique())
        return "split" if is_split else None
    return None


def csv_text(table: pd.DataFrame) -> str:
    """The table as CSV, byte for byte as pandas writes columns of text, in a fraction of its time."""
    columns = []
    for name in table:
        values = table[name].tolist()
        if any(c in "\0".join(values) for c in QUOTED):
            quoted = {v: '"' + v.replace('"', '""') + '"' if any(c in v for c in QUOTED) else v for v in set(values)}
            values = [quoted[v] for v in values]
        columns.append(values)
    return "\n".join([",".join(map(str, table)), *map(",".join, zip(*columns, strict=True)), ""])


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
    rows = range(2, len(table) + 2) if rows is None else rows
    if (table["image"] == "").any():
        raise UserError(f"{name}: row {rows[int((table['image'] == '').argmax())]} names no image")
    keys = image_keys(table["image"])
    twice = table["image"][keys.duplicated()]
    if len(twice):
        raise UserError(
            f"{name}: {len(twice)} images are listed twice, the first is {twice.iloc[0]!r}; one row an image"
        )
    for column in ("labels", "unknown", "uncertain"):
        table[column] = _each_kind(table[column], lambda field: _spelled(field, separator), name, rows)
    for present, unknown in (
        table.loc[table["unknown"] != "", ["labels", "unknown"]].drop_duplicates().itertuples(index=False)
    ):
        both = set(tokens(present)) & set(tokens(unknown))
        if both:
            raise UserError(f"{name}: {sorted(both)[0]!r} is both present and unknown in one row (labels {present!r})")
    if "soft" in table:
        _check_shares(table, name, rows)
    datasets = table["dataset"] if "dataset" in table else pd.Series("", index=table.index)
    try:
        if "split" in table:
            table["split"] = read_splits(table["split"], rows)
        given = table["patient_id"]
        table["patient_id"] = patients.resolve(table["image"], keys, given, datasets, rows, compare_names)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return table


def _each_kind(column: pd.Series, change: Callable[[str], str], name: str, rows: Sequence[int]) -> pd.Series:
    """`change` of each text, asked once a kind; its errors begin with the table and the first row of that kind."""
    changed = {}
    for field in column.unique():
        try:
            changed[field] = change(field)
        except UserError as error:
            raise UserError(f"{name}: row {rows[int((column == field).argmax())]}: {error}") from error
    return column.map(changed)


def _check_shares(table: pd.DataFrame, name: str, rows: Sequence[int]) -> None:
    """Column `soft`: shares between 0 and 1, each of another finding, all of which stand in `unknown` too: who does not read `soft` takes them as that."""
    table["soft"] = _each_kind(table["soft"], _spelled_shares, name, rows)
    for unknown, soft in table.loc[table["soft"] != "", ["unknown", "soft"]].drop_duplicates().itertuples(index=False):
        lacking = shares(soft).keys() - set(tokens(unknown))
        if lacking:
            raise UserError(
                f"{name}: {sorted(lacking)[0]!r} has a share in column 'soft' ({soft!r}) but is not in 'unknown' of that row; name it there too"
            )


def _spelled_shares(field: str) -> str:
    found: dict[str, str] = {}
    for token in tokens(field):
        label, _, share = (part.strip() for part in token.partition("="))
        try:
            fine = bool(label) and 0 < float(share) < 1
        except ValueError:
            fine = False
        if not fine:
            remedy = "it must be Finding=p with p between 0 and 1, both left out, as in 'Mass=0.333'"
            raise UserError(f"column 'soft' holds {token!r}; {remedy}")
        label = _spelled(label)
        if label in found:
            raise UserError(f"column 'soft' has two shares for {label!r} in one row ({field!r})")
        found[label] = share
    return ",".join(f"{label}={share}" for label, share in found.items())


def _spelled(field: str, separator: str = ",") -> str:
    """A field of labels with each as it is spelled here; UserError for one that is nearly one of ours, or no label at all."""
    near = {label.lower(): label for label in LABELS}
    ours = {*LABELS, *SPELLINGS}
    names = []
    for label in tokens(field):
        if label not in ours and normal_name(label) is None:
            refuse_no_label(label, separator)
            meant = near.get(label.lower().replace(" ", "_"))
            meant = meant or next(iter(difflib.get_close_matches(label, [*LABELS, *NORMAL], 1, 0.88)), None)
            if meant:
                raise UserError(f"unknown label {label!r}; did you mean {meant!r}?")
        names.append(spelled(label))
    return ",".join(names) if names != tokens(field) else field


def patients_from_names(images: pd.Series) -> pd.Series:
    """'images_001/images/00000013_005.png' -> 'nih:13'; a name that says nothing is a patient of its own."""
    return patients.from_names(images, image_keys(images))


def image_keys(images: pd.Series) -> pd.Series:
    """The same image under two spellings ('images/x.png', 'images_003/images/x.png', 'x.png') gets one key."""
    keys = [
        SHARD.sub("", SLASHES.sub("/", image))
        if image.startswith(UNUSUAL) or "//" in image or "/./" in image
        else image
        for image in images.tolist()
    ]
    return pd.Series(keys, index=images.index, dtype=str)


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
    keys = image_keys(pd.Series(list(wanted), dtype=str)).tolist()
    place: dict[str, int] = {}
    for n, key in enumerate(image_keys(pd.Series(list(known), dtype=str)).tolist()):
        place[key] = AMBIGUOUS if key in place else n
    others = [key for key in dict.fromkeys(keys) if key not in place]
    found = {key: place[key] for key in keys if key in place}
    if others:
        found |= _match_by_path_end(others, place, taken=set(found.values()))
    return np.array([found[key] for key in keys], dtype=np.int64)


def _match_by_path_end(keys: list[str], place: dict[str, int], taken: set[int]) -> dict[str, int]:
    """The keys that no known image has, by the ends of the paths; `taken`: places that a wanted name has exactly."""
    by_name: dict[str, list[str]] = {}
    for key in place:
        by_name.setdefault(key.rpartition("/")[2], []).append(key)
    found: dict[str, int] = {}
    claims: dict[int, int] = {}  # place -> how many of the keys mean it
    for key in keys:
        candidates = by_name.get(key.rpartition("/")[2], [])
        fitting = [place[other] for other in candidates if other.endswith(f"/{key}") or key.endswith(f"/{other}")]
        found[key] = fitting[0] if len(fitting) == 1 else AMBIGUOUS if fitting else ABSENT
        claims[found[key]] = claims.get(found[key], 0) + 1
    for key, n in found.items():
        if n >= 0 and (claims[n] > 1 or n in taken):
            found[key] = AMBIGUOUS
    return found


def unmatched(wanted: Sequence[str], place: np.ndarray) -> str:
    """For messages: the first image of `wanted` that is not there, or that may be any of several."""
    n = int((place < 0).argmax())
    return f"the first is {wanted[n]}" + (", which may be any of several there" if place[n] == AMBIGUOUS else "")


def listed(path: str | Path) -> list[str]:
    """The names of an official list, one file name a line."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such list of images")
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    for number, line in enumerate(lines, 1):
        # A name may hold a comma; a line that does not end as a file name does is a row of a table.
        if "," in line and not PICTURE.search(line):
            raise UserError(f"{path}: line {number} is {line!r}; a list has one file name a line and nothing else")
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"{path}: the list is empty")
    return names


def official_list(folder: Path, split: str) -> Path | None:
    """The published list of NIH's `split` (train_val, test) in a folder, under either name; None if it is not there."""
    names = (f"{split}_list.txt", f"{split}_list_NIH.txt")  # the second in Kaggle's resized copies
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_list(path: str | Path) -> pd.DataFrame:
    """An official list -> (image, patient_id)."""
    names = pd.Series(listed(path), dtype=str)
    return pd.DataFrame({"image": names, "patient_id": patients_from_names(names)})


def class_list(table: pd.DataFrame, requested: str = "") -> list[str]:
    """The classes of a table (`requested` empty) or those asked for ('Mass,Nodule'): LABELS in their order, then others sorted."""
    found = {
        t for column in ("labels", "unknown", "uncertain") for field in table[column].unique() for t in tokens(field)
    }
    wanted = {spelled(label) for label in tokens(requested)} or found
    unknown = sorted(wanted - found - set(NORMAL))
    if unknown:
        raise UserError(f"--classes: no row of the table has {unknown[0]!r} (found {sorted(found)})")
    if not wanted:
        raise UserError("the table has no label at all; name the classes with --classes")
    return [c for c in LABELS if c in wanted] + sorted(wanted - set(LABELS))


def target_matrix(
    table: pd.DataFrame, classes: Sequence[str], uncertain: str = "ignore", seed: int | None = None
) -> np.ndarray:
    """(N, K) float32: 1 present, 0 absent, NaN unknown. `Normal` is derived, whatever its field says: NaN where nothing is present and anything in doubt.

    `uncertain`: what the cells of that column become. ignore: NaN. ones: 1. zeros: 0. soft: a draw from U(.55, .85), the label smoothing of CheXpert's -1
    (Pham et al. 2021), which depends on seed, image and finding alone. With a `seed` the targets are those that training learns: the shares of column `soft`
    are among them. Without one (validation, scores) these cells are unknown.
    """
    fields = table[["labels", "unknown", "uncertain"]].drop_duplicates()
    rows = np.zeros((len(fields), len(classes)), dtype=np.float32)
    place = {c: j for j, c in enumerate(classes)}
    becomes = {"ignore": np.nan, "ones": 1.0, "zeros": 0.0, "soft": IN_DOUBT}[uncertain]
    for row, found in zip(rows, fields.itertuples(index=False), strict=True):
        present, unknown, doubtful = (set(tokens(field)) - set(NORMAL) for field in found)
        row[[place[c] for c in present & place.keys()]] = 1
        row[[place[c] for c in doubtful & place.keys()]] = becomes
        row[[place[c] for c in unknown & place.keys()]] = np.nan
        row[[place[c] for c in NORMAL if c in place]] = 0 if present else (np.nan if unknown or doubtful else 1)
    code = pd.MultiIndex.from_frame(fields).get_indexer(
        pd.MultiIndex.from_frame(table[["labels", "unknown", "uncertain"]])
    )
    target = rows[code]
    if uncertain == "soft":
        assert seed is not None, "a draw needs a seed"
        _draw_doubtful(target, table["image"], classes, seed)
    if seed is not None and "soft" in table:
        _fill_shares(target, table["soft"].to_numpy(), place)
    return target


def _draw_doubtful(target: np.ndarray, images: pd.Series, classes: Sequence[str], seed: int) -> None:
    """IN_DOUBT becomes a draw from U(.55, .85), the hash of seed, finding and image: other rows, classes, orders and processes change nothing."""
    rows = np.flatnonzero((target == IN_DOUBT).any(axis=1))
    keys = image_keys(images.iloc[rows]).to_numpy()
    for j, c in enumerate(classes):
        drawn = np.flatnonzero(target[rows, j] == IN_DOUBT)
        hashes = b"".join(
            hashlib.blake2b(f"{seed}\n{c}\n{key}".encode(), digest_size=8).digest() for key in keys[drawn]
        )
        target[rows[drawn], j] = 0.55 + 0.3 * (np.frombuffer(hashes, dtype="<u8") / 2**64)


def _fill_shares(target: np.ndarray, soft: np.ndarray, place: dict[str, int]) -> None:
    """The shares of column `soft` (N,) in the place of their NaN."""
    given = np.flatnonzero(soft != "")
    code, fields = pd.factorize(soft[given])
    values = np.full((len(fields), target.shape[1]), np.nan, dtype=np.float32)
    for row, field in zip(values, fields, strict=True):
        for c, share in shares(field).items():
            if c in place and c not in NORMAL:
                row[place[c]] = share
    target[given] = np.where(np.isnan(values[code]), target[given], values[code])


def some_patients(table: pd.DataFrame, limit: float, seed: int) -> np.ndarray:
    """(N,) bool: the images of whole patients, drawn in a seeded order as long as they have no more than `limit` images together; at least one patient."""
    sizes = table["patient_id"].value_counts(sort=False).sort_index()
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = np.cumsum(sizes.to_numpy()[order]) <= limit
    taken[0] = True
    return table["patient_id"].isin(sizes.index[order[taken]]).to_numpy()


def split_by_patient(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """-> (train, validation): whole patients drawn in a seeded order until validation holds `fraction` of the images."""
    patients = table["patient_id"].nunique()
    if patients < 2:
        raise UserError(
            f"--val_fraction {fraction}: {patients} patient(s) cannot be split; give --val_csv or --val_fraction 0"
        )
    chosen = some_patients(table, fraction * len(table), seed)
    return table[~chosen], table[chosen]


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> tuple[int, int]:
    """-> (images, patients) that stand in both."""
    images = set(image_keys(a["image"])) & set(image_keys(b["image"]))
    return len(images), a["patient_id"][_of_patients(a, b)].nunique()


def _of_patients(table: pd.DataFrame, other: pd.DataFrame) -> np.ndarray:
    """(N,) bool: the patient of each row of `table` stands in `other`, by patient_id or by what the names say."""
    names = patients.named_patients(table)
    theirs = set(other["patient_id"]) | set(patients.named_patients(other))
    return (table["patient_id"].isin(theirs) | names.isin(theirs)).to_numpy()


def belongs_to(table: pd.DataFrame, others: Iterable[pd.DataFrame]) -> np.ndarray:
    """(N,) bool: the image, or another image of its patient, stands in one of `others`.

    A list that names an image does not always say its patient. The table may: then the other images of that patient
    belong there too.
    """
    inside = np.zeros(len(table), dtype=bool)
    keys = image_keys(table["image"])
    for other in others:
        inside |= keys.isin(image_keys(other["image"])).to_numpy() | _of_patients(table, other)
    return table["patient_id"].isin(table["patient_id"][inside]).to_numpy()
