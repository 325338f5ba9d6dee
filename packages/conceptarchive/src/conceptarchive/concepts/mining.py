"""Nouns of captions, tagged offline, counted by caption.

The tagger (textblob's, of the pattern library) sees no context but one: whether a word begins its
sentence. So a piece of a caption between two spaces is tagged once for each of the places it can
stand in and looked up from then on. A caption in which a piece may change what another one is
read as (brackets, colons, emoticons, a quotation mark after a full stop) is tagged as a whole.
Either way the nouns are those that the tagger gives for the whole caption.
"""

import math
import unicodedata
import warnings
from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from conceptarchive.concepts.words import caption_blocks, phrase_plurals, tokenize

if TYPE_CHECKING:
    from textblob.taggers import PatternTagger

Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]

MIDDLE, START, ENDED = range(3)
"""Where a piece stands: inside a sentence, first in the caption, after the end of a sentence."""

ENDS = frozenset({".", "!", "?", "..."})
QUOTES = frozenset("'\"\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
                   "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}")  # fmt: skip
UNSAFE = frozenset("<>()[]{}:=*\N{BLACK HEART SUIT}\N{DEGREE SIGN}")
"""Of emoticons, which the tagger puts together across spaces, and of closing brackets."""

NO_NOUN = -1

Tagged = list[tuple[str, str]]
Piece = tuple[tuple[int, ...] | None, int]
"""Noun number of every token, or None where only the whole caption tells; and the next place."""


@dataclass(frozen=True, slots=True)
class NounCounts:
    """How many captions name each noun.

    Attributes:
        counts: captions by noun.
        captions: of how many.
    """

    counts: dict[str, int]
    captions: int


def count_nouns(
    captions: Iterable[str],
    *,
    phrases: bool,
    merge_plurals: bool,
    stop_words: Collection[str],
    min_association: float | None = None,
) -> NounCounts:
    """Count the captions that name each noun.

    Holds a block of captions, every distinct piece, and 4 bytes for each noun of each caption.

    Args:
        captions: any texts; each counts a noun once. A sequence is read by slices.
        phrases: also count two nouns in a row.
        merge_plurals: count a plural as its singular, where the singular occurs too.
        stop_words: left out, and part of no phrase.
        min_association: leave out phrases whose words are together less often than this says: the
            least log(n(xy) n / (n(x) n(y))) of captions with phrase xy, words x and y.
    """
    reader = NounReader(phrases=phrases, stop_words=stop_words)
    nouns: list[tuple[Int32Array, Int32Array]] = []
    total = 0
    for block in caption_blocks(captions):
        nouns.append(reader.read_all(block))
        total += len(block)
    names = reader.names
    forms = np.zeros(len(names), np.int64)  # (names,) captions with each form
    for _, numbers in nouns:
        forms += np.bincount(numbers, minlength=len(names))
    singular = _singulars(names, forms) if merge_plurals else np.arange(len(names))  # (names,)
    merged = _count_merged(nouns, singular).tolist()
    left_out = frozenset(stop_words)
    counts = {n: c for n, c in zip(names, merged, strict=True) if c and n not in left_out}
    if min_association is not None:
        alone = dict(zip(names, forms.tolist(), strict=True))
        counts = {
            name: count
            for name, count in counts.items()
            if " " not in name or _association(name, alone, total) >= min_association
        }
    return NounCounts(counts, total)


def _count_merged(
    nouns: list[tuple[Int32Array, Int32Array]], singular: IntArray
) -> npt.NDArray[np.int64]:
    """(names,) captions with each name in singular or plural."""
    counts = np.zeros(len(singular), np.int64)
    for sizes, numbers in nouns:
        key = np.repeat(np.arange(len(sizes)), sizes) * len(counts) + singular[numbers]
        counts += np.bincount(np.unique(key) % max(1, len(counts)), minlength=len(counts))
    return counts


def _association(phrase: str, counts: dict[str, int], captions: int) -> float:
    """How much more often than by chance the two words of a phrase are together, in nats."""
    left, right = phrase.split(" ")
    return math.log(counts[phrase] * captions / (counts[left] * counts[right]))


