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
from roi.sources.label_states import ABSENT, EXCLUDED, LABEL_INDEX, PARENT_ONLY, PRESENT
from roi.sources.near_names import words_of
from roi.sources.reading import count_other_labels, error_context, find_file, read_columns, reader_table
from roi.sources.views import view_of

MESH_FINDINGS = {  # head, or head/qualifier wherever the qualifier stands
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
UNUSABLE = ("no indexing", "technical quality of image unsatisfactory")  # of the whole report


class Report(NamedTuple):
    """One XML file of OpenI."""

    uid: str
    mesh: str  # codes joined by ';'
    images: list[str]  # names without ending


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
    twice = reports["uid"][reports["uid"].duplicated()]
    if len(twice):
        raise UserError(f"{csv}: report {twice.iloc[0]!r} is listed twice")
    report = pd.Index(reports["uid"]).get_indexer(pd.Index(images["uid"]))
    unknown = int((report < 0).sum())
    if unknown:
        raise UserError(
            f"{root}: indiana_projections.csv names {unknown:,} images of reports that {csv.name} does not have"
        )
    with error_context(csv):
        cells = mesh_cells(reports["MeSH"].tolist())[report]
    folder = "images/images_normalized/"
    if not (root / folder).is_dir():
        folder = ""
    view = view_of(images["projection"])
    return _openi_table(folder + images["filename"], cells, images["uid"], reports["MeSH"].iloc[report], view, csv.name)


def _read_xml(root: Path) -> pd.DataFrame:
    reports = list(_xml_reports(root))
    with error_context(root):
        cells = mesh_cells([report.mesh for report in reports])
    rows = [
        (f"{image}.png", number, report.uid, report.mesh)
        for number, report in enumerate(reports)
        for image in report.images
    ]
    if not rows:
        raise UserError(f"{root}: none of its {len(reports):,} reports names an image")
    image, number, uid, mesh = (pd.Series(column) for column in zip(*rows, strict=True))
    view: pd.Series | str = ""
    projections = root / "indiana_projections.csv"
    if projections.is_file():
        view = _views_by_kaggle(projections, image)
    return _openi_table(image, cells[number.to_numpy()], uid, mesh, view, "MeSH/major")


def _views_by_kaggle(projections: Path, image: pd.Series) -> pd.Series:
    """(N,) FRONTAL, LATERAL or '' for the images of XML reports.

    CXR1_1_IM-0001-3001.png is 1_IM-0001-3001.dcm.png in Kaggle's list.
    """
    kaggle = read_columns(projections, ["filename", "projection"])
    number = kaggle["filename"].str.extract(r"(IM-[\d-]+)", expand=False)
    views = dict(zip(number, view_of(kaggle["projection"]), strict=True))
    return image.str.extract(r"(IM-[\d-]+)", expand=False).map(views).fillna("")


def _openi_table(
    image: pd.Series, cells: np.ndarray, uid: pd.Series, mesh: pd.Series, view: pd.Series | str, label_source: str
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
    codes = [(major.text or "").strip() for major in tree.iter("major")]
    images = [image.get("id", "") for image in tree.iter("parentImage")]
    return Report(uid.get("id", "").removeprefix("CXR"), ";".join(codes), images)


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
    return np.array([rows[entry] for entry in entries], dtype=np.int8).reshape(len(entries), len(LABELS))


def _row_of_entry(entry: str, rules: list[tuple[dict[str, tuple[str, ...]], int]], number: int) -> np.ndarray:
    """(K,) codes of one report; `rules`: which code each name gives to which findings, the strongest last."""
    names = mesh_names(entry)
    if not names:
        raise UserError(
            f"report {number} has no MeSH code ({entry!r}); a normal one says 'normal', so is the file cut off?"
        )
    if not names.isdisjoint(UNUSABLE):
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    row = np.full(len(LABELS), ABSENT, dtype=np.int8)
    for findings_of, code in rules:
        for name, findings in findings_of.items():
            if name.lower() in names:
                row[[LABEL_INDEX[finding] for finding in findings]] = code
    return row


def mesh_names(entry: str) -> set[str]:
    """What the rules are looked up by: 'Mass/lung/right;Nodule' -> {'mass', 'mass/lung', 'mass/right', 'nodule'}."""
    names = set()
    for code in entry.split(";"):
        head, *qualifiers = (" ".join(part.split()).lower() for part in code.split("/"))
        if head:
            names.add(head)
            names.update(f"{head}/{qualifier}" for qualifier in qualifiers)
    return names


def mesh_heads(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'nodule'}."""
    return {name for name in mesh_names(entry) if "/" not in name}


def known_heads() -> set[str]:
    """The heads that some rule reads, and `normal`."""
    heads = {name.split("/")[0].lower() for name in (*MESH_FINDINGS, *MESH_NEIGHBOURS)}
    return heads | {"normal", *UNUSABLE}
