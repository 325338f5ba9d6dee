"""Sparse counts of images: totals, diagnostics, files."""

from pathlib import Path

import numpy as np
import pytest

from segbench import FormatError, PerImageCounts
from segbench.metrics.per_image import sparse


def three_images() -> tuple[list[np.ndarray], PerImageCounts]:
    rng = np.random.default_rng(0)
    dense = [rng.integers(0, 3, (4, 4)) * rng.integers(0, 2, (4, 4)) for _ in range(3)]
    return dense, PerImageCounts.of_sparse(
        4, [(i, *sparse(m)) for i, m in zip("xyz", dense, strict=True)]
    )


def test_totals_and_areas_equal_the_dense_ones() -> None:
    dense, counts = three_images()
    assert np.array_equal(counts.total(), sum(dense))
    areas = counts.areas()
    for image, matrix in enumerate(dense):
        assert np.array_equal(areas.tp[image], matrix.diagonal())
        assert np.array_equal(areas.gt[image], matrix.sum(axis=1))
        assert np.array_equal(areas.pr[image], matrix.sum(axis=0))


def test_select_follows_the_order_asked_for() -> None:
    dense, counts = three_images()
    assert np.array_equal(counts.select(["z", "x"]).gt, [dense[2].sum(1), dense[0].sum(1)])
    with pytest.raises(KeyError):
        counts.select(["nobody"])


def test_diagnostics_by_hand() -> None:
    first = np.array([[5, 0, 0], [2, 0, 1], [0, 0, 0]])  # true 0 1; predicted 0 2
    second = np.array([[0, 0, 0], [0, 4, 0], [0, 1, 0]])  # true 1 2; predicted 1
    unscored = np.zeros((3, 3), dtype=np.int64)
    images = {"a": first, "b": second, "c": unscored}
    counts = PerImageCounts.of_sparse(3, [(name, *sparse(m)) for name, m in images.items()])
    found = counts.diagnostics()
    assert found["distinct_classes"] == 1.5
    assert found["distinct_classes_true"] == 2
    assert found["present_recall"] == 0.5  # 0 in a, 1 in b, of four


def test_file_round_trip(tmp_path: Path) -> None:
    _, counts = three_images()
    path = tmp_path / "per_image.npz"
    path.write_bytes(counts.to_bytes())
    again = PerImageCounts.read(path)
    assert again.ids == ("x", "y", "z")
    assert np.array_equal(again.total(), counts.total())
    assert np.array_equal(again.areas().pr, counts.areas().pr)


def test_damaged_or_foreign_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "per_image.npz"
    path.write_bytes(three_images()[1].to_bytes()[:100])
    with pytest.raises(FormatError, match=r"per_image\.npz: cannot be read"):
        PerImageCounts.read(path)
    np.savez(path, kind=np.array("other"), version=np.array(9))
    with pytest.raises(FormatError, match="found other version 9, reads segbench-per-image 1"):
        PerImageCounts.read(path)


def test_no_image_at_all() -> None:
    counts = PerImageCounts.of_sparse(3, [])
    assert counts.total().sum() == 0
    assert np.isnan(counts.miou_image())
    assert np.isnan(counts.diagnostics()["present_recall"])
