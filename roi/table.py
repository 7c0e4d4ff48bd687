"""The table that every stage reads: one row an image, checked once; who is in which split; who leaks into which.

Letters: N rows, K classes. Unknown is NaN from here to the loss; 0 means looked for and absent.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from roi.labels import LABELS, NORMAL, SPELLINGS

COLUMNS = ("image", "labels", "unknown", "uncertain", "soft", "patient_id", "study_id", "view", "age", "sex", "dataset", "split", "label_source")
SLASHES = re.compile(r"/+(?:\./+)*")
NIH_NAME = re.compile(r"(?:^|/)(\d{8})_\d{3}\.\w+$")
QUOTED = (",", '"', "\n", "\r")
UNUSUAL = ("images", ".", "/")  # how a path may begin that is spelled otherwise elsewhere
SHARD = re.compile(r"^(?:\./)?(?:images(?:_\d+/images|-\d+/images-\d+)?/)?")
IN_DOUBT = 2.0  # stands for a target that is still to be drawn


def tokens(field: str) -> list[str]:
    """'Mass, Nodule' -> ['Mass', 'Nodule']; never by substring."""
    return [t for t in (part.strip() for part in field.split(",")) if t]


def shares(field: str) -> dict[str, float]:
    """'Mass=0.333,Nodule=0.667' -> {'Mass': 0.333, 'Nodule': 0.667}: the share of the readers who say that a finding is present."""
    parts = [token.partition("=") for token in tokens(field)]
    return {finding.strip(): float(share) for finding, _, share in parts}


def read_table(path: str | Path) -> pd.DataFrame:
    """Read and check a table: text columns of COLUMNS, missing ones empty, `patient_id` always filled.

    Raises ValueError: no such file, a column missing, no rows, an image listed twice, a finding both present and unknown.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such table; make it with make_chexmultimodal_csv.py")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV table ({str(error).strip()})") from error
    for column in ("image", "labels"):
        if column not in table:
            raise ValueError(f"{path}: no column {column!r} (found {list(table)}); make the table with make_chexmultimodal_csv.py")
    table = table.reindex(columns=[*COLUMNS, *(c for c in table if c not in COLUMNS)], fill_value="")
    table["image"] = table["image"].str.strip()
    return check_table(table, str(path))


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


