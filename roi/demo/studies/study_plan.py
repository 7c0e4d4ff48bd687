"""Who is in a set of studies: which views were taken, which findings are there, and in which kind of view they show.

A study is one examination of a patient, of one to four images. A finding is of the study; whether it can be seen on a
frontal image, on a lateral one or on both is drawn. Nodule and Lung Lesion are decided by both kinds together: what is
drawn for them on one view says only that they may be there (CONJUNCTIONS).

A study of a patient may be the same as his last one, so that a split by image or by study leaks.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

from roi.cxrlt_labels import TASK_2
from roi.demo.phantom_body import Case
from roi.demo.phantom_shapes import stream
from roi.errors import UserError
from roi.labels import NORMAL_LABELLED, published_name

PLAN, SPLIT, LESION = 61, 62, 63  # streams
CLASSES = tuple(published_name(name) for name in TASK_2)
CONJUNCTIONS = ("Nodule", "Lung Lesion")
OPACITY = "Lung Opacity"
# Lung Opacity is any of these.
OPACITIES = ("Atelectasis", "Consolidation", "Edema", "Infiltration", "Mass", "Pneumonia")
# As in CXR-LT, an image with a tube and nothing else is normal.
BESIDE_NORMAL = "Support Devices"
# Of the 24 that are drawn, as frequent in MIMIC-CXR the one as the next.
FREQUENT_FIRST = (
    *("Support Devices", "Effusion", "Atelectasis", "Cardiomegaly", "Edema", "Pneumonia"),
    *("Enlarged Cardiomediastinum", "Consolidation", "Nodule", "Pneumothorax", "Fracture", "Infiltration"),
    *("Mass", "Hernia", "Emphysema", "Lung Lesion", "Calcification of the Aorta", "Tortuous Aorta"),
    *("Pleural_Thickening", "Fibrosis", "Subcutaneous Emphysema", "Pleural Other", "Pneumomediastinum"),
    "Pneumoperitoneum",
)
BALANCED = 0.12
# Half of the studies have one kind of view alone: fewer would leave too few pairs to learn from.
BALANCED_CONJUNCTION = 0.20
MOST, LEAST = 0.30, 0.005  # of the long tail
NORMAL_SHARE = 0.30  # of studies that have none of the findings that one view can show

# MIMIC-CXR: studies of 1, 2, 3 and 4 images.
STUDIES_OF_SIZE = (69_478, 71_298, 13_529, 1_422)
# Which views they are, and how often.
VIEWS_OF_SIZE: tuple[tuple[tuple[tuple[str, ...], float], ...], ...] = (
    ((("AP",), 0.60), (("PA",), 0.25), (("LATERAL",), 0.15)),
    ((("PA", "LATERAL"), 0.70), (("AP", "LATERAL"), 0.15), (("AP", "AP"), 0.15)),
    ((("PA", "LATERAL", "LATERAL"), 0.45), (("PA", "PA", "LATERAL"), 0.35), (("AP", "AP", "LATERAL"), 0.20)),
    ((("PA", "PA", "LATERAL", "LATERAL"), 0.70), (("AP", "AP", "LATERAL", "LATERAL"), 0.30)),
)
STUDIES_OF_PATIENT = (0.35, 0.25, 0.20, 0.12, 0.08)  # share of patients with 1, 2 ... 5
SAME_AGAIN = 0.35  # of later studies that have what the last one had
# Where a finding shows: in both kinds of view, in frontal ones alone, in lateral ones alone.
SHOWN = ((True, True), (True, False), (False, True))
SHOWN_SHARES = (0.40, 0.35, 0.25)
TEST_SHARE, VAL_SHARE = 0.25, 0.10
MIN_STUDIES = 20


@dataclass(frozen=True)
class Lesion:
    """What is drawn for a finding of a study."""

    label: str
    onset: int  # study at which it appeared, so that it keeps its shape
    present: bool  # False: it only looks so
    frontal: bool  # drawn on frontal images
    lateral: bool
    zones: tuple[int, int] = (0, 0)  # of a conjunction: upper (0) or lower (1), on frontal and on lateral images


@dataclass(frozen=True)
class Study:
    """An examination."""

    seed: int
    patient: int
    number: int  # of the patient's
    views: tuple[str, ...]
    sex: str
    age: int
    split: str
    lesions: tuple[Lesion, ...]

    @property
    def labels(self) -> set[str]:
        """Its classes, those that follow from others included."""
        found = {lesion.label for lesion in self.lesions if lesion.present}
        if found & set(OPACITIES):
            found.add(OPACITY)
        if not found - {BESIDE_NORMAL}:
            found.add(NORMAL_LABELLED)
        return found

    @property
    def has_both_kinds(self) -> bool:
        lateral = self.views.count("LATERAL")
        return 0 < lateral < len(self.views)

    def case(self, place: int) -> Case:
        """The image at a place of the study; the body is the patient's, its position the image's."""
        number = len(STUDIES_OF_SIZE) * self.number + place
        return Case(
            seed=self.seed,
            patient=self.patient,
            followup=number,
            view=self.views[place],
            sex=self.sex,
            age=self.age,
        )


def prevalences(long_tail: bool) -> dict[str, float]:
    """Share of studies that have each finding that is drawn."""
    if not long_tail:
        shares = dict.fromkeys(FREQUENT_FIRST, BALANCED)
        return shares | dict.fromkeys(CONJUNCTIONS, BALANCED_CONJUNCTION)
    shares = np.geomspace(MOST, LEAST, len(FREQUENT_FIRST)).tolist()
    return dict(zip(FREQUENT_FIRST, shares, strict=True))


def plan_studies(studies: int, seed: int, long_tail: bool) -> list[Study]:
    """Every study of a set, in order of patient, each patient in one split.

    Raises:
        UserError: too few.
    """
    if studies < MIN_STUDIES:
        raise UserError(f"--studies {studies}: at least {MIN_STUDIES} are needed")
    shares = prevalences(long_tail)
    sizes: list[int] = []
    while sum(sizes) < studies:
        # One stream a patient: more studies are the same ones and others after them.
        rng = stream(seed, len(sizes) + 1, 0, PLAN)
        count = 1 + int(rng.choice(len(STUDIES_OF_PATIENT), p=STUDIES_OF_PATIENT))
        missing = studies - sum(sizes)
        sizes.append(min(count, missing))
    splits = split_patients(sizes, seed)
    planned: list[Study] = []
    for k, count in enumerate(sizes):
        planned += plan_patient(seed, k + 1, count, splits[k], shares)
    return planned


def split_patients(sizes: list[int], seed: int) -> list[str]:
    """train, val or test for each patient: whole patients until a part has its share of the studies."""
    total = sum(sizes)
    last_test = TEST_SHARE * total
    last_val = (TEST_SHARE + VAL_SHARE) * total
    splits = ["train"] * len(sizes)
    done = 0
    order = stream(seed, 0, 0, SPLIT).permutation(len(sizes))
    for patient in order.tolist():
        if done >= last_val:
            break
        splits[patient] = "test" if done < last_test else "val"
        done += sizes[patient]
    return splits


def plan_patient(seed: int, patient: int, count: int, split: str, shares: dict[str, float]) -> list[Study]:
    """The studies of a patient."""
    rng = stream(seed, patient, 1, PLAN)
    sex = "M" if rng.random() < 0.53 else "F"
    years = rng.normal(60, 17)
    age = int(np.clip(years, 18, 91))
    planned: list[Study] = []
    lesions: tuple[Lesion, ...] = ()
    for number in range(count):
        if number == 0 or rng.random() >= SAME_AGAIN:
            lesions = draw_lesions(rng, number, shares)
        study = Study(
            seed=seed,
            patient=patient,
            number=number,
            views=draw_views(rng),
            sex=sex,
            age=age + number // 2,  # two studies a year
            split=split,
            lesions=lesions,
        )
        planned.append(study)
    return planned


def draw_views(rng: np.random.Generator) -> tuple[str, ...]:
    """As many images as MIMIC's studies have."""
    shares = np.array(STUDIES_OF_SIZE) / sum(STUDIES_OF_SIZE)
    kinds = VIEWS_OF_SIZE[rng.choice(len(shares), p=shares)]
    share_of_kinds = [share for _, share in kinds]
    views, _ = kinds[rng.choice(len(kinds), p=share_of_kinds)]
    return views


