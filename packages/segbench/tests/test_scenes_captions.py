"""Captions and their gap."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from segbench import CaptionRates, ScenesDataset, caption_gap
from segbench.datasets.scenes.captions import named_classes, write_caption
from segbench.datasets.scenes.world import NAMES, STUFF_BY_NAME, SUBSETS, THINGS

SCENES = ScenesDataset(split="train", count=300, size_px=48)
ALL = CaptionRates(thing=1.0, stuff=1.0, wrong=0.0, empty=0.0)


def test_captions_name_things_and_leave_out_stuff() -> None:
    gap = caption_gap(SCENES)
    assert gap.scenes == 300
    assert gap.stuff < 0.3
    assert gap.thing > 0.75
    assert gap.stuff < gap.all < gap.thing
    assert 0 < gap.false < 0.15


def test_without_wrong_captions_nothing_false_is_named() -> None:
    rates = CaptionRates(wrong=0.0)
    assert caption_gap(replace(SCENES, count=100, rates=rates)).false == 0


def test_complete_captions_have_no_gap_among_things() -> None:
    gap = caption_gap(replace(SCENES, count=100, rates=ALL))
    assert gap.thing == 1
    assert gap.false == 0


def test_gap_is_counted_over_scenes_and_classes() -> None:
    present = [SCENES.present(i) for i in range(300)]
    named = [named_classes(SCENES.caption(i)) for i in range(300)]
    told = sum(len(p & n) for p, n in zip(present, named, strict=True))
    gap = caption_gap(SCENES)
    assert gap.all == pytest.approx(told / sum(map(len, present)))
    claims = sum(map(len, named))
    assert gap.false == pytest.approx((claims - told) / claims)


def test_some_captions_are_wrong_and_some_are_empty() -> None:
    captions = [SCENES.caption(i) for i in range(300)]
    wrong = [i for i, c in enumerate(captions) if named_classes(c) - SCENES.present(i)]
    assert 3 <= len(wrong) <= 30  # 6 % belong to other scenes, most of which show something else
    assert 1 <= captions.count("") <= 15
    assert all(caption == caption.strip() for caption in captions)


def test_a_caption_that_is_always_wrong_is_another_scene_s() -> None:
    liar = replace(SCENES, rates=CaptionRates(wrong=1.0, empty=0.0))
    false = [bool(named_classes(liar.caption(i)) - liar.present(i)) for i in range(50)]
    assert sum(false) > 25


def test_an_always_empty_caption_is_empty() -> None:
    assert replace(SCENES, rates=CaptionRates(empty=1.0)).caption(0) == ""


def test_a_caption_counts_and_inflects() -> None:
    rng = np.random.default_rng(0)
    texts = [write_caption(rng, Counter({"bus": 2, "sheep": 1}), ["road"], ALL) for _ in range(20)]
    for text in texts:
        words = text.replace(",", "").split()
        assert "buses" in words
        assert "two" in words
        assert " on the road" in text
        assert named_classes(text) == {"bus", "sheep", "road"}


def test_articles_fit_their_word() -> None:
    rng = np.random.default_rng(1)
    text = " ".join(write_caption(rng, Counter({"umbrella": 1}), [], ALL) for _ in range(60))
    assert "an umbrella" in text
    assert "an old umbrella" in text
    assert "a umbrella" not in text
    assert "a old" not in text


def test_a_scene_without_named_things_still_has_words() -> None:
    rates = replace(ALL, thing=0.0, stuff=0.0)
    text = write_caption(np.random.default_rng(0), Counter({"car": 1}), ["road"], rates)
    assert text
    assert named_classes(text) == set()


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_recognised(name: str) -> None:
    assert named_classes(f"my favourite shot: {name}, taken by a friend") == {name}


def test_plurals_are_recognised_and_parts_of_words_are_not() -> None:
    for thing in THINGS:
        assert named_classes(f"two {thing.plural}") == {thing.name}
    assert named_classes("a carpet of skyward grassland") == set()


def test_subsets_are_stuff_and_things() -> None:
    assert {NAMES[i] for i in SUBSETS["stuff"]} == set(STUFF_BY_NAME)
    assert SCENES.names == NAMES
    assert SCENES.subsets == SUBSETS
