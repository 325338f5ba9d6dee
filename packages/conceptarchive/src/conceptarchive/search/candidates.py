"""Candidates kept in order while products stream by.

Every row keeps its K best so far, best first, and the K-th is the edge that a product must pass.
Passing is rare once the first blocks are through, so a scan is one comparison of 64 products at a
time. Kernels release the interpreter lock and run on one thread; callers share out the work.
"""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit, types
from numba.extending import overload

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

NO_ROW = -1  # fills the places that a small pool leaves empty
CHUNK = 64  # products compared at a time


class Candidates(NamedTuple):
    """K candidates of each of n rows, best first.

    Attributes:
        values: (n, K) float32; -inf where there is none.
        rows: (n, K) int64; -1 where there is none.
    """

    values: FloatArray
    rows: IntArray

    @classmethod
    def empty(cls, n: int, width: int) -> Self:
        """No candidate yet: 12 bytes for each of n x K places."""
        return cls(np.full((n, width), -np.inf, np.float32), np.full((n, width), NO_ROW, np.int64))

    def part(self, start: int, stop: int) -> "Candidates":
        """Views of a range of rows."""
        return Candidates(self.values[start:stop], self.rows[start:stop])

    @classmethod
    def above(cls, edges: FloatArray, width: int) -> Self:
        """Empty places that only values above (n,) edges can take.

        Where the edges are those of other candidates, all of lower rows, what is collected here
        and those candidates together hold the K best.
        """
        rows = np.full((len(edges), width), NO_ROW, np.int64)
        return cls(np.repeat(edges[:, None], width, axis=1), rows)

    def merge(self, other: "Candidates") -> None:
        """Take in another collection of the same rows; a tie goes to the lowest row."""
        _merge(self.values, self.rows, other.values, other.rows)


class Side(NamedTuple):
    """The lines or the columns of a block of products.

    Attributes:
        first: row of the first.
        drop: (A,) int64 row that each may not get, -1 for none.
        values: (A, K) candidates so far.
        rows: (A, K) theirs.
    """

    first: int
    drop: IntArray
    values: FloatArray
    rows: IntArray


@njit(cache=True, nogil=True)
def _put(values, rows, value, row):  # type: ignore[no-untyped-def]  # compiled by numba
    """Insert into (K,) in order of value, then of row, if it is better than the last."""
    last = len(values) - 1
    if value < values[last] or (value == values[last] and row >= rows[last] >= 0):
        return
    at = last
    while at > 0 and (
        values[at - 1] < value
        or (values[at - 1] == value and (rows[at - 1] > row or rows[at - 1] < 0))
    ):
        values[at] = values[at - 1]
        rows[at] = rows[at - 1]
        at -= 1
    values[at] = value
    rows[at] = row


@njit(cache=True, nogil=True)
def _merge(values, rows, new_values, new_rows):  # type: ignore[no-untyped-def]  # numba
    for n in range(len(values)):
        for k in range(new_values.shape[1]):
            if new_rows[n, k] < 0:  # places never taken come last
                break
            _put(values[n], rows[n], new_values[n, k], new_rows[n, k])


def _line(products, n, buffer):  # type: ignore[no-untyped-def]  # replaced by the overload
    """Row n of the products as float32."""
    raise NotImplementedError


@overload(_line)
def _line_by_dtype(products, n, buffer):  # type: ignore[no-untyped-def]  # noqa: ARG001  # numba
    """float32 as it is; int16 holds the upper half of a float32 (bfloat16)."""
    if products.dtype == types.float32:

        def line(products, n, buffer):  # type: ignore[no-untyped-def]  # noqa: ARG001  # numba
            return products[n]
    else:

        def line(products, n, buffer):  # type: ignore[no-untyped-def]  # numba
            halves = products[n]
            for c in range(len(halves)):
                buffer[c] = np.uint32(np.uint16(halves[c])) << np.uint32(16)
            return buffer.view(np.float32)

    return line


@njit(cache=True, nogil=True)
def _passes(part, edge):  # type: ignore[no-untyped-def]  # numba
    """Whether any product is above the edge; a plain loop over a slice becomes vector code."""
    found = np.int32(0)
    for c in range(len(part)):
        found += np.int32(part[c] > edge)
    return found > 0


