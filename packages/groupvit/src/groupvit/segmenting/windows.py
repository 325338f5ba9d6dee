"""A picture becomes windows that the image tower can read: sizes, places, crops."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Photo = npt.NDArray[np.uint8]
"""(H, W, 3) RGB, as pictures are outside a model."""


class Window(NamedTuple):
    """A rectangle of pixels, half-open."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Cut:
    """A picture that was resized and cut."""

    full_size: tuple[int, int]
    """(H, W) of the picture itself."""
    size: tuple[int, int]
    """(H, W) after resizing; `windows` lie in it."""
    windows: tuple[Window, ...]
    """All of the same size, row by row."""
    crops: Tensor
    """(n, 3, y, x) float32 in [0, 1], the pixels of each window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Windowing:
    """How a picture is resized and cut (GroupViT's evaluation, as its release does it)."""

    window_px: int | None = 448
    """Side of a window; None takes the whole picture at once, as the release's demo does."""

    stride_px: int = 224
    """From one window to the next."""

    short_px: int = 448
    """Short side of the resized picture, unless its long side would pass `long_px`."""

    long_px: int = 2048
    """Longest side of the resized picture."""

    def __post_init__(self) -> None:
        for name in ("window_px", "stride_px", "short_px", "long_px"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        if self.window_px is not None and self.stride_px > self.window_px:
            raise ValueError(
                f"stride_px must be <= window_px, or pixels lie in no window, got {self.stride_px} "
                f"and {self.window_px}"
            )

    def cut(self, image: Tensor | Photo, patch_px: int) -> Cut:
        """Resize a picture and cut it into windows.

        Args:
            image: see `as_planes`.
            patch_px: no side of a window is shorter, so that each holds a patch.

        Raises:
            ValueError: `image` is not a picture, or a window is smaller than a patch.
        """
        planes = as_planes(image)  # (3, H, W)
        full = (planes.shape[1], planes.shape[2])
        if self.window_px is not None and self.window_px < patch_px:
            raise ValueError(f"window_px must be >= {patch_px}, a patch, got {self.window_px}")
        size = resized_size(full, self.short_px, self.long_px, patch_px)
        small = to_unit_range(resize(planes, size), planes)  # (3, H', W')
        places = tuple(place_windows(size, self.window_px, self.stride_px))
        crops = torch.stack([small[:, w.top : w.bottom, w.left : w.right] for w in places])
        return Cut(full, size, places, crops)


def as_planes(image: Tensor | Photo) -> Tensor:
    """A picture as colour planes, in the numbers that it has.

    Args:
        image: (H, W, 3) array of uint8; or a tensor (3, H, W), uint8 or floating point in [0, 1].

    Returns:
        (3, H, W), the same memory if possible.

    Raises:
        ValueError: it is neither, or has no pixel.
    """
    if isinstance(image, np.ndarray):
        planes = torch.from_numpy(np.require(image, requirements=["C", "W"])).movedim(-1, 0)
        known = image.dtype == np.uint8
    elif not isinstance(image, Tensor):
        raise ValueError(
            f"an image must be an array or a tensor, got {image!r:.100}; open_photo reads files"
        )
    else:
        planes = image
        known = image.dtype == torch.uint8 or image.is_floating_point()
    if planes.ndim != 3 or len(planes) != 3 or not planes.numel() or not known:
        raise ValueError(
            "an image must be an array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of "
            f"floating point in [0, 1], got {type(image).__name__} {tuple(image.shape)} "
            f"of {image.dtype}"
        )
    return planes


def to_unit_range(pixels: Tensor, planes: Tensor) -> Tensor:
    """Divide float32 pixels by 255 if they come from uint8 planes."""
    return pixels / 255 if planes.dtype == torch.uint8 else pixels


def resized_size(
    size: tuple[int, int], short_px: int, long_px: int, least_px: int
) -> tuple[int, int]:
    """Size that keeps the ratio and fits both limits.

    scale = min(short_px / short side, long_px / long side), and int(x * scale + 0.5) of each side.

    Args:
        size: (H, W).
        short_px: wanted short side.
        long_px: limit of the long side.
        least_px: no side becomes shorter, which a very long picture would at `long_px`.
    """
    scale = min(short_px / min(size), long_px / max(size))
    height, width = (max(int(side * scale + 0.5), least_px) for side in size)
    return height, width


def place_windows(size: tuple[int, int], window_px: int | None, stride_px: int) -> list[Window]:
    """Lay windows over a picture, row by row; the last of a row or column is pulled back inside.

        rows = max(H - window + stride - 1, 0) // stride + 1, and columns alike

    A side that is shorter than a window gets one window of its own length.
    """
    if window_px is None:
        return [Window(0, 0, *size)]
    down, across = (_spans(side, window_px, stride_px) for side in size)
    return [Window(top, left, bottom, right) for top, bottom in down for left, right in across]


def _spans(length: int, window_px: int, stride_px: int) -> list[tuple[int, int]]:
    count = max(length - window_px + stride_px - 1, 0) // stride_px + 1
    stops = [min(index * stride_px + window_px, length) for index in range(count)]
    return [(max(stop - window_px, 0), stop) for stop in stops]


def resize(image: Tensor, size: tuple[int, int], rows: range | None = None) -> Tensor:
    """Resize bilinearly with half-pixel centres, without anti-aliasing and without rounding.

    Rows come first, then columns, so that neither a large picture nor its result is ever held in
    float32 at once: a part of the rows can be asked for.

    Args:
        image: (C, H, W) of any dtype.
        size: (H', W') of the result.
        rows: rows of the result that are wanted; all by default.

    Returns:
        (C, len(rows), W') float32.
    """
    tall = _resize_rows(image, size[0], range(size[0]) if rows is None else rows)  # (C, n, W)
    if size[1] == image.shape[2]:
        return tall
    wide = (tall.shape[1], size[1])  # the rows stay as they are
    return F.interpolate(tall[None], wide, mode="bilinear", align_corners=False)[0]


def _resize_rows(image: Tensor, height: int, rows: range) -> Tensor:
    """(C, H, W) -> (C, len(rows), W) float32, some rows of `height` resized ones."""
    if height == image.shape[1]:
        return image[:, rows.start : rows.stop].float()
    row = torch.arange(rows.start, rows.stop, device=image.device)  # (n,)
    last = image.shape[1] - 1
    source = ((row + 0.5) * (image.shape[1] / height) - 0.5).clamp(0, last)  # (n,)
    low = source.long()  # (n,)
    high = (low + 1).clamp(max=last)  # (n,)
    weight = (source - low)[:, None]  # (n, 1)
    lower, upper = (image.index_select(1, at).float() for at in (low, high))  # (C, n, W) each
    return torch.lerp(lower, upper, weight)
