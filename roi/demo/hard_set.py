"""The hard demo set: who is in it, and what its table says of each image.

Findings are as frequent as in NIH ChestX-ray14, so that rare ones are rare, and the table is as wrong as one made by
text mining: a finding that is there may be missed, one that is not may be named. A box is drawn where a finding is both
there and named, as NIH's were for images that had the label. What is drawn never depends on the table.
"""

from dataclasses import dataclass

from roi.demo.nih_set import Mix, Phantom, plan
from roi.demo.phantom_body import Case
from roi.demo.phantom_hard import plant_hard, render_hard
from roi.demo.phantom_shapes import stream
from roi.labels import LABELS

TABLE = 60  # stream
WRONG = 0.15  # share of the positives of a finding that the table misses, and of those it names that are not there

# Data_Entry_2017_v2020.csv: 112,120 images.
PREVALENCE: dict[str, float] = {
    "Atelectasis": 0.1031,
    "Cardiomegaly": 0.0248,
    "Effusion": 0.1188,
    "Infiltration": 0.1774,
    "Mass": 0.0516,
    "Nodule": 0.0565,
    "Pneumonia": 0.0128,
    "Pneumothorax": 0.0473,
    "Consolidation": 0.0416,
    "Edema": 0.0205,
    "Emphysema": 0.0224,
    "Fibrosis": 0.0150,
    "Pleural_Thickening": 0.0302,
    "Hernia": 0.0020,
}
TOGETHER = {  # the same table: how much more often two findings meet than if they did not know of each other
    ("Atelectasis", "Effusion"): 2.4,
    ("Atelectasis", "Consolidation"): 2.5,
    ("Cardiomegaly", "Effusion"): 3.2,
    ("Cardiomegaly", "Edema"): 2.2,
    ("Consolidation", "Effusion"): 2.3,
    ("Consolidation", "Mass"): 2.5,
    ("Consolidation", "Pneumonia"): 2.1,
    ("Edema", "Effusion"): 2.2,
    ("Edema", "Infiltration"): 2.4,
    ("Edema", "Pneumonia"): 11.0,
    ("Effusion", "Pleural_Thickening"): 2.1,
    ("Emphysema", "Pneumothorax"): 6.3,
    ("Fibrosis", "Pleural_Thickening"): 3.5,
    ("Infiltration", "Pneumonia"): 2.4,
    ("Mass", "Nodule"): 2.8,
    ("Mass", "Pleural_Thickening"): 2.6,
    ("Nodule", "Pleural_Thickening"): 2.1,
}
# Fitted until `plan_hard` has the prevalences above: companions raise some findings, and common ones cannot come twice.
WEIGHTS = (
    *(0.453, 0.0985, 0.523, 1.0, 0.227, 0.267, 0.0460),
    *(0.226, 0.164, 0.0715, 0.0976, 0.0700, 0.128, 0.0101),
)
HARD_MIX = Mix(0.54, (0.60, 0.275, 0.094, 0.031), TOGETHER, WEIGHTS)


@dataclass(frozen=True)
class MislabeledCase(Case):
    """A case whose table says something of its own."""

    stated: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return self.stated


def state_labels(case: Case) -> MislabeledCase:
    """Draw what the table says. Misses and false alarms balance: a finding is named as often as it is there."""
    rng = stream(case.seed, case.patient, case.followup, TABLE)
    draws = rng.random(len(LABELS))
    present = dict(case.findings)
    stated: list[str] = []
    for label, draw in zip(LABELS, draws, strict=True):
        prevalence = PREVALENCE[label]
        # As many in number as are missed: of a rare finding few of the many images without it.
        false_alarms = WRONG * prevalence / (1 - prevalence)
        named = draw >= WRONG if label in present else draw < false_alarms
        if named:
            stated.append(label)
    fields = {name: getattr(case, name) for name in Case.__dataclass_fields__}
    return MislabeledCase(**fields, stated=tuple(stated))


def plan_hard(images: int, seed: int) -> list[Case]:
    """Every image of the hard set, in order of patient."""
    return [state_labels(case) for case in plan(images, seed, HARD_MIX)]


HARD = Phantom(plan_hard, plant_hard, render_hard, {"hard": True, "wrong_labels": WRONG})
