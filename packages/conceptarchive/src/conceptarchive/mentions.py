"""Which concepts a caption mentions: token n-grams, never substrings."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from conceptarchive.vocabulary import Vocabulary, phrase_plurals, tokenize


@dataclass(slots=True)
class _Node:
    """A place in the trie of token sequences."""

    concept: int = -1
    children: dict[str, "_Node"] = field(default_factory=dict)


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
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._root = _Node()
        for concept, name in enumerate(vocabulary.names):
            self._insert(name, concept)
        if vocabulary.merge_plurals:
            self._merge_plurals(vocabulary.names)

    def _insert(self, phrase: str, concept: int) -> None:
        node = self._root
        for token in tokenize(phrase):
            node = node.children.setdefault(token, _Node())
        if node is not self._root:
            node.concept = concept

    def _merge_plurals(self, names: tuple[str, ...]) -> None:
        for concept, name in enumerate(names):
            for plural in phrase_plurals(name):
                self._insert(plural, concept)

    def find(self, caption: str) -> list[int]:
        """Concept ids of one caption, by where they start, then shortest first; once each."""
        tokens = tokenize(caption)
        found: dict[int, None] = {}
        first = self._root.children
        for start, token in enumerate(tokens):
            node = first.get(token)
            position = start
            while node is not None:
                if node.concept >= 0:
                    found[node.concept] = None
                position += 1
                node = node.children.get(tokens[position]) if position < len(tokens) else None
        return list(found)

    def find_all(self, captions: Iterable[str]) -> Mentions:
        """Concept ids of every caption."""
        found = [self.find(caption) for caption in captions]
        offsets = np.zeros(len(found) + 1, np.int64)  # (n + 1,)
        np.cumsum([len(ids) for ids in found], out=offsets[1:])
        concepts = np.fromiter((c for ids in found for c in ids), np.uint32, int(offsets[-1]))
        return Mentions(offsets, concepts)  # concepts (mentions,)
