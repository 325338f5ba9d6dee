"""The mean feature under every mask, without features at the masks' resolution."""

import torch
from torch import Tensor

from maskcluster.ops.mask_pool.bits import check_masks
from maskcluster.ops.mask_pool.reference import mask_pool_reference

__all__ = ["mask_pool"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def mask_pool(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Average the features of an image under each of its masks.

    With f resized bilinearly to S x S (half-pixel centres, clamped at the edges) by the matrices
    A_h (S, h) and A_w (S, w), and m_n a mask of the same image (PixelCLIP, arXiv:2409.19846, 3.2):

        pooled_n = sum_p m_n(p) resize(f)(p) / area_n,  area_n = sum_p m_n(p)
                 = <A_h^T m_n A_w, f> / area_n

    The second line is computed: masks are brought down to the features' grid, exactly, and features
    are never brought up. On a CPU numba sums up runs of the bits in float64; on a GPU Triton
    multiplies bits with the matrices, whose entries are stored to 22 bits, and sums in float32.

    Args:
        features: (B, D, h, w) float32, bfloat16 or float16, any strides; no gradient is passed
            back. float64 is computed as it is, on a GPU by the reference.
        packed: (M, S, S // 8) uint8, masks as `maskcluster.masks.packed` stores them, any M.
        owner: (M,) int64, image of each mask in [0, B), not decreasing.

    Returns:
        pooled: (M, D) float32; float64 of float64 features. Zeros for an empty mask.
        area: (M,) pixels of each mask, in the same type.

    Raises:
        ValueError: shapes, types or devices disagree, S is not a multiple of 32, or an owner is out
            of range or order (on a GPU a device assertion instead, so as not to wait).
    """
    pooled, area = _mask_pool(features.detach(), packed, owner)
    return pooled, area


@torch.library.custom_op("maskcluster::mask_pool", mutates_args=(), device_types="cuda")
def _mask_pool(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    from maskcluster.ops.mask_pool.kernel import mask_pool_triton

    _check(features, packed, owner)
    compute = mask_pool_reference if features.dtype == torch.float64 else mask_pool_triton
    return compute(features, packed, owner)


@_mask_pool.register_kernel("cpu")
def _on_cpu(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    from maskcluster.ops.mask_pool.cpu import mask_pool_cpu

    _check(features, packed, owner)
    return mask_pool_cpu(features, packed, owner)


@_mask_pool.register_fake
def _shapes(features: Tensor, packed: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG001  # the op's signature
    wide = torch.promote_types(features.dtype, torch.float32)
    area = features.new_empty((packed.shape[0],), dtype=wide)
    return features.new_empty((packed.shape[0], features.shape[1]), dtype=wide), area


def _check(features: Tensor, packed: Tensor, owner: Tensor) -> None:
    if features.ndim != 4 or features.dtype not in _FLOATS:
        kind = f"{tuple(features.shape)} {features.dtype}"
        raise ValueError(f"features must be (B, D, h, w) floats, got {kind}")
    if 0 in features.shape:
        raise ValueError(f"features must not be empty, got {tuple(features.shape)}")
    if features.device != packed.device:
        raise ValueError(f"features are on {features.device}, packed is on {packed.device}")
    check_masks(packed, owner, len(features))
