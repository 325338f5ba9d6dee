"""Merge windows and compare with scores of all classes stored at full size."""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from segbench.ops.count_argmax.reference import resize_argmax_reference

Place = tuple[int, int, int, int]
"""top, left, bottom, right of a window in pixels, half-open."""


def merge_reference(
    windows: Iterable[Tensor], places: Sequence[Place], resized_size: tuple[int, int]
) -> Tensor:
    """Mean of windows where they overlap, each resized bilinearly to its place.

    Args:
        windows: n (C, h, w) score maps, read one by one.
        places: n of them.
        resized_size: (H', W') of the image that the windows were cut from.

    Returns:
        (C, H', W') float32.
    """
    total: Tensor | None = None
    for scores, (top, left, bottom, right) in zip(windows, places, strict=True):
        if total is None:
            total = scores.new_zeros((len(scores), *resized_size)).float()  # (C, H', W')
            hits = total.new_zeros(resized_size)  # (H', W')
        small, size = scores.float().contiguous()[None], (bottom - top, right - left)
        part = F.interpolate(small, size, mode="bilinear", align_corners=False)[0]
        total[:, top:bottom, left:right] += part
        hits[top:bottom, left:right] += 1
    assert total is not None  # there is at least one window
    return total.div_(hits)


def merge_argmax_reference(
    windows: Tensor, places: Sequence[Place], resized_size: tuple[int, int], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Same contract as `segbench.ops.merge_argmax.merge_argmax`."""
    return resize_argmax_reference(merge_reference(windows, places, resized_size), size)
