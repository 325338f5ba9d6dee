"""Arrow files of an archive as plain memory: opened when first read, read by row number.

Arrow's own scalars cost microseconds each, so a shard is read through its buffers: by Python for
one row, and by compiled loops over any number of shards for a batch. A compiled loop takes the
addresses of the buffers from a table with a row per shard; every position that it finds in a file
is checked against the length of what it points into, so that a damaged file cannot crash it.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from conceptarchive.errors import FormatError

IntArray = npt.NDArray[np.int64]

TEXT = (pa.string(),)
DTYPES: dict[Any, np.dtype[Any]] = {
    pa.uint8(): np.dtype(np.uint8),
    pa.uint32(): np.dtype(np.uint32),
    pa.uint64(): np.dtype(np.uint64),
    pa.float32(): np.dtype(np.float32),
}
"""Types of numbers in an archive."""

ENDS, LENGTH, VALUES = 0, 1, 2  # columns of an address table


class Shard:
    """One Arrow file of one batch: text columns and list columns by name.

    Nothing but its header is read until asked for, and no file is held open: the maps stay when
    the file is closed, so thousands of shards need no file handles.

    Args:
        path: of the file.
        schema: that it must have.
        rows: that it must have.

    Raises:
        FormatError: missing, no Arrow file, or not of that schema and size.
    """

    def __init__(self, path: Path, schema: pa.Schema, rows: int) -> None:
        self.path, self.rows = path, rows
        batch = read_batch(path, schema)
        if batch.num_rows != rows:
            raise FormatError(f"{path}: has {batch.num_rows} rows, the manifest says {rows}")
        self.metadata: dict[bytes, bytes] = batch.schema.metadata or {}
        self.ends: dict[str, npt.NDArray[np.int32]] = {}  # (rows + 1,) each
        self.values: dict[str, npt.NDArray[Any]] = {}
        for field, column in zip(schema, batch.columns, strict=True):
            ends, values = _text(column) if field.type in TEXT else list_parts(column)
            self.ends[field.name], self.values[field.name] = ends, values
        self._views = {
            name: (_view(self.ends[name]), _view(self.values[name])) for name in self.ends
        }

    def text(self, name: str, row: int) -> str:
        """Text of a row."""
        return self.texts(name, row, row + 1)[0]

    def texts(self, name: str, start: int, stop: int) -> list[str]:
        """Texts of a range of rows."""
        ends, values = self._views[name]
        marks = ends[start : stop + 1].tolist()
        try:
            return [str(values[first:last], "utf-8") for first, last in pairwise(marks)]
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.path}: damaged in column {name!r}; run check") from error

    def items(self, names: tuple[str, ...], row: int) -> tuple[list[Any], ...]:
        """The lists that columns of equal lists have in a row."""
        ends = self._views[names[0]][0]
        start, stop = ends[row], ends[row + 1]
        found = tuple([self._views[name][1][start:stop].tolist() for name in names])
        if any(len(part) != stop - start for part in found):
            raise FormatError(f"{self.path}: damaged in column {names[0]!r}; run check")
        return found

    def slices(self, names: tuple[str, ...], row: int) -> list[npt.NDArray[Any]]:
        """The same as arrays, without a copy."""
        start, stop = self.ends[names[0]][row : row + 2].tolist()
        return [self.values[name][start:stop] for name in names]

    def addresses(self, names: tuple[str, ...]) -> list[int]:
        """Where columns of equal lists lie: offsets of the first, shortest length, all values."""
        values = [self.values[name] for name in names]
        return [
            self.ends[names[0]].ctypes.data,
            min(len(part) for part in values),
            *(part.ctypes.data for part in values),
        ]


class Shards:
    """All shards of one kind.

    Args:
        folder: of the archive.
        name_of: file name of a shard by its number.
        schema: of each.
        rows: of all together.
        shard_rows: of each but the last.
    """

    def __init__(
        self,
        folder: Path,
        name_of: Callable[[int], str],
        schema: pa.Schema,
        *,
        rows: int,
        shard_rows: int,
    ) -> None:
        self.folder, self.rows, self.shard_rows = folder, rows, shard_rows
        self._name_of, self._schema = name_of, schema
        self._open: dict[int, Shard] = {}
        self._tables: dict[tuple[str, ...], IntArray] = {}

    def __len__(self) -> int:
        return -(-self.rows // self.shard_rows)

    def __getitem__(self, number: int) -> Shard:
        """One shard by its number."""
        shard = self._open.get(number)
        if shard is None:
            path = self.folder / self._name_of(number)
            rows = min(self.shard_rows, self.rows - number * self.shard_rows)
            # another thread may have opened it meanwhile; its maps may be in use
            shard = self._open.setdefault(number, Shard(path, self._schema, rows))
        return shard

    def at(self, row: int) -> tuple[Shard, int]:
        """The shard of a row, and the row inside it."""
        number, inner = divmod(row, self.shard_rows)
        if not 0 <= row < self.rows:
            raise FormatError(f"{self.folder}: points to row {row} of {self.rows}; run check")
        return self[number], inner

    def texts(self, name: str, start: int, stop: int) -> list[str]:
        """Texts of a range of rows, over any number of shards."""
        found: list[str] = []
        while start < stop:
            shard, inner = self.at(start)
            end = min(inner + stop - start, shard.rows)
            found += shard.texts(name, inner, end)
            start += end - inner
        return found

    def table(self, names: tuple[str, ...], rows: IntArray) -> IntArray:
        """(shards, 2 + len(names)) addresses of some columns, filled in for the shards of `rows`.

        Columns are the offsets, the number of values and the values of each column.
        """
        table = self._tables.get(names)
        if table is None:
            table = np.zeros((len(self), 2 + len(names)), np.int64)
            table = self._tables.setdefault(names, table)
        numbers = rows // self.shard_rows  # (n,)
        for number in np.unique(numbers[table[numbers, ENDS] == 0]).tolist():
            table[number] = self[number].addresses(names)
        return table


def read_batch(path: Path, schema: pa.Schema) -> pa.RecordBatch:
    """The one batch of an Arrow file, as a memory map.

    Raises:
        FormatError: missing, no Arrow file, of another schema, or of several batches.
    """
    if not path.is_file():
        raise FormatError(f"{path}: is missing; run the build again in a new folder")
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(schema):
                raise FormatError(f"{path}: columns are not those of an archive; run check")
            if reader.num_record_batches != 1:
                raise FormatError(f"{path}: has {reader.num_record_batches} batches, needs one")
            batch = reader.get_batch(0)
        batch.validate()  # that buffers are as long as it says; no value is read
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{path}: not an Arrow file, or damaged ({reason})") from error
    for name, column in zip(schema.names, batch.columns, strict=True):
        if column.null_count or (pa.types.is_list(column.type) and column.values.null_count):
            raise FormatError(f"{path}: column {name!r} lacks values; run check")
    return batch


def _view(array: Any) -> "memoryview[Any]":
    """An array whose items are read as Python's own numbers, faster than numpy's."""
    return memoryview(array)


def _text(column: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Offsets and bytes of a column of texts."""
    _, ends, data = column.buffers()
    return _ends(ends, len(column)), np.frombuffer(data or b"", np.uint8)


