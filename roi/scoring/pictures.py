"""Pictures of a prediction, for a person: the mask, what it keeps in true grey levels, and both laid over the X-ray.

Letters: H x W pixels of the picture, S x S of the model's input, K classes, m x m the cells of a map.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from roi.data.boxes import Box
from roi.data.table import image_keys
from roi.files import atomic_write
from roi.labels import is_finding
from roi.text import printable

# What the model sees where nothing is kept: the mean grey of ImageNet, where the weights do not say another.
DROPPED = round(255 * (0.485 + 0.456 + 0.406) / 3)
TINT = (255, 140, 0)
EDGE = (255, 176, 64)
BOX = (64, 208, 255)
BLACK = (0, 0, 0)
TEXT = (255, 255, 255)
ALARM = (255, 96, 96)
# Share of the tint in a kept pixel.
TINTED = 0.28
# Share of the tint where a map is highest.
HOTTEST = 0.65
# Steps to the four neighbours of a pixel, each with its axis.
NEIGHBOURS = ((1, 0), (-1, 0), (1, 1), (-1, 1))
SHOWN_FINDINGS = 3
CONTAMINATED = "CONTAMINATED: trained on this image or its patient"
# The text chunk that each picture has, with its kind: such a file is no X-ray, wherever it lies.
OWN_CHUNK = "roi"
# Bytes of a PNG in which the chunk stands: it comes before the pixels.
BEFORE_PIXELS = 4096


# ---- pictures -------------------------------------------------------------------------------------------------------


def mask_picture(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """(S, S) 0/1 -> picture of (W, H) = `size`, 255 where kept; each pixel of the mask stays a sharp rectangle."""
    kept = (mask > 0).astype(np.uint8)
    white = kept * 255
    return Image.fromarray(white).resize(size, Image.Resampling.NEAREST)


def dropped_grey(flags: dict[str, Any] | None) -> int:
    """The grey in 0..255 that stands for what is dropped: the mean of the weights, as the training flags have it."""
    normalisation = (flags or {}).get("normalisation")
    if not normalisation:
        return DROPPED
    mean = normalisation[0]
    return round(255 * sum(mean) / len(mean))


def crop_picture(grey: np.ndarray, mask: Image.Image, dropped: int = DROPPED) -> Image.Image:
    """(H, W) uint8 and its mask -> the kept pixels as they are, the others in the mean grey that the model sees."""
    kept = np.asarray(mask) > 0
    pixels = np.where(kept, grey, np.uint8(dropped))
    return Image.fromarray(pixels.astype(np.uint8))


def overlay_picture(grey: np.ndarray, mask: Image.Image, boxes: Sequence[Box], lines: Sequence[str]) -> Image.Image:
    """The X-ray with the kept pixels tinted and outlined, boxes (label, x, y, w, h in 0..1), and a caption below."""
    kept = np.asarray(mask) > 0  # (H, W)
    # A kept pixel with a neighbour that is not kept lies on the edge.
    inside = kept.copy()
    for step, axis in NEIGHBOURS:
        inside &= np.roll(kept, step, axis)
    tint = np.array(TINT, dtype=np.float32)
    colour = np.repeat(grey[:, :, None], 3, axis=2)
    colour = colour.astype(np.float32)
    colour[kept] = (1 - TINTED) * colour[kept] + TINTED * tint
    colour[kept & ~inside] = EDGE
    return annotated(colour, boxes, lines)


def heat_picture(grey: np.ndarray, heat: Image.Image, boxes: Sequence[Box], lines: Sequence[str]) -> Image.Image:
    """The X-ray with a map of (W, H) laid over it, stronger where it is higher; the rest as in overlay_picture."""
    tint = np.array(TINT, dtype=np.float32)
    height = np.asarray(heat, dtype=np.float32)
    weight = HOTTEST * height[:, :, None] / 255
    colour = (1 - weight) * grey[:, :, None] + weight * tint
    return annotated(colour, boxes, lines)


def annotated(colour: np.ndarray, boxes: Sequence[Box], lines: Sequence[str]) -> Image.Image:
    """(H, W, 3) of 0 to 255 -> a picture with boxes (label, x, y, w, h in 0..1) and lines of text below."""
    height, width = colour.shape[:2]
    size = max(11, height // 36)
    spacing = size + 4
    below = spacing * len(lines)
    if lines:
        below += 4
    picture = Image.new("RGB", (width, height + below), BLACK)
    pixels = Image.fromarray(colour.astype(np.uint8))
    picture.paste(pixels, (0, 0))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=size)
    line = max(1, height // 256)
    for label, x, y, w, h in boxes:
        left, right = x * width, (x + w) * width
        top, bottom = y * height, (y + h) * height
        corners = (left, top, right, bottom)
        draw.rectangle(corners, outline=BOX, width=line)
        # Above the box, and still in the picture where the box is at its upper edge.
        place = (left + 2, max(0, top - size - 3))
        draw.text(place, label, fill=BOX, font=font, stroke_width=1, stroke_fill=BLACK)
    place = (4, height + 2)
    for text in lines:
        ink = ALARM if text == CONTAMINATED else TEXT
        draw.text(place, printable(text), fill=ink, font=font)
        place = (4, place[1] + spacing)
    return picture


# ---- files ----------------------------------------------------------------------------------------------------------


def save_pictures(
    stem: Path,
    grey: np.ndarray,
    mask: np.ndarray,
    record: dict[str, Any],
    labels: str,
    boxes: Sequence[Box],
    dropped: int = DROPPED,
) -> None:
    """<stem>_mask.png, <stem>_crop.png, <stem>_overlay.png of an image, (H, W).

    `dropped` is the grey of what the crop leaves out.
    """
    height, width = grey.shape
    picture = mask_picture(mask, (width, height))
    lines = caption(record, labels)
    for c in probable(record)[:SHOWN_FINDINGS]:
        values = []
        for part in ("full", "crop", "drop"):
            prob = record[f"prob_{part}"][c]
            values.append(f"{part} {prob:.2f}")
        lines.append(f"{c}: {', '.join(values)}")
        lines += study_lines(record, c)
    marked = bool(record.get("contaminated"))
    save_png(picture, f"{stem}_mask.png", "mask", marked)
    save_png(crop_picture(grey, picture, dropped), f"{stem}_crop.png", "crop", marked)
    save_png(overlay_picture(grey, picture, boxes, lines), f"{stem}_overlay.png", "overlay", marked)


def save_cam(
    maps: np.ndarray, stem: Path, grey: np.ndarray, record: dict[str, Any], labels: str, boxes: Sequence[Box]
) -> None:
    """<stem>_cam.png: the map of the most probable finding over an image, (H, W).

    maps (K, m, m) are in 0..1, in the order of the classes of `record`.
    """
    height, width = grey.shape
    lines = caption(record, labels)
    prob = record["prob_full"]
    chosen = np.zeros_like(maps[0])
    for c in probable(record)[:1]:
        k = list(prob).index(c)
        chosen = maps[k]
        lines.append(f"Grad-CAM of {c}: {prob[c]:.2f}")
        lines += study_lines(record, c)
    levels = np.rint(255 * chosen).astype(np.uint8)
    heat = Image.fromarray(levels).resize((width, height), Image.Resampling.BILINEAR)
    picture = heat_picture(grey, heat, boxes, lines)
    save_png(picture, f"{stem}_cam.png", "cam", bool(record.get("contaminated")))


def caption(record: dict[str, Any], labels: str) -> list[str]:
    """The first lines below a picture: which image, what the table says of it, and whether it was trained on."""
    spaced = labels.replace(",", ", ") or "none"
    lines = [f"{record['image']}   label: {spaced}"]
    return [CONTAMINATED, *lines] if record.get("contaminated") else lines


def study_lines(record: dict[str, Any], finding: str) -> list[str]:
    """What the study of an image says of a finding, with and without the image; nothing where there is no study."""
    of_study = record.get("prob_study", {})
    if finding not in of_study:
        return []
    line = f"    study {record['study']}: {of_study[finding]:.2f}"
    if "without" in record:
        line += f", without this image {record['without'][finding]:.2f}"
    return [line]


def probable(record: dict[str, Any]) -> list[str]:
    """The findings of a record, most probable first, in the image or, of a model of studies, in its study."""
    own = record["prob_full"]
    findings = [c for c in own if is_finding([c])[0]]
    prob = own | record.get("prob_study", {})
    return sorted(findings, key=prob.__getitem__, reverse=True)


def save_png(image: Image.Image, path: str | Path, kind: str, contaminated: bool = False) -> None:
    """Write a picture; one that was trained on says so in its text chunk `Warning`: masks keep their pixels.

    Args:
        kind: what it shows, for the text chunk `roi`, by which `own_picture` knows it.
    """
    # The pixels of a mask are data, on which no warning can be painted.
    info = PngInfo()
    info.add_text(OWN_CHUNK, kind)
    if contaminated:
        info.add_text("Warning", CONTAMINATED)
    with atomic_write(path, "wb") as file:
        image.save(file, format="PNG", pnginfo=info)


def own_picture(path: str | Path) -> bool:
    """Whether `save_png` wrote a file: a mask or an overlay that lies among X-rays is none."""
    if Path(path).suffix.lower() != ".png":
        return False
    # Whoever reads the file says what is wrong with it.
    with suppress(OSError), open(path, "rb") as file:
        return b"tEXt" + OWN_CHUNK.encode() + b"\0" in file.read(BEFORE_PIXELS)
    return False


def file_stems(images: pd.Series) -> list[str]:
    """Names for pictures: without folder and ending where that tells the images apart, else with '/' as '__'."""
    short = images.map(lambda image: PurePosixPath(image).stem)
    if not short.duplicated().any():
        return short.tolist()
    long = image_keys(images).str.replace("/", "__")
    # a/b.png and a__b.png: the rows of the table tell them apart.
    ambiguous = long.duplicated(keep=False)
    stems = []
    for n, stem in enumerate(long):
        stems.append(f"{stem}__{n}" if ambiguous.iloc[n] else stem)
    return stems
