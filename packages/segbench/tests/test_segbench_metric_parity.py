"""The metrics of this package against torchmetrics, Hugging Face's formula and the spec's example.

Label maps are random and adversarial: all ignored, one class, absent classes, 255 in uint8, a
single pixel, not contiguous.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from segbench import ConfusionMatrix, PerImageCounts, count_pairs
from segbench.metrics.boundary import BoundaryCounts
from segbench.metrics.confusion import ABSENT_RULES, AbsentRule
from segbench.metrics.per_image import sparse

torchmetrics = pytest.importorskip(
    "torchmetrics.classification", reason="parity with torchmetrics needs torchmetrics"
)

Map = npt.NDArray[np.integer[Any]]
CLASSES = 7


class Case(NamedTuple):
    """Label maps of one data set, every (H, W) in [-1, CLASSES), and predictions."""

    labels: list[Map]
    found: list[Map]


def _random(seed: int, low: int = -1, high: int = CLASSES, size: tuple[int, int] = (13, 17)) -> Map:
    return np.random.default_rng(seed).integers(low, high, size)


def _blocks(seed: int) -> Map:
    return np.kron(_random(seed, size=(5, 6)), np.ones((8, 9), dtype=np.int64))  # (40, 54)


CASES = {
    "random": Case([_random(0), _random(1)], [_random(2, 0), _random(3, 0)]),
    "blocks": Case([_blocks(0), _blocks(1)], [_blocks(0).clip(0), _blocks(2).clip(0)]),
    "perfect": Case([_random(4)], [_random(4).clip(0)]),
    "all wrong": Case([np.full((4, 5), 2)], [np.full((4, 5), 3)]),
    "all ignored": Case([np.full((6, 5), -1)], [_random(5, 0, size=(6, 5))]),
    "one image ignored": Case([np.full((13, 17), -1), _random(6)], [_random(7, 0), _random(8, 0)]),
    "one class": Case([np.zeros((9, 9), np.int64)], [np.zeros((9, 9), np.int64)]),
    "absent classes": Case([_random(9, -1, 3)], [_random(10, 1, 5)]),
    "absent from the labels only": Case([_random(11, 0, 2)], [_random(12, 4, 6)]),
    "single pixel": Case([np.array([[6]])], [np.array([[6]])]),
    "single wrong pixel": Case([np.array([[6]])], [np.array([[0]])]),
    "one row": Case([_random(13, size=(1, 200))], [_random(14, 0, size=(1, 200))]),
    "transposed": Case([_random(15).T], [_random(16, 0).T]),
    "every second": Case([_random(17)[::2, ::3]], [_random(18, 0)[::2, ::3]]),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def matrix_of(case: Case) -> ConfusionMatrix:
    matrix = ConfusionMatrix(CLASSES)
    for labels, found in zip(case.labels, case.found, strict=True):
        matrix.update(labels, found)
    return matrix


def joined(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """All pixels of a case, (n,) predictions and labels."""
    found, labels = (np.concatenate([m.reshape(-1) for m in maps]) for maps in case[::-1])
    return torch.tensor(found), torch.tensor(labels)


def huggingface_mean_iou(case: Case, ignore: int) -> dict[str, Any]:
    """`evaluate`'s mean_iou as the spec says, sec. 6.2: histograms of float64, mask on the label.

    Its script is downloaded by `evaluate.load`, so the formula is restated here.
    """
    totals = np.zeros((4, CLASSES))  # intersection, union, prediction, label
    for labels, found in zip(case.labels, case.found, strict=True):
        kept = labels != ignore
        label, prediction = labels[kept], found[kept]
        agreed = prediction[prediction == label]
        areas = [
            np.histogram(values, bins=CLASSES, range=(0, CLASSES - 1))[0]
            for values in (agreed, prediction, label)
        ]
        totals += np.array([areas[0], areas[1] + areas[2] - areas[0], areas[1], areas[2]])
    with np.errstate(invalid="ignore", divide="ignore"):
        iou, accuracy = totals[0] / totals[1], totals[0] / totals[3]
        overall = totals[0].sum() / totals[3].sum()
    return {
        "mean_iou": float(np.nanmean(iou)) if not np.isnan(iou).all() else math.nan,
        "mean_accuracy": float(np.nanmean(accuracy)) if totals[3].any() else math.nan,
        "overall_accuracy": float(overall),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


@cases
def test_counts_equal_torchmetrics_confusion_matrix(case: Case) -> None:
    metric = torchmetrics.MulticlassConfusionMatrix(CLASSES, ignore_index=-1)
    for labels, found in zip(case.labels, case.found, strict=True):
        metric.update(torch.tensor(found), torch.tensor(labels))
    counts = matrix_of(case).counts
    assert counts.dtype == np.int64
    assert np.array_equal(counts, metric.compute().numpy())


@cases
def test_ious_equal_torchmetrics_jaccard(case: Case) -> None:
    found, labels = joined(case)
    per_class = torchmetrics.MulticlassJaccardIndex(CLASSES, average="none", ignore_index=-1)
    matrix = matrix_of(case)
    ious = per_class(
        found, labels
    ).numpy()  # 0 for a class that does not occur, computed in float32
    np.testing.assert_allclose(np.nan_to_num(matrix.ious()), ious, rtol=1e-6, atol=0)
    assert matrix.miou("all") == pytest.approx(ious.mean(), abs=1e-6)
    if (labels == -1).all():
        assert math.isnan(matrix.miou())  # torchmetrics says 0
        return
    macro = torchmetrics.MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=-1)
    assert matrix.miou("union") == pytest.approx(float(macro(found, labels)), abs=1e-6)
    weighted = torchmetrics.MulticlassJaccardIndex(CLASSES, average="weighted", ignore_index=-1)
    assert matrix.fwiou() == pytest.approx(float(weighted(found, labels)), abs=1e-6)


@cases
def test_scores_equal_hugging_face_mean_iou(case: Case) -> None:
    want = huggingface_mean_iou(case, ignore=-1)
    matrix = matrix_of(case)
    assert matrix.miou("union") == pytest.approx(want["mean_iou"], abs=1e-12, nan_ok=True)
    assert matrix.macc() == pytest.approx(want["mean_accuracy"], abs=1e-12, nan_ok=True)
    assert matrix.pixel_acc() == pytest.approx(want["overall_accuracy"], abs=1e-12, nan_ok=True)
    np.testing.assert_allclose(matrix.ious(), want["per_category_iou"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        matrix.accuracies(), want["per_category_accuracy"], rtol=0, atol=1e-12
    )


@cases
def test_absent_rules_are_their_definitions(case: Case) -> None:
    found, labels = joined(case)
    ious: list[float | None] = []
    true: list[bool] = []
    for c in range(CLASSES):
        kept = labels != -1
        union = int((((found == c) | (labels == c)) & kept).sum())
        inside = int(((found == c) & (labels == c) & kept).sum())
        ious.append(inside / union if union else None)
        true.append(bool((labels == c).any()))
    over = {
        "union": [iou for iou in ious if iou is not None],
        "gt": [iou for iou, there in zip(ious, true, strict=True) if there and iou is not None],
        "all": [iou or 0.0 for iou in ious],
        "one": [1.0 if iou is None else iou for iou in ious],
    }
    matrix = matrix_of(case)
    for rule in ABSENT_RULES:
        want = math.fsum(over[rule]) / len(over[rule]) if over[rule] else math.nan
        assert matrix.miou(rule) == pytest.approx(want, abs=1e-12, nan_ok=True), rule


@given(
    seed=st.integers(0, 10**6), classes=st.integers(2, 30), share_ignored=st.sampled_from([0, 0.3])
)
def test_random_maps_equal_torchmetrics(seed: int, classes: int, share_ignored: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, found = torch.randint(0, classes, (2, 3, 11, 7), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share_ignored] = -1
    metric = torchmetrics.MulticlassConfusionMatrix(classes, ignore_index=-1)
    assert torch.equal(count_pairs(labels, found, classes), metric(found, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_predictions_of_every_integer_type_count_the_same(dtype: torch.dtype) -> None:
    labels, found = torch.tensor(_random(19)), torch.tensor(_random(20, 0))
    want = count_pairs(labels, found, CLASSES)
    assert int(want.sum()) == int((labels != -1).sum())
    assert torch.equal(count_pairs(labels.to(torch.int32), found.to(dtype), CLASSES), want)


def test_255_in_uint8_predictions_is_free_where_ignored_and_an_error_elsewhere() -> None:
    labels = torch.tensor(_random(21), dtype=torch.int32)
    found = torch.tensor(_random(22, 0), dtype=torch.uint8)
    want = count_pairs(labels, found, CLASSES)
    found[labels == -1] = 255
    assert torch.equal(count_pairs(labels, found, CLASSES), want)
    found[labels != -1] = 255
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 7\), got 255 to 255"):
        count_pairs(labels, found, CLASSES)


def test_labels_with_255_as_ignored_equal_torchmetrics_once_they_are_mapped() -> None:
    stored = _random(23).astype(np.uint8)  # -1 is stored as 255
    assert (stored == 255).any()
    found = _random(24, 0).astype(np.uint8)
    metric = torchmetrics.MulticlassConfusionMatrix(CLASSES, ignore_index=255)
    want = metric(torch.tensor(found), torch.tensor(stored))
    labels = np.where(stored == 255, -1, stored.astype(np.int32))
    assert np.array_equal(ConfusionMatrix(CLASSES).update(labels, found), want.numpy())


EXAMPLE = [  # spec, sec. 6.3; 255 is mapped to -1
    (np.array([[0, 0, 1, 1], [0, 0, 1, -1]]), np.array([[0, 0, 1, 2], [0, 1, 1, 3]])),
    (np.array([[0, 0, 0, 0], [1, 1, 0, 0]]), np.array([[0, 0, 0, 0], [1, 0, 0, 0]])),
]
RULES: dict[AbsentRule, float] = {
    "union": (9 / 11 + 3 / 6 + 0) / 3,
    "gt": (9 / 11 + 3 / 6) / 2,
    "all": (9 / 11 + 3 / 6 + 0 + 0) / 4,
    "one": (9 / 11 + 3 / 6 + 0 + 1) / 4,
}
PRINTED: dict[AbsentRule, float] = {
    "union": 0.439394, "gt": 0.659091, "all": 0.329545, "one": 0.579545
}  # fmt: skip


@pytest.mark.parametrize("as_rows", [False, True], ids=["images", "rows"])
@pytest.mark.parametrize("shards", [1, 2, 3, 4])
def test_worked_example_on_any_shards_in_any_order(shards: int, as_rows: bool) -> None:
    pieces = [
        (labels[rows], found[rows])
        for labels, found in EXAMPLE
        for rows in ((slice(0, 1), slice(1, 2)) if as_rows else (slice(None),))
    ]
    for order in itertools.permutations(pieces):
        parts = [ConfusionMatrix(4) for _ in range(shards)]
        for place, (labels, found) in enumerate(order):
            parts[place % shards].update(labels, found)
        matrix = sum(parts[1:], start=parts[0])
        assert matrix.counts.tolist() == [[9, 1, 0, 0], [1, 3, 1, 0], [0] * 4, [0] * 4]
        for rule in ABSENT_RULES:
            assert matrix.miou(rule) == pytest.approx(RULES[rule], abs=1e-12)
            assert round(matrix.miou(rule), 6) == PRINTED[rule]
        assert matrix.pixel_acc() == pytest.approx(0.8, abs=1e-12)
        assert matrix.macc() == pytest.approx(0.75, abs=1e-12)
        assert matrix.fwiou() == pytest.approx((10 * 9 / 11 + 5 * 3 / 6) / 15, abs=1e-12)
        assert round(matrix.fwiou(), 6) == 0.712121


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_worked_example_of_means_over_images(order: tuple[int, int]) -> None:
    images = [(str(i), *sparse(ConfusionMatrix(4).update(*EXAMPLE[i]))) for i in order]
    counts = PerImageCounts.of_sparse(4, images)
    first, second = (3 / 4 + 2 / 4 + 0) / 3, (6 / 7 + 1 / 2) / 2
    assert counts.miou_image() == pytest.approx((first + second) / 2, abs=1e-12)
    assert round(counts.miou_image(), 6) == 0.547619
    ious = counts.areas().ious()  # (2, 4)
    shown = (np.nansum(ious), np.count_nonzero(~np.isnan(ious)))
    assert shown[0] / shown[1] == pytest.approx((3 / 4 + 2 / 4 + 0 + 6 / 7 + 1 / 2) / 5, abs=1e-12)
    assert round(float(shown[0] / shown[1]), 6) == 0.521429  # torchmetrics' MeanIoU
    by_class = [np.nanmean(ious[:, c]) for c in range(3)]
    want = ((3 / 4 + 6 / 7) / 2 + (2 / 4 + 1 / 2) / 2 + 0) / 3
    assert np.mean(by_class) == pytest.approx(want, abs=1e-12)
    assert round(float(np.mean(by_class)), 6) == 0.434524


def test_worked_example_of_the_mistake_of_counting_ignored_pixels() -> None:
    matrix = ConfusionMatrix(4)
    predicted = np.zeros(4, dtype=np.int64)
    for labels, found in EXAMPLE:
        matrix.update(labels, found)
        predicted += np.bincount(found.reshape(-1), minlength=4)
    assert (predicted - matrix.areas.pr).tolist() == [0, 0, 0, 1]
    wrong = matrix.areas._replace(pr=predicted)
    assert float(wrong.miou()) == pytest.approx((9 / 11 + 3 / 6 + 0 + 0) / 4, abs=1e-12)


def test_worked_example_equals_hugging_face() -> None:
    case = Case([e[0] for e in EXAMPLE], [e[1] for e in EXAMPLE])
    want = huggingface_mean_iou(case, ignore=-1)
    assert want["mean_iou"] == pytest.approx(RULES["union"], abs=1e-12)
    assert want["overall_accuracy"] == pytest.approx(0.8, abs=1e-12)


@cases
def test_band_over_the_whole_image_makes_boundary_iou_plain_iou(case: Case) -> None:
    bands = BoundaryCounts(CLASSES, ratio=1)  # as wide as the diagonal: no pixel is inside
    for labels, found in zip(case.labels, case.found, strict=True):
        bands.update(labels, found)
    matrix = matrix_of(case)
    for ours, theirs in zip(bands.areas, matrix.areas, strict=True):
        assert np.array_equal(ours, theirs)
    for rule in ABSENT_RULES:
        assert bands.miou(rule) == pytest.approx(matrix.miou(rule), abs=1e-12, nan_ok=True)
