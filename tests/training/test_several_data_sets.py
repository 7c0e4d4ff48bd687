"""Training on a union of data sets.

Doubt and shares of readers in the targets, who learns from what, balanced epochs, scores of each set, whole runs.
"""

import csv
import hashlib
import json
import math
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run
from PIL import Image
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import train_roi_baselines
from roi.counter_rng import row_seeds
from roi.data import table as t
from roi.data import targets
from roi.data.dataset import Batch, XrayDataset
from roi.data.loader import CacheLoader, make_loader
from roi.data.pixel_cache import open_cache
from roi.data.sampler import ShardedBatchSampler
from roi.labels import LABELS
from roi.losses import terms as losses
from roi.losses.gradnorm import FixedWeights
from roi.losses.objectives import EvidenceOptions, RandomViews, consistency_terms, evidence_terms
from roi.models.roi_model import ModelOptions, RoiModel
from roi.scoring.metrics import validation_aurocs
from roi.training import checkpoint
from roi.training.flags import resolve_objective
from roi.training.metrics_log import COLUMNS, MetricsLog
from roi.training.optim import make_optimizer
from roi.training.rows import choose_rows
from roi.training.setup import build_training_run
from roi.training.stop import Stop
from roi.training.training_run import TrainingRun

NAN = math.nan
CPU = torch.device("cpu")


def frame(**columns: list[str]) -> pd.DataFrame:
    rows = len(columns["image"])
    return pd.DataFrame({c: columns.get(c, [""] * rows) for c in t.COLUMNS})


# --- targets ---------------------------------------------------------------------------------------------------------

CLASSES = ["Mass", "Edema", "Hernia", "Normal"]
DOUBT = {
    "image": ["a.png", "b.png", "c.png", "d.png", "e.png", "images/f.png"],
    "labels": ["Mass", "", "Edema", "", "", ""],
    "unknown": ["", "Mass", "Mass,Hernia", "", "", "Edema,Mass"],
    "uncertain": ["Edema", "Edema", "", "", "Mass,Hernia", ""],
    "soft": ["", "Mass=0.25", "Hernia=0.667", "", "", "Mass=0.333,Edema=0.9"],
}
PLAIN = [[1, NAN, 0, 0], [NAN, NAN, 0, NAN], [NAN, 1, NAN, 0], [0, 0, 0, 1], [NAN, 0, NAN, NAN], [NAN, NAN, 0, NAN]]
SHARED = [
    [1, NAN, 0, 0],
    [0.25, NAN, 0, NAN],
    [NAN, 1, 0.667, 0],
    [0, 0, 0, 1],
    [NAN, 0, NAN, NAN],
    [0.333, 0.9, 0, NAN],
]
IN_DOUBT = ((0, 1), (1, 1), (4, 0), (4, 2))  # cells that the source calls uncertain


def filled(cells: list[list[float]], value: float) -> np.ndarray:
    found = np.array(cells, dtype=np.float32)
    for cell in IN_DOUBT:
        found[cell] = value
    return found


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", NAN), ("ones", 1), ("zeros", 0)])
def test_each_policy_fills_the_uncertain_cells_alone_and_shares_are_for_training(uncertain: str, value: float) -> None:
    """Normal is unknown as soon as a finding is in doubt, whatever is learned from the doubt."""
    table = t.check_table(frame(**DOUBT), "t")
    np.testing.assert_array_equal(targets.target_matrix(table, CLASSES, uncertain), filled(PLAIN, value))
    np.testing.assert_array_equal(targets.target_matrix(table, CLASSES, uncertain, seed=3), filled(SHARED, value))
    np.testing.assert_array_equal(targets.target_matrix(table, CLASSES), np.array(PLAIN, dtype=np.float32))


def test_a_draw_is_the_hash_of_seed_finding_and_image() -> None:
    target = targets.target_matrix(t.check_table(frame(**DOUBT), "t"), CLASSES, "soft", seed=11)
    for row, column in IN_DOUBT:
        key = f"11\n{CLASSES[column]}\n{DOUBT['image'][row]}".encode()
        share = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") / 2**64
        assert target[row, column] == np.float32(0.55 + (0.85 - 0.55) * share)
    rest = filled(SHARED, 5)
    rest[rest == 5] = target[rest == 5]
    np.testing.assert_array_equal(target, rest)
    with pytest.raises(AssertionError):
        targets.target_matrix(frame(**DOUBT), CLASSES, "soft")


