"""Floating-point operations of a model, counted from its sizes (2 for each multiply-add).

Matrix products and convolutions alone, as is usual; they equal what `torch.utils.flop_counter`
counts. A training step takes three times the forward pass.
"""

from itertools import pairwise

import torch

from groupvit.config import ModelConfig, TextConfig, VisionConfig
from groupvit.texts import Texts

PEAKS = {
    "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200 NVL": 835.0, "H200": 989.0,
    "B200": 2250.0, "A100": 312.0, "L40S": 362.0,
}  # fmt: skip
"""Dense bfloat16 TFLOP/s by what the name of a GPU contains, by their maker's data sheets."""


def peak_tflops(gpu: str) -> float:
    """Dense bfloat16 TFLOP/s of a GPU, as its driver calls it; 0 if it is not known."""
    return next((peak for known, peak in PEAKS.items() if known in gpu), 0.0)


def vision_flops(config: VisionConfig) -> int:
    """Of the image tower and one image at the training size, without the projector."""
    width, patches = config.width, (config.image_px // config.patch_px) ** 2
    total = _stem(config)
    tokens = patches
    groups_of = [*config.group_tokens, 0]
    for index, depth in enumerate(config.depths):
        groups = groups_of[index]
        total += depth * _block(tokens + groups, width)
        if groups:
            out = config.output_groups[index]
            hidden = width // 2
            if index:
                total += 2 * width * hidden * (groups_of[index - 1] + groups)
            total += _grouping(tokens, groups, out, width, pre_assign=config.pre_assign)
            tokens = out
    return total


def text_flops(config: TextConfig, tokens: int) -> int:
    """Of the text tower and one text of so many tokens, without the projector."""
    return config.layers * _block(tokens, config.width)


def step_flops(config: ModelConfig, pairs: int, texts: Texts) -> int:
    """Of a training step: forward, and twice that backward; padding does not count.

    Args:
        config: of the model, with its published stem.
        pairs: images.
        texts: all texts of these pairs, on the CPU.
    """
    counts: list[int] = torch.bincount(texts.lengths).tolist()
    forward = pairs * (vision_flops(config.vision) + _projector(config.vision.width, config))
    forward += sum(counts) * _projector(config.text.width, config)
    forward += sum(n * text_flops(config.text, length) for length, n in enumerate(counts))
    similarities = 2 * pairs * sum(counts) * config.embed_dim
    return 3 * (forward + similarities)


def _block(tokens: int, width: int) -> int:
    """Projections 4 C^2, MLP 8 C^2 and both attention products of a transformer block."""
    return 2 * tokens * 12 * width**2 + 4 * tokens**2 * width


def _stem(config: VisionConfig) -> int:
    """Of the linear layer over patches, or of the convolutions in its place."""
    side, width = config.image_px // config.patch_px, config.width
    if config.stem == "patch":
        return 2 * side**2 * 3 * config.patch_px**2 * width
    total = 2 * side**2 * 9 * width**2  # the two at the end
    for halvings, (low, high) in enumerate(pairwise([3, *config.stem_widths]), 1):
        total += (config.image_px >> halvings) ** 2 * 9 * low * high
    return 2 * total


def _grouping(tokens: int, groups: int, out: int, width: int, *, pre_assign: bool) -> int:
    mixer = 2 * width * (width // 2) * (groups + out)
    attention = 4 * out * width**2 + 4 * tokens * width**2 + 4 * out * tokens * width
    cross = attention + 2 * out * 8 * width**2 if pre_assign else 0
    # query, key, value and output on groups alone, then logits and means
    assign = 2 * out * 4 * width**2 + 4 * out * tokens * width
    return mixer + cross + assign + 2 * out * 8 * width**2


def _projector(width: int, config: ModelConfig) -> int:
    if config.projector == "linear":
        return 2 * width * config.embed_dim
    return 2 * config.projector_hidden * (width + config.embed_dim)
