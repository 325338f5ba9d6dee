from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptarchive.concepts.mentions import Mentions
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.errors import DataMissingError, FormatError
from conceptarchive.output.quality import (
    Band,
    Bin,
    archive_quality,
    bootstrap,
    calibration,
    difference,
    frequency_ranking,
    load_truth,
    pair_scores,
    recall_by_frequency,
)
from conceptarchive.output.quality_plot import plot_quality


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


def test_labels_that_captions_name_are_judged_apart() -> None:
    ranked = {"a": ["sky", "dog"], "b": ["dog"]}
    mentioned = {"a": {"dog"}, "b": {"dog"}}
    truth = {"a": {"dog", "sky"}, "b": {"dog"}}
    report = archive_quality(ranked, mentioned, truth, ks=(1, 2))
    assert report.named_recall == {1: 0.5, 2: 1.0}  # a names its dog second, b first
    assert report.recall == {1: 1.0, 2: 1.0}
    assert report.recall_interval == {1: (1.0, 1.0), 2: (1.0, 1.0)}


def test_interval_of_half_right() -> None:
    low, high = bootstrap(np.array([0.0, 1.0] * 200))
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / 20, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / 20, abs=0.01)
    assert bootstrap(np.zeros(0)) == (0.0, 0.0)


def test_difference_is_paired() -> None:
    truth = {f"p{n:03d}": {"sky"} for n in range(100)}
    good = {key: ["sky"] for key in truth}
    bad = {key: ["sky"] if n % 4 else ["sea"] for n, key in enumerate(truth)}
    first, second = (pair_scores(arm, {}, truth, (1,)) for arm in (good, bad))
    gain = difference(first, second, k=1)
    assert gain.mean == pytest.approx(0.25)
    assert 0.15 < gain.low < 0.25 < gain.high < 0.35
    assert difference(first, first, k=1) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same pairs"):
        difference(first, pair_scores(good, {}, {"x": {"sky"}}, (1,)), k=1)
    with pytest.raises(ValueError, match="k = 3"):
        difference(first, second, k=3)


def test_calibration_by_score() -> None:
    scored = {"a": [("dog", 2.0), ("cat", 1.0)], "b": [("sea", 1.5), ("sky", 0.5)]}
    truth = {"a": {"dog"}, "b": {"sea"}, "c": {"sky"}}
    assert calibration(scored, truth, bins=2) == [(0.5, 1.0, 0.0, 2), (1.5, 2.0, 1.0, 2)]
    assert calibration({}, truth) == []


def test_recall_by_how_often_captions_mention_a_label() -> None:
    truth = {"a": {"ant", "bee", "cow"}}
    counts = {"ant": 1, "bee": 5, "cow": 9}
    bands = recall_by_frequency({"a": ["cow", "elk", "ant"]}, {}, truth, counts, k=2)
    assert bands == [("rare", 1, 0.0), ("middle", 1, 0.0), ("frequent", 1, 1.0)]


def test_truth_is_read_from_json_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a/b/c": ["dog", "sky"]}', encoding="utf-8")
    (tmp_path / "t.tsv").write_text("a/b/c\tDog, sky\n\nx\n", encoding="utf-8")
    assert load_truth(tmp_path / "t.json") == {"a/b/c": {"dog", "sky"}}
    assert load_truth(tmp_path / "t.tsv") == {"a/b/c": {"dog", "sky"}, "x": frozenset()}
    with pytest.raises(DataMissingError, match="No such file"):
        load_truth(tmp_path / "none.json")
    for text in ('{"a": "dog"}', "[1]", "{", "{}"):
        (tmp_path / "bad.json").write_text(text, encoding="utf-8")
        with pytest.raises(FormatError, match=r"bad\.json"):
            load_truth(tmp_path / "bad.json")


def test_plot_is_drawn(tmp_path: Path) -> None:
    report = archive_quality({"a": ["sky"]}, {}, {"a": {"sky"}})
    bins, bands = [Bin(0.5, 1.0, 0.25, 4)], [Band("rare", 3, 0.5)]
    plot_quality(tmp_path / "q.png", {"archive": report, "frequency": report}, bins, bands)
    with Image.open(tmp_path / "q.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
