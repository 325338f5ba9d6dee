"""The assignment op: what a group becomes, its gradient, the noise, and the kernel."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from groupvit.ops.group_assign import group_assign
from groupvit.ops.group_assign.kernel import group_assign_backward_triton, group_assign_triton
from groupvit.ops.group_assign.reference import assign, gumbel, straight_through

Near = Callable[[Tensor, Tensor, torch.dtype], None]
NOISE = torch.tensor([77, 5])

SHAPES = [  # batch, groups, tokens, channels
    (1, 1, 1, 1),
    (3, 5, 63, 40),
    (2, 8, 64, 96),
    (1, 64, 196, 384),
    (1, 64, 300, 48),  # more tokens than a program takes
]


def inputs(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Query, bias and tokens whose logits are multiples of 1/4 below 2^11: exact in every type."""
    batch, groups, tokens, channels = shape
    random = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randint(-2, 3, size, generator=random) / 2

    query, points = draw(batch, groups, channels), draw(batch, tokens, channels)
    return query.to(dtype), draw(batch, groups), points.to(dtype)


def test_worked_example() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]])  # (1, 3, 2)
    tokens = torch.tensor([[[4.0, 0.0], [2.0, 2.0], [0.0, 3.0], [1.0, 0.0]]])  # (1, 4, 2)
    mean, size, soft, label = group_assign(query, torch.zeros(1, 3), tokens, None, 0, 1.0, 1.0)
    assert label.tolist() == [[0, 0, 1, 0]]  # the second token ties: lowest group
    assert mean.tolist() == [[[7 / 4, 2 / 4], [0, 3 / 2], [0, 0]]]
    assert size.tolist() == [[4, 2, 1]]
    want = torch.tensor([4.0, 0.0, -4.0]).softmax(dim=0)
    torch.testing.assert_close(soft[0, :, 0], want)


def test_bias_and_damping_enter_as_written() -> None:
    query, bias, tokens = inputs((2, 4, 9, 6))
    bias = bias + torch.tensor([0.0, 0.0, 1000.0, 0.0])  # everyone chooses the third
    mean, size, _, label = group_assign(query, bias, tokens, None, 0, 0.5, 3.0)
    assert bool((label == 2).all())
    torch.testing.assert_close(mean[:, 2], tokens.sum(dim=1) / 12)
    assert size.tolist() == [[3, 3, 12, 3]] * 2


def test_projections_fold_exactly() -> None:
    """Keys and values made for every token give the same as Wk and Wv moved over to groups."""
    random = torch.Generator().manual_seed(1)
    q, x = (torch.randn(2, n, 8, generator=random, dtype=torch.float64) for n in (5, 30))
    wk, wv, bk, bv = (
        torch.randn(*size, generator=random, dtype=torch.float64)
        for size in ((8, 8), (8, 8), (8,), (8,))
    )
    key, value = F.linear(x, wk, bk), F.linear(x, wv, bv)
    hard = straight_through((q @ key.mT * 0.3).softmax(dim=1))
    want = hard @ value / (hard.sum(dim=2, keepdim=True) + 1)
    mean, size, _, _ = group_assign(q @ wk, q @ bk, x, None, 0, 0.3, 1.0)
    torch.testing.assert_close(F.linear(mean, wv) + (1 - 1 / size)[..., None] * bv, want)


def test_straight_through_is_exactly_one_hot_and_a_tie_takes_the_lowest_group() -> None:
    torch.manual_seed(0)
    hard = straight_through(torch.randn(5, 16, 2000).mul(4).softmax(dim=1))
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert bool((hard.sum(dim=1) == 1).all())
    tied = straight_through(torch.tensor([[[0.2, 0.4], [0.4, 0.4], [0.4, 0.2]]]))
    assert tied.argmax(dim=1).tolist() == [[1, 0]]


