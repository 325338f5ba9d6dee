"""Share masks among clusters equally (Sinkhorn-Knopp), without a transport plan in memory."""

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from maskcluster.ops.sinkhorn.reference import (
    balanced_assign_reference,
    log_mass_reference,
)

__all__ = ["LARGEST", "MOST_CLUSTERS", "balanced_assign", "log_mass"]

LARGEST = 2.0**100
"""Largest magnitude of a logit, 1.3e30; that of a float32 is 3e38."""

MOST_CLUSTERS = 4096


def balanced_assign(
    logits: Tensor, iterations: int = 3, *, group: ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Assign every mask to a cluster so that clusters get equal shares of the masks.

    PixelCLIP (arXiv:2409.19846, sec. 3.2) maximises Tr(Q^T z) + H(Q) over transport plans Q whose
    columns are M masks of weight 1/M and whose rows are K clusters of weight 1/K, by alternate
    scaling of rows and columns. The scale of a mask never changes its best cluster and that of a
    cluster is a bias on its logits, so the plan is not needed. From a = 0, `iterations` times:

        p_n     = softmax_i(z_ni + a_i)                    each mask has a weight of 1
        a_i     = a_i - log sum_n p_ni                     each cluster the same sum
        cluster = argmax_i(z_ni + a_i), the lowest of a tie

    Only differences of `a` matter: it is given with its smallest entry at 0, so that a cluster's
    bias says how much it is helped over the one that is most in demand. The soft assignment is
    softmax_i(z + a). All is computed from logarithms: a cluster whose probabilities are all below
    the smallest float32 still gets its bias, and nothing is NaN.

    Masks that are all alike are a tie between all clusters that rounding decides.

    Args:
        logits: (M, K) float32 or float64, z = cosine / eps, finite, at most 2^100 in magnitude, any
            strides, 1 <= K <= 4096. M may be 0, and less than K.
        iterations: how often both are scaled, at least 0; 0 is plain argmax.
        group: ranks, each with some rows (or none) of one matrix of masks; all must call this
            together, with the same K and `iterations`. None for a process alone. Two times K
            numbers are exchanged an iteration.

    Returns:
        cluster: (M,) int64 in [0, K), of this rank's rows.
        bias: (K,) in the type of `logits`, the smallest exactly 0; the same on all ranks, and all 0
            if there is no mask. cluster is exactly argmax(logits + bias). Neither has a gradient.

    Raises:
        ValueError: not such a matrix, or a logit that is not finite or too large, on any rank; on a
            GPU the check waits for the result.
    """
    logits = logits.detach()
    if group is None:
        cluster, bias = _balanced_assign(logits, iterations)
        return cluster, bias
    from maskcluster.ops.sinkhorn.ranks import balanced_assign_ranks

    _check_shape(logits, iterations)
    return balanced_assign_ranks(logits, iterations, group)


def log_mass(logits: Tensor, bias: Tensor) -> Tensor:
    """Weigh clusters: the logarithm of what all masks give to each.

        mass_i = log sum_n softmax_i(z_n + a)

    Args:
        logits: (M, K) z, as of `balanced_assign`; not checked for finiteness.
        bias: (K,) a, of the same type and device.

    Returns:
        (K,) in the same type, at most log M; -inf if there are no masks. No gradient.

    Raises:
        ValueError: shapes, types or devices disagree.
    """
    mass: Tensor = _log_mass(logits.detach(), bias.detach())
    return mass


@torch.library.custom_op("maskcluster::balanced_assign", mutates_args=(), device_types="cuda")
def _balanced_assign(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    from maskcluster.ops.sinkhorn.kernel import balanced_assign_triton

    _check_shape(logits, iterations)
    cluster, bias, refused = balanced_assign_triton(logits, iterations, LARGEST)
    if int(refused):
        check_finite(logits)
    return cluster, bias


@_balanced_assign.register_kernel("cpu")
def _on_cpu(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    from maskcluster.ops.sinkhorn.cpu import balanced_assign_cpu

    _check_shape(logits, iterations)
    check_finite(logits)
    if logits.dtype == torch.float32:
        return balanced_assign_cpu(logits, iterations)
    return balanced_assign_reference(logits, iterations)


@_balanced_assign.register_fake
def _shapes(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:  # noqa: ARG001  # theirs
    masks, clusters = logits.shape
    return logits.new_empty(masks, dtype=torch.int64), logits.new_empty(clusters)


@torch.library.custom_op("maskcluster::log_mass", mutates_args=(), device_types="cuda")
def _log_mass(logits: Tensor, bias: Tensor) -> Tensor:
    from maskcluster.ops.sinkhorn.kernel import log_mass_triton

    _check_pair(logits, bias)
    return log_mass_triton(logits, bias)


@_log_mass.register_kernel("cpu")
def _mass_on_cpu(logits: Tensor, bias: Tensor) -> Tensor:
    _check_pair(logits, bias)
    return log_mass_reference(logits, bias)


@_log_mass.register_fake
def _mass_shape(logits: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG001  # the op's arguments
    return torch.empty_like(bias)


def check_finite(logits: Tensor) -> None:
    """Refuse a matrix with a logit that is not finite or too large.

    Raises:
        ValueError: there is one.
    """
    if logits.numel() == 0:
        return
    low, high = float(logits.amin()), float(logits.amax())  # NaN if any is
    if not (low >= -LARGEST and high <= LARGEST):
        raise ValueError(f"logits must be in [-{LARGEST:g}, {LARGEST:g}], got {low} to {high}")


def _check_shape(logits: Tensor, iterations: int) -> None:
    if logits.ndim != 2 or logits.dtype not in (torch.float32, torch.float64):
        kind = f"{tuple(logits.shape)} {logits.dtype}"
        raise ValueError(f"logits must be (M, K) float32 or float64, got {kind}")
    if not 1 <= logits.shape[1] <= MOST_CLUSTERS:
        raise ValueError(f"clusters K must be in [1, {MOST_CLUSTERS}], got {logits.shape[1]}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")


def _check_pair(logits: Tensor, bias: Tensor) -> None:
    _check_shape(logits, 0)
    if bias.shape != logits.shape[1:] or bias.dtype != logits.dtype or bias.device != logits.device:
        kinds = f"{tuple(bias.shape)} {bias.dtype} on {bias.device}"
        raise ValueError(
            f"bias must be ({logits.shape[1]},) {logits.dtype} on {logits.device}, got {kinds}"
        )
