"""Approximate search of a pool too large for exact search, with its recall measured."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from conceptarchive.errors import UsageError
from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import Rows
from conceptarchive.search.candidates import Candidates, score
from conceptarchive.search.choice import (
    GIB,
    SearchPlan,
    available_memory_gib,
    choose_search,
    is_slower,
    measure_matmul_tflops,
)
from conceptarchive.search.exact import rescore
from conceptarchive.search.index_files import (
    IndexBuild,
    IndexFiles,
    Progress,
    coarse_centroids,
    load_faiss,
    read_index,
)
from conceptarchive.search.neighbours import NO_ROW, IntArray, Neighbours, check_search, nearest
from conceptarchive.search.products import rows_in_memory, single
from conceptarchive.search.recall import (
    MAX_CANDIDATES,
    Recall,
    Settings,
    measure_recall,
    tune_probes,
)

__all__ = [
    "PoolIndex",
    "Recall",
    "SearchPlan",
    "Settings",
    "available_memory_gib",
    "build_index",
    "choose_search",
    "measure_matmul_tflops",
    "measure_recall",
    "prepare_search",
    "tune_probes",
]

log = logging.getLogger(__name__)

ANCHOR_ROWS = 4096  # anchors searched at a time
SLACK = 8  # candidates kept beyond `count`, to be told apart exactly
START_PROBES, START_REFINE = 8, 4  # where tuning begins
GATHER_ROWS = 1 << 17  # rows of a pool larger than memory that are held at a time
LEAST_CODED = 256  # rows: as many as one byte has values


class PoolIndex:
    """A pool's rows in lists (IVF) or in a graph (HNSW), on disk and mapped into memory.

    The index proposes candidates; their cosines are summed exactly from the pool's own rows, as in
    exact search. What is found for an anchor never depends on the others it is searched with: the
    lists to read are found by exact search among their centres.

    Args:
        path: folder of the index.
        pool: (m, D) the rows that it was built of.
        device: where products are computed, and, if it is a GPU that faiss can use, where lists
            are read; by default where the index was planned for.
    """

    def __init__(self, path: Path, pool: Rows, *, device: str | None = None) -> None:
        self.files = IndexFiles(path)
        notes = self.files.open_notes(pool)
        self.pool, self.plan = pool, SearchPlan(**notes["plan"])
        self.device = self.plan.device if device is None else device
        self.lists = self.plan.lists
        self.settings = Settings(**notes.get("settings", asdict(_first_settings(self.plan))))
        self.summary: dict[str, Any] | None = notes.get("summary")
        self._index = read_index(self.files.whole, mapped=True)
        self._centroids = coarse_centroids(self._index) if self.lists else None  # (lists, D)
        self._index = _on_device(self._index, self.device)
        self._is_large = pool.shape[0] * pool.shape[1] * pool.dtype.itemsize > (
            available_memory_gib() * GIB
        )

    @classmethod
    def open(cls, path: Path, pool: Rows, *, device: str | None = None) -> "PoolIndex":
        """Open a finished index with its tuned settings.

        Raises:
            DataMissingError: there is none.
            IncompleteError: its build was interrupted.
            StaleFolderError: it is of another pool.
            FormatError: it is damaged.
        """
        return cls(path, pool, device=device)

    def __len__(self) -> int:
        return len(self.pool)

    def save(self, summary: dict[str, Any]) -> None:
        """Keep the present settings, and what was measured with them."""
        self.summary = summary
        notes = self.files.read_notes()
        self.files.write_notes(notes | {"settings": asdict(self.settings), "summary": summary})

    def search(self, anchors: Rows, *, count: int, drop: IntArray | None = None) -> Neighbours:
        """Find about the `count` pool rows of highest cosine to every anchor.

        Args:
            anchors: (n, D) unit rows, float16 or float32.
            count: rows wanted, >= 1; places stay empty (-1, -inf) where fewer were found.
            drop: (n,) the pool row that each anchor may not get (itself), -1 for none.

        Returns:
            Rows in order of exact cosine, ties by row.

        Raises:
            ValueError: `count` is below 1, or shapes disagree.
        """
        skip = check_search(anchors, self.pool, count, drop)
        wide = self._candidates(count)
        found = Candidates.empty(len(anchors), count)
        size = rows_in_memory(self.pool.shape[1], wide)
        for start in range(0, len(anchors), size):
            stop = min(start + size, len(anchors))
            part = single(anchors[start:stop])  # (B, D)
            rows = self._propose(part, wide)  # (B, K)
            rows[rows == skip[start:stop, None]] = NO_ROW
            order = _score_in_order if self._is_large else rescore
            exact = order(part, self.pool, rows, count)
            found.values[start:stop], found.rows[start:stop] = exact
        return Neighbours(found.rows, found.values)

    def _candidates(self, count: int) -> int:
        """How many candidates are scored exactly."""
        wide = max(count * self.settings.refine + SLACK + 1, count + 1)  # 1: the anchor itself
        return min(wide, max(MAX_CANDIDATES, count + 1))

    def _propose(self, anchors: RowArray, wide: int) -> IntArray:
        """(n, K) candidates by the index's own products, -1 for none."""
        parts = [np.empty((0, wide), np.int64)]
        for start in range(0, len(anchors), ANCHOR_ROWS):
            rows = anchors[start : start + ANCHOR_ROWS]
            parts.append(self._propose_block(rows, wide))
        return np.concatenate(parts)

    def _propose_block(self, rows: RowArray, wide: int) -> IntArray:
        """(B, K) candidates of some anchors."""
        if self._centroids is None:
            self._index.hnsw.efSearch = max(self.settings.probes, wide)
            return np.asarray(self._index.search(rows, wide)[1])
        probes = min(self.settings.probes, self.lists)
        lists = nearest(rows, self._centroids, count=probes, device=self.device)
        self._index.nprobe = probes
        _, found = self._index.search_preassigned(rows, wide, lists.indices, lists.similarity)
        return np.asarray(found)


