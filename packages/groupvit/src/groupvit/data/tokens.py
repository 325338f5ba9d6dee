"""CLIP's byte-pair tokenizer, from open_clip."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CONTEXT = 77
"""Tokens a text, padding included."""

VOCABULARY = 49408
"""Ids are below it; the highest ends a text."""


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # seconds, which not every command needs

    return SimpleTokenizer(context_length=CONTEXT)


@lru_cache(maxsize=1 << 15)  # of some 700 bytes each, in every worker
def _tokenize_one(text: str) -> Tensor:
    ids: Tensor = _tokenizer()([text])[0]  # (77,)
    return ids


def tokenize(texts: Sequence[str]) -> Tensor:
    """Token ids of texts: start, byte pairs, end, then zeros; too long a text loses its tail.

    Returns:
        (n, 77) int64.
    """
    return torch.stack([_tokenize_one(text) for text in texts])
