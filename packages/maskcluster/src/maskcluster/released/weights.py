"""Read and write the layout of the published checkpoints."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskcluster.errors import CheckpointError
from maskcluster.model.clip import RANDOM, Clip, load_clip
from maskcluster.model.clustering import EPS_CONVNEXT, EPS_VIT, assign_masks
from maskcluster.model.decoder import MaskDecoder
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import ClassPrompts, DirectPrompts, FixedPrompts, TextTower
from maskcluster.released.clip_config import (
    TOKENIZER,
    build_clip,
    describe_clip,
    without_warning,
)
from maskcluster.released.files import OURS, new_path, read_file, some
from maskcluster.released.layout import (
    CLIP,
    PROMPTS,
    clip_part,
    decoder_part,
    teacher_part,
    to_released,
)

VERSION = 1
"""Of our addition to a file."""

_SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "ViT-B-16-quickgelu": {
        "visual.conv1.weight": (768, 3, 16, 16),
        "visual.positional_embedding": (197, 768),
        "text_projection": (512, 512),
    },
    "ViT-B-32-quickgelu": {
        "visual.conv1.weight": (768, 3, 32, 32),
        "visual.positional_embedding": (50, 768),
        "text_projection": (512, 512),
    },
    "ViT-L-14-quickgelu": {
        "visual.conv1.weight": (1024, 3, 14, 14),
        "visual.positional_embedding": (257, 1024),
        "text_projection": (768, 768),
    },
    "ViT-L-14-336-quickgelu": {
        "visual.conv1.weight": (1024, 3, 14, 14),
        "visual.positional_embedding": (577, 1024),
        "text_projection": (768, 768),
    },
    "convnext_base_w_320": {
        "visual.trunk.stem.0.weight": (128, 3, 4, 4),
        "text_projection": (640, 640),
    },
    "convnext_large_d_320": {
        "visual.trunk.stem.0.weight": (192, 3, 4, 4),
        "text_projection": (768, 768),
    },
}
"""Models that the released code trains, and shapes that tell them: OpenAI's ViTs, which have
QuickGELU, and two of open_clip's ConvNeXts, which have plain GELU."""


def load_released(path: Path | str, *, architecture: str | None = None) -> PixelCLIP:
    """Build the model of a published checkpoint and load its weights, on the CPU.

    What a file does not have is as at the start of a training: the teacher is the student, the
    decoder is random; without class prompts there is no clustering. Class prompts are read under
    the single template of the release. No code in the file is run, whatever it holds.

    The layout is known from the released code; no published file has been read with this yet.

    Args:
        path: a `.pth` file of the release, or what `save_released` wrote.
        architecture: as of `load_clip`. By default it is told from the shapes of the tensors, for
            the models that the released code trains, or from what `save_released` added.

    Returns:
        The model in evaluation mode, float32.

    Raises:
        CheckpointError: no such file, no PixelCLIP, another architecture, or tensors missing,
            unexpected or of the wrong shape.
        RecipeError, DataError: as of `load_clip`, for `architecture`.
    """
    path = Path(path)
    tensors, told = read_file(path)
    weights = clip_part(tensors)
    if not weights:
        raise CheckpointError(f"{path}: has no {CLIP}*, as PixelCLIP's have: {some(tensors)}")
    clip = _empty_clip(path, weights, told, architecture)
    _load(clip.model, weights, path, "CLIP model")
    model = _assembled(clip, tensors, told, path)
    if teacher := teacher_part(tensors):
        _load(model.teacher.tower.visual, teacher, path, "teacher")
    if decoder := decoder_part(tensors):
        _load(model.decoder, decoder, path, "decoder")
    return model.eval()


def save_released(model: PixelCLIP, path: Path | str, *, architecture: str | None = None) -> None:
    """Write a model in the layout of the published checkpoints, for users of the released code.

    What the tensors cannot tell, the configuration of the CLIP model, is written beside them, where
    the released code passes over it and `load_released` finds it.

    Args:
        model: with any prompts; the released code has no names for fixed ones but reads them as
            direct ones.
        path: a file, which must not exist.
        architecture: as of `describe_clip`.

    Raises:
        CheckpointError: prompts that the layout cannot hold, a CLIP model that cannot be described,
            `path` exists, or it cannot be written.
    """
    path = Path(path)
    if path.exists():
        raise CheckpointError(f"{path}: exists; choose another name")
    prompts = _kind_of(model.prompts)
    told = {"version": VERSION, "prompts": prompts, "last_block": last_block_of(model)}
    described = describe_clip(model, architecture)
    told |= described
    if TOKENIZER in described["model_cfg"]["text_cfg"]:
        raise CheckpointError("the layout has no place for a tokenizer; write an open_clip folder")
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    with new_path(path) as part:
        torch.save({"model": to_released(state), OURS: told}, part)


