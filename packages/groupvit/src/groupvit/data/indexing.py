"""Index a pool of shards: each tar is read once, and what is found is kept beside the run."""

import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from groupvit.data.index import Pairs, Shard, Skipped
from groupvit.data.indexfile import ShardState, find_index, save_index
from groupvit.data.streams import stream
from groupvit.data.table import TWICE, read_table
from groupvit.errors import DataError
from groupvit.progress import progress

log = logging.getLogger(__name__)

SHARDS_A_PROCESS = 32
"""Fewer do not pay for the start of a process."""
MOST_PROCESSES = 16


@dataclass(frozen=True, slots=True)
class _Job:
    """A shard to be indexed."""

    dataset: str
    path: Path
    state: ShardState
    index: Path | None

    @property
    def prefix(self) -> str:
        return f"{self.dataset}/{self.path.stem}"


_Done = tuple[Shard, list[Skipped]]


def index_shards(
    shards: Sequence[Path | str],
    *,
    dataset: str,
    cache: Path | str | None = None,
    processes: int | None = None,
) -> tuple[Pairs, list[Skipped]]:
    """Find all pairs of img2dataset tar shards without decoding an image.

    Args:
        shards: tar files with KEY.jpg|jpeg|png|webp and KEY.txt|text.
        dataset: name that makes keys of several data sets distinct.
        cache: folder that keeps the index; None keeps it in memory.
        processes: that read shards; None takes one for every few shards, at most one a core.

    Returns:
        pairs in order of shard and place, and what was left out: keys without image or caption,
        captions that are not UTF-8, names that are not safe; also keys that occur twice, whose
        first image and caption are kept.

    Raises:
        DataError: no shard, a shard that is not a whole tar file, an index of another version, or
            no pair at all.
    """
    return index_sets({dataset: shards}, cache=cache, processes=processes)


def index_sets(
    sets: Mapping[str, Sequence[Path | str]],
    *,
    cache: Path | str | None = None,
    processes: int | None = None,
) -> tuple[Pairs, list[Skipped]]:
    """Find all pairs of several data sets, which make one pool in the order given.

    An index in `cache` is used as long as its shard has the same size and time of change. Several
    processes may fill one folder at the same time: a shard that another one has finished is not
    read again. Interrupted, it goes on where it stopped.

    Args:
        sets: shards by the name of their data set.
        cache: folder that keeps the index, `CACHE/DATASET/SHARD.index`; None for memory.
        processes: as of `index_shards`; errors and results too.
    """
    jobs = [
        _Job(dataset, shard, state, Path(cache, dataset, f"{shard.stem}.index") if cache else None)
        for dataset, shards in sets.items()
        for shard, state in _states(dataset, [Path(shard) for shard in shards])
    ]
    if not jobs:
        raise DataError("no tar shards given; name at least one .tar file of image-caption pairs")
    _check_distinct(jobs)
    done = {number: found for number, job in enumerate(jobs) if (found := _cached(job))}
    done |= _read_all({n: job for n, job in enumerate(jobs) if n not in done}, processes)
    pairs = Pairs([done[number][0] for number in range(len(jobs))])
    skipped = [one for number in range(len(jobs)) for one in done[number][1]]
    if not len(pairs):
        raise DataError(
            f"no image-caption pairs in {jobs[0].path} and {len(jobs) - 1} more shards; "
            "a pair is KEY.jpg beside KEY.txt"
        )
    _warn(skipped)
    return pairs, skipped


def _states(dataset: str, shards: Sequence[Path]) -> list[tuple[Path, ShardState]]:
    """Shards that are all there, with their sizes and times of change."""
    if not dataset or "/" in dataset or dataset in (".", "..") or not dataset.isprintable():
        raise DataError(f"the name of a data set must be one word of a path, got {dataset!r}")
    found: list[tuple[Path, ShardState]] = []
    missing: list[Path] = []
    for shard in shards:
        try:
            found.append((shard, ShardState.of(shard)))
        except FileNotFoundError:
            missing.append(shard)
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error.strerror})") from error
    if missing:
        raise DataError(
            f"{missing[0]}: no such file; {len(missing)} of {len(shards)} shards are missing"
        )
    return found


