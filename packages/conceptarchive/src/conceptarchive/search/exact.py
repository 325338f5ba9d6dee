"""Exact order among candidates: cosines that depend on two rows alone."""

import numpy as np
import numpy.typing as npt

from conceptarchive.features.rows import Rows
from conceptarchive.search.candidates import NO_ROW, Candidates, Side, scan_exact, score
from conceptarchive.search.products import (
    Multiplier,
    blocks,
    operand,
    rows_in_memory,
    share,
    single,
)

IntArray = npt.NDArray[np.int64]

GATHER_BYTES = 1 << 26  # of candidate rows that a thread gathers at a time
ROUNDING = 1e-5  # bound on the error of a float32 product of unit rows, with a wide margin


def rescore(anchors: Rows, pool: Rows, rows: IntArray, count: int) -> Candidates:
    """Keep the best `count` of K candidates by float64 sums rounded to float32, then by row.

    Args:
        anchors: (n, D).
        pool: (m, D); each thread reads the rows it needs once per chunk, in ascending order.
        rows: (n, K) candidates, -1 for none.
        count: how many to keep.

    Returns:
        (n, count) exact values and rows.
    """
    kept = Candidates.empty(len(rows), count)
    size = max(1, GATHER_BYTES // max(1, 4 * pool.shape[1] * rows.shape[1]))
    in_place = isinstance(pool, np.ndarray) and pool.dtype == np.float32
    if len(pool) == 0:
        return kept

    def work(_: int, part: tuple[int, int]) -> None:
        wanted, (values, found) = rows[slice(*part)], kept.part(*part)
        if in_place:
            gathered, places = single(pool[:]), wanted
        else:
            unique, places = np.unique(wanted, return_inverse=True)
            gathered = single(pool[unique.clip(min=0)])  # (U, D)
        left = single(anchors[slice(*part)])
        score(left, gathered, places.reshape(wanted.shape), wanted, values, found)

    share(blocks(0, len(rows), size), work)
    return kept


def unsure(found: Candidates, count: int) -> IntArray:
    """Rows whose last candidate is so near the `count`-th that others may belong before it."""
    if found.rows.shape[1] <= count:
        return np.empty(0, np.int64)
    near = found.values[:, -1] >= found.values[:, count - 1] - 2 * ROUNDING
    return np.flatnonzero(near & (found.rows[:, -1] != NO_ROW))


def search_again(
    anchors: Rows,
    pool: Rows,
    *,
    drop: IntArray,
    edges: npt.NDArray[np.float32],
    count: int,
    block: int,
) -> Candidates:
    """The best `count` rows of every anchor, scoring exactly whatever comes near.

    Takes no memory for ties, however many there are: exact duplicates in the thousands cost one
    float64 sum each.

    Args:
        anchors: (n, D) the few rows in doubt.
        pool: (m, D), read once per pass.
        drop: (n,) pool row that each may not get, -1 for none.
        edges: (n,) rounded products at or below which no row belongs.
        count: rows wanted.
        block: rows of either side in a product.
    """
    kept = Candidates.empty(len(anchors), count)
    for start, stop in blocks(0, len(anchors), rows_in_memory(pool.shape[1], count)):
        left = single(anchors[start:stop])
        part, skip, edge = kept.part(start, stop), drop[start:stop], edges[start:stop]
        _scan_pool(left, pool, skip, edge, part, block)
    return kept


def _scan_pool(
    left: npt.NDArray[np.float32],
    pool: Rows,
    drop: IntArray,
    edges: npt.NDArray[np.float32],
    kept: Candidates,
    block: int,
) -> None:
    """One pass over the pool."""
    lines = operand(left, "float32")
    own: dict[int, tuple[Multiplier, Candidates]] = {}

    def work(number: int, part: tuple[int, int]) -> None:
        if number not in own:
            size = min(block, len(left)) * min(block, len(pool))
            own[number] = (Multiplier(size, "float32"), Candidates.empty(*kept.rows.shape))
        multiply, mine = own[number]
        right = single(pool[slice(*part)])
        columns = operand(right, "float32")
        for at, end in blocks(0, len(left), block):
            products = multiply(lines[at:end], columns)
            side = Side(at, drop[at:end], *mine.part(at, end))
            scan_exact(products, side, part[0], left[at:end], right, edges[at:end])

    share(blocks(0, len(pool), block), work)
    for _, mine in own.values():
        kept.merge(mine)
