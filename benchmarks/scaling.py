"""What training on 1 to 64 GPUs should take, on paper: the tables, formulas and assumptions of SCALING.md.

python benchmarks/scaling.py                          with the rate that is assumed
python benchmarks/scaling.py --images_per_s 812       with a rate that gpu.py has measured
"""

import argparse
import math
from dataclasses import dataclass

import harness  # noqa: F401  # puts the project on the path

from roi import cli

GPUS = (1, 2, 4, 8, 16, 32, 64)
SETS = {"NIH ChestX-ray14, training list": 86_524, "a mixture": 900_000}
WORK = 9  # forwards of the backbone an image (gpu.py)
SMALL = (
    5  # small all-reduces a step that nothing hides: known labels of up to four terms, and which parameters took part
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    positive = cli.number(float, 0)
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--images_per_s", type=positive, metavar="R", help="of one GPU, training (default: --share of --matmul_tflops)"
    )
    parser.add_argument(
        "--matmul_tflops",
        type=positive,
        default=700.0,
        metavar="T",
        help="bf16 rate of a large matrix product (default: %(default)s)",
    )
    parser.add_argument(
        "--share",
        type=positive,
        default=0.3,
        metavar="0..1",
        help="of it that a training step has (default: %(default)s)",
    )
    parser.add_argument(
        "--batch",
        type=cli.number(int, 1),
        default=16,
        metavar="N",
        help="images of a GPU and step (default: %(default)s)",
    )
    parser.add_argument(
        "--a_node", type=cli.number(int, 1), default=8, metavar="N", help="GPUs in a node (default: %(default)s)"
    )
    parser.add_argument(
        "--nvlink_gbytes",
        type=positive,
        default=300.0,
        metavar="B",
        help="GB/s a GPU sends inside a node (default: %(default)s)",
    )
    parser.add_argument(
        "--node_gbits",
        type=positive,
        nargs="+",
        default=[200.0, 400.0],
        metavar="b",
        help="Gb/s a node sends to others (default: 200 400)",
    )
    parser.add_argument(
        "--link_share",
        type=positive,
        default=0.8,
        metavar="0..1",
        help="of these links that all-reduce has (default: %(default)s)",
    )
    parser.add_argument(
        "--hidden",
        type=positive,
        default=0.9,
        metavar="0..1",
        help="of the backward pass beside which it runs (default: %(default)s)",
    )
    parser.add_argument(
        "--latency_us",
        type=positive,
        default=15.0,
        metavar="us",
        help="of a hop of a small all-reduce (default: %(default)s)",
    )
    parser.add_argument(
        "--disk_gbytes",
        type=positive,
        default=1.0,
        metavar="B",
        help="GB/s in which a checkpoint is written (default: %(default)s)",
    )
    return parser.parse_args(argv)


@dataclass
class Model:
    """ConvNeXt-Base with 14 classes and the published mask net, at 224 px."""

    parameters: int
    flops: float  # of a forward of the backbone, an image
    side: int = 224

    @property
    def gradient_bytes(self) -> int:
        return 4 * self.parameters  # fp32, whatever the autocast type

    @property
    def checkpoint_bytes(self) -> int:
        return 3 * self.gradient_bytes  # weights and the two moments of AdamW

    @property
    def image_bytes(self) -> int:
        return self.side**2  # grey, uint8


def convnext_base() -> Model:
    """Counted by torch on a model without memory."""
    import torch
    import torchvision
    from torch.utils.flop_counter import FlopCounterMode

    from roi.labels import LABELS
    from roi.models.mask_net import ConvMask

    with torch.device("meta"):
        backbone, mask_net = torchvision.models.convnext_base(num_classes=len(LABELS)).eval(), ConvMask()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(torch.zeros(1, 3, Model.side, Model.side))
    parameters = sum(p.numel() for module in (backbone, mask_net) for p in module.parameters())
    return Model(parameters, float(counter.get_total_flops()))


def sent(gpus: int, model: Model) -> float:
    """Bytes that a GPU sends for the all-reduce of a step: 2 (N - 1) / N of the gradient, in a ring."""
    return 2 * (gpus - 1) / gpus * model.gradient_bytes


