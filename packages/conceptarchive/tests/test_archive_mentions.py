import pickle
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conceptarchive import MentionFinder, Vocabulary

WORDS = ["ant", "plant", "red", "fire", "truck", "dog"]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile the search before anything is timed."""
    MentionFinder(Vocabulary(("dog",))).find_all(["a dog"])


def names(vocabulary: Vocabulary, caption: str) -> list[str]:
    return [vocabulary.names[concept] for concept in MentionFinder(vocabulary).find(caption)]


def test_substrings_are_not_mentions() -> None:
    vocabulary = Vocabulary(("ant", "car", "ear", "plant"))
    assert names(vocabulary, "a plant on a carpet beside a bear") == ["plant"]
    assert names(vocabulary, "an ant on a plant") == ["ant", "plant"]


def test_all_n_grams_count_once_in_order() -> None:
    vocabulary = Vocabulary(("truck", "fire truck", "fire", "red fire truck ladder", "dog"))
    caption = "A dog, a red fire\ntruck ladder; the DOG"
    found = ["dog", "red fire truck ladder", "fire", "fire truck", "truck"]
    assert names(vocabulary, caption) == found
    assert names(vocabulary, "") == []


def test_plurals_mention_their_singular_or_nothing() -> None:
    listed = ("dog", "dogs", "woman", "wedding dress", "glass")
    merged = Vocabulary(listed)
    caption = "dogs and women in wedding dresses and glasses"
    assert names(merged, caption) == ["dog", "woman", "wedding dress"]
    assert names(Vocabulary(listed, merge_plurals=False), caption) == ["dogs"]


def test_non_ascii_captions() -> None:
    decomposed = "cafe\N{COMBINING ACUTE ACCENT}"
    assert names(Vocabulary(("café", "犬")), f"Ein {decomposed} mit 犬") == ["café", "犬"]


def test_all_captions_in_one_table() -> None:
    finder = MentionFinder(Vocabulary(("dog", "grass")))
    mentions = finder.find_all(["grass and dog", "", "dogs"])
    assert mentions.offsets.tolist() == [0, 2, 2, 3]
    assert [mentions[row].tolist() for row in range(len(mentions))] == [[1, 0], [], [0]]
    assert mentions.counts(2).tolist() == [2, 1]


@given(
    st.lists(st.sampled_from(WORDS), max_size=12),
    st.sets(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join),
        min_size=1,
        max_size=9,
    ),
)
def test_matches_a_search_of_every_run_of_tokens(tokens: list[str], entries: set[str]) -> None:
    vocabulary = Vocabulary(tuple(sorted(entries)), merge_plurals=False)
    expected: list[str] = []
    for start in range(len(tokens)):
        for stop in range(start + 1, start + 5):
            run = " ".join(tokens[start:stop])
            if stop <= len(tokens) and run in entries and run not in expected:
                expected.append(run)
    assert names(vocabulary, " ".join(tokens)) == expected


def words_by_hand(text: str) -> list[str]:
    """Letters and digits in lower case, hyphens between them, written out again."""
    found = re.findall(r"[^\W_]+(?:-[^\W_]+)*", unicodedata.normalize("NFC", text).lower())
    return [str(word) for word in found]


def search_by_hand(vocabulary: Vocabulary, caption: str) -> list[int]:
    """Every run of words, compared with every name."""
    runs = {}
    for concept, name in enumerate(vocabulary.names):
        if words_by_hand(name):
            runs[tuple(words_by_hand(name))] = concept
    tokens, found = words_by_hand(caption), []
    for start in range(len(tokens)):
        for stop in range(start + 1, len(tokens) + 1):
            concept = runs.get(tuple(tokens[start:stop]), -1)
            if concept >= 0 and concept not in found:
                found.append(concept)
    return found


PIECES = [
    "ant", "Plant", "plants", "FIRE", "truck", "t-shirt", "dog's", "women", "2", "caf\xe9",
    "cafe\u0301", "\u0130stanbul", "\u01c5", "\u72ac", "stra\xdfe", "STRASSE", "\ufb01sh",
    "\ud800", "a\u200bb", "\u0660", "-", "--", "_", "'", "\n", "\x00", "\u2028", "",
]  # fmt: skip
SPACES = st.sampled_from(["", " ", "-", "\n", ", ", "_"])
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(st.tuples(st.sampled_from(PIECES), SPACES), max_size=9).map(
        lambda parts: "".join(piece + space for piece, space in parts)
    ),
)
NAMES = TEXTS.map(lambda text: " ".join(text.lower().split())).filter(
    lambda name: name != "" and name == " ".join(name.lower().split())
)


@given(st.lists(TEXTS, max_size=6), st.lists(NAMES, min_size=1, max_size=12, unique=True))
@example(["fire truck\ud800 fire", "\u0130stanbul"], ["fire", "fire truck", "i", "stanbul"])
@example(["t-shirt", "t shirt t- shirt"], ["t-shirt", "t shirt", "t", "shirt"])
def test_compiled_search_plain_search_and_search_by_hand_agree(
    captions: list[str], listed: list[str]
) -> None:
    for merge_plurals in (False, True):
        vocabulary = Vocabulary(tuple(listed), merge_plurals)
        finder = MentionFinder(vocabulary)
        found = finder.find_all(captions)
        plain = [finder.find(caption) for caption in captions]
        assert [found[row].tolist() for row in range(len(captions))] == plain
        if not merge_plurals:
            assert plain == [search_by_hand(vocabulary, caption) for caption in captions]


def test_blocks_change_nothing() -> None:
    random = np.random.default_rng(0)
    captions = [" ".join(random.choice([*WORDS, "caf\u00e9"], 6)) for _ in range(70_000)]
    finder = MentionFinder(Vocabulary(("fire truck", "caf\u00e9", "ant", "dog")))
    found, last = finder.find_all(captions), finder.find_all(iter(captions[-1000:]))
    assert len(found) == len(captions)
    for row in [0, 32_767, 32_768, 65_535, 65_536, 69_999]:
        assert found[row].tolist() == finder.find(captions[row])
    assert found.offsets[-1] == len(found.concepts)
    assert last.concepts.tolist() == found.concepts[found.offsets[-1001] :].tolist()
    assert found.concepts.dtype == np.uint32
    assert found.offsets.dtype == np.int64


def test_lazy_sequences_are_never_read_whole() -> None:
    class Pages(Sequence[str]):
        def __len__(self) -> int:
            return 100_000

        def __getitem__(self, at: Any) -> Any:
            start, stop, _ = at.indices(100_000)
            assert stop - start < 50_000
            return ["a dog"] * (stop - start)

    found = MentionFinder(Vocabulary(("dog",))).find_all(Pages())
    assert found.counts(1).tolist() == [100_000]


def test_names_without_words_and_no_captions() -> None:
    finder = MentionFinder(Vocabulary(("!", "dog")))
    assert finder.find_all(["! dog", "!"]).concepts.tolist() == [1]
    assert MentionFinder(Vocabulary(("!",))).find_all(["a dog !"]).offsets.tolist() == [0, 0]
    assert finder.find_all([]).offsets.tolist() == [0]


def test_a_finder_can_be_sent_to_a_worker() -> None:
    finder = MentionFinder(Vocabulary(("dog", "fire truck")))
    caption = "a dog in a fire truck"
    assert finder.find_all([caption]).concepts.tolist() == finder.find(caption)
    sent = pickle.loads(pickle.dumps(finder))
    assert sent.find_all([caption]).concepts.tolist() == sent.find(caption) == [0, 1]
