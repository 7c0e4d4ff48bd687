"""How fast, and in how much memory: this project against the published loop on the same CPU, in one run.

    python benchmarks/speed.py --out /tmp/speed --data_path NIH_FOLDER --metadata Data_Entry_2017_v2020.csv
    python benchmarks/speed.py --out /tmp/speed --rows gradnorm,operators

NIH_FOLDER holds original 1024 px images in images_*/images (72 of them are enough), --metadata is the complete table of
NIH. Rows whose data is not given are left out and said to be. Times are taken in turns (ABAB), a ratio is the median
over the turns; nothing else should run meanwhile.

Prints a table and writes benchmarks/results/speed-<machine>.json: every figure, its goal and whether it is met.
--smoke: tiny sizes, to see that every row runs; its figures mean nothing and go to --out.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import statistics
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from harness import (
    Figure,
    Training,
    add_machine,
    alternated,
    counted,
    drawn,
    linked,
    ratio,
    sampled,
    script,
    table,
    threads,
    training,
    write_result,
)

from roi import cli
from roi.errors import UserError

if TYPE_CHECKING:
    import torch

    from roi.data.dataset import Batch
    from roi.data.pixel_cache import PixelCache


@dataclass
class Sizes:
    """How much each row does."""

    turns: int = 5
    cached_rows: int = 4096
    steps: int = 10  # of an epoch of `loader`
    operators: tuple[tuple[str, int], ...] = (("convnext_tiny", 64), ("convnext_base", 64))  # backbone, side
    gradnorm: tuple[str, int, int] = ("resnet18", 128, 8)  # backbone, side, images
    demo_images: int = 3000
    inferred_rows: int = 25_596  # of the official test list


SMOKE = Sizes(2, 64, 3, (("test_convnext", 32),), ("test_resnet", 32, 4), 60, 300)
SIDE = 224


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="scratch folder: caches, demo set, runs")
    parser.add_argument("--data_path", type=Path, metavar="DIR", help="original images of NIH in images_*/images")
    parser.add_argument("--metadata", type=Path, metavar="CSV", help="Data_Entry_2017_v2020.csv")
    parser.add_argument("--rows", default=",".join(ROWS), metavar="A,B", help="what to measure (default: %(default)s)")
    parser.add_argument("--smoke", action=cli.on_off, default=False, help="tiny sizes (default: no)")
    add_machine(parser)
    args = parser.parse_args(argv)
    unknown = set(args.rows.split(",")) - set(ROWS)
    if unknown:
        parser.error(f"--rows: there is no {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return args


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    args.sizes = SMOKE if args.smoke else Sizes()
    figures: dict[str, list[Figure]] = {}
    for name in args.rows.split(","):
        row, needs = ROWS[name]
        lacking = [f"--{flag}" for flag in needs if getattr(args, flag) is None]
        print(f"== {name}", flush=True)
        figures[name] = [Figure(name, None, why=f"{', '.join(lacking)} not given")] if lacking else row(args)
        print(table(figures[name]), flush=True)
    command = shlex.join(["python", "benchmarks/speed.py", "--rows", args.rows, *(["--smoke"] if args.smoke else [])])
    result = {
        "what": "this project against the published loop (benchmarks/published.py) on one CPU, measured in turns; "
        "ratios are medians over the turns",
        "command": f"{command} --out … --data_path … --metadata …",
        "rows": {name: [figure.as_dict() for figure in found] for name, found in figures.items()},
    }
    path = write_result("speed", args.machine, result, args.out if args.smoke else None)
    print(f"\n{table([figure for found in figures.values() for figure in found])}\n{path}")


def originals(args: argparse.Namespace) -> list[str]:
    paths = sorted(map(str, args.data_path.glob("images_*/images/*.png")))[: 4 if args.smoke else None]
    if not paths:
        raise UserError(f"{args.data_path}: no images_*/images/*.png (--data_path)")
    return paths


def fresh(folder: Path) -> Path:
    """An empty folder."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    return folder


