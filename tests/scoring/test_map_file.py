"""Evidence files: arrays written as a stream, Grad-CAM against its definition, masks and curves against the
predictions.
"""

import json
import shutil
from collections.abc import Callable
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import one_line_error, run
from PIL import Image
from torch.nn import functional as F

from roi.data.boxes import read_boxes
from roi.data.table import read_table
from roi.inference.grad_cam import GradCam, grad_cam
from roi.inference.perturbation import FRACTIONS, SOURCES, perturbations, ranks
from roi.models.backbones import build_backbone
from roi.models.masks import exact_topk, kept_pixels
from roi.models.roi_model import ModelOptions, RoiModel, build_model, reinitialised
from roi.scoring.map_file import pack, read_maps, unpack
from roi.scoring.npz_stream import ArrayWriter, read_arrays
from roi.training.checkpoint import load_model

SIZE = 64
TINY = (
    "--weights",
    "none",
    "--img_size",
    SIZE,
    "--batch_size",
    16,
    "--epochs",
    1,
    "--workers",
    0,
    "--device",
    "cpu",
    "--max_samples",
    32,
)


def pixels(images: int = 3, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    return torch.randint(
        0, 256, (images, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


# --- files of arrays -------------------------------------------------------------------------------------------------


def test_blocks_come_back_as_one_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(103, 2, 5)).astype(np.float16), rng.integers(0, 255, (103, 7), dtype=np.uint8)
    cuts = [0, *np.sort(rng.choice(103, 30)), 103]  # some blocks are empty
    with ArrayWriter(tmp_path / "new" / "x.npz") as out:
        for low, high in zip(cuts[:-1], cuts[1:], strict=True):
            out.add(a=a[low:high], b=b[low:high][:, ::1])
        out.close(names=["x", "yy"], side=5)
    data = read_arrays(tmp_path / "new" / "x.npz", ("a", "b", "names", "side"), "file")
    np.testing.assert_array_equal(data["a"], a)
    np.testing.assert_array_equal(data["b"], b)
    assert data["a"].dtype == np.float16 and data["names"].tolist() == ["x", "yy"] and int(data["side"]) == 5
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.npz"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def write(then: Callable[[ArrayWriter], None]) -> None:
        with ArrayWriter(tmp_path / "x.npz") as out:
            out.add(a=np.zeros((3, 2)))
            then(out)

    def interrupt(out: ArrayWriter) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(interrupt)
    with pytest.raises(ValueError, match="allow_pickle"):
        write(lambda out: out.close(meta=np.array({"an": "object"})))
    for wrong in (
        {"a": np.zeros((3, 3))},
        {"b": np.zeros((3, 2))},
        {"a": np.zeros((3, 2), np.float32)},
        {"a": np.zeros((2, 2)), "b": np.zeros(3)},
    ):
        with pytest.raises(ValueError, match="x.npz"):
            write(methodcaller("add", **wrong))
    with pytest.raises(ValueError, match="no image"), ArrayWriter(tmp_path / "x.npz") as out:
        out.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [8, 9, 33])
def test_packed_masks_come_back(side: int) -> None:
    mask = (np.random.default_rng(side).random((4, 2, side, side)) > 0.7).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack(mask), side), mask)


