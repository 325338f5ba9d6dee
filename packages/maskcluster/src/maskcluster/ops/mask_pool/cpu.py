"""Mask pooling on a CPU: a mask's weights on the low-resolution grid from its runs, then products.

The columns of the resize matrix are summed up once; the weights of a run of pixels in a row are
then the difference of two of those sums, at the cells that the run touches.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from maskcluster.ops.mask_pool.axis import resize_matrix, resized_axis
from maskcluster.ops.mask_pool.bands import cpu_kernel, run_bands

DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

_FULL = np.uint32(0xFFFFFFFF)
_ONE = np.uint32(1)


class Columns(NamedTuple):
    """How the pixels of a row weigh on its w cells."""

    before: IntArray
    """(S,) first cell that a pixel weighs on."""
    after: IntArray
    """(S,) last cell that it weighs on."""
    sums: DoubleArray
    """(S + 1, w) weights of all pixels before one."""


class Rows(NamedTuple):
    """How a row of pixels weighs on the h rows of cells."""

    before: IntArray
    """(S,) row of cells before the pixels."""
    after: IntArray
    """(S,) row of cells after them."""
    weight: DoubleArray
    """(S,) weight of the row after."""


def mask_pool_cpu(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.mask_pool.mask_pool`."""
    wide = torch.promote_types(features.dtype, torch.float32)
    images, channels, height, width = features.shape
    weights, area = mask_weights(packed, (height, width), wide)
    pooled = features.new_empty((len(packed), channels), dtype=wide)  # (M, D)
    edges = torch.searchsorted(owner, torch.arange(images + 1)).tolist()
    with torch.autocast("cpu", enabled=False):
        for image, (first, last) in enumerate(pairwise(edges)):
            if first < last:
                places = features[image].flatten(1).to(wide)  # (D, h w)
                torch.mm(weights[first:last], places.mT, out=pooled[first:last])
    return pooled.div_(area.clamp(min=1)[:, None]), area


def mask_weights(
    packed: Tensor, size: tuple[int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What masks weigh on a low-resolution grid: the transpose of the bilinear resize.

        w_n = A_h^T m_n A_w, so that sum over pixels of m_n resize(f) = sum over cells of w_n f

    Args:
        packed: (M, S, S // 8) uint8.
        size: (h, w).
        dtype: float32 or float64; sums are in float64.

    Returns:
        weights: (M, h w).
        area: (M,) pixels, of the same type; the sum of the weights.
    """
    masks, side, _ = packed.shape
    weights = torch.empty((masks, *size), dtype=dtype)  # (M, h, w)
    area = torch.empty(masks, dtype=dtype)  # (M,)
    words = packed.contiguous().numpy().view(np.uint32)  # (M, S, S // 32)
    rows, columns = _rows(size[0], side), _columns(size[1], side)
    out = weights.numpy(), area.numpy()
    run_bands(lambda first, last: _weigh(words, rows, columns, first, last, *out), masks)
    return weights.flatten(1), area


def _rows(places: int, pixels: int) -> Rows:
    axis = resized_axis(places, pixels)
    return Rows(np.maximum(axis.gap - 1, 0), np.minimum(axis.gap, places - 1), axis.weight)


def _columns(places: int, pixels: int) -> Columns:
    before, after, _ = _rows(places, pixels)
    sums = np.zeros((pixels + 1, places))
    np.cumsum(resize_matrix(places, pixels), axis=0, out=sums[1:])
    return Columns(before, after, sums)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _lowest_bit(_: Any, word: Any) -> Any:  # noqa: ARG001  # numba reads the names
    """Place of the lowest bit of a word that is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        place = builder.cttz(args[0], context.get_constant(types.boolean, True))
        return builder.zext(place, context.get_value_type(types.int64))

    return types.int64(types.uint32), generate


@cpu_kernel
def _weigh(
    words: Words,
    rows: Rows,
    columns: Columns,
    first: int,
    last: int,
    weights: npt.NDArray[Any],
    area: npt.NDArray[Any],
) -> None:
    """Fill `weights` and `area` of the masks `first` to `last`."""
    _, height, width = weights.shape
    total = np.zeros((height, width))
    row = np.zeros(width)
    for n in range(first, last):
        total[:] = 0
        pixels = 0
        for y in range(words.shape[1]):
            count, low, high = _weigh_row(words[n, y], columns, row)
            if count == 0:
                continue
            pixels += count
            above, below = total[rows.before[y]], total[rows.after[y]]
            down = rows.weight[y]
            for x in range(low, high):
                above[x] += (1 - down) * row[x]
                below[x] += down * row[x]
                row[x] = 0
        weights[n] = total
        area[n] = pixels


@cpu_kernel
def _weigh_row(words: Words, columns: Columns, row: DoubleArray) -> tuple[int, int, int]:
    """Add the runs of a row of pixels to its cells; the pixels set, and the cells touched."""
    count, low, high = 0, len(row), 0
    start = -1  # of the run that goes on
    for i in range(len(words) + 1):
        word = words[i] if i < len(words) else np.uint32(0)
        going = start >= 0
        if (word == 0 and not going) or (word == _FULL and going):
            continue
        edges = np.uint32(word ^ np.uint32((word << _ONE) | np.uint32(going)))
        while edges != 0:
            x = 32 * i + _lowest_bit(edges)
            edges = np.uint32(edges & np.uint32(edges - _ONE))
            if start < 0:
                start = x
                continue
            left, right = columns.before[start], columns.after[x - 1] + 1
            for cell in range(left, right):
                row[cell] += columns.sums[x, cell] - columns.sums[start, cell]
            low, high = min(low, left), max(high, right)
            count += x - start
            start = -1
    return count, low, high
