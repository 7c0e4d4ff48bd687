"""One function a data set: its published files -> one row an image, with what it says of each of the 14 findings, and why it says nothing of the others.

Each reader gives the columns of the table (roi/data/table.py) and, beside them, an int8 column a finding with its cell (roi/sources/label_states.py). `image` is the path below
`root`; sets that are published as DICOM are read from the PNGs that convert_dicom.py puts beside the files. A wrong folder, a missing column, a value or a
label that the format does not have is a UserError with its name and count.

Letters: N images, K = 14 findings.
"""

import ast
import difflib
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypeVar
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from roi.data.split_words import read_splits, split_word
from roi.data.splits import listed, official_list
from roi.data.table import COLUMNS, image_keys
from roi.data.text_table import refuse_long_rows
from roi.errors import UserError
from roi.files import contents
from roi.labels import LABELS, normal_name, refuse_no_label, spelled
from roi.sources.label_states import (
    ABSENT,
    EXCLUDED,
    NOT_LABELED,
    NOT_MENTIONED,
    PARENT_ONLY,
    PRESENT,
    READERS_DISAGREE,
    UNCERTAIN,
    fields,
)
from roi.sources.near_names import words_of
from roi.sources.views import view_of

T = TypeVar("T")
PLACE = {label: j for j, label in enumerate(LABELS)}
OLDEST = 120  # years; ages above it are typing errors
SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}


