"""Masks as bits: how they are read, and what an op demands of them."""

import torch
from torch import Tensor


def unpack_bits(packed: Tensor) -> Tensor:
    """Masks from their bits.

    Args:
        packed: (..., S, S // 8) uint8; bit j, the least significant first, of byte i of a row is
            column 8 i + j.

    Returns:
        (..., S, S) bool.
    """
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = packed[..., None] >> places & 1  # (..., S, S // 8, 8)
    return bits.flatten(-2).bool()


def check_masks(packed: Tensor, owner: Tensor, images: int) -> None:
    """Refuse what is not M masks on a grid with the images that they belong to.

    On a GPU the owners are checked there, without waiting: a wrong one ends in a device assertion.

    Raises:
        ValueError: shapes, types or devices are wrong, S is not a multiple of 32, or an owner is
            out of [0, B) or after a larger one.
    """
    shape = tuple(packed.shape)
    if packed.dtype != torch.uint8 or packed.ndim != 3 or shape[1] != 8 * shape[2]:
        raise ValueError(f"packed must be (M, S, S // 8) uint8, got {shape} {packed.dtype}")
    if shape[1] == 0 or shape[1] % 32:
        raise ValueError(f"the side of masks must be a multiple of 32, got {shape[1]}")
    check_ids("owner", owner, packed, images)
    require((owner[1:] >= owner[:-1]).all(), f"owner must not decrease, got {describe_ids(owner)}")


def check_ids(name: str, ids: Tensor, packed: Tensor, count: int) -> None:
    """Refuse what is not an id in [0, count) for every mask."""
    if ids.dtype != torch.int64 or ids.shape != packed.shape[:1]:
        wanted = f"({len(packed)},) int64"
        raise ValueError(f"{name} must be {wanted}, got {tuple(ids.shape)} {ids.dtype}")
    if ids.device != packed.device:
        raise ValueError(f"packed is on {packed.device}, {name} on {ids.device}")
    inside = ((ids >= 0) & (ids < count)).all()
    require(inside, f"{name} must be in [0, {count}), got {describe_ids(ids)}")


def require(true: Tensor, message: str) -> None:
    """Raise unless a scalar is true; on a GPU assert it there, and do not wait."""
    if true.is_cuda:
        torch._assert_async(true, message)
    elif not bool(true):
        raise ValueError(message)


def describe_ids(ids: Tensor) -> str:
    """What a message shows of them: nothing on a GPU, which would have to be waited for."""
    return "values on a GPU" if ids.is_cuda else str(ids.tolist()[:20])
