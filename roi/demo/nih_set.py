"""A synthetic chest X-ray set in the layout of NIH ChestX-ray14: who is in it, with which findings, and its files.

The pictures are drawn by roi/demo/phantom.py. The same seed and size give the same bytes, whatever the number of
workers.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roi.choices import MIN_IMAGES, SIZES
from roi.demo.phantom import Patch, plant, render
from roi.demo.phantom_body import Case
from roi.demo.phantom_shapes import PLAN, Box, stream
from roi.errors import UserError
from roi.labels import LABELS
from roi.process_pool import in_order
from roi.synthetic import MAKER, MARKER

SHARDS = 12
CHUNK = 32  # images that a process draws at a time
TEST_SHARE, RGBA_SHARE, ABSURD_SHARE = 0.25, 0.01, 0.001
ABSURD_AGES = (411, 414, 148, 412, 155, 413)
# With commas inside two names and one at the end, as published.
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
SCANNERS = {
    "PA": ("2992,2991,0.143,0.143", "2048,2500,0.168,0.168", "2021,2020,0.194311,0.194311"),
    "AP": ("3056,2544,0.139,0.139", "2500,2048,0.168,0.168", "2500,2048,0.171,0.171"),
}
# Several images a patient, and findings that persist: a split by image leaks here as it does in NIH's.
FOLLOWUPS = (0.50, 0.22, 0.12, 0.08, 0.05, 0.03)  # share of patients with 1, 2 ... 6 images
STICKY, PERSIST = 0.50, 0.60  # an image stays (ab)normal; a finding is still there
TOGETHER = {  # how much likelier one finding makes the other
    ("Atelectasis", "Effusion"): 2.5,
    ("Mass", "Nodule"): 2.5,
    ("Cardiomegaly", "Effusion"): 2.0,
    ("Cardiomegaly", "Edema"): 2.0,
    ("Consolidation", "Effusion"): 1.8,
    ("Infiltration", "Edema"): 1.8,
    ("Infiltration", "Pneumonia"): 1.8,
    ("Emphysema", "Pneumothorax"): 2.0,
    ("Fibrosis", "Pleural_Thickening"): 2.0,
}


class Mix(NamedTuple):
    """How often images have findings, and which."""

    normal: float  # share of images without finding
    counts: tuple[float, ...]  # share of abnormal images with 1, 2, 3 ... findings
    together: dict[tuple[str, str], float]  # how much likelier one finding makes the other
    weights: tuple[float, ...] = (1.0,) * len(LABELS)  # how likely each finding is, before its companions are looked at


EASY_MIX = Mix(0.40, (0.35, 0.33, 0.22, 0.10), TOGETHER)


def draw_findings(
    rng: np.random.Generator,
    kept: list[tuple[str, int]],
    count: int,
    followup: int,
    mix: Mix = EASY_MIX,
) -> tuple[tuple[str, int], ...]:
    """Fill what persists up to `count` findings, each more likely beside its companions.

    Returns:
        (label, onset) in order of LABELS.
    """
    onset = dict(kept[:count])
    while len(onset) < count:
        # No finding comes twice; beside a companion it is likelier, whichever of the two is there.
        weights = np.array(mix.weights)
        for label in onset:
            weights[LABELS.index(label)] = 0.0
        for (a, b), factor in mix.together.items():
            if a in onset:
                weights[LABELS.index(b)] *= factor
            if b in onset:
                weights[LABELS.index(a)] *= factor
        place = rng.choice(len(LABELS), p=weights / weights.sum())
        label = LABELS[place]
        onset[label] = followup
    return tuple((label, onset[label]) for label in LABELS if label in onset)


def plan_patient(seed: int, patient: int, mix: Mix = EASY_MIX) -> list[Case]:
    """A patient's follow-ups: who it is, and which findings come, stay and go."""
    rng = stream(seed, patient, 0, PLAN)
    sex = "M" if rng.random() < 0.56 else "F"
    years = rng.normal(48, 16)
    age = int(np.clip(years, 5, 94))
    abnormal, cases = True, list[Case]()
    findings: tuple[tuple[str, int], ...] = ()
    images = 1 + int(rng.choice(len(FOLLOWUPS), p=FOLLOWUPS))
    for followup in range(images):
        if followup == 0 or rng.random() > STICKY:
            abnormal = rng.random() > mix.normal
        count = 0
        if abnormal:
            count = 1 + int(rng.choice(len(mix.counts), p=mix.counts))
        kept = [finding for finding in findings if rng.random() < PERSIST]
        findings = draw_findings(rng, kept, count, followup, mix)
        view = "PA" if rng.random() < 0.6 else "AP"
        scanner = SCANNERS[view][rng.integers(3)]
        # A follow-up is half a year.
        case = Case(
            seed=seed,
            patient=patient,
            followup=followup,
            view=view,
            sex=sex,
            age=age + followup // 2,
            scanner=scanner,
            findings=findings,
        )
        cases.append(case)
    return cases


