"""Transformer parts that both towers share."""

import math

import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath
from torch import Tensor, nn


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Multi-head attention of projected queries, keys and values.

    On a GPU PyTorch's fused kernel does the work. On a CPU the plain form is twice as fast under
    bfloat16 autocast, where PyTorch's own falls back to a slow path.

    Args:
        q: (B, n, C).
        k: (B, m, C).
        v: (B, m, C).
        heads: divides C.
        causal: token i sees tokens 0..i only; needs n == m.

    Returns:
        (B, n, C).
    """
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    if q.is_cuda:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # (B, h, n, d)
    else:
        logits = (q / math.sqrt(q.shape[-1])) @ k.mT  # (B, h, n, m)
        if causal:
            future = logits.new_ones(logits.shape[-2:]).triu(1).bool()  # (n, m)
            logits = logits.masked_fill(future, float("-inf"))
        out = logits.softmax(dim=-1).to(v.dtype) @ v  # (B, h, n, d)
    return rearrange(out, "b h n d -> b n (h d)")


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)  # three times (B, n, C)
        return self.out(attend(q, k, v, self.heads, causal=self.causal))  # type: ignore[no-any-return]  # nn.Module


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


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), CLIP's activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * (1.702 * x).sigmoid()


class MLP(nn.Module):
    """Two linear layers over the last axis."""

    def __init__(
        self, dim: int, hidden: int, out: int | None = None, *, quick: bool = False
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.activation = QuickGELU() if quick else nn.GELU()
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., out)."""
        return self.fc2(self.activation(self.fc1(x)))  # type: ignore[no-any-return]  # nn.Module


class TokenMLP(MLP):
    """An MLP over the token axis: (B, n, C) -> (B, out, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, C) -> (B, out, C)."""
        return super().forward(x.mT).mT


class Block(nn.Module):
    """Pre-norm transformer block: z += attention(LN z); z += MLP(LN z)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        drop_path: float = 0.0,
        causal: bool = False,
        quick: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, causal=causal)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim, quick=quick)
        self.drop_path = DropPath(drop_path)

    def forward(self, z: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        z = z + self.drop_path(self.attention(self.norm1(z)))
        return z + self.drop_path(self.mlp(self.norm2(z)))  # type: ignore[no-any-return]  # nn.Module
