"""Several data sets in one table: who is whom across them, who is in which split, and what is left unknown.

Letters: N images, K = 14 findings. The tables are those of the readers (READERS): the columns of roi/data/table.py and a cell for each finding.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roi.data.images import locate
from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.chexpert import CHEXPERT, read_chexpert, read_mimic
from roi.sources.cxrlt import read_cxrlt
from roi.sources.label_states import (
    ABSENT,
    NOT_LABELED,
    NOT_MENTIONED,
    PARENT_ONLY,
    PRESENT,
    REASONS,
    UNCERTAIN,
    fields,
    negated,
)
from roi.sources.nih import read_nih
from roi.sources.openi import read_openi
from roi.sources.padchest import read_padchest
from roi.sources.rexgradient import read_rexgradient
from roi.sources.views import LEFT_OUT, chosen_views, shown, unknown_views
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
BLANKS = ("chexpert", "mimic", "rexgradient")  # sets whose labels come from reports: what is not mentioned has a policy
VOTED = ("vindr", "vinbigdata")
FOLDER = {"cxrlt": "mimic"}  # whose images a set names, where they are not its own
RANK = {"train": 0, "val": 1, "test": 2}
SHOWN = 6  # counts of a fact that are printed; all stand in the summary
NIH_NAME = re.compile(r"\b\d{8}_\d{3}\.(?:png|jpg|jpeg|dcm)\b")


def chosen_sets(wanted: Sequence[str], data_root: Path) -> tuple[list[str], list[str]]:
    """--datasets -> (names, what is to be said about it). `all`: those with a folder below data_root."""
    if not data_root.is_dir():
        raise UserError(
            f"{data_root}: no such folder (--data_root); it holds a folder for each data set: {', '.join(READERS)}"
        )
    if list(wanted) == ["all"]:
        names = [name for name in READERS if (data_root / name).is_dir()]
        if not names:
            raise UserError(
                f"{data_root}: no folder of a data set is there (looked for {', '.join(READERS)}); see download_datasets.py --list"
            )
        said = (
            [f"not there: {', '.join(lacking)}"] if (lacking := [name for name in READERS if name not in names]) else []
        )
        if set(VOTED) <= set(names):
            names.remove("vinbigdata")
            said.append("vinbigdata is left out: its X-rays are those of vindr, which has more labels")
        return names, said
    other = [name for name in wanted if name not in READERS]
    if "all" in other:
        raise UserError(f"--datasets {' '.join(wanted)}: all goes alone")
    if other:
        raise UserError(f"--datasets {other[0]}: no such data set (known: all, {', '.join(READERS)})")
    if set(VOTED) <= set(wanted):
        raise UserError("--datasets vindr vinbigdata: they are the same X-rays under other names; choose one of them")
    lacking = [name for name in wanted if not (data_root / name).is_dir()]
    if lacking:
        raise UserError(
            f"--datasets {lacking[0]}: there is no folder {data_root / lacking[0]}; see download_datasets.py --info {lacking[0]}"
        )
    return [name for name in READERS if name in wanted], []


def read_set(name: str, data_root: Path, blank: str = "unknown", votes: str = "majority") -> pd.DataFrame:
    """One data set; `image` is still the path below its own folder. UserError: images of NIH that neither official list names."""
    options = {"blank": blank} if name in BLANKS else {"votes": votes} if name in VOTED else {}
    table = READERS[name](data_root / name, **options)
    nowhere = table["image"][table["split"] == ""]
    if name == "nih" and len(nowhere):
        raise UserError(
            f"{data_root / name}: {len(nowhere):,} of its {len(table):,} images are in neither train_val_list.txt nor test_list.txt, the first is "
            f"{nowhere.iloc[0]}; put both official lists beside the table, or nobody knows which images are test images"
        )
    return table


def placed(table: pd.DataFrame, name: str, data_root: Path, check: bool) -> tuple[pd.DataFrame, list[str]]:
    """`image` as a path below data_root -> (table, images that are not there). Without `check` no file is looked for."""
    owner = FOLDER.get(name, name)
    folder = owner if (data_root / owner).is_dir() else name
    if not check:
        between = "images/" if name == "nih" else ""  # where download_datasets.py --gather links them
        return table.assign(image=f"{folder}/{between}" + table["image"]), []
    paths = locate(data_root / folder, table["image"].tolist())
    missing = [f"{folder}/{image}" for image, path in zip(table["image"], paths, strict=True) if path is None]
    here = np.array([path is not None for path in paths])
    start = len(str(data_root / folder))
    return table[here].assign(image=[folder + path[start:] for path in paths if path is not None]), missing


def with_cxrlt(mimic: pd.DataFrame, cxrlt: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """MIMIC-CXR with what CXR-LT says of the same images -> (table, counts of what happened).

    CXR-LT fills what MIMIC's labels never looked for or left open between findings. Where MIMIC's report does not mention a finding only a 1 counts: a 0 of
    CXR-LT says no more than that. What MIMIC knows, or calls uncertain, stays. An image that either set tests on is a test image.
    """
    row = pd.Index(mimic["image"]).get_indexer(pd.Index(cxrlt["image"]))
    own, theirs = row[row >= 0], cxrlt[row >= 0]
    before, more = mimic[list(LABELS)].to_numpy(), theirs[list(LABELS)].to_numpy()
    was = before[own]
    known = (more == PRESENT) | (more == ABSENT)
    # MIMIC's labels look for seven findings: where its report does not mention one, a 1 alone says more, whatever
    # neighbour is beside it.
    asked = np.isin(LABELS, list(CHEXPERT.values()))
    unmentioned = (was == NOT_MENTIONED) | (was == PARENT_ONLY) & asked
    filled = known & np.isin(was, (NOT_LABELED, PARENT_ONLY)) & ~unmentioned | (more == PRESENT) & unmentioned
    after = before.copy()
    after[own] = np.where(filled, more, was)
    out = mimic.assign(**fields(after), **{label: after[:, j] for j, label in enumerate(LABELS)})
    stricter = theirs["split"].map(RANK).fillna(-1).to_numpy() > out["split"].iloc[own].map(RANK).fillna(-1).to_numpy()
    out.iloc[own[stricter], out.columns.get_loc("split")] = theirs["split"].to_numpy()[stricter]
    source = out["label_source"].to_numpy(dtype=object, copy=True)
    source[own] = source[own] + "+" + theirs["label_source"].to_numpy(dtype=object)
    counts = {
        "images": len(own),
        "cells_filled": int(filled.sum()),
        "moved_to_a_stricter_split": int(stricter.sum()),
        "cells_that_disagree": int((known & np.isin(was, (ABSENT, PRESENT)) & (more != was)).sum()),
    }
    return pd.concat([out.assign(label_source=source), cxrlt[row < 0]], ignore_index=True), counts


def chance(patients: pd.Series, seed: int) -> np.ndarray:
    """A number in [0, 1) for each patient that depends on its name and the seed alone: other rows, sets or orders change nothing."""
    code, names = pd.factorize(patients)
    drawn = pd.util.hash_array(np.asarray(names, dtype=object), hash_key=f"{seed:016d}", categorize=False)
    return (drawn / 2.0**64)[code]


def assign_splits(table: pd.DataFrame, val: float, test: float, seed: int) -> tuple[pd.Series, dict[str, int]]:
    """-> (train, val or test for each image, how many were moved). Official splits stay; patients without one are drawn.

    NIH's train_val, and train of a set without a val of its own, give `val` of their patients to val. A patient whose images stand in several splits is in
    the strictest of them: test, then val.
    """
    u = chance(table["patient_id"], seed)
    drawn = np.where(u < test, 2, np.where(u < test + val, 1, 0))
    official = table["split"].map(RANK).fillna(-1).to_numpy().astype(int)
    has_val = set(table["dataset"][official == RANK["val"]])
    shared = (table["split"] == "train_val") | (table["split"] == "train") & ~table["dataset"].isin(has_val)
    rank = np.where(shared, u < val, np.where(official >= 0, official, drawn))
    code, names = pd.factorize(table["patient_id"])
    strictest = np.zeros(len(names), dtype=int)
    np.maximum.at(strictest, code, rank)
    moved = strictest[code] > rank
    counts = {
        f"{name}: moved to a stricter split": int(n) for name, n in table["dataset"][moved].value_counts().items()
    }
    return pd.Series(np.array(list(RANK), dtype=object)[strictest[code]], index=table.index), counts


def gathered(
    wanted: Sequence[str], data_root: Path, blank: str, votes: str, check: bool, say: Callable[[str], object]
) -> tuple[pd.DataFrame, dict[str, Any], list[str]]:
    """The chosen sets under each other -> (table, facts worth knowing by name, images that are not there); `say` tells what is being read."""
    names, said = chosen_sets(wanted, data_root)
    for line in said:
        say(line)
    tables: dict[str, pd.DataFrame] = {}
    facts: dict[str, Any] = {}
    missing: list[str] = []
    for name in names:
        policy = (
            "unknown" if name == "mimic" and "cxrlt" in names else blank
        )  # CXR-LT may know what MIMIC's report does not mention
        read = read_set(name, data_root, policy, votes)
        facts |= {f"{name}, labels that are none of the 14": read.attrs["others"]} if read.attrs["others"] else {}
        strange = unknown_views(read["view"])
        facts |= {f"{name}, views of no known name, kept under it": strange} if strange else {}
        read["labels"] = fields(read[list(LABELS)].to_numpy())["labels"]
        tables[name], lacking = placed(read, name, data_root, check)
        missing += sorted(set(lacking) - set(missing)) if name == "cxrlt" else lacking
        table = tables[name]
        say(f"{name}: {len(table):,} images of {table['patient_id'].nunique():,} patients")
    if {"mimic", "cxrlt"} <= tables.keys():
        tables["mimic"], facts["cxrlt in mimic"] = with_cxrlt(tables["mimic"], tables.pop("cxrlt"))
        cells = negated(tables["mimic"][list(LABELS)].to_numpy(), blank)
        tables["mimic"] = tables["mimic"].assign(
            **fields(cells), **{label: cells[:, j] for j, label in enumerate(LABELS)}
        )
    return pd.concat(tables.values(), ignore_index=True), facts, missing


def chosen_rows(
    table: pd.DataFrame, views: Sequence[str] | None, splits: Sequence[str] | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of these views and splits of which anything is known -> (table, counts of the others by data set).

    Views of LEFT_OUT go too, unless they are asked for. UserError: no row is left, or --views names what is no view.
    """
    names = chosen_views(list(views or ()), set(table["view"]))
    counts: dict[str, Any] = {}
    kept = ~nothing_known(table)
    if not kept.all():
        counts["nothing is known, left out"] = counted(table["dataset"][~kept])
    set_and_view = table["dataset"] + " " + table["view"].map(shown)
    set_and_split = table["dataset"] + " " + table["split"]

    unfit = table["view"].isin(LEFT_OUT.keys() - set(names)).to_numpy()
    if (kept & unfit).any():
        counts["no view of the chest, left out"] = counted(set_and_view[kept & unfit])
        kept = kept & ~unfit
    if not kept.any():
        raise UserError(f"no image is left: {'; '.join(told(name, fact) for name, fact in counts.items())}")
    for column, chosen, groups in (("view", names, set_and_view), ("split", splits, set_and_split)):
        if not chosen:
            continue
        there = ", ".join(sorted(map(shown, set(table[column][kept]))))
        wanted = table[column].isin(chosen).to_numpy()
        if not (kept & wanted).any():
            flag = " ".join((views if column == "view" else splits) or ())
            raise UserError(f"--{column}s {flag}: no image is left (there is {there})")
        counts[f"other {column}s, left out"] = counted(groups[kept & ~wanted])
        kept = kept & wanted
    return table[kept].reset_index(drop=True), counts


