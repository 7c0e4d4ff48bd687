"""What is known about each data set: size, terms, how to get it, and which files must be there; and what of it is there.

A set NAME lies in DATA_ROOT/NAME in the layout in which it was published. Figures are those of the publications and of the
pages that distribute the sets; "about" stands where none is published. Nothing here is downloaded, and no image is decoded.
"""

import csv
import gzip
import os
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from roi.data.images import SHARDS
from roi.errors import UserError
from roi.files import contents, reason

SHARE = 0.99  # of the images of a set whose published number is not the number of its files


@dataclass(frozen=True)
class Table:
    """`names`: of one table, below the folder of the set; the first that is there counts. A name with '*' stands for files, a row each."""

    names: tuple[str, ...]
    rows: int | None = None  # as published, without the header; None: not published
    needed: bool = True


@dataclass(frozen=True)
class Edition:
    """A set as it is published in one place: it is complete when the needed tables and all images are there."""

    tables: tuple[Table, ...]
    images: int = 0  # files; 0: it has no images of its own
    folders: tuple[str, ...] = (".",)  # globs; images are counted in them and below
    ending: str = ".png"
    exact: bool = True  # `images` is the number of files
    name: str = ""


@dataclass(frozen=True)
class Source:
    title: str
    images: str
    patients: str
    size: str
    gigabytes: float  # on disk, about; for the check of free space
    access: str
    terms: str
    credentials: str
    citation: str
    url: str
    steps: tuple[str, ...]
    editions: tuple[Edition, ...]
    inner: tuple[str, ...] = ("",)  # folders inside the set's folder that may hold it
    archives: tuple[tuple[str, int, str], ...] = ()  # (glob, files, how to unpack)
    project: str = ""  # on PhysioNet: slug/version
    spellings: tuple[str, ...] = field(default=())  # other names of the set


FETCH = "python download_datasets.py --download {}"
CREDENTIALED = (
    "a PhysioNet account that is credentialed (identity and reference are checked, days), the CITI course 'Data or Specimens Only Research', "
    "and the data use agreement of the project, signed on its page"
)
PHYSIONET_TERMS = "PhysioNet Credentialed Health Data License 1.5.0: no attempt to identify anybody, no passing on, not even to online services"


def _physionet_steps(name: str, project: str) -> tuple[str, ...]:
    return (
        "Register on physionet.org, become a credentialed user (Settings, Credentialing), finish the CITI course and upload its report.",
        f"Sign the agreement at the end of https://physionet.org/content/{project}/",
        f"{FETCH.format(name)} --username YOURS [--only '*.csv*']: the password is asked for, or read from PHYSIONET_PASSWORD; each file is checked "
        "against SHA256SUMS.txt. PhysioNet takes passwords only from programs that it knows, so wget does the transfer where it refuses this one.",
        f"Or by hand: wget -r -N -c -np -nH --cut-dirs=3 -P Dataset/{name} --user YOURS --ask-password https://physionet.org/files/{project}/, "
        "then sha256sum --quiet -c SHA256SUMS.txt in that folder.",
    )


CHEXPERT_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"  # where the full download has its tables
CHEXPERT_TABLES = (
    Table(("train.csv", f"{CHEXPERT_BATCH}/train.csv"), 223_414),
    Table(("valid.csv", f"{CHEXPERT_BATCH}/valid.csv"), 234),
    Table(("train_cheXbert.csv",), None, needed=False),
)
LT_2024 = [
    ("labels.csv", 377_110),
    ("train_labeled.csv", 258_871),
    ("development_labeled_task1.csv", 39_293),
    ("test_labeled_task1.csv", 78_946),
]
LT_2024_MORE = ("development_labeled_task2.csv", "development_labeled_task3.csv", "test_labeled_task3.csv")

