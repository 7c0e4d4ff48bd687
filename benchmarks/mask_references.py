"""Could any mask do better? Learned maps beside maps that are looked for on each test image: RISE, extremal masks.

    python benchmarks/mask_references.py --name hard --checkpoints runs/mask_study_hard/evidence_0/roi_best.pt \\
        --csv runs/mask_study_hard/test.csv --image_root runs/mask_study_hard/data \\
        --bbox_csv runs/mask_study_hard/data/BBox_List_2017.csv --out runs/references_hard

For some of the images that have a box (by a hash of their names), of each checkpoint:

  its map      the model's own map of each finding
  Grad-CAM     of the same classifier
  RISE         --grids random masks an image (roi/inference/perturbation_maps.py)
  preserve     the mask whose crop the classifier believes most, found by an optimiser
  delete       the mask whose absence it misses most

By finding they point at its box; the highest cell of an optimised mask, which is 1 in many, is that of it blurred. As
one mask of all findings they keep --keep_ratio of the image: the maps are united as the model unites its own, weighed
by the probability of each finding on the whole image, and the optimised ones are looked for with the same weights. No
label and no box is used. Crop and drop are then judged beside random blobs of the same area, on the same images.

Maps that are there are not made again. Writes benchmarks/results/mask_references_<name>-<machine>.json.
"""

import argparse
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from evidence_study import CELLS, Boxes, in_dev, read_pairs
from harness import add_machine, write_result
from scipy.ndimage import gaussian_filter

from roi import cli
from roi.counter_rng import row_seeds
from roi.data.boxes import read_boxes
from roi.data.images import locate, read_grey
from roi.data.table import read_table
from roi.data.targets import target_matrix
from roi.errors import UserError
from roi.inference.grad_cam import GradCam
from roi.inference.perturbation_maps import RandomGrids, Search, extremal_mask, hard_mask, rise
from roi.labels import LABELS
from roi.models.masks import kept_pixels, random_mask, upsample
from roi.models.roi_model import RoiModel
from roi.progress import say
from roi.scoring.metrics import auroc, mean_over_findings, per_class
from roi.text import decimal
from roi.training.checkpoint import load_model
from roi.training.mask_controls import contrast

MAPS = ("its map", "Grad-CAM", "RISE")
SEARCHED = {"preserve": "crop", "delete": "drop"}
VIEWS = ("crop", "drop")
METHODS = (*MAPS, *SEARCHED)
BLOB_DRAWS = 4
BLUR = 1.5  # cells
RESAMPLES = 1000
SHUFFLES = 20


class Images(NamedTuple):
    """N test images with a box; K classes of the checkpoint."""

    classes: list[str]
    pixels: torch.Tensor  # (N, 1, H, W) uint8
    target: np.ndarray  # (N, K)
    patient: np.ndarray  # (N,) number of the patient
    boxes: Boxes  # whose columns are those of the classes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument("--name", required=True, help="names the result file: mask_references_NAME")
    parser.add_argument(
        "--checkpoints", nargs="+", type=Path, required=True, metavar="PT", help="of one training, a seed each"
    )
    parser.add_argument("--csv", type=Path, required=True, help="table of the test images")
    parser.add_argument("--image_root", type=Path, required=True, metavar="DIR", help="where they lie")
    parser.add_argument("--bbox_csv", type=Path, required=True, metavar="CSV", help="boxes")
    parser.add_argument(
        "--dev",
        action=cli.on_off,
        default=False,
        help="only patients of the half on which designs were chosen (evidence_study.py) (default: no)",
    )
    parser.add_argument("--images", type=count, default=120, metavar="N", help="images (default: %(default)s)")
    parser.add_argument("--grids", type=count, default=1000, metavar="N", help="masks of RISE (default: %(default)s)")
    parser.add_argument("--steps", type=count, default=30, metavar="N", help="of the search (default: %(default)s)")
    parser.add_argument(
        "--keep_ratio", type=cli.number(float, 0, 1), default=0.1, metavar="0..1", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--bf16", action=cli.on_off, default=False, help="search in bf16; figures are in fp32 (default: no)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="maps; what is there is done")
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = [load_model(checkpoint) for checkpoint in args.checkpoints]
    images = read_images(args, loaded[0][1])
    own: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    other: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    views = []
    for seed, (model, _) in enumerate(loaded):
        model.eval().requires_grad_(False)
        maps, masks = find_all(args, seed, model, images)
        for method in METHODS:
            found = hits(images.boxes, maps[method])
            own[method].append(found[0])
            other[method].append(found[1])
        views.append(judge(args, model, images, masks))
    means = [{method: np.mean(values[method], axis=0) for method in METHODS} for values in (own, other)]
    result = {
        "what": "maps found on each test image beside learned ones: pointing, and crop and drop of one mask",
        "command": command_of(args),
        "images": len(images.pixels),
        "pairs": len(images.boxes.image),
        "patients": len(np.unique(images.patient)),
        "pointing": placed(images.boxes, *means),
        "one mask": judged(images, views),
    }
    path = write_result(f"mask_references_{args.name}", args.machine, result)
    print(table(result))
    print(path)


