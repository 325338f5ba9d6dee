"""Merge windows, resize and compare in Triton: a program a tile of the labels.

A program bounds every class over its tile as `cpu.py` does, and evaluates those that can win from
the low-resolution scores: for each pixel four pixels of the resized image, for each of these the
windows that cover it, for each of those four places. All are in a cache; nothing is stored but the
answer. The bits are those of `cpu.py`: additions and products are fused only in `mix`.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from segbench.ops.count_argmax import LARGEST
from segbench.ops.count_argmax.cpu import ABSOLUTE
from segbench.ops.count_argmax.kernel import mix
from segbench.ops.merge_argmax.cpu import merge_axis, rounding_error
from segbench.ops.merge_argmax.reference import Place

SIDE = 8
"""Side of a tile, in pixels of the labels."""
CLASSES = 256  # that a program bounds at a time, at most


@triton.jit
def _bounds(
    scores_ptr, begins_ptr, cuts_ptr, inner_ptr, at, classes,
    region_top, region_bottom, region_left, region_right,
    n, cuts_y, cuts_x, places_y, places_x, window_y, window_x,
    ERROR: tl.constexpr, ABSOLUTE: tl.constexpr, LARGEST: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Classes [BC] `at`: a number below all of their scores in a region, one above, and fitness.

    Fit are those that are neither NaN nor larger than LARGEST at any place read.
    """
    known = at < classes
    fit = tl.full((BC,), True, tl.int1)
    least = tl.full((BC,), float("inf"), tl.float32)
    most = tl.full((BC,), -float("inf"), tl.float32)
    size = tl.zeros((BC,), tl.float32)
    for cut_y in range(cuts_y - 1):
        top = tl.maximum(region_top, tl.load(cuts_ptr + cut_y))
        bottom = tl.minimum(region_bottom, tl.load(cuts_ptr + cut_y + 1))
        for cut_x in range(cuts_x - 1):
            left = tl.maximum(region_left, tl.load(cuts_ptr + cuts_y + cut_x))
            right = tl.minimum(region_right, tl.load(cuts_ptr + cuts_y + cut_x + 1))
            if (top < bottom) & (left < right):
                low_sum = tl.zeros((BC,), tl.float32)
                high_sum = tl.zeros((BC,), tl.float32)
                covering = 0.0
                for k in range(n):
                    first_y = tl.load(begins_ptr + k)
                    first_x = tl.load(begins_ptr + n + k)
                    tall = (first_y <= top) & (bottom <= first_y + window_y)
                    wide = (first_x <= left) & (right <= first_x + window_x)
                    if tall & wide:
                        # inner_ptr: low and high of a window's rows, then of its columns
                        y0 = tl.load(inner_ptr + top - first_y)
                        y1 = tl.load(inner_ptr + window_y + bottom - 1 - first_y)
                        x0 = tl.load(inner_ptr + 2 * window_y + left - first_x)
                        x1 = tl.load(inner_ptr + 2 * window_y + window_x + right - 1 - first_x)
                        low = tl.full((BC,), float("inf"), tl.float32)
                        high = tl.full((BC,), -float("inf"), tl.float32)
                        for y in range(y0, y1 + 1):
                            for x in range(x0, x1 + 1):
                                place = ((tl.zeros((), tl.int64) + k) * places_y + y) * places_x + x
                                value = tl.load(
                                    scores_ptr + place * classes + at, mask=known, other=0.0
                                )
                                low = tl.minimum(low, value)
                                high = tl.maximum(high, value)
                                fit = fit & (tl.abs(value) <= LARGEST)  # false of NaN
                        low_sum += low
                        high_sum += high
                        size = tl.maximum(size, tl.maximum(tl.abs(low), tl.abs(high)))
                        covering += 1.0
                least = tl.minimum(least, low_sum / covering)
                most = tl.maximum(most, high_sum / covering)
    error = ERROR * size + ABSOLUTE
    lowest = -float("inf")
    return tl.where(known, least - error, lowest), tl.where(known, most + error, lowest), fit


