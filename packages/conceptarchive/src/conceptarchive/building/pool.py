"""The pool's side of a build: what captions mention, and how much each image responds to it."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from conceptarchive.archive.schema import POOL_SCHEMA, lists, pool_name, write_arrow
from conceptarchive.building.job import FloatArray, HashArray, Job
from conceptarchive.concepts.mentions import Mentions
from conceptarchive.curation.responses import own_responses
from conceptarchive.files import replacing
from conceptarchive.keyhash import hash_keys

OFFSETS, CONCEPTS, OWN = "mention_offsets.npy", "mention_concepts.npy", "mention_own.npy"
CAPTION_HASHES = "caption_hashes.npy"
SMALL = 0.02  # a response; those of CLIP ViT-B are 0.1 to 0.35

log = logging.getLogger(__name__)


class PoolMentions(NamedTuple):
    """What all pool rows mention, mapped from disk.

    Attributes:
        mentions: concepts of the m captions.
        own: (mentions,) response of each image to the concepts of its caption.
    """

    mentions: Mentions
    own: FloatArray


def write_pool_shard(job: Job, number: int) -> None:
    """Write one of the pool's files: ids, captions, mentions and own responses."""
    rows = job.chunk_slice(number)
    captions = job.pool.captions[rows]
    mentions = job.finder.find_all(captions)
    own = own_responses(job.pool.image[rows], job.features, mentions)
    columns = [
        pa.array(job.pool.keys[rows], pa.string()),
        pa.array(captions, pa.string()),
        lists(mentions.offsets, mentions.concepts),
        lists(mentions.offsets, own),
    ]
    write_arrow(job.out / pool_name(number), POOL_SCHEMA, columns, job.metadata)


def join_pool(job: Job, _: int) -> None:
    """Lay the mentions of all the pool's files end to end, for random access by row."""
    tables = [_open(job.out / pool_name(number)) for number in job.pool_chunks]
    parts = [table["mentions"].chunk(0) for table in tables]
    counts = [np.diff(part.offsets.to_numpy()) for part in parts]
    offsets = np.zeros(len(job.pool) + 1, np.int64)  # (m + 1,)
    np.cumsum(np.concatenate(counts), out=offsets[1:])
    _save(job.work / OFFSETS, [offsets])
    _save(job.work / CONCEPTS, [part.values.to_numpy() for part in parts])
    if job.config.skip_identical_captions:
        captions = (table["caption"].to_pylist() for table in tables)
        _save(job.work / CAPTION_HASHES, [hash_keys(part) for part in captions])
    own = [table["own"].chunk(0).values.to_numpy() for table in tables]
    _warn_of_small_responses(job, own)
    _save(job.work / OWN, own)


def _warn_of_small_responses(job: Job, own: list[FloatArray]) -> None:
    """Say so when many responses are near or below 0, where the ratios of eq. 7 mean nothing."""
    config = job.config
    small = sum(int((part < SMALL).sum()) for part in own)
    count = sum(map(len, own))
    if config.ranking == "relative" and config.response == "cosine" and small > count / 20:
        log.warning(
            "%.0f %% of responses are below %.2f, where ratios say little; consider "
            "--archive.response shifted, or a better encoder",
            100 * small / count,
            SMALL,
        )


def is_joined(job: Job) -> bool:
    """Whether `join_pool` has been done; its last file says so."""
    return (job.work / OWN).is_file()


def open_mentions(job: Job) -> PoolMentions:
    """What the pool mentions, as `join_pool` left it."""
    offsets, concepts, own = (
        np.load(job.work / name, mmap_mode="r") for name in (OFFSETS, CONCEPTS, OWN)
    )
    return PoolMentions(Mentions(offsets, concepts), own)


def open_caption_hashes(job: Job) -> HashArray:
    """(m,) a number for each caption of the pool, equal where captions are."""
    hashes: HashArray = np.load(job.work / CAPTION_HASHES, mmap_mode="r")
    return hashes


def _open(path: Path) -> pa.Table:
    """A file of the pool, mapped."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _save(path: Path, parts: list[npt.NDArray[Any]]) -> None:
    """Write arrays end to end as one .npy, under a temporary name first."""
    header = np.lib.format.header_data_from_array_1_0(parts[0])
    header["shape"] = (sum(map(len, parts)),)
    # no memory map: on a full disk, writing to one ends the process without a word
    with replacing(path) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for values in parts:
            file.write(np.ascontiguousarray(values).data)
