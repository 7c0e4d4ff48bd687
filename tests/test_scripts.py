"""The scripts as their users run them.

The published flags, honest splits, modes, a kill and a second run, predictions.
"""

import csv
import errno
import io
import json
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, one_line_error, run
from PIL import Image

import train_roi_baselines
import train_roi_consistency
from roi import cli
from roi.data.images import locate, read_grey
from roi.data.table import read_table
from roi.errors import RunError, UserError
from roi.files import locked
from roi.losses.loss_terms import OBJECTIVES, TERMS
from roi.text import Console, printable
from roi.training import checkpoint
from roi.training.flags import resolve_objective
from roi.training.metrics_log import COLUMNS
from roi.training.objective import loss_weights
from roi.training.rows import Rows, choose_rows
from roi.training.training_run import TrainingRun

TINY = (
    "--backbone",
    "test_convnext",
    "--weights",
    "none",
    "--img_size",
    32,
    "--batch_size",
    16,
    "--epochs",
    1,
    "--workers",
    0,
    "--device",
    "cpu",
)

PUBLISHED = (
    "--accum_steps",
    2,
    "--channels_last",
    "--autocast_dtype",
    "bf16",
    "--prefetch_factor",
    6,
    "--persistent_workers",
    "--lr",
    1e-4,
    "--alpha",
    1.0,
    "--beta",
    0.5,
    "--gamma",
    1e-3,
    "--delta",
    1e-4,
    "--keep_ratio",
    0.1,
    "--val_fraction",
    0.3,
)


def training(demo: Path, table: Path, out: Path) -> tuple[object, ...]:
    return (
        "--train_csv",
        table,
        "--image_root",
        demo,
        "--save",
        out / "roi.pt",
        "--log_csv",
        out / "metrics.csv",
        *TINY,
    )