def counted(groups: pd.Series) -> dict[str, int]:
    """How many rows each group has, most frequent first; {} for no rows."""
    return {str(group): int(rows) for group, rows in groups.value_counts().items()}


def told(name: str, fact: object) -> str:
    """A fact in one line: a number, or the first counts of several; 'none' where there is nothing to count."""
    if not isinstance(fact, dict):
        return f"{name}: {fact:,}" if isinstance(fact, int | float) else f"{name}: {fact}"
    if not fact:
        return f"{name}: none"
    first = [f"{str(key).replace('_', ' ')} {told_count(count)}" for key, count in list(fact.items())[:SHOWN]]
    more = f", and {len(fact) - SHOWN} more" if len(fact) > SHOWN else ""
    return f"{name}: {', '.join(first)}{more}"


def told_count(count: object) -> str:
    return f"{count:,}" if isinstance(count, int | float) else str(count)


def nothing_known(table: pd.DataFrame) -> np.ndarray:
    """(N,) bool: no finding is present, absent, uncertain or shared among readers."""
    return (table[list(LABELS)].to_numpy() > UNCERTAIN).all(axis=1) & (table["soft"] == "").to_numpy()


def audit(table: pd.DataFrame, csv: Path) -> dict[str, int]:
    """How many images of NIH a file of text (CSV, JSON) names, wherever, and how many of them this table trains on. UserError: none.

    RSNA's pneumonia challenge (its mapping names them), Google's expert labels and ChestMNIST (pictures alone) are made of NIH's images: no test for a model
    that was trained on them.
    """
    try:
        named = set(
            NIH_NAME.findall(
                gzip.decompress(csv.read_bytes()).decode(errors="replace")
                if csv.suffix == ".gz"
                else csv.read_text(errors="replace")
            )
        )
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{csv}: cannot be read ({error})") from error
    if not named:
        raise UserError(
            f"{csv}: names no image of NIH (like 00000013_005.png); where only pictures are given, see --check_duplicates"
        )
    ours = table["image"].str.rsplit("/", n=1).str[-1]
    stems = {name.split(".")[0] for name in named}
    shared = ours.str.split(".").str[0].isin(stems) & (table["dataset"] == "nih")
    counts = table.loc[shared, "split"].value_counts()
    return {
        "nih_images_named": len(named),
        "in_this_table": int(shared.sum()),
        **{f"of_{part}": int(counts.get(part, 0)) for part in RANK},
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Images, patients, splits, and for each set and finding how many are positive, negative, uncertain, unknown, and why."""
    out: dict[str, Any] = {"images": len(table), "patients": int(table["patient_id"].nunique()), "datasets": {}}
    for name, rows in table.groupby("dataset", sort=False):
        cells = rows[list(LABELS)].to_numpy()
        counts = np.stack([np.bincount(cells[:, j], minlength=max(REASONS) + 1) for j in range(len(LABELS))])
        findings = {
            label: {
                "positive": int(n[PRESENT]),
                "negative": int(n[ABSENT]),
                "uncertain": int(n[UNCERTAIN]),
                "unknown": int(n[UNCERTAIN + 1 :].sum()),
                "because": {REASONS[code]: int(n[code]) for code in REASONS if n[code]},
            }
            for label, n in zip(LABELS, counts, strict=True)
        }
        splits = {str(k) or "none": int(v) for k, v in rows["split"].value_counts().items()}
        views = counted(rows["view"].map(shown))
        out["datasets"][str(name)] = {
            "images": len(rows),
            "patients": int(rows["patient_id"].nunique()),
            "splits": splits,
            "views": views,
            "findings": findings,
        }
    return out


def printed(found: dict[str, Any]) -> str:
    """The summary as a table: positives / negatives / uncertain or unknown of each finding (rows) in each set (columns)."""
    sets = found["datasets"]
    lines = [
        ["", *sets],
        ["images", *(f"{s['images']:,}" for s in sets.values())],
        ["patients", *(f"{s['patients']:,}" for s in sets.values())],
    ]
    for label in LABELS:
        cells = [s["findings"][label] for s in sets.values()]
        lines.append(
            [label, *(f"{c['positive']:,} / {c['negative']:,} / {c['uncertain'] + c['unknown']:,}" for c in cells)]
        )
    wide = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    rows = [
        "  ".join([line[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(line[1:], wide[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([*rows, "(of each finding: present / absent / uncertain or unknown)"])


def published_format(table: pd.DataFrame, data_root: Path) -> pd.DataFrame:
    """Image Index, Processed Image Path, Harmonized Labels (14 digits in the order of LABELS; what is unknown is 0), Dataset."""
    digits = (table[list(LABELS)].to_numpy() == PRESENT).astype(np.uint8) + ord("0")  # (N, K) ASCII
    bits = np.ascontiguousarray(digits).view(f"S{len(LABELS)}").ravel().astype(str)
    name = table["image"].str.rsplit("/", n=1).str[-1]
    return pd.DataFrame(
        {
            "Image Index": name,
            "Processed Image Path": f"{data_root}/" + table["image"],
            "Harmonized Labels": bits,
            "Dataset": table["dataset"],
        }
    )
