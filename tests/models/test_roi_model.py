"""Backbones by name, weights from a file, what does not fit, and the memory format that reaches the backbone."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from roi.errors import UserError
from roi.labels import same_classes
from roi.models import backbones, mask_net
from roi.models import roi_model as m
from roi.models.roi_model import build_model
from roi.training import checkpoint


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "squeezenet1_1",
        "mobilenet_v3_small",
        "convnext_tiny",
        "test_convnext",
        "test_vit",
        "test_resnet.r160_in1k",
    ],
)
def test_backbones_give_raw_logits_of_the_asked_number(name: str) -> None:
    backbone = backbones.build_backbone(name, 5, "none", img_size=64).eval()
    with torch.no_grad():
        logits = backbone(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (8, 5)
    assert backbones.classifier_layer(backbone)[1].weight.shape[0] == 5


def test_squeezenet_logits_can_fall_below_zero() -> None:
    backbone = backbones.build_backbone("squeezenet1_1", 5, "none").eval()
    with torch.no_grad():
        backbones.classifier_layer(backbone)[1].bias.fill_(-3)
        assert (backbone(torch.zeros(1, 3, 64, 64)) < 0).all()


def test_building_depends_on_the_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (m.build_model("test_resnet", 3, "conv", "none", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(
        backbones.classifier_layer(a.backbone)[1].weight, backbones.classifier_layer(c.backbone)[1].weight
    )


def test_unknown_backbone_shows_its_neighbours() -> None:
    with pytest.raises(ValueError, match="'convnext_bse'.*convnext_base"):
        backbones.build_backbone("convnext_bse", 3, "none")
    with pytest.raises(ValueError, match="nonsense_tag"):
        backbones.build_backbone("resnet10t.nonsense_tag", 3, "none")


def test_weights_from_a_file_replace_all_but_a_head_of_another_size(tmp_path: Path) -> None:
    donor = torchvision.models.squeezenet1_1(num_classes=9)
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    fresh = backbones.build_backbone("squeezenet1_1", 5, "none")
    loaded = backbones.build_backbone("squeezenet1_1", 5, str(tmp_path / "w.pt"))
    own, theirs, drawn = loaded.state_dict(), donor.state_dict(), fresh.state_dict()
    heads = {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(own[k], drawn[k] if k in heads else theirs[k]) for k in own)
    same = backbones.build_backbone("squeezenet1_1", 9, str(tmp_path / "w.pt")).state_dict()
    assert all(torch.equal(same[k], theirs[k]) for k in same)


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1().state_dict()
    cases = {
        "lacks.pt": ({k: v for k, v in state.items() if k != "features.0.weight"}, "features.0.weight is missing"),
        "more.pt": ({**state, "extra": torch.zeros(1)}, "extra is not part of the model"),
        "shape.pt": ({**state, "features.0.bias": torch.zeros(3)}, r"features.0.bias is \(3,\), not \(64,\)"),
        "number.pt": ({"epoch": 3}, "not a state dict"),
    }
    for name, (content, said) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=said):
            backbones.build_backbone("squeezenet1_1", 5, str(tmp_path / name))
    (tmp_path / "text.pt").write_text("hello")
    for name in ("text.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=name):
            backbones.build_backbone("squeezenet1_1", 5, str(tmp_path / name))


def saved_checkpoint(path: Path, classes: list[str], **more: object) -> dict[str, torch.Tensor]:
    """A file as a train script writes it; -> its weights."""
    donor = backbones.build_backbone("squeezenet1_1", len(classes), "none", seed=5)
    torch.save({"model": donor.state_dict(), "mask_net": {}, "classes": classes, **more}, path)
    return donor.state_dict()


@pytest.mark.parametrize(
    "ours", [["Edema", "Mass", "Hernia"], ["Hernia", "Mass"], ["Hernia", "Nodule", "Edema", "Mass"]]
)
def test_the_last_layer_of_a_checkpoint_comes_class_by_class(
    ours: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever their number and order: rows of the same place would be those of other findings."""
    theirs = ["Mass", "Edema", "Effusion"]
    donor = saved_checkpoint(tmp_path / "c.pt", theirs)
    drawn = backbones.build_backbone("squeezenet1_1", len(ours), "none").state_dict()
    found = backbones.build_backbone("squeezenet1_1", len(ours), str(tmp_path / "c.pt"), class_names=ours).state_dict()
    for key in ("classifier.1.weight", "classifier.1.bias"):
        for row, name in enumerate(ours):
            expected = donor[key][theirs.index(name)] if name in theirs else drawn[key][row]
            assert torch.equal(found[key][row], expected), (key, name)
    assert torch.equal(found["features.0.weight"], donor["features.0.weight"])
    said = capsys.readouterr().out
    came, new = ([c for c in ours if (c in theirs) == known] for known in (True, False))
    assert f"came {', '.join(came)}; new {', '.join(new) or 'none'}" in said


