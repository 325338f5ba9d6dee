import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from maskcluster.errors import FormatError
from maskcluster.masks.packed import unpack
from maskcluster.masks.rle import Rle, masks_of_labels, sample_all

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools

BoolArray = npt.NDArray[np.bool_]
SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
MASKS = SIZES.flatmap(lambda size: arrays(np.bool_, size))
FAST = settings(max_examples=200, deadline=None)


def encoded(mask: BoolArray) -> bytes:
    found: bytes = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    return found


def test_runs_go_down_the_columns_and_start_with_zeros() -> None:
    mask = np.array([[1, 0, 0], [1, 1, 0]], np.bool_)
    rle = Rle.from_mask(mask)
    assert rle.runs.tolist() == [0, 2, 1, 1, 2]
    assert rle.area == 3
    assert rle.box == (0, 0, 2, 2)
    assert rle.to_string() == encoded(mask)


@FAST
@given(MASKS)
def test_strings_are_those_of_pycocotools_both_ways(mask: BoolArray) -> None:
    rle = Rle.from_mask(mask)
    assert rle.to_string() == encoded(mask)
    again = Rle.from_string(mask.shape[0], mask.shape[1], encoded(mask))
    assert again == rle
    assert hash(again) == hash(rle)
    assert np.array_equal(again.to_mask(), mask)
    assert Rle.from_counts(mask.shape[0], mask.shape[1], rle.runs.tolist()) == rle


@FAST
@given(MASKS)
def test_area_and_box_are_those_of_the_pixels(mask: BoolArray) -> None:
    rle = Rle.from_mask(mask)
    ys, xs = np.nonzero(mask)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)
    assert rle.area == mask.sum()
    assert rle.box == box


@FAST
@given(MASKS, st.data())
def test_sampling_is_decode_then_nearest_resize_crop_and_flip(
    mask: BoolArray, data: st.DataObject
) -> None:
    height, width = mask.shape
    side = data.draw(st.integers(1, 40))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    tall = data.draw(st.integers(1, height - top))
    wide = data.draw(st.integers(1, width - left))
    rows = top + np.arange(side) * tall / side
    columns = left + np.arange(side) * wide / side
    if data.draw(st.booleans()):
        columns = columns[::-1]
    if data.draw(st.booleans()):
        rows = rows[::-1]
    decoded = coco.decode({"size": [height, width], "counts": encoded(mask)}).astype(np.bool_)
    expected = decoded[rows.astype(int)[:, None], columns.astype(int)[None]]
    assert np.array_equal(Rle.from_mask(mask).sample(rows, columns), expected)


@FAST
@given(MASKS, st.data())
def test_sampling_takes_indices_in_any_order(mask: BoolArray, data: st.DataObject) -> None:
    height, width = mask.shape
    rows = data.draw(st.lists(st.integers(0, height - 1), max_size=9))
    columns = data.draw(st.lists(st.integers(0, width - 1), max_size=9))
    expected = mask[np.array(rows, int)[:, None], np.array(columns, int)[None]]
    assert np.array_equal(Rle.from_mask(mask).sample(rows, columns), expected)


def test_packed_samples_are_packed_masks() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((3, 50, 70)) < 0.3
    rows, columns = np.arange(32) * 50 // 32, np.arange(64)[::-1] * 70 // 64
    bits = sample_all([Rle.from_mask(mask) for mask in masks], rows[:32], columns[:32])
    import torch

    expected = masks[:, rows[:, None], columns[None, :32]]
    assert bits.shape == (3, 32, 4)
    assert np.array_equal(unpack(torch.from_numpy(bits)).numpy(), expected)


def test_no_masks_give_an_empty_sample() -> None:
    assert sample_all([], np.arange(32), np.arange(32)).shape == (0, 32, 4)


def test_masks_of_two_sizes_are_not_sampled_together() -> None:
    masks = [Rle(2, 3, np.array([6])), Rle(3, 2, np.array([6]))]
    with pytest.raises(ValueError, match="one size"):
        sample_all(masks, [0], [0])


@pytest.mark.parametrize(
    ("rows", "columns"), [([-1], [0]), ([2], [0]), ([0], [3]), ([0.5, -0.1], [0])]
)
def test_pixels_outside_are_refused(rows: list[float], columns: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, "):
        Rle(2, 3, np.array([6])).sample(rows, columns)


def test_empty_runs_are_merged_so_that_equal_masks_are_equal() -> None:
    odd = Rle(2, 3, np.array([1, 0, 1, 2, 0, 1, 1, 0]))
    assert odd == Rle(2, 3, np.array([2, 3, 1]))
    assert Rle(2, 3, np.array([0, 0, 0, 6])).runs.tolist() == [0, 6]
    assert Rle(2, 3, np.array([6, 0])).runs.tolist() == [6]


@pytest.mark.parametrize("runs", [[], [5], [7], [-1, 7], [2**62, 2**62, 2**62, 2**62, 6], [[6]]])
def test_runs_that_do_not_add_up_are_refused_in_one_line(runs: list[int]) -> None:
    with pytest.raises(FormatError) as caught:
        Rle(2, 3, np.array(runs, np.int64))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("6 ", "character"),
        ("é", "character"),
        ("P", "middle of a number"),
        ("o" * 20, "too large"),
        ("5", "add up to 5"),
        ("", "add up to 0"),
        ("6O", "from 0"),
    ],
)
def test_damaged_strings_are_refused(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        Rle.from_string(2, 3, text)


@FAST
@given(st.binary(max_size=12))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    try:
        rle = Rle.from_string(3, 5, raw)
    except FormatError:
        return
    assert rle.to_mask().shape == (3, 5)
    assert rle.sample([0, 2], [0, 4]).shape == (2, 2)


def test_counts_that_are_no_whole_numbers_are_refused() -> None:
    with pytest.raises(FormatError, match="whole numbers"):
        Rle.from_counts(2, 3, [6.0])  # type: ignore[list-item]  # what is tested
    with pytest.raises(FormatError, match="too large"):
        Rle.from_counts(2, 3, [2**70])


@FAST
@given(SIZES.flatmap(lambda size: arrays(np.int64, size, elements=st.integers(-1, 4))))
def test_masks_of_labels_are_the_values_in_order(labels: npt.NDArray[np.int64]) -> None:
    masks = masks_of_labels(labels)
    values = [value for value in np.unique(labels) if value != -1]
    assert masks == [Rle.from_mask(labels == value) for value in values]


def test_only_bool_masks_are_encoded() -> None:
    with pytest.raises(ValueError, match="bool"):
        Rle.from_mask(np.zeros((2, 2), np.uint8))


@FAST
@given(MASKS, st.data())
def test_a_mask_is_placed_in_a_larger_one(mask: BoolArray, data: st.DataObject) -> None:
    x, y, right, below = (data.draw(st.integers(0, 5)) for _ in range(4))
    whole = np.pad(mask, ((y, below), (x, right)))
    placed = Rle.from_mask(mask).place(whole.shape[0], whole.shape[1], x, y)
    assert placed == Rle.from_mask(whole)


def test_a_mask_that_does_not_fit_is_not_placed() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Rle(2, 3, np.array([6])).place(4, 4, 2, 0)