@pytest.mark.parametrize("damping", [1.0, 1e-8])
@pytest.mark.parametrize("noise", [None, NOISE], ids=["plain", "noisy"])
def test_gradient_is_that_of_the_straight_through_estimator(
    noise: Tensor | None, damping: float
) -> None:
    """The op's formulas against autograd through its reference, in float64."""
    shape = (2, 5, 13, 7)
    query, bias, tokens = leaves = [t.double().requires_grad_() for t in inputs(shape)]
    results = []
    for op in (group_assign, assign):
        mean, size, _, _ = op(query, bias, tokens, noise, 1, 0.4, damping)
        up = torch.Generator().manual_seed(3)
        weights = [torch.randn(t.shape, generator=up, dtype=torch.float64) for t in (mean, size)]
        results.append(torch.autograd.grad([mean, size], leaves, weights))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_gradient_is_the_equation_of_the_paper() -> None:
    """dL = y (dh - sum_g y dh), dh = da / (s + 1) - (sum_n da h) / (s + 1)^2."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 9, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 4, 9, dtype=torch.float64)
    soft = logits.softmax(dim=1)
    hard = straight_through(soft)
    torch.autograd.backward(hard / (hard.sum(dim=2, keepdim=True) + 1), upstream)
    y = soft.detach()
    h = F.one_hot(y.argmax(dim=1), 4).mT.double()  # (B, G, N)
    size = h.sum(dim=2, keepdim=True) + 1
    dh = upstream / size - (upstream * h).sum(dim=2, keepdim=True) / size**2
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, y * (dh - (y * dh).sum(dim=1, keepdim=True)))


def test_autocast_does_not_round_sums() -> None:
    torch.manual_seed(0)
    query, tokens = torch.randn(1, 8, 384), torch.randn(1, 196, 384)
    for dtype in (torch.float32, torch.bfloat16):
        leaf = query.to(dtype).requires_grad_()
        results = []
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                outputs = group_assign(
                    leaf, torch.zeros(1, 8), tokens.to(dtype), None, 0, 0.05, 1.0
                )
                grad = torch.autograd.grad(outputs[0].float().square().sum(), leaf)
            results.append([*outputs, *grad])
        for plain, cast in zip(*results, strict=True):
            assert torch.equal(plain, cast)


def test_noise_draws_groups_as_often_as_the_softmax_says() -> None:
    bias = torch.tensor([[2.0, 0.5, -1.0, 0.0, -3.0]])  # (1, 5)
    tokens = torch.zeros(1, 40_000, 1)
    *_, label = group_assign(torch.zeros(1, 5, 1), bias, tokens, NOISE, 0, 1.0, 1.0)
    share = label.flatten().bincount(minlength=5) / label.numel()
    torch.testing.assert_close(share, bias[0].softmax(dim=0), rtol=0, atol=0.01)


def test_noise_is_gumbel() -> None:
    values = gumbel(NOISE, 0, torch.Size((20, 6, 5000))).flatten().double()
    assert float(values.mean()) == pytest.approx(0.577216, abs=0.005)
    assert float(values.var()) == pytest.approx(torch.pi**2 / 6, abs=0.02)


def test_noise_belongs_to_the_sample_not_to_the_batch() -> None:
    query, bias, tokens = inputs((4, 6, 20, 8))
    whole = group_assign(query, bias, tokens, torch.tensor([9, 10]), 2, 0.1, 1.0)
    last = group_assign(query[3:], bias[3:], tokens[3:], torch.tensor([9, 13]), 2, 0.1, 1.0)
    other = group_assign(query[3:], bias[3:], tokens[3:], torch.tensor([9, 14]), 2, 0.1, 1.0)
    for a, b in zip(whole, last, strict=True):
        torch.testing.assert_close(a[3:], b, rtol=1e-5, atol=1e-7)
    assert float((last[2] - other[2]).abs().max()) > 0.1


def test_wrong_arguments_are_named() -> None:
    query, bias, tokens = inputs((2, 3, 5, 4))
    plain = (None, 0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"got \(2, 3, 4\) and \(2, 5, 3\)"):
        group_assign(query, bias, tokens[..., :3], *plain)
    with pytest.raises(ValueError, match=r"groups must be in \[1, 256\], got 300"):
        group_assign(torch.zeros(1, 300, 4), torch.zeros(1, 300), tokens[:1], *plain)
    with pytest.raises(ValueError, match="bias must be"):
        group_assign(query, bias[:, :2], tokens, *plain)
    with pytest.raises(ValueError, match=r"one type, got torch\.float32, torch\.bfloat16"):
        group_assign(query, bias, tokens.bfloat16(), *plain)
    with pytest.raises(ValueError, match=r"noise must be \(2,\) int64, got \(3,\)"):
        group_assign(query, bias, tokens, torch.arange(3), 0, 1.0, 1.0)
    with pytest.raises(ValueError, match="damping must be > 0, got 0"):
        group_assign(query, bias, tokens, None, 0, 1.0, 0.0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own doing
@pytest.mark.parametrize("noise", [None, NOISE], ids=["plain", "noisy"])
def test_op_is_registered_as_pytorch_wants_it(noise: Tensor | None) -> None:
    arguments = [t.requires_grad_() for t in inputs((2, 3, 7, 4))]
    torch.library.opcheck(torch.ops.groupvit.group_assign.default, (*arguments, noise, 1, 0.5, 1.0))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("noise", [None, NOISE], ids=["plain", "noisy"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_the_reference(
    shape: tuple[int, int, int, int],
    noise: Tensor | None,
    dtype: torch.dtype,
    kernel_device: torch.device,
    near: Near,
) -> None:
    scale = shape[3] ** -0.5
    query, bias, tokens = leaves = [t.requires_grad_() for t in inputs(shape, dtype)]
    want = assign(query.float(), bias, tokens.float(), noise, 3, scale, 1.0)
    up_mean, up_size = torch.randn(want[0].shape).to(dtype), torch.randn(want[1].shape)
    want_grad = torch.autograd.grad(want[:2], leaves, [up_mean.float(), up_size])

    query, bias, tokens = (t.detach().to(kernel_device) for t in leaves)
    moved_noise = noise if noise is None else noise.to(kernel_device)
    got = group_assign_triton(query, bias, tokens, moved_noise, 3, scale, 1.0)
    assert torch.equal(got[3].cpu(), want[3])  # the same choice for every token
    for ours, theirs in zip(got[:3], want[:3], strict=True):
        near(ours, theirs.detach(), ours.dtype)
    ups = up_mean.to(kernel_device), up_size.to(kernel_device)
    grad = group_assign_backward_triton(*ups, query, tokens, *got, scale)
    for ours, theirs in zip(grad, want_grad, strict=True):
        near(ours, theirs, dtype)


@pytest.mark.kernel
def test_kernel_takes_strides_and_no_batch(kernel_device: torch.device, near: Near) -> None:
    query, bias, tokens = inputs((2, 6, 40, 24))
    want = assign(query, bias, tokens, None, 0, 0.3, 1.0)
    turned = query.mT.contiguous().mT, tokens.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    query, tokens = (t.to(kernel_device) for t in turned)
    bias = bias.to(kernel_device)
    got = group_assign_triton(query, bias, tokens, None, 0, 0.3, 1.0)
    for ours, theirs in zip(got, want, strict=True):
        near(ours, theirs, torch.float32)
    empty = group_assign_triton(query[:0], bias[:0], tokens[:0], None, 0, 0.3, 1.0)
    assert [tuple(t.shape) for t in empty] == [(0, 6, 24), (0, 6), (0, 6, 40), (0, 40)]


@pytest.mark.kernel
@pytest.mark.parametrize("tokens", [40, 300])
def test_kernel_gives_a_tie_to_the_lowest_group(tokens: int, kernel_device: torch.device) -> None:
    points = torch.randint(-1, 2, (2, tokens, 16)).float()
    query = torch.randint(-1, 2, (2, 3, 16)).float().repeat(1, 4, 1)  # each query four times
    query, bias, points = (t.to(kernel_device) for t in (query, torch.zeros(2, 12), points))
    *_, label = group_assign_triton(query, bias, points, None, 0, 1.0, 1.0)
    assert int(label.max()) < 3