def _check_distinct(jobs: Sequence[_Job]) -> None:
    """Two shards of one name in one data set would give two pairs one id."""
    seen: dict[str, Path] = {}
    for job in jobs:
        if job.prefix in seen:
            raise DataError(
                f"two shards are called {job.prefix}: {seen[job.prefix]} and {job.path}; "
                "rename one, or give them to two data sets"
            )
        seen[job.prefix] = job.path


def _cached(job: _Job) -> _Done | None:
    """What an index on disk says of a shard, if there is one and it still holds."""
    found = job.index and find_index(job.index, job.state)
    if not found:
        return None
    table, skipped = found
    shard = Shard(job.prefix, job.path, job.state.size, table.pairs, table)
    return shard, [Skipped(f"{job.prefix}/{key}", reason) for key, reason in skipped]


def _read(job: _Job) -> _Done | DataError:
    """Index one shard; an error is a result, so that all damaged shards are known at the end."""
    try:
        cached = _cached(job)  # another process may have been faster
        if cached is not None:
            return cached
        table = read_table(job.path)
        kept = save_index(job.index, table, job.state) if job.index else table.rows
    except DataError as error:
        return error
    shard = Shard(job.prefix, job.path, job.state.size, len(table.rows), kept)
    return shard, [Skipped(f"{job.prefix}/{key}", reason) for key, reason in table.skipped]


def _read_all(jobs: Mapping[int, _Job], processes: int | None) -> dict[int, _Done]:
    """Index many shards, here or in processes."""
    if processes is None:
        processes = min(_cores(), MOST_PROCESSES, len(jobs) // SHARDS_A_PROCESS)
    results = _in_processes(jobs, processes) if processes > 1 else _here(jobs)
    done: dict[int, _Done] = {}
    errors: list[DataError] = []
    bar = progress(results, shown=bool(jobs), total=len(jobs), desc="index", unit="shard")
    for number, result in bar:
        if isinstance(result, DataError):
            errors.append(result)
        else:
            done[number] = result
    if errors:
        more = f"; and {len(errors) - 1} more shards cannot be used" if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more}")
    return done


def _cores() -> int:
    """Cores for this process; under torchrun its share of the machine's."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (here or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _here(jobs: Mapping[int, _Job]) -> Iterator[tuple[int, _Done | DataError]]:
    for number, job in jobs.items():
        yield number, _read(job)


def _in_processes(
    jobs: Mapping[int, _Job], processes: int
) -> Iterator[tuple[int, _Done | DataError]]:
    """Index shards in an order of this process's own, so that processes of a job share the work."""
    own = stream("index", socket.gethostname(), os.getpid()).permutation(list(jobs))
    order = [int(number) for number in own]
    pool = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_interrupts)
    try:
        yield from zip(order, pool.map(_read, [jobs[number] for number in order]), strict=True)
    except BrokenProcessPool as error:
        raise DataError(
            f"the {processes} processes that index shards ended ({error}); a script that indexes "
            'many shards does it under `if __name__ == "__main__":`, or with processes=1'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Ctrl-C is for the process that waits; this one finishes its shard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _warn(skipped: Sequence[Skipped]) -> None:
    """One line for all that was left out, and one for keys that occur twice."""
    left = [one for one in skipped if one.reason != TWICE]
    twice = [one for one in skipped if one.reason == TWICE]
    if left:
        counts = Counter(one.reason for one in left).most_common()
        told = ", ".join(f"{count} {reason}" for reason, count in counts)
        log.warning(
            "%d pairs left out: %s; first %s (%s)", len(left), told, left[0].id, left[0].reason
        )
    if twice:
        log.warning(
            "%d keys occur twice, their first image and caption are kept; first %s",
            len(twice), twice[0].id,
        )  # fmt: skip
