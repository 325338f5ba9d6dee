"""Label maps on a page."""

import base64
import io
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from integration import panels

BLUE, RED = (0, 0, 200), (200, 0, 0)


def test_classes_are_told_largest_first_over_all_maps() -> None:
    truth, found = np.array([[0, 0, 3, -1]]), np.array([[3, 3, 3, -1]])
    assert panels.largest_classes([truth, found]) == [3, 0]
    many = np.arange(2 * panels.MOST)[None]
    assert panels.largest_classes([many]) == list(range(panels.MOST))  # a tie: lower first


@settings(deadline=None)
@given(st.lists(st.sets(st.integers(0, 40), max_size=panels.MOST), min_size=1, max_size=6))
def test_colours_within_a_picture_are_far_apart(pictures: list[set[int]]) -> None:
    found = panels.assign_colours(pictures)
    assert [set(colours) for colours in found] == pictures
    for colours in found:
        pairs = combinations(colours.values(), 2)
        assert all(panels.distance(*pair) > 0.15 for pair in pairs)  # black and white are 1 apart


def test_a_class_keeps_its_colour_where_there_are_colours_enough() -> None:
    first, second = panels.assign_colours([[0, 1, 2], [2, 5]])
    assert first[2] == second[2]
    few = panels.assign_colours([range(7), range(7, 14), range(14, 21)])
    assert [len(set(colours.values())) for colours in few] == [7, 7, 7]


def test_two_classes_get_colours_that_lie_furthest_apart() -> None:
    (colours,) = panels.assign_colours([[4, 9]])
    apart = panels.distance(colours[4], colours[9])
    assert apart == max(panels.distance(colours[4], other) for other in panels.PALETTE)


def test_distance_by_hand() -> None:
    assert panels.distance((7, 70, 7), (7, 70, 7)) == 0
    assert panels.distance((0, 0, 0), (255, 255, 255)) == pytest.approx(1)  # lightness alone


def test_paint_mixes_the_colour_with_grey_and_leaves_ignored_pixels_grey() -> None:
    image = np.full((1, 3, 3), (90, 100, 110), np.uint8)
    shown = panels.paint(image, np.array([[0, -1, 7]]), {0: BLUE})
    assert shown[0].tolist() == [[15, 15, 185], [100, 100, 100], [123, 123, 123]]  # 0.15 of 100


def test_the_legend_has_the_colours_of_the_picture() -> None:
    image = np.full((2, 2, 3), 60, np.uint8)
    truth, found = np.array([[0, 0], [1, 1]]), np.array([[1, 1], [1, 1]])
    colours = {0: BLUE, 1: RED}
    legend = panels.legend(image, [truth, found], colours, ["sky", "<sea>"])
    found_entries = re.findall(r'rgb\((.*?)\)"></i>(.*?)</span>', legend)
    painted = panels.paint(image, truth, colours)  # class 0 above class 1
    assert found_entries == [  # the largest first
        (",".join(map(str, painted[1, 0])), "&lt;sea&gt;"),
        (",".join(map(str, painted[0, 0])), "sky"),
    ]


def test_small_classes_share_an_entry() -> None:
    labels = np.arange(panels.MOST + 3)[None]
    image = np.zeros((*labels.shape, 3), np.uint8)
    (colours,) = panels.assign_colours([panels.largest_classes([labels])])
    names = [f"class {label}" for label in range(labels.size)]
    legend = panels.legend(image, [labels], colours, names)
    assert legend.count("<span>") == panels.MOST + 1
    assert legend.endswith("3 smaller classes</span></div>")


def test_mark_dims_what_is_outside_of_the_mask() -> None:
    image = np.full((4, 4, 3), 200, np.uint8)
    shown = panels.mark(image, np.eye(4, dtype=bool))
    assert shown[0, 1].tolist() == [110, 110, 110]
    assert shown[0, 0].tolist() == [235, 96, 109]  # 0.35 * 200 + 0.65 * (255, 40, 60)
    assert (image == 200).all()  # the picture itself is left alone


def test_iou_of_masks_by_hand() -> None:
    truth = np.array([True, True, False, False])
    assert panels.iou(np.array([False, True, True, False]), truth) == 1 / 3
    assert panels.iou(truth, truth) == 1
    assert np.isnan(panels.iou(~truth & truth, ~truth & truth))


def test_a_panel_shrinks_photographs_and_enlarges_scenes_by_whole_pixels() -> None:
    for size, shown in (((480, 640), (240, 320)), ((427, 641), (143, 214)), ((24, 48), (144, 288))):
        cell = panels.panel(np.zeros((*size, 3), np.uint8), "a & b")
        found = re.fullmatch(
            r'<figure><img src="data:image/png;base64,(.*)" alt="a &amp; b">'
            r"<figcaption>a &amp; b</figcaption></figure>",
            cell,
        )
        assert found is not None
        picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
        assert picture.size == shown[::-1]


def test_a_grid_has_equal_columns() -> None:
    assert panels.grid(2, ["a", "b"]) == '<div class="grid" style="--columns:2">ab</div>'
