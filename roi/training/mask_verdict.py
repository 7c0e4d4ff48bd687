"""What the controls of a mask say (roi/training/mask_controls.py), in words. Loads no torch: the report says the same."""

MASK_CONTROLS = (
    "mask_border",
    "crop_auroc",
    "blobs_auroc",
    "drop_contrast",
    "drop_contrast_blobs",
)  # columns of the metrics CSV
UNIFORM_BORDER = 0.36  # share of a uniform mask in the outer tenth of the image


def complaints(figures: dict[str, float]) -> list[str]:
    """In words what is wrong with a mask; empty where nothing is."""
    if "mask_border" not in figures:
        return []
    said = []
    if figures["mask_border"] > 0.5:
        share = f"{figures['mask_border']:.0%} of its pixels lie in the outer tenth of the image"
        said.append(f"the mask keeps the border: {share}, of a uniform mask {UNIFORM_BORDER:.0%}")
    if figures["crop_auroc"] < figures["blobs_auroc"] + 0.01:
        crop, blobs = figures["crop_auroc"], figures["blobs_auroc"]
        said.append(
            f"its crop predicts no better than random blobs of the same area (AUROC {crop:.3f} against {blobs:.3f})"
        )
    if figures["drop_contrast"] < max(0.0, figures["drop_contrast_blobs"]) + 0.01:
        said.append(
            f"without what it keeps, present findings lose no more than absent ones do ({figures['drop_contrast']:+.3f} in the logit; "
            f"random blobs {figures['drop_contrast_blobs']:+.3f})"
        )
    return said
