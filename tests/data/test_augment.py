"""Random changes of images: each against its own arithmetic, the same in any batch, order and process, nothing from the
global generator; drawing patients."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import run
from sklearn.metrics import f1_score, hamming_loss, precision_score, recall_score
from torch import Tensor

import train_roi_baselines
from roi.counter_rng import row_seeds
from roi.data.augment import GREY, Augment, affine, augmented, coarse_dropout
from roi.data.splits import some_patients
from roi.data.table import read_table
from roi.scoring.metrics import VALIDATION_DECISIONS, validation_decisions
from roi.training.flags import AUGMENT
from roi.training.rows import choose_rows
from roi.training.setup import build_training_run

SEVEN = Augment(**AUGMENT["seven_sets"])


def pictures(count: int, height: int = 24, width: int = 24) -> Tensor:
    return torch.randint(
        0, 256, (count, 1, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def seeds(count: int, epoch: int = 0) -> Tensor:
    return row_seeds(3, epoch, torch.arange(count))


@pytest.mark.parametrize(
    "how",
    [
        SEVEN,
        Augment(flip=True),
        Augment(rotate=180, scale=0.5),
        Augment(dropout_holes=3),
        Augment(brightness=0.5, contrast=0.5),
    ],
)
def test_an_image_is_changed_by_its_seed_alone(how: Augment) -> None:
    x, state = pictures(16), torch.get_rng_state()
    whole = augmented(x, seeds(16), how)
    assert whole.dtype == torch.float32 and whole.shape == x.shape and whole.min() >= 0 and whole.max() <= 255
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(augmented(x[order], seeds(16)[order], how), whole[order])
    for size in (1, 3, 5):
        parts = [augmented(a, b, how) for a, b in zip(x.split(size), seeds(16).split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(augmented(x, seeds(16, epoch=1), how), whole)  # other changes each epoch
    assert torch.equal(torch.get_rng_state(), state) and x.dtype == torch.uint8


def test_a_change_of_size_0_changes_nothing() -> None:
    assert torch.equal(augmented(pictures(4), seeds(4), Augment()), pictures(4).float())
    x, zero, one = pictures(4).float(), torch.zeros(4), torch.ones(4)
    torch.testing.assert_close(affine(x, zero, one, zero, zero, one), x, rtol=0, atol=1e-3)


def test_images_move_as_they_are_told_to() -> None:
    x, one = pictures(1, 20, 20).float(), torch.ones(1)

    def move(
        angle: float = 0, scale: float = 1, across: float = 0, down: float = 0, mirror: float = 1, image: Tensor = x
    ) -> Tensor:
        return affine(image, angle * one, scale * one, across * one, down * one, mirror * one)

    close = {"rtol": 0, "atol": 2e-2}
    torch.testing.assert_close(move(mirror=-1), x.flip(3), **close)
    torch.testing.assert_close(move(angle=math.pi / 2), x.rot90(-1, (2, 3)), **close)  # clockwise
    torch.testing.assert_close(move(angle=math.pi), x.flip((2, 3)), **close)
    right, lower = move(across=0.1), move(down=-0.2)
    torch.testing.assert_close(right[..., 2:], x[..., :-2], **close)
    torch.testing.assert_close(lower[..., :-4, :], x[..., 4:, :], **close)
    assert (right[..., :1] == 0).all() and (lower[..., -3:, :] == 0).all()  # nothing is known of what comes in
    blob = torch.zeros(1, 1, 80, 80)
    blob[..., 30:50, 30:50] = 255  # 20 x 20 in the middle
    for scale in (2, 1.1, 0.5):
        assert (move(scale=scale, image=blob) / 255).sum() == pytest.approx(400 * scale**2, rel=0.05)
    long = torch.zeros(1, 1, 40, 20)
    long[..., 20, 15] = 255  # 5 to the right of the middle of an oblong image
    turned = move(angle=math.pi / 2, image=long)[0, 0]
    assert divmod(int(turned.argmax()), 20)[0] in (24, 25) and divmod(int(turned.argmax()), 20)[1] in (
        9,
        10,
    )  # 5 below it: circles stay circles


def test_draws_fill_their_range_and_no_more() -> None:
    n = 4000
    bright = (
        augmented(torch.full((n, 1, 1, 1), 128, dtype=torch.uint8), seeds(n), Augment(brightness=0.2)).flatten() - 128
    )
    assert bright.abs().max() <= 51.01 and bright.min() < -50 and bright.max() > 50 and abs(bright.mean()) < 2
    light = torch.full((n, 1, 1, 1), 177.5)
    gain = (augmented(light, seeds(n), Augment(contrast=0.3)).flatten() - 127.5) / 50
    assert gain.min() >= 0.7 - 1e-5 and gain.max() <= 1.3 + 1e-5 and gain.min() < 0.71 and gain.max() > 1.29
    side = torch.zeros(n, 1, 1, 2, dtype=torch.uint8)
    side[..., 0] = 200
    flipped = augmented(side, seeds(n), Augment(flip=True))[..., 0].flatten() < 100
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.03)
    assert abs(np.corrcoef(bright.numpy(), gain.numpy())[0, 1]) < 0.05
    ramp = torch.zeros(n, 1, 41, 41)
    ramp[..., 20, 30] = 255  # ten to the right of the middle
    turned = augmented(ramp, seeds(n), Augment(rotate=25))[:, 0]
    weight = turned / turned.sum((1, 2), keepdim=True)
    place = torch.arange(41.0) - 20
    angle = torch.atan2((weight.sum(2) * place).sum(1), (weight.sum(1) * place).sum(1)).rad2deg()
    assert angle.abs().max() < 26 and angle.min() < -23 and angle.max() > 23 and abs(angle.mean()) < 1


def test_holes_are_grey_inside_the_image_and_as_many_as_asked_for() -> None:
    x = torch.full((300, 1, 100, 80), 7.0)
    for holes, most in ((1, 0.12**2), (8, 8 * 0.12**2)):
        changed = coarse_dropout(x, seeds(300), holes) != 7
        share = changed.float().mean((1, 2, 3))
        assert (
            share.min() > 0 and share.max() <= most * 1.05 and share.mean() == pytest.approx(holes * 0.07**2, rel=0.15)
        )
    assert coarse_dropout(x, seeds(300), 8).unique().tolist() == pytest.approx([7.0, GREY]) and 100 < GREY < 130
    one = (coarse_dropout(x, seeds(300), 1) != 7)[:, 0]
    for image in one:
        rows, columns = image.any(1), image.any(0)
        assert image.sum() == rows.sum() * columns.sum()  # a rectangle
        assert rows.sum() <= 13 and columns.sum() <= 11
    assert one.any(0).float().mean() > 0.7  # anywhere


def test_only_training_sees_changed_images(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    """What the model is given while it trains, and while it validates."""
    flags = (
        "--mode",
        "standard",
        "--train_csv",
        tables[0],
        "--image_root",
        demo,
        "--save",
        tmp_path / "c.pt",
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        32,
        "--workers",
        0,
        "--device",
        "cpu",
        "--val_fraction",
        0.3,
        "--epochs",
        2,
        "--seed",
        5,
        "--augment",
        "light",
        "--rotate",
        20,
    )
    args = train_roi_baselines.parse_args([str(flag) for flag in flags])
    assert (args.rotate, args.shift, args.flip) == (20, 0.03, False)
    fit = build_training_run(args, "none", train_roi_baselines.MODES["standard"][1], torch.device("cpu"))
    seen: dict[bool, list[Tensor]] = {True: [], False: []}

    def remember(model: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[model.training].append(given[0].clone())

    fit.model.register_forward_pre_hook(remember)
    expected: dict[bool, list[Tensor]] = {True: [], False: []}
    assert fit.val_loader is not None
    for epoch in (0, 1):
        fit.sampler.epoch = epoch
        expected[True] += [
            augmented(b.pixels, row_seeds(5, epoch, b.index), Augment(20, 0.03, 0.05, False, 0, 0.1, 0.1))
            for b in fit.train_loader
        ]
        expected[False] += [batch.pixels for batch in fit.val_loader]
    fit.sampler.epoch = 0
    assert fit.run() == 0
    for training in (True, False):
        assert len(seen[training]) == len(expected[training]) and all(
            map(torch.equal, seen[training], expected[training])
        )
    assert seen[False][0].dtype == torch.uint8


def test_whole_patients_are_drawn_and_the_same_ones_by_the_same_seed(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    table = read_table(tables[0])
    sizes = table["patient_id"].value_counts()
    found = []
    for limit, seed in ((40, 0), (40, 0), (40, 1), (len(table), 0), (0, 0)):
        chosen = some_patients(table, limit, seed)
        inside = set(table["patient_id"][chosen])
        assert chosen.sum() == sizes[list(inside)].sum() and not inside & set(table["patient_id"][~chosen])
        assert chosen.sum() <= limit or len(inside) == 1
        assert chosen.sum() > limit - sizes.max()
        found.append(chosen.tolist())
    assert (
        found[0] == found[1] != found[2]
        and all(found[3])
        and sum(found[4]) == sizes[table["patient_id"][found[4]].iloc[0]]
    )
    flags = [
        "--mode",
        "standard",
        "--train_csv",
        tables[0],
        "--image_root",
        demo,
        "--save",
        tmp_path / "c.pt",
        "--val_fraction",
        0.3,
    ]
    rows = [
        choose_rows(train_roi_baselines.parse_args([str(f) for f in (*flags, *more)]))
        for more in ((), ("--max_train_samples", 20))
    ]
    assert (
        rows[0].val is not None
        and rows[1].val is not None
        and rows[0].val["image"].tolist() == rows[1].val["image"].tolist()
    )
    assert 10 < len(rows[1].train) <= 20 < len(rows[0].train) and set(rows[1].train["image"]) < set(
        rows[0].train["image"]
    )


def test_decisions_of_validation_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    target, called = rng.integers(0, 2, (80, 4)).astype(np.float32), rng.random((80, 4)) < 0.5
    classes = ["Mass", "Edema", "Normal", "Hernia"]
    found = validation_decisions(called, target, classes)
    y, p = target[:, [0, 1, 3]], called[:, [0, 1, 3]]
    expected = {
        f"val_{name}_{mean}": measure(y, p, average=mean)
        for name, measure in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))
        for mean in ("micro", "macro")
    }
    assert (
        found == pytest.approx(expected | {"val_hamming": 1 - hamming_loss(y, p)})
        and tuple(found) == VALIDATION_DECISIONS
    )
    target[:40, 1] = math.nan
    known = validation_decisions(called, target, classes)
    assert known["val_f1_macro"] == pytest.approx(
        np.mean([f1_score(y[40 * (j == 1) :, j], p[40 * (j == 1) :, j]) for j in range(3)])
    )
    cells = ~np.isnan(target[:, [0, 1, 3]])
    assert known["val_f1_micro"] == pytest.approx(f1_score(y[cells], p[cells])) and known[
        "val_hamming"
    ] == pytest.approx((y == p)[cells].mean())
    nothing = validation_decisions(called, np.full_like(target, math.nan), classes)
    assert all(math.isnan(value) for value in nothing.values())


AS_ON_KAGGLE = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImageWidth,"
    "OriginalImageHeight,"
    "OriginalImagePixelSpacing_x,OriginalImagePixelSpacing_y"
)


def test_the_sample_of_5606_images_is_read_as_it_is(demo: Path, tmp_path: Path) -> None:
    """sample_labels.csv, ages as 060Y, images in sample/images."""
    source = pd.read_csv(demo / "Data_Entry_2017.csv", dtype=str, index_col=False)
    folder = tmp_path / "sample" / "images"
    folder.mkdir(parents=True)
    images = {path.name: path for path in demo.glob("images_*/images/*.png")}
    assert len(images) == len(source)
    lines = [AS_ON_KAGGLE]
    for n, row in enumerate(source.head(12).to_dict("records")):
        (folder / row["Image Index"]).write_bytes(images[row["Image Index"]].read_bytes())
        lines.append(
            f"{row['Image Index']},{row['Finding Labels']},{n:03d},{row['Patient ID']},0{60 + n}Y,{'MF'[n % 2]},"
            "PA,2992,2991,0.143,0.143"
        )
    (tmp_path / "sample_labels.csv").write_text("\n".join(lines) + "\n")
    run(
        "make_chexmultimodal_csv.py",
        "--src_csv",
        tmp_path / "sample_labels.csv",
        "--image_dir",
        folder,
        "--out_csv",
        tmp_path / "t.csv",
    )
    table = read_table(tmp_path / "t.csv")
    assert table["image"].tolist() == source["Image Index"].tolist()[:12] and table["age"].astype(float).tolist() == [
        60.0 + n for n in range(12)
    ]
    assert table["labels"].tolist() == [
        field.replace("|", ",").replace("No Finding", "") for field in source["Finding Labels"][:12]
    ]
    assert (
        set(table["sex"]) == {"M", "F"}
        and set(table["view"]) == {"PA"}
        and table["patient_id"].str.startswith("nih:").all()
    )
    flags = (
        "--recipe",
        "staged_resnet50",
        "--classes",
        "No Finding,Mass" if table["labels"].str.contains("Mass").any() else "No Finding,Effusion",
    )
    run(
        "train_roi_baselines.py",
        *flags,
        "--train_csv",
        tmp_path / "t.csv",
        "--image_root",
        tmp_path / "sample",
        "--save",
        tmp_path / "c.pt",
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        32,
        "--workers",
        0,
        "--device",
        "cpu",
        "--epochs",
        1,
        "--val_fraction",
        0.3,
    )
    assert torch.load(tmp_path / "c.pt", weights_only=True)["epoch"] == 1
