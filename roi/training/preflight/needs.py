"""What a training needs beside its flags: weights that can be had, and room on the disks that it writes to."""

import shutil
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import timm
import torch
import torchvision

from roi.models.backbones import torchvision_names

# fp32 weights and the two moments of AdamW, in the last checkpoint, the one before it, and the one that is being
# written; and the weights alone of the best.
BYTES_A_PARAMETER = 4 * (3 * 3 + 1)
SECONDS = 5.0  # that a server may take to answer


@dataclass(frozen=True)
class Weights:
    """Where the first weights come from."""

    text: str  # in words
    problem: str = ""  # why they cannot be had


def find_weights(backbone: str, weights: str) -> Weights:
    """Look for the first weights on this machine, else ask the server whether it has them; nothing is fetched."""
    if weights == "none":
        return Weights("none, everything is learned")
    if weights != "imagenet":
        there = Path(weights).is_file()
        return Weights(weights, "" if there else f"--weights {weights}: no such file")
    # What is here already needs no network, which a compute node may lack.
    here, url = _published(backbone)
    if here is not None:
        return Weights(f"ImageNet's of {backbone}, on this machine already ({here})")
    if not url:
        return Weights(f"ImageNet's of {backbone}", f"--weights imagenet: nobody publishes weights of {backbone}")
    host = urlparse(url).netloc
    try:
        # The head alone: a check fetches nothing.
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            size = int(answer.headers.get("Content-Length") or 0)
    except (OSError, ValueError, urllib.error.URLError) as error:
        problem = f"the ImageNet weights of {backbone} are not on this machine and {host} does not answer ({error})"
        return Weights(
            f"ImageNet's of {backbone}",
            f"{problem}; download {url} elsewhere and give --weights FILE, or begin with --weights none",
        )
    return Weights(f"ImageNet's of {backbone}: {size / 1e6:.0f} MB to fetch from {host}, which answers")


def _published(backbone: str) -> tuple[Path | None, str]:
    """The file on this machine, and the address; None and "" where there is none."""
    if backbone in torchvision_names():
        url = torchvision.models.get_model_weights(backbone)["DEFAULT"].url
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        return (file if file.is_file() else None), url
    # timm keeps most of its weights on the Hugging Face hub, some on servers of their authors.
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if config is None or not (config.hf_hub_id or config.url):
        return None, ""
    if not config.hf_hub_id:
        url = str(config.url)
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
        return (file if file.is_file() else None), url
    name = config.hf_hub_filename or "model.safetensors"
    with suppress(ImportError):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(config.hf_hub_id, name)
        if isinstance(cached, str):
            return Path(cached), ""
    return None, f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{name}"


@dataclass(frozen=True)
class Room:
    """What a run writes to a folder, and what is free there, in bytes."""

    what: str
    folder: Path
    needed: int

    @property
    def free(self) -> int:
        return shutil.disk_usage(_existing(self.folder)).free

    @property
    def text(self) -> str:
        return f"{self.what} {gigabytes(self.needed)} in {self.folder}, where {gigabytes(self.free)} are free"

    @property
    def problem(self) -> str:
        return f"the disk is too small: {self.text}; make room, or name another folder" if self.is_short else ""

    @property
    def is_short(self) -> bool:
        return self.free < self.needed


def rooms(save: Path, parameters: int, cache_dir: str | None, images: int, img_size: int) -> list[Room]:
    """What a training writes, largest first."""
    found = [Room("checkpoints take", save.parent, BYTES_A_PARAMETER * parameters)]
    if cache_dir:
        pixels = images * img_size * img_size
        folder = Path(cache_dir)
        # Pixels that are there are not written again.
        held = 0
        if folder.is_dir():
            files = [file for file in folder.rglob("*") if file.is_file()]
            held = sum(file.stat().st_size for file in files)
        found.append(Room("decoded pixels take", folder, max(0, pixels - held)))
    return sorted(found, key=lambda room: -room.needed)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
