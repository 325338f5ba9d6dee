"""Whether the difference between two runs is real."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segbench.errors import UsageError
from segbench.metrics.classification import share_difference
from segbench.metrics.confusion import AbsentRule, Areas
from segbench.metrics.interval import Interval, paired_difference
from segbench.results.any_report import AnyReport
from segbench.results.classification import ClassificationReport
from segbench.results.report import Report

_SEED = 0  # of the bootstrap: the same reports give the same interval


@dataclass(frozen=True, slots=True)
class Comparison:
    """The second of two runs of a task against the first."""

    task: str
    first: str
    second: str
    difference: Interval
    """Score of the second - score of the first, paired over the images that both scored."""
    per_class: tuple[tuple[str, float], ...]
    """(class name, gain of its IoU or recall) over those images, largest gain first."""
    score: str = "mIoU"
    """What is compared: mIoU, or acc1 of runs that classify."""

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.difference.low > 0 or self.difference.high < 0

    def summary(self) -> str:
        """A few lines for a terminal."""
        gap = self.difference
        verdict = "real" if self.is_real else "not told apart from chance"
        lines = [
            f"{self.task}: {self.second} - {self.first} = {100 * gap.point:+.2f} {self.score} "
            f"[{100 * gap.low:+.2f}, {100 * gap.high:+.2f}] over {gap.images} images: {verdict}"
        ]
        shown = self.per_class if len(self.per_class) <= 10 else _ends(self.per_class)
        return "\n".join([*lines, *(f"  {name}: {100 * gain:+.2f}" for name, gain in shown)])


def _ends(rows: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    return rows[:5] + rows[-5:]


def compare(first: AnyReport, second: AnyReport) -> Comparison:
    """Tell whether the second run is better than the first.

    Raises:
        UsageError: the runs were made under different protocols or with other labels, or share no
            image; a difference between such runs says nothing about the models.
    """
    if first.task["hash"] != second.task["hash"]:
        raise UsageError(
            f"runs differ in their protocol: {first.task['id']} {first.task['hash'][:12]} "
            f"and {second.task['id']} {second.task['hash'][:12]}"
        )
    if first.names != second.names:
        raise UsageError("runs differ in their class names")
    if isinstance(first, Report) and isinstance(second, Report):
        return _compare_maps(first, second)
    assert isinstance(first, ClassificationReport)  # hashes of the two kinds of tasks differ
    assert isinstance(second, ClassificationReport)
    return _compare_answers(first, second)


def _compare_maps(first: Report, second: Report) -> Comparison:
    both = _shared(first.per_image.ids, second.per_image.ids)
    same = np.array_equal(first.per_image.select(both).gt, second.per_image.select(both).gt)
    _check_labels(same)
    difference = paired_difference(
        first.per_image, second.per_image, rng=np.random.default_rng(_SEED), rule=_rule(first)
    )
    return Comparison(
        task=first.task["id"],
        first=first.model["name"],
        second=second.model["name"],
        difference=difference,
        per_class=_gains(first, second, both),
    )


def _compare_answers(first: ClassificationReport, second: ClassificationReport) -> Comparison:
    both = _shared(first.answers.ids, second.answers.ids)
    (labels, right), (other, right2) = (each.answers.select(both) for each in (first, second))
    _check_labels(np.array_equal(labels, other))
    total = np.bincount(labels, minlength=len(first.names))  # (K,)
    gains = np.zeros(len(first.names), np.int64)  # (K,) images won less those lost
    np.add.at(gains, labels, right2.astype(np.int64) - right)
    rows = zip(first.names, gains, total, strict=True)
    known = [(name, float(gain / images)) for name, gain, images in rows if images]
    return Comparison(
        task=first.task["id"],
        first=first.model["name"],
        second=second.model["name"],
        difference=share_difference(right, right2, rng=np.random.default_rng(_SEED)),
        per_class=tuple(sorted(known, key=lambda pair: -pair[1])),
        score="acc1",
    )


def _shared(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """Ids of the images that both runs scored, sorted."""
    both = sorted(set(first) & set(second))
    if not both:
        raise UsageError("runs share no image")
    return both


def _check_labels(same: bool) -> None:
    if not same:
        raise UsageError("runs were scored against different labels")


def _rule(report: Report) -> AbsentRule:
    rule: AbsentRule = report.task["absent"]
    return rule


def _gains(first: Report, second: Report, ids: Sequence[str]) -> tuple[tuple[str, float], ...]:
    runs = (first.per_image.select(ids), second.per_image.select(ids))
    ious = [Areas(*(area.sum(axis=0) for area in run)).ious() for run in runs]  # (K,) each
    gains = zip(first.names, ious[1] - ious[0], strict=True)
    known = [(name, float(gain)) for name, gain in gains if not np.isnan(gain)]
    return tuple(sorted(known, key=lambda pair: -pair[1]))
