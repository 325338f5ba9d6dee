import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import FormatError
from conceptarchive.errors import DataMissingError
from conceptarchive.features.rows import OPEN_MAPS, RowFiles, unit_length, where

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]
WIDTH = 3


def store(
    folder: Path, counts: list[int], *, kind: str = "npy", dtype: str = "float16"
) -> tuple[RowFiles, npt.NDArray[np.floating]]:
    """Files of random rows, and the same rows joined."""
    rows = np.random.default_rng(len(counts)).standard_normal((sum(counts), WIDTH)).astype(dtype)
    parts = np.split(rows, np.cumsum(counts)[:-1])
    paths = [
        folder / f"{number:04d}.{'npy' if kind == 'npy' else 'npz'}" for number in range(len(parts))
    ]
    for path, part in zip(paths, parts, strict=True):
        if kind == "npy":
            np.save(path, part)
        else:
            (np.savez if kind == "npz" else np.savez_compressed)(path, other=part[:0], x_img=part)
    return RowFiles(paths, counts, WIDTH, dtype, member=None if kind == "npy" else "x_img"), rows


@st.composite
def cuts(draw: st.DrawFn) -> list[int]:
    """Rows of some files, at least one of them not empty."""
    counts = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    return counts if sum(counts) else [*counts, 1]


@settings(deadline=None)
@given(counts=cuts(), kind=st.sampled_from(["npy", "npz", "deflated"]), data=st.data())
def test_files_read_as_one_array(counts: list[int], kind: str, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        files, rows = store(Path(folder), counts, kind=kind)
        count = len(rows)
        assert files.shape == rows.shape
        assert (len(files), files.ndim, files.dtype) == (count, 2, rows.dtype)
        start, stop = (data.draw(st.integers(-count - 2, count + 2)) for _ in range(2))
        np.testing.assert_array_equal(files[start:stop], rows[start:stop], strict=True)
        wanted = data.draw(st.lists(st.integers(-count, count - 1), max_size=12))
        index = np.array(wanted, np.int64)
        np.testing.assert_array_equal(files[index], rows[index], strict=True)
        pairs = np.resize(index, (2, len(index)))
        np.testing.assert_array_equal(files[pairs], rows[pairs], strict=True)
        np.testing.assert_array_equal(np.asarray(files), rows, strict=True)
        again = pickle.loads(pickle.dumps(files))
        np.testing.assert_array_equal(again[:], rows, strict=True)


@settings(deadline=None)
@given(counts=cuts(), data=st.data())
def test_rows_divided_when_read_are_the_same_in_any_cut(
    counts: list[int], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        files, rows = store(Path(folder), counts, dtype="float32")
        divided = RowFiles(files.paths, counts, WIDTH, "float32", normalize=True)
        expected = unit_length(rows)
        row = data.draw(st.integers(0, len(rows) - 1))
        np.testing.assert_array_equal(divided[:], expected)
        np.testing.assert_array_equal(divided[row : row + 1], expected[row : row + 1])
        np.testing.assert_array_equal(divided[np.array([row, 0])], expected[[row, 0]])
        np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-6)


def test_division_of_rows_of_every_width_does_not_depend_on_the_batch(unit_rows: MakeRows) -> None:
    for width in (1, 7, 512, 768, 9000):
        rows = 5 * unit_rows(20, width, width)
        whole = unit_length(rows)
        alone = np.concatenate([unit_length(rows[at : at + 1]) for at in range(20)])
        np.testing.assert_array_equal(whole, alone)
        np.testing.assert_array_equal(whole, unit_length(np.asfortranarray(rows)))


def test_a_row_of_zeros_stays_and_a_row_of_nan_does_not_warn() -> None:
    rows = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [3, 4]], np.float16)
    divided = unit_length(rows)
    assert divided.dtype == np.float16
    assert divided[0].tolist() == [0, 0]
    assert np.isnan(divided[1:3]).any(axis=1).all()
    np.testing.assert_allclose(divided[3], [0.6, 0.8], rtol=1e-3)


def test_a_range_in_one_file_is_a_view_of_the_map(tmp_path: Path) -> None:
    files, _ = store(tmp_path, [4, 4])
    assert isinstance(files[4:7], np.memmap)
    assert not isinstance(files[3:5], np.memmap)


def test_members_of_archives_are_mapped_and_aligned(tmp_path: Path) -> None:
    for name in ("a", "ab", "abc", "abcd"):  # the length of a name moves what follows it
        arrays: dict[str, Any] = {name: np.ones((2, WIDTH), np.float32)}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        files = RowFiles([tmp_path / f"{name}.npz"], [2], WIDTH, "float32", member=name)
        assert files.is_mapped
        assert files[:].flags.aligned
        assert files[:].sum() == 2 * WIDTH


def test_types_may_differ_between_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 2), np.float16))
    np.save(tmp_path / "b.npy", np.full((1, 2), 1 / 3, np.float32))
    files = RowFiles([tmp_path / "a.npy", tmp_path / "b.npy"], [1, 1], 2, np.float32)
    expected = np.array([[1, 1], [1 / 3, 1 / 3]], np.float32)
    for rows in (files[:], files[np.arange(2)], np.concatenate([files[:1], files[1:]])):
        np.testing.assert_array_equal(rows, expected, strict=True)


def test_an_empty_file_is_never_opened(tmp_path: Path) -> None:
    files, rows = store(tmp_path, [2, 0, 3])
    np.save(files.paths[1], np.empty((0, 0), np.float16))  # what a shard without pairs leaves
    np.testing.assert_array_equal(files[:], rows)
    np.testing.assert_array_equal(files[np.arange(5)], rows)


def test_wrong_row_numbers_are_refused(tmp_path: Path) -> None:
    files, rows = store(tmp_path, [2, 1])
    np.testing.assert_array_equal(files[-1], rows[-1])
    with pytest.raises(IndexError, match="below 3, got 3"):
        files[np.array([0, 3])]
    with pytest.raises(IndexError, match="below 3, got -4"):
        files[np.array([-4, 1])]
    with pytest.raises(IndexError, match="must be integers, got bool"):
        files[np.array([True, False, True])]
    with pytest.raises(ValueError, match="step 1, got 2"):
        files[::2]
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(files, copy=False)


def test_a_file_that_changed_or_went_is_named(tmp_path: Path) -> None:
    files, _ = store(tmp_path, [2, 2])
    np.save(files.paths[1], np.ones((1, WIDTH), np.float16))
    with pytest.raises(
        FormatError, match=r"0001\.npy: changed while in use, from \(2, 3\) float16"
    ):
        files[:]
    np.save(files.paths[1], np.ones((2, WIDTH), np.float64))
    with pytest.raises(FormatError, match=r"to \(2, 3\) float64"):
        files[:]
    files.paths[1].unlink()
    with pytest.raises(DataMissingError, match=r"0001\.npy: is missing"):
        files[:]
    assert files[:2].shape == (2, WIDTH)


def test_a_row_is_found_in_its_file(tmp_path: Path) -> None:
    files, rows = store(tmp_path, [2, 0, 3])
    assert where(files, 4, "image") == f"{tmp_path / '0002.npy'}, row 2"
    assert where(rows, 4, "image") == "image, row 4"


def test_more_files_than_may_be_open(tmp_path: Path) -> None:
    count = OPEN_MAPS + 40
    files, rows = store(tmp_path, [1] * count)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + OPEN_MAPS + 8, hard))
    try:
        np.testing.assert_array_equal(files[np.arange(count)], rows)
        np.testing.assert_array_equal(files[np.arange(count)[::-1]], rows[::-1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
