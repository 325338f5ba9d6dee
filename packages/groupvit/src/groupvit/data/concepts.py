"""Where prompted concepts come from, if not from captions: concept archives of other packages."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

import numpy as np

from groupvit.config import DataConfig
from groupvit.data.images import UndecodableError, decode
from groupvit.data.index import Location
from groupvit.errors import DataError, RecipeError, UsageError

ENTRY_POINTS = "groupvit.concept_source"
"""Group of entry points, each a callable `(path, *, method, temperature) -> ConceptSource` that
raises OSError or ValueError, with one line, for a path that it cannot open, as do the methods of
the source for a damaged file."""

CHECKED = 100_000
"""Pairs that are looked up in a source before training."""


class ConceptSource(Protocol):
    """Where the prompted concepts of a pair come from, if not from its caption.

    It may have an attribute `fingerprint`, a text: a run that is resumed wants the same one. It may
    answer `key in source`: pairs that it does not know are then found before training.
    """

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> Sequence[str]:
        """Draw at most `count` different concepts of the pair `key` ("dataset/shard/key").

        The same (key, seed, epoch) gives the same concepts, in any process.

        Raises:
            KeyError: no such pair.
            OSError, ValueError: a file cannot be read, in one line.
        """
        ...


def open_concepts(path: Path, config: DataConfig, *, reader: str | None = None) -> ConceptSource:
    """Open a concept archive with the reader that an installed package brings.

    Args:
        path: the archive.
        config: its `sampling` and `sampling_temperature` say how concepts are drawn.
        reader: name of the reader, if several are installed.

    Raises:
        UsageError: no reader, several, or none of that name.
        DataError: the reader cannot open the archive.
    """
    readers = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if not readers:
        raise UsageError(
            f"{path}: no installed package reads concept archives; conceptarchive does"
        )
    if reader is None and len(readers) > 1:
        raise UsageError(
            f"{path}: several installed packages read concept archives ({', '.join(readers)}); "
            "choose one with --concept_reader"
        )
    if reader is not None and reader not in readers:
        raise UsageError(
            f"no reader of concept archives is called {reader!r}; installed: {', '.join(readers)}"
        )
    chosen = readers[reader] if reader is not None else next(iter(readers.values()))
    try:
        source: ConceptSource = chosen.load()(
            path, method=config.sampling, temperature=config.sampling_temperature
        )
    except (OSError, ValueError) as error:
        raise DataError(f"--concepts {path}: {error}") from error
    return source


def check_source(config: DataConfig, source: ConceptSource | Path | None) -> None:
    """Refuse a recipe that asks for other concepts than it is given, opened or not.

    Raises:
        RecipeError: `data.source` is `archive` and there is none, or the other way round.
    """
    if config.source == "archive" and source is None:
        raise RecipeError(
            "the recipe has data.source = 'archive' and no concept archive is given; "
            "name one with --concepts"
        )
    if config.source == "captions" and source is not None:
        raise RecipeError(
            "a concept archive is given and the recipe has data.source = 'captions'; "
            "set it to 'archive', or leave the archive out"
        )


def check_covered(pairs: Sequence[Location], source: ConceptSource) -> None:
    """Refuse to train on pairs that a concept archive does not know.

    Looks up `CHECKED` pairs at equal distances, all of a smaller pool, if the source can tell
    (`key in source`); a pair without an image that decodes is never drawn and need not be there.

    Raises:
        DataError: naming the first that is missing.
    """
    if not isinstance(source, Container):
        return
    numbers = np.linspace(0, len(pairs) - 1, min(len(pairs), CHECKED)).round()
    for number in numbers.astype(np.int64).tolist():
        pair = pairs[number]
        with reading_concepts(pair.id):
            known = pair.id in source
        if not known and _decodes(pair):
            raise missing_concepts(pair.id)


@contextmanager
def reading_concepts(key: str) -> Iterator[None]:
    """Turn what a source raises into one line: `DataError`."""
    try:
        yield
    except KeyError as error:
        raise missing_concepts(key) from error
    except (OSError, ValueError) as error:
        raise DataError(f"concepts of {key}: {error}") from error


def missing_concepts(key: str) -> DataError:
    """What to say of a pair that a concept archive does not know."""
    return DataError(
        f"{key}: not in the concept archive; build it over all shards that are trained on, under "
        "the same names of data sets"
    )


def _decodes(pair: Location) -> bool:
    try:
        decode(pair.read()[0])
    except UndecodableError:
        return False
    return True
