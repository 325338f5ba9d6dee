"""Small holes and islands of masks."""

from typing import Any

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]


def remove_small_regions(mask: BoolArray, area_px: int) -> tuple[BoolArray, bool]:
    """Fill holes, then remove islands, that have fewer than some pixels; 8-neighbours touch.

    If all islands are small, the largest stays, the first at a tie.
    (facebookresearch/segment-anything, `remove_small_regions`; Apache-2.0.)

    Args:
        mask: (H, W) bool.
        area_px: 0 changes nothing.

    Returns:
        (H, W) bool, and whether it differs from `mask`.
    """
    holes, sizes = _regions(~mask)
    filled = mask | (sizes < area_px)[holes] & ~mask
    islands, sizes = _regions(filled)
    kept = sizes >= area_px
    if len(sizes) > 1 and not kept[1:].any():
        kept[1 + np.argmax(sizes[1:])] = True
    kept[0] = False  # the background
    found: BoolArray = kept[islands]
    return found, not np.array_equal(found, mask)


def _regions(mask: BoolArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """(H, W) number of the region of each pixel, 0 outside; (n + 1,) pixels of each number."""
    from skimage.measure import label

    regions = label(mask, connectivity=2)
    return regions, np.bincount(regions.ravel())
