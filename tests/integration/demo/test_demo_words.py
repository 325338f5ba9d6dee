"""Words: commas part classes, bars part synonyms, and limits are told."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.demo.errors import InputError
from integration.demo.words import MAX_CLASSES, MAX_LETTERS, MAX_WORDS, advise, parse_words

WORD = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8)


def test_worked_example() -> None:
    typed = " person |  man|woman ,sky,\n traffic   light,,| "
    assert parse_words(typed) == (("person", "man", "woman"), ("sky",), ("traffic light",))


def test_several_classes_without_commas_are_pointed_out() -> None:
    assert "one class, 'sky grass house'; " in advise(parse_words("sky  grass house"))
    for plain in ("sky", "sky grass, house", "traffic light | lamp"):
        assert advise(parse_words(plain)) == ""


@settings(deadline=None)
@given(st.lists(st.lists(WORD, min_size=1, max_size=3), min_size=1, max_size=6))
def test_what_is_joined_is_read_back(classes: list[list[str]]) -> None:
    words = [word for synonyms in classes for word in synonyms]
    text = ", ".join(" | ".join(synonyms) for synonyms in classes)
    if len(set(words)) == len(words):
        assert parse_words(text) == tuple(map(tuple, classes))
    else:
        with pytest.raises(InputError, match="twice"):
            parse_words(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no words yet"),
        (" , |\n", "no words yet"),
        ("sky, sea | sky", "'sky' is there twice"),
        ("a" * (MAX_LETTERS + 1), f"at most {MAX_LETTERS} letters"),
        (",".join(map(str, range(MAX_CLASSES + 1))), f"at most {MAX_CLASSES} classes"),
        ("|".join(map(str, range(MAX_WORDS + 1))), f"{MAX_WORDS} words"),
        ("sky\x00", "cannot be shown"),
        ("\ud800", "cannot be shown"),
        ("\u202egnp.exe", "cannot be shown"),
    ],
)
def test_what_cannot_be_used_is_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        parse_words(text)
    assert "\n" not in str(error.value)
    str(error.value).encode()  # can be sent
