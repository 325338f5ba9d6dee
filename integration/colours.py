"""Colours that are told apart: each is as far from those before it as eyes can see."""

from functools import cache

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]
"""(K, 3) sRGB."""

FIRST = (0x2B, 0x6C, 0xD4)
"""Colour of the first class: a blue."""

LEVELS = 12
"""Of red, green and blue, among which colours are looked for."""

LIGHT = (0.42, 0.92)
"""Lightness of colours that show on a dark picture and on a light page."""

CHROMA = 0.09
"""Least distance from grey, which a picture may have itself."""

_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OPPONENTS = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@cache
def separated(count: int) -> Colours:
    """Colours for so many classes; the first ones do not change when classes are added.

    Farthest-point selection: each next colour is the one of a grid whose least distance to those
    chosen before is the greatest, in `oklab`.

    Args:
        count: K, at most what the grid holds (hundreds).

    Returns:
        (K, 3) uint8, not to be written to.
    """
    grid = _grid()  # (n, 3)
    seen = oklab(grid)  # (n, 3)
    chosen = np.array([FIRST], np.uint8)
    nearest = np.linalg.norm(seen - oklab(chosen), axis=1)  # (n,)
    while len(chosen) < count:
        best = int(nearest.argmax())
        chosen = np.vstack([chosen, grid[best]])
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[best], axis=1))
    chosen.setflags(write=False)
    return chosen[:count]


def oklab(colours: Colours) -> npt.NDArray[np.float64]:
    """Lightness, green to red, blue to yellow, in which equal distances look alike.

    Bjorn Ottosson, "A perceptual color space for image processing" (2020).

    Args:
        colours: (n, 3) uint8 sRGB.

    Returns:
        (n, 3) float64; lightness in [0, 1].
    """
    coded = colours / 255.0
    linear = np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ _CONES.T) @ _OPPONENTS.T)


def _grid() -> Colours:
    """(n, 3) colours of the grid that are neither too dark, too light nor too grey."""
    steps = np.rint(np.linspace(0, 255, LEVELS)).astype(np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *opponents = oklab(grid).T  # each (n,)
    vivid = np.hypot(*opponents) >= CHROMA
    return np.asarray(grid[vivid & (lightness >= LIGHT[0]) & (lightness <= LIGHT[1])])
