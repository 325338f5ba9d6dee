"""Normalisers of contrastive losses: tiles against stored logits, far-off columns, the kernel."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from groupvit.ops.multi_label_contrastive import tiled, two_way_logsumexp
from groupvit.ops.multi_label_contrastive.kernel import (
    two_way_logsumexp_backward_triton,
    two_way_logsumexp_triton,
)
from groupvit.ops.multi_label_contrastive.reference import two_way_logsumexp_reference

Near = Callable[[Tensor, Tensor, torch.dtype], None]


def unit(n: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=1).to(dtype)


def test_worked_example() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    columns = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    over_columns, over_rows = two_way_logsumexp(rows, columns, torch.tensor(2.0))
    e = math.exp
    want = [math.log(e(2) + 1 + e(-2)), math.log(1 + e(4) + 1)]
    torch.testing.assert_close(over_columns, torch.tensor(want))
    want = [math.log(e(2) + 1), math.log(1 + e(4)), math.log(e(-2) + 1)]
    torch.testing.assert_close(over_rows, torch.tensor(want))


@given(
    m=st.integers(1, 40), n=st.integers(1, 60), scale=st.floats(0.1, 100), seed=st.integers(0, 99)
)
def test_tiles_give_what_stored_logits_give(m: int, n: int, scale: float, seed: int) -> None:
    leaves = [
        unit(m, 6, seed).double(),
        unit(n, 6, seed + 1).double(),
        torch.tensor(scale).double(),
    ]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    up = [unit(1, m, seed + 2)[0].double(), unit(1, n, seed + 3)[0].double()]
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "TILE", 7 * n)  # several tiles, of at least 16 rows, the last smaller
        for op in (two_way_logsumexp, two_way_logsumexp_reference):
            sums = op(*leaves)
            results.append([*sums, *torch.autograd.grad(sums, leaves, up)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_columns_far_below_the_others_are_summed_all_the_same() -> None:
    """One exponential for both directions underflows here: logits of -100 beside 100."""
    rows = torch.eye(40, 8).index_fill(0, torch.arange(8, 40), 0.0) + torch.tensor([1.0] + [0] * 7)
    columns = torch.cat([torch.eye(8), -torch.eye(8)])
    leaves = [t.requires_grad_() for t in (rows, columns, torch.tensor(100.0))]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got, want = two_way_logsumexp(*leaves), two_way_logsumexp_reference(*exact)
    assert float(want[1].detach().min()) < -90 and float(want[1].detach().max()) > 190
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-5)
    grads = torch.autograd.grad([s.sum() for s in got], leaves)
    want_grads = torch.autograd.grad([s.sum() for s in want], exact)
    for ours, theirs in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-3)


def test_wrong_arguments_are_named() -> None:
    rows, scale = torch.ones(2, 3), torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        two_way_logsumexp(rows, torch.ones(2, 4), scale)
    with pytest.raises(ValueError, match="must not be empty"):
        two_way_logsumexp(rows[:0], rows, scale)
    with pytest.raises(ValueError, match=r"one type, got torch\.float32, torch\.float16"):
        two_way_logsumexp(rows, rows.half(), scale)
    with pytest.raises(ValueError, match=r"a torch\.float32 scalar, got \(1,\)"):
        two_way_logsumexp(rows, rows, scale[None])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own doing
def test_op_is_registered_as_pytorch_wants_it() -> None:
    leaves = [unit(5, 8, 0).requires_grad_(), unit(11, 8, 1).requires_grad_()]
    scale = torch.tensor(3.0, requires_grad=True)
    torch.library.opcheck(torch.ops.groupvit.two_way_logsumexp.default, (*leaves, scale))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (7, 21, 16), (130, 257, 40), (64, 192, 256), (33, 100, 300)], ids=str
)
def test_kernel_is_the_reference(
    shape: tuple[int, int, int],
    scale: float,
    dtype: torch.dtype,
    kernel_device: torch.device,
    near: Near,
) -> None:
    m, n, dim = shape
    leaves = [
        unit(m, dim, 1, dtype).requires_grad_(),
        unit(n, dim, 2, dtype).requires_grad_(),
        torch.tensor(scale, requires_grad=True),
    ]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    want = two_way_logsumexp_reference(*exact)
    up = [torch.rand(m), torch.rand(n)]  # of one sign: gradients are sums, not differences
    want_grads = torch.autograd.grad(want, exact, [u.double() for u in up])
    rows, columns, factor = (leaf.detach().to(kernel_device) for leaf in leaves)
    got = two_way_logsumexp_triton(rows, columns, factor)
    for ours, theirs in zip(got, want, strict=True):
        near(ours, theirs.detach(), torch.float32)
    ups = up[0].to(kernel_device), up[1].to(kernel_device)
    grads = two_way_logsumexp_backward_triton(*ups, rows, columns, factor, *got)
    for ours, theirs in zip(grads, want_grads, strict=True):
        near(ours, theirs, dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_op_on_a_gpu_is_the_reference(dtype: torch.dtype, near: Near) -> None:
    """float32 rows take tiles of PyTorch, bfloat16 rows the kernel."""
    leaves = [unit(700, 256, 1, dtype).cuda(), unit(1100, 256, 2, dtype).cuda()]
    leaves = [leaf.requires_grad_() for leaf in [*leaves, torch.tensor(20.0, device="cuda")]]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "GPU_TILE", 1100 * 300)  # several tiles
        sums = two_way_logsumexp(*leaves)
        grads = torch.autograd.grad([s.square().sum() for s in sums], leaves)
    want = two_way_logsumexp_reference(*exact)
    want_grads = torch.autograd.grad([s.square().sum() for s in want], exact)
    for ours, theirs in zip([*sums, *grads], [*want, *want_grads], strict=True):
        near(ours.detach(), theirs.detach(), dtype)


@pytest.mark.kernel
def test_kernel_takes_strides(kernel_device: torch.device, near: Near) -> None:
    rows, columns = unit(70, 33, 1).half().mT.contiguous().mT, unit(90, 66, 2).half()[:, ::2]
    scale = torch.tensor(7.0)
    got = two_way_logsumexp_triton(*(t.to(kernel_device) for t in (rows, columns, scale)))
    want = two_way_logsumexp_reference(rows.double(), columns.double(), scale.double())
    for ours, theirs in zip(got, want, strict=True):
        near(ours, theirs, torch.float32)  # sums of float16 rows are still float32
