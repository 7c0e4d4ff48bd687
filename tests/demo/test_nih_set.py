"""The synthetic set is NIH's layout to the byte, its boxes hold what was drawn, and a seed is one set."""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import make_demo_dataset
from roi.cli import run
from roi.demo import nih_set
from roi.labels import LABELS

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SIZE = 120, 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    nih_set.make_demo_dataset(out, images=IMAGES, size=SIZE, seed=3, workers=1)
    return out


def entries(root: Path) -> list[list[str]]:
    return list(csv.reader((root / "Data_Entry_2017.csv").read_text().splitlines()))[1:]


def boxes(root: Path) -> list[tuple[str, str, tuple[float, ...]]]:
    rows = list(csv.reader((root / "BBox_List_2017.csv").read_text().splitlines()))[1:]
    return [(r[0], r[1].replace("Infiltrate", "Infiltration"), tuple(map(float, r[2:]))) for r in rows]


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        total.update(str(path.relative_to(root)).encode() + (path.read_bytes() if path.is_file() else b""))
    return total.hexdigest()


def script(capsys: pytest.CaptureFixture[str], *flags: str | Path) -> tuple[int, str, str]:
    """Run the script in this process. -> exit code, stdout, stderr"""
    with pytest.raises(SystemExit) as end:
        run(make_demo_dataset.main, lambda: make_demo_dataset.parse_args([str(flag) for flag in flags]))
    code = end.value.code
    return code if isinstance(code, int) else 1, *capsys.readouterr()


def test_tables_are_nih_formats_byte_for_byte(made: Path) -> None:
    table = (made / "Data_Entry_2017.csv").read_bytes()
    assert table.startswith(
        b"Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        b"OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\r\n00000001_000.png,"
    )
    assert table.endswith(b"\r\n")
    assert table.count(b"\r\n") == table.count(b"\n") == IMAGES + 1
    assert {len(row) for row in entries(made)} == {11}
    box_list = (made / "BBox_List_2017.csv").read_bytes()
    assert box_list.startswith(b"Image Index,Finding Label,Bbox [x,y,w,h],,,\n")
    assert box_list.endswith(b"\n")
    assert b"\r" not in box_list
    assert b",Infiltrate," in box_list
    assert b"Infiltration" not in box_list
    assert {line.count(b",") for line in box_list.splitlines()[1:]} == {5}
    for name in ("train_val_list.txt", "test_list.txt"):
        text = (made / name).read_bytes()
        assert text.endswith(b".png")
        assert b"\r" not in text


def test_rows_add_up(made: Path) -> None:
    rows = entries(made)
    files = {p.name: p for p in made.glob("images_*/images/*.png")}
    assert [r[0] for r in rows] == sorted(files)
    assert all(r[0] == f"{int(r[3]):08d}_{int(r[2]):03d}.png" for r in rows)
    assert {p.name for p in made.iterdir() if p.is_dir()} == {f"images_{k:03d}" for k in range(1, 13)}
    assert sorted(files.values()) == [files[name] for name in sorted(files)]  # shards in order of patient
    labels = [r[1].split("|") for r in rows]
    assert {label for row in labels for label in row} == {*LABELS, "No Finding"}
    assert all(row == ["No Finding"] or (len(row) <= 4 and "No Finding" not in row) for row in labels)
    assert {r[5] for r in rows} == {"M", "F"}
    assert {r[6] for r in rows} == {"PA", "AP"}
    assert sum(int(r[4]) > 120 for r in rows) >= 1
    summary = json.loads((made / "demo.json").read_text())
    assert summary["positives"] == {label: sum(label in row for row in labels) for label in LABELS}
    assert (summary["images"], summary["patients"]) == (IMAGES, len({r[3] for r in rows}))


def test_no_patient_in_both_lists(made: Path) -> None:
    train, test = (set((made / name).read_text().split("\n")) for name in ("train_val_list.txt", "test_list.txt"))
    assert train | test == {r[0] for r in entries(made)}
    assert not {name[:8] for name in train} & {name[:8] for name in test}
    assert 0.25 * IMAGES <= len(test) <= 0.25 * IMAGES + 5


