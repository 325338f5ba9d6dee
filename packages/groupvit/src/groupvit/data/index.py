"""All pairs of a pool of shards, in a few tens of bytes each."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload
from zlib import crc32

import numpy as np
import numpy.typing as npt

from groupvit.data.indexfile import IndexFile, npy
from groupvit.data.table import Rows
from groupvit.errors import DataError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A pair that was left out."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Location:
    """Where a pair lies: byte ranges in a tar file."""

    id: str
    """dataset/shard/key."""
    shard: Path
    image: tuple[int, int]
    """Offset and length."""
    text: tuple[int, int]
    """Offset and length of the caption."""

    def read(self) -> tuple[bytes, str]:
        """The image file, not decoded, and the caption, its white space single spaces.

        Raises:
            DataError: the shard cannot be read, or is not what it was.
        """
        image, text = self._read(self.image, self.text)
        return image, _caption(text)

    @property
    def caption(self) -> str:
        """The caption, read from the shard; errors as of `read`."""
        return _caption(self._read(self.text)[0])

    def _read(self, *ranges: tuple[int, int]) -> list[bytes]:
        try:
            with self.shard.open("rb", buffering=0) as file:
                found = [os.pread(file.fileno(), size, offset) for offset, size in ranges]
        except OSError as error:
            raise DataError(f"{self.shard}: cannot be read ({error.strerror})") from error
        if any(len(content) < size for content, (_, size) in zip(found, ranges, strict=True)):
            raise DataError(f"{self.shard}: was cut since it was indexed; write it again")
        return found


def _caption(content: bytes) -> str:
    return " ".join(content.decode(errors="replace").removeprefix("\ufeff").split())


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard of a pool and its table."""

    prefix: str
    """dataset/shard, how the ids of its pairs begin."""
    path: Path
    size: int
    """In bytes."""
    pairs: int
    table: IndexFile | Rows

    @property
    def crc32(self) -> int:
        """Of the table, as it is or would be on disk."""
        return self.table.crc32 if isinstance(self.table, IndexFile) else crc32(npy(self.table))

    def open(self) -> Rows:
        """The table, (n,) records; mapped, if it is on disk."""
        return self.table.rows() if isinstance(self.table, IndexFile) else self.table


class Pairs(Sequence[Location]):
    """Pairs of a pool of shards, in the order of the shards.

    Tables on disk are mapped when they are first needed, by every process that needs them: a copy
    for a loader's worker holds names of files, not pairs.

    Args:
        shards: with their tables.
        rows: (n,) which pairs of them, in this order; None for all.
    """

    def __init__(self, shards: Sequence[Shard], rows: IntArray | None = None) -> None:
        self.shards = tuple(shards)
        self._rows = rows
        self._ends = np.cumsum([shard.pairs for shard in self.shards], dtype=np.int64)  # (S,)
        self._open: dict[int, Rows] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def __len__(self) -> int:
        if self._rows is not None:
            return len(self._rows)
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, at: int) -> Location: ...
    @overload
    def __getitem__(self, at: slice) -> "Pairs": ...
    def __getitem__(self, at: int | slice) -> "Location | Pairs":
        """One pair, or those of a range.

        Raises:
            IndexError: no such pair.
            DataError: the index of its shard is damaged.
        """
        if isinstance(at, slice):
            return self.select(np.arange(*at.indices(len(self)), dtype=np.int64))
        if not -len(self) <= at < len(self):
            raise IndexError(f"pair {at} of {len(self)}")
        row = at % len(self) if self._rows is None else int(self._rows[at])
        number = int(self._ends.searchsorted(row, side="right"))
        shard = self.shards[number]
        if number not in self._open:
            self._open[number] = shard.open()
        inner = row - int(self._ends[number]) + shard.pairs
        key, image, image_bytes, text, text_bytes = self._open[number][inner].item()
        return Location(
            f"{shard.prefix}/{key.decode()}", shard.path, (image, image_bytes), (text, text_bytes)
        )

    def select(self, rows: IntArray) -> "Pairs":
        """Some of the pairs.

        Args:
            rows: (n,) their numbers, in the order wanted.
        """
        return Pairs(self.shards, rows if self._rows is None else self._rows[rows])

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the names, sizes and tables of all shards, and of the selection.

        Two pools with the same one have the same keys at the same places, in the same order.
        """
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.prefix}\0{shard.size}\0{shard.crc32}\n".encode())
        if self._rows is not None:
            digest.update(self._rows.astype("<i8").tobytes())
        return digest.hexdigest()
