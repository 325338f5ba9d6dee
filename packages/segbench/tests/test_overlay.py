"""Pictures."""

import numpy as np
import pytest

from segbench import overlay, palette, strip
from segbench.results.overlay import blend

PHOTO = np.full((40, 30, 3), 100, dtype=np.uint8)


def test_colours_are_distinct_and_never_black() -> None:
    colours = palette(1000)
    assert len(np.unique(colours, axis=0)) == 1000
    assert colours.any(axis=1).all()
    assert colours[:3].tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]


def test_colours_do_not_depend_on_how_many_there_are() -> None:
    assert np.array_equal(palette(7), palette(300)[:7])


def test_blend_by_hand() -> None:
    labels = np.array([[0, -1]])
    image = np.full((1, 2, 3), 100, dtype=np.uint8)
    assert blend(image, labels, 2, alpha=0.5).tolist() == [[[114, 50, 50], [100, 100, 100]]]
    assert blend(image, labels, 2, alpha=0).tolist() == image.tolist()
    with pytest.raises(ValueError, match=r"image is \(1, 2\), labels are \(2, 2\)"):
        blend(image, np.zeros((2, 2), dtype=np.int64), 2)


def test_overlay_keeps_the_photograph_and_lists_the_largest_class_first() -> None:
    labels = np.full((40, 30), -1)
    labels[:10], labels[10:12] = 2, 0
    picture = np.asarray(overlay(PHOTO, labels, ["sky", "grass", "cat"], alpha=1.0))
    assert picture.shape == (40, 180, 3)
    assert np.array_equal(picture[20:, :30], PHOTO[20:])
    assert (picture[:10, :30] == palette(3)[2]).all()
    swatches = picture[[8, 24], 40]  # centres of the two legend lines
    assert np.array_equal(swatches, palette(3)[[2, 0]])
    assert (picture[34:, 30:] == 255).all()  # no third line


def test_strip_is_photograph_truth_prediction() -> None:
    truth, found = np.zeros((40, 30), dtype=np.int64), np.ones((40, 30), dtype=np.int64)
    picture = np.asarray(strip(PHOTO, truth, found, ["sky", "grass"]))
    panels = [picture[:, left : left + 30] for left in (0, 30, 60)]
    assert np.array_equal(panels[0], PHOTO)
    assert np.array_equal(panels[1], blend(PHOTO, truth, 2))
    assert np.array_equal(panels[2], blend(PHOTO, found, 2))


def test_long_legends_are_not_cut() -> None:
    labels = np.arange(40).repeat(30).reshape(40, 30)
    assert overlay(PHOTO, labels, [f"class {n}" for n in range(40)]).height == 640
