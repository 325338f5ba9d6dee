"""Both normalisers in Triton: a tile of logits lives in registers and leaves as two vectors.

For bfloat16 and float16 rows. In float32, with three tf32 products for each, they took 2.5 times as
long as compiled PyTorch that stores logits (H200, 4,096 x 12,288): float32 goes to `tiled.py`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BM, BN = 128, 128  # logits of a forward program
STRIPE = 8  # row tiles that share columns in the cache
PROGRAMS = 528  # wanted of a backward launch: four for each of an H200's multiprocessors
_BACKWARD = {"BM": 64, "BN": 64, "BD": 64, "BO": 256}  # larger ones spill registers


@triton.jit
def _rows(pointer, row, channel, stride_row, stride_channel, rows, channels):
    """Load [rows, channels], 0 outside."""
    at = pointer + row[:, None] * stride_row + channel[None, :] * stride_channel
    return tl.load(at, mask=(row < rows)[:, None] & (channel < channels)[None, :], other=0.0)


@triton.jit
def _two_way_forward(
    x_ptr, y_ptr, scale_ptr, row_ptr, column_ptr,
    x_row, x_channel, y_row, y_channel, m, n, channels,
    DOT: tl.constexpr, STRIPE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """One [BM, BN] tile: its log-sums over columns and over rows."""
    tiles_m, tiles_n = tl.cdiv(m, BM), tl.cdiv(n, BN)
    program = tl.program_id(0)
    first = program // (STRIPE * tiles_n) * STRIPE
    height = tl.minimum(tiles_m - first, STRIPE)
    inside = program % (STRIPE * tiles_n)
    tile_m = (first + inside % height).to(tl.int64)
    tile_n = (inside // height).to(tl.int64)
    i = tile_m * BM + tl.arange(0, BM)  # [BM]
    j = tile_n * BN + tl.arange(0, BN)  # [BN]
    channel = tl.arange(0, BD).to(tl.int64)  # [BD]
    logits = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, channels, BD):
        x = _rows(x_ptr, i, start + channel, x_row, x_channel, m, channels)
        y = _rows(y_ptr, j, start + channel, y_row, y_channel, n, channels)
        logits = tl.dot(x.to(DOT), tl.trans(y.to(DOT)), logits)
    valid = (i < m)[:, None] & (j < n)[None, :]
    logits = tl.where(valid, logits * tl.load(scale_ptr), -float("inf"))

    peak = tl.where(i < m, tl.max(logits, axis=1), 0.0)  # [BM]
    total = tl.where(i < m, tl.sum(tl.exp(logits - peak[:, None]), axis=1), 1.0)
    tl.store(row_ptr + tile_n * m + i, peak + tl.log(total), mask=i < m)
    peak = tl.where(j < n, tl.max(logits, axis=0), 0.0)  # [BN]
    total = tl.where(j < n, tl.sum(tl.exp(logits - peak[None, :]), axis=0), 1.0)
    tl.store(column_ptr + tile_m * n + j, peak + tl.log(total), mask=j < n)


@triton.jit
def _two_way_backward(
    x_ptr, y_ptr, scale_ptr, d_x_sum_ptr, d_y_sum_ptr, over_y_ptr, over_x_ptr, out_ptr,
    x_row, x_channel, y_row, y_channel, m, n, channels, tiles,
    DOT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """BO channels of `weight y` for BM rows x, summed over `tiles` tiles of columns y."""
    i = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)  # [BM]
    split = tl.program_id(1).to(tl.int64)
    o = tl.program_id(2).to(tl.int64) * BO + tl.arange(0, BO)  # [BO]
    channel = tl.arange(0, BD).to(tl.int64)  # [BD]
    scale = tl.load(scale_ptr)
    over_y = tl.load(over_y_ptr + i, mask=i < m, other=0.0)  # [BM]
    d_x_sum = tl.load(d_x_sum_ptr + i, mask=i < m, other=0.0)
    total = tl.zeros((BM, BO), dtype=tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, tl.cdiv(n, BN))):
        j = tile * BN + tl.arange(0, BN)  # [BN]
        logits = tl.zeros((BM, BN), dtype=tl.float32)
        for start in range(0, channels, BD):
            x = _rows(x_ptr, i, start + channel, x_row, x_channel, m, channels)
            y = _rows(y_ptr, j, start + channel, y_row, y_channel, n, channels)
            logits = tl.dot(x.to(DOT), tl.trans(y.to(DOT)), logits)
        over_x = tl.load(over_x_ptr + j, mask=j < n, other=0.0)  # [BN]
        d_y_sum = tl.load(d_y_sum_ptr + j, mask=j < n, other=0.0)
        valid = (i < m)[:, None] & (j < n)[None, :]
        logits = tl.where(valid, logits * scale, -float("inf"))
        weight = tl.exp(logits - over_y[:, None]) * d_x_sum[:, None]
        weight += tl.exp(logits - over_x[None, :]) * d_y_sum[None, :]
        z = _rows(y_ptr, j, o, y_row, y_channel, n, channels).to(DOT)  # [BN, BO]
        total = tl.dot(weight.to(DOT), z, total)
    out = out_ptr + (split * m + i[:, None]) * channels + o[None, :]
    tl.store(out, total, mask=(i < m)[:, None] & (o < channels)[None, :])


def _dot_type(dtype: torch.dtype) -> tl.dtype:
    """In what products are computed; Triton's interpreter is right in float32 only."""
    half = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}[dtype]
    return tl.float32 if triton.knobs.runtime.interpret else half


