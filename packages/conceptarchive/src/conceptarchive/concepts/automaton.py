"""A compiled search for runs of words: a trie of words in flat arrays, whole words only.

A word of a caption is hashed while it is read, then compared letter by letter with the one known
word that may be equal, so that two words with one hash are still two words. Known words are
numbers from there on, and the trie's nodes are numbered level by level: the children of a node lie
side by side, sorted by word, and are found by bisection.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from conceptarchive.parallel import kernel

Bytes = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

HYPHEN = 45

LETTERS = np.arange(256, dtype=np.uint8)  # (256,) the byte in lower case, 0 where it ends a word
LETTERS[65:91] += 32
for _end in [*range(45), *range(46, 48), *range(58, 65), *range(91, 97), *range(123, 128)]:
    LETTERS[_end] = 0

FNV_BASIS, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@dataclass(frozen=True, slots=True)
class Automaton:
    """Phrases of W words, as a trie of N nodes whose root is node 0.

    Attributes:
        slots: (power of two,) word numbers by hash, -1 where free; a taken place passes on to the
            next.
        hashes: (W,) FNV-1a of each word.
        starts: (W + 1,) word w is `letters[starts[w]:starts[w + 1]]`.
        letters: the words' UTF-8, one after the other.
        first: (W,) node of the phrases that begin with a word, -1 for none.
        children: (N + 1,) children of node k are `children[k]:children[k + 1]`.
        edges: (N,) the word that leads to each node.
        concepts: (N,) concept of the phrase that ends in a node, -1 for none.
    """

    slots: Int32Array
    hashes: Hashes
    starts: IntArray
    letters: Bytes
    first: Int32Array
    children: Int32Array
    edges: Int32Array
    concepts: Int32Array

    @classmethod
    def build(cls, phrases: Iterable[tuple[Sequence[str], int]]) -> "Automaton":
        """Take in phrases as words with their concept; of equal phrases the last one counts."""
        numbers: dict[str, int] = {}
        words, ends, concepts = array("i"), array("q", [0]), array("i")
        for phrase, concept in phrases:
            words.extend([numbers.setdefault(word, len(numbers)) for word in phrase])
            ends.append(len(words))
            concepts.append(concept)
        trie = _build_trie(
            np.array(words, np.int32), np.array(ends, np.int64), np.array(concepts, np.int32),
            len(numbers),
        )  # fmt: skip
        encoded = [word.encode() for word in numbers]
        starts = np.zeros(len(encoded) + 1, np.int64)  # (W + 1,)
        np.cumsum([len(word) for word in encoded], out=starts[1:])
        letters = np.frombuffer(b"".join(encoded), np.uint8).copy()
        hashes = _hash_words(letters, starts)  # (W,)
        capacity = 1 << max(3, (2 * len(hashes)).bit_length())
        return cls(_fill_slots(hashes, capacity), hashes, starts, letters, *trie)

    def search(self, text: Bytes, offsets: IntArray, concepts: int) -> tuple[IntArray, Int32Array]:
        """Find the phrases of n captions.

        Args:
            text: UTF-8 of all captions; outside ASCII every byte is part of a word.
            offsets: (n + 1,) caption i is `text[offsets[i]:offsets[i + 1]]`.
            concepts: how many there are.

        Returns:
            (n,) mentions up to and with each caption; (mentions,) concepts by where they start,
            then shortest first, once each.
        """
        longest = int(np.diff(offsets).max(initial=0))
        words = np.empty(longest // 2 + 1, np.int32)  # no caption has more
        seen = np.full(concepts, -1, np.int32)  # (V,) the last caption with a mention of each
        return _search(
            text, offsets, self.slots, self.hashes, self.starts, self.letters,
            self.first, self.children, self.edges, self.concepts, words, seen,
        )  # fmt: skip


def _build_trie(
    words: Int32Array, ends: IntArray, concepts: Int32Array, count: int
) -> tuple[Int32Array, Int32Array, Int32Array, Int32Array]:
    """Number the nodes level by level, within a level by parent and word.

    Args:
        words: (t,) words of all phrases.
        ends: (p + 1,) words of phrase i are `words[ends[i]:ends[i + 1]]`.
        concepts: (p,) concept of each phrase.
        count: W.

    Returns:
        first, children, edges and concepts of an `Automaton`.
    """
    at = np.zeros(len(concepts), np.int64)  # (p,) node that each phrase has come to
    left = np.flatnonzero(np.diff(ends))  # phrases with words to go
    parents, edges = [np.zeros(1, np.int64)], [np.full(1, -1, np.int64)]
    final = [np.full(1, -1, np.int32)]
    nodes, depth = 1, 0
    while len(left):
        keys, place = np.unique(at[left] * count + words[ends[left] + depth], return_inverse=True)
        at[left] = nodes + place
        last = ends[left] + depth + 1 == ends[left + 1]
        here = np.full(len(keys), -1, np.int32)
        here[place[last]] = concepts[left[last]]  # of repeated places the last is kept
        parents.append(keys // count)
        edges.append(keys % count)
        final.append(here)
        left, nodes, depth = left[~last], nodes + len(keys), depth + 1
    parent, edge = np.concatenate(parents), np.concatenate(edges).astype(np.int32)  # (N,), (N,)
    children = 1 + np.searchsorted(parent[1:], np.arange(nodes + 1))  # (N + 1,)
    first = np.full(count, -1, np.int32)  # (W,)
    first[edge[1 : children[1]]] = np.arange(1, children[1])
    return first, children.astype(np.int32), edge, np.concatenate(final)


@kernel
def _hash_words(letters: Bytes, starts: IntArray) -> Hashes:
    """FNV-1a of every word."""
    hashes = np.empty(len(starts) - 1, np.uint64)
    for word in range(len(hashes)):
        value = FNV_BASIS
        for place in range(starts[word], starts[word + 1]):
            value = (value ^ np.uint64(letters[place])) * FNV_PRIME
        hashes[word] = value
    return hashes


@kernel
def _home(value: np.uint64, capacity: int) -> np.int64:
    """The slot at which the search for a hash begins."""
    return np.int64((value ^ (value >> np.uint64(29))) & np.uint64(capacity - 1))


@kernel
def _fill_slots(hashes: Hashes, capacity: int) -> Int32Array:
    """Place the words, which differ, by their hashes."""
    slots = np.full(capacity, -1, np.int32)
    for word in range(len(hashes)):
        slot = _home(hashes[word], capacity)
        while slots[slot] >= 0:
            slot = (slot + 1) & (capacity - 1)
        slots[slot] = word
    return slots


@kernel
def _look_up(
    text: Bytes,
    begin: np.int64,
    end: np.int64,
    value: np.uint64,
    slots: Int32Array,
    hashes: Hashes,
    starts: IntArray,
    letters: Bytes,
) -> np.int32:
    """Number of the word `text[begin:end]` with that hash, -1 if it is not known."""
    slot = _home(value, len(slots))
    while slots[slot] >= 0:
        word = slots[slot]
        if hashes[word] == value and starts[word + 1] - starts[word] == end - begin:
            first, same = starts[word], True
            for place in range(end - begin):
                same = same and LETTERS[text[begin + place]] == letters[first + place]
            if same:
                return np.int32(word)
        slot = (slot + 1) & (len(slots) - 1)
    return np.int32(-1)


@kernel
def _is_letter(symbol: np.uint8) -> bool:
    """Whether a byte of `LETTERS` can begin a word."""
    return bool(symbol != 0 and symbol != HYPHEN)


@kernel
def _read_words(
    text: Bytes,
    begin: np.int64,
    end: np.int64,
    slots: Int32Array,
    hashes: Hashes,
    starts: IntArray,
    letters: Bytes,
    words: Int32Array,
) -> int:
    """Write the numbers of a caption's words to `words`; return how many there are."""
    count, place = 0, begin
    while place < end:
        symbol = LETTERS[text[place]]
        if not _is_letter(symbol):
            place += 1
            continue
        start, value, inside = place, FNV_BASIS, True
        while inside:
            value = (value ^ np.uint64(symbol)) * FNV_PRIME
            place += 1
            inside = False
            if place < end:
                symbol = LETTERS[text[place]]
                inside = _is_letter(symbol)
                if symbol == HYPHEN and place + 1 < end:
                    inside = _is_letter(LETTERS[text[place + 1]])
        words[count] = _look_up(text, start, place, value, slots, hashes, starts, letters)
        count += 1
    return count


