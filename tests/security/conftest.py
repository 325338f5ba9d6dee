"""Hostile files, and limits under which they are read."""

import contextlib
import io
import os
import resource
import signal
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BOMB_BYTES = 400 << 20
"""What a compressed chunk inflates to; more than `little_memory` allows."""

Members = Sequence[tuple[tarfile.TarInfo, bytes]]


@dataclass(frozen=True)
class Trap:
    """An object whose pickle makes a folder when it is read by a reader that runs code."""

    folder: Path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)

    @property
    def sprung(self) -> bool:
        """Whether code has run."""
        return self.folder.exists()


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "code-has-run")


@pytest.fixture
def little_memory() -> Callable[..., AbstractContextManager[None]]:
    """Limits what the process may ask for, in bytes above what it has."""

    @contextlib.contextmanager
    def limit(more: int = 256 << 20) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    return limit


@pytest.fixture
def hurry() -> Iterator[None]:
    """Raises in a test that takes longer than 20 s: what never ends must not hold the others."""

    def late(*_: object) -> None:
        raise TimeoutError("this input is read for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, data: bytes = b"") -> bytes:
    """A grey PNG that claims a size, with chunks before its data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = data or zlib.compress(b"\0" * 64)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", body), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(size: int = BOMB_BYTES) -> bytes:
    """Zeros, compressed a thousandfold."""
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    return b"".join([*(packer.compress(piece) for _ in range(size >> 20)), packer.flush()])


def tiff(width: int, height: int) -> bytes:
    """A TIFF that claims a size, without the pixels."""
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
        (277, 3, 1), (278, 4, height), (279, 4, width * height % 2**32),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.fixture(scope="session")
def hostile_images() -> Mapping[str, bytes]:
    """Image files that no reader may take, by what is wrong with them."""
    packed = bomb()
    bmp = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0)
    return {
        "png-claims-60000x60000": png(60000, 60000),
        "tiff-claims-60000x60000": tiff(60000, 60000),
        "bmp-claims-60000x60000": bmp,
        "gif-claims-60000x60000": b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0)
        + b"," + struct.pack("<HHHHB", 0, 0, 60000, 60000, 0) + b"\x02\x02\x4c\x01\x00;",
        "png-text-of-400-MB": png(8, 8, chunk(b"zTXt", b"Comment\0\0" + packed)),
        "png-profile-of-400-MB": png(8, 8, chunk(b"iCCP", b"icc\0\0" + packed)),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "html": b"<script>alert(1)</script>",
        "nothing": b"",
    }  # fmt: skip


@pytest.fixture(scope="session")
def long_image() -> bytes:
    """A PNG of 8 x 8 pixels whose data go on for 400 MB: the rest must not be inflated."""
    return png(8, 8, data=bomb())


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A PNG that is what it says."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trap:
    """A program `gs` that would be run to decode PostScript."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\nmkdir -p {tmp_path / 'gs-has-run'}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return Trap(tmp_path / "gs-has-run")


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member of a tar and its bytes; other fields are set as they are given."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


@pytest.fixture(scope="session")
def make_tar() -> Callable[[Path, Members], Path]:
    """Writes members as they are, whatever their names."""

    def write(path: Path, members: Members) -> Path:
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture(scope="session")
def pair() -> Callable[[str, bytes], Members]:
    """Members of a pair, with a caption that names a dog."""
    return lambda key, image: [member(f"{key}.png", image), member(f"{key}.txt", b"a dog")]


@pytest.fixture(scope="session")
def hostile_members(photo: bytes) -> Members:
    """A pair that is what it says, and members that would leave the folder or never end."""
    links: dict[str, Any] = {"linkname": "../outside", "type": tarfile.SYMTYPE}
    named = ("../outside", "/tmp/outside", "in/../../outside", "C:/outside", "a\\..\\b", "a\x1b[2J")
    pairs = [
        [member(f"{name}.png", photo), member(f"{name}.txt", b"a dog")] for name in ("good", *named)
    ]
    return [
        *(one for two in pairs for one in two),
        member("link.png", **links),
        member("link.txt", b"a dog"),
        member("hard.png", **links | {"type": tarfile.LNKTYPE}),
        member("hard.txt", b"a dog"),
        member("pipe.png", type=tarfile.FIFOTYPE),
        member("pipe.txt", b"a dog"),
        member("device.png", type=tarfile.CHRTYPE),
        member("device.txt", b"a dog"),
    ]


@pytest.fixture(scope="session")
def raw_header() -> Callable[..., bytes]:
    """A header of a tar with any text in its field of a size, and a checksum that holds."""

    def write(name: str, size: bytes, kind: bytes = b"0") -> bytes:
        block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.USTAR_FORMAT))
        block[124:136], block[156:157], block[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return bytes(block)

    return write