CATALOG: dict[str, Source] = {
    "nih": Source(
        title="NIH ChestX-ray14",
        images="112,120",
        patients="30,805",
        size="45 GB",
        gigabytes=45,
        access="Kaggle account, or none (Box)",
        terms="No restriction on use; link to the download site, cite the paper and acknowledge the NIH Clinical Center.",
        credentials="for Kaggle a token: kaggle.com, Settings, Create New Token; kaggle.json goes to ~/.kaggle/, or set KAGGLE_USERNAME and KAGGLE_KEY",
        citation="Wang X, Peng Y, Lu L, Lu Z, Bagheri M, Summers RM. ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks. CVPR 2017.",
        url="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        steps=(
            FETCH.format("nih")
            + ": through kagglehub, into its cache (KAGGLEHUB_CACHE); --data_root DIR makes DIR/nih a link to it.",
            "Or from the Box page: the twelve archives (unpack number k so that images_00k/images/*.png results), Data_Entry_2017_v2020.csv, "
            "BBox_List_2017.csv, train_val_list.txt, test_list.txt; then python download_datasets.py --gather Dataset/nih",
        ),
        editions=(
            Edition(
                (
                    Table(("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"), 112_120),
                    Table(("train_val_list.txt", "train_val_list_NIH.txt"), 86_524),
                    Table(("test_list.txt", "test_list_NIH.txt"), 25_596),
                    Table(("BBox_List_2017.csv", "BBox_List_2017_Official_NIH.csv"), 984, needed=False),
                ),
                112_120,
                (*SHARDS, "images"),
            ),
        ),
    ),
    "openi": Source(
        title="OpenI, Indiana University chest X-rays",
        images="7,470",
        patients="3,955 reports",
        size="about 3 GB with its archives",
        gigabytes=3,
        access="free",
        terms="Open-i (NLM): research use with citation; see the licence on the page of each image.",
        credentials="none",
        citation="Demner-Fushman D, Kohli MD, Rosenman MB, et al. Preparing a collection of radiology examinations for distribution and retrieval. "
        "J Am Med Inform Assoc 2016; 23(2): 304-310.",
        url="https://openi.nlm.nih.gov/faq#collection",
        steps=(
            FETCH.format("openi")
            + ": NLMCXR_reports.tgz (1 MB) and NLMCXR_png.tgz (over 1 GB), then both are unpacked beside them.",
        ),
        editions=(
            Edition((Table(("ecgen-radiology/*.xml", "NLMCXR_reports.tgz"), 3_955),), 7_470, name="NLM"),
            Edition(
                (Table(("indiana_reports.csv",), 3_851), Table(("indiana_projections.csv",), 7_466)),
                7_466,
                name="Kaggle",
            ),
        ),
        archives=(
            ("NLMCXR_reports.tgz", 1, "tar -xzf NLMCXR_reports.tgz"),
            ("NLMCXR_png.tgz", 1, "tar -xzf NLMCXR_png.tgz"),
        ),
    ),
    "rexgradient": Source(
        title="ReXGradient-160K",
        images="273,004",
        patients="109,487",
        size="about 150 GB, twice that while unpacking",
        gigabytes=150,
        access="Hugging Face account, agreement",
        terms="ReXGradient-160K Non-Commercial Data Access and Use Agreement: non-commercial research, no passing on.",
        credentials="a Hugging Face token with access to the gated set: --token or HF_TOKEN",
        citation="Zhang X, Acosta JN, Miller J, Huang O, Rajpurkar P. ReXGradient-160K: A Large-Scale Publicly Available Dataset of Chest Radiographs "
        "with Free-text Reports. arXiv:2505.00228, 2025.",
        url="https://huggingface.co/datasets/rajpurkarlab/ReXGradient-160K",
        steps=(
            "Log in to huggingface.co, accept the agreement on the page of the set, make a read token (Settings, Access Tokens).",
            f"HF_TOKEN=hf_... {FETCH.format('rexgradient')} [--only 'metadata/*']",
            "In Dataset/rexgradient: cat deid_png.part* | tar --zstd -x    (makes deid_png/; the parts may go then)",
        ),
        editions=(
            Edition(
                tuple(
                    Table((f"metadata/{split}_metadata_view_position.json",), studies)
                    for split, studies in (("train", 140_000), ("valid", 10_000), ("test", 10_000))
                ),
                273_004,
                ("deid_png",),
            ),
        ),
        archives=(("deid_png.part*", 10, "cat deid_png.part* | tar --zstd -x"),),
    ),
    "chexpert": Source(
        title="CheXpert",
        images="224,316",
        patients="65,240",
        size="439 GB, or 11 GB (small)",
        gigabytes=439,
        access="registration (Stanford AIMI)",
        terms="Stanford University Dataset Research Use Agreement: personal, non-commercial research, no passing on.",
        credentials="an account at Stanford AIMI; the page then shows a personal link",
        citation="Irvin J, Rajpurkar P, Ko M, et al. CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison. AAAI 2019.",
        url="https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2",
        steps=(
            "Register at the page above, accept the agreement; its download link is personal and works with azcopy: azcopy copy 'LINK' Dataset/chexpert "
            "--recursive. Programs cannot do this for you.",
            "Result: Dataset/chexpert/train.csv, valid.csv, train/patient00001/..., valid/...; a folder "
            "CheXpert-v1.0[-small] around them is fine, and so are the folders of the four archives beside each other "
            "('CheXpert-v1.0 batch 1 (validate & csv)', 'CheXpert-v1.0 batch 2 (train 1)', ...). "
            "224,316 counts the 668 images of the test set too, which lie elsewhere: train and valid are 223,648.",
        ),
        editions=(Edition(CHEXPERT_TABLES, 223_648, ("train", "valid", "CheXpert-v1.0 batch *"), ".jpg"),),
        inner=("", "CheXpert-v1.0", "CheXpert-v1.0-small", "chexpertchestxrays-u20210408"),
    ),
    "mimic": Source(
        title="MIMIC-CXR-JPG 2.1.0",
        images="377,110",
        patients="65,379",
        size="about 570 GB",
        gigabytes=570,
        access="PhysioNet, credentialed",
        terms=PHYSIONET_TERMS,
        credentials=CREDENTIALED,
        citation="Johnson A, Lungren M, Peng Y, Lu Z, Mark R, Berkowitz S, Horng S. MIMIC-CXR-JPG - chest radiographs with structured labels (version 2.1.0). "
        "PhysioNet 2024, doi 10.13026/jsn5-t979; Johnson AEW et al. arXiv:1901.07042; Goldberger A et al. PhysioBank, PhysioToolkit, and PhysioNet. "
        "Circulation 2000; 101(23): e215-e220.",
        url="https://physionet.org/content/mimic-cxr-jpg/2.1.0/",
        steps=_physionet_steps("mimic", "mimic-cxr-jpg/2.1.0"),
        editions=(
            Edition(
                tuple(
                    Table((f"mimic-cxr-2.0.0-{what}.csv.gz", f"mimic-cxr-2.0.0-{what}.csv"), rows)
                    for what, rows in (
                        ("metadata", 377_110),
                        ("split", 377_110),
                        ("chexpert", 227_827),
                        ("negbio", 227_827),
                    )
                ),
                377_110,
                ("files",),
                ".jpg",
            ),
        ),
        project="mimic-cxr-jpg/2.1.0",
    ),
    "padchest": Source(
        title="PadChest",
        images="160,868",
        patients="67,625",
        size="about 1 TB",
        gigabytes=1000,
        access="request form (BIMCV)",
        terms="PADCHEST Dataset Research Use Agreement: research, no passing on.",
        credentials="the form on the page of BIMCV; a link comes by mail",
        citation="Bustos A, Pertusa A, Salinas JM, de la Iglesia-Vaya M. PadChest: A large chest x-ray image dataset with multi-label annotated reports. "
        "Medical Image Analysis 2020; 66: 101797.",
        url="https://bimcv.cipf.es/bimcv-projects/padchest/",
        steps=(
            "Fill in the form at the page above and accept the agreement; BIMCV answers with the links. Programs cannot do this for you.",
            "Unpack each NN.zip into a folder NN: Dataset/padchest/0/*.png ... 50/, 54/; beside them PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv "
            "or the same as .csv.gz. The table has 160,861 rows; the paper counts 160,868 images.",
        ),
        editions=(
            Edition(
                (
                    Table(
                        tuple(f"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{end}" for end in ("", ".gz")),
                        160_861,
                    ),
                ),
                160_861,
                ("[0-9]", "[0-9][0-9]"),
                exact=False,
            ),
        ),
        archives=(("[0-9]*.zip", 52, "unzip each NN.zip into a folder NN"),),
    ),
    "vindr": Source(
        title="VinDr-CXR 1.0.0",
        images="18,000",
        patients="not published",
        size="about 200 GB",
        gigabytes=200,
        access="PhysioNet, credentialed",
        terms=PHYSIONET_TERMS,
        credentials=CREDENTIALED,
        citation="Nguyen HQ, Lam K, Le LT, et al. VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations. Scientific Data 2022; 9: 429; "
        "PhysioNet 2021 (version 1.0.0), doi 10.13026/3akn-b287.",
        url="https://physionet.org/content/vindr-cxr/1.0.0/",
        steps=_physionet_steps("vindr", "vindr-cxr/1.0.0"),
        editions=(
            Edition(
                (
                    Table(("annotations/image_labels_train.csv",), 45_000),
                    Table(("annotations/image_labels_test.csv",), 3_000),
                    Table(("annotations/annotations_train.csv",)),
                    Table(("annotations/annotations_test.csv",)),
                ),
                18_000,
                ("train", "test"),
                ".dicom",
            ),
        ),
        project="vindr-cxr/1.0.0",
    ),
    "vinbigdata": Source(
        title="VinBigData Chest X-ray Abnormalities Detection",
        images="18,000",
        patients="not published",
        size="about 200 GB",
        gigabytes=200,
        access="Kaggle account, competition rules",
        terms="The rules of the competition: non-commercial research and education.",
        credentials="a Kaggle token (see nih), and the rules accepted on the page of the competition",
        citation="Nguyen HQ, Lam K, Le LT, et al. VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations. Scientific Data 2022; 9: 429; "
        "VinBigData Chest X-ray Abnormalities Detection, Kaggle 2020.",
        url="https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection",
        steps=(
            "Accept the rules: https://www.kaggle.com/competitions/vinbigdata-chest-xray-abnormalities-detection/rules",
            FETCH.format("vinbigdata")
            + ": through kagglehub, into its cache; Dataset/vinbigdata becomes a link to it.",
            "Its images are those of VinDr-CXR under other names: do not train on one and test on the other.",
        ),
        editions=(Edition((Table(("train.csv",), 67_914),), 18_000, ("train", "test"), ".dicom"),),
    ),
    "cxrlt": Source(
        title="CXR-LT 2023 and 2024 (labels of MIMIC-CXR-JPG)",
        images="377,110 (those of mimic)",
        patients="65,379",
        size="under 1 GB",
        gigabytes=1,
        access="PhysioNet, credentialed",
        terms=PHYSIONET_TERMS,
        credentials=CREDENTIALED,
        citation="Holste G, Lin M, Wang S, Zhou Y, Wei Y, Chen H, Wang A, Peng Y. CXR-LT: Multi-Label Long-Tailed Classification on Chest X-Rays "
        "(version 2.0.0). PhysioNet 2025, doi 10.13026/ryj9-x506; Lin M et al. CXR-LT 2024. arXiv:2506.07984.",
        url="https://physionet.org/content/cxr-lt-iccv-workshop-cvamd/2.0.0/",
        steps=(
            *_physionet_steps("cxrlt", "cxr-lt-iccv-workshop-cvamd/2.0.0"),
            "The images are those of MIMIC-CXR-JPG (mimic). One year suffices: cxr-lt-2024/, or train.csv, development.csv, test.csv of 2023.",
        ),
        editions=(
            Edition(
                (
                    *(Table((f"cxr-lt-2024/{name}", name), rows) for name, rows in LT_2024),
                    Table(("cxr-lt-2024/test_labeled_task2.csv", "test_labeled_task2.csv"), 406, needed=False),
                    *(Table((f"cxr-lt-2024/{name}", name), needed=False) for name in LT_2024_MORE),
                ),
                name="2024",
            ),
            Edition(
                tuple(
                    Table((f"cxr-lt-2023/{split}.csv", f"{split}.csv"), rows)
                    for split, rows in (("train", 264_849), ("development", 36_769), ("test", 75_492))
                ),
                name="2023",
            ),
        ),
        project="cxr-lt-iccv-workshop-cvamd/2.0.0",
        spellings=("cxr-lt",),
    ),
}


