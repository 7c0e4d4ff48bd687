"""Do the maps find the finding on real X-rays? A frozen backbone, maps from labels alone, five seeds an arm.

    python benchmarks/evidence_study.py --data_path /data/nih_256 \\
        --weights tf_efficientnet_lite0_imagenet.safetensors --out runs/evidence

Trains each arm with train_roi_consistency.py --freeze_backbone as a user does, and points with its maps at the boxes of
the official test images. Boxes never enter training. They are split by patient (a hash of the patient) into two halves:
designs were chosen on `dev`, and `check` is hidden until --open_check, which is given once, at the end. Every figure is
the mean over findings, then over seeds; its interval comes from drawing seeds and patients with replacement, the same
draws for both sides of a difference.

Writes benchmarks/results/evidence_study-<machine>.json: every arm that was tried, goals, and whether they are met.
"""

import argparse
import csv
import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from harness import add_machine, script, write_result

from roi import cli
from roi.data.boxes import read_boxes
from roi.labels import LABELS

ARMS: dict[str, tuple[object, ...]] = {
    "default": (),
    "sharpness 1": ("--locate_sharpness", 1),
    "sharpness 8": ("--locate_sharpness", 8),
    "strides 8 + 16 + 32": ("--map_stride", 8),
    "stride 32": ("--map_stride", 32),
    "constant rate": ("--schedule", "constant"),
    "constant rate, averaged weights": ("--schedule", "constant", "--ema", 0.99),
    "averaged maps": ("--map_average", 0.98),
    "twice the rate of the maps": ("--mask_lr", 2e-3),
    "half the rate of the maps": ("--mask_lr", 5e-4),
    "16 epochs": ("--epochs", 16),
}
CELLS = 32  # a side of the maps that point
KEEP_RATIO, BORDER = 0.1, 0.1
RESAMPLES = 2000
THORAX = 0.02  # a cell belongs to the average thorax where so many of all boxes cover it


@dataclass
class Figure:
    """A mean over findings and seeds, with its interval over seeds and patients."""

    value: float
    low: float
    high: float
    seeds: list[float]

    def as_dict(self) -> dict[str, Any]:
        rounded = {name: round(getattr(self, name), 4) for name in ("value", "low", "high")}
        return rounded | {"seeds": [round(value, 4) for value in self.seeds]}


