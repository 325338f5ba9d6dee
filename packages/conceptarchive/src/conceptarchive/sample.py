"""Drawing L concepts of an image: top, naive and cluster-guided sampling."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal

Method = Literal["cluster", "naive", "top"]

WORDS = 8  # uniform numbers a digest gives


def rng(*name: object) -> Iterator[float]:
    """A named stream of uniform numbers in [0, 1), equal on every machine.

    Streams of different names are independent, so that work can be split, resumed or reordered.

    Args:
        name: anything with a stable `str`, as in `rng(seed, epoch, key)`.
    """
    start = hashlib.blake2b("\0".join(map(str, name)).encode())
    block = 0
    while True:
        state = start.copy()
        state.update(block.to_bytes(8, "little"))
        number = int.from_bytes(state.digest(), "little")
        for _ in range(WORDS):
            yield (number & 0x1FFFFFFFFFFFFF) / 0x20000000000000  # 53 bits
            number >>= 64
        block += 1


def draw_top(scores: Sequence[float], count: int) -> list[int]:
    """The first `count` places: what the released code trains with.

    Args:
        scores: of one image's concepts, best first.
        count: at most this many.
    """
    return list(range(min(count, len(scores))))


def draw_naive(
    scores: Sequence[float], count: int, stream: Iterator[float], *, temperature: float = 1.0
) -> list[int]:
    """Draw distinct places, each time with probability softmax(score / temperature).

    Args:
        scores: of one image's concepts.
        count: at most this many.
        stream: uniform numbers, see `rng`.
        temperature: > 0; smaller prefers better scores.

    Returns:
        Places in the order drawn.
    """
    return _draw(list(range(len(scores))), scores, count, stream, temperature)


def draw_cluster_guided(
    scores: Sequence[float],
    clusters: Sequence[int],
    count: int,
    stream: Iterator[float],
    *,
    temperature: float = 1.0,
) -> list[int]:
    """Draw distinct places from different clusters.

    Cluster-guided sampling (CoCu, arXiv:2309.13505, sec. 3.3): one concept from each cluster, with
    probability softmax(score / temperature) inside it. Of more clusters than `count`, `count` are
    drawn without replacement by the softmax of their mean score; with fewer, the rest is drawn
    naively from what is left. An image with no more than `count` concepts gives all.

    Args:
        scores: of one image's concepts.
        clusters: cluster of each.
        count: at most this many.
        stream: uniform numbers, see `rng`.
        temperature: > 0.
    """
    if len(scores) <= count:
        return list(range(len(scores)))
    places: dict[int, list[int]] = {}
    for place, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(place)
    groups = list(places.values())
    if len(groups) > count:
        means = [sum([scores[place] for place in group]) / len(group) for group in groups]
        chosen = _draw(list(range(len(groups))), means, count, stream, temperature)
        groups = [groups[at] for at in chosen]
    drawn = [_draw(group, scores, 1, stream, temperature)[0] for group in groups]
    if len(drawn) < count:
        rest = [place for place in range(len(scores)) if place not in drawn]
        drawn += _draw(rest, scores, count - len(drawn), stream, temperature)
    return drawn


def _draw(
    places: list[int],
    scores: Sequence[float],
    count: int,
    stream: Iterator[float],
    temperature: float,
) -> list[int]:
    """Draw distinct members of `places` one after the other by softmax(score / temperature)."""
    if not places:
        return []
    if len(places) == 1:
        return places
    peak = max([scores[place] for place in places])
    exp = math.exp
    weights = [exp((scores[place] - peak) / temperature) for place in places]
    left, drawn = list(places), []
    for _ in range(min(count, len(places))):
        target = next(stream) * sum(weights)
        at = 0
        for at, weight in enumerate(weights):  # noqa: B007  (the last place takes rounding)
            target -= weight
            if target < 0:
                break
        drawn.append(left.pop(at))
        weights.pop(at)
    return drawn
