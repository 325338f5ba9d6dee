"""The loss and its gradient on a CPU, a row of pixels at a time.

A low-resolution row is resized to the masks' width once; the pixel rows between two of them are
mixtures of both, and what their gradient adds up to goes back through the columns once. Columns
are worked on in vectors: the inner loops have no branch and call no function of the C library.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from maskcluster.ops.mask_pool.axis import resized_axis
from maskcluster.ops.mask_pool.bands import cpu_kernel, run_bands

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]

_0, _1, _2 = np.float32(0), np.float32(1), np.float32(2)
_FARTHEST = np.float32(87)  # exp(-87) is the last that is a normal float32
_LOG2E, _LN2 = np.float32(1.4426950408889634), np.float32(0.6931471805599453)
_ROUNDS = np.float32(1.5 * 2**23)  # adding it rounds to an integer, which the low bits then hold

_E2, _E3, _E4, _E5, _E6 = (np.float32(1 / n) for n in (2, 6, 24, 120, 720))
"""Taylor's terms of exp(r) after 1 + r: the next is below 1.3e-7 for |r| <= log(2) / 2."""

LOG1P = (
    1.0, -0.4999944567680359, 0.3331812024116516, -0.2483539879322052, 0.19076880812644958,
    -0.13602247834205627, 0.0775160863995552, -0.029074065387248993, 0.0051261018961668015,
)  # fmt: skip
"""log(1 + e) / e for e in [0, 1], interpolated at Chebyshev's nodes: right to 2e-7 of itself."""
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8 = (np.float32(c) for c in LOG1P)


class Pixels(NamedTuple):
    """A resized axis as the kernels read it, n places to S pixels."""

    starts: IntArray
    """(n + 2,) first pixel of each gap, and S; gap q lies between the places q - 1 and q."""
    weight: FloatArray
    """(S,) weight of the place after the gap."""


class Rows(NamedTuple):
    """Vectors of S columns."""

    above: FloatArray
    """Resized logits of the low-resolution row before a gap."""
    below: FloatArray
    """The same of the row after it."""
    code: FloatArray
    """Of each pixel of a row: -1 where the target is 1, 1 where it is 0, 0 under no mask."""
    loss: FloatArray
    """Losses of the columns, summed over the rows of a gap."""
    slope: FloatArray
    """Derivative of each pixel's loss."""
    up: FloatArray
    """Gradient of the resized row before the gap."""
    down: FloatArray
    """The same of the row after it."""


def union_words(
    packed: Tensor, owner: Tensor, cluster: Tensor, size: tuple[int, int]
) -> tuple[Words, Words]:
    """Targets and covered pixels as bits.

    Args:
        packed: (M, S, S // 8) uint8.
        owner: (M,) int64 image of each mask.
        cluster: (M,) int64 cluster of each mask.
        size: (B, K).

    Returns:
        unions: (B K, S, S // 32) uint32, union of the masks of every image and cluster.
        covered: (B, S, S // 32), union of all masks of an image.
    """
    words = packed.contiguous().numpy().view(np.uint32)  # (M, S, S // 32)
    unions = np.zeros((size[0] * size[1], *words.shape[1:]), dtype=np.uint32)
    covered = np.zeros((size[0], *words.shape[1:]), dtype=np.uint32)
    _unite(words, owner.numpy(), cluster.numpy(), unions, covered)
    return unions, covered


