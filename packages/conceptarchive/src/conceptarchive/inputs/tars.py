"""Pairs in tar shards as img2dataset writes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conceptarchive.inputs.raw import (
    IMAGE_SUFFIXES,
    JSON_SUFFIX,
    MAX_CAPTION_BYTES,
    MAX_IMAGE_BYTES,
    TEXT_SUFFIXES,
    RawPair,
    json_caption,
    split_suffix,
    tidy,
)
from conceptarchive.inputs.tarmembers import FILES, FOLDER, LINKS, TarReader

KINDS = (
    dict.fromkeys(IMAGE_SUFFIXES, "image")
    | dict.fromkeys(TEXT_SUFFIXES, "text")
    | {JSON_SUFFIX: "json"}
)


class _PairFile(NamedTuple):
    """An image, text or json file under its key."""

    key: str
    kind: str
    data: bytes
    fault: str | None


def tar_pairs(shard: Path, *, images: bool = True) -> Iterator[RawPair]:
    """Yield the pairs of a tar, plain or gzipped, in its order.

    KEY.jpg (jpeg, png, webp) goes with the KEY.txt (text) next to it, else with the field
    "caption" of KEY.json. A second image or text under a key starts a new pair. Members are never
    unpacked to a disk.

    Args:
        shard: the tar.
        images: whether to read the bytes of images; without, they are stepped over.

    Raises:
        DataMissingError: the file cannot be opened.
        FormatError: not a tar, damaged, ending early, or unreadable; after pairs that came before.
    """
    with TarReader(shard) as reader:
        yield from _group_by_key(_pair_files(reader, images))


def _group_by_key(files: Iterator[_PairFile]) -> Iterator[RawPair]:
    """Join consecutive files of one key."""
    parts: dict[str, _PairFile] = {}
    current: str | None = None
    for file in files:
        if current is not None and (file.key != current or file.kind in parts):
            yield _join(current, parts)
            parts = {}
        current = file.key
        parts[file.kind] = file
    if current is not None:
        yield _join(current, parts)


def _join(key: str, parts: dict[str, _PairFile]) -> RawPair:
    """One pair of the files under a key; with a text, the json is not looked at."""
    used = {kind: file for kind, file in parts.items() if kind != "json" or "text" not in parts}
    image = used["image"].data if "image" in used else None
    fault = next((file.fault for file in used.values() if file.fault is not None), None)
    if fault is not None or "json" not in used:
        return RawPair(key, image, used["text"].data if "text" in used else None, fault)
    caption, fault = json_caption(used["json"].data)
    return RawPair(key, image, caption, fault)


def _pair_files(reader: TarReader, images: bool) -> Iterator[_PairFile]:
    """Yield the images, texts and json files of a tar."""
    for name, member, size in reader:
        key, suffix = split_suffix(tidy(name))
        kind = KINDS.get(suffix)
        # macOS keeps attributes of KEY.jpg in ._KEY.jpg
        if kind is None or member == FOLDER or key.rpartition("/")[2].startswith("._"):
            reader.skip(size)
            continue
        fault = _fault(member, kind, size)
        if fault is not None or (kind == "image" and not images):
            reader.skip(size)
            yield _PairFile(key, kind, b"", fault)
        else:
            yield _PairFile(key, kind, reader.take(size), None)


def _fault(member: bytes, kind: str, size: int) -> str | None:
    """Say why a member is not read, or None."""
    if member in LINKS:
        return "link"
    if member not in FILES:
        return "not a plain file"
    if kind == "image":
        return "image too large" if size > MAX_IMAGE_BYTES else None
    return "caption too large" if size > MAX_CAPTION_BYTES else None
