"""Several processes: who gets which rows and what they count.

1, 2 and 3 processes agree, a kill and another number of processes.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, one_line_error, run

import train_roi_consistency
from roi import distributed
from roi.data.dataset import Batch
from roi.data.sampler import ShardedBatchSampler
from roi.data.splits import read_list
from roi.data.table import read_table
from roi.data.targets import target_matrix
from roi.models.backbones import build_backbone
from roi.training.loaders import pixel_loader
from roi.training.mask_verdict import MASK_CONTROLS
from roi.training.stop import Stop

TOGETHER, EPOCHS = 12, 4
ROWS, VAL = 3 * TOGETHER + 1, 11  # the last batch leaves all but one process without a row


# --- rows ------------------------------------------------------------------------------------------------------------


def batch(rows: list[int]) -> Batch:
    n = len(rows)
    return Batch(torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.zeros(n, 1), torch.tensor(rows), [])


def counted(order: ShardedBatchSampler, accum_steps: int) -> list[list[tuple[Batch, float, float]]]:
    """Steps of (the rows of a batch that count, batch weight, step weight), as the loop takes them."""
    groups, found = [batch(rows) for rows in order], []
    start = order.start
    for first in range(0, len(groups), accum_steps):
        group = groups[first : first + accum_steps]
        found.append(
            [
                (b._replace(index=b.index[: s.images]), s.batch_weight, s.step_weight)
                for b, s in zip(group, order.shares(group), strict=True)
            ]
        )
        order.start += len(group)
    order.start = start
    return found


@pytest.mark.parametrize("rows", [37, 36, 35, 5, 1])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_processes_share_the_batches_of_one_and_each_row_counts_once(rows: int, world: int) -> None:
    whole = ShardedBatchSampler(rows, TOGETHER, seed=7)
    parts = [ShardedBatchSampler(rows, TOGETHER // world, 7, rank, world) for rank in range(world)]
    for epoch, start in ((0, 0), (1, 0), (1, min(1, len(whole) - 1))):
        for order in (whole, *parts):
            order.epoch, order.start = epoch, start
        expected = [sorted(b) for b in whole]
        assert (
            {len(list(order)) for order in parts} == {len(order) for order in parts} == {len(whole)}
        )  # all of them do as many steps
        for accum_steps in (1, 2, 3):
            steps = [counted(order, accum_steps) for order in parts]
            flat = [[b.index.tolist() for group in of_rank for b, _, _ in group] for of_rank in steps]
            assert [sorted(sum(batches, [])) for batches in zip(*flat, strict=True)] == expected
    assert all(len(b) for order in parts for b in order)  # never without an image: they compute together


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("accum_steps", [1, 2, 3])
def test_what_a_batch_counts_makes_the_mean_over_processes_the_mean_over_images(world: int, accum_steps: int) -> None:
    value = np.random.default_rng(0).normal(size=ROWS)
    groups: list[list[list[tuple[Batch, float, float]]]] = []
    for rank in range(world):
        order = ShardedBatchSampler(ROWS, TOGETHER // world, 7, rank, world)
        groups.append(counted(order, accum_steps))
    for group in zip(*groups, strict=True):  # of each process, the batches of a step
        images = [n for part in group for b, _, _ in part for n in b.index.tolist()]
        step = (
            sum(value[b.index].mean() * step_weight for part in group for b, _, step_weight in part if len(b.index))
            / world
        )
        assert step == pytest.approx(value[images].mean())
        for batches in zip(*group, strict=True):  # the same batch of all processes
            images = [n for b, _, _ in batches for n in b.index.tolist()]
            assert sum(
                value[b.index].mean() * share for b, share, _ in batches if len(b.index)
            ) / world == pytest.approx(value[images].mean())
            assert sum(share for _, share, _ in batches) == pytest.approx(world)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("rest", [0, 1, 2, 3, 5, 7, 8, 11])
def test_no_process_has_a_batch_of_one_image_where_two_are_needed(world: int, rest: int) -> None:
    """What is left of an epoch goes into the batch before it.

    Every row still comes once, and an epoch can be entered anywhere.
    """
    rows = 2 * TOGETHER + rest
    parts = [ShardedBatchSampler(rows, TOGETHER // world, 7, rank, world) for rank in range(world)]
    for order in parts:
        order.least = 2
    flat = [list(order) for order in parts]
    together = [sorted(sum(batches, [])) for batches in zip(*flat, strict=True)]
    assert sorted(sum(together, [])) == list(range(rows)) and all(len(b) >= 2 for batches in flat for b in batches)
    few = 0 < rest < 2 * world
    assert {order.merged for order in parts} == {rest if few else 0} and len(together) == 2 + (rest > 0 and not few)
    assert len(together[-1]) == parts[0].last_batch and {len(order) for order in parts} == {len(together)}
    value = np.random.default_rng(0).normal(size=rows)
    groups = [counted(order, 2) for order in parts]
    for group in zip(*groups, strict=True):
        images = [n for part in group for b, _, _ in part for n in b.index.tolist()]
        step = sum(value[b.index].mean() * step_weight for part in group for b, _, step_weight in part) / world
        assert step == pytest.approx(value[images].mean())
    for order, whole in zip(parts, flat, strict=True):
        for order.start in range(len(whole) + 1):
            assert list(order) == whole[order.start :] and len(order) == len(whole) - order.start


def test_batches_stay_where_nothing_is_to_be_merged() -> None:
    for rows, batch_size in ((1, 4), (9, 1), (0, 4)):
        order, plain = ShardedBatchSampler(rows, batch_size, 7), ShardedBatchSampler(rows, batch_size, 7)
        order.least = 2
        assert list(order) == list(plain) and len(order) == len(plain) == len(list(plain)) and not order.merged
    in_order = ShardedBatchSampler(9, 4)
    in_order.least = 2
    assert [len(b) for b in in_order] == [4, 4, 1]


@pytest.mark.parametrize("rows", [37, 11, 2, 1])
def test_rows_in_order_are_dealt_out_once(rows: int) -> None:
    for world in (1, 2, 3):
        parts = [ShardedBatchSampler(rows, 4, None, rank, world) for rank in range(world)]
        dealt = [[n for b in order for n in b] for order in parts]
        assert sorted(sum(dealt, [])) == list(range(rows)) and all(d == sorted(d) for d in dealt)
        assert [len(order) for order in parts] == [len(list(order)) for order in parts]


@pytest.mark.parametrize("world", [2, 3])
def test_sums_over_a_batch_are_divided_by_what_counts_on_all_processes(
    world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mean over the processes of (sum / counting) * share = all sums / all values, however unevenly they are known."""
    rng = np.random.default_rng(0)
    images, known, total = [5, 2, 0][:world], [9.0, 1.0, 4.0][:world], rng.normal(size=world)
    shares = [n * world / sum(images) for n in images]
    monkeypatch.setattr(distributed, "world", lambda: world)
    counting = [v * (s > 0) for v, s in zip(known, shares, strict=True)]
    monkeypatch.setattr(
        distributed, "mean", lambda tensor: given.append(tensor.item()) or torch.tensor(sum(counting) / world)
    )
    given: list[float] = []
    found = [
        (total[n] / c.item() * s if (c := distributed.counting(torch.tensor(known[n]), s)) else 0.0)
        for n, s in enumerate(shares)
    ]
    used = [n for n in range(world) if images[n]]
    assert given == counting  # what a process without a row would add is left out
    assert sum(found) / world == pytest.approx(sum(total[n] for n in used) / sum(known[n] for n in used), rel=1e-5)


