"""Confusion matrix, and intersection over union under each rule for absent classes. Start here.

Pixels are counted by (truth, prediction) and every score of segmentation is a ratio of such counts.
What they are counted over, the mean that follows and how sure it is stand in the files beside this.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segbench.ops.count_argmax import check_range, confusion_counts

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.float64]
AbsentRule = Literal["union", "gt", "all", "one"]
"""Which classes the mean is taken over.

union: true or predicted somewhere (mmsegmentation, Jaccard macro); gt: true somewhere
(detectron2); all: every class, an absent one counts 0 (ImageNet-S); one: every class, an absent
one counts 1.
"""
LabelMap: TypeAlias = Tensor | npt.NDArray[np.integer]
"""(H, W) integers on any device; -1 is ignored."""
ABSENT_RULES: tuple[AbsentRule, ...] = get_args(AbsentRule)


class Areas(NamedTuple):
    """Pixel counts by class; leading axes may hold images or resamples."""

    tp: IntArray
    """(..., K) predicted and true."""
    gt: IntArray
    """(..., K) true."""
    pr: IntArray
    """(..., K) predicted."""

    @classmethod
    def of(cls, counts: IntArray) -> "Areas":
        """Areas of a (..., K, K) confusion matrix with true classes in rows."""
        tp = np.diagonal(counts, axis1=-2, axis2=-1)  # (..., K)
        return cls(tp, counts.sum(axis=-1), counts.sum(axis=-2))

    def ious(self) -> FloatArray:
        """(..., K) tp / (gt + pr - tp), NaN where a class is neither true nor predicted."""
        return _ratio(self.tp, self.gt + self.pr - self.tp)

    def miou(self, rule: AbsentRule = "union", classes: Sequence[int] | None = None) -> FloatArray:
        """Mean IoU.

        Args:
            rule: which classes the mean is taken over.
            classes: restrict the mean to these; pixels of the others still count as errors.

        Returns:
            (...) in [0, 1], NaN where the mean is over no class.

        Raises:
            ValueError: unknown rule.
        """
        if rule not in ABSENT_RULES:
            raise ValueError(f"rule must be one of {ABSENT_RULES}, got {rule!r}")
        ious = self.ious()
        keep = ~np.isnan(ious) if rule == "union" else np.ones(ious.shape, dtype=np.bool_)
        if rule == "gt":
            keep = self.gt > 0
        if classes is not None:
            chosen = np.zeros(ious.shape[-1], dtype=np.bool_)
            chosen[list(classes)] = True
            keep = keep & chosen
        filled = np.nan_to_num(ious, nan=1.0 if rule == "one" else 0.0)
        return _ratio(np.where(keep, filled, 0.0).sum(axis=-1), keep.sum(axis=-1))


def _ratio(over: npt.NDArray[np.number], under: npt.NDArray[np.number]) -> FloatArray:
    """Quotient in float64, NaN where `under` is 0."""
    out = np.full(np.shape(under), np.nan)
    np.divide(over, under, out=out, where=np.asarray(under) > 0)
    return out


def count_pairs(labels: Tensor, prediction: Tensor, classes: int) -> Tensor:
    """Count (true, predicted) pairs over the pixels that are not ignored.

    Args:
        labels: integers of any shape in [-1, K), -1 is ignored.
        prediction: integers of the same shape and device; in [0, K) where `labels` is not ignored,
            anything where it is.
        classes: K.

    Returns:
        (K, K) int64 on the same device, true class in rows. Exact at any size.

    Raises:
        ValueError: no integers, shapes that differ, or a value out of range.
    """
    for values in (labels, prediction):
        if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
            raise ValueError(f"a label map must hold integers, got {values.dtype}")
    if labels.shape != prediction.shape:
        raise ValueError(
            f"labels are {tuple(labels.shape)}, the prediction is {tuple(prediction.shape)}"
        )
    if labels.device.type == "cpu":
        return confusion_counts(labels, prediction, classes)
    scored = labels.long() != -1  # in int64, as in uint8 a 255 would equal the -1
    true, predicted = labels[scored].long(), prediction[scored].long()  # (n,), (n,)
    check_range(true, predicted, classes)
    keys = true * classes + predicted  # (n,)
    return torch.bincount(keys, minlength=classes**2).view(classes, classes)


def check_label_maps(
    labels: LabelMap, prediction: LabelMap, classes: int
) -> tuple[IntArray, IntArray]:
    """Bring labels and prediction to the CPU and check them.

    Args:
        labels: (H, W) integers in [-1, K), -1 is ignored.
        prediction: (H, W) integers, in [0, K) where `labels` is not ignored, anything elsewhere.
        classes: K.

    Returns:
        Both, (H, W) int64.

    Raises:
        ValueError: no integers, shapes that differ or are not (H, W), or a value out of range.
    """
    truth, found = (_integers(each) for each in (labels, prediction))
    if truth.ndim != 2 or truth.shape != found.shape:
        raise ValueError(
            f"labels and prediction must be the same (H, W), got {truth.shape} and {found.shape}"
        )
    scored_found = np.where(truth != -1, found, 0)  # (H, W)
    for name, low, values in (("labels", -1, truth), ("predictions", 0, scored_found)):
        if values.size and not low <= values.min() <= values.max() < classes:
            raise ValueError(
                f"{name} must be in [{low}, {classes}), got {values.min()} to {values.max()}"
            )
    return truth, found


def _integers(values: LabelMap) -> IntArray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"a label map must hold integers, got {array.dtype}")
    return array.astype(np.int64)


def _as_tensor(values: Tensor | npt.NDArray[np.integer]) -> Tensor:
    """An array of any strides, that may be read-only, as a tensor of its own if need be."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


