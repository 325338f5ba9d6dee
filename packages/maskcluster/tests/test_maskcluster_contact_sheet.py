from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from maskcluster.errors import DataError, FormatError
from maskcluster.masks.contact_sheet import contact_sheet, overlay
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import Rle


def halves() -> MaskSet:
    left = np.zeros((20, 40), np.bool_)
    left[:, :20] = True
    inner = np.zeros_like(left)
    inner[5:15, 5:15] = True
    return MaskSet.of(20, 40, [Rle.from_mask(inner), Rle.from_mask(left)])


class OnePhotograph:
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def keys(self) -> list[str]:
        return self.names

    def __getitem__(self, key: str) -> MaskSet:
        assert key in self.names
        return halves()


def grey(_: str = "") -> npt.NDArray[np.uint8]:
    return np.full((20, 40, 3), 100, np.uint8)


def test_smaller_masks_lie_over_larger_ones_and_the_rest_is_the_photograph() -> None:
    painted = overlay(grey(), halves())
    assert painted[10, 30].tolist() == [100, 100, 100]
    assert painted[10, 10].tolist() != painted[2, 2].tolist() != [100, 100, 100]
    assert painted[2, 19].max() < painted[2, 18].max()  # the edge is dark


def test_masks_are_drawn_at_the_size_of_the_picture() -> None:
    painted = overlay(np.full((10, 20, 3), 100, np.uint8), halves())
    assert painted[5, 15].tolist() == [100, 100, 100]
    assert painted[5, 5].tolist() == overlay(grey(), halves())[10, 10].tolist()


def test_a_sheet_has_a_cell_for_each_photograph(tmp_path: Path) -> None:
    source = OnePhotograph([f"p{i}" for i in range(5)])
    path = contact_sheet(source, grey, tmp_path / "sheet.png", columns=2, cell_px=40)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape[2] == 3
    used = (sheet == 100).all(axis=2)
    rows = np.flatnonzero(np.diff((used.sum(axis=1) > 10).astype(int)) == 1)
    assert len(rows) == 3
    assert list(tmp_path.iterdir()) == [path]


def test_of_many_photographs_some_are_shown_evenly(tmp_path: Path) -> None:
    asked = []

    def read(key: str) -> npt.NDArray[np.uint8]:
        asked.append(key)
        return grey()

    source = OnePhotograph([f"p{i:02d}" for i in range(21)])
    contact_sheet(source, read, tmp_path / "sheet.png", most=3)
    assert asked == ["p00", "p10", "p20"]


def test_photographs_are_found_in_a_folder_by_key(tmp_path: Path) -> None:
    Image.fromarray(grey()).save(tmp_path / "a.png")
    assert contact_sheet(OnePhotograph(["a"]), tmp_path, tmp_path / "sheet.png").exists()
    with pytest.raises(DataError, match="has no photograph 'b'"):
        contact_sheet(OnePhotograph(["b"]), tmp_path, tmp_path / "other.png")


def test_masks_of_another_size_and_nothing_to_show_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="masks are of 20 x 40, the photograph is 40 x 20"):
        contact_sheet(OnePhotograph(["a"]), lambda _: grey().transpose(1, 0, 2), tmp_path / "s.png")
    with pytest.raises(DataError, match="no photograph to show"):
        contact_sheet(OnePhotograph([]), grey, tmp_path / "s.png")