@pytest.fixture(scope="module")
def trained(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch by the command that was published with the consistency objective, small.

    Its flags go on under the default one.
    """
    out = tmp_path_factory.mktemp("trained")
    said = run("train_roi_consistency.py", *training(demo, tables[0], out), "--classes", "", *PUBLISHED)
    assert "left out of training: " in said and "leakage check: nothing shared in " in said
    return out


@pytest.fixture(scope="module")
def published(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch of the published objective."""
    out = tmp_path_factory.mktemp("published")
    run("train_roi_consistency.py", *training(demo, tables[0], out), "--objective", "consistency", "--max_samples", 32)
    return out


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights_of(args: dict[str, float]) -> dict[str, float]:
    """The flag that weighs each term."""
    return {
        "full": 1.0,
        **{t: args[flag] for t, flag in zip(TERMS[1:], ("alpha", "beta", "gamma", "delta", "epsilon"), strict=True)},
    }


def test_metrics_csv_holds_the_contracted_columns(trained: Path, published: Path) -> None:
    for objective, out in (("evidence", trained), ("consistency", published)):
        (row,) = rows_of(out / "metrics.csv")
        used = OBJECTIVES[objective]
        assert tuple(row) == COLUMNS and {c for c in COLUMNS if not row[c]} == {
            f"{kind}_{t}" for kind in ("loss", "w") for t in TERMS if t not in used
        }
        assert all(
            float(row[f"loss_{t}"]) > 0 for t in used if (objective, t) != ("consistency", "drop")
        )  # that one may sleep
        assert (
            float(row["mask_kept"]) == pytest.approx(102 / 1024, rel=1e-5)
            and 0 < float(row["mask_mean"]) < 1
            and row["contaminated"] == "0"
        )
        weights = weights_of(torch.load(out / "roi.pt", weights_only=True)["args"])
        assert {t: float(row[f"w_{t}"]) for t in used} == {t: weights[t] for t in used} and (
            weights["consist"],
            weights["drop"],
        ) == (1.0, 0.5)
    assert weights == {
        "full": 1.0,
        "consist": 1.0,
        "drop": 0.5,
        "sparse": 1e-3,
        "tv": 1e-4,
        "locate": weights["locate"],
    }  # as published, by default


def test_a_checkpoint_describes_the_mask_that_its_objective_asks_for(trained: Path, published: Path) -> None:
    """Without a flag: evidence, one map a class, from features, at a rate of its own.

    Published: 5 x 5 pixels, one map, one rate.
    """
    names = ("objective", "mask", "mask_net", "mask_per_class", "fill", "warmup_epochs")
    found = [torch.load(out / "roi.pt", weights_only=True) for out in (trained, published)]
    assert [found[0]["args"][n] for n in names] == [
        "evidence",
        "features",
        "features",
        True,
        "mean",
        0,
    ]  # half of one epoch
    assert [found[1]["args"][n] for n in names] == ["consistency", "conv", "conv", False, "mean", 0]
    assert len(found[0]["mask_net"]["layers.3.weight"]) == 15 and found[1]["mask_net"]["layers.4.weight"].shape == (
        1,
        32,
        1,
        1,
    )
    rates = [[g["lr"] for g in state["optimizer"]["param_groups"]] for state in found]
    assert rates == [[1e-4, found[0]["args"]["mask_lr"]], [1e-4, 1e-4]] and rates[0][1] > 1e-4


def test_test_images_are_left_out_and_the_checkpoint_knows_what_it_saw(
    demo: Path, tables: tuple[Path, Path], trained: Path
) -> None:
    from roi.data.identity import fingerprints

    state = torch.load(trained / "roi.pt", weights_only=True)
    seen, test = set(state["train_images"].tolist()), (demo / "test_list.txt").read_text().split()
    assert not seen & set(fingerprints(test).tolist()) and not state["contaminated"]
    assert len(seen) + len(test) < 96 and len(state["classes"]) == 15
    held_out = read_table(trained / "roi_val.csv")  # the rows to choose thresholds on
    assert len(seen) + len(test) + len(held_out) == 96 and not seen & set(
        fingerprints(held_out["image"].tolist()).tolist()
    )
    assert not set(state["train_patients"].tolist()) & set(fingerprints(held_out["patient_id"].tolist()).tolist())


def args_for(demo: Path, table: Path, out: Path, *more: object):
    return train_roi_consistency.parse_args([str(a) for a in (*training(demo, table, out), *more)])


def test_audit_finds_test_images_by_each_of_its_sources(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """Without official list and split column only --exclude_csv knows; other images of its patients go as well."""
    train, test = (read_table(p) for p in tables)
    train["split"] = ""
    train.to_csv(tmp_path / "plain.csv", index=False)
    test.iloc[::2].to_csv(tmp_path / "half.csv", index=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    everything = choose_rows(args_for(bare, tmp_path / "plain.csv", tmp_path, "--val_fraction", 0))
    assert len(everything.train) == 96 and everything.val is None and not everything.contaminated
    excluded = choose_rows(args_for(bare, tmp_path / "plain.csv", tmp_path, "--exclude_csv", tmp_path / "half.csv"))
    assert not set(pd_concat(excluded)["patient_id"]) & set(test.iloc[::2]["patient_id"])
    listed = choose_rows(args_for(demo, tmp_path / "plain.csv", tmp_path))
    assert not set(pd_concat(listed)["image"]) & set(test["image"]) and len(pd_concat(listed)) == 96 - len(test)
    leaking = choose_rows(args_for(demo, tmp_path / "plain.csv", tmp_path, "--allow_leakage"))
    assert leaking.contaminated and len(pd_concat(leaking)) == 96


def pd_concat(rows: Rows):
    import pandas as pd

    return pd.concat([rows.train, rows.val]) if rows.val is not None else rows.train


def test_validation_may_share_no_patient_and_be_no_test(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    train, test = (read_table(p) for p in tables)
    train[train["split"] != "test"].iloc[:5].to_csv(tmp_path / "val.csv", index=False)
    with pytest.raises(ValueError, match="shares . patients and 5 images"):
        choose_rows(args_for(demo, tables[0], tmp_path, "--val_csv", tmp_path / "val.csv"))
    with pytest.raises(ValueError, match="holds test images"):
        choose_rows(args_for(demo, tables[0], tmp_path, "--val_csv", tables[1]))
    bare = tmp_path / "bare"
    bare.mkdir()
    train[train["split"] != "test"].to_csv(tmp_path / "honest.csv", index=False)
    with pytest.raises(ValueError, match="holds test images"):  # the table alone says so, in its column split
        choose_rows(args_for(bare, tmp_path / "honest.csv", tmp_path, "--val_csv", tables[1]))
    assert choose_rows(
        args_for(demo, tmp_path / "honest.csv", tmp_path, "--val_csv", tables[1], "--allow_leakage")
    ).contaminated
    with pytest.raises(ValueError, match="all its images belong to the test set"):
        choose_rows(args_for(demo, tables[1], tmp_path))


def test_leakage_marks_checkpoint_metrics_and_predictions(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    said = run(
        "train_roi_baselines.py",
        "--mode",
        "standard",
        *training(demo, tables[0], tmp_path),
        "--allow_leakage",
        "--val_fraction",
        0,
    )
    assert "CONTAMINATED" in said and rows_of(tmp_path / "metrics.csv")[0]["contaminated"] == "1"
    assert torch.load(tmp_path / "roi.pt", weights_only=True)["contaminated"] is True
    infer = (
        "infer_roi_consistency.py",
        "--checkpoint",
        tmp_path / "roi.pt",
        "--csv",
        tables[1],
        "--image_root",
        demo,
        "--save_json",
        tmp_path / "p.json",
        "--workers",
        0,
    )
    said = run(*infer)
    assert said.count("CONTAMINATED") == 1 and f"trained on {len(read_table(tables[1]))} of these" in said
    preds = json.loads((tmp_path / "p.json").read_text())
    assert all(row["contaminated"] for row in preds) and set(preds[0]) == {
        "image",
        "prob_full",
        "contaminated",
    }  # no mask: nothing kept or dropped
    meta = json.loads((tmp_path / "p.meta.json").read_text())
    assert meta["contaminated"] and meta["contaminated_images"] == len(preds)


MODES = [
    (mode, objective)
    for mode, (_, _, only) in train_roi_baselines.MODES.items()
    for objective in OBJECTIVES
    if only in ("", objective)
]


def baseline(mode: str, objective: str, *flags: object):
    """The arguments of a mode; the objective is left out where the mode has but one."""
    asked = () if train_roi_baselines.MODES[mode][2] else ("--objective", objective)
    return train_roi_baselines.parse_args([str(a) for a in ("--mode", mode, *asked, *flags)])


@pytest.mark.parametrize(("mode", "objective"), MODES)
def test_each_mode_zeroes_what_it_names(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, mode: str, objective: str
) -> None:
    args = baseline(mode, objective, *training(demo, tables[0], tmp_path), "--max_samples", 24, "--dynamic_weights")
    mask, without, _ = train_roi_baselines.MODES[mode]
    assert train_roi_baselines.main(args) == 0 and args.objective == objective
    (row,) = rows_of(tmp_path / "metrics.csv")
    for term in TERMS:
        used = term in OBJECTIVES[objective]
        assert (row[f"w_{term}"] == "") == (not used) and (
            not used or (float(row[f"w_{term}"]) == 0) == (term in without)
        )
    if mode.startswith("no_"):
        assert without == (mode.removeprefix("no_"),) and row[f"loss_{mode.removeprefix('no_')}"] != ""  # still watched
    assert (row["loss_consist"] == "") == (mode == "standard") and (row["mask_mean"] == "") == (mask != "")
    assert (row["loss_tv"] != "") == (mask == "" and objective == "consistency") and (row["loss_locate"] != "") == (
        objective == "evidence"
    )


def test_ablated_terms_do_not_enter_the_total(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    terms = {t: torch.tensor(10.0**n) for n, t in enumerate(TERMS)}
    for mode, objective in MODES:
        mask, without, _ = train_roi_baselines.MODES[mode]
        args = baseline(mode, objective, *training(demo, tables[0], tmp_path))
        resolve_objective(args, objective)
        there = [
            t for t in OBJECTIVES[objective] if mask == "" or t == "full" or mask != "none" and t in ("consist", "drop")
        ]
        expected = sum(weights_of(vars(args))[t] * terms[t].item() for t in there if t not in without)
        balance = loss_weights(args, None, without, torch.device("cpu"))  # type: ignore[arg-type]
        found = balance({t: terms[t] for t in there}).item()
        assert found == pytest.approx(expected), mode


@pytest.mark.parametrize(
    ("mode", "objective"),
    [("no_sparse", "evidence"), ("no_tv", "evidence"), ("random_mask", "evidence"), ("no_locate", "consistency")],
)
def test_a_mode_of_the_other_objective_is_refused(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, mode: str, objective: str
) -> None:
    said = one_line_error(
        "train_roi_baselines.py", "--mode", mode, "--objective", objective, *training(demo, tables[0], tmp_path)
    )
    assert f"--mode {mode}" in said and f"not to {objective}" in said and not list(tmp_path.iterdir())


def test_a_second_run_loses_nothing_and_resume_of_a_finished_run_does_nothing(
    demo: Path, tables: tuple[Path, Path], trained: Path
) -> None:
    again = ("train_roi_consistency.py", *training(demo, tables[0], trained), *PUBLISHED)
    before = (trained / "roi.pt").read_bytes()
    assert "--resume auto" in one_line_error(*again)
    assert "1 of 1 epoch is done" in run(*again, "--resume", "auto")
    assert "--lr 0.0001, now 0.001" in one_line_error(*again, "--resume", "auto", "--lr", "1e-3")
    assert "--allow_leakage False, now True" in one_line_error(*again, "--resume", "auto", "--allow_leakage")
    table = read_table(tables[0])
    swapped = trained / "swapped.csv"
    table.assign(
        labels=table["labels"].str.replace("Mass", "_").str.replace("Edema", "Mass").str.replace("_", "Edema")
    ).to_csv(swapped, index=False)
    assert "other classes, labels" in one_line_error(*again, "--resume", "auto", "--train_csv", swapped)
    table[10:].to_csv(swapped, index=False)
    assert "other images" in one_line_error(*again, "--resume", "auto", "--train_csv", swapped)
    assert (trained / "roi.pt").read_bytes() == before and len(rows_of(trained / "metrics.csv")) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_process_goes_on_by_the_same_command(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, number: int
) -> None:
    """A real process, real workers, dropout in the backbone: final weights equal those of a run that nobody touched."""

    def command(out: Path) -> list[str]:
        flags = (*training(demo, tables[0], out), "--resume", "auto", "--dynamic_weights")
        changed = {"--backbone": "squeezenet1_1", "--epochs": 6, "--workers": 2, "--batch_size": 8}
        plain = [str(changed.get(str(flags[n - 1]), f)) for n, f in enumerate(flags)] + ["--warmup_epochs", "1"]
        return [sys.executable, "train_roi_consistency.py", *plain]

    assert subprocess.run(command(tmp_path / "a"), cwd=ROOT, capture_output=True).returncode == 0
    process = subprocess.Popen(
        command(tmp_path / "b"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    log = tmp_path / "b" / "metrics.csv"
    deadline = time.time() + 60
    while time.time() < deadline and not (log.exists() and len(log.read_text().splitlines()) >= 2):
        time.sleep(0.02)
    told = time.time()
    os.killpg(process.pid, number)  # workers get it too, as from a terminal or a job scheduler
    said = process.communicate(timeout=60)[0]
    assert (tmp_path / "b" / "roi.pt").stat().st_mtime - told < 10
    assert process.returncode == 128 + number and "--resume auto" in said and "Traceback" not in said, said
    assert len(rows_of(log)) < 6
    assert subprocess.run(command(tmp_path / "b"), cwd=ROOT, capture_output=True).returncode == 0
    a, b = (torch.load(tmp_path / x / "roi.pt", weights_only=True) for x in "ab")
    for part in ("model", "mask_net"):
        assert all(torch.equal(a[part][k], b[part][k]) for k in a[part])
    assert len(rows_of(log)) == 6


def test_warm_up_draws_no_mask_and_lasts_as_long_as_it_began(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """Half of --epochs. A run whose --epochs is raised keeps the warm-up of its first part.

    It ends where one uninterrupted run does.
    """

    def command(out: str, epochs: int, *more: object) -> tuple[object, ...]:
        return (
            "train_roi_consistency.py",
            *training(demo, tables[0], tmp_path / out),
            "--max_samples",
            40,
            *more,
            "--epochs",
            epochs,
        )

    run(*command("a", 2))
    assert "--warmup_epochs 1, now 2" in one_line_error(*command("a", 4, "--resume", "auto", "--warmup_epochs", 2))
    run(*command("a", 4, "--resume", "auto"))
    run(*command("b", 4, "--warmup_epochs", 1))
    rows = rows_of(tmp_path / "a" / "metrics.csv")
    used = {f"loss_{t}" for t in OBJECTIVES["evidence"]}
    losses = [{c for c in row if c.startswith("loss_") and row[c]} for row in rows]
    assert losses == [{"loss_full", "loss_locate"}, used, used, used] and [row["mask_kept"] != "" for row in rows] == [
        False,
        True,
        True,
        True,
    ]
    for row in rows:  # and nothing else is learned from
        assert float(row["loss"]) == pytest.approx(
            sum(float(row[f"w_{t}"]) * float(row[f"loss_{t}"] or 0) for t in OBJECTIVES["evidence"]), rel=1e-4
        )
    a, b = (torch.load(tmp_path / x / "roi.pt", weights_only=True) for x in "ab")
    assert a["args"]["warmup_epochs"] == b["args"]["warmup_epochs"] == 1
    assert all(torch.equal(a[part][k], b[part][k]) for part in ("model", "mask_net") for k in a[part])


def test_the_best_epoch_is_looked_for_after_the_warm_up(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TrainingRun, "validate", lambda fit, stop: {"val_loss": 0.5, "val_auroc": 0.9 - fit.epoch / 10}
    )  # the first is the highest
    for objective, best in (("evidence", 2), ("consistency", 1)):
        out = tmp_path / objective
        flags = (
            *training(demo, tables[0], out),
            "--max_samples",
            24,
            "--epochs",
            2,
            "--warmup_epochs",
            1,
            "--objective",
            objective,
        )
        run("train_roi_consistency.py", *flags)
        assert torch.load(out / "roi_best.pt", weights_only=True)["epoch"] == best


def test_wrong_flags_are_one_line(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    train = ("train_roi_consistency.py", *training(demo, tables[0], tmp_path))
    for flags, said in (
        (("--backbone", "convnext_bas"), "convnext_base"),
        (("--keep_ratio", "1.5"), "--keep_ratio"),
        (("--keep_ration", "0.5"), "--keep_ration"),
        (("--classes", "Mass,Cold"), "'Cold'"),
        (("--classes", "Normal"), "none of them is a finding"),
        (("--train_csv", "nowhere.csv"), "nowhere.csv"),
        (("--image_root", "nowhere"), "nowhere"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (("--device", "cuda:9"), "--device cuda:9"),
        (("--device", "cpu:x"), "--device cpu:x"),
        (("--backbone", "alexnet"), "--img_size 32"),
        (("--backbone", "test_vit"), "no stages of features at 32 pixels"),
        (("--warmup_epochs", 1), "--warmup_epochs 1 of --epochs 1"),
        (("--save", tmp_path), "it is a folder"),
        (("--resume", "nowhere.pt"), "nowhere.pt"),
        (("--view_share", 0), "--view_share: 0 is not between 0.01 and 1"),
        (("--view_share", 0.5, "--objective", "consistency"), "--view_share 0.5: only --objective evidence"),
        (("--map_average", 1), "--map_average: 1 is not between 0 and 0.999999"),
        (("--map_average", 0.9, "--objective", "consistency"), "--map_average 0.9: only --objective evidence"),
        (("--map_average", 0.9, "--ema", 0.9), "--map_average 0.9 and --ema 0.9"),
        (("--view_share", 0.5, "--freeze_backbone"), "--view_share 0.5: only --objective evidence with a backbone"),
    ):
        assert said in one_line_error(*train, *flags)
    assert not list(tmp_path.iterdir())


def test_missing_images_stop_training_or_are_listed(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    table = read_table(tables[0])
    table.loc[table.index[0], "image"] = "00000000_000.png"
    table.loc[table.index[0], "split"] = ""
    table.to_csv(tmp_path / "t.csv", index=False)
    train = (
        "train_roi_consistency.py",
        *training(demo, tmp_path / "t.csv", tmp_path),
        "--val_fraction",
        0,
        "--max_samples",
        90,
    )
    assert "00000000_000.png" in one_line_error(*train)
    assert "1 images are missing" in run(*train, "--skip_unreadable")
    assert (tmp_path / "roi_missing.txt").read_text() == "00000000_000.png\n"


def infer(checkpoint: Path, table: Path, demo: Path, *more: object) -> tuple[object, ...]:
    return (
        "infer_roi_consistency.py",
        "--checkpoint",
        checkpoint,
        "--csv",
        table,
        "--image_root",
        demo,
        "--workers",
        0,
        *more,
    )


@pytest.mark.parametrize("objective", ["evidence", "consistency"])
def test_predictions_are_complete_in_order_and_do_not_depend_on_the_batch(
    demo: Path, tables: tuple[Path, Path], trained: Path, published: Path, tmp_path: Path, objective: str
) -> None:
    """But where pixels of a mask tie: there crop and drop of an image may differ by single pixels.

    Cells that are enlarged are flat at the border.
    """
    checkpoint = (trained if objective == "evidence" else published) / "roi.pt"
    run(*infer(checkpoint, tables[1], demo, "--save_json", tmp_path / "a.json", "--batch_size", 1))
    run(*infer(checkpoint, tables[1], demo, "--save_json", tmp_path / "b.json", "--batch_size", 7, "--keep_ratio", 0.1))
    a, b = (json.loads((tmp_path / f"{x}.json").read_text()) for x in "ab")
    assert [row["image"] for row in a] == read_table(tables[1])["image"].tolist()
    for one in a:
        assert (
            list(one) == ["image", "prob_full", "prob_crop", "prob_drop", "faithfulness"]
            and len(one["prob_full"]) == 15
        )
    for part in list(a[0])[1:]:
        away = np.array(
            [[abs(one[part][c] - two[part][c]) for c in one[part]] for one, two in zip(a, b, strict=True)]
        ).max(1)  # of each image
        ties = 0 if part == "prob_full" or objective == "consistency" else len(a) // 10
        assert np.sort(away)[: len(a) - ties].max() < 2e-5 and away.max() < 5e-2, part
    assert "exists" in one_line_error(*infer(checkpoint, tables[1], demo, "--save_json", tmp_path / "a.json"))


def test_an_unreadable_image_leaves_no_predictions_behind(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    names = read_table(tables[1])["image"].tolist()
    (tmp_path / "images").mkdir()
    for name, path in zip(names, locate(demo, names), strict=True):
        (tmp_path / "images" / name).write_bytes(Path(str(path)).read_bytes()[: 100 if name == names[-1] else None])
    command = infer(
        trained / "roi.pt", tables[1], tmp_path, "--save_json", tmp_path / "out" / "p.json", "--batch_size", 4
    )
    assert names[-1] in one_line_error(*command) and not list((tmp_path / "out").iterdir())
    assert "1 image could not be read" in run(*command, "--skip_unreadable")
    assert len(json.loads((tmp_path / "out" / "p.json").read_text())) == len(names) - 1
    assert names[-1] in (tmp_path / "out" / "p_unreadable.txt").read_text()


def test_pictures_show_true_grey_levels_and_exactly_what_is_kept(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    boxes = ("--bbox_csv", demo / "BBox_List_2017.csv")
    run(
        *infer(
            trained / "roi.pt",
            tables[1],
            demo,
            "--save_vis_dir",
            tmp_path / "v",
            "--max_vis",
            2,
            "--vis_size",
            64,
            *boxes,
        )
    )
    stem = Path(read_table(tables[1])["image"][0]).stem
    assert len(list((tmp_path / "v").iterdir())) == 6
    mask, crop = (np.asarray(Image.open(tmp_path / "v" / f"{stem}_{what}.png")) for what in ("mask", "crop"))
    grey = read_grey(str(locate(demo, [f"{stem}.png"])[0]), 64)
    assert set(np.unique(mask)) == {0, 255} and (mask > 0).sum() == 4 * 102  # 32 x 32 shown at 64 x 64
    np.testing.assert_array_equal(crop, np.where(mask > 0, grey, 114))
    assert Image.open(tmp_path / "v" / f"{stem}_overlay.png").mode == "RGB"


def test_overlays_of_images_in_sub_folders_have_their_boxes(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    """A list of boxes names files alone, a table of several sets folders, too.

    One that fits two images is nobody's, and counted.
    """
    boxes = demo / "BBox_List_2017.csv"
    published = pd.read_csv(boxes, skiprows=1, header=None)
    boxed = [image for image in read_table(tables[1])["image"] if image in set(published[0])][:2]
    table = read_table(tables[1])
    table = table[table["image"].isin(boxed)]
    for set_ in ("a", "b"):
        (tmp_path / "root" / set_).mkdir(parents=True)
        for name, path in zip(boxed, locate(demo, boxed), strict=True):
            (tmp_path / "root" / set_ / name).write_bytes(Path(str(path)).read_bytes())

    def pictures(name: str, images: list[str], root: Path, *more: object) -> list[np.ndarray]:
        pd.concat([table.assign(image=[f"{folder}{image}" for image in table["image"]]) for folder in images]).to_csv(
            tmp_path / "t.csv", index=False
        )
        vis = ("--save_vis_dir", tmp_path / name, "--max_vis", 2, "--vis_size", 128)
        said.append(run(*infer(trained / "roi.pt", tmp_path / "t.csv", root, *vis, *more)))
        return [np.asarray(Image.open(path))[:128] for path in sorted((tmp_path / name).glob("*_overlay.png"))]

    said: list[str] = []
    flat = pictures("flat", [""], demo, "--bbox_csv", boxes)
    below = pictures("below", ["a/"], tmp_path / "root", "--bbox_csv", boxes)
    without = pictures("without", ["a/"], tmp_path / "root")
    unclear = pictures("unclear", ["a/", "b/"], tmp_path / "root", "--bbox_csv", boxes)
    assert len(flat) == len(below) == 2
    for n in range(2):
        np.testing.assert_array_equal(below[n], flat[n])
        assert (below[n] != without[n]).any()
        np.testing.assert_array_equal(unclear[n], without[n])
    count = int(published[0].isin(boxed).sum())
    assert f"{count} boxes are left out, as their image may be any of several" in said[3] and "left out" not in said[1]


def test_images_behind_links_are_said_once_with_their_number(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    names = read_table(tables[1])["image"].tolist()[:6]
    read_table(tables[1])[:6].to_csv(tmp_path / "t.csv", index=False)
    real = tmp_path / "data"
    real.mkdir()
    for name, path in zip(names, locate(demo, names), strict=True):
        (real / name).write_bytes(Path(str(path)).read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "images").symlink_to(real, target_is_directory=True)  # as researchers do
    (tmp_path / "files").mkdir()
    for n, name in enumerate(names):  # two lead out, two stay inside, two are no links
        if n < 2:
            (tmp_path / "files" / name).symlink_to(real / name)
        elif n < 4:
            (tmp_path / "files" / "elsewhere").mkdir(exist_ok=True)
            (tmp_path / "files" / "elsewhere" / name).write_bytes((real / name).read_bytes())
            (tmp_path / "files" / name).symlink_to(Path("elsewhere") / name)
        else:
            (tmp_path / "files" / name).write_bytes((real / name).read_bytes())
    (tmp_path / "whole").symlink_to(real, target_is_directory=True)
    for root, count in (("folder", 6), ("files", 2), ("whole", 0), ("data", 0)):
        command = infer(
            trained / "roi.pt", tmp_path / "t.csv", tmp_path / root, "--save_json", tmp_path / f"{root}.json"
        )
        said = run(*command)
        assert said.count("behind links") == (count > 0), root
        if count:
            assert (
                f"{count} of 6 images lie outside {tmp_path / root}, behind links: the first is " in said
                and f"-> {real / names[0]}" in said
            )
    assert (tmp_path / "folder.json").read_text() == (tmp_path / "data.json").read_text()


@pytest.mark.parametrize("script", sorted(p.name for p in ROOT.glob("*.py")))
def test_control_bytes_of_file_names_do_not_reach_the_console(script: str) -> None:
    """ESC, NUL, BEL, CR, CSI, a right-to-left override, bytes that are no UTF-8.

    Every script repeats a flag that it does not know.
    """
    required = re.search(r"required: (.*?) \(all", run(script, code=2))
    flags = [word for flag in required[1].split(", ") for word in (flag, "x")] if required else []
    one_of = {
        "download_datasets.py": ["--list"],
        "make_chexmultimodal_csv.py": ["--src_csv", "x"],
        "make_queries.py": ["--names", "x"],
    }
    flags += one_of.get(script, [])
    said = run(script, *flags, "--\x1b[2J\x00\x07\r\x9b\u202e\udcff", code=2)
    assert said.removesuffix("\n").isprintable(), ascii(said)
    assert "\\x1b[2J\\x00\\x07\\r\\x9b\\u202e\\xff" in said


def test_names_are_escaped_where_they_are_printed(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    name = "a\x1b]0;gone\x07\nb.png"
    (tmp_path / "images").mkdir()
    first = read_table(tables[1])[:2]
    for image, path in zip((name, "b.png"), locate(demo, first["image"].tolist()), strict=True):
        (tmp_path / "images" / image).write_bytes(Path(str(path)).read_bytes())
    first.assign(image=[name, "b.png"], patient_id="p").to_csv(tmp_path / "t.csv", index=False)
    vis = ("--save_vis_dir", tmp_path / "v\x1b", "--vis_size", 64)
    said = run(*infer(trained / "roi.pt", tmp_path / "t.csv", tmp_path, *vis))
    assert "\x1b" not in said and "v\\x1b: pictures of 2 images" in said
    (tmp_path / "images" / name).write_bytes(b"")
    error = one_line_error(*infer(trained / "roi.pt", tmp_path / "t.csv", tmp_path, "--save_json", tmp_path / "p.json"))
    assert "a\\x1b]0;gone\\x07\\nb.png" in error and "\x1b" not in error


def test_the_console_leaves_progress_and_lines_alone() -> None:
    out = io.StringIO()
    console = Console(out)
    for text in ("\r 50 %", "two\n\tlines é ✓\n", "a\rb", "\x1b[A"):
        assert console.write(text) == len(text)
    console.flush()
    assert out.getvalue() == "\r 50 %two\n\tlines é ✓\na\\rb\\x1b[A" and not console.isatty()
    latin = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(latin).write("é ✓")
    latin.flush()
    assert latin.buffer.getvalue() == b"\\xe9 \\u2713"  # type: ignore[attr-defined]
    assert printable("a\nb\tc") == "a\\nb\\tc"


def test_a_checkpoint_without_a_mask_shows_where_it_looks(
    tables: tuple[Path, Path], demo: Path, tmp_path: Path
) -> None:
    """x_cam.png: the most probable finding's Grad-CAM.

    Orange where its map is high, the X-ray as it is where it is zero.
    """
    from PIL import Image

    from roi.data.images import locate, read_grey
    from roi.inference.grad_cam import grad_cam
    from roi.scoring.pictures import TINT
    from roi.training.checkpoint import load_model

    common = ("--image_root", demo, "--save", tmp_path / "s.pt", *TINY, "--img_size", 64)
    run("train_roi_baselines.py", "--mode", "standard", "--train_csv", tables[0], *common)
    run(
        *infer(
            tmp_path / "s.pt",
            tables[1],
            demo,
            "--save_vis_dir",
            tmp_path / "v",
            "--max_vis",
            1,
            "--vis_size",
            64,
            "--save_json",
            tmp_path / "p.json",
        )
    )
    (name,) = [path.name for path in (tmp_path / "v").iterdir()]
    record = json.loads((tmp_path / "p.json").read_text())[0]
    assert name == f"{Path(record['image']).stem}_cam.png"
    model, state = load_model(tmp_path / "s.pt")
    path = locate(demo, [record["image"]])[0]
    pixels = torch.from_numpy(read_grey(path, 64).copy())[None, None]
    findings = {c: p for c, p in record["prob_full"].items() if c != "Normal"}
    maps = grad_cam(model, pixels, 32)[0, state["classes"].index(max(findings, key=findings.get))].numpy()
    heat = (
        np.asarray(
            Image.fromarray(np.rint(255 * maps / max(maps.max(), 1e-30)).astype(np.uint8)).resize(
                (64, 64), Image.Resampling.BILINEAR
            )
        )
        / 255
    )
    shown = np.asarray(Image.open(tmp_path / "v" / name))[:64].astype(float)
    grey = read_grey(path, 64).astype(float)
    expected = (1 - 0.65 * heat[:, :, None]) * grey[:, :, None] + 0.65 * heat[:, :, None] * np.array(TINT)
    assert np.abs(shown - expected).max() <= 1.5


def test_one_image_mask_and_crop_at_its_own_size(demo: Path, trained: Path, tmp_path: Path) -> None:
    image = next((demo / "images_001" / "images").iterdir())
    said = run(
        "infer_roi_consistency.py",
        "--checkpoint",
        trained / "roi.pt",
        "--image",
        image,
        "--save_mask",
        tmp_path / "m.png",
        "--save_crop",
        tmp_path / "c.png",
    )
    assert (
        Image.open(tmp_path / "m.png").size == Image.open(tmp_path / "c.png").size == (48, 48)
        and "Pleural_Thickening" in said
    )
    assert "exists" in one_line_error(
        "infer_roi_consistency.py",
        "--checkpoint",
        trained / "roi.pt",
        "--image",
        image,
        "--save_mask",
        tmp_path / "m.png",
    )
    assert "nowhere.png" in one_line_error(
        "infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", "--image", "nowhere.png"
    )
    (tmp_path / "t.csv").write_text("image\nnowhere.png\n")
    table = ("--csv", tmp_path / "t.csv", "--save_json", tmp_path / "p.json")
    said = one_line_error("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", *table)
    assert "nowhere.png" in said and "give --image_root" in said


def test_tensorboard_and_a_table_with_a_byte_order_mark(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + tables[0].read_bytes().replace(b"\n", b"\r\n"))
    run(
        "train_roi_consistency.py",
        *training(demo, tmp_path / "bom.csv", tmp_path),
        "--max_samples",
        20,
        "--tensorboard",
        tmp_path / "tb",
    )
    written = events.EventAccumulator(str(tmp_path / "tb"))
    written.Reload()
    assert written.Scalars("loss_full")[0].value == pytest.approx(
        float(rows_of(tmp_path / "metrics.csv")[0]["loss_full"]), rel=1e-4
    )


def test_resume_from_another_file_does_not_replace_a_checkpoint(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "roi.pt").write_bytes(b"mine")
    command = (
        "train_roi_consistency.py",
        *training(demo, tables[0], tmp_path),
        *PUBLISHED,
        "--epochs",
        2,
        "--resume",
        trained / "roi.pt",
    )
    assert "exists" in one_line_error(*command) and (tmp_path / "roi.pt").read_bytes() == b"mine"
    run(*command, "--overwrite")
    assert torch.load(tmp_path / "roi.pt", weights_only=True)["epoch"] == 2


@pytest.mark.parametrize("script", sorted(p.name for p in ROOT.glob("*.py")))
def test_help_is_a_manual(script: str) -> None:
    said = run(script, "--help")
    assert f"python {script}" in said
    flags = [line for line in said.splitlines() if line.startswith("  --")]
    assert all("None" not in line for line in flags)


def test_library_code_touches_no_global_generator() -> None:
    """Seeds are set by scripts; roi/ may restore a state (resume) or draw inside fork_rng."""
    banned = ("np.random.seed", "random.seed(", "torch.manual_seed", "torch.cuda.manual_seed")
    for path in (ROOT / "roi").glob("*.py"):
        found = [word for word in banned if word in path.read_text()]
        assert not found, f"{path.name}: {found}"


# --- faults and the pixel cache --------------------------------------------------------------------------------------


def state_of(out: Path) -> dict:
    return torch.load(out / "roi.pt", weights_only=True)


def expect_equal(out: Path, other: Path) -> None:
    """The weights and every number of the log, bit for bit."""
    a, b = state_of(out), state_of(other)
    assert all(torch.equal(a[part][k], b[part][k]) for part in ("model", "mask_net") for k in b[part])
    timed = ("images_per_s", "seconds")
    assert [{c: v for c, v in row.items() if c not in timed} for row in rows_of(out / "metrics.csv")] == [
        {c: v for c, v in row.items() if c not in timed} for row in rows_of(other / "metrics.csv")
    ]


def small(demo: Path, tables: tuple[Path, Path], out: Path, *more: object) -> tuple[object, ...]:
    """Three epochs of 5 steps, the last of them on a part of a batch."""
    flags = (
        "--max_samples",
        40,
        "--batch_size",
        8,
        "--val_fraction",
        0.1,
        "--warmup_epochs",
        1,
        "--dynamic_weights",
        "--resume",
        "auto",
    )
    return ("train_roi_consistency.py", *training(demo, tables[0], out), *flags, "--epochs", 3, *more)


@pytest.fixture(scope="module")
def untouched(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untouched")
    run(*small(demo, tables, out))
    return out


@pytest.mark.parametrize("damage", ["cut", "empty", "overwritten", "bits"])
def test_a_damaged_checkpoint_is_left_for_the_one_before_it(
    damage: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path, untouched: Path
) -> None:
    for path in untouched.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data, previous = (tmp_path / "roi.pt").read_bytes(), tmp_path / "roi_previous.pt"
    half = len(data) // 2
    changed = {
        "cut": data[:half],
        "empty": b"",
        "overwritten": bytes(len(data)),
        "bits": data[:half] + bytes(b ^ 4 for b in data[half : half + 256]) + data[half + 256 :],
    }
    (tmp_path / "roi.pt").write_bytes(changed[damage])
    assert torch.load(previous, weights_only=True)["epoch"] == 2
    said = run(*small(demo, tables, tmp_path))
    assert (
        "roi.pt: not a checkpoint, or a damaged one" in said and f"going on from the one before it, {previous}" in said
    )
    expect_equal(tmp_path, untouched)
    for path in (previous, tmp_path / "roi.pt"):
        path.write_bytes(data[:half])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "_previous.pt: not a checkpoint, or a damaged one" in one_line_error(*small(demo, tables, tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_process_that_is_killed_while_it_saves_goes_on_in_mid_epoch(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, untouched: Path
) -> None:
    """SIGKILL, once the tenth checkpoint is half on the disk: what is there is that of the step before."""
    command = [str(word) for word in small(demo, tables, tmp_path, "--save_every_steps", 1)]
    driver = (
        "import os, runpy, signal, sys, torch\n"
        "write, saves = torch.save, []\n"
        "def killed(state, file):\n"
        "    saves.append(file.name)\n"
        "    if len(saves) == 10:\n"
        "        file.write(b'half of it')\n"
        "        file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    write(state, file)\n"
        "torch.save = killed\n"
        f"sys.argv = {command!r}\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    process = subprocess.run([sys.executable, "-c", driver], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert len(list(tmp_path.glob(".roi*.part"))) == 1
    state = state_of(tmp_path)
    assert 0 < state["batch"] < 5 and state["epoch"] == 1
    said = run(*small(demo, tables, tmp_path))
    assert f"1 of 3 epochs are done, and {state['batch']} batches of the next" in said
    expect_equal(tmp_path, untouched)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("mask", [(), pytest.param(("--objective", "consistency"), marks=pytest.mark.slow)])
def test_a_run_from_the_pixel_cache_is_the_same_bit_for_bit(
    mask: tuple[str, ...], demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """Training and validation; and a run may go on with or without it."""
    command = {x: small(demo, tables, tmp_path / x, *mask, "--warmup_epochs", 0 if mask else 1) for x in "abc"}
    run(*command["a"])
    cache = ("--cache_dir", tmp_path / "pixels")
    said = run(*command["b"], *cache, "--prefetch_factor", 1)
    assert said.count("pixel cache") and "images there" in said
    run(*command["c"], *cache, "--epochs", 2)
    run(*command["c"], "--epochs", 3)
    for x in "bc":
        expect_equal(tmp_path / x, tmp_path / "a")


def test_what_the_cache_cannot_read_is_left_out_and_listed(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """One image of training and one of validation. The same seed trains on the same batches without the cache, too."""
    from roi.data.identity import fingerprints

    table = read_table(tables[0])
    test = set((demo / "test_list.txt").read_text().split())
    patients = set(table[table["image"].isin(test)]["patient_id"])
    table = table[~table["patient_id"].isin(patients)]
    (tmp_path / "images").mkdir()
    names = table["image"].tolist()
    for name, path in zip(names, locate(demo, names), strict=True):
        (tmp_path / "images" / name).write_bytes(Path(str(path)).read_bytes())
    held = table["patient_id"].isin(table["patient_id"].unique()[-6:])
    for name, part in (("train", table[~held]), ("val", table[held])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    bad = [table[~held]["image"].iloc[3], table[held]["image"].iloc[0]]
    for name in bad:
        (tmp_path / "images" / name).write_bytes((tmp_path / "images" / name).read_bytes()[:60])
    out = tmp_path / "out"
    command = (
        "train_roi_consistency.py",
        *training(tmp_path, tmp_path / "train.csv", out),
        "--val_csv",
        tmp_path / "val.csv",
        "--cache_dir",
        tmp_path / "pixels",
        "--batch_size",
        16,
    )
    said = one_line_error(*command)
    assert bad[0] in said and "--skip_unreadable" in said and "(1 of " in said and not list(out.iterdir())
    said = run(*command, "--skip_unreadable")
    assert said.count("1 image could not be read and was left out") == 2
    for stem, name in zip(("roi", "roi_val"), bad, strict=True):
        assert (
            name in (out / f"{stem}_unreadable.txt").read_text()
            and (out / f"{stem}_unreadable.txt").read_text().count("\n") == 1
        )
    read = [name for name in table[~held]["image"] if name != bad[0]]
    assert state_of(out)["train_images"].tolist() == fingerprints(table[~held]["image"].tolist()).tolist()
    (row,) = rows_of(out / "metrics.csv")
    assert float(row["images_per_s"]) * float(row["seconds"]) == pytest.approx(len(read), rel=1e-3)
    plain = tmp_path / "plain"
    without = [
        "train_roi_consistency.py",
        *training(tmp_path, tmp_path / "train.csv", plain),
        "--batch_size",
        16,
        "--val_csv",
        tmp_path / "val.csv",
        "--skip_unreadable",
    ]
    assert "2 images could not be read and were left out" in run(*without)
    expect_equal(out, plain)


# --- how a run ends --------------------------------------------------------------------------------------------------


def one_line_failure(*command: object) -> str:
    """Run a script that fails through no fault of its flags: exit code 1 and one line."""
    said = run(*command, code=1)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in said, said
    return errors[0]


@pytest.fixture
def dying_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker that decodes its third image is killed, as the kernel does where memory is short."""
    calls, here = 0, os.getpid()

    def read(path: str, size: int) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_grey(path, size)

    monkeypatch.setattr("roi.data.dataset.read_grey", read)
    monkeypatch.setattr("roi.inference.image_files.read_grey", read)


def test_a_killed_worker_is_one_line_in_training_and_inference(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path, dying_workers: None
) -> None:
    began = time.monotonic()
    train = ("train_roi_consistency.py", *training(demo, tables[0], tmp_path), "--workers", 2, "--batch_size", 2)
    said = one_line_failure(*train)
    assert "a worker was killed" in said and "out of memory?" in said and "--resume auto" in said
    where = ("--csv", tables[1], "--image_root", demo, "--device", "cpu", "--workers", 2, "--batch_size", 2)
    infer = ("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", *where)
    said = one_line_failure(*infer, "--save_json", tmp_path / "preds.json", "--save_masks", tmp_path / "masks.npz")
    assert "inference: a worker was killed" in said and "out of memory?" in said
    assert not multiprocessing.active_children() and time.monotonic() - began < 60
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv", "roi.pt", "roi_val.csv"]


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            2,
            ("out of memory in inference", "smaller --batch_size"),
        ),
        (RuntimeError("cuDNN error:\nBAD"), 1, ("cuDNN error: BAD", "ROI_DEBUG=1")),
    ],
)
def test_what_fails_in_inference_is_one_line(
    error: Exception,
    code: int,
    words: tuple[str, ...],
    demo: Path,
    tables: tuple[Path, Path],
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*args: object) -> None:
        raise error

    monkeypatch.setattr("roi.models.roi_model.RoiModel.normalise", fails)
    where = (
        "--csv",
        tables[1],
        "--image_root",
        demo,
        "--device",
        "cpu",
        "--workers",
        0,
        "--save_json",
        tmp_path / "preds.json",
    )
    command = ("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", *where)
    said = one_line_error(*command) if code == 2 else one_line_failure(*command)
    assert all(word in said for word in words) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (UserError("the flag"), 2, 1),
        (RunError("the disk"), 1, 1),
        (OSError("no room"), 2, 1),
        (ValueError("ours"), None, 0),
    ],
)
def test_only_what_is_not_our_defect_is_one_line(
    error: Exception, code: int | None, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(args: object) -> None:
        raise error

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit if code else type(error)) as end:
            cli.run(main, lambda: None)  # type: ignore[arg-type, return-value]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().err.count("error: ") == lines and (code is None or end.value.code == code)


WAITING = """
import sys, time
from roi.files import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(60)
"""


def holding(path: Path) -> subprocess.Popen[str]:
    """Another process that writes `path`."""
    command = [sys.executable, "-c", WAITING, str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


@pytest.mark.parametrize("name", ["roi.pt", "metrics.csv"])
def test_a_run_that_another_one_writes_is_left_alone_and_a_dead_one_taken_over(
    name: str, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    command = ("train_roi_consistency.py", *training(demo, tables[0], tmp_path), "--max_samples", 24, "--overwrite")
    other = holding(tmp_path / name)
    try:
        for more in ((), ("--resume", "auto")):
            said = one_line_error(*command, *more)
            assert name in said and f"process {other.pid} on " in said and "another name" in said
        assert [path.name for path in tmp_path.iterdir()] == [f"{name}.lock"]
    finally:
        other.kill()
        other.wait()
    assert (tmp_path / f"{name}.lock").exists()  # it was killed
    run(*command)
    assert not list(tmp_path.glob("*.lock")) and (tmp_path / "roi.pt").exists()


def test_predictions_that_another_process_writes_are_left_alone(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    where = (
        "--csv",
        tables[1],
        "--image_root",
        demo,
        "--device",
        "cpu",
        "--workers",
        0,
        "--save_json",
        tmp_path / "preds.json",
    )
    command = ("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", *where)
    with locked(tmp_path / "preds.json"):
        assert "is writing it" in one_line_error(*command)
    assert not list(tmp_path.iterdir())


def test_a_lock_belongs_to_one_and_ends_with_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    with locked(path):
        assert str(os.getpid()) in (tmp_path / "x.pt.lock").read_text()
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), locked(path):
            raise AssertionError
        assert (tmp_path / "x.pt.lock").exists()
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert not list(tmp_path.iterdir())

    def no_locks(*given: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)  # the number in the file decides
    host = "".join(c for c in platform.node() if c.isalnum())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for owner, free in (
        (f"{host}-{gone.pid}", True),
        (f"{host}-{os.getppid()}", False),
        ("elsewhere-1", False),
        ("", True),
    ):
        (tmp_path / "x.pt.lock").write_text(owner)
        if free:
            with locked(path):
                pass
            continue
        with pytest.raises(UserError, match=r"remove .*x\.pt\.lock"), locked(path):
            raise AssertionError
        assert (tmp_path / "x.pt.lock").read_text() == owner


def test_changed_flags_and_rows_are_refused_before_an_image_is_decoded(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decodes(*args: object, **more: object) -> None:
        raise AssertionError("an image is decoded")

    monkeypatch.setattr("roi.training.loaders.open_cache_of_run", decodes)
    again = (
        "train_roi_consistency.py",
        *training(demo, tables[0], trained),
        *PUBLISHED,
        "--resume",
        "auto",
        "--cache_dir",
        tmp_path,
    )
    assert "--lr 0.0001, now 0.001" in one_line_error(*again, "--lr", "1e-3")
    table = pd.read_csv(tables[0], dtype=str)
    table.iloc[::-1].to_csv(tmp_path / "turned.csv", index=False)
    table.drop(index=table.index[:5]).to_csv(tmp_path / "fewer.csv", index=False)
    said = one_line_error(*again, "--train_csv", tmp_path / "turned.csv")
    assert (
        "in another order" in said or "other images" in said
    )  # validation is drawn by patient, in the order of the rows
    assert "other images" in one_line_error(*again, "--train_csv", tmp_path / "fewer.csv")
    with pytest.raises(AssertionError, match="an image is decoded"):
        run(*again)


def test_rows_in_another_order_are_said_to_be_that() -> None:
    meta = {
        "classes": ["Mass"],
        "labels": "x",
        "train_images": torch.tensor([3, 1, 2]),
        "val_images": torch.tensor([7, 8]),
    }
    for key in ("train_images", "val_images"):
        turned = meta | {key: meta[key].flip(0)}  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=f"on the same {len(meta[key])} images in another order"):
            checkpoint.same_rows(meta, turned, "c.pt")
        with pytest.raises(UserError, match="on other images"):
            checkpoint.same_rows(meta, meta | {key: torch.tensor([1, 2])}, "c.pt")
    with pytest.raises(UserError, match="other classes.*classes Mass; now Edema"):
        checkpoint.same_rows(meta, meta | {"classes": ["Edema"], "labels": "y"}, "c.pt")
    checkpoint.same_rows({key: value for key, value in meta.items() if key != "val_images"}, meta, "c.pt")


def test_validation_that_cannot_be_scored_is_said_at_the_start(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """Ten normals: no finding is both present and absent."""
    table = read_table(tables[0])
    normal = table[table["labels"] == "Normal"]
    patients = list(dict.fromkeys(normal["patient_id"]))[:6]
    held = table["patient_id"].isin(patients)
    normal[normal["patient_id"].isin(patients)].to_csv(tmp_path / "val.csv", index=False)
    table[~held].to_csv(tmp_path / "train.csv", index=False)
    command = (
        "train_roi_consistency.py",
        *training(demo, tmp_path / "train.csv", tmp_path),
        "--val_csv",
        tmp_path / "val.csv",
    )
    command = (*command, "--allow_leakage")  # whoever they are
    for more in (("--patience", 1), ("--schedule", "plateau")):
        said = one_line_error(*command, *more)
        assert more[0] in said and "no finding is both present and absent" in said and "--val_csv" in said
    said = run(*command)
    assert said.index("no finding is both present and absent") < said.index("epoch 1:") and "no best checkpoint" in said
    assert not (tmp_path / "roi_best.pt").exists()


@pytest.mark.parametrize("cache", [False, True])
def test_a_last_batch_of_one_image_goes_into_the_one_before_it_with_batch_norm(
    cache: bool, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """33 images in batches of 16. Without batch norm nothing changes."""
    table = read_table(tables[0])
    given = ("train_roi_baselines.py", "--mode", "standard", *training(demo, tables[0], tmp_path), "--val_fraction", 0)
    given = (*given, "--max_samples", 33, "--allow_leakage", *(("--cache_dir", tmp_path / "cache") if cache else ()))
    assert len(table) > 33
    said = run(*given, "--backbone", "test_resnet")
    assert "the last 1 images of an epoch are too few for batch norm" in said and "which has 17 images" in said
    assert rows_of(tmp_path / "metrics.csv")[0]["steps"] == "2"
    said = run(*given, "--overwrite")
    assert "too few" not in said and rows_of(tmp_path / "metrics.csv")[0]["steps"] == "3"
    said = one_line_error(*given, "--overwrite", "--backbone", "test_resnet", "--batch_size", 1)
    assert "batch norm needs at least two images" in said and "--batch_size" in said


def test_a_checkpoint_of_an_older_version_is_not_gone_on_with(
    demo: Path, tables: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    """Its objective was another one, and flags that are new could not tell."""
    state = torch.load(trained / "roi.pt", weights_only=True)
    del state["before_masks"]
    torch.save(state, tmp_path / "roi.pt")
    before = (tmp_path / "roi.pt").read_bytes()
    error = one_line_error("train_roi_consistency.py", *training(demo, tables[0], tmp_path), "--resume", "auto")
    assert "roi.pt: is of an older version" in error and (tmp_path / "roi.pt").read_bytes() == before


def test_flags_of_maps_do_not_hinder_a_run_without_maps(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    command = ("train_roi_baselines.py", "--mode", "standard", *training(demo, tables[0], tmp_path), "--map_stride", 16)
    run(*command)
    assert "1 of 1 epoch is done" in run(*command, "--resume", "auto")


def test_a_training_does_not_take_the_place_of_its_tables(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    table = tmp_path / "train.csv"
    before = tables[0].read_bytes()
    table.write_bytes(before)
    command = ("train_roi_consistency.py", "--train_csv", table, "--image_root", demo, "--overwrite")
    for outputs in (("--save", table), ("--save", tmp_path / "m.pt", "--log_csv", table)):
        assert "is what --train_csv names" in one_line_error(*command, *outputs)
    assert table.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_a_table_does_not_take_the_place_of_what_it_is_made_of(demo: Path, tmp_path: Path) -> None:
    source = tmp_path / "Data_Entry_2017.csv"
    before = (demo / "Data_Entry_2017.csv").read_bytes()
    source.write_bytes(before)
    command = ("make_chexmultimodal_csv.py", "--src_csv", source, "--image_dir", demo, "--overwrite")
    said = one_line_error(*command, "--label_from", "Finding Labels", "--out_csv", source)
    assert "is what --src_csv names" in said and source.read_bytes() == before


def test_a_checkpoint_that_was_never_trained_is_refused(trained: Path, demo: Path, tmp_path: Path) -> None:
    """A run that is killed before its first step leaves one."""
    state = torch.load(trained / "roi.pt", weights_only=True)
    torch.save({**state, "epoch": 0, "steps": 0}, tmp_path / "new.pt")
    image = sorted((demo / "images").glob("*.png"))[0] if (demo / "images").is_dir() else next(demo.rglob("*.png"))
    command = ("infer_roi_consistency.py", "--checkpoint", tmp_path / "new.pt", "--image", image, "--device", "cpu")
    error = one_line_error(*command, "--save_json", tmp_path / "p.json")
    assert "never trained" in error and "--untrained" in error and not (tmp_path / "p.json").exists()
    assert "Mass" in run(*command, "--untrained")
    # Killed in its first epoch, it has learned something.
    torch.save({**state, "epoch": 0, "steps": 3}, tmp_path / "new.pt")
    assert "Mass" in run(*command)


def test_synthetic_data_say_so_in_tables_checkpoint_predictions_and_scores(
    trained: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = {row["label_source"] for row in rows_of(tables[1])}
    assert sources == {"synthetic set (seed 3; 96 images of 48 px): Data_Entry_2017.csv"}
    assert torch.load(trained / "roi.pt", weights_only=True)["synthetic"] is True
    infer = ("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", "--workers", 0, "--device", "cpu")
    said = run(*infer, "--csv", tables[1], "--image_root", demo, "--save_json", tmp_path / "p.json")
    assert said.count("SYNTHETIC") == 1
    assert json.loads((tmp_path / "p.meta.json").read_text())["synthetic"] is True
    said = run("evaluate.py", "--preds", tmp_path / "p.json", "--csv", tables[1], "--resamples", 0, "--out", tmp_path)
    assert "SYNTHETIC" in said and json.loads((tmp_path / "metrics.json").read_text())["synthetic"] is True
    # Elsewhere nobody knows the images as drawn, and the checkpoint says what it has seen.
    real = tmp_path / "real"
    real.mkdir()
    image = next(demo.rglob("*.png"))
    (real / "a.png").write_bytes(image.read_bytes())
    run(*infer, "--image", real / "a.png", "--save_json", tmp_path / "q.json")
    meta = json.loads((tmp_path / "q.meta.json").read_text())
    assert meta["trained_on_synthetic"] is True and "synthetic" not in meta


def test_an_image_of_another_set_with_the_name_of_a_training_image(trained: Path, demo: Path, tmp_path: Path) -> None:
    """The demo set has NIH's file names: a table of NIH is not called contaminated by it, one of no set is unclear."""
    first = next(demo.rglob("*.png"))
    names = sorted(path.name for path in demo.rglob("*.png"))
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_bytes(first.read_bytes())
    infer = ("infer_roi_consistency.py", "--checkpoint", trained / "roi.pt", "--workers", 0, "--device", "cpu")
    for dataset, said_so in (("nih", False), ("", True)):
        with open(tmp_path / "t.csv", "w", encoding="utf-8") as file:
            file.write("image,labels,dataset\n" + "".join(f"{name},Mass,{dataset}\n" for name in names))
        out = ("--save_json", tmp_path / "p.json", "--overwrite")
        said = run(*infer, "--csv", tmp_path / "t.csv", "--image_root", tmp_path, *out)
        assert "CONTAMINATED" not in said and ("CANNOT BE TOLD" in said) is said_so
        known = json.loads((tmp_path / "p.meta.json").read_text())["contaminated"]
        assert known is (None if said_so else False)
