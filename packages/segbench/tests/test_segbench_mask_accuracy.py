"""Mask classification accuracy, by hand and against loops over regions."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage  # type: ignore[import-untyped]  # it has no types

from segbench.metrics.mask_accuracy import MaskAccuracy, Regions, connected_components, pool, vote

Map = npt.NDArray[np.integer[Any]]

TRUTH = np.array([[0, 0, 1, 1, 0], [0, 0, 1, -1, 0]])
FOUND = np.array([[0, 0, 1, 0, 2], [1, 1, 0, 9, 2]])


def noisy(seed: int, height: int, width: int, classes: int, *, low: int = 0) -> Map:
    """Few classes, so that parts wind and touch by their corners."""
    return np.random.default_rng(seed).integers(low, classes, (height, width))


def partition(ids: Map) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(ids == i).tolist()) for i in np.unique(ids)}


def test_vote_by_hand() -> None:
    regions = Regions.of_labels(TRUTH, 3)
    assert regions.classes.tolist() == [0, 1]
    assert vote(regions, FOUND, 3).tolist() == [0, 0]  # 2 : 2 : 2 goes to the lowest; 1 : 2
    counts = MaskAccuracy(3)
    counts.update(regions, FOUND)
    assert (counts.right.tolist(), counts.total.tolist()) == ([1, 0, 0], [1, 1, 0])
    assert (counts.micro(), counts.macro()) == (0.5, 0.5)
    assert counts.accuracies()[:2].tolist() == [1, 0]
    assert math.isnan(counts.accuracies()[2])


def test_components_by_hand() -> None:
    regions = Regions.of_labels(TRUTH, 3, "component")
    assert regions.classes.tolist() == [0, 1, 0]
    assert vote(regions, FOUND, 3).tolist() == [0, 0, 2]
    counts = MaskAccuracy(3, kind="component")
    counts.update(regions, FOUND)
    assert (counts.micro(), counts.macro()) == (1 / 3, 1 / 4)


def test_pool_hears_how_sure_the_scores_are_and_vote_does_not() -> None:
    truth = np.zeros((1, 3), dtype=np.int64)
    scores = np.array([[[9.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]])  # (2, 1, 3)
    regions = Regions.of_labels(truth, 2)
    assert vote(regions, scores.argmax(axis=0), 2).tolist() == [1]
    assert pool(regions, scores).tolist() == [0]
    assert pool(regions, torch.tensor(scores, dtype=torch.bfloat16)).tolist() == [0]


def test_ties_go_to_the_lowest_class() -> None:
    regions = Regions.of_labels(np.ones((2, 2), dtype=np.int64), 3)
    assert vote(regions, np.array([[2, 1], [1, 2]]), 3).tolist() == [1]
    assert pool(regions, np.ones((3, 2, 2))).tolist() == [0]


@given(
    seed=st.integers(0, 10**6),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    classes=st.integers(1, 4),
)
def test_components_equal_scipy_one_class_at_a_time(
    seed: int, height: int, width: int, classes: int
) -> None:
    labels = noisy(seed, height, width, classes, low=-1)
    ids = connected_components(labels)
    want = np.zeros(labels.shape, dtype=np.int64)
    for c in range(-1, classes):
        parts, _ = ndimage.label(labels == c, structure=np.ones((3, 3)))
        want = np.where(labels == c, want.max() + parts, want)
    assert partition(ids) == partition(want)
    _, first = np.unique(ids, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered in the order in which they begin
    assert (ids.min(), ids.max()) == (0, len(partition(want)) - 1)


def test_long_winding_part_is_one() -> None:
    snake = np.zeros((41, 41), dtype=np.int64)
    snake[1::4, :-1] = snake[3::4, 1:] = 1  # walls with a gap at alternating ends
    assert len(np.unique(connected_components(snake)[snake == 0])) == 1


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["class", "component"]))
def test_vote_and_pool_equal_loops_over_regions(seed: int, kind: Any) -> None:
    truth = noisy(seed, 9, 11, 4, low=-1)
    scores = np.random.default_rng(seed).integers(0, 5, (4, 9, 11)).astype(np.float32)  # ties
    found = scores.argmax(axis=0)
    regions = Regions.of_labels(truth, 4, kind)
    masks = []
    for c in range(4):
        parts = [truth == c]
        if kind == "component":
            ids, n = ndimage.label(truth == c, structure=np.ones((3, 3)))
            parts = [ids == i + 1 for i in range(n)]
        masks += [(c, part) for part in parts if part.any()]
    want = sorted(
        (
            c,
            int(part.sum()),
            int(np.bincount(found[part], minlength=4).argmax()),
            int(np.array([plane[part].sum(dtype=np.float64) for plane in scores]).argmax()),
        )
        for c, part in masks
    )
    sizes = np.bincount(regions.owner)
    voted, pooled = vote(regions, found, 4), pool(regions, scores)
    got = zip(*(x.tolist() for x in (regions.classes, sizes, voted, pooled)), strict=True)
    assert sorted(got) == want


def test_given_masks_may_overlap_and_lose_ignored_pixels() -> None:
    masks = np.zeros((3, 2, 4), dtype=np.bool_)
    masks[0, :, :2] = masks[1, :, 1:] = masks[2, 0, 3] = True
    ignored = np.zeros((2, 4), dtype=np.bool_)
    ignored[0, 3] = True
    regions = Regions.of_masks(torch.tensor(masks), [1, 0, 1], ignored)
    assert regions.classes.tolist() == [1, 0]  # the third has ignored pixels only
    assert np.bincount(regions.owner).tolist() == [4, 5]
    found = np.array([[1, 1, 0, 0], [1, 0, 0, 1]])  # column 1 votes in both
    counts = MaskAccuracy(2, kind="given")
    assert counts.update(regions, found).tolist() == [1, 0]
    assert counts.micro() == 1


def test_given_masks_of_the_classes_are_the_class_regions() -> None:
    truth, found = noisy(0, 12, 10, 5), noisy(1, 12, 10, 5)
    masks = np.stack([truth == c for c in range(5)])
    given_masks = Regions.of_masks(masks, range(5))
    of_labels = Regions.of_labels(torch.tensor(truth), 5)
    assert vote(given_masks, found, 5).tolist() == vote(of_labels, found, 5).tolist()


@pytest.mark.parametrize("decision", ["vote", "pool"])
def test_counts_add_up_in_any_order(decision: Any) -> None:
    rng = np.random.default_rng(0)
    images = []
    for seed in range(12):
        truth = noisy(seed, 8, 8, 3, low=-1)
        votes = np.where(rng.random((8, 8)) < 0.5, truth.clip(0), noisy(seed + 99, 8, 8, 3))
        scores = np.eye(3)[votes].transpose(2, 0, 1)  # (3, 8, 8)
        images.append((Regions.of_labels(truth, 3, "component"), votes, scores))
    parts = [MaskAccuracy(3, decision=decision, kind="component") for _ in range(4)]
    for i, (regions, votes, scores) in enumerate(images):
        parts[0].update(regions, votes if decision == "vote" else scores)
        parts[1 + i % 3].update(regions, votes if decision == "vote" else scores)
    merged = parts[3] + parts[1] + parts[2]
    assert merged.right.dtype == merged.total.dtype == np.int64
    assert merged.right.tolist() == parts[0].right.tolist()
    assert merged.total.tolist() == parts[0].total.tolist()
    assert 0 < merged.micro() < 1


def test_image_without_a_scored_pixel_has_no_region() -> None:
    regions = Regions.of_labels(np.full((3, 3), -1), 2, "component")
    assert pool(regions, np.zeros((2, 3, 3))).tolist() == []
    counts = MaskAccuracy(2, kind="component")
    counts.update(regions, np.full((3, 3), 77))
    assert math.isnan(counts.micro())
    assert math.isnan(counts.macro())


def test_scores_matter_only_inside_regions() -> None:
    truth = np.array([[0, -1]])
    scores = np.array([[[1.0, np.nan]], [[0.0, np.inf]]])
    assert pool(Regions.of_labels(truth, 2), scores).tolist() == [0]
    with pytest.raises(ValueError, match="scores must be finite inside the regions"):
        pool(Regions.of_labels(np.zeros((1, 2), dtype=np.int64), 2), scores)


def test_definition_says_what_was_counted() -> None:
    told = {
        MaskAccuracy(2, decision=decision, kind=kind).definition
        for decision in ("vote", "pool")
        for kind in ("class", "component", "given")
    }
    assert len(told) == 6
    assert MaskAccuracy(2).definition == (
        "share of regions (all scored pixels of a class in an image) whose class is "
        "its most frequent label"
    )


def test_bad_arguments_are_one_clear_line() -> None:
    truth = np.zeros((2, 2), dtype=np.int64)
    regions = Regions.of_labels(truth, 2)
    masks = np.ones((1, 2, 2), dtype=np.bool_)
    with pytest.raises(ValueError, match="kind must be 'class' or 'component', got 'given'"):
        Regions.of_labels(truth, 2, "given")  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"labels must be in \[-1, 2\)"):
        Regions.of_labels(truth + 2, 2)
    with pytest.raises(ValueError, match=r"masks must be \(n, H, W\) bool .* and 2 classes"):
        Regions.of_masks(masks, [0, 1])
    with pytest.raises(ValueError, match=r"masks must be \(n, H, W\) bool"):
        Regions.of_masks(torch.ones(1, 2, 2), [0])
    with pytest.raises(ValueError, match="mask 1 has no pixel"):
        Regions.of_masks(np.concatenate([masks, ~masks]), [0, 1])
    with pytest.raises(ValueError, match=r"ignored must be \(2, 2\) bool"):
        Regions.of_masks(masks, [0], np.zeros((2, 3), dtype=np.bool_))
    with pytest.raises(ValueError, match=r"predictions must be in \[0, 2\)"):
        vote(regions, truth + 2, 2)
    with pytest.raises(ValueError, match=r"scores must be \(K, \*\(2, 2\)\), got \(2, 2, 3\)"):
        pool(regions, np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="scores must have 2 classes, got 3"):
        MaskAccuracy(2, decision="pool").update(regions, np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="regions must be of kind 'component', got 'class'"):
        MaskAccuracy(2, kind="component").update(regions, truth)
    with pytest.raises(ValueError, match=r"true classes must be in \[0, 2\), got 2 to 2"):
        MaskAccuracy(2, kind="given").update(Regions.of_masks(masks, [2]), truth)
    with pytest.raises(ValueError, match="decision must be one of"):
        MaskAccuracy(2, decision="mean")  # type: ignore[arg-type]  # the same
    with pytest.raises(ValueError, match="classes must be >= 1, got 0"):
        MaskAccuracy(0)
    with pytest.raises(ValueError, match="counts must share classes, decision and kind"):
        MaskAccuracy(2) + MaskAccuracy(2, decision="pool")
