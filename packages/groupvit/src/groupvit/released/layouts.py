"""What the released checkpoints call the tensors of a GroupViT, and how they are shaped."""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

Layout = Literal["nvlabs", "huggingface"]

_NV_STAGE, _HF_STAGE = "img_encoder.layers.#", "vision_model.encoder.stages.#"
_NV_GROUP, _HF_GROUP = f"{_NV_STAGE}.downsample", f"{_HF_STAGE}.downsample"
_NV_TEXT, _HF_TEXT = "text_encoder.transformer.resblocks.#", "text_model.encoder.layers.#"
_GROUPING = "vision.stages.#.grouping"


def _same(names: str) -> list[tuple[str, str, str]]:
    """Rows of a grouping block whose names agree everywhere."""
    return [
        (f"{_GROUPING}.{n}.*", f"{_NV_GROUP}.{n}.*", f"{_HF_GROUP}.{n}.*") for n in names.split()
    ]


TABLE: tuple[tuple[str, str, str], ...] = (
    ("logit_scale", "logit_scale", "logit_scale"),
    ("multi_label_logit_scale", "multi_label_logit_scale", "multi_label_logit_scale"),
    (
        "vision.patches.positions",
        "img_encoder.pos_embed",
        "vision_model.embeddings.position_embeddings",
    ),
    (
        "vision.patches.projection.*",
        "img_encoder.patch_embed.proj.*",
        "vision_model.embeddings.patch_embeddings.projection.*",
    ),
    (
        "vision.patches.norm.*",
        "img_encoder.patch_embed.norm.*",
        "vision_model.embeddings.layernorm.*",
    ),
    ("vision.norm.*", "img_encoder.norm.*", "vision_model.layernorm.*"),
    ("vision.stages.#.group_token", f"{_NV_STAGE}.group_token", f"{_HF_STAGE}.group_token"),
    (
        "vision.stages.#.group_projector.*",
        f"{_NV_STAGE}.group_projector.*",
        f"{_HF_STAGE}.group_projector.*",
    ),
    *(
        (
            f"vision.stages.#.blocks.#.{ours}.*",
            f"{_NV_STAGE}.blocks.#.{nv}.*",
            f"{_HF_STAGE}.{hf}.*",
        )
        for ours, nv, hf in (
            ("norm1", "norm1", "layers.#.layer_norm1"),
            ("norm2", "norm2", "layers.#.layer_norm2"),
            ("attention.qkv", "attn.qkv", "layers.#.self_attn.?_proj"),
            ("attention.out", "attn.proj", "layers.#.self_attn.out_proj"),
            ("mlp", "mlp", "layers.#.mlp"),
        )
    ),
    *_same("norm_tokens norm_post_tokens norm_x norm_new_x mlp_channels"),
    *_same("pre_assign_attn.norm2 pre_assign_attn.norm_post pre_assign_attn.mlp"),
    (f"{_GROUPING}.mix.*", f"{_NV_GROUP}.mlp_inter.*", f"{_HF_GROUP}.mlp_inter.*"),
    *(
        (
            f"{_GROUPING}.{ours}.{o}.*",
            f"{_NV_GROUP}.{theirs}.{nv}.*",
            f"{_HF_GROUP}.{theirs}.{hf}.*",
        )
        for ours, theirs, out in (
            ("pre_assign_attn.attention", "pre_assign_attn.attn", "out_proj"),
            ("assign", "assign", "proj"),
        )
        for o, nv, hf in (
            ("query", "q_proj", "q_proj"),
            ("key", "k_proj", "k_proj"),
            ("value", "v_proj", "v_proj"),
            ("out", "proj", out),
        )
    ),
    (
        "text.token_embedding.*",
        "text_encoder.token_embedding.*",
        "text_model.embeddings.token_embedding.*",
    ),
    (
        "text.positions",
        "text_encoder.positional_embedding",
        "text_model.embeddings.position_embedding.weight",
    ),
    ("text.norm.*", "text_encoder.ln_final.*", "text_model.final_layer_norm.*"),
    *(
        (f"text.blocks.#.{ours}", f"{_NV_TEXT}.{nv}", f"{_HF_TEXT}.{hf}")
        for ours, nv, hf in (
            ("norm1.*", "ln_1.*", "layer_norm1.*"),
            ("norm2.*", "ln_2.*", "layer_norm2.*"),
            ("attention.qkv.weight", "attn.in_proj_weight", "self_attn.?_proj.weight"),
            ("attention.qkv.bias", "attn.in_proj_bias", "self_attn.?_proj.bias"),
            ("attention.out.*", "attn.out_proj.*", "self_attn.out_proj.*"),
            ("mlp.fc1.*", "mlp.c_fc.*", "mlp.fc1.*"),
            ("mlp.fc2.*", "mlp.c_proj.*", "mlp.fc2.*"),
        )
    ),
    *(
        (f"{ours}.{part}.*", f"{nv}.{theirs}.*", f"{hf}.{place}.*")
        for ours, nv, hf in (
            ("image_projector", "img_projector", "visual_projection"),
            ("text_projector", "text_projector", "text_projection"),
        )
        for part, theirs, place in (
            ("hidden", "linear_hidden.0", "0"),
            ("norm", "linear_hidden.1", "1"),
            ("out", "linear_out", "3"),
        )
    ),
)
"""Our name, NVlabs' and Hugging Face's: `#` is a number, `*` the rest, `?` each of q, k and v in
turn (their rows stacked are our tensor)."""


