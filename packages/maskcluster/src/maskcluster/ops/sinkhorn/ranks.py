"""Balanced assignment of masks that are spread over processes."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup, ReduceOp

from maskcluster.ops.sinkhorn import check_finite, log_mass
from maskcluster.ops.sinkhorn.reference import biased_argmax, next_bias


@torch.no_grad()
def balanced_assign_ranks(
    logits: Tensor, iterations: int, group: ProcessGroup
) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.sinkhorn.balanced_assign`; the shape is checked."""
    if not _any_masks(logits, group):
        iterations = 0
    bias = logits.new_zeros(logits.shape[1])  # (K,)
    for _ in range(iterations):
        bias = next_bias(bias, _log_sum(log_mass(logits, bias), group))
    return biased_argmax(logits, bias), bias


def _any_masks(logits: Tensor, group: ProcessGroup) -> bool:
    """Whether a rank has masks. All ranks refuse what one refuses: none is left waiting."""
    refused: ValueError | None = None
    try:
        check_finite(logits)
    except ValueError as error:
        refused = error
    found = logits.new_tensor([len(logits) > 0, refused is not None])  # (2,)
    dist.all_reduce(found, ReduceOp.MAX, group=group)
    masks, bad = found.tolist()
    if refused is not None:
        raise refused
    if bad:
        raise ValueError("logits of another rank are not finite or too large")
    return bool(masks)


def _log_sum(mass: Tensor, group: ProcessGroup) -> Tensor:
    """(K,) log of the sum of exp(mass) over ranks; -inf where a rank has no masks."""
    peak = mass.clone()
    dist.all_reduce(peak, ReduceOp.MAX, group=group)
    total = (mass - peak).exp()
    dist.all_reduce(total, ReduceOp.SUM, group=group)
    return peak + total.log()
