"""Several data sets in one table: who is whom across them, who is in which split, and what is left unknown.

Letters: N images, K = 14 findings. The tables are those that readers give (roi/sources/reading.py): a code a finding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.images import locate
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.chexpert import CHEXPERT_FINDINGS, read_chexpert, read_mimic
from roi.sources.cxrlt import read_cxrlt
from roi.sources.label_states import (
    ABSENT,
    NOT_LABELED,
    NOT_MENTIONED,
    PARENT_ONLY,
    PRESENT,
    UNCERTAIN,
    apply_blank_policy,
)
from roi.sources.nih import read_nih
from roi.sources.openi import read_openi
from roi.sources.padchest import read_padchest
from roi.sources.rexgradient import read_rexgradient
from roi.sources.table_counts import count_rows, format_fact
from roi.sources.views import LEFT_OUT, NOT_SAID, chosen_views, unknown_views
from roi.sources.vindr import read_vinbigdata, read_vindr

READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "nih": read_nih,
    "openi": read_openi,
    "rexgradient": read_rexgradient,
    "chexpert": read_chexpert,
    "mimic": read_mimic,
    "padchest": read_padchest,
    "vindr": read_vindr,
    "vinbigdata": read_vinbigdata,
    "cxrlt": read_cxrlt,
}
# Labels are from reports: what is not mentioned has a policy.
WITH_BLANKS = ("chexpert", "mimic", "rexgradient")
# Several readers looked at each image.
WITH_VOTES = ("vindr", "vinbigdata")
# Whose images a set names, where they are not its own.
IMAGES_OF = {"cxrlt": "mimic"}
# Of splits, the strictest last: what is tested on is nowhere else.
RANK = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class ReadOptions:
    """How data sets are read."""

    blank: str = "unknown"  # what a report does not mention: unknown or negative
    votes: str = "majority"  # of VinDr's readers: majority, any or fraction
    check_images: bool = True  # rows without an image are left out and named


def choose_datasets(wanted: Sequence[str], data_root: Path) -> tuple[list[str], list[str]]:
    """The names of --datasets in the order of READERS, and what is to be said about them.

    `all` means those with a folder below `data_root`.
    """
    if not data_root.is_dir():
        remedy = f"it holds a folder for each data set: {', '.join(READERS)}"
        raise UserError(f"{data_root}: no such folder (--data_root); {remedy}")
    if list(wanted) == ["all"]:
        return _datasets_that_are_there(data_root)
    if "all" in wanted:
        raise UserError(f"--datasets {' '.join(wanted)}: all goes alone")
    for name in wanted:
        if name not in READERS:
            raise UserError(f"--datasets {name}: no such data set (known: all, {', '.join(READERS)})")
    # A patient would stand in two sets under two names, and perhaps in two splits.
    if set(WITH_VOTES) <= set(wanted):
        raise UserError("--datasets vindr vinbigdata: they are the same X-rays under other names; choose one of them")
    for name in wanted:
        if not (data_root / name).is_dir():
            remedy = f"see download_datasets.py --info {name}"
            raise UserError(f"--datasets {name}: there is no folder {data_root / name}; {remedy}")
    return [name for name in READERS if name in wanted], []


def _datasets_that_are_there(data_root: Path) -> tuple[list[str], list[str]]:
    names = [name for name in READERS if (data_root / name).is_dir()]
    if not names:
        remedy = "see download_datasets.py --list"
        raise UserError(f"{data_root}: no folder of a data set is there (looked for {', '.join(READERS)}); {remedy}")
    remarks = []
    missing = [name for name in READERS if name not in names]
    if missing:
        remarks.append(f"not there: {', '.join(missing)}")
    if set(WITH_VOTES) <= set(names):
        names.remove("vinbigdata")
        remarks.append("vinbigdata is left out: its X-rays are those of vindr, which has more labels")
    return names, remarks


def read_dataset(name: str, data_root: Path, blank: str = "unknown", votes: str = "majority") -> pd.DataFrame:
    """Read one data set; `image` is still the path below its own folder.

    Raises:
        UserError: also for images of NIH that neither official list names.
    """
    options = {}
    if name in WITH_BLANKS:
        options["blank"] = blank
    if name in WITH_VOTES:
        options["votes"] = votes
    folder = data_root / name
    table = READERS[name](folder, **options)
    # Images without a split are drawn into one: of NIH that would mix published test images into training.
    unlisted = table["image"][table["split"] == ""].tolist()
    if name == "nih" and unlisted:
        raise UserError(
            f"{folder}: {len(unlisted):,} of its {len(table):,} images are in neither train_val_list.txt nor "
            f"test_list.txt, the first is {unlisted[0]}; put both official lists beside the table, or nobody "
            "knows which images are test images"
        )
    return table


def locate_images(
    table: pd.DataFrame,
    name: str,
    data_root: Path,
    check_images: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """Make `image` a path below `data_root`.

    Returns:
        The rows whose image is there, and the images that are not; without `check_images` no file is looked for.
    """
    folder = IMAGES_OF.get(name, name)
    # Alone, without the set that its images are of, they may have been put into its own folder.
    if not (data_root / folder).is_dir():
        folder = name
    if not check_images:
        # NIH's own paths are bare names; download_datasets.py --gather links its shards in one folder.
        prefix = "nih/images/" if name == "nih" else f"{folder}/"
        return table.assign(image=prefix + table["image"]), []
    root, images = data_root / folder, table["image"]
    paths = pd.Series(locate(root, images.tolist()), index=table.index, dtype=object)
    is_there = paths.notna()
    located = folder + paths[is_there].str[len(str(root)) :]
    missing = f"{folder}/" + images[~is_there]
    return table[is_there].assign(image=located), missing.tolist()


def merge_cxrlt(mimic: pd.DataFrame, cxrlt: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Add to MIMIC-CXR what CXR-LT says of the same images.

    CXR-LT fills what MIMIC's labels never looked for or left open between findings. Where MIMIC's report does not
    mention a finding only a 1 counts: a 0 of CXR-LT says no more than that. What MIMIC knows, or calls uncertain,
    stays. An image that either set tests on is a test image.

    Returns:
        The table, with the images of CXR-LT alone at its end, and counts of what happened.
    """
    place = pd.Index(mimic["image"]).get_indexer(pd.Index(cxrlt["image"]))
    is_shared = place >= 0
    # The images of both: their rows in MIMIC's table, and what CXR-LT says of them.
    row, shared = place[is_shared], cxrlt[is_shared]
    merged = mimic.copy()

    cells = mimic[list(LABELS)].to_numpy(copy=True)
    before = cells[row]
    more = shared[list(LABELS)].to_numpy()
    filled = _filled_by_cxrlt(before, more)
    cells[row] = np.where(filled, more, before)
    merged[list(LABELS)] = cells

    # An image that either set tests on must not be trained on.
    split = mimic["split"].to_numpy(dtype=object, copy=True)
    other_split = shared["split"].to_numpy(dtype=object)
    rank_there = _ranks(mimic["split"].iloc[row])
    stricter = _ranks(shared["split"]) > rank_there
    split[row[stricter]] = other_split[stricter]
    merged["split"] = split

    source = mimic["label_source"].to_numpy(dtype=object, copy=True)
    source[row] += "+" + shared["label_source"].to_numpy(dtype=object)
    merged["label_source"] = source

    disagree = _is_known(before) & _is_known(more) & (before != more)
    counts = {
        "images": len(row),
        "cells_filled": int(filled.sum()),
        "moved_to_a_stricter_split": int(stricter.sum()),
        "cells_that_disagree": int(disagree.sum()),
    }
    return pd.concat([merged, cxrlt[~is_shared]], ignore_index=True), counts


