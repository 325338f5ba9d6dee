"""Tell the sizes of a model from its tensors, and from the little that is stored beside them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from groupvit.config import ModelConfig, TextConfig, VisionConfig
from groupvit.recipe import model_config
from groupvit.released.layouts import Layout, their_names

HEAD_DIM = 64
"""Channels of an attention head in a file that does not say how many heads there are."""

TOWERS: dict[str, dict[str, object]] = {
    "vision": {"num_attention_heads": 6, "hidden_act": "gelu"},
    "text": {"num_attention_heads": 4, "hidden_act": "quick_gelu"},
}
"""What Hugging Face's towers have where `config.json` says nothing."""

FIXED: dict[str, object] = {"hidden_act": None, "layer_norm_eps": 1e-5, "assign_eps": 1.0}
"""Fields of its towers that our models cannot vary; None stands for the default of the tower."""


def infer_config(
    tensors: Mapping[str, Tensor], layout: Layout, told: Mapping[str, Any]
) -> ModelConfig:
    """Sizes of the model that tensors belong to.

    Args:
        tensors: by the names of `layout`.
        layout: whose names.
        told: our own configuration in a file of NVlabs' layout, or the content of `config.json`.

    Raises:
        ValueError: a tensor is missing, or there is no such model.
        RecipeError: our own configuration has a field that is unknown or cannot be.
    """
    if layout == "nvlabs" and told:
        return model_config(told)
    file = _Released(tensors, layout, told)
    hidden, width = file.shape("image_projector.hidden.weight")[:2]
    return ModelConfig(
        vision=_infer_vision(file, width),
        text=_infer_text(file),
        embed_dim=file.shape("image_projector.out.weight")[0],
        projector_hidden=hidden,
        multi_label_scale="multi_label_logit_scale" in tensors,
    )


@dataclass(frozen=True, slots=True)
class _Released:
    """A released checkpoint in memory."""

    tensors: Mapping[str, Tensor]
    layout: Layout
    told: Mapping[str, Any]

    def shape(self, ours: str) -> torch.Size:
        """Of the tensor that we call `ours`; at least two axes."""
        name = their_names(ours, self.layout)[0]
        if name not in self.tensors:
            raise ValueError(f"missing tensors: {name}")
        shape = self.tensors[name].shape
        if len(shape) < 2:
            raise ValueError(f"{name} has shape {tuple(shape)}, this model needs two axes or more")
        return shape

    def count(self, ours: str) -> int:
        """How many tensors of a numbered list there are; `#` stands for the number in `ours`."""
        mark = "000111"  # a number that no list reaches
        pattern = re.escape(their_names(ours.replace("#", mark), self.layout)[0])
        found = [re.fullmatch(pattern.replace(mark, r"(\d+)"), name) for name in self.tensors]
        return sum(match is not None for match in found)

    def heads(self, tower: str, width: int) -> int:
        """Attention heads of a tower: as `config.json` says, or `HEAD_DIM` wide."""
        if self.told:
            return self._told_heads(tower)
        if width % HEAD_DIM:
            raise ValueError(
                f"the number of attention heads is not known: {tower} width {width} is no multiple "
                f"of {HEAD_DIM}"
            )
        return width // HEAD_DIM

    def _told_heads(self, tower: str) -> int:
        """Of `config.json`, if the rest of what it says of the tower is as in our models."""
        found: dict[str, Any] = {}
        for key in (f"{tower}_config", f"{tower}_config_dict"):  # the second one, of 2022, wins
            part = self.told.get(key) or {}
            if not isinstance(part, Mapping):
                raise ValueError(f"config.json: {key} must be a table, is a {type(part).__name__}")
            found |= part
        default = TOWERS[tower]
        for name, value in FIXED.items():
            value = default[name] if value is None else value
            if found.get(name, value) != value:
                raise ValueError(
                    f"config.json: {tower} {name} must be {value!r}, got {found[name]!r}"
                )
        heads = found.get("num_attention_heads", default["num_attention_heads"])
        if type(heads) is not int:
            raise ValueError(
                f"config.json: {tower} num_attention_heads must be a whole number, got {heads!r}"
            )
        return heads


def _infer_vision(file: _Released, width: int) -> VisionConfig:
    stages = range(file.count("vision.stages.#.group_token"))
    patch_px = file.shape("vision.patches.projection.weight")[-1]
    return VisionConfig(
        image_px=math.isqrt(file.shape("vision.patches.positions")[1]) * patch_px,
        patch_px=patch_px,
        width=width,
        heads=file.heads("vision", width),
        depths=tuple(
            file.count(f"vision.stages.{stage}.blocks.#.norm1.weight")
            for stage in range(len(stages) + 1)
        ),
        group_tokens=tuple(file.shape(f"vision.stages.{s}.group_token")[1] for s in stages),
        output_groups=tuple(
            file.shape(f"vision.stages.{s}.grouping.mix.fc2.weight")[0] for s in stages
        ),
    )


def _infer_text(file: _Released) -> TextConfig:
    vocabulary, width = file.shape("text.token_embedding.weight")[:2]
    return TextConfig(
        vocabulary=vocabulary,
        context=file.shape("text.positions")[0],
        width=width,
        layers=file.count("text.blocks.#.norm1.weight"),
        heads=file.heads("text", width),
    )
