"""What the released checkpoints call the tensors of a GroupViT."""

import re
from typing import Literal

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
    ("multi_label_logit_scale", "multi_label_logit_scale", ""),
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
turn (their rows stacked are our tensor), an empty name a tensor that the layout does not have."""


def their_names(name: str, layout: Layout) -> list[str]:
    """What a layout calls one of our tensors.

    Args:
        name: key of our state dict.
        layout: whose names.

    Returns:
        One name; three whose rows are stacked; or none, if the layout drops the tensor.

    Raises:
        KeyError: the layout knows no such part of a model.
    """
    name = name.replace(".pre_assign.", ".pre_assign_attn.")
    for ours, nvlabs, huggingface in _PATTERNS:
        if found := ours.fullmatch(name):
            theirs = nvlabs if layout == "nvlabs" else huggingface
            for part in found.groups():
                theirs = re.sub("[#*]", part, theirs, count=1)
            if "?" in theirs:
                return [theirs.replace("?", part) for part in "qkv"]
            return [theirs] if theirs else []
    raise KeyError(name)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(r"\#", r"(\d+)").replace(r"\*", "(.+)"))


_PATTERNS = tuple((_pattern(ours), nvlabs, hf) for ours, nvlabs, hf in TABLE)
