import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive import MentionFinder, Mentions, Ranked, Vocabulary, own_responses
from conceptarchive.config import CosineNorm, Relative
from conceptarchive.curation.collect import Candidates
from conceptarchive.curation.rank import keep_best, order_by_score, rank_images, score

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]

GRASS, HORSE, FOX = 0, 1, 2
WITNESSES = [[0.21, 0.19], [0.29], [0.31, 0.30]]
ANCHOR = np.array([0.22, 0.17, 0.31], np.float32)


def hand_worked(witnesses: list[list[float]] = WITNESSES) -> Candidates:
    ends = np.cumsum([0, *map(len, witnesses)])
    flat = np.array([value for part in witnesses for value in part], np.float32)
    return Candidates(np.array([0, 3]), np.arange(3), ends, flat)


def test_hand_worked_case_of_eqs_7_and_8() -> None:
    found = hand_worked()
    eq_7 = score(ANCHOR, found, cosine_norm="none") - ANCHOR
    np.testing.assert_allclose(eq_7, [1.0645, 0.7391, 1.0109], atol=5e-5)
    assert eq_7.argmax() == GRASS  # by the relative term alone grass is first
    ranked = order_by_score(found, score(ANCHOR, found))
    assert ranked.concepts.tolist() == [FOX, GRASS, HORSE]
    np.testing.assert_allclose(ranked.scores, [2.0109, 1.7742, 1.2875], atol=5e-5)


def test_other_readings_of_eq_7_by_hand() -> None:
    found = hand_worked([[0.21, 0.19], [0.29], []])
    without = score(ANCHOR, found, relative="mean_without_anchor", cosine_norm="none") - ANCHOR
    np.testing.assert_allclose(without, [1.1, 0.17 / 0.29, 1], rtol=1e-5)
    soft = score(ANCHOR, found, relative="softmax", cosine_norm="none") - ANCHOR
    odds = 3 / (1 + math.exp(-1) + math.exp(-3)), 2 / (1 + math.exp(12)), 1
    np.testing.assert_allclose(soft, odds, rtol=1e-4, atol=1e-6)
    ranks = score(ANCHOR, found, relative="rank", cosine_norm="none") - ANCHOR
    np.testing.assert_allclose(ranks, [5 / 3, 0.5, 1], rtol=1e-5)


@pytest.mark.parametrize("relative", ["mean_with_anchor", "mean_without_anchor", "softmax", "rank"])
def test_itself_or_nobody_as_witness_is_neutral(relative: Relative) -> None:
    found = hand_worked([[float(ANCHOR[0])], [], [float(ANCHOR[2])] * 3])
    neutral = score(ANCHOR, found, relative=relative, cosine_norm="none") - ANCHOR
    np.testing.assert_allclose(neutral, [1, 1, 1], rtol=1e-6)


def test_no_candidates_at_all() -> None:
    mentions = Mentions(np.zeros(3, np.int64), np.empty(0, np.uint32))
    features = np.eye(4, dtype=np.float32)
    ranked = rank_images(
        features[:2], features, np.array([[0, 1], [-1, -1]]), mentions, np.empty(0, np.float32)
    )
    assert ranked.offsets.tolist() == [0, 0, 0]
    assert len(ranked.scores) == 0


def test_ties_go_to_the_lower_concept() -> None:
    found = Candidates(np.array([0, 3]), np.array([2, 5, 7]), np.zeros(4, int), np.empty(0, "f4"))
    ranked = order_by_score(found, np.array([1, 2, 1], np.float32))
    assert ranked.concepts.tolist() == [5, 2, 7]
    assert keep_best(ranked, 2).concepts.tolist() == [5, 2]
    assert keep_best(ranked, 9).offsets.tolist() == [0, 3]


def test_tiny_and_negative_responses_stay_finite() -> None:
    found = hand_worked([[-0.22], [0.0], [1e-9]])
    for relative in ("mean_with_anchor", "mean_without_anchor", "softmax", "rank"):
        values = score(np.array([0.22, -0.1, 0], np.float32), found, relative=relative)
        assert bool(np.isfinite(values).all())
    alone = score(np.array([-0.1, -0.2, -0.3], np.float32), hand_worked([[], [], []]))
    np.testing.assert_allclose(alone, [-999, -1999, -2999], rtol=1e-5)  # by 1e-4, and 1
    clamped = score(np.array([-0.1] * 3, np.float32), hand_worked([[-0.1], [-0.3], [-0.5]]))
    np.testing.assert_allclose(clamped, [-2000] * 3, rtol=1e-5)  # both by 1e-4


