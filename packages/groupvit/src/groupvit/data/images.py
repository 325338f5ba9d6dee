"""Decoding of images, and pairs whose image does not decode."""

import io
import logging
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from groupvit.data.index import Location, Pairs, Skipped
from groupvit.errors import DataError
from groupvit.progress import progress

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded, whatever a file's name says; Pillow's other decoders fail in many ways, and one
runs another program."""
_UNDECODABLE = (
    OSError, SyntaxError, ValueError, TypeError, RuntimeError, EOFError, IndexError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged images."""


class UndecodableError(Exception):
    """Not an image, a damaged one, or one too large."""


def decode(content: bytes) -> Image.Image:
    """Decode an image file to RGB.

    Raises:
        UndecodableError: with the reason.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise UndecodableError("not an image") from error
    except _UNDECODABLE as error:
        raise UndecodableError(" ".join(str(error).split())) from error


def without_corrupt(pairs: Sequence[Location]) -> tuple[Sequence[Location], list[Skipped]]:
    """Leave out pairs whose image cannot be decoded; reads every image once.

    Args:
        pairs: from `index_shards`, or any sequence.

    Returns:
        pairs that can be trained on (of `Pairs` `Pairs`, else a list; what was given if all
        can), and the others.

    Raises:
        DataError: none can be decoded, or a shard cannot be read.
    """
    kept: list[int] = []
    skipped: list[Skipped] = []
    for number, pair in enumerate(progress(pairs, desc="check images", unit="image")):
        try:
            decode(pair.read()[0])
        except UndecodableError as error:
            skipped.append(Skipped(pair.id, f"image cannot be decoded: {error}"))
        else:
            kept.append(number)
    if skipped:
        log.warning(
            "%d images left out, first %s (%s)", len(skipped), skipped[0].id, skipped[0].reason
        )
    if not kept:
        raise DataError("none of the images can be decoded")
    if not skipped:
        return pairs, skipped
    if isinstance(pairs, Pairs):
        return pairs.select(np.array(kept, np.int64)), skipped
    return [pairs[number] for number in kept], skipped
