"""Resize, compare and count in Triton: a program a low-resolution cell, scores read once a cell.

A program reads the four corners of its cell for blocks of classes, leaves out the classes that
cannot win in it, and goes over its pixels with the others. Equal (true, predicted) pairs of a cell
are counted by one atomic addition, so that a map of one class does not queue for one counter.
Additions and products are fused only where `tl.fma` says so: the bits are those of `cpu.py`.

What is wrong with scores and labels is noted by the kernel that reads them, and asserted on the
device by what is queued after it: no call waits for the device.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from segbench.ops.count_argmax import LARGEST
from segbench.ops.count_argmax.cpu import ABSOLUTE, RELATIVE, taps

PIXELS = 64  # that a program compares at a time
CLASSES = 256  # whose corners a program keeps at a time, at most


@triton.jit
def mix(first, second, weight):
    """Weight two scores, `weight` for the second: its product is rounded first."""
    return tl.fma(first, 1.0 - weight, second * weight)


@triton.jit
def _bounds(
    corners, at, shift_x, shift_y, classes,
    RELATIVE: tl.constexpr, ABSOLUTE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Classes [BC] `at`: a number below all of their scores in the cell, one above, and fitness.

    Fit are those that are neither NaN nor larger than LARGEST at any corner.
    """
    known = at < classes
    a = tl.load(corners + at, mask=known, other=0.0)
    b = tl.load(corners + shift_x + at, mask=known, other=0.0)
    c = tl.load(corners + shift_y + at, mask=known, other=0.0)
    d = tl.load(corners + shift_y + shift_x + at, mask=known, other=0.0)
    least = tl.minimum(tl.minimum(a, b), tl.minimum(c, d))
    most = tl.maximum(tl.maximum(a, b), tl.maximum(c, d))
    error = RELATIVE * (tl.abs(least) + tl.abs(most)) + ABSOLUTE
    fit = (tl.abs(a) <= LARGEST) & (tl.abs(b) <= LARGEST)  # a comparison with NaN is false
    fit = fit & (tl.abs(c) <= LARGEST) & (tl.abs(d) <= LARGEST)
    lowest = -float("inf")
    return tl.where(known, least - error, lowest), tl.where(known, most + error, lowest), fit


