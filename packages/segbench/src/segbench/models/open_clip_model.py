"""open_clip models by name, checked before use."""

import difflib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from segbench.models.optional import needed
from segbench.models.pixelclip_release import released_clip, wants_quick_gelu
from segbench.models.weights import one_line

RANDOM = "random"
"""In place of a tag or a file: weights drawn from seed 0, for tests and for timing."""

_DEFAULT = "openai"
_FOLDER = "local-dir:"
_HUB = "hf-hub:"


@dataclass(frozen=True, kw_only=True)
class OpenClip:
    """A CLIP model, its tokenizer and the colours that it was trained on."""

    name: str
    """Of the architecture and its weights, such as "ViT-B-16 openai"."""

    model: Any
    """`open_clip.CLIP` or `CustomTextCLIP`, in evaluation mode, float32, without gradients."""

    tokenizer: Any
    """n texts -> (n, T) int64 tokens."""

    mean: tuple[float, ...]
    """Of the three channels, on a scale of 0 to 1; open_clip's preprocessing of these weights."""

    std: tuple[float, ...]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        where: torch.device = next(self.model.parameters()).device
        return where

    @torch.inference_mode()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Project prompts, as open_clip's `encode_text` without normalisation.

        Args:
            prompts: n full prompts; too long a prompt loses its tail, as in open_clip.

        Returns:
            (n, D) float32 on the device of the model.
        """
        tokens = self.tokenizer(list(prompts)).to(self.device)  # (n, T)
        rows: Tensor = self.model.encode_text(tokens).float()
        return rows


def load_open_clip(
    model: str = "ViT-B-16",
    pretrained: str | None = None,
    checkpoint: str | None = None,
    *,
    device: str = "cpu",
    quick_gelu: bool = False,
) -> OpenClip:
    """Load a model of open_clip's.

    The activation belongs to the weights: those of a tag that was trained with QuickGELU get it
    also where the architecture's name does not ask for it. Weights from a file cannot say so: name
    a `-quickgelu` architecture or set `quick_gelu`. Of PixelCLIP's released files it is known.

    Args:
        model: a name of `open_clip.list_models()`, `local-dir:FOLDER` or `hf-hub:ORG/REPO`.
        pretrained: a tag of `open_clip.list_pretrained()`, or "random"; openai where neither this
            nor `checkpoint` is given and the model has that tag.
        checkpoint: a file of weights, in place of a tag; any layout that open_clip reads, or a file
            of PixelCLIP's release.
        device: where the model is put.
        quick_gelu: use QuickGELU in any case.

    Raises:
        ValueError: no such model, tag or file; no weights named, or two; weights of another
            architecture; a download that failed; a device that is not there.
        ModuleNotFoundError: open_clip is not installed.
    """
    open_clip = needed("open_clip", "open_clip_torch")
    _check_model(open_clip, model)
    weights = _weights(open_clip, model, pretrained, checkpoint)
    tag: dict[str, Any] = (
        open_clip.get_pretrained_cfg(model.replace("/", "-"), weights) if weights else {}
    )
    if "quickgelu" in model and tag and not tag.get("quick_gelu", False):
        raise ValueError(f"pretrained {weights!r} was not trained with QuickGELU as {model} has it")
    released = released_clip(Path(checkpoint)) if checkpoint else None
    quick_gelu |= bool(tag.get("quick_gelu", False)) or wants_quick_gelu(released or {})
    options = {"force_quick_gelu": quick_gelu, "device": device}
    with torch.random.fork_rng(devices=[]), _said_by_us():
        torch.manual_seed(0)
        try:
            if released is not None:
                loaded = _without_weights(open_clip, model, options)
                loaded.load_state_dict(released)
            elif pretrained == RANDOM:
                loaded = _without_weights(open_clip, model, options)
            else:
                loaded = open_clip.create_model(
                    model, pretrained=weights, require_pretrained=True, weights_only=True, **options
                )
        # every reader that open_clip tries has errors of its own, RuntimeError most of all
        except Exception as error:
            wanted = checkpoint or pretrained or "its weights"
            hint = "" if checkpoint else "; a file of weights is given by --option.checkpoint=FILE"
            raise ValueError(f"model {model!r} with {wanted}: {one_line(error)}{hint}") from error
    colours = open_clip.get_model_preprocess_cfg(loaded)
    return OpenClip(
        name=" ".join(_last_part(text) for text in (model, pretrained or weights) if text),
        model=loaded.eval().requires_grad_(False),
        tokenizer=open_clip.get_tokenizer(model),
        mean=tuple(colours["mean"]),
        std=tuple(colours["std"]),
    )


def _without_weights(open_clip: ModuleType, model: str, options: dict[str, Any]) -> Any:
    """A model as it is drawn."""
    return open_clip.create_model(model, load_weights=False, pretrained_text=False, **options)


@contextmanager
def _said_by_us() -> Iterator[None]:
    """Leave out what open_clip logs and then raises too, and that weights are random."""
    root = logging.getLogger()  # which open_clip logs to
    root.addFilter(_is_news)
    try:
        yield
    finally:
        root.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "initialized randomly" not in said and "Failed to download weights" not in said


def _last_part(text: str) -> str:
    return text.rstrip("/").rpartition(":")[2].rpartition("/")[2]


def _check_model(open_clip: ModuleType, model: str) -> None:
    if model.startswith(_FOLDER):
        if not (Path(model.removeprefix(_FOLDER)) / "open_clip_config.json").is_file():
            raise ValueError(f"model {model!r}: no open_clip_config.json in that folder")
    elif not model.startswith(_HUB) and model.replace("/", "-") not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see open_clip.list_models()"
        raise ValueError(f"unknown open_clip model {model!r}; {hint}")


def _weights(
    open_clip: ModuleType, model: str, pretrained: str | None, checkpoint: str | None
) -> str | None:
    """What open_clip is to load: a tag or a file; nothing where a folder or a hub says it."""
    if pretrained and checkpoint:
        raise ValueError(f"give pretrained or checkpoint, got {pretrained!r} and {checkpoint!r}")
    if pretrained == RANDOM:
        return None
    if model.startswith((_FOLDER, _HUB)):
        if pretrained or checkpoint:
            raise ValueError(f"{model!r} has its own weights, got {pretrained or checkpoint!r} too")
        return None
    if checkpoint:
        if not Path(checkpoint).is_file():
            raise ValueError(f"no checkpoint at {checkpoint!r}")
        return checkpoint
    tags = open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))
    if not pretrained and _DEFAULT in tags:
        return _DEFAULT
    if not pretrained:
        some = f"one of {', '.join(tags)}" if tags else f"{RANDOM!r}, for this model has no tag"
        raise ValueError(f"{model!r} needs a checkpoint, or pretrained: {some}")
    if pretrained not in tags:
        raise ValueError(
            f"unknown pretrained {pretrained!r} of {model!r}; known: {', '.join(tags) or RANDOM}"
        )
    return pretrained