def test_a_signal_to_one_process_stops_all_of_them_at_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask each other after as many steps as the slowest does in a second."""
    stop, asked, others = Stop(), [], [(0, 4.7), (int(signal.SIGTERM), 4.7)]
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(
        distributed, "all_gather_objects", lambda told: asked.append(told) or [told, others[len(asked) - 1]]
    )
    stop.began = time.perf_counter() - 0.1  # ten steps a second here
    assert stop.agreed() == 0 and len(asked) == 1 and asked[0][1] == pytest.approx(10, rel=0.2)
    assert [stop.agreed() for _ in range(3)] == [0] * 3 and len(asked) == 1
    stop.began = time.perf_counter() - 0.4
    assert stop.agreed() == stop.signal == signal.SIGTERM and asked[1] == (0, pytest.approx(10, rel=0.2))


def test_alone_nothing_is_shared() -> None:
    assert (distributed.rank(), distributed.world(), distributed.local_rank()) == (0, 1, 0)
    module, tensor = torch.nn.Linear(1, 1), torch.ones(2)
    assert (
        distributed.wrap_ddp(module) is module
        and distributed.mean(tensor) is tensor
        and distributed.counting(tensor, 0.5) is tensor
    )
    assert distributed.all_gather_objects("a") == ["a"]
    with (
        distributed.processes(torch.device("cpu")) as device,
        distributed.one_a_machine_first(),
        distributed.no_sync(module, True),
    ):
        assert device.type == "cpu" and not torch.distributed.is_initialized()
    distributed.barrier()


# --- real processes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv and val.csv of fixed lengths, without a patient in both or of the test set."""
    out = tmp_path_factory.mktemp("dist")
    table, test = read_table(tables[0]), read_list(demo / "test_list.txt")
    test_patients = set(table[table["image"].isin(test["image"])]["patient_id"])
    table = table[~table["patient_id"].isin(test_patients)]
    patients = list(dict.fromkeys(table["patient_id"]))
    held = table["patient_id"].isin(patients[-8:])
    table[~held].head(ROWS).to_csv(out / "train.csv", index=False)
    table[held].head(VAL).to_csv(out / "val.csv", index=False)
    return out


