"""Sizes, windows and resizing of a picture."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupvit.segmenting.windows import (
    Window,
    Windowing,
    as_planes,
    place_windows,
    resize,
    resized_size,
)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((375, 500), (448, 597)),  # 597.33
        ((480, 640), (448, 597)),
        ((500, 375), (597, 448)),
        ((448, 448), (448, 448)),
        ((1, 1), (448, 448)),
        ((100, 1000), (205, 2048)),  # the long side stops it: 204.8
        ((1, 20000), (16, 2048)),  # 0.1 would round to no pixel at all
        ((20000, 1), (2048, 16)),
    ],
)
def test_sizes_of_resized_pictures(size: tuple[int, int], resized: tuple[int, int]) -> None:
    assert resized_size(size, 448, 2048, 16) == resized


@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from([8, 16, 32]))
def test_a_resized_picture_fits_both_limits(height: int, width: int, least: int) -> None:
    size = resized_size((height, width), 448, 2048, least)
    assert least <= min(size) <= 448 and max(size) <= 2048
    assert min(size) == 448 or max(size) == 2048


def test_windows_of_a_usual_picture_are_two() -> None:
    assert place_windows((448, 597), 448, 224) == [(0, 0, 448, 448), (0, 149, 448, 597)]
    assert place_windows((448, 672), 448, 224) == [(0, 0, 448, 448), (0, 224, 448, 672)]
    assert place_windows((448, 673), 448, 224)[1:] == [(0, 224, 448, 672), (0, 225, 448, 673)]
    assert place_windows((30, 40), 448, 224) == [(0, 0, 30, 40)]
    assert place_windows((30, 40), None, 1) == [Window(0, 0, 30, 40)]


@settings(deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), st.booleans()
)
def test_windows_cover_everything(
    height: int, width: int, window: int, stride: int, narrow: bool
) -> None:
    stride = min(stride, window) if narrow else window
    covered = torch.zeros(height, width)
    places = place_windows((height, width), window, stride)
    for top, left, bottom, right in places:
        assert bottom - top == min(window, height) and right - left == min(window, width)
        covered[top:bottom, left:right] += 1
    assert bool((covered > 0).all())
    down = max(height - window + stride - 1, 0) // stride + 1
    across = max(width - window + stride - 1, 0) // stride + 1
    assert len(places) == down * across


@settings(deadline=None)  # the first call may be slow
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 40), st.integers(1, 40), st.data())
def test_resize_is_pytorchs_and_gives_any_rows(
    height: int, width: int, new_height: int, new_width: int, data: st.DataObject
) -> None:
    image = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height * width))
    size = (new_height, new_width)
    whole = resize(image, size)
    want = F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(whole, want, rtol=1e-5, atol=1e-6)
    top = data.draw(st.integers(0, new_height - 1))
    bottom = data.draw(st.integers(top + 1, new_height))
    assert torch.equal(resize(image, size, range(top, bottom)), whole[:, top:bottom])


def test_middle_of_two_pixels_by_hand() -> None:
    image = torch.tensor([[[0, 100], [200, 60]]], dtype=torch.uint8)  # (1, 2, 2)
    assert resize(image, (1, 1)).tolist() == [[[90.0]]]
    assert resize(image, (2, 4)).tolist() == [[[0, 25, 75, 100], [200, 165, 95, 60]]]


def test_crops_are_the_pixels_of_the_windows() -> None:
    image = torch.randint(0, 256, (3, 30, 47), dtype=torch.uint8)
    plan = Windowing(window_px=20, stride_px=10, short_px=30, long_px=100)
    cut = plan.cut(image, 8)
    assert cut.full_size == cut.size == (30, 47) and cut.crops.dtype == torch.float32
    assert cut.crops.shape == (8, 3, 20, 20)
    for window, crop in zip(cut.windows, cut.crops, strict=True):
        part = image[:, window.top : window.bottom, window.left : window.right]
        assert torch.equal(crop, part / 255)
    same = plan.cut(image / 255, 8)
    torch.testing.assert_close(same.crops, cut.crops, rtol=0, atol=1e-6)


def test_a_thread_of_pixels_has_patches_both_ways() -> None:
    cut = Windowing().cut(torch.zeros(3, 1, 20000, dtype=torch.uint8), 16)
    assert (cut.full_size, cut.size) == ((1, 20000), (16, 2048))
    assert cut.crops.shape == (9, 3, 16, 448)


def test_wrong_values_are_named() -> None:
    with pytest.raises(ValueError, match="short_px must be >= 1, got 0"):
        Windowing(short_px=0)
    with pytest.raises(ValueError, match="pixels lie in no window, got 30 and 20"):
        Windowing(window_px=20, stride_px=30)
    assert Windowing(window_px=None, stride_px=999).window_px is None
    with pytest.raises(ValueError, match="window_px must be >= 16, a patch, got 15"):
        Windowing(window_px=15, stride_px=5).cut(torch.zeros(3, 9, 9), 16)
    wrong: list[Tensor | npt.NDArray[Any]] = [
        torch.zeros(9, 9, 3),
        torch.zeros(1, 3, 9, 9),
        torch.zeros(3, 0, 9),
        torch.zeros(3, 9, 9, dtype=torch.int64),
        np.zeros((9, 9, 3), dtype=np.uint16),
        np.zeros((3, 9, 9), dtype=np.uint8),
        np.zeros((9, 9), dtype=np.uint8),
    ]
    for image in wrong:
        with pytest.raises(ValueError, match="image must be"):
            Windowing().cut(image, 16)


def test_arrays_and_tensors_are_the_same_picture() -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    planes = as_planes(array)
    assert planes.shape == (3, 5, 7) and planes.dtype == torch.uint8
    assert int(planes[2, 4, 6]) == array[4, 6, 2]
    assert as_planes(planes) is planes
    locked = array[::-1]
    locked.setflags(write=False)  # as what Pillow gives
    assert torch.equal(as_planes(locked), planes.flip(1))
