"""Normalisers of contrastive losses in both directions, without storing a logit."""

from typing import Any

import torch
from torch import Tensor

from groupvit.ops.multi_label_contrastive.tiled import tiled_backward, tiled_forward
from groupvit.precision import wide_type

__all__ = ["two_way_logsumexp"]

HALVES = (torch.bfloat16, torch.float16)
"""Types of rows that have a kernel."""


def two_way_logsumexp(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the exponentials of all similarities of two sets, along both of its axes.

    With logits[i, j] = scale <rows[i], columns[j]>:

        over_columns[i] = log sum_j exp logits[i, j]
        over_rows[j]    = log sum_i exp logits[i, j]

    These are the only part of InfoNCE and of the multi-label loss (CoCu, arXiv:2309.13505,
    eqs. 1-4) that needs every pair: with images as rows and the texts of all images as columns,
    `over_columns` normalises image to text and `over_rows` text to image. Logits are computed in
    tiles, once forward and again backward, and summed in float32. On a GPU Triton computes those of
    bfloat16 and float16 rows and stores one number for every 128 of them; otherwise PyTorch
    computes some rows of logits at a time.

    Args:
        rows: (m, D) float32, float16 or bfloat16, any strides; or float64 with float64 sums.
        columns: (n, D), dtype of `rows`.
        scale: float32 scalar.

    Returns:
        over_columns: (m,) float32.
        over_rows: (n,) float32.

    Raises:
        ValueError: shapes or types disagree, or a side is empty.
    """
    sums: tuple[Tensor, Tensor] = _two_way_logsumexp(rows, columns, scale)
    return sums


@torch.library.custom_op("groupvit::two_way_logsumexp", mutates_args=(), device_types="cuda")
def _two_way_logsumexp(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    from groupvit.ops.multi_label_contrastive.kernel import two_way_logsumexp_triton

    _check(rows, columns, scale)
    compute = two_way_logsumexp_triton if rows.dtype in HALVES else tiled_forward
    return compute(rows, columns, scale)


@_two_way_logsumexp.register_kernel("cpu")
def _on_cpu(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    _check(rows, columns, scale)
    with torch.autocast("cpu", enabled=False):
        return tiled_forward(rows, columns, scale)


@_two_way_logsumexp.register_fake
def _shapes(rows: Tensor, columns: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return scale.new_empty((rows.shape[0],)), scale.new_empty((columns.shape[0],))


@torch.library.custom_op(
    "groupvit::two_way_logsumexp_backward", mutates_args=(), device_types="cuda"
)
def two_way_logsumexp_backward(
    d_columns_sum: Tensor,
    d_rows_sum: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    over_columns: Tensor,
    over_rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `two_way_logsumexp`.

    With weight[i, j] = d_columns_sum[i] exp(logits[i, j] - over_columns[i])
                      + d_rows_sum[j] exp(logits[i, j] - over_rows[j]):

        d rows    = scale weight columns
        d columns = scale weight^T rows
        d scale   = sum of weight[i, j] <rows[i], columns[j]>

    Args:
        d_columns_sum: (m,) gradient of `over_columns`.
        d_rows_sum: (n,) gradient of `over_rows`.
        rows: (m, D), input of the op, as are `columns` and `scale`.
        columns: (n, D).
        scale: scalar.
        over_columns: (m,), output of the op, as is `over_rows`.
        over_rows: (n,).

    Returns:
        Gradients of the three inputs, of their shapes and types.
    """
    from groupvit.ops.multi_label_contrastive.kernel import two_way_logsumexp_backward_triton

    compute = two_way_logsumexp_backward_triton if rows.dtype in HALVES else tiled_backward
    return compute(d_columns_sum, d_rows_sum, rows, columns, scale, over_columns, over_rows)


@two_way_logsumexp_backward.register_kernel("cpu")
def _backward_on_cpu(
    d_columns_sum: Tensor,
    d_rows_sum: Tensor,
    rows: Tensor,
    columns: Tensor,
    scale: Tensor,
    over_columns: Tensor,
    over_rows: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    sums = (d_columns_sum, d_rows_sum)
    with torch.autocast("cpu", enabled=False):
        return tiled_backward(*sums, rows, columns, scale, over_columns, over_rows)


@two_way_logsumexp_backward.register_fake
def _backward_shapes(
    _: Tensor, __: Tensor, rows: Tensor, columns: Tensor, scale: Tensor, *___: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return rows.new_empty(rows.shape), columns.new_empty(columns.shape), scale.new_empty(())


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, d_columns_sum: Tensor, d_rows_sum: Tensor) -> tuple[Tensor, ...]:
    grads: tuple[Tensor, ...] = two_way_logsumexp_backward(
        d_columns_sum, d_rows_sum, *ctx.saved_tensors
    )
    return grads


_two_way_logsumexp.register_autograd(_backward, setup_context=_setup_context)


def _check(rows: Tensor, columns: Tensor, scale: Tensor) -> None:
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1]:
        shapes = f"{tuple(rows.shape)} and {tuple(columns.shape)}"
        raise ValueError(f"rows and columns must be (m, D) and (n, D), got {shapes}")
    if not rows.numel() or not columns.numel():
        raise ValueError(f"rows and columns must not be empty, got {rows.shape}, {columns.shape}")
    if rows.dtype != columns.dtype:
        raise ValueError(f"rows and columns must be of one type, got {rows.dtype}, {columns.dtype}")
    if scale.ndim or scale.dtype != wide_type(rows.dtype):
        found = f"{tuple(scale.shape)} {scale.dtype}"
        raise ValueError(f"scale must be a {wide_type(rows.dtype)} scalar, got {found}")
