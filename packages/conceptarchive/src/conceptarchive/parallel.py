"""Compiled kernels, and blocks of images in threads.

A kernel lets go of Python's lock, has no threads of its own and writes the results of every image
in one fixed order; blocks of images run side by side. So results never depend on the number of
threads or on the size of a block, and nothing breaks in the forked workers of a data loader.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile a function at its first call; later processes read the result from a cache."""
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    return cast("Function", compiled)


def product_kernel(function: Function) -> Function:
    """Compile an inner product, whose terms may be summed several at a time."""
    lanes = {"reassoc", "contract"}
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=lanes)(function)
    return cast("Function", compiled)


def kernel_input(values: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A contiguous, read-only view or copy, of one type for arrays in memory and memory maps.

    A kernel is compiled once for every type of its arguments, and read-only is another type.
    """
    view = np.ascontiguousarray(values, dtype=dtype).view(np.ndarray)
    view.flags.writeable = False
    return view


def check_offsets(name: str, offsets: npt.NDArray[np.integer[Any]], parts: int, size: int) -> None:
    """Raise ValueError unless `offsets` part `size` things in so many parts.

    Kernels do not check bounds: what they take for an index is checked before.
    """
    fits = len(offsets) == parts + 1 and offsets[0] == 0 and offsets[-1] == size
    if not fits or bool((np.diff(offsets) < 0).any()):
        raise ValueError(
            f"{name} must be {parts + 1} rising from 0 to {size}, got {len(offsets)}: {offsets}"
        )


def check_concepts(concepts: npt.NDArray[np.integer[Any]], vocabulary: int) -> None:
    """Raise ValueError unless all concept ids are of a vocabulary of this size."""
    if len(concepts) and not 0 <= concepts.min() <= concepts.max() < vocabulary:
        raise ValueError(
            f"concept ids must be in [0, {vocabulary}), got {concepts.min()} to {concepts.max()}"
        )


def in_blocks(work: Callable[[slice], Result], rows: int, block: int) -> list[Result]:
    """Run `work` on every block of rows; results in order.

    Takes as many threads as NUMBA_NUM_THREADS says, by default the processor's cores; a single
    block runs in the caller's thread.

    Args:
        work: what to do with the rows of a slice.
        rows: n; none gives one empty block.
        block: rows of a block.
    """
    starts = range(0, max(rows, 1), block)
    blocks = [slice(start, min(start + block, rows)) for start in starts]
    threads = min(int(numba.config.NUMBA_NUM_THREADS), len(blocks))
    if threads == 1:
        return [work(part) for part in blocks]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, blocks))
