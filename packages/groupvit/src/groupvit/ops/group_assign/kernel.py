"""The assignment in Triton: logits never leave the chip, tokens are read from memory once.

A program takes BN tokens of one sample. It goes over the channels twice, first for the logits, then
for the means; the second time the tokens are still in the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from groupvit.ops.uniform.kernel import random_words, words_to_uniform

LOGITS = 16384  # of a program, kept in registers


@triton.jit
def _gumbel(noise_ptr, stream, b, n, quads, BG: tl.constexpr):
    """Noise [BN, BG] of tokens n; group g has word g % 4 of counter n * quads + g // 4."""
    quad = tl.arange(0, BG // 4).to(tl.int64)
    w0, w1, w2, w3 = random_words(noise_ptr, stream, b, n[:, None] * quads + quad[None, :])
    pairs = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [BN, BG / 4, 2, 2], w0 to w3 in order
    return -tl.log(-tl.log(words_to_uniform(tl.reshape(pairs, (n.shape[0], BG)))))


@triton.jit
def _tile(pointer, b, row, column, stride_b, stride_row, stride_column, rows, columns):
    """Load [rows, columns] of sample b, 0 outside."""
    at = pointer + b * stride_b + row[:, None] * stride_row + column[None, :] * stride_column
    return tl.load(at, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit(do_not_specialize=["stream"])
def _group_assign_forward(
    query_ptr, bias_ptr, tokens_ptr, noise_ptr, mean_ptr, count_ptr, soft_ptr, label_ptr,
    query_b, query_g, query_c, tokens_b, tokens_n, tokens_c,
    n_groups, n_tokens, n_channels, tiles, stream, scale, damping,
    NOISY: tl.constexpr, WHOLE: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BG: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    n = tile * BN + tl.arange(0, BN)  # [BN]
    g = tl.arange(0, BG).to(tl.int64)  # [BG]
    channel = tl.arange(0, BC).to(tl.int64)  # [BC]
    logits = tl.zeros((BN, BG), dtype=tl.float32)
    for start in range(0, n_channels, BC):
        c = start + channel
        x = _tile(tokens_ptr, b, n, c, tokens_b, tokens_n, tokens_c, n_tokens, n_channels)
        q = _tile(query_ptr, b, g, c, query_b, query_g, query_c, n_groups, n_channels)
        logits = tl.dot(x.to(DOT), tl.trans(q.to(DOT)), logits, input_precision=PRECISION)

    bias = tl.load(bias_ptr + b * n_groups + g, mask=g < n_groups, other=0.0)  # [BG]
    logits = scale * (logits + bias[None, :])
    if NOISY:
        logits += _gumbel(noise_ptr, stream, b, n, tl.cdiv(n_groups, 4), BG)
    logits = tl.where(g[None, :] < n_groups, logits, -float("inf"))
    label = tl.argmax(logits, axis=1)  # [BN], the lowest of a tie
    power = tl.exp(logits - tl.max(logits, axis=1)[:, None])
    soft = power / tl.sum(power, axis=1)[:, None]  # [BN, BG]
    inside = n < n_tokens
    out = soft_ptr + b * n_groups * n_tokens + g[None, :] * n_tokens + n[:, None]
    kept = inside[:, None] & (g < n_groups)[None, :]
    tl.store(out, soft.to(soft_ptr.dtype.element_ty), mask=kept)
    tl.store(label_ptr + b * n_tokens + n, label.to(tl.int32), mask=inside)

    hard = ((label[:, None] == g[None, :]) & inside[:, None]).to(tl.float32)  # [BN, BG]
    count = tl.sum(hard, axis=0)  # [BG]
    hard = tl.trans(hard).to(DOT)  # [BG, BN]
    part = b * tiles + tile
    tl.store(count_ptr + part * n_groups + g, count, mask=g < n_groups)
    for start in range(0, n_channels, BC):
        c = start + channel
        x = _tile(tokens_ptr, b, n, c, tokens_b, tokens_n, tokens_c, n_tokens, n_channels)
        total = tl.dot(hard, x.to(DOT), input_precision=PRECISION)  # [BG, BC]
        if WHOLE:
            total = total / (count + damping)[:, None]
        mean = mean_ptr + (part * n_groups + g[:, None]) * n_channels + c[None, :]
        inner = (g < n_groups)[:, None] & (c < n_channels)[None, :]
        tl.store(mean, total.to(mean_ptr.dtype.element_ty), mask=inner)


@triton.jit
def _group_assign_backward(
    d_mean_ptr, d_size_ptr, query_ptr, tokens_ptr, mean_ptr, size_ptr, soft_ptr, label_ptr,
    d_query_ptr, d_bias_ptr, d_tokens_ptr,
    query_b, query_g, query_c, tokens_b, tokens_n, tokens_c,
    n_groups, n_tokens, n_channels, tiles, scale,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BG: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    b, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    n = tile * BN + tl.arange(0, BN)  # [BN]
    g = tl.arange(0, BG).to(tl.int64)  # [BG]
    channel = tl.arange(0, BC).to(tl.int64)  # [BC]
    mean_b = n_groups * n_channels
    share = tl.zeros((BN, BG), dtype=tl.float32)  # token . d_mean
    common = tl.zeros((BG,), dtype=tl.float32)  # d_mean . mean
    for start in range(0, n_channels, BC):
        c = start + channel
        x = _tile(tokens_ptr, b, n, c, tokens_b, tokens_n, tokens_c, n_tokens, n_channels)
        up = _tile(d_mean_ptr, b, g, c, mean_b, n_channels, 1, n_groups, n_channels)
        mean = _tile(mean_ptr, b, g, c, mean_b, n_channels, 1, n_groups, n_channels)
        share = tl.dot(x.to(DOT), tl.trans(up.to(DOT)), share, input_precision=PRECISION)
        common += tl.sum(up.to(tl.float32) * mean.to(tl.float32), axis=1)

    group = b * n_groups + g
    d_size = tl.load(d_size_ptr + group, mask=g < n_groups, other=0.0)  # [BG]
    size = tl.load(size_ptr + group, mask=g < n_groups, other=1.0)
    d_hard = (share - common[None, :]) / size[None, :] + d_size[None, :]  # [BN, BG]
    soft = _tile(
        soft_ptr, b, n, g, n_groups * n_tokens, 1, n_tokens, n_tokens, n_groups
    ).to(tl.float32)  # fmt: skip
    d_logits = scale * soft * (d_hard - tl.sum(soft * d_hard, axis=1)[:, None])
    part = b * tiles + tile
    tl.store(d_bias_ptr + part * n_groups + g, tl.sum(d_logits, axis=0), mask=g < n_groups)
    label = tl.load(label_ptr + b * n_tokens + n, mask=n < n_tokens, other=-1)  # [BN]
    hard = (label[:, None] == g[None, :]).to(DOT)  # [BN, BG]
    d_logits = d_logits.to(DOT)  # [BN, BG]

    for start in range(0, n_channels, BC):
        c = start + channel
        x = _tile(tokens_ptr, b, n, c, tokens_b, tokens_n, tokens_c, n_tokens, n_channels)
        q = _tile(query_ptr, b, g, c, query_b, query_g, query_c, n_groups, n_channels)
        up = _tile(d_mean_ptr, b, g, c, mean_b, n_channels, 1, n_groups, n_channels)
        spread = (up.to(tl.float32) / size[:, None]).to(DOT)
        d_query = tl.dot(tl.trans(d_logits), x.to(DOT), input_precision=PRECISION)  # [BG, BC]
        d_token = tl.dot(d_logits, q.to(DOT), input_precision=PRECISION)  # [BN, BC]
        d_token = tl.dot(hard, spread, d_token, input_precision=PRECISION)
        column = (c < n_channels)[None, :]
        out_q = d_query_ptr + (part * n_groups + g[:, None]) * n_channels + c[None, :]
        out_x = d_tokens_ptr + (b * n_tokens + n[:, None]) * n_channels + c[None, :]
        d_query = d_query.to(d_query_ptr.dtype.element_ty)
        tl.store(out_q, d_query, mask=(g < n_groups)[:, None] & column)
        d_token = d_token.to(d_tokens_ptr.dtype.element_ty)
        tl.store(out_x, d_token, mask=(n < n_tokens)[:, None] & column)


def _blocks(groups: int, tokens: int, channels: int, dtype: torch.dtype) -> dict[str, int]:
    """Sizes of a program's tile, and how many programs a sample takes."""
    wide_rows = 128 if dtype == torch.float32 else 256  # shared memory holds half as many
    bg = max(triton.next_power_of_2(groups), 16)
    bn = max(min(LOGITS // bg, wide_rows, triton.next_power_of_2(tokens)), 16)
    bc = max(min(32 if dtype == torch.float32 else 64, triton.next_power_of_2(channels)), 16)
    return {"BN": bn, "BG": bg, "BC": bc}


def _options(dtype: torch.dtype) -> dict[str, object]:
    """How products are computed; Triton's interpreter is right in float32 only."""
    half = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
    return {"DOT": tl.float32 if triton.knobs.runtime.interpret else half, "PRECISION": "tf32x3"}


def group_assign_triton(
    query: Tensor,
    bias: Tensor,
    tokens: Tensor,
    noise: Tensor | None,
    stream: int,
    scale: float,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Same contract as `groupvit.ops.group_assign`."""
    (batch, groups, channels), count = query.shape, tokens.shape[1]
    blocks = _blocks(groups, count, channels, tokens.dtype)
    tiles = max(triton.cdiv(count, blocks["BN"]), 1)
    whole = tiles == 1
    soft_dtype = torch.float32 if noise is None else tokens.dtype
    soft = tokens.new_empty((batch, groups, count), dtype=soft_dtype)
    label = tokens.new_empty((batch, count), dtype=torch.int32)
    part_dtype = tokens.dtype if whole else torch.float32
    part = tokens.new_empty((batch, tiles, groups, channels), dtype=part_dtype)
    counts = tokens.new_empty((batch, tiles, groups), dtype=torch.float32)
    if batch:
        with torch.cuda.device_of(tokens):
            _group_assign_forward[(batch, tiles)](
                query, bias.contiguous(), tokens, noise, part, counts, soft, label,
                *query.stride(), *tokens.stride(),
                groups, count, channels, tiles, stream, scale, damping,
                NOISY=noise is not None, WHOLE=whole,
                **_options(tokens.dtype), **blocks, num_warps=8, num_stages=2,
            )  # fmt: skip
    size = counts.sum(dim=1) + damping  # (B, G)
    mean = part[:, 0] if whole else (part.sum(dim=1) / size[..., None]).to(tokens.dtype)
    return mean, size, soft, label


def group_assign_backward_triton(
    d_mean: Tensor,
    d_size: Tensor,
    query: Tensor,
    tokens: Tensor,
    mean: Tensor,
    size: Tensor,
    soft: Tensor,
    label: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `groupvit.ops.group_assign.group_assign_backward`."""
    (batch, groups, channels), count = query.shape, tokens.shape[1]
    blocks = _blocks(groups, count, channels, tokens.dtype)
    tiles = max(triton.cdiv(count, blocks["BN"]), 1)
    part_dtype = query.dtype if tiles == 1 else torch.float32
    d_query = query.new_empty((batch, tiles, groups, channels), dtype=part_dtype)
    d_bias = query.new_empty((batch, tiles, groups), dtype=torch.float32)
    d_tokens = tokens.new_empty(tokens.shape)
    if batch:
        with torch.cuda.device_of(tokens):
            _group_assign_backward[(batch, tiles)](
                d_mean.contiguous(), d_size.contiguous(), query, tokens, mean.contiguous(),
                size.contiguous(), soft.contiguous(), label.contiguous(), d_query, d_bias, d_tokens,
                *query.stride(), *tokens.stride(),
                groups, count, channels, tiles, scale,
                **_options(tokens.dtype), **blocks, num_warps=8,
                num_stages=2 if tokens.dtype == torch.float32 else 3,
            )  # fmt: skip
    whole = d_query[:, 0] if tiles == 1 else d_query.sum(dim=1).to(query.dtype)
    return whole, d_bias.sum(dim=1), d_tokens
