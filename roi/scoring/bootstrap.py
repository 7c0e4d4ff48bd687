"""How sure a score is: patients are drawn again and again, and the score of each draw is taken (cluster bootstrap).

Each score is a function of weights, f(weights (N, R)) -> (R, ...): how often a resample drew each image. Weights of one
give the value, those of the resamples its spread. All scores see the same resamples, so that their differences are
paired.

Letters: N images, K classes, M columns of values, R resamples.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

import numpy as np
import pandas as pd
from numpy.typing import DTypeLike

from roi.process_pool import in_order
from roi.threads import usable_cores

WeightedStatistic = Callable[[np.ndarray], np.ndarray]
# Value, low, high; None: undefined.
Interval = dict[str, float | None]
# Resamples computed at once: their cumulative weights stay in the cache of a core.
CHUNK = 64
# Weights up to it have one byte: those of 64 resamples are one line of a cache, which large tables are read by.
MOST_DRAWS = np.iinfo(np.int8).max
# Weights from which on several processes draw them, and how many at most: each keeps its own, .3 GB of 900,000 images.
SHARED_FROM = 50_000_000
MOST_WORKERS = 4


@dataclass(frozen=True)
class BootstrapEstimate:
    """A score and what the resamples made of it."""

    value: np.ndarray  # (...)
    resampled: np.ndarray  # (R, ...)

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> "BootstrapEstimate":
        """Apply `function`, which works on arrays with resamples first."""
        value = function(self.value[None])
        return BootstrapEstimate(value[0], function(self.resampled))

    def column(self, j: int) -> "BootstrapEstimate":
        """(..., M) -> (...): one of the last axis."""
        return self.map(itemgetter((..., j)))

    def minus(self, other: "BootstrapEstimate") -> "BootstrapEstimate":
        """The paired difference."""
        return BootstrapEstimate(self.value - other.value, self.resampled - other.resampled)

    def mean_over(self, findings: np.ndarray) -> "BootstrapEstimate":
        """The mean over the defined ones of `findings`, the same in each resample. (..., K), (K,) -> (...)"""
        chosen = findings & ~np.isnan(self.value)
        if not chosen.any():
            undefined = np.full(len(self.resampled), math.nan)
            return BootstrapEstimate(np.array(math.nan), undefined)
        return self.map(partial(mean_of_columns, chosen))

    def mean_where(self, findings: np.ndarray) -> "BootstrapEstimate":
        """The mean over those of `findings` that each resample has. (K,), (K,) bool -> ()"""
        return self.map(partial(nan_mean_where, findings))

    def with_interval(self) -> Interval:
        """The value and its 95 % interval, as they stand in metrics.json. ()"""
        low, high = interval(self.resampled)
        value = float(self.value)
        return {"value": none_if_nan(value), "low": none_if_nan(low), "high": none_if_nan(high)}

    def by_name(self, names: Sequence[str]) -> dict[str, Interval]:
        """Each column by its name. (M,)"""
        columns = {}
        for j, name in enumerate(names):
            columns[name] = self.column(j).with_interval()
        return columns

    def with_p(self) -> Interval:
        """A difference with its interval and its p. ()"""
        p = difference_p(self.resampled)
        return {**self.with_interval(), "p": none_if_nan(p)}


UNDEFINED: Interval = {"value": None, "low": None, "high": None}


def none_if_nan(value: float) -> float | None:
    """JSON knows no NaN: undefined is null."""
    return None if math.isnan(value) else float(value)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the defined resamples. (R,) -> (low, high)"""
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, (0.025, 0.975))
    return float(low), float(high)


def difference_p(resampled: np.ndarray) -> float:
    """Two-sided p of a paired difference from its resamples, never below 2 / (R + 1). (R,) -> ()"""
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return math.nan
    tail = min((defined <= 0).sum(), (defined >= 0).sum())
    # The value itself counts as one of the resamples.
    p = 2 * (tail + 1) / (len(defined) + 1)
    return float(min(1.0, p))


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the defined values, NaN where there is none; numpy's own warns there. (..., M) -> (...)"""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    total = np.where(known, values, 0).sum(axis=-1)
    mean = total / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)


