"""Photographs, masks and a recipe that are small enough to train on in tests.

Photographs of coloured shapes on grass, and masks that cut every shape in two. Test modules and
scripts run this file (`runpy.run_path`).
"""

import json
import runpy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors.torch import save_file

from maskcluster.config import (
    ClusterConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ViewConfig,
)
from maskcluster.data.dataset import MaskedPhotos
from maskcluster.masks.mask_set import MaskSet
from maskcluster.masks.rle import Rle

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))

COLOURS = {
    "red": (220, 30, 30),
    "blue": (40, 60, 230),
    "white": (240, 240, 240),
    "black": (15,) * 3,
}
GRASS = (60, 160, 50)
SIDE = 64

RECIPE = TrainConfig(
    model=ModelConfig(architecture="ViT-B-16", pretrained="random"),
    cluster=ClusterConfig(clusters=5, tokens=2, eps=0.05, momentum=0.9),
    views=ViewConfig(shortest_px=48, longest_px=64, crop_px=40, image_px=32, mask_px=32),
    optim=OptimConfig(total_steps=8, lr=1e-4, prompt_lr=1e-2, decoder_lr=1e-3, precision="float32"),
    data=DataConfig(batch=4, workers=0),
    log_every=1,
    checkpoint_every=3,
)


class Held(dict[str, MaskSet]):
    """Masks in memory."""

    fingerprint = "held"

    def keys(self) -> Sequence[str]:  # type: ignore[override]  # a mask source has a sequence
        return sorted(super().keys())


def shapes(folder: Path, count: int = 12) -> tuple[Path, Held, dict[str, list[int]]]:
    """Write photographs; their masks, and the colour of each mask (4 is grass)."""
    folder.mkdir(exist_ok=True)
    masks, labels = Held(), {}
    for number in range(count):
        key = f"{number:03d}"
        photo, masks[key], labels[key] = scene(number)
        Image.fromarray(photo).save(folder / f"{key}.png")
    return folder, masks, labels


def scene(seed: int) -> tuple[npt.NDArray[np.uint8], MaskSet, list[int]]:
    """A photograph of four shapes of different colours, each cut in two; grass cut in four."""
    random = np.random.default_rng(seed)
    photo = np.empty((SIDE, SIDE, 3), np.uint8)
    photo[:] = GRASS
    rows, columns = np.mgrid[:SIDE, :SIDE]
    found: list[npt.NDArray[np.bool_]] = []
    labels: list[int] = []
    free = np.ones((SIDE, SIDE), np.bool_)
    colours = random.permutation(4).tolist()
    for place, colour in enumerate(colours):
        y, x = SIDE // 4 + SIDE // 2 * (place // 2), SIDE // 4 + SIDE // 2 * (place % 2)
        radius = random.integers(10, 15)
        dy, dx = np.abs(rows - y), np.abs(columns - x)
        round_shape = bool(random.integers(2))
        shape = dy**2 + dx**2 < radius**2 if round_shape else np.maximum(dy, dx) < radius
        photo[shape] = list(COLOURS.values())[colour]
        halves = (rows < y, rows >= y) if random.integers(2) else (columns < x, columns >= x)
        found += [shape & half for half in halves]
        labels += [colour, colour]
        free &= ~shape
    quarters = [(rows < 32) == top for top in (True, False)]
    found += [free & q & ((columns < 32) == left) for q in quarters for left in (True, False)]
    noise = random.integers(-12, 13, photo.shape)
    photo = (photo + noise).clip(0, 255).astype(np.uint8)
    masks = [Rle.from_mask(mask) for mask in found]
    return photo, MaskSet.of(SIDE, SIDE, masks, source="shapes"), labels + [4] * 4


def dataset(folder: Path, config: TrainConfig = RECIPE, count: int = 12) -> MaskedPhotos:
    photos, masks, _ = shapes(folder / "photos", count)
    return MaskedPhotos(photos, masks, config.views, seed=config.data.seed)


def changed(config: TrainConfig = RECIPE, **tables: Any) -> TrainConfig:
    """A recipe with other fields: `changed(optim={"lr": 1})`, `changed(seed=3)`."""
    return replace(
        config,
        **{
            name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
            for name, value in tables.items()
        },
    )


def tiny_clip(**options: Any) -> Any:
    return restated.tiny_clip(**options)


def write_clip(folder: Path) -> None:
    """Write the tiny CLIP model as `local-dir:` reads it."""
    clip = tiny_clip()
    folder.mkdir()
    config = {
        "model_cfg": {
            "embed_dim": 20,
            "vision_cfg": restated.VISION["vit"],
            "text_cfg": restated.TEXT,
            "quick_gelu": True,
        },
        "preprocess_cfg": {"mean": clip.mean, "std": clip.std},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(clip.model.state_dict(), folder / "open_clip_model.safetensors")
