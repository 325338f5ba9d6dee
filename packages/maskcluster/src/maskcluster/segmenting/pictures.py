"""Pictures of a segmentation: names laid over a photograph, and label maps as files."""

import colorsys
from collections.abc import Iterator, Sequence
from textwrap import shorten

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from maskcluster.masks.photo_files import Photo
from maskcluster.segmenting.bank import SYNONYMS

Labels = npt.NDArray[np.int32]
"""(H, W) classes; -1 is no class."""

OPACITY = 0.55
"""Of the colours laid over a photograph."""

MOST_CLASSES = 65535
"""That a label picture can hold."""

_TURN, _SHADES = 0.61803399, ((0.75, 0.95), (0.95, 0.65), (0.45, 1.0))
_STRIP = 1 << 20  # pixels tinted at a time, to bound memory
_FONT_PX, _LARGEST_FONT_PX = 14, 64
_SIDE_OF_FONT = 40  # a letter's height is at least this part of the picture's short side


def colours(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) RGB colours, neighbours far apart; the first are the same whatever the count."""
    rows = []
    for number in range(count):
        saturation, value = _SHADES[number % len(_SHADES)]
        rows.append(colorsys.hsv_to_rgb(number * _TURN % 1, saturation, value))
    return (255 * np.array(rows).reshape(-1, 3)).round().astype(np.uint8)


def shares(labels: Labels, count: int) -> npt.NDArray[np.float64]:
    """(count,) share of the pixels that each class has; with what has no class they sum to 1."""
    counts = np.bincount(labels.ravel() + 1, minlength=count + 1)[1:]  # (count,)
    return counts / labels.size


def draw_overlay(photo: Photo, labels: Labels, names: Sequence[str]) -> Image.Image:
    """Tint every pixel by its class and name the tints below the picture.

    Args:
        photo: (H, W, 3) uint8 RGB.
        labels: (H, W), places in `names`; pixels of no class are darkened.
        names: of the classes; those that occur are in the legend, largest first, by the first of
            their synonyms.

    Returns:
        The picture at its own size, and the legend below it. The sheet is wider than the picture
        only where the legend does not fit.

    Raises:
        ValueError: shapes disagree.
    """
    if photo.shape[:2] != labels.shape:
        raise ValueError(f"labels must be {photo.shape[:2]} like the photo, got {labels.shape}")
    palette = np.concatenate([colours(len(names)), np.zeros((1, 3), np.uint8)])  # the last is -1
    share = shares(labels, len(names))  # (K,)
    shown = [int(k) for k in np.argsort(-share, kind="stable") if share[k] > 0]
    entries = [
        (palette[k], f"{shorten(names[k].split(SYNONYMS)[0], 60)}  {share[k]:.0%}") for k in shown
    ]
    return _with_legend(_tinted(photo, labels, palette), entries)


def label_picture(labels: Labels, count: int) -> Image.Image:
    """A label map as a PNG whose values are the classes.

    Args:
        labels: (H, W) in [-1, count).
        count: how many classes there are.

    Returns:
        A palette picture in the colours of the overlay where -1 is 255; of more than 255 classes
        16-bit grey where -1 is 65535.

    Raises:
        ValueError: more than 65,535 classes.
    """
    if count > MOST_CLASSES:
        raise ValueError(f"a label picture holds {MOST_CLASSES} classes, got {count}")
    if count > 255:
        return Image.fromarray(labels.astype(np.uint16))  # -1 wraps to 65535
    picture = Image.fromarray(labels.astype(np.uint8))  # -1 wraps to 255
    palette = np.zeros((256, 3), np.uint8)
    palette[:count] = colours(count)
    picture.putpalette(palette.tobytes())
    return picture


def _tinted(photo: Photo, labels: Labels, palette: Photo) -> Photo:
    """(H, W, 3) uint8 mixture of a photograph and the colours of its classes."""
    mixed = np.empty_like(photo)  # (H, W, 3)
    for rows in _strips(photo):
        mixture = (1 - OPACITY) * photo[rows] + OPACITY * palette[labels[rows]]
        mixed[rows] = mixture.round().astype(np.uint8)
    return mixed


def _strips(photo: Photo) -> Iterator[slice]:
    """Slices of rows that cover a picture."""
    step = max(_STRIP // photo.shape[1], 1)
    return (slice(top, top + step) for top in range(0, photo.shape[0], step))


def _with_legend(panel: Photo, entries: Sequence[tuple[Photo, str]]) -> Image.Image:
    """A picture and below it, in columns, swatches with what they mean."""
    if not entries:
        return Image.fromarray(panel)
    height, width = panel.shape[:2]
    size = min(max(_FONT_PX, min(height, width) // _SIDE_OF_FONT), _LARGEST_FONT_PX)
    font, line = ImageFont.load_default(size), size * 12 // 7
    widest = max(int(font.getlength(text)) for _, text in entries) + 3 * line
    columns = min(max(width // widest, 1), len(entries))
    down = -(-len(entries) // columns)
    sheet = Image.new("RGB", (max(width, widest), height + line * (down + 1)), "white")
    sheet.paste(Image.fromarray(panel), (0, 0))
    pen = ImageDraw.Draw(sheet)
    for place, (colour, text) in enumerate(entries):
        left = line // 2 + place // down * widest
        top = height + line // 2 + place % down * line
        pen.rectangle((left, top, left + size, top + size), fill=tuple(map(int, colour)))
        pen.text((left + line, top + size // 2), text, fill="black", font=font, anchor="lm")
    return sheet
