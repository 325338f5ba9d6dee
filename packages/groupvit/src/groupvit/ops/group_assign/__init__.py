"""Every token chooses a group; a group becomes the damped mean of its tokens. One pass."""

from typing import Any

import torch
from torch import Tensor

from groupvit.ops.group_assign.reference import assign, assign_backward
from groupvit.precision import wide_type

__all__ = ["MAX_GROUPS", "group_assign"]

MAX_GROUPS = 256
"""Groups whose logits a kernel keeps at a time."""

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def group_assign(
    query: Tensor,
    bias: Tensor,
    tokens: Tensor,
    noise: Tensor | None,
    stream: int,
    scale: float,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Assign tokens to groups and average each group (GroupViT, arXiv:2202.11094, sec. 3.1).

        soft  = softmax over groups of scale (query . token + bias) [+ Gumbel(0, 1)]
        label = argmax over groups, the lowest of a tie
        hard  = onehot(label) + soft - stopgrad(soft)
        size  = row sums of hard + damping
        mean  = hard tokens / size

    Keys and values are the tokens themselves: with keys Wk x + bk and values Wv x + bv,
    q . key = (Wk^T q) . x + q . bk and the mean of values is Wv mean + (1 - damping / size) bv,
    exactly, so a caller projects G groups instead of N tokens.

    Args:
        query: (B, G, C) float32, float16 or bfloat16, any strides, 1 <= G <= 256; on a CPU also
            float64, and then whatever is float32 here.
        bias: (B, G) float32.
        tokens: (B, N, C), dtype of `query`.
        noise: (2,) int64, seed and number of the first sample as in `uniform`; the noise of token n
            and group g is -log(-log u) with u at place 4 n ceil(G / 4) + g. None for no noise.
        stream: of the noise.
        scale: on logits.
        damping: > 0, added to sizes.

    Returns:
        mean: (B, G, C), dtype of `tokens`; 0 for an empty group.
        size: (B, G) float32.
        soft: (B, G, N), float32 without noise, dtype of `tokens` with it; no gradient.
        label: (B, N) int32 in [0, G); no gradient.

    Raises:
        ValueError: shapes or types disagree.
    """
    found: Outputs = _group_assign(query, bias, tokens, noise, stream, scale, damping)
    return found


@torch.library.custom_op("groupvit::group_assign", mutates_args=(), device_types="cuda")
def _group_assign(
    query: Tensor,
    bias: Tensor,
    tokens: Tensor,
    noise: Tensor | None,
    stream: int,
    scale: float,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from groupvit.ops.group_assign.kernel import group_assign_triton

    _check(query, bias, tokens, noise, damping)
    return group_assign_triton(query, bias, tokens, noise, stream, scale, damping)


@_group_assign.register_kernel("cpu")
def _on_cpu(
    query: Tensor,
    bias: Tensor,
    tokens: Tensor,
    noise: Tensor | None,
    stream: int,
    scale: float,
    damping: float,
) -> Outputs:
    _check(query, bias, tokens, noise, damping)
    with torch.autocast("cpu", enabled=False):  # sums are float32 whatever the caller's are
        return assign(query, bias, tokens, noise, stream, scale, damping)


@_group_assign.register_fake
def _shapes(
    query: Tensor, bias: Tensor, tokens: Tensor, noise: Tensor | None, *_: float
) -> Outputs:
    batch, groups, width = query.shape
    count, plain = tokens.shape[1], wide_type(tokens.dtype)
    return (
        tokens.new_empty((batch, groups, width)),
        bias.new_empty((batch, groups), dtype=plain),
        tokens.new_empty((batch, groups, count), dtype=plain if noise is None else tokens.dtype),
        tokens.new_empty((batch, count), dtype=torch.int32),
    )


@torch.library.custom_op("groupvit::group_assign_backward", mutates_args=(), device_types="cuda")
def group_assign_backward(  # noqa: PLR0913  # what the op saved, tensor by tensor
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
    """Gradients of `group_assign`.

        d hard   = (d_mean . token - d_mean . mean) / size + d_size
        d logits = scale soft (d hard - sum over groups of soft d hard)
        d query  = d logits tokens,   d bias = row sums of d logits
        d tokens = d logits^T query + d_mean[label] / size[label]

    Args:
        d_mean: (B, G, C), dtype of `mean`.
        d_size: (B, G) float32.
        query: input of the op, as are `tokens` and `scale`.
        tokens: (B, N, C).
        mean: output of the op, as are `size`, `soft` and `label`.
        size: (B, G).
        soft: (B, G, N).
        label: (B, N).
        scale: on logits.

    Returns:
        d_query (B, G, C), d_bias (B, G) float32, d_tokens (B, N, C).
    """
    from groupvit.ops.group_assign.kernel import group_assign_backward_triton

    return group_assign_backward_triton(
        d_mean, d_size, query, tokens, mean, size, soft, label, scale
    )


@group_assign_backward.register_kernel("cpu")
def _backward_on_cpu(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast("cpu", enabled=False):
        return assign_backward(*arguments)


@group_assign_backward.register_fake
def _backward_shapes(
    _: Tensor, d_size: Tensor, query: Tensor, tokens: Tensor, *__: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        query.new_empty(query.shape),
        d_size.new_empty(d_size.shape),
        tokens.new_empty(tokens.shape),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    query, _, tokens, _, _, ctx.scale, _ = inputs
    mean, size, soft, label = output
    ctx.mark_non_differentiable(soft, label)
    ctx.save_for_backward(query, tokens, mean, size, soft, label)


def _backward(ctx: Any, d_mean: Tensor, d_size: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    grads = group_assign_backward(d_mean, d_size, *ctx.saved_tensors, ctx.scale)
    d_query, d_bias, d_tokens = grads
    return d_query, d_bias, d_tokens, None, None, None, None


_group_assign.register_autograd(_backward, setup_context=_setup_context)


def _check(
    query: Tensor, bias: Tensor, tokens: Tensor, noise: Tensor | None, damping: float
) -> None:
    if query.ndim != 3 or tokens.ndim != 3 or query.shape[::2] != tokens.shape[::2]:
        shapes = f"{tuple(query.shape)} and {tuple(tokens.shape)}"
        raise ValueError(f"query and tokens must be (B, G, C) and (B, N, C), got {shapes}")
    if not 1 <= query.shape[1] <= MAX_GROUPS:
        raise ValueError(f"groups must be in [1, {MAX_GROUPS}], got {query.shape[1]}")
    if bias.shape != query.shape[:2] or bias.dtype != wide_type(query.dtype):
        raise ValueError(
            f"bias must be (B, G) {wide_type(query.dtype)}, got {bias.shape} {bias.dtype}"
        )
    if query.dtype != tokens.dtype:
        raise ValueError(f"query and tokens must be of one type, got {query.dtype}, {tokens.dtype}")
    if tokens.is_cuda and tokens.dtype == torch.float64:
        raise ValueError("float64 is computed on a CPU only")
    if noise is not None and (noise.shape != (2,) or noise.dtype != torch.int64):
        raise ValueError(f"noise must be (2,) int64, got {tuple(noise.shape)} {noise.dtype}")
    if damping <= 0:
        raise ValueError(f"damping must be > 0, got {damping}")
