"""Checking an archive: its files against the manifest, and every value against its range."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.archive.schema import (
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    POOL_ROWS,
    POOL_SCHEMA,
    SHARD_SCHEMA,
    VOCABULARY,
    described,
    file_metadata,
    fingerprint,
    hash_file,
    manifest_sha256,
    manifest_text,
    pool_name,
    shard_count,
    shard_name,
)
from conceptarchive.archive.shards import IntArray, first_at, list_parts, read_batch
from conceptarchive.errors import FormatError
from conceptarchive.keyhash import HashArray, hash_texts

AGAIN = "build the archive again in a new folder"
MOST_THREADS = 8  # more wait for the disk

FAULTS = (
    "",
    "has a concept that is not in the vocabulary",
    "has a score that is not a finite number",
    "has concepts that are not sorted by score",
    "has clusters that are not numbered from 0 in order of appearance",
    "has a concept twice",
)
UNKNOWN_CONCEPT, NO_NUMBER, UNSORTED, MISNUMBERED, TWICE = range(1, len(FAULTS))


def check_archive(folder: Path) -> ConceptArchive:
    """Check every file of an archive against its manifest, and every value against its range.

    Looked at are: the manifest against its own hash; presence, size and checksum of every file;
    schemas and what files say of themselves; numbers of rows; that concept ids and pool rows are in
    range, scores sorted, clusters numbered; that no key is there twice and the index finds each.

    Raises:
        FormatError: the first fault by file name; and the errors of `ConceptArchive.open`.
    """
    archive = ConceptArchive.open(folder)
    _check_manifest(folder, archive.manifest)
    names = sorted(archive.manifest["files"])
    _in_threads(lambda name: _check_bytes(folder / name, archive.manifest["files"][name]), names)
    concepts = len(archive.vocabulary)  # raises where the list is not the manifest's
    checks: dict[str, Callable[[], None]] = {}
    for number in range(_shards(archive)):
        checks[shard_name(number)] = _shard_check(archive, number, concepts)
    for number in range(_pool_shards(archive)):
        checks[pool_name(number)] = _pool_check(archive, number, concepts)
    checks[INDEX] = lambda: _check_index(archive)
    _in_threads(lambda name: checks[name](), sorted(checks))
    return archive


def _shards(archive: ConceptArchive) -> int:
    return shard_count(len(archive), int(archive.manifest["shard_rows"]))


def _pool_shards(archive: ConceptArchive) -> int:
    return shard_count(int(archive.manifest["pool_rows"]), POOL_ROWS)


def _in_threads(work: Callable[[str], None], names: Sequence[str]) -> None:
    """Do the work for every file; the error of the first name that has one is raised."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_THREADS)) as pool:
        for _ in pool.map(work, names):
            pass


