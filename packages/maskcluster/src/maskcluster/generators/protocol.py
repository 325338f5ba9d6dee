"""What makes masks of photographs."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.photo_files import Photo

__all__ = [
    "BatchMaskGenerator",
    "MaskGenerator",
    "Photo",
    "check_photo",
    "fit_short_side",
    "nearest",
]


@runtime_checkable
class MaskGenerator(Protocol):
    """Makes masks of a photograph; the same photograph gives the same masks."""

    @property
    def description(self) -> Mapping[str, Any]:
        """Everything that the masks depend on beside the photograph, as JSON has it.

        Two generators with equal descriptions may go on with each other's work.
        """
        ...

    def __call__(self, photo: Photo) -> MaskSet:
        """Masks of (H, W, 3) uint8 RGB."""
        ...


@runtime_checkable
class BatchMaskGenerator(MaskGenerator, Protocol):
    """A generator that is faster with several photographs at a time."""

    def many(self, photos: Sequence[Photo]) -> list[MaskSet]:
        """Masks of each photograph; sizes may differ."""
        ...


def check_photo(photo: Photo) -> tuple[int, int]:
    """Height and width of a photograph.

    Raises:
        ValueError: not (H, W, 3) uint8, or without pixels.
    """
    good = photo.ndim == 3 and photo.shape[2] == 3 and photo.dtype == np.uint8 and photo.size
    if not good:
        raise ValueError(f"a photograph must be (H, W, 3) uint8, got {photo.shape} {photo.dtype}")
    return photo.shape[0], photo.shape[1]


def fit_short_side(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Size of a photograph whose short side becomes `short`, the long one at most `longest`."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def nearest(size: int, source: int) -> npt.NDArray[np.int64]:
    """(size,) the source index whose pixel holds the middle of each pixel of the result."""
    return ((np.arange(size) + 0.5) * source / size).astype(np.int64)
