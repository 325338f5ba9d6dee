import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive.curation.sample import Method, draw_batch

DRAWS = 40_000
SCORES = [2.0, 1.5, 1.2, 1.0, 0.4]
GOLDEN = [[0, 2, 4], [1, 2, 4], [1, 2, 3], [0, 2, 3]]  # of keys 0 to 3, seed 7, epoch 9
Places = npt.NDArray[np.int32]
Chances = dict[tuple[int, ...], float]


def draw_many(
    method: Method, scores: Sequence[float], clusters: Sequence[int], count: int,
    *, n: int = DRAWS, seed: int = 0, epoch: int = 0, temperature: float = 1.0,
) -> Places:  # fmt: skip
    """The same concepts drawn from for n keys."""
    return draw_batch(
        method,
        np.arange(n + 1) * len(scores),
        np.tile(np.array(scores, np.float32), n),
        np.tile(np.array(clusters, np.uint8), n),
        np.arange(n, dtype=np.uint64),
        count=count, seed=seed, epoch=epoch, temperature=temperature,
    )  # fmt: skip


def naive_chances(scores: dict[int, float], count: int, temperature: float = 1.0) -> Chances:
    """Probability of every sequence of draws without replacement."""
    if count == 0 or not scores:
        return {(): 1.0}
    weights = {place: math.exp(score / temperature) for place, score in scores.items()}
    out = {}
    for place, weight in weights.items():
        rest = {other: score for other, score in scores.items() if other != place}
        for then, chance in naive_chances(rest, count - 1, temperature).items():
            out[(place, *then)] = chance * weight / sum(weights.values())
    return out


def guided_chances(scores: list[float], clusters: list[int], count: int, t: float) -> Chances:
    """Probability of every sequence of cluster-guided draws (more concepts than `count`)."""
    groups = {c: [p for p, own in enumerate(clusters) if own == c] for c in sorted(set(clusters))}
    means = {c: sum(scores[p] for p in group) / len(group) for c, group in groups.items()}
    orders: Chances = {tuple(groups): 1.0}
    if len(groups) > count:
        orders = naive_chances(means, count, t)
    out: Chances = {}
    for order, chance in orders.items():
        inside = [naive_chances({p: scores[p] for p in groups[c]}, 1, t) for c in order]
        for picks in itertools.product(*(part.items() for part in inside)):
            places = tuple(pick[0] for pick, _ in picks)
            here = chance * math.prod(share for _, share in picks)
            rest = {p: s for p, s in enumerate(scores) if p not in places}
            for then, share in naive_chances(rest, count - len(places), t).items():
                out[places + then] = out.get(places + then, 0.0) + here * share
    return out


def assert_follows(drawn: Places, chances: Chances) -> None:
    """Pearson's chi-square test at one in ten thousand; what cannot happen never did."""
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) <= set(chances)
    assert sum(chances.values()) == pytest.approx(1)
    expected = {places: chance * len(drawn) for places, chance in chances.items()}
    common = [places for places in chances if expected[places] >= 5]
    rare = len(drawn) - sum(counts[places] for places in common)
    rare_expected = len(drawn) - sum(expected[places] for places in common)
    distance = sum((counts[p] - expected[p]) ** 2 / expected[p] for p in common)
    distance += (rare - rare_expected) ** 2 / max(rare_expected, 1)
    freedom = len(common)
    spread = 2 / (9 * freedom)  # Wilson and Hilferty: its cube root is nearly normal
    assert distance < freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3


def test_top_takes_the_first() -> None:
    assert draw_many("top", SCORES, [0] * 5, 3, n=2).tolist() == [[0, 1, 2]] * 2
    assert draw_many("top", SCORES, [0] * 5, 7, n=1).tolist() == [[0, 1, 2, 3, 4, -1, -1]]