def _score_in_order(anchors: RowArray, pool: Rows, rows: IntArray, count: int) -> Candidates:
    """What `rescore` gives, reading the pool once from its first row to its last.

    Candidates of many anchors lie all over the pool. Where it does not fit in memory, reading them
    anchor by anchor would wait for the disk at every row.
    """
    found = Candidates.empty(len(rows), count)
    wanted = np.unique(rows)
    wanted = wanted[wanted != NO_ROW]
    for start in range(0, len(wanted), GATHER_ROWS):
        some = wanted[start : start + GATHER_ROWS]
        here = (rows >= some[0]) & (rows <= some[-1])  # (n, K)
        places = np.searchsorted(some, np.where(here, rows, some[0]))
        score(anchors, single(pool[some]), places, np.where(here, rows, NO_ROW), *found)
    return found


def _first_settings(plan: SearchPlan) -> Settings:
    """Where tuning begins: few lists; more candidates where rows are compressed."""
    if plan.kind == "hnsw":
        return Settings(plan.probes, 1)
    return Settings(min(START_PROBES, plan.lists), START_REFINE if plan.kind == "ivf_pq" else 1)


def _on_device(index: Any, device: str) -> Any:
    """The index on a GPU, where there is one that faiss can use; else as it is, and why."""
    if not device.startswith("cuda") or not hasattr(index, "nlist"):
        return index
    faiss = load_faiss()
    number = int(device.partition(":")[2] or 0)
    if getattr(faiss, "get_num_gpus", int)() <= number:
        log.warning("faiss sees no GPU %d: lists are read on the CPU", number)
        return index
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    try:
        resources = faiss.StandardGpuResources()
        moved = faiss.index_cpu_to_gpu(resources, number, index, options)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1]
        log.warning("faiss cannot put the index on GPU %d (%s): lists are read on the CPU",
                    number, line)  # fmt: skip
        return index
    moved.kept = resources  # must outlive the index
    return moved


def build_index(
    pool: Rows, plan: SearchPlan, path: Path, *, seed: int, progress: Progress | None = None
) -> PoolIndex:
    """Train an index and fill it with the pool, read from first row to last.

    A killed build goes on where it was, losing at most one part of PART_ROWS rows, and the result
    is the same: a function of pool, plan and seed, whatever the threads.

    Args:
        pool: (m, D) unit rows; may be larger than memory.
        plan: of `choose_search`, of any kind but `exact`.
        path: folder for the files of the index; other files there are left alone.
        seed: of the training.
        progress: told of every number of rows added.

    Raises:
        UsageError: the plan is of exact search, or of another pool, or the pool is too small.
        StaleFolderError: the folder holds an index of other rows or settings.
    """
    if plan.kind == "exact":
        raise UsageError("exact search needs no index; call nearest")
    if pool.shape != (plan.pool, plan.width):
        raise UsageError(f"the plan is for {(plan.pool, plan.width)} rows, got {pool.shape}")
    if plan.kind == "ivf_pq" and len(pool) < LEAST_CODED:
        raise UsageError(f"ivf_pq needs at least {LEAST_CODED} rows, got {len(pool)}; use exact")
    IndexBuild(IndexFiles(path), pool, plan, seed).run(progress or (lambda _: None))
    return PoolIndex(path, pool)


def prepare_search(  # noqa: PLR0913  (what is searched and how it is measured, all by name)
    pool: Rows,
    anchors: Rows,
    *,
    count: int,
    plan: SearchPlan,
    workdir: Path,
    seed: int,
    target_recall: float = 0.95,
    queries: int = 1000,
    drop: IntArray | None = None,
) -> dict[str, Any]:
    """Build an index, tune it and measure its recall; `PoolIndex.open` then finds it so.

    Args:
        pool: (m, D) rows to search.
        anchors: (n, D) rows to search for.
        count: reference images R wanted.
        plan: of `choose_search`.
        workdir: folder for the files of the index.
        seed: of the training and of the anchors drawn.
        target_recall: recall to reach.
        queries: anchors that recall is measured on.
        drop: (n,) pool row that each anchor may not get; by default itself, where anchors and pool
            are the same rows, since finding oneself proves nothing.

    Returns:
        What to store with the results: the plan, its reason, settings and recall. It is the same
        when all is there already.
    """
    with tqdm(total=len(pool), unit="row", unit_scale=True, desc="index", disable=None) as bar:
        index = build_index(pool, plan, workdir, seed=seed, progress=bar.update)
    asked = {"count": count, "target": target_recall, "queries": queries, "seed": seed}
    if index.summary is not None and index.summary["asked"] == asked:
        return index.summary
    index.settings = _first_settings(plan)
    if drop is None and plan.same:
        drop = np.arange(len(anchors), dtype=np.int64)
    tuned = tune_probes(
        index,
        anchors,
        pool,
        count=count,
        queries=queries,
        seed=seed,
        target=target_recall,
        drop=drop,
        device=plan.device,
    )
    if is_slower(plan, index.settings.probes):
        log.warning(
            "%d of %d lists must be read for every anchor: exact search is likely faster here",
            index.settings.probes,
            plan.lists,
        )
    index.save({**asdict(plan), **tuned, "asked": asked})
    assert index.summary is not None
    return index.summary
