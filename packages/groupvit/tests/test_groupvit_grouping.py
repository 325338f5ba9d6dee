"""Assignment and pooling: what a group becomes, and what its gradient is."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from groupvit.model.grouping import GroupAssign, GroupingBlock, gumbel_softmax, straight_through


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


def test_soft_map_is_softmax_over_groups_without_noise_also_in_training() -> None:
    torch.manual_seed(0)
    assign = GroupAssign(8)
    groups, segments = torch.randn(2, 3, 8), torch.randn(2, 7, 8)
    _, soft = assign.train()(groups, segments)
    logits = torch.einsum("bgc,bnc->bgn", assign.query(groups), assign.key(segments)) / 8**0.5
    torch.testing.assert_close(soft, logits.softmax(dim=1))
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(2, 7))
    assert torch.equal(soft, assign.eval()(groups, segments)[1])


def test_evaluation_repeats_and_training_does_not() -> None:
    torch.manual_seed(0)
    assign = GroupAssign(8)
    groups, segments = torch.randn(1, 4, 8), torch.randn(1, 50, 8)
    assert torch.equal(assign.eval()(groups, segments)[0], assign(groups, segments)[0])
    assign.train()
    assert not torch.equal(assign(groups, segments)[0], assign(groups, segments)[0])


def test_value_is_exactly_one_hot_and_a_tie_takes_the_lowest_group() -> None:
    torch.manual_seed(0)
    hard = straight_through(torch.randn(5, 16, 2000).mul(4).softmax(dim=1))
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert bool((hard.sum(dim=1) == 1).all())
    tied = straight_through(torch.tensor([[[0.2, 0.4], [0.4, 0.4], [0.4, 0.2]]]))
    assert tied.argmax(dim=1).tolist() == [[1, 0]]


def test_gradient_is_the_equation() -> None:
    """dL = y (dh - sum_g y dh), dh = da / (s + 1) - (sum_n da h) / (s + 1)^2."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 4, 9, dtype=torch.float64)
    soft = logits.softmax(dim=1)
    assign = straight_through(soft)
    share = assign / (assign.sum(dim=2, keepdim=True) + 1)
    torch.autograd.backward(share, upstream)
    y = soft.detach()
    h = F.one_hot(y.argmax(dim=1), 4).mT.double()  # (B, G, N)
    size = h.sum(dim=2, keepdim=True) + 1
    dh = upstream / size - (upstream * h).sum(dim=2, keepdim=True) / size**2
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, y * (dh - (y * dh).sum(dim=1, keepdim=True)))


def test_noise_draws_groups_as_often_as_the_softmax_says() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.5, -1.0, 0.0])
    drawn = gumbel_softmax(logits[None, :, None].expand(1, 4, 40_000)).argmax(dim=1)
    share = drawn.flatten().bincount(minlength=4) / drawn.numel()
    torch.testing.assert_close(share, logits.softmax(dim=0), rtol=0, atol=0.01)


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