def source(root: str | Path, *names: str) -> Path:
    """The first of `names` that lies under `root`, as it is or as .gz; UserError says what was looked for."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(
        f"{root}: none of {', '.join(names)} is there (nor as .gz); it holds {contents(root)}; is it the folder of "
        "this data set, and is the archive unpacked?"
    )


def read_columns(csv: Path, wanted: Sequence[str], optional: Sequence[str] = (), **how: object) -> pd.DataFrame:
    """Text columns of a CSV, blanks as ''. UserError names a column that is not there; those of `optional` are then empty."""
    try:
        header = list(pd.read_csv(csv, nrows=0, dtype=str, encoding="utf-8-sig").columns)
        lacking = [c for c in wanted if c not in header]
        if lacking:
            raise UserError(f"no column {lacking[0]!r} (found {header})")
        chosen = [c for c in (*wanted, *optional) if c in header]
        text = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False}
        table = pd.read_csv(csv, usecols=chosen, **{**text, **how})  # type: ignore[call-overload]
    except (OSError, EOFError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{csv}: not a table of this data set ({str(error).strip()})") from error
    if table.empty:
        raise UserError(f"{csv}: it has no rows")
    return table.reindex(columns=[*wanted, *optional], fill_value="")


def finished(
    name: str, image: pd.Series, cells: np.ndarray, others: dict[str, int] | None = None, **columns: object
) -> pd.DataFrame:
    """(N,) paths, (N, K) cells and what else is known -> what a reader gives. `others`: labels that are none of the 14, and how often; they stand in
    `.attrs["others"]`. UserError: an image twice."""
    table = pd.DataFrame(
        {c: columns.get(c, "") for c in COLUMNS} | {"image": image.to_numpy(), "dataset": name} | fields(cells)
    )
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise UserError(
            f"{name}: {len(twice):,} images are listed twice, the first is {twice.iloc[0]!r}; one row an image"
        )
    table = pd.concat([table, pd.DataFrame(cells, columns=list(LABELS))], axis=1)
    table.attrs["others"] = others or {}
    return table


def tally(keys: pd.Series, tokens_of: Callable[[str], Iterable[str]], ours: Collection[str]) -> dict[str, int]:
    """How many rows have each token that is none of `ours`, most frequent first. UserError: one that is nearly one of them."""
    found: Counter[str] = Counter()
    for kind, count in keys.value_counts().items():
        found.update({token: int(count) for token in set(tokens_of(str(kind))) - set(ours)})
    for token, count in found.items():
        near = difflib.get_close_matches(token, ours, 1, 0.92)
        if near:
            raise UserError(f"unknown label {token!r} in {count:,} rows; did you mean {near[0]!r}?")
    return dict(found.most_common())


def by_kind(keys: pd.Series, cells_of: Callable[[str], np.ndarray]) -> np.ndarray:
    """(N,) texts of few kinds -> (N, K) cells, `cells_of` (K,) being asked once a kind."""
    code, kinds = pd.factorize(keys)
    return np.stack([cells_of(kind) for kind in kinds])[code]


def years(text: pd.Series) -> pd.Series:
    """Ages in years, '' where there is none or it is over 120. The spelling stays ('058')."""
    return text.where(pd.to_numeric(text, errors="coerce") <= OLDEST, "")


def plain_number(text: pd.Series) -> pd.Series:
    """'00013' -> '13'."""
    return text.str.strip().str.lstrip("0").where(lambda t: t != "", "0")


def mapped(text: pd.Series, meaning: Callable[[str], str]) -> pd.Series:
    """Each text by its meaning, which is asked once a kind."""
    return text.map({kind: meaning(kind) for kind in text.unique()})


def sex_of(text: pd.Series) -> pd.Series:
    return mapped(text, lambda word: SEXES.get(word.strip().lower(), ""))


def split_of(text: pd.Series, name: str | Path) -> pd.Series:
    """train, val or test; UserError for a split of another name."""
    return named(name, lambda: read_splits(text, range(2, len(text) + 2)))


# NIH ChestX-ray14

NIH_COLUMNS = {
    "Patient ID": "patient_id",
    "View Position": "view",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Follow-up #": "study_id",
}


def read_nih(root: str | Path, label_from: str = "Finding Labels") -> pd.DataFrame:
    """NIH ChestX-ray14: the folder, or Data_Entry_2017.csv (comma at the end of its header) or Data_Entry_2017_v2020.csv itself.

    All 14 findings are known in every image. Labels are split on '|', `No Finding` is no label (empty field). `split` is train_val or test where the
    official lists lie beside the file. Any CSV with `Image Index` and a column of labels (`label_from`) is read; labels that are none of the 14 stay in the
    field; columns that it lacks stay empty.
    """
    csv = source(root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv") if Path(root).is_dir() else Path(root)
    if not csv.is_file():
        raise UserError(f"{csv}: no such file")
    refuse_long_rows(csv)
    raw = read_columns(
        csv, ["Image Index", label_from], [c for c in NIH_COLUMNS if c != label_from], skipinitialspace=True
    )
    cut = raw["Image Index"][raw[label_from] == ""]
    if len(cut):
        raise UserError(
            f"{csv}: {len(cut)} rows have no {label_from!r}, the first is {cut.iloc[0]!r}; normal ones say 'No Finding', so is the file cut off?"
        )
    found = named(csv, lambda: {field: nih_findings(field) for field in raw[label_from].unique()})
    cells = by_kind(raw[label_from], lambda field: np.isin(LABELS, found[field]).astype(np.int8))
    others = named(csv, lambda: tally(raw[label_from], lambda field: found[field], LABELS))
    patient = "nih:" + plain_number(raw["Patient ID"])
    patient = patient.where(raw["Patient ID"] != "", "")
    study = (patient + ":" + raw["Follow-up #"]).where(raw["Follow-up #"] != "", "")
    table = finished(
        "nih",
        raw["Image Index"],
        cells,
        others,
        patient_id=patient,
        study_id=study,
        view=view_of(raw["View Position"]),
        age=years(dicom_years(raw["Patient Age"])),
        sex=raw["Patient Gender"],
        label_source=csv.name,
    )
    table["labels"] = raw[label_from].map({field: ",".join(labels) for field, labels in found.items()})
    for split in ("train_val", "test"):
        names = official_list(csv.parent, split)
        if names:
            on_list = image_keys(pd.Series(listed(names), dtype=str))
            table.loc[image_keys(table["image"]).isin(on_list), "split"] = split
    return table


def nih_findings(field: str) -> list[str]:
    """'Mass|Infiltrate' -> ['Mass', 'Infiltration']; a word for nothing found is none. UserError: no label at all."""
    parts = [part.strip() for part in field.split("|")]
    findings = [part for part in parts if part and normal_name(part) is None]
    for part in findings:
        refuse_no_label(part, "|")
    return [spelled(part) for part in findings]


# OpenI (Indiana University)


def read_openi(root: str | Path) -> pd.DataFrame:
    """OpenI: ecgen-radiology/*.xml, or NLMCXR_reports.tgz as it is downloaded, or Kaggle's indiana_reports.csv with indiana_projections.csv.

    The findings are the MeSH terms that people gave to each report (roi/sources/mesh.py says which term is which finding, and what stays unknown). One report is one
    patient: no patient is named. XML says no view; Kaggle's says Frontal or Lateral.
    """
    from roi.sources.mesh import mesh_cells

    root = Path(root)
    csv, projections = root / "indiana_reports.csv", root / "indiana_projections.csv"
    if csv.is_file() and not ((root / "ecgen-radiology").is_dir() or (root / "NLMCXR_reports.tgz").is_file()):
        reports = read_columns(csv, ["uid", "MeSH"])
        images = read_columns(source(root, "indiana_projections.csv"), ["uid", "filename", "projection"])
        if reports["uid"].duplicated().any():
            raise UserError(f"{csv}: report {reports['uid'][reports['uid'].duplicated()].iloc[0]!r} is listed twice")
        report = pd.Index(reports["uid"]).get_indexer(pd.Index(images["uid"]))
        if (report < 0).any():
            raise UserError(
                f"{root}: indiana_projections.csv names {(report < 0).sum():,} images of reports that {csv.name} does not have"
            )
        cells = named(csv, lambda: mesh_cells(reports["MeSH"].tolist()))[report]
        view, others = view_of(images["projection"]), mesh_others(reports["MeSH"].iloc[report])
        below = "images/images_normalized/" if (root / "images" / "images_normalized").is_dir() else ""
        return _openi(below + images["filename"], cells, images["uid"], view, csv.name, others)
    found = list(_openi_reports(root))
    cells = named(root, lambda: mesh_cells([mesh for _, mesh, _ in found]))
    rows = [(f"{image}.png", n, uid) for n, (uid, _, names) in enumerate(found) for image in names]
    if not rows:
        raise UserError(f"{root}: none of its {len(found):,} reports names an image")
    image, report, uid = (pd.Series(column) for column in zip(*rows, strict=True))
    known = openi_views(projections, image) if projections.is_file() else ""
    return _openi(
        image, cells[report.to_numpy()], uid, known, "MeSH/major", mesh_others(pd.Series([found[n][1] for n in report]))
    )


def openi_views(projections: Path, image: pd.Series) -> pd.Series:
    """(N,) names of XML reports -> Frontal or Lateral by Kaggle's list: CXR1_1_IM-0001-3001.png is its 1_IM-0001-3001.dcm.png."""
    said = read_columns(projections, ["filename", "projection"])
    views = dict(
        zip(said["filename"].str.extract(r"(IM-[\d-]+)", expand=False), view_of(said["projection"]), strict=True)
    )
    return image.str.extract(r"(IM-[\d-]+)", expand=False).map(views).fillna("")


def mesh_others(entries: pd.Series) -> dict[str, int]:
    """Heads that no rule of roi/sources/mesh.py reads, and in how many images they stand."""
    from roi.sources.mesh import heads, known_heads

    return tally(entries, heads, known_heads())


def named(name: str | Path, work: Callable[[], T]) -> T:
    """What `work` gives; a UserError of it begins with the name of the file."""
    try:
        return work()
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error


def _openi(
    image: pd.Series,
    cells: np.ndarray,
    uid: pd.Series,
    view: pd.Series | str,
    label_source: str,
    others: dict[str, int],
) -> pd.DataFrame:
    patient = "openi:" + uid
    return finished(
        "openi",
        image,
        cells,
        others,
        patient_id=patient,
        study_id=patient + ":" + uid,
        view=view,
        label_source=label_source,
    )


def _openi_reports(root: Path) -> Iterator[tuple[str, str, list[str]]]:
    """-> number of the report, its MeSH terms joined by ';', names of its images"""
    folder, archive = root / "ecgen-radiology", root / "NLMCXR_reports.tgz"
    if folder.is_dir():
        for path in sorted(folder.glob("*.xml"), key=lambda p: (len(p.stem), p.stem)):
            yield _openi_report(path, path)
        return
    path = source(root, archive.name, "indiana_reports.csv", "ecgen-radiology/1.xml")
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".xml") and (file := tar.extractfile(member)):
                    yield _openi_report(file, member.name)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path}: not a whole archive ({error}); download it again") from error


def _openi_report(file: IO[bytes] | Path, name: str | Path) -> tuple[str, str, list[str]]:
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise UserError(f"{name}: not an OpenI report ({error})") from error
    uid = tree.find("uId")
    if uid is None:
        raise UserError(f"{name}: not an OpenI report (no uId)")
    terms = [(major.text or "").strip() for major in tree.iter("major")]
    return (
        uid.get("id", "").removeprefix("CXR"),
        ";".join(terms),
        [image.get("id", "") for image in tree.iter("parentImage")],
    )


# ReXGradient-160K


def read_rexgradient(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """ReXGradient-160K: metadata/{train,valid,test}_metadata_view_position.json, one row for each image of a study.

    It has no labels: they are read from Findings and Impression by roi/sources/report_labeler.py. What a report does not mention is unknown, or absent with blank="negative".
    """
    from roi.sources.report_labeler import label_reports

    rows: list[tuple[str, str, str, str, str, str, str]] = []
    texts: list[tuple[str, str]] = []
    study_of: list[int] = []
    for part in ("train", "valid", "test"):
        path = source(root, f"metadata/{part}_metadata_view_position.json", f"{part}_metadata_view_position.json")
        for study, said in _studies(path):
            lacking = [
                c for c in ("PatientID", "Findings", "Impression", "ImagePath", "ImageViewPosition") if c not in said
            ]
            lacking += [
                c for c in ("ImagePath", "ImageViewPosition") if c not in lacking and not isinstance(said[c], list)
            ]
            lacking += ["PatientID"] if not lacking and not said["PatientID"] else []
            if lacking or len(said["ImagePath"]) != len(said["ImageViewPosition"]):
                raise UserError(
                    f"{path}: study {study!r} "
                    + (f"has no {lacking[0]!r}" if lacking else "has not as many views as images")
                )
            texts.append((text_of(said["Findings"]), text_of(said["Impression"])))
            about = (str(said.get("PatientAge") or ""), str(said.get("PatientSex") or ""))
            who = (str(said["PatientID"]), study, split_word(part) or "", *about)
            for image, view in zip(said["ImagePath"], said["ImageViewPosition"], strict=True):
                rows.append((image.removeprefix("../"), text_of(view), *who))
                study_of.append(len(texts) - 1)
    if not rows:
        raise UserError(f"{root}: its metadata name no image")
    cells = negated(label_reports(*map(list, zip(*texts, strict=True))), blank)[study_of]
    image, view, patient, study_id, split, age, sex = (
        pd.Series(column, dtype=str) for column in zip(*rows, strict=True)
    )
    patient = "rexgradient:" + patient
    return finished(
        "rexgradient",
        image,
        cells,
        patient_id=patient,
        study_id=patient + ":" + study_id,
        view=view_of(view),
        age=years(dicom_years(age)),
        sex=sex_of(sex),
        split=split,
        label_source="report labeler",
    )


def _studies(path: Path) -> Iterable[tuple[str, dict]]:
    try:
        studies = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); is the download complete?") from error
    if not isinstance(studies, dict):
        raise UserError(f"{path}: a {type(studies).__name__}, not studies by name")
    return studies.items()


def text_of(value: object) -> str:
    """What is no text (null, NaN) is an empty one."""
    return value if isinstance(value, str) else ""


def dicom_years(age: pd.Series) -> pd.Series:
    """'067Y' -> '067', '18M' -> '1', '64' -> '64'."""

    def year(text: str) -> str:
        found = re.fullmatch(r"\s*(\d+)\s*([YMWD]?)\s*", text.upper())
        if not found or not found[2] or found[2] == "Y":
            return found[1] if found else ""
        return str(int(found[1]) // {"M": 12, "W": 52, "D": 365}[found[2]])

    return mapped(age, year)


def negated(cells: np.ndarray, blank: str) -> np.ndarray:
    """The policy for what is not mentioned: 'unknown' leaves it so, 'negative' makes it absent."""
    if blank not in ("unknown", "negative"):
        raise UserError(f"blank {blank!r} is neither unknown nor negative")
    return np.where(cells == NOT_MENTIONED, ABSENT, cells).astype(np.int8) if blank == "negative" else cells


# CheXpert and MIMIC-CXR-JPG: the labels of the CheXpert labeler

CHEXPERT = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
}
CHEXPERT_NEAR = words_of("chexpert")
CHEXPERT_FOLDER = "[Cc]he[Xx]pert*"
CHEXPERT_BATCH = re.compile(r"chexpert.* batch \d", re.IGNORECASE)
CHEXPERT_NAMES = list(dict.fromkeys([*CHEXPERT, *CHEXPERT_NEAR, "No Finding"]))
SAID = {"1.0": PRESENT, "1": PRESENT, "0.0": ABSENT, "0": ABSENT, "-1.0": UNCERTAIN, "-1": UNCERTAIN, "": NOT_MENTIONED}


def chexpert_cells(raw: pd.DataFrame, name: str | Path, blank: str) -> np.ndarray:
    """Columns of the CheXpert labeler (1, 0, -1, blank as text) -> (N, K).

    Seven findings have a twin. The other seven were never looked for. `No Finding` makes what is blank among the seven
    absent. What is still blank, or was never looked for, is unknown because of a neighbour (Lung Opacity, Lung Lesion
    …) where that is present or uncertain: `blank` says nothing of it then.
    """
    cells = np.full((len(raw), len(LABELS)), NOT_LABELED, dtype=np.int8)
    said = {}
    for column in CHEXPERT_NAMES:
        code, kinds = pd.factorize(raw[column])
        other = {kind: int((code == n).sum()) for n, kind in enumerate(kinds) if kind.strip() not in SAID}
        if other:
            value, count = next(iter(other.items()))
            raise UserError(f"{name}: {count:,} values {value!r} in column {column!r}; it holds 1, 0, -1 or nothing")
        said[column] = np.array([SAID[kind.strip()] for kind in kinds], dtype=np.int8)[code]
    normal = said["No Finding"] == PRESENT
    for theirs, ours in CHEXPERT.items():
        cells[:, PLACE[ours]] = np.where(normal & (said[theirs] == NOT_MENTIONED), ABSENT, said[theirs])
    for theirs, findings in CHEXPERT_NEAR.items():
        leave_unknown(cells, said[theirs] == PRESENT, findings, (NOT_MENTIONED, NOT_LABELED))
        leave_unknown(cells, said[theirs] == UNCERTAIN, findings, (NOT_MENTIONED,))
    return negated(cells, blank)


def leave_unknown(cells: np.ndarray, rows: np.ndarray, findings: Sequence[str], open_cells: Sequence[int]) -> None:
    """Make COARSE the cells of `findings` that are one of `open_cells`, in `rows` (N,) bool: a neighbour is present."""
    for finding in findings:
        column = cells[:, PLACE[finding]]
        column[rows & np.isin(column, open_cells)] = PARENT_ONLY


def read_chexpert(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """CheXpert: train.csv and valid.csv (test.csv where it is there), in `root` or in CheXpert-v1.0[-small] below it.

    The full download may stay in the folders of its archives ("CheXpert-v1.0 batch 2 (train 1)/patient00001 ...").
    -1 is uncertain, a blank is unknown, or absent with blank="negative". Infiltration, Mass, Nodule, Emphysema,
    Fibrosis, Pleural_Thickening and Hernia were never looked for.
    """
    root = Path(root)
    train = chexpert_table(root)
    others = [source(train.parent, "valid.csv"), *(p for p in [train.with_name("test.csv")] if p.is_file())]
    holders = chexpert_batches(root, train)
    below = train.parent.relative_to(root).as_posix()
    parts = []
    for csv in (train, *others):
        raw = read_columns(csv, ["Path", *CHEXPERT_NAMES], ["Sex", "Age", "Frontal/Lateral", "AP/PA"])
        cells = chexpert_cells(raw, csv, blank)
        image = raw["Path"].str.replace(r"^[^/]*/(?=(?:train|valid|test)/)", "", regex=True)
        patient = image.str.extract(r"/patient(\d+)/", expand=False)
        if patient.isna().any():
            raise UserError(
                f"{csv}: {patient.isna().sum():,} paths name no patient, the first is {raw['Path'][patient.isna()].iloc[0]!r}"
            )
        patient = "chexpert:" + plain_number(patient)
        frontal = raw["Frontal/Lateral"].str.upper()
        parts.append(
            finished(
                "chexpert",
                chexpert_places(image, below, holders),
                cells,
                patient_id=patient,
                study_id=patient + ":" + image.str.extract(r"/study(\d+)/", expand=False).fillna(""),
                view=view_of(raw["AP/PA"].where(raw["AP/PA"] != "", frontal)),
                age=years(raw["Age"]),
                sex=sex_of(raw["Sex"]),
                split=split_word(csv.name.split(".")[0]),
                label_source=csv.name,
            )
        )
    return pd.concat(parts, ignore_index=True)


