"""The loss with everything stored at the masks' resolution, and its gradient written out."""

import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.ops.mask_pool.axis import resize_tensor
from maskcluster.ops.mask_pool.bits import unpack_bits


def union_targets(packed: Tensor, owner: Tensor, cluster: Tensor, size: tuple[int, int]) -> Tensor:
    """Union of the masks of every image and cluster.

    Args:
        packed: (M, S, S // 8) uint8.
        owner: (M,) int64 image of each mask.
        cluster: (M,) int64 cluster of each mask.
        size: (B, K).

    Returns:
        (B, K, S, S) bool.
    """
    side = packed.shape[1]
    targets = torch.zeros((*size, side, side), dtype=torch.bool, device=packed.device)
    for n, mask in enumerate(unpack_bits(packed)):
        targets[owner[n], cluster[n]] |= mask
    return targets


def mask_bce_reference(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor
) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.mask_bce.mask_bce`; differentiable."""
    full, targets, covered = _full_size(logits, packed, owner, cluster)
    each = F.binary_cross_entropy_with_logits(full, targets, reduction="none")  # (B, K, S, S)
    return (each * covered).sum(), covered.sum(dtype=torch.int64)


def mask_bce_gradient_reference(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor
) -> Tensor:
    """Gradient of the total: (B, K, y, x), the transpose of the resize applied to s - t."""
    full, targets, covered = _full_size(logits, packed, owner, cluster)
    pixels = (full.sigmoid() - targets) * covered  # (B, K, S, S)
    down = resize_tensor(logits.shape[2], packed.shape[1], full)  # (S, y)
    across = resize_tensor(logits.shape[3], packed.shape[1], full)  # (S, x)
    return (down.mT @ pixels @ across).to(logits.dtype)


def _full_size(
    logits: Tensor, packed: Tensor, owner: Tensor, cluster: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets, (B, K, S, S), and whether a mask covers the pixel, (B, 1, S, S)."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    side = packed.shape[1]
    full = F.interpolate(wide, (side, side), mode="bilinear", align_corners=False)
    targets = union_targets(packed, owner, cluster, (logits.shape[0], logits.shape[1]))
    return full, targets.to(full.dtype), targets.any(dim=1, keepdim=True)
