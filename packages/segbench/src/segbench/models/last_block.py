"""What each method does in place of the last block of CLIP's vision transformer.

    method      attention of the last block             residual    feed-forward
    clip        softmax(q k^T / sqrt d) v               yes         yes
    maskclip    v                                       yes         yes
    sclip       (softmax(q q^T) + softmax(k k^T)) v     yes         yes
    clearclip   softmax(q q^T / sqrt d) v               no          no
    naclip      softmax(k k^T / sqrt d + Gaussian) v    no          no
    pixelclip   v                                       class token yes

ProxyCLIP, which asks a second network, is in `proxy.py`. All but the last block is CLIP's own.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from segbench.models.vit import LastBlock, Seen


class LastLayer(Protocol):
    """What a method does in place of the last block."""

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """Features of places.

        Args:
            block: parts of CLIP's last block.
            seen: an image, and its tokens before that block.

        Returns:
            (h, w, C) features before the final layer norm, covering the image evenly.
        """
        ...


@dataclass(frozen=True)
class PlainClip:
    """CLIP as it was trained: the last layer's patch tokens."""

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        return seen.on_grid(block.whole(seen.tokens)[1:])


@dataclass(frozen=True)
class MaskClip:
    """The value path: every patch by itself.

    MaskCLIP (Zhou et al., ECCV 2022, arXiv:2112.01071, sec. 3.2) drops the query and key embeddings
    of the last attention and makes the value embedding and the last linear layer 1 x 1
    convolutions:

        y = W_o W_v ln_1(x)

    The paper states it for attention pooling, where nothing follows but the projection. What
    becomes of the residual and the feed-forward network of a ViT it does not say; its released code
    keeps both: x + y, and then the feed-forward network.

    Attributes:
        whole_block: keep both. Without them the values stand alone, as in methods that came later.
    """

    whole_block: bool = True

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        patches = seen.tokens[1:]  # (N, C)
        out = block.output(block.project(patches)[2])  # (N, C)
        if self.whole_block:
            out = block.feed_forward(patches + out)
        return seen.on_grid(out)


@dataclass(frozen=True)
class SClip:
    """Correlative self-attention.

    SCLIP (Wang et al., ECCV 2024, arXiv:2312.01597, sec. 3.2), with tau = sqrt(d):

        y = x + W_o (softmax(q q^T / tau) + softmax(k k^T / tau)) v

    then the feed-forward network; d is the width of a head. The two maps are added and not
    averaged, so rows sum to 2. The class token takes part as any token.
    """

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        query, key, value = block.project(seen.tokens)  # (heads, 1 + N, d) each
        mixed = _attend(query, value) + _attend(key, value)  # (heads, 1 + N, d)
        out = block.feed_forward(seen.tokens + block.output(mixed))  # (1 + N, C)
        return seen.on_grid(out[1:])


@dataclass(frozen=True)
class ClearClip:
    """Attention alone: no residual, no feed-forward network.

    ClearCLIP (Lan et al., ECCV 2024, arXiv:2407.12442, sec. 3.3):

        y = W_o softmax(q q^T / sqrt(d)) v

    The class token takes part as any token.
    """

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        query, _, value = block.project(seen.tokens)  # (heads, 1 + N, d) each
        return seen.on_grid(block.output(_attend(query, value))[1:])


@dataclass(frozen=True)
class NaClip:
    """Attention to neighbours.

    NACLIP (Hajimiri et al., WACV 2025, arXiv:2404.08181, sec. 4), in the reduced architecture,
    which has neither residual nor feed-forward network:

        y = W_o softmax(k k^T / sqrt(d) + omega) v
        omega[i, j] = exp(-|place of i - place of j|^2 / (2 sigma^2))       places in patches

    The Gaussian is 1 at its centre. The paper is silent on the class token: in its released code,
    and here, it takes part as any token, with omega 0. What the release adds after the scores
    (PAMR, on by default) is no part of this.

    Attributes:
        sigma: width of the Gaussian in patches, > 0.
    """

    sigma: float = 5.0

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma must be > 0, got {self.sigma}")

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        _, key, value = block.project(seen.tokens)  # (heads, 1 + N, d) each
        near = neighbourhood(seen.grid, self.sigma, key.device).to(key.dtype)  # (N, N)
        bias = F.pad(near, (1, 0, 1, 0))  # (1 + N, 1 + N), 0 for the class token
        return seen.on_grid(block.output(_attend(key, value, bias))[1:])


@dataclass(frozen=True)
class PixelClip:
    """The value path with the class token in place of the residual.

    As PixelCLIP was trained (arXiv:2409.19846; its code): with c the class token before the block,

        y = c + W_o W_v ln_1(x),        z = y + mlp(ln_2(y))
    """

    def __call__(self, block: LastBlock, seen: Seen) -> Tensor:
        """(h, w, C); see `LastLayer`."""
        class_token, patches = seen.tokens[:1], seen.tokens[1:]  # (1, C), (N, C)
        out = block.feed_forward(class_token + block.output(block.project(patches)[2]))  # (N, C)
        return seen.on_grid(out)


def neighbourhood(
    grid: tuple[int, int], sigma: float, device: torch.device | None = None
) -> Tensor:
    """Gaussian of the distance between every two places of a grid, (h w, h w), 1 on the diagonal.

    It is the product of one Gaussian of the rows and one of the columns.
    """
    places = (torch.arange(n, dtype=torch.float32, device=device) for n in grid)  # (h,), (w,)
    by_row, by_column = (
        torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2)) for place in places
    )  # (h, h), (w, w)
    return torch.kron(by_row, by_column)


def _attend(same: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(s s^T / sqrt(d) + bias) v, by heads.

    Args:
        same: (heads, n, d) queries that are keys too.
        value: (heads, n, d).
        bias: (n, n).
    """
    return F.scaled_dot_product_attention(same[None], same[None], value[None], attn_mask=bias)[0]
