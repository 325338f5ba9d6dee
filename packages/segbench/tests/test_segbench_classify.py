"""Zero-shot classification: counts by hand and against scikit-learn, ties, and the whole loop."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from segbench import DataMissingError, FormatError, build_bank, load_names
from segbench.metrics.classification import (
    ClassificationCounts,
    Classifier,
    bootstrap_share,
    classify_scores,
    duplicate_names,
    evaluate_classification,
    rank_truth,
)

Picture = tuple[str, npt.NDArray[np.uint8], int]
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
NAMES = tuple(COLOURS)


class ColourClassifier:
    """Embeds an image as its mean colour and a prompt as the colours it names."""

    name = "colours"

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        rows = [sum(np.array(rgb) for word, rgb in COLOURS.items() if word in p) for p in prompts]
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def encode_image(self, image: Tensor) -> Tensor:
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        return image.mean(dim=(1, 2))


def picture(rgb: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    return np.broadcast_to(np.array(rgb, dtype=np.uint8), (2, 3, 3))


def pictures() -> Iterator[Picture]:
    """Four of five are right: the last is labelled blue and is red."""
    yield "a", picture((200, 10, 0)), 0
    yield "b", picture((9, 100, 0)), 1
    yield "c", picture((0, 99, 100)), 2
    yield "d", picture((3, 2, 1)), 0
    yield "e", picture((90, 1, 20)), 2


def bank(names: Sequence[str] = NAMES) -> Tensor:
    return build_bank(ColourClassifier().encode_text, names, ("a {} thing.", "all {}."))


def test_ranks_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.3, 0.3], [0.2, 0.7, 0.7]])
    ranking = rank_truth(scores, torch.tensor([2, 2, 2]))
    assert ranking.rank.tolist() == [1, 2, 1]  # of equal scores the lowest class comes first
    assert ranking.tied.tolist() == [False, True, True]
    assert ranking.lost.tolist() == [False, True, True]


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


def test_evaluate_by_hand() -> None:
    report = evaluate_classification(ColourClassifier(), pictures(), bank(), NAMES)
    assert report.metrics["acc1"] == 4 / 5
    assert report.metrics["mean_per_class_recall"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert math.isnan(report.metrics["acc5"])  # of three classes it would always be 1
    assert report.ids == ("a", "b", "c", "d", "e")
    assert report.labels.tolist() == [0, 1, 2, 0, 2]
    assert report.ranks.tolist() == [0, 0, 0, 0, 1]
    assert report.interval.point == 0.8
    assert report.interval.low < 0.8 <= report.interval.high
    assert report.warnings == ()
    assert report.summary().startswith("colours: acc1 0.8000 [")


def test_evaluate_tells_duplicate_names_and_the_ties_they_make() -> None:
    names = ("red", "green", "blue", "red")
    images = [*pictures(), ("f", picture((7, 0, 0)), 3)]
    report = evaluate_classification(ColourClassifier(), images, bank(names), names)
    assert report.metrics["ties"] == 4  # a, d, e and f are red twice over
    assert report.metrics["ties_lost"] == 1  # f
    assert report.metrics["acc1"] == 4 / 6
    assert report.warnings == (
        "names given to more than one class, of which only the lowest can win: red (0, 3)",
        "4 of 6 images have more than one best class; "
        "1 are wrong only because the lowest of them wins",
    )
    assert "  warning: names given" in report.summary()


def test_evaluate_twice_gives_equal_numbers() -> None:
    reports = [
        evaluate_classification(ColourClassifier(), list(pictures()), bank(), NAMES)
        for _ in range(2)
    ]
    assert reports[0].interval == reports[1].interval


def test_length_of_the_image_embedding_does_not_matter() -> None:
    class Loud(ColourClassifier):
        def encode_image(self, image: Tensor) -> Tensor:
            return 1000 * super().encode_image(image)

    loud = evaluate_classification(Loud(), pictures(), bank(), NAMES)
    plain = evaluate_classification(ColourClassifier(), pictures(), bank(), NAMES)
    assert loud.ranks.tolist() == plain.ranks.tolist()


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


def test_colours_are_a_classifier_and_anything_else_is_a_type_error() -> None:
    assert isinstance(ColourClassifier(), Classifier)
    with pytest.raises(TypeError, match="object has no name, encode_text and encode_image"):
        evaluate_classification(object(), pictures(), bank(), NAMES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([("a", picture((1, 1, 1)), 3)], r"image a: label must be in \[0, 3\), got 3"),
        ([("a", picture((1, 1, 1))[..., :2], 0)], r"image a: must be \(H, W, 3\) uint8"),
        ([("a", picture((1, 1, 1)) / 255, 0)], r"got \(2, 3, 3\) float64"),
        ([("a", picture((1, 1, 1)), 0)] * 2, "two images have the id 'a'"),
    ],
)
def test_bad_images_are_one_clear_line(images: list[Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        evaluate_classification(ColourClassifier(), images, bank(), NAMES)


def test_bad_arguments_are_one_clear_line() -> None:
    classifier, labels = ColourClassifier(), torch.tensor([0, 1])
    with pytest.raises(DataMissingError, match="the data set has no image"):
        evaluate_classification(classifier, [], bank(), NAMES)
    with pytest.raises(ValueError, match=r"the bank must be \(2 names, D\), got \(3, 3\)"):
        evaluate_classification(classifier, pictures(), bank(), NAMES[:2])
    with pytest.raises(ValueError, match="the bank must have unit rows"):
        evaluate_classification(classifier, pictures(), 2 * bank(), NAMES)
    with pytest.raises(ValueError, match="encode_image of z must give"):
        evaluate_classification(classifier, [("z", picture((0, 0, 0)), 0)], bank(), NAMES)
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
