"""The concept archive: Arrow shards, memory-mapped, with random access by key.

Its files are plain Arrow and open in other tools as they are:

    pandas.read_feather("archive/archive-00000.arrow")
    polars.scan_ipc("archive/archive-*.arrow")
    duckdb.from_arrow(pyarrow.dataset.dataset(glob("archive/archive-*.arrow"), format="ipc"))
    datasets.load_dataset("arrow", data_files="archive/archive-*.arrow")
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conceptarchive.archive.schema import (
    INDEX,
    INDEX_SCHEMA,
    POOL_ROWS,
    POOL_SCHEMA,
    SHARD_SCHEMA,
    VOCABULARY,
    pool_name,
    read_manifest,
    shard_name,
)
from conceptarchive.archive.shards import (
    DTYPES,
    VALUES,
    IntArray,
    Shards,
    equal_texts,
    first_at,
    flat,
    gather_sizes,
    gather_values,
    locate,
    read_batch,
)
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.config import ArchiveConfig
from conceptarchive.curation.sample import Method
from conceptarchive.errors import FormatError, IncompleteError
from conceptarchive.keyhash import HashArray, hash_key, hash_texts
from conceptarchive.search.neighbours import NO_ROW, Neighbours

if TYPE_CHECKING:
    from conceptarchive.archive.sampler import ConceptSampler

KEY, ENTRY = ("key",), ("concepts", "scores", "clusters")
REFERENCES, MENTIONS = ("neighbours", "similarity"), ("mentions", "own")


class Concept(NamedTuple):
    """One concept of an image, with its score and the number of its cluster."""

    name: str
    score: float
    cluster: int


class Reference(NamedTuple):
    """A reference image: its pair id, its caption and its similarity to the anchor image.

    Attributes:
        response: of the reference image to the concept that it is a witness of.
    """

    id: str
    caption: str
    similarity: float
    response: float


class Batch(NamedTuple):
    """Concepts of n pairs, one pair after the other, best first.

    Attributes:
        offsets: (n + 1,) int64; concepts of pair i are at `offsets[i]:offsets[i + 1]`.
        concepts: (c,) uint32 concept ids.
        scores: (c,) float32.
        clusters: (c,) uint8.
    """

    offsets: IntArray
    concepts: npt.NDArray[np.uint32]
    scores: npt.NDArray[np.float32]
    clusters: npt.NDArray[np.uint8]


class ConceptArchive:
    """Ranked, clustered concepts of every pair of a data set. Use `open`.

    It may be pickled and forked; a copy opens the files again.

    Attributes:
        folder: where it is.
        manifest: what `manifest.json` says.
        index: (n,) hashes of all keys, ascending, and (n,) the row of each.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        rows, pool_rows = int(manifest["rows"]), int(manifest["pool_rows"])
        self._shards = Shards(
            folder, shard_name, SHARD_SCHEMA, rows=rows, shard_rows=int(manifest["shard_rows"])
        )
        self._pool = Shards(folder, pool_name, POOL_SCHEMA, rows=pool_rows, shard_rows=POOL_ROWS)
        index = read_batch(folder / INDEX, INDEX_SCHEMA)
        if len(index) != rows:
            raise FormatError(f"{folder / INDEX}: has {len(index)} rows, the manifest says {rows}")
        hashes: HashArray = flat(index.column("hash"))  # (n,)
        owners: HashArray = flat(index.column("row"))  # (n,)
        self.index = hashes, owners

    @classmethod
    def open(cls, folder: Path | str) -> "ConceptArchive":
        """Open a finished archive; nothing but its index is mapped until asked for.

        Raises:
            DataMissingError: no archive there.
            IncompleteError: a build that was stopped.
            FormatError: not an archive, one of an unknown version, or a damaged one.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if not manifest["complete"]:
            done = len(list(folder.glob("archive-*.arrow")))
            raise IncompleteError(f"{folder}: {done} shards built; run the build again to go on")
        return cls(folder, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        return ConceptArchive, (self.folder, self.manifest)

    def __len__(self) -> int:
        return self._shards.rows

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    @property
    def keys(self) -> Sequence[str]:
        """Ids of all pairs, in the order of the embeddings; read where they are asked for."""
        return _Keys(self)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary it was built with."""
        path = self.folder / VOCABULARY
        merges = bool(self.manifest["merge_plurals"])
        vocabulary = Vocabulary.from_file(path, merge_plurals=merges)
        if vocabulary.sha256 != self.manifest["vocabulary_sha256"]:
            raise FormatError(f"{path}: not the vocabulary of this archive; build it again")
        return vocabulary

    @cached_property
    def config(self) -> ArchiveConfig:
        """The settings it was built with."""
        return ArchiveConfig(**self.manifest["config"])

    def rows(self, keys: Sequence[str]) -> IntArray:
        """Row of each pair in the archive.

        Args:
            keys: n pair ids, in any order.

        Returns:
            (n,) int64.

        Raises:
            KeyError: the first that is not there.
        """
        return self.find(keys)[1]

    def find(self, keys: Sequence[str]) -> tuple[HashArray, IntArray]:
        """(n,) hashes of keys, which name their random streams, and (n,) their rows.

        Raises:
            KeyError: the first that is not there.
        """
        try:
            texts = pa.array(keys, pa.large_string())
        except UnicodeEncodeError as error:  # a lone surrogate: no such key can be in a file
            raise self._missing(next(key for key in keys if key not in self)) from error
        hashes = hash_texts(texts)  # (n,)
        rows = np.empty(len(keys), np.int64)
        locate(*self.index, hashes, rows)
        if len(rows) and rows.max() >= len(self):
            raise FormatError(f"{self.folder / INDEX}: points past the last row; run check")
        for at in np.flatnonzero(~self._holds(rows, texts)).tolist():
            rows[at] = self._row(keys[at])  # another key has the same hash, or it is not there
        return hashes, rows

    def _holds(self, rows: IntArray, texts: pa.Array) -> npt.NDArray[np.bool_]:
        """(n,) whether the key of each row is that text; no row (-1) has one."""
        equal = np.zeros(len(rows), np.bool_)
        if len(rows):
            table = self._shards.table(KEY, rows[rows >= 0])
            _, ends, data = texts.buffers()
            equal_texts(
                table,
                rows,
                self._shards.shard_rows,
                np.frombuffer(ends, np.int64, len(rows) + 1),
                np.frombuffer(data or b"", np.uint8),
                equal,
            )
        return equal

    def batch(self, keys: Sequence[str]) -> Batch:
        """Concepts of many pairs at once.

        Raises:
            KeyError: the first that is not there.
        """
        return self.batch_of(self.rows(keys))

    def batch_of(self, rows: IntArray) -> Batch:
        """Concepts of many pairs at once, by their rows."""
        offsets, values = self._gather(ENTRY, rows)
        return Batch(offsets, *values)

    def pair(self, key: str) -> Batch:
        """The same of one pair, without a copy.

        Raises:
            KeyError: no such pair.
        """
        shard, row = self._shards.at(self._row(key))
        concepts, scores, clusters = shard.slices(ENTRY, row)
        return Batch(np.array([0, len(concepts)]), concepts, scores, clusters)

    def _gather(self, names: tuple[str, ...], rows: IntArray) -> tuple[IntArray, list[Any]]:
        """(n + 1,) offsets, and the values of columns of equal lists, for any rows."""
        size, table = self._shards.shard_rows, self._shards.table(names, rows)
        offsets = np.empty(len(rows) + 1, np.int64)
        bad = gather_sizes(table, rows, size, offsets)
        if bad >= 0:
            path = self._shards.at(int(rows[bad]))[0].path
            raise FormatError(f"{path}: damaged in column {names[0]!r}; run check")
        values = []
        for column, name in enumerate(names):
            dtype = DTYPES[SHARD_SCHEMA.field(name).type.value_type]
            values.append(np.empty(offsets[-1], dtype))
            gather_values(table, VALUES + column, rows, size, offsets, values[-1])
        return offsets, values

    def neighbours(self, rows: slice, count: int) -> Neighbours:
        """Reference images of a range of pairs, as a search gives them.

        Args:
            rows: of the archive.
            count: places R of each pair, filled up with -1 and -inf; more are left out.
        """
        wanted = np.arange(*rows.indices(len(self)), dtype=np.int64)  # (n,)
        offsets, (found, near) = self._gather(REFERENCES, wanted)
        places = np.arange(count)  # (R,)
        there = places < np.diff(offsets)[:, None]  # (n, R)
        at = (offsets[:-1, None] + places)[there]
        indices = np.full(there.shape, NO_ROW, np.int64)
        similarity = np.full(there.shape, -np.inf, np.float32)
        indices[there], similarity[there] = found[at], near[at]
        return Neighbours(indices, similarity)

    def concepts(self, key: str) -> list[Concept]:
        """Concepts of one pair, best first.

        Raises:
            KeyError: no such pair.
            FormatError: it has a concept that the vocabulary lacks.
        """
        names = self.vocabulary.names
        ids, scores, clusters = self.entry(key)
        if ids and max(ids) >= len(names):
            raise FormatError(f"{self.folder}: {key} has a concept of no name; run check")
        return [
            Concept(names[concept], score, cluster)
            for concept, score, cluster in zip(ids, scores, clusters, strict=True)
        ]

    def entry(self, key: str) -> tuple[list[int], list[float], list[int]]:
        """Concept ids, scores and clusters of one pair, best first.

        Raises:
            KeyError: no such pair.
        """
        shard, row = self._shards.at(self._row(key))
        ids, scores, clusters = shard.items(ENTRY, row)
        return ids, scores, clusters

    def caption(self, key: str) -> str:
        """Caption of one pair.

        Raises:
            KeyError: no such pair.
        """
        shard, row = self._shards.at(self._row(key))
        return shard.text("caption", row)

    def references(self, key: str) -> list[tuple[str, float]]:
        """Reference images of one pair with their similarity, nearest first.

        Raises:
            KeyError: no such pair.
        """
        return [(self.pool_id(at), near) for at, near in self._references(key)]

    def witnesses(self, key: str, name: str) -> list[str]:
        """Ids of the reference images whose captions mention a concept, nearest first.

        Raises:
            KeyError: no such pair, or no such concept.
        """
        return [witness.id for witness in self.witness_captions(key, name)]

    def witness_captions(self, key: str, name: str) -> list[Reference]:
        """Reference images whose captions mention a concept, with captions, nearest first.

        Raises:
            KeyError: no such pair, or no such concept.
        """
        references = self._references(key)
        if name not in self._concept_ids:
            raise KeyError(f"{name!r} is not in the vocabulary of {self.folder}")
        concept, found = self._concept_ids[name], []
        for at, near in references:
            shard, row = self._pool.at(at)
            mentions, own = shard.items(MENTIONS, row)
            if concept in mentions:
                response = own[mentions.index(concept)]
                found.append(Reference(self.pool_id(at), self.pool_caption(at), near, response))
        return found

    def pool_id(self, row: int) -> str:
        """Id of a pair of the pool."""
        shard, inner = self._pool.at(row)
        return shard.text("id", inner)

    def pool_caption(self, row: int) -> str:
        """Caption of a pair of the pool."""
        shard, inner = self._pool.at(row)
        return shard.text("caption", inner)

    def sampler(self, method: Method = "cluster", temperature: float = 1.0) -> "ConceptSampler":
        """What draws concepts for a trainer; see `ConceptSampler`."""
        from conceptarchive.archive.sampler import ConceptSampler

        return ConceptSampler(self.folder, method=method, temperature=temperature)

    @cached_property
    def _concept_ids(self) -> dict[str, int]:
        return {name: concept for concept, name in enumerate(self.vocabulary.names)}

    def _references(self, key: str) -> list[tuple[int, float]]:
        """Pool rows and similarities of the reference images of one pair."""
        shard, row = self._shards.at(self._row(key))
        return list(zip(*shard.items(REFERENCES, row), strict=True))

    def _row(self, key: str) -> int:
        row = self._find(key)
        if row is None:
            raise self._missing(key)
        return row

    def _missing(self, key: str) -> KeyError:
        example = f"keys look like {self.keys[0]!r}" if len(self) else "it is empty"
        return KeyError(f"{key!r} is not in {self.folder}; {example}")

    def _find(self, key: str) -> int | None:
        """Row of a key by search of its hash; equal hashes are told apart by the key."""
        try:
            wanted = np.uint64(hash_key(key))
        except UnicodeEncodeError:  # a lone surrogate: no such key can be in a file
            return None
        stored, rows = self.index
        place = int(first_at(stored, wanted))
        while place < len(stored) and stored[place] == wanted:
            row = int(rows[place])
            shard, inner = self._shards.at(row)
            if shard.text("key", inner) == key:
                return row
            place += 1
        return None


class _Keys(Sequence[str]):
    """Ids of all pairs of an archive, read from its shards where they are asked for."""

    def __init__(self, archive: ConceptArchive) -> None:
        self._archive = archive

    def __len__(self) -> int:
        return len(self._archive)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        """One key, or a list of those of a range."""
        shards = self._archive._shards
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                return [self[row] for row in range(start, stop, step)]
            return shards.texts("key", start, stop)
        if not -len(self) <= at < len(self):
            raise IndexError(f"row {at} of {len(self)} keys")
        shard, row = shards.at(at % len(self))
        return shard.text("key", row)

    def __iter__(self) -> Iterator[str]:
        shards = self._archive._shards
        for number in range(len(shards)):
            shard = shards[number]
            yield from shard.texts("key", 0, shard.rows)

    def __contains__(self, key: object) -> bool:
        return key in self._archive

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # compared like a list