def plan(images: int, seed: int, mix: Mix = EASY_MIX) -> list[Case]:
    """Every image of the set, in order of patient; a few ages are typing errors, as in the published table."""
    cases: list[Case] = []
    patient = 0
    while len(cases) < images:
        patient += 1
        missing = images - len(cases)
        cases += plan_patient(seed, patient, mix)[:missing]
    count = max(1, round(ABSURD_SHARE * images))
    wrong = stream(seed, 0, 0, PLAN).permutation(images)[:count]
    for k, row in enumerate(wrong):
        age = ABSURD_AGES[k % len(ABSURD_AGES)]
        cases[row] = replace(cases[row], age=age)
    return cases


@dataclass(frozen=True)
class Phantom:
    """Which set is made: its plan, findings and pictures. The easy one by default; roi/demo/hard_set.py has another."""

    plan: Callable[[int, int], list[Case]] = plan
    plant: Callable[[Case], list[Patch]] = plant
    render: Callable[[Case, int, list[Patch]], NDArray[np.uint8]] = render
    about: dict[str, Any] = field(default_factory=dict)  # what demo.json says of it


EASY = Phantom()


# ---- pictures -------------------------------------------------------------------------------------------------------


class BoxRow(NamedTuple):
    image: str
    label: str
    box: Box  # in 1024 x 1024 space


def shard_of(cases: Sequence[Case]) -> dict[int, str]:
    """Patient -> folder; patients are in order and never cut in two."""
    shards: dict[int, str] = {}
    for row, case in enumerate(cases):
        number = 1 + SHARDS * row // len(cases)
        shards.setdefault(case.patient, f"images_{number:03d}")
    return shards


def official_test(cases: Sequence[Case], seed: int) -> set[str]:
    """The official test images: whole patients, until they are a quarter of the set."""
    by_patient: dict[int, list[str]] = {}
    for case in cases:
        by_patient.setdefault(case.patient, []).append(case.name)
    names: set[str] = set()
    order = stream(seed, 0, 1, PLAN).permutation(list(by_patient))
    wanted = round(TEST_SHARE * len(cases))
    for patient in order:
        if len(names) >= wanted:
            break
        names.update(by_patient[int(patient)])
    return names


