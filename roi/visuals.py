"""Pictures of a prediction, for a person: the mask, what it keeps in true grey levels, and both laid over the X-ray.

Letters: H x W pixels of the picture, S x S of the model's input.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from roi.files import replacing
from roi.images import read_grey
from roi.model import IMAGENET_MEAN
from roi.table import image_keys, is_finding

DROPPED = round(255 * sum(IMAGENET_MEAN) / 3)  # what the model sees where nothing is kept: the mean grey
TINT, EDGE, BOX = (255, 140, 0), (255, 176, 64), (64, 208, 255)


def mask_picture(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """(S, S) 0/1 -> picture of (W, H) = `size`, 255 where kept; each pixel of the mask stays a sharp rectangle."""
    return Image.fromarray((mask > 0).astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def crop_picture(grey: np.ndarray, mask: Image.Image) -> Image.Image:
    """(H, W) uint8 and its mask -> the kept pixels as they are, the others in the mean grey that the model sees."""
    return Image.fromarray(np.where(np.asarray(mask) > 0, grey, np.uint8(DROPPED)).astype(np.uint8))


def overlay_picture(grey: np.ndarray, mask: Image.Image, boxes: Sequence[tuple[str, float, float, float, float]], lines: Sequence[str]) -> Image.Image:
    """The X-ray with the kept pixels tinted and outlined, boxes (label, x, y, w, h in 0..1), and a caption below."""
    kept = np.asarray(mask) > 0  # (H, W)
    inside = kept.copy()
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inside &= np.roll(kept, shift, axis)
    colour = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    colour[kept] = 0.72 * colour[kept] + 0.28 * np.array(TINT, dtype=np.float32)
    colour[kept & ~inside] = EDGE
    height, width = grey.shape
    line = max(11, height // 36)
    picture = Image.new("RGB", (width, height + (line + 4) * len(lines) + 4 * bool(lines)), (0, 0, 0))
    picture.paste(Image.fromarray(colour.astype(np.uint8)), (0, 0))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=line)
    for label, x, y, w, h in boxes:
        left, top, right, bottom = (v * s for v, s in ((x, width), (y, height), (x + w, width), (y + h, height)))
        draw.rectangle((left, top, right, bottom), outline=BOX, width=max(1, height // 256))
        draw.text((left + 2, max(0, top - line - 3)), label, fill=BOX, font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    for row, text in enumerate(lines):
        draw.text((4, height + 2 + row * (line + 4)), text, fill=(255, 255, 255), font=font)
    return picture


def save_pictures(stem: Path, path: str, mask: np.ndarray, record: dict[str, Any], labels: str, boxes: pd.DataFrame | None, size: int) -> None:
    """<stem>_mask.png, <stem>_crop.png, <stem>_overlay.png, `size` pixels a side, of the image file `path`."""
    grey = read_grey(path, size)
    picture = mask_picture(mask, (size, size))
    here = boxes[boxes["image"] == Path(record["image"]).name] if boxes is not None else None
    places = [tuple(b) for b in here[["label", "x", "y", "w", "h"]].itertuples(index=False)] if here is not None else []
    prob = record["prob_full"]
    first = sorted((c for c in prob if is_finding([c])[0]), key=lambda c: -prob[c])[:3]
    lines = [
        f"{record['image']}   label: {labels.replace(',', ', ') or 'none'}",
        *(f"{c}: " + ", ".join(f"{p} {record[f'prob_{p}'][c]:.2f}" for p in ("full", "crop", "drop")) for c in first),
    ]
    save_png(picture, f"{stem}_mask.png")
    save_png(crop_picture(grey, picture), f"{stem}_crop.png")
    save_png(overlay_picture(grey, picture, places, lines), f"{stem}_overlay.png")


def save_png(image: Image.Image, path: str | Path) -> None:
    with replacing(path, "wb") as file:
        image.save(file, format="PNG")


def file_stems(images: pd.Series) -> list[str]:
    """Names for pictures: without folder and ending where that is enough to tell the images apart, '/' as '__' otherwise."""
    short = images.map(lambda image: Path(image).stem)
    return (image_keys(images).str.replace("/", "__") if short.duplicated().any() else short).tolist()
