"""Does the mask find the evidence, and does the classifier keep its skill? The objectives side by side.

    python benchmarks/mask_study.py --out runs/mask_study

Draws a demo set (its boxes are never used in training), then for each seed trains the classifier alone, the published
objective and the evidence objective for the same number of epochs, the epoch that is best on the validation images
predicts the test images, and what the masks keep is scored against the boxes, against Grad-CAM of the classifier alone,
and against random, centre and re-initialised masks. Runs that are there are not repeated. --hard: on the hard demo set.
--ablations adds variants of the evidence objective (seed 0).

Prints the table of the README and writes benchmarks/results/mask_study-<machine>.json: every figure of every run, mean
and standard deviation over the seeds, the goals and whether they are met; and, beside it, a picture of what each term
asks for.
"""

import argparse
import csv
import json
import shlex
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness import add_machine, script, write_result

from roi import cli
from roi.text import decimal

VARIANTS: dict[str, tuple[object, ...]] = {
    "standard": ("train_roi_baselines.py", "--mode", "standard"),
    "consistency": ("train_roi_consistency.py", "--objective", "consistency"),
    "evidence": ("train_roi_consistency.py",),
}
ABLATIONS: dict[str, tuple[object, ...]] = {
    "no_consist": ("train_roi_baselines.py", "--mode", "no_consist"),
    "no_drop": ("train_roi_baselines.py", "--mode", "no_drop"),
    "no_locate": ("train_roi_baselines.py", "--mode", "no_locate"),
    "one_map": ("train_roi_consistency.py", "--no-mask_per_class"),
    "conv_net": ("train_roi_consistency.py", "--mask_net", "conv"),
    "no_random_views": ("train_roi_consistency.py", "--random_views", 0),
    "no_warm_up": ("train_roi_consistency.py", "--warmup_epochs", 0),
    "fill_blur": ("train_roi_consistency.py", "--fill", "blur"),
    "fill_noise": ("train_roi_consistency.py", "--fill", "noise"),
}
ABLATIONS["sharpness_1"] = ("train_roi_consistency.py", "--locate_sharpness", 1)
ABLATIONS["view_share_third"] = ("train_roi_consistency.py", "--view_share", 0.33)
ABLATIONS["map_average"] = ("train_roi_consistency.py", "--map_average", 0.98)
ABLATIONS["view_share_quarter"] = ("train_roi_consistency.py", "--view_share", 0.25)
LEARNED = ("consistency", "evidence", *ABLATIONS)
FIGURES = {  # figure: heading of the table
    "full": "full",
    "crop": "crop",
    "random_crop": "random crop",
    "drop": "drop",
    "random_drop": "random drop",
    "own": "finding's map",
    "own_less_shuffled": "less shuffled",
    "best_place": "best fixed place",
    "judged_crop": "crop, judged",
    "judged_drop": "drop, judged",
    "pointing": "union pointing",
    "share": "share of box",
    "reinit_pointing": "re-initialised: pointing",
    "reinit_share": "share of box",
    "probe": "probe of m",
    "minutes": "minutes",
}
CELLS = 24  # side of the masks that the probe sees


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count = cli.number(int, 1)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the demo set and the runs; what is there is done",
    )
    parser.add_argument(
        "--hard",
        action=cli.on_off,
        default=False,
        help="the hard demo set: borders, markers, wrong labels, faint findings (default: no)",
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=[*VARIANTS, *ABLATIONS],
        default=list(VARIANTS),
        metavar="NAME",
        help="what is trained (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=count, default=4000, metavar="N", help="images of the demo set (default: %(default)s)"
    )
    parser.add_argument(
        "--img_size", type=count, default=96, metavar="PX", help="side of the images (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs",
        type=cli.number(int, 2),
        default=10,
        metavar="N",
        help="passes over the training images (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=cli.number(int, 2), default=3, metavar="N", help="runs of each variant (default: %(default)s)"
    )
    parser.add_argument(
        "--backbone", default="test_resnet", metavar="NAME", help="trained from scratch (default: %(default)s)"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    parser.add_argument(
        "--ablations",
        action=cli.on_off,
        default=False,
        help="variants of the evidence objective too, seed 0 (default: no)",
    )
    parser.add_argument("--jobs", type=count, default=2, metavar="N", help="runs side by side (default: %(default)s)")
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="threads of each run (default: %(default)s)"
    )
    add_machine(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    data = args.out / "data"
    if not (data / "demo.json").is_file():
        kind = ("--hard",) if args.hard else ()
        script(
            "make_demo_dataset.py", "--out", data, "--images", args.images, "--size", args.img_size, "--seed", 0, *kind
        )
    make = ("make_chexmultimodal_csv.py", "--src_csv", data / "Data_Entry_2017.csv", "--image_dir", data)
    script(*make, "--out_csv", args.out / "train.csv", "--fillna", "Normal")
    script(*make, "--out_csv", args.out / "test.csv", "--filter_list", data / "test_list.txt")
    runs = [(variant, seed) for seed in range(args.seeds) for variant in args.variants]
    runs += [(variant, 0) for variant in ABLATIONS] if args.ablations else []
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train_and_score(args, *run), runs))
    rows = {f"{variant}, seed {seed}": figures(args, variant, seed) for variant, seed in runs}
    summary = {
        variant: summarise([rows[f"{v}, seed {s}"] for v, s in runs if v == variant])
        for variant in dict.fromkeys(v for v, _ in runs)
    }
    place = place_probe(args)
    steps = step_times(args) if "consistency" in args.variants else {}
    judge = judge_hard if args.hard else judge_goals
    goals = judge(summary, place, steps) if {"standard", "evidence"} <= set(args.variants) else {}
    # What a variant of the evidence objective reaches of its goals.
    goals_of = {}
    for variant in set(ABLATIONS) & set(args.variants):
        if "standard" in args.variants:
            goals_of[variant] = judge(summary | {"evidence": summary[variant]}, place, {})
    versions = json.loads((args.out / "standard_0" / "preds.meta.json").read_text())["versions"]
    command = [
        "python",
        "benchmarks/mask_study.py",
        *(f"--{name}={getattr(args, name)}" for name in ("images", "img_size", "epochs", "seeds", "backbone", "lr")),
    ]
    command += ["--hard"] if args.hard else []
    command += ["--variants", *args.variants] if args.variants != list(VARIANTS) else []
    command += ["--ablations"] if args.ablations else []
    name = "mask_study_hard" if args.hard else "mask_study"
    # The figures of the objectives stay where they are.
    name += "" if "evidence" in args.variants else "_variants"
    path = write_result(
        name,
        args.machine,
        {
            "what": "objectives of ROI consistency on the demo set, test images; mean AUROC over findings; "
            "boxes never used in training",
            "command": shlex.join(command) + " --out …",
            "versions": versions,
            "goals": goals,
            **({"goals_of_variants": goals_of} if goals_of else {}),
            "summary": summary,
            "place_probe": place,
            "step_seconds": steps,
            "rows": rows,
        },
    )
    if "evidence" in args.variants:
        picture(args, path.with_suffix(".png"))
    print(table(summary))
    for title, judgements in {"": goals, **goals_of}.items():
        for name, goal in judgements.items():
            met = "met   " if goal["met"] else "MISSED"
            print(f"{met} {title} {name}: {decimal(goal['value'], 3)} (goal {goal['goal']})")
    print(
        f"probe of the true boxes: {place['boxes']:.3f}, of the same area as a mask: {place['same_area']:.3f}; {path}"
    )


