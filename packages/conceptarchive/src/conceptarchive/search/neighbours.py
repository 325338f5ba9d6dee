"""Nearest images, exactly: blockwise products, candidates by threads, ties by row."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import Rows
from conceptarchive.search.candidates import NO_ROW, Candidates, Side, scan_rows
from conceptarchive.search.exact import ROUNDING, rescore, search_again, unsure
from conceptarchive.search.products import (
    SLACK,
    Multiplier,
    Precision,
    blocks,
    check_rows,
    operand,
    rows_in_memory,
    share,
)

__all__ = ["NO_ROW", "IntArray", "Neighbours", "RowArray", "nearest", "self_rows"]

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

ANCHOR_BLOCK = 1024
POOL_BLOCK = 2048


class Neighbours(NamedTuple):
    """The R reference images of every anchor, nearest first.

    Attributes:
        indices: (n, R) int64 rows of the pool; -1 where the pool had no more.
        similarity: (n, R) float32 cosine; -inf where there is no row.
    """

    indices: IntArray
    similarity: FloatArray


def self_rows(anchor_ids: npt.ArrayLike, pool_ids: npt.ArrayLike) -> IntArray:
    """Row of the pool that is the anchor itself, by id.

    Args:
        anchor_ids: (n,) ids.
        pool_ids: (m,) distinct ids.

    Returns:
        (n,) int64, -1 where the pool does not hold the anchor.
    """
    anchors, pool = np.asarray(anchor_ids, dtype=np.str_), np.asarray(pool_ids, dtype=np.str_)
    if len(pool) == 0:
        return np.full(len(anchors), NO_ROW, np.int64)
    order = np.argsort(pool, kind="stable")  # (m,)
    place = np.searchsorted(pool, anchors, sorter=order).clip(max=len(pool) - 1)
    row = order[place]  # (n,)
    return np.where(pool[row] == anchors, row, NO_ROW).astype(np.int64)


def nearest(
    anchors: Rows,
    pool: Rows,
    *,
    count: int,
    drop: IntArray | None = None,
    device: str = "cpu",
    precision: Precision = "float32",
    anchor_block: int = ANCHOR_BLOCK,
    pool_block: int = POOL_BLOCK,
) -> Neighbours:
    """Find the `count` pool rows of highest cosine to every anchor, exactly.

    A matrix product proposes candidates; their cosines are then summed in float64 and rounded to
    float32, so that values depend on the two rows alone, and a tie goes to the lowest row.

    In float32 (and on a GPU in float16, if the rows are stored so: their products are summed in
    float32 all the same) a row is searched again wherever the rounding of products might have
    hidden one of the `count`, so that order and ties too depend on the rows alone and not on how
    the work was cut into blocks or threads. bfloat16 trusts `SLACK` more candidates instead: twice
    as fast where the processor multiplies it, with a recall of about 0.9999.

    The pool is read once for as many anchors as fit into memory (`products.MEMORY`) and may be
    larger than memory itself; n x m products are never stored.

    Args:
        anchors: (n, D) unit rows, float16 or float32.
        pool: (m, D) unit rows.
        count: rows wanted, >= 1; a smaller pool leaves the last places empty.
        drop: (n,) the pool row that each anchor may not get (itself, see `self_rows`), -1 for none.
        device: where products are computed.
        precision: what products are computed in; float16 needs a GPU.
        anchor_block: anchors in a product.
        pool_block: pool rows in a product.

    Raises:
        ValueError: `count` is below 1, widths differ, or the device cannot do the precision.
    """
    skip = check_search(anchors, pool, count, drop)
    if torch.device(device).type != "cpu":
        from conceptarchive.search.device_search import DeviceSearch

        searched = DeviceSearch(pool, count, torch.device(device), precision).nearest(anchors, skip)
        return Neighbours(searched.rows, searched.values)
    check_cpu(precision)
    search = _Search(pool, count, precision, (anchor_block, pool_block))
    size = rows_in_memory(pool.shape[1], search.width)
    found = [search.part(anchors[a:b], skip[a:b]) for a, b in blocks(0, len(anchors), size)]
    if not found:
        found = [Candidates.empty(0, count)]
    return Neighbours(
        np.concatenate([part.rows for part in found]),
        np.concatenate([part.values for part in found]),
    )


def check_search(anchors: Rows, pool: Rows, count: int, drop: IntArray | None) -> IntArray:
    """Check what every search is given, and make of `drop` an array.

    Raises:
        ValueError: `count` is below 1, or shapes disagree.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    check_rows(anchors, pool)
    if drop is None:
        return np.full(len(anchors), NO_ROW, np.int64)
    if np.shape(drop) != (len(anchors),):
        raise ValueError(f"drop must have shape ({len(anchors)},), got {np.shape(drop)}")
    return np.ascontiguousarray(drop, dtype=np.int64)