def command_of(args: argparse.Namespace) -> str:
    words = ["python", "benchmarks/mask_references.py", "--name", args.name]
    for flag in ("images", "grids", "steps", "keep_ratio"):
        words += [f"--{flag}", str(getattr(args, flag))]
    words += [f"--{flag}" for flag in ("dev", "bf16") if getattr(args, flag)]
    return shlex.join(words) + " --checkpoints … --csv … --image_root … --bbox_csv … --out …"


def read_images(args: argparse.Namespace, checkpoint: dict[str, Any]) -> Images:
    """The first images that have a box, in the order of a hash of their names."""
    table = read_table(args.csv)
    table = table[table["image"].isin(read_boxes(args.bbox_csv)["image"])]
    if args.dev:
        table = table[table["patient_id"].map(in_dev)]
    digests = table["image"].map(lambda name: hashlib.blake2b(name.encode()).hexdigest())
    table = table.loc[digests.sort_values().index[: args.images]].reset_index(drop=True)
    boxes, _ = read_pairs(args.bbox_csv, table)
    classes = checkpoint["classes"]
    boxes.column = np.array([classes.index(LABELS[column]) for column in boxes.column])
    pixels = []
    for name, path in zip(table["image"], locate(args.image_root, table["image"]), strict=True):
        if path is None:
            raise UserError(f"{args.image_root}: no image {name}, which {args.csv} names")
        pixels.append(read_grey(path, checkpoint["args"]["img_size"]))
    patient = np.unique(table["patient_id"], return_inverse=True)[1]
    target = target_matrix(table, classes)
    return Images(classes, torch.from_numpy(np.stack(pixels))[:, None], target, patient, boxes)


# ---- what is found --------------------------------------------------------------------------------------------------


def find_all(
    args: argparse.Namespace, seed: int, model: RoiModel, images: Images
) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """-> maps by method (N, K, CELLS * CELLS), NaN where none was looked for; masks by method (N, 1, H, W) 0/1."""
    size = (images.pixels.shape[-2], images.pixels.shape[-1])
    with torch.inference_mode():
        outputs = [model.logits_and_maps(model.normalise(part)) for part in images.pixels.split(8)]
    logits, own = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    fields = {"its map": lambda: upsample(own, (CELLS, CELLS))}
    cam = GradCam(model, size[0])
    fields["Grad-CAM"] = lambda: torch.cat([cam(part, CELLS) for part in images.pixels.split(8)])
    fields["RISE"] = lambda: rise_maps(args, model, images.pixels)
    maps: dict[str, np.ndarray] = {}
    masks: dict[str, torch.Tensor] = {}
    for method, make in fields.items():
        with autocast(args.bf16 and method == "RISE"):
            cells = torch.from_numpy(kept(args.out / f"{seed}_{method.replace(' ', '_')}.npy", make))
        maps[method] = cells.flatten(2).numpy()
        masks[method] = hard_mask(model.combine_maps(cells, logits, size), args.keep_ratio)
    present = model.findings * logits.sigmoid()
    for method, view in SEARCHED.items():
        maps[method], masks[method] = search_all(args, seed, model, images, present, method, view)
    return maps, masks


