"""What an open_clip model is, as the configuration that builds it again."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maskcluster.errors import CheckpointError, MaskClusterError
from maskcluster.model.clip import RANDOM, Clip, load_clip
from maskcluster.model.pixelclip import PixelCLIP

CONFIG = "open_clip_config.json"
"""Of open_clip's folders (`local-dir:`)."""

TOKENIZER = "hf_tokenizer_name"
"""Field of `text_cfg` that names a tokenizer which does not come with open_clip."""

Table = dict[str, Any]

_EPS = 1e-5
"""Of layer norms, unless a configuration says otherwise."""

_PREPROCESS = {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
"""Of `preprocess_cfg`, beside the colours: open_clip's defaults."""


def describe_clip(model: PixelCLIP, architecture: str | None = None) -> Table:
    """Configuration of the CLIP model inside, as open_clip's folders have it.

    It is read off the modules: a ViT of open_clip's own, a ConvNeXt or SigLIP's ViT, with
    open_clip's own text tower. That it builds the same model is tried out: both embed one image and
    one text. A tokenizer that does not come with open_clip is named; its files are not here.

    Args:
        model: whose CLIP model it is.
        architecture: a name of `open_clip.list_models()`, in place of reading; the activation and
            the colours are the model's all the same.

    Returns:
        Tables `model_cfg` and `preprocess_cfg`.

    Raises:
        CheckpointError: a model that cannot be described so.
    """
    try:
        sizes = _read_sizes(model.clip) if architecture is None else _registered(architecture)
        sizes["text_cfg"] |= _read_tokenizer(model.tokenizer)
    except (AttributeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"the CLIP model cannot be described ({error}); give the name of its architecture"
        ) from error
    sizes = {**sizes, "quick_gelu": _has_quick_gelu(model.clip)}
    config = {"model_cfg": sizes, "preprocess_cfg": _read_colours(model)}
    _check_same(model.clip, config)
    return config


def build_clip(config: Mapping[str, Any]) -> Clip:
    """Build the model of a configuration, with random weights.

    Raises:
        CheckpointError: there is no such model.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
            with without_warning():
                return load_clip(f"local-dir:{folder}", RANDOM)
        except (MaskClusterError, TypeError) as error:
            said = str(error).replace(f"local-dir:{folder}", "its configuration")
            raise CheckpointError(f"no CLIP model can be built: {said}") from error


@contextmanager
def without_warning() -> Iterator[None]:
    """Leave out open_clip's warning that weights are random, where others are loaded next."""
    root = logging.getLogger()  # which open_clip logs to
    root.addFilter(_is_not_of_random_weights)
    try:
        yield
    finally:
        root.removeFilter(_is_not_of_random_weights)


def _is_not_of_random_weights(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "initialized randomly" not in said and "no CLIP weights found" not in said


def _registered(architecture: str) -> Table:
    import open_clip  # takes seconds

    found: Table | None = open_clip.get_model_config(architecture)
    if found is None:
        raise KeyError(f"open_clip has no model {architecture!r}")
    return found


def _read_sizes(clip: Any) -> Table:
    """`model_cfg` of a model, without its activation."""
    kind = type(clip).__name__
    if kind not in ("CLIP", "CustomTextCLIP"):
        raise TypeError(f"is a {kind}")
    text = getattr(clip, "text", clip)
    if type(text).__name__ not in ("CLIP", "TextTransformer"):
        raise TypeError(f"has a {type(text).__name__} for texts")
    sizes: Table = {"embed_dim": _width_out(text)}
    sizes["vision_cfg"] = (
        _read_timm(clip.visual) if hasattr(clip.visual, "trunk") else _read_vit(clip.visual)
    )
    sizes["text_cfg"] = _read_text(text)
    if text is not clip:
        sizes["custom_text"] = True
    if clip.logit_bias is not None:
        sizes["init_logit_bias"] = float(clip.logit_bias.detach().mean())
    return sizes


def _read_vit(visual: Any) -> Table:
    width, patch = visual.conv1.out_channels, visual.conv1.kernel_size
    return {
        "image_size": _one(visual.image_size),
        "patch_size": _one(patch),
        "width": width,
        **_read_blocks(visual.transformer.resblocks, width),
        "head_width": width // visual.transformer.resblocks[0].attn.num_heads,
    }


def _read_timm(visual: Any) -> Table:
    if getattr(visual.trunk, "attn_pool", None) is not None:
        return {
            "timm_model_name": visual.trunk.default_cfg["architecture"],
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": _one(visual.image_size),
        }
    head = visual.head
    rates = [float(getattr(part, "drop_prob", 0) or 0) for part in visual.trunk.modules()]
    proj = head.proj if hasattr(head, "proj") else head.mlp.fc2
    return {
        "timm_model_name": visual.trunk.default_cfg["architecture"],
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear" if hasattr(head, "proj") else "mlp",
        "timm_proj_bias": proj.bias is not None,
        "timm_drop": float(head.drop.p if hasattr(head, "drop") else head.mlp.drop1.p),
        "timm_drop_path": round(max(rates, default=0.0), 6),
        "image_size": _one(visual.image_size),
    }


def _read_text(text: Any) -> Table:
    width = text.token_embedding.embedding_dim
    return {
        "context_length": text.positional_embedding.shape[0],
        "vocab_size": text.token_embedding.num_embeddings,
        "width": width,
        "heads": text.transformer.resblocks[0].attn.num_heads,
        **_read_blocks(text.transformer.resblocks, width),
        **({"proj_bias": True} if getattr(text.text_projection, "bias", None) is not None else {}),
        **_read_reading(text),
    }


def _read_reading(text: Any) -> Table:
    """How a text tower differs from CLIP's: what SigLIP's does."""
    found: Table = {}
    if text.attn_mask is None:
        found["no_causal_mask"] = True
    pool = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", "argmax")
    if pool != "argmax":
        found["pool_type"] = pool
    if text.ln_final.eps != _EPS:
        found["norm_kwargs"] = {"eps": text.ln_final.eps}
    rounded = getattr(text.transformer.resblocks[0].mlp.gelu, "approximate", "none")
    if rounded != "none":
        found["act_kwargs"] = {"approximate": rounded}
    return found


def _read_tokenizer(tokenizer: Any) -> Table:
    """Fields of `text_cfg` for a tokenizer that does not come with open_clip."""
    if type(tokenizer).__name__ != "HFTokenizer":
        return {}
    options: Table = {"clean": tokenizer.clean_fn.__name__.removeprefix("_clean_")}
    if tokenizer.strip_sep_token:
        options["strip_sep_token"] = True
    found: Table = {"tokenizer_kwargs": options}
    if tokenizer.tokenizer_mode:
        found["tokenizer_mode"] = tokenizer.tokenizer_mode
    return {TOKENIZER: tokenizer.tokenizer.name_or_path, **found}


def _read_blocks(blocks: Any, width: int) -> Table:
    """Number of blocks, and what differs from open_clip's defaults."""
    found: Table = {"layers": len(blocks)}
    ratio = blocks[0].mlp.c_fc.out_features / width
    if ratio != 4:
        found["mlp_ratio"] = ratio
    if hasattr(blocks[0].ls_1, "gamma"):
        found["ls_init_value"] = 1.0  # any number: the trained values are among the weights
    return found


def _width_out(text: Any) -> int:
    projection = text.text_projection
    if isinstance(projection, nn.Linear):
        return projection.out_features
    return int(projection.shape[1])


def _one(side: Any) -> int | list[int]:
    """One number for a square."""
    if isinstance(side, int):
        return side
    sides = [int(one) for one in side]
    return sides[0] if len(set(sides)) == 1 else sides


def _has_quick_gelu(model: nn.Module) -> bool:
    return any(type(part).__name__ == "QuickGELU" for part in model.modules())


def _read_colours(model: PixelCLIP) -> Table:
    """`preprocess_cfg`: the colours are those of the model, the rest open_clip's."""
    kept = getattr(model.clip.visual, "preprocess_cfg", {})
    rest = {name: kept.get(name, usual) for name, usual in _PREPROCESS.items()}
    return {"mean": model.mean.flatten().tolist(), "std": model.std.flatten().tolist(), **rest}


def _without_tokenizer(config: Mapping[str, Any]) -> Table:
    """The same towers, for token ids alone."""
    plain = deepcopy(dict(config))
    for field in (TOKENIZER, "tokenizer_kwargs", "tokenizer_mode"):
        plain["model_cfg"]["text_cfg"].pop(field, None)
    return plain


@torch.no_grad()
def _check_same(clip: nn.Module, config: Mapping[str, Any]) -> None:
    """Try out that a configuration builds a model.

    Raises:
        CheckpointError: it builds another one.
    """
    own: Any = deepcopy(clip).cpu().float().eval()
    built: Any = build_clip(_without_tokenizer(config)).model.eval()
    generator = torch.Generator().manual_seed(0)
    try:
        built.load_state_dict(own.state_dict())
        sides = own.visual.image_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        image = torch.rand(1, 3, height, width, generator=generator)
        text = getattr(own, "text", own)
        words = text.token_embedding.num_embeddings
        ids = torch.randint(words, (1, len(text.positional_embedding)), generator=generator)
        same = torch.equal(own.encode_image(image), built.encode_image(image)) and torch.equal(
            own.encode_text(ids), built.encode_text(ids)
        )
    except (RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the CLIP model cannot be described ({said})") from error
    if not same:
        raise CheckpointError(
            "the CLIP model cannot be described: what its configuration builds computes something "
            "else; give the name of its architecture"
        )
