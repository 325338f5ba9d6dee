"""The concepts we know: read from a file or mined from captions; prompts."""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from conceptarchive.concepts.mining import count_nouns
from conceptarchive.concepts.words import NameMatcher, split_synonyms
from conceptarchive.errors import DataMissingError, FormatError
from conceptarchive.files import replacing

PROMPT = "a photo of a {}."

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
        """Read a list by the ending of its name.

        `.json` is a list of names or `{"concept": [...]}`; `.csv` and `.tsv` have a column `name`;
        any other file has one name a line. Names are lower-cased; blank ones and repetitions are
        left out.

        Raises:
            DataMissingError: no such file.
            FormatError: not UTF-8, not of that form, or no name in it.
        """
        try:
            listed = _read_names(path)
        except FileNotFoundError as error:
            raise DataMissingError(f"{path}: no such vocabulary file") from error
        except (
            UnicodeDecodeError, json.JSONDecodeError, RecursionError, csv.Error, IsADirectoryError,
        ) as error:  # fmt: skip
            raise FormatError(f"{path}: not a UTF-8 list of concept names ({error})") from error
        names = dict.fromkeys(" ".join(name.lower().split()) for name in listed)
        names.pop("", None)
        if not names:
            raise FormatError(f"{path}: no concept names in this file")
        return cls(tuple(names), merge_plurals)

    @classmethod
    def mine(
        cls,
        captions: Iterable[str],
        *,
        min_count: int = 10,
        max_share: float | None = None,
        max_size: int | None = None,
        phrases: bool = False,
        min_association: float | None = None,
        merge_plurals: bool = True,
        stop_words: Collection[str] = NON_VISUAL,
    ) -> "Vocabulary":
        """Collect the nouns of captions, most frequent first, ties by name.

        Args:
            captions: any texts; each counts a noun once. A sequence is read by slices.
            min_count: captions that must name a noun, >= 1.
            max_share: leave out nouns that more than this share of the captions name, in (0, 1];
                none by default.
            max_size: at most this many names, >= 1; all by default.
            phrases: also take two nouns in a row ("fire truck").
            min_association: leave out phrases whose words are not together e to this power times
                more often than by chance. 1.5 drops "man rides" and "dog jump", where a verb was
                taken for a noun, and keeps "tennis ball". All phrases by default.
            merge_plurals: count a plural as its singular, where the singular occurs too.
            stop_words: nouns to leave out, also as a part of phrases.

        Raises:
            ValueError: a setting out of range, or no noun is as frequent as asked for.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be >= 1, got {min_count}")
        if max_size is not None and max_size < 1:
            raise ValueError(f"max_size must be >= 1, got {max_size}")
        if max_share is not None and not 0 < max_share <= 1:
            raise ValueError(f"max_share must be in (0, 1], got {max_share}")
        mined = count_nouns(
            captions,
            phrases=phrases,
            merge_plurals=merge_plurals,
            stop_words=stop_words,
            min_association=min_association,
        )
        counts, most = mined.counts, mined.captions * (1.0 if max_share is None else max_share)
        kept = [name for name, count in counts.items() if min_count <= count <= most]
        if not kept:
            raise ValueError(
                f"no noun occurs in min_count = {min_count} captions or more and in at most "
                f"{most:.0f} of {mined.captions}; lower min_count"
            )
        kept.sort(key=lambda name: (-counts[name], name))
        return cls(tuple(kept[:max_size]), merge_plurals)

    def without(self, names: Iterable[str]) -> "Vocabulary":
        """The same concepts but some, for an honest open-vocabulary run.

        Args:
            names: of evaluation classes, say, synonyms separated by commas; a concept goes if it is
                one of them but for number, case, spaces and hyphens.

        Raises:
            ValueError: nothing is left.
        """
        matcher = NameMatcher(part for name in names for part in split_synonyms(name))
        kept = tuple(name for name in self.names if not matcher.match(name))
        if not kept:
            raise ValueError(f"every one of the {len(self)} concepts is to be left out")
        return Vocabulary(kept, self.merge_plurals)

    def save(self, path: Path) -> None:
        """Write one name a line, UTF-8; `from_file` reads it back."""
        with replacing(path) as part:
            part.write_text("\n".join(self.names) + "\n", encoding="utf-8")

    @cached_property
    def sha256(self) -> str:
        """Hash of the names in order and of `merge_plurals`."""
        text = json.dumps([list(self.names), self.merge_plurals], ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def prompts(self, template: str = PROMPT) -> list[str]:
        """One text per concept for the text encoder, in order."""
        return [template.format(name) for name in self.names]


def _read_names(path: Path) -> list[str]:
    """Names as they are written in a vocabulary file."""
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".json":
        content = json.loads(text)
        listed = content.get("concept") if isinstance(content, dict) else content
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise FormatError(f'{path}: needs a JSON list of names, or {{"concept": [...]}}')
        return listed
    if path.suffix not in (".csv", ".tsv"):
        return text.splitlines()
    table = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
    if "name" not in (table.fieldnames or ()):
        raise FormatError(f"{path}: needs a column 'name', got {table.fieldnames or []}")
    return [row["name"] or "" for row in table]