@pytest.mark.parametrize("temperature", [1.0, 0.25, 8.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_naive_draws_follow_the_softmax_without_replacement(count: int, temperature: float) -> None:
    drawn = draw_many("naive", SCORES, [0] * 5, count, temperature=temperature)
    assert_follows(drawn, naive_chances(dict(enumerate(SCORES)), count, temperature))


@pytest.mark.parametrize(
    ("scores", "clusters", "count"),
    [
        (SCORES, [0, 0, 1, 2, 2], 3),  # one of each
        (SCORES, [0, 0, 1, 2, 3], 2),  # more clusters than draws
        ([2.0, 0.0, 1.0, 0.5], [0, 0, 1, 2], 1),  # a cluster's mean, not its best, decides
        (SCORES, [0, 0, 0, 0, 1], 4),  # fewer: the rest is drawn naively
        (SCORES, [255, 7, 7, 255, 30], 2),  # any numbers
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_cluster_guided_draws_follow_their_definition(
    scores: list[float], clusters: list[int], count: int, temperature: float
) -> None:
    drawn = draw_many("cluster", scores, clusters, count, temperature=temperature)
    assert_follows(drawn, guided_chances(scores, clusters, count, temperature))


def test_one_of_each_cluster() -> None:
    clusters = np.array([0, 0, 1, 2, 2])
    drawn = draw_many("cluster", SCORES, clusters.tolist(), 3, n=1000)
    assert np.array_equal(np.sort(clusters[drawn], axis=1), np.tile([0, 1, 2], (1000, 1)))


def test_a_pair_with_few_concepts_gives_all_in_their_order() -> None:
    assert draw_many("cluster", SCORES[:2], [0, 1], 3, n=1).tolist() == [[0, 1, -1]]
    for method in ("top", "naive", "cluster"):
        assert draw_many(method, [], [], 2, n=2).tolist() == [[-1, -1]] * 2
    naive = draw_many("naive", SCORES[:2], [0, 1], 3, n=200)
    assert set(map(tuple, naive.tolist())) == {(0, 1, -1), (1, 0, -1)}


@pytest.mark.parametrize("method", ["naive", "cluster"])
def test_a_cold_softmax_takes_the_best_that_is_left(method: Method) -> None:
    drawn = draw_many(method, [3.0, 2.0, 1.0, -5.0], [0] * 4, 3, n=50, temperature=1e-3)
    assert drawn.tolist() == [[0, 1, 2]] * 50


class Mixed:
    """Pairs with 0 to 20 concepts."""

    def __init__(self, n: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.offsets = np.concatenate([[0], np.cumsum(random.integers(0, 21, n))])
        concepts = int(self.offsets[-1])
        self.scores = random.normal(1.6, 0.4, concepts).astype(np.float32)
        self.clusters = random.integers(0, 5, concepts).astype(np.uint8)
        self.hashes = random.integers(0, 2**64, n, np.uint64)

    def draw(
        self, method: Method, rows: slice | None = None, *, seed: int = 1, epoch: int = 2
    ) -> Places:
        rows = rows or slice(0, len(self.hashes))
        return draw_batch(
            method, self.offsets[rows.start : rows.stop + 1], self.scores, self.clusters,
            self.hashes[rows], count=3, seed=seed, epoch=epoch, temperature=1.0,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["naive", "cluster"])
def test_one_pair_alone_draws_as_among_many(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = Mixed(500)
    batch = mixed.draw(method)
    for row in range(0, 500, 7):
        assert np.array_equal(mixed.draw(method, slice(row, row + 1))[0], batch[row])
    for threads, block in ((1, 33), (3, 100)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        monkeypatch.setattr("conceptarchive.curation.sample.BLOCK", block)
        assert np.array_equal(mixed.draw(method), batch)


def test_draws_hang_on_seed_epoch_and_key_and_on_nothing_else() -> None:
    mixed = Mixed(2000)
    first = mixed.draw("naive", seed=3, epoch=4)
    assert np.array_equal(mixed.draw("naive", seed=3, epoch=4), first)
    full = np.diff(mixed.offsets) > 10
    for seed, epoch in ((4, 3), (3, 5), (4, 4), (-1, 4), (2**64 + 4, 0)):
        other = mixed.draw("naive", seed=seed, epoch=epoch)
        assert (other == first).all(axis=1)[full].mean() < 0.01  # about 1 in 3,000 by chance


def test_epochs_and_neighbouring_keys_are_independent() -> None:
    one = draw_many("naive", [0.0] * 4, [0] * 4, 1)[:, 0]
    two = draw_many("naive", [0.0] * 4, [0] * 4, 1, epoch=1)[:, 0]
    even: Chances = {(a, b): 1 / 16 for a in range(4) for b in range(4)}
    assert_follows(np.stack([one, two], axis=1), even)
    assert_follows(one.reshape(-1, 2), even)  # keys that differ by 1
    within = draw_many("cluster", [0.0] * 8, [0] * 4 + [1] * 4, 2)
    pairs: Chances = {(a, 4 + b): 1 / 16 for a in range(4) for b in range(4)}
    assert_follows(within, pairs)  # numbers of one stream


def test_draws_stay_the_same_between_versions() -> None:
    drawn = draw_many("cluster", SCORES, [0, 0, 1, 2, 2], 3, n=4, seed=7, epoch=9)
    assert drawn.tolist() == GOLDEN


@given(
    scores=st.lists(st.floats(-5, 5, width=32), max_size=20),
    count=st.integers(1, 6),
    seed=st.integers(-5, 2**70),
    temperature=st.floats(0.001, 10),
)
def test_draws_are_distinct_and_complete(
    scores: list[float], count: int, seed: int, temperature: float
) -> None:
    clusters = [place % 4 for place in range(len(scores))]
    for method in ("naive", "cluster"):
        row = draw_many(method, scores, clusters, count, n=1, seed=seed, temperature=temperature)[
            0
        ].tolist()
        drawn = row[: min(count, len(scores))]
        assert row[len(drawn) :] == [-1] * (count - len(drawn))
        assert len(set(drawn)) == len(drawn)
        assert all(0 <= place < len(scores) for place in drawn)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "best"}, "'best'"),
        ({"count": 0}, "count >= 1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"temperature": math.nan}, "got 'naive', 2 and nan"),
        ({"offsets": np.array([0, 2])}, "n \\+ 1 offsets"),
        ({"clusters": np.zeros(3, np.uint8)}, "c clusters"),
        ({"offsets": np.array([0, 2, 5])}, "pair 1 are not within"),
        ({"offsets": np.array([0, 3, 2])}, "pair 1 are not within"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], told: str) -> None:
    draw: Callable[..., Places] = draw_batch
    given_ = {
        "method": "naive", "offsets": np.array([0, 2, 4]), "scores": np.zeros(4, np.float32),
        "clusters": np.zeros(4, np.uint8), "key_hashes": np.zeros(2, np.uint64),
        "count": 2, "seed": 0, "epoch": 0, "temperature": 1.0,
    }  # fmt: skip
    assert draw(**given_).shape == (2, 2)
    with pytest.raises(ValueError, match=told):
        draw(**given_ | change)
