"""Boundary IoU: intersection over union of the bands along the borders of the masks."""

import math
from collections.abc import Sequence
from typing import Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from segbench.metrics.confusion import (
    AbsentRule,
    Areas,
    FloatArray,
    IntArray,
    LabelMap,
    check_label_maps,
)

BoolArray: TypeAlias = npt.NDArray[np.bool_]
IgnoredRule = Literal["masked", "dropped"]
"""What the border of an ignored area is, for the prediction; pixels inside it never count.

In the labels an ignored area is outside every class, so its border is a border of the classes
around it. masked: the same holds in the prediction, so a prediction that is right on every scored
pixel has boundary IoU 1. dropped: the prediction's bands are cut from its full map, and ignored
pixels are dropped afterwards (ImageNet-S); beside ignored areas only the labels have a band then,
and a prediction that is right everywhere stays below 1.
"""
IGNORED_RULES: tuple[IgnoredRule, ...] = get_args(IgnoredRule)
RATIO = 0.02
"""Width of the band as a share of the image diagonal (bowenc0221/boundary-iou-api)."""
RATIO_IMAGENET_S = 0.03
"""The same in the evaluator of ImageNet-S (LUSSeg/ImageNet-S:data/data.py)."""


def band_width_px(height: int, width: int, ratio: float = RATIO) -> int:
    """Width of the band in pixels: max(1, round(ratio * diagonal)); 16 for 640 x 480 at 0.02.

    Raises:
        ValueError: `ratio` is not a finite number > 0.
    """
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"ratio must be a finite number > 0, got {ratio}")
    return max(1, round(ratio * math.hypot(height, width)))


def boundary_band(labels: npt.NDArray[np.integer], width_px: int) -> BoolArray:
    """Mark the band of every mask of a label map at once.

    A pixel of class c is in the band of c where the mask of c, eroded `width_px` times by 3x3 ones,
    no longer holds it, the outside of the image being outside the mask (arXiv:2103.16562, sec. 4).
    That is where a pixel of another value, or the outside of the image, lies within chessboard
    distance d = `width_px`: where the (2d + 1)-square around the pixel is not all of one value. A
    square is of one value exactly if no two horizontal neighbours in it differ, and no two vertical
    neighbours in its middle column. Both are sliding "any"s, built by doubling, so the cost is
    O(log d) a pixel and does not depend on the number of classes.

    Args:
        labels: (H, W); every value is a class here, -1 too.
        width_px: d >= 1.

    Returns:
        (H, W), True inside the band of the pixel's own value.

    Raises:
        ValueError: `labels` is not (H, W), or `width_px` < 1.
    """
    if labels.ndim != 2:
        raise ValueError(f"a label map must be (H, W), got {labels.shape}")
    if width_px < 1:
        raise ValueError(f"width_px must be >= 1, got {width_px}")
    d = width_px
    band = np.ones(labels.shape, dtype=np.bool_)  # (H, W)
    if min(labels.shape) <= 2 * d:
        return band  # every pixel is within d of the outside
    across = labels[:, 1:] != labels[:, :-1]  # (H, W - 1)
    across = _any_of(_any_of(across, 2 * d, axis=1), 2 * d + 1, axis=0)  # (H - 2d, W - 2d)
    middle = labels[:, d:-d]  # (H, W - 2d)
    down = _any_of(middle[1:] != middle[:-1], 2 * d, axis=0)  # (H - 2d, W - 2d)
    band[d:-d, d:-d] = across | down
    return band


def _any_of(flags: BoolArray, length: int, axis: int) -> BoolArray:
    """Whether any of `length` flags in a row is set, for each of the n - length + 1 places."""
    have = 1  # flags that one entry stands for
    while have < length:
        step = min(have, length - have)
        flags = flags[step:] | flags[:-step] if axis == 0 else flags[:, step:] | flags[:, :-step]
        have += step
    return flags


