"""Assignment and pooling: what a group becomes, and what its gradient is."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.model.grouping import GroupAssign, GroupingBlock
from groupvit.model.noise import noise_from, step_noise
from groupvit.ops.group_assign.reference import gumbel

NOISE = step_noise(7, 3, device=torch.device("cpu"))


def plain_assign(dim: int, damping: float = 1.0) -> GroupAssign:
    """Every projection is the identity."""
    assign = GroupAssign(dim, damping=damping).eval()
    for layer in (assign.query, assign.key, assign.value, assign.out):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return assign


def test_group_of_c_tokens_takes_c_of_c_plus_one() -> None:
    axes = torch.eye(4) * 9
    groups = axes[None, :3]  # (1, 3, 4): the last is the choice of no token
    segments = torch.stack([axes[0], axes[0] * 2, axes[0] + axes[3], axes[1]])[None]  # (1, 4, 4)
    pooled, soft = plain_assign(4)(groups, segments)
    assert soft.argmax(dim=1).tolist() == [[0, 0, 0, 1]]
    torch.testing.assert_close(pooled[0, 0], segments[0, :3].mean(dim=0) * 3 / 4)
    torch.testing.assert_close(pooled[0, 1], segments[0, 3] / 2)
    assert pooled[0, 2].tolist() == [0, 0, 0, 0]


def test_damping_is_added_to_the_size() -> None:
    axes = torch.eye(2)[None] * 9
    pooled, _ = plain_assign(2, damping=3.0)(axes, axes)
    torch.testing.assert_close(pooled, axes / 4)
    with pytest.raises(ValueError, match="damping must be > 0, got 0"):
        GroupAssign(2, damping=0)


def test_soft_map_is_softmax_over_groups_and_noise_is_added_to_its_logits() -> None:
    torch.manual_seed(0)
    assign = GroupAssign(8, stream=4)
    groups, segments = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    logits = torch.einsum("bgc,bnc->bgn", assign.query(groups), assign.key(segments)) / 8**0.5
    for noise, more in ((None, 0), (NOISE, gumbel(NOISE, 4, logits.shape))):
        _, soft = assign(groups, segments, noise)
        torch.testing.assert_close(soft, (logits + more).softmax(dim=1))
        torch.testing.assert_close(soft.sum(dim=1), torch.ones(2, 7))
        assert soft.dtype == torch.float32 and not soft.requires_grad


def test_same_noise_repeats_and_belongs_to_the_sample_and_the_stream() -> None:
    torch.manual_seed(0)
    assign, other = GroupAssign(8, stream=0), GroupAssign(8, stream=1)
    other.load_state_dict(assign.state_dict())
    groups, segments = torch.randn(3, 4, 8), torch.randn(3, 50, 8)
    assert torch.equal(assign(groups, segments)[0], assign(groups, segments)[0])
    pooled, soft = assign(groups, segments, NOISE)
    assert torch.equal(pooled, assign(groups, segments, NOISE)[0])
    assert not torch.equal(pooled, other(groups, segments, NOISE)[0])
    assert not torch.equal(pooled, assign(groups, segments, NOISE + torch.tensor([1, 0]))[0])
    part = assign(groups[1:], segments[1:], noise_from(NOISE, 1))
    torch.testing.assert_close(part, (pooled[1:], soft[1:]))


def test_folded_keys_and_values_are_keys_and_values() -> None:
    """A projection of every token gives the same, forward and backward, with noise too."""
    torch.manual_seed(0)
    assign = GroupAssign(8, stream=2, damping=0.5).double()
    x = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)
    g = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    logits = assign.query(g) @ assign.key(x).mT / 8**0.5 + gumbel(NOISE, 2, torch.Size((2, 5, 30)))
    soft = logits.softmax(dim=1)
    hard = F.one_hot(soft.argmax(dim=1), 5).mT + soft - soft.detach()
    share = hard / (hard.sum(dim=2, keepdim=True) + 0.5)
    want = assign.out(share @ assign.value(x))
    got, _ = assign(g, x, NOISE)
    torch.testing.assert_close(got, want)
    leaves = [x, g, *assign.parameters()]
    upstream = torch.randn_like(want)
    grads = [torch.autograd.grad(result, leaves, upstream) for result in (got, want)]
    torch.testing.assert_close(*grads)


def test_a_tie_goes_to_the_lowest_group() -> None:
    groups = torch.eye(4)[None, [2, 0, 0, 1, 1]]  # (1, 5, 4)
    _, soft = plain_assign(4)(groups, torch.eye(4)[None])
    assert soft.argmax(dim=1).tolist() == [[1, 3, 0, 0]]  # the last token likes none
    pooled, _ = plain_assign(4)(groups, torch.eye(4)[None])
    assert not pooled[0, [2, 4]].any()  # the higher one of each pair stays empty


def test_noise_chooses_groups_as_often_as_the_softmax_says() -> None:
    assign = plain_assign(4)
    groups = torch.diag(torch.tensor([4.0, 1.0, -2.0, 0.0]))[None]  # (1, 4, 4)
    segments = torch.ones(1, 40_000, 4)
    _, clean = assign(groups, segments)
    _, noisy = assign(groups, segments, NOISE)
    share = noisy.argmax(dim=1).flatten().bincount(minlength=4) / 40_000
    torch.testing.assert_close(share, clean[0, :, 0], rtol=0, atol=0.01)


@pytest.mark.parametrize("pre_assign", [True, False])
def test_block_is_the_steps_of_the_paper(pre_assign: bool) -> None:
    """Spec of the block, restated with functions."""
    torch.manual_seed(0)
    block: Any = GroupingBlock(8, 2, 5, 3, pre_assign=pre_assign).eval()
    groups, segments = torch.randn(2, 5, 8), torch.randn(2, 11, 8)

    def mlp(layer: Any, x: Tensor) -> Tensor:
        return F.linear(F.gelu(layer.fc1(x)), layer.fc2.weight, layer.fc2.bias)

    x = block.norm_x(segments)
    p = mlp(block.mix, block.norm_tokens(groups).mT).mT  # (B, 3, C), no residual
    p = block.norm_post_tokens(p)
    if pre_assign:
        attention = block.pre_assign.attention
        q, k, v = attention.query(p), attention.key(x), attention.value(x)
        heads = [
            F.softmax(q[..., h] @ k[..., h].mT / 2, dim=-1) @ v[..., h]
            for h in (slice(0, 4), slice(4, 8))
        ]
        p = p + attention.out(torch.cat(heads, dim=-1))
        p = p + mlp(block.pre_assign.mlp, block.pre_assign.norm2(p))
        p = block.pre_assign.norm_post(p)
    logits = block.assign.query(p) @ block.assign.key(x).mT / 8**0.5
    soft = logits.softmax(dim=1)
    hard = F.one_hot(soft.argmax(dim=1), 3).mT.float()
    pooled = (hard @ block.assign.value(x)) / (hard.sum(dim=2, keepdim=True) + 1)
    y = block.assign.out(pooled) + p
    y = y + mlp(block.mlp_channels, block.norm_new_x(y))
    got, got_soft = block(groups, segments)
    torch.testing.assert_close(got, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_soft, soft, rtol=1e-5, atol=1e-6)
