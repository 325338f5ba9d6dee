"""Pictures from a browser: measured before they are decoded, and shrunk to what is looked at."""

import base64
import io
import struct
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from integration.demo.errors import InputError

Photo = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 25_000_000
SHOWN_PX = 1024
"""Longest side of a picture after it was read; larger ones are shrunk."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
SMALL_PX = 256
"""Pictures with no longer side are shown as squares, without smoothing."""

UNREADABLE = (
    f"this is not a picture that can be read; give a whole {', '.join(FORMATS[:-1])} "
    f"or {FORMATS[-1]} file of at most {MAX_PIXELS:,} pixels"
)
"""What is said of any other file."""

_DAMAGED = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for a damaged file, or one that claims to be huge."""


def read_picture(data: bytes | None) -> Photo:
    """Decode a picture that a browser has sent.

    The size of the file, then its format and the number of pixels in its header are checked before
    anything is decoded. The picture is turned upright as its EXIF data say; what is transparent
    becomes white; of an animation the first frame is taken.

    Args:
        data: a file of one of `FORMATS`; None when there is none yet.

    Returns:
        (H, W, 3) uint8 RGB, the longer side at most `SHOWN_PX`.

    Raises:
        InputError: no picture, too large a file, too many pixels, another format, or damaged.
    """
    if not data:
        raise InputError("there is no picture yet; drop one, or draw a scene")
    check_bytes(len(data))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are measured here
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                check_pixels(*opened.size)
                return _decode(opened)
    except _DAMAGED as error:
        raise InputError(UNREADABLE) from error


def check_bytes(size: int) -> None:
    """Refuse a file that is too large.

    Args:
        size: bytes.

    Raises:
        InputError: more than `MAX_BYTES`.
    """
    if size > MAX_BYTES:
        raise InputError(
            f"the file has {size / 2**20:.1f} MB, at most {MAX_BYTES // 2**20} are read; "
            "save it smaller"
        )


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture of too many pixels.

    Raises:
        InputError: more than `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            f"the picture has {width} x {height} pixels, at most {MAX_PIXELS:,} are read; "
            "make it smaller"
        )


def _decode(opened: Image.Image) -> Photo:
    """(H, W, 3) of a picture that was measured."""
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        raise InputError("the picture has more than 8 bits a colour; save it with 8")
    opened.draft("RGB", (SHOWN_PX, SHOWN_PX))  # a JPEG is decoded no larger than needed
    upright = ImageOps.exif_transpose(opened)
    if upright.has_transparency_data:
        layer = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    picture = upright.convert("RGB")
    picture.thumbnail((SHOWN_PX, SHOWN_PX))
    return np.array(picture)


def data_uri(photo: Photo, *, exact: bool) -> str:
    """A picture as an address that holds it: a PNG when it has to be exact, else a JPEG."""
    buffer = io.BytesIO()
    kind = "PNG" if exact else "JPEG"
    Image.fromarray(photo).save(buffer, kind, quality=88)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_small(photo: Photo) -> bool:
    """Whether a picture is shown without smoothing."""
    return bool(max(photo.shape) <= SMALL_PX)
