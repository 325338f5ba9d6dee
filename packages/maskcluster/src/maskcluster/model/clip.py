"""CLIP models of open_clip by name, with the tokenizer and the colours that belong to them."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from maskcluster.errors import DataError, FormatError, RecipeError, reason_of
from maskcluster.files import read_json

RANDOM = "random"
"""In place of a tag or a file: weights drawn from a seed."""

Tokenizer = Callable[[Sequence[str]], Tensor]

_READERS = (RuntimeError, OSError, ValueError, KeyError, UnpicklingError, SafetensorError)
"""What goes wrong in readers of weights and tokenizers."""

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""What a folder has of a tokenizer that does not come with open_clip, as SigLIP's."""

_CONFIG = "open_clip_config.json"
FOLDER = "local-dir:"
"""Before the path of a folder, in names of models."""
_HUB = "hf-hub:"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP model, its tokenizer and the colours that it was trained on."""

    model: nn.Module
    """`open_clip.CLIP` or `CustomTextCLIP`, float32."""

    tokenizer: Tokenizer
    """n texts -> (n, T) int64 tokens."""

    mean: tuple[float, ...]
    """Of the three channels, on a scale of 0 to 1; open_clip's preprocessing of these weights."""

    std: tuple[float, ...]
    """Of the three channels, on the same scale."""


def load_clip(architecture: str, pretrained: str = "", *, seed: int = 0) -> Clip:
    """Load a model of open_clip's.

    The activation belongs to the weights: those of a tag that was trained with QuickGELU get it
    also where the architecture's name does not ask for it. Weights from a file cannot say so: name
    a `-quickgelu` architecture for those of OpenAI.

    A tokenizer that does not come with open_clip, as SigLIP's, is read by transformers (extra
    `siglip`) from `TOKENIZER_FILES` in the folder, or fetched from the model hub.

    Args:
        architecture: a name of `open_clip.list_models()`, `local-dir:FOLDER` or `hf-hub:ORG/NAME`.
        pretrained: a tag of open_clip, a file of weights, `random`, or "" for a folder or a hub.
        seed: of random weights.

    Raises:
        RecipeError: no such model, tag or file.
        DataError: weights or a tokenizer that cannot be fetched or read, or weights of another
            architecture.
    """
    import open_clip  # takes seconds

    _check_architecture(open_clip, architecture)
    tokenizer = _load_tokenizer(open_clip, architecture)
    quick = _needs_quick_gelu(open_clip, architecture, pretrained)
    weights = pretrained != RANDOM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = open_clip.create_model(
                architecture,
                pretrained=(pretrained or None) if weights else None,
                load_weights=weights,
                require_pretrained=weights,
                pretrained_text=weights,
                force_quick_gelu=quick,
                weights_only=True,
            )
        except _READERS as error:
            raise DataError(
                f"{architecture} {pretrained}: cannot be loaded ({reason_of(error)})"
            ) from error
    colours: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    return Clip(
        model=model,
        tokenizer=tokenizer,
        mean=tuple(colours["mean"]),
        std=tuple(colours["std"]),
    )


def _check_architecture(open_clip: ModuleType, architecture: str) -> None:
    if architecture.startswith(FOLDER):
        if not (Path(architecture.removeprefix(FOLDER)) / _CONFIG).is_file():
            raise DataError(f"{architecture}: no {_CONFIG} in that folder")
    elif not architecture.startswith(_HUB) and architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"open_clip has no model {architecture!r}{hint}")


def _load_tokenizer(open_clip: ModuleType, architecture: str) -> Tokenizer:
    """The tokenizer of an architecture.

    Raises:
        DataError: its files are not there, or it cannot be read or fetched.
    """
    name = _hub_tokenizer(open_clip, architecture)
    files = " ".join(TOKENIZER_FILES)
    if architecture.startswith(FOLDER) and name:
        folder = Path(architecture.removeprefix(FOLDER))
        # transformers would make up a vocabulary without a word
        if missing := [file for file in TOKENIZER_FILES if not (folder / file).is_file()]:
            raise DataError(
                f"{architecture}: no {' and no '.join(missing)} of its tokenizer; "
                f"hf download {name} {files} --local-dir {folder}"
            )
    try:
        tokenizer: Any = open_clip.get_tokenizer(architecture)
    except ImportError as error:
        raise DataError(
            f"{architecture}: its tokenizer needs transformers: pip install transformers"
        ) from error
    except _READERS as error:
        said = str(error).partition("\n")[0]
        hint = f"; a folder (local-dir:) needs {files} of {name}" if name else ""
        raise DataError(f"{architecture}: no tokenizer ({said}){hint}") from error
    if name:
        tokenizer.tokenizer.name_or_path = name  # where it comes from, not where this copy lies
    return tokenizer  # type: ignore[no-any-return]  # open_clip's


def _hub_tokenizer(open_clip: ModuleType, architecture: str) -> str:
    """Repository of the model hub that has the tokenizer; "" if it comes with open_clip."""
    if architecture.startswith(_HUB):
        return ""  # it is fetched with the rest
    try:
        config = (
            read_json(Path(architecture.removeprefix(FOLDER)) / _CONFIG)["model_cfg"]
            if architecture.startswith(FOLDER)
            else open_clip.get_model_config(architecture)
        )
        return str(config["text_cfg"].get("hf_tokenizer_name") or "")
    except (FormatError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{architecture}: cannot be loaded (no model_cfg.text_cfg to be read in {_CONFIG}: "
            f"{error})"
        ) from error


def _needs_quick_gelu(open_clip: ModuleType, architecture: str, pretrained: str) -> bool:
    """Whether the weights were trained with QuickGELU, as far as they say so."""
    if pretrained in ("", RANDOM) or architecture.startswith((FOLDER, _HUB)):
        return False
    tags: list[str] = open_clip.list_pretrained_tags_by_model(architecture)
    if pretrained not in tags:
        if Path(pretrained).is_file():
            return False
        near = difflib.get_close_matches(pretrained, [*tags, RANDOM], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(
            f"{architecture} has no weights {pretrained!r}, and there is no such file{hint}"
        )
    return bool(open_clip.get_pretrained_cfg(architecture, pretrained).get("quick_gelu", False))
