import math
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive.sample import draw_cluster_guided, draw_naive, draw_top, rng

GOLDEN = [0.8450394279274231, 0.0287508029049397]  # list(islice(rng(0, "x"), 2))
SCORES = [2.0, 1.5, 1.2, 1.0, 0.4]


def test_streams_are_named_and_uniform() -> None:
    first = list(islice(rng(0, "archive", 3, "a/b"), 20))
    assert first == list(islice(rng(0, "archive", 3, "a/b"), 20))
    assert first != list(islice(rng(0, "archive", 3, "a/c"), 20))
    assert list(islice(rng("ab", "c"), 3)) != list(islice(rng("a", "bc"), 3))
    many = list(islice(rng(1), 20_000))
    assert len(set(many)) == 20_000
    assert 0 <= min(many) < max(many) < 1
    assert sum(many) / 20_000 == pytest.approx(0.5, abs=0.01)


def test_streams_stay_the_same_between_versions() -> None:
    assert list(islice(rng(0, "x"), 2)) == pytest.approx(GOLDEN, abs=0)


def test_top_takes_the_first() -> None:
    assert draw_top(SCORES, 3) == [0, 1, 2]
    assert draw_top(SCORES, 9) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_first_naive_draw_follows_the_softmax(temperature: float) -> None:
    weights = [math.exp(score / temperature) for score in SCORES]
    stream = rng(0)
    drawn = [draw_naive(SCORES, 2, stream, temperature=temperature) for _ in range(20_000)]
    first = Counter(places[0] for places in drawn)
    for place, weight in enumerate(weights):
        assert first[place] / 20_000 == pytest.approx(weight / sum(weights), abs=0.015)
    then = Counter(places[1] for places in drawn if places[0] == 0)
    rest = sum(weights[1:])
    assert then[1] / then.total() == pytest.approx(weights[1] / rest, abs=0.02)
    assert then[0] == 0


def test_one_of_each_cluster_by_softmax_inside() -> None:
    clusters = [0, 0, 1, 2, 2]
    stream = rng(0)
    drawn = [draw_cluster_guided(SCORES, clusters, 3, stream) for _ in range(20_000)]
    assert all(sorted(clusters[place] for place in places) == [0, 1, 2] for places in drawn)
    share = sum(0 in places for places in drawn) / 20_000
    assert share == pytest.approx(1 / (1 + math.exp(-0.5)), abs=0.015)


def test_of_many_clusters_some_are_drawn_by_their_mean() -> None:
    scores, clusters = [2.0, 0.0, 1.0, 0.5], [0, 0, 1, 2]
    stream = rng(0)
    drawn = [draw_cluster_guided(scores, clusters, 1, stream)[0] for _ in range(20_000)]
    weights = [math.exp(1.0), math.exp(1.0), math.exp(0.5)]
    counts = Counter(clusters[place] for place in drawn)
    for cluster, weight in enumerate(weights):
        assert counts[cluster] / 20_000 == pytest.approx(weight / sum(weights), abs=0.015)


def test_of_few_clusters_the_rest_is_drawn_naively() -> None:
    drawn = draw_cluster_guided(SCORES, [0, 0, 0, 0, 1], 4, rng(5))
    assert len(set(drawn)) == 4
    assert 4 in drawn


@given(
    scores=st.lists(st.floats(-5, 5), max_size=20),
    count=st.integers(1, 6),
    seed=st.integers(0, 999),
    temperature=st.floats(0.01, 10),
)
def test_draws_are_distinct_and_complete(
    scores: list[float], count: int, seed: int, temperature: float
) -> None:
    clusters = [place % 4 for place in range(len(scores))]
    naive = draw_naive(scores, count, rng(seed), temperature=temperature)
    guided = draw_cluster_guided(scores, clusters, count, rng(seed), temperature=temperature)
    for drawn in (naive, guided):
        assert len(drawn) == len(set(drawn)) == min(count, len(scores))
        assert all(0 <= place < len(scores) for place in drawn)
