"""The arms of PixelCLIP's own runs: un-tuned CLIP, the method, and every row of its ablations."""

from collections.abc import Mapping
from typing import Any, Literal

from maskcluster import load_recipe

UNTUNED: Mapping[str, Literal["maskclip", "pixelclip"]] = {
    "clip": "maskclip",
    "clip-value-path": "pixelclip",
}
"""CLIP before any tuning, by what takes the place of a ViT's last block: the paper's baseline, and
the path that is tuned. A ConvNeXt has no such block: there both are the same."""

NAMES = "names"
"""Masks go to the nearest of COCO-Stuff's 171 names."""

ARMS: Mapping[str, Mapping[str, Any]] = {
    "pixelclip": {},
    "no-clustering": {"targets": "masks"},
    "no-text-tower": {"prompts": "direct"},
    "fixed-prompts": {"prompts": "frozen"},
    "no-momentum": {"momentum": 0.0},
    "momentum-0.99": {"momentum": 0.99},
    "momentum-0.9999": {"momentum": 0.9999},
    "clusters-32": {"clusters": 32},
    "clusters-128": {"clusters": 128},
    "clusters-256": {"clusters": 256},
    "clusters-512": {"clusters": 512},
    "tokens-1": {"tokens": 1},
    "tokens-10": {"tokens": 10},
    "tokens-20": {"tokens": 20},
    NAMES: {"clusters": 171, "prompts": "names", "balance": False},
    "ensemble": {"templates": "ensemble"},
}
"""What a trained arm changes of `[cluster]` of the base recipe (PixelCLIP, tables 3, 5 and 6)."""


def cluster_changes(arm: str) -> Mapping[str, Any]:
    """Fields of `maskcluster.ClusterConfig` that an arm changes, class names included."""
    if arm != NAMES:
        return ARMS[arm]
    return {**ARMS[arm], "names": load_recipe("pixelclip-convnextb-names").cluster.names}