def _filled_by_cxrlt(mimic: np.ndarray, cxrlt: np.ndarray) -> np.ndarray:
    """(N, K) bool of two matrices of codes: where CXR-LT's stands instead of MIMIC's."""
    # MIMIC's labels look for seven findings: where its report does not mention one, a 1 alone says more, whatever
    # neighbour is beside it.
    looked_for = np.isin(LABELS, list(CHEXPERT_FINDINGS.values()))
    unmentioned = (mimic == NOT_MENTIONED) | (mimic == PARENT_ONLY) & looked_for
    left_open = np.isin(mimic, (NOT_LABELED, PARENT_ONLY)) & ~unmentioned
    filled_by_any = _is_known(cxrlt) & left_open
    filled_by_one = (cxrlt == PRESENT) & unmentioned
    return filled_by_any | filled_by_one


def _is_known(cells: np.ndarray) -> np.ndarray:
    return np.isin(cells, (ABSENT, PRESENT))


def _ranks(splits: pd.Series) -> np.ndarray:
    """(N,) places in RANK; -1 for any other split."""
    ranks = splits.map(RANK).fillna(-1)
    return ranks.to_numpy().astype(int)


def merge_datasets(
    wanted: Sequence[str], data_root: Path, options: ReadOptions, say: Callable[[str], object]
) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """Read the chosen data sets and put them under each other.

    Args:
        wanted: names, or `all`.
        data_root: holds a folder for each.
        options: how they are read.
        say: is told what is read.

    Returns:
        The table, facts worth knowing by their names, and the images that are not there.
    """
    names, remarks = choose_datasets(wanted, data_root)
    for remark in remarks:
        say(remark)
    tables: dict[str, pd.DataFrame] = {}
    facts: dict[str, Any] = {}
    missing: list[str] = []
    for name in names:
        # CXR-LT may know what MIMIC's report does not mention: the policy comes after it.
        blank = "unknown" if name == "mimic" and "cxrlt" in names else options.blank
        table = read_dataset(name, data_root, blank, options.votes)
        others = table.attrs["others"]
        if others:
            facts[f"{name}, labels that are none of the 14"] = others
        strange = unknown_views(table["view"])
        if strange:
            facts[f"{name}, views of no known name, kept under it"] = strange
        table, nowhere = locate_images(table, name, data_root, options.check_images)
        # The images of CXR-LT are MIMIC's, which were already looked for.
        if name == "cxrlt":
            nowhere = sorted(set(nowhere) - set(missing))
        missing += nowhere
        tables[name] = table
        patients = table["patient_id"].nunique()
        say(f"{name}: {len(table):,} images of {patients:,} patients")
    if {"mimic", "cxrlt"} <= tables.keys():
        mimic, facts["cxrlt in mimic"] = merge_cxrlt(tables["mimic"], tables.pop("cxrlt"))
        cells = mimic[list(LABELS)].to_numpy()
        mimic[list(LABELS)] = apply_blank_policy(cells, options.blank)
        tables["mimic"] = mimic
    return pd.concat(tables.values(), ignore_index=True), facts, missing