@triton.jit
def _window(
    scores_ptr, inner_ptr, inner_weight_ptr, k, c, y, x, inside,
    classes, places_y, places_x, window_y, window_x,
):  # fmt: skip
    """Score of class c at pixels (y, x) of window k, resized."""
    low_y = tl.load(inner_ptr + y, mask=inside, other=0)
    high_y = tl.load(inner_ptr + window_y + y, mask=inside, other=0)
    low_x = tl.load(inner_ptr + 2 * window_y + x, mask=inside, other=0)
    high_x = tl.load(inner_ptr + 2 * window_y + window_x + x, mask=inside, other=0)
    down = tl.load(inner_weight_ptr + y, mask=inside, other=0.0)
    across = tl.load(inner_weight_ptr + window_y + x, mask=inside, other=0.0)
    plane = scores_ptr + (tl.zeros((), tl.int64) + k) * places_y * places_x * classes + c
    upper = plane + low_y.to(tl.int64) * places_x * classes
    lower = plane + high_y.to(tl.int64) * places_x * classes
    left, right = low_x.to(tl.int64) * classes, high_x.to(tl.int64) * classes
    a = tl.load(upper + left, mask=inside, other=0.0)
    b = tl.load(upper + right, mask=inside, other=0.0)
    above = mix(a, b, across)
    a = tl.load(lower + left, mask=inside, other=0.0)
    b = tl.load(lower + right, mask=inside, other=0.0)
    return mix(above, mix(a, b, across), down)


@triton.jit
def _merged(
    scores_ptr, begins_ptr, inner_ptr, inner_weight_ptr, c, y, x, inside,
    region_top, region_bottom, region_left, region_right,
    classes, n, places_y, places_x, window_y, window_x, BP: tl.constexpr,
):  # fmt: skip
    """Score of class c at pixels (y, x) [BP] of the resized image: the mean of its windows."""
    total = tl.zeros((BP,), tl.float32)
    hits = tl.zeros((BP,), tl.float32)
    for k in range(n):
        first_y, first_x = tl.load(begins_ptr + k), tl.load(begins_ptr + n + k)
        tall = (first_y < region_bottom) & (first_y + window_y > region_top)
        wide = (first_x < region_right) & (first_x + window_x > region_left)
        if tall & wide:
            rows = (y >= first_y) & (y < first_y + window_y)
            covered = inside & rows & (x >= first_x) & (x < first_x + window_x)
            value = _window(
                scores_ptr, inner_ptr, inner_weight_ptr, k, c, y - first_y, x - first_x, covered,
                classes, places_y, places_x, window_y, window_x,
            )  # fmt: skip
            total += tl.where(covered, value, 0.0)
            hits += tl.where(covered, 1.0, 0.0)
    return tl.div_rn(total, tl.maximum(hits, 1.0))


