"""Image-caption pairs of tar shards, folders with sidecar captions, and tables."""

import io
import logging
import stat
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from conceptarchive.errors import DataMissingError, UsageError
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.folders import folder_pairs
from conceptarchive.inputs.paths import find_shards, kind_of, shard_stem
from conceptarchive.inputs.raw import CAPTION_SUFFIXES, IMAGE_SUFFIXES, RawPair, is_safe, printable
from conceptarchive.inputs.tables import table_pairs
from conceptarchive.inputs.tars import tar_pairs

__all__ = [
    "CAPTION_SUFFIXES",
    "IMAGE_SUFFIXES",
    "Pair",
    "SkipLog",
    "TableColumns",
    "decode_image",
    "find_shards",
    "read_pairs",
    "read_shard",
    "shard_prefix",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pair:
    """An image and its caption.

    `id` is "<dataset>/<shard>/<key>": keys alone repeat across data sets. `image` holds the bytes
    of the file as they are, not decoded, or None when images were not asked for.
    """

    id: str
    key: str
    caption: str
    image: bytes | None


@dataclass(slots=True)
class SkipLog:
    """What was left out, where, and why."""

    entries: list[tuple[str, str, str]] = field(default_factory=list)
    """(file, key, reason), in the order met."""

    def add(self, file: str | Path, key: str, reason: str) -> None:
        """Count one pair that is left out."""
        self.entries.append((str(file), key, reason))

    def counts(self) -> dict[str, int]:
        """Pairs left out by reason, most frequent first."""
        return dict(Counter(reason for _, _, reason in self.entries).most_common())

    def report(self) -> None:
        """Log one warning with the counts and the first pair of every reason, if any."""
        if not self.entries:
            return
        first: dict[str, str] = {}
        for file, key, reason in self.entries:
            first.setdefault(reason, f"{file}: {key}")
        told = "; ".join(f"{n} {why} (first: {first[why]})" for why, n in self.counts().items())
        log.warning("skipped %d pairs: %s", len(self.entries), told)


def read_pairs(
    shards: Sequence[Path],
    *,
    dataset: str | None = None,
    skips: SkipLog | None = None,
    images: bool = True,
    columns: TableColumns | None = None,
) -> Iterator[Pair]:
    """Read pairs shard by shard, in the order of the files.

    A tar shard holds KEY.jpg (or jpeg, png, webp) next to KEY.txt (or text), or else KEY.json with
    a field "caption"; other members are ignored. A folder holds the same as loose files, also in
    folders inside. A table (tsv, csv, jsonl, parquet) has a column of images and one of captions;
    the first caption of an image counts.

    A pair is left out, and counted with the reason, when it lacks an image or a caption, when its
    caption is not UTF-8, when the shard had its key before, when its file is a link, too large or
    not readable, or when its key is no safe name: absolute, with "..", a backslash or control
    characters.

    Args:
        shards: tars, tables or folders of images.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        skips: where to count pairs that are left out. By default they are counted for one warning
            at the end.
        images: whether to keep the bytes of the images.
        columns: which columns of tables to read; by default those with usual names.

    Raises:
        DataMissingError: a shard does not exist or cannot be opened, or no shard holds a pair.
        FormatError: a tar is damaged or ends early, or a table is damaged or lacks a column.
    """
    own_log = SkipLog()
    used_log = own_log if skips is None else skips
    count = 0
    for shard in shards:
        for pair in read_shard(
            shard, dataset=dataset, skips=used_log, images=images, columns=columns
        ):
            count += 1
            yield pair
    own_log.report()
    if count == 0:
        where = shards[0] if shards else "no shard given"
        told = f"; skipped: {used_log.counts()}" if used_log.entries else ""
        raise DataMissingError(f"{where}: no pairs; a pair is KEY.jpg beside KEY.txt{told}")


def read_shard(
    shard: Path,
    *,
    dataset: str | None,
    skips: SkipLog,
    images: bool = True,
    columns: TableColumns | None = None,
) -> Iterator[Pair]:
    """Read the pairs of one shard, which may hold none; arguments and errors of `read_pairs`."""
    prefix = shard_prefix(shard, dataset)
    if not is_safe(prefix):
        raise UsageError(f"{printable(prefix)!r} cannot begin an id; name the data set, or rename")
    for key, caption, image in _judged(shard, columns, skips, images):
        yield Pair(f"{prefix}/{key}", key, caption, image)


def shard_prefix(shard: Path, dataset: str | None) -> str:
    """The first two parts of the ids of a shard: "<dataset>/<shard>".

    The same however the path is written: relative, absolute or through a linked folder.
    """
    if shard.name in ("", ".."):
        shard = shard.resolve()
    return f"{dataset or shard.parent.resolve().name}/{shard_stem(shard.name)}"


IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded, whatever a file's name says. Other decoders of Pillow's fail in many ways on
damaged data, and one runs another program."""

DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, RuntimeError, EOFError, struct.error, TypeError,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for images that it cannot decode."""


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        ValueError: not an image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            return _to_rgb(image)
    except DECODE_ERRORS as error:
        raise ValueError(f"image does not decode: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB; 16-bit greys are scaled, which Pillow would clip to white."""
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    return image.convert("RGB")


def _judged(
    shard: Path, columns: TableColumns | None, skips: SkipLog, images: bool
) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield (key, caption, image bytes) of one shard, counting what is left out."""
    seen: set[str] = set()
    for raw in _raw_pairs(shard, columns, images):
        caption, reason = _caption(raw, is_duplicate=raw.key in seen)
        seen.add(raw.key)
        if reason is not None:
            skips.add(shard, printable(raw.key), reason)
        else:
            yield raw.key, caption, raw.image if images else None


def _raw_pairs(shard: Path, columns: TableColumns | None, images: bool) -> Iterator[RawPair]:
    """The pairs of a shard of any kind, as they are found."""
    try:
        is_folder = stat.S_ISDIR(shard.stat().st_mode)
    except FileNotFoundError as error:
        raise DataMissingError(f"{shard}: no such shard; check the path") from error
    except OSError as error:
        raise DataMissingError(
            f"{shard}: cannot be opened ({error.strerror}); check its permissions"
        ) from error
    if is_folder:
        return folder_pairs(shard, images=images)
    if kind_of(shard.name) == "table":
        return table_pairs(shard, columns=columns, images=images)
    return tar_pairs(shard, images=images)


def _caption(raw: RawPair, *, is_duplicate: bool) -> tuple[str, str | None]:
    """The caption of a pair, or why the pair cannot be used."""
    faults = (
        (raw.fault is not None, raw.fault),
        (not is_safe(raw.key), "unsafe name"),
        (is_duplicate, "duplicate key"),
        (raw.caption is None, "no caption"),
        (raw.image is None, "no image"),
    )
    for is_so, reason in faults:
        if is_so:
            return "", reason
    assert raw.caption is not None
    # a text may hold surrogates: of bytes that were not UTF-8, or halves from JSON
    try:
        encoded = raw.caption if isinstance(raw.caption, bytes) else raw.caption.encode("utf-8")
        return encoded.decode("utf-8").removeprefix("\ufeff").strip(), None
    except UnicodeError:
        return "", "caption is not UTF-8"
