"""Mask pooling in Triton: bits become products of a few registers, then one grouped product.

    R = m A_w, w = A_h^T R     a program a mask, 64 rows of it at a time, 32 columns at a time;
                               blocks without a pixel are skipped
    pooled = w f / area        masks of neighbouring rows share an image: a program goes over the
                               images of its rows, one or two as a rule

A bit is exact in float16, and a weight is the sum of two float16 to 2^-24: the first product is
two of half precision with float32 sums. The others take three tf32 products each.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from maskcluster.ops.mask_pool.axis import resize_matrix

CELLS = 64  # rows and columns of cells that a program keeps, at most
BR = 64  # rows of pixels at a time
BM, BD, BP = 32, 64, 32  # masks, channels and cells of the grouped product


@triton.jit
def _mask_weights(
    words_ptr, high_ptr, low_ptr, rows_ptr, out_ptr, area_ptr, side, height, width,
    DOT: tl.constexpr, BR: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """[BH, BW] of a mask's weights on the low-resolution grid, and its area."""
    n = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BH + tl.arange(0, BH)  # [BH] row of cells
    j = tl.program_id(2) * BW + tl.arange(0, BW)  # [BW] column of cells
    bit = tl.arange(0, 32)
    line = side // 32  # words of a row of pixels
    mask = words_ptr + n * side * line
    weights = tl.zeros((BH, BW), dtype=tl.float32)
    area = 0
    for top in range(0, side, BR):
        y = top + tl.arange(0, BR)  # [BR]
        across = tl.zeros((BR, BW), dtype=tl.float32)  # R
        pixels = 0
        for block in range(line):
            word = tl.load(mask + y * line + block, mask=y < side, other=0)  # [BR]
            if tl.max((word != 0).to(tl.int32), axis=0) > 0:
                bits = (word[:, None] >> bit[None, :]) & 1  # [BR, 32]
                pixels += tl.sum(tl.sum(bits, axis=1), axis=0)
                at = (block * 32 + bit)[:, None] * width + j[None, :]
                high = tl.load(high_ptr + at, mask=(j < width)[None, :], other=0.0).to(DOT)
                low = tl.load(low_ptr + at, mask=(j < width)[None, :], other=0.0).to(DOT)
                across = tl.dot(bits.to(DOT), high, across)
                across = tl.dot(bits.to(DOT), low, across)
        if pixels > 0:
            at = y[None, :] * height + i[:, None]
            inside = (y < side)[None, :] & (i < height)[:, None]
            down = tl.load(rows_ptr + at, mask=inside, other=0.0)  # [BH, BR]
            weights = tl.dot(down, across, weights, input_precision="tf32x3")
        area += pixels
    out = out_ptr + (n * height + i[:, None]) * width + j[None, :]
    tl.store(out, weights, mask=(i < height)[:, None] & (j < width)[None, :])
    if (tl.program_id(1) == 0) & (tl.program_id(2) == 0):
        tl.store(area_ptr + n, area)


@triton.jit
def _pool(
    weights_ptr, features_ptr, owner_ptr, area_ptr, out_ptr,
    stride_b, stride_d, stride_y, stride_x, masks, images, channels, cells, width,
    BM: tl.constexpr, BD: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """[BM, BD] of the pooled features."""
    n = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)  # [BM]
    d = tl.program_id(1).to(tl.int64) * BD + tl.arange(0, BD)  # [BD]
    owner = tl.load(owner_ptr + n, mask=n < masks, other=-1)  # [BM]
    first = tl.min(tl.where(n < masks, owner, images), axis=0)
    last = tl.minimum(tl.max(owner, axis=0), images - 1)
    total = tl.zeros((BM, BD), dtype=tl.float32)
    for b in range(tl.maximum(first, 0), last + 1):
        for start in range(0, cells, BP):
            p = (start + tl.arange(0, BP)).to(tl.int64)  # [BP]
            mine = (owner == b)[:, None] & (p < cells)[None, :]
            weight = tl.load(weights_ptr + n[:, None] * cells + p[None, :], mask=mine, other=0.0)
            place = p // width * stride_y + p % width * stride_x
            at = features_ptr + b * stride_b + place[:, None] + d[None, :] * stride_d
            known = (p < cells)[:, None] & (d < channels)[None, :]
            feature = tl.load(at, mask=known, other=0.0).to(tl.float32)  # [BP, BD]
            total = tl.dot(weight, feature, total, input_precision="tf32x3")
    area = tl.load(area_ptr + n, mask=n < masks, other=1.0)  # [BM]
    total = total / tl.maximum(area, 1.0)[:, None]
    out = out_ptr + n[:, None] * channels + d[None, :]
    tl.store(out, total, mask=(n < masks)[:, None] & (d < channels)[None, :])


@lru_cache(maxsize=64)
def _columns(places: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The resize matrix, (S, w) each, as a sum of two float16."""
    matrix = torch.from_numpy(resize_matrix(places, pixels))
    high = matrix.half()
    return high.to(device), (matrix - high).half().to(device)


@lru_cache(maxsize=64)
def _rows(places: int, pixels: int, device: torch.device) -> Tensor:
    """The resize matrix, (S, h) float32."""
    return torch.from_numpy(resize_matrix(places, pixels)).float().to(device)


def _block(cells: int) -> int:
    """Cells of a program: a power of two, as many as a product needs at least."""
    return min(max(int(triton.next_power_of_2(cells)), 16), CELLS)


def mask_weights_triton(packed: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.mask_pool.cpu.mask_weights`, in float32."""
    masks, side, _ = packed.shape
    height, width = size
    words = packed.contiguous().view(torch.int32)  # (M, S, S // 32)
    weights = torch.empty((masks, height * width), dtype=torch.float32, device=packed.device)
    area = torch.empty(masks, dtype=torch.float32, device=packed.device)  # (M,)
    high, low = _columns(width, side, packed.device)
    block_h, block_w = _block(height), _block(width)
    grid = (masks, triton.cdiv(height, block_h), triton.cdiv(width, block_w))
    dot = tl.float32 if triton.knobs.runtime.interpret else tl.float16
    with torch.cuda.device_of(packed):
        _mask_weights[grid](
            words, high, low, _rows(height, side, packed.device), weights, area,
            side, height, width, DOT=dot, BR=BR, BH=block_h, BW=block_w, num_warps=4,
        )  # fmt: skip
    return weights, area


def mask_pool_triton(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.mask_pool.mask_pool`, for all but float64."""
    masks, (images, channels, height, width) = len(packed), features.shape
    pooled = features.new_empty((masks, channels), dtype=torch.float32)  # (M, D)
    if not masks:
        return pooled, features.new_empty((0,), dtype=torch.float32)
    weights, area = mask_weights_triton(packed, (height, width))
    with torch.cuda.device_of(features):
        _pool[(triton.cdiv(masks, BM), triton.cdiv(channels, BD))](
            weights, features, owner.contiguous(), area, pooled, *features.stride(),
            masks, images, channels, height * width, width,
            BM=BM, BD=BD, BP=BP, num_warps=4,
        )  # fmt: skip
    return pooled, area
