"""The flags of a model and of what it is asked: backbone, mask, objective, loss of the labels, weights of the terms."""

import argparse
from collections.abc import Callable
from typing import Any

from roi.cli import number, on_off
from roi.losses.loss_terms import LOSS_TERMS

LOSSES = (
    "bce",
    "weighted",
    "focal",
    "asymmetric",
    "class_balanced",
    "ldam",
    "weighted_asymmetric",
    "ral",
    "distribution_balanced",
    "logit_adjusted",
)
WEIGHT, SHARE = number(float, 0), number(float, 0, 1)
# What --loss_args takes: name, as the run's configuration and its checkpoint have it; type; default; help.
LOSS_ARGS: dict[str, tuple[Callable[[str], Any], float, str]] = {
    "pos_weight_cap": (WEIGHT, 100.0, "weighted: largest weight of what is present"),
    "focal_alpha": (number(float, -1, 1), 0.25, "focal: weight of what is present; -1: none"),
    "focal_gamma": (WEIGHT, 2.0, "focal: power of 1 - p of the truth; 0: none"),
    "asl_gamma_pos": (WEIGHT, 0.0, "asymmetric, ral: power for what is present"),
    "asl_gamma_neg": (WEIGHT, 4.0, "asymmetric, weighted_asymmetric, ral: power for what is absent"),
    "asl_clip": (number(float, 0, 0.5), 0.05, "the same three: absent and below this is right"),
    "cb_beta": (SHARE, 0.9999, "class_balanced: 0 weighs nothing, 1 by 1/n"),
    "ldam_margin": (WEIGHT, 0.5, "ldam: margin of the rarest, in units of the logit"),
    "ldam_scale": (WEIGHT, 1.0, "ldam: what the logit and its margin are multiplied by"),
    # The published weighted loss has another power than the asymmetric loss has here.
    "wasl_gamma_pos": (WEIGHT, 1.0, "weighted_asymmetric: power for what is present"),
    "ral_lambda": (number(float, 1), 1.5, "ral: near 1, what is absent at a high p counts little"),
    "db_mu": (SHARE, 0.2, "distribution_balanced: share of the draws at which a cell counts 0.6"),
    "db_lambda": (number(float, 0.01), 2.0, "distribution_balanced: scale of what is absent"),
    "db_kappa": (WEIGHT, 0.05, "distribution_balanced: how far logits begin at the prior"),
    "la_tau": (WEIGHT, 1.0, "logit_adjusted: how much of the prior is added to the logit"),
}
# Fixed weights of the terms. That of alpha differs between the objectives: resolve_objective fills it in.
TERM_WEIGHTS: dict[str, tuple[float | None, str]] = {
    "alpha": (
        None,
        "weight of consist: the labels from the crop; consistency: |p_full - p_crop| (default: 0.5; consistency: 1.0)",
    ),
    "beta": (
        0.5,
        "weight of drop: what is present is lost; consistency: ReLU(p_drop - p_full) (default: %(default)s)",
    ),
    "gamma": (1e-3, "consistency: weight of sparse, the mean of the soft mask (default: %(default)s)"),
    "delta": (1e-4, "consistency: weight of tv, the total variation of the soft mask (default: %(default)s)"),
    "epsilon": (0.25, "evidence: weight of locate, the labels from the maps alone (default: %(default)s)"),
}