def test_weights_that_name_no_classes_bring_no_last_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    donor = backbones.build_backbone("squeezenet1_1", 3, "none", seed=5).state_dict()
    torch.save(donor, tmp_path / "w.pt")
    drawn = backbones.build_backbone("squeezenet1_1", 3, "none").state_dict()
    found = backbones.build_backbone(
        "squeezenet1_1", 3, str(tmp_path / "w.pt"), class_names=["A", "B", "C"]
    ).state_dict()
    assert torch.equal(found["classifier.1.weight"], drawn["classifier.1.weight"])
    assert torch.equal(found["features.0.weight"], donor["features.0.weight"])
    assert "names no classes" in capsys.readouterr().out


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.backbone."]
)
def test_what_others_wrap_around_a_model_is_taken_off(prefix: str, tmp_path: Path) -> None:
    """DataParallel, torch.compile, both, Lightning; `n_averaged` is torch's AveragedModel."""
    donor = backbones.build_backbone("squeezenet1_1", 3, "none", seed=5).state_dict()
    wrapped = {f"{prefix}{key}": value for key, value in donor.items()} | {"n_averaged": torch.tensor(3)}
    torch.save({"state_dict": wrapped, "epoch": 3}, tmp_path / "w.ckpt")
    found = backbones.build_backbone("squeezenet1_1", 3, str(tmp_path / "w.ckpt")).state_dict()
    assert all(torch.equal(found[key], donor[key]) for key in donor)


def test_parts_that_were_compiled_one_by_one_come_too(tmp_path: Path) -> None:
    donor = backbones.build_backbone("squeezenet1_1", 3, "none", seed=5).state_dict()
    torch.save(
        {key.replace("features.", "features._orig_mod."): value for key, value in donor.items()}, tmp_path / "w.pt"
    )
    found = backbones.build_backbone("squeezenet1_1", 3, str(tmp_path / "w.pt")).state_dict()
    assert all(torch.equal(found[key], donor[key]) for key in donor)


def test_a_file_that_is_something_else_is_called_what_it_is(tmp_path: Path) -> None:
    script = torch.jit.script(nn.Linear(2, 2))
    files = {
        "empty.pt": (b"", "is empty"),
        "pointer.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "page.pt": (b"\n<!DOCTYPE html><html>404</html>", "is a web page"),
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(80), "HDF5"),
        "text.pt": (b"hello", "neither safetensors nor a state dict"),
        "table.csv": (b"image,labels\na.png,Mass\n", "neither safetensors nor a state dict"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "settings": Path("x")}, tmp_path / "lightning.ckpt")
    torch.jit.save(script, str(tmp_path / "script.pt"))
    said = {name: words for name, (_, words) in files.items()}
    said |= {"whole.pt": "holds Python objects", "lightning.ckpt": "holds Python objects", "script.pt": "TorchScript"}
    for name, words in said.items():
        for read in (lambda path: backbones.build_backbone("squeezenet1_1", 3, str(path)), checkpoint.load):
            with pytest.raises(UserError, match=words) as error:
                read(tmp_path / name)
            assert name in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500