def chexpert_table(root: Path) -> Path:
    """train.csv: in `root`, or below one or two folders with the name of the set."""
    outer = sorted(root.glob(f"{CHEXPERT_FOLDER}/train.csv"))
    inner = sorted(root.glob(f"{CHEXPERT_FOLDER}/{CHEXPERT_FOLDER}/train.csv"))
    nested = [path.relative_to(root).as_posix() for path in (*outer, *inner)]
    return source(root, "train.csv", "CheXpert-v1.0-small/train.csv", "CheXpert-v1.0/train.csv", *nested)


def chexpert_batches(root: Path, train: Path) -> dict[str, str]:
    """Folder of each patient -> the folder below `root` that holds it, where the archives were not merged; else {}."""
    in_a_batch = train.parent != root and CHEXPERT_BATCH.search(train.parent.name)
    around = train.parent.parent if in_a_batch else train.parent
    batches = [folder for folder in sorted(around.iterdir()) if CHEXPERT_BATCH.search(folder.name)]
    holders: dict[str, str] = {}
    for batch in filter(Path.is_dir, batches):
        # Patients lie in the folder itself, or below the folders that the archive has inside.
        inside = [batch, *batch.glob("[tv]*"), *batch.glob(f"{CHEXPERT_FOLDER}/[tv]*")]
        for folder in filter(Path.is_dir, inside):
            below = folder.relative_to(root).as_posix()
            holders |= {name: below for name in os.listdir(folder) if name.startswith("patient")}
    return holders


