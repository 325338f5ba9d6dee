"""Resize, compare and count on a CPU, without scores at full size: numba, and rows in threads.

A resized score is a mean of the four corners of its low-resolution cell. So a class whose largest
corner is below the largest smallest corner of all classes wins at no pixel of the cell: only the
other classes, a handful of many, are compared at pixels (segbench's spec, section 10.4).

The kernels have no threads of their own and let go of Python's lock, so that results never depend
on the number of threads and nothing breaks in the forked workers of a data loader.
"""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, types
from numba.extending import intrinsic

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
CountArray = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

_BANDS = 4  # of a thread, so that a slow band does not hold up the others
RELATIVE = np.float32(2.0**-20)
ABSOLUTE = np.float32(1e-37)
"""Rounding error of a resized score, relative to its largest corner and in all.

Two weights that sum to 1 within 2^-24 and two roundings of 2^-24 in either direction are less than
8 x 2^-24 = 2^-21 of the largest corner; below 2^-126 numbers are rounded to multiples of 2^-149.
"""


class Taps(NamedTuple):
    """Where the pixels of an axis lie between low-resolution places, n of them."""

    low: IntArray
    """(n,) place at or before the pixel."""
    high: IntArray
    """(n,) next place, or the same at the end."""
    weight: FloatArray
    """(n,) weight of the next place; the other has 1 - that."""
    starts: IntArray
    """(cells + 1,) first pixel of every run that lies between the same two places, and n."""


class Found(NamedTuple):
    """The best score of pixels and its class, arrays of one shape."""

    best: FloatArray
    winner: IntArray


class Pixels(NamedTuple):
    """The pixels of a cell, row by row: their weights of the right and of the lower corners."""

    across: FloatArray
    down: FloatArray
    found: Found


@lru_cache(maxsize=64)
def taps(places: int, pixels: int) -> Taps:
    """Source places of pixels with half-pixel centres, in the float32 steps of ATen.

    The arrays are shared by all calls.

        source = max(places / pixels * (pixel + 0.5) - 0.5, 0), each step rounded
        weight of the next place = source - floor(source)

    Args:
        places: low-resolution places of the axis, h or w.
        pixels: pixels of the axis, H or W.
    """
    pixel = np.arange(pixels, dtype=np.float32)
    source = np.float32(places) / np.float32(pixels) * (pixel + np.float32(0.5)) - np.float32(0.5)
    if places == pixels:
        source = pixel
    source = np.maximum(source, np.float32(0))
    low = np.minimum(source.astype(np.int32), places - 1)
    high = low if places == pixels else np.minimum(low + 1, places - 1)
    weight = np.clip(source - low.astype(np.float32), np.float32(0), np.float32(1))
    starts = np.flatnonzero(np.diff(low, prepend=-1, append=places))
    return Taps(low, high, weight, starts.astype(np.int32))


def fuses_products() -> bool:
    """Whether ATen's kernels for this processor round a product and a sum once, not twice.

    They are compiled three times for x86-64; two of them may use fused multiply-add.
    """
    fused = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    return fused or platform.machine().lower() not in ("x86_64", "amd64")


def aten_differs(classes: int, places: int, size: tuple[int, int]) -> bool:
    """Whether ATen resizes (C, h, w) scores by another kernel, which rounds in other places.

    It does for an output of H + W <= 128, for three channels in one thread, and for an image of one
    place; found by trial with PyTorch 2.15, and held by the tests.

    Args:
        classes: C.
        places: h w.
        size: (H, W).
    """
    return sum(size) <= 128 or places == 1 or (classes == 3 and torch.get_num_threads() == 1)


def resize_argmax_cpu(
    scores: FloatArray, size: tuple[int, int], *, prune: bool = True, fused: bool | None = None
) -> Found:
    """Same contract as `segbench.ops.count_argmax.resize_argmax`, as if `aten_differs` never held.

    Args:
        scores: (C, h, w) float32, contiguous, magnitudes at most 1e38.
        size: (H, W).
        prune: whether to leave out classes that cannot win; the result is the same.
        fused: whether a product and a sum are rounded once; by default as ATen does here.
    """
    _, places_y, places_x = scores.shape
    rows, columns = taps(places_y, size[0]), taps(places_x, size[1])
    found = Found(np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int32))  # (H, W) each
    if fused is None:
        fused = fuses_products()

    def compare(first: int, last: int) -> None:
        _compare_rows(scores, rows, columns, first, last, found, prune, fused)

    run_bands(compare, len(rows.starts) - 1)
    return found


