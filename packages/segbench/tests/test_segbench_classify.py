"""Zero-shot classification: counts by hand and against scikit-learn, ties, intervals."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from segbench import load_names
from segbench.metrics.classification import (
    ClassificationCounts,
    bootstrap_share,
    cautions,
    classify_scores,
    duplicate_names,
    rank_truth,
    share_difference,
)


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.2, 0.7, 0.7]])
    ranking = rank_truth(scores, torch.tensor([2, 2, 2]))
    assert ranking.rank.tolist() == [1, 2, 1]  # of equal scores the lowest class comes first
    assert ranking.tied.tolist() == [False, True, True]
    assert ranking.lost.tolist() == [False, True, True]
    assert ranking.winner.tolist() == [1, 0, 1]


def test_metrics_by_hand() -> None:
    scores = torch.eye(6)[[0, 0, 1, 3]] + torch.arange(6) / 100  # ties are broken upwards
    counts = classify_scores(scores, torch.tensor([0, 0, 0, 2]))
    assert counts.metrics() == {
        "acc1": 2 / 4,
        "acc5": 3 / 4,  # class 0 has the lowest score in the third image, hence rank 5
        "mean_per_class_recall": (2 / 3 + 0) / 2,
        "ties": 0,
        "ties_lost": 0,
    }
    assert counts.recalls()[[0, 2]].tolist() == [2 / 3, 0]
    assert math.isnan(counts.recalls()[1])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), classes=st.integers(5, 30))
def test_accuracies_equal_topk_and_scikit_learn(seed: int, n: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, classes, generator=generator, dtype=torch.float64)  # no ties
    labels = torch.randint(0, classes, (n,), generator=generator)
    metrics = classify_scores(scores, labels).metrics()
    top = scores.topk(5).indices  # (n, 5)
    assert metrics["acc1"] == float((top[:, 0] == labels).double().mean())
    assert metrics["acc5"] == float((top == labels[:, None]).any(dim=1).double().mean())
    assert rank_truth(scores, labels).winner.tolist() == top[:, 0].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted only: they are in no mean
        want = balanced_accuracy_score(labels.numpy(), top[:, 0].numpy())
    assert metrics["mean_per_class_recall"] == pytest.approx(want, abs=1e-12)


@given(seed=st.integers(0, 10**6), shards=st.integers(1, 5))
def test_counts_add_up_and_ties_are_what_a_loop_counts(seed: int, shards: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (20, 7), generator=generator).float()  # many ties
    labels = torch.randint(0, 7, (20,), generator=generator)
    parts = [classify_scores(scores[i::shards], labels[i::shards]) for i in range(shards)]
    merged = sum(parts[1:], start=parts[0])
    assert merged.metrics() == classify_scores(scores, labels).metrics()
    ties = lost = right = five = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        best = [c for c in range(7) if row[c] == max(row)]
        order = sorted(range(7), key=lambda c: (-row[c], c))
        ties += len(best) > 1
        lost += label in best and label != best[0]
        right += order[0] == label
        five += label in order[:5]
    metrics = merged.metrics()
    assert (metrics["ties"], metrics["ties_lost"]) == (ties, lost)
    assert (metrics["acc1"], metrics["acc5"]) == (right / 20, five / 20)
    assert merged.total.dtype == merged.first.dtype == merged.five.dtype == np.int64


def test_imagenet_has_two_names_twice() -> None:
    names = load_names("imagenet1k")
    assert duplicate_names(names) == {"missile": (657, 744), "sunglasses": (836, 837)}


def test_classes_of_one_name_tie_whatever_rounding_did() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.5 + 1e-6], [0.9, 0.1, 0.9 + 1e-6]])
    labels = torch.tensor([2, 2])
    apart = classify_scores(scores, labels).metrics()
    assert (apart["acc1"], apart["ties"]) == (0.5, 0)
    tied = classify_scores(scores, labels, ("crane", "pool", "crane")).metrics()
    assert (tied["acc1"], tied["ties"], tied["ties_lost"]) == (0, 1, 1)
    between = classify_scores(torch.tensor([[0.5, 0.8, 0.9]]), labels[:1], ("a", "b", "a"))
    assert between.metrics()["ties_lost"] == 1  # both have 0.9
    assert float(scores[0, 0]) == 0.5  # the caller's scores are left alone


def test_cautions_tell_duplicate_names_and_the_ties_they_make() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.9], [0.9, 0.1, 0.9], [0.1, 0.8, 0.1]])
    counts = classify_scores(scores, torch.tensor([0, 2, 1]), ("red", "blue", "red"))
    assert list(cautions(("red", "blue", "red"), counts)) == [
        "names given to more than one class, of which only the lowest can win: red (0, 2)",
        "2 of 3 images have more than one best class; "
        "1 are wrong only because the lowest of them wins",
    ]
    alone = classify_scores(torch.tensor([[0.1, 0.2]]), torch.tensor([1]))
    assert list(cautions(("red", "blue"), alone)) == ["1 of 2 classes have no image"]


def test_difference_of_two_shares_equals_a_bootstrap_that_draws_every_image() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.random(300) < 0.4, draw.random(300) < 0.5
    drawn = draw.integers(0, 300, (20_000, 300))
    gaps = second[drawn].mean(axis=1) - first[drawn].mean(axis=1)
    ours = share_difference(first, second, rng=np.random.default_rng(1), resamples=20_000)
    assert ours.point == pytest.approx(second.mean() - first.mean())
    assert [ours.low, ours.high] == pytest.approx(np.quantile(gaps, [0.025, 0.975]), abs=0.0068)
    same = share_difference(first, first, rng=draw)
    assert (same.point, same.low, same.high, same.images) == (0, 0, 0, 300)
    with pytest.raises(ValueError, match=r"a difference needs \(I,\) and \(I,\) with I >= 1"):
        share_difference(first, second[:-1], rng=draw)


def test_interval_equals_a_bootstrap_that_draws_every_image() -> None:
    right = np.arange(400) < 130
    rng = np.random.default_rng(0)
    drawn = right[rng.integers(0, 400, (20_000, 400))].mean(axis=1)
    ours = bootstrap_share(130, 400, rng=np.random.default_rng(1), resamples=20_000)
    assert ours.point == 130 / 400
    assert [ours.low, ours.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.0051)
    assert bootstrap_share(400, 400, rng=rng).low == 1
    narrow = bootstrap_share(130, 400, rng=rng, level=0.5)
    assert narrow.high - narrow.low < 0.5 * (ours.high - ours.low)


def test_no_image_gives_nan_not_zero() -> None:
    counts = classify_scores(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64))
    assert counts.images == 0
    for key in ("acc1", "acc5", "mean_per_class_recall"):
        assert math.isnan(counts.metrics()[key])


def test_bad_arguments_are_one_clear_line() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"scores must be \(n, K\) with n labels, got"):
        classify_scores(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match="scores must be floating point and labels integers"):
        classify_scores(torch.zeros(2, 2), labels.float())
    with pytest.raises(ValueError, match="scores must be finite"):
        classify_scores(torch.tensor([[0, math.nan], [0, 1]]), labels)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 1\), got \[0, 1\]"):
        classify_scores(torch.zeros(2, 1), labels)
    with pytest.raises(ValueError, match="got 1 names for 2 classes"):
        classify_scores(torch.zeros(2, 2), labels, ["one"])
    with pytest.raises(ValueError, match="counts must share classes: 2, 3"):
        _ = classify_scores(torch.zeros(2, 2), labels) + classify_scores(torch.zeros(2, 3), labels)
    with pytest.raises(ValueError, match="a share needs 0 <= right <= images"):
        bootstrap_share(2, 1, rng=np.random.default_rng(0))
    assert isinstance(classify_scores(torch.zeros(2, 2), labels), ClassificationCounts)