@kernel
def _child(node: np.int32, word: np.int32, children: Int32Array, edges: Int32Array) -> np.int32:
    """The child of a node by a word, -1 for none."""
    low, high = children[node], children[node + 1]
    while low < high:
        middle = (low + high) // 2
        if edges[middle] < word:
            low = middle + 1
        else:
            high = middle
    return low if low < children[node + 1] and edges[low] == word else np.int32(-1)


@kernel
def _search(  # noqa: PLR0913  (a kernel)
    text: Bytes,
    offsets: IntArray,
    slots: Int32Array,
    hashes: Hashes,
    starts: IntArray,
    letters: Bytes,
    first: Int32Array,
    children: Int32Array,
    edges: Int32Array,
    concepts: Int32Array,
    words: Int32Array,
    seen: Int32Array,
) -> tuple[IntArray, Int32Array]:
    """Mentions of every caption; see `Automaton.search`."""
    ends = np.empty(len(offsets) - 1, np.int64)
    found = np.empty(4 * len(ends) + 64, np.int32)
    total = 0
    for caption in range(len(ends)):
        begin, end = offsets[caption], offsets[caption + 1]
        count = _read_words(text, begin, end, slots, hashes, starts, letters, words)
        for start in range(count):
            node, place = np.int32(-1), start
            if words[start] >= 0:
                node = first[words[start]]
            while node >= 0:
                concept = concepts[node]
                if concept >= 0 and seen[concept] != caption:
                    seen[concept] = caption
                    if total == len(found):
                        found = np.concatenate((found, np.empty_like(found)))
                    found[total] = concept
                    total += 1
                place += 1
                node = (
                    _child(node, words[place], children, edges) if place < count else np.int32(-1)
                )
        ends[caption] = total
    return ends, found[:total].copy()
