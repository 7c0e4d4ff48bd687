"""metrics.json: what evaluate.py writes and the report reads.

A block that is not what it must be is left out and said; a file without the scores themselves is refused.
"""

import json
import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from roi.errors import UserError
from roi.scoring.json_schema import (
    COUNT,
    FLAG,
    MODEL,
    NUMBER,
    ORIGIN,
    TEXT,
    Each,
    Either,
    Items,
    Keys,
    Maybe,
    problems,
)
from roi.scoring.localization import controls_of

SCORE = {"value": Maybe(NUMBER), "low": Maybe(NUMBER), "high": Maybe(NUMBER)}
V = Keys(optional=SCORE)
WHOLE_V = Keys(SCORE)
TESTED = Keys(optional=SCORE | {"p": Maybe(NUMBER), "p_delong": Maybe(NUMBER)})
SCORES = Each(Maybe(V))
CURVE = Items(Items(Maybe(NUMBER)), 2)
# Of the scores of a finding those that are shown.
SHOWN_SCORES = ("auroc", "auroc_delong", "ap", "f1", "precision", "recall", "specificity")
OF_FINDING = Keys(
    optional={
        **dict.fromkeys(SHOWN_SCORES, Maybe(V)),
        "positives": COUNT,
        "known": COUNT,
        "threshold": Maybe(NUMBER),
        "roc": CURVE,
        "pr": CURVE,
    }
)
ERRORS = Keys(optional={"ece": Maybe(NUMBER), "brier": Maybe(NUMBER)})
METHOD = Keys(optional={"mean": ERRORS, "per_class": Each(ERRORS), "reliability": Items(Items(NUMBER, 3))})
GROUP = Keys(
    optional={
        "n_images": COUNT,
        "n_patients": COUNT,
        "auroc": Maybe(V),
        "auroc_own": Maybe(V),
        "findings_own": Maybe(Items(TEXT)),
    }
)
GROUPS = Keys(
    optional={
        "findings": Items(TEXT),
        "groups": Each(GROUP),
        "gap": Maybe(Keys(optional=SCORE | {"best": TEXT, "worst": TEXT})),
    }
)
SIDE = Keys(optional={"mean": Maybe(V), "per_class": SCORES})
AREAS = ("crop", "drop", "insertion_area", "deletion_area", "positives", "negatives")
RANKING = Keys(
    optional={
        **dict.fromkeys(AREAS, Maybe(V)),
        "insertion": Items(Maybe(NUMBER)),
        "deletion": Items(Maybe(NUMBER)),
        "minus": Each(Keys(optional=dict.fromkeys(AREAS, Maybe(V)))),
    }
)
CONTROLS = Keys(
    {"sources": Each(RANKING), "fractions": Items(NUMBER)},
    {"n_images": COUNT, "keep_ratio": NUMBER, "contaminated": Maybe(FLAG)},
)
PLACED = Each(WHOLE_V)
PLACES = Keys(
    {"mean": PLACED},
    {"kind": TEXT, "per_class": Each(PLACED), "minus": Each(PLACED), "minus_per_class": Each(Each(PLACED))},
)
HEADLINE = Keys({"source": TEXT, "kind": TEXT, "pointing": WHOLE_V, "minus": Each(WHOLE_V)})
CHOSEN = Keys(
    {
        "folds": COUNT,
        "grid": COUNT,
        "deals": COUNT,
        "best_place": Keys({"pairs_without_place": COUNT}),
        "label_place": Each(Keys({"n_images": COUNT, "from": TEXT})),
    }
)
RULE = Keys(
    {"threshold": NUMBER, "fnr": WHOLE_V, "fnr_with_finding": WHOLE_V, "fdr": WHOLE_V},
    {"size": V, "size_with_finding": V},
)
RATES = Each(Maybe(NUMBER))
SHIFT = Keys(
    optional={
        "warning": Maybe(TEXT),
        "calibration": RATES,
        "prevalence": RATES,
        "with_finding": Maybe(NUMBER),
        "calibration_with_finding": Maybe(NUMBER),
    }
)