def folder_of(args: argparse.Namespace, variant: str, seed: int) -> Path:
    return args.out / f"{variant}_{seed}"


def train_and_score(args: argparse.Namespace, variant: str, seed: int) -> None:
    """Train, predict, score; what is there is done."""
    folder, data = folder_of(args, variant, seed), args.out / "data"
    done = folder / "scores" / "metrics.json"
    if done.is_file():
        return
    flags = (ABLATIONS | VARIANTS)[variant]
    common = {"threads": args.threads, "log": folder / "log.txt"}
    script(
        *flags,
        "--train_csv",
        args.out / "train.csv",
        "--exclude_csv",
        args.out / "test.csv",
        "--image_root",
        data,
        "--backbone",
        args.backbone,
        "--weights",
        "none",
        "--batch_size",
        32,
        "--lr",
        args.lr,
        "--epochs",
        args.epochs,
        "--img_size",
        args.img_size,
        "--seed",
        seed,
        "--workers",
        0,
        "--device",
        args.device,
        "--save",
        folder / "roi.pt",
        "--log_csv",
        folder / "metrics.csv",
        "--resume",
        "auto",
        **common,
    )
    outputs: tuple[object, ...] = ("--save_json", folder / "preds.json")
    outputs += ("--cam", folder / "cam.npz") if variant not in LEARNED else ("--save_masks", folder / "masks.npz")
    maps = [outputs[-1]]
    if variant in LEARNED and variant not in ("consistency", "one_map"):
        outputs += ("--class_masks", folder / "class_masks.npz")
        maps.append(outputs[-1])
    boxes = ("--bbox_csv", data / "BBox_List_2017.csv")
    script(
        "infer_roi_consistency.py",
        "--checkpoint",
        folder / "roi_best.pt",
        "--csv",
        args.out / "test.csv",
        "--image_root",
        data,
        "--workers",
        0,
        "--device",
        args.device,
        *outputs,
        *boxes,
        "--overwrite",
        **common,
    )
    script(
        "evaluate.py",
        "--preds",
        folder / "preds.json",
        "--csv",
        args.out / "test.csv",
        "--masks",
        *maps,
        *boxes,
        "--out",
        done.parent,
        "--overwrite",
        **common,
    )


