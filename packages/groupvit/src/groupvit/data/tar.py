"""Headers of tar files: where the plain files of a shard lie, in the order of the shard.

Python's `tarfile` takes a damaged header for the end of a tar and stops in silence, and spends most
of the time of an index on what is never asked for. This reader knows what writers of shards write
(POSIX.1-1988 and 2001, and GNU's long names) and refuses the rest.
"""

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
WINDOW = 16_384
"""Bytes read at once: the small members after an image, and the header of the next image."""
LARGEST_EXTENDED = 1 << 20
"""Bytes of an extended header; a longer one is damage."""
_DIGITS = 20  # of a length; more is no number of bytes
_ZEROS = bytes(BLOCK)
_FILES = b"0\x007"  # plain, plain as older writers have it, contiguous
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes
_EXTENDED = b"Lx"  # GNU's long name, POSIX's records: both are of the next member
_PASSED_OVER = b"gK"  # records of the whole archive, GNU's long name of a link


class TarError(Exception):
    """The file is not a whole tar."""


class Member(NamedTuple):
    """A plain file in a tar."""

    name: bytes
    """Path as it is written, without a NUL."""
    offset: int
    """Of its first byte."""
    size: int
    """In bytes."""


class TarReader:
    """Reads a plain tar, front to back, without the content of large members.

    Args:
        file: opened to read bytes; it stays open.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file.fileno()
        self._bytes = os.fstat(self._file).st_size
        self._window, self._start = b"", 0

    def read(self, offset: int, size: int) -> bytes:
        """Content of a member, fast if it lies near the member that was met last."""
        at = offset - self._start
        if at < 0 or at + size > len(self._window):
            self._window, self._start = os.pread(self._file, max(size, WINDOW), offset), offset
            at = 0
        return self._window[at : at + size]

    def __iter__(self) -> Iterator[Member]:
        """All plain files in order; folders, links and devices are passed over.

        Raises:
            TarError: damaged, cut short, or something after the end of the archive.
        """
        at, name, size = 0, b"", -1  # of an extended header, for the member after it
        while (block := self.read(at, BLOCK)) != _ZEROS:
            kind, short_name, length = _header(block, at)
            is_member = kind not in _EXTENDED and kind not in _PASSED_OVER
            if is_member:
                length = 0 if kind in _WITHOUT_CONTENT else max(size, length)
            start = at + BLOCK
            if start + length > self._bytes:
                raise TarError(f"ends inside the member at byte {at}")
            if kind in _EXTENDED:
                name, size = self._extended(kind, start, length, name, size)
            elif is_member:
                if kind in _FILES and not (kind == 0 and short_name.endswith(b"/")):
                    yield Member(name or short_name, start, length)
                name, size = b"", -1
            at = start + -(-length // BLOCK) * BLOCK
        self._check_rest(at)

    def _extended(
        self, kind: int, start: int, length: int, name: bytes, size: int
    ) -> tuple[bytes, int]:
        """Name and size that an extended header gives to the next member, else those given."""
        if length > LARGEST_EXTENDED:
            raise TarError(f"extended header of {length} bytes at byte {start}")
        content = self.read(start, length)
        if kind == ord("L"):
            return content.partition(b"\0")[0], size
        records = dict(_pax_records(content, start))
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise TarError(f"sparse member at byte {start}")
        if b"size" in records:
            if not _is_length(records[b"size"]):
                raise TarError(f"a size that is no number at byte {start}")
            size = int(records[b"size"])
        return records.get(b"path", name), size

    def _check_rest(self, at: int) -> None:
        """What follows the first block of zeros must be zeros: a hole in a tar is no end."""
        while at < self._bytes:
            rest = os.pread(self._file, 1 << 20, at)
            if rest.strip(b"\0"):
                raise TarError(f"goes on after its end at byte {at}")
            at += len(rest)


def _header(block: bytes, at: int) -> tuple[int, bytes, int]:
    """Kind, name and size of the member whose header is at byte `at`."""
    if len(block) < BLOCK:
        raise TarError(f"no end of archive at byte {at}")
    if _number(block[148:156], at) != sum(block) - sum(block[148:156]) + 8 * 32:
        raise TarError(f"damaged header at byte {at}")
    kind, name = block[156], block[:100].partition(b"\0")[0]
    if kind in b"SM":
        raise TarError(f"sparse member or part of one at byte {at}")
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return kind, name, _number(block[124:136], at)


def _number(field: bytes, at: int) -> int:
    """An octal number, or GNU's binary one for sizes from 8 GiB on."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):  # int() takes signs too, and a size below 0 leads back
        raise TarError(f"damaged header at byte {at}")
    return int(digits, 8)


def _is_length(digits: bytes) -> bool:
    return digits.isdigit() and len(digits) <= _DIGITS


def _pax_records(content: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each "LENGTH KEYWORD=VALUE", which ends in a line break."""
    place, end = 0, len(content.rstrip(b"\0"))
    while place < end:
        digits = content[place : place + _DIGITS + 1].partition(b" ")[0]
        length = int(digits) if _is_length(digits) else 0
        record = content[place + len(digits) + 1 : place + length]
        keyword, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or place + length > len(content):
            raise TarError(f"damaged extended header at byte {at}")
        yield keyword, value[:-1]
        place += length
