"""What the benchmarks share: scripts run as a user does, times in turns, results that say where they come from."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from roi import cli  # noqa: E402
from roi.files import atomic_write  # noqa: E402
from roi.text import decimal  # noqa: E402

if TYPE_CHECKING:
    import torch

    from roi.data.dataset import Batch
    from roi.losses.gradnorm import FixedWeights
    from roi.models.roi_model import RoiModel
    from roi.training.loop import Meter, Step

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow")


def add_machine(parser: cli.Parser) -> None:
    parser.add_argument(
        "--machine",
        default=f"{platform.machine()}-{os.cpu_count()}cores",
        metavar="NAME",
        help="names the result file (default: %(default)s)",
    )


def script(*command: object, threads: int | None = None, log: Path | None = None) -> None:
    """Run a script of the project, with so many threads of torch; what it prints goes to the file `log`.

    Raises CalledProcessError if it fails.
    """
    env = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    words = [sys.executable, *map(str, command)]
    if log is None:
        subprocess.run(words, cwd=ROOT, env=env, check=True)
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        subprocess.run(words, cwd=ROOT, env=env, check=True, stdout=file, stderr=subprocess.STDOUT)


def write_result(name: str, machine: str, result: dict[str, Any], folder: Path | None = None) -> Path:
    """benchmarks/results/<name>-<machine>.json (or in `folder`), with the processor, versions and the commit."""
    path = (folder or ROOT / "benchmarks" / "results") / f"{name}-{machine}.json"
    origin = {"versions": versions(), "commit": commit()}
    with atomic_write(path) as file:
        json.dump(origin | result | {"machine": machine, "processor": processor()}, file, indent=1)
        file.write("\n")
    return path


def interval(score: dict[str, float | None]) -> str:
    values = [score[k] for k in ("value", "low", "high")]
    return " ".join("undefined" if v is None else decimal(v, 3) for v in values)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor()


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def commit() -> str:
    """Of the code that was measured; "-dirty" where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return found.stdout.strip() or "unknown"


@dataclass
class Figure:
    """A number that was measured, and what it should be: goal ">= 3", "<= 0.4" or "" (none).

    The value is None where nothing was measured, and `why` says why.
    """

    name: str
    value: float | None
    goal: str = ""
    unit: str = "x"
    why: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.value is None or not self.goal:
            return None
        way, limit = self.goal.split()
        return self.value >= float(limit) if way == ">=" else self.value <= float(limit)

    def verdict(self) -> str:
        if self.value is None:
            return f"not measured: {self.why}"
        return "" if self.met is None else "met" if self.met else "MISSED"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def table(figures: Sequence[Figure]) -> str:
    """A line a figure: name, value, goal, whether it is met."""
    cells = [("what", "measured", "goal", "")]
    cells += [(f.name, "–" if f.value is None else f"{f.value:.4g} {f.unit}", f.goal, f.verdict()) for f in figures]
    wide = [max(len(row[n]) for row in cells) for n in range(3)]
    return "\n".join(
        "  ".join((row[0].ljust(wide[0]), row[1].rjust(wide[1]), row[2].rjust(wide[2]), row[3])).rstrip()
        for row in cells
    )


def alternated(
    first: Callable[[], object], second: Callable[[], object], turns: int, warm: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of both, measured in turns (ABAB…), so that what else the machine does strikes both.

    The first `warm` turns are not counted.
    """
    took: tuple[list[float], list[float]] = ([], [])
    for turn in range(warm + turns):
        for times, work in zip(took, (first, second), strict=True):
            seconds = timed(work)
            if turn >= warm:
                times.append(seconds)
    return took


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratio(name: str, above: Sequence[float], below: Sequence[float], goal: str = "", **details: Any) -> Figure:
    """Median over the turns of above / below, with the range of it."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    spread = {"lowest": min(ratios), "highest": max(ratios), "turns": len(ratios)}
    return Figure(name, statistics.median(ratios), goal, details=spread | details)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """torch with so many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


COUNTED = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
seconds = time.perf_counter() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, done.returncode]))
"""


def counted(command: Sequence[object]) -> tuple[float, float]:
    """Run a script of the project -> seconds of the whole process, and the most memory it had, MB (2^20 bytes). A small
    process starts it, since the memory of the one that starts a process counts as that of its child.
    """
    words = [sys.executable, "-c", COUNTED, sys.executable, *map(str, command)]
    seconds, megabytes, code = json.loads(
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    )
    if code:
        raise subprocess.CalledProcessError(code, words)
    return seconds, megabytes


def sampled(
    command: Sequence[object], progress: Callable[[], float], log: Path, every: float = 1.0
) -> list[dict[str, float]]:
    """Run a script of the project and look at its memory `every` so many seconds -> VmRSS, RssAnon and RssFile in MB
    (2^20 bytes), the `second`, and `progress`, how far it was. CalledProcessError if it fails.
    """
    words = [sys.executable, *map(str, command)]
    samples: list[dict[str, float]] = []
    began = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "a", encoding="utf-8") as file,
        subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            found = memory(process.pid)
            if found:
                samples.append(found | {"second": time.perf_counter() - began, "progress": progress()})
            time.sleep(every)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return samples