def source_name(text: str) -> str:
    """The key of a set, whichever way it is spelled; UserError lists all."""
    for name, source in CATALOG.items():
        if text.lower() in (name, *source.spellings):
            return name
    raise UserError(f"{text!r} is none of the data sets: {', '.join(CATALOG)}")


def folder_of(name: str, data_root: Path) -> Path:
    """DATA_ROOT/NAME, or the folder of another spelling if that one is there."""
    places = [data_root / spelling for spelling in (name, *CATALOG[name].spellings)]
    return next((place for place in places if place.is_dir()), places[0])


@dataclass
class Found:
    """What of a set is there; `lines` says it to people."""

    folder: Path
    there: bool
    complete: bool
    lines: list[str]


def tables_there(name: str, data_root: Path) -> tuple[Edition, Path, dict[Table, Path]]:
    """-> (the edition of which most is there, the folder that holds it, its tables with their first file). Only names are looked at."""
    best: tuple[Edition, Path, dict[Table, Path]] | None = None
    for inner in CATALOG[name].inner:
        folder = folder_of(name, data_root) / inner
        for edition in CATALOG[name].editions:
            tables = {table: path for table in edition.tables if (path := _first(folder, table.names))}
            if best is None or sum(t.needed for t in tables) > sum(t.needed for t in best[2]):
                best = edition, folder, tables
    assert best is not None  # every set has an edition
    return best


