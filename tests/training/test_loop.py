"""The loop: accumulation, exact resume, what stops a run, what a checkpoint holds, order of the batches."""

import errno
import itertools
import math
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import CPU, TERMS_OF, Net, consistency, dataset, evidence, full_term, make_fit
from torch import Tensor, nn

from roi.counter_rng import row_seeds
from roi.data.dataset import Batch
from roi.data.images import UnreadableImageError, locate
from roi.data.loader import make_loader, prefetch
from roi.data.sampler import ShardedBatchSampler
from roi.errors import RunError
from roi.losses.gradnorm import FixedWeights
from roi.models.roi_model import RoiModel
from roi.training import checkpoint
from roi.training.loop import Meter, Step, train_one_epoch
from roi.training.metrics_log import COLUMNS, MetricsLog
from roi.training.optim import make_optimizer
from roi.training.training_run import TrainingRun


def test_batches_are_a_seeded_permutation_and_can_be_entered_anywhere() -> None:
    order = ShardedBatchSampler(26, 4, seed=7)
    first = list(order)
    assert sorted(i for batch in first for i in batch) == list(range(26)) and len(first) == len(order) == 7
    assert list(order) == first
    order.epoch = 1
    assert list(order) != first
    order.epoch, order.start = 0, 5
    assert list(order) == first[5:] and len(order) == 2
    assert list(ShardedBatchSampler(5, 2)) == [[0, 1], [2, 3], [4]]


def test_the_loader_takes_nothing_from_the_global_generator(folder: Path) -> None:
    before = torch.get_rng_state()
    loader, _ = make_loader(dataset(folder, 8), 4, shuffle_seed=1)
    assert len(list(loader)) == 2 and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("rows", "batch_size", "accum_steps"), [(10, 4, 3), (10, 3, 2), (7, 2, 10)])