def flags(folder: Path, demo: Path, out: Path, world: int) -> list[str]:
    """A backbone without batch norm and dropout, learned weights, a warm-up, steps of two batches.

    The batch over all processes is the same. With seeds 0 and 1 a pixel at the edge of a grade of its mask
    (roi/models/masks.py) is kept by one and not by the other from epoch 3 or 4 on, and losses then differ by 1e-4:
    that is rounding too, and nothing that this test is about.
    """
    given = (
        "--train_csv",
        folder / "train.csv",
        "--val_csv",
        folder / "val.csv",
        "--image_root",
        demo,
        "--cache_dir",
        folder / "cache",
        "--backbone",
        "test_convnext",
        "--weights",
        "none",
        "--img_size",
        32,
        "--workers",
        0,
        "--device",
        "cpu",
        "--autocast_dtype",
        "fp32",
        "--epochs",
        EPOCHS,
        "--warmup_epochs",
        1,
        "--dynamic_weights",
        "--accum_steps",
        2,
        "--batch_size",
        TOGETHER // world,
        "--seed",
        2,
        "--save",
        out / "roi.pt",
        "--log_csv",
        out / "metrics.csv",
        "--resume",
        "auto",
    )
    return [str(flag) for flag in given]


def torchrun(folder: Path, demo: Path, out: Path, world: int) -> subprocess.Popen[str]:
    return launched("train_roi_consistency.py", flags(folder, demo, out, world), world)


def launched(script: str, given: list[str], world: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world), script]
    out_and_err = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command + given, cwd=ROOT, env=environment, start_new_session=True, **out_and_err)


def finished(process: subprocess.Popen[str]) -> str:
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and "Traceback" not in said, said
    return said


