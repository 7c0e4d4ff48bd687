"""From the flags of an objective to the terms of a batch, the loss of the labels and the weights of the terms."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.augment import Augment, augmented
from roi.data.dataset import Batch
from roi.errors import UserError
from roi.losses import long_tail, terms
from roi.losses.gradnorm import FixedWeights, GradNorm, Taps
from roi.losses.loss_terms import LAYERS, LOSS_TERMS
from roi.losses.objectives import EvidenceOptions, LabelLoss, consistency_terms, evidence_terms, label_terms
from roi.losses.terms import Denominator
from roi.models.roi_model import RoiModel


@dataclass(frozen=True)
class LabelLossFlags:
    """--loss and what --loss_args gives it."""

    loss: str
    pos_weight_cap: float
    focal_alpha: float
    focal_gamma: float
    asl_gamma_pos: float
    asl_gamma_neg: float
    asl_clip: float
    cb_beta: float
    ldam_margin: float
    ldam_scale: float
    wasl_gamma_pos: float
    ral_lambda: float
    db_mu: float
    db_lambda: float
    db_kappa: float
    la_tau: float


def make_label_loss(flags: LabelLossFlags, targets: Callable[[], np.ndarray], device: torch.device) -> LabelLoss:
    """The loss of the labels that --loss names.

    Args:
        targets: gives (N, K) of the training table, which say how rare each finding is; called where the loss counts
    """
    if flags.loss == "bce":
        return terms.bce
    if flags.loss == "focal":
        return partial(terms.focal, alpha=flags.focal_alpha, gamma=flags.focal_gamma)
    if flags.loss == "asymmetric":
        return partial(
            terms.asymmetric, gamma_pos=flags.asl_gamma_pos, gamma_neg=flags.asl_gamma_neg, clip=flags.asl_clip
        )
    if flags.loss == "ral":
        return partial(
            long_tail.robust_asymmetric,
            lam=flags.ral_lambda,
            gamma_pos=flags.asl_gamma_pos,
            gamma_neg=flags.asl_gamma_neg,
            clip=flags.asl_clip,
        )
    # These count: targets are made only for them.
    return _counting_loss(flags, *terms.counted(targets()), device)


def _counting_loss(flags: LabelLossFlags, present: np.ndarray, absent: np.ndarray, device: torch.device) -> LabelLoss:
    """A loss that depends on how many images have each finding, and how many lack it: (K,), (K,)."""

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).float().to(device)

    if flags.loss == "weighted":
        weight = terms.positive_weights(present, absent, flags.pos_weight_cap)
        return partial(terms.weighted, weight=on_device(weight))
    if flags.loss == "class_balanced":
        weight = terms.balanced_weights(present, absent, flags.cb_beta)
        return partial(terms.class_balanced, weight=on_device(weight))
    if flags.loss == "ldam":
        margin = terms.margins(present, absent, flags.ldam_margin)
        return partial(terms.ldam, margin=on_device(margin), scale=flags.ldam_scale)
    if flags.loss == "weighted_asymmetric":
        return partial(
            long_tail.weighted_asymmetric,
            weight=on_device(long_tail.exponential_weights(present, absent)),
            gamma_pos=flags.wasl_gamma_pos,
            gamma_neg=flags.asl_gamma_neg,
            clip=flags.asl_clip,
        )
    log_odds = on_device(long_tail.prior_log_odds(present, absent))
    if flags.loss == "logit_adjusted":
        return partial(long_tail.logit_adjusted, log_odds=log_odds, tau=flags.la_tau)
    return partial(
        long_tail.distribution_balanced,
        present_count=on_device(np.maximum(present, 1.0)),
        log_odds=log_odds,
        mu=flags.db_mu,
        lam=flags.db_lambda,
        kappa=flags.db_kappa,
    )


def check_maps(view_share: float, map_average: float, ema: float, learned: bool, frozen: bool) -> None:
    """UserError for values of maps and views that a run does not have.

    Args:
        learned: the mask is learned under the evidence objective.
        frozen: --freeze_backbone, so that there are no views.
    """
    if view_share < 1 and (frozen or not learned):
        raise UserError(
            f"--view_share {view_share:g}: only --objective evidence with a backbone that learns has views to leave "
            "out; give the run without it"
        )
    if map_average and not learned:
        raise UserError(
            f"--map_average {map_average:g}: only --objective evidence with a mask that learns has maps to average; "
            "give the run without it"
        )
    if map_average and ema:
        raise UserError(
            f"--map_average {map_average:g} and --ema {ema:g}: --ema averages the maps too; give one of them"
        )


def viewed_images(view_share: float, images: int, batch_share: float) -> int | None:
    """How many images of this process go through crop and drop, the first of its batch; None where all do.

    They are the first of the batch over all processes, of which each takes every world-th, and at least two, since
    batch norm learns nothing from one.

    Args:
        images: of the batch of this process.
        batch_share: what they count, relative to the mean over the processes; 0: nothing.
    """
    if view_share == 1:
        return None
    if not batch_share:
        return 0
    world = distributed.world()
    together = round(images * world / batch_share)
    # A share of .07 of 100 images is 7, whatever the product rounds to.
    viewed = math.ceil(view_share * together - 1e-6)
    viewed = min(max(viewed, 2), together)
    return len(range(distributed.rank(), viewed, world))


@dataclass(frozen=True)
class TermsOfBatch:
    """The losses_fn of both objectives: (model, batch, epoch) -> {name of a term: ()}."""

    evidence: bool  # else consistency
    label_loss: LabelLoss
    augment: Augment | None
    seed: int
    keep_ratio: float
    warmup_epochs: int
    random_views: float
    locate_sharpness: float
    view_share: float = 1.0  # of the images of a batch that go through crop and drop

    def __call__(self, model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        over = partial(distributed.counting, share=batch.share)
        if batch.features is not None:
            return self._of_features(model, batch, over)
        # By row and epoch: the same draws in any batch, order and process, and after a resume.
        seeds = row_seeds(self.seed, epoch, batch.index.to(batch.pixels.device, non_blocking=True))
        pixels = batch.pixels if self.augment is None else augmented(batch.pixels, seeds, self.augment)
        if not self.evidence:
            return consistency_terms(model, pixels, batch.target, self.keep_ratio, seeds, over, self.label_loss)
        options = EvidenceOptions(self.keep_ratio, self.random_views, self.locate_sharpness)
        warm_up = epoch < self.warmup_epochs
        viewed = viewed_images(self.view_share, len(batch.index), batch.share)
        return evidence_terms(model, pixels, batch.target, options, seeds, warm_up, over, self.label_loss, viewed)

    def _of_features(self, model: RoiModel, batch: Batch, over: Denominator) -> dict[str, Tensor]:
        """The labels alone: of a frozen backbone there are features, and no views."""
        assert batch.features is not None
        logits, maps = model.read_features(batch.features.head, batch.features.stages)
        # Normal has no place.
        findings = batch.target.masked_fill(~model.findings, torch.nan)
        return label_terms(
            logits,
            maps if model.per_class else None,
            batch.target,
            findings,
            self.locate_sharpness,
            over,
            self.label_loss,
        )


@dataclass(frozen=True)
class WeightFlags:
    """The weights of the terms: fixed ones, and those that GradNorm begins with."""

    objective: str
    warmup_epochs: int
    mask_per_class: bool
    dynamic_weights: bool
    alpha: float
    beta: float
    gamma: float
    delta: float
    epsilon: float
    w_full_init: float
    w_consist_init: float
    w_drop_init: float
    w_sparse_init: float
    w_tv_init: float
    w_locate_init: float


def loss_weights(flags: WeightFlags, model: RoiModel, without: Sequence[str], device: torch.device) -> FixedWeights:
    """The weights of --alpha … --epsilon, or GradNorm from --w_*_init; 0 for the terms in `without`.

    Raises:
        UserError: nothing would be learned, all through the run or in its warm-up
    """
    weights = {}
    for term in LOSS_TERMS:
        if flags.objective not in term.objectives:
            continue
        if term.name in without:
            weights[term.name] = 0.0
        elif flags.dynamic_weights:
            weights[term.name] = getattr(flags, f"w_{term.name}_init")
        else:
            weights[term.name] = getattr(flags, term.weight_flag) if term.weight_flag else 1.0
    # The maps learn in the warm-up only where there is one a finding.
    warmup_weight = weights["full"] + weights.get("locate", 0) * flags.mask_per_class
    if flags.warmup_epochs and not warmup_weight:
        raise UserError(
            "full and locate, the terms of the warm-up, have weight 0; give one of them a weight, or --warmup_epochs 0"
        )
    if not any(weights.values()):
        raise UserError("every term of the loss has weight 0; there is nothing to learn")
    if not flags.dynamic_weights:
        return FixedWeights(weights)
    return GradNorm(weights, Taps(model.last_layers()), LAYERS, device=device, mean=distributed.mean)