def all_reduce_s(args: argparse.Namespace, model: Model, gpus: int, node_gbits: float) -> float:
    """A ring goes at the rate of its slowest link.

    That is NVLink inside a node; between nodes the node's own link, which the ring passes once.
    """
    link = args.nvlink_gbytes * 1e9 if gpus <= args.a_node else min(args.nvlink_gbytes * 1e9, node_gbits * 1e9 / 8)
    return sent(gpus, model) / (args.link_share * link)


def step_s(args: argparse.Namespace, model: Model, rate: float, gpus: int, node_gbits: float) -> tuple[float, float]:
    """-> seconds of a step, and those of them that wait for the others: what of the all-reduce does not fit beside the
    backward pass (two thirds of the step), and the small ones, of log2(N) hops each.
    """
    alone = args.batch / rate
    if gpus == 1:
        return alone, 0.0
    shown = max(0.0, all_reduce_s(args, model, gpus, node_gbits) - args.hidden * alone * 2 / 3)
    small = SMALL * math.ceil(math.log2(gpus)) * args.latency_us / 1e6
    return alone + shown + small, shown + small


def training_table(args: argparse.Namespace, model: Model, rate: float, images: int) -> list[str]:
    heads = [f"s a step, {gbits:.0f} Gb/s" for gbits in args.node_gbits] + [
        f"s an epoch, {gbits:.0f} Gb/s" for gbits in args.node_gbits
    ]
    lines = [
        "| GPUs | images a step | steps an epoch | MB a GPU sends a step | "
        + " | ".join(heads)
        + " | efficiency | a checkpoint, of the epoch |"
    ]
    lines.append("|---" * (4 + len(heads) + 2) + "|")
    for gpus in GPUS:
        steps = math.ceil(images / (args.batch * gpus))
        seconds = [step_s(args, model, rate, gpus, gbits)[0] for gbits in args.node_gbits]
        efficiency = "–".join(dict.fromkeys(f"{100 * args.batch / rate / s:.0f}" for s in seconds))
        saved = "–".join(
            dict.fromkeys(
                f"{100 * model.checkpoint_bytes / 1e9 / args.disk_gbytes / (steps * s):.0f}" for s in reversed(seconds)
            )
        )
        cells = [
            f"{gpus}",
            f"{args.batch * gpus:,}",
            f"{steps:,}",
            f"{sent(gpus, model) / 1e6:,.0f}",
            *(f"{s:.4f}" for s in seconds),
        ]
        lines.append(
            "| " + " | ".join([*cells, *(f"{steps * s:,.1f}" for s in seconds), f"{efficiency} %", f"{saved} %"]) + " |"
        )
    return lines


def loading_table(args: argparse.Namespace, model: Model, rate: float) -> list[str]:
    """At full rate, nobody waiting: the most that the loader can be asked for."""
    lines = [
        "| GPUs | nodes | images/s, all | images/s a node | MB/s a node from the cache | GB/s, all |",
        "|---|---|---|---|---|---|",
    ]
    for gpus in GPUS:
        here = min(gpus, args.a_node)
        nodes, everything = math.ceil(gpus / args.a_node), rate * gpus * model.image_bytes
        a_node = rate * here * model.image_bytes
        images = f"{rate * gpus:,.0f} | {rate * here:,.0f}"
        lines.append(f"| {gpus} | {nodes} | {images} | {a_node / 1e6:,.0f} | {everything / 1e9:,.2f} |")
    return lines


def main(args: argparse.Namespace) -> None:
    model = convnext_base()
    assumed = args.images_per_s is None
    rate = args.share * args.matmul_tflops * 1e12 / (WORK * model.flops) if assumed else args.images_per_s
    work = f"{model.flops / 1e9:.2f} GFLOP a forward, {WORK * model.flops / 1e9:.1f} GFLOP an image and step"
    print(f"{model.parameters:,} parameters, {work}")
    source = "ASSUMED: no card has been measured" if assumed else "as given"
    print(f"{rate:,.0f} images/s a GPU, {source}; {1000 * args.batch / rate:.1f} ms a step alone\n")
    for name, images in SETS.items():
        print(f"### {name}, {images:,} images ({images * model.image_bytes / 1e9:,.1f} GB of pixels)\n")
        print("\n".join(training_table(args, model, rate, images)) + "\n")
    print("### What the loader must give\n")
    print("\n".join(loading_table(args, model, rate)))


if __name__ == "__main__":
    cli.run(main, parse_args)
