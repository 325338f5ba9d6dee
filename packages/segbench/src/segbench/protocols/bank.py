"""Text banks: one unit row a class, from names, templates and an averaging order."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from segbench.errors import ModelError
from segbench.words import fill_template

Averaging = Literal["normalise_mean_normalise", "mean_then_normalise"]
"""normalise_mean_normalise: CLIP's notebook, MaskCLIP, SCLIP, PixelCLIP.
mean_then_normalise: GroupViT, CoCu, TCL, whose text encoders return raw projections."""

_BATCH = 256  # prompts encoded at a time
_SOON = 8  # batches that need no progress shown


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
        ValueError: no name, no template or unknown order.
        ModelError: an embedding that is zero or not finite, or not one a prompt.
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
    is_long = len(batches) > _SOON  # 80 templates of 1000 classes take hours of a CPU
    bar = tqdm(
        batches, desc="text bank", unit="batch", disable=None if is_long else True, leave=False
    )
    rows = torch.cat([_checked(encode_text(batch), len(batch)) for batch in bar])  # (n, D)
    norms = rows.norm(dim=1)  # (n,)
    if not bool((norms.isfinite() & (norms > 0)).all()):
        raise ModelError("encode_text gave an embedding that is zero or not finite")
    return rows


def _checked(rows: Tensor, prompts: int) -> Tensor:
    if not isinstance(rows, Tensor):
        raise ModelError(f"encode_text must give a tensor, got {type(rows).__name__}")
    if rows.ndim != 2 or len(rows) != prompts:
        raise ModelError(f"encode_text of {prompts} prompts gave {tuple(rows.shape)}")
    return rows.float()


def _average(block: Tensor, averaging: Averaging) -> Tensor:
    """(T, S, D) embeddings of one class -> (D,) unit row."""
    if averaging == "mean_then_normalise":
        return F.normalize(block.mean(dim=(0, 1)), dim=0)
    if averaging == "normalise_mean_normalise":
        by_template = F.normalize(F.normalize(block, dim=2).mean(dim=1), dim=1)  # (T, D)
        return F.normalize(by_template.mean(dim=0), dim=0)
    raise ValueError(f"averaging must be one of {Averaging}, got {averaging!r}")
