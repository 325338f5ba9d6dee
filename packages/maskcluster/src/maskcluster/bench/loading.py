"""Photographs a second of the loader: files and run lengths to views and packed masks."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from maskcluster.config import ViewConfig
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import Rle
from maskcluster.masks.sa1b import Sa1bFolder, write_sa1b

SIZES = {"coco": (480, 640, 20), "sa1b": (1500, 2250, 100)}
"""Height, width and masks of made-up photographs."""

BATCH, WARM = 4, 2


def measure(
    *,
    photos: Path | None = None,
    masks: Path | None = None,
    workers: tuple[int, ...] = (0, 2),
    steps: int = 8,
) -> dict[str, Any]:
    """Measure the loader with the published views, on made-up JPEG files or on one's own.

    Args:
        photos: folder of photographs; without it, some are made of COCO's and of SA-1B's size.
        masks: folder of SA-1B JSON with the same keys.
        workers: numbers of loader processes.
        steps: batches of 4 that are counted, after 2 that are not.

    Returns:
        `loader`: photographs a second by the data's name and the number of workers.
    """
    if photos is not None and masks is not None:
        return {"loader": {"given": _rates(photos, masks, workers, steps)}}
    found = {}
    for name, size in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            made_up(Path(folder), *size)
            found[name] = _rates(Path(folder), Path(folder), workers, steps)
    return {"loader": found}


def _rates(photos: Path, masks: Path, workers: tuple[int, ...], steps: int) -> dict[str, float]:
    dataset = MaskedPhotos(photos, Sa1bFolder(masks), ViewConfig())
    return {f"{n} workers, photographs/s": _rate(dataset, n, steps) for n in workers}


def _rate(dataset: MaskedPhotos, workers: int, steps: int) -> float:
    loader = batches(dataset, batch=BATCH, workers=workers, start=0, stop=WARM + steps)
    begin = 0.0
    for number, _ in enumerate(loader, 1):
        if number == WARM:
            begin = time.perf_counter()
    return BATCH * steps / (time.perf_counter() - begin)


def made_up(folder: Path, height: int, width: int, masks: int, *, count: int = 8) -> None:
    """Write JPEG files of smooth colours, each with a JSON file of ellipses."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    for number in range(count):
        coarse = torch.from_numpy(random.random((1, 3, 24, 32))).float()
        smooth = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
        pixels = (255 * smooth).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
        shapes = random.random((masks, 4)) * (height, width, height / 4, width / 4)
        blobs = [
            Rle.from_mask(((y - cy) / (ry + 3)) ** 2 + ((x - cx) / (rx + 3)) ** 2 < 1)
            for cy, cx, ry, rx in shapes
        ]
        found = MaskSet.of(height, width, blobs)
        write_sa1b(folder / f"{number}.json", found, file_name=f"{number}.jpg")
