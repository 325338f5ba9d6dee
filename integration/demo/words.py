"""What a visitor types: classes, each with synonyms."""

import re

from integration.demo.errors import InputError

SEPARATOR = "|"
"""Between the synonyms of a class."""

MAX_CLASSES = 40
MAX_WORDS = 120
MAX_LETTERS = 60

Classes = tuple[tuple[str, ...], ...]
"""Synonyms of each class; the first is shown."""


def parse_words(text: str) -> Classes:
    """Read classes: separated by commas or lines, their synonyms by `|`.

        "person | man | woman, sky" -> (("person", "man", "woman"), ("sky",))

    Args:
        text: as typed; spaces around words do not count.

    Raises:
        InputError: no word, too many, too long a one, one that is there twice, or signs that
            cannot be shown.
    """
    parts = [re.split(re.escape(SEPARATOR), part) for part in re.split(r"[,\n]", text)]
    named = [tuple(" ".join(word.split()) for word in part if word.strip()) for part in parts]
    classes = tuple(words for words in named if words)
    words = [word for synonyms in classes for word in synonyms]
    if not words:
        raise InputError("there are no words yet; type some, as: sky, grass, dog | puppy")
    if len(classes) > MAX_CLASSES or len(words) > MAX_WORDS:
        raise InputError(
            f"at most {MAX_CLASSES} classes and {MAX_WORDS} words are read, got {len(classes)} "
            f"and {len(words)}; leave some out"
        )
    for word in words:
        _check(word)
    if twice := [word for word in words if words.count(word) > 1]:
        raise InputError(f"{twice[0]!r} is there twice; leave one out")
    return classes


def advise(classes: Classes) -> str:
    """A hint where several classes seem to have been typed as one; empty where they do not."""
    if len(classes) > 1 or len(classes[0]) > 1 or " " not in classes[0][0]:
        return ""
    return f"there is one class, {classes[0][0]!r}; if it is several, put commas between them"


def _check(word: str) -> None:
    if not word.isprintable():
        raise InputError(f"{word[:MAX_LETTERS]!a} has signs that cannot be shown; type it anew")
    if len(word) > MAX_LETTERS:
        raise InputError(
            f"a word has at most {MAX_LETTERS} letters, {word[:20]!r}... has {len(word)}"
        )