def check(name: str, data_root: Path) -> Found:
    """Look for the tables of a set, count their rows and its images (names only, nothing is decoded)."""
    source = CATALOG[name]
    edition, folder, tables = tables_there(name, data_root)
    images = count_images(folder, edition)
    if not tables and not images:
        sought = " or ".join(" + ".join(t.names[0] for t in e.tables if t.needed) for e in source.editions)
        looked_in = folder_of(name, data_root)
        seen = f"; it holds {contents(looked_in)}" if looked_in.is_dir() else ""
        lines = [f"looked in {looked_in} for {sought}{seen}", *_misplaced(name, data_root), *_archives(source, folder)]
        return Found(folder, looked_in.is_dir(), False, lines)
    lines, complete = [], True
    for table in edition.tables:
        said, good = _table_line(folder, table, tables.get(table))
        lines += [said] * bool(said)
        complete &= good
    if edition.images:
        enough = images >= edition.images * (1.0 if edition.exact else SHARE)
        about = "" if edition.exact else "about "
        of = f"all {images:,} are there" if images == edition.images else f"{images:,} of {about}{edition.images:,}"
        lines.append(
            f"images (*{edition.ending}): {of}{'' if enough else f', {edition.images - images:,} are missing'}"
        )
        complete &= enough
    if not complete:
        lines += _archives(source, folder)
    return Found(folder, True, complete, lines)


