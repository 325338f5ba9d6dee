"""What an archive is built from: inputs and settings, checked, and hashed into a fingerprint."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptarchive.archive.schema import (
    KIND,
    MANIFEST,
    POOL_ROWS,
    VERSION,
    file_metadata,
    fingerprint,
    read_manifest,
    shard_count,
)
from conceptarchive.concepts.mentions import MentionFinder
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.curation.cluster import vocabulary_gram
from conceptarchive.features.embeddings import Embeddings
from conceptarchive.features.rows import IntArray, Rows
from conceptarchive.files import write_json
from conceptarchive.keyhash import hash_keys
from conceptarchive.search.index import PoolIndex
from conceptarchive.search.neighbours import NO_ROW

FloatArray = npt.NDArray[np.float32]
HashArray = npt.NDArray[np.uint64]

WORK = "work"
"""Folder, inside that of the archive, of what only the build needs; gone once it is complete."""

RESOURCES = (
    "minutes",
    "memory_gib",
)  # of SearchConfig: they choose a search, the manifest names it
MAX_SHARD_ROWS = 1_000_000  # offsets in a shard are of 32 bits


@dataclass(frozen=True)
class Job:
    """Inputs and settings of a build. It is pickled by its fields: workers compute the rest again.

    Attributes:
        out: folder of the archive.
        anchors: n pairs to enrich.
        pool: m pairs to search; the same object where a set is searched in itself.
        vocabulary: V concepts.
        features: (V, D) unit rows of their prompts.
        config: options of the method.
        search: options of the search.
        encoder_id: what embedded images and prompts, for the record.
        shard_rows: pairs of a shard.
        device: where neighbours are searched.
        previous: a finished archive of the first pairs of `anchors`, whose search is reused.
    """

    out: Path
    anchors: Embeddings
    pool: Embeddings
    vocabulary: Vocabulary
    features: FloatArray
    config: ArchiveConfig
    search: SearchConfig
    encoder_id: str
    shard_rows: int
    device: str
    previous: Path | None

    def __post_init__(self) -> None:
        """Raise ValueError where inputs do not fit together."""
        shape = (len(self.vocabulary), self.anchors.image.shape[1])
        if self.features.shape != shape:
            raise ValueError(f"concept_features must be {shape}, got {self.features.shape}")
        if not np.allclose(np.linalg.norm(self.features, axis=1), 1, atol=0.02):
            raise ValueError(
                "concept_features must be rows of length 1; divide them by their length"
            )
        if self.pool.image.shape[1] != shape[1]:
            raise ValueError(f"pool must be of width {shape[1]}, got {self.pool.image.shape[1]}")
        if self.config.expansion == "language" and self.pool.text is None:
            raise ValueError(
                "language-driven expansion needs a pool with text rows; embed with text"
            )
        if len(self.pool) == 0 or len(self.anchors) == 0:
            raise ValueError(
                f"needs pairs, got {len(self.anchors)} anchors and {len(self.pool)} in the pool"
            )
        if not 1 <= self.shard_rows <= MAX_SHARD_ROWS:
            raise ValueError(f"shard_rows must be in [1, {MAX_SHARD_ROWS}], got {self.shard_rows}")
        first, second = self.anchors.encoder_id, self.pool.encoder_id
        if None not in (first, second) and first != second:
            raise ValueError(f"anchors are rows of {first}, the pool of {second}; embed one again")
        if self.device == "cpu" and self.search.precision == "float16":
            raise ValueError("search.precision float16 needs a GPU; take bfloat16 on a CPU")
        if self.previous is not None and not self.is_self_search:
            raise ValueError("previous needs a set searched in itself, image to image")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def is_self_search(self) -> bool:
        """Whether the pairs are searched among themselves, image to image."""
        return self.anchors is self.pool and self.config.expansion == "vision"

    @property
    def searched(self) -> Rows:
        """(m, D) rows of the pool that anchors are compared with."""
        rows = self.pool.image if self.config.expansion == "vision" else self.pool.text
        assert rows is not None
        return rows

    @property
    def work(self) -> Path:
        """Folder of the build's own files."""
        return self.out / WORK

    @property
    def shards(self) -> range:
        """Numbers of the archive's shards."""
        return range(shard_count(len(self.anchors), self.shard_rows))

    @property
    def pool_chunks(self) -> range:
        """Numbers of the pool's files."""
        return range(shard_count(len(self.pool), POOL_ROWS))

    def shard_slice(self, number: int) -> slice:
        """Anchors of a shard."""
        start = number * self.shard_rows
        return slice(start, min(start + self.shard_rows, len(self.anchors)))

    def chunk_slice(self, number: int) -> slice:
        """Pool rows of one of the pool's files."""
        start = number * POOL_ROWS
        return slice(start, min(start + POOL_ROWS, len(self.pool)))

    @cached_property
    def finder(self) -> MentionFinder:
        """What finds the vocabulary in captions."""
        return MentionFinder(self.vocabulary)

    @cached_property
    def index(self) -> PoolIndex:
        """The index that was made for this build, if it searches through one."""
        return PoolIndex.open(self.work, self.searched, device=self.device)

    @cached_property
    def gram(self) -> FloatArray | None:
        """(V, V) products of the concepts, where there are few enough to hold."""
        return vocabulary_gram(self.features)

    @cached_property
    def pool_order(self) -> tuple[HashArray, IntArray]:
        """(m,) hashes of the pool's ids, ascending, and the row of each."""
        hashes = hash_keys(self.pool.keys)  # (m,)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def self_rows(self, rows: slice) -> IntArray:
        """Pool row of each of some anchors, by id; -1 where the pool does not hold it."""
        if self.anchors is self.pool:
            return np.arange(rows.start, rows.stop)
        hashes, order = self.pool_order
        keys = self.anchors.keys[rows]
        wanted = hash_keys(keys)  # (n,)
        place = np.searchsorted(hashes, wanted).clip(max=len(hashes) - 1)
        found = np.where(hashes[place] == wanted, order[place], NO_ROW)
        for at in np.argsort(found, kind="stable").tolist():  # in the pool's order: files in turn
            if found[at] != NO_ROW and self.pool.keys[int(found[at])] != keys[at]:
                found[at] = NO_ROW  # equal hashes are not yet equal ids
        return found

    @cached_property
    def input_hashes(self) -> dict[str, str]:
        """SHA-256 of anchors and pool, remembered while no file of theirs changes."""
        stamps = {"anchors": self.anchors.stamp, "pool": self.pool.stamp}
        path = self.work / "inputs.json"
        if path.is_file():
            noted: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
            if noted["stamps"] == stamps:
                return noted["sha256"]
        anchors = self.anchors.sha256
        hashes = {
            "anchors": anchors,
            "pool": anchors if self.pool is self.anchors else self.pool.sha256,
        }
        if not self.is_complete:
            self.work.mkdir(parents=True, exist_ok=True)
            write_json(path, {"stamps": stamps, "sha256": hashes})
        return hashes

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the archive is made of and how; its hash tells builds apart."""
        search = dataclasses.asdict(self.search)
        return {
            "kind": KIND,
            "version": VERSION,
            "config": dataclasses.asdict(self.config),
            "search_config": {name: search[name] for name in search if name not in RESOURCES},
            "encoder": self.encoder_id,
            "vocabulary_sha256": self.vocabulary.sha256,
            "merge_plurals": self.vocabulary.merge_plurals,
            "concept_features_sha256": hashlib.sha256(self.features.data).hexdigest(),
            "anchors_sha256": self.input_hashes["anchors"],
            "pool_sha256": self.input_hashes["pool"],
            "rows": len(self.anchors),
            "pool_rows": len(self.pool),
            "shard_rows": self.shard_rows,
        }

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the description."""
        return fingerprint(self.description)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What every Arrow file of the archive says of itself."""
        return file_metadata(self.description, self.fingerprint)

    @property
    def is_begun(self) -> bool:
        """Whether somebody has noted what is to be built here."""
        return (self.out / MANIFEST).is_file()

    @property
    def is_complete(self) -> bool:
        """Whether the archive is finished."""
        return self.is_begun and bool(read_manifest(self.out)["complete"])
