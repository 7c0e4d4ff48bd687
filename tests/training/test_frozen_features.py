"""A frozen backbone: features are what the model computes, and are made once.

They train a head and its maps without touching anything else.
"""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import one_line_error, run
from torch import nn

from roi.data.dataset import Batch
from roi.models.roi_model import ModelOptions, RoiModel, build_model
from roi.training import checkpoint
from roi.training.frozen_features import check_head, compute_features, features_key, frozen_features

SIZE = 64


def make(mask: str = "features", seed: int = 0) -> RoiModel:
    return build_model("test_resnet", 3, mask, "none", SIZE, seed, options=ModelOptions(per_class=True)).eval()


def batches(count: int = 5, seed: int = 0) -> list[Batch]:
    pixels = torch.randint(
        0, 256, (count, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    rows = torch.arange(count)
    return [Batch(pixels[n], torch.zeros(len(n), 3), n, []) for n in rows.split(2)]


@pytest.mark.parametrize("mask", ["features", "none"])
def test_features_give_what_the_model_gives(mask: str) -> None:
    model = make(mask)
    pixels = batches()[0].pixels
    with torch.no_grad():
        features = compute_features(model, pixels)
        logits, maps = model.read_features(features.head, features.stages)
        x = model.normalise(pixels)
        expected = model.logits_and_maps(x) if mask == "features" else (model.backbone(x), None)
    torch.testing.assert_close(logits, expected[0])
    assert (maps is None) == (mask == "none")
    if maps is not None:
        torch.testing.assert_close(maps, expected[1])


def frozen(model: RoiModel, folder: Path | None, given: list[Batch]) -> tuple[np.ndarray, list[int]]:
    """-> (features of the head, how often the batches were begun)"""
    begun: list[int] = []

    def begin() -> list[Batch]:
        begun.append(1)
        return given

    arrays = frozen_features(
        model, begin, 5, None if folder is None else str(folder), torch.device("cpu"), torch.float32
    )
    return np.array(arrays.head), begun


def test_features_are_made_once_for_a_backbone_and_its_images(tmp_path: Path) -> None:
    first, begun = frozen(make(), tmp_path, batches())
    assert len(begun) == 2  # the key, and the features
    again, begun = frozen(make(), tmp_path, batches())
    assert len(begun) == 1 and np.array_equal(first, again)
    other_head = make()
    nn.init.zeros_(other_head.backbone.fc.weight)
    assert len(frozen(other_head, tmp_path, batches())[1]) == 1  # the layer that learns is no part of the key
    assert len(frozen(make(seed=1), tmp_path, batches())[1]) == 2
    assert len(frozen(make(), tmp_path, batches(seed=1))[1]) == 2
    assert np.array_equal(first, frozen(make(), None, batches())[0])  # in the memory


def test_two_runs_that_make_the_same_features_at_once_do_not_meet(tmp_path: Path) -> None:
    """The second one begins and ends while the first has the key and nothing else."""
    model, given, begun = make(), batches(), []

    def begin() -> list[Batch]:
        begun.append(1)
        if len(begun) == 2:
            frozen(make(), tmp_path, batches())
        return given

    arrays = frozen_features(model, begin, 5, str(tmp_path), torch.device("cpu"), torch.float32)
    expected = compute_features(model, torch.cat([batch.pixels for batch in given])).head.half().numpy()
    np.testing.assert_allclose(arrays.head, expected, atol=1e-3)
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["features-"]


def test_features_do_not_depend_on_the_size_of_a_batch_but_on_the_type(tmp_path: Path) -> None:
    model, given = make(), batches()
    pixels, rows = torch.cat([batch.pixels for batch in given]), torch.arange(5)
    whole = [Batch(pixels, torch.zeros(5, 3), rows, [])]
    assert (
        features_key(model, given, torch.float32)
        == features_key(model, whole, torch.float32)
        != features_key(model, whole, torch.bfloat16)
    )


def test_a_killed_run_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    model, given = make(), batches()
    (tmp_path / ".features-abc").mkdir()
    (tmp_path / ".features-abc" / "head.npy").write_bytes(b"half")
    first, begun = frozen(model, tmp_path, given)
    home = tmp_path / f"features-{features_key(model, given, torch.float32)}"
    assert len(begun) == 2 and (home / "done.json").is_file() and len(first) == 5


def test_a_new_layer_that_learns_alone_begins_at_zero(tmp_path: Path) -> None:
    model = build_model("test_efficientnet", 3, "none", "none", SIZE, zero_head=True).eval()
    with torch.no_grad():
        assert not model.backbone(model.normalise(batches()[0].pixels)).any()
    drawn = build_model("test_efficientnet", 3, "none", "none", SIZE)
    torch.save(
        {"model": drawn.backbone.state_dict(), "mask_net": {}, "classes": ["Mass", "Nodule", "Hernia"]},
        tmp_path / "own.pt",
    )
    names = ["Mass", "Nodule", "Hernia"]
    kept = build_model("test_efficientnet", names, "none", str(tmp_path / "own.pt"), SIZE, zero_head=True)
    assert torch.equal(kept.backbone.classifier.weight, drawn.backbone.classifier.weight)  # not new: it came by name


@pytest.mark.parametrize("name", ["squeezenet1_1"])
def test_a_classifier_that_is_not_linear_and_last_is_refused(name: str) -> None:
    model = build_model(name, 3, "none", "none", SIZE)
    with pytest.raises(ValueError, match="--freeze_backbone: SqueezeNet cannot be frozen to features.*Conv2d"):
        check_head(model, SIZE)
    check_head(make(), SIZE)


def test_what_follows_the_classifier_is_seen_though_it_is_zero() -> None:
    model = build_model("test_resnet", 3, "none", "none", SIZE, zero_head=True)
    check_head(model, SIZE)
    forward = model.backbone.forward
    model.backbone.forward = lambda x: forward(x).relu() * 3
    with pytest.raises(ValueError, match="something follows its classifier 'fc'"):
        check_head(model, SIZE)


def command(demo: Path, tables: tuple[Path, Path], out: Path, *more: object) -> list[object]:
    return [
        "train_roi_consistency.py",
        "--freeze_backbone",
        "--train_csv",
        tables[0],
        "--image_root",
        demo,
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--img_size",
        SIZE,
        "--batch_size",
        16,
        "--epochs",
        3,
        "--workers",
        0,
        "--device",
        "cpu",
        "--save",
        out / "roi.pt",
        "--log_csv",
        out / "metrics.csv",
        "--val_fraction",
        0.2,
        *more,
    ]


def test_a_frozen_run_learns_head_and_maps_alone_and_goes_on_bit_for_bit(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    one, other, kept = tmp_path / "one", tmp_path / "other", ("--cache_dir", tmp_path / "pixels")
    said = run(*command(demo, tables, one, *kept))
    features = [line for line in said.splitlines() if line.startswith("features") and " GB" in line]
    assert len(features) == 2, said  # of training and of validation images
    state = checkpoint.load(one / "roi.pt")
    begun = build_model(
        "test_resnet", len(state["classes"]), "features", "none", SIZE, 0, options=ModelOptions(per_class=True)
    )
    fixed = {name: value for name, value in begun.backbone.state_dict().items() if not name.startswith("fc.")}
    assert fixed and all(torch.equal(state["model"][name], value) for name, value in fixed.items())
    assert not torch.equal(state["model"]["fc.weight"], begun.backbone.fc.weight)
    assert begun.mask_net and not torch.equal(
        state["mask_net"]["layers.3.weight"], begun.mask_net.state_dict()["layers.3.weight"]
    )
    with open(one / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["mask_border"]) for row in rows] == [False, False, True]  # controls need pixels: in the last epoch
    assert rows[-1]["loss_locate"] and not rows[-1]["loss_drop"]

    other.mkdir()
    shutil.copy(one / "roi_previous.pt", other / "roi.pt")  # as it stood after the second epoch
    said = run(*command(demo, tables, other, *kept, "--resume", "auto"))
    assert "2 of 3 epochs are done" in said
    # Its features are those of the first run.
    features = [line for line in said.splitlines() if line.startswith("features")]
    assert features and all("images there" in line for line in features)
    again = checkpoint.load(other / "roi.pt")
    for part in ("model", "mask_net"):
        assert all(torch.equal(state[part][name], again[part][name]) for name in state[part])


def test_features_in_the_memory_train_as_those_on_the_disk(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    run(*command(demo, tables, tmp_path / "disk", "--cache_dir", tmp_path / "pixels", "--epochs", 1))
    run(*command(demo, tables, tmp_path / "memory", "--epochs", 1))
    disk, memory = (checkpoint.load(tmp_path / name / "roi.pt")["mask_net"] for name in ("disk", "memory"))
    assert all(torch.equal(disk[name], memory[name]) for name in disk)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--rotate", 5), "leave out --augment"),
        (("--mask_net", "conv"), "the mask 'conv' is made from pixels"),
        (("--backbone", "squeezenet1_1"), "SqueezeNet cannot be frozen to features"),
        (("--skip_unreadable",), "needs --cache_dir"),
        (("--no-mask_per_class",), "maps learn from the term locate alone"),
        (("--objective", "consistency", "--mask_net", "features"), "maps learn from the term locate alone"),
        (("--train_parts", "fc"), "give one of them"),
    ],
)
def test_what_features_cannot_serve_is_one_line(
    demo: Path, tables: tuple[Path, Path], tmp_path: Path, more: tuple[object, ...], said: str
) -> None:
    assert said in one_line_error(*command(demo, tables, tmp_path / "refused", *more))
    assert not list((tmp_path / "refused").glob("*"))
