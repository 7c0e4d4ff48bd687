"""The flags of a model and of what it is asked: backbone, mask, objective, loss of the labels, weights of the terms."""

import argparse

from roi.choices import NamedValue, add_hidden_flags, add_named_list, add_named_values, yes_no
from roi.cli import number, on_off
from roi.help_text import Family
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
# What --loss_args takes, by the names that the run's configuration and its checkpoint have.
LOSS_ARGS = {
    "pos_weight_cap": NamedValue(WEIGHT, 100.0, "weighted: largest weight of what is present"),
    "focal_alpha": NamedValue(number(float, -1, 1), 0.25, "focal: weight of what is present; -1: none"),
    "focal_gamma": NamedValue(WEIGHT, 2.0, "focal: power of 1 - p of the truth; 0: none"),
    "asl_gamma_pos": NamedValue(WEIGHT, 0.0, "asymmetric, ral: power for what is present"),
    "asl_gamma_neg": NamedValue(WEIGHT, 4.0, "asymmetric, weighted_asymmetric, ral: power for what is absent"),
    "asl_clip": NamedValue(number(float, 0, 0.5), 0.05, "the same three: absent and below this is right"),
    "cb_beta": NamedValue(SHARE, 0.9999, "class_balanced: 0 weighs nothing, 1 by 1/n"),
    "ldam_margin": NamedValue(WEIGHT, 0.5, "ldam: margin of the rarest, in units of the logit"),
    "ldam_scale": NamedValue(WEIGHT, 1.0, "ldam: what the logit and its margin are multiplied by"),
    # The published weighted loss has another power than the asymmetric loss has here.
    "wasl_gamma_pos": NamedValue(WEIGHT, 1.0, "weighted_asymmetric: power for what is present"),
    "ral_lambda": NamedValue(number(float, 1), 1.5, "ral: near 1, what is absent at a high p counts little"),
    "db_mu": NamedValue(SHARE, 0.2, "distribution_balanced: share of the draws at which a cell counts 0.6"),
    "db_lambda": NamedValue(number(float, 0.01), 2.0, "distribution_balanced: scale of what is absent"),
    "db_kappa": NamedValue(WEIGHT, 0.05, "distribution_balanced: how far logits begin at the prior"),
    "la_tau": NamedValue(WEIGHT, 1.0, "logit_adjusted: how much of the prior is added to the logit"),
}
# Coarse cells point better, but a small image has few of them.
STRIDE = "pixels a cell of the maps, 8, 16 or 32; 0: 16 where that gives 10 cells a side, else 8"
# What the mask net takes.
MASK_ARGS = {
    "mask_per_class": NamedValue(
        yes_no, None, "one map a finding, their union is the mask (default: yes with --objective evidence)"
    ),
    "map_stride": NamedValue(int, 0, STRIDE, choices=(0, 8, 16, 32)),
}
# What the objective evidence alone takes: before the weights of the terms, and after them.
EVIDENCE_ARGS = {
    # Classifier first: a mask has nothing to learn from one that knows nothing yet.
    "warmup_epochs": NamedValue(
        number(int, 0),
        None,
        "first epochs, without masks: the classifier and the maps learn from the labels alone (default: half "
        "of --epochs)",
    ),
    # A classifier that has never seen masked images makes every mask look good (Jethani et al. 2021).
    "random_views": NamedValue(
        SHARE, 0.15, "share of the images, 0 to 1, that the classifier then sees through random blobs"
    ),
    # Crop and drop are five eighths of a step, and a batch is shuffled: its first images are any.
    "view_share": NamedValue(
        number(float, 0.01, 1),
        1.0,
        "share of the images of each batch, .01 to 1 and at least two, that go through crop and drop; below 1 a step "
        "is faster and masks are worse",
    ),
    # Maps go on moving from step to step after the classifier has settled.
    "map_average": NamedValue(
        number(float, 0, 0.999999),
        0.0,
        "validate, and save as the best, the moving average of the mask net's weights with this decay a step, .98 for "
        "example; 0: its weights as they are",
    ),
}
LOCATE_ARGS = {
    "locate_sharpness": NamedValue(
        number(float, 0.01),
        4.0,
        "a map becomes one logit by log-mean-exp of this times its cells, over this: small values their mean, large "
        "ones their maximum",
    ),
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
    # Published commands have it: another word for the default, which --help need not show.
    group.add_argument(
        "--pretrained",
        dest="weights",
        action="store_const",
        const="imagenet",
        default="imagenet",
        help=argparse.SUPPRESS,
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
    add_named_values(group, "--mask_args", "what a mask that is learned takes:", MASK_ARGS)
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
    add_hidden_flags(group, EVIDENCE_ARGS)
    for name, (default, text) in TERM_WEIGHTS.items():
        group.add_argument(f"--{name}", type=WEIGHT, default=default, help=text)
    add_hidden_flags(group, LOCATE_ARGS)
    group.add_argument(
        "--keep_ratio",
        type=SHARE,
        default=0.1,
        metavar="0..1",
        help="share of the pixels that the mask keeps (default: %(default)s)",
    )
    add_named_list(group, "--objective_args", "what evidence alone takes:", EVIDENCE_ARGS | LOCATE_ARGS)


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
    add_named_values(group, "--loss_args", "what a loss takes:", LOSS_ARGS)


def add_gradnorm(group: argparse._ActionsContainer) -> None:
    """Weights of the terms that are learned."""
    group.add_argument(
        "--dynamic_weights",
        action=on_off,
        default=False,
        help="learn the weights by GradNorm (Chen et al. 2018); --alpha to --epsilon are then not used",
    )
    # Six flags of one kind, as published: --help shows them as one.
    weights = ", ".join(f"{term.name} {term.first_weight:g}" for term in LOSS_TERMS)
    text = f"first weight of a term with --dynamic_weights; TERM, and its default: {weights}"
    for place, term in enumerate(LOSS_TERMS):
        group.add_argument(
            f"--w_{term.name}_init",
            action=Family,
            shown_as="--w_TERM_init W",
            type=WEIGHT,
            default=term.first_weight,
            help=argparse.SUPPRESS if place else text,
        )
