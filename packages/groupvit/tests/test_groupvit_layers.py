"""Layers against PyTorch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from groupvit.model.layers import Block, QuickGELU, SelfAttention, TokenMLP, attend


@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_pytorchs_attention(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 6, 8) for _ in range(3))
    a, b, c = (x.view(2, 6, 2, 4).transpose(1, 2) for x in (q, k, v))
    want = F.scaled_dot_product_attention(a, b, c, is_causal=causal)
    got = attend(q, k, v, 2, causal=causal)
    torch.testing.assert_close(got, want.transpose(1, 2).reshape(2, 6, 8), rtol=1e-5, atol=1e-6)


def test_self_attention_is_nn_multihead_attention() -> None:
    torch.manual_seed(0)
    peer = nn.MultiheadAttention(12, 3, batch_first=True)
    ours = SelfAttention(12, 3)
    ours.qkv.weight, ours.qkv.bias = peer.in_proj_weight, peer.in_proj_bias
    ours.out.weight, ours.out.bias = peer.out_proj.weight, peer.out_proj.bias
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(ours(x), peer(x, x, x)[0], rtol=1e-5, atol=1e-6)


def test_causal_block_does_not_see_later_tokens() -> None:
    torch.manual_seed(0)
    block = Block(8, 2, causal=True).eval()
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] = 7.0
    assert torch.equal(block(x)[:, :4], block(changed)[:, :4])
    assert not torch.allclose(block(x)[:, 4:], block(changed)[:, 4:])


def test_quick_gelu_by_hand() -> None:
    want = [2 / (1 + math.exp(-1.702 * 2)), 0.0, -1 / (1 + math.exp(1.702))]
    torch.testing.assert_close(QuickGELU()(torch.tensor([2.0, 0, -1])), torch.tensor(want))


def test_token_mlp_mixes_tokens_and_not_channels() -> None:
    torch.manual_seed(0)
    layer = TokenMLP(4, 6, 3)
    x = torch.randn(1, 4, 5)
    changed = x.clone()
    changed[..., 2] += 1
    moved = (layer(x) != layer(changed)).any(dim=1)[0]  # (C,)
    assert layer(x).shape == (1, 3, 5)
    assert moved.tolist() == [False, False, True, False, False]


def test_drop_path_drops_whole_rows_and_rescales() -> None:
    torch.manual_seed(0)
    block = Block(4, 1, drop_path=0.5)
    nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.zeros_(block.mlp.fc2.bias)
    x = torch.randn(1, 3, 4).expand(400, 3, 4)
    delta = block(x) - x
    kept = delta.abs().amax(dim=(1, 2)) > 0
    assert 0.4 < float(kept.float().mean()) < 0.6
    twice = 2 * (block.eval()(x) - x)[0]
    torch.testing.assert_close(delta[kept][0], twice)