def check_table(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rules that every table obeys, whoever made it. `name` begins the messages."""
    if table.empty:
        raise ValueError(f"{name}: no rows")
    if (table["image"] == "").any():
        raise ValueError(f"{name}: row {int((table['image'] == '').argmax()) + 2} names no image")
    twice = table["image"][image_keys(table["image"]).duplicated()]
    if len(twice):
        raise ValueError(f"{name}: {len(twice)} images are listed twice, the first is {twice.iloc[0]!r}; one row an image")
    for column in ("labels", "unknown", "uncertain"):
        table[column] = table[column].map({field: _spelled(field, name) for field in table[column].unique()})
    for present, unknown in table.loc[table["unknown"] != "", ["labels", "unknown"]].drop_duplicates().itertuples(index=False):
        both = set(tokens(present)) & set(tokens(unknown))
        if both:
            raise ValueError(f"{name}: {sorted(both)[0]!r} is both present and unknown in one row (labels {present!r})")
    if "soft" in table:
        _check_shares(table, name)
    open_to = ~table["patient_id"].str.contains(":", regex=False)  # missing, or perhaps in NIH's own spelling
    if open_to.any():
        given, from_name = table.loc[open_to, "patient_id"], patients_from_names(table.loc[open_to, "image"])
        bare = ("nih:" + given.str.strip().str.lstrip("0")) == from_name
        table.loc[open_to, "patient_id"] = given.where(~bare & (given != ""), from_name)
    return table


def _check_shares(table: pd.DataFrame, name: str) -> None:
    """Column `soft`: shares between 0 and 1, each of another finding, all of which stand in `unknown` too: who does not read `soft` takes them as that."""
    table["soft"] = table["soft"].map({field: _spelled_shares(field, name) for field in table["soft"].unique()})
    for unknown, soft in table.loc[table["soft"] != "", ["unknown", "soft"]].drop_duplicates().itertuples(index=False):
        lacking = shares(soft).keys() - set(tokens(unknown))
        if lacking:
            raise ValueError(f"{name}: {sorted(lacking)[0]!r} has a share in column 'soft' ({soft!r}) but is not in 'unknown' of that row; name it there too")


def _spelled_shares(field: str, name: str) -> str:
    spelled: dict[str, str] = {}
    for token in tokens(field):
        label, _, share = (part.strip() for part in token.partition("="))
        try:
            fine = bool(label) and 0 < float(share) < 1
        except ValueError:
            fine = False
        if not fine:
            raise ValueError(f"{name}: column 'soft' holds {token!r}; it must be Finding=p with p between 0 and 1, both left out, as in 'Mass=0.333'")
        label = _spelled(label, name)
        if label in spelled:
            raise ValueError(f"{name}: column 'soft' has two shares for {label!r} in one row ({field!r})")
        spelled[label] = share
    return ",".join(f"{label}={share}" for label, share in spelled.items())


def _spelled(field: str, name: str) -> str:
    """A field of labels with each as it is spelled here; ValueError for one that is nearly one of ours, or no label at all."""
    near = {label.lower(): label for label in LABELS}
    ours = {*LABELS, *NORMAL, *SPELLINGS}
    for label in tokens(field):
        if "|" in label or label.lower() == "nan":
            raise ValueError(f"{name}: {label!r} is no label; labels are separated by commas, and a field without one is empty")
        meant = label in ours or near.get(label.lower().replace(" ", "_")) or next(iter(difflib.get_close_matches(label, LABELS, 1, 0.88)), None)
        if isinstance(meant, str):
            raise ValueError(f"{name}: unknown label {label!r}; did you mean {meant!r}?")
    return ",".join(SPELLINGS.get(label, label) for label in tokens(field)) if SPELLINGS.keys() & set(tokens(field)) else field


def patients_from_names(images: pd.Series) -> pd.Series:
    """'images_001/images/00000013_005.png' -> 'nih:13'; a name that says nothing is a patient of its own."""
    found = [(image, NIH_NAME.search(image)) for image in images.tolist()]
    return pd.Series([f"nih:{int(match[1])}" if match else f"image:{image}" for image, match in found], index=images.index, dtype=str)


def image_keys(images: pd.Series) -> pd.Series:
    """The same image under two spellings ('images/x.png', 'images_003/images/x.png', 'x.png') gets one key."""
    keys = [SHARD.sub("", SLASHES.sub("/", image)) if image.startswith(UNUSUAL) or "//" in image or "/./" in image else image for image in images.tolist()]
    return pd.Series(keys, index=images.index, dtype=str)


def listed(path: str | Path) -> list[str]:
    """The names of an official list, one file name a line."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such list of images")
    names = [name for line in path.read_text(encoding="utf-8-sig").splitlines() if (name := line.strip())]
    if not names:
        raise ValueError(f"{path}: the list is empty")
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
    found = {t for column in ("labels", "unknown", "uncertain") for field in table[column].unique() for t in tokens(field)}
    wanted = set(tokens(requested)) or found
    unknown = sorted(wanted - found - set(NORMAL))
    if unknown:
        raise ValueError(f"--classes: no row of the table has {unknown[0]!r} (found {sorted(found)})")
    if not wanted:
        raise ValueError("the table has no label at all; name the classes with --classes")
    return [c for c in LABELS if c in wanted] + sorted(wanted - set(LABELS))


def is_finding(classes: Sequence[str]) -> np.ndarray:
    """(K,) bool: the classes that means are taken over."""
    return np.array([c not in NORMAL for c in classes])


def target_matrix(table: pd.DataFrame, classes: Sequence[str], uncertain: str = "ignore", seed: int | None = None) -> np.ndarray:
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
    code = pd.MultiIndex.from_frame(fields).get_indexer(pd.MultiIndex.from_frame(table[["labels", "unknown", "uncertain"]]))
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
        hashes = b"".join(hashlib.blake2b(f"{seed}\n{c}\n{key}".encode(), digest_size=8).digest() for key in keys[drawn])
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
        raise ValueError(f"--val_fraction {fraction}: {patients} patient(s) cannot be split; give --val_csv or --val_fraction 0")
    chosen = some_patients(table, fraction * len(table), seed)
    return table[~chosen], table[chosen]


def overlap(a: pd.DataFrame, b: pd.DataFrame) -> tuple[int, int]:
    """-> (images, patients) that stand in both."""
    images = set(image_keys(a["image"])) & set(image_keys(b["image"]))
    return len(images), len(set(a["patient_id"]) & set(b["patient_id"]))


def belongs_to(table: pd.DataFrame, others: Iterable[pd.DataFrame]) -> np.ndarray:
    """(N,) bool: the image, or another image of its patient, stands in one of `others`."""
    inside = np.zeros(len(table), dtype=bool)
    keys = image_keys(table["image"])
    for other in others:
        inside |= (keys.isin(image_keys(other["image"])) | table["patient_id"].isin(other["patient_id"])).to_numpy()
    return inside
