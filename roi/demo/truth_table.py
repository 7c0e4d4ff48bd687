"""A table of what is known of images, and the files that a layout makes of it.

A row an image: `image` (a PNG to make it from, "" for tables alone), `patient` and `study` (whole numbers), `view` (PA,
AP or LATERAL), `age`, `sex` (M, F), `split` (train, val, test) and 0 or 1 for each of LABELS, in sets of studies also
for MORE_LABELS; a column `report`, where there is one, is the text of its report.
"""

import gzip
import hashlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from roi.cxrlt_labels import TASK_2
from roi.demo.source_tables import WORDS_OF
from roi.labels import LABELS, NORMAL_LABELLED, published_name

# (name of the source PNG, finding) -> x, y, w, h in 0..1 of the sides
Boxes = Mapping[tuple[str, str], tuple[float, float, float, float]]

SIDE = 1024  # px of the space that NIH's boxes are in
# Of sets of studies (roi/demo/studies) a truth says these, too.
SHARED_LABELS = {*LABELS, NORMAL_LABELLED}
MORE_LABELS = tuple(name for name in map(published_name, TASK_2) if name not in SHARED_LABELS)
# A chest with a tube and nothing else is normal, as the sources have it.
BESIDE_NORMAL = {"Support Devices"}


def read_demo_truth(root: Path) -> tuple[pd.DataFrame, Boxes]:
    """What is known of a demo set in NIH's layout; one in ten patients outside the test list is for validation."""
    entries = pd.read_csv(root / "Data_Entry_2017.csv", index_col=False)
    names = entries["Image Index"]
    patients = entries["Patient ID"]
    listed = (root / "test_list.txt").read_text().split("\n")
    test = names.isin(set(listed))
    # By patient, as the test list is: one patient is in one part alone.
    others = patients[~test].unique()
    val = patients.isin(others[::10])
    files = {path.name: str(path) for path in root.glob("images_*/images/*.png")}
    truth = pd.DataFrame(
        {
            "image": names.map(files),
            "patient": patients,
            "study": entries["Follow-up #"],
            "view": entries["View Position"],
            "age": entries["Patient Age"],
            "sex": entries["Patient Gender"],
            "split": np.where(test, "test", np.where(val, "val", "train")),
        }
    )
    findings = entries["Finding Labels"].str.split("|").map(set)
    for label in LABELS:
        truth[label] = [int(label in present) for present in findings]
    return truth, read_demo_boxes(root / "BBox_List_2017.csv")


def read_demo_boxes(path: Path) -> Boxes:
    boxes = {}
    # The header has a comma in a name and commas at its end, as published: it says nothing of the columns.
    table = pd.read_csv(path, skiprows=1, header=None)
    for name, label, *edges in table.itertuples(index=False):
        x, y, w, h = (edge / SIDE for edge in edges)
        finding = "Infiltration" if label == "Infiltrate" else label
        boxes[name, finding] = (x, y, w, h)
    return boxes


# ---- columns --------------------------------------------------------------------------------------------------------


def say_findings(truth: pd.DataFrame, say: Callable[[set[str]], str]) -> list[str]:
    """What `say` makes of the findings of each row; it is asked once for each combination of them."""
    names = [label for label in (*LABELS, *MORE_LABELS) if label in truth]
    # A number a combination: a bit a finding.
    bits = 1 << np.arange(len(names))
    numbers = truth[names].to_numpy(np.int64) @ bits
    combinations, rows = np.unique(numbers, return_inverse=True)
    texts = []
    for number in combinations.tolist():
        findings = {label for k, label in enumerate(names) if number >> k & 1}
        texts.append(say(findings))
    return [texts[row] for row in rows.tolist()]


def report_texts(truth: pd.DataFrame) -> list[str]:
    """The text of each report: the column `report`, else a sentence each finding, present or not."""
    if "report" in truth:
        return truth["report"].tolist()
    return say_findings(truth, report_of)


def report_of(findings: set[str]) -> str:
    sentences = []
    for label in LABELS:
        word = WORDS_OF.get(label, label.lower())
        found = f"There is {word}."
        sentences.append(found if label in findings else f"There is no {word}.")
    for label in MORE_LABELS:
        if label in findings:
            word = WORDS_OF.get(label, label.lower())
            sentences.append(f"There is {word}.")
    return " ".join(sentences)


def constant(truth: pd.DataFrame, value: str) -> list[str]:
    return [value] * len(truth)


def study_numbers(truth: pd.DataFrame) -> pd.Series:
    """0, 1, 2 ... for the studies of all patients, in the order of their first rows."""
    return truth.groupby(["patient", "study"], sort=False).ngroup()


def place_in_study(truth: pd.DataFrame) -> pd.Series:
    """0, 1, 2 ... for the images of each study."""
    return truth.groupby(["patient", "study"]).cumcount()


def hashed_names(truth: pd.DataFrame) -> list[str]:
    """A name of 40 hexadecimal digits for each row, made from patient, study and place in it."""
    names = []
    rows = zip(truth["patient"], truth["study"], place_in_study(truth), strict=True)
    for patient, study, place in rows:
        key = f"{patient}/{study}/{place}".encode()
        names.append(hashlib.sha1(key).hexdigest())
    return names


# ---- files ----------------------------------------------------------------------------------------------------------


def write_rows(path: Path, header: str, columns: Iterable[Iterable], end: str = "\n") -> None:
    """A CSV file, compressed where its name ends in .gz.

    Args:
        path: the file; its folder is made.
        header: its first line.
        columns: fields that are ready: quoted where they must be, several joined by commas.
        end: of each line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    lines = [header, *rows, ""]
    data = end.join(lines).encode()
    if path.suffix == ".gz":
        # Without the time, so that the same table is the same bytes.
        data = gzip.compress(data, compresslevel=1, mtime=0)
    path.write_bytes(data)


def write_images(truth: pd.DataFrame, root: Path, paths: Iterable[str], bits: int = 8) -> list[str]:
    """Each image that has a source, under the path that it has in this set; these paths.

    It is copied, or encoded anew as JPEG or with 16 bits.
    """
    paths = list(paths)
    for source, path in zip(truth["image"], paths, strict=True):
        if not source:
            continue
        out = root / path
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".jpg":
            picture = Image.open(source).convert("L")
            picture.save(out, quality=95)
        elif bits == 16:
            grey = np.asarray(Image.open(source).convert("L")).astype(np.uint16)
            Image.fromarray(grey * 257).save(out, compress_level=1)  # 255 becomes 65535
        else:
            shutil.copyfile(source, out)
    return paths


def join_paths(folders: Iterable[object], names: Iterable[str]) -> list[str]:
    """Each name in its folder."""
    return [f"{folder}/{name}" for folder, name in zip(folders, names, strict=True)]
