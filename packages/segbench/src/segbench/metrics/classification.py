"""Zero-shot image classification: exact counts, and ties told as ties."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segbench.metrics.confusion import FloatArray, IntArray
from segbench.metrics.interval import LEVEL, RESAMPLES, Interval


class Ranking(NamedTuple):
    """Where n images have their true class, scores in descending order."""

    rank: IntArray
    """(n,) 0 is best; of equal scores the lowest class comes first."""
    tied: npt.NDArray[np.bool_]
    """(n,) whether more than one class has the best score."""
    lost: npt.NDArray[np.bool_]
    """(n,) whether the true class has the best score and a lower class has it too."""
    winner: IntArray
    """(n,) the class that is predicted: of those with the best score the lowest."""


def duplicate_names(names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Names given to more than one class, with their labels; in ImageNet "missile", "sunglasses".

    Equal names have equal prompts, so their classes always tie and only the lowest is ever
    predicted (LAION-AI/CLIP_benchmark#124).
    """
    labels = defaultdict(list)
    for label, name in enumerate(names):
        labels[name].append(label)
    return {name: tuple(ids) for name, ids in labels.items() if len(ids) > 1}


def rank_truth(scores: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> Ranking:
    """Rank the true class of n images among K classes.

        rank = |{c : s_c > s_t}| + |{c < t : s_c = s_t}|        for the true class t

    Args:
        scores: (n, K) finite floating point, higher is better.
        labels: (n,) integers in [0, K).
        names: K class names; classes of one name share the highest of their scores, so that they
            tie whatever the rounding of a matrix product did.

    Raises:
        ValueError: shapes disagree, a label is out of range, or a score is not finite.
    """
    _check_scores(scores, labels)
    if names is not None:
        if len(names) != scores.shape[1]:
            raise ValueError(f"got {len(names)} names for {scores.shape[1]} classes")
        scores = scores.clone()
        for ids in duplicate_names(names).values():
            scores[:, ids] = scores[:, ids].amax(dim=1, keepdim=True)
    true = labels.to(scores.device).long()[:, None]  # (n, 1)
    own = scores.gather(1, true)  # (n, 1)
    equal = scores == own  # (n, K)
    labels_of_all = torch.arange(scores.shape[1], device=scores.device)  # (K,)
    lower = labels_of_all < true  # (n, K)
    above, before = (scores > own).sum(dim=1), (equal & lower).sum(dim=1)  # (n,), (n,)
    best = scores == scores.amax(dim=1, keepdim=True)  # (n, K)
    winner = torch.where(best, labels_of_all, scores.shape[1]).amin(dim=1)  # (n,)
    lost = (above == 0) & (before > 0)  # (n,)
    parts = above + before, best.sum(dim=1) > 1, lost, winner  # (n,) each
    return Ranking(*(part.cpu().numpy() for part in parts))


def _check_scores(scores: Tensor, labels: Tensor) -> None:
    got = f"{scores.dtype} {tuple(scores.shape)} and {labels.dtype} {tuple(labels.shape)}"
    if scores.ndim != 2 or scores.shape[1] < 1 or labels.shape != scores.shape[:1]:
        raise ValueError(f"scores must be (n, K) with n labels, got {got}")
    if not scores.is_floating_point() or labels.is_floating_point():
        raise ValueError(f"scores must be floating point and labels integers, got {got}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite")
    if bool(((labels < 0) | (labels >= scores.shape[1])).any()):
        raise ValueError(f"labels must be in [0, {scores.shape[1]}), got {labels.tolist()[:10]}")


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationCounts:
    """Exact counts of classified images by true class; they add up in any order."""

    total: IntArray
    """(K,) images."""
    first: IntArray
    """(K,) images whose true class is ranked first."""
    five: IntArray
    """(K,) images whose true class is among the first five."""
    ties: int
    """Images in which more than one class has the best score."""
    ties_lost: int
    """Images whose true class has the best score and still counts as wrong, as a lower class has it
    too."""

    @classmethod
    def of(cls, ranking: Ranking, labels: IntArray, classes: int) -> "ClassificationCounts":
        """Counts of n ranked images with (n,) labels in [0, K)."""
        of_class = [labels, labels[ranking.rank < 1], labels[ranking.rank < 5]]
        total, first, five = (np.bincount(part, minlength=classes) for part in of_class)
        return cls(total, first, five, int(ranking.tied.sum()), int(ranking.lost.sum()))

    def __add__(self, other: Self) -> "ClassificationCounts":
        """Counts of both.

        Raises:
            ValueError: the numbers of classes differ.
        """
        if len(self.total) != len(other.total):
            raise ValueError(f"counts must share classes: {len(self.total)}, {len(other.total)}")
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ClassificationCounts(*(mine + theirs for mine, theirs in pairs))

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.total.sum())

    def recalls(self) -> FloatArray:
        """(K,) share of the class's images that are right, NaN for a class without any."""
        shares = np.full(len(self.total), np.nan)
        np.divide(self.first, self.total, out=shares, where=self.total > 0)
        return shares

    def metrics(self) -> dict[str, float]:
        """Scores under the keys of CLIP_benchmark, and ties; NaN where there is no image.

        Returns:
            acc1: share of images ranked right, the lowest class winning a tie.
            acc5: share whose true class is among the first five; NaN below five classes.
            mean_per_class_recall: mean of `recalls` over the classes that have an image.
            ties: images in which more than one class has the best score.
            ties_lost: those of them that are wrong only because a lower class won the tie.
        """
        known = self.recalls()[self.total > 0]
        n = self.images
        return {
            "acc1": int(self.first.sum()) / n if n else np.nan,
            "acc5": int(self.five.sum()) / n if n and len(self.total) >= 5 else np.nan,
            "mean_per_class_recall": float(known.mean()) if n else np.nan,
            "ties": float(self.ties),
            "ties_lost": float(self.ties_lost),
        }


