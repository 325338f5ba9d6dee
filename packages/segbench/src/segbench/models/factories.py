"""Factories of segmenters, to be named on the command line: `segbench.models:maskclip`.

All take the options of `ClipSource`, which say what CLIP model it is; without any they take
OpenAI's ViT-B/16, as the papers do.
"""

from collections.abc import Mapping
from typing import TypedDict, Unpack

from segbench.models.dense_clip import DenseClip
from segbench.models.last_block import (
    ClearClip,
    LastLayer,
    MaskClip,
    NaClip,
    PixelClip,
    PlainClip,
    SClip,
)
from segbench.models.open_clip_model import load_open_clip
from segbench.models.proxy import PatchBackbone, ProxyClip, load_backbone
from segbench.models.weights import title


class ClipSource(TypedDict, total=False):
    """Options of `load_open_clip`, which every factory takes."""

    model: str
    """A name of `open_clip.list_models()`, `local-dir:FOLDER` or `hf-hub:ORG/REPO`; ViT-B-16."""

    pretrained: str
    """A tag of open_clip, or "random"; openai where the model has it and no checkpoint is given."""

    checkpoint: str
    """A file of weights, in place of a tag; PixelCLIP's released files too."""

    device: str
    """Where the model is put; cpu."""

    quick_gelu: bool
    """Use QuickGELU. Tags say themselves whether they need it; a checkpoint cannot."""


def clip(**source: Unpack[ClipSource]) -> DenseClip:
    """Dense CLIP with nothing changed; see `PlainClip`."""
    return _dense("clip", PlainClip(), source)


def maskclip(*, whole_block: bool = True, **source: Unpack[ClipSource]) -> DenseClip:
    """MaskCLIP; see `MaskClip`."""
    options = {} if whole_block else {"whole_block": False}
    return _dense("maskclip", MaskClip(whole_block), source, options)


def sclip(**source: Unpack[ClipSource]) -> DenseClip:
    """SCLIP; see `SClip`."""
    return _dense("sclip", SClip(), source)


def clearclip(**source: Unpack[ClipSource]) -> DenseClip:
    """ClearCLIP; see `ClearClip`."""
    return _dense("clearclip", ClearClip(), source)


def naclip(*, sigma: float = 5.0, **source: Unpack[ClipSource]) -> DenseClip:
    """NACLIP; see `NaClip`.

    Args:
        sigma: width of the Gaussian in patches.
        **source: which CLIP model.
    """
    return _dense("naclip", NaClip(sigma), source, {"sigma": sigma} if sigma != 5.0 else {})


def pixelclip(*, input_px: int = 320, **source: Unpack[ClipSource]) -> DenseClip:
    """PixelCLIP's dense path; see `PixelClip`.

    As its evaluation does, images are squashed to a square, and features are resized bilinearly to
    64 x 64 before they are normalised.

    Args:
        input_px: side of the square; 0 takes images at their own size.
        **source: which CLIP model; `checkpoint` may be a file of PixelCLIP's release.
    """
    return DenseClip(
        clip := load_open_clip(**source),
        PixelClip(),
        name=title("pixelclip", clip.name, {"input_px": input_px} if input_px != 320 else {}),
        input_px=input_px or None,
        feature_px=64,
    )


def proxyclip(
    *,
    backbone: str = "vit_base_patch8_224.dino",
    backbone_checkpoint: str | None = None,
    beta: float = 1.2,
    gamma: float = 3.0,
    **source: Unpack[ClipSource],
) -> DenseClip:
    """ProxyCLIP; see `ProxyClip`.

    Args:
        backbone: a vision transformer of timm.
        backbone_checkpoint: a file with its weights, or "random"; timm's own when left out.
        beta: shift of the similarities, in units of their mean.
        gamma: their scale.
        **source: which CLIP model.
    """
    clip = load_open_clip(**source)
    network = load_backbone(backbone, backbone_checkpoint, device=source.get("device", "cpu"))
    options = {"beta": beta} if beta != 1.2 else {}
    options |= {"gamma": gamma} if gamma != 3.0 else {}
    return DenseClip(
        clip,
        ProxyClip(PatchBackbone(network), beta, gamma),
        name=title("proxyclip", f"{clip.name} {backbone}", options),
        others={"backbone": network},
    )


def _dense(
    method: str,
    last_layer: LastLayer,
    source: ClipSource,
    options: Mapping[str, object] | None = None,
) -> DenseClip:
    clip = load_open_clip(**source)
    return DenseClip(clip, last_layer, name=title(method, clip.name, options or {}))
