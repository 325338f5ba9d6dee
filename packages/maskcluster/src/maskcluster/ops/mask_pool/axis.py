"""Where the pixels of a resized axis lie between its low-resolution places."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]


class Axis(NamedTuple):
    """An axis of n places resized to S pixels: its pixels in n + 1 gaps.

    Gap q lies between the places q - 1 and q; the first has only place 0, the last only n - 1.
    """

    gap: IntArray
    """(S,) gap of every pixel, in [0, n], non-decreasing."""
    weight: DoubleArray
    """(S,) weight of the place after the gap; the place before it has 1 - that."""
    starts: IntArray
    """(n + 2,) first pixel at or after each gap, and S."""


@lru_cache(maxsize=64)
def resized_axis(places: int, pixels: int) -> Axis:
    """Half-pixel centres, clamped at the ends: bilinear interpolation with align_corners=False.

        source = (pixel + 1/2) places / pixels - 1/2,  gap = floor(source) + 1

    Computed in integers, so that no rounding moves a pixel to another gap.

    Args:
        places: n >= 1 of the low resolution.
        pixels: S >= 1.
    """
    numerator = (2 * np.arange(pixels, dtype=np.int64) + 1) * places - pixels  # (S,)
    gap = numerator // (2 * pixels) + 1
    weight = (numerator % (2 * pixels)) / (2 * pixels)
    weight = np.where(gap == 0, 1.0, np.where(gap == places, 0.0, weight))
    return Axis(gap, weight, np.searchsorted(gap, np.arange(places + 2)).astype(np.int64))


def resize_matrix(places: int, pixels: int) -> DoubleArray:
    """The resize as a matrix A: (S, n), rows sum to 1, at most two entries of a row are not 0."""
    axis = resized_axis(places, pixels)
    pixel = np.arange(pixels)
    matrix = np.zeros((pixels, places))  # (S, n)
    matrix[pixel, np.maximum(axis.gap - 1, 0)] += 1 - axis.weight
    matrix[pixel, np.minimum(axis.gap, places - 1)] += axis.weight
    return matrix


def resize_tensor(places: int, pixels: int, like: Tensor) -> Tensor:
    """`resize_matrix` in the type and on the device of `like`."""
    return torch.from_numpy(resize_matrix(places, pixels)).to(like)
