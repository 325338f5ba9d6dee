"""Drawing L concepts of an image: top, naive and cluster-guided sampling."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from conceptarchive.parallel import in_blocks, kernel, kernel_input

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Stream = npt.NDArray[np.uint64]
"""(1,) state of a stream of random numbers."""
Left = tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]
"""Places still to draw from, and their weights."""
Method = Literal["cluster", "naive", "top"]

BLOCK = 65_536  # pairs drawn for by one thread at a time
TOP, NAIVE, CLUSTER = 0, 1, 2
CODES = {"top": TOP, "naive": NAIVE, "cluster": CLUSTER}
FINE = -1  # no pair is at fault
UNDERFLOW = 1e-280  # a softmax with less than this in all is taken again from its peak

WORD = 0xFFFFFFFFFFFFFFFF
STREAM = np.uint64(0x636F6E6365707473)  # these streams, apart from others of the same seed
GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def draw_batch(  # noqa: PLR0913  (the four columns of an archive, then settings)
    method: Method,
    offsets: IntArray,
    scores: FloatArray,
    clusters: npt.NDArray[np.uint8],
    key_hashes: npt.NDArray[np.uint64],
    *,
    count: int,
    seed: int,
    epoch: int,
    temperature: float,
) -> npt.NDArray[np.int32]:
    """Draw distinct concepts of n pairs.

    Each pair has a stream of random numbers of its own, named by (seed, epoch, key hash): one pair
    drawn alone and among millions gives the same, and work can be split, resumed or reordered.

        top       the first `count`: what the released code trains with
        naive     one after the other, each with probability softmax(score / temperature) among
                  those that are left
        cluster   cluster-guided sampling (CoCu, arXiv:2309.13505, sec. 3.3): one concept from each
                  cluster, with probability softmax(score / temperature) inside it. Of more
                  clusters than `count`, `count` are drawn without replacement by the softmax of
                  their mean score; with fewer, the rest is drawn naively from what is left. A
                  pair with no more than `count` concepts gives all, in their order.

    Args:
        method: see above.
        offsets: (n + 1,) concepts of pair i are at `offsets[i]:offsets[i + 1]`.
        scores: (c,) best first within a pair.
        clusters: (c,) cluster of each.
        key_hashes: (n,) 64-bit hash of each pair's key.
        count: concepts wanted of each pair.
        seed: of the run.
        epoch: of the run.
        temperature: > 0; smaller prefers better scores.

    Returns:
        (n, count) places within each pair's concepts, in the order drawn; -1 where it has fewer.

    Raises:
        ValueError: an unknown method, a setting out of range, or shapes that do not fit.
    """
    if method not in CODES or count < 1 or not temperature > 0:
        raise ValueError(
            f"needs method in {sorted(CODES)}, count >= 1 and temperature > 0, got "
            f"{method!r}, {count} and {temperature}"
        )
    if len(offsets) != len(key_hashes) + 1 or len(scores) != len(clusters):
        raise ValueError(
            f"needs n + 1 offsets, n hashes, c scores, c clusters, got {len(offsets)}, "
            f"{len(key_hashes)}, {len(scores)}, {len(clusters)}"
        )
    ends, hashes = kernel_input(offsets, np.int64), kernel_input(key_hashes, np.uint64)
    columns = kernel_input(scores, np.float32), kernel_input(clusters, np.uint8)
    run = np.uint64(seed & WORD), np.uint64(epoch & WORD)
    out = np.full((len(hashes), count), -1, np.int32)  # (n, count)

    def draw(rows: slice) -> None:
        part = ends[rows.start : rows.stop + 1]
        bad = _draw_pairs(
            CODES[method], part, *columns, hashes[rows], run, float(temperature), out[rows]
        )
        if bad != FINE:
            raise ValueError(f"offsets of pair {rows.start + bad} are not within the concepts")

    in_blocks(draw, len(hashes), BLOCK)
    return out


@kernel
def _draw_pairs(
    method: int,
    offsets: IntArray,
    scores: FloatArray,
    clusters: npt.NDArray[np.uint8],
    hashes: npt.NDArray[np.uint64],
    run: tuple[np.uint64, np.uint64],
    temperature: float,
    out: npt.NDArray[np.int32],
) -> int:
    """Draw for n pairs into `out`; return the first pair with bad offsets, or FINE."""
    most = 1
    for pair in range(len(hashes)):
        if not 0 <= offsets[pair] <= offsets[pair + 1] <= len(scores):
            return pair
        most = max(most, offsets[pair + 1] - offsets[pair])
    start = _mix(_mix(run[0] + STREAM) + run[1])
    stream = np.empty(1, np.uint64)
    left = np.empty(most, np.int32), np.empty(most)  # places still to draw, their weights
    for pair in range(len(hashes)):
        stream[0] = _mix(start ^ hashes[pair])
        of_pair = slice(offsets[pair], offsets[pair + 1])
        values, drawn = scores[of_pair], out[pair]
        size = min(len(values), len(drawn))
        if method == TOP or (method == CLUSTER and size == len(values)):
            for at in range(size):
                drawn[at] = at
            continue
        done = 0
        if method == CLUSTER:
            done = _draw_clusters(values, clusters[of_pair], temperature, stream, left, drawn)
        if done < size:
            _draw_rest(values, done, temperature, stream, left, drawn[:size])
    return FINE


@kernel
def _draw_clusters(
    values: FloatArray,
    clusters: npt.NDArray[np.uint8],
    temperature: float,
    stream: Stream,
    left: Left,
    drawn: npt.NDArray[np.int32],
) -> int:
    """Draw one place of each cluster, of as many as fit into `drawn`; return how many."""
    numbers = 1 + int(clusters.max())
    sizes, means = np.zeros(numbers, np.int32), np.zeros(numbers, np.float32)
    for place in range(len(values)):
        sizes[clusters[place]] += 1
        means[clusters[place]] += values[place]
    places = left[0]
    groups = 0
    for cluster in range(numbers):
        if sizes[cluster] > 0:
            means[cluster] /= sizes[cluster]
            places[groups] = cluster
            groups += 1
    done = min(groups, len(drawn))
    if groups == done:
        for at in range(done):
            drawn[at] = places[at]
    else:
        _softmax(means, groups, temperature, left)
        for at in range(done):
            drawn[at] = _take(means, groups - at, temperature, stream, left)
    for at in range(done):  # the cluster gives way to one of its places
        size = 0
        for place in range(len(values)):
            if clusters[place] == drawn[at]:
                places[size] = place
                size += 1
        _softmax(values, size, temperature, left)
        drawn[at] = _take(values, size, temperature, stream, left)
    return done


@kernel
def _draw_rest(
    values: FloatArray,
    done: int,
    temperature: float,
    stream: Stream,
    left: Left,
    drawn: npt.NDArray[np.int32],
) -> None:
    """Draw `drawn[done:]` naively from the places that are not in `drawn[:done]`."""
    size = 0
    for place in range(len(values)):
        fresh = True
        for at in range(done):
            fresh &= drawn[at] != place
        if fresh:
            left[0][size] = place
            size += 1
    _softmax(values, size, temperature, left)
    for at in range(done, len(drawn)):
        drawn[at] = _take(values, size, temperature, stream, left)
        size -= 1


@kernel
def _softmax(values: FloatArray, size: int, temperature: float, left: Left) -> None:
    """Weigh the first `size` places by exp((value - peak) / temperature)."""
    places, weights = left
    peak = -np.inf
    for at in range(size):
        peak = max(peak, values[places[at]])
    for at in range(size):
        weights[at] = np.exp((values[places[at]] - peak) / temperature)


@kernel
def _take(values: FloatArray, size: int, temperature: float, stream: Stream, left: Left) -> int:
    """Draw one of the first `size` places by weight; the last of them takes its seat."""
    places, weights = left
    if _total(left, size) < UNDERFLOW:  # all that weighed something is gone
        _softmax(values, size, temperature, left)
    target = _uniform(stream) * _total(left, size)
    at = 0
    while at < size - 1 and target >= weights[at]:  # the last place takes rounding
        target -= weights[at]
        at += 1
    drawn = int(places[at])
    places[at], weights[at] = places[size - 1], weights[size - 1]
    return drawn


@kernel
def _total(left: Left, size: int) -> float:
    """Sum of the first `size` weights."""
    total = 0.0
    for at in range(size):
        total += left[1][at]
    return total


@kernel
def _uniform(stream: Stream) -> float:
    """The stream's next number in [0, 1), of 53 bits."""
    stream[0] += GAMMA
    return float(_mix(stream[0]) >> np.uint64(11)) / (1 << 53)


@kernel
def _mix(word: np.uint64) -> np.uint64:
    """Scramble 64 bits (splitmix64's finaliser): every bit out hangs on every bit in."""
    word = (word ^ (word >> np.uint64(30))) * FIRST
    word = (word ^ (word >> np.uint64(27))) * SECOND
    return word ^ (word >> np.uint64(31))
