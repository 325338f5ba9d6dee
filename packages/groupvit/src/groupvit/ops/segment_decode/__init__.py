"""From the assignments of all stages to a label for every pixel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from groupvit.ops.segment_decode.reference import roll_up, upsample_argmax_reference

__all__ = ["roll_up", "segment_decode", "upsample_argmax"]


def segment_decode(
    assignments: Sequence[Tensor], lookup: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Label every pixel by the group that owns it (GroupViT, arXiv:2202.11094, sec. 3.3).

        P     = A_S ... A_2 A_1, resized to the image bilinearly (half-pixel centres)
        label = lookup[argmax over groups of P], the lowest group of a tie

    Every later step of the published decoder is a function of the group alone, so with the best
    class of each group as `lookup` these are its labels.

    Args:
        assignments: (B, G_s, N_s) float32 of every stage, first to last, N_1 = h w.
        lookup: (B, G) int32, what each final group is called.
        grid: patches (h, w).
        size: pixels (H, W).

    Returns:
        (B, H, W) int32.

    Raises:
        ValueError: no assignment, or shapes disagree.
    """
    maps = roll_up(assignments)  # (B, G, N)
    if maps.shape[2] != grid[0] * grid[1] or lookup.shape != maps.shape[:2]:
        raise ValueError(
            f"assignments of {maps.shape[2]} patches and {maps.shape[:2]} groups do not fit grid "
            f"{grid} and lookup {tuple(lookup.shape)}"
        )
    return upsample_argmax(maps.reshape(*maps.shape[:2], *grid), lookup, *size)


def upsample_argmax(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    """Resize maps bilinearly and look up the largest at every pixel; no resized map is stored.

    Args:
        maps: (B, G, h, w) float32, any strides, B < 2^16.
        lookup: (B, G) int32.
        height: pixels H.
        width: pixels W.

    Returns:
        (B, H, W) int32: lookup[b, g] of the largest map g, the lowest of a tie. No gradient.

    Raises:
        ValueError: shapes or types disagree, or there is no group or pixel.
    """
    labels: Tensor = _upsample_argmax(maps, lookup, height, width)
    return labels


@torch.library.custom_op("groupvit::upsample_argmax", mutates_args=(), device_types="cuda")
def _upsample_argmax(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    from groupvit.ops.segment_decode.kernel import upsample_argmax_triton

    _check(maps, lookup, height, width)
    return upsample_argmax_triton(maps, lookup, height, width)


@_upsample_argmax.register_kernel("cpu")
def _on_cpu(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    _check(maps, lookup, height, width)
    return upsample_argmax_reference(maps, lookup, height, width)


@_upsample_argmax.register_fake
def _shape(maps: Tensor, lookup: Tensor, height: int, width: int) -> Tensor:
    return lookup.new_empty((maps.shape[0], height, width))


def _check(maps: Tensor, lookup: Tensor, height: int, width: int) -> None:
    if maps.ndim != 4 or maps.dtype != torch.float32 or lookup.dtype != torch.int32:
        kinds = f"{tuple(maps.shape)} {maps.dtype} and {lookup.dtype}"
        raise ValueError(f"maps must be (B, G, h, w) float32 and lookup int32, got {kinds}")
    if lookup.shape != maps.shape[:2] or len(maps) >= 2**16:
        shapes = f"{tuple(maps.shape)} and {tuple(lookup.shape)}"
        raise ValueError(f"lookup must be (B, G) of maps (B, G, h, w), B < 2^16, got {shapes}")
    if height < 1 or width < 1 or 0 in maps.shape[1:]:
        raise ValueError(f"no group or no pixel: {tuple(maps.shape)} to {height} x {width}")
