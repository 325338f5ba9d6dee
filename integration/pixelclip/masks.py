"""Masks of pictures from the three sources, each behind maskcluster's one protocol."""

from pathlib import Path

import torch
from torch import Tensor, nn

from integration.pixelclip.recipe import MasksConfig, Source
from integration.pixelclip.runs import ClipFiles
from integration.pixelclip.scenes import MASKS
from integration.wiring import best_device
from maskcluster import (
    DenseBackbone,
    DenseTower,
    DinoMasks,
    MaskSource,
    MaskStore,
    Sa1bFolder,
    Slic,
    generate,
    load_clip,
)


def mask_source(kind: Source, folder: Path) -> MaskSource:
    """The pictures' own masks are SA-1B's JSON, the others a store."""
    return Sa1bFolder(folder) if kind == "regions" else MaskStore.open(folder)


def superpixel_masks(images: Path, config: MasksConfig, folder: Path) -> None:
    """SLIC superpixels of every picture: no model at all."""
    generate(images, folder / MASKS, Slic(segments=config.superpixels))


def dino_masks(images: Path, clip: ClipFiles, config: MasksConfig, folder: Path) -> None:
    """k-means over the dense features of every picture, as PixelCLIP does over DINO's.

    DINO's weights cannot be had everywhere: here the features are those of the un-tuned CLIP's own
    image tower, which has seen no mask either.
    """
    tower = _Tower(clip)
    backbone = DenseBackbone(tower, tower.mean, tower.std).to(best_device())
    generator = DinoMasks(
        backbone,
        {"backbone": "clip", "weights": clip.name},
        clusters=config.dino_clusters,
        short_side=config.dino_short_px,
    )
    generate(images, folder / MASKS, generator, batch_size=64)


class _Tower(nn.Module):
    """The dense tower of a CLIP folder in the shape that timm's backbones have."""

    def __init__(self, clip: ClipFiles) -> None:
        super().__init__()
        loaded = load_clip(clip.architecture, clip.pretrained, seed=clip.seed)
        self.mean, self.std = loaded.mean, loaded.std
        self.tower = DenseTower(loaded.model.visual, last_block="none")  # type: ignore[arg-type]
        self.feature_info = [{"reduction": self.tower.stride[0]}]

    @torch.no_grad()
    def forward_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w)."""
        features: Tensor = self.tower(images)
        return features
