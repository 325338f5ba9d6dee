from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conceptarchive import FormatError
from conceptarchive.features.checks import NORM_TOLERANCE, READ_ROWS, check_rows, find_fault
from conceptarchive.features.rows import RowFiles

MakeRows = Callable[[int, int, int], npt.NDArray[np.float32]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_each_fault_is_told_apart(dtype: str, unit_rows: MakeRows) -> None:
    good = unit_rows(9, 8, 0).astype(dtype)
    assert find_fault(good) is None
    faults: dict[float, str] = {
        np.nan: "NaN or infinite",
        np.inf: "NaN or infinite",
        -np.inf: "NaN or infinite",
        0: "zeros only",
        1: "got 2.828",
    }
    for value, reason in faults.items():
        rows = good.copy()
        rows[4] = value
        rows[7] = 0  # a later fault is not the first
        fault = find_fault(rows)
        assert fault is not None
        assert fault[0] == 4
        assert reason in fault[1]


@settings(deadline=None)
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))
@example(0, 0x7C01)  # a signalling NaN
def test_float16_is_judged_as_float32(first: int, second: int) -> None:
    halves = np.array([[first, second]], np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = halves.astype(np.float32)
        length = np.linalg.norm(wide)
    if abs(abs(length - 1) - NORM_TOLERANCE) > 1e-5:  # not at the very limit
        assert find_fault(halves) == find_fault(wide)


def test_every_float16_number_is_measured() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves) & (np.abs(halves) <= 1)].astype(np.float64)
    rows = np.stack([finite, np.sqrt(1 - finite**2)], axis=1)
    assert find_fault(rows.astype(np.float16)) is None
    assert find_fault(rows[:, :1].astype(np.float16)[np.abs(finite) < 0.97]) is not None


@pytest.mark.parametrize("length", [1 - NORM_TOLERANCE / 2, 1 + NORM_TOLERANCE / 2])
def test_rounded_lengths_pass(length: float, unit_rows: MakeRows) -> None:
    assert find_fault((length * unit_rows(50, 512, 1)).astype(np.float16)) is None
    assert find_fault((length**5 * unit_rows(50, 512, 1)).astype(np.float16)) is not None


def test_a_fault_in_the_last_row_of_many_names_its_file(tmp_path: Path) -> None:
    rows = np.tile(np.array([[0.6, 0.8]], np.float16), (READ_ROWS + 5, 1))
    check_rows(rows, "image")
    rows[-1, 0] = np.nan
    counts = [READ_ROWS, 5]
    for name, part in zip("ab", np.split(rows, [READ_ROWS]), strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    files = RowFiles([tmp_path / "a.npy", tmp_path / "b.npy"], counts, 2, "float16")
    with pytest.raises(FormatError, match=r"b\.npy, row 4: .* holds NaN"):
        check_rows(files, "image")
    with pytest.raises(FormatError, match=f"image, row {READ_ROWS + 4}: "):
        check_rows(rows, "image")


def test_no_rows_have_no_fault() -> None:
    check_rows(np.empty((0, 4), np.float32), "image")
    assert find_fault(np.empty((0, 0), np.float16)) is None
