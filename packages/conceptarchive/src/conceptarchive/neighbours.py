"""Nearest images, exactly: blockwise products in torch, ties by row."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
RowArray = npt.NDArray[np.floating]

NO_ROW = -1  # fills the places that a small pool leaves empty
ANCHOR_BLOCK = 1024
POOL_BLOCK = 16384
RESCORE_BLOCK = 256  # anchors whose candidates are rescored at a time
SLACK = 8  # candidates kept beyond `count`, to be told apart exactly
ROUNDING = 1e-5  # bound on the error of a float32 product of unit rows, with a wide margin


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
    anchors: RowArray,
    pool: RowArray,
    *,
    count: int,
    drop: IntArray | None = None,
    device: str = "cpu",
    anchor_block: int = ANCHOR_BLOCK,
    pool_block: int = POOL_BLOCK,
) -> Neighbours:
    """Find the `count` pool rows of highest cosine to every anchor, exactly.

    A matrix product proposes candidates; their cosines are then summed in float64 and rounded to
    float32, so that order, ties and values depend on the two rows alone and not on how the work
    was cut into blocks. A tie goes to the lowest row.

    Args:
        anchors: (n, D) unit rows, float16 or float32.
        pool: (m, D) unit rows.
        count: rows wanted, >= 1; a smaller pool leaves the last places empty.
        drop: (n,) the pool row that each anchor may not get (itself, see `self_rows`), -1 for none.
        device: where products are computed.
        anchor_block: anchors in a product.
        pool_block: pool rows in a product.

    Raises:
        ValueError: `count` is below 1, or widths differ.
    """
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    if anchors.ndim != 2 or pool.ndim != 2 or anchors.shape[1] != pool.shape[1]:
        raise ValueError(f"rows must be of one width, got {anchors.shape} and {pool.shape}")
    skip = np.full(len(anchors), NO_ROW, np.int64) if drop is None else drop  # (n,)
    search = _Search(pool, count, torch.device(device), pool_block)
    blocks = [
        search.block(anchors[at : at + anchor_block], skip[at : at + anchor_block])
        for at in range(0, len(anchors), anchor_block)
    ]
    if not blocks:
        return Neighbours(np.empty((0, count), np.int64), np.empty((0, count), np.float32))
    return Neighbours(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


class _Search:
    """Exact search of one pool."""

    def __init__(self, pool: RowArray, count: int, device: torch.device, pool_block: int) -> None:
        self.pool, self.count, self.device = pool, count, device
        self.starts = range(0, len(pool), pool_block)
        self.pool_block = pool_block

    def block(self, anchors: RowArray, drop: IntArray) -> Neighbours:
        """Nearest rows of one block of anchors, (B, R) each."""
        rows = _to_tensor(anchors, self.device)  # (B, D)
        skip = torch.from_numpy(np.ascontiguousarray(drop)).to(self.device)  # (B,)
        rough, index = self._propose(rows, skip)  # (B, K), (B, K)
        found = self._rescore(anchors, index.cpu().numpy())
        if index.shape[1] > self.count:
            edge = rough[:, self.count - 1] - 2 * ROUNDING  # (B,)
            unsure = torch.nonzero(rough[:, -1] >= edge).flatten()  # more may tie than were kept
            for at in unsure.tolist():
                tied = self._all_above(rows[at], int(skip[at]), float(edge[at]))  # (1, ties)
                exact = self._rescore(anchors[at : at + 1], tied)
                found.indices[at], found.similarity[at] = exact.indices[0], exact.similarity[0]
        return found

    def _products(self, rows: Tensor, start: int) -> Tensor:
        """(B, block) float32 products with one block of the pool."""
        block = _to_tensor(self.pool[start : start + self.pool_block], self.device)
        return rows @ block.mT

    def _propose(self, rows: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """The best `count` + SLACK rows by rounded products, (B, K) values and rows."""
        best = rows.new_empty((len(rows), 0))  # (B, 0)
        index = torch.empty((len(rows), 0), dtype=torch.int64, device=rows.device)
        for start in self.starts:
            products = self._products(rows, start)  # (B, block)
            here = torch.nonzero((skip >= start) & (skip < start + products.shape[1])).flatten()
            products[here, skip[here] - start] = -torch.inf
            value, at = products.topk(min(self.count + SLACK, products.shape[1]), dim=1)
            best = torch.cat([best, value], dim=1)  # (B, up to 2K)
            index = torch.cat([index, at + start], dim=1)
            best, keep = best.topk(min(self.count + SLACK, best.shape[1]), dim=1)
            index = index.gather(1, keep)  # (B, K)
        return best, index.masked_fill(best == -torch.inf, NO_ROW)

    def _all_above(self, row: Tensor, skip: int, edge: float) -> IntArray:
        """(1, found) every pool row whose rounded product reaches `edge`."""
        found = [
            torch.nonzero(self._products(row[None], start)[0] >= edge).flatten() + start
            for start in self.starts
        ]
        rows = torch.cat(found).cpu().numpy()
        return np.asarray(rows[rows != skip])[None]

    def _rescore(self, anchors: RowArray, index: IntArray) -> Neighbours:
        """Order candidates by correctly rounded cosine, then by row, and keep `count`."""
        similarity = np.empty(index.shape, np.float32)  # (B, K)
        for start in range(0, len(index), RESCORE_BLOCK):
            part = slice(start, start + RESCORE_BLOCK)
            rows = np.asarray(self.pool[index[part]], dtype=np.float64)  # (b, K, D)
            left = np.asarray(anchors[part], dtype=np.float64)[:, None]  # (b, 1, D)
            similarity[part] = np.vecdot(left, rows)
        similarity[index == NO_ROW] = -np.inf
        order = np.lexsort((index, -similarity), axis=1)[:, : self.count]  # (B, <= R)
        short = self.count - order.shape[1]
        index = np.take_along_axis(index, order, axis=1)
        similarity = np.take_along_axis(similarity, order, axis=1)
        return Neighbours(
            np.pad(index, ((0, 0), (0, short)), constant_values=NO_ROW),
            np.pad(similarity, ((0, 0), (0, short)), constant_values=-np.inf),
        )


def _to_tensor(rows: RowArray, device: torch.device) -> Tensor:
    """Copy rows to a float32 tensor."""
    return torch.from_numpy(np.array(rows, dtype=np.float32)).to(device)