def last_block_of(model: PixelCLIP) -> str:
    """What takes the place of the last block of a model's ViT; "pixelclip" for other towers."""
    return str(getattr(model.tower._layout, "last_block", "pixelclip"))


def is_vit(clip: Clip) -> bool:
    """Whether the image tower is a ViT, of which attention is tuned."""
    tower = getattr(clip.model.visual, "trunk", clip.model.visual)
    return type(tower).__name__ == "VisionTransformer"


def wrap_clip(
    clip: Clip, prompts: nn.Module | None = None, *, last_block: str, decoder_width: int = 64
) -> PixelCLIP:
    """A `PixelCLIP` as the released code trains it: of ViT the attention, of ConvNeXt all."""
    vit = is_vit(clip)
    return PixelCLIP(
        clip,
        prompts,
        assign=partial(assign_masks, eps=EPS_VIT if vit else EPS_CONVNEXT),
        decoder=_first_decoder(decoder_width),
        last_block=last_block,  # type: ignore[arg-type]  # checked by the tower
        trainable="attention" if vit else "all",
    )


def _first_decoder(width: int) -> MaskDecoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MaskDecoder(width)


def _decoder_width(tensors: Mapping[str, Tensor]) -> int:
    """Channels of the decoder of a file, by its first bias; the published ones if it has none."""
    first = decoder_part(tensors).get("layers.0.bias")
    return 64 if first is None else len(first)


def _empty_clip(
    path: Path, weights: Mapping[str, Tensor], told: Mapping[str, Any], architecture: str | None
) -> Clip:
    """The CLIP model of a file, its weights still to be loaded."""
    if architecture is None and "model_cfg" in told:
        if told.get("version") != VERSION:
            raise CheckpointError(
                f"{path}: {OURS} is of version {told.get('version')}, this reads {VERSION}"
            )
        try:
            return build_clip({k: told[k] for k in ("model_cfg", "preprocess_cfg")})
        except (KeyError, CheckpointError) as error:
            raise CheckpointError(f"{path}: {error}") from error
    with without_warning():
        return load_clip(architecture or _told_by_shapes(path, weights), RANDOM)


def _told_by_shapes(path: Path, weights: Mapping[str, Tensor]) -> str:
    for architecture, shapes in _SHAPES.items():
        if all(n in weights and weights[n].shape == shape for n, shape in shapes.items()):
            return architecture
    raise CheckpointError(
        f"{path}: is of none of the models that the released code trains ({', '.join(_SHAPES)}); "
        "give its architecture"
    )


def _assembled(
    clip: Clip, tensors: Mapping[str, Tensor], told: Mapping[str, Any], path: Path
) -> PixelCLIP:
    try:
        prompts = _prompts(clip, tensors.get(PROMPTS), told.get("prompts"))
        return wrap_clip(
            clip,
            prompts,
            last_block=str(told.get("last_block", "pixelclip")),
            decoder_width=_decoder_width(tensors),
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _prompts(clip: Clip, start: Tensor | None, kind: object) -> nn.Module | None:
    """Class prompts of a file: (K, l, d_e) tokens, or (K, D) rows."""
    if start is None:
        return None
    if start.ndim == 3:
        return ClassPrompts(TextTower(clip), start.float(), learnt=kind != "frozen")
    if kind != "fixed":
        return DirectPrompts(start.float())
    prompts = FixedPrompts(start.float())
    prompts.rows.copy_(start)  # they are of unit length, and not to be rounded once more
    return prompts


def _kind_of(prompts: nn.Module | None) -> str:
    """Name of a kind of prompts.

    Raises:
        CheckpointError: they are none that the layout holds.
    """
    if prompts is None:
        return "none"
    if isinstance(prompts, ClassPrompts):
        texts = len(prompts.embeddings()[1]) // prompts.clusters
        if texts > 1:
            raise CheckpointError(
                f"class prompts under {texts} templates cannot be written in the released layout, "
                "which has one; export the CLIP model alone"
            )
        return "learnt" if prompts.tokens.requires_grad else "frozen"
    return "fixed" if isinstance(prompts, FixedPrompts) else "direct"


def _load(module: nn.Module, weights: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Load weights, all of them and no others."""
    own = module.state_dict()
    wrong = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "of another shape": {n for n in own if n in weights and own[n].shape != weights[n].shape},
    }
    found = [f"{word}: {some(names)}" for word, names in wrong.items() if names]
    if found:
        raise CheckpointError(f"{path}: tensors of the {what}: {'; '.join(found)}")
    module.load_state_dict(dict(weights))