def classify_scores(
    scores: Tensor, labels: Tensor, names: Sequence[str] | None = None
) -> ClassificationCounts:
    """Count how n images are classified; see `rank_truth` for arguments and errors."""
    ranking = rank_truth(scores, labels, names)
    return ClassificationCounts.of(ranking, labels.cpu().numpy().astype(np.int64), scores.shape[1])


def bootstrap_share(
    right: int,
    images: int,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap interval of a share of images.

    Of `images` draws with replacement, the number that is right is binomial: the resamples are
    drawn from that, which is the same bootstrap without drawing every image.

    Raises:
        ValueError: no image, more right ones than images, or `level` outside (0, 1).
    """
    if not 0 <= right <= images or images < 1 or not 0 < level < 1:
        raise ValueError(
            f"a share needs 0 <= right <= images >= 1 and level in (0, 1), "
            f"got {right}, {images} and {level}"
        )
    shares = rng.binomial(images, right / images, size=resamples) / images  # (resamples,)
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(right / images, float(low), float(high), level, resamples, images)


def share_difference(
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap interval of the second of two shares of right images, minus the first.

    Both runs are scored on the same draws of images. A draw counts how many of its images only one
    of the two has right, which is multinomial: the resamples are drawn from that.

    Args:
        first: (I,) whether each image is right under the first run.
        second: (I,) under the second, the same images in the same order.
        rng: source of the draws.
        resamples: how many to draw.
        level: share of resamples inside the interval.

    Raises:
        ValueError: no image, shapes that differ, or `level` outside (0, 1).
    """
    images = len(first)
    if first.shape != second.shape or first.ndim != 1 or not images or not 0 < level < 1:
        raise ValueError(
            f"a difference needs (I,) and (I,) with I >= 1 and level in (0, 1), "
            f"got {first.shape}, {second.shape} and {level}"
        )
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    cells = np.array([gained, lost, images - gained - lost]) / images  # (3,)
    drawn = rng.multinomial(images, cells, size=resamples)  # (resamples, 3)
    gaps = (drawn[:, 0] - drawn[:, 1]) / images  # (resamples,)
    low, high = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2])
    return Interval((gained - lost) / images, float(low), float(high), level, resamples, images)


def cautions(names: Sequence[str], counts: ClassificationCounts) -> Iterator[str]:
    """What a reader of the scores has to know: names of several classes, ties, empty classes."""
    if twice := duplicate_names(names):
        told = ", ".join(f"{name} {ids}" for name, ids in sorted(twice.items()))
        yield f"names given to more than one class, of which only the lowest can win: {told}"
    if counts.ties:
        yield (
            f"{counts.ties} of {counts.images} images have more than one best class; "
            f"{counts.ties_lost} are wrong only because the lowest of them wins"
        )
    if absent := int((counts.total == 0).sum()):
        yield f"{absent} of {len(counts.total)} classes have no image"