def _check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise FormatError unless the manifest is as it was written and lists the files it should."""
    path = folder / MANIFEST
    text = path.read_text(encoding="utf-8")
    if text != manifest_text(manifest) or manifest.get("sha256") != manifest_sha256(manifest):
        raise FormatError(f"{path}: was changed after it was written; {AGAIN}")
    if manifest["fingerprint"] != fingerprint(described(manifest)):
        raise FormatError(f"{path}: its fingerprint is of another description; {AGAIN}")
    shards = shard_count(manifest["rows"], manifest["shard_rows"])
    pool_shards = shard_count(manifest["pool_rows"], POOL_ROWS)
    expected = {VOCABULARY, INDEX, *map(shard_name, range(shards))}
    expected |= set(map(pool_name, range(pool_shards)))
    different = sorted(expected ^ manifest["files"].keys())
    if different:
        verb = "leaves out" if different[0] in expected else "lists"
        raise FormatError(f"{path}: {verb} {different[0]}, against its number of rows; {AGAIN}")


def _check_bytes(path: Path, expected: dict[str, Any]) -> None:
    """Raise FormatError unless a file is there with the size and the checksum of the manifest."""
    if not path.is_file():
        raise FormatError(f"{path}: is missing; {AGAIN}")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise FormatError(
            f"{path}: has {size} bytes, the manifest says {expected['bytes']}; {AGAIN}"
        )
    if hash_file(path) != expected["sha256"]:
        raise FormatError(f"{path}: checksum differs; {AGAIN}")


def _open(archive: ConceptArchive, name: str, schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """The batch of a file, checked as far as Arrow and the manifest know what is right."""
    path = archive.folder / name
    batch = read_batch(path, schema)
    stored = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
    expected = file_metadata(described(archive.manifest), archive.manifest["fingerprint"])
    for field, value in expected.items():
        if stored.get(field) != value:
            raise FormatError(f"{path}: is of another build, by its {field}; {AGAIN}")
    if batch.num_rows != rows:
        raise FormatError(f"{path}: has {batch.num_rows} rows, the manifest says {rows}; {AGAIN}")
    try:
        batch.validate(full=True)  # offsets rise and end inside the values; texts are UTF-8
    except pa.ArrowInvalid as error:
        raise FormatError(f"{path}: {' '.join(str(error).split())}; {AGAIN}") from error
    return batch


def _lists(path: Path, batch: pa.RecordBatch, *names: str) -> tuple[IntArray, list[Any]]:
    """(n + 1,) offsets that some columns have in common, and the values of each."""
    parts = [list_parts(batch.column(name)) for name in names]
    ends = [part[0].astype(np.int64) for part in parts]
    for name, other in zip(names, ends, strict=True):
        if not np.array_equal(other, ends[0]):
            raise FormatError(f"{path}: {names[0]!r} and {name!r} differ in length; {AGAIN}")
    return ends[0], [part[1] for part in parts]


def _shard_check(archive: ConceptArchive, number: int, concepts: int) -> Callable[[], None]:
    """The check of one archive shard."""
    size = int(archive.manifest["shard_rows"])
    start = number * size
    rows = min(size, len(archive) - start)

    def check() -> None:
        path = archive.folder / shard_name(number)
        batch = _open(archive, path.name, SHARD_SCHEMA, rows)
        ends, columns = _lists(path, batch, "concepts", "scores", "clusters")
        _refuse_fault(path, batch.column("key"), first_fault(ends, *columns, concepts))
        _, (neighbours, similarity) = _lists(path, batch, "neighbours", "similarity")
        if neighbours.max(initial=0) >= max(int(archive.manifest["pool_rows"]), 1):
            raise FormatError(f"{path}: has a reference image that is not in the pool; {AGAIN}")
        if not np.isfinite(similarity).all():
            raise FormatError(f"{path}: has a similarity that is not a finite number; {AGAIN}")
        hashes = hash_texts(batch.column("key").cast(pa.large_string()))
        lost = first_lost(*archive.index, hashes, start)
        if lost >= 0:
            key = batch.column("key")[lost].as_py()
            raise FormatError(f"{archive.folder / INDEX}: does not find {key!r}; {AGAIN}")

    return check


def _pool_check(archive: ConceptArchive, number: int, concepts: int) -> Callable[[], None]:
    """The check of one pool shard."""
    rows = min(POOL_ROWS, int(archive.manifest["pool_rows"]) - number * POOL_ROWS)

    def check() -> None:
        path = archive.folder / pool_name(number)
        batch = _open(archive, path.name, POOL_SCHEMA, rows)
        _, (mentions, own) = _lists(path, batch, "mentions", "own")
        if mentions.max(initial=0) >= concepts:
            raise FormatError(f"{path}: {FAULTS[UNKNOWN_CONCEPT]}; {AGAIN}")
        if not np.isfinite(own).all():
            raise FormatError(f"{path}: has a response that is not a finite number; {AGAIN}")

    return check


def _check_index(archive: ConceptArchive) -> None:
    """Raise FormatError unless hashes ascend, and no key is there twice.

    Every shard looks its own rows up, and there are as many entries as rows: so each is right.
    """
    path = archive.folder / INDEX
    _open(archive, INDEX, INDEX_SCHEMA, len(archive))
    hashes, rows = archive.index
    if bool((hashes[1:] < hashes[:-1]).any()):
        raise FormatError(f"{path}: is not sorted; {AGAIN}")
    if rows.max(initial=0) >= max(len(archive), 1):
        raise FormatError(f"{path}: points past the last row; {AGAIN}")
    equal = np.flatnonzero(hashes[1:] == hashes[:-1])
    among: dict[int, set[str]] = {}
    for at in np.unique(np.concatenate([equal, equal + 1])).tolist():
        key, seen = archive.keys[int(rows[at])], among.setdefault(int(hashes[at]), set())
        if key in seen:
            raise FormatError(f"{path}: {key!r} is the key of two rows; {AGAIN}")
        seen.add(key)


def _refuse_fault(path: Path, keys: pa.Array, fault: tuple[int, int]) -> None:
    """Raise FormatError where `first_fault` has found one."""
    row, number = fault
    if number:
        raise FormatError(f"{path}: {keys[row].as_py()!r} {FAULTS[number]}; {AGAIN}")


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def first_fault(
    ends: IntArray,
    concepts: npt.NDArray[np.uint32],
    scores: npt.NDArray[np.float32],
    clusters: npt.NDArray[np.uint8],
    count: int,
) -> tuple[int, int]:
    """Find the first pair whose concepts are not as they should be.

    Args:
        ends: (n + 1,) offsets that rise from 0 to the number of values.
        concepts: ids.
        scores: of each.
        clusters: of each.
        count: concepts that there are.

    Returns:
        Its row and the number of the fault; (-1, 0) for none.
    """
    seen = np.full(count, -1, np.int64)  # the last row that has each concept
    for row in range(len(ends) - 1):
        clusters_seen = 0
        for at in range(ends[row], ends[row + 1]):
            if concepts[at] >= count:
                return row, UNKNOWN_CONCEPT
            if seen[concepts[at]] == row:
                return row, TWICE
            seen[concepts[at]] = row
            if not np.isfinite(scores[at]):
                return row, NO_NUMBER
            if at > ends[row] and scores[at] > scores[at - 1]:
                return row, UNSORTED
            if clusters[at] > clusters_seen:
                return row, MISNUMBERED
            if clusters[at] == clusters_seen:
                clusters_seen += 1
    return -1, 0


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def first_lost(hashes: HashArray, rows: HashArray, wanted: HashArray, start: int) -> int:
    """Find the first row that the index does not hold under its hash, -1 for none.

    Args:
        hashes: (n,) ascending.
        rows: (n,) row of each.
        wanted: (k,) hashes of rows start to start + k.
        start: first of these rows.
    """
    for at in range(len(wanted)):
        place, found = first_at(hashes, wanted[at]), False
        while place < len(hashes) and hashes[place] == wanted[at] and not found:
            found = np.int64(rows[place]) == start + at
            place += 1
        if not found:
            return at
    return -1
