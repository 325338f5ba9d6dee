"""Bootstrap over images."""

import numpy as np
import pytest

from segbench import PerImageCounts, bootstrap, paired_difference
from segbench.metrics.per_image import sparse


def binary(accuracy: np.ndarray, seed: int = 0) -> PerImageCounts:
    """Images of 100 pixels and two classes, of which a share is right."""
    rng = np.random.default_rng(seed)
    right = rng.binomial(50, accuracy[:, None], size=(len(accuracy), 2))  # (I, 2)
    images = [np.array([[r, 50 - r], [50 - s, s]]) for r, s in right]
    return PerImageCounts.of_sparse(2, [(f"{i:05d}", *sparse(m)) for i, m in enumerate(images)])


def test_one_image_has_an_interval_of_no_width() -> None:
    interval = bootstrap(binary(np.array([0.5])), rng=np.random.default_rng(0), resamples=20)
    assert interval.low == interval.high == pytest.approx(interval.point)
    assert (interval.images, interval.resamples) == (1, 20)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth = 0.7 / 1.3  # IoU of both classes where 70 % of either is right
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        images = binary(np.clip(rng.normal(0.7, 0.1, 60), 0, 1), seed=trial)
        interval = bootstrap(images, rng=np.random.default_rng(trial), resamples=200)
        hits += interval.low <= truth <= interval.high
    assert 176 <= hits <= 198  # 95 % of 200 is 190; a percentile interval is a little narrow


def test_interval_shrinks_with_the_root_of_the_images() -> None:
    wide, narrow = (
        bootstrap(binary(np.random.default_rng(2).uniform(0.4, 1, n)), rng=np.random.default_rng(0))
        for n in (50, 800)
    )
    ratio = (wide.high - wide.low) / (narrow.high - narrow.low)
    assert 2.8 < ratio < 5.6  # sqrt(16) = 4


def test_same_seed_same_interval() -> None:
    counts = binary(np.full(30, 0.8))
    first, second = (bootstrap(counts, rng=np.random.default_rng(7)) for _ in range(2))
    assert first == second


def test_paired_difference_sees_what_unpaired_intervals_hide() -> None:
    hardness = np.random.default_rng(3).uniform(0.3, 0.95, 200)
    worse, better = binary(hardness, 1), binary(np.minimum(hardness + 0.03, 1), 2)
    gap = paired_difference(worse, better, rng=np.random.default_rng(0))
    apart = [bootstrap(run, rng=np.random.default_rng(0)) for run in (worse, better)]
    assert gap.low > 0  # a real gain
    assert apart[0].high > apart[1].low  # though each alone could be the other
    back = paired_difference(better, worse, rng=np.random.default_rng(0))
    assert back.point == pytest.approx(-gap.point)


def test_a_run_against_itself_differs_by_exactly_zero() -> None:
    counts = binary(np.full(20, 0.6))
    gap = paired_difference(counts, counts, rng=np.random.default_rng(0))
    assert gap.point == gap.low == gap.high == 0


def test_pairing_goes_by_id_not_by_position() -> None:
    counts = binary(np.linspace(0.2, 1, 20))
    pairs = list(zip(counts.ids, range(20), strict=True))[::-1]
    areas = counts.areas()
    dense = [np.array([[a, b - a], [d - c, c]]) for (a, c), (b, d) in zip(areas.tp, areas.gt)]  # noqa: B905  equal by construction
    turned = PerImageCounts.of_sparse(2, [(name, *sparse(dense[i])) for name, i in pairs])
    gap = paired_difference(counts, turned, rng=np.random.default_rng(0))
    assert gap.low == gap.high == 0


def test_wrong_input_raises() -> None:
    rng, counts = np.random.default_rng(0), binary(np.full(3, 0.5))
    with pytest.raises(ValueError, match="at least 1 image"):
        bootstrap(PerImageCounts.of_sparse(2, []), rng=rng)
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        bootstrap(counts, rng=rng, level=95)
    with pytest.raises(ValueError, match="share no image"):
        other = PerImageCounts.of_sparse(2, [("z", *sparse(np.eye(2, dtype=int)))])
        paired_difference(counts, other, rng=rng)
    with pytest.raises(ValueError, match="share classes, got 2 and 3"):
        paired_difference(counts, PerImageCounts.of_sparse(3, []), rng=rng)
