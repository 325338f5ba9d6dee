"""How sure a score is: bootstrap over images, and the paired difference of two runs."""

from dataclasses import dataclass

import numpy as np

from segbench.metrics.confusion import AbsentRule, Areas, FloatArray
from segbench.metrics.per_image import PerImageCounts

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 100  # resamples drawn at a time, to bound memory


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile bootstrap interval."""

    point: float
    """The score of the images as they are."""
    low: float
    high: float
    level: float
    """Share of resamples inside [low, high]."""
    resamples: int
    images: int
    """Images drawn in each resample."""


def resampled_miou(
    runs: tuple[Areas, ...], rule: AbsentRule, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Score resamples of images, drawn with replacement, the same ones for every run.

    Args:
        runs: areas of the same I images under each of n runs, (I, K) each.
        rule: of absent classes, applied inside each resample.
        resamples: how many to draw.
        rng: source of the draws.

    Returns:
        (n, resamples) mIoU.
    """
    images = len(runs[0].gt)
    scores = np.empty((len(runs), resamples))  # (n, resamples)
    for start in range(0, resamples, _CHUNK):
        stop = min(start + _CHUNK, resamples)
        drawn = rng.multinomial(images, np.full(images, 1 / images), size=stop - start)
        for row, areas in enumerate(runs):
            sums = Areas(*(drawn @ area for area in areas))  # (chunk, K) each, exact
            scores[row, start:stop] = sums.miou(rule)
    return scores


def bootstrap(
    counts: PerImageCounts,
    *,
    rng: np.random.Generator,
    rule: AbsentRule = "union",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mIoU over the draw of images.

    It answers how far the score would move with other images of the same kind; it says nothing
    about another training run.

    Args:
        counts: of at least one image.
        rng: source of the draws.
        rule: of absent classes.
        resamples: how many to draw.
        level: share of resamples inside the interval, in (0, 1).

    Raises:
        ValueError: no image, or `level` out of range.
    """
    if not counts.ids:
        raise ValueError("an interval needs at least 1 image, got 0")
    areas = counts.areas()
    scores = resampled_miou((areas,), rule, resamples, rng)[0]  # (resamples,)
    point = _miou_of_all(areas, rule)
    return _interval(point, scores, level, len(counts.ids))


def paired_difference(
    first: PerImageCounts,
    second: PerImageCounts,
    *,
    rng: np.random.Generator,
    rule: AbsentRule = "union",
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Interval of mIoU(second) - mIoU(first) over the images that both runs scored.

    Both runs are scored on the same resamples, so that what makes an image hard for both cancels.
    The difference is real at `level` where the interval leaves out 0.

    Raises:
        ValueError: the runs share no image or differ in their number of classes.
    """
    if first.classes != second.classes:
        raise ValueError(f"runs must share classes, got {first.classes} and {second.classes}")
    both = sorted(set(first.ids) & set(second.ids))
    if not both:
        raise ValueError("the two runs share no image")
    runs = first.select(both), second.select(both)
    scores = resampled_miou(runs, rule, resamples, rng)  # (2, resamples)
    point = _miou_of_all(runs[1], rule) - _miou_of_all(runs[0], rule)
    return _interval(point, scores[1] - scores[0], level, len(both))


def _miou_of_all(areas: Areas, rule: AbsentRule) -> float:
    return float(Areas(*(area.sum(axis=0) for area in areas)).miou(rule))


def _interval(point: float, scores: FloatArray, level: float, images: int) -> Interval:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    tail = (1 - level) / 2
    usable = scores[~np.isnan(scores)]  # a resample of images without a scored pixel has no mIoU
    low, high = np.quantile(usable, [tail, 1 - tail]) if len(usable) else (np.nan, np.nan)
    return Interval(point, float(low), float(high), level, len(scores), images)
