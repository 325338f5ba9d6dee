"""Label maps on a page: colours that are told apart, one legend, columns that line up."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from itertools import chain

import numpy as np
import numpy.typing as npt
from PIL import Image

from integration.colours import oklab, separated
from integration.figures import UInt8Image, png_data

Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = tuple((r, g, b) for r, g, b in separated(19).tolist())
"""As many colours as scenes have classes."""

OTHERS: Colour = (127, 127, 127)
"""Of classes beyond the `MOST` largest of a picture."""

MOST = 12
"""Classes of a picture that get a colour of their own."""

PAINT = 0.85
"""Weight of a colour over the picture in grey."""

MARK: Colour = (255, 40, 60)
"""Of a single class."""

SIDE_PX = 320
"""Longer side of a panel, or a little less."""

Labels = npt.NDArray[np.integer]


def largest_classes(maps: Iterable[Labels]) -> list[int]:
    """Classes in label maps of one picture, largest first, at most `MOST`."""
    pixels = np.concatenate([labels.ravel() for labels in maps])  # (n,)
    areas = np.bincount(pixels[pixels >= 0])
    order = np.argsort(-areas, kind="stable")
    return [int(label) for label in order[:MOST] if areas[label] > 0]


def assign_colours(pictures: Sequence[Collection[int]]) -> list[dict[int, Colour]]:
    """Colours of the classes of every picture, far apart within a picture.

    A class has one colour in all pictures where the palette is large enough for all classes.

    Args:
        pictures: the classes that are seen in each, at most `MOST`.
    """
    if len(set(chain.from_iterable(pictures))) <= len(PALETTE):
        shared = _colours_of(pictures)
        return [{label: shared[label] for label in classes} for classes in pictures]
    return [_colours_of([classes]) for classes in pictures]


def _colours_of(pictures: Sequence[Collection[int]]) -> dict[int, Colour]:
    """A colour of its own for each class, as far as can be from those it is seen with."""
    seen_with = {
        label: {other for classes in pictures if label in classes for other in classes} - {label}
        for label in chain.from_iterable(pictures)
    }
    chosen: dict[int, Colour] = {}
    for label in sorted(seen_with, key=lambda label: (-len(seen_with[label]), label)):
        near = [chosen[other] for other in seen_with[label] if other in chosen]
        chosen[label] = max(
            (colour for colour in PALETTE if colour not in chosen.values()),
            key=lambda colour: min((distance(colour, other) for other in near), default=0),
        )
    return chosen


def distance(first: Colour, second: Colour) -> float:
    """How different two colours look, in `oklab`."""
    a, b = oklab(np.array([first, second], np.uint8))  # (3,), (3,)
    return float(np.linalg.norm(a - b))


def paint(image: UInt8Image, labels: Labels, colours: Mapping[int, Colour]) -> UInt8Image:
    """Lay the colours of classes over a picture in grey; ignored pixels stay grey.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W), -1 is ignored; classes without a colour are `OTHERS`.
        colours: by class.

    Returns:
        (H, W, 3) uint8.
    """
    grey = image.mean(axis=2, keepdims=True)  # (H, W, 1)
    table = np.full((int(labels.max(initial=0)) + 1, 3), OTHERS, dtype=np.float64)  # (K, 3)
    for label, colour in colours.items():
        if label < len(table):
            table[label] = colour
    mixed = (1 - PAINT) * grey + PAINT * table[np.maximum(labels, 0)]  # (H, W, 3)
    painted: UInt8Image = np.rint(np.where(labels[..., None] >= 0, mixed, grey)).astype(np.uint8)
    return painted


def mark(image: UInt8Image, mask: npt.NDArray[np.bool_]) -> UInt8Image:
    """One class of a picture in red, and the rest of it dimmed (CoCu, Fig. 4).

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W).
    """
    shown = (image * 0.55).astype(np.uint8)
    shown[mask] = (0.35 * image[mask] + 0.65 * np.array(MARK)).astype(np.uint8)
    return shown


def iou(found: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; NaN where both are empty."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else float("nan")


def panel(image: UInt8Image, caption: str) -> str:
    """A picture and the plain text below it, for `grid`."""
    source = png_data(Image.fromarray(_at_a_size(image)))
    told = escape(caption)
    return f'<figure><img src="{source}" alt="{told}"><figcaption>{told}</figcaption></figure>'


def legend(
    image: UInt8Image,
    maps: Sequence[Labels],
    colours: Mapping[int, Colour],
    names: Sequence[str],
) -> str:
    """Names of the classes of one picture beside their colours as `paint` mixes them.

    Args:
        image: (H, W, 3) uint8, the picture; its mean grey shines through.
        maps: (H, W) each, what is painted.
        colours: by class.
        names: of all classes, plain text.
    """
    seen = set(np.unique(np.concatenate([labels.ravel() for labels in maps])).tolist()) - {-1}
    own = [label for label in largest_classes(maps) if label in colours]
    entries = [(names[label], colours[label]) for label in own]
    if others := len(seen) - len(own):
        entries.append((f"{others} smaller classes", OTHERS))
    grey = float(image.mean())
    parts = []
    for name, colour in entries:
        shown = ",".join(f"{(1 - PAINT) * grey + PAINT * value:.0f}" for value in colour)
        parts.append(f'<span><i style="background:rgb({shown})"></i>{escape(name)}</span>')
    return f'<div class="legend">{"".join(parts)}</div>'


def grid(columns: int, cells: Iterable[str]) -> str:
    """Cells in rows of equal columns."""
    return f'<div class="grid" style="--columns:{columns}">{"".join(cells)}</div>'


def _at_a_size(picture: UInt8Image) -> UInt8Image:
    """A (H, W, 3) picture whose longer side is near `SIDE_PX`, by whole pixels."""
    side = max(picture.shape[:2])
    every = -(-side // SIDE_PX)
    few = picture[::every, ::every]
    scale = max(1, SIDE_PX // side)
    return few.repeat(scale, axis=0).repeat(scale, axis=1)
