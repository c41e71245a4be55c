"""Dropout from a model's own draws, so that what is dropped is a function of seed, epoch and batch."""

from statistics import NormalDist

from torch import Tensor


def dropout(values: Tensor, noise: Tensor, rate: float) -> Tensor:
    """Returns `values` with a share `rate` of the elements set to 0 and the others divided by 1 - `rate`.

    Args:
        noise: standard normal, of the shape of `values`: an element is kept where it is above the quantile `rate`.
        rate: above 0 and below 1.
    """
    return values * (noise > NormalDist().inv_cdf(rate)) / (1.0 - rate)
