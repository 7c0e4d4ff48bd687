import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from roi.models.roi_model import ModelOptions, RoiModel, build_model
from roi.models.view_norms import ViewNorms
from roi.training import checkpoint


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.head = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(0.5),
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).mean((2, 3))))


def batch(seed: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_a_view_learns_the_statistics_that_a_batch_norm_of_its_own_would() -> None:
    net = Net()
    own, views = copy.deepcopy(net).train(), ViewNorms(net.train())
    own.drop.eval()
    with torch.no_grad():
        net(batch(0))
        own.norm.load_state_dict(net.norm.state_dict())  # it begins from the statistics of whole images
    whole = {name: value.clone() for name, value in net.named_buffers()}
    for seed in range(1, 4):
        with views.of("crop"):
            found = net(batch(seed, 5.0))
        torch.testing.assert_close(found, own(batch(seed, 5.0)))
    assert all(torch.equal(value, whole[name]) for name, value in net.named_buffers())
    assert net.training and net.drop.training and net.norm.training and int(views.crop_batches) == 3
    with views.of("crop"), torch.no_grad():
        torch.testing.assert_close(net.eval()(batch(9, 5.0)), own.eval()(batch(9, 5.0)))
    assert not torch.allclose(net(batch(9, 5.0)), own(batch(9, 5.0)))


@pytest.mark.parametrize("view", ["crop", "drop"])
def test_a_view_that_was_never_learned_is_judged_as_whole_images_are(view: str) -> None:
    net = Net()
    views = ViewNorms(net)
    net(batch(0))
    with views.of("crop" if view == "drop" else "drop"):
        net(batch(1, 5.0))
    net.eval()
    with views.of(view):
        assert torch.equal(net(batch(2)), copy.deepcopy(net)(batch(2)))


def test_a_batch_norm_that_the_user_has_frozen_keeps_its_statistics_in_every_view() -> None:
    net = Net().train()
    net.norm.eval()
    net.norm.running_mean += 3.0
    views = ViewNorms(net)
    with views.of("crop"):
        net(batch(1, 5.0))
    net.eval()
    with views.of("crop"):
        assert torch.equal(net(batch(2)), copy.deepcopy(net)(batch(2)))


def model_of(seed: int) -> RoiModel:
    return build_model("test_resnet", 2, "features", "none", 64, seed=seed, options=ModelOptions(per_class=True))


def test_statistics_of_the_views_come_back_with_a_checkpoint_and_may_lack() -> None:
    model, other = model_of(0), model_of(1)
    pixels = torch.randint(0, 256, (4, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    m = torch.zeros(4, 1, 64, 64)
    m[..., :20, :20] = 1.0
    model.train()
    for _ in range(3):
        model.crop(model.normalise(pixels), m)
        model.drop(model.normalise(pixels), m)
    model.eval()
    state = copy.deepcopy(checkpoint.parts(model))
    checkpoint.load_parts(other, state, Path("some.pt"))
    views, expected = other.eval()(pixels, 0.1), model(pixels, 0.1)
    assert torch.equal(views.logits_crop, expected.logits_crop) and torch.equal(views.logits_drop, expected.logits_drop)
    x = model.normalise(pixels)
    assert torch.equal(expected.logits_crop, model.crop(x, expected.binary_mask)) and not torch.allclose(
        expected.logits_crop, model.backbone(model.apply_mask(x, expected.binary_mask))
    )
    old = model_of(1)
    checkpoint.load_parts(old, {name: part for name, part in state.items() if name != "view_norms"}, Path("some.pt"))
    old.eval()
    torch.testing.assert_close(old(pixels, 0.1).logits_crop, old.backbone(old.apply_mask(x, expected.binary_mask)))