@triton.jit
def _merge_argmax_kernel(
    scores_ptr, begins_ptr, cuts_ptr, inner_ptr, inner_weight_ptr, outer_ptr, outer_weight_ptr,
    best_ptr, winner_ptr, fine_ptr,
    classes, n, cuts_y, cuts_x, places_y, places_x, window_y, window_x, height, width, tiles_x,
    ERROR: tl.constexpr, ABSOLUTE: tl.constexpr, LARGEST: tl.constexpr,
    BC: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    top = tl.program_id(0) // tiles_x * SIDE
    left = tl.program_id(0) % tiles_x * SIDE
    bottom, right = tl.minimum(top + SIDE, height), tl.minimum(left + SIDE, width)
    # outer_ptr: low and high of the labels' rows, then of their columns
    columns_ptr = outer_ptr + 2 * height
    region_top, region_bottom = (
        tl.load(outer_ptr + top),
        tl.load(outer_ptr + height + bottom - 1) + 1,
    )
    region_left, region_right = (
        tl.load(columns_ptr + left),
        tl.load(columns_ptr + width + right - 1) + 1,
    )
    block = tl.arange(0, BC)
    floor = tl.full((), -float("inf"), tl.float32)
    wrong = tl.zeros((), tl.int32)
    for first in range(0, classes, BC):
        sure, _, fit = _bounds(
            scores_ptr, begins_ptr, cuts_ptr, inner_ptr, first + block, classes,
            region_top, region_bottom, region_left, region_right,
            n, cuts_y, cuts_x, places_y, places_x, window_y, window_x, ERROR, ABSOLUTE, LARGEST,
            BC,
        )  # fmt: skip
        floor = tl.maximum(floor, tl.max(sure, axis=0))
        wrong += tl.sum((~fit).to(tl.int32), axis=0)

    place = tl.arange(0, SIDE * SIDE)  # [BP] of the tile's pixels, row by row
    y, x = top + place // SIDE, left + place % SIDE
    inside = (y < height) & (x < width)
    low_y = tl.load(outer_ptr + y, mask=inside, other=0)
    high_y = tl.load(outer_ptr + height + y, mask=inside, other=0)
    low_x = tl.load(columns_ptr + x, mask=inside, other=0)
    high_x = tl.load(columns_ptr + width + x, mask=inside, other=0)
    down = tl.load(outer_weight_ptr + y, mask=inside, other=0.0)
    across = tl.load(outer_weight_ptr + height + x, mask=inside, other=0.0)
    value = tl.full((SIDE * SIDE,), -float("inf"), tl.float32)
    owner = tl.zeros((SIDE * SIDE,), tl.int32)
    for first in range(0, classes, BC):
        at = first + block
        _, peak, _ = _bounds(
            scores_ptr, begins_ptr, cuts_ptr, inner_ptr, at, classes,
            region_top, region_bottom, region_left, region_right,
            n, cuts_y, cuts_x, places_y, places_x, window_y, window_x, ERROR, ABSOLUTE, LARGEST,
            BC,
        )  # fmt: skip
        possible = (peak >= floor) & (at < classes)  # [BC]
        for _ in range(tl.sum(possible.to(tl.int32), axis=0)):
            c = tl.min(tl.where(possible, at, classes), axis=0)  # ascending: a tie stays low
            possible = possible & (at != c)
            upper = tl.zeros((SIDE * SIDE,), tl.float32)
            mixed = tl.zeros((SIDE * SIDE,), tl.float32)
            for corner in range(4):  # upper left, upper right, lower left, lower right
                row = tl.where(corner < 2, low_y, high_y)
                column = tl.where(corner % 2 == 0, low_x, high_x)
                merged = _merged(
                    scores_ptr, begins_ptr, inner_ptr, inner_weight_ptr, c, row, column, inside,
                    region_top, region_bottom, region_left, region_right,
                    classes, n, places_y, places_x, window_y, window_x, SIDE * SIDE,
                )  # fmt: skip
                if corner % 2 == 0:  # noqa: SIM108  # Triton branches on statements
                    mixed = merged
                else:
                    mixed = mix(mixed, merged, across)
                if corner == 1:
                    upper = mixed
            mixed = mix(upper, mixed, down)
            owner = tl.where(mixed > value, c, owner)
            value = tl.maximum(mixed, value)
    pixel = y.to(tl.int64) * width + x
    tl.store(best_ptr + pixel, value, mask=inside)
    tl.store(winner_ptr + pixel, owner, mask=inside)
    tl.store(fine_ptr, 0, mask=wrong > 0)


@lru_cache(maxsize=64)
def _geometry(
    places: tuple[Place, ...],
    grid: tuple[int, int],
    resized_size: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, tuple[int, int], tuple[int, int]]:
    """What the kernel reads of both axes, rows first; numbers of cuts and pixels of a window."""
    tops, lefts, bottoms, rights = zip(*places, strict=True)
    window = bottoms[0] - tops[0], rights[0] - lefts[0]
    axes = [
        merge_axis(begins, window[axis], grid[axis], resized_size[axis], size[axis])
        for axis, begins in enumerate((tops, lefts))
    ]

    def packed(parts):
        return torch.cat([torch.from_numpy(part) for part in parts]).to(device)

    return (
        packed(axis.begins for axis in axes),
        packed(axis.cuts for axis in axes),
        packed(part for axis in axes for part in (axis.inner.low, axis.inner.high)),
        packed(axis.inner.weight for axis in axes),
        packed(part for axis in axes for part in (axis.outer.low, axis.outer.high)),
        packed(axis.outer.weight for axis in axes),
        (len(axes[0].cuts), len(axes[1].cuts)),
        window,
    )


def merge_argmax_triton(
    windows: Tensor, places: Sequence[Place], resized_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.merge_argmax.merge_argmax`."""
    n, classes, *grid = windows.shape
    by_place = windows.float().permute(0, 2, 3, 1).contiguous()  # (n, h, w, C)
    best = by_place.new_empty(size)  # (H, W)
    winner = by_place.new_empty(size, dtype=torch.int32)  # (H, W)
    where = tuple(tuple(place) for place in places)
    *tables, cuts, window = _geometry(where, tuple(grid), resized_size, size, windows.device)
    fine = winner.new_ones(1)
    limit = LARGEST / n
    tiles = triton.cdiv(size[0], SIDE), triton.cdiv(size[1], SIDE)
    with torch.cuda.device_of(windows):
        _merge_argmax_kernel[(tiles[0] * tiles[1],)](
            by_place, *tables, best, winner, fine,
            classes, n, *cuts, *grid, *window, *size, tiles[1],
            ERROR=float(rounding_error(n)), ABSOLUTE=float(ABSOLUTE), LARGEST=limit,
            BC=min(CLASSES, triton.next_power_of_2(classes)), SIDE=SIDE,
            num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    torch._assert_async(fine, f"a score is not in [{-limit:g}, {limit:g}]")
    return best, winner
