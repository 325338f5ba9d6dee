"""Where a caption mentions a concept, to be shown to a reader."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.concepts.words import phrase_plurals, tokenize

WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")  # as `tokenize` splits


class Span(NamedTuple):
    """Characters start to stop of a caption, and the place of the name they mention."""

    start: int
    stop: int
    name: int


def readable(text: str) -> str:
    """A text on one line, with nothing in it that moves a cursor or hides."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line
    )


def mentions_of(text: str, names: Sequence[str], *, merge_plurals: bool) -> list[Span]:
    """Where a text of `readable` mentions names; of two that overlap the longer.

    Args:
        text: a caption.
        names: concept names.
        merge_plurals: whether a plural form mentions its singular.

    Returns:
        Spans in order, apart from each other.
    """
    words = [(found.start(), found.end(), found[0].lower()) for found in WORD.finditer(text)]
    spans = [
        Span(words[at][0], words[at + len(phrase) - 1][1], place)
        for place, name in enumerate(names)
        for phrase in _phrases(name, merge_plurals)
        for at in range(len(words) - len(phrase) + 1)
        if [word for _, _, word in words[at : at + len(phrase)]] == phrase
    ]
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span.start - span.stop, span.start, span.name)):
        if all(span.stop <= other.start or other.stop <= span.start for other in kept):
            kept.append(span)
    return sorted(kept)


def named(text: str, name: str, vocabulary: Vocabulary) -> bool:
    """Whether a text mentions a concept."""
    return bool(mentions_of(readable(text), [name], merge_plurals=vocabulary.merge_plurals))


def _phrases(name: str, merge_plurals: bool) -> list[list[str]]:
    """Runs of words that mention a name."""
    forms = [name, *(phrase_plurals(name) if merge_plurals else ())]
    return [words for words in map(tokenize, forms) if words]
