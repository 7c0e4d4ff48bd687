"""OpenI's MeSH codes, given by people who read the reports -> cells of the 14 findings.

An entry is `Head/qualifier/qualifier`, those of a report are joined by ';'. Only whole heads and whole qualifiers count, so that
`Pericardial Effusion`, `Subcutaneous Emphysema`, `Cystic Fibrosis` and `Pneumonectomy` are none of the 14. Letters: N reports, K = 14.
"""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from roi.errors import UserError
from roi.labels import LABELS
from roi.sources.label_states import ABSENT, EXCLUDED, PARENT_ONLY, PRESENT
from roi.sources.near_names import words_of
from roi.sources.reading import finished, named, read_columns, source, tally
from roi.sources.views import view_of

SAYS = {  # head, or head/qualifier wherever the qualifier stands
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
NEIGHBOURS = words_of("openi")
USELESS = ("no indexing", "technical quality of image unsatisfactory")  # the whole report


def mesh_cells(entries: Sequence[str], neighbours: bool = True) -> np.ndarray:
    """One ';'-joined string a report -> (N, K) int8: PRESENT, COARSE (a neighbour is there), ABSENT, or UNFIT (all).

    Without `neighbours` only the codes of WIDER make a finding COARSE; the others leave it ABSENT. `normal` and heads
    that say nothing of the 14 are ABSENT. UserError: a report without any code, which is not the same as `normal`.
    """
    near = NEIGHBOURS if neighbours else {code: NEIGHBOURS[code] for code in WIDER}
    rules = [(SAYS, PRESENT), (near, PARENT_ONLY)]
    known: dict[str, np.ndarray] = {}
    for number, entry in enumerate(entries):
        if entry not in known:
            known[entry] = _row(entry, rules, number)
    return np.array([known[entry] for entry in entries], dtype=np.int8).reshape(len(entries), len(LABELS))


def mesh_names(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'mass/lung', 'mass/right', 'nodule'}: what the rules are looked up by."""
    names = set()
    for code in entry.split(";"):
        head, *qualifiers = (" ".join(part.split()).lower() for part in code.split("/"))
        names |= {head, *(f"{head}/{qualifier}" for qualifier in qualifiers)} if head else set()
    return names


def _row(entry: str, rules: list[tuple[dict[str, tuple[str, ...]], int]], number: int) -> np.ndarray:
    names = mesh_names(entry)
    if not names:
        raise UserError(
            f"report {number} has no MeSH code ({entry!r}); a normal one says 'normal', so is the file cut off?"
        )
    if not names.isdisjoint(USELESS):
        return np.full(len(LABELS), EXCLUDED, dtype=np.int8)
    row = np.full(len(LABELS), ABSENT, dtype=np.int8)
    for rule, code in reversed(rules):  # what is said outranks what may be meant
        for name, findings in rule.items():
            if name.lower() in names:
                row[[LABELS.index(finding) for finding in findings]] = code
    return row


def heads(entry: str) -> set[str]:
    """'Mass/lung/right;Nodule' -> {'mass', 'nodule'}"""
    return {name for name in mesh_names(entry) if "/" not in name}


def known_heads() -> set[str]:
    """What some rule reads, and `normal`."""
    return {name.split("/")[0].lower() for name in (*SAYS, *NEIGHBOURS)} | {"normal", *USELESS}


def read_openi(root: str | Path) -> pd.DataFrame:
    """OpenI: ecgen-radiology/*.xml, or NLMCXR_reports.tgz as it is downloaded, or Kaggle's indiana_reports.csv with indiana_projections.csv.

    The findings are the MeSH terms that people gave to each report (SAYS: which term is which finding). One report is one
    patient: no patient is named. XML says no view; Kaggle's says Frontal or Lateral.
    """
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
    """Heads that no rule reads, and in how many images they stand."""
    return tally(entries, heads, known_heads())


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
