"""Mentions and mining, captions a second on one core.

Run with `hatch run bench`. Joining and encoding the captions is part of what is timed. The compiled
search is checked against `MentionFinder.find` before anything is timed.
"""

import time
from typing import Any

import numpy as np
import pytest

from conceptarchive import MentionFinder, Mentions, Vocabulary

CAPTIONS, WORDS = 200_000, 11
SIZES = {"4k": 4_000, "100k": 100_000}
Bench = Any  # the fixture of pytest-benchmark has no public type


def make_words() -> list[str]:
    """Made-up words of 2 to 10 letters, frequent ones first."""
    random = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlu"))
    made = {"".join(random.choice(letters, random.integers(2, 11))): None for _ in range(40_000)}
    return list(made)


def make_captions(words: list[str]) -> list[str]:
    """A few words make up most of a caption, as in real ones; each begins with a capital."""
    random = np.random.default_rng(1)
    places = (len(words) * random.random((CAPTIONS, WORDS)) ** 4).astype(int)
    return [" ".join([words[p] for p in row]).capitalize() + " ." for row in places.tolist()]


words = pytest.fixture(make_words, scope="module")
captions = pytest.fixture(make_captions, scope="module")


def measure_mentions(repeats: int = 5) -> dict[str, float]:
    """Captions a second on one core with 4,000 names, as the median of several; checked first."""
    made = make_words()
    texts = make_captions(made)
    finder = MentionFinder(vocabulary_of(made, SIZES["4k"]))
    found = finder.find_all(texts)
    if any(found[row].tolist() != finder.find(texts[row]) for row in range(0, CAPTIONS, 97)):
        raise AssertionError("the compiled search differs from find")
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        finder.find_all(texts)
        taken.append(time.perf_counter() - start)
    return {"captions_per_s": CAPTIONS / float(np.median(taken))}


def vocabulary_of(words: list[str], size: int) -> Vocabulary:
    """Names of one to four words, half of them of one."""
    random = np.random.default_rng(2)
    names: dict[str, None] = dict.fromkeys(words[: size // 2])
    while len(names) < size:
        names[" ".join(random.choice(words[:2000], random.integers(2, 5)))] = None
    return Vocabulary(tuple(names))


def report_rate(benchmark: Any, count: int, unit: str, work: str, way: str = "ours") -> None:
    """Note the rate, and for the table what was done, who did it, and of how many."""
    benchmark.extra_info[f"{unit} a second"] = round(count / benchmark.stats.stats.median)
    benchmark.extra_info.update(work=work, way=way, items=count)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("script", ["ascii", "one in ten not ascii"])
def test_find_all(
    benchmark: Bench, words: list[str], captions: list[str], size: str, script: str
) -> None:
    finder = MentionFinder(vocabulary_of(words, SIZES[size]))
    if script != "ascii":
        captions = [f"{c} café" if n % 10 == 0 else c for n, c in enumerate(captions)]
    few = finder.find_all(captions[:2000])
    same = all(few[row].tolist() == finder.find(captions[row]) for row in range(2000))
    assert same, "refuses to time a search that differs from the plain one"
    mentions: Mentions = benchmark(finder.find_all, captions)
    benchmark.extra_info["mentions a caption"] = round(len(mentions.concepts) / len(captions), 2)
    work = (
        "mentions, 4k names" if (size, script) == ("4k", "ascii") else f"mentions, {size}, {script}"
    )
    report_rate(benchmark, len(captions), "captions", work)


def test_find(benchmark: Bench, words: list[str], captions: list[str]) -> None:
    finder = MentionFinder(vocabulary_of(words, SIZES["4k"]))
    few = captions[:5000]
    benchmark(lambda: [finder.find(caption) for caption in few])
    report_rate(benchmark, len(few), "captions", "mentions, 4k names", "one caption at a time")


@pytest.mark.parametrize("size", SIZES)
def test_build(benchmark: Bench, words: list[str], size: str) -> None:
    vocabulary = vocabulary_of(words, SIZES[size])
    benchmark.pedantic(lambda: MentionFinder(vocabulary).find_all(["a dog"]), rounds=3)
    report_rate(benchmark, len(vocabulary), "names", f"prepare {size} names")


@pytest.mark.parametrize("phrases", [False, True], ids=["nouns", "phrases"])
def test_mine(benchmark: Bench, captions: list[str], phrases: bool) -> None:
    benchmark.pedantic(Vocabulary.mine, (captions,), {"phrases": phrases}, rounds=3)
    report_rate(benchmark, len(captions), "captions", "mine phrases" if phrases else "mine nouns")
