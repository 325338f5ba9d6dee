"""Metrics beside the confusion matrix, counted image by image if they are asked for.

Each is an int64 vector a class and an image that adds up in any order: they lie in the journal
behind the confusion counts.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from segbench.errors import UsageError, unknown
from segbench.metrics.boundary import RATIO, count_bands
from segbench.metrics.confusion import AbsentRule, Areas, IntArray
from segbench.metrics.mask_accuracy import MaskAccuracy, Regions

ExtraName = Literal["boundary", "mask_acc"]
"""boundary: boundary IoU of every class (arXiv:2103.16562); mask_acc: share of the classes of an
image whose pixels are mostly called by their name."""
EXTRAS: tuple[ExtraName, ...] = get_args(ExtraName)
_ROWS = {"boundary": 3, "mask_acc": 2}  # numbers a class


def check_extras(names: Sequence[str]) -> tuple[ExtraName, ...]:
    """The names in the order of `EXTRAS`, each once.

    Raises:
        UsageError: one is not known.
    """
    for name in names:
        if name not in EXTRAS:
            raise UsageError(unknown("metric", name, EXTRAS))
    return tuple(each for each in EXTRAS if each in names)


def extras_size(names: Sequence[ExtraName], classes: int) -> int:
    """How many numbers `count_extras` gives."""
    return classes * sum(_ROWS[name] for name in names)


def count_extras(
    names: Sequence[ExtraName], labels: npt.NDArray[np.integer], prediction: Tensor, classes: int
) -> IntArray:
    """Counts of one image, the metrics one after the other.

    Args:
        names: of the metrics.
        labels: (H, W) in [-1, K), -1 is ignored.
        prediction: (H, W) in [0, K) where `labels` is not ignored.
        classes: K.

    Returns:
        (n,) int64: for every metric its rows of K numbers.
    """
    parts = [np.zeros(0, np.int64)]
    for name in names:
        if name == "boundary":
            parts += count_bands(labels, prediction, classes)
        else:
            found = MaskAccuracy(classes)
            found.update(Regions.of_labels(labels, classes), prediction)
            parts += [found.right, found.total]
    return np.concatenate(parts)


def extra_figures(
    names: Sequence[ExtraName], counts: IntArray, classes: int, rule: AbsentRule
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores from the summed counts of all images.

    Args:
        names: of the metrics.
        counts: (n,) as of `count_extras`.
        classes: K.
        rule: for classes that are absent, behind `boundary_miou`.

    Returns:
        metrics: `boundary_miou`; `mask_acc` over all regions and `mask_acc_macro` over classes.
        per_class: K rows, with `boundary_iou` and `mask_acc`.
    """
    metrics: dict[str, float] = {}
    rows: list[dict[str, Any]] = [{} for _ in range(classes)]
    start = 0
    for name in names:
        part = counts[start : start + _ROWS[name] * classes].reshape(-1, classes)  # (rows, K)
        start += part.size
        if name == "boundary":
            areas = Areas(*part)
            metrics["boundary_miou"] = float(areas.miou(rule))
            values, key = areas.ious(), "boundary_iou"
        else:
            found = MaskAccuracy(classes)
            found.right, found.total = part
            metrics |= {"mask_acc": found.micro(), "mask_acc_macro": found.macro()}
            values, key = found.accuracies(), "mask_acc"
        for row, value in zip(rows, values.tolist(), strict=True):
            row[key] = value
    return metrics, rows


def definitions(names: Sequence[ExtraName]) -> dict[str, str]:
    """What the numbers mean, a line each."""
    lines = {
        "boundary": f"IoU of bands of {RATIO:.0%} of the diagonal along the borders of every class",
        "mask_acc": MaskAccuracy(1).definition,
    }
    return {name: lines[name] for name in names}