def test_every_finding_has_a_box_and_every_box_a_finding(made: Path) -> None:
    positives = {(r[0], label) for r in entries(made) for label in r[1].split("|") if label != "No Finding"}
    assert {(name, label) for name, label, _ in boxes(made)} == positives
    for _, _, (x, y, w, h) in boxes(made):
        assert min(x, y) >= 0
        assert min(w, h) >= 20
        assert max(x + w, y + h) <= 1024
        assert w * h < 0.2 * 1024**2


def test_image_modes(made: Path) -> None:
    images = [Image.open(p) for p in sorted(made.glob("images_*/images/*.png"))]
    assert {image.size for image in images} == {(SIZE, SIZE)}
    coloured = [np.asarray(image) for image in images if image.mode == "RGBA"]
    assert len(coloured) == 2
    assert {image.mode for image in images} == {"L", "RGBA"}
    assert all((image[..., :3] == image[..., :1]).all() and (image[..., 3] == 255).all() for image in coloured)
    assert all(np.asarray(image.convert("L")).std() > 20 for image in images)


def test_png_is_what_was_rendered(made: Path) -> None:
    case = next(case for case in nih_set.plan(IMAGES, 3) if case.findings)
    (path,) = made.glob(f"images_*/images/{case.name}")
    assert (np.asarray(Image.open(path).convert("L")) == nih_set.render(case, SIZE)).all()


@pytest.mark.parametrize("size", [64, 100])
@pytest.mark.parametrize("label", LABELS)
def test_a_finding_changes_its_box_and_nothing_else(label: str, size: int) -> None:
    for patient in range(1, 6):
        case = nih_set.Case(seed=0, patient=patient, followup=0, view="AP" if patient % 2 else "PA", sex="F")
        ill = nih_set.Case(**{**vars(case), "findings": ((label, 0),)})
        change = np.abs(nih_set.render(ill, size).astype(int) - nih_set.render(case, size))
        inside = np.zeros((size, size), bool)
        for patch in nih_set.plant(ill):
            x, y, w, h = (v * size / 1024 for v in patch.box())
            window = (
                slice(int(np.floor(y + 1e-6)), int(np.ceil(y + h - 1e-6))),
                slice(int(np.floor(x + 1e-6)), int(np.ceil(x + w - 1e-6))),
            )
            inside[window] = True
            seen = change[window] > 2
            for axis in (0, 1):
                hit = np.flatnonzero(seen.any(axis=axis))
                assert hit[0] <= 1, "the box begins before the finding"
                assert hit[-1] >= seen.shape[1 - axis] - 2, "the box ends after the finding"
        assert change[~inside].max() == 0
        assert change[inside].max() >= 15


def test_the_easy_set_stays_bit_for_bit_what_it_was(made: Path) -> None:
    """Published figures are of this set. PNGs are read: how zlib packs them is not ours."""
    tables, pictures = hashlib.sha256(), hashlib.sha256()
    for path in sorted(made.rglob("*.*")):
        if path.suffix == ".png":
            pictures.update(path.name.encode() + np.asarray(Image.open(path)).tobytes())
        else:
            tables.update(path.name.encode() + path.read_bytes())
    assert tables.hexdigest() == "650532ebcff2c7d142fa0f76d334800612c6e0299b09f5b0f775bc34b6b88de7"
    if platform.machine() in ("x86_64", "AMD64"):  # elsewhere the last bit of exp and cos may differ
        assert pictures.hexdigest() == "230b04d30159499d92addb16b2ff9d5467a1f639d4e03567c1e5bc49ef0d007c"


def test_files_do_not_depend_on_workers(made: Path, tmp_path: Path) -> None:
    nih_set.make_demo_dataset(tmp_path / "two", images=IMAGES, size=SIZE, seed=3, workers=2)
    assert digest(tmp_path / "two") == digest(made)


