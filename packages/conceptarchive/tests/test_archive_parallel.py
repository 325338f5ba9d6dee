import threading
import time
from pathlib import Path

import numpy as np
import pytest

from conceptarchive.parallel import (
    check_concepts,
    check_offsets,
    in_blocks,
    kernel,
    kernel_input,
)


def test_blocks_cover_all_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads in (1, 4):
        monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", threads)
        blocks = in_blocks(lambda rows: (rows.start, rows.stop), 10, 4)
        assert blocks == [(0, 4), (4, 8), (8, 10)]
        assert in_blocks(lambda rows: (rows.start, rows.stop), 0, 4) == [(0, 0)]


def test_blocks_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 2)
    meeting = threading.Barrier(2, timeout=20)  # breaks where one block waits for the other to end
    assert sorted(in_blocks(lambda _: meeting.wait(), 2, 1)) == [0, 1]


def test_an_error_in_a_block_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.config.NUMBA_NUM_THREADS", 2)

    def fail(rows: slice) -> None:
        if rows.start == 2:
            raise ValueError("row 2")

    with pytest.raises(ValueError, match="row 2"):
        in_blocks(fail, 5, 1)


@kernel
def _spin(rounds: int) -> int:
    total = 0
    for number in range(rounds):
        total ^= (number * number) % 7
    return total


def test_kernels_let_go_of_the_lock() -> None:
    _spin(1)  # compiles
    ended: list[float] = []

    def work() -> None:
        _spin(10**9)
        ended.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.01)  # returns only if this thread gets the lock while the kernel runs
    mine = time.monotonic()
    worker.join()
    assert mine < ended[0]


def test_arrays_and_memory_maps_are_one_type_for_a_kernel(tmp_path: Path) -> None:
    @kernel
    def first(values: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        return int(values[0])

    np.save(tmp_path / "x.npy", np.arange(3))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for values in (np.arange(3), mapped, [0, 1], np.arange(6)[::2]):
        assert first(kernel_input(values, np.int64)) == 0
    assert len(first.signatures) == 1  # type: ignore[attr-defined]  # what numba's object has
    writable = np.arange(3)
    kernel_input(writable, np.int64)
    writable[0] = 5  # the caller's array stays writable


def test_indices_are_checked() -> None:
    check_offsets("ends", np.array([0, 2, 2]), 2, 2)
    for wrong in ([0, 3, 2], [1, 2, 2], [0, 2], [0, 1, 3]):
        with pytest.raises(ValueError, match="ends must be 3 rising from 0 to 2"):
            check_offsets("ends", np.array(wrong), 2, 2)
    check_concepts(np.array([0, 4]), 5)
    check_concepts(np.empty(0, np.int64), 0)
    for unknown in ([5], [-1, 2]):
        with pytest.raises(ValueError, match="concept ids must be"):
            check_concepts(np.array(unknown), 5)
