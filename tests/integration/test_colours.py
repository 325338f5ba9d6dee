"""Colours of classes: far apart for eyes, and the same when classes are added."""

import numpy as np
import pytest

from integration.colours import CHROMA, FIRST, LIGHT, oklab, separated
from integration.demo.words import MAX_CLASSES
from segbench import palette


def least_distance(colours: np.ndarray) -> float:
    seen = oklab(colours)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    return float(apart[~np.eye(len(seen), dtype=bool)].min())


def test_oklab_worked_example() -> None:
    corners = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8)
    red = [0.627955, 0.224863, 0.125846]  # as Ottosson gives it
    known = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], red])
    np.testing.assert_allclose(oklab(corners), known, atol=1e-4)


@pytest.mark.parametrize(("count", "apart"), [(2, 0.5), (10, 0.2), (19, 0.15), (MAX_CLASSES, 0.1)])
def test_colours_are_far_apart(count: int, apart: float) -> None:
    assert separated(count).shape == (count, 3)
    assert least_distance(separated(count)) > apart
    assert least_distance(separated(count)) > 1.5 * least_distance(palette(count))


def test_colours_stay_when_classes_are_added() -> None:
    assert (separated(MAX_CLASSES)[:7] == separated(7)).all()
    assert tuple(separated(1)[0]) == FIRST


def test_no_colour_is_grey_black_or_white() -> None:
    lightness, *opponents = oklab(separated(MAX_CLASSES)).T
    assert (np.hypot(*opponents) >= CHROMA).all()
    assert LIGHT[0] <= lightness.min()
    assert lightness.max() <= LIGHT[1]
