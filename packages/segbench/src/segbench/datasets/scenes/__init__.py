"""The embedded world: procedural scenes whose captions leave out what the images show."""

from segbench.datasets.scenes.captions import CaptionRates, named_classes
from segbench.datasets.scenes.dataset import (
    CaptionGap,
    Scene,
    ScenesDataset,
    caption_gap,
    write_pairs,
)
from segbench.datasets.scenes.world import NAMES, SUBSETS

__all__ = [
    "NAMES",
    "SUBSETS",
    "CaptionGap",
    "CaptionRates",
    "Scene",
    "ScenesDataset",
    "caption_gap",
    "named_classes",
    "write_pairs",
]
