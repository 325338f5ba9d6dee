"""Transformer parts that both towers share."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

SLOPE = 1.702
"""Of the sigmoid in QuickGELU."""


def run(layer: Callable[..., Tensor], *inputs: Tensor | None, checkpointed: bool) -> Tensor:
    """Call a layer; `checkpointed` keeps its inputs alone and runs it again going back."""
    if not checkpointed or not torch.is_grad_enabled():
        return layer(*inputs)
    # nothing here draws from a generator, so there is no state to restore
    result: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Multi-head attention of projected queries, keys and values.

    Args:
        q: (B, n, C).
        k: (B, m, C).
        v: (B, m, C).
        heads: divides C.
        mask: (B, 1, n, m) added to logits, 0 or -inf, dtype of `q`; a row has a 0.

    Returns:
        (B, n, C).
    """
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    if _fused_pays(q):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, h, n, d)
    else:
        logits = (q / math.sqrt(q.shape[-1])) @ k.mT  # (B, h, n, m)
        if mask is not None:
            logits = logits + mask
        out = logits.softmax(dim=-1).to(v.dtype) @ v  # (B, h, n, d)
    return rearrange(out, "b h n d -> b n (h d)")


def _fused_pays(q: Tensor) -> bool:
    """Whether PyTorch's fused attention is the faster one.

    Always but on a CPU in bfloat16: there its backward pass takes two to four times as long as the
    plain form, and its forward pass as well where the CPU has no matrix instructions (AMX).
    """
    if q.is_cuda or q.dtype != torch.bfloat16:
        return True
    return not q.requires_grad and torch.cpu._is_amx_tile_supported()  # no public name has it


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, n, C) -> (B, n, C); `mask` as of `attend`."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # three times (B, n, C)
        return self.out(attend(q, k, v, self.heads, mask))  # type: ignore[no-any-return]  # nn.Module


class CrossAttention(nn.Module):
    """Multi-head attention of queries to other tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(B, G, C) and (B, N, C) -> (B, G, C)."""
        q, k, v = self.query(queries), self.key(tokens), self.value(tokens)
        return self.out(attend(q, k, v, self.heads))  # type: ignore[no-any-return]  # nn.Module


class MLP(nn.Module):
    """Two linear layers over the last axis, with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]  # nn.Module


class QuickMLP(nn.Module):
    """Two linear layers with CLIP's activation, QuickGELU(x) = x sigmoid(1.702 x).

    Computed as SiLU(1.702 x) / 1.702 with both factors moved into the weights, which are small: one
    operation a hidden unit instead of three.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        hidden = F.linear(x, SLOPE * self.fc1.weight, SLOPE * self.fc1.bias)
        return F.linear(F.silu(hidden), self.fc2.weight / SLOPE, self.fc2.bias)


class TokenMLP(MLP):
    """An MLP over the token axis: (B, n, C) -> (B, out, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, C) -> (B, out, C)."""
        return super().forward(x.mT).mT


class Block(nn.Module):
    """Pre-norm transformer block: z += attention(LN z); z += MLP(LN z)."""

    def __init__(self, dim: int, heads: int, *, quick: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = (QuickMLP if quick else MLP)(dim, 4 * dim)

    def forward(self, z: Tensor, keep: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Run the block.

        Args:
            z: (B, n, C).
            keep: (B, 2) factors of both branches, for stochastic depth; None leaves them as they
                are.
            mask: of the attention, see `attend`.

        Returns:
            (B, n, C).
        """
        z = z + _scaled(self.attention(self.norm1(z), mask), keep, 0)
        return z + _scaled(self.mlp(self.norm2(z)), keep, 1)


def _scaled(branch: Tensor, keep: Tensor | None, which: int) -> Tensor:
    if keep is None:
        return branch
    return branch * keep[:, which, None, None].to(branch.dtype)
