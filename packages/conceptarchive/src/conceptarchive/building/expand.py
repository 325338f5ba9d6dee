"""Expansion as stages of a build: the reference images of every anchor."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.building.engine import Engine, Stage
from conceptarchive.building.job import Job
from conceptarchive.building.pool import open_caption_hashes
from conceptarchive.errors import StaleFolderError
from conceptarchive.files import replacing, write_json
from conceptarchive.keyhash import hash_keys
from conceptarchive.progress import progress
from conceptarchive.search.index import SearchPlan, choose_search, prepare_search
from conceptarchive.search.neighbours import NO_ROW, IntArray, Neighbours, nearest
from conceptarchive.search.selfjoin import self_join

log = logging.getLogger(__name__)

WIDER = 4  # times as many reference images are searched when some are to be skipped
BAND_ROWS = 65_536  # anchors of a task: each reads the whole pool once
SEARCH, INDEX_SUMMARY = "search.json", "index-summary.json"
MACHINE = ("reason", "seconds", "memory_gib", "device")  # what a plan says of the machine


def plan_search(job: Job) -> None:
    """Choose how reference images are found, say why, and note it for all processes."""
    plan = choose_search(
        len(job.anchors),
        len(job.pool),
        job.searched.shape[1],
        method=job.search.method,
        memory_gib=job.search.memory_gib,
        minutes=job.search.minutes,
        device=job.device,
        same=job.is_self_search,
    )
    log.info("search: %s", plan.reason)
    write_json(job.work / SEARCH, dataclasses.asdict(plan))


def is_planned(job: Job) -> bool:
    """Whether the search has been chosen, or is over."""
    return job.is_complete or (job.work / SEARCH).is_file()


def read_plan(job: Job) -> SearchPlan:
    """How reference images are found."""
    return SearchPlan(**json.loads((job.work / SEARCH).read_text(encoding="utf-8")))


def search_summary(job: Job) -> dict[str, Any]:
    """What the manifest says of the search: the kind, and an index's settings and recall."""
    kind = read_plan(job).kind
    if kind == "exact":
        return {"kind": kind, "precision": job.search.precision}
    summary: dict[str, Any] = json.loads((job.work / INDEX_SUMMARY).read_text(encoding="utf-8"))
    return {name: value for name, value in summary.items() if name not in MACHINE}


