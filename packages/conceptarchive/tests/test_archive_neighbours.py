from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive import nearest, self_rows

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
