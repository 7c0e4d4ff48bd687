"""Backbones by name, weights from a file, what does not fit, and the memory format that reaches the backbone."""

import urllib.error
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from roi import model as m


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "convnext_tiny", "test_convnext", "test_vit", "test_resnet.r160_in1k"])
def test_backbones_give_raw_logits_of_the_asked_number(name: str) -> None:
    backbone = m.build_backbone(name, 5, "none", img_size=64).eval()
    with torch.no_grad():
        logits = backbone(torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (8, 5)
    assert m.head(backbone)[1].weight.shape[0] == 5


def test_squeezenet_logits_can_fall_below_zero() -> None:
    backbone = m.build_backbone("squeezenet1_1", 5, "none").eval()
    with torch.no_grad():
        m.head(backbone)[1].bias.fill_(-3)
        assert (backbone(torch.zeros(1, 3, 64, 64)) < 0).all()


def test_building_depends_on_the_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (m.build_model("test_resnet", 3, "conv", "none", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(m.head(a.backbone)[1].weight, m.head(c.backbone)[1].weight)


def test_unknown_backbone_shows_its_neighbours() -> None:
    with pytest.raises(ValueError, match="'convnext_bse'.*convnext_base"):
        m.build_backbone("convnext_bse", 3, "none")
    with pytest.raises(ValueError, match="nonsense_tag"):
        m.build_backbone("resnet10t.nonsense_tag", 3, "none")


def test_weights_from_a_file_replace_all_but_a_head_of_another_size(tmp_path: Path) -> None:
    donor = torchvision.models.squeezenet1_1(num_classes=9)
    torch.save(donor.state_dict(), tmp_path / "w.pt")
    fresh = m.build_backbone("squeezenet1_1", 5, "none")
    loaded = m.build_backbone("squeezenet1_1", 5, str(tmp_path / "w.pt"))
    own, theirs, drawn = loaded.state_dict(), donor.state_dict(), fresh.state_dict()
    heads = {"classifier.1.weight", "classifier.1.bias"}
    assert all(torch.equal(own[k], drawn[k] if k in heads else theirs[k]) for k in own)
    same = m.build_backbone("squeezenet1_1", 9, str(tmp_path / "w.pt")).state_dict()
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
            m.build_backbone("squeezenet1_1", 5, str(tmp_path / name))
    (tmp_path / "text.pt").write_text("hello")
    for name in ("text.pt", "nowhere.pt"):
        with pytest.raises(ValueError, match=name):
            m.build_backbone("squeezenet1_1", 5, str(tmp_path / name))


@pytest.mark.parametrize("name", ["squeezenet1_1", "test_convnext.r160_in1k"])
def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    with pytest.raises(ValueError, match="--weights FILE, or train from scratch with --weights none"):
        m.build_backbone(name, 3, "imagenet")


def test_imagenet_weights_load_as_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    donor = torchvision.models.squeezenet1_1()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: donor.state_dict())
    backbone = m.build_backbone("squeezenet1_1", 5, "imagenet")
    assert torch.equal(backbone.state_dict()["features.0.weight"], donor.state_dict()["features.0.weight"])


def test_real_imagenet_weights(shared: Path) -> None:
    backbone = m.build_backbone("squeezenet1_1", 14, str(shared / "weights" / "squeezenet1_1_imagenet.safetensors"))
    assert backbone.features[0].weight.std() > 0.1  # trained filters; freshly drawn ones are at .2 / 3


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("mask", ["conv", "none"])
def test_the_memory_format_reaches_the_backbone(channels_last: bool, mask: str) -> None:
    model = m.build_model("test_resnet", 3, mask, "none", channels_last=channels_last)
    formats: list[tuple[bool, bool]] = []

    def look(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        formats.append((inputs[0].is_contiguous(memory_format=torch.channels_last), inputs[0].is_contiguous()))

    convolutions = [c for c in model.backbone.modules() if isinstance(c, nn.Conv2d) and c.kernel_size != (1, 1)]
    for convolution in convolutions:
        convolution.register_forward_pre_hook(look)
    model(torch.zeros(2, 1, 64, 64, dtype=torch.uint8), 0.1)
    assert len(formats) == len(convolutions) and set(formats) == {(channels_last, not channels_last)}
    assert convolutions[1].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
