"""Pictures of pairs for a page: found in their shards, made small, packed into text."""

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.inputs.pairs import DECODE_ERRORS, IMAGE_FORMATS, read_pairs, shard_prefix

Images = Callable[[str], bytes | None]
"""Gives the image file of a pair by its id, None where there is none."""


def pictures(archive: ConceptArchive, keys: Sequence[str], shards: Sequence[Path]) -> Images:
    """Read the images of some pairs and of their reference images.

    Only shards that ids name are read, each until the last wanted pair is found.

    Args:
        archive: the archive.
        keys: pair ids.
        shards: tars, folders and tables of the pairs; see `find_shards`.

    Raises:
        KeyError: a pair that is not in the archive; and the errors of `read_pairs`.
    """
    wanted = set(keys)
    wanted |= {reference for key in keys for reference, _ in archive.references(key)}
    found: dict[str, bytes] = {}
    for shard, dataset in _data_sets(shards, wanted):
        prefix = f"{shard_prefix(shard, dataset)}/"
        here = {key for key in wanted - found.keys() if key.startswith(prefix)}
        for pair in read_pairs([shard], dataset=dataset) if here else ():
            if pair.id in here and pair.image is not None:
                found[pair.id] = pair.image
                here.remove(pair.id)
            if not here:
                break
    return found.get


def _data_sets(shards: Sequence[Path], wanted: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Shards with the data set under which ids name them: that of their folder, if any does.

    Where ids are all of one data set that no folder is named after, it was named when they were
    embedded, and shards are told by their own names.
    """
    named = {key.partition("/")[0] for key in wanted}
    folders = {shard: shard_prefix(shard, None).partition("/")[0] for shard in shards}
    known = named & set(folders.values())
    for shard, folder in folders.items():
        if folder in known:
            yield shard, folder
        elif not known and len(named) == 1:
            yield shard, min(named)


def data_uri(data: bytes, size_px: int) -> str | None:
    """A picture no larger than a square, as an address that holds it; None when it is no image.

    Args:
        data: an image file.
        size_px: side of the square.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
    except DECODE_ERRORS:
        return None
    small.thumbnail((size_px, size_px))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