def many(rows: int = 4000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = np.array(["", "Mass", "Edema", "Mass,Edema"])
    return frame(image=[f"{n:08d}_000.png" for n in range(rows)], uncertain=names[rng.integers(0, 4, rows)].tolist())


def test_draws_are_uniform_and_nothing_but_seed_image_and_finding_matters() -> None:
    table = many()
    target = targets.target_matrix(table, ["Mass", "Edema"], "soft", seed=1)
    drawn = target[(target != 0) & ~np.isnan(target)]
    assert len(drawn) == table["uncertain"].map(lambda field: len(t.tokens(field))).sum() and len(
        set(drawn)
    ) > 0.999 * len(drawn)
    assert 0.55 <= drawn.min() < 0.551 and 0.849 < drawn.max() <= np.float32(0.85)
    assert kstest(drawn, "uniform", (0.55, 0.3)).pvalue > 0.01
    both = target[(target > 0).all(axis=1)]
    assert abs(np.corrcoef(both.T)[0, 1]) < 0.1  # the two findings of an image
    order = np.random.default_rng(1).permutation(len(table))[:999]
    np.testing.assert_array_equal(
        targets.target_matrix(table.iloc[order], ["Edema", "Cold", "Mass"], "soft", seed=1)[:, [2, 0]], target[order]
    )
    spelled = table.assign(image="images_007/images/" + table["image"])
    np.testing.assert_array_equal(targets.target_matrix(spelled, ["Mass", "Edema"], "soft", seed=1), target)
    other = targets.target_matrix(table, ["Mass", "Edema"], "soft", seed=2)
    assert (other[target > 0] != target[target > 0]).mean() > 0.999 and ((other > 0) == (target > 0)).all()


@pytest.mark.parametrize(
    ("soft", "said"),
    [
        ("Mass", "must be Finding=p"),
        ("Mass=", "must be Finding=p"),
        ("=0.5", "must be Finding=p"),
        ("Mass=a third", "must be Finding=p"),
        ("Mass=0", "must be Finding=p"),
        ("Mass=1", "must be Finding=p"),
        ("Mass=1.5", "must be Finding=p"),
        ("Mass=-0.5", "must be Finding=p"),
        ("Mass=nan", "must be Finding=p"),
        ("Edema=0.2,Mass=0.3,Mass=0.6", "two shares for 'Mass'"),
        ("mass=0.5", "did you mean 'Mass'"),
        ("Edema=0.5,Nodule=0.5", "'Nodule' has a share in column 'soft' .* is not in 'unknown'"),
    ],
)
def test_a_bad_share_is_named(tmp_path: Path, soft: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(
        f'image,labels,unknown,soft\na.png,Hernia,"Mass,Edema",\nb.png,Hernia,"Mass,Edema","{soft}"\n'
    )
    with pytest.raises(ValueError, match=said) as error:
        t.read_table(tmp_path / "t.csv")
    assert str(tmp_path / "t.csv") in str(error.value) and "\n" not in str(error.value)


def test_shares_keep_their_numbers_and_get_our_spelling(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'image,labels,unknown,soft\na.png,,"Infiltrate,Mass"," Infiltrate = 0.3330, Mass=1e-3"\n'
    )
    table = t.read_table(tmp_path / "t.csv")
    assert table["soft"].tolist() == ["Infiltration=0.3330,Mass=1e-3"] and t.shares(table["soft"][0]) == {
        "Infiltration": 0.333,
        "Mass": 0.001,
    }
    assert t.COLUMNS[2:5] == ("unknown", "uncertain", "soft") and tuple(table) == t.COLUMNS
    assert targets.target_matrix(table, ["Infiltration"], seed=0).tolist() == [[np.float32(0.333)]]
    assert targets.class_list(frame(image=["a"], uncertain=["Hernia"])) == ["Hernia"]  # --uncertain ones learns it


# --- losses ----------------------------------------------------------------------------------------------------------


def test_bce_is_the_mean_over_known_cells_of_whole_and_fractional_targets() -> None:
    rng = np.random.default_rng(2)
    logits, target = rng.normal(size=(7, 5)) * 3, rng.choice([0, 1, 0.333, 0.7, NAN], (7, 5))
    target[:, 4] = NAN
    terms, slopes = [], np.zeros((7, 5))
    for b in range(7):
        for k in range(5):
            if not math.isnan(y := target[b, k]):
                p = 1 / (1 + math.exp(-logits[b, k]))
                terms.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
                slopes[b, k] = p - y
    given = torch.tensor(logits, requires_grad=True)
    loss = losses.bce(given, torch.tensor(target))
    assert loss.item() == pytest.approx(math.fsum(terms) / len(terms), rel=1e-6)
    loss.backward()
    assert given.grad is not None
    np.testing.assert_allclose(given.grad.numpy(), slopes / len(terms), rtol=1e-6, atol=1e-12)
    assert (given.grad.numpy()[np.isnan(target)] == 0).all()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(c, 8, 3, stride=2, padding=1), nn.ReLU()) for c in (3, 8, 8))
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))


TARGET = torch.tensor(
    [[1, NAN, 0.7, 0], [NAN, 1, 0, NAN], [NAN, NAN, NAN, 0], [0.6, NAN, 0.9, NAN], [1, 1, NAN, 1], [NAN, 0.99, 1, NAN]]
)
FINDINGS = (True, True, True, False)


