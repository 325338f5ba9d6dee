"""Balanced assignment in plain PyTorch."""

import torch
from torch import Tensor


@torch.no_grad()
def balanced_assign_reference(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.sinkhorn.balanced_assign` of a process alone."""
    bias = logits.new_zeros(logits.shape[1])  # (K,)
    for _ in range(iterations if len(logits) else 0):
        bias = next_bias(bias, log_mass_reference(logits, bias))
    return biased_argmax(logits, bias), bias


@torch.no_grad()
def log_mass_reference(logits: Tensor, bias: Tensor) -> Tensor:
    """Same contract as `maskcluster.ops.sinkhorn.log_mass`."""
    return (logits + bias).log_softmax(dim=1).logsumexp(dim=0)


def next_bias(bias: Tensor, mass: Tensor) -> Tensor:
    """Take from each cluster the logarithm of its mass, (K,); the smallest bias becomes 0."""
    bias = bias - mass
    return bias - bias.amin()


def biased_argmax(logits: Tensor, bias: Tensor) -> Tensor:
    """(M,) int64, the cluster of the largest biased logit, the lowest of a tie."""
    return (logits + bias).max(dim=1).indices  # the first of a tie; faster than argmax on a CPU
