"""Text banks: one unit row a class, from names, templates and an averaging order."""

import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.errors import FormatError, UsageError, unknown

Averaging = Literal["normalise_mean_normalise", "mean_then_normalise"]
"""normalise_mean_normalise: CLIP's notebook, MaskCLIP, SCLIP, PixelCLIP.
mean_then_normalise: GroupViT, CoCu, TCL, whose text encoders return raw projections."""

NAME_SLOT = re.compile(r"\{(?:c|category)?\}")
_BATCH = 256  # prompts encoded at a time


def load_templates(name: str) -> tuple[str, ...]:
    """Templates of a set that comes with the package.

    Args:
        name: a file of `prompts/` without its suffix, optionally with `:set`.

    Raises:
        UsageError: no such file or set.
    """
    content, variant = _load("prompts", name)
    templates = content["sets"][variant] if variant else content["templates"]
    return tuple(templates)


def load_names(name: str) -> tuple[str, ...]:
    """Class names of a list that comes with the package.

    Args:
        name: a file of `classnames/` without its suffix, optionally with `:variant`.

    Raises:
        UsageError: no such file or variant, or the file is no list of names.
    """
    content, variant = _load("classnames", name)
    classes = content["variants"][variant]["classes"] if variant else content.get("classes")
    if not (classes and all(isinstance(entry, str) for entry in classes)):
        raise UsageError(f"{name!r} does not hold one name a class")
    return tuple(classes)


def load_queries(name: str) -> tuple[tuple[str, ...], ...]:
    """Names of classes, each with all of its synonyms; a list of single names has one each.

    Args:
        name: as of `load_names`.

    Raises:
        UsageError: no such file or variant, or the file is no list of names.
    """
    content, variant = _load("classnames", name)
    classes = content["variants"][variant]["classes"] if variant else content.get("classes")
    if not classes:
        raise UsageError(f"{name!r} does not hold names of classes")
    return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in classes)


def list_sets(folder: Literal["prompts", "classnames"]) -> list[str]:
    """Names of the files of a folder of the package, without suffix, sorted."""
    entries = (files("segbench") / folder).iterdir()
    return sorted(e.name.removesuffix(".json") for e in entries if e.name.endswith(".json"))


def _load(folder: Literal["prompts", "classnames"], name: str) -> tuple[dict[str, Any], str]:
    stem, _, variant = name.partition(":")
    if stem not in list_sets(folder):
        raise UsageError(unknown(folder, stem, list_sets(folder)))
    text = (files("segbench") / folder / f"{stem}.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    known = content.get("sets" if folder == "prompts" else "variants", {})
    if variant and variant not in known:
        raise UsageError(unknown(f"variant of {stem}", variant, known))
    return content, variant


def fill_template(template: str, name: str) -> str:
    """Put a class name into a template.

    Args:
        template: with a slot `{}`, `{c}` or `{category}` for the name; `{article}` becomes "a" or
            "an" by the first letter of the name.
        name: the class name, or one synonym of it.

    Raises:
        FormatError: the template has no slot for the name, or a slot that is not known.
    """
    if not NAME_SLOT.search(template):
        raise FormatError(f"template {template!r} has no slot {{}} for the class name")
    article = "an" if name[:1].lower() in set("aeiou") else "a"
    text = NAME_SLOT.sub(lambda _: name, template.replace("{article}", article))
    left = re.search(r"\{\w*\}", text)
    if left and left.group() not in name:
        raise FormatError(f"template {template!r} has an unknown slot {left.group()}")
    return text


def clean_name(name: str, suffixes: Sequence[str]) -> str:
    """Take `suffixes` off the end of a name until none is left: "wall-other-merged" -> "wall"."""
    for suffix in suffixes:
        if suffix and name != suffix and name.endswith(suffix):
            return clean_name(name.removesuffix(suffix), suffixes)
    return name


@torch.inference_mode()
def build_bank(
    encode_text: Callable[[Sequence[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str],
    averaging: Averaging = "normalise_mean_normalise",
    *,
    split_synonyms: bool = False,
) -> Tensor:
    """Embed class names as unit rows.

    With e[s, t] the embedding of synonym s under template t and |x| = x / norm(x):

        normalise_mean_normalise    | mean over t of | mean over s of |e[s, t]| | |
        mean_then_normalise         | mean over t and s of e[s, t] |

    The two are not equal: the second lets long embeddings weigh more.

    Args:
        encode_text: n prompts -> (n, D) raw embeddings.
        names: K class names.
        templates: at least one, each with a slot for the name.
        averaging: which of the two orders.
        split_synonyms: split a name on ", " into synonyms.

    Returns:
        (K, D) float32 unit rows on the encoder's device.

    Raises:
        ValueError: no name, no template, unknown order, or an embedding that is zero or not finite.
        FormatError: a template without a slot.
    """
    if not names or not templates:
        raise ValueError(f"a bank needs names and templates, got {len(names)} and {len(templates)}")
    synonyms = [name.split(", ") if split_synonyms else [name] for name in names]
    prompts = [fill_template(t, s) for group in synonyms for t in templates for s in group]
    rows = _encode(encode_text, prompts)  # (n, D), by class, then template, then synonym
    sizes = [len(templates) * len(group) for group in synonyms]
    blocks = torch.split(rows, sizes)  # K of (T * S, D)
    means = [
        _average(block.view(len(templates), -1, block.shape[1]), averaging) for block in blocks
    ]
    return torch.stack(means)  # (K, D)


def _encode(encode_text: Callable[[Sequence[str]], Tensor], prompts: Sequence[str]) -> Tensor:
    batches = [prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH)]
    rows = torch.cat([encode_text(batch).float() for batch in batches])  # (n, D)
    if rows.ndim != 2 or len(rows) != len(prompts):
        raise ValueError(f"encode_text of {len(prompts)} prompts gave {tuple(rows.shape)}")
    norms = rows.norm(dim=1)  # (n,)
    if not bool((norms.isfinite() & (norms > 0)).all()):
        raise ValueError("encode_text gave an embedding that is zero or not finite")
    return rows


def _average(block: Tensor, averaging: Averaging) -> Tensor:
    """(T, S, D) embeddings of one class -> (D,) unit row."""
    if averaging == "mean_then_normalise":
        return F.normalize(block.mean(dim=(0, 1)), dim=0)
    if averaging == "normalise_mean_normalise":
        by_template = F.normalize(F.normalize(block, dim=2).mean(dim=1), dim=1)  # (T, D)
        return F.normalize(by_template.mean(dim=0), dim=0)
    raise ValueError(f"averaging must be one of {Averaging}, got {averaging!r}")
