"""How often an image comes in an epoch, so that what few images have is met more often (Gupta et al. 2019, LVIS).

Letters: N images of the training table, K classes.
"""

import math

import numpy as np
import torch

from roi.counter_rng import REPEATS, row_seeds, uniform

# An image that came more often would be learned by heart.
LARGEST_FACTOR = 10.0
# Its multiples, modulo 1, lie more evenly than those of any other number: see copies_of_epoch.
GOLDEN = (math.sqrt(5) - 1) / 2


def class_factors(targets: np.ndarray, threshold: float) -> np.ndarray:
    """max(1, sqrt(threshold / f)) of each class, f the share of the images that have it; at most LARGEST_FACTOR.

    Args:
        targets: (N, K); NaN is unknown, and an image that has a class with chance y counts y.

    Returns:
        (K,)
    """
    images_with = np.nansum(targets.astype(np.float64), axis=0)
    # A class that no image has repeats none.
    images_with[images_with == 0] = np.inf
    share = images_with / len(targets)
    factors = np.sqrt(threshold / share)
    return np.clip(factors, 1.0, LARGEST_FACTOR)


def repeat_factors(targets: np.ndarray, threshold: float) -> np.ndarray:
    """How often each image is to come relative to one of frequent classes alone: that of the rarest class it has.

    Args:
        targets: (N, K); of a class that is there with chance y an image takes the factor to be expected.

    Returns:
        (N,), each from 1 to LARGEST_FACTOR
    """
    # What is unknown repeats nothing.
    chance = np.nan_to_num(targets.astype(np.float64))
    added = class_factors(targets, threshold) - 1
    of_classes = 1 + chance * added  # (N, K)
    return of_classes.max(axis=1, initial=1.0)


def expected_copies(factors: np.ndarray) -> np.ndarray:
    """How often each image comes in an epoch of N, in the mean over epochs: (N,) -> (N,), adding up to N."""
    # An epoch keeps its length: schedules and the cost of a run are those of any other sampler.
    return factors * (len(factors) / factors.sum())


def copies_of_epoch(expected: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """How often each image comes in this epoch: its expected number, rounded up or down, and N in all.

    Images stand one behind the other, in an order drawn with the seed, each as long as its expected number. Where a
    comb of teeth at distance 1 meets an image, it comes (systematic sampling). The comb moves on by GOLDEN each epoch,
    so that an image has come as often as expected, to within a few, after any number of epochs.

    Returns:
        (N,) int64; a function of its arguments alone
    """
    count = len(expected)
    # N for the comb, the rows for their places: seeds that do not meet.
    seeds = row_seeds(seed, 0, torch.arange(count + 1))
    draws = uniform(seeds, 1, REPEATS)[:, 0]
    # Drawn: neighbours in the table are of one patient, and would always come in turns.
    places = draws[:count].argsort(stable=True).numpy()
    first_tooth = float(draws[count])
    tooth = (first_tooth + epoch * GOLDEN) % 1
    ends = np.cumsum(expected[places])
    # Sums of rounded numbers: the last end is N, so that there are N teeth.
    ends = np.minimum(ends, count)
    ends[-1:] = count
    teeth_before = np.ceil(ends - tooth)
    copies = np.empty(count, dtype=np.int64)
    copies[places] = np.diff(teeth_before, prepend=0)
    return copies


def rows_of_epoch(expected: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """(N,) the rows of an epoch in the order of the table; a row that it has had k times already is row + k * N."""
    count = len(expected)
    copies = copies_of_epoch(expected, seed, epoch)
    rows = np.repeat(np.arange(count), copies)
    # Where the copies of a row begin.
    first = np.cumsum(copies) - copies
    times_before = np.arange(count) - first[rows]
    return rows + count * times_before
