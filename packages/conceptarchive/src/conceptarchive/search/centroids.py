"""Centres of the lists of an index: spherical k-means that comes out the same everywhere."""

import hashlib

import numpy as np
import numpy.typing as npt

from conceptarchive.features.npyfile import RowArray
from conceptarchive.parallel import kernel
from conceptarchive.search.neighbours import nearest

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

NUDGE = np.float32(1 / 1024)  # by which the two halves of a split list differ


def stream(seed: int, *names: object) -> np.random.Generator:
    """A stream of random numbers that belongs to a seed and a name."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *names))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def spread(rows: int, count: int, random: np.random.Generator) -> IntArray:
    """Distinct row numbers, ascending, one from each of `count` strips of equal length.

    Args:
        rows: n.
        count: at most n.
        random: stream of draws.

    Returns:
        (count,) row numbers; takes no memory for the others.
    """
    edges = np.arange(count + 1) * rows // count  # (count + 1,)
    return random.integers(edges[:-1], edges[1:], dtype=np.int64)


def find_centroids(
    sample: RowArray, lists: int, *, rounds: int, random: np.random.Generator, device: str = "cpu"
) -> FloatArray:
    """Cluster unit rows by cosine.

    Rows are assigned by exact search, ties to the first centre, and summed in order in float64:
    the result is a function of the arguments, whatever the threads, the blocks or the device.

    Args:
        sample: (n, D) unit rows.
        lists: centres K, at most n.
        rounds: assignments.
        random: stream that the first centres are drawn from.
        device: where products are computed.

    Returns:
        (K, D) float32 unit rows.
    """
    first = spread(len(sample), lists, random)
    centroids = np.asarray(sample[first], dtype=np.float32)  # (K, D)
    for _ in range(rounds):
        assigned = nearest(sample, centroids, count=1, device=device).indices[:, 0]  # (n,)
        centroids = _means(sample, assigned, centroids)
    return centroids


def _means(sample: RowArray, assigned: IntArray, before: FloatArray) -> FloatArray:
    """Directions of the sums of each list's rows; an empty list takes half of a full one."""
    sums = np.zeros(before.shape, np.float64)  # (K, D)
    for start in range(0, len(sample), 1 << 16):
        part = slice(start, start + (1 << 16))
        _add(sums, np.ascontiguousarray(sample[part], dtype=np.float32), assigned[part])
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)  # (K, 1)
    sizes = np.bincount(assigned, minlength=len(before))  # (K,)
    means = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), before)
    _split(means, sizes)
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


@kernel
def _add(sums: npt.NDArray[np.float64], rows: npt.NDArray[np.float32], assigned: IntArray) -> None:
    for n in range(len(rows)):
        total, row = sums[assigned[n]], rows[n]
        for d in range(len(row)):
            total[d] += row[d]


def _split(means: npt.NDArray[np.float64], sizes: IntArray) -> None:
    """Give every empty list one half of the fullest, in place."""
    nudge = np.where(np.arange(means.shape[1]) % 2, NUDGE, -NUDGE)  # (D,)
    sizes = sizes.copy()
    for empty in np.flatnonzero(sizes == 0):
        full = int(sizes.argmax())
        means[empty] = means[full] * (1 + nudge)
        means[full] *= 1 - nudge
        sizes[empty] = sizes[full] // 2
        sizes[full] -= sizes[empty]
