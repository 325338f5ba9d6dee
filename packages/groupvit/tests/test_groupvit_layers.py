"""Layers against PyTorch's own."""

import math

import pytest
import torch
from torch import Tensor, nn

from groupvit.model.layers import Block, QuickMLP, SelfAttention, TokenMLP, attend, run


def causal(length: int) -> Tensor:
    """(1, 1, n, n) mask: 0 up to a token, -inf after it."""
    return torch.full((1, 1, length, length), float("-inf")).triu(1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_attend_is_pytorchs_attention(masked: bool, dtype: torch.dtype) -> None:
    """The fused form, and the plain one that bfloat16 takes on a CPU."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 6, 8, dtype=dtype, requires_grad=True) for _ in range(3))
    a, b, c = (x.double().view(2, 6, 2, 4).transpose(1, 2) for x in (q, k, v))
    logits = a @ b.mT / 2  # (2, 2, 6, 6)
    if masked:
        logits = logits + causal(6)
    want = (logits.softmax(dim=-1) @ c).transpose(1, 2).reshape(2, 6, 8)
    got = attend(q, k, v, 2, causal(6).to(dtype) if masked else None)
    assert got.dtype == dtype
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


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
    block = Block(8, 2)
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 4:] = 7.0
    one, other = (block(z, None, causal(6)) for z in (x, changed))
    assert torch.equal(one[:, :4], other[:, :4])
    assert not torch.allclose(one[:, 4:], other[:, 4:])
    assert not torch.allclose(block(x)[:, :4], block(changed)[:, :4])  # without the mask it does


def test_quick_gelu_by_hand() -> None:
    layer = QuickMLP(1, 1)
    for linear in (layer.fc1, layer.fc2):
        nn.init.ones_(linear.weight)
        nn.init.zeros_(linear.bias)
    want = [2 / (1 + math.exp(-1.702 * 2)), 0.0, -1 / (1 + math.exp(1.702))]
    torch.testing.assert_close(layer(torch.tensor([[2.0], [0], [-1]]))[:, 0], torch.tensor(want))


def test_quick_mlp_and_its_gradient_are_two_layers_with_the_activation_between() -> None:
    torch.manual_seed(0)
    layer = QuickMLP(5, 20).double()
    x = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    hidden = layer.fc1(x)
    want = layer.fc2(hidden * (1.702 * hidden).sigmoid())
    leaves, upstream = [x, *layer.parameters()], torch.randn_like(want)
    got = layer(x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    grads = [torch.autograd.grad(result, leaves, upstream) for result in (got, want)]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-13)


def test_token_mlp_mixes_tokens_and_not_channels() -> None:
    torch.manual_seed(0)
    layer = TokenMLP(4, 6, 3)
    x = torch.randn(1, 4, 5)
    changed = x.clone()
    changed[..., 2] += 1
    moved = (layer(x) != layer(changed)).any(dim=1)[0]  # (C,)
    assert layer(x).shape == (1, 3, 5)
    assert moved.tolist() == [False, False, True, False, False]


def test_factors_of_a_sample_scale_its_branches() -> None:
    torch.manual_seed(0)
    block = Block(4, 1)
    x = torch.randn(4, 3, 4)
    keep = torch.tensor([[1.0, 1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    got = block(x, keep)
    torch.testing.assert_close(got[0], block(x)[0])
    assert torch.equal(got[1], x[1])  # both dropped
    torch.testing.assert_close(got[2], (x + 2 * block.attention(block.norm1(x)))[2])
    torch.testing.assert_close(got[3], (x + 2 * block.mlp(block.norm2(x)))[3])


def test_a_layer_that_is_run_again_gives_the_same() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2), torch.randn(2, 5, 8, requires_grad=True)
    calls: list[int] = []
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for checkpointed in (False, True):
        out = run(block, x, torch.full((2, 2), 0.5), checkpointed=checkpointed)
        found.append((out, torch.autograd.grad(out.square().sum(), [x, *block.parameters()])))
    assert len(calls) == 3  # once, then once each way
    torch.testing.assert_close(*found, rtol=0, atol=0)
    with torch.no_grad():
        run(block, x, None, checkpointed=True)
    assert len(calls) == 4
