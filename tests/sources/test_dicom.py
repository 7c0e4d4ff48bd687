"""DICOM: every stage against the formulas of PS3.3, compressed against plain, nothing of the header in a PNG.

Trees of files, killed and resumed; boxes.
"""

import csv
import faulthandler
import multiprocessing
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, one_line_error, run
from PIL import Image

from roi.data.boxes import read_boxes
from roi.data.images import UnreadableImageError, read_grey
from roi.labels import LABELS
from roi.sources.vindr import VINDR_CLASSES

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (pip install -r requirements-dicom.txt)")

from roi.sources.dicom import grey, header, reader, stored_values  # noqa: E402
from roi.sources.dicom.reader import read_dicom  # noqa: E402

SCRIPT = "convert_dicom.py"
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"  # shipped with pydicom
SECRETS = {
    "PatientName": "Quixote^Alonso",
    "PatientID": "ID-77315",
    "InstitutionName": "LaManchaHospital",
    "StudyDate": "16050116",
    "PatientComments": "Rocinante",
}


def dataset(pixels: np.ndarray, **more: object) -> "pydicom.Dataset":
    """A file of the class Digital X-Ray with somebody's header. `more`: elements; None takes one away."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3.4"
    ds = pydicom.Dataset()
    ds.file_meta = meta
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    bits = 8 * pixels.itemsize
    elements = {
        **SECRETS,
        "ViewPosition": "PA",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    } | more
    elements.setdefault("HighBit", int(elements["BitsStored"] or 12) - 1)
    for name, value in elements.items():
        if value is not None:
            setattr(ds, name, value)
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    data = pixels.tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OB" if bits == 8 else "OW"
    return ds


def write(path: Path, pixels: np.ndarray, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with header.silent_pydicom():  # some values are wrong on purpose
        dataset(pixels, **more).save_as(path, enforce_file_format=True)
    return path


def table(entries: list[int], first: int, bits: int, signed: bool = False) -> "pydicom.Dataset":
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if signed else "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def ramp(bits: int, height: int = 64, width: int = 80) -> np.ndarray:
    """(H, W) from 0 to the greatest value of `bits`."""
    return (
        np.linspace(0, 2**bits - 1, height * width)
        .round()
        .astype(np.uint8 if bits <= 8 else np.uint16)
        .reshape(height, width)
    )


def levels(share: np.ndarray, bits: int = 8) -> np.ndarray:
    """0..1 -> grey levels, half up."""
    return np.floor(share * (2**bits - 1) + 0.5 + 1e-6).astype(np.int64)


def same(path: Path, share: np.ndarray, bits: int = 8, **flags: object) -> dict:
    pixels, facts = read_dicom(path, bits=bits, **flags)
    assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
    np.testing.assert_array_equal(pixels, levels(share, bits))
    return facts


# One file: stages


@pytest.mark.parametrize("stored", [8, 10, 12, 16])
@pytest.mark.parametrize("bits", [8, 16])
def test_every_depth_fills_the_range_and_monochrome1_is_its_negative(tmp_path: Path, stored: int, bits: int) -> None:
    pixels, top = ramp(stored), 2**stored - 1
    window = {"BitsStored": stored, "WindowCenter": top / 2, "WindowWidth": top, "VOILUTFunction": "LINEAR_EXACT"}
    two = write(tmp_path / "two.dcm", pixels, **window)
    one = write(tmp_path / "one.dcm", top - pixels, PhotometricInterpretation="MONOCHROME1", **window)
    facts = same(two, pixels / top, bits)
    assert (facts["bits_stored"], facts["photometric"], facts["shown_by"], facts["rows"], facts["columns"]) == (
        stored,
        "MONOCHROME2",
        "window",
        64,
        80,
    )
    assert same(one, pixels / top, bits)["photometric"] == "MONOCHROME1"
    shown = [read_dicom(path, "percentile", bits)[0] for path in (one, two)]
    np.testing.assert_array_equal(*shown)
    assert shown[0].min() == 0 and shown[0].max() == 2**bits - 1


@pytest.mark.parametrize(("center", "width"), [(1000.0, 400.0), (2048.5, 4095.0), (700.0, 1.0), (100.0, 3.5)])
def test_linear_window_of_ps3_3(tmp_path: Path, center: float, width: float) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    more = {"BitsStored": 12, "WindowCenter": center, "WindowWidth": width}
    path = write(tmp_path / "a.dcm", pixels, **more)
    share = np.empty(pixels.shape)
    for at, x in np.ndenumerate(pixels.astype(float)):  # C.11.2.1.2.1, the pseudo-code
        if x <= center - 0.5 - (width - 1) / 2:
            share[at] = 0
        elif x > center - 0.5 + (width - 1) / 2:
            share[at] = 1
        else:
            share[at] = (x - (center - 0.5)) / (width - 1) + 0.5
    shown, _ = grey.voi_window(dataset(pixels, **more), pixels.ravel().astype(float))
    np.testing.assert_allclose(shown, share.ravel(), atol=1e-12)
    if width > 100:
        assert same(path, share, 16)["shown_by"] == "window"


def test_linear_exact_and_sigmoid_of_ps3_3(tmp_path: Path) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    x, more = pixels.astype(float), {"BitsStored": 12, "WindowCenter": 1500, "WindowWidth": 600}
    same(
        write(tmp_path / "e.dcm", pixels, VOILUTFunction="LINEAR_EXACT", **more),
        np.clip((x - 1500) / 600 + 0.5, 0, 1),
        16,
    )
    same(
        write(tmp_path / "s.dcm", pixels, VOILUTFunction="SIGMOID", **more), 1 / (1 + np.exp(-4 * (x - 1500) / 600)), 16
    )
    one = write(tmp_path / "s1.dcm", pixels, VOILUTFunction="SIGMOID", PhotometricInterpretation="MONOCHROME1", **more)
    same(one, 1 - 1 / (1 + np.exp(-4 * (x - 1500) / 600)), 16)


def test_first_of_several_windows(tmp_path: Path) -> None:
    pixels = ramp(12)
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, WindowCenter=[1000, 9], WindowWidth=[501, 9])
    same(path, np.clip((pixels - 999.5) / 500 + 0.5, 0, 1))


def test_signed_pixels_with_slope_and_intercept(tmp_path: Path) -> None:
    pixels = (np.arange(4096) - 2048).astype(np.int16).reshape(64, 64)
    path = write(
        tmp_path / "a.dcm",
        pixels,
        BitsStored=12,
        RescaleSlope=0.5,
        RescaleIntercept=-100,
        WindowCenter=-300,
        WindowWidth=801,
    )
    same(path, np.clip((pixels * 0.5 - 100 + 300.5) / 800 + 0.5, 0, 1), 16)
    falling = write(
        tmp_path / "b.dcm", pixels, BitsStored=12, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=0, WindowWidth=2001
    )
    same(falling, np.clip((-pixels.astype(float) + 0.5) / 2000 + 0.5, 0, 1))


def test_unused_bits_above_and_below(tmp_path: Path) -> None:
    pixels, window = (
        ramp(12),
        {"BitsStored": 12, "WindowCenter": 2047.5, "WindowWidth": 4095, "VOILUTFunction": "LINEAR_EXACT"},
    )
    same(write(tmp_path / "dirty.dcm", pixels | 0xA000, **window), pixels / 4095)
    same(write(tmp_path / "left.dcm", pixels << 4 | 0x0007, HighBit=15, **window), pixels / 4095)
    signed = (pixels.astype(np.int32) - 2048).astype(np.int16)
    more = window | {"WindowCenter": -0.5}
    same(write(tmp_path / "signed.dcm", signed, **more), pixels / 4095)
    same(write(tmp_path / "no_sign.dcm", (signed.view(np.uint16) & 0x0FFF).view(np.int16), **more), pixels / 4095)
    same(
        write(tmp_path / "signed_left.dcm", (signed.astype(np.int32) << 4).astype(np.int16), HighBit=15, **more),
        pixels / 4095,
    )


def test_voi_lut_comes_before_the_window(tmp_path: Path) -> None:
    pixels = ramp(12)
    entries = [int(4095 * (k / 999) ** 2) for k in range(1000)]
    more = {"BitsStored": 12, "WindowCenter": 50, "WindowWidth": 20}
    path = write(tmp_path / "a.dcm", pixels, VOILUTSequence=[table(entries, 500, 12), table([0, 1], 0, 12)], **more)
    share = np.array([entries[min(max(int(x) - 500, 0), 999)] / 4095 for x in pixels.ravel()]).reshape(pixels.shape)
    assert same(path, share, 16)["shown_by"] == "lut"
    np.testing.assert_array_equal(
        read_dicom(path, bits=16)[0], levels(pydicom.pixels.apply_voi_lut(pixels, pydicom.dcmread(path)) / 4095, 16)
    )


def test_voi_lut_of_eight_bits_and_after_a_negative_intercept(tmp_path: Path) -> None:
    pixels = ramp(12)  # pydicom's own function wraps an 8-bit table with more than 256 entries
    path = write(
        tmp_path / "a.dcm",
        pixels,
        BitsStored=12,
        RescaleSlope=1,
        RescaleIntercept=-1000,
        VOILUTSequence=[table([k // 8 for k in range(2048)], -500, 8, signed=True)],
    )
    same(path, np.clip(pixels.astype(int) - 1000 + 500, 0, 2047) // 8 / 255)


def test_modality_lut_comes_before_the_window(tmp_path: Path) -> None:
    pixels = ramp(10)
    entries = [3 * k for k in range(1024)]
    path = write(
        tmp_path / "a.dcm",
        pixels,
        BitsStored=10,
        ModalityLUTSequence=[table(entries, 0, 12)],
        WindowCenter=1500,
        WindowWidth=1001,
    )
    same(path, np.clip((3.0 * pixels - 1499.5) / 1000 + 0.5, 0, 1), 16)


def framed(value: int, kind: str = "<u2") -> np.ndarray:
    pixels = ramp(12, 96, 100).astype(kind)
    pixels[:10], pixels[:, -20:] = value, value
    return pixels


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_percentiles(tmp_path: Path, photometric: str) -> None:
    pixels = framed(4095)
    path = write(
        tmp_path / "a.dcm", pixels, BitsStored=12, PixelPaddingValue=4095, PhotometricInterpretation=photometric
    )
    inside = pixels != 4095
    low, high = np.percentile(pixels[inside], (0.5, 99.5))
    share = np.clip((pixels - low) / (high - low), 0, 1)
    share = np.where(inside, 1 - share if photometric == "MONOCHROME1" else share, 0)
    assert same(path, share, 16)["shown_by"] == "percentile"
    with_window = write(
        tmp_path / "w.dcm",
        pixels,
        BitsStored=12,
        PixelPaddingValue=4095,
        WindowCenter=2000,
        WindowWidth=3001,
        PhotometricInterpretation="MONOCHROME1",
    )
    same(with_window, np.where(inside, 1 - np.clip((pixels - 1999.5) / 3000 + 0.5, 0, 1), 0))


def test_padding_range_and_padding_of_the_wrong_sign(tmp_path: Path) -> None:
    pixels = ramp(12)
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    low, high = np.percentile(pixels[pixels < 4000], (0.5, 99.5))
    same(path, np.where(pixels < 4000, np.clip((pixels - low) / (high - low), 0, 1), 0))
    signed = framed(-2000, "<i2")
    ds = dataset(signed)
    ds.add_new("PixelPaddingValue", "US", 65536 - 2000)
    ds.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    low, high = np.percentile(signed[signed >= 0], (0.5, 99.5))
    same(tmp_path / "b.dcm", np.where(signed >= 0, np.clip((signed - low) / (high - low), 0, 1), 0))


@pytest.mark.parametrize("seed", range(4))
def test_percentile_window_is_numpys(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(9000, 1500, (70 + seed, 91)).clip(0, 65535).astype(np.uint16)
    slope = -0.25 if seed % 2 else 2.0
    path = write(tmp_path / "a.dcm", pixels, RescaleSlope=slope, RescaleIntercept=7, WindowCenter=9000, WindowWidth=10)
    x = pixels * slope + 7
    low, high = np.percentile(x, (0.5, 99.5))
    assert same(path, np.clip((x - low) / (high - low), 0, 1), 16, window="percentile")["shown_by"] == "percentile"


@pytest.mark.parametrize(
    "nonsense",
    [
        {"WindowCenter": 2000, "WindowWidth": 0},
        {"WindowCenter": 2000, "WindowWidth": -5},
        {"WindowCenter": 2000},
        {"WindowCenter": 60000, "WindowWidth": 10},
    ],
)
def test_a_window_that_shows_nothing_gives_way_to_percentiles(tmp_path: Path, nonsense: dict) -> None:
    path = write(tmp_path / "a.dcm", ramp(12), BitsStored=12, **nonsense)
    plain = write(tmp_path / "b.dcm", ramp(12), BitsStored=12)
    pixels, facts = read_dicom(path)
    assert facts["shown_by"] == "percentile"
    np.testing.assert_array_equal(pixels, read_dicom(plain)[0])


def by_percentiles(pixels: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """What the percentiles of all pixels, or of those inside, make of a picture."""
    inside = np.ones(pixels.shape, dtype=bool) if inside is None else inside
    low, high = np.percentile(pixels[inside], (0.5, 99.5))
    return np.where(inside, np.clip((pixels - low) / (high - low), 0, 1), 0)


LEAVES_4 = "the window of the file leaves 4 grey levels"
MISSES = "the window of the file misses 96% of the pixels"
POOR = {  # a window, and why it is not used
    "narrow": ({"WindowCenter": 2000, "WindowWidth": 3}, LEAVES_4),
    "off": ({"WindowCenter": 4095, "WindowWidth": 300}, MISSES),
    "sigmoid": ({"WindowCenter": 2000, "WindowWidth": 100, "VOILUTFunction": "SIGMOID"}, "misses 98%"),
    "a table": ({"VOILUTSequence": [table([0] * 2000 + [1] * 2096, 0, 12)]}, "the lut of the file leaves 2 grey"),
}


@pytest.mark.parametrize("kind", POOR)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_window_that_shows_next_to_nothing_gives_way_to_percentiles_and_says_so(
    tmp_path: Path, kind: str, photometric: str
) -> None:
    pixels = ramp(12)
    window, why = POOR[kind]
    share = by_percentiles(pixels)
    share = 1 - share if photometric == "MONOCHROME1" else share
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, PhotometricInterpretation=photometric, **window)
    facts = same(path, share)
    assert facts["shown_by"] == "percentile" and why in facts["note"]


def test_a_window_of_a_picture_with_few_values_is_kept(tmp_path: Path) -> None:
    pixels = (ramp(12) // 512).astype(np.uint16)  # 8 of them
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, WindowCenter=4, WindowWidth=9)
    facts = same(path, np.clip((pixels - 3.5) / 8 + 0.5, 0, 1))
    assert facts["shown_by"] == "window" and facts["note"] == ""


def test_a_window_after_a_table_that_is_no_use(tmp_path: Path) -> None:
    pixels = ramp(12)
    lut = [table([0] * 2000 + [1] * 2096, 0, 12)]
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, VOILUTSequence=lut, WindowCenter=2000, WindowWidth=3001)
    facts = same(path, np.clip((pixels - 1999.5) / 3000 + 0.5, 0, 1))
    assert facts["shown_by"] == "window" and "lut of the file leaves 2" in facts["note"]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_presentation_lut_shape(tmp_path: Path, photometric: str, shape: str | None) -> None:
    """INVERSE says of MONOCHROME1 what that says itself, and turns MONOCHROME2 round."""
    pixels = ramp(12)
    more = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    facts = same(
        write(tmp_path / "a.dcm", pixels, BitsStored=12, **more),
        1 - by_percentiles(pixels) if photometric == "MONOCHROME1" or shape == "INVERSE" else by_percentiles(pixels),
    )
    turned = photometric == "MONOCHROME2" and shape == "INVERSE"
    assert ("inverted by PresentationLUTShape" in facts["note"]) == turned


def picture(seed: int = 0, top: int = 4095) -> np.ndarray:
    """(96, 120) uint16 from 0 to `top`: smooth with a little noise, as X-rays are."""
    y, x = np.mgrid[:96, :120]
    smooth = np.sin(x / 19) * np.cos(y / 23) + np.random.default_rng(seed).normal(0, 0.01, (96, 120))
    share = (smooth - smooth.min()) / np.ptp(smooth)
    return (share * top).round().astype(np.uint16)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [8, 10, 11])
def test_bits_stored_below_the_bits_of_the_pixels(tmp_path: Path, stored: int, signed: bool) -> None:
    pixels = picture()
    stored_as = (pixels.astype(np.int32) - 2048).astype(np.int16) if signed else pixels
    facts = same(write(tmp_path / "a.dcm", stored_as, BitsStored=stored), by_percentiles(pixels))
    assert f"BitsStored is {stored}, its pixels have 12" in facts["note"]


def test_waste_in_the_unused_bits_is_no_part_of_the_picture(tmp_path: Path) -> None:
    pixels = picture()
    overlay = np.zeros(pixels.shape, np.uint16)
    overlay[20:40, 30:70:3] = 0x8000
    overlay[50:60, 30:70:5] = 0x1000
    noise = np.random.default_rng(3).integers(0, 16, pixels.shape).astype(np.uint16) << 12
    for name, waste in (("overlay", overlay), ("noise", noise)):
        facts = same(write(tmp_path / f"{name}.dcm", pixels | waste, BitsStored=12), by_percentiles(pixels))
        assert facts["note"] == ""


def test_bits_of_which_nobody_knows_whether_they_count_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="BitsStored is 10, its pixels have 12 bits"):
        read_dicom(write(tmp_path / "a.dcm", noise(), BitsStored=10))


def test_padding_that_needs_more_bits_than_the_picture(tmp_path: Path) -> None:
    pixels = picture()
    pixels[:10], pixels[:, -20:] = 63536, 63536  # -2000
    path = write(tmp_path / "a.dcm", pixels, BitsStored=12, PixelPaddingValue=63536)
    facts = same(path, by_percentiles(pixels, pixels < 4096))
    assert facts["note"] == ""


@pytest.mark.parametrize("value", [-2000, 16000])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_that_is_not_declared_is_black_and_no_part_of_the_percentiles(
    tmp_path: Path, value: int, photometric: str
) -> None:
    pixels = picture().astype(np.int16)
    pixels[:10], pixels[:, -20:] = value, value
    inside = pixels != value
    share = by_percentiles(pixels, inside)
    share = np.where(inside, 1 - share, 0) if photometric == "MONOCHROME1" else share
    facts = same(write(tmp_path / "a.dcm", pixels, PhotometricInterpretation=photometric), share)
    assert facts["note"] == f"padding {value} is not declared" and facts["shown_by"] == "percentile"


def test_what_only_looks_like_padding_stays(tmp_path: Path) -> None:
    black = picture() // 2 + 400  # a collimator that comes near the picture
    black[:10] = 0
    marker = picture() // 2
    marker[30:50, 40:60] = 4095  # bright, and not at the border
    for name, pixels in (("black", black), ("marker", marker)):
        assert same(write(tmp_path / f"{name}.dcm", pixels, BitsStored=12), by_percentiles(pixels))["note"] == ""


def test_an_empty_modality_lut_is_left_out_and_half_a_one_refused(tmp_path: Path) -> None:
    pixels = ramp(12)
    empty = write(tmp_path / "a.dcm", pixels, BitsStored=12, ModalityLUTSequence=[pydicom.Dataset()])
    assert same(empty, by_percentiles(pixels))["note"] == "an empty modality LUT is left out"
    same(write(tmp_path / "b.dcm", pixels, BitsStored=12, ModalityLUTSequence=[]), by_percentiles(pixels))
    for name in ("LUTDescriptor", "LUTData"):
        half = table(list(range(4096)), 0, 16)
        del half[name]
        with pytest.raises(UnreadableImageError, match=f"{name} of a look-up table is missing"):
            read_dicom(write(tmp_path / "c.dcm", pixels, BitsStored=12, ModalityLUTSequence=[half]))
    zero = write(tmp_path / "d.dcm", pixels, BitsStored=12, RescaleSlope=0, RescaleIntercept=5)
    assert same(zero, by_percentiles(pixels))["note"] == "RescaleSlope 0 is left out"


def test_pydicoms_look_up_tables_fail_where_ours_do_not() -> None:
    """Why look_up is here at all: once these fail, pydicom's own functions can take its place."""
    values = np.arange(4096)
    wide = dataset(ramp(12), VOILUTSequence=[table([k // 8 for k in range(2048)], 0, 8)])
    with np.errstate(all="ignore"):
        theirs = pydicom.pixels.apply_voi(values, wide)
    right = np.clip(values, 0, 2047) // 8
    assert not np.array_equal(theirs, right)  # 8-bit entries: the index wraps at 256
    np.testing.assert_array_equal(grey.look_up(wide, wide.VOILUTSequence[0], values), right)
    twelve = dataset(ramp(12), ModalityLUTSequence=[table(list(range(4096)), 0, 12)])
    with pytest.raises(TypeError, match="uint12"):
        pydicom.pixels.apply_modality_lut(values, twelve)
    np.testing.assert_array_equal(grey.look_up(twelve, twelve.ModalityLUTSequence[0], values), values)
    negative = dataset(ramp(12), VOILUTSequence=[table(list(range(4000)), -1000, 12, signed=True)])
    assert not (pydicom.pixels.apply_voi(values + 65000, negative) == 3999).all()  # it wraps at 65,536
    assert (grey.look_up(negative, negative.VOILUTSequence[0], values + 65000) == 3999).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", reader.WINDOWS)
def test_an_image_of_one_value_is_all_zero(tmp_path: Path, photometric: str, window: str) -> None:
    path = write(
        tmp_path / "a.dcm",
        np.full((64, 64), 700, np.uint16),
        WindowCenter=500,
        WindowWidth=900,
        PhotometricInterpretation=photometric,
    )
    assert same(path, np.zeros((64, 64)), window=window)["shown_by"] == "constant"
    padded = write(
        tmp_path / "b.dcm",
        np.full((64, 64), 700, np.uint16),
        PixelPaddingValue=700,
        PhotometricInterpretation=photometric,
    )
    same(padded, np.zeros((64, 64)), window=window)


def test_a_few_pixels_beside_one_value_are_seen(tmp_path: Path) -> None:
    pixels = np.full((100, 100), 300, np.uint16)
    pixels[:2, :3], pixels[5, 5] = 900, 600
    same(write(tmp_path / "a.dcm", pixels), (pixels - 300) / 600)


def test_colour_becomes_its_luminance(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    rgb[0, :2] = ((0, 0, 0), (255, 255, 255))
    grey = np.asarray(Image.fromarray(rgb).convert("L")).astype(float)
    low, high = np.percentile(grey, (0.5, 99.5))
    same(write(tmp_path / "a.dcm", rgb), np.clip((grey - low) / (high - low), 0, 1))
    equal = np.repeat(ramp(8)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(
        read_dicom(write(tmp_path / "b.dcm", equal))[0], read_dicom(write(tmp_path / "c.dcm", ramp(8)))[0]
    )


# One file: compressed, broken, refused


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEG2000Lossless"])
@pytest.mark.parametrize("kind", ["<u1", "<u2", "<i2"])
def test_compressed_equals_plain(tmp_path: Path, syntax: str, kind: str) -> None:
    if syntax.startswith("JPEG2000"):
        pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    pixels = np.random.default_rng(1).normal(100, 30, (90, 77)).clip(0, 255).astype(kind)
    if kind != "<u1":
        pixels = pixels * 12 - (1500 if kind == "<i2" else 0)
    ds = dataset(
        pixels.astype(kind),
        BitsStored=8 if kind == "<u1" else 12,
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=90,
        WindowWidth=120,
    )
    ds.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    ds.compress(getattr(pydicom.uid, syntax))
    ds.save_as(tmp_path / "packed.dcm", enforce_file_format=True)
    plain, packed = (read_dicom(tmp_path / name, bits=16)[0] for name in ("plain.dcm", "packed.dcm"))
    np.testing.assert_array_equal(plain, packed)
    assert plain.max() > plain.min()


@pytest.mark.parametrize("header", [0, 1])
@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("stored", [12, 16])
def test_jpeg_2000_whose_header_says_another_sign_than_its_stream(
    tmp_path: Path, stream: int, header: int, stored: int
) -> None:
    pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    pixels = picture(top=2**stored - 1)
    signed = (pixels.astype(np.int32) - 2 ** (stored - 1)).astype(np.int16)
    ds = dataset(signed if stream else pixels, BitsStored=stored)
    ds.compress(pydicom.uid.JPEG2000Lossless)
    ds.PixelRepresentation = header
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    facts = same(tmp_path / "a.dcm", by_percentiles(pixels))
    assert ("read as" in facts["note"]) == (stream != header)


@pytest.mark.parametrize(
    "name",
    ["MR_small_jpeg_ls_lossless", "MR_small_jp2klossless", "MR_small_RLE", "MR_small_bigendian", "MR_small_implicit"],
)
def test_one_picture_in_other_transfer_syntaxes(name: str) -> None:
    if "jp2k" in name:
        pytest.importorskip("openjpeg", reason="pylibjpeg-openjpeg is not installed")
    if "jpeg_ls" in name:
        pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    reference, facts = read_dicom(SAMPLES / "MR_small.dcm", bits=16)
    assert facts["shown_by"] == "window"
    np.testing.assert_array_equal(read_dicom(SAMPLES / f"{name}.dcm", bits=16)[0], reference)


def test_jpeg_lossless_equals_what_gdcm_compressed() -> None:
    pytest.importorskip("libjpeg", reason="pylibjpeg-libjpeg is not installed")
    np.testing.assert_array_equal(
        read_dicom(SAMPLES / "SC_rgb_jpeg_gdcm.dcm")[0], read_dicom(SAMPLES / "SC_rgb_rle.dcm")[0]
    )


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-3000])
    return path


def packed(path: Path, share: float) -> Path:
    """JPEG-LS of which a part of the stream is there, in a file that is whole."""
    ds = pydicom.dcmread(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    stream = next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = pydicom.encaps.encapsulate([stream[: int(len(stream) * share) // 2 * 2]])
    ds.save_as(path)
    return path


def text(path: Path) -> Path:
    path.write_text("No picture, only words.\n" * 20)
    return path


def two_frames(path: Path) -> Path:
    ds = dataset(np.vstack([ramp(12), ramp(12)]), BitsStored=12, NumberOfFrames=2, Rows=64)
    ds.save_as(path, enforce_file_format=True)
    return path


BROKEN = {
    "less than expected": lambda p: cut(write(p, ramp(12), BitsStored=12)),
    "holds no pixels": lambda p: (p.write_bytes((SAMPLES / "MR_small_RLE.dcm").read_bytes()[:-500]), p)[1],
    "have no end": lambda p: packed(p, 0.7),
    "not a DICOM file": text,
    "2 frames": two_frames,
    "80 x 30 px: a side is shorter than 64 px": lambda p: write(p, ramp(12, 30, 80)),
    "1 x 3000 px": lambda p: write(p, ramp(12, 3000, 1)),
    "64 x 7000 px: a side is longer than 6000 px": lambda p: write(p, ramp(12, 7000, 64)),
    "text is burnt": lambda p: write(p, ramp(12), BurnedInAnnotation="YES"),
    "no Rows and Columns": lambda p: write(p, ramp(12), Rows=None),
    "2 samples": lambda p: write(p, ramp(12), SamplesPerPixel=2),
    "of this kind": lambda p: write(p, ramp(8), PhotometricInterpretation="PALETTE COLOR"),
    "32 bits stored in 32": lambda p: write(p, np.zeros((64, 64), np.uint32)),
    "No such file": lambda p: p,
    "its pixels have 12 bits": lambda p: write(p, noise(), BitsStored=9),
    "TransferSyntaxUID is missing": lambda p: without_syntax(p),
    "PixelRepresentation is 7: neither": lambda p: write(p, ramp(12), BitsStored=12, PixelRepresentation=7),
    "13 bits stored in 8": lambda p: write(p, ramp(8), BitsStored=13),
}
NEEDED = ("PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
BROKEN |= {f"x.dcm: {name} is missing": lambda p, name=name: write(p, ramp(12), **{name: None}) for name in NEEDED}


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096, (64, 70), dtype=np.uint16)


def without_syntax(path: Path) -> Path:
    ds = dataset(ramp(12), BitsStored=12)
    ds.file_meta.TransferSyntaxUID = None
    del ds.file_meta.TransferSyntaxUID
    with open(path, "wb") as file:
        file.write(b"\0" * 128 + b"DICM")
        pydicom.dcmwrite(file, ds, implicit_vr=False, little_endian=True)
    return path


@pytest.mark.parametrize("why", BROKEN)
def test_what_is_wrong_with_a_file_is_one_line_that_begins_with_its_path(
    tmp_path: Path, why: str, capfd: pytest.CaptureFixture
) -> None:
    path = BROKEN[why](tmp_path / "x.dcm")
    with pytest.raises(UnreadableImageError, match=why) as error:
        read_dicom(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert not any(secret in str(error.value) for secret in SECRETS.values())
    assert not any(word in str(error.value) for word in ("object has no", "NoneType", "Error(", "FileDataset"))
    assert capfd.readouterr() == ("", "")


def test_sizes_and_burnt_in_text_can_be_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = write(tmp_path / "a.dcm", ramp(12, 30, 80), BurnedInAnnotation="YES", ViewPosition="Quixote")
    pixels, facts = read_dicom(small, sides=(30, 80), allow_burned_in=True)
    assert pixels.shape == (30, 80) and facts["burned_in"] == "YES" and facts["view"] == "other"
    assert not caplog.records  # pydicom would quote the name
    with pytest.raises(UnreadableImageError, match="--max_side"):
        read_dicom(small, sides=(30, 79), allow_burned_in=True)


def test_a_decoder_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_values, "find_spec", lambda name: None if name == "libjpeg" else name)
    monkeypatch.setattr(pydicom.pixels.decoders.JPEGLSLosslessDecoder, "_available", {})
    with pytest.raises(
        UnreadableImageError,
        match=r"JPEG-LS Lossless .*the package pylibjpeg-libjpeg: pip install -r requirements-dicom.txt",
    ):
        read_dicom(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    monkeypatch.setattr(header, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package pydicom: pip install"):
        read_dicom(SAMPLES / "MR_small.dcm")


# Trees


def tree(root: Path) -> Path:
    """Seven X-rays under all kinds of names, and files that are none."""
    noise = np.random.default_rng(5).integers(0, 60, (96, 120), dtype=np.uint16)
    picture = ramp(12, 96, 120) // 2 + noise
    for k, name in enumerate(
        ("train/a.dicom", "train/b.DCM", "test/c.dic", "test/d", "1.2.840.77", "odd [1]/ü,e.dcm", "g.dcm")
    ):
        write(
            root / name,
            picture + k,
            BitsStored=12,
            PhotometricInterpretation=f"MONOCHROME{1 + k % 2}",
            ViewPosition=("PA", "AP", "Sancho^Panza")[k % 3],
        )
    (root / "notes.txt").write_text("no DICOM")
    (root / "LICENSE").write_text("neither")
    (root / "train" / "picture.png").write_bytes(b"somebody's")
    return root


PNG = ["1.2.840.77.png", "g.png", "odd [1]/ü,e.png", "test/c.png", "test/d.png", "train/a.png", "train/b.png"]


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_tree_becomes_a_tree(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    said = run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 2)
    assert "7 converted, 0 skipped (there already), 0 unreadable" in said
    assert sorted(contents(tmp_path / "out")) == sorted([*PNG, "dicom_facts.csv"])
    np.testing.assert_array_equal(read_grey(tmp_path / "out/train/a.png"), read_dicom(src / "train/a.dicom")[0])
    facts = rows(tmp_path / "out/dicom_facts.csv")
    assert [row["image"] for row in facts] == PNG
    row = next(row for row in facts if row["image"] == "train/a.png")
    assert row == {
        "image": "train/a.png",
        "rows": "96",
        "columns": "120",
        "photometric": "MONOCHROME1",
        "view": "PA",
        "bits_stored": "12",
        "burned_in": "",
        "shown_by": "percentile",
        "note": "",
        "width": "120",
        "height": "96",
        "made_with": "v2 voi 8 bit full size",
    }
    before = contents(tmp_path / "out")
    assert "0 converted, 7 skipped" in run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 1)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("bits", [8, 16])
def test_nothing_of_the_header_is_in_the_output(tmp_path: Path, bits: int) -> None:
    run(SCRIPT, "--src", tree(tmp_path / "src"), "--out", tmp_path / "out", "--workers", 1, "--bits", bits)
    assert not {*SECRETS, "SOPInstanceUID"} & set(
        header.read_elements(tmp_path / "src/g.dcm", pixels=True).dir()
    )  # not even read
    for name, content in contents(tmp_path / "out").items():
        for secret in (*SECRETS.values(), "Quixote", "Sancho", "1.2.3.4", "1.2.840.10008"):
            assert secret.encode() not in content, (name, secret)
        if name.endswith(".png"):
            kinds, at = [], 8
            while at < len(content):
                kinds.append(content[at + 4 : at + 8])
                at += 12 + int.from_bytes(content[at : at + 4])
            assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"} and content[24:26] == bytes([bits, 0])  # depth, grey
    with Image.open(tmp_path / "out/g.png") as image:
        np.testing.assert_array_equal(np.asarray(image), read_dicom(tmp_path / "src/g.dcm", bits=bits)[0])


@pytest.mark.parametrize("bits", [8, 16])
def test_size_is_that_of_the_longer_side_and_nothing_is_enlarged(tmp_path: Path, bits: int) -> None:
    src = tree(tmp_path / "src")
    write(src / "tall.dcm", ramp(12, 400, 90), BitsStored=12)
    run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 2, "--size", 100, "--bits", bits)
    with Image.open(tmp_path / "out/tall.png") as image, Image.open(tmp_path / "out/g.png") as other:
        assert image.size == (round(90 / 4), 100) and other.size == (100, 80)
        whole = read_dicom(src / "tall.dcm", bits=bits)[0].astype(np.float32)
        exact = np.asarray(Image.fromarray(whole).resize((22, 100), Image.Resampling.BILINEAR))
        assert np.abs(np.asarray(image) - exact).max() <= 1
    run(SCRIPT, "--src", src, "--out", tmp_path / "large", "--workers", 2, "--size", 3000)
    with Image.open(tmp_path / "large/tall.png") as image:
        assert image.size == (90, 400)


def test_png_beside_dicom(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    before = contents(src)
    run(SCRIPT, "--src", src, "--out", src, "--workers", 2)
    after = contents(src)
    assert {name: after[name] for name in before} == before and set(after) - set(before) == {*PNG, "dicom_facts.csv"}
    assert "7 skipped" in run(SCRIPT, "--src", src, "--out", src)


def test_what_cannot_be_read_is_listed_and_the_list_goes_when_it_is_mended(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    (src / "bad").mkdir()
    text(src / "bad/words.dicom")
    write(src / "thin.dcm", ramp(12, 3000, 1))
    write(src / "burnt.dcm", ramp(12), BurnedInAnnotation="YES")
    write(src / "train/a.dcm", ramp(12))
    said = run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 2, code=1)
    assert "7 converted, 0 skipped (there already), 4 unreadable" in said and "1 x not a DICOM file" in said
    listed = {row["path"]: row["why"] for row in rows(tmp_path / "out/unreadable.csv")}
    assert list(listed) == ["bad/words.dicom", "burnt.dcm", "thin.dcm", "train/a.dicom"]
    assert "1 x 3000 px" in listed["thin.dcm"] and listed["train/a.dicom"] == "its PNG is that of train/a.dcm"
    assert not (tmp_path / "out/bad").exists() and not (tmp_path / "out/thin.png").exists()
    for name in ("bad/words.dicom", "thin.dcm", "train/a.dicom"):
        (src / name).unlink()
    said = run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--allow_burned_in")
    assert "1 converted, 7 skipped" in said and "of 1 PNG the header said that text is burnt in" in said
    assert not (tmp_path / "out/unreadable.csv").exists()


def test_other_settings_are_refused_or_made_anew(tmp_path: Path) -> None:
    src, out = tree(tmp_path / "src"), tmp_path / "out"
    go = (SCRIPT, "--src", src, "--out", out, "--workers", 2)
    run(*go)
    before = contents(out)
    for flags in (("--bits", 16), ("--size", 64), ("--window", "percentile")):
        said = one_line_error(*go, *flags)
        assert "7 PNG were made with other settings" in said and "--overwrite" in said
        assert "v2 voi 8 bit full size" in said
    assert contents(out) == before
    assert "7 converted" in run(*go, "--bits", 16, "--overwrite")
    assert "7 skipped" in run(*go, "--bits", 16)
    assert (out / "g.png").read_bytes()[24] == 16


def test_a_tree_of_the_version_before_is_made_anew_when_asked(tmp_path: Path) -> None:
    src, out = tree(tmp_path / "src"), tmp_path / "out"
    go = (SCRIPT, "--src", src, "--out", out, "--workers", 1)
    run(*go)
    before = contents(out)
    lines = [line.split(",") for line in (out / "dicom_facts.csv").read_text().splitlines()]
    note = lines[0].index("note")
    old = [",".join(line[:note] + line[note + 1 :]).replace("v2 voi", "v1 voi") for line in lines]
    (out / "dicom_facts.csv").write_text("".join(f"{line}\n" for line in old))
    assert "7 PNG were made with other settings" in one_line_error(*go)
    assert "7 converted" in run(*go, "--overwrite")
    assert contents(out) == before


def test_what_a_conversion_did_not_take_as_the_header_has_it_is_said(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    write(src / "flat.dcm", np.full((64, 64), 7, np.uint16))
    write(src / "narrow.dcm", ramp(12), BitsStored=12, WindowCenter=2000, WindowWidth=3)
    said = run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 1)
    assert "1 PNG are of one grey value, nothing is to be seen in them; the first is flat.png" in said
    assert f"1 x {LEAVES_4} (column note of" in said
    notes = {row["image"]: row["note"] for row in rows(tmp_path / "out/dicom_facts.csv")}
    assert notes["narrow.png"] == LEAVES_4 and set(notes.values()) == {"", LEAVES_4}


def test_a_png_of_somebody_else_is_never_touched(tmp_path: Path) -> None:
    src, out = tree(tmp_path / "src"), tmp_path / "out"
    (out / "train").mkdir(parents=True)
    (out / "train/a.png").write_bytes(b"mine")
    for flags in ((), ("--overwrite",), ("--overwrite", "--bits", 16)):
        run(SCRIPT, "--src", src, "--out", out, *flags, code=1)
        assert (out / "train/a.png").read_bytes() == b"mine"
        assert [row["path"] for row in rows(out / "unreadable.csv")] == ["train/a.dicom"]
    (tmp_path / "other").mkdir()
    for name in ("dicom_facts.csv", "unreadable.csv"):
        (tmp_path / "other" / name).write_text("my,own\n1,2\n")
        assert f"{name} is there and not of this program" in one_line_error(
            SCRIPT, "--src", src, "--out", tmp_path / "other"
        )
        assert (tmp_path / "other" / name).read_text() == "my,own\n1,2\n"
        (tmp_path / "other" / name).unlink()


def test_wrong_flags_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("image,x\na,1\n")
    src = tree(tmp_path / "src")
    out = ("--out", tmp_path / "out")
    assert "no such folder" in one_line_error(SCRIPT, "--src", tmp_path / "nowhere", *out)
    assert "holds no DICOM file" in one_line_error(SCRIPT, "--src", tmp_path / "empty", *out)
    assert "give both or none" in one_line_error(SCRIPT, "--src", src, *out, "--boxes", tmp_path / "bad.csv")
    boxes = ("--boxes_out", tmp_path / "boxes.csv", "--boxes")
    assert "no column 'image_id'" in one_line_error(SCRIPT, "--src", src, *out, *boxes, tmp_path / "bad.csv")
    assert "is above --max_side" in one_line_error(SCRIPT, "--src", src, *out, "--min_side", 9000)
    assert not list((tmp_path / "out").iterdir())


def begin(src: Path, out: Path, log: Path) -> None:
    """In a process of its own, and a group as a shell makes it: the script as its command line would run it."""
    os.setpgrp()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout = sys.stderr = os.fdopen(handle, "w")
    sys.argv = [SCRIPT, "--src", str(src), "--out", str(out), "--workers", "2"]
    runpy.run_path(str(ROOT / SCRIPT), run_name="__main__")


def family(pid: int) -> list[int]:
    """Children of a process, where /proc tells."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_killed_and_resumed_is_as_if_never_killed(tmp_path: Path) -> None:
    src, out = tmp_path / "src", tmp_path / "out"
    rng = np.random.default_rng(2)
    for k in range(24):
        write(src / f"{k % 3}/{k:02d}.dcm", rng.integers(0, 4096, (700, 900), dtype=np.uint16), BitsStored=12)
    for number, (code, least) in zip(
        (signal.SIGKILL, signal.SIGTERM, signal.SIGINT), ((-9, 2), (143, 6), (130, 10)), strict=True
    ):
        process = multiprocessing.get_context("fork").Process(target=begin, args=(src, out, tmp_path / "log"))
        process.start()
        while len(list(out.rglob("*.png"))) < least:
            assert process.is_alive(), (tmp_path / "log").read_text()
            time.sleep(0.01)
        workers = family(process.pid)
        (os.kill if number == signal.SIGKILL else os.killpg)(process.pid, number)  # Ctrl-C goes to all
        process.join(30)
        assert process.exitcode == code and "Traceback" not in (tmp_path / "log").read_text()
        deadline = time.monotonic() + 10
        while not all(map(gone, workers)):
            assert time.monotonic() < deadline, "a worker lives on"
            time.sleep(0.02)
        for path in out.rglob("*.png"):
            read_grey(path)  # whole
        assert number == signal.SIGKILL or not list(out.rglob("*.part"))
    with open(out / "dicom_facts.csv", "a") as file:
        file.write("0/00.png,700,900,MONOCHROME2,PA,12,,percentile,,900,700,v2 vo")  # a power cut
    begun = len(list(out.rglob("*.png")))
    assert begun < 24
    said = run(SCRIPT, "--src", src, "--out", out, "--workers", 2)
    assert "0 unreadable" in said and "24 converted" not in said
    run(SCRIPT, "--src", src, "--out", tmp_path / "straight", "--workers", 1)
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forks there")
def test_a_decoder_that_crashes_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = tree(tmp_path / "src")
    real = reader.decode

    def crash(ds: "pydicom.Dataset", notes: list[str]) -> np.ndarray:
        pixels = real(ds, notes)
        if pixels[0, 0] % 8 in marked:
            faulthandler.disable()  # pytest's
            os.kill(os.getpid(), signal.SIGSEGV if pixels[0, 0] % 2 else signal.SIGKILL)
        return pixels

    marked = {int(pydicom.dcmread(src / name).pixel_array[0, 0]) % 8 for name in ("train/b.DCM", "test/c.dic")}
    monkeypatch.setattr(reader, "decode", crash)
    run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 2, code=1)
    listed = {row["path"]: row["why"] for row in rows(tmp_path / "out/unreadable.csv")}
    assert sorted(listed) == ["test/c.dic", "train/b.DCM"]
    assert any("crashed (exit code -11)" in why for why in listed.values()) and any(
        "was killed; out of memory?" in why for why in listed.values()
    )
    monkeypatch.setattr(reader, "decode", real)
    assert "2 converted, 5 skipped" in run(SCRIPT, "--src", src, "--out", tmp_path / "out", "--workers", 1)


def test_a_png_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    src, out = tree(tmp_path / "src"), tmp_path / "out"
    out.mkdir()
    (out / "train").write_text("a file where a folder must be")
    assert "train" in one_line_error(SCRIPT, "--src", src, "--out", out, "--workers", 2)


# Boxes


def boxes_of(
    folder: Path, lines: list[str], header: str = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"
) -> Path:
    path = folder / "annotations.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_boxes_follow_their_images(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")  # 120 x 96 px
    marks = boxes_of(
        tmp_path,
        [
            "a,R1,Pleural effusion,12,24,72.5,48",
            "a,R2,Pleural effusion,12,24,70,48",
            "a,R1,Nodule/Mass,1,1,9,9",
            "b,R1,No finding,,,,",
            "c,R1,Cardiomegaly,-0.5,0,120.7,96",
            "c,R1,Edema,100,0,125,90",
            "d,R1,Pneumonia,10,10,10,20",
            "zz,R1,Pulmonary fibrosis,1,1,2,2",
            "g,R1,ILD,1,1,2,2",
            "d,R1,Pleural thickening,0,0,1,1",
            "d,R1,Atelectasis,5,,9,9",
        ],
    )
    out = tmp_path / "boxes.csv"
    go = (
        SCRIPT,
        "--src",
        src,
        "--out",
        tmp_path / "out",
        "--size",
        60,
        "--boxes",
        marks,
        "--boxes_out",
        out,
        "--workers",
        2,
    )
    said = run(*go)
    assert (
        "4 boxes of 3 images; 1 rows without a box" in said
        and "Nodule/Mass 1, ILD 1" in said
        or "ILD 1, Nodule/Mass 1" in said
    )
    assert "4 boxes left out" in said
    lines = out.read_text().splitlines()
    assert lines[0] == "image,label,x,y,w,h,width,height"
    assert lines[1:] == [
        "train/a.png,Effusion,6.0,12.0,30.25,12.0,60,48",
        "train/a.png,Effusion,6.0,12.0,29.0,12.0,60,48",
        "test/c.png,Cardiomegaly,0.0,0.0,60.0,48.0,60,48",
        "test/d.png,Pleural_Thickening,0.0,0.0,0.5,0.5,60,48",
    ]
    lost = rows(tmp_path / "boxes_left_out.csv")
    assert [(row["image_id"], row["why"]) for row in lost] == [
        ("c", "leaves its image"),
        ("d", "no area"),
        ("zz", "no such PNG"),
        ("d", "no area"),
    ]
    read = read_boxes(out)
    np.testing.assert_allclose(
        read.loc[0, ["x", "y", "w", "h"]].astype(float), [12 / 120, 24 / 96, 60.5 / 120, 24 / 96], atol=1e-5
    )
    before = contents(tmp_path)
    run(*go)  # again: all there, the same boxes
    assert contents(tmp_path) == before


def test_boxes_of_vinbigdata_and_of_readers_without_a_name(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    out = ("--out", tmp_path / "out", "--boxes_out", tmp_path / "boxes.csv", "--workers", 2)
    big = boxes_of(
        tmp_path,
        ["a,Infiltration,6,R9,12,24,72,48", "b,No finding,14,R9,,,"],
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max",
    )
    run(SCRIPT, "--src", src, *out, "--boxes", big)
    expected = "image,label,x,y,w,h,width,height\ntrain/a.png,Infiltration,12.0,24.0,60.0,24.0,120,96\n"
    assert (tmp_path / "boxes.csv").read_text() == expected
    plain = boxes_of(tmp_path, ["a,Infiltration,12,24,72,48"], "image_id,class_name,x_min,y_min,x_max,y_max")
    run(SCRIPT, "--src", src, *out, "--boxes", plain)
    assert (tmp_path / "boxes.csv").read_text() == expected and not (tmp_path / "boxes_left_out.csv").exists()
    other = boxes_of(tmp_path, ["q,R1,Infiltration,12,24,72,48"])
    assert "none of its 1 images is among the PNG" in one_line_error(SCRIPT, "--src", src, *out, "--boxes", other)
    (tmp_path / "boxes.csv").write_text("mine\n")
    assert "not of this program" in one_line_error(SCRIPT, "--src", src, *out, "--boxes", plain)


def test_one_name_in_two_folders_has_no_boxes(tmp_path: Path) -> None:
    src = tree(tmp_path / "src")
    write(src / "test/a.dicom", ramp(12))
    marks = boxes_of(tmp_path, ["a,R1,Edema,1,1,9,9", "b,R1,Edema,1,1,9,9"])
    run(
        SCRIPT,
        "--src",
        src,
        "--out",
        tmp_path / "out",
        "--boxes",
        marks,
        "--boxes_out",
        tmp_path / "boxes.csv",
        "--workers",
        2,
    )
    assert pd.read_csv(tmp_path / "boxes.csv")["image"].tolist() == ["train/b.png"]
    assert rows(tmp_path / "boxes_left_out.csv")[0]["why"] == "several PNG of this name"


def test_every_twin_is_one_of_our_findings() -> None:
    assert set(VINDR_CLASSES) == set(LABELS) - {"Mass", "Nodule", "Hernia"}
    assert len(set(VINDR_CLASSES.values())) == len(VINDR_CLASSES) == 11
