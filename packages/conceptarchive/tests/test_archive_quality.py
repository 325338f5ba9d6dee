import numpy as np
import pytest

from conceptarchive import Mentions, Vocabulary, archive_quality, frequency_ranking


def test_worked_example() -> None:
    ranked = {"a": ["dog", "grass", "fox", "sky"], "b": ["cat"], "c": ["sea"]}
    mentioned = {"a": {"dog"}, "b": {"cat"}, "c": set[str]()}
    truth = {"a": {"dog", "grass", "sky"}, "b": {"cat"}, "c": {"sea"}}
    report = archive_quality(ranked, mentioned, truth, ks=(1, 2, 3))
    # a: list is grass, fox, sky and misses grass, sky; b misses nothing; c misses sea
    assert report.recall == pytest.approx({1: 0.75, 2: 0.75, 3: 1.0})
    assert report.precision == pytest.approx({1: 1.0, 2: 0.5, 3: 0.5})
    assert (report.pairs, report.pairs_with_missing) == (3, 2)
    assert report.coverage == pytest.approx(2 / 3)
    assert report.named == pytest.approx(2 / 5)


def test_nothing_missing_and_nothing_known() -> None:
    report = archive_quality({}, {"a": {"dog"}}, {"a": {"dog"}})
    assert report.recall == {1: 0, 3: 0, 5: 0, 10: 0}
    assert report.coverage == 0
    assert archive_quality({}, {}, {"a": {"dog"}}).recall[10] == 0
    with pytest.raises(ValueError, match="0 pairs"):
        archive_quality({}, {}, {})
    with pytest.raises(ValueError, match="ks >= 1"):
        archive_quality({}, {}, {"a": {"dog"}}, ks=(0,))


def test_frequency_ranking_counts_captions() -> None:
    mentions = Mentions(np.array([0, 2, 3]), np.array([1, 2, 2], np.uint32))
    vocabulary = Vocabulary(("ant", "bee", "cow", "dog"))
    assert frequency_ranking(mentions, vocabulary) == ["cow", "bee", "ant", "dog"]
