"""Photographs as people have them: found in folders, read into RGB, upright."""

import struct
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from maskcluster.errors import DataError, UsageError

Photo = npt.NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""

SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm",
    ".tif", ".tiff", ".webp",
})  # fmt: skip
"""What is taken for a photograph in a folder; a file that is named itself may have any suffix."""

TURNED, ALPHA, DEEP, FRAMES = (
    "turned upright",
    "transparency on white",
    "16 bits to 8",
    "first frame",
)
"""How a photograph may be changed on reading, beside `X to RGB` for a mode X of Pillow."""

_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)
"""What Pillow's decoders raise for a damaged file."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is decoded, whatever a file's name says; one of Pillow's other decoders runs a program."""

_ONE_PICTURE = {"MPO"}
"""Formats of cameras that keep previews as further frames."""

_ORIENTATION = 0x0112


def find_photos(photos: Path | str | Sequence[Path | str]) -> Mapping[str, Path]:
    """Photographs by their keys, ascending.

    Args:
        photos: a folder, looked through with all folders inside, where a key is a file's path in it
            without the suffix and with `/` on any system; or files, where it is a file's name
            without the suffix.

    Raises:
        DataError: no such folder or file, or no photograph in it.
        UsageError: two photographs have one key.
    """
    if isinstance(photos, Path | str):
        folder = Path(photos)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        inside = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        pairs = [(p.relative_to(folder).with_suffix("").as_posix(), p) for p in inside]
    else:
        pairs = [(Path(p).stem, Path(p)) for p in photos]
    found: dict[str, Path] = {}
    for key, path in sorted(pairs):
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if key in found:
            raise UsageError(f"{found[key]} and {path} have one key, {key!r}; rename one of them")
        found[key] = path
    if not found:
        raise DataError(f"{photos}: no photograph there")
    return found


def open_photo(path: Path | str) -> Photo:
    """Read a photograph as it is meant to be seen; see `read_photo`."""
    return read_photo(path)[0]


def read_photo(path: Path | str) -> tuple[Photo, tuple[str, ...]]:
    """Read a photograph as it is meant to be seen, and say what that took.

    JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 and AVIF are read, under any name. It is turned
    upright as its EXIF data say; grey, palettes and CMYK become RGB; what is transparent becomes
    white; 16 bits a value are scaled to 8; of an animation the first frame is taken.

    Returns:
        (H, W, 3) uint8 RGB, and how it was changed.

    Raises:
        DataError: no such file, no picture, damaged, or so many pixels that it is taken for a bomb.
    """
    with open_picture(path, _FORMATS) as opened:
        changes = _changes(opened)
        ImageOps.exif_transpose(opened, in_place=True)
        return np.array(_to_rgb(opened)), changes


@contextmanager
def open_picture(path: Path | str, formats: Sequence[str]) -> Iterator[Image.Image]:
    """Open a picture; what goes wrong while it is decoded ends in one line.

    Args:
        path: the file.
        formats: Pillow's names of what is decoded; of those that this Pillow has: AVIF came late.

    Raises:
        DataError: no such file, none of these formats, damaged, or so many pixels that it is taken
            for a bomb.
    """
    Image.init()
    known = tuple(name for name in formats if name in Image.OPEN)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures, odd metadata: read all the same
            with Image.open(path, formats=known) as opened:
                yield opened
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(f"{path}: has more than {most:,} pixels; make it smaller first") from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a picture that can be read ({reason})") from error


def _changes(image: Image.Image) -> tuple[str, ...]:
    found = []
    if image.getexif().get(_ORIENTATION, 1) not in (0, 1):
        found.append(TURNED)
    if getattr(image, "n_frames", 1) > 1 and image.format not in _ONE_PICTURE:
        found.append(FRAMES)
    if _is_deep(image):
        found.append(DEEP)
    elif image.has_transparency_data:
        found.append(ALPHA)
    elif image.mode != "RGB":
        found.append(f"{image.mode} to RGB")
    return tuple(found)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a picture of any mode."""
    if _is_deep(image):
        return Image.fromarray(_to_bytes(np.asarray(image), image.mode)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_bytes(values: npt.NDArray[np.generic], mode: str) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 of grey values with more than 8 bits.

    16 bits are scaled by their full range, as are 32-bit integers that fit (older versions of
    Pillow read 16-bit files so). Other values are stretched from their smallest to their largest.
    """
    grey = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)  # (H, W)
    low, high = 0.0, 65535.0
    if mode == "F" or not low <= grey.min() <= grey.max() <= high:
        low, high = float(grey.min()), float(grey.max())
    scaled = (grey - low) * (255 / max(high - low, 1e-30))
    return scaled.round().astype(np.uint8)
