"""From an image to label-resolution scores: resizing, windows and merging."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from segbench.ops.count_argmax import resize_argmax as fused_resize_argmax


class Window(NamedTuple):
    """A rectangle of pixels, half-open."""

    top: int
    left: int
    bottom: int
    right: int


def resized_size(
    height: int, width: int, short_px: int | None, long_px: int | None
) -> tuple[int, int]:
    """Size that keeps the ratio and fits both limits.

    scale = min(short_px / short side, long_px / long side), and int(x * scale + 0.5) of each side.

    Returns:
        (H, W), at least 1 each; the size itself where `short_px` is None.
    """
    if short_px is None:
        return height, width
    scale = short_px / min(height, width)
    if long_px is not None:
        scale = min(scale, long_px / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize bilinearly with half-pixel centres, without anti-aliasing and without rounding.

    Args:
        image: (3, H, W) float32.
        size: target (H, W).
    """
    if tuple(image.shape[1:]) == size:
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (K, h, w) scores bilinearly (`align_corners=False`) to (K, H, W) float32."""
    return F.interpolate(scores.float()[None], size, mode="bilinear", align_corners=False)[0]


def resize_argmax(scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize scores bilinearly and take the best class of every pixel.

    Equals `resize_scores` followed by `max`, but never holds all classes at full size, and compares
    only classes that can win (`segbench.ops.count_argmax`).

    Args:
        scores: (K, h, w), finite and within 1e38.
        size: (H, W).

    Returns:
        best: (H, W) float32, the winning score.
        winner: (H, W) int64; the first index wins a tie.
    """
    best, winner = fused_resize_argmax(scores, size)
    return best, winner.long()


def windows(height: int, width: int, window_px: int, stride_px: int) -> list[Window]:
    """Lay windows over an image, row by row; the last of a row or column is pulled back inside.

        rows = max(H - window + stride - 1, 0) // stride + 1, and columns alike

    An image smaller than a window gets one smaller window. (mmsegmentation's `slide_inference`.)
    """
    return [
        Window(top, left, bottom, right)
        for top, bottom in _spans(height, window_px, stride_px)
        for left, right in _spans(width, window_px, stride_px)
    ]


def _spans(length: int, window_px: int, stride_px: int) -> list[tuple[int, int]]:
    count = max(length - window_px + stride_px - 1, 0) // stride_px + 1
    stops = [min(index * stride_px + window_px, length) for index in range(count)]
    return [(max(stop - window_px, 0), stop) for stop in stops]


def merge_windows(
    score: Callable[[Tensor], Tensor], image: Tensor, window_px: int, stride_px: int
) -> Tensor:
    """Score windows and average them where they overlap.

    Each window's scores are resized to the window, added up, and divided by the number of windows
    that cover a pixel.

    Args:
        score: (3, y, x) window -> (K, h, w) scores.
        image: (3, H, W) float32.
        window_px: side of a window.
        stride_px: step between windows.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[1:]
    hits = image.new_zeros(height, width)  # (H, W)
    total: Tensor | None = None
    for top, left, bottom, right in windows(height, width, window_px, stride_px):
        part = score(image[:, top:bottom, left:right])  # (K, h, w)
        if total is None:
            total = image.new_zeros(len(part), height, width)  # (K, H, W)
        total[:, top:bottom, left:right] += resize_scores(part, (bottom - top, right - left))
        hits[top:bottom, left:right] += 1
    assert total is not None  # there is at least one window
    return total.div_(hits)
