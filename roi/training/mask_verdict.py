"""What the controls of a mask say (roi/training/mask_controls.py), in words.

Loads no torch: the report says the same.
"""

from roi.text import decimal

# Columns of the metrics CSV.
MASK_CONTROLS = ("mask_border", "crop_auroc", "blobs_auroc", "drop_contrast", "drop_contrast_blobs")
# Share of a uniform mask in the outer tenth of the image.
UNIFORM_BORDER = 0.36
# Share above which a mask keeps the border rather than evidence.
MOST_BORDER = 0.5
# By so much a mask must be better than random blobs, in AUROC and in logits.
BETTER = 0.01
# AUROC below that of the epochs before the masks, from which on the user is warned.
LOST_SKILL = 0.01


def complaints(figures: dict[str, float]) -> list[str]:
    """In words what is wrong with a mask; empty where nothing is."""
    if "mask_border" not in figures:
        return []
    lines = []
    border = figures["mask_border"]
    if border > MOST_BORDER:
        share = f"{border:.0%} of its pixels lie in the outer tenth of the image"
        lines.append(f"the mask keeps the border: {share}, of a uniform mask {UNIFORM_BORDER:.0%}")
    crop, blobs = figures["crop_auroc"], figures["blobs_auroc"]
    if crop < blobs + BETTER:
        lines.append(
            f"its crop predicts no better than random blobs of the same area (AUROC {crop:.3f} against {blobs:.3f})"
        )
    # Blobs may even make present findings rise: a mask must still make them fall.
    drop, drop_blobs = figures["drop_contrast"], figures["drop_contrast_blobs"]
    if drop < max(0.0, drop_blobs) + BETTER:
        size = f"{decimal(drop, 3, '+')} in the logit; random blobs {decimal(drop_blobs, 3, '+')}"
        lines.append(f"without what it keeps, present findings lose no more than absent ones do ({size})")
    return lines


def lost_skill(score: float, before_masks: float) -> list[str]:
    """In words, that the classifier is worse than before there were masks.

    Args:
        score: val_auroc of an epoch with masks
        before_masks: the best of the epochs without
    """
    # Nor where there was no epoch before, or no score.
    if not before_masks - score >= LOST_SKILL:
        return []
    return [
        f"val_auroc {score:.4f} is below that of the epochs before the masks, {before_masks:.4f}; "
        "no checkpoint of those is kept as the best"
    ]
