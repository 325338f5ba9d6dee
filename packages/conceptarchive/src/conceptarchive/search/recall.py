"""Recall of an index against exact search, and how many lists it takes to reach one."""

import logging
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from conceptarchive.features.rows import Rows
from conceptarchive.search.centroids import stream
from conceptarchive.search.neighbours import NO_ROW, IntArray, Neighbours, nearest

log = logging.getLogger(__name__)

Z95 = 1.959964  # of a 95 % interval
MAX_CANDIDATES = 2048  # the most that faiss keeps on a GPU
MAX_EXPLORED = 4096  # candidates that an HNSW search explores
MAX_GPU_PROBES = 2048  # of faiss on a GPU


@dataclass(frozen=True)
class Settings:
    """What trades an index's speed for its recall."""

    probes: int
    """Lists read for an anchor (HNSW: candidates explored)."""

    refine: int
    """Candidates scored exactly for every reference image wanted."""


@dataclass(frozen=True)
class Recall:
    """Share of the true reference images that an index finds."""

    value: float
    """In [0, 1]; an equally near row counts as found."""

    low: float
    """Lower end of the 95 % interval."""

    high: float
    """Upper end."""

    queries: int
    """Anchors that it was measured on."""

    at: int
    """Reference images R wanted for each."""


class Searchable(Protocol):
    """An index whose settings can be changed."""

    settings: Settings
    lists: int
    device: str

    def search(self, anchors: Rows, *, count: int, drop: IntArray | None = None) -> Neighbours:
        """The nearest rows, approximately."""
        ...


@dataclass(frozen=True)
class _Exam:
    """Anchors and their true reference images."""

    anchors: Rows
    drop: IntArray
    truth: Neighbours

    def part(self, rows: slice) -> "_Exam":
        """Some of the anchors."""
        truth = Neighbours(self.truth.indices[rows], self.truth.similarity[rows])
        return _Exam(self.anchors[rows], self.drop[rows], truth)

    def grade(self, index: Searchable) -> Recall:
        """Recall of an index with its present settings."""
        count = self.truth.indices.shape[1]
        found = index.search(self.anchors, count=count, drop=self.drop)
        return compare(found, self.truth)


def compare(found: Neighbours, truth: Neighbours) -> Recall:
    """Recall of what was found, both with exact similarities.

    A row as near as the last true one is as good as that: exact duplicates are interchangeable.
    The interval is Wilson's, with anchors for draws, which is on the wide side: one anchor is R
    draws that are not quite independent.

    Args:
        found: (n, R) reference images.
        truth: (n, R) those of exact search.
    """
    known = truth.indices != NO_ROW  # (n, R)
    last = np.where(known, truth.similarity, np.inf).min(axis=1, initial=np.inf)  # (n,)
    hits = (found.indices != NO_ROW) & (found.similarity >= last[:, None])  # (n, R)
    total, n = int(known.sum()), len(known)
    value = float(hits.sum()) / total if total else 1.0
    low, high = _wilson(value, n)
    return Recall(value, low, high, n, truth.indices.shape[1])


def _wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if n == 0:
        return 0.0, 1.0
    scale = 1 + Z95**2 / n
    middle = (value + Z95**2 / (2 * n)) / scale
    reach = Z95 / scale * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n * n))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def measure_recall(
    index: Searchable,
    anchors: Rows,
    pool: Rows,
    *,
    count: int,
    queries: int = 1000,
    seed: int,
    drop: IntArray | None = None,
    device: str = "cpu",
) -> Recall:
    """Recall at `count` on some anchors, against exact search.

    Args:
        index: with the settings to be measured.
        anchors: (n, D) rows, of which distinct ones are drawn.
        pool: (m, D) the rows that the index was built of.
        count: reference images R wanted.
        queries: anchors to draw; all, where there are no more.
        seed: of the draw.
        drop: (n,) pool row that each anchor may not get, -1 for none.
        device: where exact products are computed.
    """
    exam = _set_exam(anchors, pool, count, drop, _draw(len(anchors), queries, seed), device)
    return exam.grade(index)


