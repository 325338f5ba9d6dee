"""Superpixels: masks without any model, the floor that learnt ones are compared with."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskcluster.generators.protocol import Photo, check_photo, nearest
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import masks_of_labels

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slic:
    """Simple linear iterative clustering of colour and place (Achanta et al., 2012).

    Masks tile the photograph and are connected. (`skimage.segmentation.slic`)
    """

    segments: int = 100
    """About how many masks."""

    compactness: float = 10.0
    """Weight of place against colour; higher gives squarer masks."""

    sigma: float = 1.0
    """Pixels of Gaussian blur before."""

    max_side: int = 640
    """A larger photograph is segmented at this size, its labels are resized."""

    def __post_init__(self) -> None:
        if self.segments < 1 or self.compactness <= 0 or self.sigma < 0 or self.max_side < 1:
            raise ValueError(f"{self}: segments and max_side from 1, compactness > 0, sigma >= 0")

    @property
    def description(self) -> Mapping[str, Any]:
        """Name and options."""
        return {"name": "slic", **asdict(self)}

    def __call__(self, photo: Photo) -> MaskSet:
        """Masks of (H, W, 3) uint8 RGB."""
        from skimage.segmentation import slic

        small = _shrink(photo, self.max_side)
        segments = min(self.segments, small.shape[0] * small.shape[1])
        labels = slic(
            small,
            n_segments=segments,
            compactness=self.compactness,
            sigma=self.sigma,
            start_label=0,
        )
        return _of_labels(labels, photo, "slic")


@dataclass(frozen=True, kw_only=True, slots=True)
class Felzenszwalb:
    """Graph-based segmentation (Felzenszwalb and Huttenlocher, 2004).

    Masks tile the photograph; their number follows its content.
    (`skimage.segmentation.felzenszwalb`)
    """

    scale: float = 200.0
    """Higher gives larger masks."""

    sigma: float = 0.8
    """Pixels of Gaussian blur before."""

    min_size: int = 100
    """Smaller masks are merged with a neighbour; pixels of the size that is segmented."""

    max_side: int = 640
    """A larger photograph is segmented at this size, its labels are resized."""

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.sigma < 0 or self.min_size < 1 or self.max_side < 1:
            raise ValueError(f"{self}: scale > 0, sigma >= 0, min_size and max_side from 1")

    @property
    def description(self) -> Mapping[str, Any]:
        """Name and options."""
        return {"name": "felzenszwalb", **asdict(self)}

    def __call__(self, photo: Photo) -> MaskSet:
        """Masks of (H, W, 3) uint8 RGB."""
        from skimage.segmentation import felzenszwalb

        small = _shrink(photo, self.max_side)
        labels = felzenszwalb(small, scale=self.scale, sigma=self.sigma, min_size=self.min_size)
        return _of_labels(labels, photo, "felzenszwalb")


def _shrink(photo: Photo, max_side: int) -> Photo:
    height, width = check_photo(photo)
    scale = max_side / max(height, width)
    if scale >= 1:
        return photo
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BILINEAR))


def _of_labels(labels: Labels, photo: Photo, source: str) -> MaskSet:
    """Masks of a label map of any size, resized to the photograph."""
    height, width = photo.shape[:2]
    rows, columns = nearest(height, labels.shape[0]), nearest(width, labels.shape[1])
    whole = labels[rows[:, None], columns[None]]  # (H, W)
    return MaskSet.of(height, width, masks_of_labels(whole), source=source)
