"""Mask classification accuracy: is a region named right, wherever its borders are drawn?"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segbench.metrics.boundary import BoolArray
from segbench.metrics.confusion import FloatArray, IntArray, LabelMap, check_label_maps

RegionKind = Literal["class", "component", "given"]
"""class: all pixels of a class in an image; component: one 8-connected part of them; given: a mask
that comes with its class."""
Decision = Literal["vote", "pool"]
"""vote: the most frequent predicted label inside; pool: the highest class score averaged inside."""
REGION_KINDS: tuple[RegionKind, ...] = get_args(RegionKind)
DECISIONS: tuple[Decision, ...] = get_args(Decision)
_REGION = {
    "class": "all scored pixels of a class in an image",
    "component": "an 8-connected part of a class in an image",
    "given": "a given mask without its ignored pixels",
}
_RULE = {"vote": "its most frequent label", "pool": "the one with the highest mean score in it"}
Scores: TypeAlias = Tensor | npt.NDArray[np.floating]
"""(K, H, W) finite class scores at the resolution of the labels, on any device."""


def connected_components(labels: npt.NDArray[np.integer]) -> IntArray:
    """Number the 8-connected parts of equal value of a label map.

    Rows are cut into runs of one value; runs that touch are merged by hooking the higher of two
    roots to the lower until no two touching runs have different roots.

    Args:
        labels: (H, W); every value is a class here, -1 too.

    Returns:
        (H, W) ids from 0 in the order in which the parts begin, row by row.
    """
    if labels.size == 0:
        return np.zeros(labels.shape, dtype=np.int64)
    begins = np.ones(labels.shape, dtype=np.bool_)  # (H, W), a run begins here
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = (np.cumsum(begins) - 1).reshape(labels.shape)  # (H, W)
    root = np.arange(runs[-1, -1] + 1)  # (runs,)
    first, second = _touching(labels, runs)  # (n,), (n,)
    while len(first):
        low = np.minimum(root[first], root[second])
        np.minimum.at(root, np.maximum(root[first], root[second]), low)
        while not np.array_equal(root, higher := root[root]):
            root = higher
        apart = root[first] != root[second]
        first, second = first[apart], second[apart]
    ids: IntArray = np.unique(root, return_inverse=True)[1][runs]
    return ids


def _touching(labels: npt.NDArray[np.integer], runs: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of runs of one value in neighbouring rows that touch by a side or a corner."""
    pairs = []
    width = labels.shape[1]
    for shift in (-1, 0, 1):  # column of the lower pixel minus column of the upper one
        upper = slice(max(0, -shift), width - max(0, shift))
        lower = slice(max(0, shift), width - max(0, -shift))
        same = labels[:-1, upper] == labels[1:, lower]
        pairs.append(np.stack([runs[:-1, upper][same], runs[1:, lower][same]]))
    first, second = np.concatenate(pairs, axis=1)  # (n,), (n,)
    return first, second


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """n regions of an image, each with its true class. Regions may overlap; none is empty."""

    kind: RegionKind
    shape: tuple[int, int]
    """(H, W) of the image."""
    classes: IntArray
    """(n,) true class of each region."""
    owner: IntArray
    """(m,) region of each entry, ascending."""
    pixel: IntArray
    """(m,) row-major pixel of each entry."""

    @classmethod
    def of_labels(
        cls, labels: LabelMap, classes: int, kind: Literal["class", "component"] = "class"
    ) -> "Regions":
        """Regions of a label map; ignored pixels belong to none.

        Args:
            labels: (H, W) integers in [-1, K), -1 is ignored.
            classes: K.
            kind: one region a class, or one for each of its 8-connected parts.

        Raises:
            ValueError: `labels` is no such map, or `kind` is another.
        """
        if kind not in ("class", "component"):
            raise ValueError(f"kind must be 'class' or 'component', got {kind!r}")
        truth, _ = check_label_maps(labels, np.zeros(tuple(labels.shape), np.int64), classes)
        pixel = np.flatnonzero(truth != -1)  # (m,)
        split = truth if kind == "class" else connected_components(truth)  # (H, W)
        _, start, owner = np.unique(
            split.reshape(-1)[pixel], return_index=True, return_inverse=True
        )
        order = np.argsort(owner, kind="stable")
        height, width = truth.shape
        true = truth.reshape(-1)[pixel[start]]  # (n,)
        return cls(kind, (height, width), true, owner[order], pixel[order])

    @classmethod
    def of_masks(
        cls, masks: Tensor | BoolArray, classes: Sequence[int], ignored: BoolArray | None = None
    ) -> "Regions":
        """Given masks; one that has only ignored pixels is left out.

        Args:
            masks: (n, H, W) bool.
            classes: n true classes.
            ignored: (H, W) bool, pixels that count for no mask; none when left out.

        Raises:
            ValueError: shapes or types are wrong, or a mask has no pixel at all.
        """
        given = masks.detach().cpu().numpy() if isinstance(masks, Tensor) else np.asarray(masks)
        if given.ndim != 3 or given.dtype != np.bool_ or len(given) != len(classes):
            raise ValueError(
                f"masks must be (n, H, W) bool with n classes, got {given.shape} {given.dtype} "
                f"and {len(classes)} classes"
            )
        n, height, width = given.shape
        empty = np.flatnonzero(~given.reshape(n, -1).any(axis=1))  # (masks without a pixel,)
        if len(empty):
            raise ValueError(f"mask {empty[0]} has no pixel")
        if ignored is not None:
            if ignored.shape != (height, width) or ignored.dtype != np.bool_:
                raise ValueError(f"ignored must be ({height}, {width}) bool, got {ignored.shape}")
            given = given & ~ignored
        left, owner = np.unique(np.nonzero(given)[0], return_inverse=True)
        pixel = np.nonzero(given.reshape(n, -1))[1]  # (m,)
        true = np.asarray(classes, dtype=np.int64)[left]  # (regions left,)
        return cls("given", (height, width), true, owner, pixel)


