"""Transformer blocks of open_clip, run as they are but for how their attention is laid out."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def run_block(block: Any, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run a residual attention block.

        x = tokens + attention(ln_1(tokens))        y = x + mlp(ln_2(x))

    `nn.MultiheadAttention` puts positions before the batch, and where its weights have no gradient,
    as in the teacher and in the text tower, PyTorch then multiplies position by position: slower
    than one product, and with bfloat16 on a CPU with a copy of the weights for each position. Here
    the batch stays first. A block that is not open_clip's usual one is called.

    Args:
        block: `open_clip.transformer.ResidualAttentionBlock`, or another that takes `attn_mask`.
        tokens: (B, N, C).
        mask: (N, N) that is added to the products of queries and keys.

    Returns:
        (B, N, C).
    """
    if not _is_usual(block):
        found: Tensor = block(tokens, attn_mask=mask)
        return found
    tokens = tokens + block.ls_1(_attend(block.attn, block.ln_1(tokens), mask))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]  # Any


def _is_usual(block: Any) -> bool:
    attention = getattr(block, "attn", None)
    return (
        type(block).__name__ == "ResidualAttentionBlock"
        and type(attention) is nn.MultiheadAttention
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and not attention.dropout
    )


def _attend(attention: nn.MultiheadAttention, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Self-attention, (B, N, C) -> (B, N, C)."""
    packed = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)  # (B, N, 3 C)
    shape = (*packed.shape[:2], 3, attention.num_heads, -1)
    heads = packed.view(shape)  # (B, N, 3, heads, C / heads)
    query, key, value = heads.transpose(1, 3).unbind(dim=2)  # (B, heads, N, C / heads) each
    added = None if mask is None else mask.to(query.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
    return attention.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]  # nn.Module