def mask_bce_cpu(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as the op of `maskcluster.ops.mask_bce`, for all but float64."""
    images, clusters, height, width = logits.shape
    side = packed.shape[1]
    unions, covered = union_words(packed, owner, cluster, (images, clusters))
    maps = logits.detach().float().contiguous().view(-1, height, width).numpy()  # (B K, y, x)
    gradient = torch.zeros(logits.shape if want_gradient else (0, 1, 1, 1))
    slopes = gradient.view(-1, *gradient.shape[2:]).numpy()  # (B K, y, x), or none
    totals = np.zeros(len(maps))
    axes = _pixels(height, side), _pixels(width, side)

    def band(first: int, last: int) -> None:
        _losses(maps, unions, covered, axes, first, last, totals, slopes)

    run_bands(band, len(maps))
    total = torch.tensor(totals.sum(), dtype=torch.float32)
    pixels = np.unpackbits(covered.view(np.uint8)).sum(dtype=np.int64)
    return total, torch.tensor(pixels), gradient if want_gradient else gradient.view(0)


def _pixels(places: int, pixels: int) -> Pixels:
    axis = resized_axis(places, pixels)
    return Pixels(axis.starts, axis.weight.astype(np.float32))


@cpu_kernel
def _unite(words: Words, owner: IntArray, cluster: IntArray, unions: Words, covered: Words) -> None:
    clusters = len(unions) // len(covered)
    for n in range(len(words)):
        union, cover = unions[owner[n] * clusters + cluster[n]], covered[owner[n]]
        for y in range(words.shape[1]):
            for i in range(words.shape[2]):
                union[y, i] |= words[n, y, i]
                cover[y, i] |= words[n, y, i]


@cpu_kernel
def _losses(
    maps: FloatArray,
    unions: Words,
    covered: Words,
    axes: tuple[Pixels, Pixels],
    first: int,
    last: int,
    totals: npt.NDArray[np.float64],
    gradient: FloatArray,
) -> None:
    """Fill `totals`, and `gradient` unless it is empty, of the maps `first` to `last`."""
    rows, columns = axes
    height, clusters = maps.shape[1], len(maps) // len(covered)
    buffer = np.zeros((7, len(columns.weight)), dtype=np.float32)
    above, below, up, down = buffer[0], buffer[1], buffer[5], buffer[6]
    for n in range(first, last):
        cover = covered[n // clusters]
        for gap in range(height + 1):
            above, below = below, above
            _widen(maps[n, min(gap, height - 1)], columns, below)
            if gap == 0:
                above[:] = below
            up, down = down, up
            down[:] = 0
            line = Rows(above, below, buffer[2], buffer[3], buffer[4], up, down)
            buffer[3] = 0
            for y in range(rows.starts[gap], rows.starts[gap + 1]):
                if _decode(unions[n, y], cover[y], line.code):
                    _add_row(line, rows.weight[y])
                    if len(gradient) > 0:
                        _add_slopes(line, rows.weight[y])
            totals[n] += buffer[3].sum()
            if len(gradient) > 0 and gap > 0:
                _narrow(up, columns, gradient[n, gap - 1])


@cpu_kernel
def _widen(places: FloatArray, columns: Pixels, out: FloatArray) -> None:
    """Resize a row to the masks' width."""
    width = len(places)
    for gap in range(width + 1):
        left, right = places[max(gap - 1, 0)], places[min(gap, width - 1)]
        for x in range(columns.starts[gap], columns.starts[gap + 1]):
            out[x] = left + columns.weight[x] * (right - left)


@cpu_kernel
def _narrow(slopes: FloatArray, columns: Pixels, out: FloatArray) -> None:
    """Add the transpose of `_widen` to `out`."""
    width = len(out)
    for gap in range(width + 1):
        left, right = _0, _0
        for x in range(columns.starts[gap], columns.starts[gap + 1]):
            part = columns.weight[x] * slopes[x]
            right += part
            left += slopes[x] - part
        out[max(gap - 1, 0)] += left
        out[min(gap, width - 1)] += right


@cpu_kernel
def _decode(union: Words, cover: Words, code: FloatArray) -> bool:
    """Write the code of a row of pixels; whether a mask covers any."""
    some = np.uint32(0)
    for i in range(len(cover)):
        some |= cover[i]
    if some == 0:
        return False
    for i in range(len(cover)):
        target, known = union[i], cover[i]
        for bit in range(32):
            one = (target >> np.uint32(bit)) & np.uint32(1)
            sure = (known >> np.uint32(bit)) & np.uint32(1)
            code[32 * i + bit] = np.float32(np.int32(sure)) - _2 * np.float32(np.int32(one))
    return True


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _power_of_two(_: Any, rounded: Any) -> Any:  # noqa: ARG001  # numba reads the names
    """2^n for the float32 `_ROUNDS` + n, n in [-126, 127]: its low bits become the exponent."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        word, single = (context.get_value_type(t) for t in (types.int32, types.float32))
        place, one = (context.get_constant(types.int32, n) for n in (23, 0x3F800000))
        bits = builder.add(builder.shl(builder.bitcast(args[0], word), place), one)
        return builder.bitcast(bits, single)

    return types.float32(types.float32), generate


@cpu_kernel
def _add_row(line: Rows, weight: np.float32) -> None:
    """Add the losses of a row of pixels, and write their derivatives.

    With w = -v where the target is 1 and v where it is 0, and e = exp(-|v|):

        loss = log(1 + exp(w)) = max(w, 0) + log(1 + e)
        d loss / d w = 1 / (1 + exp(-w)) = 1 / (1 + e) if w >= 0 else e / (1 + e)

    Neither is a difference of numbers that are near, so small ones are exact.
    """
    above, below, code, loss, slope = line.above, line.below, line.code, line.loss, line.slope
    for x in range(len(code)):
        sign = code[x]
        value = sign * (above[x] + weight * (below[x] - above[x]))
        size = abs(value)
        size = size if size < _FARTHEST else _FARTHEST
        rounded = _ROUNDS - size * _LOG2E
        r = -size - (rounded - _ROUNDS) * _LN2
        e = _1 + r * (_1 + r * (_E2 + r * (_E3 + r * (_E4 + r * (_E5 + r * _E6)))))
        e *= _power_of_two(rounded)
        log1p = _L4 + e * (_L5 + e * (_L6 + e * (_L7 + e * _L8)))
        log1p = e * (_L0 + e * (_L1 + e * (_L2 + e * (_L3 + e * log1p))))
        whole = _1 / (_1 + e)
        each = (value if value > _0 else _0 * value) + log1p  # NaN stays NaN
        loss[x] += each if sign != _0 else _0
        slope[x] = sign * (whole if value >= _0 else e * whole) if sign != _0 else _0


@cpu_kernel
def _add_slopes(line: Rows, weight: np.float32) -> None:
    """Share the derivatives of a row of pixels between the low-resolution rows about it."""
    slope, up, down = line.slope, line.up, line.down
    for x in range(len(slope)):
        part = weight * slope[x]
        down[x] += part
        up[x] += slope[x] - part