def nan_mean_where(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(K,) bool, (R, K) -> (R,)"""
    return nan_mean(np.where(chosen, values, np.nan))


def mean_of_columns(chosen: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M,) bool, (..., M) -> (...)"""
    return nan_mean(values[..., chosen])


class Scratch:
    """Memory that one array after another is written to: new pages of the system cost more than what is written."""

    def __init__(self) -> None:
        self.bytes = np.empty(0, dtype=np.uint8)

    def array(self, shape: tuple[int, int], dtype: DTypeLike) -> np.ndarray:
        """An array of any content. What was handed out before is lost."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(self.bytes):
            self.bytes = np.empty(size, dtype=np.uint8)
        return self.bytes[:size].view(dtype).reshape(shape)

    def copy(self, values: np.ndarray, dtype: DTypeLike) -> np.ndarray:
        """The values (N, R) as another type."""
        copied = self.array((values.shape[0], values.shape[1]), dtype)
        copied[...] = values
        return copied

    def rows(self, values: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The rows of `values` (M, R) at some places (N,), each of which there is. -> (N, R)"""
        taken = self.array((len(places), values.shape[1]), values.dtype)
        # With another mode numpy takes them to a place of its own first.
        return np.take(values, places, axis=0, out=taken, mode="clip")


# ---- drawing --------------------------------------------------------------------------------------------------------


def resample_weights(patients: np.ndarray, count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Draw patients with replacement, all their images with them (cluster bootstrap, Field & Welsh 2007).

    Args:
        patients: (N,) whose each image is.
        count: number of resamples.
        seed: the same for every score, so that differences are paired.

    Yields:
        blocks (N, at most CHUNK) of int8 weights (int32 if one is above MOST_DRAWS), `count` columns in all.
    """
    patient, names = pd.factorize(patients, sort=True)
    for times in draw_patients(len(names), count, seed):
        yield times[patient]


def draw_patients(people: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each resample draws each patient, in the blocks of resample_weights. -> (people, at most CHUNK)"""
    rng = np.random.default_rng(seed)
    for first in range(0, count, CHUNK):
        drawn = []
        # One call a resample: the numbers that are drawn do not depend on CHUNK.
        for _ in range(min(CHUNK, count - first)):
            whom = rng.integers(0, people, people)
            drawn.append(np.bincount(whom, minlength=people))
        most = max(times.max() for times in drawn)
        block = np.empty((people, len(drawn)), dtype=np.int8 if most <= MOST_DRAWS else np.int32)
        for column, times in enumerate(drawn):
            block[:, column] = times
        yield block


def patient_weights(patients: int, count: int, seed: int) -> np.ndarray:
    """How often each resample draws each patient, for scores that are sums over patients. -> (count, patients)"""
    # One patient alone has no spread to draw.
    count = count if patients > 1 else 0
    share = np.full(patients, 1 / patients)
    return np.random.default_rng(seed).multinomial(patients, share, size=count).astype(float)


def estimate(
    statistics: dict[str, WeightedStatistic], patients: np.ndarray, resamples: int, seed: int
) -> dict[str, BootstrapEstimate]:
    """Take every score on the images themselves and in `resamples` draws of their patients (N,)."""
    patient, names = pd.factorize(patients, sort=True)
    # One patient alone has no spread to draw.
    if len(names) <= 1:
        resamples = 0
    scratch = Scratch()

    def scores(times: np.ndarray) -> dict[str, np.ndarray]:
        weights = scratch.rows(times, patient)
        return {name: statistic(weights) for name, statistic in statistics.items()}

    # Without resamples an empty block still says what shape a score has.
    empty = np.zeros((len(names), 0), dtype=np.int8)
    blocks = [scores(empty)]
    jobs = draw_patients(len(names), resamples, seed)
    blocks += in_order(scores, jobs, workers_for(len(patients), resamples))
    values = scores(np.ones((len(names), 1), dtype=np.int8))
    estimates = {}
    for name in statistics:
        resampled = np.concatenate([block[name] for block in blocks])
        estimates[name] = BootstrapEstimate(values[name][0], resampled)
    return estimates


def workers_for(images: int, resamples: int) -> int:
    """Processes that share the resamples; 0: this one takes them all."""
    # The scores are no text that could be sent: only a fork has them.
    if sys.platform != "linux" or images * resamples < SHARED_FROM:
        return 0
    cores = usable_cores()
    return min(cores, MOST_WORKERS) if cores > 1 else 0


# ---- statistics -----------------------------------------------------------------------------------------------------


def weighted_mean(values: np.ndarray, counted: np.ndarray) -> WeightedStatistic:
    """The mean of the counted values. (N, M), (N, M) bool -> f(weights (N, R)) = (R, M)"""
    held = counted.astype(np.float32)
    summed = np.where(counted, values, 0).astype(np.float32)
    scratch = Scratch()

    def statistic(weights: np.ndarray) -> np.ndarray:
        w = scratch.copy(weights, np.float32).T
        count = w @ held
        mean = (w @ summed) / np.maximum(count, 1)
        return np.where(count > 0, mean, np.nan)

    return statistic


def share_weighted_mean(values: np.ndarray, share: np.ndarray) -> WeightedStatistic:
    """The mean of the values, each counting its share. (N, M), (N, M) -> f(weights (N, R)) = (R, M)"""
    summed = np.where(share > 0, values, 0) * share

    def statistic(weights: np.ndarray) -> np.ndarray:
        w = weights.T.astype(float)
        count = w @ share
        # Parts of patients may sum to less than 1, so that nothing but 0 is replaced.
        mean = (w @ summed) / np.where(count > 0, count, 1)
        return np.where(count > 0, mean, np.nan)

    return statistic


def of_column(j: int, statistic: WeightedStatistic) -> WeightedStatistic:
    """One of the last axis of a statistic."""

    def of_that(weights: np.ndarray) -> np.ndarray:
        return statistic(weights)[..., j]

    return of_that


# ---- means over patients ---------------------------------------------------------------------------------------------


def grouped_mean(
    value: np.ndarray,
    share: np.ndarray,
    patient: np.ndarray,
    group: np.ndarray,
    groups: int,
    weights: np.ndarray,
) -> np.ndarray:
    """Mean of each group in each resample, every unit counting its share times its patient. (n,) each -> (R, groups)"""
    known = ~np.isnan(value)
    value, share = value[known], share[known]
    place = patient[known] * groups + group[known]
    # First the sums of each patient: resamples draw patients.
    patients = weights.shape[1]
    total = np.bincount(place, value * share, patients * groups)
    count = np.bincount(place, share, patients * groups)
    total = total.reshape(patients, groups)
    count = count.reshape(patients, groups)
    return divide(weights @ total, weights @ count)


def divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where nothing is counted."""
    undefined = np.full(total.shape, np.nan)
    return np.divide(total, count, out=undefined, where=count > 0)
