from hypothesis import given
from hypothesis import strategies as st

from conceptarchive import MentionFinder, Vocabulary

WORDS = ["ant", "plant", "red", "fire", "truck", "dog"]


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