def check_layout(layout: str) -> None:
    """Raise if there is no such layout.

    Raises:
        ValueError: there is none.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {', '.join(get_args(Layout))}, got {layout!r}")


def their_names(name: str, layout: Layout) -> list[str]:
    """What a layout calls one of our tensors.

    Args:
        name: key of our state dict.
        layout: whose names.

    Returns:
        One name, or three whose rows are stacked.

    Raises:
        KeyError: the layout knows no such part of a model.
        ValueError: there is no such layout.
    """
    check_layout(layout)
    name = name.replace(".pre_assign.", ".pre_assign_attn.")
    for ours, nvlabs, huggingface in _PATTERNS:
        if found := ours.fullmatch(name):
            theirs = nvlabs if layout == "nvlabs" else huggingface
            for part in found.groups():
                theirs = re.sub("[#*]", part, theirs, count=1)
            return [theirs.replace("?", part) for part in "qkv"] if "?" in theirs else [theirs]
    raise KeyError(name)


def to_layout(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Name, split and shape tensors as a layout has them.

    Args:
        state: tensors by their names in our state dict; all of a model, or some.
        layout: whose names.

    Returns:
        Copies on the CPU.
    """
    tensors: dict[str, Tensor] = {}
    for ours, value in state.items():
        theirs = their_names(ours, layout)
        if layout == "nvlabs" and _PROJECTION.fullmatch(ours):
            value = value[:, :, None]  # (out, in, 1): a convolution of one place
        parts = value.chunk(len(theirs)) if len(theirs) > 1 else (value,)
        tensors |= {name: _copy(part) for name, part in zip(theirs, parts, strict=True)}
    return tensors


def from_layout(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor]:
    """Name, stack and shape tensors as our models have them.

    Args:
        tensors: by the names of `layout`; all of a model and nothing else.
        like: a state dict of that model, for its names, shapes and types.
        layout: whose names.

    Returns:
        A state dict.

    Raises:
        ValueError: tensors are missing, unexpected or of the wrong shape.
    """
    wanted = {ours: their_names(ours, layout) for ours in like}
    names = {name for theirs in wanted.values() for name in theirs}
    if missing := names - tensors.keys():
        raise ValueError(f"missing tensors: {some(missing)}")
    if unexpected := tensors.keys() - names:
        raise ValueError(f"unexpected tensors: {some(unexpected)}")
    return {
        ours: _stack({name: tensors[name] for name in theirs}, like[ours])
        for ours, theirs in wanted.items()
    }


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - 3
    return ", ".join(ordered[:3]) + (f" and {more} more" if more > 0 else "")


def _copy(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _stack(parts: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Stack what a layout splits, without the last axis of a convolution of one place."""
    shape = tuple(like.shape)
    if len(parts) > 1:
        shape = (shape[0] // len(parts), *shape[1:])
    for name, part in parts.items():
        if part.shape not in (shape, (*shape, 1)):
            raise ValueError(f"{name} has shape {tuple(part.shape)}, this model needs {shape}")
    flat = [part.reshape(shape) for part in parts.values()]
    return (torch.cat(flat) if len(flat) > 1 else flat[0]).to(like.dtype)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


_PATTERNS = tuple((_pattern(ours), nvlabs, hf) for ours, nvlabs, hf in TABLE)
_PROJECTION = re.compile(r"\w+_projector\.(hidden|out)\.weight")
