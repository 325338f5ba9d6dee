"""Models that come with the harness: CLIP made dense without training, GroupViT, and files.

What a model needs (open_clip, timm, transformers, onnxruntime) is imported when it is made.
"""

from types import MappingProxyType

from segbench.models.checkpoint import CheckpointSegmenter, checkpoint_segmenter
from segbench.models.dense_clip import DenseClip
from segbench.models.factories import (
    clearclip,
    clip,
    maskclip,
    naclip,
    pixelclip,
    proxyclip,
    sclip,
)
from segbench.models.grouping import GroupViTSegmenter, groupvit
from segbench.models.onnx import OnnxSegmenter, onnx_segmenter

ALIASES = MappingProxyType(
    {
        "clip": "segbench.models:clip",
        "maskclip": "segbench.models:maskclip",
        "sclip": "segbench.models:sclip",
        "clearclip": "segbench.models:clearclip",
        "naclip": "segbench.models:naclip",
        "pixelclip": "segbench.models:pixelclip",
        "proxyclip": "segbench.models:proxyclip",
        "groupvit": "segbench.models:groupvit",
        "checkpoint": "segbench.models:checkpoint_segmenter",
        "onnx": "segbench.models:onnx_segmenter",
    }
)
"""Short names of factories on the command line."""

__all__ = [
    "ALIASES",
    "CheckpointSegmenter",
    "DenseClip",
    "GroupViTSegmenter",
    "OnnxSegmenter",
    "checkpoint_segmenter",
    "clearclip",
    "clip",
    "groupvit",
    "maskclip",
    "naclip",
    "onnx_segmenter",
    "pixelclip",
    "proxyclip",
    "sclip",
]