def draw_chunk(job: tuple[list[tuple[Case, Path, bool]], int, Phantom]) -> list[BoxRow]:
    """Draw and write some images (a worker's task); the boxes of what is there and named."""
    rows, size, phantom = job
    boxes: list[BoxRow] = []
    for case, path, rgba in rows:
        patches = phantom.plant(case)
        grey = phantom.render(case, size, patches)
        picture = Image.fromarray(grey)
        if rgba:
            picture = picture.convert("RGBA")
        # Noise does not compress: the fastest way to a valid file.
        picture.save(path, compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
        for patch in patches:
            if patch.label in case.labels:
                boxes.append(BoxRow(case.name, patch.label, patch.box()))
    return boxes


def draw_all(
    cases: Sequence[Case],
    folder: Path,
    size: int,
    seed: int,
    workers: int,
    phantom: Phantom = EASY,
) -> list[BoxRow]:
    """Write every image; the boxes of all, in order. The result does not depend on the number of workers."""
    shards = shard_of(cases)
    # Some images of NIH have four channels, all of them grey.
    count = max(2, round(RGBA_SHARE * len(cases)))
    order = stream(seed, 0, 2, PLAN).permutation(len(cases))
    rgba = set(order[:count].tolist())
    for k in range(SHARDS):
        shard = folder / f"images_{k + 1:03d}"
        (shard / "images").mkdir(parents=True)
    rows = []
    for row, case in enumerate(cases):
        shard = folder / shards[case.patient]
        path = shard / "images" / case.name
        rows.append((case, path, row in rgba))
    # Small chunks, so that no worker is left with a long one at the end.
    jobs = []
    for start in range(0, len(rows), CHUNK):
        jobs.append((rows[start : start + CHUNK], size, phantom))
    boxes: list[BoxRow] = []
    processes = 0 if workers == 1 else workers
    with closing(in_order(draw_chunk, jobs, processes)) as chunks:
        for chunk in chunks:
            boxes += chunk
    return boxes


# ---- files ----------------------------------------------------------------------------------------------------------


def write_tables(folder: Path, cases: Sequence[Case], boxes: Sequence[BoxRow], test: set[str]) -> None:
    """The four text files, byte for byte in the published formats (line ends included)."""
    rows = [HEADER]
    for case in cases:
        # What the table says, which in the hard set is not what is there.
        labels = "|".join(sorted(case.labels)) or "No Finding"
        person = f"{case.followup},{case.patient},{case.age},{case.sex}"
        rows.append(f"{case.name},{labels},{person},{case.view},{case.scanner}")
    write_lines(folder / "Data_Entry_2017.csv", rows, "\r\n")
    write_lines(folder / "BBox_List_2017.csv", box_lines(boxes), "\n")
    tested = [case.name for case in cases if case.name in test]
    others = [case.name for case in cases if case.name not in test]
    # As published, without a line feed at the end.
    (folder / "train_val_list.txt").write_bytes("\n".join(others).encode())
    (folder / "test_list.txt").write_bytes("\n".join(tested).encode())


def write_lines(path: Path, lines: list[str], end: str) -> None:
    """Each line with its end, whatever the system's own is."""
    text = "".join(line + end for line in lines)
    path.write_bytes(text.encode())


def box_lines(boxes: Sequence[BoxRow]) -> list[str]:
    """The list of boxes, finding by finding, as published; it spells one of them in its own way."""
    lines = [BOX_HEADER]
    for label in LABELS:
        spelling = "Infiltrate" if label == "Infiltration" else label
        for row in boxes:
            if row.label == label:
                edges = ",".join(f"{value:.15g}" for value in row.box)
                lines.append(f"{row.image},{spelling},{edges}")
    return lines


def check_request(
    out: Path,
    images: int,
    size: int,
    seed: int,
    workers: int,
    overwrite: bool,
) -> None:
    """Refuse values that make no set, and a folder that must not be touched.

    Raises:
        UserError: one of them; it names the flag.
    """
    if images < MIN_IMAGES:
        raise UserError(f"--images {images}: at least {MIN_IMAGES} are needed")
    smallest, largest = SIZES
    if not smallest <= size <= largest:
        raise UserError(f"--size {size}: choose a side between {smallest} and {largest} px")
    if seed < 0:
        raise UserError(f"--seed {seed}: choose 0 or a positive number")
    if workers < 1:
        raise UserError(f"--workers {workers}: at least 1 is needed")
    if out.is_dir() and any(out.iterdir()):
        if not overwrite:
            raise UserError(f"{out} is not empty; replace it with --overwrite or name another folder with --out")
        # --overwrite removes a demo set and nothing else.
        if not (out / MARKER).is_file():
            raise UserError(
                f"{out} is not a demo set (no {MARKER} in it), so it is not removed; name another folder with --out"
            )
    elif out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder with --out")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes the place of `out` when all of it is written; a run that fails leaves nothing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(out)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    aside = out.with_name(f".{out.name}.partial-old-{os.getpid()}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        # A folder cannot be replaced by another one: the earlier set steps aside for a moment.
        if out.exists():
            os.replace(out, aside)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def remove_stale(out: Path) -> None:
    """Remove what killed runs for the same folder left beside it."""
    for old in out.parent.glob(f".{out.name}.partial-*"):
        pid = old.name.rpartition("-")[2]
        try:
            os.kill(int(pid), 0)
        except (ValueError, ProcessLookupError):
            shutil.rmtree(old, ignore_errors=True)
        except PermissionError:  # alive, someone else's
            pass


def make_demo_dataset(
    out: Path,
    images: int = 3000,
    size: int = 256,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    phantom: Phantom = EASY,
) -> dict[str, Any]:
    """Write the whole set, or nothing.

    Returns:
        images, patients, test, positives {finding: images}, seconds, images_per_s
    """
    started = time.perf_counter()
    check_request(Path(out), images, size, seed, workers, overwrite)
    cases = phantom.plan(images, seed)
    test = official_test(cases, seed)
    summary: dict[str, Any] = {
        "images": images,
        "patients": len({case.patient for case in cases}),
        "test": len(test),
        "positives": count_positives(cases),
    }
    with new_folder(Path(out).resolve()) as folder:
        boxes = draw_all(cases, folder, size, seed, workers, phantom)
        write_tables(folder, cases, boxes, test)
        about = {"made_by": MAKER, "seed": seed, "size": size, "boxes": len(boxes)}
        about |= summary | phantom.about
        (folder / MARKER).write_text(json.dumps(about, indent=1) + "\n")
    seconds = time.perf_counter() - started
    return summary | {"seconds": seconds, "images_per_s": images / seconds}


def count_positives(cases: Sequence[Case]) -> dict[str, int]:
    """Finding -> images whose table names it."""
    counts = {}
    for label in LABELS:
        counts[label] = sum(label in case.labels for case in cases)
    return counts
