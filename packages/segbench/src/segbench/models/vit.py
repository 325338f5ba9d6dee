"""An open_clip vision transformer, run block by block, with its last block left open.

Methods that make CLIP dense without training change the last block and nothing else. So this file
runs what comes before it and what comes after it, and hands out the parts of the last block; what
is done with them is in `last_block.py` and `proxy.py`. Nothing in open_clip is replaced.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segbench.protocols.inference import resize_image


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An image on its way through the tower, before the last block."""

    image: Tensor
    """(3, H, W) float32 RGB in [0, 1], as the harness gave it."""

    tokens: Tensor
    """(1 + N, C), the class token first, then patches row by row."""

    grid: tuple[int, int]
    """(h, w), with N = h w."""

    def on_grid(self, rows: Tensor) -> Tensor:
        """Rows of patches (N, C) at their places, (h, w, C)."""
        return rows.reshape(*self.grid, -1)


class LastBlock:
    """The parts of the last block, to be put together by a method.

    Together they are open_clip's own block:

        y = x + scale_1 * W_o attention(q, k, v)        q, k, v = W_qkv ln_1(x), by heads
        z = y + scale_2 * mlp(ln_2(y))

    The learnt scales are 1 in most models.

    Args:
        block: `ResidualAttentionBlock` of open_clip, with `torch.nn.MultiheadAttention`.
    """

    def __init__(self, block: Any) -> None:
        self.block = block
        self.heads: int = block.attn.num_heads

    def whole(self, tokens: Tensor) -> Tensor:
        """The block as it was trained, (n, C) -> (n, C)."""
        out: Tensor = self.block(tokens[None])[0]
        return out

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of (n, C) tokens, each (heads, n, d) with C = heads d."""
        attention = self.block.attn
        normed = self.block.ln_1(tokens)
        packed = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)  # (n, 3 C)
        query, key, value = packed.view(len(tokens), 3, self.heads, -1).permute(1, 2, 0, 3)
        return query, key, value

    def output(self, mixed: Tensor) -> Tensor:
        """Join heads and apply the output projection, (heads, n, d) -> (n, C)."""
        joined = mixed.transpose(0, 1).flatten(1)  # (n, C)
        out: Tensor = self.block.ls_1(self.block.attn.out_proj(joined))
        return out

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """The feed-forward network with its residual connection, (n, C) -> (n, C)."""
        normed = self.block.ln_2(tokens)
        out: Tensor = tokens + self.block.ls_2(self.block.mlp(normed))
        return out


class ClipViT:
    """The vision tower of an open_clip model.

    An image of any size is taken whole: it is resized bilinearly, without anti-aliasing, to

        h = max(floor(H / patch), 1) patches by w = max(floor(W / patch), 1)

    so that the grid covers all of it evenly. Position embeddings of another grid than the trained
    one are resized bicubically with half-pixel centres, the class token's is kept.

    Args:
        visual: `open_clip.transformer.VisionTransformer`.
        mean: of the channels, on a scale of 0 to 1.
        std: of the channels.
        antialias: anti-alias positions, as open_clip does when it loads weights into a model of
            another size. The code of the dense methods does not, and PyTorch's cubic differs
            between the two even where a grid grows.

    Raises:
        ValueError: the tower is no plain ViT: a ResNet, a timm model, attentional pooling, or
            attention that is not `torch.nn.MultiheadAttention`.
    """

    def __init__(
        self,
        visual: Any,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        antialias: bool = False,
    ) -> None:
        _check_tower(visual)
        self.visual = visual
        self.antialias = antialias
        weight: Tensor = visual.conv1.weight  # (C, 3, p, p)
        self.patch: tuple[int, int] = (weight.shape[2], weight.shape[3])
        self.mean = torch.tensor(mean, device=weight.device).view(3, 1, 1)  # (3, 1, 1)
        self.std = torch.tensor(std, device=weight.device).view(3, 1, 1)  # (3, 1, 1)
        blocks: nn.ModuleList = visual.transformer.resblocks
        self.early, self.last = blocks[:-1], LastBlock(blocks[-1])

    def before_last(self, image: Tensor) -> Seen:
        """Run all blocks but the last.

        Args:
            image: (3, H, W) float32 RGB in [0, 1] on the device of the tower.
        """
        grid = patch_grid(image, self.patch)
        fitted = resize_image(image, (grid[0] * self.patch[0], grid[1] * self.patch[1]))
        normed = (fitted - self.mean) / self.std  # (3, h p, w p)
        patches = self.visual.conv1(normed[None])[0].flatten(1).mT  # (N, C)
        start = self.visual.class_embedding[None]  # (1, C)
        tokens = torch.cat([start, patches]) + self.positions(grid)  # (1 + N, C)
        tokens = self.visual.ln_pre(tokens)
        for block in self.early:
            tokens = block(tokens[None])[0]
        return Seen(image=image, tokens=tokens, grid=grid)

    def pooled(self, image: Tensor) -> Tensor:
        """The embedding of the whole image, as the tower itself makes it.

        Args:
            image: (3, H, W) float32 RGB in [0, 1] on the device of the tower.

        Returns:
            (D,), not normalised.
        """
        tokens = self.last.whole(self.before_last(image).tokens)  # (1 + N, C)
        if self.visual.pool_type == "tok":
            return self.to_joint_space(tokens[0])
        patches = tokens[1:]  # (N, C), averaged before or after the norm
        if self.visual.final_ln_after_pool:
            return self.to_joint_space(patches.mean(dim=0))
        out: Tensor = self.visual.ln_post(patches).mean(dim=0) @ self.visual.proj
        return out

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embeddings of a grid, (1 + h w, C)."""
        table: Tensor = self.visual.positional_embedding  # (1 + N, C)
        trained: tuple[int, int] = tuple(self.visual.grid_size)
        if trained == grid:
            return table
        planes = table[1:].mT.reshape(1, -1, *trained)  # (1, C, h0, w0)
        resized = F.interpolate(
            planes, grid, mode="bicubic", align_corners=False, antialias=self.antialias
        )
        return torch.cat([table[:1], resized[0].flatten(1).mT])

    def to_joint_space(self, features: Tensor) -> Tensor:
        """Final layer norm and projection, (..., C) -> (..., D)."""
        out: Tensor = self.visual.ln_post(features) @ self.visual.proj
        return out


def patch_grid(image: Tensor, patch: tuple[int, int]) -> tuple[int, int]:
    """Patches that an image (3, H, W) is cut into: floor of size / patch, at least 1."""
    return max(image.shape[1] // patch[0], 1), max(image.shape[2] // patch[1], 1)


def _check_tower(visual: Any) -> None:
    kind = type(visual).__name__
    if kind != "VisionTransformer":
        raise ValueError(f"needs a ViT of open_clip's own, got a {kind} vision tower")
    if getattr(visual, "attn_pool", None) is not None:
        raise ValueError(
            "needs a ViT whose patch tokens are projected; this one pools by attention"
        )
    last = visual.transformer.resblocks[-1]
    if not isinstance(last.attn, nn.MultiheadAttention):
        raise ValueError(f"needs plain multi-head attention, got {type(last.attn).__name__}")
