"""--view_share: crop and drop, and their masks, of the first images of a batch alone."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from test_objectives import RATIO, SEEDS, SHARPNESS, images, make, targets
from tiny_run import make_fit
from torch import Tensor

from roi import distributed
from roi.data.dataset import Batch
from roi.data.sampler import ShardedBatchSampler
from roi.errors import UserError
from roi.losses.gradnorm import GradNorm, Taps
from roi.losses.loss_terms import LAYERS, OBJECTIVES
from roi.losses.objectives import EvidenceOptions, evidence_terms
from roi.losses.terms import bce
from roi.models.roi_model import RoiModel
from roi.training import checkpoint
from roi.training.objective import TermsOfBatch, viewed_images

OPTIONS = EvidenceOptions(RATIO, 0.5, SHARPNESS)
OF_VIEWS = ("consist", "drop", "mask_kept", "mask_mean", "mask_tv")


def terms(model: RoiModel, viewed: int | None, rows: int = len(SEEDS)) -> dict[str, Tensor]:
    """Those of the first so many rows of the batch."""
    return evidence_terms(model, images()[:rows], targets()[:rows], OPTIONS, SEEDS[:rows], viewed=viewed)


def gradients(model: RoiModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("per_class", [True, False])
def test_crop_and_drop_of_the_first_half_are_those_of_the_first_half_alone(per_class: bool) -> None:
    """Values and gradients; `full` and `locate` stay those of all images, bit for bit."""
    model = make(per_class=per_class).eval()
    found, alone, whole = terms(model, 3), terms(model, None, rows=3), terms(model, None)
    for name in OF_VIEWS:
        torch.testing.assert_close(found[name], alone[name], msg=name)
        assert name == "mask_kept" or found[name] != whole[name]
    for name in {"full", "locate"} & set(whole):
        assert torch.equal(found[name], whole[name]) and found[name] != alone[name]
    of_views = gradients(model, found["consist"] + found["drop"])
    of_half = gradients(model, alone["consist"] + alone["drop"])
    assert set(of_views) == set(of_half)
    for name, expected in of_half.items():
        torch.testing.assert_close(of_views[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("training", [True, False])
def test_all_images_by_number_are_all_images(training: bool) -> None:
    one, other = make().train(training), make().train(training)
    found, expected = terms(one, len(SEEDS)), terms(other, None)
    assert set(found) == set(expected) and all(torch.equal(found[name], expected[name]) for name in expected)
    a, b = gradients(one, sum_of(found)), gradients(other, sum_of(expected))
    assert all(torch.equal(a[name], b[name]) for name in b)


def sum_of(found: dict[str, Tensor]) -> Tensor:
    return torch.stack([found[name] for name in OBJECTIVES["evidence"]]).sum()


def test_a_process_without_an_image_of_the_views_counts_with_the_others() -> None:
    """It asks for as many denominators, its terms are 0 without a gradient, and its statistics of the views begin."""
    asked: list[list[float]] = []
    for viewed in (2, 0):
        model, counts = make(), []

        def denominator(values: Tensor, counts: list[float] = counts) -> Tensor:
            counts.append(values.item())
            return values + 3.0  # what others have

        found = evidence_terms(model, images(), targets(), OPTIONS, SEEDS, denominator=denominator, viewed=viewed)
        asked.append(counts)
        assert set(found) == {*OBJECTIVES["evidence"], "mask_kept", "mask_mean", "mask_tv"}
        assert all(model.view_norms.learned.values())
    assert len(asked[0]) == len(asked[1]) == 5 and asked[0][-1] == 2
    assert asked[1][2:] == [0.0] * 3 and asked[1][:2] == asked[0][:2]
    assert all(found[name].item() == 0 for name in OF_VIEWS)
    assert not any(g.any() for g in gradients(model, found["consist"] + found["drop"]).values())
    balance = GradNorm(dict.fromkeys(OBJECTIVES["evidence"], 0.5), Taps(model.last_layers()), LAYERS)
    assert balance(terms(model, 0)).isfinite() and all(math.isfinite(w) for w in balance.weights.values())


def test_processes_have_together_the_terms_of_one() -> None:
    """The mean over two processes of what each has, weighed by its images, with the denominators of both."""
    model = make().eval()
    expected = terms(model, 3)
    rows = [[0, 2, 4], [1, 3, 5]]  # the first three of the batch are two of one process and one of the other
    shares = [len(part) * 2 / len(SEEDS) for part in rows]
    known: list[list[Tensor]] = [[], []]
    for of_process, part in zip(known, rows, strict=True):
        of_rows(model, part, viewed_of(part), lambda values, into=of_process: into.append(values) or values)
    means = [torch.stack(counts).mean() for counts in zip(*known, strict=True)]
    total = dict.fromkeys(expected, 0.0)
    for share, part in zip(shares, rows, strict=True):
        counts = iter(means)
        found = of_rows(model, part, viewed_of(part), lambda values, share=share, counts=counts: next(counts) * share)
        for name in total:
            total[name] += found[name].item() * share / 2
    for name, value in expected.items():
        assert total[name] == pytest.approx(value.item(), rel=1e-5), name


def viewed_of(rows: list[int]) -> int:
    return sum(row < 3 for row in rows)


def of_rows(model: RoiModel, rows: list[int], viewed: int, denominator: object) -> dict[str, Tensor]:
    return evidence_terms(
        model,
        images()[rows],
        targets()[rows],
        OPTIONS,
        SEEDS[rows],
        denominator=denominator,  # type: ignore[arg-type]
        viewed=viewed,
    )


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("share", "of_12", "of_1"), [(0.5, 6, 1), (0.33, 4, 1), (0.34, 5, 1), (0.01, 2, 1)])
def test_the_images_are_the_first_of_the_batch_over_all_processes(
    world: int, share: float, of_12: int, of_1: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least two where there are two; an image that counts nothing is none of them."""
    whole = [list(rows) for rows in ShardedBatchSampler(37, 12, seed=7)]
    found: list[list[int]] = [[] for _ in whole]
    monkeypatch.setattr(distributed, "world", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        order = ShardedBatchSampler(37, 12 // world, 7, rank, world)
        for n, rows in enumerate(order):
            batch = Batch(torch.zeros(len(rows)), torch.zeros(len(rows)), torch.tensor(rows), [])
            order.start = n
            viewed = viewed_images(share, len(rows), order.shares([batch])[0].batch_weight)
            assert viewed is not None
            found[n] += rows[:viewed]
        assert viewed_images(1.0, 12, 1.0) is None
    sizes = [of_12] * 3 + [of_1]
    assert [sorted(part) for part in found] == [sorted(rows[:n]) for rows, n in zip(whole, sizes, strict=True)]


def test_the_share_of_a_batch_is_rounded_up_but_not_by_rounding_errors() -> None:
    assert viewed_images(0.07, 100, 1.0) == 7 and viewed_images(0.33, 32, 1.0) == 11 and viewed_images(0.5, 2, 1.0) == 2


@pytest.mark.parametrize("stop_at", [8, 10])
def test_a_run_with_a_share_goes_on_bit_for_bit(folder: Path, tmp_path: Path, stop_at: int) -> None:
    """Stopped in the second of three epochs, the first with masks; epochs have 7 batches, steps 2."""
    of_batch = TermsOfBatch(True, bce, None, 0, RATIO, 1, 0.15, SHARPNESS, view_share=0.5)
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = make_fit(folder, tmp_path / "a", of_batch)
    assert whole.run() == 0
    calls = 0

    def interrupted(model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return of_batch(model, batch, epoch)

    first = make_fit(folder, tmp_path / "b", interrupted)
    assert first.run() == 128 + signal.SIGTERM and first.sampler.start
    state = checkpoint.load(tmp_path / "b" / "c.pt")
    second = make_fit(folder, tmp_path / "b", of_batch, done=state["log"])
    second.resume(state)
    assert second.run() == 0
    one, two = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_does_not_go_on_with_another_share() -> None:
    """Nor does one from before the flag."""
    for args in ({}, {"view_share": 1.0}):
        state = {"optimizer": {}, "before_masks": 0.0, "args": {"lr": 1e-3, **args}}
        checkpoint.same_flags(state, {"lr": 1e-3, "view_share": 1.0}, "a.pt")
        with pytest.raises(UserError, match="--view_share 1.0, now 0.5"):
            checkpoint.same_flags(state, {"lr": 1e-3, "view_share": 0.5}, "a.pt")
        if not args:
            # A script without the flag.
            checkpoint.same_flags(state, {"lr": 1e-3}, "a.pt")
