"""Pictures of a segmentation: names laid over a photograph, group maps, label maps."""

import colorsys
from collections.abc import Iterator, Sequence
from textwrap import shorten

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from groupvit.segmenting.windows import Photo

OPACITY = 0.55
"""Of the colours laid over a photograph."""

Labels = npt.NDArray[np.integer]

_STRIP = 1 << 20  # pixels tinted at a time, to bound memory
_WHITE = np.full(3, 255, dtype=np.uint8)
_FONT_PX, _LARGEST_FONT_PX = 14, 64
_SIDE_OF_FONT = 40  # a letter's height is at least this part of the picture's short side


def colours(count: int, *, background: bool = False) -> Photo:
    """(count, 3) RGB colours whose hues are far apart (golden ratio steps).

    Args:
        count: of colours.
        background: whether the first one is black and the hues start at the second.
    """
    hues = (np.arange(count - background) * 0.61803399) % 1
    rows = [(0.0, 0.0, 0.0)] * (background and count > 0)
    rows += [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    return (np.asarray(rows).reshape(-1, 3) * 255).round().astype(np.uint8)  # (count, 3)


def shares(labels: Labels, count: int) -> npt.NDArray[np.float64]:
    """(count,) share of the pixels that each label has; they sum to 1."""
    return np.bincount(labels.ravel(), minlength=count) / labels.size


def draw_overlay(
    image: Photo, labels: Labels, names: Sequence[str], *, background: bool = False
) -> Image.Image:
    """Tint every pixel by its label and name the tints below the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W), places in `names`.
        names: of the classes; only those that occur are in the legend, largest first.
        background: whether label 0 is background, which is darkened and takes no hue.

    Returns:
        The picture at its own size, and the legend below it. The sheet is wider than the picture
        only where the legend does not fit.

    Raises:
        ValueError: shapes disagree.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"labels must be {image.shape[:2]} like the image, got {labels.shape}")
    palette = colours(len(names), background=background)  # (K, 3)
    share = shares(labels, len(names))  # (K,)
    shown = [int(k) for k in np.argsort(-share, kind="stable") if share[k] > 0]
    entries = [(palette[k], f"{shorten(names[k], 60)}  {share[k]:.0%}") for k in shown]
    return _with_legend(_tinted(image, labels, palette), entries)


def draw_groups(image: Photo, maps: Sequence[Labels]) -> Image.Image:
    """Lay the groups of every stage over a photograph, side by side, last stage first.

    Args:
        image: (H, W, 3) uint8 RGB.
        maps: (h, w) group ids of each stage, first to last, of any size.

    Returns:
        Copies of the picture at its own size, and below them how many groups own pixels.
    """
    sheets = []
    for stage, small in reversed(list(enumerate(maps, start=1))):
        tinted = _tinted(image, _nearest(small, image.shape[:2]), colours(int(small.max()) + 1))
        text = f"stage {stage}, groups that own pixels: {len(np.unique(small))}"
        sheets.append(np.asarray(_with_legend(tinted, [(_WHITE, text)])))
    return Image.fromarray(np.concatenate(sheets, axis=1))


def _nearest(labels: Labels, size: tuple[int, int]) -> Labels:
    """(h, w) -> (H, W), the nearest label of every pixel."""
    rows, columns = (np.arange(n) * old // n for n, old in zip(size, labels.shape, strict=True))
    near: Labels = labels[rows[:, None], columns]  # (H, W)
    return near


def label_picture(labels: Labels, count: int, *, background: bool = False) -> Image.Image:
    """A label map as a picture whose values are the labels.

    Args:
        labels: (H, W) in [0, count).
        count: how many classes there are, background included.
        background: whether label 0 is background; it is black then.

    Returns:
        Palette picture in the colours of the overlay up to 256 classes, 16-bit grey above.

    Raises:
        ValueError: more than 65,536 classes.
    """
    if count > 1 << 16:
        raise ValueError(f"a label picture holds 65,536 classes, got {count}")
    if count > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette(colours(count, background=background).tobytes())
    return picture


def _tinted(image: Photo, labels: Labels, palette: Photo) -> Photo:
    """(H, W, 3) uint8 mixture of a photograph and the colours of its labels."""
    mixed = np.empty_like(image)  # (H, W, 3)
    for rows in _strips(image):
        mixture = (1 - OPACITY) * image[rows] + OPACITY * palette[labels[rows]]
        mixed[rows] = mixture.round().astype(np.uint8)
    return mixed


def _strips(image: Photo) -> Iterator[slice]:
    """Slices of rows that cover a picture."""
    step = max(_STRIP // image.shape[1], 1)
    return (slice(top, top + step) for top in range(0, image.shape[0], step))


def _with_legend(panel: Photo, entries: Sequence[tuple[Photo, str]]) -> Image.Image:
    """A picture and below it, in columns, swatches with what they mean."""
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