def vote(regions: Regions, prediction: LabelMap, classes: int) -> IntArray:
    """(n,) most frequent predicted label inside each region; a tie goes to the lowest label.

    Args:
        regions: n regions.
        prediction: (H, W) integers, in [0, K) inside the regions, anything elsewhere.
        classes: K.

    Raises:
        ValueError: `prediction` is of another shape, or has a value out of range.
    """
    inside = np.full(regions.shape, -1)  # (H, W), -1 where no region is
    inside.reshape(-1)[regions.pixel] = 0
    _, found = check_label_maps(inside, prediction, classes)
    n = len(regions.classes)
    keys = regions.owner * classes + found.reshape(-1)[regions.pixel]  # (m,)
    counts = np.bincount(keys, minlength=n * classes).reshape(n, classes)
    found_class: IntArray = counts.argmax(axis=1)
    return found_class


def pool(regions: Regions, scores: Scores) -> IntArray:
    """The class with the highest mean score inside each region; a tie goes to the lowest class.

    Args:
        regions: n regions.
        scores: (K, H, W), finite inside the regions.

    Returns:
        (n,) class ids; the sums are taken in float64.

    Raises:
        ValueError: `scores` is of another shape, or not finite inside a region.
    """
    if scores.ndim != 3 or tuple(scores.shape[1:]) != regions.shape or not len(scores):
        raise ValueError(f"scores must be (K, *{regions.shape}), got {tuple(scores.shape)}")
    found: IntArray = region_means(regions, scores).argmax(axis=0)
    return found


def region_means(regions: Regions, planes: Scores | Iterable[Scores]) -> FloatArray:
    """(K, n) float64 mean score of every class inside each region.

    Args:
        regions: n regions.
        planes: K of (H, W) scores, finite inside the regions; taken one at a time, so that they
            need not be held together.

    Raises:
        ValueError: a score inside a region is not finite.
    """
    n = len(regions.classes)
    sizes = np.bincount(regions.owner, minlength=n)  # (n,)
    sums = [np.bincount(regions.owner, _inside(regions, plane), minlength=n) for plane in planes]
    means: FloatArray = np.stack(sums) / sizes
    return means