def test_files_of_maps_are_checked(tmp_path: Path) -> None:
    def write(**changed: object) -> Path:
        maps = np.zeros((2, 1, 4, 4), np.float16)
        fixed = {
            "images": ["a", "b"],
            "classes": [""],
            "sources": ["mask"],
            "side": 3,
            "keep_ratio": 0.1,
            "meta": "{}",
            **changed,
        }
        rows = {
            "map_mask": fixed.pop("map_mask", maps),
            "kept_mask": fixed.pop("kept_mask", np.zeros((2, 1, 2), np.uint8)),
        }
        with ArrayWriter(tmp_path / "m.npz") as out:
            out.add(**rows)  # type: ignore[arg-type]
            out.close(**fixed)
        return tmp_path / "m.npz"

    good = read_maps(write())
    assert (
        good.images == ["a", "b"] and good.maps["mask"].dtype == np.float32 and good.kept["mask"].shape == (2, 1, 3, 3)
    )
    assert read_maps(write(), ["nih/b", "c"]).images == ["nih/b"] and read_maps(
        write(), ["a", "b"], np.array([True, False])
    ).images == ["a"]
    with pytest.raises(ValueError, match="cannot be told apart by their names: the first is b"):
        read_maps(write(), ["a", "x/b", "y/b"])
    spoilt = np.zeros((2, 1, 4, 4), np.float16)
    spoilt[1, 0, 2, 2] = np.nan
    for changed, said in (
        ({"images": ["a", "a"]}, "'a' twice"),
        ({"map_mask": spoilt}, "of 'b' is not finite"),
        ({"sources": ["cam"]}, "map_cam is nothing"),
        ({"side": 9}, "a mask of 9 x 9 pixels needs 11"),
        ({"classes": ["A", "B"]}, "for 2 images and 2 maps"),
        ({"meta": "{"}, "no JSON"),
        ({"meta": "[]"}, "meta: it is \\[\\], not an object"),
        ({"meta": '{"checkpoint": 1}'}, "'checkpoint' is 1, not a text"),
        ({"keep_ratio": "much"}, "'keep_ratio' is <U4"),
        ({"contaminated": [True]}, "'contaminated' is bool"),
    ):
        with pytest.raises(ValueError, match=said):
            read_maps(write(**changed))
    (tmp_path / "m.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="not a file of maps"):
        read_maps(tmp_path / "m.npz")
    with pytest.raises(ValueError, match="no such file of maps"):
        read_maps(tmp_path / "nowhere.npz")


# --- Grad-CAM --------------------------------------------------------------------------------------------------------


def by_definition(features: torch.Tensor, logits: torch.Tensor, size: int) -> torch.Tensor:
    """Selvaraju et al. (2017), eq. 1 and 2, image by image and class by class."""
    out = torch.zeros(*logits.shape, size, size)
    for b in range(len(logits)):
        for k in range(logits.shape[1]):
            gradient = torch.autograd.grad(logits[b, k], features, retain_graph=True)[0][b]
            weighted = [gradient[d].mean() * features[b, d] for d in range(features.shape[1])]
            cam = sum(weighted).relu()  # type: ignore[union-attr]
            out[b, k] = F.interpolate(cam.detach()[None, None], (size, size), mode="bilinear")[0, 0]
    return out


def resnet_parts(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))))
    return features, net.fc(features.mean((2, 3)))


