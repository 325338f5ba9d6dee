"""Pictures of a segmentation."""

import io

import numpy as np
import pytest
from PIL import Image

from groupvit.segmenting import overlay
from groupvit.segmenting.overlay import colours, draw_groups, draw_overlay, label_picture, shares


def test_overlay_tints_pixels_and_names_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((30, 200, 3), 100, dtype=np.uint8)
    labels = np.zeros((30, 200), dtype=np.int64)
    labels[:, 50:] = 2
    sheet = np.asarray(draw_overlay(image, labels, ["dog", "cat", "sky"]))
    palette = colours(3)
    assert sheet.shape == (30 + 3 * 24, 200, 3)  # two rows of legend: the cat is not in it
    assert sheet[5, 5].tolist() == (0.45 * 100 + 0.55 * palette[0]).round().tolist()
    assert sheet[5, 150].tolist() == (0.45 * 100 + 0.55 * palette[2]).round().tolist()
    assert sheet[30 + 12 + 4, 12 + 4].tolist() == palette[2].tolist()  # the largest comes first
    monkeypatch.setattr(overlay, "_STRIP", 1)  # a row at a time
    assert np.array_equal(np.asarray(draw_overlay(image, labels, ["dog", "cat", "sky"])), sheet)
    with pytest.raises(ValueError, match=r"\(30, 200\) like the image, got \(200, 30\)"):
        draw_overlay(image, labels.T, ["dog", "cat", "sky"])


def test_the_legend_takes_the_room_it_needs() -> None:
    labels = np.arange(40, dtype=np.int32).reshape(4, 10)
    names = [f"class {i}" for i in range(40)]
    small = draw_overlay(np.zeros((4, 10, 3), np.uint8), labels, names)
    assert small.width > 80 and small.height > 40 * 20  # wider than the picture, all in a column
    big_labels = np.repeat(np.repeat(labels, 100, axis=0), 100, axis=1)
    big = draw_overlay(np.zeros((400, 1000, 3), np.uint8), big_labels, names)
    assert big.width == 1000 and big.height < 400 + 40 * 10  # columns side by side


def test_a_long_name_is_shortened_in_the_legend() -> None:
    photo, labels = np.zeros((30, 200, 3), np.uint8), np.zeros((30, 200), np.int32)
    sheet = np.asarray(draw_overlay(photo, labels, ["green grass " * 60]))
    assert sheet.shape[1] < 700


def test_background_is_darkened() -> None:
    image = np.full((2, 2, 3), 100, dtype=np.uint8)
    labels = np.array([[0, 1], [1, 0]])
    sheet = np.asarray(draw_overlay(image, labels, ["background", "dog"], background=True))
    assert sheet[0, 0].tolist() == [45, 45, 45]
    assert sheet[0, 1].tolist() == (0.45 * 100 + 0.55 * colours(1)[0]).round().tolist()


def test_groups_stand_side_by_side() -> None:
    image = np.full((40, 300, 3), 200, dtype=np.uint8)
    first = np.array([[0, 1], [2, 3]], dtype=np.int32)
    sheet = np.asarray(draw_groups(image, [first, np.zeros((2, 2), dtype=np.int32)]))
    assert sheet.shape[1] == 600 and sheet.shape[0] > 40
    tint = (0.45 * 200 + 0.55 * colours(4)).round()
    assert sheet[10, 10].tolist() == tint[0].tolist()  # last stage: one group
    assert sheet[30, 290].tolist() == tint[0].tolist()
    corners = [sheet[y, x].tolist() for y in (10, 30) for x in (310, 590)]
    assert corners == tint.tolist()


def test_label_pictures_hold_the_labels() -> None:
    labels = np.array([[0, 3], [255, 7]], dtype=np.int32)
    few = reopened(label_picture(labels, 256))
    assert few.mode == "P" and np.array_equal(np.asarray(few), labels)
    assert np.array_equal(np.asarray(few.convert("RGB"))[0, 1], colours(256)[3])
    many = reopened(label_picture(labels * 200, 60000))
    assert many.mode == "I;16" and np.array_equal(np.asarray(many), labels * 200)
    black = label_picture(labels, 256, background=True).convert("RGB")
    assert black.getpixel((0, 0)) == (0, 0, 0) != black.getpixel((1, 0))
    with pytest.raises(ValueError, match="65,536 classes, got 65537"):
        label_picture(labels, 65537)


def reopened(picture: Image.Image) -> Image.Image:
    memory = io.BytesIO()
    picture.save(memory, "PNG")
    return Image.open(memory)


def test_shares_sum_to_one() -> None:
    assert shares(np.array([[0, 2], [2, 2]]), 4).tolist() == [0.25, 0, 0.75, 0]


def test_colours_differ() -> None:
    palette = colours(40).astype(int)
    gaps = np.abs(palette[:, None] - palette[None]).sum(axis=2) + 999 * np.eye(40, dtype=int)
    assert palette.shape == (40, 3) and gaps.min() > 10
    assert colours(0).shape == colours(0, background=True).shape == (0, 3)
    assert np.array_equal(colours(5, background=True)[1:], colours(4))
    assert colours(5, background=True)[0].tolist() == [0, 0, 0]
