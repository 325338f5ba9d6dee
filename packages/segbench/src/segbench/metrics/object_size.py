"""Scores by object size, and the metrics of ImageNet-S's official evaluator."""

import math
from typing import Self

import numpy as np

from segbench.metrics.boundary import RATIO_IMAGENET_S, BoundaryCounts
from segbench.metrics.confusion import (
    AbsentRule,
    Areas,
    ConfusionMatrix,
    IntArray,
    LabelMap,
    check_label_maps,
)
from segbench.metrics.per_image import PerImageCounts

SIZES = ("s", "ms", "ml", "l")
"""Small, medium small, medium large, large."""
LIMITS_PERCENT = (5, 25, 50)
"""Largest share of the scored pixels of an image that is still s, ms and ml."""
OTHER = 0
"""Label of what is no object in ImageNet-S."""
BETA_SQUARED = 0.3
"""Of the F-measure, which weighs precision more than recall."""


def size_of_classes(gt: IntArray) -> IntArray:
    """Size of every class in an image, by its share of the scored pixels.

    ImageNet-S (LUSSeg/ImageNet-S:evaluation/metric.py) rounds the percentage up to a whole number
    before it compares, which for whole limits is share <= limit. Departs from its float32: shares
    are compared as integers, so that one exactly at a limit is below it.

    Args:
        gt: (K,) true pixels of each class.

    Returns:
        (K,) index into `SIZES`; 0 for a class without a pixel.
    """
    limits = np.array(LIMITS_PERCENT)[:, None] * gt.sum()  # (3, 1)
    sizes: IntArray = (100 * gt > limits).sum(axis=0)  # (K,)
    return sizes


def areas_by_size(counts: IntArray, other: int | None = OTHER) -> Areas:
    """Split the areas of one image by object size.

    A size is scored on the pixels of the true objects of that size and of `other`, as if the image
    held nothing else; an image without an object of that size adds nothing to it, and no pixel of
    `other` either. Objects are classes: two of a class in an image are one.

    Args:
        counts: (K, K) confusion counts of one image, true class in rows.
        other: the class that is no object; None where every class is one.

    Returns:
        (4, K) areas, by `SIZES`.

    Raises:
        ValueError: `counts` is not (K, K), or `other` is not in [0, K).
    """
    classes = len(counts)
    if counts.shape != (classes, classes):
        raise ValueError(f"counts must be (K, K), got {counts.shape}")
    if other is not None and not 0 <= other < classes:
        raise ValueError(f"other must be in [0, {classes}), got {other}")
    gt = counts.sum(axis=1)  # (K,)
    sizes = size_of_classes(gt)  # (K,)
    tp, true, found = (np.zeros((len(SIZES), classes), dtype=np.int64) for _ in range(3))
    for size in range(len(SIZES)):
        objects = [int(c) for c in np.flatnonzero((sizes == size) & (gt > 0)) if c != other]
        if not objects:
            continue
        rows = objects if other is None else [other, *objects]
        tp[size, rows] = counts[rows, rows]
        true[size, rows] = gt[rows]
        found[size] = counts[rows].sum(axis=0)
    return Areas(tp, true, found)


def is_image_right(counts: IntArray) -> bool:
    """Whether the most frequent predicted foreground class is true somewhere in the image.

    Args:
        counts: (K, K) confusion counts of one image; class 0 is no object. The lowest class wins a
            tie; an image without a predicted or without a scored object is wrong.
    """
    gt, predicted = counts.sum(axis=1), counts.sum(axis=0)  # (K,), (K,)
    best = 1 + int(predicted[1:].argmax())
    return bool(predicted[best] > 0 and gt[best] > 0)


def f_measure(counts: IntArray) -> float:
    """F-measure of foreground against other in one image.

        F = (1 + b) P R / (b P + R) = (1 + b) tp / (b t + p)        b = 0.3

    with t true, p predicted and tp right foreground pixels, whatever their class. The evaluator
    writes b where others write beta^2.

    Args:
        counts: (K, K) confusion counts of one image; class 0 is other.

    Returns:
        In [0, 1]; 0 where there is neither true nor predicted foreground.
    """
    true, predicted, right = (
        int(part.sum()) for part in (counts[1:], counts[:, 1:], counts[1:, 1:])
    )
    under = BETA_SQUARED * true + predicted
    return (1 + BETA_SQUARED) * right / under if under else 0.0


