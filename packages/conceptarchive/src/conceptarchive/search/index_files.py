"""An index on disk: trained once, filled in parts, joined; a killed build goes on where it was."""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptarchive.errors import DataMissingError, FormatError, IncompleteError, StaleFolderError
from conceptarchive.features.rows import Rows
from conceptarchive.files import replacing, write_json
from conceptarchive.search.centroids import find_centroids, spread, stream
from conceptarchive.search.choice import (
    CODE_ROUNDS,
    CODE_ROWS,
    HNSW_LINKS,
    PART_ROWS,
    TRAIN_ROUNDS,
    SearchPlan,
)
from conceptarchive.search.neighbours import nearest
from conceptarchive.search.products import share, single

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Progress = Callable[[int], object]

STEM = "pool-index"
KIND, VERSION = "conceptarchive pool index", 1
ADD_ROWS = 1 << 14  # rows added at a time
STAMP_ROWS = 1000  # rows of the pool that tell it from another


def load_faiss() -> ModuleType:
    """Import faiss, which takes a second: only where an index is used."""
    with warnings.catch_warnings():  # SWIG's types, on Python 3.12 and later
        message = "builtin type .* has no __module__ attribute"
        warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        import faiss
    return faiss


def read_index(path: Path, *, mapped: bool = False) -> Any:
    """Read a faiss index; `mapped` leaves it on disk until it is used, shared by processes.

    Raises:
        FormatError: it is damaged.
    """
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        line = str(error).strip().splitlines()[-1]
        raise FormatError(f"{path}: damaged ({line}); remove it and run again") from error


def write_index(index: Any, path: Path) -> None:
    """Write a faiss index under a temporary name, then rename."""
    with replacing(path) as part:
        try:
            load_faiss().write_index(index, str(part))
        except RuntimeError as error:
            line = str(error).strip().splitlines()[-1]
            raise IncompleteError(f"{path}: cannot be written ({line}); make room") from error