def two_way_logsumexp_triton(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `groupvit.ops.multi_label_contrastive.two_way_logsumexp`."""
    (m, channels), n = rows.shape, len(columns)
    tiles_m, tiles_n = triton.cdiv(m, BM), triton.cdiv(n, BN)
    over_columns = rows.new_empty((tiles_n, m), dtype=torch.float32)
    over_rows = rows.new_empty((tiles_m, n), dtype=torch.float32)
    with torch.cuda.device_of(rows):
        _two_way_forward[(tiles_m * tiles_n,)](
            rows, columns, scale, over_columns, over_rows,
            *rows.stride(), *columns.stride(), m, n, channels,
            DOT=_dot_type(rows.dtype), STRIPE=STRIPE, BM=BM, BN=BN,
            BD=max(min(64, triton.next_power_of_2(channels)), 16), num_warps=4, num_stages=3,
        )  # fmt: skip
    return over_columns.logsumexp(dim=0), over_rows.logsumexp(dim=0)


def _weighted(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    d_x_sum: Tensor,
    d_y_sum: Tensor,
    over_y: Tensor,
    over_x: Tensor,
) -> Tensor:
    """`weight y` for every row of x, (m, D) float32."""
    (m, channels), n = x.shape, len(y)
    row_tiles, tiles = triton.cdiv(m, _BACKWARD["BM"]), triton.cdiv(n, _BACKWARD["BN"])
    outer = max(min(_BACKWARD["BO"], triton.next_power_of_2(channels)), 16)
    parts = triton.cdiv(channels, outer)
    splits = min(max(PROGRAMS // (row_tiles * parts), 1), tiles)
    out = x.new_empty((splits, m, channels), dtype=torch.float32)
    with torch.cuda.device_of(x):
        _two_way_backward[(row_tiles, splits, parts)](
            x, y, scale, d_x_sum.contiguous(), d_y_sum.contiguous(), over_y, over_x, out,
            *x.stride(), *y.stride(), m, n, channels, triton.cdiv(tiles, splits),
            DOT=_dot_type(x.dtype), **(_BACKWARD | {"BO": outer}), num_warps=8, num_stages=3,
        )  # fmt: skip
    return out.sum(dim=0) if splits > 1 else out[0]


def two_way_logsumexp_backward_triton(
    d_columns_sum: Tensor,
    d_rows_sum: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    over_columns: Tensor,
    over_rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `groupvit.ops.multi_label_contrastive.two_way_logsumexp_backward`."""
    sums = (d_columns_sum, d_rows_sum)
    pulled = _weighted(rows, columns, scale, *sums, over_columns, over_rows)  # (m, D)
    pushed = _weighted(columns, rows, scale, *sums[::-1], over_rows, over_columns)  # (n, D)
    d_scale = (pulled * rows).sum()
    return (scale * pulled).to(rows.dtype), (scale * pushed).to(columns.dtype), d_scale
