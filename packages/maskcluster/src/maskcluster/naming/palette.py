"""A colour for every number, the same in all pictures."""

import colorsys

import numpy as np
import numpy.typing as npt

TURN = 0.5698402910
"""Of the hue from one number to the next."""

_SHADES = ((0.50, 0.75), (0.70, 1.00), (0.95, 0.80), (1.00, 0.45))
"""Brightness and saturation, in turn. Chosen with the turn among some hundreds, so that the nearest
two of the first 64 colours are 8.8 apart in CIELAB, and of the first 20, 19.7."""


def colours(count: int) -> npt.NDArray[np.uint8]:
    """(count, 3) RGB; the first are the same whatever the count is."""
    rows = []
    for number in range(count):
        value, saturation = _SHADES[number % len(_SHADES)]
        rows.append(colorsys.hsv_to_rgb(number * TURN % 1, saturation, value))
    found: npt.NDArray[np.uint8] = np.rint(255 * np.array(rows).reshape(count, 3)).astype(np.uint8)
    return found