def test_safetensors_are_known_by_what_they_hold(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    donor = backbones.build_backbone("squeezenet1_1", 3, "none", seed=5).state_dict()
    save_file(donor, tmp_path / "w.bin")
    found = backbones.build_backbone("squeezenet1_1", 3, str(tmp_path / "w.bin")).state_dict()
    assert all(torch.equal(found[key], donor[key]) for key in donor)


def test_a_checkpoint_that_is_not_ours_says_what_it_can_be_used_for(tmp_path: Path) -> None:
    donor = saved_checkpoint(tmp_path / "c.pt", ["Mass"])
    torch.save(donor, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="weights alone: training begins from them with --weights"):
        checkpoint.load(tmp_path / "weights.pt")
    whole = dict.fromkeys(checkpoint.NEEDED, {}) | {"args": {"backbone": "resnet18"}}
    torch.save(whole, tmp_path / "old.pt")
    with pytest.raises(UserError, match="does not say how its model is built .its args have no 'mask'"):
        checkpoint.load_model(tmp_path / "old.pt")
    model = m.build_model("squeezenet1_1", 1, "none", "none")
    short = {key: value for key, value in donor.items() if key != "features.0.weight"}
    with pytest.raises(UserError, match="do not fit its own description .features.0.weight is missing"):
        checkpoint.load_parts(model, {"model": short, "mask_net": {}}, "c.pt")


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_convnext.r160_in1k"])
def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(ValueError, match="--weights FILE, or train from scratch with --weights none"):
        backbones.build_backbone(name, 3, "imagenet")


def test_imagenet_weights_load_as_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    donor = torchvision.models.squeezenet1_1()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: donor.state_dict())
    backbone = backbones.build_backbone("squeezenet1_1", 5, "imagenet")
    assert torch.equal(backbone.state_dict()["features.0.weight"], donor.state_dict()["features.0.weight"])


def test_real_imagenet_weights(shared: Path) -> None:
    backbone = backbones.build_backbone(
        "squeezenet1_1", 14, str(shared / "weights" / "squeezenet1_1_imagenet.safetensors")
    )
    assert backbone.features[0].weight.std() > 0.1  # trained filters; freshly drawn ones are at .2 / 3


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("mask", ["conv", "none"])
def test_the_memory_format_reaches_the_backbone(channels_last: bool, mask: str) -> None:
    model = m.build_model("test_resnet", 3, mask, "none", options=m.ModelOptions(channels_last=channels_last))
    formats: list[tuple[bool, bool]] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        formats.append((inputs[0].is_contiguous(memory_format=torch.channels_last), inputs[0].is_contiguous()))

    convolutions = [c for c in model.backbone.modules() if isinstance(c, nn.Conv2d) and c.kernel_size != (1, 1)]
    for convolution in convolutions:
        convolution.register_forward_pre_hook(look)
    model(torch.zeros(2, 1, 64, 64, dtype=torch.uint8), 0.1)
    assert len(formats) == len(convolutions) and set(formats) == {(channels_last, not channels_last)}
    assert convolutions[1].weight.is_contiguous(memory_format=torch.channels_last) == channels_last


# --- stages and masks of features ------------------------------------------------------------------------------------