def check_cpu(precision: Precision) -> None:
    """float16 products are only for a GPU.

    Raises:
        ValueError: `precision` is not one that a CPU multiplies.
    """
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision on a CPU is 'float32' or 'bfloat16', got {precision!r}")


class _Search:
    """Exact search of one pool on the CPU."""

    def __init__(
        self, pool: Rows, count: int, precision: Precision, sizes: tuple[int, int]
    ) -> None:
        self.pool, self.count, self.precision = pool, count, precision
        self.anchor_block, self.pool_block = sizes
        self.width = min(count + SLACK[precision], max(count, len(pool)))

    def part(self, anchors: RowArray, drop: IntArray) -> Candidates:
        """Nearest rows of as many anchors as fit into memory, (n, R) each."""
        found = self._propose(anchors, drop)
        return settle(
            anchors,
            self.pool,
            found,
            drop=drop,
            count=self.count,
            block=self.pool_block if self.precision == "float32" else None,
        )

    def _propose(self, anchors: RowArray, drop: IntArray) -> Candidates:
        """The best `width` rows by rounded products."""
        lines = operand(anchors, self.precision)  # (n, D)
        kept = Candidates.empty(len(anchors), self.width)
        own: dict[int, tuple[Multiplier, Candidates]] = {}
        size = min(self.anchor_block, len(anchors)) * min(self.pool_block, len(self.pool))

        def work(number: int, part: tuple[int, int]) -> None:
            if number not in own:
                own[number] = (Multiplier(size, self.precision), Candidates.empty(*kept.rows.shape))
            multiply, mine = own[number]
            columns = operand(self.pool[slice(*part)], self.precision)
            for at, end in blocks(0, len(anchors), self.anchor_block):
                products = multiply(lines[at:end], columns)
                scan_rows(products, Side(at, drop[at:end], *mine.part(at, end)), part[0])

        share(blocks(0, len(self.pool), self.pool_block), work)
        for _, mine in own.values():
            kept.merge(mine)
        return kept


def settle(
    anchors: Rows,
    pool: Rows,
    found: Candidates,
    *,
    drop: IntArray,
    count: int,
    block: int | None,
) -> Candidates:
    """Order candidates exactly; with a `block`, search again where they may not be enough.

    Let v be the `count`-th rounded product of a row. Its `count` best candidates have exact
    cosines of at least v - ROUNDING, so that what belongs among the `count` has a rounded product
    of at least v - 2 ROUNDING. If the last candidate lies below that, all such rows are candidates.

    Args:
        anchors: (n, D) rows.
        pool: (m, D) rows.
        found: (n, K) candidates by rounded products.
        drop: (n,) pool row that each may not get, -1 for none.
        count: rows to keep.
        block: rows in a product of the second search; None to trust the candidates.
    """
    settled = rescore(anchors, pool, found.rows, count)
    doubt = unsure(found, count) if block else np.empty(0, np.int64)
    if block and len(doubt):
        below = np.float32(3 * ROUNDING)  # a little more than 2: edges themselves are rounded
        edges = found.values[doubt, count - 1] - below
        again = search_again(
            anchors[doubt], pool, drop=drop[doubt], edges=edges, count=count, block=block
        )
        settled.values[doubt], settled.rows[doubt] = again.values, again.rows
    return settled
