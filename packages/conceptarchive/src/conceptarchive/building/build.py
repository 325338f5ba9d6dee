"""Building an archive: a list of stages, each of tasks that write one file, resumable anywhere."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.archive.schema import (
    INDEX,
    INDEX_SCHEMA,
    SHARD_SCHEMA,
    VOCABULARY,
    hash_file,
    lists,
    pool_name,
    read_manifest,
    shard_name,
    write_arrow,
    write_manifest,
)
from conceptarchive.building import expand, pool
from conceptarchive.building.engine import Engine, LocalEngine, Stage
from conceptarchive.building.job import WORK, Job
from conceptarchive.concepts.mentions import Mentions
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.curation.cluster import cluster_concepts
from conceptarchive.curation.rank import Ranked, keep_best, rank_images
from conceptarchive.errors import StaleFolderError
from conceptarchive.features.embeddings import Embeddings
from conceptarchive.files import PART
from conceptarchive.keyhash import hash_keys
from conceptarchive.search.neighbours import NO_ROW

log = logging.getLogger(__name__)

SHARD_ROWS = 10_000


def build_archive(  # noqa: PLR0913  (inputs, settings and provenance, all by name)
    out: Path,
    *,
    anchors: Embeddings,
    pool: Embeddings,
    vocabulary: Vocabulary,
    concept_features: npt.ArrayLike,
    config: ArchiveConfig | None = None,
    search: SearchConfig | None = None,
    encoder_id: str = "unknown",
    shard_rows: int = SHARD_ROWS,
    device: str = "cpu",
    engine: Engine | None = None,
    previous: Path | None = None,
) -> ConceptArchive:
    """Find, rank and cluster the concepts of every anchor image (CoCu, arXiv:2309.13505, sec. 3.3).

    Every task writes one file and is not done again once that is there, so a killed build goes on
    where it stopped. Files do not depend on that, nor on the engine or the machine's cores.

    Args:
        out: folder of the archive.
        anchors: pairs to enrich.
        pool: pairs to search; may be `anchors`.
        vocabulary: V concepts.
        concept_features: (V, D) unit rows of their prompts.
        config: options of the method; the defaults are the paper's.
        search: how reference images are searched; by default exactly where that takes minutes.
        encoder_id: what embedded images and prompts, for the record.
        shard_rows: pairs of a shard.
        device: where neighbours are searched.
        engine: who does the work; by default this process.
        previous: finished archive of the first pairs of `anchors`, searched in themselves, built
            with the same settings: its exact search is extended, not done again. The result equals
            that of a build without it.

    Raises:
        ValueError: shapes do not fit, or language-driven expansion over a pool without text rows.
        FormatError: rows that are not of length 1.
        StaleFolderError: `out` was begun with other settings or inputs, or `previous` was.
        UsageError: another process builds here, or no index fits in memory.
    """
    job = Job(
        out,
        anchors,
        pool,
        vocabulary,
        np.ascontiguousarray(concept_features, dtype=np.float32),
        config or ArchiveConfig(),
        search or SearchConfig(),
        encoder_id,
        shard_rows,
        device,
        previous,
    )
    engine = engine or LocalEngine()
    if not job.is_complete:
        refuse_foreign_files(job)
        with engine.lock(job.work):
            for stage in stages(job, engine):
                engine.run(stage, job)
    refuse_other_inputs(job)
    tidy(job)  # a build that was killed after its last file has not
    return ConceptArchive.open(out)


def stages(job: Job, engine: Engine) -> Iterator[Stage]:
    """All stages of a build, in order; each is looked at when those before are done."""
    is_noted = (job.out / VOCABULARY).is_file
    yield Stage("begin", [0], lambda _: is_noted() and expand.is_planned(job), begin, alone=True)
    refuse_other_inputs(job)
    yield Stage(
        "mentions",
        job.pool_chunks,
        lambda number: (job.out / pool_name(number)).is_file(),
        pool.write_pool_shard,
    )
    yield Stage("join", [0], lambda _: pool.is_joined(job), pool.join_pool, alone=True)
    if job.is_complete:  # others have had nothing to wait for
        return
    yield from expand.stages(job, engine)
    yield Stage(
        "rank", job.shards, lambda number: (job.out / shard_name(number)).is_file(), write_shard
    )
    yield Stage("finish", [0], lambda _: job.is_complete, finish, alone=True)


def refuse_foreign_files(job: Job) -> None:
    """Raise StaleFolderError when the folder holds something else than a build."""
    if job.is_begun or not job.out.is_dir():
        return
    inside = [path.name for path in job.out.iterdir()]
    if any(name != WORK and not name.endswith(PART) for name in inside):
        raise StaleFolderError(f"{job.out}: holds files of something else; use a new folder")


def tidy(job: Job) -> None:
    """Remove what only the build needed, and what killed writers left."""
    shutil.rmtree(job.work, ignore_errors=True)  # other processes may be at it
    for path in job.out.glob(f"*{PART}"):
        path.unlink(missing_ok=True)


def refuse_other_inputs(job: Job) -> None:
    """Raise StaleFolderError when the folder was begun with other settings or inputs."""
    begun = read_manifest(job.out)
    if begun["fingerprint"] != job.fingerprint:
        differs = [name for name, value in job.description.items() if begun.get(name) != value]
        what = differs[0] if differs else "setting"
        raise StaleFolderError(
            f"{job.out}: begun with another {what}; use a new folder or remove this one"
        )


def begin(job: Job, _: int) -> None:
    """Check all rows and ids, choose the search, and note what is to be built."""
    for pairs in {id(each): each for each in (job.anchors, job.pool)}.values():
        pairs.validate()
    expand.plan_search(job)
    expand.reused_rows(job)  # refuses a `previous` of something else before anything is begun
    write_manifest(job.out, job.description, complete=False)
    job.vocabulary.save(job.out / VOCABULARY)


def write_shard(job: Job, number: int) -> None:
    """Rank and cluster the concepts of the anchors of one shard, and write it."""
    rows = job.shard_slice(number)
    found = expand.load_neighbours(job, number)
    ranked = keep_best(rank(job, rows, found.indices), job.config.max_concepts)
    clusters = cluster_concepts(
        ranked,
        job.features,
        clusters=job.config.clusters,
        concepts_per_pair=job.config.concepts_per_pair,
        gram=job.gram,
    )
    valid = found.indices != NO_ROW  # (n, R)
    ends = np.concatenate([[0], np.cumsum(valid.sum(axis=1))])  # (n + 1,)
    columns = [
        pa.array(job.anchors.keys[rows], pa.string()),
        pa.array(job.anchors.captions[rows], pa.string()),
        lists(ranked.offsets, ranked.concepts.astype(np.uint32)),
        lists(ranked.offsets, ranked.scores),
        lists(ranked.offsets, clusters),
        lists(ends, found.indices[valid].astype(np.uint64)),
        lists(ends, found.similarity[valid]),
    ]
    write_arrow(job.out / shard_name(number), SHARD_SCHEMA, columns, job.metadata)


def rank(job: Job, rows: slice, neighbours: npt.NDArray[np.int64]) -> Ranked:
    """Ranked concepts of a range of anchors."""
    config = job.config
    mentions, own = pool.open_mentions(job)
    return rank_images(
        job.anchors.image[rows],
        job.features,
        neighbours,
        mentions,
        own,
        forced=own_mentions(job, rows) if config.self_mode == "force" else None,
        ranking=config.ranking,
        relative=config.relative,
        cosine_norm=config.cosine_norm,
        response=config.response,
    )


def own_mentions(job: Job, rows: slice) -> Mentions:
    """Concepts of the captions of a range of anchors."""
    if job.anchors is not job.pool:
        return job.finder.find_all(job.anchors.captions[rows])
    mentions, _ = pool.open_mentions(job)
    ends = mentions.offsets[rows.start : rows.stop + 1]
    return Mentions(ends - ends[0], mentions.concepts[ends[0] : ends[-1]])


def finish(job: Job, _: int) -> None:
    """Write the index over all keys, and the manifest that marks the archive as complete."""
    hashes = hash_keys(job.anchors.keys)  # (n,)
    order = np.argsort(hashes, kind="stable").astype(np.uint64)
    columns = [pa.array(hashes[order]), pa.array(order)]
    write_arrow(job.out / INDEX, INDEX_SCHEMA, columns, job.metadata)
    names = [VOCABULARY, INDEX, *map(pool_name, job.pool_chunks), *map(shard_name, job.shards)]
    files = {name: describe_file(job.out / name) for name in names}
    write_manifest(
        job.out, job.description, complete=True, files=files, search=expand.search_summary(job)
    )


def describe_file(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"sha256": hash_file(path), "bytes": path.stat().st_size}
