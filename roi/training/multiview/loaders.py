"""Batches of studies for a training: which rows they are of, what is known of them, which images are looked at.

Letters: N images, M studies, K classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from roi import distributed
from roi.data.dataset import open_cache_of_run, rows_with_images
from roi.data.loader import fits_on_device
from roi.data.sampler import ShardedBatchSampler
from roi.data.studies import Studies, StudyTargets, studies_of, study_targets
from roi.data.study_loader import StudyLoader, ViewChoice
from roi.data.targets import target_matrix
from roi.models.roi_model import RoiModel
from roi.training.loaders import LoaderFlags, Loaders, draws_of, read_ahead_alike, set_order, training_targets
from roi.training.optim import batch_norms
from roi.training.rows import Rows, datasets_of


@dataclass(frozen=True)
class StudyFlags:
    """The flags that say which images of a study are looked at, and what a study has."""

    max_views: int
    view_dropout: float
    study_labels: str

    @property
    def union(self) -> bool:
        """Whether a study has what any of its images has."""
        return self.study_labels == "any"


@dataclass(frozen=True)
class StudyReader:
    """What reads the studies of a table."""

    images: LoaderFlags
    studies: StudyFlags
    device: torch.device

    def read(
        self,
        table: pd.DataFrame,
        classes: list[str],
        output: Path,
        seed: int | None,
    ) -> tuple[StudyLoader, Studies, pd.DataFrame]:
        """Batches of studies, the studies, and the rows whose image can be read.

        For validation (no `seed`) in table order and of the first images of each, for training shuffled and drawn.

        Args:
            output: the checkpoint beside which side files list what is left out.
        """
        flags = self.images
        assert flags.cache_dir is not None
        table, paths = rows_with_images(table, flags.image_root, flags.skip_unreadable, output)
        names = table["image"].tolist()
        cache = open_cache_of_run(
            names, paths, flags.cache_dir, flags.img_size, flags.workers, flags.skip_unreadable, output
        )
        # A study whose image cannot be read is one of fewer images.
        readable = cache.rows >= 0
        table = table[readable]
        cache = replace(cache, rows=cache.rows[readable], unreadable={}, constant=[])
        studies = studies_of(table)
        targets = training_targets(table, classes, flags, seed)
        labels = study_targets(studies, targets, classes, table["image"].to_numpy(), self.studies.union)
        # --sampler draws studies, by the data set and the labels of each.
        draws = draws_of(table.iloc[studies.first_rows], labels.targets, flags, seed)
        world = distributed.world()
        sampler = ShardedBatchSampler(len(studies), flags.batch_size, seed, distributed.rank(), world, *draws)
        choice = ViewChoice(self.studies.max_views)
        if seed is not None:
            choice = ViewChoice(self.studies.max_views, seed, self.studies.view_dropout)
        say_studies(studies, labels, choice)
        on_device = fits_on_device(cache, len(table), self.device, flags.cache_on_device)
        loader = StudyLoader(
            cache, studies, labels.targets, sampler, choice, self.device, on_device, flags.prefetch_factor
        )
        images = -(-len(studies.rows) // len(studies))
        # A study lies where its first image does.
        set_order(loader, flags.order, seed, cache.rows[studies.first_rows], images * flags.img_size**2)
        return loader, studies, table


def check_studies(rows: Rows, union: bool) -> None:
    """Refuse studies of two patients, also one that training and validation share, and contradicting labels.

    Before an image is decoded, which takes long.
    """
    tables = [rows.train]
    if rows.val is not None:
        tables.append(rows.val)
    studies_of(pd.concat(tables))
    for table in tables:
        targets = target_matrix(table, rows.classes)
        study_targets(studies_of(table), targets, rows.classes, table["image"].to_numpy(), union)


def make_study_loaders(rows: Rows, reader: StudyReader, model: RoiModel, save: Path, seed: int) -> Loaders:
    """The loaders of training and validation. Rows whose image is not there, or cannot be read, leave `rows`."""
    train, studies, rows.train = reader.read(rows.train, rows.classes, save, seed)
    sampler = train.sampler
    if batch_norms(model):
        # One image has no variance to learn from.
        sampler.least = 2
    if sampler.merged:
        print(
            f"the last {sampler.merged} studies of an epoch are too few for batch norm: they go into the batch before "
            f"them, which has {sampler.last_batch:,} studies"
        )
    loaders = Loaders(train, sampler, names=studies.names)
    if rows.val is None:
        return loaders
    # Side files of validation stand beside those of training.
    output = save.with_name(f"{save.stem}_val.pt")
    loaders.val, studies, rows.val = reader.read(rows.val, rows.classes, output, None)
    read_ahead_alike(loaders)
    datasets = datasets_of(rows.val)
    if datasets is not None:
        loaders.val_datasets = datasets[studies.first_rows]
    return loaders


def say_studies(studies: Studies, labels: StudyTargets, choice: ViewChoice) -> None:
    """On the console: how many studies of how many images, and what is not looked at."""
    purpose = "validation" if choice.seed is None else "training"
    print(f"{purpose}: {studies.summary()}")
    if labels.filled:
        print(f"{labels.filled:,} labels that some images of a study lack come from its other images")
    large = int((studies.sizes > choice.max_views).sum())
    if not large:
        return
    which = "the first are looked at"
    if choice.seed is not None:
        which = "those that are looked at are drawn each epoch"
    print(f"{large:,} studies have more than {choice.max_views} images (--max_views): {which}")