def squeezenet_parts(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = net.features(x)
    return features, net.classifier(features).flatten(1)


def densenet_parts(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = net.features(x).relu()
    return features, net.classifier(features.mean((2, 3)))


def convnext_parts(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = net.features(x)
    return features, net.classifier(net.avgpool(features))


def timm_parts(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    features = net.forward_features(x)
    return features, net.forward_head(features)


NETS = {
    "resnet18": resnet_parts,
    "squeezenet1_1": squeezenet_parts,
    "densenet121": densenet_parts,
    "convnext_tiny": convnext_parts,
    "test_resnet": timm_parts,
    "test_convnext": timm_parts,
}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_grad_cam_is_its_definition(name: str, channels_last: bool) -> None:
    model = RoiModel(build_backbone(name, 3, "none", SIZE), "none", ModelOptions(channels_last=channels_last))
    found = grad_cam(model, pixels(), 16)
    assert not model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    features, logits = NETS[name](model.backbone, model.normalise(pixels()))
    torch.testing.assert_close(logits, model.backbone(model.normalise(pixels())))
    expected = by_definition(features, logits, 16)
    assert found.shape == (3, 3, 16, 16) and expected.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.max().item())


def test_under_pooling_and_a_linear_layer_it_is_cam() -> None:
    """Zhou et al. (2016): the head's weights on the features, here over h w and through ReLU."""
    model = RoiModel(build_backbone("resnet18", 4, "none", SIZE), "none").eval()
    with torch.no_grad():
        net: Any = model.backbone
        features, _ = resnet_parts(net, model.normalise(pixels()))
        cam = torch.einsum("kd,bdhw->bkhw", net.fc.weight, features)
    cells = features.shape[2] * features.shape[3]
    torch.testing.assert_close(grad_cam(model, pixels(), features.shape[2]), cam.relu() / cells, rtol=1e-4, atol=1e-6)


def test_features_whose_channels_come_last() -> None:
    """timm's mambaout hands out (B, h, w, D); torchvision's swin turns them to (B, D, h, w) itself."""
    model = RoiModel(build_backbone("test_mambaout", 3, "none", SIZE), "none").eval()
    features, logits = timm_parts(model.backbone, model.normalise(pixels()))
    assert features.shape[1] == features.shape[2] < features.shape[3]
    expected = torch.stack(
        [
            (
                torch.autograd.grad(logits[:, k].sum(), features, retain_graph=True)[0].mean((1, 2), keepdim=True)
                * features
            )
            .sum(3)
            .relu()
            for k in range(3)
        ],
        1,
    )
    torch.testing.assert_close(grad_cam(model, pixels(), features.shape[1]), expected.detach(), rtol=1e-4, atol=1e-7)
    swin = GradCam(RoiModel(build_backbone("swin_t", 3, "none", SIZE), "none"), SIZE)
    with torch.no_grad():
        assert swin.body(swin.model.normalise(pixels())).shape == (3, 768, 2, 2)


def test_a_model_without_a_map_says_so() -> None:
    for name in ("vit_b_32", "test_vit"):
        with pytest.raises(ValueError, match="needs a convolutional backbone"):
            grad_cam(RoiModel(build_backbone(name, 3, "none", SIZE), "none"), pixels(), 8)
    with pytest.raises(ValueError, match="larger --img_size"):
        grad_cam(RoiModel(build_backbone("test_convnext", 3, "none", 32), "none"), pixels(size=32), 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_grad_cam_of_a_reduced_forward_is_close_and_keeps_small_gradients(dtype: torch.dtype) -> None:
    model = RoiModel(build_backbone("resnet18", 2, "none", SIZE), "none")
    net: Any = model.backbone
    with torch.no_grad():
        net.fc.weight.mul_(1e-6)
    plain = grad_cam(model, pixels(), 8)
    with torch.autocast("cpu", dtype):
        reduced = grad_cam(model, pixels(), 8)
    assert plain.max() > 0 and reduced.dtype == torch.float32
    torch.testing.assert_close(reduced, plain, rtol=0, atol=0.05 * plain.max().item())


# --- perturbations ---------------------------------------------------------------------------------------------------


def test_every_source_keeps_exactly_the_same_area() -> None:
    """Scores full of ties: masks nest, the best is never among the worst, and the model's own mask is one of them."""
    score = torch.randint(0, 5, (3, 1, 20, 30), generator=torch.Generator().manual_seed(0)).float()
    reinit = torch.randn(3, 1, 20, 30, generator=torch.Generator().manual_seed(1))
    hard = exact_topk(score, kept_pixels(20, 30, 0.1))
    masks = {(s, f): m for s, f, m in perturbations(score, hard, reinit, torch.tensor([1, 2, 3]), FRACTIONS)}
    assert list(dict.fromkeys(s for s, _ in masks)) == list(SOURCES) and len(masks) == len(SOURCES) * len(FRACTIONS)
    for (source, f), m in masks.items():
        assert (
            m.shape == score.shape
            and (m.sum((1, 2, 3)) == kept_pixels(20, 30, FRACTIONS[f])).all()
            and set(m.unique().tolist()) == {0, 1}
        )
        assert f == 0 or (m >= masks[source, f - 1]).all(), source
    assert torch.equal(masks["mask", FRACTIONS.index(0.1)], hard)
    for f in range(len(FRACTIONS)):
        assert not (masks["mask", f] * masks["inverted", f]).any()
        assert score[masks["mask", f] > 0].min() >= 0 and torch.equal(
            masks["reinit", f], exact_topk(reinit, kept_pixels(20, 30, FRACTIONS[f]))
        )
    centre = masks["centre", 2][0, 0]
    assert (
        centre[9:11, 14:16].all()
        and not centre[[0, -1]].any()
        and torch.equal(masks["centre", 2][1], masks["centre", 2][0])
    )
    assert (score.flatten(1).gather(1, ranks(score, hard).flatten(1).argsort(1)).diff(dim=1) <= 0).all()


@pytest.mark.parametrize("mask", ["conv", "features"])
def test_a_reinitialised_model_is_another_draw(mask: str) -> None:
    args = {
        "backbone": "test_convnext",
        "mask": mask,
        "mask_per_class": mask == "features",
        "fill": "mean",
        "img_size": SIZE,
        "seed": 0,
    }
    first = build_model("test_convnext", 3, mask, "none", SIZE, 0, options=ModelOptions(per_class=mask == "features"))
    again, once_more = (reinitialised(args, ["Mass", "Edema", "Normal"], 0) for _ in range(2))
    for name, value in first.state_dict().items():
        assert value.ndim < 2 or not torch.allclose(value, again.state_dict()[name]), name
    assert (
        all(torch.equal(a, b) for a, b in zip(again.parameters(), once_more.parameters(), strict=True))
        and not again.training
    )
    assert again.per_class == (mask == "features") and again.findings.tolist() == [True, True, False]


# --- the files of infer ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(demo: Path, tables: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At 64 pixels: roi.pt (a map a class, from features), conv.pt (one map, as published), random_mask.pt,
    standard.pt.
    """
    out = tmp_path_factory.mktemp("evidence")
    data = ("--train_csv", tables[0], "--image_root", demo, "--backbone", "test_convnext", *TINY)
    run("train_roi_consistency.py", *data, "--save", out / "roi.pt")
    run("train_roi_consistency.py", "--objective", "consistency", *data, "--save", out / "conv.pt")
    for mode in ("standard", "random_mask"):
        run("train_roi_baselines.py", "--mode", mode, *data, "--save", out / f"{mode}.pt")
    return out


def infer(checkpoint: Path, demo: Path, table: Path, *more: object) -> tuple[object, ...]:
    flags = ("--workers", 0, "--device", "cpu", "--autocast_dtype", "fp32")
    return ("infer_roi_consistency.py", "--checkpoint", checkpoint, "--csv", table, "--image_root", demo, *flags, *more)


@pytest.fixture(scope="module")
def written(checkpoints: Path, demo: Path, tables: tuple[Path, Path]) -> Path:
    out = checkpoints
    files = (
        "--save_json",
        out / "p.json",
        "--save_masks",
        out / "masks.npz",
        "--curves",
        out / "curves.npz",
        "--cam",
        out / "cam.npz",
    )
    said = run(
        *infer(
            out / "roi.pt",
            demo,
            tables[1],
            *files,
            "--curve_samples",
            7,
            "--map_size",
            16,
            "--batch_size",
            4,
            "--keep_ratio",
            0.15,
        )
    )
    assert "masks.npz: " in said and "curves.npz: 7 images" in said
    assert not [p for p in out.iterdir() if p.name.startswith(".") or p.name.startswith("tmp")]
    return out


def assert_best(kept: np.ndarray, score: torch.Tensor, k: int) -> None:
    """Exactly k pixels, of the highest scores; pixels may change places that tie within float noise, as batches of
    other sizes make it.
    """
    assert (kept.sum((1, 2, 3)) == k).all()
    off = torch.from_numpy(kept).float() != exact_topk(score, k)
    kth = score.flatten(1).topk(k).values[:, -1].view(-1, 1, 1, 1)
    assert not (off & ((score - kth).abs() > 1e-4)).any() and off.float().mean() < 0.01


def test_masks_are_those_of_the_model(written: Path, demo: Path, tables: tuple[Path, Path]) -> None:
    from roi.data.images import locate, read_grey

    maps = read_maps(written / "masks.npz")
    images = read_table(tables[1])["image"].tolist()
    assert (
        maps.images == images and maps.classes == [""] and list(maps.maps) == list(maps.kept) == ["mask", "mask_reinit"]
    )
    assert maps.keep_ratio == 0.15 and maps.meta["image_root"] == str(demo) and not maps.meta["contaminated"]
    model, state = load_model(written / "roi.pt")
    grey = np.stack([read_grey(str(path), SIZE) for path in locate(demo, images)])
    other = reinitialised(state["args"], state["classes"], 0)
    with torch.no_grad():
        views = model(torch.from_numpy(grey)[:, None], 0.15)
        z, _ = other.masks(other.normalise(torch.from_numpy(grey)[:, None]), 0.15, None)
    assert views.score is not None and z is not None and torch.equal(views.soft_mask, views.score.sigmoid())
    for source, score in (("mask", views.score), ("mask_reinit", z)):
        assert_best(maps.kept[source], score, kept_pixels(SIZE, SIZE, 0.15))
        cells = score.reshape(len(images), 1, 16, 4, 16, 4).mean((3, 5))
        np.testing.assert_allclose(maps.maps[source], cells.numpy(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["roi", "conv"])
def test_masks_do_not_depend_on_the_batch(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """Bit for bit, but for scores that tie within the noise of convolutions of another batch size."""
    for size in (1, 7):
        run(
            *infer(
                checkpoints / f"{name}.pt",
                demo,
                tables[1],
                "--save_masks",
                tmp_path / f"{size}.npz",
                "--batch_size",
                size,
                "--map_size",
                SIZE,
            )
        )
    one, seven = (read_maps(tmp_path / f"{size}.npz") for size in (1, 7))
    for source in ("mask", "mask_reinit"):
        off = one.kept[source] != seven.kept[source]
        kth = np.sort(one.maps[source].reshape(len(off), -1))[:, -kept_pixels(SIZE, SIZE, 0.1)].reshape(
            -1, 1, 1, 1
        )  # cells are pixels here
        assert (one.kept[source].sum((1, 2, 3)) == seven.kept[source].sum((1, 2, 3))).all() and off.mean() < 0.01
        assert (
            np.abs(one.maps[source] - kth)[off] <= 4e-3 * np.abs(kth).max()
        ).all()  # the file holds two bytes a number
        np.testing.assert_allclose(one.maps[source], seven.maps[source], rtol=2e-3, atol=1e-3)


def test_maps_of_each_class_are_those_behind_the_mask(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    from roi.data.images import locate, read_grey

    boxes, table = demo / "BBox_List_2017.csv", read_table(tables[1])
    files = ("--class_masks", tmp_path / "c.npz", "--bbox_csv", boxes, "--map_size", 16, "--batch_size", 5)
    run(
        *infer(
            checkpoints / "roi.pt",
            demo,
            tables[1],
            *files,
            "--save_json",
            tmp_path / "p.json",
            "--save_masks",
            tmp_path / "m.npz",
        )
    )
    with_box = [image for image in table["image"] if image in set(read_boxes(boxes)["image"])]
    maps = read_maps(tmp_path / "c.npz")
    model, state = load_model(checkpoints / "roi.pt")
    shape = (len(with_box), len(state["classes"]), 16, 16)
    assert maps.images == with_box and maps.classes == state["classes"] and not maps.kept and maps.keep_ratio == 0.1
    assert {s: m.shape for s, m in maps.maps.items()} == {"class_mask": shape, "class_mask_reinit": shape} and 0 < len(
        with_box
    ) < len(table)
    grey = torch.from_numpy(np.stack([read_grey(str(path), SIZE) for path in locate(demo, with_box)]))[:, None]
    for source, net in (
        ("class_mask", model),
        ("class_mask_reinit", reinitialised(state["args"], state["classes"], 0)),
    ):
        with torch.no_grad():
            _, cells = net.logits_and_maps(net.normalise(grey))
        expected = F.interpolate(cells, size=(16, 16), mode="bilinear").numpy()
        np.testing.assert_allclose(maps.maps[source], expected, rtol=2e-3, atol=2e-3)
    assert np.abs(maps.maps["class_mask"] - maps.maps["class_mask_reinit"]).max() > 0.01
    run(
        "evaluate.py",
        "--preds",
        tmp_path / "p.json",
        "--csv",
        tables[1],
        "--masks",
        tmp_path / "m.npz",
        tmp_path / "c.npz",
        "--bbox_csv",
        boxes,
        "--out",
        tmp_path / "scores",
        "--resamples",
        20,
    )
    section = json.loads((tmp_path / "scores" / "metrics.json").read_text())["localization"]["sources"]
    assert section.keys() >= {"mask", "mask_reinit", "class_mask", "class_mask_reinit", "random", "centre"}
    # by hand: the highest cell of the finding's own map lies in its box, the mean over pairs of a finding, then over
    # findings
    places = read_boxes(boxes)
    hits: dict[str, list[float]] = {}
    for (image, finding), group in places[places["image"].isin(with_box)].groupby(["image", "label"]):
        cells = maps.maps["class_mask"][maps.images.index(image), maps.classes.index(finding)]
        y, x = np.nonzero(cells == cells.max())
        inside = [
            (
                (b.x <= (x + 0.5) / 16)
                & ((x + 0.5) / 16 <= b.x + b.w)
                & (b.y <= (y + 0.5) / 16)
                & ((y + 0.5) / 16 <= b.y + b.h)
            )
            for b in group.itertuples()
        ]
        hits.setdefault(finding, []).append(float(np.any(inside, axis=0).mean()))
    assert section["class_mask"]["mean"]["pointing"]["value"] == pytest.approx(
        np.mean([np.mean(v) for v in hits.values()]), abs=1e-4
    )


def test_class_masks_need_a_map_a_class(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("conv", "standard", "random_mask"):
        assert "no map a class" in one_line_error(
            *infer(checkpoints / f"{name}.pt", demo, tables[1], "--class_masks", tmp_path / "c.npz")
        )
    assert "go with --csv" in run(
        "infer_roi_consistency.py",
        "--checkpoint",
        checkpoints / "roi.pt",
        "--image",
        "x.png",
        "--class_masks",
        "c.npz",
        code=2,
    )
    assert not list(tmp_path.iterdir())


def test_curves_pass_through_the_predictions(written: Path, tables: tuple[Path, Path]) -> None:
    data = read_arrays(
        written / "curves.npz",
        ("images", "classes", "sources", "fractions", "full", "crop", "drop", "keep_ratio", "meta"),
        "curves",
    )
    assert (
        data["sources"].tolist() == list(SOURCES)
        and data["fractions"].tolist() == sorted({*FRACTIONS, 0.15})
        and float(data["keep_ratio"]) == 0.15
    )
    names = data["images"].tolist()
    everything = read_table(tables[1])["image"].tolist()
    assert len(set(names)) == 7 and [n for n in everything if n in names] == names and names != everything[:7]
    preds = {row["image"]: row for row in json.loads((written / "p.json").read_text())}
    f = data["fractions"].tolist().index(0.15)
    for part, values in (("full", data["full"]), ("crop", data["crop"][:, 0, f]), ("drop", data["drop"][:, 0, f])):
        np.testing.assert_allclose(
            values, [[preds[n][f"prob_{part}"][c] for c in data["classes"].tolist()] for n in names], atol=1e-5
        )
    shape = (7, len(SOURCES), 8, len(data["classes"]))
    assert (
        data["crop"].shape == data["drop"].shape == shape
        and data["crop"].dtype == np.float32
        and np.isfinite(data["crop"]).all()
    )
    assert all(np.abs(data["crop"][:, 0] - data["crop"][:, s]).max() > 1e-7 for s in range(1, len(SOURCES)))


def test_curves_pass_through_predictions_on_noise(demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    data = ("--train_csv", tables[0], "--image_root", demo, "--backbone", "test_convnext", *TINY)
    run("train_roi_consistency.py", *data, "--fill", "noise", "--save", tmp_path / "roi.pt")
    run(
        *infer(
            tmp_path / "roi.pt",
            demo,
            tables[1],
            "--save_json",
            tmp_path / "p.json",
            "--curves",
            tmp_path / "k.npz",
            "--curve_samples",
            5,
        )
    )
    preds = {row["image"]: row for row in json.loads((tmp_path / "p.json").read_text())}
    curves = read_arrays(tmp_path / "k.npz", ("images", "classes", "fractions", "crop"), "curves")
    found = curves["crop"][:, 0, curves["fractions"].tolist().index(0.1)]
    expected = [[preds[n]["prob_crop"][c] for c in curves["classes"].tolist()] for n in curves["images"].tolist()]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_cam_of_all_images_or_of_those_with_a_box(
    written: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    from roi.data.images import locate, read_grey

    everything, table, boxes = read_maps(written / "cam.npz"), read_table(tables[1]), demo / "BBox_List_2017.csv"
    model, state = load_model(written / "roi.pt")
    assert (
        everything.images == table["image"].tolist() and everything.classes == state["classes"] and not everything.kept
    )
    run(*infer(written / "standard.pt", demo, tables[1], "--cam", tmp_path / "s.npz", "--bbox_csv", boxes))
    run(
        *infer(
            written / "roi.pt",
            demo,
            tables[1],
            "--cam",
            tmp_path / "c.npz",
            "--bbox_csv",
            boxes,
            "--save_json",
            tmp_path / "p.json",
            "--map_size",
            16,
        )
    )
    with_box = [image for image in table["image"] if image in set(read_boxes(boxes)["image"])]
    assert len(json.loads((tmp_path / "p.json").read_text())) == len(table) > len(with_box) > 0
    standard, some = read_maps(tmp_path / "s.npz"), read_maps(tmp_path / "c.npz")
    assert standard.images == some.images == with_box and standard.maps["cam"].shape == (
        len(with_box),
        len(state["classes"]),
        32,
        32,
    )
    rows = [everything.images.index(image) for image in with_box]
    grey = torch.from_numpy(np.stack([read_grey(str(path), SIZE) for path in locate(demo, with_box)]))[:, None]
    for source, net in (("cam", model), ("cam_reinit", reinitialised(state["args"], state["classes"], 0))):
        expected = grad_cam(net, grey, 16)
        expected = expected / expected.amax((2, 3), keepdim=True).clamp_min(1e-30)
        np.testing.assert_allclose(some.maps[source], expected, atol=2e-3)
        np.testing.assert_allclose(some.maps[source], everything.maps[source][rows], atol=2e-3)


def test_checkpoints_without_a_learned_mask(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "x.npz"
    assert "without a mask" in one_line_error(*infer(checkpoints / "standard.pt", demo, tables[1], "--save_masks", out))
    for mode in ("standard", "random_mask"):
        assert "not learned" in one_line_error(*infer(checkpoints / f"{mode}.pt", demo, tables[1], "--curves", out))
    run(*infer(checkpoints / "random_mask.pt", demo, tables[1], "--save_masks", out))
    maps = read_maps(out)
    assert list(maps.maps) == ["mask"] and (maps.kept["mask"].sum((1, 2, 3)) == kept_pixels(SIZE, SIZE, 0.1)).all()
    np.testing.assert_allclose(
        maps.maps["mask"][:, 0], maps.kept["mask"][:, 0].reshape(-1, 32, 2, 32, 2).mean((2, 4)), atol=1e-3
    )


def test_evidence_is_complete_or_absent(written: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path) -> None:
    from roi.data.images import locate

    assert "exists" in one_line_error(*infer(written / "roi.pt", demo, tables[1], "--cam", written / "cam.npz"))
    assert "go with --csv" in run(
        "infer_roi_consistency.py",
        "--checkpoint",
        written / "roi.pt",
        "--image",
        "x.png",
        "--cam",
        tmp_path / "c.npz",
        code=2,
    )
    names = read_table(tables[1])["image"].tolist()
    (tmp_path / "images").mkdir()
    for name, path in zip(names, locate(demo, names), strict=True):
        (tmp_path / "images" / name).write_bytes(Path(str(path)).read_bytes()[: 100 if name == names[-1] else None])
    out = tmp_path / "out"
    files = (
        "--save_masks",
        out / "m.npz",
        "--cam",
        out / "c.npz",
        "--curves",
        out / "k.npz",
        "--curve_samples",
        4,
        "--batch_size",
        4,
    )
    assert names[-1] in one_line_error(*infer(written / "roi.pt", tmp_path, tables[1], *files)) and not list(
        out.iterdir()
    )
    run(*infer(written / "roi.pt", tmp_path, tables[1], *files, "--skip_unreadable"))
    assert read_maps(out / "m.npz").images == read_maps(out / "c.npz").images == names[:-1]
    pd.DataFrame({"image": ["z.png"], "label": ["Mass"], "x": [1], "y": [1], "w": [5], "h": [5]}).to_csv(
        tmp_path / "boxes.csv", index=False
    )
    assert "no box in any" in one_line_error(
        *infer(written / "roi.pt", demo, tables[1], "--cam", out / "d.npz", "--bbox_csv", tmp_path / "boxes.csv")
    )


def test_what_was_trained_on_says_so_in_every_output(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """Two training images among test images of an honest checkpoint; each file alone, and the console whatever is
    written.
    """
    from roi.data.identity import fingerprints
    from roi.scoring.faithfulness import read_curves

    state = torch.load(checkpoints / "roi.pt", weights_only=True)
    train, test = read_table(tables[0]), read_table(tables[1])
    seen = np.isin(fingerprints(train["image"].tolist()), state["train_images"])
    table = pd.concat([test[:2], train[seen][:2]])
    marked = table["image"].tolist()[2:]
    table.to_csv(tmp_path / "t.csv", index=False)
    expected = "CONTAMINATED: the checkpoint was trained on 2 of these 4 images"
    for flag, name in (
        ("--save_vis_dir", "v"),
        ("--save_masks", "m.npz"),
        ("--cam", "c.npz"),
        ("--class_masks", "k.npz"),
        ("--curves", "u.npz"),
    ):
        said = run(
            *infer(
                checkpoints / "roi.pt",
                demo,
                tmp_path / "t.csv",
                flag,
                tmp_path / name,
                "--batch_size",
                4,
                "--vis_size",
                128,
            )
        )
        assert said.count(expected) == 1, flag
    for name in ("m.npz", "c.npz", "k.npz"):
        maps = read_maps(tmp_path / name)
        assert (
            maps.contaminated is True and maps.meta["contaminated"] is True and maps.meta["contaminated_images"] == 2
        ), name
        assert (
            read_maps(tmp_path / name, maps.images, np.array([True, True, False, False])).images
            == table["image"].tolist()[:2]
        )
        assert np.load(tmp_path / name)["contaminated"].tolist() == [False, False, True, True], name
    assert read_curves(tmp_path / "u.npz").contaminated is True
    listed = (tmp_path / "v" / "CONTAMINATED.txt").read_text().splitlines()
    assert listed[1:] == marked
    for image in table["image"]:
        stem = tmp_path / "v" / Path(image).stem
        pictures = {kind: Image.open(f"{stem}_{kind}.png") for kind in ("mask", "crop", "overlay")}
        for kind, picture in pictures.items():
            assert ("Warning" in picture.info) == (image in marked), kind
        below = np.asarray(pictures["overlay"])[128:].reshape(-1, 3).astype(int)  # red letters of the caption
        assert ((below[:, 0] > 200) & (below[:, 1:] < 150).all(axis=1)).any() == (image in marked)
        assert set(np.unique(np.asarray(pictures["mask"]))) == {0, 255}
    test[:2].to_csv(tmp_path / "t.csv", index=False)
    said = run(
        *infer(checkpoints / "roi.pt", demo, tmp_path / "t.csv", "--save_vis_dir", tmp_path / "v", "--overwrite")
    )
    assert "CONTAMINATED" not in said and not (tmp_path / "v" / "CONTAMINATED.txt").exists()


def test_another_image_of_a_patient_is_contaminated_too(
    checkpoints: Path, demo: Path, tables: tuple[Path, Path], tmp_path: Path
) -> None:
    """A new name, the patient of a training image: its scores are no test scores."""
    from roi.data.identity import fingerprints
    from roi.data.images import locate

    state = torch.load(checkpoints / "roi.pt", weights_only=True)
    train = read_table(tables[0])
    seen = set(state["train_images"].tolist())
    row = train[[f in seen for f in fingerprints(train["image"].tolist()).tolist()]].iloc[0]
    new = f"{row['image'].split('_')[0]}_999.png"
    shutil.copy(demo / "demo.json", tmp_path)
    (tmp_path / new).write_bytes(Path(str(locate(demo, [row["image"]])[0])).read_bytes())
    said = run(
        "infer_roi_consistency.py",
        "--checkpoint",
        checkpoints / "roi.pt",
        "--image",
        tmp_path / new,
        "--save_json",
        tmp_path / "p.json",
    )
    crop = ("--save_mask", tmp_path / "m.png", "--save_crop", tmp_path / "c.png")
    run("infer_roi_consistency.py", "--checkpoint", checkpoints / "roi.pt", "--image", tmp_path / new, *crop)
    assert all("CONTAMINATED" in Image.open(path).info["Warning"] for path in crop[1::2])
    assert (
        "another image of its patient" in said
        and json.loads((tmp_path / "p.json").read_text())[0]["contaminated"] is True
    )
