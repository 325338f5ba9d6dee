import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive import Candidates, MentionFinder, Mentions, Vocabulary, own_responses
from conceptarchive.config import CosineNorm, Relative
from conceptarchive.rank import collect, keep_best, order_by_score, rank_images, score

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


def test_collecting_remembers_who_brought_a_concept() -> None:
    mentions = Mentions(np.array([0, 2, 3, 3]), np.array([4, 1, 4], np.uint32))
    own = np.array([0.5, 0.25, 0.125], np.float32)
    neighbours = np.array([[0, 1], [2, -1], [1, -1]])
    found = collect(neighbours, mentions, own, concept_count=5)
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert found.concepts.tolist() == [1, 4, 4]
    assert found.witness_offsets.tolist() == [0, 1, 3, 4]
    assert found.witness_responses.tolist() == [0.25, 0.5, 0.125, 0.125]
    forced = Mentions(np.array([0, 1, 2, 2]), np.array([4, 0], np.uint32))
    more = collect(neighbours, mentions, own, concept_count=5, forced=forced)
    assert more.offsets.tolist() == [0, 2, 3, 4]
    assert more.concepts.tolist() == [1, 4, 0, 4]
    assert more.witness_offsets.tolist() == [0, 1, 3, 3, 4]


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
    clamped = score(np.array([-0.1, -0.2, -0.3], np.float32), hand_worked([[], [], []]))
    np.testing.assert_allclose(clamped, [-2000, -4000, -6000], rtol=1e-5)  # 2 x by 1e-4


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
    with pytest.raises(ValueError, match="of 2 captions"):
        own_responses(
            np.eye(2),
            np.eye(2, dtype=np.float32),
            Mentions(np.zeros(2, int), np.empty(0, np.uint32)),
        )


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


@pytest.mark.parametrize("cosine_norm", ["max_in_archive", "none"])
@pytest.mark.parametrize("relative", ["mean_with_anchor", "mean_without_anchor", "softmax", "rank"])
def test_matches_a_loop_over_images(
    unit_rows: MakeRows, relative: Relative, cosine_norm: CosineNorm
) -> None:
    random = np.random.default_rng(3)
    vocabulary = Vocabulary(tuple(f"w{n}" for n in range(25)))
    captions = [" ".join(random.choice(vocabulary.names, 3)) for _ in range(300)]
    mentions = MentionFinder(vocabulary).find_all(captions)
    images, features = np.abs(unit_rows(300, 12, 0)), np.abs(unit_rows(25, 12, 1))
    neighbours = np.sort(random.integers(-1, 300, (300, 6)), axis=1)[:, ::-1]
    neighbours[:, 1:][neighbours[:, 1:] == neighbours[:, :-1]] = -1
    ranked = rank_images(
        images, features, neighbours, mentions, own_responses(images, features, mentions),
        relative=relative, cosine_norm=cosine_norm,
    )  # fmt: skip
    for image in range(300):
        witnesses: dict[int, list[float]] = {}
        for row in neighbours[image][neighbours[image] >= 0]:
            for concept in mentions[row].tolist():
                witnesses.setdefault(concept, []).append(float(images[row] @ features[concept]))
        anchor = {q: float(images[image] @ features[q]) for q in witnesses}
        largest = max([*anchor.values(), *(s for part in witnesses.values() for s in part), 1e-4])
        norm = largest if cosine_norm == "max_in_archive" else 1.0
        expected = {q: s / norm + slow_ratio(relative, s, witnesses[q]) for q, s in anchor.items()}
        part = slice(ranked.offsets[image], ranked.offsets[image + 1])
        got = dict(zip(ranked.concepts[part].tolist(), ranked.scores[part].tolist(), strict=True))
        assert got == pytest.approx(expected, rel=1e-3)
        assert list(got) == sorted(got, key=lambda q: (-got[q], q))
