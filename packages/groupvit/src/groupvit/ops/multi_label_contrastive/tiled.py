"""Both normalisers in PyTorch, a block of rows at a time, each product computed once."""

import torch
from torch import Tensor

TILE = 1 << 21
"""Logits computed at a time on a CPU: 8 MB of float32, enough for products at full rate; half and
twice as many took 2 and 10 % longer."""

GPU_TILE = 1 << 26
"""The same on a GPU, which small products would leave idle: 256 MB."""

TINY = 1e-30
"""A column's sum below it was not computed exactly enough: single terms may have become 0."""


def _block(columns: Tensor) -> int:
    """Rows of a tile."""
    return max((GPU_TILE if columns.is_cuda else TILE) // len(columns), 16)


def tiled_forward(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Same contract as `groupvit.ops.multi_label_contrastive.two_way_logsumexp`.

    On a CPU one exponential a logit serves both sums: with peak[i] the largest logit of row i,

        sum_i exp logits[i, j] = exp top sum_i exp(logits[i, j] - peak[i]) exp(peak[i] - top)

    where top is the largest of the tile. Columns so far below `top` that this underflows are summed
    again on their own.
    """
    columns = columns.to(scale.dtype)
    over_columns = rows.new_empty(len(rows), dtype=scale.dtype)  # (m,)
    parts = []
    step = _block(columns)
    for start in range(0, len(rows), step):
        logits = (scale * rows[start : start + step].to(scale.dtype)) @ columns.mT  # (r, n)
        if logits.is_cuda:  # which must not wait for the question whether a sum is tiny
            over_columns[start : start + step] = logits.logsumexp(dim=1)
            parts.append(logits.logsumexp(dim=0))
            continue
        peak = logits.amax(dim=1)  # (r,)
        power = logits.sub(peak[:, None]).exp_()  # (r, n)
        over_columns[start : start + step] = power.sum(dim=1).log_().add_(peak)
        top = peak.amax()
        total = (peak - top).exp() @ power  # (n,)
        part = total.log().add_(top)
        if bool((total < TINY).any()):
            far = total < TINY  # (n,)
            part[far] = logits[:, far].logsumexp(dim=0)
        parts.append(part)
    return over_columns, torch.stack(parts).logsumexp(dim=0)


def tiled_backward(
    d_columns_sum: Tensor,
    d_rows_sum: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    over_columns: Tensor,
    over_rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as `groupvit.ops.multi_label_contrastive.two_way_logsumexp_backward`."""
    wide = columns.to(scale.dtype)  # (n, D)
    d_rows = torch.empty_like(rows, dtype=scale.dtype)  # (m, D)
    d_columns = torch.zeros_like(wide)
    d_scale = torch.zeros_like(scale)
    step = _block(columns)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = rows[part].to(scale.dtype)  # (r, D)
        logits = (scale * block) @ wide.mT  # (r, n)
        weight = logits.sub(over_columns[part, None]).exp_().mul_(d_columns_sum[part, None])
        weight += logits.sub_(over_rows).exp_().mul_(d_rows_sum)
        pulled = weight @ wide  # (r, D)
        d_scale += (block * pulled).sum()
        d_rows[part] = scale * pulled
        d_columns.addmm_(weight.mT, block)
    return d_rows.to(rows.dtype), d_columns.mul_(scale).to(columns.dtype), d_scale
