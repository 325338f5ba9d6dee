"""ImageNet-S's official numbers: by hand, and against its formulas restated in float64."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segbench import PerImageCounts, count_pairs
from segbench.metrics.boundary import BoundaryCounts
from segbench.metrics.object_size import (
    ImageNetSCounts,
    areas_by_size,
    f_measure,
    is_image_right,
    size_of_classes,
)
from segbench.metrics.per_image import sparse

Map = npt.NDArray[np.integer[Any]]
Image = tuple[Map, Map]


def random_image(seed: int, classes: int) -> Image:
    """Objects from a few pixels to most of the image, and a prediction that is often right."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(8, 25, 2)
    labels = np.zeros((height, width), dtype=np.int64)
    for _ in range(rng.integers(0, 4)):
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + rng.integers(1, height), x : x + rng.integers(1, width)] = rng.integers(
            -1, classes
        )
    wrong = rng.random(labels.shape) < rng.choice([0, 0.2, 0.9])
    found = np.where(wrong, rng.integers(0, classes, labels.shape), labels.clip(0))
    return labels, found


def counts_of(labels: Map, found: Map, classes: int) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = count_pairs(
        torch.tensor(labels), torch.tensor(found), classes
    ).numpy()
    return counts


def official(images: list[Image], classes: int, *, skip_absent: bool) -> dict[str, float]:
    """The evaluator's formulas (spec, sec. 2.7) pixel by pixel, in float64 and without epsilons."""
    total = np.zeros((3, classes))  # T, P, TP
    by_size = np.zeros((4, 3, classes))
    right, f_sum = 0, 0.0
    for labels, prediction in images:
        gt, predict = labels[labels != -1], prediction[labels != -1]
        total += histograms(gt, predict, classes)
        shares = {c: math.ceil(100 * int((gt == c).sum()) / gt.size) for c in np.unique(gt) if c}
        for size, (low, high) in enumerate(((0, 5), (5, 25), (25, 50), (50, 100))):
            chosen = [c for c, share in shares.items() if low < share <= high]
            if chosen:
                part = np.isin(gt, [0, *chosen])
                by_size[size] += histograms(gt[part], predict[part], classes)
        predicted = np.bincount(predict, minlength=classes)[1:]
        label = int(predicted.argmax()) + 1
        right += bool((gt == label).any() and (predict == label).any())
        t, p, tp = (gt > 0).sum(), (predict > 0).sum(), ((gt > 0) & (predict > 0)).sum()
        precision, recall = (tp / n if n else 0.0 for n in (p, t))
        if tp:
            f_sum += 1.3 * precision * recall / (0.3 * precision + recall)
    found = {
        "miou": quotient(total).mean(),
        "image_acc": right / len(images),
        "f_measure": f_sum / len(images),
    }
    for size, name in enumerate(("s", "ms", "ml", "l")):
        ious, occurs = quotient(by_size[size]), by_size[size, 1] > 0
        chosen_ious = ious[occurs] if skip_absent else ious
        found[f"miou_{name}"] = chosen_ious.mean() if len(chosen_ious) else math.nan
    return {key: float(value) for key, value in found.items()}


def histograms(gt: Map, predict: Map, classes: int) -> npt.NDArray[np.float64]:
    rows = [np.bincount(x, minlength=classes) for x in (predict, gt, gt[gt == predict])]
    return np.array(rows, dtype=np.float64)