@njit(cache=True, nogil=True)
def _passes_either(part, edge, edges):  # type: ignore[no-untyped-def]  # numba
    """Whether any product is above the edge of its line or of its column."""
    found = np.int32(0)
    for c in range(len(part)):
        found += np.int32(part[c] > edge) | np.int32(part[c] > edges[c])
    return found > 0


@njit(cache=True, nogil=True)
def scan_rows(products, left, start):  # type: ignore[no-untyped-def]  # numba
    """Offer the columns of a block of products to its lines.

    Blocks must come in order of pool rows, so that of equal products the lowest rows are kept.

    Args:
        products: (A, B) float32, or bfloat16 seen as int16.
        left: the lines; their candidates are changed in place.
        start: pool row of the first column.
    """
    last = left.values.shape[1] - 1
    buffer = np.empty(products.shape[1], np.uint32)
    for n in range(len(products)):
        line = _line(products, n, buffer)  # type: ignore[no-untyped-call]  # numba
        edge = left.values[n, last]
        for first in range(0, len(line), CHUNK):
            stop = min(first + CHUNK, len(line))
            if not _passes(line[first:stop], edge):
                continue
            for c in range(first, stop):
                if line[c] > edge and start + c != left.drop[n]:
                    _put(left.values[n], left.rows[n], line[c], start + c)
                    edge = left.values[n, last]


@njit(cache=True, nogil=True)
def scan_pairs(products, left, right):  # type: ignore[no-untyped-def]  # numba
    """Offer the columns of a block to its lines, and its lines to its columns, in one pass.

    Args:
        products: (A, B) float32, or bfloat16 seen as int16.
        left: the lines; their candidates are changed in place.
        right: the columns, none of them among the lines; theirs are changed too.
    """
    last = left.values.shape[1] - 1
    edges = right.values[:, last].copy()  # (B,)
    buffer = np.empty(products.shape[1], np.uint32)
    for n in range(len(products)):
        line = _line(products, n, buffer)  # type: ignore[no-untyped-call]  # numba
        edge, row = left.values[n, last], left.first + n
        for first in range(0, len(line), CHUNK):
            stop = min(first + CHUNK, len(line))
            if not _passes_either(line[first:stop], edge, edges[first:stop]):
                continue
            for c in range(first, stop):
                value = line[c]
                if value > edge and right.first + c != left.drop[n]:
                    _put(left.values[n], left.rows[n], value, right.first + c)
                    edge = left.values[n, last]
                if value > edges[c] and row != right.drop[c]:
                    _put(right.values[c], right.rows[c], value, row)
                    edges[c] = right.values[c, last]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _cosine(left, right):  # type: ignore[no-untyped-def]  # numba
    """float64 sum of products that are exact in float64, rounded to float32."""
    total = 0.0
    for d in range(len(left)):
        total += np.float64(left[d]) * np.float64(right[d])
    return np.float32(total)


@njit(cache=True, nogil=True)
def score(anchors, pool, places, rows, out_values, out_rows):  # type: ignore[no-untyped-def]
    """Order candidates by their exact cosine, then by row.

    Args:
        anchors: (A, D) float32.
        pool: (U, D) float32.
        places: (A, K) where in `pool` each candidate lies.
        rows: (A, K) its pool row; -1 for none.
        out_values: (A, count) -inf; filled.
        out_rows: (A, count) -1; filled.
    """
    for n in range(len(anchors)):
        for k in range(rows.shape[1]):
            if rows[n, k] >= 0:
                value = _cosine(anchors[n], pool[places[n, k]])
                _put(out_values[n], out_rows[n], value, rows[n, k])


@njit(cache=True, nogil=True)
def scan_exact(products, left, start, anchors, pool, edges):  # type: ignore[no-untyped-def]
    """Offer to each line, by its exact cosine, every column whose product passes an edge.

    Args:
        products: (A, B) float32.
        left: the lines, whose exact candidates are changed in place.
        start: pool row of the first column.
        anchors: (A, D) float32 rows of the lines.
        pool: (B, D) float32 rows of the columns.
        edges: (A,) only products above are looked at.
    """
    for n in range(len(products)):
        line, edge = products[n], edges[n]
        for first in range(0, len(line), CHUNK):
            stop = min(first + CHUNK, len(line))
            if not _passes(line[first:stop], edge):
                continue
            for c in range(first, stop):
                if line[c] > edge and start + c != left.drop[n]:
                    value = _cosine(anchors[n], pool[c])
                    _put(left.values[n], left.rows[n], value, start + c)
