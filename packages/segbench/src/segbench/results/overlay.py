"""Pictures: label maps over photographs, with a legend."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Labels = npt.NDArray[np.integer]
Photo = npt.NDArray[np.uint8]

_LINE_PX, _SWATCH_PX, _LEGEND_PX = 16, 10, 150
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def palette(classes: int) -> Photo:
    """Colours of classes, the same for every run.

    PASCAL VOC's rule: the bits of `class + 1` are dealt to red, green and blue in turn, highest
    bit of the colour first. Distinct for the first 2^24 - 1 classes; black is left for ignored.

    Returns:
        (K, 3) uint8.
    """
    index = np.arange(1, classes + 1)  # (K,)
    colours = np.zeros((classes, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return colours.astype(np.uint8)


def blend(image: Photo, labels: Labels, classes: int, alpha: float = 0.6) -> Photo:
    """Paint labels over a photograph.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) ids in [0, K); pixels at -1 stay as photographed.
        classes: K.
        alpha: weight of the colour, in [0, 1].

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: sizes differ.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image is {image.shape[:2]}, labels are {labels.shape}")
    colour = palette(classes)[np.maximum(labels, 0)]  # (H, W, 3)
    mixed = np.rint((1 - alpha) * image + alpha * colour).astype(np.uint8)
    return np.where((labels >= 0)[..., None], mixed, image)


def overlay(
    image: Photo, labels: Labels, names: Sequence[str], *, alpha: float = 0.6
) -> Image.Image:
    """Label map over a photograph, with a legend of the classes in it.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W), -1 is ignored.
        names: K class names.
        alpha: weight of the colour, in [0, 1].

    Returns:
        RGB picture: the photograph, and to its right the legend, largest class first.
    """
    return _with_legend([blend(image, labels, len(names), alpha)], [labels], names)


def strip(image: Photo, truth: Labels, prediction: Labels, names: Sequence[str]) -> Image.Image:
    """Photograph, truth and prediction side by side, with one legend.

    Args:
        image: (H, W, 3) uint8.
        truth: (H, W), -1 is ignored.
        prediction: (H, W).
        names: K class names.
    """
    painted = [blend(image, labels, len(names)) for labels in (truth, prediction)]
    return _with_legend([image, *painted], [truth, prediction], names)


def _with_legend(
    panels: Sequence[Photo], maps: Sequence[Labels], names: Sequence[str]
) -> Image.Image:
    """Panels in a row, and a column that names the classes of `maps`, largest first."""
    row = np.concatenate(list(panels), axis=1)  # (H, W of all, 3)
    ids = np.concatenate([labels.ravel() for labels in maps])
    areas = np.bincount(ids[ids >= 0], minlength=len(names))  # (K,)
    order = [int(c) for c in np.argsort(-areas, kind="stable") if areas[c] > 0]
    height = max(row.shape[0], _LINE_PX * len(order))
    canvas = Image.new("RGB", (row.shape[1] + _LEGEND_PX, height), _WHITE)
    canvas.paste(Image.fromarray(row), (0, 0))
    _draw_legend(canvas, row.shape[1], [(c, names[c]) for c in order], palette(len(names)))
    return canvas


def _draw_legend(
    canvas: Image.Image, left: int, entries: Sequence[tuple[int, str]], colours: Photo
) -> None:
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
    for line, (label, name) in enumerate(entries):
        x, y = left + 4, line * _LINE_PX + 3
        red, green, blue = (int(value) for value in colours[label])
        draw.rectangle((x, y, x + _SWATCH_PX, y + _SWATCH_PX), fill=(red, green, blue))
        draw.text((x + _SWATCH_PX + 5, y - 1), name[:22], fill=_BLACK, font=font)
