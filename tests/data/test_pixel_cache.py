"""The pixel cache: the pixels of read_grey, whatever was killed, changed, damaged, full or shared in between."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from roi.data import pixel_cache, pixel_shards
from roi.data.images import Picture, UnreadableImageError, read_grey, read_picture
from roi.data.pixel_cache import PixelCache, open_cache

SIZE = 24
fork = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="the test forks")


class Source(NamedTuple):
    names: list[str]
    paths: list[str]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_shards, "SHARD", 4)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """18 images that all differ: grey, RGBA, 16 bit and JPEG."""
    rng = np.random.default_rng(0)
    (tmp_path / "src").mkdir()
    paths = []
    for k in range(18):
        grey = Image.fromarray(rng.integers(0, 256, (40, 30), dtype=np.uint8))
        if k % 4 == 2:
            grey = Image.fromarray(rng.integers(0, 4096, (40, 30), dtype=np.uint16))
        image = grey.convert("RGBA") if k % 4 == 1 else grey
        paths.append(str(tmp_path / "src" / f"{k:02d}.{'jpg' if k % 4 == 3 else 'png'}"))
        image.save(paths[-1])
    return Source([Path(path).name for path in paths], paths)


def expect(got: PixelCache, paths: list[str], size: int = SIZE) -> None:
    """Every image is there, with the pixels of read_grey."""
    assert got.unreadable == {} and got.rows.dtype == np.int64 and got.pixels.dtype == np.uint8
    np.testing.assert_array_equal(
        got.gather(np.arange(len(paths))), np.stack([read_grey(path, size) for path in paths])
    )


def home_of(folder: Path) -> Path:
    (home,) = folder.glob(f"{SIZE}px-*")
    return home


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*/shard-*.json"))}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[str]]:
    """-> names of the files that were decoded since it was last asked, in any process."""
    log = tmp_path / "decoded.txt"
    log.touch()

    def logged(path: str, size: int | None = None) -> Picture:
        with open(log, "a") as file:
            file.write(Path(path).name + "\n")
        return read_picture(path, size)

    def since() -> list[str]:
        names = log.read_text().split()
        log.write_text("")
        return sorted(names)

    monkeypatch.setattr(pixel_shards, "read_picture", logged)
    return since


def slowly(path: str, size: int | None = None) -> Picture:
    time.sleep(0.05)
    return read_picture(path, size)


@pytest.mark.parametrize("size", [16, 24, 64])
def test_the_pixels_are_those_of_read_grey(tmp_path: Path, source: Source, size: int) -> None:
    for _ in range(2):  # decoded, then found
        got = open_cache(tmp_path / "c", *source, size, 0)
        assert got.pixels.shape[1:] == (size, size) and not got.pixels.flags.writeable
        expect(got, source.paths, size)


def test_any_number_of_workers_gives_the_same(tmp_path: Path, source: Source, decoded: Callable) -> None:
    for workers in (0, 1, 2, 3):
        got = open_cache(tmp_path / str(workers), *source, SIZE, workers)
        expect(got, source.paths)
        assert decoded() == source.names
        assert sorted(len(json.loads(text)["names"]) for text in shards(tmp_path / str(workers)).values()) == [
            2,
            4,
            4,
            4,
            4,
        ]


def test_few_images_are_shared_out(tmp_path: Path, source: Source) -> None:
    expect(open_cache(tmp_path / "c", source.names[:4], source.paths[:4], SIZE, 2), source.paths[:4])
    assert len(shards(tmp_path / "c")) == 2


def test_gather(tmp_path: Path, source: Source) -> None:
    got = open_cache(tmp_path / "c", *source, SIZE, 0)
    index = np.array([17, 3, 3, 0, 9])
    wanted = np.stack([read_grey(source.paths[i], SIZE) for i in index])
    fresh = got.gather(index)
    assert type(fresh) is np.ndarray and fresh.flags.writeable
    np.testing.assert_array_equal(fresh, wanted)
    out = np.zeros((5, SIZE, SIZE), dtype=np.uint8)
    assert got.gather(index, out) is out
    np.testing.assert_array_equal(out, wanted)
    assert got.gather(np.array([], dtype=np.int64)).shape == (0, SIZE, SIZE)
    with pytest.raises(IndexError):
        got.gather(np.array([18]))


def test_tables_share_a_cache(tmp_path: Path, source: Source, decoded: Callable, capsys: pytest.CaptureFixture) -> None:
    names, paths = source
    open_cache(tmp_path / "c", names[:7], paths[:7], SIZE, 0)
    decoded()
    kept = shards(tmp_path / "c")
    capsys.readouterr()
    order = [12, 2, 2, 6, 11]  # one twice
    got = open_cache(tmp_path / "c", [names[i] for i in order], [paths[i] for i in order], SIZE, 0)
    expect(got, [paths[i] for i in order])
    assert decoded() == [names[11], names[12]]
    assert "2 images there, decoding 2" in capsys.readouterr().out
    assert kept.items() <= shards(tmp_path / "c").items()
    expect(open_cache(tmp_path / "c", names[3:7], paths[3:7], SIZE, 0), paths[3:7])
    assert decoded() == [] and "all 4 images there" in capsys.readouterr().out


def test_a_moved_copy_is_the_same_a_changed_source_is_not(tmp_path: Path, source: Source, decoded: Callable) -> None:
    names, paths = source
    open_cache(tmp_path / "c", names, paths, SIZE, 0)
    decoded()
    copies = [str(shutil.copy2(path, tmp_path / f"copy-{Path(path).name}")) for path in paths]
    expect(open_cache(tmp_path / "c", names, copies, SIZE, 0), paths)
    assert decoded() == []

    before, old = os.stat(paths[4]), read_grey(paths[4], SIZE)
    data = bytearray(Path(paths[4]).read_bytes())
    Image.fromarray(np.full((40, 30), 9, dtype=np.uint8)).save(paths[4])
    Path(paths[4]).write_bytes(Path(paths[4]).read_bytes().ljust(len(data), b"\0"))  # the same size, another second
    os.utime(paths[4], ns=(before.st_mtime_ns, before.st_mtime_ns + 10**9))
    Image.fromarray(np.full((7, 7), 8, dtype=np.uint8)).save(paths[8])  # another size, the same second
    os.utime(paths[8], ns=(before.st_mtime_ns, os.stat(copies[8]).st_mtime_ns))
    assert os.stat(paths[4]).st_size == before.st_size and os.stat(paths[8]).st_size != os.stat(copies[8]).st_size
    reader = open_cache(tmp_path / "c", names, copies, SIZE, 0)
    expect(open_cache(tmp_path / "c", names, paths, SIZE, 0), paths)
    assert decoded() == [names[4], names[8]]
    np.testing.assert_array_equal(reader.gather(np.array([4]))[0], old)  # its rows are still there
    expect(open_cache(tmp_path / "c", names, copies, SIZE, 0), copies)
    assert decoded() == []


def twin(source: Source, folder: Path, fill: int) -> list[str]:
    """Another data set of the same names, sizes and mtimes, as two archives give them. -> its paths"""
    folder.mkdir()
    paths = []
    for k, path in enumerate(source.paths):
        paths.append(str(folder / Path(path).name))
        Image.fromarray(np.full((9, 9), fill + k, dtype=np.uint8)).save(paths[-1])
        before = os.stat(path)
        content = Path(paths[-1]).read_bytes()
        Path(paths[-1]).write_bytes(content.ljust(before.st_size, b"\0"))
        os.utime(paths[-1], ns=(before.st_mtime_ns, before.st_mtime_ns))
        assert os.stat(paths[-1]).st_size == before.st_size
    return paths


def test_another_folder_with_the_same_names_sizes_and_mtimes_has_its_own_pixels(
    tmp_path: Path, source: Source, decoded: Callable
) -> None:
    names, paths = source
    others = twin(source, tmp_path / "other", 3)
    for turn in range(3):
        expect(open_cache(tmp_path / "c", names, paths, SIZE, 0), paths)
        expect(open_cache(tmp_path / "c", names, others, SIZE, 0), others)
        assert len(decoded()) == (36 if turn == 0 else 0)
    mixed = [pair[k % 2] for k, pair in enumerate(zip(paths, others, strict=True))]
    expect(open_cache(tmp_path / "c", names, mixed, SIZE, 0), mixed)
    linked = tmp_path / "link"
    linked.symlink_to(tmp_path / "other")
    expect(open_cache(tmp_path / "c", names, [str(linked / name) for name in names], SIZE, 0), others)
    assert decoded() == []


def test_another_disk_in_the_place_of_the_first_has_its_own_pixels(
    tmp_path: Path, source: Source, decoded: Callable
) -> None:
    names, paths = source
    others = twin(source, tmp_path / "other", 3)
    here = tmp_path / "mounted"
    for folder, theirs in (("src", paths), ("other", others), ("src", paths)):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(tmp_path / folder, here)  # with its mtimes
        mounted = [str(here / name) for name in names]
        expect(open_cache(tmp_path / "c", names, mounted, SIZE, 0), theirs)
    assert len(decoded()) == 36


def test_a_file_is_sampled_where_its_path_is_another_and_seldom_where_it_is_not(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, paths = source
    open_cache(tmp_path / "c", names, paths, SIZE, 0)
    sampled: list[str] = []
    sample = pixel_shards.sample_of
    monkeypatch.setattr(pixel_cache, "SPOTS", 3)
    monkeypatch.setattr(pixel_shards, "sample_of", lambda path: (sampled.append(path), sample(path))[1])
    expect(open_cache(tmp_path / "c", names, paths, SIZE, 0), paths)
    assert sorted(sampled) == [paths[0], paths[6], paths[12]]
    copies = [str(shutil.copy2(path, tmp_path / f"copy-{Path(path).name}")) for path in paths]
    sampled.clear()
    expect(open_cache(tmp_path / "c", names, copies, SIZE, 0), paths)
    assert sorted(sampled) == sorted(copies)


def test_a_sample_is_the_whole_of_a_short_file_and_pieces_from_end_to_end_of_a_long_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for size in (0, 1, 65536, 65537, 3_000_000):
        content = bytearray(np.random.default_rng(0).bytes(size))
        path.write_bytes(content)
        first = pixel_shards.sample_of(str(path))
        for at in {0, size // 2 if size <= 65536 else 0, size - 1} if size else ():
            content[at] ^= 1
            path.write_bytes(content)
            assert pixel_shards.sample_of(str(path)) != first
            content[at] ^= 1


def test_what_became_of_more_than_8_bits_and_which_images_are_constant_is_known(
    tmp_path: Path, source: Source, capsys: pytest.CaptureFixture
) -> None:
    names, paths = source
    for k in (2, 9):
        Image.fromarray(np.full((30, 30), 40 * k, dtype=np.uint16)).save(paths[k])
    for workers in (0, 2):
        got = open_cache(tmp_path / str(workers), names, paths, SIZE, workers)
        assert got.constant == [2, 9]
        assert got.scales == {SCALE.format(4095): 3, SCALE.format(127): 1, SCALE.format(511): 1}
        again = open_cache(tmp_path / str(workers), names[:10], paths[:10], SIZE, workers)
        assert again.constant == [2, 9] and again.scales[SCALE.format(4095)] == 1
    assert f"3 of 18 images have more than 8 bits, {SCALE.format(4095)}" in capsys.readouterr().out
    facts = [json.loads(text) for text in shards(tmp_path / "0").values()]
    assert sum(sum(shard["constant"]) for shard in facts) == 2
    assert sum(scale == SCALE.format(4095) for shard in facts for scale in shard["scale"]) == 3


SCALE = "black 0, white {} (which holds 99.9 % of its samples)"


def test_a_cache_of_an_earlier_version_is_named_and_not_used(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, decoded: Callable, capsys: pytest.CaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pixel_shards, "VERSION", 1)
        open_cache(tmp_path / "c", *source, SIZE, 0)
    old = home_of(tmp_path / "c")
    (old / "pixels.u8").write_bytes(b"\0" * 18 * SIZE**2)
    decoded()
    capsys.readouterr()
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    assert decoded() == source.names
    assert f"{old}: was made by another version of this program or of Pillow" in capsys.readouterr().out


def test_a_source_that_changes_while_it_is_read_is_not_recorded(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changing(path: str, size: int | None = None) -> Picture:
        picture = read_picture(path, size)
        if path == source.paths[1]:
            os.utime(path, ns=(0, 10**9))
        if path == source.paths[2]:
            os.remove(path)
        return picture

    with monkeypatch.context() as patch:
        patch.setattr(pixel_shards, "read_picture", changing)
        got = open_cache(tmp_path / "c", *source, SIZE, 0)
    assert (
        sorted(got.unreadable) == [1, 2]
        and "changed" in got.unreadable[1]
        and got.unreadable[2].startswith(source.paths[2])
    )
    assert (np.flatnonzero(got.rows < 0) == [1, 2]).all()
    shutil.copy(source.paths[0], source.paths[2])
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)


def test_another_size_or_way_is_another_folder(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    expect(open_cache(tmp_path / "c", *source, 16, 0), source.paths, 16)
    (first,) = (tmp_path / "c").glob("24px-*")
    assert (
        len(list((tmp_path / "c").glob("16px-*"))) == 1
        and json.loads((first / "cache.json").read_text())["size"] == SIZE
    )
    for name, value in (("VERSION", 99), ("SHARD", 5)):
        monkeypatch.setattr(pixel_shards, name, value)
        expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    monkeypatch.setattr(pixel_shards.PIL, "__version__", "0.1")
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    assert len(list((tmp_path / "c").glob("24px-*"))) == 4


@pytest.mark.parametrize("text", ['{"size": 99}', "{", "[]", "\xff"])
def test_a_foreign_folder_is_refused(tmp_path: Path, source: Source, text: str) -> None:
    open_cache(tmp_path / "c", *source, SIZE, 0)
    (home_of(tmp_path / "c") / "cache.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"cache\.json: is of another cache .*--cache_dir"):
        open_cache(tmp_path / "c", *source, SIZE, 0)


def flip(home: Path) -> None:
    with open(home / "pixels.u8", "r+b") as file:
        file.seek(5 * SIZE**2 + 77)  # in shard 1
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def rewrite(**changes: Any) -> Callable[[Path], None]:
    def change(home: Path) -> None:
        path = home / "shard-000001.json"
        path.write_text(
            json.dumps(
                {key: value for key, value in (json.loads(path.read_text()) | changes).items() if value is not None}
            )
        )

    return change


NUMBERS = ("source_bytes", "source_mtime_ns", "source_crc32", "constant")  # columns of a shard
TEXTS = ("names", "source_path", "scale")

DAMAGE: dict[
    str, tuple[Callable[[Path], Any], int]
] = {  # what is done to the folder, how many images are then decoded anew
    "a flipped bit": (flip, 4),
    "cut in the last row": (lambda home: os.truncate(home / "pixels.u8", 18 * SIZE**2 - 1), 2),
    "cut in shard 2": (lambda home: os.truncate(home / "pixels.u8", 9 * SIZE**2), 10),
    "no pixels": (lambda home: (home / "pixels.u8").unlink(), 18),
    "no index": (lambda home: (home / "shard-000001.json").unlink(), 4),
    "half an index": (lambda home: os.truncate(home / "shard-000001.json", 40), 4),
    "empty index": (lambda home: os.truncate(home / "shard-000001.json", 0), 4),
    "not a dictionary": (lambda home: (home / "shard-000001.json").write_text("[1]"), 4),
    "no text": (lambda home: (home / "shard-000001.json").write_bytes(b"\xff\xfe"), 4),
    "a key too few": (rewrite(crc32=None), 4),
    "a key too many": (rewrite(more=1), 4),
    "rows of another shard": (rewrite(first=8), 4),
    "a name too few": (rewrite(names=["04.png"]), 4),
    "numbers for names": (rewrite(names=[1, 2, 3, 4]), 4),
    "text for times": (rewrite(source_mtime_ns=["1"] * 4), 4),
    "a sample too few": (rewrite(source_crc32=[1, 2, 3]), 4),
    "an index under another name": (
        lambda home: shutil.copy(home / "shard-000000.json", home / "shard-000001.json"),
        4,
    ),
    "a longer index": (rewrite(**dict.fromkeys(NUMBERS, [1] * 5), **dict.fromkeys(TEXTS, ["04.png"] * 5)), 4),
    "an index of nothing": (rewrite(**dict.fromkeys((*NUMBERS, *TEXTS), [])), 4),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_decoded_anew(
    tmp_path: Path, source: Source, decoded: Callable, capsys: pytest.CaptureFixture, kind: str
) -> None:
    open_cache(tmp_path / "c", *source, SIZE, 0)
    home, (damage, anew) = home_of(tmp_path / "c"), DAMAGE[kind]
    decoded()
    capsys.readouterr()
    damage(home)
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    assert len(decoded()) == anew
    said = capsys.readouterr().out
    assert said.count("damaged shard(s)") == (kind != "no index") and ("cut off" in said) == kind.startswith("cut")
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    assert decoded() == [] and (home / "pixels.u8").stat().st_size == 18 * SIZE**2  # free places were used again


def test_a_damaged_index_goes_before_its_rows_are_written_again(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cache(tmp_path / "c", *source, SIZE, 0)
    flip(home_of(tmp_path / "c"))
    there: list[list[str]] = []

    def full(*args: Any) -> int:
        there.append(list(shards(tmp_path / "c")))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ValueError, match="No space"):
        open_cache(tmp_path / "c", *source, SIZE, 0)
    assert there == [[f"shard-{k:06d}.json" for k in (0, 2, 3, 4)]]


def test_only_what_is_asked_for_is_checked(
    tmp_path: Path, source: Source, decoded: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, paths = source
    open_cache(tmp_path / "c", names, paths, SIZE, 0)
    os.truncate(home_of(tmp_path / "c") / "pixels.u8", 13 * SIZE**2)
    decoded()
    checked, find_flaw = [], pixel_shards.find_flaw
    monkeypatch.setattr(
        pixel_shards,
        "find_flaw",
        lambda file, shard, size: (checked.append(shard.first), find_flaw(file, shard, size))[1],
    )
    expect(open_cache(tmp_path / "c", names[2:6], paths[2:6], SIZE, 0), paths[2:6])
    assert decoded() == [] and sorted(checked) == [0, 4]
    expect(open_cache(tmp_path / "c", names[7:13], paths[7:13], SIZE, 0), paths[7:13])
    assert decoded() == [names[12]] and sorted(checked) == [
        0,
        4,
        4,
        8,
        12,
        12,
    ]  # what was found sound is not checked twice


def test_the_unreadable_is_reported_and_tried_again(tmp_path: Path, source: Source, decoded: Callable) -> None:
    names, paths = source
    good = Path(paths[5]).read_bytes()
    Path(paths[5]).write_bytes(good[:60])
    os.rename(paths[9], paths[9] + ".away")
    for k in range(12, 16):  # a whole shard
        os.rename(paths[k], paths[k] + ".away")
        Path(paths[k]).write_bytes(b"no image")
    bad = [5, 9, 12, 13, 14, 15]
    for _ in range(2):
        got = open_cache(tmp_path / "c", names, paths, SIZE, 0)
        assert sorted(got.unreadable) == bad == np.flatnonzero(got.rows == -1).tolist()
        for k in bad:
            with pytest.raises(UnreadableImageError) as error:
                read_grey(paths[k], SIZE)
            assert got.unreadable[k] == str(error.value)
        fine = np.flatnonzero(got.rows >= 0)
        np.testing.assert_array_equal(got.gather(fine), np.stack([read_grey(paths[k], SIZE) for k in fine]))
        with pytest.raises(AssertionError, match="image 9 could not be read"):
            got.gather(np.array([0, 9]))
    assert all(names[k] not in text.decode() for k in bad for text in shards(tmp_path / "c").values())
    Path(paths[5]).write_bytes(good)
    for k in (9, 12, 13, 14, 15):
        os.replace(paths[k] + ".away", paths[k])
    decoded()
    expect(open_cache(tmp_path / "c", names, paths, SIZE, 0), paths)
    assert decoded() == [names[k] for k in bad]


def test_nothing_but_unreadable_images(tmp_path: Path, source: Source) -> None:
    got = open_cache(tmp_path / "c", ["x.png", "y.png"], [str(tmp_path / "x.png"), str(tmp_path)], SIZE, 2)
    assert got.rows.tolist() == [-1, -1] and got.pixels.shape == (0, SIZE, SIZE) and sorted(got.unreadable) == [0, 1]
    assert shards(tmp_path / "c") == {}


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = 18 * SIZE**2
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need - 1))
    with pytest.raises(
        ValueError, match=rf"\({need:,} bytes\).*\({need - 1:,} bytes\).*--cache_dir or a smaller --img_size"
    ):
        open_cache(tmp_path / "c", *source, SIZE, 0)
    assert sum(path.stat().st_size for path in (tmp_path / "c").rglob("*") if path.is_file()) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=need))
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_disk_that_fills_up_leaves_whole_shards(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, decoded: Callable, workers: int
) -> None:
    pwrite = os.pwrite

    def filling(file: int, data: memoryview, at: int) -> int:
        if at >= 10 * SIZE**2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, data[:100], at)  # short writes, as a disk that is nearly full does them

    monkeypatch.setattr(os, "pwrite", filling)
    with pytest.raises(ValueError, match="No space left on device.*--cache_dir"):
        open_cache(tmp_path / "c", *source, SIZE, workers)
    monkeypatch.setattr(os, "pwrite", pwrite)
    kept = shards(tmp_path / "c")
    assert workers or sorted(kept) == ["shard-000000.json", "shard-000001.json"]
    decoded()
    expect(open_cache(tmp_path / "c", *source, SIZE, 0), source.paths)
    assert len(decoded()) == 18 - 4 * len(kept) and kept.items() <= shards(tmp_path / "c").items()


@pytest.fixture
def start() -> Iterator[Callable]:
    """Run a function in a process, the leader of a group; nothing of the group is left after the test."""
    started = []

    def begin(function: Callable, *args: Any) -> Any:
        process = fork.Process(target=lead, args=(function, *args))
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def lead(function: Callable, *args: Any) -> None:
    os.setpgid(0, 0)
    function(*args)


def build_slowly(folder: Path, source: Source, workers: int, said: Path) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # as roi.cli.run
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pixel_shards.read_picture = slowly  # type: ignore[attr-defined]
    with open(said, "w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            expect(open_cache(folder, *source, SIZE, workers), source.paths)
        except KeyboardInterrupt:
            sys.exit(130)


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@needs_fork
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_build_goes_on_where_it_was(
    tmp_path: Path, source: Source, start: Callable, decoded: Callable, number: int, workers: int
) -> None:
    folder = tmp_path / "c"
    build = start(build_slowly, folder, source, workers, tmp_path / "said.txt")
    wait_for(lambda: len(shards(folder)) >= 2)
    (os.kill if number == signal.SIGKILL else os.killpg)(
        build.pid, number
    )  # Ctrl-C and schedulers reach the workers, too
    build.join(5)
    assert build.exitcode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in (tmp_path / "said.txt").read_text()
    kept = shards(folder)
    assert 2 <= len(kept) < 5
    decoded()
    expect(open_cache(folder, *source, SIZE, 0), source.paths)
    assert len(decoded()) == 18 - 4 * len(kept)
    assert kept.items() <= shards(folder).items()
    assert (home_of(folder) / "pixels.u8").stat().st_size <= 20 * SIZE**2


def build_at(pace: float, folder: Path, source: Source, began: Path) -> None:
    """Two workers, `pace` seconds an image; `began` gets a line for each."""

    def paced(path: str, size: int | None = None) -> Picture:
        with open(began, "a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(pace)
        return read_picture(path, size)

    pixel_shards.read_picture = paced  # type: ignore[attr-defined]
    open_cache(folder, *source, SIZE, 2)


def workers_of(began: Path) -> set[int]:
    return {int(pid) for pid in began.read_text().split()} if began.exists() else set()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"  # a zombie is dead
    except OSError:
        return False


@needs_fork
def test_a_worker_that_is_killed_ends_the_build(
    tmp_path: Path, source: Source, start: Callable, capfd: pytest.CaptureFixture
) -> None:
    build = start(build_at, 60, tmp_path / "c", source, tmp_path / "began")
    wait_for(lambda: len(workers_of(tmp_path / "began")) == 2)
    run_jobs = workers_of(tmp_path / "began")
    os.kill(min(run_jobs), signal.SIGKILL)  # as the kernel does when memory runs out
    build.join(5)
    assert (
        build.exitcode == 1
        and "UserError" in (said := capfd.readouterr().err)
        and "out of memory? Fewer --workers" in said
    )
    assert not any(map(alive, run_jobs))


@needs_fork
def test_orphans_hold_the_lock(tmp_path: Path, source: Source, start: Callable) -> None:
    build = start(build_at, 60, tmp_path / "c", source, tmp_path / "began")
    wait_for(lambda: len(workers_of(tmp_path / "began")) == 2)
    os.kill(build.pid, signal.SIGKILL)
    said = tmp_path / "said.txt"
    heir = start(build_slowly, tmp_path / "c", source, 0, said)
    wait_for(lambda: said.exists() and "waiting" in said.read_text())
    time.sleep(0.1)
    assert "decoding 18" not in said.read_text()
    for worker in workers_of(tmp_path / "began"):  # they might still write
        os.kill(worker, signal.SIGKILL)
    heir.join(10)
    build.join(10)
    assert heir.exitcode == 0 and build.exitcode == -9


@needs_fork
def test_orphans_end_with_their_image(
    tmp_path: Path, source: Source, start: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_shards, "SHARD", 256)
    began = tmp_path / "began"
    build = start(build_at, 0.1, tmp_path / "c", source, began)
    wait_for(lambda: len(workers_of(began)) == 2)
    os.kill(build.pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, workers_of(began))))
    build.join(10)
    assert len(began.read_text().split()) < 12 and not shards(tmp_path / "c")


@needs_fork
def test_two_runs_at_once_build_one_cache(
    tmp_path: Path, source: Source, start: Callable, monkeypatch: pytest.MonkeyPatch, decoded: Callable
) -> None:
    logged = pixel_shards.read_picture
    monkeypatch.setattr(
        sys.modules[__name__], "slowly", lambda path, size=None: (time.sleep(0.02), logged(path, size))[1]
    )
    runs = [start(build_slowly, tmp_path / "c", source, 0, tmp_path / f"said{k}.txt") for k in range(2)]
    for run in runs:
        run.join(20)
    assert [run.exitcode for run in runs] == [0, 0]
    assert decoded() == source.names
    said = sorted((tmp_path / f"said{k}.txt").read_text() for k in range(2))
    assert sum(text.count("waiting") for text in said) <= 1 and sum("decoded 18 images" in text for text in said) == 1


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder read-only, for root too, who may write everywhere."""

    def seal(folder: Path) -> None:
        open_file, make = os.open, Path.mkdir

        def refuse(path: Any) -> None:
            if Path(path).is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        def guarded(path: Any, flags: int, *mode: int, **where: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                refuse(path)
            return open_file(path, flags, *mode, **where)

        def make_new(path: Path, *args: Any, **kwargs: Any) -> None:
            if not path.is_dir():
                refuse(path)
            make(path, *args, **kwargs)

        monkeypatch.setattr(os, "open", guarded)
        monkeypatch.setattr(Path, "mkdir", make_new)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)

    return seal


def test_a_read_only_folder_serves_who_lacks_nothing(tmp_path: Path, source: Source, sealed: Callable) -> None:
    names, paths = source
    folder = tmp_path / "c"
    Path(paths[6]).write_bytes(b"no image")
    open_cache(folder, names[:9], paths[:9], SIZE, 0)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    sealed(folder)
    got = open_cache(folder, names[:9], paths[:9], SIZE, 2)  # what is unreadable for everybody is not held against it
    assert (
        sorted(got.unreadable) == [6] and "no image" not in got.unreadable[6] and got.unreadable[6].startswith(paths[6])
    )
    np.testing.assert_array_equal(got.gather(np.array([8]))[0], read_grey(paths[8], SIZE))
    for size in (SIZE, SIZE + 1):
        with pytest.raises(ValueError, match=r"lacks \d+ of these images and cannot be written \(.*--cache_dir"):
            open_cache(folder, names, paths, size, 0)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_file_in_the_place_of_the_folder(tmp_path: Path, source: Source) -> None:
    (tmp_path / "c").touch()
    with pytest.raises((ValueError, OSError), match="c"):
        open_cache(tmp_path / "c", *source, SIZE, 0)
