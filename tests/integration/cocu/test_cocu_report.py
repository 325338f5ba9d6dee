"""What a report says first, and chance."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from integration.cocu.report import headline
from integration.results import Outcome, chance_level
from segbench import ConfusionMatrix, Report


def scored(pixels: list[int], rule: str) -> Report:
    """A report of so many true pixels of each class, all of them predicted as the first."""
    counts = np.zeros((len(pixels), len(pixels)), np.int64)
    counts[:, 0] = pixels
    found: Any = SimpleNamespace(
        confusion=ConfusionMatrix(len(pixels), counts), task={"absent": rule}
    )
    return cast(Report, found)


def test_chance_of_two_equal_classes_is_a_third() -> None:
    # half of a class is hit, and the union is half of the picture plus half of the rest
    assert chance_level(scored([50, 50], "union")) == pytest.approx(1 / 3)


def test_chance_follows_the_shares_and_the_rule_for_absent_classes() -> None:
    # p / (1 + 2 p) with p = 0.75, 0.25 and 0
    first, second = 0.75 / 2.5, 0.25 / 1.5
    assert chance_level(scored([75, 25, 0], "gt")) == pytest.approx((first + second) / 2)
    assert chance_level(scored([75, 25, 0], "union")) == pytest.approx((first + second) / 3)


def test_chance_is_what_random_labels_score() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(4, p=(0.5, 0.3, 0.15, 0.05), size=(400, 500))
    matrix = ConfusionMatrix(4)
    matrix.update(truth, rng.integers(4, size=truth.shape))
    counts = np.bincount(truth.ravel()).tolist()
    assert chance_level(scored(counts, "union")) == pytest.approx(matrix.miou(), abs=2e-3)


def outcome(**mious: list[float]) -> Outcome:
    metrics = {arm.replace("_", "-"): {"miou": values} for arm, values in mious.items()}
    return Outcome(metrics, {}, {}, None, {})


def test_one_seed_is_told_to_say_little() -> None:
    said = headline(outcome(baseline=[0.2], cocu=[0.3]), 0.02, 300)
    assert "over 300 pictures" in said
    assert "baseline 0.200, cocu 0.300; labels drawn at random would have 0.020." in said
    assert "cocu less baseline is +0.100. One seed says little" in said
    assert "±" not in said and "upper-bound" not in said


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        # differences 0.1 and 0.2: mean 0.15, standard error 0.05
        ([0.3, 0.6], "is +0.150 ± 0.050 (mean and standard error of 2 seeds), more than twice"),
        # differences 0.3 and -0.1: 0.1 ± 0.2
        ([0.5, 0.3], "is +0.100 ± 0.200 (mean and standard error of 2 seeds), no more than twice"),
        ([0.1, 0.2], "is -0.150 ± 0.050 (mean and standard error of 2 seeds), more than twice"),
    ],
)
def test_several_seeds_have_a_standard_error(ours: list[float], said: str) -> None:
    found = headline(outcome(baseline=[0.2, 0.4], cocu=ours, upper_bound=[0.5, 0.7]), 0.02, 300)
    assert said in found
    assert "baseline 0.300 ± 0.100" in found
    assert "upper-bound the classes that are really there" in found
    assert "One seed" not in found


def test_one_arm_is_compared_with_nothing() -> None:
    said = headline(outcome(cocu=[0.3]), 0.02, 300)
    assert "baseline" not in said and "differ" not in said


def test_scores_at_chance_are_told() -> None:
    told = "no model has learnt to segment"
    assert told in headline(outcome(baseline=[0.001], cocu=[0.002]), 0.002, 128)
    assert told not in headline(outcome(baseline=[0.001], cocu=[0.003]), 0.002, 128)
