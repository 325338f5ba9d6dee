"""Drawing concepts out of a stored archive, for a trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from conceptarchive.archive.reader import Batch, ConceptArchive
from conceptarchive.archive.shards import IntArray
from conceptarchive.curation.sample import CODES, Method, draw_batch
from conceptarchive.errors import ConceptArchiveError
from conceptarchive.keyhash import HashArray, hash_key


class ConceptSampler:
    """Draws concepts of pairs; reproducible from (seed, epoch, key), alone or in a batch.

    It holds no open file until it is first used and leaves its maps behind when it is pickled, so
    every worker of a data loader opens its own.

    Args:
        folder: of a finished archive.
        method: `cluster` draws from different clusters (CoCu), `naive` by softmax of the score,
            `top` takes the best (the released code).
        temperature: of the softmax, > 0.

    Raises:
        ValueError: an unknown method, or a temperature out of range.
    """

    def __init__(
        self, folder: Path, *, method: Method = "cluster", temperature: float = 1.0
    ) -> None:
        if method not in CODES:
            raise ValueError(f"method must be cluster, naive or top, got {method!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.folder, self.method, self.temperature = folder, method, temperature
        self._archive: ConceptArchive | None = None
        self._names: Any = None  # (V,) object

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None, "_names": None}

    def __contains__(self, key: object) -> bool:
        return key in self._open()

    @property
    def fingerprint(self) -> str:
        """Differs between archives that were built from other inputs or in another way."""
        return str(self._open().manifest["fingerprint"])

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> list[str]:
        """Draw distinct concept names of one pair.

        Args:
            key: pair id.
            count: names wanted; a pair with fewer concepts gives all it has, maybe none.
            seed: of the run.
            epoch: of the run.

        Raises:
            KeyError: no such pair.
            FormatError: a file of the archive is damaged.
        """
        batch = self._open().pair(key)
        hashes = np.array([hash_key(key)], np.uint64)  # (1,)
        return self._named(self._draw(batch, hashes, count=count, seed=seed, epoch=epoch))[0]

    def sample_batch(
        self, keys: Sequence[str], *, count: int, seed: int, epoch: int
    ) -> list[list[str]]:
        """Draw distinct concept names of each of many pairs: the same as one by one, but faster.

        Args:
            keys: n pair ids, in any order.
            count: names wanted of each; a pair with fewer concepts gives all it has, maybe none.
            seed: of the run.
            epoch: of the run.

        Raises:
            KeyError: the first that is not there.
        """
        return self._named(self.sample_ids(keys, count=count, seed=seed, epoch=epoch))

    def sample_ids(self, keys: Sequence[str], *, count: int, seed: int, epoch: int) -> IntArray:
        """Draw what `sample_batch` draws, as concept ids: the fastest.

        Returns:
            (n, count) int64 concept ids in the order drawn, -1 where a pair has fewer.

        Raises:
            KeyError: the first that is not there.
        """
        archive = self._open()
        hashes, rows = archive.find(keys)
        return self._draw(archive.batch_of(rows), hashes, count=count, seed=seed, epoch=epoch)

    def _draw(
        self, batch: Batch, hashes: HashArray, *, count: int, seed: int, epoch: int
    ) -> IntArray:
        """(n, count) concept ids drawn of every pair of a batch, -1 where it has fewer."""
        places = draw_batch(
            self.method,
            batch.offsets,
            batch.scores,
            batch.clusters,
            hashes,
            count=count,
            seed=seed,
            epoch=epoch,
            temperature=self.temperature,
        )  # (n, count)
        if not len(batch.concepts):
            return np.full(places.shape, -1)
        there = places >= 0  # (n, count)
        drawn = batch.concepts[np.where(there, batch.offsets[:-1, None] + places, 0)]
        return np.where(there, drawn.astype(np.int64), -1)

    def _named(self, drawn: IntArray) -> list[list[str]]:
        """Names of drawn concepts."""
        found: list[list[str]] = self._names[drawn].tolist()
        for row in np.flatnonzero(drawn[:, -1] < 0).tolist():
            del found[row][int((drawn[row] >= 0).sum()) :]  # it has fewer
        return found

    def _open(self) -> ConceptArchive:
        """The archive, opened when it is first needed."""
        if self._archive is None:
            archive = ConceptArchive.open(self.folder)
            self._names = np.array(archive.vocabulary.names, object)  # (V,)
            self._archive = archive
        return self._archive


class _Source(ConceptSampler):
    """A sampler whose errors are ValueError, for a program that knows none of ours."""

    def __contains__(self, key: object) -> bool:
        with _as_value_error():
            return super().__contains__(key)

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> list[str]:
        """As `ConceptSampler.sample`; a damaged file is a ValueError."""
        with _as_value_error():
            return super().sample(key, count=count, seed=seed, epoch=epoch)


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except ConceptArchiveError as error:
        raise ValueError(str(error)) from error


def open_source(
    path: Path, *, method: Method = "cluster", temperature: float = 1.0
) -> ConceptSampler:
    """Open an archive to draw concepts from, for a program that knows nothing of this package.

    A trainer finds it by the entry point "conceptarchive" of the group `groupvit.concept_source`.

    Args:
        path: of a finished archive.
        method: as of `ConceptSampler`.
        temperature: as of `ConceptSampler`.

    Raises:
        ValueError: the path is no archive that can be read, or a setting is out of range; one
            line. The source itself raises it for a file that is damaged.
    """
    with _as_value_error():
        ConceptArchive.open(path)
    return _Source(path, method=method, temperature=temperature)