def stages(job: Job, engine: Engine) -> Iterator[Stage]:
    """The stages that find the reference images of all anchors."""
    plan = read_plan(job)
    is_exact = plan.kind == "exact"
    if not is_exact:
        is_ready = (job.work / INDEX_SUMMARY).is_file
        yield Stage("index", [0], lambda _: is_ready(), prepare_index, alone=True)
    bands = range(-(-len(job.shards) // shards_of_band(job)))
    is_alone = engine.workers == 1 and job.device == "cpu"
    if is_exact and job.is_self_search and is_alone and not reused_rows(job):
        yield Stage("neighbours", [0], lambda _: has_all(job), join_all, alone=True)
    else:
        yield Stage("neighbours", bands, lambda band: has_band(job, band), expand_band)


def neighbours_path(job: Job, shard: int) -> Path:
    """File of the reference images of one shard."""
    return job.work / f"neighbours-{shard:05d}.npz"


def load_neighbours(job: Job, shard: int) -> Neighbours:
    """Reference images of one shard."""
    with np.load(neighbours_path(job, shard)) as file:
        return Neighbours(file["indices"], file["similarity"])


def shards_of_band(job: Job) -> int:
    """Shards that one task does."""
    return max(1, BAND_ROWS // job.shard_rows)


def band(job: Job, number: int) -> range:
    """Shards of one task."""
    size = shards_of_band(job)
    return job.shards[number * size : (number + 1) * size]


def has_band(job: Job, number: int) -> bool:
    """Whether a task has been done."""
    return all(neighbours_path(job, shard).is_file() for shard in band(job, number))


def has_all(job: Job) -> bool:
    """Whether all reference images have been found."""
    return all(neighbours_path(job, shard).is_file() for shard in job.shards)


def prepare_index(job: Job, _: int) -> None:
    """Train and fill the index, tune it, measure its recall."""
    summary = prepare_search(
        job.searched,
        job.anchors.image,
        count=job.config.neighbours,
        plan=read_plan(job),
        workdir=job.work,
        seed=job.search.seed,
        target_recall=job.search.recall,
        queries=job.search.recall_queries,
    )
    write_json(job.work / INDEX_SUMMARY, summary)


def join_all(job: Job, _: int) -> None:
    """Find the reference images of a set in itself, each product computed once."""
    everyone = slice(0, len(job.anchors))
    with progress(total=len(job.anchors), unit="row", desc="neighbours") as line:
        found = self_join(
            job.searched,
            count=wanted(job),
            drop=job.self_rows(everyone) if job.config.self_mode == "drop" else None,
            precision=job.search.precision,
            state=job.work / "self-join",
            stamp=job.fingerprint,
            progress=lambda done: line.update(done - line.n),
        )
    for shard in job.shards:
        rows = job.shard_slice(shard)
        part = Neighbours(found.indices[rows], found.similarity[rows])
        save_neighbours(job, shard, without_repeats(job, rows, part))


def expand_band(job: Job, number: int) -> None:
    """Find the reference images of the anchors of some shards."""
    shards = band(job, number)
    start, stop = job.shard_slice(shards[0]).start, job.shard_slice(shards[-1]).stop
    found = search(job, slice(start, stop))
    for shard in shards:
        rows = job.shard_slice(shard)
        part = slice(rows.start - start, rows.stop - start)
        near = Neighbours(found.indices[part], found.similarity[part])
        save_neighbours(job, shard, without_repeats(job, rows, near))


def wanted(job: Job) -> int:
    """Reference images to search for, of which some may be skipped."""
    config = job.config
    skips = config.skip_identical_captions or config.skip_near_duplicates is not None
    return config.neighbours * (WIDER if skips else 1)


def search(job: Job, rows: slice) -> Neighbours:
    """Reference images of a range of anchors, reusing what a previous archive found."""
    reused = reused_rows(job)
    known = min(max(reused - rows.start, 0), rows.stop - rows.start)
    if known == 0:
        return search_rows(job, rows, 0)
    old = slice(rows.start, rows.start + known)
    new = slice(old.stop, rows.stop)
    parts = [merge(previous_neighbours(job, old), search_rows(job, old, reused))]
    if new.start < new.stop:
        parts.append(search_rows(job, new, 0))
    return Neighbours(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def search_rows(job: Job, rows: slice, first: int) -> Neighbours:
    """Reference images of a range of anchors among the pool's rows from `first` on."""
    drop = job.self_rows(rows) if job.config.self_mode == "drop" else None
    anchors = job.anchors.image[rows]
    if read_plan(job).kind != "exact":
        return job.index.search(anchors, count=wanted(job), drop=drop)
    pool = job.searched if first == 0 else job.searched[first : len(job.pool)]
    if drop is not None:
        drop = np.where(drop >= first, drop - first, NO_ROW)
    found = nearest(
        anchors,
        pool,
        count=wanted(job),
        drop=drop,
        device=job.device,
        precision=job.search.precision,
    )
    indices = np.where(found.indices == NO_ROW, NO_ROW, found.indices + first)
    return Neighbours(indices, found.similarity)


def merge(first: Neighbours, second: Neighbours) -> Neighbours:
    """The nearest of two lists for each anchor, of the first's length; ties by row."""
    indices = np.concatenate([first.indices, second.indices], axis=1)  # (n, 2R)
    similarity = np.concatenate([first.similarity, second.similarity], axis=1)
    order = np.lexsort((indices, -similarity), axis=1)[:, : first.indices.shape[1]]
    return Neighbours(
        np.take_along_axis(indices, order, axis=1), np.take_along_axis(similarity, order, axis=1)
    )


def save_neighbours(job: Job, shard: int, found: Neighbours) -> None:
    """Write the reference images of one shard under a temporary name, then rename."""
    with replacing(neighbours_path(job, shard)) as part, part.open("wb") as file:
        np.savez(file, indices=found.indices, similarity=found.similarity)


def reused_rows(job: Job) -> int:
    """Anchors whose reference images a previous archive has found among as many pool rows."""
    if job.previous is None:
        return 0
    old = ConceptArchive.open(job.previous)
    path = job.work / f"reused-{old.manifest['fingerprint'][:16]}.json"
    if not path.is_file():  # old rows are hashed once a build, not once a task
        write_json(path, {"rows": count_reusable(job, old)})
    return int(json.loads(path.read_text(encoding="utf-8"))["rows"])


def count_reusable(job: Job, old: ConceptArchive) -> int:
    """Rows of an archive that can be reused; it must be of the first pairs of this build.

    Raises:
        StaleFolderError: it is not.
    """
    for name in ("config", "encoder", "vocabulary_sha256", "concept_features_sha256"):
        if old.manifest[name] != job.description[name]:
            raise StaleFolderError(f"{job.previous}: was built with another {name}; build it anew")
    if old.manifest["anchors_sha256"] != old.manifest["pool_sha256"]:
        raise StaleFolderError(f"{job.previous}: only a set searched in itself can be extended")
    if (
        len(old) > len(job.anchors)
        or job.anchors.head_sha256(len(old)) != old.manifest["anchors_sha256"]
    ):
        raise StaleFolderError(f"{job.previous}: its pairs are not the first of the pairs given")
    kinds = {old.manifest["search"].get("kind"), read_plan(job).kind}
    precisions = {old.manifest["search"].get("precision"), job.search.precision}
    if wanted(job) != job.config.neighbours or kinds != {"exact"} or len(precisions) > 1:
        log.info("all reference images are searched: an index, or skipping, is not extended")
        return 0
    return len(old)


def previous_neighbours(job: Job, rows: slice) -> Neighbours:
    """What a previous archive found for a range of anchors."""
    assert job.previous is not None
    return ConceptArchive.open(job.previous).neighbours(rows, job.config.neighbours)


def without_repeats(job: Job, rows: slice, found: Neighbours) -> Neighbours:
    """The reference images less those that the settings skip."""
    config = job.config
    if config.skip_near_duplicates is not None:
        found = skip_near_duplicates(found, job.self_rows(rows), config.skip_near_duplicates)
    if config.skip_identical_captions:
        numbers = hash_keys(job.anchors.captions[rows])  # (n,)
        found = skip_identical(found, job.self_rows(rows), numbers, open_caption_hashes(job))
    return Neighbours(
        found.indices[:, : config.neighbours], found.similarity[:, : config.neighbours]
    )


def skip_near_duplicates(found: Neighbours, own_row: IntArray, limit: float) -> Neighbours:
    """Move out reference images as similar to the anchor as `limit`, except the anchor itself.

    Args:
        found: (n, K) reference images.
        own_row: (n,) pool row of the anchor itself, -1 for none.
        limit: cosine, of which more is a duplicate.
    """
    is_self = (found.indices == own_row[:, None]) & (own_row >= 0)[:, None]  # (n, K)
    return _keep(found, is_self | (found.similarity < limit))


def skip_identical(
    found: Neighbours,
    own_row: IntArray,
    anchor: npt.NDArray[np.integer[Any]],
    pool: npt.NDArray[np.integer[Any]],
) -> Neighbours:
    """Move out reference images whose caption brings nothing new.

    A caption is seen when a nearer reference image or the anchor has it; the anchor itself stays.

    Args:
        found: (n, K) reference images.
        own_row: (n,) pool row of the anchor itself, -1 for none.
        anchor: (n,) caption numbers of the anchors.
        pool: (m,) caption numbers of the pool.
    """
    is_self = (found.indices == own_row[:, None]) & (own_row >= 0)[:, None]  # (n, K)
    numbers = pool[found.indices.clip(min=0)]  # (n, K)
    same = numbers[:, :, None] == numbers[:, None]  # (n, K, K)
    there = found.indices != NO_ROW
    repeats = np.tril(same & there[:, None], -1).any(axis=2)
    return _keep(found, is_self | ~(repeats | (numbers == anchor[:, None])))


def _keep(found: Neighbours, keep: npt.NDArray[np.bool_]) -> Neighbours:
    """The kept reference images first, in their order, then empty places."""
    keep = keep & (found.indices != NO_ROW)  # (n, K)
    order = np.argsort(~keep, axis=1, kind="stable")
    kept = np.take_along_axis(keep, order, axis=1)
    return Neighbours(
        np.where(kept, np.take_along_axis(found.indices, order, axis=1), NO_ROW),
        np.where(kept, np.take_along_axis(found.similarity, order, axis=1), np.float32(-np.inf)),
    )