def names_of(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


def decoded(args: argparse.Namespace, paths: list[str]) -> PixelCache:
    from roi.data.pixel_cache import open_cache

    return open_cache(args.out / "pixels", names_of(paths), paths, SIDE, 0)


def large(file: Path, images: np.ndarray, rows: int) -> PixelCache:
    """A cache file of `rows` rows that repeats (n, S, S) images.

    It is larger than the caches of the processor, and in memory as a file that was read.
    """
    from roi.data.pixel_cache import PixelCache

    with open(file, "wb") as out:
        for n in range(rows):
            out.write(images[n % len(images)].tobytes())
    return PixelCache(np.memmap(file, dtype=np.uint8, mode="r", shape=(rows, *images.shape[1:])), np.arange(rows), {})


def cached_fetch(args: argparse.Namespace) -> list[Figure]:
    """Batches of 32 in random order from the cache, against decoding the same originals; one thread."""
    from published import item_transform, read_item

    paths, rows, transform = originals(args), args.sizes.cached_rows, item_transform(SIDE)
    cache = large(args.out / "large.u8", decoded(args, paths).gather(np.arange(len(paths))), rows)
    order = np.random.default_rng(0).permutation(rows)
    batches = [order[at : at + 32] for at in range(0, rows, 32)]

    def ours() -> None:
        for batch in batches:
            cache.gather(batch)

    def theirs() -> None:
        for path in paths:
            read_item(path, transform)

    with threads(1):
        mine, published = alternated(ours, theirs, args.sizes.turns)
    per_image = [seconds / rows for seconds in mine], [seconds / len(paths) for seconds in published]
    rates = {
        "images_per_s": 1 / statistics.median(per_image[0]),
        "published_images_per_s": 1 / statistics.median(per_image[1]),
    }
    megabytes = cache.pixels.nbytes / 1e6
    note = f"{rows:,} rows of {SIDE} px that repeat {len(paths)} originals, {megabytes:,.0f} MB, in the page cache"
    return [
        ratio(
            "fetch from the cache, images/s, against decoding",
            per_image[1],
            per_image[0],
            ">= 1000",
            cache=note,
            **rates,
        )
    ]


def cache_build(args: argparse.Namespace) -> list[Figure]:
    """Decoding into a new cache on one core against the published item path, and its pixels against read_grey."""
    from published import item_transform, read_item

    from roi.data.images import read_grey
    from roi.data.pixel_cache import open_cache

    paths, transform = originals(args), item_transform(SIDE)
    built: list[PixelCache] = []

    def ours() -> None:
        built.append(open_cache(folders.pop(), names_of(paths), paths, SIDE, 0))

    def theirs() -> None:
        for path in paths:
            read_item(path, transform)

    folders = [fresh(args.out / f"build-{turn}") for turn in range(args.sizes.turns + 1)]
    with threads(1):
        mine, published = alternated(ours, theirs, args.sizes.turns)
    pixels = np.stack([read_grey(path, SIDE) for path in paths])
    different = sum(int((cache.gather(np.arange(len(paths))) != pixels).sum()) for cache in built)
    rates = {
        key: 1000 * statistics.median(seconds) / len(paths)
        for key, seconds in (("ms_an_image", mine), ("published_ms_an_image", published))
    }
    return [
        ratio(
            "building the cache, images/s a core, against decoding once",
            published,
            mine,
            ">= 1.3",
            images=len(paths),
            **rates,
        ),
        Figure(
            "pixels of the cache that differ from read_grey",
            different,
            "<= 0",
            "pixels",
            details={"caches": len(built)},
        ),
    ]


def loader(args: argparse.Namespace) -> list[Figure]:
    """The second epoch over the cache, against as many steps on one batch that is there."""
    import torch

    from roi.data.loader import CacheLoader
    from roi.data.sampler import ShardedBatchSampler
    from roi.labels import LABELS

    side, size, device = (32, 4, torch.device("cpu")) if args.smoke else (96, 16, torch.device("cpu"))
    rows = size * args.sizes.steps
    images = np.random.default_rng(0).integers(0, 256, (rows, side, side), dtype=np.uint8)
    sampler = ShardedBatchSampler(rows, size, seed=0)
    sampler.epoch = 1
    loaded = CacheLoader(
        large(args.out / "loader.u8", images, rows),
        np.zeros((rows, len(LABELS)), dtype=np.float32),
        sampler,
        device,
        False,
        2,
    )
    figures = []
    for objective in ("consistency", "evidence"):
        run = training(objective, "test_resnet", side, device, "--batch_size", size)
        same = [drawn(size, side, device)] * args.sizes.steps
        mine, fixed = alternated(partial(run.run, loaded, 1), partial(run.run, same, 1), 2 * args.sizes.turns)
        rates = {
            "images_per_s": rows / statistics.median(mine),
            "images_per_s_one_batch": rows / statistics.median(fixed),
        }
        name = f"epoch 2 from the cache against one fixed batch, {objective}"
        figures.append(ratio(name, mine, fixed, "<= 1.03", backbone="test_resnet", img_size=side, batch=size, **rates))
    return figures


def operators(args: argparse.Namespace) -> list[Figure]:
    """Calls through torch's dispatcher in one optimiser step of 16 images; both sides counted alike (`dispatched`)."""
    figures = []
    for backbone, side in args.sizes.operators:
        theirs = published_operators(backbone, side)
        for objective, goal in (("consistency", "<= 0.4"), ("evidence", "")):
            alike, together = (our_operators(objective, backbone, side, batch, 16 // batch) for batch in (8, 16))
            for name, ours, wanted in (("2 batches of 8", alike, goal), ("1 batch of 16", together, "")):
                value = ours["dispatched"] / theirs["dispatched"]
                title = f"operators of a step of 16 images, {objective}, {name}, {backbone} {side} px, "
                title += "against the published"
                figures.append(Figure(title, value, wanted, details={"ours": ours, "published": theirs}))
    return figures


def our_operators(objective: str, backbone: str, side: int, batch: int, accum: int) -> dict[str, int]:
    import torch

    run = training(objective, backbone, side, torch.device("cpu"), "--batch_size", batch, "--accum_steps", accum)
    batches = [drawn(batch, side, run.device, n) for n in range(accum)]
    return dispatched(lambda: run.run(batches))


def published_operators(backbone: str, side: int) -> dict[str, int]:
    import torch
    from published import ACCUM, BATCH, PublishedModel, make_optimizer, train

    from roi.labels import LABELS
    from roi.models.backbones import build_backbone

    model = PublishedModel(build_backbone(backbone, len(LABELS), "none", side))
    optimizer = make_optimizer(model)
    # What torch picks on a GPU; the loop over parameters that it picks here would count against the published.
    for group in optimizer.param_groups:
        group["foreach"] = True
    batches = [as_published(drawn(BATCH, side, torch.device("cpu"), n)) for n in range(ACCUM)]
    return dispatched(lambda: train(model, optimizer, batches, torch.device("cpu")))


def as_published(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The same pixels as the published loop has them."""
    from published import MEAN, STD
    from torchvision.transforms.functional import normalize

    return normalize(batch.pixels.expand(-1, 3, -1, -1).float() / 255, list(MEAN), list(STD)), batch.target


def dispatched(step: Callable[[], object]) -> dict[str, int]:
    """Operators of a step, once it has been done before: `dispatched`, those that no other operator called (on a GPU
    about a kernel each), of forward, backward, optimiser, zero_grad and the reading of losses together; `nested`, all
    calls, also those of one operator by another.
    """
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    calls = [event for event in seen.events() or () if event.name.startswith("aten::")]
    return {"dispatched": sum(not within_operator(call) for call in calls), "nested": len(calls)}


def within_operator(call: Any) -> bool:
    parent = call.cpu_parent
    while parent is not None and not parent.name.startswith("aten::"):
        parent = parent.cpu_parent
    return parent is not None


def gradnorm(args: argparse.Namespace) -> list[Figure]:
    """A step with learned loss weights, against one with fixed ones, on the same batch."""
    import torch

    backbone, side, size = args.sizes.gradnorm
    device, figures = torch.device("cpu"), []
    for objective in ("consistency", "evidence"):
        batch = drawn(size, side, device)
        learned, fixed = (
            training(objective, backbone, side, device, "--batch_size", size, *more)
            for more in (("--dynamic_weights",), ())
        )
        first, second = two_steps(learned, batch), two_steps(fixed, batch)
        mine, plain = alternated(first, second, 3 * args.sizes.turns, warm=2)
        sizes = {
            "backbone": backbone,
            "img_size": side,
            "batch": size,
            "step_s": statistics.median(mine) / 2,
            "plain_step_s": statistics.median(plain) / 2,
        }
        figures.append(ratio(f"step with GradNorm against one without, {objective}", mine, plain, "<= 1.03", **sizes))
    return figures


def two_steps(run: Training, batch: Batch) -> Callable[[], None]:
    return lambda: run.run([batch, batch])


def bf16(args: argparse.Namespace) -> list[Figure]:
    """A step in bfloat16, against one in float32, where the processor computes in it."""
    name, info = "step in bf16 against fp32, images/s", Path("/proc/cpuinfo")
    if not info.is_file() or not re.search(r"\b(avx512_bf16|amx_bf16)\b", info.read_text()):
        return [Figure(name, None, ">= 1.6", why="not here: the CPU has no bf16")]
    return [bf16_step(args, name)]


def bf16_step(args: argparse.Namespace, name: str) -> Figure:
    import torch

    backbone, side, size = args.sizes.gradnorm
    batch = drawn(size, side, torch.device("cpu"))
    low, full = (
        training("consistency", backbone, side, torch.device("cpu"), dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    mine, plain = alternated(two_steps(low, batch), two_steps(full, batch), 2 * args.sizes.turns, warm=2)
    return ratio(name, plain, mine, ">= 1.6", backbone=backbone, img_size=side, batch=size)


def inference(args: argparse.Namespace) -> list[Figure]:
    """Full, crop and drop of the originals as infer_roi_consistency.py predicts them, against one image at a time.

    Reading is included on both sides.
    """
    import torch
    from published import PublishedModel, predict

    from roi.labels import LABELS
    from roi.models.backbones import build_backbone

    paths, figures, device = originals(args), [], torch.device("cpu")
    decoded(args, paths)
    for backbone, goal in (("squeezenet1_1", ">= 3"), ("test_resnet", "")):
        published = PublishedModel(build_backbone(backbone, len(LABELS), "none", SIDE))
        cached: tuple[object, ...] = ("--cache_dir", args.out / "pixels")
        kinds = [
            ("from the cache", cached, goal),
            ("from the cache, --batch_size 4", (*cached, "--batch_size", 4), ""),
            ("from the PNGs", (), ""),
        ]
        for name, more, wanted in kinds:
            loop = partial(predict, published, paths, list(LABELS), SIDE, device)
            mine, theirs = alternated(inferring(args, backbone, paths, *more), loop, args.sizes.turns)
            rates = {
                f"{key}images_per_s": len(paths) / statistics.median(s)
                for key, s in (("", mine), ("published_", theirs))
            }
            title = f"inference {name}, images/s, against one at a time, {backbone} {SIDE} px"
            figures.append(ratio(title, theirs, mine, wanted, images=len(paths), **rates))
    return figures


def inferring(args: argparse.Namespace, backbone: str, paths: list[str], *flags: object) -> Callable[[], None]:
    """What infer_roi_consistency.py does after checkpoint and table are read: batches, three views, records."""
    import pandas as pd
    import torch

    import infer_roi_consistency
    from roi.inference.loading import Loading, row_loader
    from roi.inference.predict import Predictor
    from roi.labels import LABELS

    words = [
        "--checkpoint",
        "-",
        "--csv",
        "-",
        "--image_root",
        args.data_path,
        "--save_json",
        args.out / "-",
        "--device",
        "cpu",
        *flags,
    ]
    asked = infer_roi_consistency.parse_args([str(word) for word in words])
    loading = Loading(asked.batch_size, asked.workers, asked.prefetch_factor, asked.cache_dir)
    model = training("consistency", backbone, SIDE, torch.device("cpu")).model
    state = {"classes": list(LABELS), "args": {"img_size": SIDE}}
    predictor = Predictor(model, state, torch.device("cpu"), torch.float32, keep_ratio=0.1)
    rows = pd.DataFrame({"image": names_of(paths), "path": paths, "contaminated": False})
    side_file = args.out / "-"

    def work() -> None:
        with redirect_stdout(io.StringIO()):  # each turn opens and checks the cache, as the script does, and says so
            load = row_loader(predictor, rows, loading, side_file)
        assert sum(1 for _ in predictor.outcomes(rows, load(0, len(rows)), side_file)) == len(paths)

    return work


def tables(args: argparse.Namespace) -> list[Figure]:
    """The complete table of NIH, whole process."""
    out = args.out / "nih.csv"
    runs = [
        counted(["make_chexmultimodal_csv.py", "--src_csv", args.metadata, "--out_csv", out, "--overwrite"])
        for _ in range(3)
    ]
    with open(out, "rb") as file:
        rows = sum(1 for _ in file) - 1
    seconds, megabytes = (statistics.median(values) for values in zip(*runs, strict=True))
    return [
        Figure(
            "table of NIH, whole process",
            seconds,
            "<= 2",
            "s",
            details={"rows": rows, "runs": len(runs), "seconds": [s for s, _ in runs]},
        ),
        Figure("table of NIH, most memory", megabytes, "<= 500", "MB", details={"rows": rows, "MB": "2^20 bytes"}),
    ]


def steady_memory(args: argparse.Namespace) -> list[Figure]:
    """Memory of a training over 3 epochs, and of inference over as many rows as the official test list has, after their
    warm-up.

    VmRSS counts the pages of the cache file that were read (RssFile), which belong to the system: 26 MB here, at 32 px;
    more where images are larger.
    """
    from roi.choices import SIZES

    data, run = args.out / "demo", fresh(args.out / "memory")
    if not (data / "demo.json").is_file():
        script(
            "make_demo_dataset.py", "--out", data, "--images", args.sizes.demo_images, "--size", SIZES[0], "--seed", 0
        )
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data)
    script(*make, "--out_csv", run / "train.csv")
    log, save = run / "metrics.csv", run / "roi.pt"
    trained = sampled(
        [
            "train_roi_consistency.py",
            "--train_csv",
            run / "train.csv",
            "--image_root",
            data,
            "--backbone",
            "test_resnet",
            "--weights",
            "none",
            "--img_size",
            32,
            "--batch_size",
            16,
            "--epochs",
            3,
            "--warmup_epochs",
            0,
            "--device",
            "cpu",
            "--workers",
            2,
            "--cache_dir",
            run / "pixels",
            "--save",
            save,
            "--log_csv",
            log,
        ],
        lambda: log.read_text().count("\n") - 1 if log.is_file() else 0,
        run / "train.log",
        0.2 if args.smoke else 1.0,
    )
    rows = linked(data, run / "many", args.sizes.inferred_rows)
    inferred = sampled(
        [
            "infer_roi_consistency.py",
            "--checkpoint",
            save,
            "--csv",
            rows,
            "--image_root",
            run / "many",
            "--cache_dir",
            run / "pixels",
            "--device",
            "cpu",
            "--workers",
            2,
            "--save_json",
            run / "preds.json",
        ],
        lambda: sum(part.stat().st_size for part in run.glob(".preds.json.*.part")),
        run / "infer.log",
        0.2 if args.smoke else 1.0,
    )
    settled = [sample for sample in trained if sample["progress"] >= 1]
    return [
        steady("training, after its 1st epoch: change of memory", settled, epochs=3, images=args.sizes.demo_images),
        steady(
            "inference, after a tenth of its rows: change of memory", warmed(inferred), rows=args.sizes.inferred_rows
        ),
    ]


def warmed(samples: list[dict[str, float]]) -> list[dict[str, float]]:
    """Those after a tenth of what the last one has done."""
    last = max((sample["progress"] for sample in samples), default=0.0)
    return [sample for sample in samples if last and sample["progress"] >= last / 10]


def steady(name: str, samples: list[dict[str, float]], **details: Any) -> Figure:
    """How far the memory goes from where it stood after the warm-up.

    Medians of four equal spans of time, since a step itself takes and gives back.
    """
    if len(samples) < 4:
        return Figure(name, None, "<= 50", "MB", f"{len(samples)} samples after the warm-up")
    spans = np.array_split(np.arange(len(samples)), 4)
    for key in ("VmRSS", "RssAnon", "RssFile"):
        values = [sample[key] for sample in samples]
        medians = [statistics.median(values[n] for n in span) for span in spans]
        details[key] = {"medians": medians, "lowest": min(values), "highest": max(values)}
    away = [median - details["VmRSS"]["medians"][0] for median in details["VmRSS"]["medians"]]
    return Figure(
        name, max(map(abs, away)), "<= 50", "MB", details={"samples": len(samples), "MB": "2^20 bytes", **details}
    )


Row = Callable[[argparse.Namespace], list[Figure]]
ROWS: dict[str, tuple[Row, tuple[str, ...]]] = {  # name: function, flags that it needs
    "cached_fetch": (cached_fetch, ("data_path",)),
    "cache_build": (cache_build, ("data_path",)),
    "loader": (loader, ()),
    "operators": (operators, ()),
    "gradnorm": (gradnorm, ()),
    "bf16": (bf16, ()),
    "inference": (inference, ("data_path",)),
    "tables": (tables, ("metadata",)),
    "memory": (steady_memory, ()),
}

if __name__ == "__main__":
    cli.run(main, parse_args)
