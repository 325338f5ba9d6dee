"""Arrays in .npy files and in members of .npz archives, read without loading what is not asked."""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from conceptarchive.errors import DataMissingError, FormatError

RowArray = npt.NDArray[np.floating[Any]]

MOST_GROWTH = 100  # times; rows of numbers hardly shrink, a bomb does a thousandfold
SMALL = 1 << 20  # bytes of a compressed member that may grow so
LOCAL_HEADER = 30  # bytes of a zip's local file header before name and extra field


@dataclass(frozen=True, slots=True)
class NpyFile:
    """One array on disk: a .npy file, or a member of a .npz archive.

    Attributes:
        path: the file.
        member: name of the array in a .npz archive, None for a .npy file.
    """

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}[{self.member}]"

    def header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type, from the first bytes; the file is long enough to hold that many numbers.

        Raises:
            DataMissingError: no such file.
            FormatError: empty, cut short, or not an array.
        """
        with self._naming_the_file(), self._stream() as (file, size):
            shape, _, dtype = _read_header(file)
            missing = file.tell() + math.prod(shape) * dtype.itemsize - size
        if missing > 0:
            raise FormatError(f"{self}: is cut short, {missing} bytes are missing; make it again")
        return shape, dtype

    def first_rows(self, count: int) -> RowArray:
        """(at most count, D) first rows, without reading the others."""
        shape, dtype = self.header()
        with self._naming_the_file(), self._stream() as (file, _):
            is_fortran = _read_header(file)[1]
            if is_fortran:
                return self.read()[:count]
            count = min(count, shape[0])
            data = file.read(count * math.prod(shape[1:]) * dtype.itemsize)
            return np.frombuffer(data, dtype).reshape(count, *shape[1:])

    def is_mapped(self) -> bool:
        """Whether `read` gives a memory map: always, but for compressed members."""
        if self.member is None:
            return True
        with self._naming_the_file(), zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(f"{self.member}.npy").compress_type == zipfile.ZIP_STORED

    def read(self) -> RowArray:
        """The array, memory-mapped where it is stored as it is, else loaded.

        Raises:
            DataMissingError: no such file.
            FormatError: damaged.
        """
        with self._naming_the_file():
            array: RowArray
            self.header()  # that the shape it claims is in the file
            if self.member is None:
                array = np.load(self.path, mmap_mode="r")
                return array
            with zipfile.ZipFile(self.path) as archive:
                info = archive.getinfo(f"{self.member}.npy")
                if info.compress_type == zipfile.ZIP_STORED:
                    return self._map_member(info)
                if info.file_size > MOST_GROWTH * max(info.compress_size, SMALL):
                    raise ValueError(
                        f"{info.compress_size} bytes would become {info.file_size}; no embeddings"
                    )
                with archive.open(info) as file:
                    array = npy_format.read_array(file, allow_pickle=False)
            return array

    def _map_member(self, info: zipfile.ZipInfo) -> RowArray:
        """The memory map of a member that is not compressed."""
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER)
            name, extra = header[26:28], header[28:30]  # their lengths, little-endian
            file.seek(int.from_bytes(name, "little") + int.from_bytes(extra, "little"), 1)
            shape, is_fortran, dtype = _read_header(file)
            at = file.tell()
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        array: RowArray = np.memmap(self.path, dtype, "r", offset=at, shape=shape, order=order)
        return array

    @contextmanager
    def _stream(self) -> Iterator[tuple[IO[bytes], int]]:
        """The bytes of the array with its header, and how many they are."""
        if self.member is None:
            with self.path.open("rb") as file:
                yield file, self.path.stat().st_size
            return
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(f"{self.member}.npy")
            with archive.open(info) as member:
                yield member, info.file_size

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        """Turn what is wrong with a file into one line that names it."""
        try:
            yield
        except FileNotFoundError as error:
            raise DataMissingError(f"{self.path}: is missing; check the folder") from error
        except OSError as error:
            raise FormatError(
                f"{self.path}: cannot be read ({error.strerror or error}); check its permissions"
            ) from error
        except KeyError as error:
            raise FormatError(f"{self.path}: has no array {self.member!r}") from error
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            if self.path.stat().st_size == 0:
                raise FormatError(f"{self.path}: is empty (0 bytes); make it again") from error
            raise FormatError(f"{self}: cannot be read ({error}); make it again") from error


def members(path: Path) -> list[str]:
    """Names of the arrays of a .npz archive, from its directory.

    Raises:
        FormatError: not a .npz archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        reason = "is empty (0 bytes)" if path.stat().st_size == 0 else f"cannot be read ({error})"
        raise FormatError(f"{path}: {reason}; make it again") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of a .npy stream."""
    version = npy_format.read_magic(file)
    read = {
        (1, 0): npy_format.read_array_header_1_0,
        (2, 0): npy_format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of .npy, reads 1.0 and 2.0")
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which are not read")
    if any(size < 0 for size in shape):
        raise ValueError(f"has the shape {shape}")
    return shape, is_fortran, dtype
