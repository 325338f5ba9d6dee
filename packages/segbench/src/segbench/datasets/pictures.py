"""Images and label files as arrays: colours, indices, ids stored as colours, MATLAB label maps."""

import importlib
import math
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from segbench.errors import DataMissingError, FormatError, UnreadableImageError

Indices: TypeAlias = npt.NDArray[np.int32]
"""(H, W) values as a label file holds them, in [0, 65535]."""

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""What is decoded, whatever a file's name says; one of Pillow's other decoders runs a program."""

DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises for damaged files, and for those that claim to be huge."""

MOST_PIXELS = 178_956_970
"""Of a label map that is no picture: as many as Pillow takes for harmless."""

INDEX_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B"})


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB, whatever colours the file stores; its orientation tag is not applied.

    Raises:
        UnreadableImageError: missing, or it cannot be decoded.
    """
    return _colours(_decode(path, path))


def decode_image(content: bytes, name: str) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB of the bytes of an image file, called `name` in errors.

    Raises:
        UnreadableImageError: they cannot be decoded.
    """
    return _colours(_decode(BytesIO(content), name))


def read_indices(path: Path) -> Indices:
    """Class indices of an 8-bit, palette or 16-bit PNG or TIFF, never its colours.

    Raises:
        UnreadableImageError: missing, or it cannot be decoded.
        FormatError: the file holds colours, or a value outside [0, 65535].
    """
    picture = _decode(path, path)
    if picture.mode not in INDEX_MODES:
        raise FormatError(
            f"{path}: holds colours (mode {picture.mode!r}), but a label file must hold indices"
        )
    return _in_range(np.asarray(picture), path)


def read_colour_ids(path: Path) -> Indices:
    """ImageNet-S labels, stored as colours: id = R + 256 G, computed in int32.

    Raises:
        UnreadableImageError: missing, or it cannot be decoded.
        FormatError: the file is not RGB, or its blue is not 0.
    """
    picture = _decode(path, path)
    if picture.mode != "RGB":
        raise FormatError(f"{path}: must be RGB with id = R + 256 G, got mode {picture.mode!r}")
    colours = np.asarray(picture).astype(np.int32)  # (H, W, 3), before 256 G overflows 8 bits
    if colours[..., 2].any():
        raise FormatError(f"{path}: blue must be 0 where id = R + 256 G: {colours[..., 2].max()}")
    return colours[..., 0] + 256 * colours[..., 1]


def read_label_map(path: Path) -> Indices:
    """The matrix `LabelMap` of a MATLAB file, as PASCAL Context comes in.

    Raises:
        DataMissingError: scipy is not installed.
        UnreadableImageError: missing, or it cannot be decoded.
        FormatError: it holds no `LabelMap`, or one that is no matrix of values in [0, 65535].
    """
    content = load_matlab(path)
    if "LabelMap" not in content:
        found = sorted(key for key in content if not key.startswith("__"))
        raise FormatError(f"{path}: no matrix LabelMap, found {found}")
    values = np.asarray(content["LabelMap"])
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise FormatError(f"{path}: LabelMap is {values.dtype} of shape {values.shape}")
    return _in_range(values, path)


def load_matlab(path: Path) -> dict[str, object]:
    """Variables of a MATLAB file, version 4 to 7.

    Raises:
        DataMissingError: scipy is not installed.
        UnreadableImageError: missing, or it cannot be decoded.
    """
    try:
        # by name: scipy is optional and has no types
        matlab = importlib.import_module("scipy.io.matlab")
    except ModuleNotFoundError as error:
        raise DataMissingError(f"{path}: reading .mat needs scipy: pip install scipy") from error
    # what scipy raises on files cut off at any byte, and on files of MATLAB 7.3
    damaged = (OSError, ValueError, TypeError, IndexError, zlib.error, NotImplementedError)
    try:
        for name, shape, _ in matlab.whosmat(path):  # a few bytes may inflate to any size
            if math.prod(shape) > MOST_PIXELS:
                raise ValueError(f"{name} has more than {MOST_PIXELS:,} values: {shape}")
        content: dict[str, object] = matlab.loadmat(path, squeeze_me=False)
    except (*damaged, matlab.MatReadError) as error:
        raise UnreadableImageError(f"{path}: cannot be decoded: {_line(error)}") from error
    return content


def _decode(source: Path | BytesIO, name: Path | str) -> Image.Image:
    try:
        with Image.open(source, formats=FORMATS) as picture:
            picture.load()
            return picture
    except UnidentifiedImageError as error:  # whose text names a buffer by its address
        raise UnreadableImageError(f"{name}: cannot be decoded: no image file") from error
    except DECODE_ERRORS as error:
        raise UnreadableImageError(f"{name}: cannot be decoded: {_line(error)}") from error


def _colours(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W, 3) RGB; `convert` would copy what is RGB already."""
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _in_range(values: npt.NDArray[np.generic], path: Path) -> Indices:
    if values.dtype in (np.uint8, np.uint16) and values.size:  # nothing to check
        return values.astype(np.int32)
    wide = values.astype(np.int64)  # (H, W)
    if wide.size == 0 or (wide != values).any():
        raise FormatError(f"{path}: must hold whole numbers, got {values.dtype} {values.shape}")
    if wide.min() < 0 or wide.max() > 65535:
        raise FormatError(f"{path}: values must be in [0, 65535], got {wide.min()} to {wide.max()}")
    return wide.astype(np.int32)
