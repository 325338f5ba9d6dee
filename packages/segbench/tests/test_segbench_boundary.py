"""Boundary IoU against plain erosion of one mask at a time, and by hand."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage  # type: ignore[import-untyped]  # it has no types

from segbench.metrics.boundary import (
    BoundaryCounts,
    band_width_px,
    boundary_band,
    count_bands,
)
from segbench.metrics.confusion import ABSENT_RULES, Areas, check_label_maps
from segbench.metrics.interval import resampled_miou

Map = npt.NDArray[np.integer[Any]]


def blocky(seed: int, height: int, width: int, classes: int, *, low: int = 0) -> Map:
    """Blocks with noise on top, so that masks have an inside and specks."""
    rng = np.random.default_rng(seed)
    block = int(rng.integers(1, 30))
    coarse = rng.integers(low, classes, (height // block + 1, width // block + 1))
    labels = np.kron(coarse, np.ones((block, block), dtype=np.int64))[:height, :width]
    noise = rng.random((height, width)) < rng.choice([0, 0.01, 0.2])
    return np.where(noise, rng.integers(low, classes, (height, width)), labels)


def eroded_band(mask: npt.NDArray[np.bool_], d: int) -> npt.NDArray[np.bool_]:
    """The definition of the spec, sec. 6.1: pad 0, erode d times by 3x3 ones, subtract."""
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=d, border_value=0)
    return mask & ~np.asarray(inside, dtype=np.bool_)


def areas_by_erosion(truth: Map, found: Map, classes: int, d: int, *, masked: bool) -> Areas:
    """(K,) areas, one erosion for each class and map."""
    scored = truth != -1
    tp, gt, pr = (np.zeros(classes, dtype=np.int64) for _ in range(3))
    for c in range(classes):
        predicted = (found == c) & scored if masked else found == c
        bands = [eroded_band(mask, d) & scored for mask in (truth == c, predicted)]
        tp[c], gt[c], pr[c] = (bands[0] & bands[1]).sum(), bands[0].sum(), bands[1].sum()
    return Areas(tp, gt, pr)


@pytest.mark.parametrize(("ratio", "width_px"), [(0.02, 16), (0.03, 24)])
def test_band_of_640_by_480_is_16_or_24_pixels_wide(ratio: float, width_px: int) -> None:
    assert band_width_px(480, 640, ratio) == band_width_px(640, 480, ratio) == width_px


def test_band_is_never_thinner_than_a_pixel() -> None:
    assert band_width_px(3, 4) == 1


def test_worked_example_by_hand() -> None:
    labels = np.zeros((5, 5), dtype=np.int64)
    prediction = labels.copy()
    prediction[2, 2] = 1  # its 8 neighbours get a band too; the frame of 16 pixels has one anyway
    counts = BoundaryCounts(3)
    added = counts.update(labels, prediction)
    assert [area.tolist() for area in added] == [[16, 0, 0], [16, 0, 0], [24, 1, 0]]
    assert counts.ious()[:2].tolist() == [16 / 24, 0]
    assert math.isnan(counts.ious()[2])
    want = {"union": 2 / 3 / 2, "gt": 2 / 3, "all": 2 / 3 / 3, "one": (2 / 3 + 1) / 3}
    for rule in ABSENT_RULES:
        assert counts.miou(rule) == pytest.approx(want[rule], abs=1e-12)
    assert counts.miou(classes=[0]) == pytest.approx(2 / 3, abs=1e-12)


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 6),
    d=st.integers(1, 7),
)
def test_band_of_all_classes_equals_one_erosion_each(
    seed: int, height: int, width: int, classes: int, d: int
) -> None:
    labels = blocky(seed, height, width, classes)
    band = boundary_band(labels, d)
    want = np.zeros_like(band)
    for c in range(classes):
        want |= eroded_band(labels == c, d)
    assert np.array_equal(band, want)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_band_equals_repeated_max_pooling(d: int) -> None:
    labels = np.kron(np.arange(6).reshape(2, 3) % 4, np.ones((19, 18), dtype=np.int64))
    labels[3, 4] = 3  # a speck
    want = np.zeros(labels.shape, dtype=np.bool_)
    for c in range(4):
        outside = F.pad(torch.tensor(labels != c).float()[None], (1, 1, 1, 1), value=1)
        for _ in range(d):  # the frame stays outside, however often it is pooled
            outside = F.max_pool2d(outside, 3, stride=1, padding=1)
        want |= (labels == c) & outside[0, 1:-1, 1:-1].bool().numpy()
    assert 0 < want.mean() < 1
    assert np.array_equal(boundary_band(labels, d), want)


@pytest.mark.parametrize("ignored", ["masked", "dropped"])
def test_640_by_480_equals_erosion_of_every_class(ignored: Any) -> None:
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(-1, 7, (4, 5)), np.ones((120, 128), dtype=np.int64))  # (480, 640)
    found = np.roll(np.maximum(truth, 0), (5, -9), axis=(0, 1))
    areas = count_bands(truth, found, 8, ignored=ignored)
    want = areas_by_erosion(truth, found, 8, 16, masked=ignored == "masked")
    assert want.tp.sum() > 10_000
    for ours, theirs in zip(areas, want, strict=True):
        assert ours.dtype == np.int64
        assert np.array_equal(ours, theirs)


@given(seed=st.integers(0, 10**6), masked=st.booleans(), ratio=st.sampled_from([0.02, 0.1]))
def test_counts_with_ignored_pixels_equal_erosion(seed: int, masked: bool, ratio: float) -> None:
    truth, found = blocky(seed, 31, 44, 5, low=-1), blocky(seed + 1, 31, 44, 5)
    areas = count_bands(truth, found, 5, ratio=ratio, ignored="masked" if masked else "dropped")
    d = band_width_px(31, 44, ratio)
    for ours, theirs in zip(
        areas, areas_by_erosion(truth, found, 5, d, masked=masked), strict=True
    ):
        assert np.array_equal(ours, theirs)


def test_right_prediction_beside_ignored_pixels_is_1_when_masked_and_less_when_dropped() -> None:
    truth = np.zeros((40, 40), dtype=np.int64)
    truth[:, 20:] = 1
    prediction = truth.copy()
    truth[5:9, 5:9] = -1
    masked, dropped = BoundaryCounts(2), BoundaryCounts(2, ignored="dropped")
    masked.update(truth, prediction)
    dropped.update(truth, prediction)
    assert masked.ious().tolist() == [1, 1]
    assert dropped.ious()[1] == 1
    assert dropped.ious()[0] < 1  # the truth has a band around the hole, the prediction has none


def test_pixels_of_a_class_count_only_where_they_are_scored() -> None:
    truth = np.full((9, 9), -1)
    for ignored in ("masked", "dropped"):
        counts = BoundaryCounts(3, ignored=ignored)
        counts.update(truth, np.full((9, 9), 255))
        assert all(area.sum() == 0 for area in counts.areas)
        assert math.isnan(counts.miou())
        assert counts.miou("all") == 0


@given(seed=st.integers(0, 999), shards=st.integers(1, 4), order=st.permutations(range(4)))
def test_counts_do_not_depend_on_shards_or_order(seed: int, shards: int, order: list[int]) -> None:
    images = [(blocky(seed + i, 20, 30, 4, low=-1), blocky(i, 20, 30, 4)) for i in range(4)]
    whole = BoundaryCounts(4)
    for truth, found in images:
        whole.update(truth, found)
    parts = [BoundaryCounts(4) for _ in range(shards)]
    for place, image in enumerate(order):
        parts[place % shards].update(*images[image])
    merged = sum(parts[1:], start=parts[0])
    assert all(np.array_equal(a, b) for a, b in zip(merged.areas, whole.areas, strict=True))


def test_tensors_arrays_and_strides_give_the_same() -> None:
    truth, found = blocky(1, 33, 21, 5, low=-1), blocky(2, 33, 21, 5)
    want = count_bands(truth, found, 5)
    assert want.tp.sum() > 0
    flipped = truth[::-1].copy()[::-1]  # a negative stride
    strided = np.repeat(found, 2, axis=1).astype(np.uint8)[:, ::2]
    for a, b in ((torch.tensor(truth), torch.tensor(found.T).mT), (flipped, strided)):
        got = count_bands(a, b, 5)
        assert all(np.array_equal(x, y) for x, y in zip(got, want, strict=True))


def test_image_areas_feed_the_bootstrap() -> None:
    counts = BoundaryCounts(4)
    added = [counts.update(blocky(i, 20, 30, 4), blocky(i + 50, 20, 30, 4)) for i in range(8)]
    stacked = Areas(*(np.stack(area) for area in zip(*added, strict=True)))  # (8, 4) each
    scores = resampled_miou((stacked,), "union", 200, np.random.default_rng(0))[0]
    assert scores.min() < counts.miou() < scores.max()


def test_bad_arguments_are_one_clear_line() -> None:
    zeros = np.zeros((4, 4), dtype=np.int64)
    with pytest.raises(ValueError, match=r"the same \(H, W\), got \(4, 4\) and \(3, 4\)"):
        count_bands(zeros, zeros[:3], 2)
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 2\), got -1 to 0"):
        count_bands(zeros, np.where(np.eye(4) > 0, -1, 0), 2)
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 2\), got 0 to 255"):
        check_label_maps(np.diag([255, 0, 0, 0]).astype(np.uint8), zeros, 2)
    with pytest.raises(ValueError, match="must hold integers, got float64"):
        count_bands(zeros, zeros + 0.5, 2)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"ratio must be a finite number > 0, got 0"):
        BoundaryCounts(2, ratio=0)
    with pytest.raises(ValueError, match="ignored must be one of"):
        BoundaryCounts(2, ignored="kept")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match="ignored must be one of"):
        count_bands(zeros, zeros, 2, ignored="kept")  # type: ignore[arg-type]  # the same
    with pytest.raises(ValueError, match="classes must be >= 1, got 0"):
        BoundaryCounts(0)
    with pytest.raises(ValueError, match="width_px must be >= 1, got 0"):
        boundary_band(zeros, 0)
    with pytest.raises(ValueError, match="counts must share classes, ratio and ignored"):
        BoundaryCounts(2) + BoundaryCounts(2, ratio=0.03)