def figures(args: argparse.Namespace, variant: str, seed: int) -> dict[str, float]:
    """What one run has to show; kept in its folder."""
    folder = folder_of(args, variant, seed)
    kept = folder / "figures.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    scores = json.loads((folder / "scores" / "metrics.json").read_text())
    with open(folder / "metrics.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    row = {"minutes": sum(float(e["seconds"]) for e in epochs) / 60, "seconds_last_epoch": float(epochs[-1]["seconds"])}
    row |= {
        part: scores["mean"][key]["value"]
        for part, key in (("full", "auroc"), ("crop", "auroc_crop"), ("drop", "auroc_drop"))
        if key in scores["mean"]
    }
    sources = scores["localization"]["sources"]

    def place(source: str) -> dict[str, float]:
        mean = sources[source]["mean"]
        return {
            "pointing": mean["pointing_union"]["value"],
            "share": mean["recall"]["value"],
            "pointing_finding": mean["pointing"]["value"],
        }

    own = "mask" if variant in LEARNED else "cam"
    row |= place(own)
    for source, name in (
        (f"{own}_reinit", "reinit"),
        ("random", "random"),
        ("centre", "centre"),
        ("class_mask", "class_mask"),
    ):
        if source in sources:
            row |= {f"{name}_{key}": value for key, value in place(source).items()}
    headline = "class_mask" if "class_mask" in sources else own
    pointing = sources[headline]["mean"]["pointing"]["value"]
    row |= {"own": pointing, "own_less_shuffled": sources[headline]["minus"]["shuffled"]["pointing"]["value"]}
    row["best_place"] = sources["best_place"]["mean"]["pointing"]["value"]
    row |= looked_at(args, variant, seed)
    kept.write_text(json.dumps(row, indent=1) + "\n")
    return row


def looked_at(args: argparse.Namespace, variant: str, seed: int) -> dict[str, float]:
    """AUROC of a run when random blobs of the mask's area are dropped, of the classifier alone (same seed) on what the
    mask keeps and drops, and of a probe that sees the mask alone.
    """
    import numpy as np
    import torch

    from roi.counter_rng import row_seeds
    from roi.models.masks import kept_pixels, random_mask
    from roi.training.checkpoint import load_model
    from roi.training.device import pick_device

    device = pick_device(args.device)
    model = load_model(folder_of(args, variant, seed) / "roi_best.pt")[0].to(device)
    judge = load_model(folder_of(args, "standard", seed) / "roi_best.pt")[0].to(device)
    k = kept_pixels(args.img_size, args.img_size, 0.1)
    masks: dict[str, Any] = {}
    with torch.inference_mode():
        for part in ("train", "test"):
            loader, target = batches(args, part)
            logits: dict[str, list[Any]] = {
                "random_crop": [],
                "random_drop": [],
                "judged_crop": [],
                "judged_drop": [],
                "mask": [],
            }
            for batch in loader:
                x = model.normalise(batch.pixels.to(device))
                if part == "test":
                    blobs = random_mask(row_seeds(0, 0, batch.index), (args.img_size, args.img_size), k).to(device)
                    for name, m in (("random_crop", blobs), ("random_drop", 1 - blobs)):
                        logits[name].append(model.backbone(model.apply_mask(x, m, row_seeds(0, 0, batch.index))))
                if variant in LEARNED:
                    hard = model.masks(x, 0.1, None)[1]
                    logits["mask"].append(torch.nn.functional.adaptive_avg_pool2d(hard, CELLS).flatten(1))
                    if part == "test":
                        logits["judged_crop"].append(judge.backbone(x * hard))
                        logits["judged_drop"].append(judge.backbone(x * (1 - hard)))
            joined = {name: torch.cat(values).float().cpu().numpy() for name, values in logits.items() if values}
            masks[part] = (joined.pop("mask", None), target)
            row = {name: mean_auroc(values, target) for name, values in joined.items()}
    if variant in LEARNED:
        row["probe"] = probe(*masks["train"], *masks["test"])
    return {name: float(np.round(value, 6)) for name, value in row.items()}


def batches(args: argparse.Namespace, part: str) -> tuple[Any, Any]:
    """-> (loader of the table in its order, targets (N, K)); part: train (test images left out) or test."""
    from roi.data.dataset import XrayDataset, rows_with_images
    from roi.data.loader import make_loader
    from roi.data.splits import belongs_to
    from roi.data.table import read_table
    from roi.data.targets import target_matrix
    from roi.labels import LABELS

    table = read_table(args.out / f"{part}.csv")
    if part == "train":
        table = table[~belongs_to(table, [read_table(args.out / "test.csv")])]
    table, paths = rows_with_images(table, str(args.out / "data"), False, args.out)
    target = target_matrix(table, list(LABELS))
    return make_loader(XrayDataset(paths, target, args.img_size), 64)[0], target


def mean_auroc(logits: Any, target: Any) -> float:
    from roi.labels import LABELS
    from roi.scoring.metrics import auroc, mean_over_findings, per_class

    return mean_over_findings(per_class(auroc, logits, target), list(LABELS))


def probe(train: Any, train_target: Any, test: Any, test_target: Any) -> float:
    """Mean AUROC on the test images of a small network that sees masks alone: (N, cells) in 0..1, (N, K)."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(
            nn.Linear(train.shape[1], 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, train_target.shape[1])
        )
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
        x, y = torch.from_numpy(train), torch.from_numpy(train_target)
        for _ in range(30):
            for rows in torch.randperm(len(x)).split(64):
                loss = nn.functional.binary_cross_entropy_with_logits(net(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return mean_auroc(net.eval()(torch.from_numpy(test)).numpy(), test_target)


def place_probe(args: argparse.Namespace) -> dict[str, float]:
    """The same probe on the true boxes: what the place of the findings tells by itself, as "boxes" as they are and as
    "same_area", the 10 % of the image nearest to them. An image without a finding has the boxes of another image, drawn
    at random.
    """
    import numpy as np
    import torch

    from roi.data.boxes import read_boxes
    from roi.data.splits import belongs_to
    from roi.data.table import read_table
    from roi.models.masks import exact_topk, kept_pixels

    boxes = {
        image: rows[["x", "y", "w", "h"]].to_numpy()
        for image, rows in read_boxes(args.out / "data" / "BBox_List_2017.csv").groupby("image")
    }
    rng = np.random.default_rng(0)
    side = args.img_size
    y, x = np.mgrid[:side, :side] / side + 0.5 / side
    seen: dict[str, list[Any]] = {"boxes": [], "same_area": []}
    for part in ("train", "test"):
        table = read_table(args.out / f"{part}.csv")
        if part == "train":
            table = table[~belongs_to(table, [read_table(args.out / "test.csv")])]
        own = [boxes.get(Path(image).name) for image in table["image"]]
        there = [b for b in own if b is not None]
        near = []
        for b in (b if b is not None else there[rng.integers(len(there))] for b in own):
            away = [
                np.maximum(np.maximum(left - x, x - left - w), np.maximum(top - y, y - top - h))
                for left, top, w, h in b
            ]
            near.append(-np.maximum(np.min(away, axis=0), 0))
        closeness = torch.from_numpy(np.stack(near))[:, None].float()
        for name, mask in (
            ("boxes", (closeness >= 0).float()),
            ("same_area", exact_topk(closeness, kept_pixels(side, side, 0.1))),
        ):
            seen[name] += [
                torch.nn.functional.adaptive_avg_pool2d(mask, CELLS).flatten(1).numpy(),
                batches(args, part)[1],
            ]
    return {name: probe(*parts) for name, parts in seen.items()}


def step_times(args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of a training step of each variant on one batch of 32, measured in turns."""
    import torch

    from roi.labels import LABELS
    from roi.losses.objectives import EvidenceOptions, consistency_terms, evidence_terms
    from roi.models.roi_model import ModelOptions, build_model
    from roi.training.device import pick_device

    device = pick_device(args.device)
    batch = next(iter(batches(args, "train")[0]))
    pixels, target = batch.pixels[:32].to(device), batch.target[:32].to(device)
    seeds = torch.arange(32, device=device)
    kinds = {"standard": ("none", False), "consistency": ("conv", False), "evidence": ("features", True)}
    models = {
        name: build_model(args.backbone, len(LABELS), mask, "none", args.img_size, options=ModelOptions(per_class))
        .to(device)
        .train()
        for name, (mask, per_class) in kinds.items()
    }
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    took: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(13):
        for name, model in models.items():
            began = time.perf_counter()
            terms = (
                evidence_terms(model, pixels, target, EvidenceOptions(0.1, 0.15), seeds)
                if name == "evidence"
                else consistency_terms(model, pixels, target, 0.1)
            )
            sum(v for v in terms.values() if v.requires_grad).backward()  # type: ignore[union-attr]
            optimizers[name].step()
            optimizers[name].zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn > 1:
                took[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in took.items()}


def picture(args: argparse.Namespace, path: Path) -> None:
    """X-ray, mask, crop and drop of the first test image with two findings (evidence, seed 0), what terms ask for."""
    import numpy as np
    import torch
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    from roi.data.boxes import read_boxes
    from roi.data.table import read_table
    from roi.labels import LABELS
    from roi.models.backbones import IMAGENET
    from roi.scoring.map_file import read_maps
    from roi.training.checkpoint import load_model

    model, _ = load_model(folder_of(args, "evidence", 0) / "roi_best.pt")
    test = read_table(args.out / "test.csv")
    loader, target = batches(args, "test")
    row = int(np.flatnonzero(target.sum(1) == 2)[0])
    name, found = Path(test["image"].iloc[row]).name, [LABELS[k] for k in np.flatnonzero(target[row])]
    pixels = torch.from_numpy(np.stack([loader.loader.dataset[row][1]])[:, None])
    with torch.inference_mode():
        views = model(pixels, 0.1)
    grey, mask = pixels[0, 0].numpy() / 255, views.binary_mask[0, 0].numpy() > 0
    empty = sum(IMAGENET[0]) / 3
    own = read_maps(folder_of(args, "evidence", 0) / "class_masks.npz", [name])
    panels: list[tuple[str, Any, str]] = [("X-ray", grey, "full: the labels")]
    panels += [
        (
            f"map of {label}",
            own.maps["class_mask"][0, own.classes.index(label)],
            "locate: high somewhere,\nwhere it is present",
        )
        for label in found
    ]
    panels += [
        ("mask, 10 % kept", np.where(mask, 1.0, 0.0), "union of the maps,\nby the full view's p"),
        ("crop", np.where(mask, grey, empty), "consist: the labels\nfrom this alone"),
        ("drop", np.where(mask, empty, grey), "drop: what is present\nis no longer found"),
    ]
    boxes = read_boxes(args.out / "data" / "BBox_List_2017.csv")
    figure, axes = pyplot.subplots(1, len(panels), figsize=(2.1 * len(panels), 3.3), layout="constrained")
    for axis, (title, image, asks) in zip(axes, panels, strict=True):
        heat = title.startswith("map of")
        axis.imshow(
            image,
            cmap="magma" if heat else "gray",
            **({} if heat else {"vmin": 0, "vmax": 1}),
            extent=(0, 1, 1, 0),
            interpolation="nearest",
        )
        for _, box in boxes[boxes["image"] == name].iterrows():
            if not heat or box["label"] in title:
                axis.add_patch(
                    Rectangle((box["x"], box["y"]), box["w"], box["h"], fill=False, color="#40d0ff", linewidth=1.2)
                )
        view = {"X-ray": views.logits_full, "crop": views.logits_crop, "drop": views.logits_drop}.get(title)
        p = (
            ""
            if view is None
            else "\n" + "\n".join(f"p({label}) {view.sigmoid()[0, LABELS.index(label)]:.2f}" for label in found)
        )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(asks + p, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def summarise(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, standard deviation and range over the seeds."""
    summary: dict[str, Any] = {"runs": len(rows)}
    for name in [name for name in rows[0] if all(name in row for row in rows)]:
        values = [row[name] for row in rows]
        sd = statistics.stdev(values) if len(values) > 1 else None
        summary[name] = {"mean": statistics.fmean(values), "sd": sd, "lowest": min(values), "highest": max(values)}
    return summary


Goal = tuple[float, str, float, float]  # value, the goal in words, lowest, highest


def judge_goals(summary: dict[str, Any], place: dict[str, float], steps: dict[str, float]) -> dict[str, Any]:
    ours, alone = (means(summary[name]) for name in ("evidence", "standard"))
    wanted: dict[str, Goal] = {
        "AUROC full less standard": (ours["full"] - alone["full"], ">= -.005", -0.005, 1),
        "AUROC crop less full": (ours["crop"] - ours["full"], ">= -.03", -0.03, 1),
        "AUROC drop": (ours["drop"], "<= .62", 0, 0.62),
        "cost of a random drop of the same area": (ours["full"] - ours["random_drop"], "<= .03", -1, 0.03),
        "pointing game, union of boxes, mean": (ours["pointing"], ">= .88", 0.88, 1),
        "pointing game, union of boxes, worst seed": (summary["evidence"]["pointing"]["lowest"], ">= .83", 0.83, 1),
        "pointing less Grad-CAM of standard": (ours["pointing"] - alone["pointing"], ">= .15", 0.15, 1),
        "share of box area kept": (ours["share"], ">= .75", 0.75, 1),
        "pointing of re-initialised masks less chance": (
            ours["reinit_pointing"] - ours["random_pointing"],
            "<= .05",
            -1,
            0.05,
        ),
        "probe of the mask's shape less probe of the boxes as they are": (
            ours["probe"] - place["boxes"],
            "<= 0",
            -1,
            0,
        ),
    }
    if steps:
        wanted |= {
            "step of the evidence objective / published three-view step": (
                steps["evidence"] / steps["consistency"],
                "<= 1.35",
                0,
                1.35,
            ),
            "training minutes / published": (
                ours["minutes"] / summary["consistency"]["minutes"]["mean"],
                "<= 1.35",
                0,
                1.35,
            ),
        }
    return judged(wanted)


def judge_hard(summary: dict[str, Any], place: dict[str, float], steps: dict[str, float]) -> dict[str, Any]:
    ours, alone = (means(summary[name]) for name in ("evidence", "standard"))
    wanted: dict[str, Goal] = {
        "AUROC full less standard": (ours["full"] - alone["full"], ">= -.01", -0.01, 1),
        "finding's map pointing less Grad-CAM of standard": (ours["own"] - alone["own"], ">= .15", 0.15, 1),
        "finding's map less shuffled": (ours["own_less_shuffled"], ">= .25", 0.25, 1),
        "AUROC of the crop less that of blobs": (ours["crop"] - ours["random_crop"], ">= .10", 0.10, 1),
        "AUROC of a random drop less that of the mask's": (ours["random_drop"] - ours["drop"], ">= .05", 0.05, 1),
    }
    return judged(wanted)


def means(summary: dict[str, Any]) -> dict[str, float]:
    return {name: value["mean"] for name, value in summary.items() if isinstance(value, dict)}


def judged(wanted: dict[str, Goal]) -> dict[str, Any]:
    return {
        name: {"value": value, "goal": goal, "met": bool(low <= value <= high)}
        for name, (value, goal, low, high) in wanted.items()
    }


def table(summary: dict[str, Any]) -> str:
    """Markdown: a row a variant, mean ± standard deviation."""

    def cell(value: dict[str, float | None] | None) -> str:
        if value is None or value["mean"] is None:
            return "–"
        return decimal(value["mean"], 3) + (f" ± {value['sd']:.3f}" if value["sd"] is not None else "")

    lines = ["| training | runs | " + " | ".join(FIGURES.values()) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    lines += [
        f"| {variant} | {row['runs']} | " + " | ".join(cell(row.get(name)) for name in FIGURES) + " |"
        for variant, row in summary.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, parse_args)
