"""The concept archive: Arrow shards, memory-mapped, with random access by key."""

import bisect
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from conceptarchive.config import ArchiveConfig
from conceptarchive.errors import DataMissingError, FormatError, IncompleteError
from conceptarchive.sample import Method, draw_cluster_guided, draw_naive, draw_top, rng
from conceptarchive.vocabulary import Vocabulary

KIND = "conceptarchive"
VERSION = 1
MANIFEST, POOL, INDEX = "manifest.json", "pool.arrow", "index.arrow"

SHARD_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("concepts", pa.list_(pa.uint32())),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("clusters", pa.list_(pa.uint8())),
        pa.field("neighbours", pa.list_(pa.uint64())),
        pa.field("similarity", pa.list_(pa.float16())),
    ]
)
POOL_SCHEMA = pa.schema(
    [
        pa.field("id", pa.large_string()),
        pa.field("mentions", pa.large_list(pa.uint32())),
    ]
)
INDEX_SCHEMA = pa.schema([pa.field("hash", pa.uint64()), pa.field("row", pa.uint64())])


class Concept(NamedTuple):
    """One concept of an image, with its score and the number of its cluster."""

    name: str
    score: float
    cluster: int


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"archive-{number:05d}.arrow"


def hash_key(key: str) -> int:
    """The 64 bits under which the index files a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


class ConceptArchive:
    """Ranked, clustered concepts of every pair of a data set. Use `open`.

    Attributes:
        folder: where it is.
        manifest: what `manifest.json` says.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self._shards: dict[int, _Shard] = {}
        index = _read_table(folder / INDEX)
        self._hashes = memoryview(_values(index, "hash"))
        self._rows = memoryview(_values(index, "row"))
        self._shard_rows = int(manifest["shard_rows"])

    @classmethod
    def open(cls, folder: Path) -> "ConceptArchive":
        """Open a finished archive; nothing but its index is read until asked for.

        Raises:
            DataMissingError: no archive there.
            IncompleteError: a build that was stopped.
            FormatError: not an archive, one of an unknown version, or a damaged one.
        """
        manifest = read_manifest(folder)
        if not manifest["complete"]:
            done = len(list(folder.glob("archive-*.arrow")))
            raise IncompleteError(f"{folder}: {done} shards built; run the build again to go on")
        return cls(folder, manifest)

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._find(key) is not None

    @property
    def keys(self) -> list[str]:
        """Ids of all pairs, in the order of the embeddings."""
        shards = -(-len(self) // self._shard_rows)
        return [key for number in range(shards) for key in self._shard(number).all_keys()]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary it was built with."""
        metadata = self._shard(0).metadata
        names = json.loads(metadata[b"vocabulary"])
        return Vocabulary(tuple(names), metadata[b"merge_plurals"] == b"true")

    @cached_property
    def config(self) -> ArchiveConfig:
        """The settings it was built with."""
        return ArchiveConfig(**self.manifest["config"])

    def concepts(self, key: str) -> list[Concept]:
        """Concepts of one pair, best first.

        Raises:
            KeyError: no such pair.
        """
        ids, scores, clusters = self.entry(key)
        names = self.vocabulary.names
        return [
            Concept(names[concept], score, cluster)
            for concept, score, cluster in zip(ids, scores, clusters, strict=True)
        ]

    def entry(self, key: str) -> tuple[list[int], list[float], list[int]]:
        """Concept ids, scores and clusters of one pair, best first.

        Raises:
            KeyError: no such pair.
        """
        number, row = divmod(self._row(key), self._shard_rows)
        return self._shard(number).entry(row)

    def references(self, key: str) -> list[tuple[str, float]]:
        """Reference images of one pair with their similarity, nearest first.

        Raises:
            KeyError: no such pair.
        """
        number, row = divmod(self._row(key), self._shard_rows)
        rows, similarity = self._shard(number).references(row)
        ids = self._pool["id"].chunk(0)
        return [(ids[at].as_py(), near) for at, near in zip(rows, similarity, strict=True)]

    def witnesses(self, key: str, name: str) -> list[str]:
        """Ids of the reference images whose captions mention a concept, nearest first.

        Raises:
            KeyError: no such pair, or no such concept.
        """
        number, row = divmod(self._row(key), self._shard_rows)
        if name not in self._concept_ids:
            raise KeyError(f"{name!r} is not in the vocabulary of {self.folder}")
        concept = self._concept_ids[name]
        rows, _ = self._shard(number).references(row)
        ids, mentions = self._pool["id"].chunk(0), self._pool["mentions"].chunk(0)
        return [ids[at].as_py() for at in rows if concept in mentions[at].values.to_numpy()]

    def sampler(self, method: Method = "cluster", temperature: float = 1.0) -> "ConceptSampler":
        """What draws concepts for a trainer; see `ConceptSampler`."""
        return ConceptSampler(self.folder, method=method, temperature=temperature)

    @cached_property
    def _pool(self) -> pa.Table:
        return _read_table(self.folder / POOL)

    @cached_property
    def _concept_ids(self) -> dict[str, int]:
        return {name: concept for concept, name in enumerate(self.vocabulary.names)}

    def _shard(self, number: int) -> "_Shard":
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = _Shard(self.folder / shard_name(number))
        return shard

    def _row(self, key: str) -> int:
        row = self._find(key)
        if row is None:
            raise KeyError(
                f"{key!r} is not in {self.folder}; keys look like {self._shard(0).key(0)!r}"
            )
        return row

    def _find(self, key: str) -> int | None:
        """Row of a key by binary search of its hash; equal hashes are told apart by the key."""
        wanted = hash_key(key)
        at = bisect.bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            number, row = divmod(self._rows[at], self._shard_rows)
            if self._shard(number).key(row) == key:
                return int(self._rows[at])
            at += 1
        return None


class ConceptSampler:
    """Draws concepts of a pair, for a trainer; reproducible from (seed, epoch, key).

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
        if method not in ("cluster", "naive", "top"):
            raise ValueError(f"method must be cluster, naive or top, got {method!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.folder, self.method, self.temperature = folder, method, temperature
        self._archive: ConceptArchive | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> list[str]:
        """Draw distinct concept names of one pair.

        Args:
            key: pair id.
            count: names wanted; a pair with fewer concepts gives all it has, maybe none.
            seed: of the run.
            epoch: of the run.

        Raises:
            KeyError: no such pair.
        """
        if self._archive is None:
            self._archive = ConceptArchive.open(self.folder)
        ids, scores, clusters = self._archive.entry(key)
        if self.method == "top":
            drawn = draw_top(scores, count)
        else:
            stream = rng(seed, "archive", self.method, epoch, key)
            if self.method == "naive":
                drawn = draw_naive(scores, count, stream, temperature=self.temperature)
            else:
                drawn = draw_cluster_guided(
                    scores, clusters, count, stream, temperature=self.temperature
                )
        names = self._archive.vocabulary.names
        return [names[ids[at]] for at in drawn]


class _Shard:
    """One Arrow shard, read through plain buffers: an order faster than Arrow's scalars."""

    def __init__(self, path: Path) -> None:
        table = _read_table(path)
        self.metadata: dict[bytes, bytes] = table.schema.metadata
        keys = table["key"].chunk(0)
        self._key_bytes = memoryview(keys.buffers()[2] or b"")
        self._key_ends = memoryview(keys.buffers()[1]).cast("B").cast("i")
        lists = {name: table[name].chunk(0) for name in table.column_names[1:]}
        self._ends = memoryview(lists["concepts"].offsets.to_numpy())
        self._reference_ends = memoryview(lists["neighbours"].offsets.to_numpy())
        values: dict[str, memoryview[Any]] = {
            name: memoryview(lists[name].values.to_numpy())
            for name in ("concepts", "scores", "clusters", "neighbours")
        }
        self._concepts, self._scores = values["concepts"], values["scores"]
        self._clusters, self._neighbours = values["clusters"], values["neighbours"]
        self._similarity = lists["similarity"].values.to_numpy()  # memoryview knows no float16

    def key(self, row: int) -> str:
        """Key of a row."""
        return str(self._key_bytes[self._key_ends[row] : self._key_ends[row + 1]], "utf-8")

    def all_keys(self) -> list[str]:
        """Keys of all rows."""
        return [self.key(row) for row in range(len(self._key_ends) - 1)]

    def entry(self, row: int) -> tuple[list[int], list[float], list[int]]:
        """Concept ids, scores and clusters of a row."""
        part = slice(self._ends[row], self._ends[row + 1])
        return (
            self._concepts[part].tolist(),
            cast("list[float]", self._scores[part].tolist()),
            self._clusters[part].tolist(),
        )

    def references(self, row: int) -> tuple[list[int], list[float]]:
        """Pool rows and similarities of a row."""
        part = slice(self._reference_ends[row], self._reference_ends[row + 1])
        return self._neighbours[part].tolist(), self._similarity[part].tolist()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check `manifest.json`.

    Raises:
        DataMissingError: none there.
        FormatError: not an archive's, or of an unknown version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataMissingError(f"{folder}: no {MANIFEST} here; build an archive first")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["kind"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not the manifest of an archive ({error!r})") from error
    if found != (KIND, VERSION):
        raise FormatError(f"{path}: is {found[0]} version {found[1]}, reads {KIND} {VERSION}")
    return manifest


def hash_file(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_archive(folder: Path) -> ConceptArchive:
    """Check every file of an archive against its manifest, and every value against its range.

    Raises:
        FormatError: the first fault found; and the errors of `ConceptArchive.open`.
    """
    archive = ConceptArchive.open(folder)
    for name, expected in sorted(archive.manifest["files"].items()):
        path = folder / name
        if not path.is_file():
            raise FormatError(f"{path}: is missing; run the build again in a new folder")
        if hash_file(path) != expected["sha256"]:
            raise FormatError(f"{path}: checksum differs; run the build again in a new folder")
        if name.startswith("archive-"):
            _check_shard(path, len(archive.vocabulary), int(archive.manifest["pool_rows"]))
    return archive


def _check_shard(path: Path, concept_count: int, pool_rows: int) -> None:
    """Raise FormatError when a shard holds ids out of range or is not sorted by score."""
    table = _read_table(path)
    column = {name: table[name].chunk(0) for name in table.column_names}
    concepts = column["concepts"].values.to_numpy()
    neighbours = column["neighbours"].values.to_numpy()
    if concepts.max(initial=0) >= concept_count or neighbours.max(initial=0) >= pool_rows:
        raise FormatError(f"{path}: holds ids out of range")
    scores, ends = column["scores"].values.to_numpy(), column["scores"].offsets.to_numpy()
    rises = np.diff(scores) > 0  # (c - 1,)
    inner = np.ones(len(rises), bool)  # false where the next concept is of another pair
    inner[ends[(ends > 0) & (ends < len(scores))] - 1] = False
    if bool((rises & inner).any()):
        raise FormatError(f"{path}: concepts are not sorted by score")


def _read_table(path: Path) -> pa.Table:
    """A memory-mapped Arrow file of one batch."""
    if not path.is_file():
        raise FormatError(f"{path}: is missing; run the build again in a new folder")
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except pa.ArrowInvalid as error:
        raise FormatError(f"{path}: not an Arrow file ({error})") from error


def _values(table: pa.Table, name: str) -> Any:
    """One flat column as an array, without a copy."""
    return table[name].chunk(0).to_numpy()
