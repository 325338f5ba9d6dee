"""Text banks: what the names of classes look like in the space of images."""

import logging
import textwrap
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from groupvit.config import TextConfig
from groupvit.data.tokens import CONTEXT, VOCABULARY, tokenize
from groupvit.errors import CheckpointError
from groupvit.model.groupvit import GroupViT
from groupvit.texts import Texts

log = logging.getLogger(__name__)

BATCH = 1024
"""Prompts that are read at once, to bound memory."""


def check_reads_text(config: TextConfig) -> None:
    """Raise if a text tower does not read the tokens of CLIP.

    Raises:
        CheckpointError: another vocabulary, or too short a context.
    """
    if config.vocabulary != VOCABULARY or config.context < CONTEXT:
        raise CheckpointError(
            f"texts are {CONTEXT} tokens of CLIP's vocabulary of {VOCABULARY}; this model reads "
            f"{config.context} of {config.vocabulary}, so it cannot be used with words"
        )


def encode_prompts(model: GroupViT, prompts: Sequence[str]) -> Tensor:
    """Project prompts, at most `BATCH` at a time.

    Args:
        model: in evaluation mode.
        prompts: n full prompts; too long a prompt loses its tail.

    Returns:
        (n, D) float32 on the device of the model, not normalised.

    Raises:
        CheckpointError: the model does not read CLIP's tokens.
        ValueError: no prompt.
    """
    check_reads_text(model.config.text)
    if not prompts or isinstance(prompts, str):
        raise ValueError(f"needs a list of at least one prompt, got {prompts!r}")
    starts = range(0, len(prompts), BATCH)
    return torch.cat([_encode_batch(model, prompts[i : i + BATCH]) for i in starts])


def encode_classes(model: GroupViT, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Average the prompts of every class, then normalise (GroupViT's evaluation).

        t_k = normalise(mean over templates of the projection of a filled template)

    The projections are not normalised before they are averaged, as in the release. Long work shows
    its progress on a terminal.

    Args:
        model: in evaluation mode.
        names: of K classes.
        templates: with one `{}` each.

    Returns:
        (K, D) float32 unit rows on the device of the model.

    Raises:
        CheckpointError: the model does not read CLIP's tokens.
        ValueError: no name, a blank name, no template, or a template without `{}`.
    """
    _check_words(names, templates)
    warn_of_long(names, templates)
    step = max(BATCH // len(templates), 1)
    starts = range(0, len(names), step)
    silent = True if len(starts) == 1 else None  # None: unless on a terminal
    rows: list[Tensor] = []
    for start in tqdm(starts, desc="classes", unit="batch", disable=silent):
        some = names[start : start + step]
        prompts = [template.replace("{}", name) for name in some for template in templates]
        filled = encode_prompts(model, prompts)  # (names of the batch x templates, D)
        rows.append(filled.view(len(some), len(templates), -1).mean(dim=1))
    return F.normalize(torch.cat(rows), dim=-1)


def warn_of_long(names: Sequence[str], templates: Sequence[str]) -> None:
    """Say which names are cut, because a template around them passes `CONTEXT` tokens."""
    longest = max(templates, key=len)
    prompts = [longest.replace("{}", name) for name in names]
    full = (tokenize(prompts)[:, -1] != 0).nonzero()[:, 0].tolist()  # no place is left
    if not full:
        return
    from open_clip.tokenizer import SimpleTokenizer  # seconds, which few calls need

    tokenizer = SimpleTokenizer()
    for index in full:
        if len(tokenizer.encode(prompts[index])) > CONTEXT - 2:  # beside a start and an end
            log.warning(
                "the name %r is cut: with %r it is longer than %d tokens",
                textwrap.shorten(names[index], 60),
                longest,
                CONTEXT,
            )


def _encode_batch(model: GroupViT, prompts: Sequence[str]) -> Tensor:
    """(n, D) float32 rows of prompts."""
    return model.encode_text(Texts.of(tokenize(prompts)).to(model.logit_scale.device)).float()


def _check_words(names: Sequence[str], templates: Sequence[str]) -> None:
    if not names or not templates or isinstance(names, str) or isinstance(templates, str):
        raise ValueError(
            f"needs lists of at least one name and one template, got {names!r} and {templates!r}"
        )
    for name in names:
        if not name.strip():
            raise ValueError(f"a class needs a name, got {name!r}")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"a template needs one {{}}, got {template!r}")
