"""Blocks of matrix products, shared out to threads that multiply and scan at the same time."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptarchive.features.npyfile import RowArray
from conceptarchive.features.rows import Rows

Precision = Literal["float32", "bfloat16", "float16"]
Products = npt.NDArray[np.float32 | np.int16]
Task = TypeVar("Task")

MEMORY = 1 << 30  # bytes that the rows of one pass and their candidates may take
SLACK: dict[Precision, int] = {"float32": 8, "bfloat16": 32, "float16": 8}
"""Candidates kept beyond `count`, for exact cosines to choose from."""

_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def operand(rows: RowArray, precision: Precision) -> Tensor:
    """Rows as a tensor of the type they are multiplied in; a view where nothing need change."""
    rows = np.asarray(rows)
    if not (rows.flags.writeable and rows.flags.c_contiguous):
        rows = np.array(rows)  # torch wants neither read-only nor strided memory
    return torch.from_numpy(rows).to(_DTYPES[precision])


def single(rows: RowArray) -> npt.NDArray[np.float32]:
    """Rows as contiguous float32; a view where they are."""
    return np.ascontiguousarray(rows, dtype=np.float32)


class Multiplier:
    """Products of blocks, written over one another in memory that one thread owns."""

    def __init__(self, size: int, precision: Precision) -> None:
        self._memory = torch.empty(size, dtype=_DTYPES[precision])

    def __call__(self, left: Tensor, right: Tensor) -> Products:
        """(A, B) products of (A, D) and (B, D): float32, or bfloat16 seen as int16."""
        shape = (len(left), len(right))
        out = self._memory[: shape[0] * shape[1]].view(shape)  # (A, B)
        torch.mm(left, right.mT, out=out)
        seen = out if out.dtype == torch.float32 else out.view(torch.int16)
        products: Products = seen.numpy()
        return products


def threads() -> int:
    """How many threads torch may use here, and so do we."""
    return torch.get_num_threads()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Restore torch's thread count, which workers set to one for themselves and for new threads."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def share(tasks: Iterable[Task], work: Callable[[int, Task], None]) -> None:
    """Do tasks on `threads()` threads; each takes the next one in order.

    A product on one thread, scanned by that thread while it lies in its cache, keeps all cores
    busy without waiting for one another after every block.

    Args:
        tasks: in the order in which they are taken; every thread sees a rising sequence.
        work: called with the number of the thread and a task.

    Raises:
        Exception: the first error of any task, after the others have stopped.
    """
    count, waiting, lock, stop = threads(), iter(tasks), threading.Lock(), threading.Event()

    def run(number: int) -> None:
        torch.set_num_threads(1)
        while not stop.is_set():
            with lock:
                task = next(waiting, stop)
            if isinstance(task, threading.Event):
                return
            try:
                work(number, task)
            except BaseException:
                stop.set()
                raise

    with _one_thread_each(), ThreadPoolExecutor(count) as pool:
        running = [pool.submit(run, number) for number in range(count)]
        try:
            for future in running:
                future.result()
        finally:
            stop.set()


def rows_in_memory(dim: int, width: int, workers: int | None = None) -> int:
    """How many rows of D numbers, with K candidates a thread, fit into MEMORY."""
    return max(1, MEMORY // (4 * dim + 12 * width * ((workers or threads()) + 1)))


def blocks(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """Ranges of `size` rows, the last one shorter."""
    return [(at, min(at + size, stop)) for at in range(start, stop, size)]


def check_rows(*matrices: Rows) -> None:
    """Rows must be matrices of one width.

    Raises:
        ValueError: they are not.
    """
    shapes = [matrix.shape for matrix in matrices]
    if any(len(shape) != 2 for shape in shapes) or len({shape[1] for shape in shapes}) > 1:
        received = " and ".join(map(str, shapes))
        raise ValueError(f"rows must be of one width, got {received}")
