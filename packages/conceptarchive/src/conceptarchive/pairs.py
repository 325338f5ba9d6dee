"""Image-caption pairs: img2dataset tar shards, folders with sidecar captions, TSV tables."""

import csv
import io
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from PIL import Image

from conceptarchive.errors import DataMissingError, FormatError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
CAPTION_SUFFIXES = frozenset({".txt", ".text"})
TAR_BLOCK = 512  # bytes; a tar ends with at least one block of zeros


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


def find_shards(path: Path) -> list[Path]:
    """List the shards that a path holds, sorted by name.

    A file is one shard. A folder gives its tar files, else its TSV tables, else itself when it
    holds images.

    Raises:
        DataMissingError: nothing there.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataMissingError(f"{path}: no such file or folder; give tar shards or their folder")
    found = sorted(path.glob("*.tar")) or sorted(path.glob("*.tsv"))
    if found:
        return found
    if any(child.suffix.lower() in IMAGE_SUFFIXES for child in path.iterdir()):
        return [path]
    raise DataMissingError(f"{path}: no *.tar, *.tsv or images in this folder; check the path")


def read_pairs(
    shards: Sequence[Path],
    *,
    dataset: str | None = None,
    skips: SkipLog | None = None,
    images: bool = True,
) -> Iterator[Pair]:
    """Read pairs shard by shard, in the order of the files.

    A tar shard holds KEY.jpg (or jpeg, png, webp) and KEY.txt (or text); other members are
    ignored. A folder holds the same as loose files. A TSV table has the columns `image`, a path
    relative to the table, and `caption`; the first caption of an image counts.

    Args:
        shards: tar files, TSV tables or folders of images.
        dataset: first part of every id; by default the name of the folder that holds the shard.
        skips: where to count pairs without an image, without a caption, with a caption that is
            not UTF-8, or with a key that the shard had before. By default they are counted for
            one warning at the end.
        images: whether to keep the bytes of the images.

    Raises:
        DataMissingError: a shard does not exist, or no shard holds a pair.
        FormatError: a tar is damaged or ends early, or a table lacks a column.
    """
    own_log = SkipLog()
    count = 0
    for shard in shards:
        for pair in read_shard(
            shard, dataset=dataset, skips=own_log if skips is None else skips, images=images
        ):
            count += 1
            yield pair
    own_log.report()
    if count == 0:
        where = shards[0] if shards else "no shard given"
        raise DataMissingError(f"{where}: no pairs; a pair is KEY.jpg beside KEY.txt")


def read_shard(
    shard: Path, *, dataset: str | None, skips: SkipLog, images: bool = True
) -> Iterator[Pair]:
    """Read the pairs of one shard, which may hold none; arguments and errors of `read_pairs`."""
    prefix = shard_prefix(shard, dataset)
    for key, caption, image in _valid_members(shard, skips, images):
        yield Pair(f"{prefix}/{key}", key, caption, image)


def shard_prefix(shard: Path, dataset: str | None) -> str:
    """The first two parts of the ids of a shard: "<dataset>/<shard>"."""
    return f"{dataset or shard.resolve().parent.name}/{shard.stem}"


def decode_image(data: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        ValueError: not an image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image does not decode: {error}") from error


def _valid_members(
    shard: Path, skips: SkipLog, images: bool
) -> Iterator[tuple[str, str, bytes | None]]:
    """Yield (key, caption, image bytes) of one shard, counting what is left out."""
    seen: set[str] = set()
    for key, image, caption in _members(shard):
        reason = _fault(key in seen, image, caption)
        seen.add(key)
        if reason is not None:
            skips.add(shard, key, reason)
            continue
        assert image is not None and caption is not None
        yield key, caption.decode("utf-8").strip(), image if images else None


def _fault(is_duplicate: bool, image: bytes | None, caption: bytes | None) -> str | None:
    """Say why a pair cannot be used, or None."""
    if is_duplicate:
        return "duplicate key"
    if caption is None:
        return "no caption"
    if image is None:
        return "no image"
    try:
        caption.decode("utf-8")
    except UnicodeDecodeError:
        return "caption is not UTF-8"
    return None


def _members(shard: Path) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Yield (key, image bytes, caption bytes) of one shard, None for what is missing."""
    if not shard.exists():
        raise DataMissingError(f"{shard}: no such shard; check the path")
    if shard.is_dir():
        yield from _folder_members(shard)
    elif shard.suffix == ".tsv":
        yield from _table_members(shard)
    else:
        yield from _group_by_key(_tar_files(shard))


def _group_by_key(
    files: Iterator[tuple[str, str, bytes]],
) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Join consecutive files of one key.

    A second image or caption under the same key starts a new pair, a duplicate.
    """
    current: str | None = None
    parts: dict[str, bytes] = {}
    for key, suffix, data in files:
        kind = "image" if suffix in IMAGE_SUFFIXES else "caption"
        if current is not None and (key != current or kind in parts):
            yield current, parts.get("image"), parts.get("caption")
            parts = {}
        current = key
        parts[kind] = data
    if current is not None:
        yield current, parts.get("image"), parts.get("caption")


def _tar_files(shard: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (key, suffix, bytes) of the images and captions of a tar."""
    last = "the start"
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                suffix = name.suffix.lower()
                if member.isfile() and suffix in IMAGE_SUFFIXES | CAPTION_SUFFIXES:
                    file = tar.extractfile(member)
                    assert file is not None
                    yield name.with_suffix("").as_posix(), suffix, file.read()
                last = member.name
    except (tarfile.TarError, EOFError) as error:
        raise FormatError(f"{shard}: damaged tar after {last} ({error}); fetch it again") from error
    _require_tar_end(shard, last)


def _require_tar_end(shard: Path, last: str) -> None:
    """Raise FormatError when the closing zero block is missing: `tarfile` stops in silence."""
    with shard.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - TAR_BLOCK))
        if size % TAR_BLOCK or file.read().strip(b"\0"):
            raise FormatError(f"{shard}: tar ends early, after {last}; fetch it again")


def _folder_members(folder: Path) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Yield the images of a folder with the caption file beside each."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        sidecars = (path.with_suffix(suffix) for suffix in sorted(CAPTION_SUFFIXES))
        caption = next((side.read_bytes() for side in sidecars if side.is_file()), None)
        yield path.stem, path.read_bytes(), caption


def _table_members(table: Path) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    """Yield the rows of a TSV table; images are read relative to the table."""
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"image", "caption"} - set(rows.fieldnames or ())
        if missing:
            raise FormatError(f"{table}: no column {sorted(missing)[0]!r} in its first line")
        for row in rows:
            path = table.parent / row["image"]
            image = path.read_bytes() if path.is_file() else None
            caption = row["caption"]
            # surrogates bring back the bytes, so that UTF-8 is judged in one place
            data = None if caption is None else caption.encode("utf-8", "surrogateescape")
            yield PurePosixPath(row["image"]).with_suffix("").as_posix(), image, data