# mAP and mAUROC over several classes.
MEANS = {"map": V, "mauroc": V}
LONG_TAIL = Keys(
    {"rule": TEXT, "n_train_images": COUNT, "train_positives": Each(COUNT)},
    {
        "train_csv": TEXT,
        "not_in_training": Items(TEXT),
        "bins": Each(Keys({"classes": Items(TEXT)}, {"scored": COUNT, **MEANS})),
        "challenge": Keys(
            optional={
                **MEANS,
                "mf1": V,
                "mece": V,
                **dict.fromkeys(("classes_scored", "classes_left_out", "mece_bins"), COUNT),
            }
        ),
    },
)
VIEW_POINTING = Keys(
    {**dict.fromkeys(("pointing", "chance", "minus_chance"), WHOLE_V), "n_pairs": COUNT, "n_studies": COUNT},
    {"truth_csv": TEXT, "n_patients": COUNT, "findings": Each(Keys({"n": COUNT, "pointing": WHOLE_V}))},
)

NEEDED: dict[str, Any] = {"n_images": COUNT, "contaminated": Maybe(FLAG), "mean": SCORES, "per_class": Each(OF_FINDING)}
# Blocks that may be missing; one that is odd is left out.
BLOCKS: dict[str, Any] = {
    "n_patients": COUNT,
    "n_studies": COUNT,
    "synthetic": FLAG,
    "trained_on_synthetic": FLAG,
    "split": TEXT,
    "label_source": TEXT,
    "classes_not_predicted": Items(TEXT),
    "classes_undefined": Items(TEXT),
    "command": TEXT,
    "date": TEXT,
    "host": TEXT,
    "micro": SCORES,
    "hamming": V,
    "thresholds": Keys(optional={"file": TEXT, "rule": TEXT}),
    "calibration": Keys(optional={"fitted_on": Maybe(TEXT), "methods": Each(METHOD)}),
    "subgroups": Each(GROUPS),
    "comparison": Keys(
        optional={
            "file": TEXT,
            "n_images": COUNT,
            "contaminated": Maybe(FLAG),
            "mean": Keys(optional={"auroc": Maybe(TESTED)}),
            "per_class": Each(Keys(optional={"auroc": Maybe(TESTED)})),
        }
    ),
    "long_tail": LONG_TAIL,
    "view_pointing": VIEW_POINTING,
    "faithfulness": Keys(optional={"positives": SIDE, "negatives": SIDE, "controls": Maybe(CONTROLS)}),
    "localization": Keys(
        {"sources": Each(PLACES)},
        {
            "headline": HEADLINE,
            "findings": Each(Keys({"n_boxes": COUNT})),
            "controls": CHOSEN,
            "box_file": TEXT,
            "keep_ratio": NUMBER,
            "maps": Each(Keys(optional=MODEL)),
            **dict.fromkeys(("n_boxes", "n_images", "n_patients", "n_boxes_in_file", "n_boxes_ambiguous"), COUNT),
        },
    ),
    "conformal": Keys(
        {
            "alpha": NUMBER,
            "delta": NUMBER,
            "unit": TEXT,
            "rules": Each(RULE),
            "infeasible": Items(TEXT),
            "each": Each(Keys(optional=dict.fromkeys(("sensitivity", "specificity", "precision", "single"), Maybe(V)))),
        },
        {
            "file": TEXT,
            "curve": Items(Keys({"alpha": NUMBER, "fnr": NUMBER})),
            "shift": Maybe(SHIFT),
            "thresholds": Each(Keys(optional={"precise_from": Maybe(NUMBER)})),
        },
    ),
    "predictions": Keys(
        optional=ORIGIN.optional
        | {
            "file": TEXT,
            "versions": Maybe(Either((TEXT, Each(Maybe(TEXT))))),
        }
    ),
    "inputs": Keys(
        optional={
            **dict.fromkeys(("preds", "csv", "curves", "bbox_csv"), Maybe(TEXT)),
            "box_space": Maybe(NUMBER),
            "masks": Maybe(Either((TEXT, Items(TEXT)))),
        }
    ),
}


