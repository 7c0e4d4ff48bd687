"""The published training and inference loop, written anew from its description: the rival of speed.py and gpu.py.

An image goes PIL -> RGB -> Resize -> ToTensor -> Normalize every time it is read. A training step sends image, crop and
drop through the backbone one after the other, reads each of the five terms back with .item() after each batch, and
steps the default AdamW every second batch of 8. Inference takes one image at a time and copies each of its three
results to the host.

One thing is mended, so that both do the same work: the straight-through, which was written backwards, so that the mask
net learned nothing. Top-k keeps all that tie with the k-th, as published.

Letters: B images, K classes, S the side of an image in pixels.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS = {"full": 1.0, "consist": 1.0, "drop": 0.5, "sparse": 1e-3, "tv": 1e-4}
BATCH, ACCUM = 8, 2
KEEP = 0.1


def item_transform(size: int) -> Callable[[Image.Image], Tensor]:
    return transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def read_item(path: str, transform: Callable[[Image.Image], Tensor]) -> Tensor:
    """-> (3, S, S) normalised"""
    return transform(Image.open(path).convert("RGB"))


class PublishedModel(nn.Module):
    """A backbone and the mask net 3 -> 16 -> 32 -> 1."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.mask_net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)
        )

    def masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Soft mask, and the mask of 0 and 1 with its gradient: (B, 3, S, S) -> (B, 1, S, S) each."""
        soft = torch.sigmoid(self.mask_net(x))
        flat = soft.flatten(1)
        kept = max(1, int(KEEP * flat.shape[1]))
        threshold = flat.topk(kept, dim=1).values[:, -1].view(-1, 1, 1, 1)
        hard = (soft >= threshold).float()
        return soft, hard + soft - soft.detach()

    def views(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> logits (B, K) of image, crop and drop, in three forwards, and the soft mask"""
        soft, m = self.masks(x)
        return self.backbone(x), self.backbone(x * m), self.backbone(x * (1 - m)), soft


def terms(model: PublishedModel, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    full, crop, drop, soft = model.views(x)
    p_full, p_crop, p_drop = torch.sigmoid(full), torch.sigmoid(crop), torch.sigmoid(drop)
    return {
        "full": F.binary_cross_entropy_with_logits(full, y),
        "consist": (p_full - p_crop).abs().mean(),
        "drop": F.relu(p_drop - p_full).mean(),
        "sparse": soft.mean(),
        "tv": (soft[..., :, 1:] - soft[..., :, :-1]).abs().mean() + (soft[..., 1:, :] - soft[..., :-1, :]).abs().mean(),
    }


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def train(
    model: PublishedModel,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    device: torch.device,
) -> dict[str, float]:
    """Sums of the terms of a pass over batches of (x, y), with an optimiser step every second batch.

    x is normalised, (B, 3, S, S).
    """
    model.train()
    sums = dict.fromkeys(WEIGHTS, 0.0)
    for number, (x, y) in enumerate(batches, 1):
        x, y = x.to(device), y.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = terms(model, x, y)
            total = losses["full"]
            for name in ("consist", "drop", "sparse", "tv"):
                total = total + WEIGHTS[name] * losses[name]
        (total / ACCUM).backward()
        if number % ACCUM == 0:
            optimizer.step()
            optimizer.zero_grad()
        for name, value in losses.items():
            sums[name] += value.item()
    return sums


def predict(
    model: PublishedModel, paths: Sequence[str], classes: Sequence[str], size: int, device: torch.device
) -> list[dict]:
    """One image file at a time -> probabilities by class, of image, crop and drop."""
    model.eval()
    transform = item_transform(size)
    rows = []
    for path in paths:
        x = read_item(path, transform).unsqueeze(0).to(device)
        rows.append({"image": path} | predict_one(model, x, classes))
    return rows


@torch.no_grad()
def predict_one(model: PublishedModel, x: Tensor, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """(1, 3, S, S) -> probabilities by part and class"""
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
        *logits, _ = model.views(x)
    parts = {name: torch.sigmoid(z)[0].float().cpu() for name, z in zip(("full", "crop", "drop"), logits, strict=True)}
    return {f"prob_{name}": dict(zip(classes, p.tolist(), strict=True)) for name, p in parts.items()}
