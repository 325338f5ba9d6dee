"""The loss and its gradient in Triton: sums in a fixed order, no atomic additions.

A union of masks is an OR of their words, so that a target stays one bit of a pixel and a cluster.
Resized pixels lie in gaps between two columns and two rows of logits. A program takes a band of
rows of one image and a run of gaps, one a lane, cluster after cluster. It goes down its rows with
the four logits about a lane in registers and takes the pixels of a gap one by one; what they owe
to the logits about them is added up where neighbouring gaps meet.
"""

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from maskcluster.ops.mask_bce.cpu import LOG1P
from maskcluster.ops.mask_pool.axis import Axis, resized_axis

WORDS, MASKS = 256, 8  # of each mask, and masks, that a program unites at a time
LANES = 64  # gaps of a program; the last is there for the gradient of the one before it only
BAND = 16  # rows of logits of a program


@triton.jit
def _either(first, second):
    return first | second


@triton.jit
def _unite(
    words_ptr, order_ptr, starts_ptr, out_ptr, count_ptr, stride, size,
    COUNT: tl.constexpr, MASKS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """OR [WORDS] of the masks of a segment; count the bits that are set."""
    segment = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * WORDS + tl.arange(0, WORDS)  # [WORDS]
    first = tl.load(starts_ptr + segment * stride)
    last = tl.load(starts_ptr + (segment + 1) * stride)
    united = tl.zeros((WORDS,), dtype=tl.int32)
    for start in range(first, last, MASKS):
        place = start + tl.arange(0, MASKS)  # [MASKS]
        n = tl.load(order_ptr + place, mask=place < last, other=0)
        inside = (place < last)[:, None] & (at < size)[None, :]
        words = tl.load(words_ptr + n[:, None] * size + at[None, :], mask=inside, other=0)
        united |= tl.reduce(words, 0, _either)
    tl.store(out_ptr + segment * size + at, united, mask=at < size)
    if COUNT:
        pairs = united - ((united >> 1) & 0x55555555)
        fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
        bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F
        bits = (bytes_ + (bytes_ >> 8) + (bytes_ >> 16) + (bytes_ >> 24)) & 0x3F
        count = count_ptr + segment * tl.num_programs(1) + tl.program_id(1)
        tl.store(count, tl.sum(bits, axis=0))


@triton.jit
def _window(line, first, words, known):
    """32 bits of a row of pixels from the column `first` on."""
    word, shift = first // 32, (first % 32).to(tl.uint64)
    low = tl.load(line + word, mask=known, other=0).to(tl.uint32).to(tl.uint64)
    high = tl.load(line + word + 1, mask=known & (word + 1 < words), other=0)
    return ((low | (high.to(tl.uint32).to(tl.uint64) << 32)) >> shift).to(tl.uint32)


@triton.jit
def _losses(
    logits_ptr, unions_ptr, covered_ptr, rows_ptr, row_weight_ptr,
    columns_ptr, first_weight_ptr, step_ptr, loss_ptr, gradient_ptr,
    stride_b, stride_k, stride_y, stride_x, clusters, height, width, side,
    GRADIENT: tl.constexpr, PIXELS: tl.constexpr, TERMS: tl.constexpr,
    LANES: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    place = tl.arange(0, LANES)
    lane = tl.program_id(0).to(tl.int64) * (LANES - 1) + place  # [LANES]
    k, q = lane // (width + 1), lane % (width + 1)
    known = k < clusters
    own = known & (place < LANES - 1)
    begin = tl.load(columns_ptr + q)  # [LANES] first pixel
    pixels = tl.load(columns_ptr + q + 1) - begin
    first_weight, step = tl.load(first_weight_ptr + q), tl.load(step_ptr + q)
    words = side // 32
    left_at = b * stride_b + k * stride_k + tl.maximum(q - 1, 0) * stride_x
    right_at = b * stride_b + k * stride_k + tl.minimum(q, width - 1) * stride_x
    union = unions_ptr + (b * clusters + k) * side * words
    cover = covered_ptr + b * side * words

    top = tl.program_id(1).to(tl.int64) * BAND
    bottom = tl.minimum(top + BAND, height)
    loss = tl.zeros((LANES,), dtype=tl.float32)
    owed_left = tl.zeros((LANES,), dtype=tl.float32)  # to the row of logits before the gap
    owed_right = tl.zeros((LANES,), dtype=tl.float32)
    for gap in range(top, bottom + 1):
        above, below = tl.maximum(gap - 1, 0) * stride_y, tl.minimum(gap, height - 1) * stride_y
        above_left = tl.load(logits_ptr + left_at + above, mask=known, other=0.0).to(tl.float32)
        above_right = tl.load(logits_ptr + right_at + above, mask=known, other=0.0).to(tl.float32)
        below_left = tl.load(logits_ptr + left_at + below, mask=known, other=0.0).to(tl.float32)
        below_right = tl.load(logits_ptr + right_at + below, mask=known, other=0.0).to(tl.float32)
        losses = tl.zeros((LANES,), dtype=tl.float32)
        down_left = tl.zeros((LANES,), dtype=tl.float32)
        down_right = tl.zeros((LANES,), dtype=tl.float32)
        for y in range(tl.load(rows_ptr + gap), tl.load(rows_ptr + gap + 1)):
            weight = tl.load(row_weight_ptr + y)
            left = above_left + weight * (below_left - above_left)
            right = above_right + weight * (below_right - above_right)
            slopes_left = tl.zeros((LANES,), dtype=tl.float32)
            slopes_right = tl.zeros((LANES,), dtype=tl.float32)
            for skip in range(0, PIXELS, 32):
                rest = tl.minimum(tl.maximum(pixels - skip, 0), 32).to(tl.uint64)
                more = known & (rest > 0)
                valid = _window(cover + y * words, begin + skip, words, more)
                valid &= ((tl.full((LANES,), 1, tl.uint64) << rest) - 1).to(tl.uint32)
                if tl.max((valid != 0).to(tl.int32), axis=0) > 0:
                    target = _window(union + y * words, begin + skip, words, more)
                    for pixel in range(min(PIXELS, 32)):
                        across = first_weight + (skip + pixel) * step
                        sign = 1.0 - 2.0 * ((target >> pixel) & 1).to(tl.float32)
                        value = sign * (left + across * (right - left))
                        e = tl.exp(-tl.abs(value))
                        log1p = e * TERMS[8] + TERMS[7]
                        for n in tl.static_range(1, 8):
                            log1p = log1p * e + TERMS[7 - n]
                        whole = 1.0 / (1.0 + e)
                        counts = ((valid >> pixel) & 1) != 0
                        losses += tl.where(counts, tl.maximum(value, 0.0) + log1p * e, 0.0)
                        slope = sign * tl.where(value >= 0, whole, e * whole)
                        slope = tl.where(counts, slope, 0.0)
                        slopes_right += across * slope
                        slopes_left += slope - across * slope
            owed_left += (1.0 - weight) * slopes_left
            owed_right += (1.0 - weight) * slopes_right
            down_left += weight * slopes_left
            down_right += weight * slopes_right
        loss += tl.where(own & ((gap < bottom) | (bottom == height)), losses, 0.0)
        if GRADIENT and gap > top:
            owed = owed_right + tl.gather(owed_left, (place + 1) % LANES, 0)
            out = ((b * clusters + k) * height + gap - 1) * width + q
            tl.store(gradient_ptr + out, owed, mask=own & (q < width))
        owed_left, owed_right = down_left, down_right
    program = (b * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(loss_ptr + program, tl.sum(loss, axis=0))


@lru_cache(maxsize=64)
def _rows(places: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First pixel of each gap, (n + 2,) int32, and weights, (S,) float32."""
    axis = resized_axis(places, pixels)
    starts = torch.from_numpy(axis.starts).int().to(device)
    return starts, torch.from_numpy(axis.weight).float().to(device)


@lru_cache(maxsize=64)
def _columns(places: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, int]:
    """First pixel of each gap, its weight, and what the weight grows by from one to the next.

    Also the pixels of the gap that has most. Weights grow by n / S inside, and not at the ends.
    """
    axis: Axis = resized_axis(places, pixels)
    step = np.full(places + 1, places / pixels)  # (n + 1,)
    step[[0, places]] = 0
    first = axis.weight[np.minimum(axis.starts[:-1], pixels - 1)]  # (n + 1,)
    floats = [torch.from_numpy(part).float().to(device) for part in (first, step)]
    starts = torch.from_numpy(axis.starts).int().to(device)
    return starts, floats[0], floats[1], int(np.diff(axis.starts).max())


def _unions(
    packed: Tensor, owner: Tensor, cluster: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Same as `maskcluster.ops.mask_bce.cpu.union_words`, and the number of covered pixels."""
    images, clusters = size
    side = packed.shape[1]
    words = packed.contiguous().view(torch.int32)  # (M, S, S // 32)
    keys, order = (owner * clusters + cluster).sort()
    ends = torch.arange(images * clusters + 1, device=packed.device)
    starts = torch.searchsorted(keys, ends)  # (B K + 1,)
    unions = words.new_empty((images * clusters, side, side // 32))
    covered = words.new_empty((images, side, side // 32))
    count, blocks = side * side // 32, triton.cdiv(side * side // 32, WORDS)
    counts = words.new_empty((images, blocks))
    with torch.cuda.device_of(packed):
        for out, stride in ((unions, 1), (covered, clusters)):
            _unite[(len(out), blocks)](
                words, order, starts, out, counts, stride, count,
                COUNT=out is covered, MASKS=MASKS, WORDS=WORDS, num_warps=2,
            )  # fmt: skip
    return unions, covered, counts.sum(dtype=torch.int64)


def mask_bce_triton(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor, want_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as the op of `maskcluster.ops.mask_bce`, for all but float64."""
    images, clusters, height, width = logits.shape
    side = packed.shape[1]
    unions, covered, pixels = _unions(packed, owner, cluster, (images, clusters))
    rows, row_weight = _rows(height, side, logits.device)
    columns, first_weight, step, most = _columns(width, side, logits.device)
    grid = (triton.cdiv(clusters * (width + 1), LANES - 1), triton.cdiv(height, BAND), images)
    losses = logits.new_empty(grid, dtype=torch.float32)
    gradient = logits.new_empty(logits.shape if want_gradient else (0,), dtype=torch.float32)
    with torch.cuda.device_of(logits):
        _losses[grid](
            logits, unions, covered, rows, row_weight, columns, first_weight, step,
            losses, gradient, *logits.stride(), clusters, height, width, side,
            GRADIENT=want_gradient, PIXELS=most, TERMS=LOG1P, LANES=LANES, BAND=BAND,
            num_warps=1,
        )  # fmt: skip
    return losses.sum(dtype=torch.float64).float(), pixels, gradient
