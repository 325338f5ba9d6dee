"""Where SAM is asked: grids of points, on the whole photograph and on crops of it."""

from math import ceil
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Crop(NamedTuple):
    """A part of a photograph.

    Attributes:
        layer: 0 for the whole photograph, i for the crops of layer i.
        box: half-open XYXY.
    """

    layer: int
    box: tuple[int, int, int, int]


def point_grid(side: int) -> npt.NDArray[np.float64]:
    """The middles of side x side cells, row by row.

    Returns:
        (side^2, 2) XY, as parts of width and height, in (0, 1).
    """
    if side < 1:
        raise ValueError(f"a grid must have at least 1 point a side, got {side}")
    middles = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(middles, middles)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def crop_boxes(height: int, width: int, *, layers: int, overlap: float) -> list[Crop]:
    """The whole photograph, then 2^i x 2^i overlapping crops for each layer i from 1.

    (facebookresearch/segment-anything, `generate_crop_boxes`; Apache-2.0.) Neighbours of layer i
    share `overlap` * short side * 2 / 2^i pixels.

    Args:
        height: H.
        width: W.
        layers: how many beside the whole photograph.
        overlap: part of the short side that crops of layer 1 share.
    """
    crops = [Crop(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(height, width) * (2 / count))
        wide, tall = (ceil((shared * (count - 1) + size) / count) for size in (width, height))
        lefts = [int((wide - shared) * i) for i in range(count)]
        tops = [int((tall - shared) * i) for i in range(count)]
        crops += [
            Crop(layer, (x, y, min(x + wide, width), min(y + tall, height)))
            for x in lefts
            for y in tops
            if x < width and y < height  # a crop of a tiny photograph may begin outside of it
        ]
    return crops