class ImageNetSCounts:
    """Everything that ImageNet-S's official evaluator reports, from exact counts.

    Spec, sec. 2.7. Departs from the evaluator's float32 counters and its epsilons: areas are int64
    and the mean over images is exact, so no number depends on the order of images or on how they
    were split.

    Args:
        classes: K = N + 1, class 0 is other.
        boundary: count boundary bands too, at ratio 0.03, as the evaluator does with ignored pixels
            (`IgnoredRule` "dropped").

    Raises:
        ValueError: fewer than 2 classes.
    """

    def __init__(self, classes: int, *, boundary: bool = True) -> None:
        if classes < 2:
            raise ValueError(f"classes must be >= 2, other and an object, got {classes}")
        self.matrix = ConfusionMatrix(classes)
        self.boundary = (
            BoundaryCounts(classes, ratio=RATIO_IMAGENET_S, ignored="dropped") if boundary else None
        )
        zeros = (np.zeros((len(SIZES), classes), dtype=np.int64) for _ in range(3))
        self.sizes = Areas(*zeros)  # (4, K) each
        self.right = 0
        self.f_measures: list[float] = []  # of every image

    @property
    def images(self) -> int:
        """How many images were counted."""
        return len(self.f_measures)

    @classmethod
    def of(cls, per_image: PerImageCounts) -> "ImageNetSCounts":
        """From the stored counts of a finished run, without boundary bands.

        Raises:
            ValueError: fewer than 2 classes.
        """
        total = cls(per_image.classes, boundary=False)
        for start, stop in zip(per_image.offsets[:-1], per_image.offsets[1:], strict=True):
            flat = np.zeros(per_image.classes**2, dtype=np.int64)  # (K * K,)
            flat[per_image.pairs[start:stop]] = per_image.counts[start:stop]
            total._add_image(flat.reshape(per_image.classes, per_image.classes))
        return total

    def update(self, labels: LabelMap, prediction: LabelMap) -> IntArray:
        """Add one image.

        Args:
            labels: (H, W) integers in [-1, K), -1 is ignored.
            prediction: (H, W) integers, in [0, K) where `labels` is not ignored, else anything.

        Returns:
            (K, K) confusion counts of the image.

        Raises:
            ValueError: see `check_label_maps`.
        """
        truth, found = check_label_maps(labels, prediction, self.matrix.classes)
        if self.boundary is not None:
            self.boundary.update(truth, found)
        added = ConfusionMatrix(self.matrix.classes).update(truth, found)
        self._add_image(added)
        return added

    def _add_image(self, counts: IntArray) -> None:
        self.matrix.counts += counts
        self.sizes = _sum(self.sizes, areas_by_size(counts))
        self.right += is_image_right(counts)
        self.f_measures.append(f_measure(counts))

    def __add__(self, other: Self) -> "ImageNetSCounts":
        """Counts of both, images of `other` last; the two are left as they are.

        Raises:
            ValueError: the two were counted in different ways.
        """
        ways = [(one.matrix.classes, one.boundary is not None) for one in (self, other)]
        if ways[0] != ways[1]:
            raise ValueError(f"counts must share classes and boundary, got {ways}")
        both = ImageNetSCounts(self.matrix.classes, boundary=False)
        both.matrix = self.matrix + other.matrix
        if self.boundary is not None and other.boundary is not None:
            both.boundary = self.boundary + other.boundary
        both.sizes = _sum(self.sizes, other.sizes)
        both.right = self.right + other.right
        both.f_measures = self.f_measures + other.f_measures
        return both

    def metrics(self, size_rule: AbsentRule = "gt") -> dict[str, float]:
        """The official scores, as fractions; NaN where they are over nothing.

        Args:
            size_rule: classes in the means by size. gt: those with a true pixel in it; all: every
                class, an absent one counts 0. Two versions of the evaluator differ in this.

        Returns:
            miou: mean IoU over all K classes, other included; an absent class counts 0.
            boundary_miou: the same of the bands; left out where they were not counted.
            image_acc: share of images that are right (`is_image_right`).
            f_measure: mean of `f_measure` over images.
            miou_s, miou_ms, miou_ml, miou_l: mean IoU by object size (`areas_by_size`).
        """
        n = self.images
        found = {"miou": self.matrix.miou("all")}
        if self.boundary is not None:
            found["boundary_miou"] = self.boundary.miou("all")
        found["image_acc"] = self.right / n if n else math.nan
        found["f_measure"] = math.fsum(self.f_measures) / n if n else math.nan
        by_size = self.sizes.miou(size_rule)  # (4,)
        return found | {f"miou_{size}": float(by_size[i]) for i, size in enumerate(SIZES)}


def _sum(first: Areas, second: Areas) -> Areas:
    return Areas(*(a + b for a, b in zip(first, second, strict=True)))
