"""OpenI (Indiana University): findings as MeSH codes, given by people who read the reports.

An entry is `Head/qualifier/qualifier`, those of a report are joined by ';'. Only whole heads and whole qualifiers
count, so that `Pericardial Effusion`, `Subcutaneous Emphysema`, `Cystic Fibrosis` and `Pneumonectomy` are none of the
14.

Letters: N reports or images, K = 14 findings.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, EXCLUDED, PARENT_ONLY, PRESENT, label_indices
from roi.sources.near_names import words_of
from roi.sources.reading import count_other_labels, error_context, find_file, read_columns, reader_table
from roi.sources.views import view_of

# Head, or head/qualifier wherever the qualifier stands -> findings. A mass of the mediastinum is none of ours.
MESH_FINDINGS = {
    "Pulmonary Atelectasis": ("Atelectasis",),
    "Cardiomegaly": ("Cardiomegaly",),
    "Pleural Effusion": ("Effusion",),
    "Infiltrate": ("Infiltration",),
    "Mass/lung": ("Mass",),
    "Mass/hilum": ("Mass",),
    "Nodule": ("Nodule",),
    "Pneumonia": ("Pneumonia",),
    "Pneumothorax": ("Pneumothorax",),
    "Hydropneumothorax": ("Pneumothorax", "Effusion"),
    "Hemopneumothorax": ("Pneumothorax",),
    "Consolidation": ("Consolidation",),
    "Pulmonary Edema": ("Edema",),
    "Emphysema": ("Emphysema",),
    "Pulmonary Emphysema": ("Emphysema",),
    "Bullous Emphysema": ("Emphysema",),
    "Pulmonary Fibrosis": ("Fibrosis",),
    "Thickening/pleura": ("Pleural_Thickening",),
    "Hernia, Hiatal": ("Hernia",),
    "Hernia, Diaphragmatic": ("Hernia",),
}
# Codes that stand for a wider word; the other neighbours name half of a finding, or its shadow.
WIDER = (
    "Opacity",
    "Airspace Disease",
    "Density",
    "Granuloma",
    "Calcified Granuloma",
    "Pulmonary Congestion",
    "Lung Diseases, Interstitial",
)
MESH_NEIGHBOURS = words_of("openi")
# Codes of a whole report: nothing that it does not say is absent.
UNUSABLE = ("no indexing", "technical quality of image unsatisfactory")


class Report(NamedTuple):
    """One XML file of OpenI."""

    uid: str
    mesh: str  # codes joined by ';'
    images: list[str]  # names without ending; none in some reports


def read_openi(root: str | Path) -> pd.DataFrame:
    """Read ecgen-radiology/*.xml, or NLMCXR_reports.tgz as it is downloaded, or Kaggle's indiana_reports.csv.

    One report is one patient: no patient is named. XML says no view; indiana_projections.csv of Kaggle, which its
    reports need and which may lie beside the XML, says Frontal or Lateral.
    """
    root = Path(root)
    has_xml = (root / "ecgen-radiology").is_dir() or (root / "NLMCXR_reports.tgz").is_file()
    if (root / "indiana_reports.csv").is_file() and not has_xml:
        return _read_kaggle(root)
    return _read_xml(root)


def _read_kaggle(root: Path) -> pd.DataFrame:
    csv = root / "indiana_reports.csv"
    reports = read_columns(csv, ["uid", "MeSH"])
    images = read_columns(find_file(root, "indiana_projections.csv"), ["uid", "filename", "projection"])
    twice = reports["uid"][reports["uid"].duplicated()].tolist()
    if twice:
        raise UserError(f"{csv}: report {twice[0]!r} is listed twice")
    row = pd.Index(reports["uid"]).get_indexer(pd.Index(images["uid"]))
    unknown = int((row < 0).sum())
    if unknown:
        raise UserError(
            f"{root}: indiana_projections.csv names {unknown:,} images of reports that {csv.name} does not have"
        )
    with error_context(csv):
        cells = mesh_cells(reports["MeSH"].tolist())
    # As Kaggle's archive unpacks, or with the images beside the tables.
    folder = "images/images_normalized/"
    if not (root / folder).is_dir():
        folder = ""
    image = folder + images["filename"]
    view = view_of(images["projection"])
    mesh = reports["MeSH"].iloc[row]
    return _openi_table(image, cells[row], images["uid"], mesh, view, csv.name)


def _read_xml(root: Path) -> pd.DataFrame:
    reports = list(_xml_reports(root))
    with error_context(root):
        cells = mesh_cells([report.mesh for report in reports])
    images, row = [], []
    for number, report in enumerate(reports):
        for name in report.images:
            images.append(f"{name}.png")
            row.append(number)
    if not images:
        raise UserError(f"{root}: none of its {len(reports):,} reports names an image")
    image = pd.Series(images)
    report_of = pd.DataFrame(reports, columns=Report._fields).iloc[row].reset_index(drop=True)
    view: pd.Series | str = ""
    projections = root / "indiana_projections.csv"
    if projections.is_file():
        view = _views_by_kaggle(projections, image)
    return _openi_table(image, cells[row], report_of["uid"], report_of["mesh"], view, "MeSH/major")


def _views_by_kaggle(projections: Path, image: pd.Series) -> pd.Series:
    """(N,) FRONTAL, LATERAL or '' for the images of XML reports.

    CXR1_1_IM-0001-3001.png is 1_IM-0001-3001.dcm.png in Kaggle's list.
    """
    kaggle = read_columns(projections, ["filename", "projection"])
    number = kaggle["filename"].str.extract(r"(IM-[\d-]+)", expand=False)
    views = dict(zip(number, view_of(kaggle["projection"]), strict=True))
    return image.str.extract(r"(IM-[\d-]+)", expand=False).map(views).fillna("")


def _openi_table(
    image: pd.Series,
    cells: np.ndarray,
    uid: pd.Series,
    mesh: pd.Series,
    view: pd.Series | str,
    label_source: str,
) -> pd.DataFrame:
    """What is the same in both forms; `uid` and `mesh` (N,) are those of the report of each image."""
    patient = "openi:" + uid
    return reader_table(
        "openi",
        image,
        cells,
        count_other_labels(mesh, mesh_heads, known_heads()),
        patient_id=patient,
        study_id=patient + ":" + uid,
        view=view,
        label_source=label_source,
    )


def _xml_reports(root: Path) -> Iterator[Report]:
    folder = root / "ecgen-radiology"
    if folder.is_dir():
        # 2.xml comes before 10.xml, as in the archive.
        for path in sorted(folder.glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
            yield _parse_report(path, path)
        return
    archive = find_file(root, "NLMCXR_reports.tgz", "indiana_reports.csv", "ecgen-radiology/1.xml")
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if not member.name.endswith(".xml"):
                    continue
                file = tar.extractfile(member)
                if file:
                    yield _parse_report(file, member.name)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{archive}: not a whole archive ({error}); download it again") from error


def _parse_report(file: IO[bytes] | Path, name: str | Path) -> Report:
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError as error:
        raise UserError(f"{name}: not an OpenI report ({error})") from error
    uid = tree.find("uId")
    if uid is None:
        raise UserError(f"{name}: not an OpenI report (no uId)")
    number = uid.get("id", "").removeprefix("CXR")
    codes = [(major.text or "").strip() for major in tree.iter("major")]
    images = [image.get("id", "") for image in tree.iter("parentImage")]
    return Report(number, ";".join(codes), images)


def mesh_cells(entries: Sequence[str], neighbours: bool = True) -> np.ndarray:
    """What the codes of each report say of the findings.

    PRESENT by MESH_FINDINGS, PARENT_ONLY by a neighbour, ABSENT where no code says anything of a finding (`normal` and
    most heads), EXCLUDED in all of a report that was not indexed.

    Args:
        entries: (N,) codes of each report, joined by ';'.
        neighbours: without them only the codes of WIDER make a finding PARENT_ONLY; the others leave it ABSENT.

    Returns:
        (N, K) int8.

    Raises:
        UserError: a report without any code, which is not the same as `normal`.
    """
    near = MESH_NEIGHBOURS
    if not neighbours:
        near = {code: MESH_NEIGHBOURS[code] for code in WIDER}
    # What is said by name comes last: it outranks what may be meant.
    rules = [(near, PARENT_ONLY), (MESH_FINDINGS, PRESENT)]
    rows: dict[str, np.ndarray] = {}
    for number, entry in enumerate(entries):
        if entry not in rows:
            rows[entry] = _row_of_entry(entry, rules, number)
    cells = np.array([rows[entry] for entry in entries], dtype=np.int8)
    return cells.reshape(len(entries), len(LABELS))  # of no reports, too


def _row_of_entry(entry: str, rules: list[tuple[dict[str, tuple[str, ...]], int]], number: int) -> np.ndarray:
    """(K,) codes of one report; `rules`: which code each name gives to which findings, the strongest last."""
    names = mesh_names(entry)
    if not names:
        raise UserError(
            f"report {number} has no MeSH code ({entry!r}); a normal one says 'normal', so is the file cut off?"
        )
    # Whatever else such a report says, its images are of no use.
    if not names.isdisjoint(UNUSABLE):
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    row = np.full(len(LABELS), ABSENT, dtype=np.int8)
    for findings_of, code in rules:
        for name, findings in findings_of.items():
            if name.lower() in names:
                row[label_indices(findings)] = code
    return row


def mesh_names(entry: str) -> set[str]:
    """What the rules are looked up by: 'Mass/lung/right;Nodule' -> {'mass', 'mass/lung', 'mass/right', 'nodule'}."""
    names = set()
    for code in entry.lower().split(";"):
        head, *qualifiers = (" ".join(part.split()) for part in code.split("/"))
        if not head:
            continue
        names.add(head)
        for qualifier in qualifiers:
            names.add(f"{head}/{qualifier}")
    return names


def mesh_heads(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'nodule'}."""
    return {name for name in mesh_names(entry) if "/" not in name}


def known_heads() -> set[str]:
    """The heads that some rule reads, and `normal`."""
    names = (*MESH_FINDINGS, *MESH_NEIGHBOURS, *UNUSABLE, "normal")
    return mesh_heads(";".join(names))
