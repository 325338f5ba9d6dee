"""Words of a text and their plural forms; captions in blocks."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

IRREGULAR_PLURALS = {
    "person": ("people", "persons"), "child": ("children",), "foot": ("feet",),
    "tooth": ("teeth",), "goose": ("geese",), "mouse": ("mice",), "ox": ("oxen",),
    "leaf": ("leaves",), "knife": ("knives",), "wolf": ("wolves",), "shelf": ("shelves",),
    "calf": ("calves",), "half": ("halves",), "loaf": ("loaves",), "life": ("lives",),
    "wife": ("wives",), "thief": ("thieves",), "scarf": ("scarves", "scarfs"),
    "hoof": ("hooves", "hoofs"), "cactus": ("cacti", "cactuses"), "human": ("humans",),
    "potato": ("potatoes",), "tomato": ("tomatoes",), "hero": ("heroes",), "echo": ("echoes",),
    "sheep": (), "fish": ("fishes",), "deer": (), "aircraft": (), "moose": (), "series": (),
}  # fmt: skip
"""Plurals that no suffix rule gives."""

NOT_PLURALS = frozenset({"glasses", "news", "goods", "clothes", "spectacles", "arms", "lens"})
"""Words that mean something else than the word they look like a plural of."""

BLOCK = 32_768  # captions held at a time

_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words: letters and digits, hyphens inside a word.

    An apostrophe ends a word, so "dog's" gives "dog" and "s". Line breaks are spaces.
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


@lru_cache(maxsize=65_536)
def plurals(word: str) -> tuple[str, ...]:
    """Plural forms of one English word, without the word itself."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith("man") and word != "human":
        return (word[:-3] + "men",)
    if re.search(r"(?:s|x|z|ch|sh)$", word):
        forms: tuple[str, ...] = (word + "es",)
    elif re.search(r"[^aeiou]y$", word):
        forms = (word[:-1] + "ies",)
    else:
        forms = (word + "s",)
    return tuple(form for form in forms if form not in NOT_PLURALS)


def phrase_plurals(phrase: str) -> tuple[str, ...]:
    """Plural forms of a noun phrase: those of its last word."""
    head, _, last = phrase.rpartition(" ")
    return tuple(f"{head} {form}".strip() for form in plurals(last))


class NameMatcher:
    """Tells which of some names a name equals but for number, case, spaces and hyphens.

    "Dining tables", "dining-table" and "diningtable" are one name; "table" is another.

    Args:
        names: looked for; told by their place.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._exact: dict[str, set[int]] = {}
        self._plural: dict[str, set[int]] = {}
        for place, name in enumerate(names):
            tokens = tokenize(name)
            if not tokens:
                continue
            self._exact.setdefault(_compact(tokens), set()).add(place)
            for form in plurals(tokens[-1]):
                self._plural.setdefault(_compact([*tokens[:-1], form]), set()).add(place)

    def match(self, name: str) -> set[int]:
        """Places of the names that are this one, its plural or its singular."""
        tokens = tokenize(name)
        if not tokens:
            return set()
        found = set[int]()
        compact = _compact(tokens)
        found.update(self._exact.get(compact, ()), self._plural.get(compact, ()))
        for form in plurals(tokens[-1]):
            found.update(self._exact.get(_compact([*tokens[:-1], form]), ()))
        return found


def _compact(tokens: Sequence[str]) -> str:
    return "".join(tokens).replace("-", "")


def split_synonyms(entry: str) -> list[str]:
    """Names of one class: separated by commas, explanations in brackets left out."""
    names = re.sub(r"\(.*?\)", "", entry).split(",")
    return [name.strip() for name in names if name.strip()]


def caption_blocks(captions: Iterable[str], size: int = BLOCK) -> Iterator[list[str]]:
    """Yield captions in lists of at most `size`; a sequence is read by slices, never whole."""
    if isinstance(captions, Sequence):
        for start in range(0, len(captions), size):
            yield list(captions[start : start + size])
        return
    rest = iter(captions)
    while block := list(islice(rest, size)):
        yield block
