"""Read and write the layouts of the released checkpoints (NVlabs' file, Hugging Face's folder)."""

import json
import shutil
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from groupvit.config import ModelConfig
from groupvit.errors import CheckpointError, RecipeError
from groupvit.model.groupvit import GroupViT
from groupvit.model.vision import resize_positions
from groupvit.released.files import CONFIG, OURS, SCALE, WEIGHTS, read_file, read_folder
from groupvit.released.layouts import (
    Layout,
    check_layout,
    from_layout,
    some,
    their_names,
    to_layout,
)
from groupvit.released.sizes import infer_config


def load_released(
    path: Path | str, *, layout: Layout | None = None, image_px: int | None = None
) -> GroupViT:
    """Build the model of a released checkpoint and load its weights, on the CPU.

    The sizes of the model come from the shapes of the tensors. What shapes cannot tell, the number
    of attention heads, comes from `config.json`; a file without one has 64 channels a head, as all
    released models. No code in the file is run, whatever it holds.

    Args:
        path: NVlabs' `.pth` file, or a Hugging Face folder with `config.json` and
            `model.safetensors` or `pytorch_model.bin`, each whole or in shards.
        layout: whose names the tensors have; told from them by default.
        image_px: side of the square images to train on from here, a multiple of the patch: the
            position embedding is resized to it bicubically, as the release does. None keeps the
            side of the checkpoint. Evaluation takes any size either way.

    Returns:
        The model in evaluation mode, float32; without multi-label scale if the file has none.

    Raises:
        CheckpointError: no such file, not a GroupViT, or tensors missing, unexpected or of the
            wrong shape.
        ValueError: no such `layout`, or an `image_px` that cannot be.
    """
    if layout is not None:
        check_layout(layout)
    path = Path(path)
    tensors, told = read_folder(path) if path.is_dir() else read_file(path)
    layout = layout or _tell_layout(tensors, path)
    try:
        config = infer_config(tensors, layout, told)
    except (ValueError, RecipeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if image_px is not None:
        config, tensors = _resized(config, tensors, layout, image_px)
    model = GroupViT(config)
    try:
        model.load_state_dict(from_layout(tensors, model.state_dict(), layout))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval()


def _tell_layout(tensors: Mapping[str, Tensor], path: Path) -> Layout:
    if any(name.startswith("img_encoder.") for name in tensors):
        return "nvlabs"
    if any(name.startswith("vision_model.") for name in tensors):
        return "huggingface"
    raise CheckpointError(f"{path}: neither NVlabs' nor Hugging Face's names: {some(tensors)}")


def _resized(
    config: ModelConfig, tensors: dict[str, Tensor], layout: Layout, image_px: int
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The same model for square images of another side, and the tensors with positions for it."""
    (name,) = their_names("vision.patches.positions", layout)
    vision = replace(config.vision, image_px=image_px)
    old, new = (side // vision.patch_px for side in (config.vision.image_px, image_px))
    positions = tensors.get(name)
    if positions is not None and positions.shape == (1, old * old, vision.width):
        resized = resize_positions(positions.float(), (old, old), (new, new))
        tensors = tensors | {name: resized}
    return replace(config, vision=vision), tensors


def save_released(model: GroupViT, path: Path | str, *, layout: Layout = "nvlabs") -> None:
    """Write a model as its releases are written.

    Args:
        model: with the published patch stem, pre-assignment and mlp projectors.
        path: a file for `nvlabs`, a folder for `huggingface`; must not exist. Hugging Face's models
            have no multi-label scale, which only training needs: it goes to `config.json`, where
            they pass over it and `load_released` finds it.
        layout: whose names the tensors get.

    Raises:
        CheckpointError: the layout cannot hold this model, `path` exists, or it cannot be written.
        ValueError: no such `layout`.
    """
    path = Path(path)
    _check_representable(model.config, layout)
    tensors = to_layout(model.state_dict(), layout)
    if path.exists():
        raise CheckpointError(f"{path}: exists; choose another name")
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(unfinished)  # of a command that was killed
        if layout == "nvlabs":
            torch.save({"model": tensors, OURS: asdict(model.config)}, unfinished)
        else:
            unfinished.mkdir()
            _write_folder(unfinished, tensors, model.config)
        unfinished.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        _remove(unfinished)
        reason = textwrap.shorten(str(error), 200)
        raise CheckpointError(f"{path}: cannot be written ({reason})") from error


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _write_folder(folder: Path, tensors: dict[str, Tensor], config: ModelConfig) -> None:
    told = _hf_config(config)
    scale = tensors.pop(SCALE, None)
    if scale is not None:
        told[SCALE] = float(scale)  # exact: JSON has all digits of a float64
    save_file(tensors, folder / WEIGHTS[0], metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(told, indent=2))


def _check_representable(config: ModelConfig, layout: Layout) -> None:
    wanted = {"vision.stem": "patch", "vision.pre_assign": True, "projector": "mlp"}
    vision = config.vision
    found = {
        "vision.stem": vision.stem,
        "vision.pre_assign": vision.pre_assign,
        "projector": config.projector,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise CheckpointError(
                f"the released layouts hold models with {name} = {value!r} only, "
                f"this one has {found[name]!r}"
            )
    if layout == "huggingface" and vision.output_groups[:-1] != vision.group_tokens[:-1]:
        raise CheckpointError(
            "Hugging Face's layout needs as many output groups as group tokens in all stages but "
            f"the last, this model has {vision.output_groups} and {vision.group_tokens}"
        )


def _hf_config(config: ModelConfig) -> dict[str, Any]:
    """`config.json` for Hugging Face's `GroupViTModel`."""
    vision, text = config.vision, config.text
    return {
        "architectures": ["GroupViTModel"],
        "model_type": "groupvit",
        "projection_dim": config.embed_dim,
        "projection_intermediate_dim": config.projector_hidden,
        "text_config": {
            "model_type": "groupvit_text_model",
            "vocab_size": text.vocabulary,
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.context,
            "hidden_act": "quick_gelu",
            "bos_token_id": text.vocabulary - 2,
            "eos_token_id": text.vocabulary - 1,
        },
        "vision_config": {
            "model_type": "groupvit_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": sum(vision.depths),
            "depths": vision.depths,
            "num_group_tokens": (*vision.group_tokens, 0),
            "num_output_groups": (*vision.output_groups, vision.output_groups[-1]),
            "num_attention_heads": vision.heads,
            "image_size": vision.image_px,
            "patch_size": vision.patch_px,
            "hidden_act": "gelu",
        },
    }
