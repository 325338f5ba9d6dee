"""Building an archive: expansion, ranking and clustering, shard by shard, resumable."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from conceptarchive.archive import (
    INDEX,
    INDEX_SCHEMA,
    KIND,
    MANIFEST,
    POOL,
    POOL_SCHEMA,
    SHARD_SCHEMA,
    VERSION,
    ConceptArchive,
    hash_file,
    hash_key,
    read_manifest,
    shard_name,
)
from conceptarchive.cluster import cluster_concepts
from conceptarchive.config import ArchiveConfig
from conceptarchive.embeddings import Embeddings
from conceptarchive.errors import StaleFolderError
from conceptarchive.mentions import MentionFinder, Mentions
from conceptarchive.neighbours import NO_ROW, Neighbours, RowArray, nearest, self_rows
from conceptarchive.rank import Ranked, keep_best, rank_images
from conceptarchive.responses import own_responses
from conceptarchive.vocabulary import Vocabulary

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SHARD_ROWS = 10_000
WIDER = 4  # times as many reference images are searched when some are to be skipped


def build_archive(  # noqa: PLR0913  (inputs, settings and provenance, all by name)
    out: Path,
    *,
    anchors: Embeddings,
    pool: Embeddings,
    vocabulary: Vocabulary,
    concept_features: npt.ArrayLike,
    config: ArchiveConfig | None = None,
    encoder_id: str = "unknown",
    shard_rows: int = SHARD_ROWS,
    device: str = "cpu",
) -> ConceptArchive:
    """Find, rank and cluster the concepts of every anchor image (CoCu, arXiv:2309.13505, sec. 3.3).

    Shards that are there already are not built again, so a killed run goes on where it stopped;
    the result does not depend on it, nor on `shard_rows`.

    Args:
        out: folder of the archive.
        anchors: pairs to enrich.
        pool: pairs to search; may be `anchors`.
        vocabulary: V concepts.
        concept_features: (V, D) unit rows of their prompts.
        config: options; the defaults are the paper's.
        encoder_id: what embedded images and prompts, for the record.
        shard_rows: pairs of a shard.
        device: where neighbours are searched.

    Raises:
        ValueError: shapes do not fit, or language-driven expansion over a pool without text rows.
        StaleFolderError: `out` was begun with other settings or inputs.
    """
    features = np.ascontiguousarray(concept_features, dtype=np.float32)  # (V, D)
    config = config or ArchiveConfig()
    _check_inputs(anchors, pool, vocabulary, features, config, shard_rows)
    build = _Build(out, anchors, pool, vocabulary, features, config, encoder_id, shard_rows, device)
    if not build.begin():
        return ConceptArchive.open(out)
    build.write_pool()
    starts = range(0, len(anchors), shard_rows)
    with tqdm(total=len(anchors), unit="pair", desc="build", disable=None) as progress:
        for number, start in enumerate(starts):
            stop = min(start + shard_rows, len(anchors))
            if not (out / shard_name(number)).exists():
                build.write_shard(number, slice(start, stop))
            progress.update(stop - start)
    build.finish(len(starts))
    return ConceptArchive.open(out)


def _check_inputs(
    anchors: Embeddings,
    pool: Embeddings,
    vocabulary: Vocabulary,
    features: FloatArray,
    config: ArchiveConfig,
    shard_rows: int,
) -> None:
    """Raise ValueError where inputs do not fit together."""
    shape = (len(vocabulary), anchors.image.shape[1])
    if features.shape != shape:
        raise ValueError(f"concept_features must be {shape}, got {features.shape}")
    if not np.allclose(np.linalg.norm(features, axis=1), 1, atol=0.02):
        raise ValueError("concept_features must be rows of length 1; divide them by their length")
    if pool.image.shape[1] != shape[1]:
        raise ValueError(f"pool must be of width {shape[1]}, got {pool.image.shape[1]}")
    if config.expansion == "language" and pool.text is None:
        raise ValueError("language-driven expansion needs a pool with text rows; embed with text")
    if len(pool) == 0 or len(anchors) == 0:
        raise ValueError(f"needs pairs, got {len(anchors)} anchors and {len(pool)} in the pool")
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be >= 1, got {shard_rows}")


@dataclass(frozen=True)
class _Build:
    """Inputs of a build, and what is computed once from them."""

    out: Path
    anchors: Embeddings
    pool: Embeddings
    vocabulary: Vocabulary
    features: FloatArray
    config: ArchiveConfig
    encoder_id: str
    shard_rows: int
    device: str

    @cached_property
    def mentions(self) -> Mentions:
        """Concepts of the pool's captions."""
        return MentionFinder(self.vocabulary).find_all(self.pool.captions)

    @cached_property
    def forced(self) -> Mentions:
        """Concepts of the anchors' captions."""
        if self.anchors is self.pool:
            return self.mentions
        return MentionFinder(self.vocabulary).find_all(self.anchors.captions)

    @cached_property
    def own(self) -> FloatArray:
        """(mentions,) responses of the pool's images to their captions' concepts."""
        return own_responses(self.pool.image, self.features, self.mentions)

    @cached_property
    def self_rows(self) -> IntArray:
        """(n,) pool row of each anchor, -1 for none."""
        return self_rows(self.anchors.keys, self.pool.keys)

    @cached_property
    def caption_numbers(self) -> tuple[IntArray, IntArray]:
        """(n,) and (m,) numbers of the anchors' and the pool's captions, equal where they are."""
        numbers: dict[str, int] = {}
        both = (self.anchors.captions, self.pool.captions)
        first, second = ([numbers.setdefault(c, len(numbers)) for c in part] for part in both)
        return np.array(first, np.int64), np.array(second, np.int64)

    @cached_property
    def description(self) -> dict[str, Any]:
        """What the archive is made of and how; its hash tells builds apart."""
        return {
            "kind": KIND,
            "version": VERSION,
            "config": dataclasses.asdict(self.config),
            "encoder": self.encoder_id,
            "vocabulary_sha256": self.vocabulary.sha256,
            "concept_features_sha256": hashlib.sha256(self.features.data).hexdigest(),
            "anchors_sha256": self.anchors.sha256,
            "pool_sha256": self.pool.sha256,
            "rows": len(self.anchors),
            "pool_rows": len(self.pool),
            "shard_rows": self.shard_rows,
        }

    @property
    def fingerprint(self) -> str:
        """Hash of the description."""
        text = json.dumps(self.description, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def begin(self) -> bool:
        """Note what is to be built, or check that the folder is of the same; false when it is done.

        Raises:
            StaleFolderError: it is not, or it holds something else.
        """
        if not (self.out / MANIFEST).exists():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise StaleFolderError(f"{self.out}: holds files of something else; use a new one")
            self.out.mkdir(parents=True, exist_ok=True)
            self._write_manifest(complete=False, files={})
            return True
        begun = read_manifest(self.out)
        if begun["fingerprint"] != self.fingerprint:
            differs = [name for name, value in self.description.items() if begun[name] != value]
            raise StaleFolderError(
                f"{self.out}: begun with another {differs[0]}; use a new folder or remove this one"
            )
        return not begun["complete"]

    def write_pool(self) -> None:
        """Write the pool's ids and mentions, so that the folder explains itself."""
        mentions = pa.LargeListArray.from_arrays(self.mentions.offsets, self.mentions.concepts)
        ids = pa.array(self.pool.keys, pa.large_string())
        self._write_arrow(POOL, POOL_SCHEMA, [ids, mentions])

    def write_shard(self, number: int, rows: slice) -> None:
        """Build and write one shard."""
        found = self._expand(rows)
        ranked = keep_best(self._rank(rows, found.indices), self.config.max_concepts)
        clusters = cluster_concepts(
            ranked,
            self.features,
            clusters=self.config.clusters,
            concepts_per_pair=self.config.concepts_per_pair,
        )
        valid = found.indices != NO_ROW  # (n, R)
        ends = np.concatenate([[0], np.cumsum(valid.sum(axis=1))])  # (n + 1,)
        columns = [
            pa.array(self.anchors.keys[rows], pa.string()),
            _lists(ranked.offsets, ranked.concepts.astype(np.uint32)),
            _lists(ranked.offsets, ranked.scores),
            _lists(ranked.offsets, clusters),
            _lists(ends, found.indices[valid].astype(np.uint64)),
            _lists(ends, found.similarity[valid].astype(np.float16)),
        ]
        self._write_arrow(shard_name(number), SHARD_SCHEMA, columns)

    def finish(self, shards: int) -> None:
        """Write the index over all keys, and the manifest that marks the archive as complete."""
        keys = self.anchors.keys
        hashes = np.fromiter((hash_key(key) for key in keys), np.uint64, len(keys))  # (n,)
        order = np.argsort(hashes, kind="stable").astype(np.uint64)
        self._write_arrow(INDEX, INDEX_SCHEMA, [pa.array(hashes[order]), pa.array(order)])
        names = [POOL, INDEX, *(shard_name(number) for number in range(shards))]
        files = {name: {"sha256": hash_file(self.out / name)} for name in names}
        self._write_manifest(complete=True, files=files)

    def _expand(self, rows: slice) -> Neighbours:
        """Reference images of some anchors, by image or by caption."""
        pool: RowArray | None = (
            self.pool.image if self.config.expansion == "vision" else self.pool.text
        )
        assert pool is not None
        wanted = self.config.neighbours
        skips = self.config.skip_identical_captions
        found = nearest(
            self.anchors.image[rows],
            pool,
            count=wanted * WIDER if skips else wanted,
            drop=self.self_rows[rows] if self.config.self_mode == "drop" else None,
            device=self.device,
        )
        if not skips:
            return found
        anchor, others = self.caption_numbers
        return skip_identical(found, self.self_rows[rows], anchor[rows], others, wanted)

    def _rank(self, rows: slice, neighbours: IntArray) -> Ranked:
        """Ranked concepts of some anchors."""
        config = self.config
        forced = None
        if config.self_mode == "force":
            ends = self.forced.offsets[rows.start : rows.stop + 1]
            forced = Mentions(ends - ends[0], self.forced.concepts[ends[0] : ends[-1]])
        return rank_images(
            self.anchors.image[rows],
            self.features,
            neighbours,
            self.mentions,
            self.own,
            forced=forced,
            ranking=config.ranking,
            relative=config.relative,
            cosine_norm=config.cosine_norm,
            response=config.response,
        )

    @property
    def _metadata(self) -> dict[str, str]:
        """What every Arrow file says of itself."""
        return {
            "kind": KIND,
            "version": str(VERSION),
            "fingerprint": self.fingerprint,
            "vocabulary": json.dumps(self.vocabulary.names, ensure_ascii=False),
            "merge_plurals": json.dumps(self.vocabulary.merge_plurals),
            "vocabulary_sha256": self.vocabulary.sha256,
            "encoder": self.encoder_id,
            "config": json.dumps(dataclasses.asdict(self.config)),
            "pool_sha256": self.pool.sha256,
        }

    def _write_arrow(self, name: str, schema: pa.Schema, columns: list[pa.Array]) -> None:
        """Write one batch under a temporary name, then rename."""
        path = self.out / name
        part = path.with_name(name + ".part")
        schema = schema.with_metadata(self._metadata)
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
        part.replace(path)

    def _write_manifest(self, *, complete: bool, files: dict[str, Any]) -> None:
        part = self.out / (MANIFEST + ".part")
        notes = {"fingerprint": self.fingerprint, "complete": complete, "files": files}
        part.write_text(json.dumps(self.description | notes, indent=1), encoding="utf-8")
        part.replace(self.out / MANIFEST)


def skip_identical(
    found: Neighbours, own_row: IntArray, anchor: IntArray, pool: IntArray, count: int
) -> Neighbours:
    """Keep the first `count` reference images that bring a caption not seen before.

    A caption is seen when a nearer reference image or the anchor has it; the anchor itself stays.

    Args:
        found: (n, K) reference images, K >= count.
        own_row: (n,) pool row of the anchor itself, -1 for none.
        anchor: (n,) caption numbers of the anchors.
        pool: (m,) caption numbers of the pool.
        count: places of the result; filled up with -1.
    """
    is_self = (found.indices == own_row[:, None]) & (own_row >= 0)[:, None]  # (n, K)
    numbers = np.where(found.indices >= 0, pool[found.indices], -1)  # (n, K)
    same = numbers[:, :, None] == numbers[:, None]  # (n, K, K)
    seen = np.tril(same, -1).any(axis=2) | (numbers == anchor[:, None])
    keep = (is_self | ~seen) & (found.indices >= 0)  # (n, K)
    order = np.argsort(~keep, axis=1, kind="stable")[:, :count]  # (n, count)
    kept = np.take_along_axis(keep, order, axis=1)
    return Neighbours(
        np.where(kept, np.take_along_axis(found.indices, order, axis=1), NO_ROW),
        np.where(kept, np.take_along_axis(found.similarity, order, axis=1), np.float32(-np.inf)),
    )


def _lists(offsets: npt.NDArray[np.integer[Any]], values: npt.NDArray[Any]) -> pa.Array:
    """A list column."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))
