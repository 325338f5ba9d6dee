"""A model of SigLIP's kind that is small enough for tests, and tokenizers that are made here.

Test modules run this file (`runpy.run_path`).
"""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import timm
from safetensors.torch import save_file
from timm.models import VisionTransformer, register_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))

TOWER = "vit_of_two_blocks_siglip_32"
WORDS = ("a", "photo", "of", "in", "the", "scene", "cat", "dog", "grass", "bad", "large")
SIZES: dict[str, Any] = {
    "embed_dim": 24,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": TOWER,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 20,
        "vocab_size": 64,
        "hf_tokenizer_name": "timm/small-siglip",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 24,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
COLOURS = {"mean": [0.5] * 3, "std": [0.5] * 3}


def vit_of_two_blocks_siglip_32(**_: Any) -> VisionTransformer:
    """timm has no tower of SigLIP's kind that is small."""
    made = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0,
        class_token=False, global_pool="map",
    )  # fmt: skip
    made.default_cfg = {"architecture": TOWER}
    return made


if not timm.is_model(TOWER):
    vit_of_two_blocks_siglip_32.__module__ = VisionTransformer.__module__  # timm asks for one
    register_model(vit_of_two_blocks_siglip_32)


def write_tokenizer(folder: Path, *, padding: str = "</s>", start: str = "") -> None:
    """A tokenizer of words and letters, in the files that SigLIP's has.

    Args:
        folder: to write to.
        padding: `</s>`, as SigLIP has it, or `<pad>`, as SigLIP 2.
        start: "" (both), or a start token.
    """
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<s>", 0.0)]
    pieces += [(f"\u2581{word}", -2.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz"]
    made = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [(token, pieces.index((token, 0.0))) for token in ("</s>", "<s>")]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A </s>".strip(), special_tokens=special
    )
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "pad_token": padding,
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_siglip(folder: Path, *, text: dict[str, Any] | None = None, **tokenizer: str) -> None:
    """Configuration, weights and tokenizer as they lie in SigLIP's repositories of the model hub.

    Args:
        folder: to make.
        text: fields of `text_cfg` that are others.
        tokenizer: see `write_tokenizer`.
    """
    import torch
    from open_clip.model import CustomTextCLIP

    sizes = {**SIZES, "text_cfg": {**SIZES["text_cfg"], **(text or {})}}
    torch.manual_seed(0)
    model = CustomTextCLIP(
        **{name: value for name, value in sizes.items() if name != "custom_text"}
    )
    restated.roughen(model)
    folder.mkdir()
    described = {"model_cfg": sizes, "preprocess_cfg": COLOURS}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    write_tokenizer(folder, **tokenizer)