def test_seed_and_size(made: Path, tmp_path: Path) -> None:
    before = str(np.random.get_state())  # noqa: NPY002 - the test is that it stays untouched
    nih_set.make_demo_dataset(tmp_path / "small", images=IMAGES, size=32, seed=3, workers=1)
    nih_set.make_demo_dataset(tmp_path / "other", images=IMAGES, size=32, seed=4, workers=1)
    assert str(np.random.get_state()) == before  # noqa: NPY002
    for name in ("Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"):
        assert (tmp_path / "small" / name).read_bytes() == (made / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (made / name).read_bytes()
    for path in sorted(made.glob("images_*/images/*.png"))[:20]:
        large = np.asarray(Image.open(path).convert("L").resize((32, 32), Image.Resampling.BOX), float)
        small = np.asarray(Image.open(tmp_path / "small" / path.relative_to(made)).convert("L"), float)
        assert np.corrcoef(large.ravel(), small.ravel())[0, 1] > 0.98
        assert float(np.mean(np.abs(large - small))) < 6


def test_persisting_findings_stay_in_place() -> None:
    again = 0
    for case, later in zip(nih_set.plan(300, 0), nih_set.plan(300, 0)[1:], strict=False):
        for label, onset in set(case.findings) & set(later.findings) if case.patient == later.patient else ():
            assert onset <= case.followup
            a, b = ([p.window for p in nih_set.plant(c) if p.label == label] for c in (case, later))
            assert np.abs(np.subtract(a, b)).max() < 0.13
            again += 1
    assert again > 20


def test_existing_folders_are_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for flags in ([], ["--overwrite"]):
        code, _, error = script(capsys, "--out", mine, "--images", "20", "--size", "32", *flags)
        assert code == 2
        assert len(error.splitlines()) == 1
        assert str(mine) in error
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]
    nih_set.make_demo_dataset(tmp_path / "set", images=20, size=32, workers=1)
    with pytest.raises(ValueError, match="--overwrite"):
        nih_set.make_demo_dataset(tmp_path / "set", images=20, size=32, workers=1)
    nih_set.make_demo_dataset(tmp_path / "set", images=20, size=48, workers=1, overwrite=True)
    assert {Image.open(p).size for p in tmp_path.glob("set/images_*/images/*.png")} == {(48, 48)}
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "set"}


def test_failed_and_killed_runs_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale, live = tmp_path / f".set.partial-{dead.pid}", tmp_path / f".set.partial-{os.getppid()}"
    stale.mkdir()
    live.mkdir()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(nih_set, "write_tables", broken)
        with pytest.raises(OSError, match="disk full"):
            nih_set.make_demo_dataset(tmp_path / "set", images=20, size=32, workers=1)
    assert list(tmp_path.iterdir()) == [live]


@pytest.mark.parametrize(
    "flags",
    [
        ("--images", "19"),
        ("--size", "31"),
        ("--size", "2049"),
        ("--seed", "-1"),
        ("--workers", "0"),
        ("--images", "many"),
        ("--x",),
    ],
)
def test_wrong_flags_are_one_line(flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = script(capsys, "--out", tmp_path / "set", *flags)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert error.startswith("error: ")
    assert flags[-1] in error
    assert not list(tmp_path.iterdir())


def test_the_command_as_printed(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "make_demo_dataset.py"),
        "--out",
        str(tmp_path / "set"),
        "--images",
        "40",
        "--size",
        "32",
        "--no-overwrite",
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "40 images" in result.stdout
    assert all(label in result.stdout for label in LABELS)
    assert "images/s" in result.stdout


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    code, manual, _ = script(capsys, "--help")
    assert code == 0
    flags = ("--out", "--images", "--size", "--seed", "--workers", "--hard", "--overwrite", "--no-overwrite")
    for flag in (*flags, "default: 3000", "demo_data"):
        assert flag in manual
