"""The table of a shard: where the image and the caption of every pair lie in its tar file."""

import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from groupvit.data.tar import TarError, TarReader
from groupvit.errors import DataError

IMAGE_SUFFIXES = frozenset({b"jpg", b"jpeg", b"png", b"webp"})
CAPTION_SUFFIXES = frozenset({b"txt", b"text"})
LARGEST_IMAGE, LARGEST_CAPTION = 1 << 30, 1 << 24
"""In bytes; what is larger is no photograph and no caption."""

Rows = npt.NDArray[np.void]
"""(n,) records of `row_type`, in the order of the images in the shard."""
TWICE = "key occurs twice"
"""Said of a pair that is kept: its first image and caption count."""
_Places = dict[bytes, tuple[int, int]]  # key -> offset and size
# control characters, a backslash, an absolute path, ".." in it: no part of an id
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\\]|^/|(?:^|/)\.\.(?:/|$)")


@dataclass(frozen=True, slots=True)
class ShardTable:
    """What is known of a shard."""

    rows: Rows
    """(n,) one record a pair."""
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of what was left out, and of keys that occur twice."""


def row_type(key_bytes: int) -> np.dtype[np.void]:
    """Record of a pair whose key has at most `key_bytes` bytes; 24 bytes more than that."""
    return np.dtype(
        [
            ("key", f"S{max(key_bytes, 1)}"),
            ("image", "<i8"),  # offset of the image in the tar
            ("image_bytes", "<u4"),
            ("caption", "<i8"),
            ("caption_bytes", "<u4"),
        ]
    )


def read_table(shard: Path) -> ShardTable:
    """Find the pairs of a tar shard without decoding an image.

    A pair is left out when it lacks an image or a caption, when its caption is not UTF-8, when one
    of them is too large, and when its key is no safe part of an id. Of a key that occurs twice the
    first image and the first caption count. A blank caption is one: a concept archive may know what
    its image shows.

    Raises:
        DataError: the file cannot be read, or is not a whole tar.
    """
    images: _Places = {}
    captions: _Places = {}
    faults: dict[bytes, str] = {}
    try:
        if not stat.S_ISREG(shard.stat().st_mode):  # to open a pipe would wait for ever
            raise DataError(f"{shard}: not a file")
        with shard.open("rb", buffering=0) as file:
            _collect(TarReader(file), images, captions, faults)
    except FileNotFoundError as error:
        raise DataError(f"{shard}: no such file") from error
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror})") from error
    except TarError as error:
        raise DataError(f"{shard}: not a whole tar file ({error}); write it again") from error
    return _join(images, captions, faults)


def _collect(
    reader: TarReader, images: _Places, captions: _Places, faults: dict[bytes, str]
) -> None:
    """Note the members of a tar by key; `faults` says what is wrong with a key."""
    for member in reader:
        key, suffix = _split(member.name)
        if suffix in IMAGE_SUFFIXES:
            places, largest, what = images, LARGEST_IMAGE, "image"
        elif suffix in CAPTION_SUFFIXES:
            places, largest, what = captions, LARGEST_CAPTION, "caption"
        else:
            continue
        if key in places:
            faults.setdefault(key, TWICE)
            continue
        places[key] = member.offset, member.size
        if member.size > largest:
            faults[key] = f"{what} too large"
        elif what == "caption" and not _is_utf8(reader.read(member.offset, member.size)):
            faults[key] = "caption is not UTF-8"


def _join(images: _Places, captions: _Places, faults: dict[bytes, str]) -> ShardTable:
    """Put images and captions together by key."""
    skipped: list[tuple[str, str]] = []
    kept: list[bytes] = []
    for key in [*images, *(key for key in captions if key not in images)]:
        fault = faults.get(key)
        if key not in images or key not in captions:
            fault = "no image" if key not in images else "no caption"
        elif not _is_utf8(key) or _UNSAFE.search(key.decode()):
            fault = "unsafe name"
        if fault in (None, TWICE):
            kept.append(key)
        if fault is not None:
            skipped.append((key.decode(errors="backslashreplace"), fault))
    return ShardTable(_rows(kept, images, captions), tuple(skipped))


def _rows(keys: Iterable[bytes], images: _Places, captions: _Places) -> Rows:
    records = [(key, *images[key], *captions[key]) for key in keys]
    return np.array(records, row_type(max((len(record[0]) for record in records), default=1)))


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Key and suffix, in lower case, of a member; names that begin with a dot have no suffix."""
    if name.startswith(b"./") or b"//" in name or b"/./" in name:
        root = b"/" if name.startswith(b"/") else b""
        name = root + b"/".join(part for part in name.split(b"/") if part not in (b"", b"."))
    key, _, suffix = name.rpartition(b".")
    base = name.rpartition(b"/")[2]
    # macOS keeps attributes of KEY.jpg in ._KEY.jpg
    if b"/" in suffix or base.startswith(b"._") or base.rfind(b".") <= 0:
        return name, b""
    return key, suffix.lower()


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
