"""Read and write the layouts of the released checkpoints (NVlabs' file, Hugging Face's folder)."""

import json
import logging
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from groupvit.config import ModelConfig, TextConfig, VisionConfig
from groupvit.errors import CheckpointError, RecipeError
from groupvit.released.layouts import Layout, their_names
from groupvit.model.groupvit import GroupViT
from groupvit.recipe import model_config

log = logging.getLogger(__name__)

HEAD_DIM = 64
"""Channels of an attention head in a file that does not say how many heads there are."""

_CONFIG = "groupvit_config"  # our addition to NVlabs' file: what its tensors cannot tell
_IGNORED = re.compile(r".*\.position_ids")  # a constant in Hugging Face's files of 2022


def load_released(path: Path, *, layout: Layout | None = None) -> GroupViT:
    """Build the model of a released checkpoint and load its weights, on the CPU.

    The sizes of the model come from the shapes of the tensors. What shapes cannot tell, the number
    of attention heads, comes from `config.json`; a file without one has 64 channels a head, as all
    released models. No code in the file is run, whatever it holds.

    Args:
        path: NVlabs' `.pth` file, or a Hugging Face folder with `config.json` and
            `model.safetensors` or `pytorch_model.bin`.
        layout: whose names the tensors have; told from them by default.

    Returns:
        The model in evaluation mode, float32; without multi-label scale if the file has none.

    Raises:
        CheckpointError: no such file, not a GroupViT, or tensors missing, unexpected or of the
            wrong shape.
    """
    tensors, extra = _read(path)
    layout = layout or _tell_layout(tensors, path)
    model = GroupViT(_infer_config(_Released(path, layout, tensors, extra)))
    wanted = {ours: their_names(ours, layout) for ours in model.state_dict()}
    names = {name for theirs in wanted.values() for name in theirs}
    for what, wrong in (
        ("missing", names - tensors.keys()),
        ("unexpected", tensors.keys() - names),
    ):
        if wrong:
            raise CheckpointError(f"{path}: {what} tensors: {_some(wrong)}")
    state = model.state_dict()
    for ours, theirs in wanted.items():
        if theirs:
            state[ours] = _ours([tensors[name] for name in theirs], state[ours], theirs[0], path)
    model.load_state_dict(state)
    return model.eval()