STAGES = {
    ("resnet18", 64): (["layer2", "layer3", "layer4"], [128, 256, 512], [8, 4, 2]),
    ("squeezenet1_1", 64): (
        ["features.7", "features"],
        [256, 512],
        [7, 3],
    ),  # 3 cells are nearer to stride 16 than to 32
    ("convnext_tiny", 64): (["features.3", "features.5", "features"], [192, 384, 768], [8, 4, 2]),
    ("swin_t", 64): (["features.3", "features.5", "permute"], [192, 384, 768], [8, 4, 2]),
    ("test_resnet", 32): (["layer2", "layer3"], [48, 192], [4, 2]),  # layer4 has a single cell left
    ("test_efficientnet", 64): (
        ["blocks.2", "blocks.3", "blocks"],
        [32, 48, 64],
        [8, 4, 2],
    ),  # not bn2, of the 1x1 convolution after them
    ("mobilenet_v2", 64): (
        ["features.6", "features.13", "features.17"],
        [32, 96, 320],
        [8, 4, 2],
    ),  # not features.18, which widens
}


def stages_of(backbone: nn.Module, img_size: int) -> mask_net.Stages:
    return mask_net.Stages(backbone, backbones.classifier_layer(backbone)[1], img_size)


def hooks_of(backbone: nn.Module) -> list[str]:
    return [
        name
        for name, module in backbone.named_modules()
        for _ in (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
    ]


@pytest.mark.parametrize(("name", "img_size"), STAGES)
def test_stages_are_the_last_activations_at_their_strides(name: str, img_size: int) -> None:
    names, channels, sides = STAGES[name, img_size]
    backbone = backbones.build_backbone(name, 3, "none", img_size).train()
    frozen = next(module for module in backbone.modules() if module is not backbone)
    frozen.training = False
    state, flags = (
        {k: v.clone() for k, v in backbone.state_dict().items()},
        [module.training for module in backbone.modules()],
    )
    stages = stages_of(backbone, img_size)
    assert (stages.names, stages.channels) == (names, channels)
    assert [module.training for module in backbone.modules()] == flags and all(
        torch.equal(v, state[k]) for k, v in backbone.state_dict().items()
    )
    assert sorted(hooks_of(backbone)) == sorted(names)  # one each, and none left of the search
    x = torch.randn(2, 3, img_size, img_size, generator=torch.Generator().manual_seed(0))
    backbone.eval()
    with torch.no_grad():
        with stages.catch() as caught:
            logits = backbone(x)
            assert caught == []  # they are there once the block is left
        assert torch.equal(backbone(x), logits)
    assert [tuple(stage.shape) for stage in caught] == [
        (2, d, side, side) for d, side in zip(channels, sides, strict=True)
    ]
    assert stages.caught is None


def test_what_is_caught_is_the_activation() -> None:
    net = backbones.build_backbone("resnet18", 3, "none").eval()
    stages = stages_of(net, 64)
    x, other = (torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    with torch.no_grad():
        with stages.catch() as caught:
            net(x)
        net(other)  # nobody looks
        second = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))
        third = net.layer3(second)
    for found, expected in zip(caught, (second, third, net.layer4(third)), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(KeyError), stages.catch():
        raise KeyError
    assert stages.caught is None


def test_stages_whose_channels_come_last_are_turned() -> None:
    net = backbones.build_backbone("swin_t", 3, "none", 64).eval()
    stages = stages_of(net, 64)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with stages.catch() as caught:
            net(x)
        second = net.features[:4](x)  # (B, h, w, D)
    assert (
        stages.axes == [True, True, False]
        and second.shape == (1, 8, 8, 192)
        and torch.equal(caught[0], second.permute(0, 3, 1, 2))
    )


def test_the_classifier_and_dropout_are_no_stages() -> None:
    """A head that is a convolution has maps too, and dropout ends a stage with holes."""

    class Convolutional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 4, stride=4)
            self.body = nn.Conv2d(8, 4, 3, stride=2, padding=1)
            self.rest = nn.Dropout(0.5)
            self.head = nn.Conv2d(4, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rest(self.body(self.stem(x)))).mean((2, 3))

    stages = stages_of(Convolutional(), 32)
    assert (stages.names, stages.channels, stages.axes) == (["body"], [4], [False])  # as many channels as cells a side


