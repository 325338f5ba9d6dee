"""Miniature data sets and segmenters that the tests of this package share."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor

Labels = npt.NDArray[np.integer]
NAMES = ("sky", "grass", "cat")


class PaintedSegmenter:
    """Reads the class off the red channel: red = 10 * label, so it is right by construction."""

    name = "painted"

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(prompts), 4)

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        classes = torch.arange(len(bank)).view(-1, 1, 1)  # (K, 1, 1)
        return -(image[:1] * 25.5 - classes).abs()  # (K, H, W)


class ConstantSegmenter(PaintedSegmenter):
    """Paints everything with one class."""

    name = "constant"

    def __init__(self, label: int = 0) -> None:
        self.label = label

    def segment(self, image: Tensor, bank: Tensor) -> Tensor:
        scores = image.new_zeros(len(bank), 1, 1)
        scores[self.label] = 1
        return scores


def paint(labels: Labels) -> npt.NDArray[np.uint8]:
    """Image whose red channel says the label."""
    image = np.zeros((*labels.shape, 3), dtype=np.uint8)
    image[..., 0] = 10 * np.maximum(labels, 0)
    return image


def write_tree(folder: Path, maps: dict[str, Labels], names: Sequence[str] = NAMES) -> Path:
    """A data set folder: 8-bit masks, mask value = label, -1 stored as 255."""
    for part in ("images/val", "semantic_masks/val"):
        (folder / part).mkdir(parents=True)
    rows = [f"{value}\t{name}" for value, name in enumerate(names)]
    (folder / "labels.tsv").write_text("\n".join(["mask_value\tname", *rows]) + "\n")
    for stem, labels in maps.items():
        Image.fromarray(paint(labels)).save(folder / "images/val" / f"{stem}.png")
        mask = np.where(labels < 0, 255, labels).astype(np.uint8)
        Image.fromarray(mask).save(folder / "semantic_masks/val" / f"{stem}.png")
    return folder


TASK = """
id = "mini@whole"
[dataset]
kind = "folder"
ignore = [255]
"""


@pytest.fixture
def maps() -> dict[str, Labels]:
    """Two label maps of three classes, 16 scored pixels each: 20 sky, 8 grass, 4 cat."""
    first = np.repeat(np.array([[0, 0, 1, -1]]), 6, axis=0)  # (6, 4): 12 sky, 6 grass
    first[0, :2] = 2  # 10 sky, 6 grass, 2 cat
    first[5, :2] = -1  # 8 sky
    second = np.zeros((4, 4), dtype=np.int64)
    second[3] = [2, 2, 1, 1]  # 12 sky, 2 grass, 2 cat
    return {"a": first, "b": second}


@pytest.fixture
def mini(tmp_path: Path, maps: dict[str, Labels]) -> Path:
    """The two maps as a data set folder."""
    return write_tree(tmp_path / "mini", maps)


@pytest.fixture
def mini_task(tmp_path: Path) -> Path:
    """Task file that scores `mini` without resize or windows."""
    path = tmp_path / "mini@whole.toml"
    path.write_text(TASK)
    return path


@pytest.fixture
def tree() -> Callable[..., Path]:
    """`write_tree`."""
    return write_tree


@pytest.fixture
def painted() -> PaintedSegmenter:
    """A segmenter that is always right on painted images."""
    return PaintedSegmenter()


@pytest.fixture
def constant() -> Callable[[int], ConstantSegmenter]:
    """Makes a segmenter that paints everything with one class."""
    return ConstantSegmenter


@pytest.fixture
def real_data() -> Path:
    """Folder of real data sets: SEGBENCH_TEST_DATA, or `shared/data` beside the repository."""
    beside = Path(__file__).parents[4] / "shared" / "data"
    root = Path(os.environ.get("SEGBENCH_TEST_DATA", beside))
    if not root.is_dir():
        pytest.skip("no real data: set SEGBENCH_TEST_DATA to a folder with coco128_panoptic etc.")
    return root