def test_accumulation_loses_no_sample(folder: Path, rows: int, batch_size: int, accum_steps: int) -> None:
    """Accumulated steps equal the same steps taken at once on the same images.

    The last, partial group is one of them.
    """

    def trained(batch: int, accum: int) -> list[Tensor]:
        torch.manual_seed(0)
        model = RoiModel(nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 20, 3)), "none")
        loader, sampler = make_loader(dataset(folder, rows), batch)
        scaler, optimizer = torch.amp.GradScaler("cpu", enabled=False), torch.optim.SGD(model.parameters(), lr=0.1)
        meter, balance = Meter(lambda index: []), FixedWeights({"full": 1.0})
        steps = train_one_epoch(
            Step(model, full_term),
            loader,
            0,
            balance,
            optimizer,
            scaler,
            meter,
            CPU,
            torch.float32,
            accum,
            sampler.shares,
        )
        assert sum(steps) == math.ceil(rows / batch)
        return [p.detach() for p in model.parameters()]

    for a, b in zip(trained(batch_size, accum_steps), trained(batch_size * accum_steps, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("objective", "number"),
    [("evidence", signal.SIGTERM), ("evidence", signal.SIGINT), ("consistency", signal.SIGTERM)],
)
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("stop_at", [1, 3, 7, 11])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(
    folder: Path, tmp_path: Path, stop_at: int, number: int, dynamic: bool, objective: str
) -> None:
    """7 batches an epoch, steps of 2 batches, 3 epochs; the signal comes while the batch `stop_at` is computed."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = make_fit(folder, tmp_path / "a", dynamic=dynamic, objective=objective)
    assert whole.run() == 0
    calls = 0

    def interrupted(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), number)
        return TERMS_OF[objective](model, batch, epoch)

    first = make_fit(folder, tmp_path / "b", interrupted, dynamic, objective)
    assert first.run() == 128 + number and first.epoch < 3
    torch.manual_seed(99)  # another process would stand elsewhere
    state = checkpoint.load(tmp_path / "b" / "c.pt")
    second = make_fit(folder, tmp_path / "b", dynamic=dynamic, objective=objective, done=state["log"])
    torch.rand(5)
    second.resume(state)
    assert second.run() == 0
    one, two = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)
    rows = [[line.split(",") for line in (tmp_path / x / "log.csv").read_text().splitlines()] for x in "ab"]
    timed = {COLUMNS.index("images_per_s"), COLUMNS.index("seconds")}
    assert [[v for n, v in enumerate(r) if n not in timed] for r in rows[0]] == [
        [v for n, v in enumerate(r) if n not in timed] for r in rows[1]
    ]
    assert whole.balance.weights == second.balance.weights and whole.best == second.best


def test_checkpoint_is_plain_and_the_best_is_not_the_last(folder: Path, tmp_path: Path) -> None:
    fit = make_fit(folder, tmp_path)
    fit.best = 0.0
    fit.run()
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    best = torch.load(tmp_path / "c_best.pt", weights_only=True)
    assert {"model", "mask_net", "classes", "args", "optimizer", "balance", "rng", "contaminated"} <= set(state)
    log = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    scores = [float(row[log[0].index("val_auroc")]) for row in log[1:]]
    assert best["epoch"] == 1 + int(np.argmax(scores)) and best["val_auroc"] == pytest.approx(max(scores), abs=1e-5)
    assert [r[0] for r in log[1:]] == ["1", "2", "3"] and tuple(log[0]) == COLUMNS
    if best["epoch"] < 3:
        assert any(not torch.equal(best["model"][k], state["model"][k]) for k in best["model"])
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".*"))


def test_no_epoch_before_first_best_becomes_the_best(folder: Path, tmp_path: Path) -> None:
    """A warm-up epoch scores highest: it has no mask to show."""
    scores = [0.9, 0.6, 0.7]
    for first, best in ((1, 1), (2, 3), (3, 3), (4, None)):
        out = tmp_path / str(first)
        out.mkdir()
        fit = make_fit(folder, out, full_term, dynamic=False, first_best=first)

        def validate(stop: Any, fit: TrainingRun = fit) -> dict[str, float]:
            return {"val_loss": 0.5, "val_auroc": scores[fit.epoch]}

        fit.validate = validate  # type: ignore[method-assign, assignment]
        assert fit.run() == 0
        if best is None:
            assert not (out / "c_best.pt").exists() and fit.best == -math.inf
        else:
            state = checkpoint.load(out / "c_best.pt")
            assert state["epoch"] == best and state["val_auroc"] == scores[best - 1] == fit.best


def test_a_run_without_validation_warns_of_no_lost_skill(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    fit = make_fit(folder, tmp_path, full_term, dynamic=False)
    fit.val_loader = None
    assert fit.run() == 0 and "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("mask", ["conv", "features", "none"])
def test_the_optimiser_has_every_parameter_once_and_the_mask_net_at_its_own_rate(mask: str) -> None:
    model = RoiModel(Net(), mask, img_size=20)
    groups = make_optimizer(model, 1e-4, 0.02, 3e-3).param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-4, 0.02), (3e-3, 0.02)][: 1 + (mask != "none")]
    given = [id(p) for g in groups for p in g["params"]]
    assert len(given) == len(set(given)) and set(given) == {id(p) for p in model.parameters()}
    own = {id(p) for p in model.mask_net.parameters()} if model.mask_net is not None else set()
    assert {id(p) for g in groups[1:] for p in g["params"]} == own


def test_a_loss_that_is_not_finite_names_term_and_images_and_saves_nothing(folder: Path, tmp_path: Path) -> None:
    def bad(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        found = consistency(model, batch, epoch)
        return {**found, "drop": found["drop"] * math.nan} if 13 in batch.index else found

    with pytest.raises(ValueError, match=r"'(loss|drop)' of the loss is nan.*13\.png"):
        make_fit(folder, tmp_path, bad, objective="consistency").run()
    assert not (tmp_path / "c.pt").exists()


def test_an_unreadable_image_stops_the_run_or_is_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 60 if path.name == "05.png" else None])
    with pytest.raises(ValueError, match=r"05\.png.*--skip_unreadable"):
        make_fit(broken, tmp_path).run()
    seen: list[int] = []

    def watch(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        seen.extend(batch.index.tolist())
        return evidence(model, batch, epoch)

    make_fit(broken, tmp_path, watch, skip_unreadable=True).run()
    assert sorted(seen) == sorted([n for n in range(26) if n != 5] * 3)
    assert (tmp_path / "c_unreadable.txt").read_text().count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "pickle"])
def test_a_foreign_checkpoint_is_refused_and_runs_no_code(tmp_path: Path, content: Any) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    path = tmp_path / "c.pt"
    if content == "pickle":
        torch.save({"model": Evil()}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        checkpoint.load(path)
    assert not (tmp_path / "owned").exists()
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="no 'mask_net'"):
        checkpoint.load(path)


def test_the_log_refuses_rows_of_another_run_and_drops_epochs_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    log = MetricsLog(path)
    for epoch in (1, 2, 3):
        log.row({"epoch": epoch, "loss": 0.5})
    with pytest.raises(ValueError, match="3 epochs of another run"):
        MetricsLog(path)
    whole = path.read_bytes()
    with pytest.raises(ValueError, match="epoch 2 is not the one of this checkpoint"):
        MetricsLog(path, [log.lines[0], log.lines[1].replace("0.5", "0.6")])
    assert path.read_bytes() == whole
    MetricsLog(path, log.lines[:2])
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["epoch", "1", "2"]
    path.unlink()
    MetricsLog(path, log.lines)  # a checkpoint remembers them
    assert path.read_bytes() == whole
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="not a metrics file"):
        MetricsLog(path, log.lines[:1])
    assert path.read_text() == "a,b\n1,2\n"


def test_only_fp16_scales_the_loss(folder: Path, tmp_path: Path) -> None:
    fit = make_fit(folder, tmp_path)
    for dtype, scaled in ((torch.float32, False), (torch.bfloat16, False), (torch.float16, True)):
        fit.dtype = dtype
        fit.__post_init__()
        assert fit.scaler.is_enabled() is scaled


def test_seeds_of_rows_depend_on_seed_epoch_and_row_alone() -> None:
    rows = torch.tensor([3, 9, 4])
    assert torch.equal(row_seeds(1, 2, rows)[1:], row_seeds(1, 2, rows[1:]))
    assert len({*row_seeds(1, 2, rows).tolist(), *row_seeds(1, 3, rows).tolist(), *row_seeds(2, 2, rows).tolist()}) == 9


def test_workers_give_the_same_batches(folder: Path) -> None:
    here, there = (make_loader(dataset(folder, 26), 4, 7, workers=w)[0] for w in (0, 2))
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a.pixels, b.pixels) and torch.equal(a.index, b.index)
    assert a.pixels.dtype == torch.uint8 and locate(folder, ["00.png"])[0] == str(folder / "00.png")


# --- faults ----------------------------------------------------------------------------------------------------------


def resumed(folder: Path, out: Path, **more: Any) -> TrainingRun:
    """What the same command does with --resume auto."""
    torch.manual_seed(99)
    state = checkpoint.load(out / "c.pt")
    fit = make_fit(folder, out, done=state["log"], **more)
    fit.resume(state)
    return fit


def expect_as_untouched(fit: TrainingRun, whole: TrainingRun) -> None:
    one, two = fit.model.state_dict(), whole.model.state_dict()
    assert (
        all(torch.equal(one[k], two[k]) for k in two)
        and fit.balance.weights == whole.balance.weights
        and fit.best == whole.best
    )


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """The run that nothing happens to."""
    fit = make_fit(folder, tmp_path_factory.mktemp("whole"))
    assert fit.run() == 0
    return fit


@pytest.mark.parametrize("how", ["no space left", "file size limit"])
def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_stays(
    how: str, folder: Path, whole: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second checkpoint does not fit; a real limit makes torch's own writer fail in its own way."""
    write, calls = torch.save, 0

    def full(state: dict[str, Any], file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:  # of the first epoch: the best and the last
            return write(state, file)
        if how == "no space left":
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
        try:
            write(state, file)
            file.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    fit = make_fit(folder, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(ValueError, match=r"c(_best)?\.pt: cannot be written \(.+\);.*--resume auto") as said:
            fit.run()
    assert "\n" not in str(said.value) and "the checkpoint before it" in str(said.value) and calls == 3
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv", "c.pt", "c_best.pt"}  # nothing half-written
    assert checkpoint.load(tmp_path / "c.pt")["epoch"] == checkpoint.load(tmp_path / "c_best.pt")["epoch"] == 1
    fit = resumed(folder, tmp_path)
    assert fit.epoch == 1 and fit.run() == 0
    expect_as_untouched(fit, whole)
    assert len(fit.log.lines) == 3 and (tmp_path / "log.csv").read_text().count("\n") == 4


@pytest.mark.parametrize("every", [0, 2])
def test_a_read_error_saves_the_steps_before_it(every: int, folder: Path, whole: TrainingRun, tmp_path: Path) -> None:
    """An image goes bad in the second epoch: the steps before it are good.

    Mended, the run ends as if nothing had happened.
    """
    images = tmp_path / "images"
    images.mkdir()
    for path in folder.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    order = ShardedBatchSampler(26, 4, seed=7)
    order.epoch = 1
    bad = images / f"{list(order)[4][0]:02d}.png"  # of the third step
    good = bad.read_bytes()

    def watch(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        if epoch == 1:
            bad.write_bytes(good[:60])
        return evidence(model, batch, epoch)

    fit = make_fit(images, tmp_path, watch, save_every_steps=every)
    with pytest.raises(
        UnreadableImageError,
        match=rf"{bad.name}.*--skip_unreadable.* Saved .*c\.pt after epoch 2, batch 4; then go on with --resume auto",
    ) as said:
        fit.run()
    assert "\n" not in str(said.value)
    state = checkpoint.load(tmp_path / "c.pt")
    assert (state["epoch"], state["batch"], state["steps"]) == (1, 4, 6)
    bad.write_bytes(good)
    fit = resumed(images, tmp_path)
    assert fit.run() == 0
    expect_as_untouched(fit, whole)


def failing_at(call: int, error: Exception) -> Callable[..., dict[str, Tensor]]:
    """The terms of a batch, whose `call`-th computation fails after the model has seen the batch."""
    calls = 0

    def terms(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        found = evidence(model, batch, epoch)
        if calls == call:
            raise error
        return found

    return terms


def test_out_of_memory_is_one_line_that_names_what_to_lower(folder: Path, tmp_path: Path) -> None:
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 8 GiB"
    )
    with pytest.raises(
        ValueError, match="out of memory in epoch 2, batch 2 .CUDA out of memory. Tried to allocate 2.00 GiB"
    ) as said:
        make_fit(folder, tmp_path, failing_at(10, error)).run()
    for flag in ("--batch_size", "--accum_steps", "--checkpoint_activations", "--autocast_dtype bf16", "--img_size"):
        assert flag in str(said.value)
    assert "--cache_on_device no" in str(said.value) and "\n" not in str(said.value)
    assert checkpoint.load(tmp_path / "c.pt")["epoch"] == 1


@pytest.mark.parametrize("call", [10, 11])
def test_a_step_that_fails_is_taken_back_and_the_steps_before_it_are_saved(
    call: int, folder: Path, whole: TrainingRun, tmp_path: Path
) -> None:
    """Batch 10 begins a step of two batches, batch 11 ends it.

    By then statistics, dropout and loss weights have moved.
    """
    fit = make_fit(folder, tmp_path, failing_at(call, RuntimeError("cuDNN error\nmore of it")))
    with pytest.raises(
        RunError, match=r"epoch 2.*cuDNN error more of it.*Saved .*c\.pt after epoch .*--resume auto"
    ) as said:
        fit.run()
    assert "\n" not in str(said.value)
    state = checkpoint.load(tmp_path / "c.pt")
    assert (state["epoch"], state["batch"], state["steps"]) == (1, 2, 5)
    fit = resumed(folder, tmp_path)
    assert fit.run() == 0
    expect_as_untouched(fit, whole)


def test_an_optimiser_that_fails_half_way_saves_nothing(folder: Path, tmp_path: Path) -> None:
    fit = make_fit(folder, tmp_path)
    step, calls = fit.optimizer.step, 0

    def broken(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        step(*args, **more)
        if calls == 6:
            raise RuntimeError("half of the weights have moved")

    fit.optimizer.step = broken  # type: ignore[method-assign]
    with pytest.raises(RunError, match=r"half of the weights.*c\.pt is as it was"):
        fit.run()
    assert checkpoint.load(tmp_path / "c.pt")["steps"] == 4


def workers_of(fit: TrainingRun) -> list[int]:
    return sorted(worker.pid for worker in multiprocessing.active_children() if worker.pid)


@pytest.mark.parametrize("at", [5, 11])
def test_a_worker_that_is_killed_ends_the_run_and_the_steps_before_it_are_saved(
    at: int, folder: Path, whole: TrainingRun, tmp_path: Path
) -> None:
    """By the kernel when memory is short, say; while a batch is computed, which is then not interrupted."""
    calls, killed = 0, 0.0

    def killing(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls, killed
        calls += 1
        if calls == at:
            killed = time.monotonic()
            os.kill(workers_of(fit)[0], signal.SIGKILL)
            time.sleep(0.2)  # torch would raise here
        return evidence(model, batch, epoch)

    fit = make_fit(folder, tmp_path, killing, workers=2)
    with pytest.raises(
        RunError, match=r"epoch \d.*a worker was killed; out of memory\?.*Saved .*c\.pt after epoch"
    ) as said:
        fit.run()
    # Torch looks for dead workers every five seconds; the rest is for a loaded machine.
    assert time.monotonic() - killed < 60 and "\n" not in str(said.value) and not workers_of(fit)
    state = checkpoint.load(tmp_path / "c.pt")
    assert state["steps"] == {5: 3, 11: 6}[at]  # its step is finished
    fit = resumed(folder, tmp_path, workers=2)
    assert fit.run() == 0
    expect_as_untouched(fit, whole)
    assert not workers_of(fit)


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_that_die_as_they_start_are_one_line(
    persistent: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the start of the others, and of the threads that feed them."""
    monkeypatch.setattr("roi.data.loader.ignore_signals", lambda worker: os.kill(os.getpid(), signal.SIGKILL))
    loader, _ = make_loader(dataset(folder, 26), 4, 7, workers=4, persistent_workers=persistent)
    for _ in range(3):
        with pytest.raises(RunError, match="a worker was killed.*out of memory"):
            list(loader)
        assert not multiprocessing.active_children()


def test_a_signal_while_workers_start_waits_until_they_have(
    folder: Path, whole: TrainingRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roi.data.loader.ignore_signals", lambda worker: os.kill(os.getppid(), signal.SIGTERM))
    assert make_fit(folder, tmp_path, workers=3).run() == 128 + signal.SIGTERM
    assert not multiprocessing.active_children()
    monkeypatch.undo()
    fit = resumed(folder, tmp_path)
    assert fit.run() == 0
    expect_as_untouched(fit, whole)


def test_a_worker_that_hangs_does_not_keep_a_run_that_is_told_to_stop(
    folder: Path, whole: TrainingRun, tmp_path: Path
) -> None:
    """A disk that answers no more: the signal comes while the main process waits for a batch that never comes."""
    calls, told = 0, 0.0

    def hanging(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls, told
        calls += 1
        if calls == 3:
            told = time.monotonic() + 1.0
            for pid in workers_of(fit):
                os.kill(pid, signal.SIGSTOP)
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return evidence(model, batch, epoch)

    fit = make_fit(folder, tmp_path, hanging, workers=2)
    assert fit.run() == 128 + signal.SIGTERM
    assert time.monotonic() - told < 10 and not workers_of(fit)
    fit = resumed(folder, tmp_path)
    assert 2 <= fit.steps < 4 and fit.run() == 0
    expect_as_untouched(fit, whole)


@pytest.mark.parametrize("error", [RuntimeError("the decoder's own"), OSError(errno.EMFILE, os.strerror(errno.EMFILE))])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_where_images_are_decoded_is_one_line(
    error: Exception, workers: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many open files are not the fault of the image, which --skip_unreadable would leave out."""

    def read(path: str, size: int) -> np.ndarray:
        if path.endswith("07.png"):
            raise error
        return np.zeros((size, size), dtype=np.uint8)

    monkeypatch.setattr("roi.data.dataset.read_grey", read)
    with pytest.raises(RunError) as said:
        make_fit(folder, tmp_path, workers=workers, skip_unreadable=True).run()
    text = str(said.value)
    assert "\n" not in text and str(error) in text and ("ulimit -n" in text) == isinstance(error, OSError)
    assert not multiprocessing.active_children()


def test_a_defect_of_ours_in_a_worker_shows_where_it_is_and_ends_all_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: str, size: int) -> np.ndarray:
        raise KeyError(path)

    monkeypatch.setattr("roi.data.dataset.read_grey", read)
    with pytest.raises(KeyError):
        make_fit(folder, tmp_path, workers=2).run()
    assert not multiprocessing.active_children()


def test_run_again_does_nothing_or_what_is_left(folder: Path, whole: TrainingRun, tmp_path: Path) -> None:
    begun: list[int] = []
    fit = make_fit(folder, tmp_path, workers=2)
    fit.begin = lambda: begun.append(1)
    fit.epochs = 2
    assert fit.run() == 0 and fit.epoch == 2
    before = (tmp_path / "c.pt").read_bytes()
    assert fit.run() == 0 and (tmp_path / "c.pt").read_bytes() == before and begun == [1]
    fit.epochs = 3
    assert fit.run() == 0
    expect_as_untouched(fit, whole)


@pytest.mark.parametrize(
    ("every", "saved"), [(0, [4, 8, 12]), (1, [*range(1, 13), 4, 8, 12]), (3, [3, 4, 6, 8, 9, 12, 12])]
)
def test_checkpoints_come_every_so_many_steps_and_each_epoch(
    every: int, saved: list[int], folder: Path, whole: TrainingRun, tmp_path: Path
) -> None:
    """Four steps an epoch. The one before the last stays beside it; saving changes nothing."""
    fit, seen = make_fit(folder, tmp_path, save_every_steps=every), []
    save = fit.save_checkpoint

    def watch() -> None:
        before = checkpoint.load(tmp_path / "c.pt")["steps"] if (tmp_path / "c.pt").exists() else None
        save()
        seen.append(checkpoint.load(tmp_path / "c.pt")["steps"])
        if before is not None:
            assert checkpoint.load(tmp_path / "c_previous.pt")["steps"] == before

    fit.save_checkpoint = watch  # type: ignore[method-assign]
    assert fit.run() == 0
    assert sorted(seen) == sorted(saved)
    expect_as_untouched(fit, whole)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 11])
def test_what_is_saved_every_step_survives_a_sudden_end(
    stop_at: int, folder: Path, whole: TrainingRun, tmp_path: Path
) -> None:
    """Nothing is left but what is on the disk; the log may be one epoch ahead of it."""

    class Killed(BaseException):
        pass

    fit = make_fit(folder, tmp_path, save_every_steps=1)
    write = checkpoint.save
    saves = 0

    def dying(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
        nonlocal saves
        saves += path.name == "c.pt"
        if saves > stop_at:
            raise Killed
        write(path, state, keep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", dying)
        with pytest.raises(Killed):
            fit.run()
    fit = resumed(folder, tmp_path)
    assert fit.steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9][stop_at - 1]  # after its fourth step an epoch is saved too
    assert fit.run() == 0
    expect_as_untouched(fit, whole)
    assert [line.split(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["epoch", "1", "2", "3"]


def test_batches_made_ahead_come_in_order_and_their_error_comes_here() -> None:
    def items() -> Iterator[Any]:
        yield from range(5)
        raise OSError("the disk is gone")

    found: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(prefetch(items(), 2))
    assert found == list(range(5)) and list(prefetch(iter(range(9)), 1)) == list(range(9))


def test_what_is_made_ahead_ends_with_who_asked_for_it() -> None:
    made: list[int] = []
    before = threading.active_count()
    stream = prefetch((made.append(n) or n for n in itertools.count()), 3)  # type: ignore[misc]
    assert [next(stream), next(stream)] == [0, 1]
    stream.close()
    assert threading.active_count() == before and len(made) <= 2 + 3 + 2  # given, ready, and in the making