@pytest.mark.parametrize("name", ["vit_b_32", "test_vit"])
def test_a_backbone_without_stages_says_what_to_do(name: str) -> None:
    with pytest.raises(ValueError, match="no stages of features at 64 pixels.*--mask_net conv") as said:
        m.build_model(name, 3, "features", "none", 64)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_crop_and_drop_are_the_backbone_on_what_a_mask_of_features_keeps(name: str, per_class: bool) -> None:
    model = m.build_model(
        name, ["Mass", "Edema", "Normal"], "features", "none", 64, options=m.ModelOptions(per_class)
    ).eval()
    pixels = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        views = model(pixels, 0.1)
        x = model.normalise(pixels)
        logits, maps = model.logits_and_maps(x)
        assert views.binary_mask is not None and views.score is not None and views.soft_mask is not None
        for found, expected in (
            (views.logits_full, x),
            (views.logits_crop, x * views.binary_mask),
            (views.logits_drop, x * (1 - views.binary_mask)),
        ):
            torch.testing.assert_close(found, model.backbone(expected), rtol=1e-4, atol=1e-5)
    assert views.binary_mask.sum((1, 2, 3)).tolist() == [410] * 4 and set(views.binary_mask.unique().tolist()) == {
        0.0,
        1.0,
    }
    torch.testing.assert_close(views.score, model.combine_maps(maps, logits, (64, 64)))
    assert torch.equal(views.soft_mask, views.score.sigmoid()) and maps.shape == (4, 3 if per_class else 1, 8, 8)
    assert views.maps is None if not per_class else torch.equal(views.maps, maps)  # type: ignore[arg-type]
    only = model(pixels, 0.1, full_only=True)
    assert only.binary_mask is None and only.maps is None and only.logits_crop is None


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("tf_efficientnet_lite0", "imagenet", ((0.5,) * 3, (0.5,) * 3)),
        ("convnext_tiny", "imagenet", backbones.IMAGENET),  # torchvision's
        ("inception_v3", "imagenet", backbones.HALVES),  # whose own code turns ImageNet's into these
        ("convnext_base.fb_in22k", "imagenet", backbones.IMAGENET),
        ("tf_efficientnet_lite0", "none", backbones.IMAGENET),
    ],
)
def test_pixels_are_normalised_as_the_weights_were_trained(
    name: str, weights: str, expected: backbones.Normalisation
) -> None:
    assert backbones.normalisation_of(name, weights) == expected


def test_the_normalisation_reaches_the_pixels_and_a_checkpoint_keeps_its_own(tmp_path: Path) -> None:
    own: backbones.Normalisation = ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    model = m.build_model("test_resnet", 2, "none", "none", 32, options=m.ModelOptions(normalisation=own))
    grey = torch.full((1, 1, 2, 2), 255.0)
    torch.testing.assert_close(model.normalise(grey)[0, :, 0, 0], torch.tensor([1.0, 2.4, 3.5]))
    for name, args, expected in (("own.pt", {"normalisation": own}, own), ("older.pth", {}, backbones.IMAGENET)):
        torch.save({"model": {}, "mask_net": {}, "args": args}, tmp_path / name)
        assert backbones.normalisation_of("tf_efficientnet_lite0", str(tmp_path / name)) == expected
    (tmp_path / "empty.pt").touch()
    assert (
        backbones.normalisation_of("tf_efficientnet_lite0", str(tmp_path / "empty.pt")) == backbones.HALVES
    )  # build_backbone says what is wrong with it


@pytest.mark.parametrize(("img_size", "finest"), [(224, 16), (160, 16), (96, 8), (64, 8), (512, 16)])
def test_maps_are_of_stride_16_where_that_gives_ten_cells_a_side(img_size: int, finest: int) -> None:
    backbone = backbones.build_backbone("resnet18", 2, "none", img_size)
    assert mask_net.Stages(backbone, backbones.classifier_layer(backbone)[1], img_size).finest == finest
    assert mask_net.Stages(backbone, backbones.classifier_layer(backbone)[1], img_size, 8).finest == 8


