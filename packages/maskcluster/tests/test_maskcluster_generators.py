"""Points, boxes and regions: what SAM's generator is made of."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage  # type: ignore[import-untyped]  # it has no types

from maskcluster.generators.boxes import keep_best, near_crop_edge
from maskcluster.generators.points import crop_boxes, point_grid
from maskcluster.generators.protocol import fit_short_side, nearest
from maskcluster.generators.regions import remove_small_regions

BoolArray = npt.NDArray[np.bool_]
FAST = settings(max_examples=100, deadline=None)


def test_points_are_the_middles_of_cells_row_by_row() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert point_grid(32).shape == (1024, 2)
    with pytest.raises(ValueError, match="at least 1"):
        point_grid(0)


def test_layers_have_four_times_as_many_crops() -> None:
    crops = crop_boxes(1500, 2250, layers=2, overlap=512 / 1500)
    assert [sum(crop.layer == layer for crop in crops) for layer in range(3)] == [1, 4, 16]
    assert crops[0].box == (0, 0, 2250, 1500)


def test_crops_of_layer_one_share_512_of_1500_pixels() -> None:
    boxes = [crop.box for crop in crop_boxes(1500, 2250, layers=1, overlap=512 / 1500)[1:]]
    assert boxes == [
        (0, 0, 1381, 1006), (0, 494, 1381, 1500), (869, 0, 2250, 1006), (869, 494, 2250, 1500),
    ]  # fmt: skip


@FAST
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 3))
def test_crops_cover_the_photograph_and_lie_in_it(height: int, width: int, layers: int) -> None:
    crops = crop_boxes(height, width, layers=layers, overlap=512 / 1500)
    for layer in range(layers + 1):
        seen = np.zeros((height, width), np.bool_)
        for _, (x0, y0, x1, y1) in (crop for crop in crops if crop.layer == layer):
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            seen[y0:y1, x0:x1] = True
        assert seen.all()


def test_boxes_near_a_crop_edge_that_is_no_edge_of_the_photograph() -> None:
    boxes = torch.tensor([[0, 0, 50, 50], [10, 10, 81, 50], [10, 10, 79, 50], [30, 30, 60, 100]])
    near = near_crop_edge(boxes, (0, 0, 100, 100), 100, 200, within_px=20)
    assert near.tolist() == [False, True, False, False]


def test_the_best_of_overlapping_boxes_stay() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [0, 0, 10, 10]])
    kept = keep_best(boxes, torch.tensor([0.8, 0.9, 0.1, 0.8]), 0.7)
    assert kept.tolist() == [1, 2]
    assert keep_best(boxes, torch.tensor([0.5] * 4), 0.95).tolist() == [0, 1, 2]
    assert keep_best(torch.zeros(0, 4), torch.zeros(0), 0.7).tolist() == []


def test_small_holes_are_filled_then_small_islands_removed() -> None:
    mask = np.zeros((9, 12), np.bool_)
    mask[1:7, 1:7] = True
    mask[3, 3] = False  # a hole of one pixel
    mask[7, 7] = True  # touches a corner: part of the square
    mask[2, 10] = True  # an island of one pixel
    cleaned, changed = remove_small_regions(mask, 3)
    expected = mask.copy()
    expected[3, 3], expected[2, 10] = True, False
    assert changed
    assert np.array_equal(cleaned, expected)
    again, changed = remove_small_regions(cleaned, 3)
    assert not changed
    assert np.array_equal(again, cleaned)


def test_of_small_islands_only_the_largest_stays() -> None:
    mask = np.zeros((30, 30), np.bool_)
    mask[0, 0] = mask[5:7, 5:7] = mask[20, 20] = True
    cleaned, _ = remove_small_regions(mask, 100)
    assert cleaned.sum() == 4
    assert cleaned[5:7, 5:7].all()


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks_stay(value: bool) -> None:
    mask = np.full((20, 20), value)
    cleaned, changed = remove_small_regions(mask, 100)
    assert not changed
    assert np.array_equal(cleaned, mask)


@FAST
@given(arrays(np.bool_, (9, 11)), st.integers(0, 12))
def test_no_small_region_is_left_but_a_last_one(mask: BoolArray, area: int) -> None:
    cleaned, changed = remove_small_regions(mask, area)
    assert changed == (not np.array_equal(cleaned, mask))
    regions, count = ndimage.label(cleaned, np.ones((3, 3)))
    sizes = np.bincount(regions.ravel())[1:]
    assert count <= 1 or sizes.min() >= area


def test_nearest_takes_the_middles_of_pixels() -> None:
    assert nearest(4, 2).tolist() == [0, 0, 1, 1]
    assert nearest(2, 4).tolist() == [1, 3]
    assert nearest(3, 3).tolist() == [0, 1, 2]


def test_the_long_side_limits_the_short_one() -> None:
    assert fit_short_side(100, 150, 640, 1333) == (640, 960)
    assert fit_short_side(100, 400, 640, 1000) == (250, 1000)
    assert fit_short_side(1, 4000, 640, 1000) == (1, 1000)