class ConfusionMatrix:
    """Exact counts of (true, predicted) pixel pairs, and the scores that follow from them.

    Counts are int64: sums do not depend on the order of images or on how they were split, whereas
    float32 counters stop being exact at 2^24 pixels a class.

    Args:
        classes: K.
        counts: (K, K) int64 to start from, true class in rows; zeros when left out.

    Raises:
        ValueError: `counts` is not (K, K).
    """

    def __init__(self, classes: int, counts: IntArray | None = None) -> None:
        if counts is None:
            counts = np.zeros((classes, classes), dtype=np.int64)
        if counts.shape != (classes, classes):
            raise ValueError(f"counts must be ({classes}, {classes}), got {counts.shape}")
        self.counts = counts.astype(np.int64)  # (K, K), our own copy

    @property
    def classes(self) -> int:
        """K."""
        return len(self.counts)

    def update(
        self, labels: Tensor | npt.NDArray[np.integer], prediction: Tensor | npt.NDArray[np.integer]
    ) -> IntArray:
        """Add one or more label maps; see `count_pairs`.

        Returns:
            (K, K) what was added.
        """
        added = count_pairs(_as_tensor(labels), _as_tensor(prediction), self.classes)
        counts: IntArray = added.cpu().numpy()
        self.counts += counts
        return counts

    def __add__(self, other: Self) -> "ConfusionMatrix":
        """Counts of both; the two are left as they are."""
        return ConfusionMatrix(self.classes, self.counts + other.counts)

    @property
    def areas(self) -> Areas:
        """Areas of every class, (K,) each."""
        return Areas.of(self.counts)

    def ious(self) -> FloatArray:
        """(K,) IoU, NaN for a class that is neither true nor predicted."""
        return self.areas.ious()

    def accuracies(self) -> FloatArray:
        """(K,) tp / gt, NaN for a class that is not true anywhere."""
        areas = self.areas
        return _ratio(areas.tp, areas.gt)

    def miou(self, rule: AbsentRule = "union", classes: Sequence[int] | None = None) -> float:
        """Mean IoU; see `Areas.miou`."""
        return float(self.areas.miou(rule, classes))

    def miou_fg(self, background: int = 0, rule: AbsentRule = "union") -> float:
        """Mean IoU over all classes but the background, whose pixels still count as errors."""
        return self.miou(rule, [c for c in range(self.classes) if c != background])

    def macc(self) -> float:
        """Mean accuracy over the classes that are true somewhere; NaN without any."""
        areas = self.areas
        per_class = np.nan_to_num(_ratio(areas.tp, areas.gt))
        return float(_ratio(per_class.sum(), (areas.gt > 0).sum()))

    def pixel_acc(self) -> float:
        """Share of scored pixels that are right; NaN without any."""
        areas = self.areas
        return float(_ratio(areas.tp.sum(), areas.gt.sum()))

    def fwiou(self) -> float:
        """IoU weighted by the share of true pixels; NaN without any."""
        areas = self.areas
        weighted = areas.gt * np.nan_to_num(areas.ious())  # (K,)
        return float(_ratio(weighted.sum(), areas.gt.sum()))
