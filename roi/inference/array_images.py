"""Images from memory: arrays of numpy as the grey pixels that a file of the same samples would have.

Letters: H x W pixels, S the side of the model's input.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from roi.data.bit_depth import LUMA, Deep, to_8_bits
from roi.data.dataset import Item, XrayDataset
from roi.errors import UserError
from roi.inference.image_files import resized

COLOURS = (3, 4)  # channels; the fourth, transparency, is left out


class ArrayImages(XrayDataset):
    """Arrays in the place of files.

    Args:
        arrays: each as `grey_pixels` takes it.
        names: of each, for messages.
    """

    def __init__(self, arrays: Sequence[np.ndarray], names: Sequence[str], targets: np.ndarray, size: int) -> None:
        super().__init__(names, targets, size)
        self.arrays = arrays

    def __getitem__(self, i: int) -> Item:
        try:
            return i, resized(grey_pixels(self.arrays[i]), self.size), ""
        except UserError as error:
            return i, None, f"{self._path(i)}: {error}"


def grey_pixels(array: np.ndarray) -> np.ndarray:
    """An X-ray as (H, W) uint8, bright is dense.

    uint8 stays as it is. Other integers, and floating point, are scaled as such files are: white is the greatest value
    of the fewest bits that hold 99.9 % of the samples (1 for floating point up to 1), black is 0, or as far below 0.
    Of colour it is the luminance.

    Args:
        array: (H, W), or (H, W, C) with 1, 3 or 4 channels.

    Raises:
        UserError: another shape, no numbers, or samples that are not finite.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_colour = array.ndim == 3 and array.shape[2] in COLOURS
    if (array.ndim != 2 and not is_colour) or not array.size:
        raise UserError(f"an array of shape {array.shape} is no image; give (H, W) or (H, W, 3), several as a list")
    if array.dtype.kind not in "uif":
        raise UserError(f"an array of {array.dtype} is no image; give uint8, uint16 or floating point")
    if is_colour:
        array = array[:, :, :3]
    # As Pillow makes grey of a file's colours, so that both give the same pixels.
    if array.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))
    # No file says which value is white: it is chosen as for a file that does not say it.
    samples = luminance(array) if is_colour else array
    pixels, _ = to_8_bits(Deep(samples, None, "", inverted=False))
    return pixels


def luminance(array: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W); integers stay integers, and three equal channels what they are."""
    weights = np.array(LUMA)
    if array.dtype.kind == "f":
        return array.astype(np.float64) @ (weights / weights.sum())
    return (array.astype(np.int64) @ weights + 0x8000) >> 16