def patient_uniform(patients: pd.Series, seed: int) -> np.ndarray:
    """(N,) numbers in [0, 1), one a patient.

    They depend on the name of the patient and the seed alone: other rows, sets or orders change nothing.
    """
    patient, names = pd.factorize(patients)
    key = f"{seed:016d}"  # of 16 bytes, as the hash wants it
    hashes = pd.util.hash_array(np.asarray(names, dtype=object), hash_key=key, categorize=False)
    uniform = hashes / 2.0**64
    return uniform[patient]


def assign_splits(table: pd.DataFrame, val: float, test: float, seed: int) -> tuple[pd.Series, dict[str, int]]:
    """Give each image its split: official ones stay, patients without one are drawn.

    NIH's train_val, and train of a set without a val of its own, give `val` of their patients to val. A patient whose
    images stand in several splits is in the strictest of them: test, then val.

    Args:
        table: what merge_datasets gives.
        val: share of the patients.
        test: share of the patients.
        seed: of the draws.

    Returns:
        (N,) train, val or test, and counts of the images that were moved.
    """
    split, dataset = table["split"], table["dataset"]
    uniform = patient_uniform(table["patient_id"], seed)
    rank = np.full(len(table), RANK["train"])
    rank[uniform < test + val] = RANK["val"]
    rank[uniform < test] = RANK["test"]

    official = _ranks(split)
    rank = np.where(official >= 0, official, rank)
    datasets_with_val = set(dataset[official == RANK["val"]])
    without_val = (split == "train") & ~dataset.isin(datasets_with_val)
    gives_val = (split == "train_val") | without_val
    rank[gives_val] = RANK["train"]
    rank[gives_val & (uniform < val)] = RANK["val"]

    # Whole patients: what one image of a patient shows tells a model of the others.
    patient, names = pd.factorize(table["patient_id"])
    strictest = np.zeros(len(names), dtype=int)
    np.maximum.at(strictest, patient, rank)
    final = strictest[patient]
    moved = count_rows(dataset[final > rank])
    counts = {f"{name}: moved to a stricter split": images for name, images in moved.items()}
    words = np.array(list(RANK), dtype=object)
    return pd.Series(words[final], index=table.index), counts


