"""The metrics CSV from the first second: while images are decoded, resumed, and of a run that is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import one_line_error, run

from roi.training import setup
from roi.training.metrics_log import COLUMNS, MetricsLog, early_log, has_no_row
from roi.training.multiview import setup as study_setup

HEADER = ",".join(COLUMNS)
SMALL = ("--workers", 0, "--device", "cpu", "--backbone", "test_resnet", "--weights", "none", "--img_size", 64)


def flags(demo: Path, tables: tuple[Path, Path], out: Path) -> tuple[object, ...]:
    data = ("--train_csv", tables[0], "--image_root", demo, "--cache_dir", out / "pixels", "--batch_size", 8)
    return (*data, "--epochs", 1, "--save", out / "c.pt", "--log_csv", out / "log.csv", *SMALL)


def watched(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, log: Path) -> list[str]:
    """What the log holds when images are about to be decoded."""
    seen: list[str] = []
    make = getattr(module, name)

    def looking(*args: Any) -> Any:
        seen.append(log.read_text())
        return make(*args)

    monkeypatch.setattr(module, name, looking)
    return seen


def test_the_log_has_its_header_while_images_are_decoded(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.csv"
    seen = watched(monkeypatch, setup, "make_loaders", log)
    given = flags(demo, tables, tmp_path)
    run("train_roi_baselines.py", "--mode", "standard", *given)
    whole = log.read_text()
    assert seen == [HEADER + "\n"] and whole.startswith(seen[0]) and whole.count("\n") == 2
    # Lost, it is there again with all of its rows before anything is decoded.
    log.unlink()
    run("train_roi_baselines.py", "--mode", "standard", *given, "--resume", "auto", "--epochs", 2)
    assert seen[1] == whole and log.read_text().startswith(whole) and log.read_text().count("\n") == 3


def test_that_of_studies_has_its_columns_from_the_start(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log.csv"
    seen = watched(monkeypatch, study_setup, "make_study_loaders", log)
    run("train_multiview.py", *flags(demo, tables, tmp_path))
    assert ",loss_view," in seen[0]
    assert log.read_text().startswith(seen[0]) and seen[0].count("\n") == 1


def test_a_run_that_is_refused_leaves_no_log(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    images = tmp_path / "nih"
    shutil.copytree(demo, images)
    for image in images.rglob("*_000.png"):
        image.write_bytes(b"no image")
    given = flags(images, tables, tmp_path)
    assert "log.csv" not in one_line_error("train_roi_baselines.py", "--mode", "standard", *given)
    assert not (tmp_path / "log.csv").exists() and not (tmp_path / "c.pt").exists()
    # What was there before it stays.
    (tmp_path / "log.csv").write_text(HEADER + "\n")
    one_line_error("train_roi_baselines.py", "--mode", "standard", *given)
    assert (tmp_path / "log.csv").read_text() == HEADER + "\n"


def test_a_kill_while_decoding_costs_nothing_but_rows_do(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("train_roi_baselines.py", "--mode", "standard", *flags(demo, tables, tmp_path))
    log = tmp_path / "log.csv"
    for left in (f"{HEADER}\n1,\n", "epoch,mine\n", ""):
        log.write_text(left)
        assert f"{log} exists" in one_line_error(*given) and log.read_text() == left
    # Of a run on other data sets.
    log.write_text(",".join(COLUMNS[:20] + ("val_auroc_padchest",) + COLUMNS[20:]) + "\n")
    run(*given)
    assert log.read_text().startswith(HEADER + "\n1,")


def test_a_file_that_is_there_is_left_to_the_run(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    with early_log(str(log), ["val_auroc_nih"], ["1,2"]):
        assert log.read_text().endswith("\n1,2\n") and "val_auroc,val_auroc_nih," in log.read_text()
    with pytest.raises(KeyboardInterrupt), early_log(str(log), [], []):
        raise KeyboardInterrupt
    assert log.read_text().endswith("\n1,2\n")
    with early_log(None, [], []):
        pass
    log.write_text(HEADER + "\n")
    place = log.stat().st_ino
    assert has_no_row(log) and not has_no_row(tmp_path) and not has_no_row(tmp_path / "none")
    # tail -F follows the same file.
    MetricsLog(log)
    assert log.stat().st_ino == place