@triton.jit
def _resize_argmax_kernel(
    scores_ptr, rows_ptr, columns_ptr, row_weight_ptr, column_weight_ptr,
    labels_ptr, labels_y, labels_x, best_ptr, winner_ptr, counts_ptr, fine_ptr,
    classes, map_width, height, width, cells_x,
    COUNT: tl.constexpr, WINNER: tl.constexpr, BEST: tl.constexpr,
    RELATIVE: tl.constexpr, ABSOLUTE: tl.constexpr, LARGEST: tl.constexpr,
    BC: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    cell_y = tl.program_id(0).to(tl.int64) // cells_x
    cell_x = tl.program_id(0).to(tl.int64) % cells_x
    # rows_ptr and columns_ptr: starts (cells + 1), then low and high of every pixel (n each)
    top = tl.load(rows_ptr + cell_y)
    bottom = tl.load(rows_ptr + cell_y + 1)
    start = tl.load(columns_ptr + cell_x)
    stop = tl.load(columns_ptr + cell_x + 1)
    cells_y = tl.num_programs(0) // cells_x
    low_y = tl.load(rows_ptr + cells_y + 1 + top).to(tl.int64)
    high_y = tl.load(rows_ptr + cells_y + 1 + height + top).to(tl.int64)
    low_x = tl.load(columns_ptr + cells_x + 1 + start).to(tl.int64)
    high_x = tl.load(columns_ptr + cells_x + 1 + width + start).to(tl.int64)
    corners = scores_ptr + (low_y * map_width + low_x) * classes  # of class 0
    shift_y, shift_x = (high_y - low_y) * map_width * classes, (high_x - low_x) * classes

    block = tl.arange(0, BC)  # [BC]
    floor = tl.full((), -float("inf"), tl.float32)
    wrong = tl.zeros((), tl.int32)  # scores and labels that are out of range
    for first in range(0, classes, BC):
        sure, _, fit = _bounds(
            corners, first + block, shift_x, shift_y, classes, RELATIVE, ABSOLUTE, LARGEST
        )
        floor = tl.maximum(floor, tl.max(sure, axis=0))
        wrong += tl.sum((~fit).to(tl.int32), axis=0)

    columns = stop - start
    size = (bottom - top) * columns
    for offset in range(0, size, BP):
        place = offset + tl.arange(0, BP)  # [BP] of the cell's pixels, row by row
        inside = place < size
        y, x = top + place // columns, start + place % columns
        down = tl.load(row_weight_ptr + y, mask=inside, other=0.0)
        across = tl.load(column_weight_ptr + x, mask=inside, other=0.0)
        value = tl.full((BP,), -float("inf"), tl.float32)
        owner = tl.zeros((BP,), tl.int32)
        for first in range(0, classes, BC):
            at = first + block
            _, peak, _ = _bounds(
                corners, at, shift_x, shift_y, classes, RELATIVE, ABSOLUTE, LARGEST
            )
            possible = (peak >= floor) & (at < classes)  # [BC]
            for _ in range(tl.sum(possible.to(tl.int32), axis=0)):
                c = tl.min(tl.where(possible, at, classes), axis=0)  # ascending: a tie stays low
                possible = possible & (at != c)
                a, b = tl.load(corners + c), tl.load(corners + shift_x + c)
                upper = mix(a, b, across)
                a, b = tl.load(corners + shift_y + c), tl.load(corners + shift_y + shift_x + c)
                mixed = mix(upper, mix(a, b, across), down)
                owner = tl.where(mixed > value, c, owner)
                value = tl.maximum(mixed, value)
        pixel = y.to(tl.int64) * width + x
        if BEST:
            tl.store(best_ptr + pixel, value, mask=inside)
        if WINNER:
            tl.store(winner_ptr + pixel, owner, mask=inside)
        if COUNT:
            label_at = labels_ptr + y.to(tl.int64) * labels_y + x * labels_x
            label = tl.load(label_at, mask=inside, other=0).to(tl.int64)
            wrong += tl.sum((inside & ((label < -1) | (label >= classes))).to(tl.int32), axis=0)
            open_ = inside & (label >= 0) & (label < classes)  # [BP] not yet counted
            key = label.to(tl.int32) * classes + owner
            left = tl.sum(open_.to(tl.int32), axis=0)
            while left > 0:
                least = tl.min(tl.where(open_, key, 2147483647), axis=0)
                same = open_ & (key == least)
                many = tl.sum(same.to(tl.int32), axis=0)
                tl.atomic_add(counts_ptr + least, many.to(tl.int64), sem="relaxed")
                open_ = open_ & (key != least)
                left -= many
    tl.store(fine_ptr, 0, mask=wrong > 0)


@lru_cache(maxsize=64)
def _axis(places: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Cells and taps of an axis as the kernel reads them, the weights, and the number of cells."""
    axis = taps(places, pixels)
    packed = torch.cat([torch.from_numpy(part) for part in (axis.starts, axis.low, axis.high)])
    return packed.to(device), torch.from_numpy(axis.weight).to(device), len(axis.starts) - 1


def _launch(
    scores: Tensor,
    size: tuple[int, int],
    labels: Tensor,
    best: Tensor,
    winner: Tensor,
    counts: Tensor,
) -> None:
    """Fill those of `best`, `winner` and `counts` that are not empty; assert what was read."""
    classes, places_y, places_x = scores.shape
    by_place = scores.float().permute(1, 2, 0).contiguous()  # (h, w, C): a corner is one run
    rows, row_weight, cells_y = _axis(places_y, size[0], scores.device)
    columns, column_weight, cells_x = _axis(places_x, size[1], scores.device)
    fine = torch.ones(1, dtype=torch.int32, device=scores.device)
    block = min(CLASSES, triton.next_power_of_2(classes))
    with torch.cuda.device_of(scores):
        _resize_argmax_kernel[(cells_y * cells_x,)](
            by_place, rows, columns, row_weight, column_weight,
            labels, *labels.stride(), best, winner, counts, fine,
            classes, places_x, *size, cells_x,
            COUNT=counts.numel() > 0, WINNER=winner.numel() > 0, BEST=best.numel() > 0,
            RELATIVE=float(RELATIVE), ABSOLUTE=float(ABSOLUTE), LARGEST=LARGEST,
            BC=block, BP=PIXELS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip
    torch._assert_async(fine, f"a score is not in [-1e38, 1e38], or a label not in [-1, {classes})")


def resize_argmax_triton(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.count_argmax.resize_argmax`."""
    best = scores.new_empty(size, dtype=torch.float32)  # (H, W)
    winner = scores.new_empty(size, dtype=torch.int32)  # (H, W)
    nothing = winner.new_empty((0, 0))
    _launch(scores, size, nothing, best, winner, nothing.long())
    return best, winner


def count_argmax_triton(scores: Tensor, labels: Tensor, want_labels: bool) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.count_argmax.count_argmax`; (0, 0) for a None."""
    classes = len(scores)
    size = (labels.shape[0], labels.shape[1])
    counts = torch.zeros((classes, classes), dtype=torch.int64, device=scores.device)
    winner = counts.new_empty(size if want_labels else (0, 0), dtype=torch.int32)
    _launch(scores, size, labels, winner.new_empty((0, 0), dtype=torch.float32), winner, counts)
    return counts, winner