def test_a_checkpoint_from_before_the_flag_has_its_finest_stage() -> None:
    args = {"backbone": "resnet18", "mask": "features", "img_size": 224, "mask_per_class": True, "fill": "mean"}
    assert len(m.model_from_args(args, ["Mass"], 0).stages.names) == 3
    older = {**args, "backbone": "test_efficientnet", "map_stride": 32}
    assert m.model_from_args(older, ["Mass"], 0).stages.channels == [256] and m.model_from_args(
        older | {"widened_stage": False}, ["Mass"], 0
    ).stages.channels == [64]
    assert len(m.model_from_args(args | {"map_stride": 16}, ["Mass"], 0).stages.names) == 2


def test_a_head_of_as_many_classes_in_another_order_gives_the_same_logits(tmp_path: Path) -> None:
    """By place Mass would answer for Edema."""
    theirs = ["Mass", "Edema", "Hernia", "Nodule"]
    saved_checkpoint(tmp_path / "c.pt", theirs)
    ours = ["Nodule", "Hernia", "Mass", "Edema"]
    path = str(tmp_path / "c.pt")
    one = backbones.build_backbone("squeezenet1_1", 4, path, class_names=theirs).eval()
    other = backbones.build_backbone("squeezenet1_1", 4, path, class_names=ours).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, permuted = one(x), other(x)
    assert torch.equal(permuted, logits[:, [theirs.index(c) for c in ours]])
    assert not torch.equal(permuted, logits)


def test_a_class_comes_under_another_spelling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = ["Pleural Effusion", "cardiomegaly", "Normal", "fracture", "Infiltrate"]
    donor = saved_checkpoint(tmp_path / "c.pt", theirs)
    ours = ["Cardiomegaly", "Effusion", "Infiltration", "Fracture", "Normal (labelled)"]
    found = backbones.build_backbone("squeezenet1_1", 5, str(tmp_path / "c.pt"), class_names=ours).state_dict()
    places = {"Cardiomegaly": 1, "Effusion": 0, "Infiltration": 4, "Fracture": 3}
    for c, place in places.items():
        assert torch.equal(found["classifier.1.weight"][ours.index(c)], donor["classifier.1.weight"][place]), c
    drawn = backbones.build_backbone("squeezenet1_1", 5, "none").state_dict()
    assert torch.equal(found["classifier.1.weight"][4], drawn["classifier.1.weight"][4])
    said = capsys.readouterr().out
    assert "came Cardiomegaly (there cardiomegaly), Effusion (there Pleural Effusion)" in said
    assert "new Normal (labelled) (4 of 5 classes came)" in said


def test_two_spellings_of_one_class_are_not_guessed_between() -> None:
    assert same_classes(["Effusion"], ["Effusion", "Pleural Effusion"]) == {"Effusion": "Effusion"}
    assert same_classes(["effusion"], ["Effusion", "Pleural Effusion"]) == {}
    assert same_classes(["Effusion", "Pleural Effusion"], ["pleural effusion"]) == {}


def test_a_new_head_takes_nothing_of_a_checkpoint(tmp_path: Path) -> None:
    donor = saved_checkpoint(tmp_path / "c.pt", ["Mass", "Edema"])
    path, names = str(tmp_path / "c.pt"), ["Mass", "Edema"]
    drawn = backbones.build_backbone("squeezenet1_1", 2, "none").state_dict()
    found = backbones.build_backbone("squeezenet1_1", 2, path, class_names=names, new_head=True).state_dict()
    assert torch.equal(found["classifier.1.weight"], drawn["classifier.1.weight"])
    assert torch.equal(found["features.0.weight"], donor["features.0.weight"])


def test_no_kind_of_normal_has_a_place() -> None:
    model = build_model("test_resnet", ["Mass", "Normal", "Normal (labelled)"], "none", "none", 64)
    assert model.findings.tolist() == [True, False, False]