def test_shifted_responses_by_hand() -> None:
    found = hand_worked([[-0.2], [0.2], [0.0]])
    anchor = np.array([0.0, 0.0, -0.5], np.float32)  # as (1 + x) / 2: 0.5, 0.5, 0.25
    values = score(anchor, found, response="shifted", cosine_norm="none")
    want = [0.5 + 0.5 / 0.45, 0.5 + 0.5 / 0.55, 0.25 + 0.25 / 0.375]
    np.testing.assert_allclose(values, want, rtol=1e-6)
    normed = score(anchor, found, response="shifted")
    np.testing.assert_allclose(
        normed - values, np.array([0.5, 0.5, 0.25]) * (1 / 0.6 - 1), rtol=1e-5
    )


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="3 candidates"):
        score(ANCHOR[:2], hand_worked())
    with pytest.raises(ValueError, match="sum"):
        score(ANCHOR, hand_worked(), relative="sum")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="3 candidates"):
        order_by_score(hand_worked(), ANCHOR[:2])
    with pytest.raises(ValueError, match="finite"):
        score(np.array([0.2, np.nan, 0.3], np.float32), hand_worked())
    with pytest.raises(ValueError, match="finite"):
        score(ANCHOR, hand_worked([[0.2], [np.inf], []]), relative="rank")


def slow_ratio(relative: str, s: float, others: list[float]) -> float:
    k = len(others)
    if relative == "mean_with_anchor":
        return s / max((s + sum(others)) / (k + 1), 1e-4)
    if k == 0:
        return 1.0
    if relative == "mean_without_anchor":
        return s / max(sum(others) / k, 1e-4)
    if relative == "softmax":
        return (k + 1) / (1 + sum(math.exp(100 * (other - s)) for other in others))
    below = sum(s > other for other in others) + 0.5 * sum(s == other for other in others)
    return 2 * (below + 0.5) / (k + 1)


@dataclass(frozen=True)
class Pool:
    """A made-up pool whose images are the anchors too."""

    images: npt.NDArray[np.floating]
    features: npt.NDArray[np.float32]
    neighbours: npt.NDArray[np.int64]
    mentions: Mentions
    own: npt.NDArray[np.float32]

    def rank(self, **options: Any) -> Ranked:
        return rank_images(
            self.images, self.features, self.neighbours, self.mentions, self.own, **options
        )


@pytest.fixture
def pool(unit_rows: MakeRows) -> Pool:
    random = np.random.default_rng(3)
    vocabulary = Vocabulary(tuple(f"w{n}" for n in range(25)))
    captions = [" ".join(random.choice(vocabulary.names, 3)) for _ in range(300)]
    mentions = MentionFinder(vocabulary).find_all(captions)
    images, features = np.abs(unit_rows(300, 12, 0)), np.abs(unit_rows(25, 12, 1))
    neighbours = np.sort(random.integers(-1, 300, (300, 6)), axis=1)[:, ::-1]
    neighbours[:, 1:][neighbours[:, 1:] == neighbours[:, :-1]] = -1
    own = own_responses(images, features, mentions)
    return Pool(images, features, neighbours, mentions, own)


def entries(ranked: Ranked, image: int) -> dict[int, float]:
    part = slice(ranked.offsets[image], ranked.offsets[image + 1])
    return dict(zip(ranked.concepts[part].tolist(), ranked.scores[part].tolist(), strict=True))


def same(left: Ranked, right: Ranked) -> bool:
    return (
        np.array_equal(left.offsets, right.offsets)
        and np.array_equal(left.concepts, right.concepts)
        and np.array_equal(left.scores, right.scores)
    )