def read_metrics(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a metrics.json.

    Returns:
        its blocks without the odd ones, and for each of these what is wrong with it.

    Raises:
        UserError: it is no JSON, or one of NEEDED is missing or odd.
    """
    try:
        text = file.read_text(encoding="utf-8")
        metrics = json.loads(text, parse_constant=_undefined, parse_float=_finite)
    except ValueError as error:
        raise UserError(f"{file}: not a metrics.json of evaluate.py ({error})") from error
    problem = next(_odd(metrics, Keys(NEEDED)), "")
    if problem:
        raise UserError(f"{file}: not a metrics.json of evaluate.py: {problem}")
    # One odd block costs its section of the report, not the report.
    odd = {}
    for name, shape in BLOCKS.items():
        problem = next(_odd(metrics.get(name), Maybe(shape), name), "")
        if problem:
            odd[name] = problem
    usable = {}
    for name, value in metrics.items():
        if name in NEEDED or (name not in odd and value is not None):
            usable[name] = value
    return usable, odd


def _undefined(constant: str) -> None:
    """NaN and Infinity, which are no JSON, are undefined."""


def _finite(text: str) -> float | None:
    """What is too large for a number is undefined."""
    value = float(text)
    return value if math.isfinite(value) else None


def _odd(value: Any, shape: Any, name: str = "") -> Iterator[str]:
    """What is wrong with a block, or with the file where `name` is empty; later checks rely on the ones before."""
    yield from problems(value, shape, name)
    if name == "faithfulness":
        yield from _uneven_controls(value or {})
    if name == "localization" and value:
        for path in _missing_places(value):
            yield f"'localization.{path}' is missing"
    if name == "" and isinstance(value, dict):
        yield from _uneven_curves(value["per_class"])


def _uneven_curves(scores_of: dict[str, Any]) -> Iterator[str]:
    """Curves whose x and y are not as many."""
    for c, scores in scores_of.items():
        for curve in ("roc", "pr"):
            x, y = scores.get(curve, ((), ()))
            if len(x) != len(y):
                yield f"'per_class.{c}.{curve}' has {len(x)} and {len(y)} points"


def _uneven_controls(faithfulness: dict[str, Any]) -> Iterator[str]:
    """Curves that have not a point for every fraction."""
    controls = faithfulness.get("controls") or {"sources": {}, "fractions": []}
    wanted = len(controls["fractions"])
    for name, source in controls["sources"].items():
        for curve in ("insertion", "deletion"):
            points = len(source.get(curve) or controls["fractions"])
            if points != wanted:
                path = f"faithfulness.controls.sources.{name}.{curve}"
                yield f"{path!r} has {points} points, not {wanted}"


def _missing_places(block: dict[str, Any]) -> Iterator[str]:
    """What the headline and the tables of findings refer to, and what is not there."""
    head, sources = block.get("headline"), block["sources"]
    # A map for all findings is shown beside the controls that know of no finding.
    if any(source.get("kind") == "union" for source in sources.values()):
        for name in ("random", "centre"):
            if name not in sources:
                yield f"sources.{name}"
    if not head:
        return
    for key in ("findings", "controls", "n_boxes"):
        if key not in block:
            yield key
    controls = controls_of(head["source"], sources)
    yield from _missing_in_headline(head["minus"], controls)
    # The tables have a row a finding, and a cell for the source and each control that there is.
    findings = list(block.get("findings", {}))
    for name in (head["source"], *controls.values()):
        yield from _missing_pointing(f"sources.{name}", sources.get(name, {}), findings)
    own = sources.get(head["source"], {})
    for control in controls:
        yield from _missing_difference(f"sources.{head['source']}", own, control, findings)


def _missing_in_headline(differences: dict[str, Any], controls: Container[str]) -> Iterator[str]:
    """Sources of the controls that the headline is compared with, and halves of its intervals."""
    for control in differences:
        if control not in controls:
            yield f"sources, a source for headline.minus.{control},"
    for control, difference in differences.items():
        for key in ("value", "high"):
            if difference["low"] is not None and difference[key] is None:
                yield f"headline.minus.{control}.{key}"


def _missing_pointing(path: str, source: dict[str, Any], findings: list[str]) -> Iterator[str]:
    if "pointing" not in source.get("mean", {}):
        yield f"{path}.mean.pointing"
    of_class = source.get("per_class", {})
    for finding in findings:
        if "pointing" not in of_class.get(finding, {}):
            yield f"{path}.per_class.{finding}.pointing"


def _missing_difference(path: str, source: dict[str, Any], control: str, findings: list[str]) -> Iterator[str]:
    if "pointing" not in source.get("minus", {}).get(control, {}):
        yield f"{path}.minus.{control}.pointing"
    of_class = source.get("minus_per_class", {}).get(control, {})
    for finding in findings:
        if "pointing" not in of_class.get(finding, {}):
            yield f"{path}.minus_per_class.{control}.{finding}.pointing"