def memory(pid: int) -> dict[str, float]:
    """-> MB (2^20 bytes) by name; {} when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        key: int(value.split()[0]) / 1024
        for key, value in (line.split(":", 1) for line in lines)
        if key in ("VmRSS", "RssAnon", "RssFile")
    }


def linked(data: Path, folder: Path, rows: int) -> Path:
    """`rows` images under `folder`: links with names of their own to the images of the demo set -> their table."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    files = itertools.cycle(sorted(data.resolve().glob("images_*/images/*.png")))
    path = folder / "rows.csv"
    with open(path, "w", encoding="utf-8") as out:
        out.write("image,labels\n")
        for number, file in zip(range(rows), files, strict=False):
            (folder / "images" / f"{number:08d}_000.png").symlink_to(file)
            out.write(f"{number:08d}_000.png,\n")
    return path


@dataclass
class Training:
    """The step of this project on batches that are there, put together as roi/training/setup.py does it."""

    args: argparse.Namespace
    model: RoiModel
    step: Step
    balance: FixedWeights
    optimizer: torch.optim.Optimizer
    device: torch.device
    dtype: torch.dtype

    def run(self, batches: Iterable[Batch], epoch: int = 0) -> None:
        """One pass, as Fit does it: on a CPU the numbers are looked at after every step, on a GPU at the end."""
        meter = self.meter()
        for _ in self.steps(batches, meter, epoch):
            if self.device.type == "cpu":
                meter.flush()
        meter.flush()

    def meter(self) -> Meter:
        from roi.training.loop import Meter

        return Meter(lambda index: [str(n) for n in index.tolist()])

    def steps(self, batches: Iterable[Batch], meter: Meter, epoch: int = 0) -> Iterator[int]:
        """The same, step by step; nobody looks."""
        import torch

        from roi.data.sampler import ShardedBatchSampler
        from roi.training.loop import train_one_epoch

        scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        shares = ShardedBatchSampler(
            0, self.args.batch_size
        ).shares  # of one process: the sizes of the batches alone count
        return train_one_epoch(
            self.step,
            batches,
            epoch,
            self.balance,
            self.optimizer,
            scaler,
            meter,
            self.device,
            self.dtype,
            self.args.accum_steps,
            shares,
        )


def training(
    objective: str, backbone: str, img_size: int, device: torch.device, *flags: object, dtype: torch.dtype | None = None
) -> Training:
    """A model that begins untrained, its loss weights and optimiser, as `flags` of train_roi_consistency.py say."""
    import torch

    import train_roi_consistency
    from roi.labels import LABELS
    from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
    from roi.models.compile import compiled, recomputed
    from roi.models.roi_model import ModelOptions, build_model
    from roi.training.flags import resolve_objective, select_flags
    from roi.training.loop import Step
    from roi.training.objective import WeightFlags, loss_weights, viewed_images
    from roi.training.optim import make_optimizer

    words = [
        "--train_csv",
        "-",
        "--image_root",
        "-",
        "--save",
        "-",
        "--objective",
        objective,
        "--backbone",
        backbone,
        "--img_size",
        img_size,
        *flags,
    ]
    args = train_roi_consistency.parse_args([str(word) for word in words])
    resolve_objective(args, objective)
    args.warmup_epochs = args.warmup_epochs or 0
    model = build_model(
        backbone,
        len(LABELS),
        args.mask_net,
        "none",
        img_size,
        args.seed,
        options=ModelOptions(args.mask_per_class, args.fill, channels_last=args.channels_last),
    ).to(device)
    balance = loss_weights(select_flags(WeightFlags, args), model, (), device)
    if args.checkpoint_activations:
        recomputed(model)
    if args.compile:
        compiled(model)

    options = EvidenceOptions(args.keep_ratio, args.random_views)

    def losses_fn(model: RoiModel, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        from roi.counter_rng import row_seeds

        seeds = row_seeds(args.seed, epoch, batch.index.to(device, non_blocking=True))
        if objective == "evidence":
            viewed = viewed_images(args.view_share, len(batch.index), batch.share)
            warm_up = epoch < args.warmup_epochs
            return evidence_terms(model, batch.pixels, batch.target, options, seeds, warm_up, viewed=viewed)
        return consistency_terms(model, batch.pixels, batch.target, args.keep_ratio, seeds)

    optimizer = make_optimizer(model, args.lr, args.weight_decay, args.mask_lr)
    return Training(args, model, Step(model, losses_fn), balance, optimizer, device, dtype or torch.float32)


def drawn(images: int, img_size: int, device: torch.device, seed: int = 0) -> Batch:
    """Pixels and labels drawn at random, on the device; a tenth of the labels are present.

    Beside a GPU the rows are pinned, as the loader has them.
    """
    import torch

    from roi.data.dataset import Batch
    from roi.labels import LABELS

    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 1, img_size, img_size), dtype=torch.uint8, generator=generator)
    target = (torch.rand(images, len(LABELS), generator=generator) < 0.1).float()
    index = torch.arange(images)
    return Batch(pixels.to(device), target.to(device), index.pin_memory() if device.type == "cuda" else index, [])
