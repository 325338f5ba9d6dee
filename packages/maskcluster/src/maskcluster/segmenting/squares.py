"""The published geometry: a photograph becomes a square, and scores become its label map."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from maskcluster.masks.photo_files import Photo

SHORT_PX, LONG_PX = 640, 2560
"""Of photographs, before they are squashed."""

GRID = 64
"""Side that features are resized to before they are normalised."""

_HELD = 1 << 24
"""Scores at full size that are held at once, to bound memory."""


def to_square(
    photo: Photo, image_px: int, *, short_px: int = SHORT_PX, long_px: int = LONG_PX
) -> Tensor:
    """Squash a photograph to a square (PixelCLIP's evaluation).

    It is resized in 8 bits until its shorter side has `short_px`, unless the longer would pass
    `long_px`, with Pillow's bilinear filter; then to the square, bilinearly, without anti-aliasing.

    Args:
        photo: (H, W, 3) uint8 RGB.
        image_px: side of the square.
        short_px: see above.
        long_px: see above.

    Returns:
        (3, image_px, image_px) float32 in [0, 1].

    Raises:
        ValueError: it is no photograph.
    """
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
        raise ValueError(
            f"a photograph must be (H, W, 3) uint8, got {photo.shape} of {photo.dtype}"
        )
    height, width = photo.shape[:2]
    scale = min(short_px / min(height, width), long_px / max(height, width))
    size = (max(int(width * scale + 0.5), 1), max(int(height * scale + 0.5), 1))
    small = np.array(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))
    return resized(torch.from_numpy(small).movedim(-1, 0).float() / 255, (image_px, image_px))


def resized(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (C, H, W) bilinearly with half-pixel centres, without anti-aliasing."""
    if tuple(planes.shape[1:]) == size:
        return planes
    return F.interpolate(planes[None], size, mode="bilinear", align_corners=False)[0]


def best_class(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize scores bilinearly to a photograph's size and take the best class of each pixel.

    Some classes at a time, so that all of them are never held at full size.

    Args:
        scores: (K, h, w).
        size: (H, W).

    Returns:
        (H, W) int32 on the device of `scores`; the lowest class wins a tie.
    """
    step = max(_HELD // (size[0] * size[1]), 1)
    best = scores.new_full(size, float("-inf"))  # (H, W)
    labels = torch.zeros(size, dtype=torch.int32, device=scores.device)  # (H, W)
    for start in range(0, len(scores), step):
        part = resized(scores[start : start + step], size)  # (k, H, W)
        winner = part.argmax(dim=0, keepdim=True)  # (1, H, W)
        score = part.gather(0, winner)[0]  # (H, W)
        better = score > best
        best = torch.where(better, score, best)
        labels = torch.where(better, (winner[0] + start).int(), labels)
    return labels