class LossArgs(argparse.Action):
    """name=value … of LOSS_ARGS: each becomes a value of its own among the flags."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for pair in values:
            name, equals, text = pair.partition("=")
            if not equals or name not in LOSS_ARGS:
                raise argparse.ArgumentError(self, f"{pair!r} is not NAME=VALUE with one of {', '.join(LOSS_ARGS)}")
            kind = LOSS_ARGS[name][0]
            try:
                setattr(namespace, name, kind(text))
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, f"{name}={error}") from error
            except ValueError as error:
                raise argparse.ArgumentError(self, f"invalid {kind.__name__} value of {name}: {text!r}") from error


def add_model(group: argparse._ActionsContainer) -> None:
    """The classifier and its mask net."""
    add_backbone(group)
    add_mask(group)


def add_backbone(group: argparse._ActionsContainer) -> None:
    """The classifier, and its first weights."""
    group.add_argument(
        "--backbone",
        default="convnext_base",
        metavar="NAME",
        help="any torchvision classifier, else any timm model (default: %(default)s)",
    )
    # Published commands have it.
    group.add_argument(
        "--pretrained",
        dest="weights",
        action="store_const",
        const="imagenet",
        default="imagenet",
        help="the same as --weights imagenet",
    )
    # A file too, for machines without a network.
    group.add_argument(
        "--weights",
        default="imagenet",
        metavar="imagenet|none|FILE|hf-hub:NAME",
        help="first weights: downloaded, none, a .safetensors, state-dict or checkpoint file, or a timm model of the "
        "Hugging Face hub (or of local-dir:DIR); the last layer comes by the names of its classes "
        "(default: %(default)s)",
    )
    # With --freeze_backbone the second stage of decoupling (Kang et al. 2020): features of all images, a balanced head.
    # Suppressed: a run that does not ask for it has it neither in its checkpoint nor in its report.
    group.add_argument(
        "--new_head",
        action="store_true",
        default=argparse.SUPPRESS,
        help="the last layer begins anew whatever a checkpoint has of it (default: no)",
    )


def add_mask(group: argparse._ActionsContainer) -> None:
    """What the mask sees, how fine it is, and what it covers."""
    # No default here: it depends on --objective (flags.resolve_objective).
    group.add_argument(
        "--mask_net",
        choices=("features", "conv"),
        help="what the mask sees: features of the backbone, or, as published, 5 x 5 pixels (default: features; conv "
        "with --objective consistency)",
    )
    group.add_argument(
        "--mask_per_class",
        action=on_off,
        default=None,
        help="one map a finding, their union is the mask (default: yes with --objective evidence)",
    )
    # Coarse cells point better, but a small image has few of them.
    group.add_argument(
        "--map_stride",
        type=int,
        choices=(0, 8, 16, 32),
        default=0,
        metavar="PX",
        help="pixels a cell of the maps, 8, 16 or 32; 0: 16 where that gives 10 cells a side, else 8 "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--freeze_backbone",
        action=on_off,
        default=False,
        help="the backbone stays as it came: its features are computed once, kept in --cache_dir, and the classifier "
        "layer and the maps learn from them in seconds; for a few thousand images (default: no)",
    )
    group.add_argument(
        "--fill",
        choices=("mean", "blur", "noise"),
        default="mean",
        help="what stands where pixels are taken away: mean grey, the image blurred, or noise (default: %(default)s)",
    )


def add_objective(group: argparse._ActionsContainer) -> None:
    """What the mask must do, and how much each term counts."""
    group.add_argument(
        "--objective",
        choices=("evidence", "consistency"),
        help="what the mask must do; consistency: as published (default: evidence)",
    )
    # Classifier first: a mask has nothing to learn from one that knows nothing yet.
    group.add_argument(
        "--warmup_epochs",
        type=number(int, 0),
        metavar="N",
        help="evidence: first epochs, without masks: the classifier and the maps learn from the labels alone "
        "(default: half of --epochs)",
    )
    # A classifier that has never seen masked images makes every mask look good (Jethani et al. 2021).
    group.add_argument(
        "--random_views",
        type=SHARE,
        default=0.15,
        metavar="0..1",
        help="evidence: share of the images that the classifier then sees through random blobs (default: %(default)s)",
    )
    for name, (default, text) in TERM_WEIGHTS.items():
        group.add_argument(f"--{name}", type=WEIGHT, default=default, help=text)
    group.add_argument(
        "--locate_sharpness",
        type=number(float, 0.01),
        default=4.0,
        metavar="R",
        help="evidence: a map becomes one logit by log-mean-exp of R times its cells, over R: small R their mean, "
        "large R their maximum (default: %(default)s)",
    )
    group.add_argument(
        "--keep_ratio",
        type=SHARE,
        default=0.1,
        metavar="0..1",
        help="share of the pixels that the mask keeps (default: %(default)s)",
    )


def add_label_loss(group: argparse._ActionsContainer) -> None:
    """The loss of the labels on the whole image: the term `full`."""
    group.add_argument(
        "--loss",
        choices=LOSSES,
        default="bce",
        help="weighted: what is present counts absent/present times; focal (Lin et al. 2017); asymmetric (Ridnik et "
        "al. 2021); class_balanced: by the effective number of images (Cui et al. 2019); ldam: a margin, the wider the "
        "rarer (Cao et al. 2019); weighted_asymmetric: the rare counts more where present (CheXFusion, Kim 2023); ral: "
        "robust asymmetric (Park et al. 2023); distribution_balanced (Wu et al. 2020); logit_adjusted (Menon et al. "
        "2021), whose logits are of balanced classes (default: %(default)s)",
    )
    values = []
    for name, (_, default, text) in LOSS_ARGS.items():
        values.append(f"{name} ({text}; default: {default:g})")
    group.add_argument(
        "--loss_args",
        action=LossArgs,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help=f"what a loss takes: {', '.join(values)}",
    )
    # Each is a flag, too, as it was before --loss_args: --help need not show it.
    for name, (kind, default, _) in LOSS_ARGS.items():
        group.add_argument(f"--{name}", type=kind, default=default, help=argparse.SUPPRESS)


def add_gradnorm(group: argparse._ActionsContainer) -> None:
    """Weights of the terms that are learned."""
    group.add_argument(
        "--dynamic_weights",
        action=on_off,
        default=False,
        help="learn the weights by GradNorm (Chen et al. 2018); --alpha to --epsilon are then not used",
    )
    for term in LOSS_TERMS:
        group.add_argument(
            f"--w_{term.name}_init",
            type=WEIGHT,
            default=term.first_weight,
            metavar="W",
            help=f"first weight of {term.name} with --dynamic_weights (default: %(default)s)",
        )
