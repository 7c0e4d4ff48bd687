"""What a study model learns from: the labels of a study from all its images, and from each of them alone."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from roi import distributed
from roi.counter_rng import row_seeds
from roi.data.augment import Augment, augmented
from roi.data.dataset import Batch
from roi.losses.objectives import LabelLoss
from roi.losses.terms import bce
from roi.models.fusion import StudyModel
from roi.models.roi_model import RoiModel
from roi.training.metrics_log import VIEW_LOSS


@dataclass(frozen=True)
class StudyTerms:
    """The losses_fn of studies: (model, batch, epoch) -> {name of a term: ()}."""

    label_loss: LabelLoss
    augment: Augment | None
    seed: int
    view_weight: float  # 0: single images are left out

    def __call__(self, model: RoiModel, batch: Batch, epoch: int) -> dict[str, Tensor]:
        studies = batch.studies
        assert isinstance(model, StudyModel) and studies is not None
        over = partial(distributed.counting, share=batch.share)
        pixels = batch.pixels
        if self.augment is not None:
            # By row and epoch: the same changes in any batch, order and process, and after a resume.
            seeds = row_seeds(self.seed, epoch, studies.rows)
            pixels = augmented(pixels, seeds, self.augment)
        seen = model.see(pixels, studies.kinds)
        logits = model.fuse(seen, studies.place)
        terms = {"full": self.label_loss(logits, batch.target, over)}
        if self.view_weight:
            # So that an image says what it knows even where another one of its study says it louder.
            terms[VIEW_LOSS] = bce(seen.logits, batch.target[studies.owner], over)
        return terms
