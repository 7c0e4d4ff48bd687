"""Pixels: every mode of PNG and JPEG, the published resize, where files are looked for, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi.images import UnreadableImage, locate, read_grey

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
    Image.fromarray(np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None], 50, axis=0)).save(tmp_path / "x.jpg", quality=95)
    assert read_grey(tmp_path / "x.jpg", 32).shape == (32, 32)
    assert read_grey(tmp_path / "x.jpg").shape == (50, 100)


def test_a_broken_file_is_named_and_never_black(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for name, content in (("cut.png", whole[: len(whole) // 2]), ("empty.png", b""), ("text.png", b"not an image"), ("head.png", whole[:20])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=name):
            read_grey(tmp_path / name, 16)


def test_images_are_found_in_the_three_places_in_their_order(tmp_path: Path) -> None:
    for place in ("images/a.png", "a.png", "b.png", "images_002/images/b.png", "images_002/images/c.png", "deep/er/d.png", "images/deep/e.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    found = locate(tmp_path, ["a.png", "b.png", "c.png", "deep/er/d.png", "deep/e.png", "images_002/images/c.png", "f.png", "deep/f.png"])
    expected = ["images/a.png", "b.png", "images_002/images/c.png", "deep/er/d.png", "images/deep/e.png", "images_002/images/c.png", None, None]
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