def run_bands(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, last)` on bands of `count` things, in as many threads as PyTorch takes."""
    threads = min(torch.get_num_threads(), count)
    if threads == 1:
        work(0, count)
        return
    edges = np.linspace(0, count, min(threads * _BANDS, count) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def all_within(values: FloatArray, limit: np.float32) -> bool:
    """Whether no number of (n,) is NaN or of a larger magnitude than `limit`."""
    return bool(_all_within(values, limit))


def compiled(function: Function) -> Function:
    """Compile at the first call; later processes read the result from a cache."""
    return cast("Function", njit(cache=True, nogil=True, error_model="numpy")(function))


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:  # noqa: ARG001  # numba reads the names
    """Compute a b + c in float32, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.fma(*args)

    single = types.float32
    return single(single, single, single), generate


@compiled
def mix(first: np.float32, second: np.float32, weight: np.float32, fused: bool) -> np.float32:
    """Weight two scores as ATen does, `weight` for the second: its product is rounded first."""
    product: np.float32 = second * weight
    rest: np.float32 = np.float32(1) - weight
    mixed: np.float32 = _fma(first, rest, product) if fused else first * rest + product
    return mixed


@compiled
def _all_within(values: FloatArray, limit: np.float32) -> bool:
    outside = 0
    for i in range(len(values)):  # neither a way out nor an iterator, so that it is done in vectors
        outside |= not abs(values[i]) <= limit
    return outside == 0


@compiled
def _compare_rows(
    scores: FloatArray,
    rows: Taps,
    columns: Taps,
    first: int,
    last: int,
    found: Found,
    prune: bool,
    fused: bool,
) -> None:
    """Fill `found` at the pixel rows of row cells `first` to `last`."""
    classes, _, width = scores.shape
    kept = np.empty((width, classes), dtype=np.int32)
    counts = np.empty(width, dtype=np.int32)
    size = np.diff(rows.starts).max() * np.diff(columns.starts).max()  # pixels of a cell, at most
    pixels = Pixels(
        np.empty(size, dtype=np.float32),
        np.empty(size, dtype=np.float32),
        Found(np.empty(size, dtype=np.float32), np.empty(size, dtype=np.int32)),
    )
    for row in range(first, last):
        top, bottom = rows.starts[row], rows.starts[row + 1]
        above, below = scores[:, rows.low[top]], scores[:, rows.high[top]]  # (C, w), (C, w)
        possible_classes(above, below, prune, kept, counts)
        for column in range(len(columns.starts) - 1):
            start, stop = columns.starts[column], columns.starts[column + 1]
            left, right = columns.low[start], columns.high[start]
            n = 0
            for y in range(top, bottom):
                for x in range(start, stop):
                    pixels.across[n], pixels.down[n] = columns.weight[x], rows.weight[y]
                    pixels.found.best[n] = -np.inf
                    n += 1
            for c in kept[left, : counts[left]]:
                corners = above[c, left], above[c, right], below[c, left], below[c, right]
                _keep_larger(corners, c, pixels, n, fused)
            n = 0
            for y in range(top, bottom):
                for x in range(start, stop):
                    found.best[y, x] = pixels.found.best[n]
                    found.winner[y, x] = pixels.found.winner[n]
                    n += 1


@compiled
def possible_classes(
    above: FloatArray, below: FloatArray, prune: bool, kept: IntArray, counts: IntArray
) -> None:
    """List the classes that may win somewhere between two rows of places.

    Cell x lies between places x and x + 1, the last between the last and itself.

    Args:
        above: (C, w) scores of the upper row.
        below: (C, w) scores of the lower row.
        prune: False lists all classes.
        kept: (w, C) filled with the possible classes of cell x, ascending.
        counts: (w,) filled with their number, at least 1.
    """
    classes, width = above.shape
    peak = np.empty((classes, width), dtype=np.float32)  # no pixel of the cell is above it
    floor = np.full(width, -np.inf, dtype=np.float32)  # every pixel's best is at least that
    low, high = np.empty(width + 1, dtype=np.float32), np.empty(width + 1, dtype=np.float32)
    for c in range(classes):
        upper, lower, tops = above[c], below[c], peak[c]
        for x in range(width):
            low[x] = upper[x] if upper[x] < lower[x] else lower[x]
            high[x] = upper[x] if upper[x] > lower[x] else lower[x]
        low[width], high[width] = low[width - 1], high[width - 1]
        for x in range(width):
            least = low[x] if low[x] < low[x + 1] else low[x + 1]
            most = high[x] if high[x] > high[x + 1] else high[x + 1]
            error = RELATIVE * (abs(least) + abs(most)) + ABSOLUTE
            sure = least - error
            floor[x] = sure if sure > floor[x] else floor[x]
            tops[x] = most + error
    counts[:] = 0
    for c in range(classes):
        for x in range(width):
            if peak[c, x] >= floor[x] or not prune:
                kept[x, counts[x]] = c
                counts[x] += 1


@compiled
def _keep_larger(
    corners: tuple[np.float32, np.float32, np.float32, np.float32],
    c: int,
    pixels: Pixels,
    n: int,
    fused: bool,
) -> None:
    """Give class c the pixels of a cell at which it is larger than the classes before it."""
    upper_left, upper_right, lower_left, lower_right = corners
    across, down, (best, winner) = pixels
    for p in range(n):
        upper = mix(upper_left, upper_right, across[p], fused)
        lower = mix(lower_left, lower_right, across[p], fused)
        value = mix(upper, lower, down[p], fused)
        better = value > best[p]
        best[p] = value if better else best[p]
        winner[p] = c if better else winner[p]


def count_pairs_cpu(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], classes: int
) -> CountArray | None:
    """Same contract as `segbench.ops.count_argmax.confusion_counts`, of flat arrays.

    Returns:
        (K, K), or None where a value is out of range.
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    return counts if _count_runs(labels, predicted, counts) else None


@compiled
def _count_runs(
    labels: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], counts: CountArray
) -> bool:
    """Add runs of equal pairs to `counts`; False as soon as one is out of range."""
    classes, start, size = len(counts), 0, len(labels)
    while start < size:
        label, guess = np.int64(labels[start]), np.int64(predicted[start])
        stop = start + 1
        while stop < size and labels[stop] == label and predicted[stop] == guess:
            stop += 1
        if label != -1:
            if not (0 <= label < classes and 0 <= guess < classes):
                return False
            counts[label, guess] += stop - start
        start = stop
    return True