def save_released(model: GroupViT, path: Path, *, layout: Layout = "nvlabs") -> None:
    """Write a model as its releases are written.

    Args:
        model: with the published patch stem, pre-assignment and mlp projectors.
        path: a file for `nvlabs`, a folder for `huggingface`; must not exist. Hugging Face's layout
            has no place for the multi-label scale, which only training needs.
        layout: whose names the tensors get.

    Raises:
        CheckpointError: the layout cannot hold this model, or `path` exists.
    """
    _check_representable(model.config, layout)
    if path.exists():
        raise CheckpointError(f"{path}: exists; choose another name")
    tensors: dict[str, Tensor] = {}
    for ours, value in model.state_dict().items():
        theirs = their_names(ours, layout)
        value = value.detach().cpu()
        if layout == "nvlabs" and re.fullmatch(r"\w+_projector\.(hidden|out)\.weight", ours):
            value = value[:, :, None]  # (out, in, 1): a convolution of one place
        parts = value.chunk(3) if len(theirs) == 3 else [value]
        tensors |= {name: part.clone() for name, part in zip(theirs, parts, strict=False)}
    unfinished = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    if layout == "nvlabs":
        torch.save({"model": tensors, _CONFIG: asdict(model.config)}, unfinished)
    else:
        unfinished.mkdir(exist_ok=True)
        save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
        (unfinished / "config.json").write_text(json.dumps(_hf_config(model.config), indent=2))
    unfinished.replace(path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what else is known: `config.json`, or our own addition."""
    try:
        if not path.is_dir():
            loaded = _load_inert(path)
            extra = loaded.get(_CONFIG, {})
            tensors = loaded.get("model", loaded)
        else:
            extra = json.loads((path / "config.json").read_text())
            safe = path / "model.safetensors"
            tensors = load_file(safe) if safe.exists() else _load_inert(path / "pytorch_model.bin")
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename or path}: no such file") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint ({error})") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{path}: holds no table of tensors, and none under 'model'")
    return {name: t for name, t in tensors.items() if not _IGNORED.fullmatch(name)}, extra


class _Inert:
    """Stands for an object of a class that is not loaded; takes any state and keeps none."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        """Ignore all arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


_DEFAULTDICT = "collections.defaultdict"


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stands for a defaultdict, which is filled after it is made."""
    return {}


def _load_inert(path: Path) -> dict[str, Any]:
    """Read a PyTorch file without running code of it.

    PyTorch's restricted unpickler reads tensors and plain containers. Classes that it refuses, such
    as the configuration objects of the released training checkpoints, are read as empty stand-ins.
    """
    try:
        foreign = get_unsafe_globals_in_checkpoint(str(path))
        if foreign:
            log.warning("%s: objects of %s are not read", path, _some(set(foreign)))
        stands_for: dict[str, Any] = dict.fromkeys(foreign, _Inert) | {_DEFAULTDICT: _empty_dict}
        with safe_globals([(stand_in, name) for name, stand_in in stands_for.items()]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ValueError, RuntimeError, EOFError) as error:
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = reason.strip().partition("\n")[0]
        raise CheckpointError(f"{path}: not a PyTorch file that can be read ({reason})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def _tell_layout(tensors: Mapping[str, Tensor], path: Path) -> Layout:
    if any(name.startswith("img_encoder.") for name in tensors):
        return "nvlabs"
    if any(name.startswith("vision_model.") for name in tensors):
        return "huggingface"
    raise CheckpointError(
        f"{path}: neither NVlabs' nor Hugging Face's names: {_some(set(tensors))}"
    )


@dataclass(frozen=True, slots=True)
class _Released:
    """A released checkpoint in memory."""

    path: Path
    layout: Layout
    tensors: Mapping[str, Tensor]
    extra: Mapping[str, Any]

    def shape(self, ours: str) -> torch.Size:
        """Of the tensor that we call `ours`."""
        name = their_names(ours, self.layout)[0]
        if name not in self.tensors:
            raise CheckpointError(f"{self.path}: missing tensors: {name}")
        return self.tensors[name].shape

    def count(self, ours: str) -> int:
        """How many tensors of a numbered list there are; `#` stands for the number in `ours`."""
        mark = "000111"  # a number that no list reaches
        pattern = re.escape(their_names(ours.replace("#", mark), self.layout)[0])
        found = [re.fullmatch(pattern.replace(mark, r"(\d+)"), name) for name in self.tensors]
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def heads(self, tower: str, width: int) -> int:
        """From `config.json`, or of `HEAD_DIM` channels each."""
        told = self.extra.get(f"{tower}_config", {}).get("num_attention_heads")
        if told is None and width % HEAD_DIM:
            raise CheckpointError(
                f"{self.path}: the number of attention heads is not known: {tower} width {width} "
                f"is no multiple of {HEAD_DIM}"
            )
        return int(told or width // HEAD_DIM)


def _infer_config(file: _Released) -> ModelConfig:
    """Sizes of the model that the tensors belong to."""
    try:
        if file.layout == "nvlabs" and file.extra:
            return model_config(dict(file.extra))
        hidden, width = file.shape("image_projector.hidden.weight")[:2]
        return ModelConfig(
            vision=_infer_vision(file, width),
            text=_infer_text(file),
            embed_dim=file.shape("image_projector.out.weight")[0],
            projector_hidden=hidden,
            multi_label_scale="multi_label_logit_scale" in file.tensors,
        )
    except (ValueError, RecipeError) as error:
        raise CheckpointError(f"{file.path}: {error}") from error


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
    vocabulary, width = file.shape("text.token_embedding.weight")
    return TextConfig(
        vocabulary=vocabulary,
        context=file.shape("text.positions")[0],
        width=width,
        layers=file.count("text.blocks.#.norm1.weight"),
        heads=file.heads("text", width),
    )


def _ours(parts: list[Tensor], like: Tensor, name: str, path: Path) -> Tensor:
    """Stack what a layout splits, drop the axis of a convolution of one place, check the shape."""
    value = torch.cat(parts) if len(parts) > 1 else parts[0]
    if value.ndim == like.ndim + 1 and value.shape[-1] == 1:
        value = value[..., 0]
    if value.shape != like.shape:
        raise CheckpointError(
            f"{path}: {name} has shape {tuple(value.shape)}, this model needs {tuple(like.shape)}"
        )
    return value.to(like.dtype)


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


def _some(names: set[str]) -> str:
    """The first few names, and how many more there are."""
    first = sorted(names)[:3]
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