@pytest.mark.parametrize("cosine_norm", ["max_in_archive", "none"])
@pytest.mark.parametrize("relative", ["mean_with_anchor", "mean_without_anchor", "softmax", "rank"])
def test_matches_a_loop_over_images(
    pool: Pool, relative: Relative, cosine_norm: CosineNorm
) -> None:
    ranked = pool.rank(relative=relative, cosine_norm=cosine_norm)
    response = pool.images @ pool.features.T  # (300, 25)
    for image in range(300):
        witnesses: dict[int, list[float]] = {}
        for row in pool.neighbours[image][pool.neighbours[image] >= 0]:
            for concept in pool.mentions[row].tolist():
                witnesses.setdefault(concept, []).append(float(response[row, concept]))
        anchor = {q: float(response[image, q]) for q in witnesses}
        largest = max([*anchor.values(), *(s for part in witnesses.values() for s in part), 1e-4])
        norm = largest if cosine_norm == "max_in_archive" else 1.0
        expected = {q: s / norm + slow_ratio(relative, s, witnesses[q]) for q, s in anchor.items()}
        got = entries(ranked, image)
        assert got == pytest.approx(expected, rel=1e-3)
        assert list(got) == sorted(got, key=lambda q: (-got[q], q))


def test_ranking_by_the_cosine_alone_is_eq_6(pool: Pool) -> None:
    ranked = pool.rank(ranking="cosine")
    for image in range(0, 300, 7):
        got = entries(ranked, image)
        expected = {q: float(pool.images[image] @ pool.features[q]) for q in got}
        assert got == pytest.approx(expected, rel=1e-5)
        assert set(got) == set(entries(pool.rank(), image))


def test_results_do_not_depend_on_blocks_or_threads(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pool.rank(forced=pool.mentions)
    for threads, block in ((1, 17), (2, 64), (3, 1)):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        monkeypatch.setattr("conceptarchive.curation.rank.BLOCK", block)
        assert same(pool.rank(forced=pool.mentions), whole)


def test_the_anchors_own_concepts_are_forced_in(pool: Pool) -> None:
    lonely = replace(pool, neighbours=np.full((300, 2), -1))
    ranked = lonely.rank(forced=pool.mentions)
    for image in range(300):
        got = entries(ranked, image)
        assert set(got) == set(pool.mentions[image].tolist())
        largest = max(float(pool.images[image] @ pool.features[q]) for q in got)
        for concept, value in got.items():  # nobody but itself: eq. 7 gives 1
            cosine = float(pool.images[image] @ pool.features[concept])
            assert value == pytest.approx(cosine / largest + 1, rel=1e-5)


def test_half_precision_images_and_memory_maps_are_ranked_alike(pool: Pool, tmp_path: Path) -> None:
    half = replace(pool, images=pool.images.astype(np.float16))
    full = replace(pool, images=half.images.astype(np.float32))
    assert same(half.rank(), full.rank())
    parts: dict[str, npt.NDArray[Any]] = {
        "offsets": pool.mentions.offsets, "concepts": pool.mentions.concepts,
        "own": pool.own, "images": half.images,
    }  # fmt: skip
    maps = {}
    for name, part in parts.items():
        np.save(tmp_path / f"{name}.npy", part)
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = replace(
        half, images=maps["images"], own=maps["own"],
        mentions=Mentions(maps["offsets"], maps["concepts"]),
    )  # fmt: skip
    assert same(mapped.rank(), half.rank())


def test_what_is_out_of_range_is_refused_before_it_is_read(pool: Pool) -> None:
    far = pool.neighbours.copy()
    far[5, 0] = 300
    with pytest.raises(ValueError, match=r"image 5 .* 300 captions"):
        replace(pool, neighbours=far).rank()
    unknown = pool.mentions.concepts.copy()
    unknown[pool.mentions.offsets[pool.neighbours[9].max()]] = 25
    with pytest.raises(ValueError, match="below 25"):
        replace(pool, mentions=Mentions(pool.mentions.offsets, unknown)).rank()
    beyond = pool.mentions.offsets.copy()
    beyond[-1] += 1000
    with pytest.raises(ValueError, match="captions of"):
        replace(pool, mentions=Mentions(beyond, pool.mentions.concepts)).rank()
    with pytest.raises(ValueError, match="own must be of"):
        replace(pool, own=pool.own[1:]).rank()
    with pytest.raises(ValueError, match="neighbours must be of 300"):
        replace(pool, neighbours=pool.neighbours[:5]).rank()
    with pytest.raises(ValueError, match="forced must be of 300"):
        pool.rank(forced=Mentions(np.zeros(2, np.int64), np.empty(0, np.uint32)))
    broken = pool.images.copy()
    broken[40] = np.nan
    with pytest.raises(ValueError, match="image 40 of 300"):
        replace(pool, images=broken).rank()