def rows_stamp(rows: Rows) -> str:
    """A hash that tells rows from others: shape, type and up to STAMP_ROWS rows."""
    count = min(len(rows), STAMP_ROWS)
    some = rows[np.arange(count, dtype=np.int64) * len(rows) // max(count, 1)]  # (count, D)
    digest = hashlib.sha256(f"{rows.shape} {rows.dtype}".encode())
    digest.update(np.ascontiguousarray(some).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class IndexFiles:
    """The files of one index in a folder."""

    folder: Path

    @property
    def notes(self) -> Path:
        """What the index is of, how it was built, and its tuned settings."""
        return self.folder / f"{STEM}.json"

    @property
    def whole(self) -> Path:
        """The finished index."""
        return self.folder / f"{STEM}.faiss"

    @property
    def trained(self) -> Path:
        """The index without rows."""
        return self.folder / f"{STEM}-trained.faiss"

    def part(self, number: int) -> Path:
        """Rows number * PART_ROWS to the next part; of HNSW, all rows up to there."""
        return self.folder / f"{STEM}-{number:05d}.faiss"

    def sizes(self, number: int) -> Path:
        """(lists,) rows in each list of a part."""
        return self.folder / f"{STEM}-{number:05d}.npy"

    def read_notes(self) -> dict[str, Any]:
        """Read the notes.

        Raises:
            DataMissingError: there are none.
            FormatError: they are of something else.
        """
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataMissingError(f"{self.folder}: holds no index; build one first") from error
        except ValueError as error:
            raise FormatError(f"{self.notes}: not JSON; remove it and build again") from error
        found = (notes.get("kind"), notes.get("version")) if isinstance(notes, dict) else None
        if found != (KIND, VERSION):
            raise FormatError(f"{self.notes}: not version {VERSION} of a {KIND}, got {found}")
        return dict(notes)

    def write_notes(self, notes: dict[str, Any]) -> None:
        """Write the notes under a temporary name, then rename."""
        write_json(self.notes, notes)

    def open_notes(self, pool: Rows) -> dict[str, Any]:
        """Notes of a finished index of this pool.

        Raises:
            DataMissingError: there is no index.
            IncompleteError: it is not finished.
            StaleFolderError: it is of another pool.
            FormatError: its file is not as long as it was.
        """
        notes = self.read_notes()
        if notes["pool_stamp"] != rows_stamp(pool):
            raise StaleFolderError(f"{self.folder}: the index is of another pool; build it anew")
        if "bytes" not in notes:
            raise IncompleteError(f"{self.folder}: the index is unfinished; run the build again")
        size = self.whole.stat().st_size if self.whole.is_file() else 0
        if size != notes["bytes"]:
            raise FormatError(
                f"{self.whole}: has {size} bytes instead of {notes['bytes']}; "
                f"remove {self.notes} and build again"
            )
        return notes

    def clear_parts(self) -> None:
        """Remove what a finished index no longer needs."""
        for path in sorted(self.folder.glob(f"{STEM}-*")):
            path.unlink()


@dataclass(frozen=True)
class IndexBuild:
    """Training and filling of one index."""

    files: IndexFiles
    pool: Rows
    plan: SearchPlan
    seed: int

    def run(self, progress: Progress) -> None:
        """Do what is left to do.

        Args:
            progress: told of every number of rows added.

        Raises:
            StaleFolderError: the folder holds an index of other rows or settings.
        """
        if self._begin():
            return
        if not self.files.trained.is_file():
            write_index(self._train(), self.files.trained)
        fill = self._fill_graph if self.plan.kind == "hnsw" else self._fill_lists
        write_index(fill(progress), self.files.whole)
        size = self.files.whole.stat().st_size
        self.files.write_notes(self.files.read_notes() | {"bytes": size})
        self.files.clear_parts()

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What the index is a function of; its JSON."""
        plan = asdict(self.plan)
        names = ("kind", "pool", "width", "factory", "lists", "code_bytes", "sample")
        return {
            "kind": KIND,
            "version": VERSION,
            "pool_stamp": rows_stamp(self.pool),
            "seed": self.seed,
            "part_rows": PART_ROWS,
            "of_plan": {name: plan[name] for name in names},
        }

    def _begin(self) -> bool:
        """Note what is built, or check that it is the same; whether it is finished."""
        if not self.files.notes.is_file():
            self.files.folder.mkdir(parents=True, exist_ok=True)
            self.files.clear_parts()
            self.files.whole.unlink(missing_ok=True)
            self.files.write_notes(self._description | {"plan": asdict(self.plan)})
            return False
        notes = self.files.read_notes()
        for name, value in self._description.items():
            if notes[name] != value:
                raise StaleFolderError(
                    f"{self.files.folder}: holds an index with another {name}; "
                    f"use a new folder or remove {self.files.notes}"
                )
        return "bytes" in notes

    def _train(self) -> Any:
        """An index without rows."""
        faiss, plan = load_faiss(), self.plan
        metric, half = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
        if plan.kind == "hnsw":
            index = faiss.IndexHNSWSQ(plan.width, half, HNSW_LINKS, metric)
            index.is_trained = True  # float16 has nothing to learn
            return index
        random = stream(self.seed, "index")
        sample = self.pool[spread(len(self.pool), plan.sample, random)]  # (sample, D)
        centroids = find_centroids(
            sample, plan.lists, rounds=TRAIN_ROUNDS, random=random, device=plan.device
        )
        coarse = faiss.IndexFlatIP(plan.width)
        coarse.add(centroids)
        if plan.kind == "ivf_flat":
            shape = (plan.width, plan.lists)
            index = faiss.IndexIVFScalarQuantizer(coarse, *shape, half, metric, False)
            index.is_trained = True  # float16 has nothing to learn
        else:
            index = self._train_codes(coarse, centroids, sample)
        return index

    def _train_codes(self, coarse: Any, centroids: FloatArray, sample: npt.NDArray[Any]) -> Any:
        """Learn the codes of what separates rows from their centres."""
        faiss, plan = load_faiss(), self.plan
        shape = (plan.width, plan.lists, plan.code_bytes, 8)
        index = faiss.IndexIVFPQ(coarse, *shape, faiss.METRIC_INNER_PRODUCT)
        some = single(
            sample[spread(len(sample), min(len(sample), CODE_ROWS), stream(self.seed, "codes"))]
        )
        assigned = nearest(some, centroids, count=1, device=plan.device).indices[:, 0]
        faiss.copy_array_to_vector(
            _find_codes(some - centroids[assigned], plan.code_bytes, self.seed),
            index.pq.centroids,
        )
        index.is_trained = True
        return index

    def _parts(self) -> list[tuple[int, int]]:
        """Rows of each part."""
        rows = len(self.pool)
        return [(start, min(start + PART_ROWS, rows)) for start in range(0, rows, PART_ROWS)]

    def _fill_lists(self, progress: Progress) -> Any:
        """Write each part, then join them in order."""
        faiss = load_faiss()
        empty = read_index(self.files.trained)
        centroids = coarse_centroids(empty)  # (lists, D)
        for number, (start, stop) in enumerate(self._parts()):
            if self.files.part(number).is_file():
                progress(stop - start)
                continue
            index, sizes = faiss.clone_index(empty), np.zeros(self.plan.lists, np.int64)
            for at in range(start, stop, ADD_ROWS):
                end = min(at + ADD_ROWS, stop)
                sizes += self._add(index, centroids, at, end)
                progress(end - at)
            np.save(self.files.sizes(number), sizes)
            write_index(index, self.files.part(number))
        return self._join(empty)

    def _add(self, index: Any, centroids: FloatArray, start: int, stop: int) -> IntArray:
        """Add rows to the lists of their nearest centres; how many each list got."""
        rows = single(self.pool[start:stop])
        found = nearest(rows, centroids, count=1, device=self.plan.device)
        assigned = np.ascontiguousarray(found.indices[:, 0])
        ids = np.arange(start, stop, dtype=np.int64)
        pointer = load_faiss().swig_ptr
        index.add_core(len(rows), pointer(rows), pointer(ids), pointer(assigned))
        return np.bincount(assigned, minlength=self.plan.lists)

    def _join(self, empty: Any) -> Any:
        """One index of all parts. Lists get their final size first: they would grow by doubling."""
        sizes = np.zeros(self.plan.lists, np.int64)
        parts = range(len(self._parts()))
        for number in parts:
            sizes += np.load(self.files.sizes(number))
        for number in np.flatnonzero(sizes).tolist():
            empty.invlists.resize(number, int(sizes[number]))
            empty.invlists.resize(number, 0)
        for number in parts:
            empty.merge_from(read_index(self.files.part(number)), 0)
        return empty

    def _fill_graph(self, progress: Progress) -> Any:
        """Insert rows one after the other, on one thread, and save the graph at every part."""
        faiss, parts = load_faiss(), self._parts()
        saved = [number for number in range(len(parts)) if self.files.part(number).is_file()]
        last = saved[-1] if saved else -1
        index = read_index(self.files.part(last) if saved else self.files.trained)
        progress(index.ntotal)
        with one_thread():
            for number in range(last + 1, len(parts)):
                start, stop = parts[number]
                # levels are drawn anew for every part: the same after a restart
                draw = int(stream(self.seed, "graph", number).integers(1 << 31))
                index.hnsw.rng = faiss.RandomGenerator(draw)
                index.add(single(self.pool[start:stop]))
                write_index(index, self.files.part(number))
                if number:
                    self.files.part(number - 1).unlink(missing_ok=True)
                progress(stop - start)
        return index


def _find_codes(rows: FloatArray, parts: int, seed: int) -> FloatArray:
    """(parts * 256 * D / parts,) the 256 values of each part of a row, by k-means.

    Each part is learnt by one thread of faiss, whose sums depend on the number of threads.
    """
    faiss = load_faiss()
    width = rows.shape[1] // parts
    values = np.empty((parts, 256 * width), np.float32)

    def learn(_: int, part: int) -> None:
        faiss.omp_set_num_threads(1)  # of this thread alone
        codes = faiss.ProductQuantizer(width, 1, 8)
        codes.cp.seed, codes.cp.niter = (seed + part) % (1 << 31), CODE_ROUNDS
        codes.cp.min_points_per_centroid = 1  # or faiss prints a warning
        codes.train(np.ascontiguousarray(rows[:, part * width : (part + 1) * width]))
        values[part] = faiss.vector_to_array(codes.centroids)

    share(range(parts), learn)
    return values.reshape(-1)


def coarse_centroids(index: Any) -> FloatArray:
    """(lists, D) centres of an IVF index."""
    coarse = load_faiss().downcast_index(index.quantizer)
    return np.asarray(coarse.reconstruct_n(0, index.nlist), np.float32)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let faiss use one thread within the block."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