def count_bands(
    labels: LabelMap,
    prediction: LabelMap,
    classes: int,
    *,
    ratio: float = RATIO,
    ignored: IgnoredRule = "masked",
) -> Areas:
    """Count the pixels of every class's band in one image; see `BoundaryCounts`.

    Args:
        labels: (H, W) integers in [-1, K), -1 is ignored.
        prediction: (H, W) integers, in [0, K) where `labels` is not ignored, anything elsewhere.
        classes: K.
        ratio: width of the band as a share of the image diagonal.
        ignored: what the border of an ignored area is for the prediction.

    Returns:
        Areas of (K,) int64 each: `tp` in both bands of the class, `gt` in the band of its true
        mask, `pr` in the band of its predicted mask.

    Raises:
        ValueError: see `check_label_maps`; or `ratio` or `ignored` is not allowed.
    """
    if ignored not in IGNORED_RULES:
        raise ValueError(f"ignored must be one of {IGNORED_RULES}, got {ignored!r}")
    truth, found = check_label_maps(labels, prediction, classes)
    width_px = band_width_px(truth.shape[0], truth.shape[1], ratio)
    scored = truth != -1  # (H, W)
    if ignored == "masked":
        found = np.where(scored, found, -1)
    truth_band = boundary_band(truth, width_px) & scored  # (H, W)
    found_band = boundary_band(found, width_px) & scored  # (H, W)
    both = truth_band & found_band & (truth == found)
    return Areas(
        _count_by_class(truth, both, classes),
        _count_by_class(truth, truth_band, classes),
        _count_by_class(found, found_band, classes),
    )


def _count_by_class(labels: IntArray, where: BoolArray, classes: int) -> IntArray:
    """(K,) pixels of each class; the others go into a bin past the last, faster than selecting."""
    counts = np.bincount(np.where(where, labels, classes).reshape(-1), minlength=classes + 1)
    return counts[:classes].astype(np.int64)


class BoundaryCounts:
    """Boundary IoU of every class over a data set, from int64 counts.

    With G_d and P_d the parts of the true mask G and the predicted mask P of a class within
    chessboard distance d of their outside (arXiv:2103.16562, eq. 4), summed over images:

        boundary IoU = sum |G_d & P_d| / sum |G_d | P_d|,   d = max(1, round(ratio * diagonal))

    Not comparable with detectron2's number, which erodes the label map itself. The
    arrays add up in any order. `update` returns what one image adds; images stacked to (I, K) are
    what `segbench.metrics.interval.resampled_miou` takes.

    Args:
        classes: K.
        ratio: width of the band as a share of the image diagonal, 0.03 for ImageNet-S.
        ignored: what the border of an ignored area is for the prediction.

    Raises:
        ValueError: `classes` < 1, or `ratio` or `ignored` is not allowed.
    """

    def __init__(
        self, classes: int, *, ratio: float = RATIO, ignored: IgnoredRule = "masked"
    ) -> None:
        if classes < 1:
            raise ValueError(f"classes must be >= 1, got {classes}")
        if ignored not in IGNORED_RULES:
            raise ValueError(f"ignored must be one of {IGNORED_RULES}, got {ignored!r}")
        band_width_px(1, 1, ratio)  # raises where the ratio is not allowed
        self.classes, self.ratio, self.ignored = classes, ratio, ignored
        self.areas = Areas(*(np.zeros(classes, dtype=np.int64) for _ in range(3)))  # (K,) each

    def update(self, labels: LabelMap, prediction: LabelMap) -> Areas:
        """Add one image; see `count_bands`.

        Returns:
            What was added, (K,) each.
        """
        added = count_bands(
            labels, prediction, self.classes, ratio=self.ratio, ignored=self.ignored
        )
        self.areas = Areas(*(a + b for a, b in zip(self.areas, added, strict=True)))
        return added

    def __add__(self, other: Self) -> "BoundaryCounts":
        """Counts of both; the two are left as they are.

        Raises:
            ValueError: the two were counted in different ways.
        """
        ways = [(one.classes, one.ratio, one.ignored) for one in (self, other)]
        if ways[0] != ways[1]:
            raise ValueError(f"counts must share classes, ratio and ignored, got {ways}")
        total = BoundaryCounts(self.classes, ratio=self.ratio, ignored=self.ignored)
        total.areas = Areas(*(a + b for a, b in zip(self.areas, other.areas, strict=True)))
        return total

    def ious(self) -> FloatArray:
        """(K,) boundary IoU, NaN for a class that is neither true nor predicted."""
        return self.areas.ious()

    def miou(self, rule: AbsentRule = "union", classes: Sequence[int] | None = None) -> float:
        """Mean boundary IoU; see `Areas.miou`."""
        return float(self.areas.miou(rule, classes))
