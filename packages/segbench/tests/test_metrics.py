"""The worked example of the specification, exactness and parity."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from segbench import ConfusionMatrix, PerImageCounts, count_pairs
from segbench.metrics.per_image import sparse

TRUTH_A = torch.tensor([[0, 0, 1, 1], [0, 0, 1, -1]])
FOUND_A = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 3]])
TRUTH_B = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0]])
FOUND_B = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]])


def worked_example() -> ConfusionMatrix:
    matrix = ConfusionMatrix(4)
    matrix.update(TRUTH_A, FOUND_A)
    matrix.update(TRUTH_B, FOUND_B)
    return matrix


def random_maps(seed: int, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, classes - 1, (5, 12, 9), generator=generator)  # last class absent
    return labels, torch.randint(0, classes - 1, (5, 12, 9), generator=generator)


def test_worked_example_confusion_and_ious() -> None:
    matrix = worked_example()
    assert matrix.counts.tolist() == [[9, 1, 0, 0], [1, 3, 1, 0], [0] * 4, [0] * 4]
    assert matrix.ious()[:3].tolist() == pytest.approx([9 / 11, 3 / 6, 0], abs=1e-12)
    assert math.isnan(matrix.ious()[3])


@pytest.mark.parametrize(
    ("rule", "value", "printed"),
    [
        ("union", (9 / 11 + 1 / 2) / 3, 0.439394),
        ("gt", (9 / 11 + 1 / 2) / 2, 0.659091),
        ("all", (9 / 11 + 1 / 2) / 4, 0.329545),
        ("one", (9 / 11 + 1 / 2 + 1) / 4, 0.579545),
    ],
)
def test_worked_example_under_each_rule(rule: str, value: float, printed: float) -> None:
    miou = worked_example().miou(rule)  # type: ignore[arg-type]  # parametrised as a string
    assert miou == pytest.approx(value, abs=1e-12)
    assert round(miou, 6) == printed


def test_worked_example_other_scores() -> None:
    matrix = worked_example()
    assert matrix.pixel_acc() == pytest.approx(0.8, abs=1e-12)
    assert matrix.macc() == pytest.approx(0.75, abs=1e-12)
    assert matrix.fwiou() == pytest.approx((10 * 9 / 11 + 5 * 3 / 6) / 15, abs=1e-12)
    assert round(matrix.fwiou(), 6) == 0.712121
    assert matrix.miou_fg() == pytest.approx(0.25, abs=1e-12)
    assert matrix.miou_fg(rule="gt") == pytest.approx(0.5, abs=1e-12)


def test_worked_example_per_image_means() -> None:
    pairs = [("a", TRUTH_A, FOUND_A), ("b", TRUTH_B, FOUND_B)]
    images = [(i, *sparse(count_pairs(t, f, 4).numpy())) for i, t, f in pairs]
    counts = PerImageCounts.of_sparse(4, images)
    assert counts.miou_image() == pytest.approx(
        ((3 / 4 + 2 / 4 + 0 / 1) / 3 + (6 / 7 + 1 / 2) / 2) / 2, abs=1e-12
    )
    assert round(counts.miou_image(), 6) == 0.547619
    ious = counts.areas().ious()[:, :3]  # (2, 3); class 3 occurs in neither image
    assert round(float(np.nanmean(ious, axis=0).mean()), 6) == 0.434524


def test_worked_example_counting_ignored_pixels_is_another_number() -> None:
    wrong = worked_example().areas
    predicted = wrong.pr + np.array([0, 0, 0, 1])  # the pixel whose label is ignored
    assert round(float(wrong._replace(pr=predicted).miou()), 6) == 0.329545


def test_worked_example_torchmetrics_mean_iou_is_another_number() -> None:
    metric = MeanIoU(num_classes=4, input_format="index")
    for labels, found in ((TRUTH_A, FOUND_A), (TRUTH_B, FOUND_B)):
        kept = labels != -1  # it has no ignore index
        metric.update(found[kept][None, None], labels[kept][None, None])  # (1, 1, n)
    assert round(float(metric.compute()), 6) == 0.521429


def test_subset_keeps_the_errors_of_other_classes() -> None:
    assert worked_example().miou(classes=[0]) == pytest.approx(9 / 11)
    assert math.isnan(worked_example().miou(classes=[3]))
    assert worked_example().miou("all", classes=[0, 3]) == pytest.approx(9 / 22)


@pytest.mark.parametrize("seed", range(5))
def test_union_rule_equals_torchmetrics_jaccard(seed: int) -> None:
    labels, found = random_maps(seed)
    jaccard = MulticlassJaccardIndex(num_classes=6, average="macro", ignore_index=-1)
    per_class = MulticlassJaccardIndex(num_classes=6, average="none", ignore_index=-1)
    matrix = ConfusionMatrix(6)
    matrix.update(labels, found)
    assert matrix.miou() == pytest.approx(float(jaccard(found, labels)), abs=1e-6)
    ours = np.nan_to_num(matrix.ious())
    np.testing.assert_allclose(ours, per_class(found, labels).numpy(), atol=1e-6)


@given(seed=st.integers(0, 99), shards=st.integers(1, 8), order=st.permutations(range(5)))
def test_counts_do_not_depend_on_shards_or_order(seed: int, shards: int, order: list[int]) -> None:
    labels, found = random_maps(seed)
    whole = ConfusionMatrix(6)
    whole.update(labels, found)
    parts = [ConfusionMatrix(6) for _ in range(shards)]
    for place, image in enumerate(order):
        parts[place % shards].update(labels[image], found[image])
    merged = sum(parts[1:], start=parts[0])
    assert np.array_equal(merged.counts, whole.counts)


def test_counts_stay_exact_beyond_float32() -> None:
    matrix = ConfusionMatrix(1, np.array([[2**24]]))
    matrix.update(torch.zeros(1, dtype=torch.int32), torch.zeros(1, dtype=torch.uint8))
    assert matrix.counts.tolist() == [[2**24 + 1]]  # float32 would stay at 2^24


@pytest.mark.parametrize(("label", "found"), [(4, 0), (-2, 0), (0, 4), (0, -1)])
def test_values_out_of_range_raise(label: int, found: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 4\)"):
        count_pairs(torch.tensor([label]), torch.tensor([found]), 4)


def test_any_prediction_is_allowed_where_the_label_is_ignored() -> None:
    assert int(count_pairs(torch.tensor([-1, 1]), torch.tensor([255, 1]), 4).sum()) == 1


def test_shapes_must_agree_and_rules_exist() -> None:
    with pytest.raises(ValueError, match=r"labels are \(2,\)"):
        count_pairs(torch.zeros(2).int(), torch.zeros(3).int(), 4)
    with pytest.raises(ValueError, match="rule must be one of"):
        worked_example().miou("mean")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"counts must be \(3, 3\)"):
        ConfusionMatrix(3, np.zeros((2, 2), dtype=np.int64))


def test_no_pixels_give_nan_not_zero() -> None:
    empty = ConfusionMatrix(3)
    for value in (empty.miou(), empty.miou("gt"), empty.macc(), empty.pixel_acc(), empty.fwiou()):
        assert math.isnan(value)
    assert empty.miou("all") == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_labels_of_every_integer_type_count_alike(dtype: type[np.integer]) -> None:
    truth = np.array([[0, 1, 255, 3]])
    matrix = ConfusionMatrix(256)
    added = matrix.update(truth.astype(dtype), truth[:, ::-1].astype(dtype))
    assert added.sum() == 4 and added[255, 1] == 1  # 255 is a class here, not what is ignored
    frozen = truth.astype(dtype)
    frozen.flags.writeable = False
    assert matrix.update(frozen, frozen)[255, 255] == 1


@pytest.mark.parametrize("wrong", [np.array([0.5]), np.array([True])])
def test_what_is_no_label_map_is_refused(wrong: Any) -> None:
    for pair in ((wrong, np.zeros(1, np.int64)), (np.zeros(1, np.int64), wrong)):
        with pytest.raises(ValueError, match="must hold integers, got torch"):
            ConfusionMatrix(2).update(*pair)
