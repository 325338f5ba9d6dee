import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive.errors import FormatError, StaleFolderError
from conceptarchive.features.rows import RowFiles
from conceptarchive.search import selfjoin
from conceptarchive.search.neighbours import Neighbours, nearest
from conceptarchive.search.products import Multiplier, Precision
from conceptarchive.search.selfjoin import self_join

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]

CHILD = """
import sys, time
import numpy as np
from conceptarchive.search import selfjoin
selfjoin.BAND_BLOCKS, selfjoin.STEP_BLOCKS = 2, 3
folder = sys.argv[1]
selfjoin.SAVING_SHARE = 1.0
from pathlib import Path
rows = np.load(folder + "/rows.npy")
found = selfjoin.self_join(
    rows, count=5, block=32, state=Path(folder) / "state", stamp="s", save_s=0.0,
    progress=lambda done: (print(done, flush=True), time.sleep(0.01)),
)
np.savez(folder + "/found.npz", **found._asdict())
"""


def equal(left: Neighbours, right: Neighbours) -> bool:
    same = np.array_equal(left.indices, right.indices)
    return same and np.array_equal(left.similarity, right.similarity)


def with_duplicates(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A group of many equal rows, one of a few, and near-duplicates."""
    n = len(rows)
    rows[n // 5 : n // 3] = rows[0]
    rows[n // 2 : n // 2 + 5] = rows[1]
    rows[n - 3 :] = rows[2] + np.float32(1e-7)
    return rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("block", [1, 7, 64, 1024])
@pytest.mark.parametrize("dropped", [False, True])
def test_same_as_nearest_in_every_bit(
    unit_rows: MakeRows, dtype: npt.DTypeLike, block: int, dropped: bool
) -> None:
    pool = with_duplicates(unit_rows(211, 16, 0)).astype(dtype)
    drop = np.arange(211) if dropped else None
    found = self_join(pool, count=6, drop=drop, block=block)
    assert equal(found, nearest(pool, pool, count=6, drop=drop))
    assert found.indices[0].tolist() == (
        [42, 43, 44, 45, 46, 47] if dropped else [0, *range(42, 47)]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 12), st.integers(0, 10**6))
def test_any_size_any_drop(n: int, block: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pool = random.integers(-1, 2, (n, 4)).astype(np.float32)  # many ties
    drop = random.integers(-1, max(n, 1), n)
    found = self_join(pool, count=count, drop=drop, block=block)
    assert equal(found, nearest(pool, pool, count=count, drop=drop))


def test_files_threads_and_bands_change_nothing(
    unit_rows: MakeRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = with_duplicates(unit_rows(300, 16, 0)).astype(np.float16)
    paths = [tmp_path / f"{number}.npy" for number in range(3)]
    for path, part in zip(paths, np.split(pool, 3), strict=True):
        np.save(path, part)
    files = RowFiles(paths, [100] * 3, 16, np.float16)
    expected, before = self_join(pool, count=4), torch.get_num_threads()
    monkeypatch.setattr(selfjoin, "BAND_BLOCKS", 2)
    monkeypatch.setattr(selfjoin, "STEP_BLOCKS", 3)
    monkeypatch.setattr("conceptarchive.search.products.MEMORY", 1000)
    try:
        torch.set_num_threads(3)
        found = self_join(files, count=4, block=16)
    finally:
        torch.set_num_threads(before)
    assert equal(found, expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_pair_of_blocks_is_multiplied_once(
    unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    multiplied: list[int] = []
    plain = Multiplier.__call__

    def counted(self: Multiplier, left: torch.Tensor, right: torch.Tensor) -> object:
        multiplied.append(len(left) * len(right))
        return plain(self, left, right)

    monkeypatch.setattr(Multiplier, "__call__", counted)
    pool = unit_rows(160, 8, 0)
    found = self_join(pool, count=3, block=16, precision=precision)
    assert sum(multiplied) == 16 * 16 * 55  # 10 x 11 / 2 pairs of blocks
    assert (found.indices == nearest(pool, pool, count=3).indices).mean() > 0.99


def test_rows_of_many_duplicates_stay_fast(unit_rows: MakeRows) -> None:
    pool = unit_rows(6000, 32, 0)
    plain = self_join(pool, count=8)
    assert (plain.indices[:, 0] == np.arange(6000)).all()
    crowded = pool.copy()
    groups = np.random.default_rng(0).permutation(6000)[:3000].reshape(60, 50)
    crowded[groups] = crowded[groups[:, :1]]  # half of all rows in groups of 50
    began = time.perf_counter()
    found = self_join(crowded, count=8)
    assert time.perf_counter() - began < 20  # one by one it takes minutes
    assert np.array_equal(np.sort(groups[:, :], axis=1)[:, :8], found.indices[groups[:, 0]])


def test_progress_rises_to_all_rows(unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfjoin, "BAND_BLOCKS", 1)
    monkeypatch.setattr(selfjoin, "STEP_BLOCKS", 2)
    seen: list[int] = []
    self_join(unit_rows(100, 8, 0), count=2, block=10, progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert seen[-1] == 100


def test_wrong_settings(unit_rows: MakeRows) -> None:
    rows = unit_rows(3, 4, 0)
    with pytest.raises(ValueError, match="block must be >= 1, got 0"):
        self_join(rows, count=1, block=0)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        self_join(rows, count=0)
    with pytest.raises(ValueError, match="got 'float16'"):
        self_join(rows, count=1, precision="float16")


def test_state_of_another_join_is_refused(unit_rows: MakeRows, tmp_path: Path) -> None:
    pool, state = unit_rows(100, 8, 0), tmp_path / "state"
    plain = self_join(pool, count=3, block=16)
    assert equal(self_join(pool, count=3, block=16, state=state, save_s=0.0), plain)
    assert state.exists()
    assert equal(self_join(pool, count=3, block=16, state=state), plain)
    for other in ({"count": 4}, {"block": 8}, {"stamp": "x"}, {"precision": "bfloat16"}):
        arguments = {"count": 3, "block": 16} | other
        with pytest.raises(StaleFolderError, match="another pool or with other settings"):
            self_join(pool, state=state, **arguments)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(FormatError, match="not a saved self-join"):
        self_join(pool, count=3, block=16, state=state)


@pytest.mark.slow
def test_killed_at_any_time_it_goes_on(unit_rows: MakeRows, tmp_path: Path) -> None:
    rows = with_duplicates(unit_rows(600, 16, 0))
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    random, resumed = np.random.default_rng(int.from_bytes(os.urandom(4), "little")), []
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        resumed.append(int(child.stdout.readline() or 600))
        time.sleep(random.uniform(0, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    subprocess.run(command, check=True, stdout=subprocess.PIPE)
    assert resumed[1:] != resumed[:-1]  # later children did not begin at the beginning
    assert resumed == sorted(resumed)
    with np.load(tmp_path / "found.npz") as found:
        expected = nearest(rows, rows, count=5)
        assert np.array_equal(found["indices"], expected.indices)
        assert np.array_equal(found["similarity"], expected.similarity)
