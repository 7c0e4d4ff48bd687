"""What a user would write or pick instead of this project: four loops of training and six of inference.

benchmarks/peers.py runs them. Each is a function of a Task that gives a generator. Of training: a pass over the images
to train on, then the logits of those of validation, and so on. Of inference: probabilities of all images, written to a
file, again and again. They are written as people write them: no cache, workers that decode, Pillow or the reader of the
library. `published` is the loop of benchmarks/published.py with its three forwards.

Letters: B images, K classes, S the side of an image in pixels, V validation images.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import published as loop
import timm
import torch
from PIL import Image
from timm.data import ImageDataset, create_loader
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Task:
    """The same for everyone."""

    images: list[str]  # paths
    targets: np.ndarray  # (N, K) float32 0 or 1
    classes: list[str]
    trained: int  # so many images are trained on, the others validate
    folder: Path  # scratch, of this one contender
    table: Path  # as NIH has it, with paths for names
    backbone: str
    weights: str  # a file, or "none"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side: int
    batch: int
    lr: float
    seed: int
    workers: int
    threads: int
    dtype: str
    checkpoint: str = ""  # of inference
    onnx: str = ""

    @property
    def learned(self) -> list[int]:
        """Places of the classes that some training image has; the others are not scored."""
        return np.flatnonzero(self.targets[: self.trained].any(0)).tolist()

    def logits(self, model: nn.Module, batches: Iterable[Any], key: int | str = 0) -> np.ndarray:
        """(V, K) of all batches, of which `key` is the pixels."""
        model.eval()
        found = []
        with torch.no_grad(), torch.autocast(DEVICE.type, DTYPES[self.dtype], enabled=self.dtype != "fp32"):
            for batch in batches:
                found.append(model(batch[key].to(DEVICE)).float().cpu())
        return torch.cat(found).numpy()

    def model(self, channels: int = 3) -> nn.Module:
        torch.manual_seed(self.seed)
        file: dict[str, Any] = {}
        if self.weights != "none":
            file = {"pretrained": True, "pretrained_cfg_overlay": {"file": self.weights}}
        return timm.create_model(self.backbone, num_classes=len(self.classes), in_chans=channels, **file).to(DEVICE)

    def autocast(self) -> torch.autocast:
        return torch.autocast(DEVICE.type, DTYPES[self.dtype], enabled=self.dtype != "fp32")


# 2: a plain loop


class Files(Dataset):
    def __init__(self, task: Task, first: int, end: int) -> None:
        self.paths, self.targets = task.images[first:end], torch.from_numpy(task.targets[first:end])
        steps = [transforms.Resize((task.side, task.side)), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize(task.mean, task.std)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.targets[i]


def plain(task: Task) -> Iterator[np.ndarray | None]:
    model = task.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr)
    criterion = nn.BCEWithLogitsLoss()
    reading: dict[str, Any] = {"num_workers": task.workers, "persistent_workers": task.workers > 0}
    training = DataLoader(Files(task, 0, task.trained), task.batch, shuffle=True, **reading)
    validation = DataLoader(Files(task, task.trained, len(task.images)), task.batch, **reading)
    while True:
        model.train()
        total = 0.0
        for x, y in training:
            x, y = x.to(DEVICE), y.to(DEVICE)
            optimizer.zero_grad()
            with task.autocast():
                loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        yield None
        yield task.logits(model, validation)


# 1: the published loop


def published(task: Task) -> Iterator[np.ndarray | None]:
    """The same images a step in two batches, image, crop and drop: more work than the others do."""
    model = loop.PublishedModel(task.model())
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr)
    reading: dict[str, Any] = {"num_workers": task.workers, "persistent_workers": task.workers > 0}
    size = task.batch // loop.ACCUM
    training = DataLoader(Files(task, 0, task.trained), size, shuffle=True, **reading)
    validation = DataLoader(Files(task, task.trained, len(task.images)), size, **reading)
    while True:
        loop.train(model, optimizer, training, DEVICE)
        yield None
        yield task.logits(model.backbone, validation)


# 3: torchxrayvision


def xrv_dataset(task: Task) -> Dataset:
    import torchxrayvision as xrv

    steps = transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(task.side)])
    data = xrv.datasets.NIH_Dataset(
        imgpath="/", csvpath=str(task.table), views=["PA", "AP"], unique_patients=False, transform=steps
    )
    assert data.pathologies == task.classes, data.pathologies
    return data


def xrv(task: Task) -> Iterator[np.ndarray | None]:
    """Its data set, crop and resizing; the loss of its training script: a finding at a time, unknown left out."""
    data = xrv_dataset(task)
    model = task.model(channels=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task.lr)
    criterion = nn.BCEWithLogitsLoss()
    reading: dict[str, Any] = {"num_workers": task.workers, "persistent_workers": task.workers > 0}
    rows = range(len(task.images))
    training = DataLoader(Subset(data, rows[: task.trained]), task.batch, shuffle=True, **reading)
    validation = DataLoader(Subset(data, rows[task.trained :]), task.batch, **reading)
    while True:
        model.train()
        losses = []
        for samples in training:
            optimizer.zero_grad()
            pixels, targets = samples["img"].float().to(DEVICE), samples["lab"].to(DEVICE)
            with task.autocast():
                outputs = model(pixels)
                loss = torch.zeros(1, device=DEVICE)
                for k in range(targets.shape[1]):
                    known = ~torch.isnan(targets[:, k])
                    if known.any():
                        loss = loss + criterion(outputs[known, k].float(), targets[known, k])
            loss.sum().backward()
            losses.append(loss.detach().cpu().numpy())
            optimizer.step()
        yield None
        yield task.logits(model, validation, "img")


# 4: timm


class Reader:
    """What timm.data.ImageDataset reads from: files and several labels each, which its own readers of folders lack."""

    def __init__(self, task: Task, first: int, end: int) -> None:
        self.paths, self.targets = task.images[first:end], task.targets[first:end]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Any, np.ndarray]:
        return open(self.paths[i], "rb"), self.targets[i]


def timm_loader(task: Task, first: int, end: int, training: bool) -> Iterable[tuple[Tensor, Tensor]]:
    # create_dataset makes one of these from the name of a reader.
    data = ImageDataset("/", reader=Reader(task, first, end))
    return create_loader(
        data,
        (3, task.side, task.side),
        task.batch,
        is_training=training,
        no_aug=True,
        crop_pct=1.0,
        mean=task.mean,
        std=task.std,
        num_workers=task.workers,
        device=DEVICE,
        persistent_workers=task.workers > 0,
    )


def timm_pipeline(task: Task) -> Iterator[np.ndarray | None]:
    model = task.model()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=task.lr, weight_decay=0.01)
    criterion = nn.BCEWithLogitsLoss()
    training = timm_loader(task, 0, task.trained, True)
    validation = timm_loader(task, task.trained, len(task.images), False)
    losses = AverageMeter()
    while True:
        model.train()
        for x, y in training:
            optimizer.zero_grad()
            with task.autocast():
                loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            losses.update(loss.item(), len(x))
        yield None
        yield task.logits(model, validation)


# Inference


def written(task: Task, prob: np.ndarray) -> None:
    with open(task.folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", *task.classes])
        rows.writerows([path, *values] for path, values in zip(task.images, prob.tolist(), strict=True))


def plain_inference(task: Task) -> Iterator[None]:
    while True:
        files = DataLoader(Files(task, 0, len(task.images)), task.batch, num_workers=task.workers)
        written(task, sigmoid(task.logits(task.model(), files)))
        yield None


def xrv_inference(task: Task) -> Iterator[None]:
    while True:
        files = DataLoader(xrv_dataset(task), task.batch, num_workers=task.workers)
        written(task, sigmoid(task.logits(task.model(channels=1), files, "img")))
        yield None


def timm_inference(task: Task) -> Iterator[None]:
    while True:
        files = timm_loader(task, 0, len(task.images), False)
        written(task, sigmoid(task.logits(task.model(), files)))
        yield None


class GreyFiles(Files):
    """As the file of export_model.py takes them: one channel, 0 to 255."""

    def __init__(self, task: Task) -> None:
        super().__init__(task, 0, len(task.images))
        self.sides = (task.side, task.side)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        image = Image.open(self.paths[i]).convert("L").resize(self.sides, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(image, dtype=np.float32))[None], self.targets[i]


def of_session(task: Task, run: Callable[[np.ndarray], np.ndarray]) -> None:
    files = DataLoader(GreyFiles(task), task.batch, num_workers=task.workers)
    written(task, np.concatenate([run(x.numpy()) for x, _ in files]))


def onnx_session(path: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixels": pixels})[0]


def openvino_session(path: str, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    import openvino

    # In the precision of the others: by itself it takes bf16 where the processor has it.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    return lambda pixels: model({"pixels": pixels})[0]


def onnx_inference(task: Task) -> Iterator[None]:
    while True:
        of_session(task, onnx_session(task.onnx, task.threads))
        yield None


def openvino_inference(task: Task) -> Iterator[None]:
    while True:
        of_session(task, openvino_session(task.onnx, task.threads))
        yield None


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def ours_inference(task: Task) -> Iterator[None]:
    """infer_roi_consistency.py from its flags to its files; imports are done, as they are for the others."""
    import infer_roi_consistency

    words = inference_words(task)
    while True:
        infer_roi_consistency.main(infer_roi_consistency.parse_args(words))
        yield None


def inference_words(task: Task) -> list[str]:
    table = task.folder / "rows.csv"
    write_table(task, table, range(len(task.images)))
    words = ["--checkpoint", task.checkpoint, "--csv", table, "--image_root", root_of(task), "--device", "cpu"]
    words += ["--save_json", task.folder / "preds.json", "--batch_size", task.batch, "--workers", task.workers]
    return [*map(str, words), "--autocast_dtype", task.dtype, "--overwrite"]


def root_of(task: Task) -> Path:
    """The folder below which all images lie."""
    folders = {Path(path).parent for path in task.images}
    return min(folders) if len(folders) == 1 else min(folders).parent.parent


def write_table(task: Task, path: Path, rows: Iterable[int]) -> None:
    """A table of this project of some of the images."""
    root = root_of(task)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "labels"])
        for row in rows:
            found = list(itertools.compress(task.classes, task.targets[row] == 1))
            name = Path(task.images[row]).relative_to(root)
            table.writerow([name, ",".join(found)])


# What others write is counted with what they need of this file.
WRITTEN: dict[str, Sequence[Any]] = {
    "plain": (Files, plain, Task.model, Task.logits),
    "xrv": (xrv_dataset, xrv, Task.model, Task.logits),
    "timm": (Reader, timm_loader, timm_pipeline, Task.model, Task.logits),
}
TRAINING: dict[str, Callable[[Task], Iterator[Any]]] = {
    "published": published,
    "plain": plain,
    "xrv": xrv,
    "timm": timm_pipeline,
}
INFERENCE: dict[str, Callable[[Task], Iterator[Any]]] = {
    "ours": ours_inference,
    "plain": plain_inference,
    "xrv": xrv_inference,
    "timm": timm_inference,
    "onnx": onnx_inference,
    "openvino": openvino_inference,
}