def chexpert_places(image: pd.Series, below: str, holders: dict[str, str]) -> pd.Series:
    """Paths of the table, train/patient00001/study1/view1_frontal.jpg -> paths below the folder of the set."""
    merged = image if below == "." else below + "/" + image
    if not holders:
        return merged
    inside = image.str.split("/", n=1).str[1]  # patient00001/study1/view1_frontal.jpg
    holder = inside.str.split("/", n=1).str[0].map(holders)
    return (holder + "/" + inside).where(holder.notna(), merged)


def read_mimic(root: str | Path, blank: str = "unknown") -> pd.DataFrame:
    """MIMIC-CXR-JPG 2.x: mimic-cxr-2.0.0-{metadata,chexpert,split}.csv[.gz]; images files/p10/p10000032/s50414267/<dicom_id>.jpg.

    The labels are one row a study, as CheXpert's; an image of a study without a row has no label that is known. Age and sex are not in these files.
    """
    metadata, labels, split = (
        source(root, f"mimic-cxr-2.0.0-{part}.csv") for part in ("metadata", "chexpert", "split")
    )
    raw = read_columns(metadata, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    said = read_columns(labels, ["subject_id", "study_id", *CHEXPERT_NAMES])
    twice = said["study_id"][said["study_id"].duplicated()]
    if len(twice):
        raise UserError(f"{labels}: {len(twice):,} studies have two rows, the first is {twice.iloc[0]}")
    study = pd.Index(said["subject_id"] + "/" + said["study_id"]).get_indexer(
        pd.Index(raw["subject_id"] + "/" + raw["study_id"])
    )
    nothing = np.full((1, len(LABELS)), NOT_LABELED, dtype=np.int8)
    nothing[0, [PLACE[ours] for ours in CHEXPERT.values()]] = NOT_MENTIONED
    cells = np.concatenate([chexpert_cells(said, labels, blank), nothing])[study]
    parts = read_columns(split, ["dicom_id", "split"])
    if parts["dicom_id"].duplicated().any():
        raise UserError(f"{split}: {parts['dicom_id'].duplicated().sum():,} images are listed twice")
    row = pd.Index(parts["dicom_id"]).get_indexer(pd.Index(raw["dicom_id"]))
    names = np.append(split_of(parts["split"], split).to_numpy(dtype=object), "")[row]
    patient = "mimic:" + raw["subject_id"]
    folder = "files/p" + raw["subject_id"].str[:2] + "/p" + raw["subject_id"] + "/s" + raw["study_id"] + "/"
    return finished(
        "mimic",
        folder + raw["dicom_id"] + ".jpg",
        cells,
        patient_id=patient,
        study_id=patient + ":" + raw["study_id"],
        view=view_of(raw["ViewPosition"]),
        split=names,
        label_source=labels.name.removesuffix(".gz"),
    )


# CXR-LT: more labels for the images of MIMIC-CXR

CXRLT = {label: label for label in LABELS} | {
    "Effusion": "Pleural Effusion",
    "Pleural_Thickening": "Pleural Thickening",
}
CXRLT_ALSO = {
    "Lobar Atelectasis": ("Atelectasis",),
    "Round(ed) Atelectasis": ("Atelectasis",),
    "Hydropneumothorax": ("Effusion", "Pneumothorax"),
}
CXRLT_FILES = (
    (("labels.csv", ""),),
    (("train.csv", "train"), ("development.csv", "val"), ("test.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task1.csv", "val"), ("test_labeled_task1.csv", "test")),
    (("train_labeled.csv", "train"), ("development_labeled_task2.csv", "val"), ("test_labeled_task2.csv", "test")),
)


def read_cxrlt(root: str | Path) -> pd.DataFrame:
    """CXR-LT 2023 (train.csv, development.csv, test.csv) or 2024 (labels.csv, else train_labeled.csv with {development,test}_labeled_task{1,2}.csv).

    Its images are MIMIC-CXR's: `image` is a path below that set and patients are mimic:*. 0 and 1 as published, by the
    name of the column; a 0 beside a neighbour that is 1 (Lung Opacity, Granuloma …) is unknown.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of data")
    for folder in (root, root / "cxr-lt-2024", root / "cxr-lt-2023"):
        for files in CXRLT_FILES:
            if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name, _ in files):
                return pd.concat([_cxrlt(source(folder, name), split) for name, split in files], ignore_index=True)
    wanted = "; or ".join(", ".join(name for name, _ in files) for files in CXRLT_FILES)
    raise UserError(f"{root}: no complete set of tables of CXR-LT is there (looked for {wanted})")


def _cxrlt(csv: Path, split: str) -> pd.DataFrame:
    wanted = ["dicom_id", "subject_id", "study_id", *CXRLT.values(), *(() if split else ("split",))]
    near = words_of("cxrlt")
    optional = [name for name in (*CXRLT_ALSO, *near) if name not in wanted]
    raw = read_columns(csv, wanted, ["path", "fpath", "ViewPosition", *optional])
    cells = np.zeros((len(raw), len(LABELS)), dtype=np.int8)
    for ours, theirs in CXRLT.items():
        cells[:, PLACE[ours]] = np.where(flags(raw[theirs], csv), PRESENT, ABSENT)
    for theirs, several in CXRLT_ALSO.items():
        for ours in several if (raw[theirs] != "").any() else ():  # a kind of the finding that has a column of its own
            cells[flags(raw[theirs], csv), PLACE[ours]] = PRESENT
    for theirs, findings in near.items():
        if (raw[theirs] != "").any():  # each edition has some of these columns
            leave_unknown(cells, flags(raw[theirs], csv), findings, (ABSENT,))
    path = raw["fpath"].where(raw["fpath"] != "", raw["path"])
    subject, study = raw["subject_id"], raw["study_id"].str.removeprefix("s")
    made = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study + "/" + raw["dicom_id"] + ".jpg"
    patient = "mimic:" + subject
    return finished(
        "cxrlt",
        path.where(path != "", made),
        cells,
        patient_id=patient,
        study_id=patient + ":" + study,
        view=view_of(raw["ViewPosition"]),
        split=split or split_of(raw["split"], csv),
        label_source=csv.name.removesuffix(".gz"),
    )


def flags(text: pd.Series, name: str | Path) -> np.ndarray:
    """A column of 0 and 1 -> (N,) bool; UserError for anything else."""
    code, kinds = pd.factorize(text)
    other = [kind for kind in kinds if kind.strip() not in ("0", "1", "0.0", "1.0")]
    if other:
        raise UserError(
            f"{name}: {int((text == other[0]).sum()):,} values {other[0]!r} in column {text.name!r}; it holds 0 or 1"
        )
    return np.array([kind.strip() in ("1", "1.0") for kind in kinds])[code]


# PadChest

PADCHEST = {
    "Atelectasis": (
        "atelectasis",
        "laminar atelectasis",
        "lobar atelectasis",
        "segmental atelectasis",
        "total atelectasis",
        "round atelectasis",
        "atelectasis basal",
    ),
    "Cardiomegaly": ("cardiomegaly",),
    "Effusion": ("pleural effusion", "loculated pleural effusion", "loculated fissural effusion", "hydropneumothorax"),
    "Infiltration": ("infiltrates",),
    "Mass": ("mass", "pulmonary mass"),
    "Nodule": ("nodule", "multiple nodules"),
    "Pneumonia": ("pneumonia", "atypical pneumonia"),
    "Pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "Consolidation": ("consolidation",),
    "Edema": ("pulmonary edema",),
    "Emphysema": ("emphysema",),
    "Fibrosis": ("pulmonary fibrosis",),
    "Pleural_Thickening": ("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    "Hernia": ("hiatal hernia",),
}
PADCHEST_NEAR = words_of("padchest")
PADCHEST_META = {"normal", "exclude", "suboptimal study", "unchanged"}
PADCHEST_FILE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"


def read_padchest(root: str | Path) -> pd.DataFrame:
    """PadChest: the table of 160,861 images; images are <ImageDir>/<ImageID>.

    Labels are compared as whole words after stripping: `subcutaneous emphysema` is not emphysema. What is not named is absent, with exceptions. A label that
    may mean the finding (PADCHEST_NEAR) makes it unknown; `exclude`, `suboptimal study` and cells that are no list say nothing at all; `unchanged` says nothing
    of what it does not name.
    """
    csv = source(root, PADCHEST_FILE)
    raw = read_columns(
        csv,
        ["ImageID", "ImageDir", "PatientID", "Projection", "Labels"],
        ["StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"],
        skipinitialspace=True,
    )
    ours = {name for names in PADCHEST.values() for name in names} | PADCHEST_NEAR.keys() | PADCHEST_META
    others = named(csv, lambda: tally(raw["Labels"], padchest_names, ours))
    patient = "padchest:" + raw["PatientID"]
    born, taken = (pd.to_numeric(raw[c].str[:4], errors="coerce") for c in ("PatientBirth", "StudyDate_DICOM"))
    age = (taken - born).where(lambda a: (a >= 0) & (a <= OLDEST))
    return finished(
        "padchest",
        raw["ImageDir"] + "/" + raw["ImageID"],
        by_kind(raw["Labels"], padchest_cells),
        others,
        patient_id=patient,
        study_id=(patient + ":" + raw["StudyID"]).where(raw["StudyID"] != "", ""),
        view=view_of(raw["Projection"]),
        age=age.map(lambda a: "" if a != a else str(int(a))),
        sex=sex_of(raw["PatientSex_DICOM"]),
        label_source=csv.name.removesuffix(".gz"),
    )


def padchest_names(field: str) -> set[str]:
    """One `Labels` field, a Python list as text -> its names; none where it is no list."""
    try:
        found = ast.literal_eval(field)
    except (ValueError, SyntaxError, TypeError):
        return set()
    return {str(name).strip().lower() for name in found} - {""} if isinstance(found, list | tuple) else set()


def padchest_cells(field: str) -> np.ndarray:
    """One `Labels` field -> (K,)"""
    names = padchest_names(field)
    if not names or names & {"exclude", "suboptimal study"}:
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    cells = np.full(len(LABELS), NOT_MENTIONED if "unchanged" in names else ABSENT, dtype=np.int8)
    for name in names & PADCHEST_NEAR.keys():
        cells[[PLACE[finding] for finding in PADCHEST_NEAR[name]]] = PARENT_ONLY
    for label, exact in PADCHEST.items():
        if names.intersection(exact):
            cells[PLACE[label]] = PRESENT
    return cells


# VinDr-CXR and VinBigData: several readers an image

VINDR = {label: label for label in LABELS if label not in ("Mass", "Nodule", "Hernia")} | {
    "Effusion": "Pleural effusion",
    "Pleural_Thickening": "Pleural thickening",
    "Fibrosis": "Pulmonary fibrosis",
}
VINDR_NEAR = words_of("vindr")
VINBIGDATA = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "No finding",
)
VOTES = ("majority", "any", "fraction")


def voted(share: dict[str, np.ndarray], votes: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of the readers who say each class, (N,) in [0, 1] -> ((N, K) cells, (N,) texts of the column `soft`).

    majority: more than half of them; any: one of them; fraction: all or none, else the readers are divided and the share stands in `soft`.
    A class that nobody was asked about is not in `share`. Nodule/Mass and other neighbours, where present, leave their
    findings unknown.
    """
    if votes not in VOTES:
        raise UserError(f"votes {votes!r} is none of {', '.join(VOTES)}")
    above = {theirs: part > 0.5 if votes == "majority" else part > 0 for theirs, part in share.items()}
    cells = np.full((len(next(iter(share.values()))), len(LABELS)), NOT_LABELED, dtype=np.int8)
    shown = np.zeros(cells.shape)
    for ours, theirs in VINDR.items():
        if theirs in share:
            part = share[theirs]
            divided = (votes == "fraction") & (part > 0) & (part < 1)
            cells[:, PLACE[ours]] = np.where(divided, READERS_DISAGREE, above[theirs])
            shown[:, PLACE[ours]] = np.where(divided, part, 0)
    cells[:, [PLACE["Mass"], PLACE["Nodule"]]] = ABSENT
    for theirs, findings in VINDR_NEAR.items():
        if theirs in share:
            leave_unknown(cells, above[theirs], findings, (ABSENT,))
    kinds, row = np.unique(shown.round(3), axis=0, return_inverse=True)
    texts = [
        ",".join(f"{label}={part:g}" for label, part in zip(LABELS, line, strict=True) if part)
        for line in kinds.tolist()
    ]
    return cells, np.array(texts, dtype=object)[row.ravel()]


def read_vindr(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """VinDr-CXR 1.0.0: annotations/image_labels_{train,test}.csv; images train/<image_id>.png beside the published .dicom.

    Training images have three readers (`votes`), test images their consensus. Classes that may mean a finding leave it
    unknown (roi/sources/near_names.py). Hernia was never looked for. Each image is a patient of its own.
    """
    parts = []
    for split in ("train", "test"):
        csv = source(root, f"annotations/image_labels_{split}.csv", f"image_labels_{split}.csv")
        classes = list(dict.fromkeys([*VINDR.values(), *VINDR_NEAR]))
        raw = read_columns(csv, ["image_id", *classes], ["rad_id"])
        code, names = pd.factorize(raw["image_id"])
        if raw["rad_id"].eq("").all() and len(names) < len(raw) or raw.duplicated(["image_id", "rad_id"]).any():
            twice = raw["image_id"][raw.duplicated(["image_id", "rad_id"])].iloc[0]
            raise UserError(f"{csv}: image {twice!r} stands there twice with the same reader")
        readers = np.bincount(code)
        share = {c: np.bincount(code, weights=flags(raw[c], csv)) / readers for c in classes}
        parts.append(_vin("vindr", split, pd.Series(names), share, votes, csv.name.removesuffix(".gz"), split))
    return pd.concat(parts, ignore_index=True)


def read_vinbigdata(root: str | Path, votes: str = "majority") -> pd.DataFrame:
    """VinBigData (Kaggle): train.csv, one row for each box of each reader; images train/<image_id>.png beside the published .dicom.

    A reader says a finding who drew a box of it. Edema, Emphysema, Pneumonia and Hernia were never looked for; otherwise as read_vindr.
    """
    csv = source(root, "train.csv")
    raw = read_columns(csv, ["image_id", "class_name", "rad_id"])
    raw["class_name"] = mapped(raw["class_name"], lambda name: "No finding" if normal_name(name) else name)
    other = Counter(raw["class_name"][~raw["class_name"].isin(VINBIGDATA)])
    if other:
        raise UserError(
            f"{csv}: unknown classes: "
            + ", ".join(f"{name!r} in {count:,} rows" for name, count in other.most_common())
        )
    code, names = pd.factorize(raw["image_id"])
    said = pd.DataFrame({"image": code, "reader": raw["rad_id"], "class": raw["class_name"]}).drop_duplicates()
    readers = np.bincount(said.drop_duplicates(["image", "reader"])["image"])
    share = {
        c: np.bincount(said["image"][said["class"] == c], minlength=len(names)) / readers
        for c in VINBIGDATA
        if c != "No finding"
    }
    return _vin("vinbigdata", "train", pd.Series(names), share, votes, csv.name.removesuffix(".gz"), "")


def _vin(
    name: str, folder: str, ids: pd.Series, share: dict[str, np.ndarray], votes: str, label_source: str, split: str
) -> pd.DataFrame:
    cells, soft = voted(share, votes)
    return finished(
        name,
        f"{folder}/" + ids + ".png",
        cells,
        soft=soft,
        patient_id=f"{name}:" + ids,
        view="PA",
        split=split,
        label_source=label_source,
    )


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