@pytest.fixture(scope="module")
def alone(folder: Path, demo: Path) -> Path:
    """The run of one process."""
    assert len(read_table(folder / "train.csv")) == ROWS and len(read_table(folder / "val.csv")) == VAL
    run("train_roi_consistency.py", *flags(folder, demo, folder / "alone", 1))
    state = torch.load(folder / "alone" / "roi.pt", weights_only=True)
    random = ("dropout", "droppath", "batchnorm")
    parts = [
        m
        for m in build_backbone("test_convnext", len(state["classes"]), "none").modules()
        if type(m).__name__.lower().startswith(random)
    ]
    assert not [
        m for m in parts if getattr(m, "p", 0) or getattr(m, "drop_prob", 0) or hasattr(m, "running_mean")
    ]  # nothing that differs between processes
    return folder / "alone"


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def expect_same(out: Path, alone: Path, world: int) -> None:
    """Every number of every epoch, the weights, and the images of the epoch."""
    found, expected = rows_of(out), rows_of(alone)
    assert [row["epoch"] for row in found] == [str(n + 1) for n in range(EPOCHS)] and len(expected) == EPOCHS
    for one, other in zip(found, expected, strict=True):
        assert {c for c in one if one[c]} == {c for c in other if other[c]} and "loss_full" in one and "w_drop" in one
        for column in set(one) - {"images_per_s", "seconds"}:
            # Of 11 small images: a few pixels that another rounding keeps show, and exchange ranks.
            close = 0.1 if column in ("crop_auroc", "blobs_auroc") else 0.02 if column in MASK_CONTROLS else 1e-5
            assert not one[column] or float(one[column]) == pytest.approx(float(other[column]), rel=0, abs=close), (
                one["epoch"],
                column,
            )
        for row in (one, other):
            assert float(row["images_per_s"]) * float(row["seconds"]) == pytest.approx(ROWS, rel=1e-3)
    a, b = (torch.load(x / "roi.pt", weights_only=True) for x in (out, alone))
    for part in ("model", "mask_net"):
        for name, value in b[part].items():
            torch.testing.assert_close(a[part][name], value, rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(a["balance"]["w"], b["balance"]["w"], rtol=1e-4, atol=1e-6)
    assert a["best"] == pytest.approx(b["best"], abs=1e-5) and (
        a["args"]["world"],
        a["args"]["together"],
        len(a["rng"]),
    ) == (world, TOGETHER, world)
    best = torch.load(out / "roi_best.pt", weights_only=True)
    assert best["epoch"] == torch.load(alone / "roi_best.pt", weights_only=True)["epoch"]
    assert sorted(path.name for path in out.iterdir()) == [
        "metrics.csv",
        "roi.pt",
        "roi_best.pt",
        "roi_previous.pt",
    ]  # nothing of the others


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_agree_with_one(world: int, folder: Path, demo: Path, alone: Path) -> None:
    out = folder / f"of_{world}"
    said = finished(torchrun(folder, demo, out, world))
    expect_same(out, alone, world)
    assert [said.count(f"\nepoch {n + 1}: ") for n in range(EPOCHS)] == [1] * EPOCHS  # one of them speaks


@pytest.mark.slow
def test_crop_and_drop_are_of_the_same_images_in_any_number_of_processes(
    folder: Path, demo: Path, tmp_path: Path
) -> None:
    """Two images of twelve: the third of three processes has none of them."""
    more = ["--view_share", "0.1"]
    run("train_roi_consistency.py", *flags(folder, demo, tmp_path / "one", 1), *more)
    finished(launched("train_roi_consistency.py", flags(folder, demo, tmp_path / "three", 3) + more, 3))
    expect_same(tmp_path / "three", tmp_path / "one", 3)


@pytest.fixture(scope="module")
def stopped(folder: Path, demo: Path, alone: Path) -> Path:
    """Two processes, whose torchrun was told to end after the first epoch or two.

    They save at the same step, at once.
    """
    out = folder / "stopped"
    process = torchrun(folder, demo, out, 2)
    deadline = time.monotonic() + 120
    while (
        time.monotonic() < deadline and process.poll() is None and not ((out / "metrics.csv").exists() and rows_of(out))
    ):
        time.sleep(0.02)
    told = time.time()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0 and "stopped after epoch" in said and "--resume auto" in said, said
    assert (out / "roi.pt").stat().st_mtime - told < 10 and not list(out.glob(".*"))
    state = torch.load(out / "roi.pt", weights_only=True)
    assert len(state["rng"]) == 2 and (state["epoch"], state["batch"]) < (EPOCHS, 0) and state["epoch"] >= 1
    return out


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_processes_go_on_and_so_does_another_number_of_them(
    world: int, folder: Path, demo: Path, stopped: Path, alone: Path
) -> None:
    """By the same command, and with the same batch over all processes: as if nothing had happened."""
    out = folder / f"resumed_{world}"
    shutil.copytree(stopped, out)
    said = (
        finished(torchrun(folder, demo, out, world))
        if world > 1
        else run("train_roi_consistency.py", *flags(folder, demo, out, 1))
    )
    assert said.count("resumed ") == 1
    expect_same(out, alone, world)


def test_another_batch_over_all_processes_is_another_run(folder: Path, demo: Path, alone: Path) -> None:
    assert " 12, now 6" in one_line_error(
        "train_roi_consistency.py", *flags(folder, demo, alone, 1), "--batch_size", "6"
    )


def test_rows_that_cannot_be_read_must_be_known_before_they_are_shared(
    folder: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [flag for flag in flags(folder, demo, tmp_path, 2) if flag not in ("--cache_dir", str(folder / "cache"))]
    args = train_roi_consistency.parse_args([*given, "--skip_unreadable"])
    table = read_table(folder / "train.csv")
    monkeypatch.setattr(distributed, "world", lambda: 2)
    with pytest.raises(ValueError, match="--skip_unreadable with several processes needs --cache_dir") as said:
        pixel_loader(table, ["Mass"], args, torch.device("cpu"), tmp_path / "roi.pt", 0)
    assert "\n" not in str(said.value) and not list(tmp_path.iterdir())
    args.skip_unreadable = False
    assert len(pixel_loader(table, ["Mass"], args, torch.device("cpu"), tmp_path / "roi.pt", 0)[1]) == 4


# --- batch norm, and errors ------------------------------------------------------------------------------------------


def test_processes_validate_and_save_one_set_of_statistics_of_batch_norm(
    folder: Path, demo: Path, tmp_path: Path
) -> None:
    """What the log says of the last epoch is what the checkpoint says of the same images, whoever had them."""
    more = ["--backbone", "test_resnet", "--mode", "standard", "--epochs", "1", "--warmup_epochs", "0", "--lr", "1e-3"]
    dynamic = ("--dynamic_weights", "--warmup_epochs", "1")
    given = [flag for flag in flags(folder, demo, tmp_path, 2) if flag not in dynamic] + more
    said = finished(launched("train_roi_baselines.py", given, 2))
    assert "1 images of an epoch are too few for batch norm" in said  # 37 rows in batches of 12
    (row,) = rows_of(tmp_path)
    preds = tmp_path / "preds.json"
    where = (
        "--csv",
        folder / "val.csv",
        "--image_root",
        demo,
        "--device",
        "cpu",
        "--autocast_dtype",
        "fp32",
        "--workers",
        0,
    )
    run("infer_roi_consistency.py", "--checkpoint", tmp_path / "roi.pt", *where, "--save_json", preds)
    classes = torch.load(tmp_path / "roi.pt", weights_only=True)["classes"]
    probability = np.array([[record["prob_full"][c] for c in classes] for record in json.loads(preds.read_text())])
    target = target_matrix(read_table(folder / "val.csv"), classes)
    loss = np.where(target == 1, -np.log(probability), -np.log1p(-probability))
    assert float(row["val_loss"]) == pytest.approx(
        float(np.nanmean(np.where(np.isnan(target), np.nan, loss))), abs=2e-5
    )


def test_of_several_processes_one_says_what_is_wrong(folder: Path, demo: Path, tmp_path: Path) -> None:
    process = launched("train_roi_consistency.py", [*flags(folder, demo, tmp_path, 2), "--classes", "Mass,Cold"], 2)
    said = process.communicate(timeout=300)[0]
    lines = [line for line in said.splitlines() if "error: " in line and "'Cold'" in line]
    assert process.returncode != 0 and len(lines) == 1, said
    assert not list(tmp_path.iterdir())
