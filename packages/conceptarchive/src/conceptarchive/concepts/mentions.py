"""Which concepts a caption mentions: token n-grams, never substrings."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.automaton import Automaton, Bytes, IntArray
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.concepts.words import caption_blocks, phrase_plurals, tokenize


@dataclass(frozen=True, slots=True)
class Mentions:
    """Concept ids of many captions, one after the other.

    Attributes:
        offsets: (n + 1,) int64; caption i mentions `concepts[offsets[i]:offsets[i + 1]]`.
        concepts: (mentions,) uint32 concept ids, in order of appearance, once each.
    """

    offsets: npt.NDArray[np.int64]
    concepts: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> npt.NDArray[np.uint32]:
        """Concept ids of one caption."""
        return self.concepts[self.offsets[row] : self.offsets[row + 1]]

    def counts(self, concepts: int) -> npt.NDArray[np.int64]:
        """(concepts,) number of captions that mention each concept."""
        return np.bincount(self.concepts, minlength=concepts).astype(np.int64)


class MentionFinder:
    """Finds the concepts of a vocabulary in captions.

    Every run of tokens as long as the longest name is looked up, so "fire truck" also mentions
    "truck" if both are known; "plant" never mentions "ant". With `vocabulary.merge_plurals` a
    plural form mentions its singular, even where the plural is listed itself.

    `find` is plain Python, `find_all` compiled; both give the same. What each needs is made when it
    is first called.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def find(self, caption: str) -> list[int]:
        """Concept ids of one caption, by where they start, then shortest first; once each."""
        phrases, longest = self._phrases
        tokens = tokenize(caption)
        found: dict[int, None] = {}
        for start, token in enumerate(tokens):
            last = min(start + longest.get(token, 0), len(tokens))
            for stop in range(start + 1, last + 1):
                concept = phrases.get(" ".join(tokens[start:stop]))
                if concept is not None:
                    found[concept] = None
        return list(found)

    def find_all(self, captions: Iterable[str]) -> Mentions:
        """Concept ids of every caption, in the order of `find`.

        Args:
            captions: any texts; a sequence is read by slices, so it may read them from disk.
        """
        ends, concepts = [np.zeros(1, np.int64)], []
        for block in caption_blocks(captions):
            end, found = self._automaton.search(*_join(block), len(self.vocabulary))
            ends.append(ends[-1][-1] + end)
            concepts.append(found.view(np.uint32))
        ids = np.concatenate(concepts) if concepts else np.empty(0, np.uint32)  # (mentions,)
        return Mentions(np.concatenate(ends), ids)

    @cached_property
    def _automaton(self) -> Automaton:
        return Automaton.build(_known_phrases(self.vocabulary))

    @cached_property
    def _phrases(self) -> tuple[dict[str, int], dict[str, int]]:
        """Concepts by phrase, and words of the longest phrase by its first word."""
        phrases: dict[str, int] = {}
        longest: dict[str, int] = {}
        for words, concept in _known_phrases(self.vocabulary):
            phrases[" ".join(words)] = concept
            longest[words[0]] = max(longest.get(words[0], 0), len(words))
        return phrases, longest


def _known_phrases(vocabulary: Vocabulary) -> Iterator[tuple[list[str], int]]:
    """Yield every phrase that mentions a concept, as words; a later one overrules an equal one."""
    for concept, name in enumerate(vocabulary.names):
        if words := tokenize(name):
            yield words, concept
    for concept, name in enumerate(vocabulary.names if vocabulary.merge_plurals else ()):
        for plural in phrase_plurals(name):
            if words := tokenize(plural):
                yield words, concept


def _join(captions: list[str]) -> tuple[Bytes, IntArray]:
    """UTF-8 of captions, and (n + 1,) where each begins.

    The search knows letters and case in ASCII only; other captions are given to it as their tokens
    with spaces between them, which have the same tokens.
    """
    text = "".join(captions)
    sizes = [len(caption) for caption in captions]
    if not text.isascii():
        parts = [c if c.isascii() else " ".join(tokenize(c)) for c in captions]
        encoded = [part.encode() for part in parts]
        sizes = [len(part) for part in encoded]
        joined = b"".join(encoded)
    else:
        joined = text.encode()
    offsets = np.zeros(len(captions) + 1, np.int64)  # (n + 1,)
    np.cumsum(sizes, out=offsets[1:])
    return np.frombuffer(joined, np.uint8), offsets