def _table_line(folder: Path, table: Table, path: Path | None) -> tuple[str, bool]:
    """-> (what to say of a table, whether it is as it should be)."""
    if path is None:
        others = f" (nor is it there as {' or '.join(table.names[1:])})" if table.names[1:] else ""
        return (f"{table.names[0]}: missing{others}" if table.needed else ""), not table.needed
    if "*" in table.names[0] and path.match(table.names[0]):
        shown, unit, number = table.names[0], "files", sum(1 for _ in folder.glob(table.names[0]))
    else:
        shown, unit = str(path.relative_to(folder)), "rows"
        try:
            number = count_rows(path)
        except ValueError as error:
            return str(error), False
    if table.rows in (None, number):
        return f"{shown}: {number:,} {unit}", True
    return (
        f"{shown}: {number:,} {unit}, but {table.rows:,} are published: {'cut off?' if number < (table.rows or 0) else 'another version?'}",
        False,
    )


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    for name in names:
        path = next(iter(folder.glob(name)), None) if "*" in name else folder / name
        if path is not None and path.is_file():
            return path
    return None


def _misplaced(name: str, data_root: Path) -> list[str]:
    """The commonest mistake: DATA_ROOT is the folder of the set itself."""
    names = [n for edition in CATALOG[name].editions for table in edition.tables for n in table.names]
    if name != "cxrlt" and (path := _first(data_root, tuple(n for n in names if n not in ("train.csv", "valid.csv")))):
        return [
            f"{path} lies in --data_root itself, which is the folder above that of the set: rename or link {data_root} to .../{name}"
        ]
    return []