def tune_probes(  # noqa: PLR0913  (what is searched and how it is measured, all by name)
    index: Searchable,
    anchors: Rows,
    pool: Rows,
    *,
    count: int,
    queries: int = 1000,
    seed: int,
    target: float = 0.95,
    drop: IntArray | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Double probes, or candidates of compressed rows, until recall reaches the target.

    It is tuned on `queries` anchors and measured on as many others, so that the figure is not
    flattered by the choice. The index keeps the settings. Where the target cannot be reached they
    are the best found, the result says so, and a warning is logged.

    Args:
        index: starts from its present settings.
        anchors: (n, D) rows, of which distinct ones are drawn.
        pool: (m, D) the rows that the index was built of.
        count: reference images R wanted.
        queries: anchors of each of both draws; half of all, where there are too few.
        seed: of the draws.
        target: recall to reach.
        drop: (n,) pool row that each anchor may not get, -1 for none.
        device: where exact products are computed.

    Returns:
        probes, refine, recall (value, low, high, queries, at), target and is_reached.
    """
    drawn = _draw(len(anchors), 2 * queries, seed)
    exam = _set_exam(anchors, pool, count, drop, drawn, device)
    half = len(drawn) // 2
    _climb(index, exam.part(slice(half)), target, count)
    recall = exam.part(slice(half, None)).grade(index)
    is_reached = recall.high >= target
    if not is_reached:
        log.warning(
            "recall at %d is %.3f, below %.3f, even with %d probes and %d candidates an image; "
            "give the index more memory, or search exactly",
            count, recall.value, target, index.settings.probes, index.settings.refine,
        )  # fmt: skip
    notes = {"recall": asdict(recall), "target": target, "is_reached": is_reached}
    return asdict(index.settings) | notes


def _climb(index: Searchable, exam: _Exam, target: float, count: int) -> None:
    """Raise whichever setting gains more, until the target or the end of both."""
    best = exam.grade(index).value
    while best < target:
        trials: list[tuple[float, Settings]] = []
        for settings in _steps(index, count):
            before, index.settings = index.settings, settings
            trials.append((exam.grade(index).value, settings))
            index.settings = before
        if not trials:
            return
        value, settings = max(trials, key=lambda trial: trial[0])  # a tie: more probes
        log.info("recall at %d is %.3f with %s", count, value, settings)
        best, index.settings = value, settings


def _steps(index: Searchable, count: int) -> list[Settings]:
    """Settings with one of both doubled, within their limits."""
    now, steps = index.settings, []
    limit = index.lists or MAX_EXPLORED
    if index.device.startswith("cuda"):
        limit = min(limit, MAX_GPU_PROBES)
    if now.probes < limit:
        steps.append(replace(now, probes=min(2 * now.probes, limit)))
    if now.refine > 1 and 2 * now.refine * count < MAX_CANDIDATES:
        steps.append(replace(now, refine=2 * now.refine))
    return steps


def _draw(rows: int, count: int, seed: int) -> IntArray:
    """Distinct rows in random order: every part of them is a fair draw."""
    count = min(rows, count)
    random = stream(seed, "recall")
    if rows <= 4 * count:
        return random.permutation(rows)[:count]
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:  # few of many: repeats are rare
        more = np.concatenate([drawn, random.integers(0, rows, count, dtype=np.int64)])
        _, first = np.unique(more, return_index=True)
        drawn = more[np.sort(first)][:count]
    return drawn


def _set_exam(
    anchors: Rows, pool: Rows, count: int, drop: IntArray | None, drawn: IntArray, device: str
) -> _Exam:
    """Draw anchors and find their true reference images, in one pass over the pool."""
    rows = anchors[drawn]
    skip = np.full(len(drawn), NO_ROW, np.int64) if drop is None else drop[drawn]
    return _Exam(rows, skip, nearest(rows, pool, count=count, drop=skip, device=device))
