"""The concepts we know: read from a file or mined from captions; plural forms; prompts."""

import hashlib
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textblob.taggers import PatternTagger

from conceptarchive.errors import DataMissingError, FormatError

PROMPT = "a photo of a {}."

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

NON_VISUAL = frozenset(
    """
    photo photograph picture image shot view scene background foreground front back side top
    bottom middle center left right way day time year week month hour minute moment lot kind
    type sort bit part piece pair couple group number set variety one thing something anything
    everything nothing someone anyone everyone other others end edge use fun name fact idea
    reason place area region close-up closeup stock footage video illustration vector vintage
    logo www http https com
    """.split()  # noqa: SIM905  (words read better than a column of literals)
)
"""Nouns of captions that no region of an image shows."""

_TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*")


def tokenize(text: str) -> list[str]:
    """Split a text into lower-case words: letters and digits, hyphens inside a word.

    An apostrophe ends a word, so "dog's" gives "dog" and "s". Line breaks are spaces.
    """
    return _TOKEN.findall(unicodedata.normalize("NFC", text).lower())


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


@dataclass(frozen=True)
class Vocabulary:
    """Concept names in order; the id of a concept is its position.

    Attributes:
        names: distinct names, lower-case, words joined by one space.
        merge_plurals: whether a plural form counts as a mention of its singular. Off, as in the
            released code, a plural is a concept of its own if it is listed, else nothing.
    """

    names: tuple[str, ...]
    merge_plurals: bool = True

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a vocabulary needs at least one name, got none")
        for name in self.names:
            if not name or name != " ".join(name.lower().split()):
                raise ValueError(f"names must be lower-case with single spaces, got {name!r}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for name, n in Counter(self.names).items() if n > 1)
            raise ValueError(f"names must be distinct, got {twice!r} twice")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def from_file(cls, path: Path, *, merge_plurals: bool = True) -> "Vocabulary":
        """Read a list: text with one name a line, or JSON `{"concept": [...]}`.

        Names are lower-cased; blank lines and repeated names are left out.

        Raises:
            DataMissingError: no such file.
            FormatError: not UTF-8, not that JSON, or no name in it.
        """
        try:
            text = path.read_text(encoding="utf-8")
            listed = json.loads(text)["concept"] if path.suffix == ".json" else text.splitlines()
            names = tuple(dict.fromkeys(" ".join(str(name).lower().split()) for name in listed))
        except FileNotFoundError as error:
            raise DataMissingError(f"{path}: no such vocabulary file") from error
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise FormatError(
                f'{path}: needs one name a line, or JSON {{"concept": [...]}} ({error!r})'
            ) from error
        names = tuple(name for name in names if name)
        if not names:
            raise FormatError(f"{path}: no concept names in this file")
        return cls(names, merge_plurals)

    @classmethod
    def mine(
        cls,
        captions: Iterable[str],
        *,
        min_count: int = 10,
        max_size: int | None = None,
        phrases: bool = False,
        merge_plurals: bool = True,
    ) -> "Vocabulary":
        """Collect the nouns of captions, most frequent first, ties by name.

        Args:
            captions: any texts; each counts a noun once.
            min_count: captions that must name a noun, >= 1.
            max_size: at most this many names; all by default.
            phrases: also take two nouns in a row ("fire truck").
            merge_plurals: count a plural as its singular, where the singular occurs too.

        Raises:
            ValueError: `min_count` is below 1, or no noun is frequent enough.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be >= 1, got {min_count}")
        counts = _count_nouns(captions, phrases=phrases, merge_plurals=merge_plurals)
        kept = [name for name, count in counts.items() if count >= min_count]
        kept.sort(key=lambda name: (-counts[name], name))
        if not kept:
            raise ValueError(f"no noun occurs in min_count = {min_count} captions; lower it")
        return cls(tuple(kept[:max_size]), merge_plurals)

    def save(self, path: Path) -> None:
        """Write one name a line, UTF-8; `from_file` reads it back."""
        part = path.with_name(path.name + ".part")
        part.write_text("\n".join(self.names) + "\n", encoding="utf-8")
        part.replace(path)

    @property
    def sha256(self) -> str:
        """Hash of the names in order and of `merge_plurals`."""
        text = json.dumps([list(self.names), self.merge_plurals], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def prompts(self, template: str = PROMPT) -> list[str]:
        """One text per concept for the text encoder, in order."""
        return [template.format(name) for name in self.names]


def _count_nouns(captions: Iterable[str], *, phrases: bool, merge_plurals: bool) -> dict[str, int]:
    """Number of captions that name each noun."""
    tagger = _load_tagger()
    forms: list[frozenset[str]] = []
    for caption in captions:
        tagged = tagger.tag(" ".join(unicodedata.normalize("NFC", caption).split()))
        forms.append(frozenset(_nouns(tagged, phrases)))
    singular = _singulars(frozenset().union(*forms)) if merge_plurals and forms else {}
    counts: Counter[str] = Counter()
    for caption_forms in forms:
        counts.update({singular.get(form, form) for form in caption_forms})
    return {name: count for name, count in counts.items() if name not in NON_VISUAL}


def _load_tagger() -> PatternTagger:
    """A tagger with its lexicon read; textblob leaves that file to be closed by chance."""
    tagger = PatternTagger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tagger.tag("a dog")
    return tagger


def _nouns(tagged: list[tuple[str, str]], phrases: bool) -> Iterator[str]:
    """Yield the nouns of one tagged caption, and with `phrases` two nouns in a row."""
    previous = ""
    for word, tag in tagged:
        token = word.lower()
        usable = tag.startswith("NN") and len(token) > 2 and tokenize(token) == [token]
        noun = token if usable and not token.isdigit() else ""
        if noun:
            yield noun
        if noun and previous and phrases and not {noun, previous} & NON_VISUAL:
            yield f"{previous} {noun}"
        previous = noun


def _singulars(forms: frozenset[str]) -> dict[str, str]:
    """Map every form that is the plural of another one to that one."""
    return {plural: form for form in sorted(forms) for plural in phrase_plurals(form)}