def draw_lesions(rng: np.random.Generator, number: int, shares: dict[str, float]) -> tuple[Lesion, ...]:
    """What is found at a study, in order of CLASSES."""
    is_abnormal = rng.random() >= NORMAL_SHARE
    lesions = []
    for label in CLASSES:
        if label in CONJUNCTIONS:
            # Whatever else is found: nothing but the two views together may say it.
            lesions += draw_conjunction(rng, label, number, shares[label])
            continue
        if label not in shares:
            continue
        share = shares[label]
        if label != BESIDE_NORMAL:
            share *= is_abnormal / (1 - NORMAL_SHARE)
        # Drawn for absent findings, too, so that one share changes no other finding.
        is_present = rng.random() < share
        kind = rng.choice(len(SHOWN), p=SHOWN_SHARES)
        frontal, lateral = SHOWN[kind]
        if is_present:
            lesions.append(Lesion(label, number, True, frontal, lateral))
    return tuple(lesions)


def draw_conjunction(rng: np.random.Generator, label: str, number: int, share: float) -> list[Lesion]:
    """A sign on both kinds of view at one height: the finding. At two heights, or on one kind alone: none.

    On each kind of view the sign is as often high as low, whether the finding is there or not.
    """
    # As often at two heights as at one, and half as often on one kind alone: of five signs that one kind of view
    # shows two are the finding, whatever they look like.
    edges = np.cumsum((share, share, share / 2, share / 2))
    luck = rng.random()
    state = int(np.searchsorted(edges, luck, side="right"))
    zone = int(rng.random() < 0.5)
    sign = partial(Lesion, label, number)
    if state == 0:
        return [sign(present=True, frontal=True, lateral=True, zones=(zone, zone))]
    if state == 1:
        return [sign(present=False, frontal=True, lateral=True, zones=(zone, 1 - zone))]
    if state in (2, 3):
        return [sign(present=False, frontal=state == 2, lateral=state == 3, zones=(zone, zone))]
    return []
