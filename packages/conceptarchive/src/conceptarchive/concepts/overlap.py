"""How much of a benchmark's classes a vocabulary knows by name.

CoCu's hand-made list of concepts holds the classes it is evaluated on almost whole, so a gain may
come from the list rather than from the method. A mined vocabulary is printed beside this table, or
stripped of those names by `Vocabulary.without`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.concepts.words import NameMatcher, split_synonyms
from conceptarchive.errors import DataMissingError, FormatError


@dataclass(frozen=True, slots=True)
class Overlap:
    """What a vocabulary has of one class set.

    Attributes:
        name: of the class set.
        classes: how many it has.
        hits: how many of them the vocabulary knows by at least one name.
        found: names of the vocabulary that did it, in its order.
    """

    name: str
    classes: int
    hits: int
    found: tuple[str, ...]

    @property
    def share(self) -> float:
        """Known classes of all, in [0, 1]; 0 for an empty set."""
        return self.hits / self.classes if self.classes else 0.0


def overlap(vocabulary: Vocabulary, class_sets: Mapping[str, Sequence[str]]) -> list[Overlap]:
    """Count the classes that a vocabulary knows, set by set.

    A class is known if a name of the vocabulary equals one of its names or differs from it only in
    number ("skis", "ski"), case, spaces or hyphens ("dining table", "diningtable"). "fire truck"
    does not make "truck" known.

    Args:
        vocabulary: any.
        class_sets: names of classes by set; synonyms of one class are separated by commas.
    """
    origin: list[tuple[str, int]] = []  # set and class of each synonym
    synonyms: list[str] = []
    for name, classes in class_sets.items():
        for number, entry in enumerate(classes):
            names = split_synonyms(entry)
            synonyms.extend(names)
            origin.extend([(name, number)] * len(names))
    matcher = NameMatcher(synonyms)
    hits: dict[str, set[int]] = {name: set() for name in class_sets}
    found: dict[str, list[str]] = {name: [] for name in class_sets}
    for concept in vocabulary.names:
        for name, classes_hit in _by_set(origin[place] for place in matcher.match(concept)).items():
            hits[name] |= classes_hit
            found[name].append(concept)
    return [
        Overlap(name, len(classes), len(hits[name]), tuple(found[name]))
        for name, classes in class_sets.items()
    ]


def _by_set(matches: Iterable[tuple[str, int]]) -> dict[str, set[int]]:
    """Classes by their set."""
    classes: dict[str, set[int]] = {}
    for name, number in matches:
        classes.setdefault(name, set()).add(number)
    return classes


def load_class_names(path: Path) -> list[str]:
    """Read the classes of a benchmark.

    Text has one class a line. JSON is a list, or segbench's `{"classes": [...], "background": 0,
    "variants": {...}}`: the background class is left out, and the names that a variant gives the
    same classes are synonyms too (a variant with other classes is passed over).

    Returns:
        One entry a class, synonyms separated by ", ".

    Raises:
        DataMissingError: no such file.
        FormatError: not UTF-8, not that JSON, or no class in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else text.splitlines()
    except OSError as error:
        raise DataMissingError(f"{path}: no file of class names ({error.strerror})") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise FormatError(f"{path}: not UTF-8 text or JSON ({error})") from error
    classes = _read_classes(content)
    if not classes:
        raise FormatError(
            f'{path}: needs one class a line, a JSON list, or JSON {{"classes": [...]}}'
        )
    return classes


def _read_classes(content: object) -> list[str]:
    """One entry a class, none if this is no list of classes."""
    if isinstance(content, list):
        content = {"classes": content}
    if not isinstance(content, dict):
        return []
    background, variants = content.get("background"), content.get("variants", {})
    groups = _read_entries(content)
    if isinstance(background, int) and background not in range(len(groups)):
        return []
    named = [_read_entries(v) for v in variants.values()] if isinstance(variants, dict) else []
    whole = len(groups)
    for other in named:
        if isinstance(background, int) and len(other) == whole - 1:
            other.insert(background, [])
        if len(other) == whole:
            groups = [[*names, *more] for names, more in zip(groups, other, strict=True)]
    if isinstance(background, int):
        del groups[background]
    return [", ".join(dict.fromkeys(names)) for names in groups if names]


def _read_entries(content: object) -> list[list[str]]:
    """Names of each of the `classes`, given as one text or as a list of synonyms."""
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return []
    lists: list[list[Any]] = [entry if isinstance(entry, list) else [entry] for entry in entries]
    if not all(isinstance(name, str) for names in lists for name in names):
        return []
    return [[name.strip() for name in names if name.strip()] for names in lists]


def format_overlaps(overlaps: Iterable[Overlap]) -> str:
    """One line a set: name, known classes of all, share."""
    return "\n".join(f"{o.name}\t{o.hits}/{o.classes}\t{o.share:.2f}" for o in overlaps)
