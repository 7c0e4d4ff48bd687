"""Pixels: every mode of PNG and JPEG, more than 8 bits of every kind, the published resize; where files are found."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi.data.images import UnreadableImageError, is_constant, locate, read_grey, read_picture

GREY = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


def published(path: Path, size: int) -> np.ndarray:
    """The pixels of the published loader: PIL, RGB, Resize((S, S)) on the PIL image."""
    return np.asarray(Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))[:, :, 0]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_modes_of_png_give_the_published_pixels(tmp_path: Path, mode: str) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "x.png")
    for size in (16, 40, 64):
        np.testing.assert_array_equal(read_grey(tmp_path / "x.png", size), published(tmp_path / "x.png", size))
    np.testing.assert_array_equal(read_grey(tmp_path / "x.png"), GREY)


def test_resize_is_antialiased(tmp_path: Path) -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "x.png")
    small = read_grey(tmp_path / "x.png", 8)
    assert (np.abs(small.astype(int) - 127) <= 2).all()  # without a filter it is 0 or 255


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_16_bit_is_scaled_by_the_bits_in_use_not_clipped(tmp_path: Path, bits: int) -> None:
    top = 2**bits - 1
    GREY[0, 0] = 255
    deep = (GREY.astype(np.uint32) * top // 255).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "x.png")
    assert np.abs(read_grey(tmp_path / "x.png").astype(int) - GREY).max() <= 1


def test_jpeg_and_an_oblong_image(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None], 50, axis=0)).save(
        tmp_path / "x.jpg", quality=95
    )
    assert read_grey(tmp_path / "x.jpg", 32).shape == (32, 32)
    assert read_grey(tmp_path / "x.jpg").shape == (50, 100)


# --- more than 8 bits: white is what the file states, or what the fewest bits hold

TWELVE = (
    (np.outer(np.linspace(0, 1, 60), np.linspace(0.2, 1, 50)) * 4095).round().astype(np.uint16)
)  # an X-ray of 12 bits
SHOWN = np.floor(TWELVE * (255 / 4095) + 0.5).astype(int)  # as it should look
GREY_ALPHA, RGB, RGBA = 4, 2, 6  # colour types of PNG


def png(path: Path, samples: np.ndarray, colour: int = 0, **chunks: bytes) -> Path:
    """(H, W, C) uint16 as a PNG of 16 bits, its rows filtered in turn by Sub, Up and Paeth."""
    height, width = samples.shape[:2]
    wide = 2 * samples.reshape(height, width, -1).shape[2]  # bytes of a pixel
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8).astype(int)
    left = np.pad(rows, ((0, 0), (wide, 0)))[:, :-wide]
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    corner = np.pad(left, ((1, 0), (0, 0)))[:-1]
    guess = left + above - corner
    near = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)]).argmin(0)
    paeth = np.choose(near, [left, above, corner])
    lines = []
    for y in range(height):
        kind, before = ((1, left), (2, above), (4, paeth))[y % 3]
        lines.append(bytes([kind]) + ((rows[y] - before[y]) % 256).astype(np.uint8).tobytes())
    parts = {b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)}
    parts |= {name.encode(): content for name, content in chunks.items()}
    parts |= {b"IDAT": zlib.compress(b"".join(lines)), b"IEND": b""}
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, content in parts.items():
            file.write(struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content)))
    return path


def tiff(path: Path, samples: np.ndarray, **tags: int | float) -> Path:
    """(H, W) or (H, W, C) as an uncompressed TIFF in the byte order of its dtype. `tags`: t<number>."""
    order = ">" if samples.dtype.byteorder == ">" else "<"
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    entries: dict[int, int | float] = {
        256: samples.shape[1],
        257: samples.shape[0],
        258: 8 * samples.itemsize,
        259: 1,
        262: 1 if channels == 1 else 2,
    }
    entries |= {
        273: 0,
        277: channels,
        278: samples.shape[0],
        279: samples.nbytes,
        339: {"u": 1, "i": 2, "f": 3}[samples.dtype.kind],
    }
    entries |= {int(name[1:]): value for name, value in tags.items()}
    at = 8 + 2 + 12 * len(entries) + 4
    more = struct.pack(
        order + f"{channels}H", *[8 * samples.itemsize] * channels
    )  # BitsPerSample of colour does not fit into its entry
    entries[273] = at + len(more)
    with open(path, "wb") as file:
        file.write((b"II" if order == "<" else b"MM") + struct.pack(order + "HIH", 42, 8, len(entries)))
        for tag, value in sorted(entries.items()):
            if tag == 258 and channels > 2:
                file.write(struct.pack(order + "HHII", tag, 3, channels, at))
            elif isinstance(value, float):
                file.write(struct.pack(order + "HHIf", tag, 11, 1, value))
            elif tag in (256, 257, 273, 278, 279):
                file.write(struct.pack(order + "HHII", tag, 4, 1, value))
            else:
                file.write(struct.pack(order + "HHIHH", tag, 3, 1, value, 0))
        file.write(struct.pack(order + "I", 0) + more + samples.tobytes())
    return path


def looks(path: Path, shown: np.ndarray = SHOWN, off: int = 1) -> str:
    """The picture is `shown`, but for rounding. -> what is said of its scale"""
    picture = read_picture(path)
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_allclose(picture.pixels.astype(int), shown, atol=off)
    assert np.array_equal(read_grey(path), picture.pixels)
    return picture.scale


def spotted(samples: np.ndarray) -> np.ndarray:
    """One pixel as bright as can be: a marker, a dead sensor."""
    samples = samples.copy()
    samples[7, 9] = np.iinfo(samples.dtype).max
    return samples


SPOTTED = SHOWN.copy()
SPOTTED[7, 9] = 255


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_one_bright_pixel_does_not_make_a_12_bit_picture_black(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(spotted(TWELVE)).save(tmp_path / f"x.{suffix}")
    assert looks(tmp_path / f"x.{suffix}", SPOTTED) == "black 0, white 4095 (which holds 99.9 % of its samples)"


@pytest.mark.parametrize("bits", range(1, 17))
def test_all_depths_up_to_16_bits_fill_the_range_with_and_without_stray_pixels(tmp_path: Path, bits: int) -> None:
    deep = (TWELVE.astype(int) * (2**bits - 1) // 4095).astype(np.uint16)
    for name, samples in (("plain", deep), ("spotted", spotted(deep))):
        Image.fromarray(samples).save(tmp_path / f"{name}.png")
        shown = np.floor(deep * (255 / (2**bits - 1)) + 0.5)
        shown[7, 9] = 255 if name == "spotted" else shown[7, 9]
        assert f"white {2**bits - 1} " in looks(tmp_path / f"{name}.png", shown)


def test_the_depth_that_a_png_states_wherever_its_bits_are(tmp_path: Path) -> None:
    dark = TWELVE // 4
    assert looks(png(tmp_path / "low.png", spotted(TWELVE), sBIT=b"\x0c"), SPOTTED) == "black 0, white 4095 (sBIT 12)"
    assert "white 4095 (sBIT 12)" in looks(png(tmp_path / "dark.png", dark | 1, sBIT=b"\x0c"), dark * (255 / 4095))
    upper = TWELVE << 4 | TWELVE >> 8  # as the PNG specification has it
    assert looks(png(tmp_path / "high.png", upper, sBIT=b"\x0c")) == "black 0, white 65535 (sBIT 12)"
    assert "white 65535 (sBIT 12)" in looks(
        png(tmp_path / "dark_high.png", dark << 4, sBIT=b"\x0c"), dark * (255 / 4095)
    )
    half = TWELVE * 8
    assert "white 65535 (sBIT 16)" in looks(png(tmp_path / "half.png", half, sBIT=b"\x10"), half * (255 / 65535))


def test_a_depth_that_is_stated_and_would_make_the_picture_black_is_not_believed(tmp_path: Path) -> None:
    said = looks(png(tmp_path / "x.png", TWELVE, sBIT=b"\x10"))
    assert said == "black 0, white 4095 (which holds 99.9 % of its samples; sBIT 16 would leave 15 grey levels)"
    assert "; MaxSampleValue 60000 would leave 17" in looks(tiff(tmp_path / "x.tif", TWELVE, t281=60000))


def test_the_depth_that_tiff_and_pgm_state(tmp_path: Path) -> None:
    dark = TWELVE // 4
    assert "(MaxSampleValue 4095)" in looks(tiff(tmp_path / "a.tif", dark, t281=4095), dark * (255 / 4095))
    assert "99.9 %" in looks(tiff(tmp_path / "b.tif", TWELVE, t281=255))  # it states less than it holds
    assert "(SMaxSampleValue 2)" in looks(tiff(tmp_path / "c.tif", (TWELVE / 4095).astype("<f4"), t341=2.0), SHOWN / 2)
    for maxval, samples in ((4095, dark), (2000, dark), (4095, TWELVE)):
        (tmp_path / "x.pgm").write_bytes(b"P5 50 60 %d\n" % maxval + samples.astype(">u2").tobytes())
        assert f"(maxval {maxval})" in looks(tmp_path / "x.pgm", samples * (255 / maxval))
    packed = np.stack(
        [TWELVE[:, ::2] >> 4, (TWELVE[:, ::2] & 15) << 4 | TWELVE[:, 1::2] >> 8, TWELVE[:, 1::2] & 255], axis=2
    ).astype(np.uint8)
    assert (
        looks(tiff(tmp_path / "d.tif", packed.reshape(60, 75), t256=50, t258=12))
        == "black 0, white 4095 (BitsPerSample 12)"
    )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("top", [0.004, 0.7, 1.0, 1.004, 255.0, 4095.0, 65535.0])
def test_floating_point_is_neither_black_nor_white(tmp_path: Path, order: str, top: float) -> None:
    white = {0.004: 2**-8, 0.7: 1, 1.004: 1}.get(top, top)
    samples = (TWELVE * (top / 4095)).astype(f"{order}f4")
    looks(tiff(tmp_path / "x.tif", samples), (TWELVE * (top / 4095 * 255 / white)).clip(0, 255))
    pixels = read_grey(tmp_path / "x.tif")
    assert pixels.max() > 127 and len(np.unique(pixels)) > 100


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    for odd in (np.nan, np.inf):
        samples = TWELVE.astype("<f4")
        samples[3, 3] = odd
        with pytest.raises(UnreadableImageError, match=r"x\.tif: .*no numbers \(NaN or infinite\)"):
            read_grey(tiff(tmp_path / "x.tif", samples))


@pytest.mark.parametrize("kind", ["<i2", ">i2", "<i4", ">i4", "<f4", ">f4"])
def test_signed_samples_do_not_wrap(tmp_path: Path, kind: str) -> None:
    signed = (TWELVE.astype(int) - 2048).astype(kind)
    said = looks(tiff(tmp_path / "x.tif", signed), off=2)
    assert said.startswith("black -204") and "white 2047" in said
    looks(tiff(tmp_path / "above.tif", TWELVE.astype(kind)))
    few = TWELVE.astype(kind)
    few[5, 5] = -30000  # one stray pixel
    looks(tiff(tmp_path / "few.tif", few), np.where(few < 0, 0, SHOWN))
    hounsfield = (TWELVE.astype(int) - 1024).astype(kind)
    pixels = read_grey(tiff(tmp_path / "hounsfield.tif", hounsfield)).astype(int)
    assert (
        np.diff(pixels.ravel()[TWELVE.ravel().argsort(kind="stable")]) >= 0
    ).all() and pixels.max() - pixels.min() > 100


def test_signed_8_bits_do_not_wrap(tmp_path: Path) -> None:
    looks(tiff(tmp_path / "x.tif", (SHOWN - 128).astype(np.int8)))
    looks(tiff(tmp_path / "above.tif", (SHOWN // 2).astype(np.int8)), SHOWN // 2 * (255 / 127))


@pytest.mark.parametrize("kind", ["<u4", "<u2", ">u2"])
def test_unsigned_samples_use_all_their_bits(tmp_path: Path, kind: str) -> None:
    factor = 2 ** (8 * np.dtype(kind).itemsize - 12)
    looks(tiff(tmp_path / "x.tif", (TWELVE.astype(np.int64) * factor).astype(kind)))


@pytest.mark.parametrize("kind", ["<u2", "<f4", ">f4"])
def test_white_is_zero_is_inverted(tmp_path: Path, kind: str) -> None:
    said = looks(tiff(tmp_path / "x.tif", (4095 - TWELVE).astype(kind), t262=0))
    assert said.endswith("inverted")
    Image.fromarray(4095 - TWELVE).save(tmp_path / "lzw.tif", tiffinfo={262: 0}, compression="tiff_lzw")
    looks(tmp_path / "lzw.tif")
    looks(tiff(tmp_path / "eight.tif", (255 - SHOWN).astype(np.uint8), t262=0))


def colours(samples: np.ndarray, alpha: bool = False) -> np.ndarray:
    planes = [samples] * 3 + [np.full_like(samples, 65535)] * alpha
    return np.stack(planes, axis=2)


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bits_of_colour_and_of_grey_with_alpha(tmp_path: Path, bits: int) -> None:
    samples = TWELVE if bits == 12 else (TWELVE << 4 | TWELVE >> 8)
    alpha = np.full_like(samples, 65535)
    grey_alpha = np.stack([samples, alpha], axis=2)
    files = [
        png(tmp_path / "la.png", grey_alpha, GREY_ALPHA),
        png(tmp_path / "rgb.png", colours(samples), RGB),
        png(tmp_path / "rgba.png", colours(samples, True), RGBA),
        tiff(tmp_path / "little.tif", colours(samples)),
        tiff(tmp_path / "big.tif", colours(samples).astype(">u2")),
        tiff(tmp_path / "rgba.tif", colours(samples, True), t338=2),
        tiff(tmp_path / "rgbx.tif", colours(samples, True), t338=0),
    ]
    (tmp_path / "x.ppm").write_bytes(b"P6 50 60 65535\n" + colours(samples).astype(">u2").tobytes())
    for path in [*files, tmp_path / "x.ppm"]:
        assert f"white {2**bits - 1} " in looks(path), path.name
    assert "sBIT 12" in looks(png(tmp_path / "said.png", colours(TWELVE), RGB, sBIT=b"\x0c\x0c\x0c"))
    lower = np.stack([TWELVE, TWELVE // 2, TWELVE // 3], axis=2)
    luminance = (lower @ np.array([0.299, 0.587, 0.114])) * (255 / 4095)
    looks(png(tmp_path / "luminance.png", lower, RGB), luminance.clip(0, 255))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_a_picture_that_is_in_its_transparency_is_refused_by_name(tmp_path: Path, mode: str) -> None:
    image = Image.new("LA" if mode == "LA" else "RGBA", (40, 40))
    image.putalpha(Image.fromarray(GREY))
    image.save(tmp_path / "x.png")
    with pytest.raises(UnreadableImageError, match=r"x\.png: .*in its transparency"):
        read_grey(tmp_path / "x.png", 16)
    if mode == "LA":
        deep = np.stack([np.zeros_like(TWELVE), TWELVE], axis=2)
        with pytest.raises(UnreadableImageError, match="in its transparency"):
            read_grey(png(tmp_path / "deep.png", deep, GREY_ALPHA))
    Image.new("RGBA", (40, 40), (9, 9, 9, 255)).save(tmp_path / "plain.png")
    assert (read_grey(tmp_path / "plain.png") == 9).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_exif_orientation_is_applied(tmp_path: Path, suffix: str, bits: int) -> None:
    if bits == 16 and suffix in ("jpg", "webp"):
        pytest.skip("has no more than 8 bits")
    upright = SHOWN if bits == 8 else TWELVE
    lying = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
    }
    lying[8] = np.rot90(upright, -1)
    for code, stored in lying.items():
        exif = Image.Exif()
        exif[0x0112] = code
        Image.fromarray(stored.astype(np.uint8 if bits == 8 else np.uint16)).save(
            tmp_path / f"{code}.{suffix}", exif=exif, **LOSSLESS.get(suffix, {})
        )
        looks(tmp_path / f"{code}.{suffix}", off=6 if suffix == "jpg" else 2)
        assert read_grey(tmp_path / f"{code}.{suffix}", 16).shape == (16, 16)


LOSSLESS: dict[str, dict] = {"jpg": {"quality": 98}, "webp": {"lossless": True}}


def test_an_exif_block_that_is_broken_is_no_reason_to_refuse_the_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.png", exif=b"Exif\x00\x00MM\x00*\x00\x00\xff")
    np.testing.assert_array_equal(read_grey(tmp_path / "x.png"), GREY)


def test_deep_samples_of_a_format_that_does_not_say_what_they_mean_are_refused(tmp_path: Path) -> None:
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                   16",
        "NAXIS   =                    2",
        "NAXIS1  =                   50",
    ]
    header = "".join(card.ljust(80) for card in [*cards, "NAXIS2  =                   60", "END"]).ljust(2880)
    (tmp_path / "x.fits").write_bytes(header.encode() + TWELVE.astype(">i2").tobytes().ljust(2880 * 3, b"\0"))
    with pytest.raises(
        UnreadableImageError, match=r"x\.fits: .*format FITS: which value is white is not known; convert it to PNG"
    ):
        read_grey(tmp_path / "x.fits")


def test_pfm_is_floating_point(tmp_path: Path) -> None:
    (tmp_path / "x.pfm").write_bytes(b"Pf\n50 60\n-1.0\n" + (TWELVE / 4095).astype("<f4")[::-1].tobytes())
    looks(tmp_path / "x.pfm")


def test_16_bits_in_planes_which_pillow_garbles_are_refused(tmp_path: Path) -> None:
    planes = colours(TWELVE).transpose(2, 0, 1).copy()
    path = tiff(tmp_path / "x.tif", colours(TWELVE), t284=2)
    head = path.read_bytes()[: -planes.nbytes]
    at = len(head)
    size = planes[0].nbytes
    path.write_bytes(head + planes.tobytes() + struct.pack("<6I", at, at + size, at + 2 * size, size, size, size))
    with open(path, "r+b") as file:
        content = file.read()
        for tag, where in ((273, at + planes.nbytes), (279, at + planes.nbytes + 12)):
            file.seek(content.index(struct.pack("<HHI", tag, 4, 1)) + 4)
            file.write(struct.pack("<II", 3, where))
    with Image.open(path) as image:
        pillow = np.asarray(image.convert("L"))
    assert np.corrcoef(pillow.ravel(), SHOWN.ravel())[0, 1] < 0.9  # once it is right, ours may be, too
    with pytest.raises(UnreadableImageError, match="in planes: Pillow would garble it"):
        read_grey(path)


def test_constant_is_seen(tmp_path: Path) -> None:
    assert is_constant(np.full((4, 4), 7, np.uint8)) and not is_constant(GREY)


def test_a_broken_file_is_named_and_never_black(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in (
        ("cut.png", whole[: len(whole) // 2]),
        ("empty.png", b""),
        ("text.png", b"not an image"),
        ("head.png", whole[:20]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImageError, match=name):
            read_grey(tmp_path / name, 16)


def test_images_are_found_in_the_three_places_in_their_order(tmp_path: Path) -> None:
    for place in (
        "images/a.png",
        "a.png",
        "b.png",
        "images_002/images/b.png",
        "images_002/images/c.png",
        "deep/er/d.png",
        "images/deep/e.png",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    found = locate(
        tmp_path,
        ["a.png", "b.png", "c.png", "deep/er/d.png", "deep/e.png", "images_002/images/c.png", "f.png", "deep/f.png"],
    )
    expected = [
        "images/a.png",
        "b.png",
        "images_002/images/c.png",
        "deep/er/d.png",
        "images/deep/e.png",
        "images_002/images/c.png",
        None,
        None,
    ]
    assert found == [None if e is None else str(tmp_path / e) for e in expected]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png"])
def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(ValueError, match="leaves --image_root"):
        locate(tmp_path / "root", [name])


def test_real_shards_and_rgba(shared: Path) -> None:
    root = shared / "nih_1024"
    names = sorted(p.name for p in root.glob("images_*/images/*.png"))
    paths = [p for p in locate(root, names) if p]
    assert len(paths) == len(names) == 72
    modes = {p: Image.open(p).mode for p in paths}
    assert sum(m == "RGBA" for m in modes.values()) == 8
    for path in [p for p in paths if modes[p] == "RGBA"][:2] + [p for p in paths if modes[p] == "L"][:2]:
        np.testing.assert_array_equal(read_grey(path, 224), published(Path(path), 224))


def test_resized_copies_of_kaggle_are_searched(tmp_path: Path) -> None:
    for name in ("images-224/images-224/a.png", "images-512/images-512/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    found = locate(tmp_path, ["a.png", "b.png", "c.png", "images-224/images-224/a.png"])
    a, b = (str(tmp_path / name) for name in ("images-224/images-224/a.png", "images-512/images-512/b.png"))
    assert found == [a, b, None, a]