@dataclass
class Boxes:
    """Pairs of an image and a finding that have a box, with what the means need. Q pairs, F findings, P patients."""

    image: np.ndarray  # (Q,) place among the images that have a box
    column: np.ndarray  # (Q,) of the finding among LABELS
    finding: np.ndarray  # (Q,) number of the finding among those that have a box
    patient: np.ndarray  # (Q,) number of the patient
    inside: np.ndarray  # (Q, CELLS * CELLS) bool: the cell's centre lies in a box of the pair
    cover: np.ndarray  # (Q, CELLS * CELLS) the same in parts of a cell, for areas
    dev: np.ndarray  # (Q,) bool


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--data_path",
        type=Path,
        required=True,
        metavar="DIR",
        help="Data_Entry_2017.csv, test_list.txt, BBox_List_2017.csv and images/",
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="ImageNet weights of --backbone")
    parser.add_argument(
        "--expert_csv",
        type=Path,
        metavar="CSV",
        help="labels by a panel of radiologists (Majkowska et al. 2019) (default: none)",
    )
    parser.add_argument(
        "--backbone",
        default="tf_efficientnet_lite0",
        help="a classifier with a linear last layer (default: %(default)s)",
    )
    parser.add_argument(
        "--img_size", type=int, default=256, metavar="PX", help="side of the input (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=8, metavar="N", help="passes over the training images (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=cli.number(int, 2), default=5, metavar="N", help="runs of each arm (default: %(default)s)"
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=list(ARMS),
        default=list(ARMS),
        metavar="NAME",
        help="what is trained (default: all of %(choices)s)",
    )
    parser.add_argument(
        "--open_check",
        action=cli.on_off,
        default=False,
        help="also show the half of the boxes on which nothing was chosen (default: no)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for tables, features and runs; what is there is done",
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    make = (
        "make_chexmultimodal_csv.py",
        "--src_csv",
        args.data_path / "Data_Entry_2017.csv",
        "--image_dir",
        args.data_path / "images",
    )
    script(*make, "--out_csv", args.out / "train.csv", "--fillna", "Normal")
    script(*make, "--out_csv", args.out / "test.csv", "--filter_list", args.data_path / "test_list.txt")
    arms = list(dict.fromkeys(["default", *args.arms]))
    minutes = {arm: [train(args, arm, seed) for seed in range(args.seeds)] for arm in arms}
    study = Study(args)
    halves = {
        "dev": study.boxes.dev,
        **({"check": ~study.boxes.dev, "all": np.ones(len(study.boxes.dev), dtype=bool)} if args.open_check else {}),
    }
    tried = {arm: study.arm(arm, halves) | {"minutes": round(float(np.mean(minutes[arm])), 2)} for arm in arms}
    found = study.default(halves)
    command = f"python benchmarks/evidence_study.py --backbone {args.backbone} --img_size {args.img_size}"
    command += f" --epochs {args.epochs} --seeds {args.seeds}"
    command += " --open_check" if args.open_check else ""
    result: dict[str, Any] = {
        "what": "maps from labels alone on a frozen backbone: pointing at boxes of NIH's test images, "
        "mean over findings and seeds",
        "command": shlex.join(shlex.split(command)) + " --data_path … --weights … --out …",
        "boxes": study.counts(halves),
        "arms": tried,
        "default": found,
        "goals": judge(found, tried["default"], "all" if args.open_check else "dev"),
    }
    path = write_result("evidence_study", args.machine, result)
    study.picture(path.with_suffix(".png"))
    show(result, path)


def run_of(args: argparse.Namespace, arm: str, seed: int) -> Path:
    return args.out / f"{arm.replace(' ', '_').replace(',', '').replace('+', 'and')}_{seed}"


def train(args: argparse.Namespace, arm: str, seed: int) -> float:
    """Train one run, unless it is there; -> minutes of its epochs."""
    folder = run_of(args, arm, seed)
    if not (folder / "done").is_file():
        epochs = () if "--epochs" in ARMS[arm] else ("--epochs", args.epochs)
        script(
            "train_roi_consistency.py",
            "--freeze_backbone",
            "--train_csv",
            args.out / "train.csv",
            "--exclude_csv",
            args.out / "test.csv",
            "--image_root",
            args.data_path,
            "--classes",
            ",".join(LABELS),
            "--backbone",
            args.backbone,
            "--weights",
            args.weights,
            "--img_size",
            args.img_size,
            "--batch_size",
            32,
            *epochs,
            "--seed",
            seed,
            "--workers",
            1,
            "--device",
            "cpu",
            "--cache_dir",
            args.out / "pixels",
            "--save",
            folder / "roi.pt",
            "--log_csv",
            folder / "metrics.csv",
            "--overwrite",
            *ARMS[arm],
            log=folder / "log.txt",
        )
        (folder / "done").touch()
    with open(folder / "metrics.csv", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file)) / 60


def in_dev(patient: str) -> bool:
    """Half of the patients, by a hash: the same ones for everybody."""
    return hashlib.blake2b(patient.removeprefix("nih:").encode()).digest()[0] % 2 == 0


def read_pairs(path: Path, table: pd.DataFrame) -> tuple[Boxes, pd.DataFrame]:
    """-> (the pairs that have a box, the rows of the table that they are of)"""
    boxes = read_boxes(path)
    boxes = boxes[boxes["image"].isin(table["image"])]
    rows = table[table["image"].isin(boxes["image"])].reset_index(drop=True)
    image = boxes["image"].map({name: n for n, name in enumerate(rows["image"])}).to_numpy()
    pairs = sorted({(int(i), LABELS.index(label)) for i, label in zip(image, boxes["label"], strict=True)})
    edge, centre = np.arange(CELLS) / CELLS, (np.arange(CELLS) + 0.5) / CELLS
    inside, cover = np.zeros((len(pairs), CELLS, CELLS), dtype=bool), np.zeros((len(pairs), CELLS, CELLS))
    place = {pair: q for q, pair in enumerate(pairs)}
    for i, box in zip(image, boxes.itertuples(), strict=True):
        q = place[int(i), LABELS.index(box.label)]
        axes = []
        for low, size in ((box.y, box.h), (box.x, box.w)):
            part = np.clip(np.minimum(low + size, edge + 1 / CELLS) - np.maximum(low, edge), 0, None) * CELLS
            axes.append(((centre >= low) & (centre <= low + size), part))
        (down, down_part), (across, across_part) = axes
        inside[q] |= down[:, None] & across[None]
        cover[q] = np.maximum(cover[q], down_part[:, None] * across_part[None])
    where, column = (np.array(part) for part in zip(*pairs, strict=True))
    patients, patient = np.unique(rows["patient_id"].to_numpy()[where].astype(str), return_inverse=True)
    finding = np.unique(column, return_inverse=True)[1]
    dev = np.array([in_dev(name) for name in patients])[patient]
    flat = (len(pairs), CELLS * CELLS)
    return Boxes(where, column, finding, patient, inside.reshape(flat), cover.reshape(flat), dev), rows


class Study:
    """The test images once: features, boxes, targets; then each run is a head and its maps."""

    def __init__(self, args: argparse.Namespace) -> None:
        from roi.data.table import read_table
        from roi.data.targets import target_matrix

        self.args = args
        self.table = read_table(args.out / "test.csv")
        self.target = target_matrix(self.table, list(LABELS))
        self.boxes, self.rows = read_pairs(args.data_path / "BBox_List_2017.csv", self.table)
        self.row_of = self.table["image"].map({name: n for n, name in enumerate(self.table["image"])})
        self.features: dict[tuple[str, ...], Any] = {}
        self.rng = np.random.default_rng(0)

    # ---- what the runs see ------------------------------------------------------------------------------------------

    def batches(self, table: pd.DataFrame | None = None) -> Iterator[Any]:
        """The images of a table, of the test images if none is given, in its order."""
        from roi.data.dataset import open_cache_of_run, rows_with_images
        from roi.data.loader import CacheLoader
        from roi.data.sampler import ShardedBatchSampler

        table = self.table if table is None else table
        table, paths = rows_with_images(table, str(self.args.data_path), False, self.args.out / "test.csv")
        cache = open_cache_of_run(
            table["image"].tolist(),
            paths,
            str(self.args.out / "pixels"),
            self.args.img_size,
            1,
            False,
            self.args.out / "test.csv",
        )
        no_targets = np.full((len(table), len(LABELS)), np.nan, dtype=np.float32)
        yield from CacheLoader(cache, no_targets, ShardedBatchSampler(len(table), 32), self.device(), False, 2)

    def device(self) -> Any:
        import torch

        return torch.device("cpu")

    def load(self, arm: str, seed: int) -> Any:
        from roi.training.checkpoint import load_model

        return load_model(run_of(self.args, arm, seed) / "roi.pt")[0]

    def features_of(self, model: Any) -> Any:
        """The features of all test images, once for each set of stages."""
        import torch

        from roi.training.frozen_features import frozen_features

        key = tuple(model.stages.names)
        if key not in self.features:
            folder = str(self.args.out / "pixels")
            self.features[key] = frozen_features(
                model, lambda: self.batches(), len(self.table), folder, self.device(), torch.float32
            )
        return self.features[key]

    def outputs(self, model: Any) -> tuple[Any, Any]:
        """-> logits (N, K), maps (N, K, h, w) of all test images."""
        import torch

        arrays = self.features_of(model)
        logits, maps = [], []
        with torch.inference_mode():
            for rows in np.array_split(np.arange(len(self.table)), 32):
                features = arrays.gather(rows)
                some = model.read_features(features.head, features.stages)
                logits.append(some[0])
                maps.append(some[1])
        return torch.cat(logits), torch.cat(maps)

    # ---- figures ----------------------------------------------------------------------------------------------------

    def boxed(self, maps: Any) -> np.ndarray:
        """Maps of the images that have a box, in CELLS x CELLS, of all: (N, K, h, w) -> (n, K, CELLS * CELLS)."""
        from roi.models.masks import upsample

        chosen = np.flatnonzero(self.table["image"].isin(self.rows["image"]))
        return upsample(maps[chosen], (CELLS, CELLS)).flatten(2).numpy()

    def hits(self, maps: np.ndarray) -> np.ndarray:
        """Whether the highest cell of a pair's own map lies in its box. (n, K, cells) -> (Q,)"""
        peak = maps.argmax(2)  # (n, K)
        return self.boxes.inside[np.arange(len(self.boxes.image)), peak[self.boxes.image, self.boxes.column]].astype(
            float
        )

    def shuffled_hits(self, maps: np.ndarray, draws: int = 20) -> np.ndarray:
        """The same with the finding's map of another patient's image that has a box of the finding. (Q,)"""
        peak, boxes = maps.argmax(2), self.boxes
        rng = np.random.default_rng(1)
        total = np.zeros(len(boxes.image))
        for q in range(len(boxes.image)):
            others = np.flatnonzero((boxes.finding == boxes.finding[q]) & (boxes.patient != boxes.patient[q]))
            drawn = boxes.image[rng.choice(others, draws)]
            total[q] = boxes.inside[q, peak[drawn, boxes.column[q]]].mean()
        return total

    def best_place_hits(self, folds: int = 5, deals: int = 5) -> np.ndarray:
        """The cell that the most boxes of the finding in the other folds of patients contain. (Q,)"""
        boxes, rng = self.boxes, np.random.default_rng(2)
        total = np.zeros(len(boxes.image))
        for _ in range(deals):
            fold = (rng.permutation(boxes.patient.max() + 1) % folds)[boxes.patient]
            for q in range(len(boxes.image)):
                others = (boxes.finding == boxes.finding[q]) & (fold != fold[q])
                count = boxes.inside[others].sum(0)
                total[q] += boxes.inside[q, count == count.max()].mean()
        return total / deals

    def centre_hits(self) -> np.ndarray:
        middle = [(CELLS // 2 - 1 + y) * CELLS + CELLS // 2 - 1 + x for y in (0, 1) for x in (0, 1)]
        return self.boxes.inside[:, middle].mean(1)

    def figure(self, values: Sequence[np.ndarray], half: np.ndarray) -> Figure:
        """Mean over findings, then over seeds, of (Q,) values of each seed; NaN is left out."""
        stack = np.stack(values)[:, half]  # (S, Q)
        finding, patient = self.boxes.finding[half], self.boxes.patient[half]
        patients = np.unique(patient, return_inverse=True)[1]
        rng = np.random.default_rng(3)

        def mean(weight: np.ndarray, seeds: np.ndarray) -> np.ndarray:
            """(Q,) weights -> (S,) mean over findings"""
            groups = [finding == f for f in np.unique(finding)]
            each = [
                (stack[seeds][:, g] * weight[g]).sum(1) / max(weight[g].sum(), 1e-9) for g in groups if weight[g].sum()
            ]
            return np.mean(each, axis=0)

        everyone = np.arange(len(stack))
        plain = mean(np.ones(len(finding)), everyone)
        drawn = []
        for _ in range(RESAMPLES):
            count = np.bincount(rng.integers(0, patients.max() + 1, patients.max() + 1), minlength=patients.max() + 1)
            drawn.append(mean(count[patients].astype(float), rng.integers(0, len(stack), len(stack))).mean())
        low, high = np.percentile(drawn, [2.5, 97.5])
        return Figure(float(plain.mean()), float(low), float(high), plain.tolist())

    def arm(self, arm: str, halves: dict[str, np.ndarray]) -> dict[str, Any]:
        """Pointing of the finding's own map, and of another patient's."""
        own, less = [], []
        for seed in range(self.args.seeds):
            maps = self.boxed(self.outputs(self.load(arm, seed))[1])
            own.append(self.hits(maps))
            less.append(own[-1] - self.shuffled_hits(maps))
        # Only dev is shown of an arm that is not the default: what was chosen was chosen there.
        shown = halves if arm == "default" else {"dev": halves["dev"]}
        return {
            name: {"pointing": self.figure(own, h).as_dict(), "less shuffled": self.figure(less, h).as_dict()}
            for name, h in shown.items()
        }

    def default(self, halves: dict[str, np.ndarray]) -> dict[str, Any]:
        """Everything of the default arm: controls of the maps, the mask, crop and drop."""
        own, cam, reinit = [], [], []
        masks: list[dict[str, float]] = []
        for seed in range(self.args.seeds):
            model = self.load("default", seed)
            logits, maps = self.outputs(model)
            own.append(self.hits(self.boxed(maps)))
            cam.append(self.hits(self.grad_cam(model, seed)))
            reinit.append(self.hits(self.boxed(self.reinitialised(model, seed))))
            masks.append(self.mask(model, logits, maps, seed))
        best, centre = self.best_place_hits(), self.centre_hits()
        found: dict[str, Any] = {}
        for name, half in halves.items():
            pointing = {
                "own map": own,
                "Grad-CAM": cam,
                "new weights": reinit,
                "centre": [centre] * len(own),
                "best fixed place": [best] * len(own),
            }
            less = {
                f"own map - {control}": [a - b for a, b in zip(own, values, strict=True)]
                for control, values in pointing.items()
                if control != "own map"
            }
            found[name] = {key: self.figure(values, half).as_dict() for key, values in (pointing | less).items()}
            found[name]["by finding"] = self.by_finding(own, cam, best, centre, half)
        return found | {"mask": {key: spread([m[key] for m in masks if key in m]) for key in masks[0]}}

    def by_finding(
        self, own: list[np.ndarray], cam: list[np.ndarray], best: np.ndarray, centre: np.ndarray, half: np.ndarray
    ) -> dict[str, dict[str, float]]:
        columns = {
            "own map": np.mean(own, axis=0),
            "Grad-CAM": np.mean(cam, axis=0),
            "best fixed place": best,
            "centre": centre,
        }
        found = {}
        for column in np.unique(self.boxes.column):
            chosen = half & (self.boxes.column == column)
            found[LABELS[column]] = {"pairs": int(chosen.sum())} | {
                key: round(float(values[chosen].mean()), 3) for key, values in columns.items()
            }
        return found

    def grad_cam(self, model: Any, seed: int) -> np.ndarray:
        """(n, K, cells) Grad-CAM of the images that have a box; kept beside the run."""
        import torch

        from roi.inference.grad_cam import GradCam

        kept = run_of(self.args, "default", seed) / "cam.npy"
        if not kept.is_file():
            cam = GradCam(model, self.args.img_size)
            chosen = set(np.flatnonzero(self.table["image"].isin(self.rows["image"])).tolist())
            parts = []
            for batch in self.batches():
                here = [n for n, row in enumerate(batch.index.tolist()) if row in chosen]
                if here:
                    parts.append(cam(batch.pixels[here], CELLS).flatten(2).half())
            np.save(kept, torch.cat(parts).numpy())
        return np.load(kept)

    def reinitialised(self, model: Any, seed: int) -> Any:
        """Maps of the same decoder with new weights."""
        import torch

        from roi.models.mask_net import FeatureMask

        assert model.stages is not None
        trained = model.mask_net
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1000 + seed)
            model.mask_net = FeatureMask(model.stages.channels, len(LABELS)).eval()
        try:
            return self.outputs(model)[1]
        finally:
            model.mask_net = trained

    def mask(self, model: Any, logits: Any, maps: Any, seed: int) -> dict[str, float]:
        """The mask of all findings on all test images, with random blobs to compare.

        It says where the mask lies, and what the classifier makes of crop and drop.
        """
        kept = run_of(self.args, "default", seed) / "mask.json"
        if not kept.is_file():
            kept.write_text(json.dumps(self.measure_mask(model, logits, maps)))
        figures = json.loads(kept.read_text())
        return figures | self.experts(logits.numpy())

    def measure_mask(self, model: Any, logits: Any, maps: Any) -> dict[str, float]:
        import torch

        from roi.counter_rng import row_seeds
        from roi.models.masks import exact_topk, kept_pixels, random_mask
        from roi.training.mask_controls import border_share, contrast

        size = (self.args.img_size, self.args.img_size)
        k = kept_pixels(*size, KEEP_RATIO)
        pooled: dict[str, list[Any]] = {name: [] for name in ("crop", "drop", "crop_blobs", "drop_blobs")}
        border, inside = [], []
        thorax = torch.from_numpy(self.thorax()).float().view(1, 1, CELLS, CELLS)
        judge = self.judge(model)
        with torch.no_grad():
            for batch in self.batches():
                rows = batch.index
                hard = exact_topk(model.combine_maps(maps[rows], logits[rows], size), k)
                blobs = random_mask(row_seeds(0, 0, rows), size, k)
                border.append(border_share(hard))
                share = torch.nn.functional.adaptive_avg_pool2d(hard, CELLS)
                inside.append((share * thorax).sum((1, 2, 3)) / share.sum((1, 2, 3)))
                x = model.normalise(batch.pixels)
                for name, m in (("crop", hard), ("drop", 1 - hard), ("crop_blobs", blobs), ("drop_blobs", 1 - blobs)):
                    pooled[name].append(pooled_of(model, model.apply_mask(x, m)))
            given = {name: torch.cat(parts) for name, parts in pooled.items()}
            views = {name: classifier_of(model)(values).numpy() for name, values in given.items()}
            judged = {f"judged {name}": judge(values).numpy() for name, values in given.items()}
        full = logits.numpy()
        auroc = {name: self.auroc(values) for name, values in (views | judged | {"full": full}).items()}
        return {
            "judged: crop - blobs": auroc["judged crop"] - auroc["judged crop_blobs"],
            "judged: random drop - mask's drop": auroc["judged drop_blobs"] - auroc["judged drop"],
            **{f"AUROC {name.replace('_', ' of ')}": value for name, value in auroc.items()},
            "crop - blobs": auroc["crop"] - auroc["crop_blobs"],
            "random drop - mask's drop": auroc["drop_blobs"] - auroc["drop"],
            "drop contrast": contrast(full - views["drop"], self.target, list(LABELS)),
            "drop contrast of blobs": contrast(full - views["drop_blobs"], self.target, list(LABELS)),
            "share in the outer tenth": float(torch.cat(border).mean()),
            "share in the average thorax": float(torch.cat(inside).mean()),
            "area of the average thorax": float(self.thorax().mean()),
        }

    def judge(self, model: Any) -> Any:
        """A classifier layer of its own that has learned from random blobs alone, 10 % or 90 % kept (EVAL-X, Jethani et
        al. 2021): it judges what a crop or a drop holds, and has never seen a mask of ours. The same for all seeds:
        features of a frozen backbone.
        """
        import torch
        from torch import nn
        from torch.nn import functional as F

        from roi.counter_rng import row_seeds
        from roi.data.splits import belongs_to
        from roi.data.table import read_table
        from roi.data.targets import target_matrix
        from roi.models.masks import kept_pixels, random_mask

        kept = self.args.out / "judge.pt"
        layer = nn.Linear(classifier_of(model).in_features, len(LABELS))
        if kept.is_file():
            layer.load_state_dict(torch.load(kept, weights_only=True))
            return layer
        table = read_table(self.args.out / "train.csv")
        table = table[~belongs_to(table, [self.table])]
        target = torch.from_numpy(target_matrix(table, list(LABELS)))
        size = (self.args.img_size, self.args.img_size)
        shares, k = [], kept_pixels(*size, KEEP_RATIO)
        with torch.no_grad():
            for batch in self.batches(table):
                x = model.normalise(batch.pixels)
                blobs = random_mask(row_seeds(1, 0, batch.index), size, k)
                shares.append(torch.stack([pooled_of(model, model.apply_mask(x, m)) for m in (blobs, 1 - blobs)], 1))
        x, y = torch.cat(shares).float(), target  # (N, 2, D), (N, K)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            optimizer = torch.optim.AdamW(layer.parameters(), lr=3e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8 * -(-len(x) // 32))
            for _ in range(8):
                for rows in torch.randperm(len(x)).split(32):
                    logits = layer(x[rows])  # (B, 2, K)
                    loss = F.binary_cross_entropy_with_logits(logits, y[rows][:, None].expand_as(logits))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
        torch.save(layer.state_dict(), kept)
        return layer

    def thorax(self) -> np.ndarray:
        """(cells,) bool: where at least THORAX of all boxes lie."""
        return self.boxes.cover.mean(0) >= THORAX

    def auroc(self, scores: np.ndarray) -> float:
        from roi.scoring.metrics import auroc, mean_over_findings, per_class

        return mean_over_findings(per_class(auroc, scores, self.target), list(LABELS))

    def experts(self, logits: np.ndarray) -> dict[str, float]:
        """AUROC against the panel's labels, of the test images that it read."""
        from roi.scoring.metrics import auroc

        if self.args.expert_csv is None:
            return {}
        panel = pd.read_csv(self.args.expert_csv, dtype=str).drop_duplicates("Image Index").set_index("Image Index")
        rows = np.flatnonzero(self.table["image"].isin(panel.index))
        panel = panel.loc[self.table["image"].iloc[rows]]
        sizes = {"Pneumothorax": ("Pneumothorax",), "Nodule or mass": ("Nodule", "Mass")}
        found: dict[str, float] = {"images read by the panel": float(len(rows))}
        for name, findings in sizes.items():
            truth = (panel[name] == "YES").to_numpy().astype(np.float32)
            score = logits[rows][:, [LABELS.index(f) for f in findings]].max(1)
            found[f"AUROC by the panel, {name} ({int(truth.sum())} of {len(rows)})"] = float(auroc(score, truth))
        return found

    def picture(
        self, path: Path, findings: Sequence[str] = ("Cardiomegaly", "Effusion", "Pneumothorax", "Nodule")
    ) -> None:
        """Box, map, Grad-CAM and mask of seed 0 on the first image of dev that has a box, for each finding."""
        from matplotlib import pyplot
        from matplotlib.colors import ListedColormap

        from roi.data.images import read_grey
        from roi.models.masks import exact_topk, kept_pixels

        model = self.load("default", 0)
        logits, maps = self.outputs(model)
        own, cam = self.boxed(maps), self.grad_cam(model, 0)
        boxes, size = self.boxes, (self.args.img_size, self.args.img_size)
        figure, axes = pyplot.subplots(len(findings), 4, figsize=(8, 2.1 * len(findings)), layout="constrained")
        for line, (row, finding) in enumerate(zip(axes, findings, strict=True)):
            q = int(np.flatnonzero(boxes.dev & (boxes.column == LABELS.index(finding)))[0])
            image = self.rows["image"].iloc[boxes.image[q]]
            n = int(np.flatnonzero(self.table["image"] == image)[0])
            grey = read_grey(self.args.data_path / "images" / image, self.args.img_size)
            mask = exact_topk(
                model.combine_maps(maps[n : n + 1], logits[n : n + 1], size), kept_pixels(*size, KEEP_RATIO)
            )[0, 0].numpy()
            heat = {
                "its map": own[boxes.image[q], boxes.column[q]],
                "Grad-CAM": cam[boxes.image[q], boxes.column[q]].astype(float),
            }
            shown = {"box": None, **heat, "mask of all findings": mask}
            for axis, (title, layer) in zip(row, shown.items(), strict=True):
                axis.imshow(grey, cmap="gray", extent=(0, 1, 1, 0))
                if title in heat:
                    field = np.asarray(layer).reshape(CELLS, CELLS)
                    axis.imshow(field, cmap="inferno", alpha=0.5, extent=(0, 1, 1, 0), interpolation="bilinear")
                    y, x = np.unravel_index(field.argmax(), field.shape)
                    axis.plot(
                        (x + 0.5) / CELLS, (y + 0.5) / CELLS, "+", color="#40d0ff", markersize=9, markeredgewidth=2
                    )
                elif layer is not None:
                    axis.imshow(
                        np.where(layer > 0, 1.0, np.nan),
                        cmap=ListedColormap(["#40d0ff"]),
                        alpha=0.35,
                        extent=(0, 1, 1, 0),
                    )
                edge = boxes.inside[q].reshape(CELLS, CELLS).astype(float)
                axis.contour(
                    (np.arange(CELLS) + 0.5) / CELLS,
                    (np.arange(CELLS) + 0.5) / CELLS,
                    edge,
                    levels=[0.5],
                    colors="#ffe14d",
                    linewidths=1.3,
                )
                axis.set_title("" if line else title, fontsize=9)
                axis.set_xticks([])
                axis.set_yticks([])
            p = float(logits[n, LABELS.index(finding)].sigmoid())
            row[0].set_ylabel(f"{finding}\np = {p:.2f}", fontsize=9)
        figure.savefig(path, dpi=80)
        pyplot.close(figure)

    def counts(self, halves: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
        return {
            name: {
                "pairs": int(half.sum()),
                "images": len(set(self.boxes.image[half])),
                "patients": len(set(self.boxes.patient[half])),
            }
            for name, half in halves.items()
        }


def classifier_of(model: Any) -> Any:
    from roi.models.backbones import classifier_layer

    return classifier_layer(model.backbone)[1]


def pooled_of(model: Any, x: Any) -> Any:
    """What the classifier layer is given. (B, 3, H, W) -> (B, D)"""
    given: list[Any] = []
    hook = classifier_of(model).register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    try:
        model.backbone(x)
    finally:
        hook.remove()
    return given[0]


def spread(values: list[float]) -> dict[str, Any]:
    """Mean over the seeds, and each."""
    return {"value": round(float(np.mean(values)), 4), "seeds": [round(value, 4) for value in values]}


def judge(found: dict[str, Any], arm: dict[str, Any], half: str) -> dict[str, dict[str, Any]]:
    """The goals, on the boxes that are open."""
    boxes, mask = found[half], found["mask"]
    own = boxes["own map"]
    checks = {
        "finding's map pointing, mean of the seeds >= .25": (own["value"], own["value"] >= 0.25),
        "worst seed >= .20": (min(own["seeds"]), min(own["seeds"]) >= 0.20),
        "- Grad-CAM >= +.10": (boxes["own map - Grad-CAM"]["value"], boxes["own map - Grad-CAM"]["value"] >= 0.10),
        "- Grad-CAM, lower bound >= +.05": (
            boxes["own map - Grad-CAM"]["low"],
            boxes["own map - Grad-CAM"]["low"] >= 0.05,
        ),
        "own - shuffled >= +.08": (arm[half]["less shuffled"]["value"], arm[half]["less shuffled"]["value"] >= 0.08),
        "own - shuffled, lower bound >= +.04": (
            arm[half]["less shuffled"]["low"],
            arm[half]["less shuffled"]["low"] >= 0.04,
        ),
        "- centre, lower bound > 0": (boxes["own map - centre"]["low"], boxes["own map - centre"]["low"] > 0),
        "above the best fixed place a finding (moonshot)": (
            boxes["own map - best fixed place"]["value"],
            boxes["own map - best fixed place"]["value"] > 0,
        ),
        "share of the mask in the outer tenth <= .20": (
            mask["share in the outer tenth"]["value"],
            mask["share in the outer tenth"]["value"] <= 0.20,
        ),
        "AUROC of the crop - blobs >= +.05": (mask["crop - blobs"]["value"], mask["crop - blobs"]["value"] >= 0.05),
        "random drop - mask's drop >= +.03": (
            mask["random drop - mask's drop"]["value"],
            mask["random drop - mask's drop"]["value"] >= 0.03,
        ),
        "the same crop, judged, - blobs >= +.05": (
            mask["judged: crop - blobs"]["value"],
            mask["judged: crop - blobs"]["value"] >= 0.05,
        ),
        "judged, random drop - mask's drop >= +.03": (
            mask["judged: random drop - mask's drop"]["value"],
            mask["judged: random drop - mask's drop"]["value"] >= 0.03,
        ),
        "minutes of an arm <= 2": (arm["minutes"], arm["minutes"] <= 2),
    }
    return {name: {"value": round(float(value), 4), "met": bool(met)} for name, (value, met) in checks.items()}


def show(result: dict[str, Any], path: Path) -> None:
    for arm, figures in result["arms"].items():
        for half in figures.keys() - {"minutes"}:
            pointing, less = figures[half]["pointing"], figures[half]["less shuffled"]
            seeds = " ".join(f"{value:.3f}" for value in pointing["seeds"])
            interval = f"[{pointing['low']:.3f}, {pointing['high']:.3f}]"
            shown = f"{pointing['value']:.3f} {interval}  less shuffled {less['value']:+.3f}"
            print(f"{arm:32s} {half:5s} {shown}  ({seeds})")
    for name, goal in result["goals"].items():
        print(f"{'met   ' if goal['met'] else 'MISSED'} {name}: {goal['value']}")
    print(path)


if __name__ == "__main__":
    cli.run(main, parse_args)
