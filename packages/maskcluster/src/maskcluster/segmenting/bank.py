"""Text banks: what the names of classes look like in the space of images."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from maskcluster.model.pixelclip import PixelCLIP, clip_of
from maskcluster.model.prompts import TEMPLATES, TextTower
from maskcluster.precision import wide

SYNONYMS = ", "
"""What stands between the synonyms of a class in its name."""

BATCH = 256
"""Prompts that are read at once, to bound memory."""

_SOON = 8  # batches that need no progress shown


def encode_prompts(model: PixelCLIP, prompts: Sequence[str]) -> Tensor:
    """Project prompts with the text tower, at most `BATCH` at a time.

    CLIP's tower runs on the positions up to the end of the longest prompt: what follows cannot
    change anything, and prompts take some 10 of 77 positions (`TextTower`).

    Args:
        model: in evaluation mode.
        prompts: n full prompts; too long a prompt loses its tail, as in open_clip.

    Returns:
        (n, D) float32 on the device of the model, not normalised.

    Raises:
        ValueError: no prompt.
    """
    if not prompts or isinstance(prompts, str):
        raise ValueError(f"needs a list of at least one prompt, got {prompts!r}")
    read = _reader(model)
    starts = range(0, len(prompts), BATCH)
    bar = tqdm(
        starts, desc="text bank", unit="batch", disable=True if len(starts) <= _SOON else None
    )
    return torch.cat([read(model.tokenizer(list(prompts[i : i + BATCH]))) for i in bar])


def class_bank(
    encode_text: Callable[[Sequence[str]], Tensor],
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Tensor:
    """Embed class names as the published model is tested with them (spec of PixelCLIP, inference).

    With e[s, t] the embedding of synonym s under template t and |x| = x / norm(x):

        row = | mean over t of | mean over s of |e[s, t]| | |

    Articles are taken as the templates have them.

    Args:
        encode_text: n prompts -> (n, D) embeddings of any length.
        names: of K classes; ", " separates synonyms of one class.
        templates: with one `{}` each; the published eight by default.

    Returns:
        (K, D) unit rows, in float32 at least.

    Raises:
        ValueError: no name, a blank one, no template, or one without `{}`.
    """
    synonyms = _split(names, templates)
    prompts = [t.replace("{}", s) for group in synonyms for t in templates for s in group]
    unit = F.normalize(wide(encode_text(prompts)), dim=1)  # (n, D), class by class
    blocks = torch.split(unit, [len(templates) * len(group) for group in synonyms])
    means = [
        F.normalize(block.view(len(templates), -1, block.shape[1]).mean(dim=1), dim=1).mean(dim=0)
        for block in blocks
    ]  # K of (D,)
    return F.normalize(torch.stack(means), dim=1)


def _split(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Synonyms of each class."""
    if not names or not templates or isinstance(names, str) or isinstance(templates, str):
        raise ValueError(
            f"needs lists of at least one name and one template, got {names!r} and {templates!r}"
        )
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"a template needs one {{}}, got {template!r}")
    found = [[word for word in name.split(SYNONYMS) if word.strip()] for name in names]
    for name, words in zip(names, found, strict=True):
        if not words:
            raise ValueError(f"a class needs a name, got {name!r}")
    return found


def _reader(model: PixelCLIP) -> Callable[[Tensor], Tensor]:
    """What turns (n, T) token ids into (n, D) features."""
    try:
        return TextTower(clip_of(model)).read
    except ValueError:  # a tower that class prompts cannot go through, as CoCa's
        device = model.mean.device
        return lambda ids: wide(model.clip.encode_text(ids.to(device)))  # type: ignore[operator]