def quotient(areas: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    ious: npt.NDArray[np.float64] = areas[2] / np.maximum(areas[0] + areas[1] - areas[2], 1)
    return ious


@given(seed=st.integers(0, 10**6), images=st.integers(1, 5), skip_absent=st.booleans())
def test_all_numbers_equal_the_evaluators_formulas(
    seed: int, images: int, skip_absent: bool
) -> None:
    pictures = [random_image(seed + i, 6) for i in range(images)]
    pictures = [(labels, found) for labels, found in pictures if (labels != -1).any()]
    counts = ImageNetSCounts(6)
    for labels, found in pictures:
        counts.update(labels, found)
    if not pictures:
        return
    got = counts.metrics("gt" if skip_absent else "all")
    want = official(pictures, 6, skip_absent=skip_absent)
    assert set(got) == {*want, "boundary_miou"}
    for key, value in want.items():
        assert got[key] == pytest.approx(value, abs=1e-12, nan_ok=True), key


def test_share_at_a_limit_is_below_it() -> None:
    gt = np.array([0, 5, 6, 25, 26, 50, 51]) * 12
    for label, size in enumerate([0, 0, 1, 1, 2, 2, 3]):
        others = 1200 - gt[label]
        assert size_of_classes(np.array([gt[label], others]))[0] == size, gt[label]


def test_areas_by_size_by_hand() -> None:
    labels = np.zeros(100, dtype=np.int64)
    labels[:4], labels[4:24], labels[24:84] = 1, 2, 3  # 4 %, 20 %, 60 %, and 16 % other
    found = labels.copy()
    found[:1] = 2  # a pixel of 1 is called 2: an error of the small size only
    found[99] = 3  # a pixel of other is called 3: an error of every size that is there
    areas = areas_by_size(counts_of(labels, found, 4))
    assert areas.tp.tolist() == [[15, 3, 0, 0], [15, 0, 20, 0], [0, 0, 0, 0], [15, 0, 0, 60]]
    assert areas.gt.tolist() == [[16, 4, 0, 0], [16, 0, 20, 0], [0, 0, 0, 0], [16, 0, 0, 60]]
    assert areas.pr.tolist() == [[15, 3, 1, 1], [15, 0, 20, 1], [0, 0, 0, 0], [15, 0, 0, 61]]
    counts = ImageNetSCounts(4, boundary=False)
    counts.update(labels[None], found[None])
    metrics = counts.metrics()
    assert metrics["miou_s"] == pytest.approx((15 / 16 + 3 / 4) / 2, abs=1e-12)
    assert metrics["miou_l"] == pytest.approx((15 / 16 + 60 / 61) / 2, abs=1e-12)
    assert math.isnan(metrics["miou_ml"])
    assert counts.metrics("all")["miou_s"] == pytest.approx((15 / 16 + 3 / 4) / 4, abs=1e-12)
    assert "boundary_miou" not in metrics


def test_without_an_other_class_every_class_is_an_object() -> None:
    counts = np.diag([4, 96])
    assert areas_by_size(counts, other=None).gt.tolist() == [[4, 0], [0, 0], [0, 0], [0, 96]]
    assert areas_by_size(counts, other=0).gt.tolist() == [[0, 0], [0, 0], [0, 0], [4, 96]]


def test_f_measure_by_hand() -> None:
    counts = np.array([[5, 1, 0], [2, 3, 0], [0, 1, 1]])  # t 7, p 6, tp 5
    assert f_measure(counts) == pytest.approx(1.3 * 5 / (0.3 * 7 + 6), abs=1e-12)
    precision, recall = 5 / 6, 5 / 7
    assert f_measure(counts) == pytest.approx(
        1.3 * precision * recall / (0.3 * precision + recall), abs=1e-12
    )
    assert f_measure(np.diag([9, 0, 0])) == 0  # no foreground anywhere, as the evaluator says
    assert f_measure(np.diag([0, 4, 0])) == 1


def test_image_is_right_where_the_most_frequent_predicted_object_is_there() -> None:
    assert is_image_right(np.array([[9, 0, 0], [0, 1, 2], [0, 0, 0]])) is False  # 2 leads
    assert is_image_right(np.array([[9, 2, 0], [1, 0, 0], [0, 0, 0]])) is True  # not where it is
    assert is_image_right(np.array([[9, 0, 0], [3, 0, 0], [0, 0, 0]])) is False  # none predicted
    assert is_image_right(np.array([[0, 0, 0], [1, 1, 1], [0, 0, 0]])) is True  # a tie: the lowest


def test_stored_counts_give_the_numbers_of_the_run() -> None:
    images = [random_image(seed, 5) for seed in range(20)]
    run = ImageNetSCounts(5, boundary=False)
    stored = PerImageCounts.of_sparse(
        5, [(str(i), *sparse(run.update(*pair))) for i, pair in enumerate(images)]
    )
    again = ImageNetSCounts.of(stored)
    assert again.metrics() == run.metrics()
    assert again.images == 20
    assert 0 < run.metrics()["miou_s"] < 1


def test_metrics_do_not_depend_on_order_or_shards() -> None:
    images = [random_image(seed, 5) for seed in range(60)]  # some of every size
    whole, backwards = ImageNetSCounts(5), ImageNetSCounts(5)
    parts = [ImageNetSCounts(5) for _ in range(3)]
    for i, (labels, found) in enumerate(images):
        whole.update(labels, found)
        backwards.update(*images[-1 - i])
        parts[i % 3].update(labels, found)
    metrics = whole.metrics()
    assert metrics == backwards.metrics() == (parts[2] + parts[0] + parts[1]).metrics()
    assert all(0 < metrics[key] < 1 for key in metrics)


def test_bands_are_3_percent_wide_and_ignored_pixels_dropped() -> None:
    labels = np.kron(np.array([[0, 1], [2, -1]]), np.ones((50, 50), dtype=np.int64))
    found = np.roll(labels.clip(0), 3, axis=1)
    counts = ImageNetSCounts(3)
    counts.update(labels, found)
    want = BoundaryCounts(3, ratio=0.03, ignored="dropped")
    want.update(labels, found)
    assert counts.metrics()["boundary_miou"] == want.miou("all")
    other = BoundaryCounts(3, ratio=0.03, ignored="masked")
    other.update(labels, found)
    assert want.miou("all") != other.miou("all")


def test_no_image_gives_nan_not_zero() -> None:
    metrics = ImageNetSCounts(3).metrics()
    assert math.isnan(metrics["image_acc"])
    assert math.isnan(metrics["f_measure"])


def test_image_without_a_scored_pixel_counts_as_a_wrong_image() -> None:
    counts = ImageNetSCounts(3)
    counts.update(np.full((4, 4), -1), np.full((4, 4), 1))
    counts.update(np.full((4, 4), 1), np.full((4, 4), 1))
    metrics = counts.metrics()
    assert (metrics["image_acc"], metrics["f_measure"]) == (0.5, 0.5)


def test_bad_arguments_are_one_clear_line() -> None:
    zeros = np.zeros((2, 2), dtype=np.int64)
    with pytest.raises(ValueError, match="classes must be >= 2, other and an object, got 1"):
        ImageNetSCounts(1)
    with pytest.raises(ValueError, match=r"counts must be \(K, K\), got \(2, 3\)"):
        areas_by_size(np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"other must be in \[0, 2\), got 2"):
        areas_by_size(zeros, other=2)
    with pytest.raises(ValueError, match="counts must share classes and boundary"):
        ImageNetSCounts(3) + ImageNetSCounts(3, boundary=False)
    counts = ImageNetSCounts(3)
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 3\)"):
        counts.update(zeros, zeros + 3)
    assert counts.images == 0
