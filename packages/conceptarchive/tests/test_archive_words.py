from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conceptarchive.concepts.words import (
    NameMatcher,
    caption_blocks,
    phrase_plurals,
    plurals,
    split_synonyms,
    tokenize,
)


class Lazy(Sequence[str]):
    """Ten captions that are only there while they are read."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 10

    def __getitem__(self, at: Any) -> Any:
        assert isinstance(at, slice), "one by one"
        start, stop, _ = at.indices(10)
        self.reads.append((start, stop))
        return [str(number) for number in range(start, stop)]


def test_sequences_are_read_by_slices_and_anything_else_in_order() -> None:
    captions = Lazy()
    blocks = [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    assert list(caption_blocks(captions, 4)) == blocks
    assert captions.reads == [(0, 4), (4, 8), (8, 10)]
    assert list(caption_blocks(iter("0123456789"), 4)) == blocks
    assert list(caption_blocks(iter(()), 4)) == list(caption_blocks([], 4)) == []


@pytest.mark.parametrize("name", ["dining table", "Dining-Tables", "diningtable", "DINING TABLE"])
def test_a_name_is_itself_in_any_number_and_spacing(name: str) -> None:
    assert NameMatcher(["chair", "dining table"]).match(name) == {1}
    assert NameMatcher(["chair", name]).match("dining table") == {1}


@pytest.mark.parametrize("name", ["table", "dining", "dining tab", "!", "a dining table"])
def test_a_part_of_a_name_is_another_name(name: str) -> None:
    assert NameMatcher(["dining table", "?"]).match(name) == set()


def test_synonyms_of_a_class() -> None:
    assert split_synonyms("car, auto,automobile ") == ["car", "auto", "automobile"]
    assert split_synonyms("kite (bird, of prey), ") == ["kite"]


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
