"""Scenes as a folder of photographs with masks, laid out as SA-1B is."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from groupvit import stream
from maskcluster import MaskSet, masks_of_labels, write_sa1b
from segbench import ScenesDataset

LabelMap = npt.NDArray[np.int64]

PHOTOS, MASKS = "photos", "masks"
"""Folders of a stage: KEY.png, and KEY.json of the same key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionsConfig:
    """How far masks are from the objects: what a mask generator without names gets wrong."""

    pieces: int = 3
    """An object or a stretch of stuff is cut into 1 to this many masks."""

    jitter_px: float = 1.0
    """Standard deviation by which outlines are displaced, in pixels; neighbours move together."""

    missing: float = 0.1
    """Probability that a mask is not found."""

    min_px: int = 6
    """Pixels that a mask has at least."""

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.min_px < 1:
            raise ValueError(f"pieces and min_px must be >= 1, got {self.pieces} and {self.min_px}")
        if not 0 <= self.missing < 1:
            raise ValueError(f"missing must be in [0, 1), got {self.missing}")
        if self.jitter_px < 0:
            raise ValueError(f"jitter_px must be >= 0, got {self.jitter_px}")


def write_photos(dataset: ScenesDataset, config: RegionsConfig, folder: Path) -> None:
    """Write pictures of scenes, and masks of their objects that are cut up and imprecise.

    Args:
        dataset: the scenes.
        config: how imprecise.
        folder: gets photos/KEY.png and masks/KEY.json (SA-1B's layout).
    """
    photos, masks = folder / PHOTOS, folder / MASKS
    for each in (photos, masks):
        each.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(len(dataset)), desc="scenes", unit="photo", disable=None):
        scene, key = dataset.scene(index), f"{index:06d}"
        Image.fromarray(scene.image).save(photos / f"{key}.png")
        rng = stream(dataset.seed, "regions", dataset.split, index)
        regions = cut_regions(scene.labels, scene.instances, config, rng)
        height, width = regions.shape
        found = MaskSet.of(height, width, masks_of_labels(regions), source="scenes")
        write_sa1b(masks / f"{key}.json", found, file_name=f"{key}.png", image_id=index)


def cut_regions(
    labels: npt.NDArray[np.int32],
    instances: npt.NDArray[np.int32],
    config: RegionsConfig,
    rng: np.random.Generator,
) -> LabelMap:
    """Number the masks of a scene.

    Args:
        labels: (H, W) class ids.
        instances: (H, W), 0 for stuff and i + 1 for the i-th thing.
        config: how far masks are from the objects.
        rng: of this scene.

    Returns:
        (H, W), the number of a pixel's mask, -1 where none was found.
    """
    objects = np.unique(labels * np.int64(instances.max() + 1) + instances, return_inverse=True)[1]
    pieces = _cut(objects.reshape(labels.shape), config.pieces, rng)
    moved = _displace(pieces, config.jitter_px, rng)
    number, size = np.unique(moved, return_counts=True)
    lost = (size < config.min_px) | (rng.random(len(number)) < config.missing)
    return np.where(np.isin(moved, number[lost]), -1, moved)


def _cut(objects: LabelMap, most: int, rng: np.random.Generator) -> LabelMap:
    """Cut every object into 1 to `most` pieces: each pixel goes to the nearest of its points."""
    pieces = np.zeros_like(objects)
    for number in range(objects.max() + 1):
        place = np.argwhere(objects == number)  # (n, 2)
        points = place[rng.integers(len(place), size=rng.integers(1, most + 1))]  # (c, 2)
        distance = ((place[:, None] - points) ** 2).sum(axis=2)  # (n, c)
        pieces[tuple(place.T)] = number * most + distance.argmin(axis=1)
    return pieces


def _displace(regions: LabelMap, deviation: float, rng: np.random.Generator) -> LabelMap:
    """Look every pixel up a little beside its place, in a direction that varies slowly."""
    height, width = regions.shape
    shift = rng.normal(0, deviation, (2, height // 6 + 2, width // 6 + 2))
    rows, columns = np.indices(regions.shape)
    near = shift[:, rows // 6, columns // 6]  # (2, H, W)
    row = np.clip(np.rint(rows + near[0]), 0, height - 1).astype(np.int64)
    column = np.clip(np.rint(columns + near[1]), 0, width - 1).astype(np.int64)
    moved: LabelMap = regions[row, column]
    return moved