class NounReader:
    """Reads captions as numbers of nouns.

    Args:
        phrases: also number two nouns in a row.
        stop_words: part of no phrase.
    """

    def __init__(self, *, phrases: bool, stop_words: Collection[str]) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._phrases = phrases
        self._stop_words = frozenset(stop_words)
        self._tagger = _load_tagger()
        self._known_pairs: dict[tuple[int, int], int] = {}
        self._pieces: tuple[dict[str, Piece], ...] = ({}, {}, {})  # by place

    def read_all(self, captions: list[str]) -> tuple[Int32Array, Int32Array]:
        """(n,) how many nouns each caption has, and the numbers of all, each once a caption."""
        sizes, numbers = array("i"), array("i")
        for caption in captions:
            nouns = self.read(caption)
            sizes.append(len(nouns))
            numbers.extend(nouns)
        return np.array(sizes, np.int32), np.array(numbers, np.int32)

    def read(self, caption: str) -> set[int]:
        """Numbers of a caption's nouns."""
        line: list[int] = []
        place = START
        if not caption.isascii():
            caption = unicodedata.normalize("NFC", caption)
        pieces = caption.split()
        for text in pieces:
            piece = self._pieces[place].get(text)
            if piece is None:
                piece = self._pieces[place][text] = self._tag_piece(text, place)
            tokens, place = piece
            if tokens is None:
                line = [self._number(*token) for token in self._tagger.tag(" ".join(pieces))]
                break
            line.extend(tokens)
        nouns = set(line)
        if self._phrases:
            nouns.update(self._pairs(line))
        nouns.discard(NO_NOUN)
        return nouns

    def _tag_piece(self, text: str, place: int) -> Piece:
        """Tag one piece of a caption as if it stood at that place."""
        before = ", " if place == MIDDLE else ""
        tagged: Tagged = self._tagger.tag(before + text)[1 if before else 0 :]
        tokens = [token for token, _ in tagged]
        if not _stands_alone(text, tokens, place):
            return None, MIDDLE
        numbers = tuple(self._number(*token) for token in tagged)
        return numbers, ENDED if tokens[-1] in ENDS else MIDDLE

    def _number(self, word: str, tag: str) -> int:
        """Number of a tagged word, if it is a noun of three characters or more."""
        token = word.lower()
        usable = tag.startswith("NN") and len(token) > 2 and tokenize(token) == [token]
        return self._intern(token) if usable and not token.isdigit() else NO_NOUN

    def _intern(self, name: str) -> int:
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def _pairs(self, line: list[int]) -> list[int]:
        """Numbers of any two nouns in a row, NO_NOUN for words that make no phrase."""
        known, numbers = self._known_pairs, []
        for pair in pairwise(line):
            number = known.get(pair)
            if number is None:
                number = known[pair] = self._number_pair(*pair)
            numbers.append(number)
        return numbers

    def _number_pair(self, left: int, right: int) -> int:
        """Number of the phrase of two nouns that are no stop words."""
        if NO_NOUN in (left, right):
            return NO_NOUN
        names = self.names[left], self.names[right]
        return self._intern(" ".join(names)) if self._stop_words.isdisjoint(names) else NO_NOUN


def _stands_alone(text: str, tokens: list[str], place: int) -> bool:
    """Whether a piece is read the same whatever stands around it, apart from its place."""
    if not tokens or not UNSAFE.isdisjoint(text):
        return False
    if any(len(token) <= 2 and token[-1] in "DO" for token in tokens):  # ends of emoticons: x D
        return False
    if not ENDS.isdisjoint(tokens) and not QUOTES.isdisjoint(tokens):
        return False
    return place != ENDED or tokens[0] not in QUOTES


def _load_tagger() -> "PatternTagger":
    """A tagger with its lexicon read; textblob leaves that file to be closed by chance."""
    from textblob.taggers import PatternTagger

    tagger = PatternTagger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tagger.tag("a dog")
    return tagger


def _singulars(names: list[str], counts: IntArray) -> IntArray:
    """(names,) the name whose plural each one is, else itself; among the names that occur.

    Some do not: a piece of a caption may be a noun in other places than where it stands.
    """
    singular = np.arange(len(names), dtype=np.int64)
    numbers = {names[number]: number for number in np.flatnonzero(counts).tolist()}
    for name in sorted(numbers):
        for plural in phrase_plurals(name):
            if plural in numbers:
                singular[numbers[plural]] = numbers[name]
    return singular
