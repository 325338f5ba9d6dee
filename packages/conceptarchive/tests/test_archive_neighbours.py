from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from conceptarchive.features.rows import RowFiles
from conceptarchive.search import device_search, exact, products
from conceptarchive.search.device_search import DeviceSearch, largest
from conceptarchive.search.neighbours import nearest, self_rows

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


def brute(
    anchors: npt.NDArray[np.floating], pool: npt.NDArray[np.floating], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    products = (anchors.astype(np.float64) @ pool.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-products, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(products, order, axis=1)


def test_worked_example_with_a_tie() -> None:
    pool = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8]], np.float32)
    found = nearest(np.array([[1, 0]], np.float32), pool, count=3)
    assert found.indices.tolist() == [[0, 2, 3]]
    np.testing.assert_allclose(found.similarity, [[1, 1, 0.6]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("anchor_block", "pool_block"), [(1024, 16384), (7, 13), (64, 5), (1, 1)])
def test_exact_for_any_block_size(
    unit_rows: MakeRows, dtype: npt.DTypeLike, anchor_block: int, pool_block: int
) -> None:
    pool = unit_rows(120, 16, 0).astype(dtype)
    pool[60:100] = pool[3]  # more duplicates than the slack of the search
    anchors = np.concatenate([pool[:20], unit_rows(10, 16, 1).astype(dtype)])
    found = nearest(anchors, pool, count=6, anchor_block=anchor_block, pool_block=pool_block)
    indices, similarity = brute(anchors, pool, 6)
    assert np.array_equal(found.indices, indices)
    assert np.array_equal(found.similarity, similarity)
    assert found.indices[3].tolist() == [3, 60, 61, 62, 63, 64]


def test_itself_is_dropped_by_id_and_not_by_place(unit_rows: MakeRows) -> None:
    pool = unit_rows(30, 8, 0)
    pool[20] = pool[7]  # an exact duplicate with another id
    rows = self_rows([f"k{n}" for n in range(30)], [f"k{n}" for n in range(30)])
    assert rows.tolist() == list(range(30))
    kept = nearest(pool, pool, count=3)
    dropped = nearest(pool, pool, count=3, drop=rows)
    assert kept.indices[20, :2].tolist() == [7, 20]
    assert dropped.indices[20, 0] == 7
    assert dropped.indices[7, 0] == 20
    assert not (dropped.indices == np.arange(30)[:, None]).any()


@pytest.mark.parametrize("size", [0, 1, 4, 9])
def test_small_pool_leaves_places_empty(unit_rows: MakeRows, size: int) -> None:
    pool = unit_rows(size, 8, 0)
    drop = np.full(5, -1)
    drop[0] = 0 if size else -1
    found = nearest(unit_rows(5, 8, 1), pool, count=9, drop=drop)
    assert found.indices.shape == (5, 9)
    expected = np.full(5, size)
    expected[0] -= bool(size)
    assert (found.indices >= 0).sum(axis=1).tolist() == expected.tolist()
    assert np.array_equal(found.indices < 0, np.isneginf(found.similarity))
    assert sorted(found.indices[1][:size]) == list(range(size))


def test_no_anchors_and_wrong_arguments(unit_rows: MakeRows) -> None:
    assert nearest(unit_rows(0, 8, 0), unit_rows(3, 8, 0), count=2).indices.shape == (0, 2)
    with pytest.raises(ValueError, match="got 0"):
        nearest(unit_rows(2, 8, 0), unit_rows(3, 8, 0), count=0)
    with pytest.raises(ValueError, match="one width"):
        nearest(unit_rows(2, 8, 0), unit_rows(3, 9, 0), count=1)


def test_rows_of_unknown_anchors() -> None:
    assert self_rows(["b", "x", "a"], ["c", "b", "a"]).tolist() == [1, -1, 2]
    assert self_rows(["b"], []).tolist() == [-1]


def test_same_as_faiss(unit_rows: MakeRows) -> None:
    faiss = pytest.importorskip("faiss", exc_type=ImportError)
    pool = unit_rows(2000, 32, 0)
    index = faiss.IndexFlatIP(32)
    index.add(pool)
    similarity, _ = index.search(pool[:50], 8)
    found = nearest(pool[:50], pool, count=8)
    np.testing.assert_allclose(found.similarity, similarity, atol=1e-5)


def in_files(folder: Path, rows: npt.NDArray[np.floating]) -> RowFiles:
    parts = np.array_split(rows, 3)
    for number, part in enumerate(parts):
        np.save(folder / f"{number}.npy", part)
    paths = [folder / f"{number}.npy" for number in range(3)]
    return RowFiles(paths, [len(part) for part in parts], rows.shape[1], rows.dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_files_give_what_arrays_give_in_many_passes(
    unit_rows: MakeRows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: npt.DTypeLike
) -> None:
    pool, anchors = unit_rows(150, 16, 0).astype(dtype), unit_rows(40, 16, 1).astype(dtype)
    pool[50:90] = pool[7]
    anchors[5] = pool[7]
    expected = nearest(anchors, pool, count=4)
    monkeypatch.setattr(products, "MEMORY", 4000)  # a few anchors a pass
    monkeypatch.setattr(exact, "GATHER_BYTES", 3000)
    folders = [tmp_path / "anchors", tmp_path / "pool"]
    for folder in folders:
        folder.mkdir()
    left, right = in_files(folders[0], anchors), in_files(folders[1], pool)
    found = nearest(left, right, count=4, anchor_block=8, pool_block=32)
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.similarity, expected.similarity)
    assert found.indices[5].tolist() == [7, 50, 51, 52]


def test_many_threads_change_nothing(unit_rows: MakeRows) -> None:
    pool = unit_rows(500, 16, 0)
    pool[100:200] = pool[3]
    before = torch.get_num_threads()
    one = nearest(pool, pool, count=5, anchor_block=50, pool_block=16)
    try:
        torch.set_num_threads(5)
        many = nearest(pool, pool, count=5, anchor_block=50, pool_block=16)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(one.indices, many.indices)
    assert np.array_equal(one.similarity, many.similarity)


def test_an_error_in_a_thread_is_raised() -> None:
    def work(_: int, task: int) -> None:
        raise KeyError(task)

    with pytest.raises(KeyError):
        products.share(range(100), work)


def test_bfloat16_misses_little_and_scores_exactly(unit_rows: MakeRows) -> None:
    pool = unit_rows(2000, 64, 0)
    sure = nearest(pool, pool, count=8)
    fast = nearest(pool, pool, count=8, precision="bfloat16")
    assert (sure.indices == fast.indices).mean() > 0.999
    same = sure.indices == fast.indices
    assert np.array_equal(sure.similarity[same], fast.similarity[same])
    assert (np.diff(fast.similarity, axis=1) <= 0).all()


def test_only_anchors_in_doubt_are_searched_again(
    unit_rows: MakeRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = unit_rows(400, 16, 0)
    pool[200:260] = pool[3]
    again: list[int] = []
    plain = exact.search_again

    def counted(anchors: npt.NDArray[np.float32], *args: object, **named: object) -> object:
        again.append(len(anchors))
        return plain(anchors, *args, **named)  # type: ignore[arg-type]  # passed through

    monkeypatch.setattr("conceptarchive.search.neighbours.search_again", counted)
    nearest(pool, pool, count=6)
    assert 61 <= sum(again) < 250  # the duplicates, and rows that have them at their edge


def test_cpu_refuses_float16_and_wrong_drop(unit_rows: MakeRows) -> None:
    rows = unit_rows(3, 4, 0)
    with pytest.raises(ValueError, match="got 'float16'"):
        nearest(rows, rows, count=1, precision="float16")
    with pytest.raises(ValueError, match=r"drop must have shape \(3,\), got \(2,\)"):
        nearest(rows, rows, count=1, drop=np.zeros(2, np.int64))


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("n", [0, 5, 700])
def test_search_by_groups_is_exact(
    unit_rows: MakeRows,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    dtype: npt.DTypeLike,
    precision: products.Precision,
) -> None:
    monkeypatch.setattr(device_search, "POOL", 128)
    monkeypatch.setattr(device_search, "ANCHORS", 50)
    monkeypatch.setattr(device_search, "PASS_BYTES", 40_000)
    pool = unit_rows(n, 16, 0).astype(dtype)
    if n > 5:
        pool[60:160] = pool[3]
        pool[::64] = pool[9]  # a duplicate in every group
    anchors, drop = np.concatenate([pool, unit_rows(30, 16, 1).astype(dtype)]), np.arange(n + 30)
    drop[n:] = -1
    expected = nearest(anchors, pool, count=6, drop=drop)
    found = DeviceSearch(pool, 6, torch.device("cpu"), precision).nearest(anchors, drop)
    assert np.array_equal(found.rows, expected.indices)
    assert np.array_equal(found.values, expected.similarity)


@pytest.mark.parametrize("width", [1, 3, 16])
@pytest.mark.parametrize("size", [1, 16, 17, 333, 1024])
def test_largest_of_runs_are_the_largest(size: int, width: int) -> None:
    values = torch.randn(7, size)
    found = largest(values, width)
    assert torch.equal(found.value, values.topk(min(width, size), dim=1).values)
    assert torch.equal(values.gather(1, found.group), found.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gpu_gives_what_the_cpu_gives(unit_rows: MakeRows, dtype: npt.DTypeLike) -> None:
    pool = unit_rows(20_000, 512, 0).astype(dtype)
    pool[5000:5100] = pool[3]
    anchors = pool[:1000]
    expected = nearest(anchors, pool, count=8, drop=np.arange(1000))
    found = nearest(anchors, pool, count=8, drop=np.arange(1000), device="cuda")
    assert np.array_equal(found.indices, expected.indices)
    assert np.array_equal(found.similarity, expected.similarity)
