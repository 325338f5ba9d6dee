from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive import DataMissingError, FormatError, Vocabulary
from conceptarchive.vocabulary import phrase_plurals, plurals, tokenize


def test_nouns_are_mined_by_caption_count_with_plurals_merged() -> None:
    captions = [
        "a dog and a dog near the café",
        "two dogs on the grass",
        "three women ride a fire truck",
        "a woman in a photo of a fire truck",
    ]
    mined = Vocabulary.mine(captions, min_count=2)
    assert mined.names == ("dog", "fire", "truck", "woman")
    assert "photo" not in Vocabulary.mine(captions, min_count=1).names
    assert "café" in Vocabulary.mine(captions, min_count=1).names
    assert "fire truck" in Vocabulary.mine(captions, min_count=2, phrases=True).names
    apart = Vocabulary.mine(captions, min_count=1, merge_plurals=False).names
    assert {"dog", "dogs"} <= set(apart)
    assert Vocabulary.mine(captions, min_count=1, max_size=1).names == ("dog",)


def test_mining_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="min_count = 5"):
        Vocabulary.mine(["a dog"], min_count=5)
    with pytest.raises(ValueError, match="got 0"):
        Vocabulary.mine(["a dog"], min_count=0)


def test_files_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Dog\n\nhowler  monkey\ndog\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"concept": ["Dog", "howler monkey"]}', encoding="utf-8")
    first = Vocabulary.from_file(tmp_path / "a.txt")
    assert first.names == ("dog", "howler monkey")
    assert Vocabulary.from_file(tmp_path / "a.json") == first
    first.save(tmp_path / "b.txt")
    assert Vocabulary.from_file(tmp_path / "b.txt").sha256 == first.sha256
    assert first.sha256 != Vocabulary(("howler monkey", "dog")).sha256
    assert first.sha256 != Vocabulary(first.names, merge_plurals=False).sha256
    assert first.prompts() == ["a photo of a dog.", "a photo of a howler monkey."]


@pytest.mark.parametrize(
    "text", ["{}", "[1", '{"concept": []}', '{"concept": 3}'], ids=["key", "json", "none", "type"]
)
def test_wrong_files_name_themselves(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"v\.json"):
        Vocabulary.from_file(tmp_path / "v.json")
    with pytest.raises(DataMissingError, match=r"w\.txt"):
        Vocabulary.from_file(tmp_path / "w.txt")


@pytest.mark.parametrize("names", [(), ("Dog",), ("dog", "dog"), (" dog",)])
def test_names_are_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name"):
        Vocabulary(names)


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("dog", ("dogs",)), ("bus", ("buses",)), ("city", ("cities",)), ("boy", ("boys",)),
        ("woman", ("women",)), ("fireman", ("firemen",)), ("person", ("people", "persons")),
        ("leaf", ("leaves",)), ("sheep", ()), ("glass", ()), ("church", ("churches",)),
    ],
)  # fmt: skip
def test_plural_forms(word: str, forms: tuple[str, ...]) -> None:
    assert plurals(word) == forms


def test_only_the_last_word_takes_the_plural() -> None:
    assert phrase_plurals("wedding dress") == ("wedding dresses",)


@given(st.text(max_size=60))
def test_tokens_of_joined_tokens_are_the_same(text: str) -> None:
    tokens = tokenize(text)
    assert tokenize(" ".join(tokens)) == tokens


def test_tokens_are_words() -> None:
    assert tokenize("A dog's T-shirt,\n2 CAFÉS!") == ["a", "dog", "s", "t-shirt", "2", "cafés"]
