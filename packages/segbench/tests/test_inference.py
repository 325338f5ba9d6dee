"""Sizes, windows and resizing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from segbench.protocols.inference import (
    WindowScores,
    image_tensor,
    merge_windows,
    resize_argmax,
    resize_image,
    resize_scores,
    resized_size,
    take_classes,
    windows,
)


@pytest.mark.parametrize(
    ("size", "short", "long", "want"),
    [
        ((480, 640), 448, 2048, (448, 597)),
        ((480, 640), 512, 2048, (512, 683)),
        ((375, 500), 336, 2048, (336, 448)),
        ((1024, 2048), 448, 2048, (448, 896)),
        ((1024, 2048), 560, 2048, (560, 1120)),
        ((100, 1000), 448, 2048, (205, 2048)),  # longer than 4.57:1, so the long side decides
        ((480, 640), None, None, (480, 640)),
        ((1, 3000), 448, 2048, (1, 2048)),
    ],
)
def test_resized_size(
    size: tuple[int, int], short: int | None, long: int | None, want: tuple[int, int]
) -> None:
    assert resized_size(*size, short, long) == want


@pytest.mark.parametrize(
    ("size", "window", "stride", "count"),
    [
        ((448, 597), 448, 224, 2),  # GroupViT, 640x480
        ((512, 683), 224, 112, 24),  # CoCu COCO-Stuff and ADE
        ((448, 597), 224, 112, 15),  # SCLIP COCO-Stuff
        ((336, 448), 224, 112, 6),  # SCLIP VOC-21
        ((448, 896), 448, 224, 3),  # TCL Cityscapes
        ((1024, 2048), 448, 224, 36),  # CoCu Cityscapes
        ((560, 1120), 224, 112, 36),  # SCLIP Cityscapes
        ((448, 448), 448, 224, 1),
        ((449, 448), 448, 224, 2),
        ((5, 7), 448, 224, 1),
    ],
)
def test_number_of_windows(size: tuple[int, int], window: int, stride: int, count: int) -> None:
    assert len(windows(*size, window, stride)) == count


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    window=st.integers(1, 20),
    data=st.data(),
)
def test_windows_cover_every_pixel_at_full_size(
    height: int, width: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    hits = torch.zeros(height, width)
    for top, left, bottom, right in windows(height, width, window, stride):
        assert (bottom - top, right - left) == (min(window, height), min(window, width))
        assert top >= 0 and left >= 0 and bottom <= height and right <= width
        hits[top:bottom, left:right] += 1
    assert bool((hits > 0).all())


def first_column(window: torch.Tensor) -> torch.Tensor:
    return window[:1, :1, :1]  # (1, 1, 1): the red of the window's first column


def test_merged_windows_average_where_they_overlap() -> None:
    image = torch.zeros(3, 2, 6)
    image[0] = torch.arange(6.0)  # columns 0..5
    scores = merge_windows(first_column, image, 4, 2)  # windows start at columns 0 and 2
    assert isinstance(scores, WindowScores)
    assert scores.merged()[0, 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(resize_scores(scores, (2, 6))[0], scores.merged()[0])
    best, winner = resize_argmax(scores, (2, 6))
    assert best.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 and int(winner.sum()) == 0


def test_scores_as_large_as_the_image_are_merged_at_once() -> None:
    image = torch.rand(3, 17, 23, generator=torch.Generator().manual_seed(0))
    merged = merge_windows(lambda w: w, image, 8, 5)
    assert isinstance(merged, torch.Tensor)  # each window keeps its pixels, which overlap
    torch.testing.assert_close(merged, image)


def test_windows_of_other_resolutions_are_merged_at_once() -> None:
    image, sizes = torch.rand(3, 16, 40), iter([(2, 2), (2, 3), (4, 4), (2, 2)])
    parts = []

    def score(window: torch.Tensor) -> torch.Tensor:
        parts.append(F.adaptive_avg_pool2d(window, next(sizes)))
        return parts[-1]

    merged = merge_windows(score, image, 16, 8)
    assert isinstance(merged, torch.Tensor)
    total, hits = torch.zeros_like(image), torch.zeros(16, 40)
    for left, part in zip((0, 8, 16, 24), parts, strict=True):
        total[:, :, left : left + 16] += F.interpolate(part[None], (16, 16), mode="bilinear")[0]
        hits[:, left : left + 16] += 1
    assert torch.equal(merged, total / hits)


def test_classes_are_taken_from_maps_and_windows_alike() -> None:
    scores = merge_windows(lambda w: w[:, ::8, ::8], torch.rand(3, 16, 40), 16, 8)
    assert isinstance(scores, WindowScores)
    chosen = torch.tensor([True, False, True])
    part = take_classes(scores, chosen)
    assert isinstance(part, WindowScores)
    assert torch.equal(part.merged(), scores.merged()[[0, 2]])
    whole = take_classes(scores.merged(), slice(1, 3))
    assert isinstance(whole, torch.Tensor)
    assert torch.equal(whole, scores.merged()[1:])


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (28, 28), (61, 83)], ids=str)
@pytest.mark.parametrize("grid", [(1, 1), (7, 7), (14, 9)], ids=str)
@pytest.mark.parametrize("classes", [1, 16, 37])
def test_resize_argmax_equals_interpolate_then_max(
    size: tuple[int, int], grid: tuple[int, int], classes: int
) -> None:
    generator = torch.Generator().manual_seed(classes)
    scores = torch.randn(classes, *grid, generator=generator)
    for values in (scores, scores.round(), torch.zeros_like(scores)):  # free, many ties, all tied
        full = F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]
        want_best, want = full.max(dim=0)
        best, winner = resize_argmax(values, size)
        assert torch.equal(winner, want)
        assert torch.equal(best, want_best)


def test_first_index_wins_a_tie_across_chunks() -> None:
    scores = torch.zeros(40, 2, 2)
    scores[[17, 35]] = 1.0
    assert resize_argmax(scores, (3, 3))[1].tolist() == [[17] * 3] * 3


def test_one_ulp_decides() -> None:
    scores = torch.ones(2, 1, 1)
    scores[1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert resize_argmax(scores, (2, 2))[1].tolist() == [[1, 1], [1, 1]]


def test_image_is_resized_with_half_pixel_centres() -> None:
    image = torch.tensor([[[0.0, 1.0]]]).expand(3, 1, 2)
    assert resize_image(image, (1, 4))[0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert resize_image(image, (1, 2)) is image


def test_images_have_the_bits_of_the_quotient_and_leave_the_photograph_alone() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels.flags.writeable = False
    image = image_tensor(pixels, torch.device("cpu"))
    assert image.shape == (3, 16, 16) and image.dtype == torch.float32
    assert torch.equal(image[1].flatten(), torch.arange(256, dtype=torch.uint8).div(255))
    image += 1  # as a model may
    assert pixels.max() == 255 and pixels[0, 1, 0] == 1