def _inside(regions: Regions, plane: Scores) -> FloatArray:
    """(m,) float64 scores of one class, entry by entry."""
    on_cpu = plane.detach().cpu().to(torch.float64) if isinstance(plane, Tensor) else plane
    inside = np.asarray(on_cpu, dtype=np.float64).reshape(-1)[regions.pixel]
    if not np.isfinite(inside).all():
        raise ValueError("scores must be finite inside the regions")
    return inside


class MaskAccuracy:
    """Share of regions that are named right, from int64 counts.

    For every region the prediction gives one class, by `vote` or by `pool`; the region is right
    where that is its true class. It tells recognition from localisation: borders do not matter. The
    definition is segbench's own; print `definition` with the number.

    Args:
        classes: K.
        decision: how the pixels of a region decide.
        kind: which regions; they cannot be mixed.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, classes: int, *, decision: Decision = "vote", kind: RegionKind = "class"
    ) -> None:
        if classes < 1:
            raise ValueError(f"classes must be >= 1, got {classes}")
        if decision not in DECISIONS or kind not in REGION_KINDS:
            raise ValueError(
                f"decision must be one of {DECISIONS} and kind one of {REGION_KINDS}, "
                f"got {decision!r} and {kind!r}"
            )
        self.classes, self.decision, self.kind = classes, decision, kind
        self.right = np.zeros(classes, dtype=np.int64)  # (K,) regions named right, by true class
        self.total = np.zeros(classes, dtype=np.int64)  # (K,) regions, by true class

    @property
    def definition(self) -> str:
        """What the number means, in a line."""
        return f"share of regions ({_REGION[self.kind]}) whose class is {_RULE[self.decision]}"

    def update(self, regions: Regions, evidence: LabelMap | Scores) -> IntArray:
        """Add the regions of one image.

        Args:
            regions: of the kind that this counts.
            evidence: (H, W) predicted labels for `vote`, (K, H, W) scores for `pool`.

        Returns:
            (n,) the class that was found for each region.

        Raises:
            ValueError: another kind of region, a true class out of range, or see `vote`, `pool`.
        """
        if regions.kind != self.kind:
            raise ValueError(f"regions must be of kind {self.kind!r}, got {regions.kind!r}")
        true = regions.classes
        if len(true) and not 0 <= true.min() <= true.max() < self.classes:
            raise ValueError(
                f"true classes must be in [0, {self.classes}), got {true.min()} to {true.max()}"
            )
        if self.decision == "pool" and len(evidence) != self.classes:
            raise ValueError(f"scores must have {self.classes} classes, got {len(evidence)}")
        if self.decision == "vote":
            found = vote(regions, evidence, self.classes)  # type: ignore[arg-type]  # it checks
        else:
            found = pool(regions, evidence)  # type: ignore[arg-type]  # integers are scores too
        self.total += np.bincount(true, minlength=self.classes)
        self.right += np.bincount(true[found == true], minlength=self.classes)
        return found

    def __add__(self, other: Self) -> "MaskAccuracy":
        """Counts of both; the two are left as they are.

        Raises:
            ValueError: the two were counted in different ways.
        """
        ways = [(one.classes, one.decision, one.kind) for one in (self, other)]
        if ways[0] != ways[1]:
            raise ValueError(f"counts must share classes, decision and kind, got {ways}")
        both = MaskAccuracy(self.classes, decision=self.decision, kind=self.kind)
        both.right, both.total = self.right + other.right, self.total + other.total
        return both

    def accuracies(self) -> FloatArray:
        """(K,) share of the class's regions that are right, NaN for a class without any."""
        shares = np.full(self.classes, np.nan)
        np.divide(self.right, self.total, out=shares, where=self.total > 0)
        return shares

    def micro(self) -> float:
        """Share of all regions that are right; NaN without any."""
        total = int(self.total.sum())
        return int(self.right.sum()) / total if total else float("nan")

    def macro(self) -> float:
        """Mean of `accuracies` over the classes that have a region; NaN without any."""
        known = self.accuracies()[self.total > 0]
        return float(known.mean()) if len(known) else float("nan")