def made(mask: str, target: Tensor, evidence: bool) -> tuple[dict[str, Tensor], list[Tensor], Tensor | None]:
    """-> terms, the logits of each forward of the backbone, the maps"""
    torch.manual_seed(0)
    model = RoiModel(Net(), mask, ModelOptions(per_class=evidence), img_size=32, findings=FINDINGS)
    seen: list[Tensor] = []
    maps: list[Tensor] = []

    def keep(where: list[Tensor]) -> Any:
        def hook(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            if not out.requires_grad:
                return out
            out.retain_grad()
            where.append(out)
            return out

        return hook

    model.backbone.head.register_forward_hook(keep(seen))  # type: ignore[union-attr, operator]
    if model.mask_net is not None:
        model.mask_net.register_forward_hook(keep(maps))
    pixels = torch.randint(
        0, 256, (len(target), 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    seeds = row_seeds(0, 0, torch.arange(len(target)))
    terms = (
        evidence_terms(model, pixels, target, EvidenceOptions(0.2, 0.5), seeds)
        if evidence
        else consistency_terms(model, pixels, target, 0.2, seeds)
    )
    return terms, seen, maps[0] if maps else None


@pytest.mark.parametrize(("term", "view"), [("full", 0), ("consist", 1), ("drop", 2)])
def test_no_term_of_the_evidence_objective_sends_gradient_where_a_label_is_unknown(term: str, view: int) -> None:
    terms, logits, _ = made("features", TARGET, evidence=True)
    assert len(logits) == 3
    terms[term].backward()
    slope = logits[view].grad
    assert slope is not None and (slope[TARGET.isnan()] == 0).all()
    if term == "drop":  # of those that are surely there, all or one of an image; nothing of a share, however high
        one = RandomViews.draw(
            row_seeds(0, 0, torch.arange(6)), TARGET.masked_fill(~torch.tensor(FINDINGS), NAN), (32, 32), 0.5
        ).to_lose
        assert torch.equal(slope != 0, one.bool()) and not one[TARGET != 1].any() and one[:, :3].sum() >= 3
    else:
        assert torch.equal(slope != 0, ~TARGET.isnan())


def test_the_maps_learn_no_place_of_what_is_unknown() -> None:
    terms, _, maps = made("features", TARGET, evidence=True)
    terms["locate"].backward()
    assert maps is not None and maps.grad is not None
    found = TARGET.masked_fill(~torch.tensor(FINDINGS), NAN)
    assert torch.equal((maps.grad != 0).flatten(2).any(2), ~found.isnan())


def test_the_published_objective_reads_labels_in_its_first_term_alone() -> None:
    """`consist` and `drop` compare views of an image: the same, and with the same gradient, whatever is known of it."""
    terms, views, _ = made("conv", TARGET, evidence=False)
    terms["full"].backward(retain_graph=True)
    slope = torch.cat([v.grad for v in views if v.grad is not None])
    assert torch.equal(slope[:6] != 0, ~TARGET.isnan()) and (slope[6:] == 0).all()  # the full views come first
    for target in (torch.full_like(TARGET, NAN), 1 - TARGET.nan_to_num()):
        found = []
        for given in (TARGET, target):
            terms, views, _ = made("conv", given, evidence=False)
            sum(terms[name] for name in ("consist", "drop", "sparse", "tv")).backward()  # type: ignore[union-attr]
            found.append(torch.cat([v.grad for v in views if v.grad is not None]))
        assert torch.equal(*found) and (found[0] != 0).any()
    assert made("conv", torch.full_like(TARGET, NAN), evidence=False)[0]["full"].item() == 0


# --- balanced epochs -------------------------------------------------------------------------------------------------

SIZES = {"small": 5, "middle": 40, "large": 92}
GROUPS = np.random.default_rng(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))
N = len(GROUPS)  # 137


def epoch_of(order: ShardedBatchSampler, epoch: int) -> np.ndarray:
    order.epoch = epoch
    return np.array([row for batch in order for row in batch])


def test_every_data_set_has_the_same_part_of_each_epoch() -> None:
    order = ShardedBatchSampler(N, 8, seed=4, groups=GROUPS)
    total: Counter[str] = Counter()
    for epoch in range(12):
        rows = epoch_of(order, epoch)
        count = Counter(GROUPS[rows % N].tolist())
        assert len(rows) == N and len(order) == math.ceil(N / 8) and set(count.values()) == {N // 3, N // 3 + 1}
        for part in np.array_split(rows, 3):  # all through the epoch, not one set after the other
            assert min(Counter(GROUPS[part % N].tolist())[name] for name in SIZES) > 5
        total += count
        assert max(total.values()) - min(total.values()) <= 1


def test_a_set_is_dealt_out_in_whole_permutations_through_the_epochs() -> None:
    order = ShardedBatchSampler(N, 8, seed=4, groups=GROUPS)
    seen = np.zeros(N, dtype=int)
    for epoch in range(12):
        rows = epoch_of(order, epoch) % N
        seen += np.bincount(rows, minlength=N)
        for name in SIZES:
            counts = seen[name == GROUPS]
            assert counts.max() - counts.min() <= 1  # nothing a second time before all of its set have come
        if epoch == 1:
            assert (
                seen[GROUPS == "large"].max() == 1 and seen[GROUPS == "large"].sum() == 92 - 1
            )  # N / 3 * 2 of 92, none twice
    assert seen[GROUPS == "small"].min() >= 12 * (N // 3) // 5


@pytest.mark.parametrize("size", [1, 3, 4095, 4096, 4097, 9000])
def test_permutations_go_on_over_the_blocks_in_which_they_are_drawn(size: int) -> None:
    groups = np.array(["a"] * size + ["b"] * (20000 - size))
    order, seen = ShardedBatchSampler(20000, 512, seed=1, groups=groups), np.zeros(20000, dtype=int)
    for epoch in range(3):
        seen += np.bincount(epoch_of(order, epoch) % 20000, minlength=20000)
        for part in (seen[:size], seen[size:]):
            assert part.max() - part.min() <= 1 and part.sum() == (epoch + 1) * 10000


def test_a_row_that_comes_again_in_an_epoch_is_told_apart() -> None:
    order = ShardedBatchSampler(N, 8, seed=4, groups=GROUPS)
    for epoch in (0, 3):
        rows = epoch_of(order, epoch)
        assert len(set(rows.tolist())) == N  # so its random views differ
        for row in range(N):
            assert sorted(rows[rows % N == row] // N) == list(range((rows % N == row).sum()))


def test_order_depends_on_seed_and_epoch_alone_and_can_be_entered_anywhere() -> None:
    order, again = (ShardedBatchSampler(N, 8, seed=4, groups=GROUPS) for _ in range(2))
    later = epoch_of(order, 7)
    for epoch in range(8):
        last = epoch_of(again, epoch)
    assert np.array_equal(later, last) and not np.array_equal(later, epoch_of(again, 6))
    assert not np.array_equal(later, epoch_of(ShardedBatchSampler(N, 8, seed=5, groups=GROUPS), 7))
    order.epoch = 7
    batches = list(order)
    for start in (1, 9, len(batches) - 1):
        order.start = start
        assert list(order) == batches[start:] and len(order) == len(batches) - start
    plain = np.random.default_rng([2, 0]).permutation(9)
    assert list(ShardedBatchSampler(9, 4, seed=2)) == [
        part.tolist() for part in np.split(plain, [4, 8])
    ]  # without groups as ever


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("start", [0, 3])
def test_processes_share_the_balanced_batches_of_one(world: int, start: int) -> None:
    whole = ShardedBatchSampler(N, 12, seed=4, groups=GROUPS)
    parts = [ShardedBatchSampler(N, 12 // world, 4, rank, world, GROUPS) for rank in range(world)]
    for order in (whole, *parts):
        order.epoch, order.start = 2, start
    dealt = [list(order) for order in parts]
    assert {len(batches) for batches in dealt} == {len(whole)} == {len(order) for order in parts}
    for n, expected in enumerate(whole):
        own = [
            len(range(rank, len(expected), world)) for rank in range(world)
        ]  # a process without a row has one that counts nothing
        assert sorted(row for batches, count in zip(dealt, own, strict=True) for row in batches[n][:count]) == sorted(
            expected
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("pixels")
    rng = np.random.default_rng(0)
    for n in range(24):
        Image.fromarray(rng.integers(0, 256, (20, 20), dtype=np.uint8)).save(root / f"{n:02d}.png")
    return [str(root / f"{n:02d}.png") for n in range(24)]


def test_every_loader_finds_the_row_that_comes_again(files: list[str], tmp_path: Path) -> None:
    targets = np.arange(48, dtype=np.float32).reshape(24, 2)
    groups = np.array(["a"] * 3 + ["b"] * 21)
    loader, order = make_loader(XrayDataset(files, targets, 20), 5, shuffle_seed=3, groups=groups)
    cache = open_cache(tmp_path, [Path(f).name for f in files], files, 20, 1)
    others = [
        CacheLoader(cache, targets, ShardedBatchSampler(24, 5, 3, groups=groups), CPU, on_device, 2)
        for on_device in (False, True)
    ]
    again = 0
    for first, *rest in zip(loader, *others, strict=True):
        rows = first.index % 24
        again += int((first.index >= 24).sum())
        np.testing.assert_array_equal(first.target.numpy(), targets[rows])
        np.testing.assert_array_equal(
            first.pixels[:, 0].numpy(), np.stack([np.asarray(Image.open(files[row])) for row in rows])
        )
        for other in rest:
            assert all(
                torch.equal(getattr(first, part), getattr(other, part)) for part in ("pixels", "target", "index")
            )
    assert again == 12 - 3 and len(order) == 5


# --- scores of each set ----------------------------------------------------------------------------------------------


def test_a_model_that_tells_the_sets_apart_gains_nothing() -> None:
    """Prevalence .8 in one set and .1 in the other, scores that know the set alone."""
    rng = np.random.default_rng(0)
    datasets = np.repeat(np.array(["a", "b"], dtype=object), 500)
    target = (rng.random((1000, 2)) < np.where(datasets == "a", 0.8, 0.1)[:, None]).astype(np.float32)
    score = np.where(datasets == "a", 1.0, 0.0)[:, None].repeat(2, axis=1)
    assert validation_aurocs(score, target, ["Mass", "Edema"])["val_auroc"] > 0.8
    assert validation_aurocs(score, target, ["Mass", "Edema"], datasets) == {
        "val_auroc": 0.5,
        "val_auroc_a": 0.5,
        "val_auroc_b": 0.5,
    }


def scored(n: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three sets: `b` knows no Edema, `c` has no positive at all."""
    rng = np.random.default_rng(1)
    datasets = np.array(["a", "b", "c"], dtype=object)[rng.integers(0, 3, n)]
    target = rng.integers(0, 2, (n, 3)).astype(np.float32)
    score = target + rng.normal(size=(n, 3)).astype(np.float32)
    target[datasets == "b", 1] = NAN
    target[datasets == "c"] = 0
    target[rng.random((n, 3)) < 0.1] = NAN
    return score, target, datasets


def expected_mean(score: np.ndarray, target: np.ndarray, findings: int) -> float:
    areas = []
    for j in range(findings):
        known = ~np.isnan(target[:, j])
        if len(set(target[known, j])) == 2:
            areas.append(roc_auc_score(target[known, j], score[known, j]))
    return float(np.mean(areas)) if areas else NAN


def test_auroc_of_each_set_is_that_of_scikit_learn_and_their_mean_chooses() -> None:
    score, target, datasets = scored()
    found = validation_aurocs(score, target, ["Mass", "Edema", "Normal"], datasets)
    each = {name: expected_mean(score[datasets == name], target[datasets == name], 2) for name in "abc"}
    assert (
        list(found) == ["val_auroc", "val_auroc_a", "val_auroc_b", "val_auroc_c"]
        and math.isnan(found["val_auroc_c"])
        and math.isnan(each["c"])
    )
    for name in "ab":
        assert found[f"val_auroc_{name}"] == pytest.approx(each[name], abs=1e-9)
    assert found["val_auroc"] == pytest.approx((each["a"] + each["b"]) / 2, abs=1e-9)  # `c` has nothing to say
    assert validation_aurocs(score, target, ["Mass", "Edema", "Normal"]) == {
        "val_auroc": pytest.approx(expected_mean(score, target, 2), abs=1e-9)
    }
    assert math.isnan(
        validation_aurocs(score, np.zeros_like(target), ["Mass", "Edema", "Normal"], datasets)["val_auroc"]
    )


def test_validation_knows_the_set_of_each_row_though_one_cannot_be_read(files: list[str], tmp_path: Path) -> None:
    paths = []
    for n, path in enumerate(files):
        paths.append(str(shutil.copy(path, tmp_path)))
        if n == 4:
            Path(paths[-1]).write_bytes(b"broken")
    rng = np.random.default_rng(5)
    target = rng.integers(0, 2, (24, 4)).astype(np.float32)
    datasets = np.array(["x", "y", "y"] * 8, dtype=object)
    torch.manual_seed(0)
    model = RoiModel(Net(), "none")
    loader, _ = make_loader(XrayDataset(paths, target, 20), 5)
    meta: dict[str, Any] = {"contaminated": False}
    optimizer = make_optimizer(model, 1e-3, 0, 1e-3)
    fit = TrainingRun(
        model,
        [],
        ShardedBatchSampler(24, 5, 0),
        loader,
        ["Mass", "Edema", "Hernia", "Normal"],
        lambda *_: {},
        FixedWeights({"full": 1.0}),
        optimizer,
        CPU,
        torch.float32,
        1,
        1,
        lambda index: [],
        MetricsLog(None),
        tmp_path / "c.pt",
        meta,
        skip_unreadable=True,
        datasets=datasets,
    )
    found = fit.validate(Stop())
    assert found is not None
    there = np.array([n for n in range(24) if n != 4])
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack([np.asarray(Image.open(files[n])) for n in there]))[:, None]
        score = model(pixels, 1.0, None, True).logits_full.numpy()
    each = {
        name: expected_mean(score[datasets[there] == name], target[there][datasets[there] == name], 3) for name in "xy"
    }
    assert found["val_auroc_x"] == pytest.approx(each["x"], abs=1e-6) and found["val_auroc_y"] == pytest.approx(
        each["y"], abs=1e-6
    )
    assert found["val_auroc"] == pytest.approx((each["x"] + each["y"]) / 2, abs=1e-6)
    known = ~np.isnan(target[there])
    p = 1 / (1 + np.exp(-score.astype(float)))
    assert found["val_loss"] == pytest.approx(-np.log(np.where(target[there] == 1, p, 1 - p))[known].mean(), rel=1e-5)


def test_the_log_has_a_column_for_each_set_and_keeps_its_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, more = tmp_path / "log.csv", ['val_auroc_a "b", c', "val_auroc_nih"]
    log = MetricsLog(path, more=more)
    for epoch in (1, 2):
        log.row({"epoch": epoch, "loss": 0.5, "val_auroc": 0.6, more[0]: 0.7 + epoch / 100, "seconds": 1.0})
    assert "val_auroc 0.6, " + more[0] + " 0.71" in capsys.readouterr().out
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    at = COLUMNS.index("val_auroc") + 1
    assert tuple(rows[0]) == (*COLUMNS[:at], *more, *COLUMNS[at:])
    assert [(row["epoch"], row["val_auroc"], row[more[0]], row["val_auroc_nih"], row["seconds"]) for row in rows] == [
        ("1", "0.6", "0.71", "", "1"),
        ("2", "0.6", "0.72", "", "1"),
    ]
    whole = path.read_bytes()
    MetricsLog(path, log.lines, more=more)
    assert path.read_bytes() == whole
    with pytest.raises(ValueError, match="2 epochs of another run"):
        MetricsLog(path, more=more)
    for other in ([], more[:1]):
        with pytest.raises(ValueError, match="of a run on other data sets"):
            MetricsLog(path, log.lines, more=other)
    assert path.read_bytes() == whole
    MetricsLog(path, log.lines[:1], more=more)
    assert path.read_text().count("\n") == 2


@pytest.mark.parametrize("knows", [1, 2])
def test_evaluate_scores_each_set_on_what_it_knows(knows: int, tmp_path: Path) -> None:
    """`few` knows one finding of four, too few to be compared, or two; each has a score of its own.

    Doubt and shares are never scored.
    """
    rng = np.random.default_rng(0)
    classes, n = ["Mass", "Nodule", "Edema", "Hernia"], 240
    datasets = np.array(["nih", "few"])[np.arange(n) % 2]
    target = (rng.random((n, 4)) < 0.4).astype(float)
    prob = 1 / (1 + np.exp(-(rng.normal(size=(n, 4)) + 1.2 * target - 0.5)))
    target[datasets == "few", knows:] = NAN
    doubt, divided = (np.arange(n) % 7 == k for k in (1, 2))
    target[doubt | divided, 0] = NAN
    rows = {
        "image": [f"{k:08d}_000.png" for k in range(n)],
        "labels": [",".join(c for c, y in zip(classes, line, strict=True) if y == 1) for line in target],
        "unknown": [
            ",".join([*(["Mass"] if divided[k] else []), *(classes[knows:] if datasets[k] == "few" else [])])
            for k in range(n)
        ],
        "uncertain": np.where(doubt, "Mass", ""),
        "soft": np.where(divided, "Mass=0.667", ""),
        "dataset": datasets,
    }
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame({"image": rows["image"]} | {f"prob_{c}": prob[:, j] for j, c in enumerate(classes)}).to_csv(
        tmp_path / "p.csv", index=False
    )
    said = run(
        "evaluate.py",
        "--preds",
        tmp_path / "p.csv",
        "--csv",
        tmp_path / "t.csv",
        "--out",
        tmp_path / "s",
        "--resamples",
        30,
    )
    result = json.loads((tmp_path / "s" / "metrics.json").read_text())
    assert result["per_class"]["Mass"]["known"] == n - (doubt | divided).sum()
    block = result["subgroups"]["dataset"]
    for name, findings in (("nih", 4), ("few", knows)):
        group, chosen = block["groups"][name], datasets == name
        assert group["auroc_own"]["value"] == pytest.approx(
            expected_mean(prob[chosen], target[chosen], findings), abs=1e-6
        )
        assert (
            group["findings_own"] == classes[:findings]
            and group["n_images"] == n // 2
            and group["auroc_own"]["low"] < group["auroc_own"]["value"]
        )
        shared = (
            None
            if knows == 1 and name == "few"
            else expected_mean(prob[chosen], target[chosen], 4 if knows == 1 else 2)
        )
        assert group["auroc"]["value"] == (shared if shared is None else pytest.approx(shared, abs=1e-6))
    shown = {1: "(4 findings): few undefined; nih 0.", 2: "(2 findings): few 0."}[knows]
    assert f"by dataset {shown}" in said and "each on its own findings: few 0." in said and f"({knows}); nih 0." in said
    pd.DataFrame(rows | {"dataset": "nih"}).to_csv(tmp_path / "t.csv", index=False)
    run(
        "evaluate.py",
        "--preds",
        tmp_path / "p.csv",
        "--csv",
        tmp_path / "t.csv",
        "--out",
        tmp_path / "s",
        "--resamples",
        0,
        "--overwrite",
    )
    assert "dataset" not in json.loads((tmp_path / "s" / "metrics.json").read_text())["subgroups"]


# --- whole runs ------------------------------------------------------------------------------------------------------

LACKS = ["Mass", "Nodule", "Hernia"]  # what the second set never looked for


@pytest.fixture(scope="module")
def union(tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo set as two: half of its patients are of one that lacks three findings.

    It doubts some, and has readers who disagree.
    """
    table = t.read_table(tables[0])
    patient = table["patient_id"].str.removeprefix("nih:").astype(int)
    second = (patient % 2 == 0).to_numpy()
    labels = table["labels"].map(lambda field: set(t.tokens(field)) - {"Normal"})
    rows = np.arange(len(table))
    kept = [found - set(LACKS) if other else found for found, other in zip(labels, second, strict=True)]
    doubt = [{"Edema", "Effusion"} - found if n % 3 == 0 else set() for n, found in zip(rows, kept, strict=True)]
    divided = [
        {"Fibrosis"} - found if other and n % 2 else set() for n, found, other in zip(rows, kept, second, strict=True)
    ]
    table = table.assign(
        labels=[",".join(sorted(found)) for found in kept],
        uncertain=[",".join(sorted(found)) for found in doubt],
        unknown=[
            ",".join(sorted(found | (set(LACKS) if other else set())))
            for found, other in zip(divided, second, strict=True)
        ],
        soft=["Fibrosis=0.667" if found else "" for found in divided],
        dataset=np.where(second, "open i", "nih"),
    )
    path = tmp_path_factory.mktemp("union") / "union.csv"
    table.to_csv(path, index=False)
    return path


def command(demo: Path, table: Path, out: Path, *more: object) -> tuple[object, ...]:
    return (
        "train_roi_baselines.py",
        "--mode",
        "standard",
        "--train_csv",
        table,
        "--image_root",
        demo,
        "--save",
        out / "c.pt",
        "--log_csv",
        out / "metrics.csv",
        "--backbone",
        "squeezenet1_1",
        "--weights",
        "none",
        "--img_size",
        32,
        "--batch_size",
        8,
        "--accum_steps",
        2,
        "--workers",
        0,
        "--device",
        "cpu",
        "--val_fraction",
        0.4,
        "--epochs",
        2,
        "--uncertain",
        "soft",
        "--sampler",
        "balanced",
        *more,
    )


@pytest.fixture(scope="module")
def whole(demo: Path, union: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    out.joinpath("said.txt").write_text(run(*command(demo, union, out)))
    return out


def fit_of(demo: Path, union: Path, out: Path, *more: object) -> TrainingRun:
    args = train_roi_baselines.parse_args([str(flag) for flag in command(demo, union, out, *more)[1:]])
    resolve_objective(args, "consistency")
    return build_training_run(args, "none", ("consist", "drop", "sparse", "tv"), CPU)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("uncertain", ["ignore", "ones", "zeros", "soft"])
def test_a_run_trains_on_its_policy_and_validates_on_what_is_certain(
    uncertain: str, cache: bool, demo: Path, union: Path, tmp_path: Path
) -> None:
    fit = fit_of(
        demo,
        union,
        tmp_path,
        "--uncertain",
        uncertain,
        "--seed",
        3,
        *(("--cache_dir", tmp_path / "cache") if cache else ()),
    )
    table = t.read_table(union).set_index("image")

    def expect(batches: Any, names: Any, seed: int | None) -> int:
        cells = 0
        for batch in batches:
            rows = table.loc[names(batch.index)].reset_index()
            np.testing.assert_array_equal(
                batch.target.numpy(), targets.target_matrix(rows, fit.classes, uncertain if seed else "ignore", seed)
            )
            cells += int(((batch.target > 0) & (batch.target < 1)).sum())
        return cells

    assert expect(fit.train_loader, fit.names, 3) > 0  # shares of readers, and with soft the draws
    rows = fit_of(demo, union, tmp_path / "again", "--seed", 3).datasets
    assert fit.datasets is not None and rows is not None and fit.datasets.tolist() == rows.tolist()
    held = choose_rows(
        train_roi_baselines.parse_args([str(flag) for flag in command(demo, union, tmp_path, "--seed", 3)[1:]])
    ).val
    assert held is not None and fit.val_loader is not None
    assert expect(fit.val_loader, lambda index: held["image"].to_numpy()[index.numpy()], None) == 0
    assert held["uncertain"].any() and held["soft"].any() and fit.datasets.tolist() == held["dataset"].tolist()


def test_each_set_has_its_column_and_the_mean_of_them_chooses(
    demo: Path, union: Path, whole: Path, tmp_path: Path
) -> None:
    with open(whole / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and {"val_auroc_nih", "val_auroc_open i"} <= set(rows[0])
    for row in rows:
        assert float(row["val_auroc"]) == pytest.approx(
            (float(row["val_auroc_nih"]) + float(row["val_auroc_open i"])) / 2, abs=1e-5
        )
    said = (whole / "said.txt").read_text()
    assert (
        f"val_auroc_open i {float(rows[1]['val_auroc_open i']):.4g}" in said
        and "training images of each data set: nih " in said
    )
    best = torch.load(whole / "c_best.pt", weights_only=True)
    assert best["epoch"] == 1 + int(np.argmax([float(row["val_auroc"]) for row in rows]))
    model, state = checkpoint.load_model(whole / "c.pt")
    assert (state["args"]["uncertain"], state["args"]["sampler"]) == ("soft", "balanced")
    fit = fit_of(demo, union, tmp_path)
    assert fit.val_loader is not None and fit.datasets is not None
    batches: list[Batch] = list(fit.val_loader)
    with torch.no_grad():
        score = torch.cat([model(batch.pixels, 1.0, None, True).logits_full for batch in batches]).numpy()
    target = torch.cat([batch.target for batch in batches]).numpy()
    assert state["classes"] == fit.classes == list(LABELS)
    for name in ("nih", "open i"):
        chosen = fit.datasets == name
        assert float(rows[1][f"val_auroc_{name}"]) == pytest.approx(
            expected_mean(score[chosen], target[chosen], len(LABELS)), abs=1e-5
        )


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_stopped_run_goes_on_bit_for_bit(
    stop_at: int, demo: Path, union: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of the first epoch, and of the second; three steps each."""
    steps = 0

    def agreed(stop: Stop) -> int:
        nonlocal steps
        steps += 1
        if steps == stop_at:
            stop.signal = int(signal.SIGTERM)
        return stop.signal

    with monkeypatch.context() as patch:
        patch.setattr(Stop, "agreed", agreed)
        run(*command(demo, union, tmp_path), code=128 + signal.SIGTERM)
    stopped = torch.load(tmp_path / "c.pt", weights_only=True)
    assert stopped["batch"] > 0 and stopped["epoch"] == (stop_at > 3)
    run(*command(demo, union, tmp_path, "--resume", "auto"))
    a, b = (torch.load(folder / "c.pt", weights_only=True) for folder in (whole, tmp_path))
    assert (
        all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
        and a["best"] == b["best"]
        and a["labels"] == b["labels"]
    )
    logs = [
        pd.read_csv(folder / "metrics.csv").drop(columns=["images_per_s", "seconds"]) for folder in (whole, tmp_path)
    ]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--uncertain", "ones"), "was trained with --uncertain soft, now ones"),
        (("--uncertain", "ignore"), "was trained with --uncertain soft, now ignore"),
        (("--sampler", "proportional"), "was trained with --sampler balanced, now proportional"),
    ],
)
def test_another_policy_or_sampler_is_another_run(
    flags: tuple[str, ...], said: str, demo: Path, union: Path, whole: Path
) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir()}
    error = one_line_error(*command(demo, union, whole, "--resume", "auto", "--epochs", 3, *flags))
    assert said in error and "give the old value, or another --save" in error
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == before


def test_other_shares_doubts_or_sets_are_another_run(demo: Path, union: Path, whole: Path, tmp_path: Path) -> None:
    table = t.read_table(union)
    swapped = table["dataset"].map({"nih": "open i", "open i": "nih"})
    doubts = (
        table["uncertain"]
        .str.replace("Edema", "Edema,Pneumonia")
        .where(~table["labels"].str.contains("Pneumonia"), table["uncertain"])
    )
    for change in ({"soft": table["soft"].str.replace("0.667", "0.333")}, {"uncertain": doubts}, {"dataset": swapped}):
        table.assign(**change).to_csv(tmp_path / "other.csv", index=False)
        assert "other classes, labels" in one_line_error(
            *command(demo, tmp_path / "other.csv", whole, "--resume", "auto")
        )
    table.to_csv(tmp_path / "other.csv", index=False)
    run(*command(demo, tmp_path / "other.csv", whole, "--resume", "auto"))  # the same: nothing is left to do


@pytest.mark.parametrize(
    ("dataset", "said"),
    [("nih", "names 'nih' alone"), ("", "is empty for "), (None, "is empty for "), ("some", "is empty for ")],
)
def test_balanced_needs_to_know_several_sets(
    dataset: str | None, said: str, demo: Path, union: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(union, dtype=str, keep_default_na=False)
    column = table["dataset"].where(table["dataset"] == "nih", "") if dataset == "some" else dataset
    (table.drop(columns="dataset") if dataset is None else table.assign(dataset=column)).to_csv(
        tmp_path / "t.csv", index=False
    )
    error = one_line_error(*command(demo, tmp_path / "t.csv", tmp_path / "out"))
    assert (
        "--sampler balanced: column 'dataset' of" in error and said in error and not list((tmp_path / "out").glob("*"))
    )
    if dataset == "nih":
        fit = fit_of(demo, tmp_path / "t.csv", tmp_path / "out", "--sampler", "proportional")
        assert fit.datasets is None and not fit.sampler.groups


def test_an_image_without_a_set_is_scored_among_the_unnamed(demo: Path, union: Path, tmp_path: Path) -> None:
    table = t.read_table(union)
    table["dataset"] = table["dataset"].replace("open i", "")
    table.to_csv(tmp_path / "t.csv", index=False)
    fit = fit_of(demo, tmp_path / "t.csv", tmp_path, "--sampler", "proportional")
    assert fit.datasets is not None and set(fit.datasets) == {"nih", "unnamed"}
