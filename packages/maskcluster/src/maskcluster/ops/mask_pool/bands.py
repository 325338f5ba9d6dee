"""Work in as many threads as PyTorch takes, for kernels that let go of Python's lock.

They have no threads of their own, so that results never depend on the number of threads and
nothing breaks in the forked workers of a data loader.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

_BANDS = 4  # of a thread, so that a slow band does not hold up the others


def run_bands(work: Callable[[int, int], None], count: int) -> None:
    """Call `work(first, last)` on bands of `count` things, in as many threads as PyTorch takes."""
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        work(0, count)
        return
    edges = np.linspace(0, count, min(threads * _BANDS, count) + 1).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))


def cpu_kernel(function: Function) -> Function:
    """Compile at the first call; later processes read the result from a cache.

    Products and sums may be fused, nothing else may be reordered.
    """
    compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
    return cast("Function", compiled(function))