def choose_rows(
    table: pd.DataFrame,
    views: Sequence[str] | None,
    splits: Sequence[str] | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of these views and splits of which anything is known, and counts of the others by data set.

    Views of LEFT_OUT go too, unless they are asked for.

    Raises:
        UserError: no row is left, or `views` names what is no view.
    """
    dataset, view = table["dataset"], table["view"]
    names = chosen_views(list(views or ()), set(view))
    counts: dict[str, Any] = {}
    kept = ~nothing_known(table)
    if not kept.all():
        counts["nothing is known, left out"] = count_rows(dataset[~kept])
    set_and_view = dataset + " " + view.replace("", NOT_SAID)
    unfit = kept & view.isin(LEFT_OUT.keys() - set(names)).to_numpy()
    if unfit.any():
        counts["no view of the chest, left out"] = count_rows(set_and_view[unfit])
        kept = kept & ~unfit
    if not kept.any():
        reasons = [format_fact(name, fact) for name, fact in counts.items()]
        raise UserError(f"no image is left: {'; '.join(reasons)}")
    if names:
        is_chosen = rows_named("--views", views or (), names, view, kept)
        counts["other views, left out"] = count_rows(set_and_view[kept & ~is_chosen])
        kept = kept & is_chosen
    if splits:
        is_chosen = rows_named("--splits", splits, splits, table["split"], kept)
        set_and_split = dataset + " " + table["split"]
        counts["other splits, left out"] = count_rows(set_and_split[kept & ~is_chosen])
        kept = kept & is_chosen
    return table[kept].reset_index(drop=True), counts


def rows_named(
    flag: str,
    words: Sequence[str],
    names: Sequence[str],
    column: pd.Series,
    kept: np.ndarray,
) -> np.ndarray:
    """(N,) bool: which rows have one of these names; UserError if none of the rows in `kept` has one.

    `words` are what the user gave to the flag, for the message.
    """
    is_chosen = column.isin(names).to_numpy()
    if not (kept & is_chosen).any():
        present = sorted(name or NOT_SAID for name in column[kept].unique())
        raise UserError(f"{flag} {' '.join(words)}: no image is left (there is {', '.join(present)})")
    return is_chosen


def nothing_known(table: pd.DataFrame) -> np.ndarray:
    """(N,) bool: no finding is present, absent, uncertain or shared among readers."""
    unknown = table[list(LABELS)].to_numpy() > UNCERTAIN
    has_no_share = table["soft"] == ""
    return unknown.all(axis=1) & has_no_share.to_numpy()
