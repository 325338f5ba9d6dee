"""Rows of numbers that may be larger than memory: an array, or .npy files one after the other."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptarchive.errors import FormatError
from conceptarchive.features.npyfile import NpyFile, RowArray

IntArray = npt.NDArray[np.int64]

OPEN_MAPS = 128  # files mapped at a time: each holds a file descriptor, and 1,024 is a usual limit
LOADED = 2  # compressed files held in memory at a time


class RowFiles:
    """(n, D) rows of several files, read as one array without ever joining them.

    Files are opened when first read: .npy files and plain members of .npz archives as memory
    maps, compressed members whole, the last two kept. What is pickled is the list of files.
    A range or gather is the same, bit for bit, however the rows are cut into files.

    Args:
        paths: .npy or .npz files of (rows, D) arrays of one width, float16 or float32.
        counts: rows of each file.
        width: D.
        dtype: of the rows when read; float32 if any file is.
        member: name of the array in .npz archives.
        normalize: divide each row by its length when it is read; a row of zeros stays.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        counts: Sequence[int],
        width: int,
        dtype: npt.DTypeLike,
        *,
        member: str | None = None,
        normalize: bool = False,
    ) -> None:
        self.files = tuple(NpyFile(path, member) for path in paths)
        self.ends = np.cumsum(counts, dtype=np.int64)  # (files,)
        self.shape = (int(self.ends[-1]) if len(self.ends) else 0, width)
        self.dtype = np.dtype(dtype)
        self.normalize = normalize
        self.is_mapped = not self.files or self.files[0].is_mapped()
        self._start_cache()

    def _start_cache(self) -> None:
        """Forget open files."""
        self._file = lru_cache(OPEN_MAPS if self.is_mapped else LOADED)(self._open)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(file.path for file in self.files)

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        """All rows in memory, for those that fit."""
        if copy is False:
            raise ValueError("rows in files cannot become an array without a copy")
        return np.array(self[:], dtype=dtype or self.dtype)

    def __getitem__(self, at: "int | slice | npt.NDArray[np.integer[Any]]") -> RowArray:
        """Rows of a range (a view where it lies in one file) or of any list of row numbers.

        Args:
            at: a range of step 1, or row numbers (...,) or one, where -1 is the last row.

        Returns:
            (range, D) or (..., D), read-only where it is a view.

        Raises:
            IndexError: a row number out of range, or not an integer.
            FormatError: a file is not what it was when it was opened first.
        """
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError(f"a range of rows has step 1, got {step}")
            rows = self._range(start, stop)
        else:
            rows = self._gather(np.asarray(at))
        return unit_length(rows) if self.normalize else rows

    def where(self, row: int) -> str:
        """The file that holds a row and the row's number there, for messages."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        return f"{self.files[number]}, row {row - self._first(number)}"

    def _first(self, number: int) -> int:
        """Row at which a file begins."""
        return int(self.ends[number - 1]) if number else 0

    def _range(self, start: int, stop: int) -> RowArray:
        """Rows start to stop."""
        parts = []
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            first, end = self._first(number), min(stop, int(self.ends[number]))
            if start < end:  # an empty file is never opened
                parts.append(self._file(number)[start - first : end - first])
            start, number = end, number + 1
        if not parts:
            return np.empty((0, self.shape[1]), self.dtype)
        rows = _aligned(parts[0]) if len(parts) == 1 else np.concatenate(parts)
        return rows.astype(self.dtype, copy=False)

    def _gather(self, rows: npt.NDArray[Any]) -> RowArray:
        """Rows by number, of any shape (...,) -> (..., D); each file is visited once, in order."""
        if rows.size and not np.issubdtype(rows.dtype, np.integer):
            raise IndexError(f"row numbers must be integers, got {rows.dtype}")
        flat = rows.reshape(-1).astype(np.int64)  # (k,)
        wrong = flat[(flat < -len(self)) | (flat >= len(self))]
        if len(wrong):
            raise IndexError(f"row numbers must be below {len(self)}, got {wrong[0]}")
        flat[flat < 0] += len(self)
        order = np.argsort(flat, kind="stable")  # (k,)
        flat = flat[order]
        out = np.empty((len(flat), self.shape[1]), self.dtype)
        for number in np.unique(np.searchsorted(self.ends, flat, side="right")).tolist():
            first = self._first(number)
            begin, end = np.searchsorted(flat, [first, self.ends[number]])
            out[order[begin:end]] = self._file(number)[flat[begin:end] - first]
        return out.reshape(*rows.shape, self.shape[1])

    def _open(self, number: int) -> RowArray:
        """The rows of one file."""
        rows = self.files[number].read()
        expected = (int(self.ends[number]) - self._first(number), self.shape[1])
        if rows.shape != expected or rows.dtype not in (np.float16, self.dtype):
            raise FormatError(
                f"{self.files[number]}: changed while in use, from {expected} {self.dtype} "
                f"to {rows.shape} {rows.dtype}; run again"
            )
        return rows


Rows = RowArray | RowFiles
"""(n, D) rows, indexed by ranges and by arrays of row numbers."""


def unit_length(rows: RowArray) -> RowArray:
    """Divide rows (..., D) by their length, computed in float32; rows of zeros stay.

    A row comes out the same, bit for bit, alone or among others.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite stay so
        wide = np.ascontiguousarray(rows, dtype=np.float32)
        lengths = np.sqrt(np.vecdot(wide, wide))[..., None]
        return (wide / np.where(lengths > 0, lengths, np.float32(1))).astype(rows.dtype)


def where(rows: Rows, row: int, name: str) -> str:
    """Say where a row is: in its file, or in an array called `name`."""
    return rows.where(row) if isinstance(rows, RowFiles) else f"{name}, row {row}"


def _aligned(rows: RowArray) -> RowArray:
    """The same rows at an address that compiled code may read; a copy only where needed."""
    return rows if rows.flags.aligned else rows.copy()
