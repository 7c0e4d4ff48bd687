"""What the page calls a source of maps (a mask, Grad-CAM, a control) and a metric of localisation."""

from roi.scoring.map_file import REINIT

SOURCES = {
    "mask": "ROI mask",
    "class_mask": "Finding's map",
    "cam": "Grad-CAM",
    "random": "Random blobs",
    "centre": "Centre disc",
    "inverted": "Inverted mask",
    "reinit": "Mask, new weights",
    "best_place": "Best fixed place a finding",
}
METRICS = {
    "pointing": "Pointing",
    "pointing_union": "Pointing, any box",
    "recall": "Recall of the box",
    "precision": "Precision in the box",
    "precision_union": "Precision, any box",
    "centre_small": "Centre, small boxes",
}
LIMITS = {"iou": "IoU", "iobb": "IoBB", "area_iou": "Same area, IoU", "false": "False boxes, IoU"}
# Sources that are made of another one end so.
VARIANTS = {
    "_shuffled": " of another patient's image",
    "_label_place": ", fixed place by labels",
    REINIT: ", new weights",
}


def source_name(source: str) -> str:
    for ending, addition in VARIANTS.items():
        if source.endswith(ending):
            return source_name(source.removesuffix(ending)) + addition
    return SOURCES.get(source, source)


def metric_name(name: str) -> str:
    """'iou@0.3' -> 'IoU > .3'"""
    kind, _, limit = name.partition("@")
    if not limit:
        return METRICS.get(name, name)
    return f"{LIMITS.get(kind, kind)} > {limit.removeprefix('0')}"


def capitalize(text: str) -> str:
    """The first letter alone: str.capitalize makes the others small."""
    return text[:1].upper() + text[1:]
