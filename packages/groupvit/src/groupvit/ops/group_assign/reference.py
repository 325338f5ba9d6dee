"""The assignment in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit.ops.uniform import uniform
from groupvit.precision import wide, wide_type


def gumbel(noise: Tensor, stream: int, shape: torch.Size) -> Tensor:
    """The (B, G, N) float32 Gumbel(0, 1) noise that `group_assign` draws."""
    batch, groups, count = shape
    places = 4 * -(-groups // 4)  # a token
    numbers = uniform(noise, stream, batch, count * places).view(batch, count, places)
    drawn: Tensor = numbers[:, :, :groups].mT
    return -(-drawn.log()).log()


def straight_through(soft: Tensor) -> Tensor:
    """One-hot over groups in value, `soft` in gradient; a tie goes to the lowest group.

    Args:
        soft: (B, G, N) float32 or float64: in a narrower type 1 - p + p need not be 1.
    """
    hard: Tensor = F.one_hot(soft.argmax(dim=1), soft.shape[1]).mT.to(soft.dtype)  # (B, G, N)
    return hard + (soft - soft.detach())  # in this order exact: the bracket is 0


def assign(
    query: Tensor,
    bias: Tensor,
    tokens: Tensor,
    noise: Tensor | None,
    stream: int,
    scale: float,
    damping: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Same contract as `groupvit.ops.group_assign`, differentiable by autograd."""
    dtype = wide_type(tokens.dtype)
    points = wide(tokens)  # (B, N, C)
    logits = scale * (wide(query) @ points.mT + bias[..., None])  # (B, G, N)
    if noise is not None:
        logits = logits + gumbel(noise, stream, logits.shape)
    soft = logits.softmax(dim=1)
    hard = straight_through(soft)  # (B, G, N)
    size = hard.sum(dim=2) + damping  # (B, G)
    mean = (hard @ points / size[..., None]).to(tokens.dtype)  # (B, G, C)
    label = soft.argmax(dim=1).to(torch.int32)  # (B, N)
    kept = soft.detach().to(dtype if noise is None else tokens.dtype)
    return mean, size, kept, label


def assign_backward(  # noqa: PLR0913  # what the op saved, tensor by tensor
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
    points, upstream, soft = wide(tokens), wide(d_mean), wide(soft)
    common = (upstream * mean).sum(dim=2)  # (B, G)
    share = upstream @ points.mT - common[..., None]  # (B, G, N)
    d_hard = share / size[..., None] + d_size[..., None]
    d_logits = scale * soft * (d_hard - (soft * d_hard).sum(dim=1, keepdim=True))  # (B, G, N)
    hard = F.one_hot(label.long(), query.shape[1]).to(points.dtype)  # (B, N, G)
    d_tokens = d_logits.mT @ wide(query) + hard @ (upstream / size[..., None])  # (B, N, C)
    d_query = d_logits @ points  # (B, G, C)
    return d_query.to(query.dtype), d_logits.sum(dim=2), d_tokens.to(tokens.dtype)
