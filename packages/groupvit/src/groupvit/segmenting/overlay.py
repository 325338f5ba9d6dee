"""A label map laid over its photograph, with a legend."""

import colorsys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

OPACITY = 0.55
_LINE, _SWATCH, _MARGIN = 24, 16, 8  # pixels of the legend


def colours(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) RGB colours whose hues are far apart (golden ratio steps)."""
    hues = (np.arange(count) * 0.61803399) % 1
    rows = [colorsys.hsv_to_rgb(hue, 0.75, 0.95) for hue in hues]
    return (np.asarray(rows).reshape(-1, 3) * 255).round().astype(np.uint8)  # (count, 3)


def draw_overlay(
    image: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], names: Sequence[str]
) -> Image.Image:
    """Tint every pixel by its label and name the tints below the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W), places in `names`.
        names: of the classes; only those that occur are in the legend, largest first.

    Returns:
        A picture of the same width and H plus the legend's height.

    Raises:
        ValueError: shapes disagree.
    """
    if image.shape[:2] != labels.shape:
        raise ValueError(f"labels must be {image.shape[:2]} like the image, got {labels.shape}")
    palette = colours(len(names))  # (K, 3)
    tinted = (1 - OPACITY) * image + OPACITY * palette[labels]  # (H, W, 3)
    share = np.bincount(labels.ravel(), minlength=len(names)) / labels.size  # (K,)
    shown = [int(k) for k in np.argsort(-share, kind="stable") if share[k] > 0]
    height, width = labels.shape
    sheet = Image.new("RGB", (width, height + 2 * _MARGIN + _LINE * len(shown)), "white")
    sheet.paste(Image.fromarray(tinted.round().astype(np.uint8)), (0, 0))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, k in enumerate(shown):
        top = height + _MARGIN + row * _LINE
        box = (_MARGIN, top, _MARGIN + _SWATCH, top + _SWATCH)
        pen.rectangle(box, fill=tuple(int(value) for value in palette[k]))
        text = f"{names[k]}  {share[k]:.0%}"
        pen.text((2 * _MARGIN + _SWATCH, top), text, fill="black", font=font)
    return sheet
