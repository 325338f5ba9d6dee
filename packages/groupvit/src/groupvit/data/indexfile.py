"""A shard's table on disk: a line of JSON, then an array in NumPy's .npy format.

    {"kind": "groupvit-index", "version": 1, "shard": {"bytes": ..., "mtime_ns": ...},
     "bytes": ..., "crc32": ..., "pairs": ..., "skipped": [[KEY, REASON], ...]}

The array is mapped, so that all processes of a machine read the same memory.
"""

import io
import json
import logging
import mmap
import os
import socket
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from groupvit.data.table import Rows, ShardTable
from groupvit.errors import DataError

log = logging.getLogger(__name__)

KIND = "groupvit-index"
VERSION = 1


class ShardState(NamedTuple):
    """By what a shard is taken for the same one."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, shard: Path) -> "ShardState":
        """Of a file that is there."""
        found = shard.stat()
        return cls(found.st_size, found.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A table on disk, not opened yet."""

    path: Path
    at: int
    """Byte at which the array begins."""
    pairs: int
    crc32: int
    """Of the array as it is written."""

    def rows(self) -> Rows:
        """Map the table.

        Raises:
            DataError: the file is gone or damaged.
        """
        try:
            with self.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                file.seek(self.at)
                if zlib.crc32(memoryview(mapped)[self.at :]) != self.crc32:
                    raise DataError(f"{self.path}: damaged index; delete it, it is made again")
                np.lib.format.read_magic(file)
                shape, _, kind = np.lib.format.read_array_header_1_0(file)
                rows: Rows = np.frombuffer(mapped, kind, shape[0], file.tell())
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: index cannot be read ({error})") from error
        return rows


def npy(rows: Rows) -> bytes:
    """A table in NumPy's format."""
    memory = io.BytesIO()
    np.lib.format.write_array(memory, rows, version=(1, 0), allow_pickle=False)
    return memory.getvalue()


def save_index(path: Path, table: ShardTable, state: ShardState) -> IndexFile:
    """Write a table, whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    array = npy(table.rows)
    crc32 = zlib.crc32(array)
    header = {
        "kind": KIND,
        "version": VERSION,
        "shard": {"bytes": state.size, "mtime_ns": state.mtime_ns},
        "bytes": len(array),
        "crc32": crc32,
        "pairs": len(table.rows),
        "skipped": table.skipped,
    }
    line = json.dumps(header).encode() + b"\n"
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(line + array)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(f"{path}: index cannot be written ({error.strerror})") from error
    return IndexFile(path, len(line), len(table.rows), crc32)


def find_index(
    path: Path, state: ShardState
) -> tuple[IndexFile, tuple[tuple[str, str], ...]] | None:
    """The index of a shard, if it is there and of the shard as it is now.

    Returns:
        the index and what was left out of it (key, reason); None when it is to be made, which a
        damaged one is, with a warning.

    Raises:
        DataError: it is of another kind or version.
    """
    try:
        with path.open("rb") as file:
            line = file.readline()
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: index cannot be read ({error.strerror})") from error
    header = _header(line)
    if header and (header.get("kind"), header.get("version")) != (KIND, VERSION):
        raise DataError(
            f"{path}: is {header.get('kind')} version {header.get('version')}, "
            f"this reads {KIND} version {VERSION}; delete it, or name another folder for the index"
        )
    if not header or size != len(line) + header["bytes"]:
        log.warning("%s: damaged index; its shard is read again", path)
        return None
    if header["shard"] != {"bytes": state.size, "mtime_ns": state.mtime_ns}:
        return None
    skipped = tuple((key, reason) for key, reason in header["skipped"])
    return IndexFile(path, len(line), header["pairs"], header["crc32"]), skipped


def _header(line: bytes) -> dict[str, Any]:
    """The line of JSON; empty if it is none."""
    try:
        header = json.loads(line)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}
