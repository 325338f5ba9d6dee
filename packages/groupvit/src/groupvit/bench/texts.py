"""Made-up texts whose lengths are those of captions from the web and of prompted words."""

import torch
from torch import Tensor

from groupvit.texts import Texts

END = 49407


def made_up_ids(pairs: int, concepts: int, *, seed: int = 0) -> Tensor:
    """Captions of 6 to 77 tokens, 24 on average, and prompts of 7 to 12.

    Args:
        pairs: B.
        concepts: prompts a pair, L.
        seed: of ids and lengths.

    Returns:
        (B, 1 + L, 77) int64, padded with 0.
    """
    random = torch.Generator().manual_seed(seed)
    caption = 6 + (torch.rand(pairs, 1, generator=random).log() * -19).long()
    prompts = torch.randint(7, 13, (pairs, concepts), generator=random)
    length = torch.cat([caption, prompts], dim=1).clamp(max=77)  # (B, 1 + L)
    place = torch.arange(77)
    ids = torch.randint(1, END - 1, (*length.shape, 77), generator=random)
    ids = ids.where(place < length[..., None], 0)
    return ids.masked_fill(place == length[..., None] - 1, END)


def all_padded(ids: Tensor) -> Texts:
    """A row a text with all of its padding, as the original reads them."""
    flat = ids.flatten(0, -2)  # (n, T)
    count, width = flat.shape
    places = torch.arange(width).expand(count, -1)
    ends = torch.arange(count) * width + flat.argmax(dim=1)
    owners = torch.zeros_like(flat)
    return Texts(flat, places, owners, ends, width, tuple(ids.shape[:-1]))