def kept(path: Path, make: Callable[[], torch.Tensor]) -> np.ndarray:
    """What lies there, else what is made now and will lie there."""
    if not path.is_file():
        say(f"{path.stem}: begins")
        np.save(path, make().float().numpy())
    return np.load(path)


def autocast(bf16: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def rise_maps(args: argparse.Namespace, model: RoiModel, pixels: torch.Tensor) -> torch.Tensor:
    """The same random masks for all images, (N, K, CELLS, CELLS)."""
    size = (pixels.shape[-2], pixels.shape[-1])
    grids = RandomGrids.draw(args.grids, size, torch.Generator().manual_seed(0))
    return rise(model, pixels, grids, CELLS)


def search_all(
    args: argparse.Namespace,
    seed: int,
    model: RoiModel,
    images: Images,
    present: torch.Tensor,
    method: str,
    view: str,
) -> tuple[np.ndarray, torch.Tensor]:
    """Masks of single findings where they have a box, (N, K, cells), and one mask of all findings, (N, 1, H, W)."""
    search = Search(area=args.keep_ratio, steps=args.steps)
    boxes = images.boxes

    def look(rows: np.ndarray, weights: torch.Tensor) -> torch.Tensor:
        parts = []
        for chosen in np.array_split(np.arange(len(rows)), -(-len(rows) // 8)):
            with autocast(args.bf16):
                parts.append(extremal_mask(model, images.pixels[rows[chosen]], weights[chosen], view, search))
        return torch.cat(parts)

    one_finding = torch.nn.functional.one_hot(torch.from_numpy(boxes.column), len(images.classes)).float()
    single = kept(
        args.out / f"{seed}_{method}_single.npy",
        lambda: torch.nn.functional.adaptive_avg_pool2d(look(boxes.image, one_finding), CELLS),
    )
    maps = np.full((*images.target.shape, CELLS * CELLS), np.nan)
    blurred = gaussian_filter(single, BLUR, axes=(2, 3))
    maps[boxes.image, boxes.column] = blurred.reshape(len(blurred), -1)
    weights = present / present.sum(1, keepdim=True)
    everyone = np.arange(len(images.pixels))
    of_all = kept(args.out / f"{seed}_{method}_all.npy", lambda: look(everyone, weights))
    return maps, hard_mask(torch.from_numpy(of_all), args.keep_ratio)


# ---- what it is worth -----------------------------------------------------------------------------------------------


def hits(boxes: Boxes, maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the highest cell of a pair's own map lies in its box, and how often that of the same finding's maps of
    other patients does, NaN where nobody else has the finding. (N, K, cells) -> (Q,), (Q,)
    """
    pair = np.arange(len(boxes.image))
    peak = maps[boxes.image, boxes.column].argmax(1)  # (Q,)
    own = boxes.inside[pair, peak].astype(float)
    other = np.full(len(pair), np.nan)
    rng = np.random.default_rng(1)
    for q in pair:
        others = np.flatnonzero((boxes.finding == boxes.finding[q]) & (boxes.patient != boxes.patient[q]))
        if len(others):
            other[q] = boxes.inside[q, peak[rng.choice(others, SHUFFLES)]].mean()
    return own, other


def judge(
    args: argparse.Namespace, model: RoiModel, images: Images, masks: dict[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """Logits (N, K) of the whole images, and of crop and drop of each mask and of blobs: "full", "crop RISE", …"""
    size = (images.pixels.shape[-2], images.pixels.shape[-1])
    rows = torch.arange(len(images.pixels))
    found: dict[str, np.ndarray] = {}
    drawn = {}
    for draw in range(BLOB_DRAWS):
        blobs = random_mask(row_seeds(0, draw, rows), size, kept_pixels(*size, args.keep_ratio))
        drawn[f"blobs {draw}"] = blobs
    with torch.inference_mode():
        x = model.normalise(images.pixels)
        found["full"] = torch.cat([model.backbone(part) for part in x.split(8)]).numpy()
        for name, mask in (masks | drawn).items():
            parts = list(zip(x.split(8), mask.split(8), strict=True))
            found[f"crop {name}"] = torch.cat([model.crop(*part) for part in parts]).numpy()
            found[f"drop {name}"] = torch.cat([model.drop(*part) for part in parts]).numpy()
    return found


def with_intervals(figures: Callable[[np.ndarray], dict[str, float]], patient: np.ndarray) -> dict[str, Any]:
    """Figures of the rows that are given, with their intervals over patients drawn with replacement."""
    rng = np.random.default_rng(3)
    rows_of = [np.flatnonzero(patient == p) for p in np.unique(patient)]
    drawn = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(rows_of), len(rows_of))
        drawn.append(list(figures(np.concatenate([rows_of[p] for p in chosen])).values()))
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    found = {}
    for n, (name, value) in enumerate(figures(np.arange(len(patient))).items()):
        numbers = {"value": value, "low": low[n], "high": high[n]}
        found[name] = {key: round(float(number), 4) for key, number in numbers.items()}
    return found


def placed(boxes: Boxes, own: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, Any]:
    """Pointing and own - shuffled of each method, means over findings; of (Q,) values each."""

    def mean(values: np.ndarray, finding: np.ndarray) -> float:
        each = [values[(finding == f) & ~np.isnan(values)] for f in np.unique(finding)]
        return float(np.mean([some.mean() for some in each if len(some)]))

    def figures(rows: np.ndarray) -> dict[str, float]:
        finding, found = boxes.finding[rows], {}
        for method in METHODS:
            found[f"{method}: pointing"] = mean(own[method][rows], finding)
            found[f"{method}: own - shuffled"] = mean((own[method] - other[method])[rows], finding)
        return found

    return with_intervals(figures, boxes.patient)


def judged(images: Images, views: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Of each method, means over the seeds: AUROC of crop and drop, both beside blobs, and what logits fall by."""

    def of_seed(seed: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, float]:
        target, found = images.target[rows], {}
        area = {name: mean_over_findings(per_class(auroc, v[rows], target), images.classes) for name, v in seed.items()}
        falls = {name: contrast((seed["full"] - v)[rows], target, images.classes) for name, v in seed.items()}
        blobs = {view: np.mean([area[f"{view} blobs {draw}"] for draw in range(BLOB_DRAWS)]) for view in VIEWS}
        found["full: AUROC"] = area["full"]
        for view in VIEWS:
            found[f"blobs: AUROC of the {view}"] = float(blobs[view])
        for method in METHODS:
            found[f"{method}: AUROC of the crop"] = area[f"crop {method}"]
            found[f"{method}: crop - blobs"] = area[f"crop {method}"] - float(blobs["crop"])
            found[f"{method}: AUROC of the drop"] = area[f"drop {method}"]
            found[f"{method}: random drop - drop"] = float(blobs["drop"]) - area[f"drop {method}"]
            found[f"{method}: present fall beyond absent"] = falls[f"drop {method}"]
        return found

    def figures(rows: np.ndarray) -> dict[str, float]:
        seeds = [of_seed(seed, rows) for seed in views]
        return {name: float(np.mean([seed[name] for seed in seeds])) for name in seeds[0]}

    return with_intervals(figures, images.patient)


def table(result: dict[str, Any]) -> str:
    """Markdown, a row a method."""
    columns = ["pointing", "own - shuffled", "AUROC of the crop", "crop - blobs", "AUROC of the drop"]
    columns += ["random drop - drop", "present fall beyond absent"]
    found = result["pointing"] | result["one mask"]
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in METHODS:
        cells = []
        for column in columns:
            figure = found[f"{method}: {column}"]
            cells.append(f"{decimal(figure['value'], 3)} [{decimal(figure['low'], 3)}, {decimal(figure['high'], 3)}]")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    for name in ("full: AUROC", "blobs: AUROC of the crop", "blobs: AUROC of the drop"):
        lines.append(f"{name} {decimal(found[name]['value'], 3)}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, parse_args)
