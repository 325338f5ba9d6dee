"""Masks on the training grid as bits: an eighth of their bool size, from the store to the loss.

packed: (M, S, S // 8) uint8; bit j (least significant first) of byte i of a row is
        column 8 i + j. S is a multiple of 32.
"""

import torch
from torch import Tensor

from maskcluster.ops.mask_pool.bits import unpack_bits

__all__ = ["pack", "unpack"]


def pack(masks: Tensor) -> Tensor:
    """Store eight columns in a byte; numpy's `packbits(..., bitorder="little")`.

    Args:
        masks: (..., S, S) bool, any strides and device, S a multiple of 32.

    Returns:
        (..., S, S // 8) uint8, contiguous.

    Raises:
        ValueError: `masks` is not bool, not square, or S is not a multiple of 32.
    """
    if masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}")
    if masks.ndim < 2 or masks.shape[-1] != masks.shape[-2]:
        raise ValueError(f"masks must be (..., S, S), got {tuple(masks.shape)}")
    _check_side(masks.shape[-1])
    packed = torch.zeros(
        (*masks.shape[:-1], masks.shape[-1] // 8), dtype=torch.uint8, device=masks.device
    )  # (..., S, S // 8)
    for place in range(8):
        packed |= masks[..., place::8].to(torch.uint8) << place
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Give back what `pack` was given.

    Args:
        packed: (..., S, S // 8) uint8, any strides and device, S a multiple of 32.

    Returns:
        (..., S, S) bool.

    Raises:
        ValueError: `packed` is not of that type or shape.
    """
    if packed.dtype != torch.uint8:
        raise ValueError(f"packed masks must be uint8, got {packed.dtype}")
    if packed.ndim < 2 or packed.shape[-2] != 8 * packed.shape[-1]:
        raise ValueError(f"packed masks must be (..., S, S // 8), got {tuple(packed.shape)}")
    _check_side(packed.shape[-2])
    return unpack_bits(packed)


def _check_side(side: int) -> None:
    if side == 0 or side % 32:
        raise ValueError(f"the side of masks must be a multiple of 32, got {side}")
