"""Members of a tar, read front to back; a damaged or shortened tar is always an error.

Why not `tarfile`: it takes a damaged header for the end of the archive and stops in silence.
"""

import gzip
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from conceptarchive.errors import DataMissingError, FormatError
from conceptarchive.inputs.raw import printable

BLOCK = 512  # bytes; headers and data fill whole blocks
ZEROS = bytes(BLOCK)
READ_BYTES = 1 << 20  # bytes asked of the file at a time
MAX_EXTENDED_BYTES = 1 << 20  # a longer extended header is damage
MAX_PADDING = 1 << 20  # bytes of zeros; writers add 10 KiB, an unfinished download leaves more
ADLER_BASE = 65_521  # Adler-32 counts modulo this prime
GZIP_MAGIC = b"\x1f\x8b"

FILES = b"0\x007"  # types of members, one byte each
LINKS = b"12"
FOLDER = b"5"
SPARSE = b"S"
NO_DATA = b"123456"  # links, devices, folders, pipes: a size in their header means nothing
EXTENDED = b"xgLK"  # about the member that follows, or (g) all that follow

_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=", re.DOTALL)  # POSIX: "LENGTH NAME=VALUE\n"

T = TypeVar("T")


class TarReader:
    """Steps through a tar, plain or gzipped. A context manager: it holds the file open.

    Args:
        shard: the tar.

    Raises:
        DataMissingError: it cannot be opened.
        FormatError: not a tar, damaged, ending early, or unreadable; raised by every method.
    """

    def __init__(self, shard: Path) -> None:
        self.shard = shard
        self.last = "the start"  # the member before the one being read, for messages
        self._plain = _open(shard)
        self._file: IO[bytes] | gzip.GzipFile = self._plain
        self._size: int | None = os.fstat(self._plain.fileno()).st_size  # None: not known yet
        if self._size == 0:
            self._plain.close()
            raise FormatError(f"{shard}: empty file, 0 bytes; fetch it again")
        magic = self._guard(self._plain.read, len(GZIP_MAGIC))
        self._plain.seek(0)
        if magic == GZIP_MAGIC:
            self._file = gzip.GzipFile(fileobj=self._plain, mode="rb")
            self._size = None

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._plain.close()

    def __iter__(self) -> Iterator[tuple[str, bytes, int]]:
        """Yield (name, type, bytes stored) of every member to the end marker.

        Who iterates reads (`take`) or steps over (`skip`) the data of each before the next.
        """
        extended: dict[str, bytes] = {}
        standing: dict[str, bytes] = {}
        while (block := self._blocks(BLOCK)) != ZEROS:
            name, member, size = self._header(block)
            if member in EXTENDED:
                fields = self._extended(member, size)
                (standing if member == b"g" else extended).update(fields)
                continue
            if member == SPARSE:
                self._skip_sparse_map(block)
            if extended or standing:
                name, member, size = self._amend(name, member, size, standing | extended)
                extended = {}
            yield name, member, 0 if member in NO_DATA else size
            self.last = name
        if extended:
            self._damaged("a long name without its file")
        self._finish()

    def take(self, size: int) -> bytes:
        """The data of a member of that size."""
        return self._blocks(-(-size // BLOCK) * BLOCK)[:size]

    def skip(self, size: int) -> None:
        """Step over the data of a member, which must be there."""
        if size == 0:
            return
        target = self._file.tell() + -(-size // BLOCK) * BLOCK
        if self._size is not None and target > self._size:
            self._early()  # to stand behind the end of a file is no error
        if self._guard(self._file.seek, target) != target:
            self._early()

    def _blocks(self, count: int) -> bytes:
        data = self._guard(self._file.read, count)
        if len(data) != count:
            self._early()
        return data

    def _header(self, block: bytes) -> tuple[str, bytes, int]:
        """(name, type, size) of a header whose checksum holds."""
        stored = self._number(block[148:156])
        # Adler-32 has the sum of bytes, plus 1, in its lower half: 20 times as fast as sum()
        summed = block[:148] + b" " * 8 + block[156:]
        found = (zlib.adler32(summed) & 0xFFFF) - 1
        if (found - stored) % ADLER_BASE and stored != _signed_sum(summed):
            if self.last == "the start":
                self._damaged("not a tar, or its first header is damaged")
            self._damaged("a header does not match its checksum")
        member, size = block[156:157], self._number(block[124:136])
        name = block[:100].partition(b"\0")[0]
        if block[345] and block[257:263] == b"ustar\0":
            name = block[345:500].partition(b"\0")[0] + b"/" + name
        if size < 0:
            self._damaged(f"a file of {size} bytes")
        if member in b"0\0" and name.endswith(b"/"):
            member = FOLDER  # as the oldest tars mark it
        return _decode(name), member, size

    def _number(self, field: bytes) -> int:
        """A number of a header: octal digits, or base 256 after a byte 0x80 (negative: 0xff)."""
        if field[0] in (0x80, 0xFF):
            value = int.from_bytes(field[1:], "big")
            return value if field[0] == 0x80 else value - (1 << 8 * (len(field) - 1))
        digits = field.partition(b"\0")[0].strip()
        if digits.strip(b"01234567"):  # int() takes signs and "1_0" too
            self._damaged("a header without numbers, or not a tar")
        return int(digits or b"0", 8)

    def _extended(self, member: bytes, size: int) -> dict[str, bytes]:
        """Fields of an extended header: GNU's long name, or POSIX records."""
        if size > MAX_EXTENDED_BYTES:
            self._damaged(f"an extended header of {size} bytes")
        data = self.take(size)
        if member in b"LK":  # K: the long name that a link points at
            return {"path": data.partition(b"\0")[0]} if member == b"L" else {}
        fields: dict[str, bytes] = {}
        start, stop = 0, len(data.rstrip(b"\0"))
        while start < stop:
            record = _RECORD.match(data, start)
            end = start + int(record[1]) if record else 0
            if record is None or not record.end() < end <= len(data) or data[end - 1] != 0x0A:
                self._damaged("an extended header without fields")
            fields[record[2].decode("utf-8", "replace")] = data[record.end() : end - 1]
            start = end
        return fields

    def _amend(
        self, name: str, member: bytes, size: int, fields: dict[str, bytes]
    ) -> tuple[str, bytes, int]:
        """A member as its extended headers tell it."""
        if "path" in fields:
            name = _decode(fields["path"])
        if "size" in fields:
            if not fields["size"].isdigit() or len(fields["size"]) > 20:
                self._damaged("a size that is no number")
            size = int(fields["size"])
        if any(field.startswith("GNU.sparse") for field in fields):
            member = SPARSE
        return name, member, size

    def _skip_sparse_map(self, block: bytes) -> None:
        """Step over the further headers of an old GNU sparse file."""
        more = block[482]
        while more:
            more = self._blocks(BLOCK)[504]

    def _finish(self) -> None:
        """Read what follows the end marker: nothing but zeros, and not too many."""
        padding = BLOCK
        while chunk := self._guard(self._file.read, READ_BYTES):
            if chunk.strip(b"\0"):
                self._damaged("members follow its end marker")
            padding += len(chunk)
        if padding % BLOCK:
            self._early()
        if padding > MAX_PADDING:
            self._damaged(f"{padding} zero bytes at its end, as an unfinished download has")

    def _guard(self, read: Callable[[int], T], count: int) -> T:
        """Call the file; what goes wrong there becomes one clear line."""
        try:
            return read(count)
        except EOFError:
            self._early()
        except (zlib.error, gzip.BadGzipFile) as error:
            self._damaged(str(error))
        except OSError as error:
            raise FormatError(
                f"{self.shard}: cannot be read after {printable(self.last)} ({error.strerror})"
            ) from error

    def _early(self) -> NoReturn:
        raise FormatError(
            f"{self.shard}: tar ends early, after {printable(self.last)}; fetch it again"
        )

    def _damaged(self, why: str) -> NoReturn:
        raise FormatError(
            f"{self.shard}: damaged tar after {printable(self.last)} ({why}); fetch it again"
        )


def _open(shard: Path) -> IO[bytes]:
    """The file of a shard; never a pipe, which would wait for ever."""
    try:
        if not shard.is_file():
            raise FormatError(f"{shard}: neither a file nor a folder; give a tar shard")
        return shard.open("rb", buffering=READ_BYTES)
    except OSError as error:
        raise DataMissingError(
            f"{shard}: cannot be opened ({error.strerror}); check its permissions"
        ) from error


def _decode(name: bytes) -> str:
    """A name as text; bytes that are not UTF-8 become surrogates, which no key may hold."""
    return name.decode("utf-8", "surrogateescape")


def _signed_sum(block: bytes) -> int:
    """The sum of a header's bytes as some old writers take it, with a sign."""
    return sum(byte - 256 if byte >= 0x80 else byte for byte in block)