def list_parts(column: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[Any]]:
    """Offsets and values of a column of lists."""
    return _ends(column.buffers()[1], len(column)), flat(column.values)


def flat(column: pa.Array) -> npt.NDArray[Any]:
    """Numbers of a column without nulls, without a copy.

    Arrow's own `to_numpy` gives the same, but imports pandas where there is one, for seconds.
    """
    data = column.buffers()[1]
    dtype = DTYPES[column.type]
    values: npt.NDArray[Any] = np.frombuffer(data if data is not None else b"", dtype)
    return values[column.offset : column.offset + len(column)]


def _ends(buffer: pa.Buffer | None, rows: int) -> npt.NDArray[np.int32]:
    """(rows + 1,) offsets; Arrow may leave out those of no rows."""
    if buffer is None or not buffer.size:
        return np.zeros(1, np.int32)
    return np.frombuffer(buffer, np.int32, rows + 1)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _pointer(typing_context: Any, address: Any) -> Any:  # noqa: ARG001  (numba calls it so)
    """An integer as an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:  # noqa: ARG001
        return builder.inttoptr(values[0], cgutils.voidptr_t)

    return types.voidptr(address), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def gather_sizes(table: IntArray, rows: IntArray, shard_rows: int, offsets: IntArray) -> int:
    """Write the places that lists of `rows` take in one array; the first damaged row, or -1.

    Args:
        table: of `Shards.table`.
        rows: (n,) row numbers.
        shard_rows: rows of a shard.
        offsets: (n + 1,) the result.
    """
    offsets[0] = 0
    for at in range(len(rows)):
        shard, row = rows[at] // shard_rows, rows[at] % shard_rows
        ends = carray(_pointer(table[shard, 0]), (shard_rows + 1,), np.int32)
        start, stop = np.int64(ends[row]), np.int64(ends[row + 1])
        if not 0 <= start <= stop <= table[shard, 1]:
            return at
        offsets[at + 1] = offsets[at] + stop - start
    return -1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def gather_values(
    table: IntArray,
    column: int,
    rows: IntArray,
    shard_rows: int,
    offsets: IntArray,
    out: npt.NDArray[Any],
) -> None:
    """Copy the lists of `rows` one after the other; `gather_sizes` has checked them.

    Args:
        table: of `Shards.table`.
        column: which of its columns holds the values.
        rows: (n,) row numbers.
        shard_rows: rows of a shard.
        offsets: (n + 1,) of `gather_sizes`.
        out: (offsets[n],) the result, of the type of the values.
    """
    for at in range(len(rows)):
        shard, row = rows[at] // shard_rows, rows[at] % shard_rows
        ends = carray(_pointer(table[shard, 0]), (shard_rows + 1,), np.int32)
        start, size = np.int64(ends[row]), offsets[at + 1] - offsets[at]
        values = carray(_pointer(table[shard, column]), (start + size,), out.dtype)
        for place in range(size):
            out[offsets[at] + place] = values[start + place]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def equal_texts(
    table: IntArray,
    rows: IntArray,
    shard_rows: int,
    ends: IntArray,
    data: npt.NDArray[np.uint8],
    equal: npt.NDArray[np.bool_],
) -> None:
    """Write whether text i of a batch is the text of row rows[i]; never for a row below 0.

    Args:
        table: of `Shards.table` for one column of texts.
        rows: (n,) row numbers, -1 for none.
        shard_rows: rows of a shard.
        ends: (n + 1,) offsets of the batch.
        data: bytes of the batch.
        equal: (n,) the result.
    """
    for at in range(len(rows)):
        equal[at] = False
        if rows[at] < 0:
            continue
        shard, row = rows[at] // shard_rows, rows[at] % shard_rows
        marks = carray(_pointer(table[shard, 0]), (shard_rows + 1,), np.int32)
        start, stop = np.int64(marks[row]), np.int64(marks[row + 1])
        size = ends[at + 1] - ends[at]
        if stop - start != size or not 0 <= start <= stop <= table[shard, 1]:
            continue
        stored = carray(_pointer(table[shard, 2]), (stop,), np.uint8)
        same = True
        for place in range(size):
            if stored[start + place] != data[ends[at] + place]:
                same = False
                break
        equal[at] = same


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def first_at(hashes: npt.NDArray[np.uint64], wanted: np.uint64) -> int:
    """Place of the first hash that is not below `wanted`; the length when all are.

    Hashes are spread evenly, so the search begins where `wanted` should be and widens from there:
    of an index far larger than memory it reads two or three pages, not one for each halving.
    """
    count = len(hashes)
    if count == 0:
        return 0
    guess = int(np.float64(wanted) / 2.0**64 * count)
    low: int = min(max(guess, 0), count - 1)
    high, step = low, 1
    while low > 0 and hashes[low] >= wanted:
        low, step = max(low - step, 0), step * 2
    step = 1
    while high < count and hashes[high] < wanted:
        high, step = min(high + step, count), step * 2
    if low == 0 and hashes[0] >= wanted:
        return 0
    while high - low > 1:  # hashes[low] < wanted <= hashes[high]
        middle = (low + high) // 2
        if hashes[middle] < wanted:
            low = middle
        else:
            high = middle
    return high


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def locate(
    hashes: npt.NDArray[np.uint64],
    index: npt.NDArray[np.uint64],
    wanted: npt.NDArray[np.uint64],
    rows: IntArray,
) -> None:
    """Write the row of the first entry of each hash, -1 where there is none.

    Args:
        hashes: (n,) ascending.
        index: (n,) row of each.
        wanted: (k,) hashes.
        rows: (k,) the result.
    """
    for at in range(len(wanted)):
        place = first_at(hashes, wanted[at])
        found = place < len(hashes) and hashes[place] == wanted[at]
        rows[at] = np.int64(index[place]) if found else -1
