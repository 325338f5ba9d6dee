"""A column of texts in Parquet files, read a file at a time as it is needed."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conceptarchive.errors import DataMissingError, FormatError

LOADED = 2  # files held in memory at a time
CHUNK = 65536  # texts turned into Python strings at a time


@dataclass(frozen=True, slots=True)
class TextFile:
    """A column of one Parquet file, or of one row group of a large one.

    Attributes:
        path: the file.
        rows: how many texts.
        column: its name.
        prefix: put before each text.
        group: the row group, None for all.
        first: row of the file at which the group begins.
    """

    path: Path
    rows: int
    column: str
    prefix: str = ""
    group: int | None = None
    first: int = 0

    def read(self) -> pa.Array:
        """Its texts as large_string, with nulls.

        Raises:
            DataMissingError: no such file.
            FormatError: damaged, without the column, or of another number of rows.
        """
        columns = [self.column]
        try:
            with pq.ParquetFile(self.path) as file:
                every = self.group is None
                table = file.read(columns) if every else file.read_row_group(self.group, columns)
            texts = table[self.column].cast(pa.large_string()).combine_chunks()
            texts.validate(full=True)  # else a byte that is not UTF-8 shows only when it is read
        except FileNotFoundError as error:
            raise DataMissingError(f"{self.path}: is missing; check the folder") from error
        except (OSError, LookupError, pa.ArrowException) as error:
            raise FormatError(
                f"{self.path}: column {self.column!r} cannot be read ({str(error).splitlines()[0]})"
            ) from error
        if len(texts) != self.rows:
            raise FormatError(
                f"{self.path}: changed while in use, from {self.rows} to {len(texts)} rows; "
                "run again"
            )
        return texts


class TextColumn(Sequence[str]):
    """n texts of several Parquet files, in order, as strings only when asked for.

    A range reads the files it touches, the last two of which are kept; to go through all texts,
    iterate or take ranges in order. What is pickled is the list of files.

    Args:
        files: with their columns; numbers become text.
        nullable: whether a null is "", else it is an error.
    """

    def __init__(self, files: Sequence[TextFile], *, nullable: bool = False) -> None:
        self.files = tuple(files)
        self.ends = np.cumsum([file.rows for file in files], dtype=np.int64)  # (files,)
        self.nullable = nullable
        self._start_cache()

    def _start_cache(self) -> None:
        """Forget loaded files."""
        self._file = lru_cache(LOADED)(self._load)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __repr__(self) -> str:
        return f"TextColumn({len(self)} texts of {len(self.files)} files)"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def __eq__(self, other: object) -> bool:
        """Whether another sequence holds the same texts; reads all of them."""
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal by content, which is on disk

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        """One text, or a list of those in a range.

        Raises:
            IndexError: no such row.
            FormatError: a file is damaged, or not what it was when it was opened first.
        """
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError(f"a range of texts has step 1, got {step}")
            return [text for part in self._parts(start, stop) for text in part.to_pylist()]
        row = operator.index(at)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be below {len(self)}, got {row}")
        row %= len(self)
        part = next(self._parts(row, row + 1))
        text: str = part[0].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        """Give all texts; a file is read once."""
        for texts in self.chunks():
            for start in range(0, len(texts), CHUNK):
                yield from texts[start : start + CHUNK].to_pylist()

    def where(self, row: int) -> str:
        """The file that holds a row and the row's number there, for messages."""
        number = int(np.searchsorted(self.ends, row, side="right"))
        file = self.files[number]
        return f"{file.path}, row {file.first + row - self._first(number)}"

    def chunks(self) -> Iterator[pa.Array]:
        """Give all texts in order, as one large_string array without nulls for each file."""
        return self._parts(0, len(self))

    def _parts(self, start: int, stop: int) -> Iterator[pa.Array]:
        """Texts start to stop, file by file."""
        number = int(np.searchsorted(self.ends, start, side="right"))
        while start < stop:
            first, end = self._first(number), min(stop, int(self.ends[number]))
            if start < end:
                yield self._file(number)[start - first : end - first]
            start, number = end, number + 1

    def _first(self, number: int) -> int:
        """Row at which a file begins."""
        return int(self.ends[number - 1]) if number else 0

    def _load(self, number: int) -> pa.Array:
        """All texts of one file, with nulls resolved and with their prefix."""
        file = self.files[number]
        texts = file.read()
        if texts.null_count and not self.nullable:
            row = file.first + pc.index(texts.is_null(), value=True).as_py()
            raise FormatError(f"{file.path}: row {row} has no {file.column!r}; every row needs one")
        texts = texts.fill_null("")
        if not file.prefix:
            return texts
        prefix, between = (pa.scalar(part, pa.large_string()) for part in (file.prefix, ""))
        return pc.binary_join_element_wise(prefix, texts, between)
