"""From an image to label-resolution scores: resizing, windows and merging."""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.ops.count_argmax import resize_argmax as fused_resize_argmax
from segbench.ops.merge_argmax import merge_argmax
from segbench.ops.merge_argmax.reference import merge_reference


def image_tensor(pixels: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """Colours as models see them.

    Args:
        pixels: (H, W, 3) RGB, may be read-only.
        device: where the tensor is made.

    Returns:
        (3, H, W) float32, value / 255; the channels of a pixel lie next to each other in memory.
    """
    if device.type == "cpu":  # the same bits as PyTorch's quotient, in a tenth of the time
        return torch.from_numpy(np.divide(pixels, np.float32(255))).permute(2, 0, 1)
    return torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1).div(255)


class Window(NamedTuple):
    """A rectangle of pixels, half-open."""

    top: int
    left: int
    bottom: int
    right: int


class WindowScores(NamedTuple):
    """Scores of the windows of an image, at the resolution of the segmenter and not yet merged."""

    scores: Tensor
    """(n, K, h, w)"""
    places: tuple[Window, ...]
    """n, of one size."""
    resized_size: tuple[int, int]
    """(H', W') of the image that the windows were cut from."""

    def merged(self) -> Tensor:
        """(K, H', W') float32 mean of the windows where they overlap."""
        return merge_reference(self.scores, self.places, self.resized_size)


ScoreMap: TypeAlias = Tensor | WindowScores
"""Scores of K classes over an image: (K, h, w), or those of its windows."""


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


def resize_scores(scores: ScoreMap, size: tuple[int, int]) -> Tensor:
    """Resize scores of K classes bilinearly (`align_corners=False`) to (K, H, W) float32."""
    whole = scores.merged() if isinstance(scores, WindowScores) else scores  # (K, h, w)
    return F.interpolate(whole.float()[None], size, mode="bilinear", align_corners=False)[0]


def take_classes(scores: ScoreMap, chosen: Tensor | slice) -> ScoreMap:
    """Scores of the classes that a mask or a slice names, in their order."""
    if isinstance(scores, WindowScores):
        return scores._replace(scores=scores.scores[:, chosen])
    return scores[chosen]


def resize_argmax(scores: ScoreMap, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize scores bilinearly and take the best class of every pixel.

    Equals `resize_scores` followed by `max`, but never holds all classes at full size, and compares
    only classes that can win (`segbench.ops.count_argmax`, `segbench.ops.merge_argmax`).

    Args:
        scores: of K classes, finite and within 1e38, or 1e38 / n where there are n windows.
        size: (H, W).

    Returns:
        best: (H, W) float32, the winning score.
        winner: (H, W) int32; the first index wins a tie.
    """
    if isinstance(scores, WindowScores):
        return merge_argmax(*scores, size)
    return fused_resize_argmax(scores, size)


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
) -> ScoreMap:
    """Score windows, whose mean counts where they overlap.

    Each window's scores are resized to the window, added up, and divided by the number of windows
    that cover a pixel. That is left to those who read the scores, who need not hold all classes at
    the size of the image; it is done here where the windows' own scores would take more memory, or
    differ in size.

    Args:
        score: (3, y, x) window -> (K, h, w) scores; called in the order of windows.
        image: (3, H, W) float32.
        window_px: side of a window.
        stride_px: step between windows.
    """
    size = (image.shape[1], image.shape[2])
    places = tuple(windows(*size, window_px, stride_px))
    parts = (score(image[:, top:bottom, left:right]) for top, left, bottom, right in places)
    first = next(parts)  # (K, h, w)
    if len(places) * first[0].numel() > size[0] * size[1]:
        return merge_reference(chain([first], parts), places, size)
    kept = [first, *parts]
    if len({part.shape for part in kept}) > 1:
        return merge_reference(kept, places, size)
    return WindowScores(torch.stack(kept), places, size)
