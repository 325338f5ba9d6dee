"""Looking at every row of embeddings, and every id, once."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit
from tqdm import tqdm

from conceptarchive.errors import FormatError
from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import Rows, where

NORM_TOLERANCE = 0.02  # float16 rows of 1,024 numbers stay well inside
READ_ROWS = 16384  # rows in memory at a time
FROM_HALF = np.float32(2.0**112)


def check_rows(rows: Rows, name: str) -> None:
    """Check that every row is finite and of length 1, in one pass and in little memory.

    Args:
        rows: (n, D).
        name: what to call them where they have no file.

    Raises:
        FormatError: the first row that is not, with its file.
    """
    starts = range(0, len(rows), READ_ROWS)
    for start in tqdm(starts, desc=f"check {name}", unit_scale=READ_ROWS, unit="row", disable=None):
        fault = find_fault(rows[start : start + READ_ROWS])
        if fault is not None:
            row, reason = fault
            raise FormatError(f"{where(rows, start + row, name)}: {reason}")


def find_fault(rows: RowArray) -> tuple[int, str] | None:
    """The first row (n, D) that is not finite or not of length 1, and what it is instead."""
    if rows.size == 0:
        return None
    squares = _half_squares(rows) if rows.dtype == np.float16 else _squares(rows)  # (n,)
    wrong = np.flatnonzero(~(np.abs(np.sqrt(squares) - 1) <= NORM_TOLERANCE))
    if not len(wrong):
        return None
    row = int(wrong[0])
    with np.errstate(invalid="ignore"):  # a signalling NaN warns where it is only converted
        values = rows[row].astype(np.float64)
        length = np.linalg.norm(values)
    if not np.isfinite(values).all():
        return row, "must be of length 1, holds NaN or infinite numbers; embed it again"
    if length == 0:
        return row, "must be of length 1, holds zeros only; embed it again"
    return row, f"must be of length 1, got {length:.4g}; open with normalize to divide rows"


def _squares(rows: RowArray) -> npt.NDArray[np.float32]:
    """(n,) squared lengths; NaN or infinite where a number is."""
    with np.errstate(invalid="ignore", over="ignore"):
        wide = np.ascontiguousarray(rows, np.float32)
        squares: npt.NDArray[np.float32] = np.vecdot(wide, wide)
    return squares


def _half_squares(rows: RowArray) -> npt.NDArray[np.float32]:
    """(n,) squared lengths of float16 rows; above 2^32 where a number is not finite."""
    bits = np.ascontiguousarray(rows).view(np.uint16)
    squares: npt.NDArray[np.float32] = _sum_half_squares(bits)
    return squares


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]  # numba has no types
def _sum_half_squares(bits: npt.NDArray[np.uint16]) -> Any:
    """Sum squares of float16 numbers, ten times as fast as NumPy widens them.

    The exponent and fraction of a float16, moved 13 bits up, are those of the same number times
    2^-112 in float32, subnormal ones too; NaN and infinity come out as 65,536 or more.
    """
    rows, width = bits.shape
    out = np.empty(rows, np.float32)
    moved = np.empty(width, np.uint32)
    wide = moved.view(np.float32)
    for row in range(rows):
        for at in range(width):
            moved[at] = np.uint32(bits[row, at] & np.uint16(0x7FFF)) << np.uint32(13)
        total = np.float32(0)
        for at in range(width):
            value = wide[at] * FROM_HALF
            total += value * value
        out[row] = total
    return out
