"""Pictures as people have them: found in folders, read into RGB, upright."""

import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from groupvit.errors import DataError
from groupvit.segmenting.windows import Photo

log = logging.getLogger(__name__)

_UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)
"""What Pillow's decoders raise for a damaged file."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is decoded, whatever a file's name says; one of Pillow's other decoders runs a program."""

_ONE_PICTURE = {"MPO"}
"""Formats of cameras that keep previews as further frames."""

_SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm",
    ".tif", ".tiff", ".webp",
}  # fmt: skip
"""What is taken for a picture in a folder; a file that is named itself may have any suffix."""


def open_photo(path: Path | str) -> Photo:
    """Read a picture as it is meant to be seen.

    It is turned upright as its EXIF data say; what is transparent becomes white; 16 bits a value
    are scaled to 8; of an animation or a document the first frame is taken, which a warning says.

    Args:
        path: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF, under any name.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: no such file, no picture, damaged, or more pixels than Pillow takes for harmless.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures, odd metadata: read all the same
            with Image.open(path, formats=_known_formats()) as opened:
                frames = getattr(opened, "n_frames", 1)
                several = frames > 1 and opened.format not in _ONE_PICTURE
                ImageOps.exif_transpose(opened, in_place=True)
                photo = np.array(_to_rgb(opened))  # (H, W, 3)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{path}: is a folder, not a picture") from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller "
            "first, a short side of 448 is all that is looked at"
        ) from error
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a picture that can be read ({error})") from error
    if several:
        log.warning("%s: has %d frames, the first is taken", path, frames)
    return photo


def find_photos(places: Sequence[str | Path]) -> list[Path]:
    """Files as they are given, and the pictures in folders by name.

    A file in a folder is taken for a picture by its suffix; folders inside are not looked into.

    Raises:
        DataError: nothing was given, something is not there, or a folder has no picture.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if not place.exists():
            raise DataError(f"{place}: no such file")
        inside = _pictures_in(place) if place.is_dir() else [place]
        if not inside:
            raise DataError(f"{place}: no picture in this folder")
        found += inside
    if not found:
        raise DataError("no picture was given")
    return found


def read_photos(paths: Sequence[Path], *, batch: int) -> Iterator[list[tuple[Path, Photo]]]:
    """Read pictures, some at a time; one that cannot be read is named and left out.

    Args:
        paths: at least one.
        batch: how many are held at once.

    Yields:
        Up to `batch` paths with their pictures, never an empty list.

    Raises:
        DataError: after all others have been read: how many could not be; what is wrong, if there
            is one path only.
    """
    failed: list[DataError] = []
    for start in range(0, len(paths), batch):
        tried = [_try_open(path) for path in paths[start : start + batch]]
        wrong = [found for found in tried if isinstance(found, DataError)]
        for error in wrong:
            if len(paths) > 1:
                log.warning("%s", error)
        failed += wrong
        if good := [found for found in tried if not isinstance(found, DataError)]:
            yield good
    if failed:
        count = f"{len(failed)} of {len(paths)} pictures could not be read"
        raise failed[0] if len(paths) == 1 else DataError(count)


def _try_open(path: Path) -> tuple[Path, Photo] | DataError:
    try:
        return path, open_photo(path)
    except DataError as error:
        return error


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and p.is_file())


def _known_formats() -> tuple[str, ...]:
    """Those of `_FORMATS` that this Pillow has: AVIF came late."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of a picture of any mode."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
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
