"""Pictures of clusters: rows, cells, what is pale."""

import numpy as np
import torch

from maskcluster.data.loader import Batch
from maskcluster.masks.packed import pack
from maskcluster.training.pictures import CELL_PX, COLUMNS, GAP_PX, ROWS, TEXT_PX, draw_clusters

STEP = CELL_PX + GAP_PX


def batch(masks: torch.Tensor, owner: list[int]) -> Batch:
    """Two photographs, one red and one blue, of twice the masks' side."""
    views = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    views[0, 0] = views[1, 2] = 200
    return Batch(views, views, pack(masks), torch.tensor(owner), ("a", "b"))


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    x = TEXT_PX + column * STEP
    return sheet[row * STEP : row * STEP + CELL_PX, x : x + CELL_PX]


def test_a_mask_is_in_the_row_of_its_cluster_in_its_own_colours() -> None:
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, 4:12, 4:12] = masks[1, 8:24, 8:24] = masks[2, 0:4, 0:4] = True
    sheet = draw_clusters(batch(masks, [0, 1, 1]), torch.tensor([2, 0, 2]), clusters=3)
    assert sheet.shape == (3 * STEP, TEXT_PX + COLUMNS * STEP, 3)
    middle = CELL_PX // 2
    assert cell(sheet, 0, 0)[middle, middle].tolist() == [0, 0, 200]
    assert cell(sheet, 2, 0)[middle, middle].tolist() == [200, 0, 0]  # the larger mask first
    assert cell(sheet, 2, 1)[middle, middle].tolist() == [0, 0, 200]
    assert (cell(sheet, 1, 0) == 255).all() and (cell(sheet, 0, 1) == 255).all()


def test_what_is_not_the_mask_is_pale_and_what_is_outside_is_white() -> None:
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 0:16, 0:16] = True  # at the corner: a tenth of its side lies outside on two sides
    shown = cell(draw_clusters(batch(masks, [0]), torch.tensor([0]), clusters=1), 0, 0)
    assert shown[1, 1].tolist() == [255, 255, 255]
    assert shown[-2, -2].tolist() == [244, 204, 204]  # 0.8 of the way to white
    assert shown[36, 36].tolist() == [200, 0, 0]


def test_clusters_shown_are_spread_over_all_and_masks_fill_a_row() -> None:
    masks = torch.ones(30, 32, 32, dtype=torch.bool)
    sheet = draw_clusters(batch(masks, [0] * 30), torch.full((30,), 63), clusters=64)
    assert sheet.shape[0] == ROWS * STEP
    assert (cell(sheet, 0, 0) == 255).all()
    for column in range(COLUMNS):
        assert not (cell(sheet, ROWS - 1, column) == 255).all()


def test_a_batch_without_masks_is_an_empty_sheet() -> None:
    none = batch(torch.zeros(0, 32, 32, dtype=torch.bool), [])
    none = none._replace(owner=torch.zeros(0, dtype=torch.int64))
    sheet = draw_clusters(none, torch.zeros(0, dtype=torch.int64), clusters=4)
    assert (sheet[:, TEXT_PX:] == 255).all() and not (sheet == 255).all()