def _archives(source: Source, folder: Path) -> list[str]:
    lines = []
    for pattern, number, how in source.archives:
        here = sum(1 for p in folder.glob(pattern) if not p.name.endswith(".part"))
        if here:
            lines.append(
                f"{pattern}: {here} of {number} here; "
                + (f"to unpack: {how}" if here >= number else "the download is not complete")
            )
    return lines


def count_rows(path: Path) -> int:
    """Rows of a table without its header: CSV (.gz too; a cell may hold line ends), studies of a JSON of ReXGradient,
    reports of a .tgz, lines of a list.

    UserError: the file cannot be read to its end.
    """
    try:
        if path.suffix == ".txt":
            with open(path, encoding="utf-8-sig") as file:
                return sum(1 for line in file if line.strip())
        if path.suffix == ".json":
            return _count_studies(path)
        if path.suffix == ".tgz":
            with tarfile.open(path) as tar:
                return sum(1 for name in tar.getnames() if name.endswith(".xml"))
        with (
            gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="")
            if path.suffix == ".gz"
            else open(path, encoding="utf-8", errors="replace", newline="") as file
        ):
            return max(0, sum(1 for row in csv.reader(file) if row) - 1)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{path.name}: cannot be read to its end ({reason(error)}); download it again") from error


def _count_studies(path: Path, key: bytes = b'"StudyInstanceUid"') -> int:
    """Each study names its UID once: counting that needs no memory, and hundreds of megabytes of JSON would."""
    number, rest = 0, b""
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            text = rest + block
            number += text.count(key)
            rest = text[-len(key) + 1 :]
    if rest.rstrip()[-1:] not in (b"}", b"]"):
        raise EOFError("the JSON does not end")
    return number


def count_images(folder: Path, edition: Edition) -> int:
    """Files with the ending of the edition in its folders and below. Links that gather shards into one folder are not counted twice."""
    if not edition.images:
        return 0
    tops = sorted(
        {
            top
            for pattern in edition.folders
            for top in (folder.glob(pattern) if pattern != "." else [folder])
            if top.is_dir()
        }
    )
    number, todo = 0, [str(top) for top in tops]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.name.lower().endswith(edition.ending):
                    number += not (len(tops) > 1 and entry.is_symlink())
                elif entry.is_dir():
                    todo.append(entry.path)
    return number
