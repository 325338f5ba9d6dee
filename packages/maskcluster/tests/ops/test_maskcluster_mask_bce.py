"""The mask loss: by hand, against everything at full size, its gradient, and the kernel."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskcluster.masks.packed import pack
from maskcluster.ops.mask_bce import mask_bce
from maskcluster.ops.mask_bce.cpu import LOG1P
from maskcluster.ops.mask_bce.kernel import mask_bce_triton
from maskcluster.ops.mask_bce.reference import (
    mask_bce_gradient_reference,
    mask_bce_reference,
    union_targets,
)

SHAPES = [  # B, K, y, x, S, M
    (1, 1, 1, 1, 32, 1),
    (2, 3, 5, 7, 32, 6),
    (1, 17, 2, 8, 32, 3),  # several programs a row
    (1, 2, 17, 40, 32, 4),  # more places than pixels, two bands of rows
    (1, 2, 8, 8, 32, 5),
    (1, 2, 1, 2, 64, 2),  # gaps of more pixels than a word has bits
    (2, 4, 3, 3, 32, 0),
]

Shape = tuple[int, int, int, int, int, int]
Case = tuple[Tensor, ...]


def cases(shape: Shape, *, scale: float = 3.0, seed: int = 0) -> Case:
    """Logits, packed masks that cover some of the pixels and overlap, owners, clusters."""
    images, clusters, height, width, side, count = shape
    random = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, clusters, height, width, generator=random)
    corners = torch.randint(0, side, (count, 4), generator=random)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for n, (top, left, tall, wide) in enumerate(corners.tolist()):
        masks[n, top : top + tall // 2 + 1, left : left + wide // 2 + 1] = True
        masks[n] &= torch.rand(side, side, generator=random) < 0.8
    owner = torch.randint(0, images, (count,), generator=random).sort().values
    return logits, pack(masks), owner, torch.randint(0, clusters, (count,), generator=random)


def gradient(case: Case, upstream: float = 0.37) -> tuple[Tensor, Tensor, Tensor]:
    """Total, pixels and the gradient of `upstream` times the total, by the op."""
    leaf = case[0].detach().requires_grad_()
    total, pixels = mask_bce(leaf, *case[1:])
    (found,) = torch.autograd.grad(total * upstream, leaf)
    return total.detach(), pixels, found


def wanted(case: Case, upstream: float = 0.37) -> tuple[Tensor, Tensor, Tensor]:
    """The same by autograd through the reference, in float64."""
    leaf = case[0].detach().double().requires_grad_()
    total, pixels = mask_bce_reference(leaf, *case[1:])
    (found,) = torch.autograd.grad(total * upstream, leaf)
    return total.detach(), pixels, found


def on(device: torch.device, case: Case, *, want_gradient: bool = True) -> tuple[Tensor, ...]:
    """The kernel's total, pixels and gradient."""
    logits, packed, owner, cluster = (t.to(device) for t in case)
    return mask_bce_triton(logits, packed, owner, cluster, want_gradient)


def near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    got, want = got.double().cpu(), want.double().cpu()
    rms = want.square().mean().sqrt()
    assert bool(((got - want).abs() <= tolerance * (want.abs() + rms) + 1e-14).all())


def test_worked_example() -> None:
    """One place a map, so that every pixel has its logit: odds of 3, 1/3 and 1."""
    logits = torch.tensor([math.log(3), -math.log(3), 0.0]).view(1, 3, 1, 1).requires_grad_()
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :2, :5] = True  # 10 pixels, cluster 0
    masks[1, 1, 3:9] = True  # 6, of which 2 are those of the first, cluster 1
    masks[2, 0, 0] = True  # cluster 0 again
    ids = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 0])
    total, pixels = mask_bce(logits, pack(masks), *ids)
    assert int(pixels) == 14
    # cluster 0: 10 of 14 pixels are its own; cluster 1: 6; cluster 2: none
    want = 10 * math.log(4 / 3) + 4 * math.log(4)
    want += 6 * math.log(4) + 8 * math.log(4 / 3) + 14 * math.log(2)
    assert float(total.detach()) == pytest.approx(want, rel=1e-6)
    (found,) = torch.autograd.grad(2 * total, logits)
    slopes = [2 * (14 * 0.75 - 10), 2 * (14 * 0.25 - 6), 2 * 14 * 0.5]
    assert found.flatten().tolist() == pytest.approx(slopes, rel=5e-6)


def test_overlapping_masks_of_two_clusters_give_both_positive() -> None:
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, :, :20], masks[1, :, 12:] = True, True
    ids = torch.zeros(2, dtype=torch.int64), torch.tensor([1, 2])
    targets = union_targets(pack(masks), *ids, (1, 3))[0]
    assert torch.equal(targets, torch.stack([torch.zeros_like(masks[0]), *masks]))
    sure = torch.tensor([-30.0, 30.0, 30.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    both = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    both[..., 12:20] = True
    total, _ = mask_bce(sure, pack(masks), *ids)
    # outside of the overlap one of the two sure clusters is wrong: 24 columns
    assert float(total) == pytest.approx(24 * 32 * 30, rel=1e-6)
    _, _, found = gradient((sure, pack(masks), *ids), 1.0)
    assert float(found[:, 1:][both.expand(-1, 2, -1, -1)].abs().max()) < 1e-9


def test_pixels_under_no_mask_give_no_gradient() -> None:
    """At S x S logits a pixel is a place; elsewhere places that no covered pixel reaches."""
    logits, packed, owner, cluster = cases((2, 3, 32, 32, 32, 5))
    covered = union_targets(packed, owner, cluster, (2, 3)).any(dim=1, keepdim=True)
    _, pixels, found = gradient((logits, packed, owner, cluster))
    assert 0 < int(pixels) == int(covered.sum()) < 2 * 32 * 32
    assert bool((found[~covered.expand_as(found)] == 0).all())
    assert bool((found[covered.expand_as(found)] != 0).all())
    corner = torch.zeros(1, 64, 64, dtype=torch.bool)
    corner[0, :8, :8] = True
    ids = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    _, _, found = gradient((logits[:1, :, :8, :8], pack(corner), *ids))
    assert bool((found[..., :2, :2] != 0).all())
    assert bool((found[..., 2:, :] == 0).all() and (found[..., :, 2:] == 0).all())


def test_nothing_covered_is_zero() -> None:
    logits, packed, owner, cluster = cases((2, 3, 4, 5, 32, 3))
    nothing = (logits, packed[:0], owner[:0], cluster[:0])
    empty = (logits, torch.zeros_like(packed), owner, cluster)
    for case in (nothing, empty):
        total, pixels, found = gradient(case)
        assert (float(total), int(pixels)) == (0.0, 0)
        assert found.shape == logits.shape and bool((found == 0).all())


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 3),
    clusters=st.sampled_from([1, 2, 5, 65]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    side=st.sampled_from([32, 64]),
    count=st.integers(0, 9),
    scale=st.sampled_from([0.01, 1.0, 10.0, 60.0]),
    seed=st.integers(0, 999),
)
def test_equals_everything_at_full_size(
    images: int,
    clusters: int,
    size: tuple[int, int],
    side: int,
    count: int,
    scale: float,
    seed: int,
) -> None:
    case = cases((images, clusters, *size, side, count), scale=scale, seed=seed)
    total, pixels, found = gradient(case)
    want, want_pixels, want_found = wanted(case)
    assert total.dtype == found.dtype == torch.float32
    # where a sure logit is right, both are below what float64 keeps of sigmoid(x) - 1
    torch.testing.assert_close(total.double(), want, rtol=2e-6, atol=1e-12)
    assert int(pixels) == int(want_pixels)
    near(found, want_found, 1e-5)


def test_real_size_equals_eager_pytorch() -> None:
    """Against the plain formulation in float32."""
    case = cases((1, 16, 80, 80, 256, 20))
    logits, packed, owner, cluster = case
    leaf = logits.clone().requires_grad_()
    full = F.interpolate(leaf, (256, 256), mode="bilinear", align_corners=False)
    targets = union_targets(packed, owner, cluster, (1, 16))
    covered = targets.any(dim=1, keepdim=True).expand_as(full)
    want = F.binary_cross_entropy_with_logits(
        full[covered], targets.float()[covered], reduction="sum"
    )
    (want_found,) = torch.autograd.grad(want * 0.37, leaf)
    total, pixels, found = gradient(case)
    torch.testing.assert_close(total, want.detach(), rtol=1e-5, atol=0)
    assert int(pixels) * 16 == int(covered.sum())
    near(found, want_found, 2e-5)  # eager rounds weights to 4e-6


@pytest.mark.parametrize("value", [0.0, 1e-4, 1.0, 8.0, 20.0, 50.0, 85.0, 300.0])
def test_losses_are_stable_and_small_ones_exact(value: float) -> None:
    """A right and a wrong answer that sure: log(1 + exp(-v)), relative to itself, and v more."""
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 0, 0] = True
    ids = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    small = math.log1p(math.exp(-min(value, 87)))
    for sign, loss in ((1, small), (-1, value + small)):
        logits = torch.full((1, 1, 2, 2), sign * value)
        total, _, found = gradient((logits, pack(masks), *ids), 1.0)
        assert float(total) == pytest.approx(loss, rel=2e-6)
        slope = -1 / (1 + math.exp(sign * value))
        assert float(found.sum()) == pytest.approx(slope, rel=2e-6, abs=1e-37)


def test_series_is_the_logarithm() -> None:
    e = torch.linspace(0, 1, 10_001, dtype=torch.float64)[1:]
    series = sum(c * e**n for n, c in enumerate(LOG1P))
    torch.testing.assert_close(series * e, e.log1p(), rtol=2e-7, atol=0)


def test_gradient_is_that_of_autograd() -> None:
    """Of the reference's own formula, and by differences of the op in float64."""
    case = cases((2, 3, 5, 4, 32, 6))
    exact = (case[0].double(), *case[1:])
    _, _, want = wanted(case, 1.0)
    torch.testing.assert_close(mask_bce_gradient_reference(*exact), want)
    small = (exact[0][:1, :, :3, :3].contiguous().requires_grad_(), *case[1:])
    ids = case[2].clamp(max=0), case[3]
    assert torch.autograd.gradcheck(lambda z: mask_bce(z, case[1], *ids)[0], small[0])


def test_float64_stays_float64() -> None:
    case = cases((2, 3, 5, 4, 32, 6))
    total, _, found = gradient((case[0].double(), *case[1:]))
    want, _, want_found = wanted(case)
    assert total.dtype == found.dtype == torch.float64
    torch.testing.assert_close(total, want)
    torch.testing.assert_close(found, want_found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_halves_are_summed_in_float32(dtype: torch.dtype) -> None:
    """As autocast gives them; the gradient is rounded to their type."""
    case = cases((2, 3, 9, 9, 64, 6))
    half = (case[0].to(dtype), *case[1:])
    want, _, want_found = wanted(half)
    with torch.autocast("cpu", torch.bfloat16):
        total, _, found = gradient(half)
    assert total.dtype == torch.float32 and found.dtype == dtype
    torch.testing.assert_close(total.double(), want, rtol=2e-6, atol=0)
    torch.testing.assert_close(found.double(), want_found, rtol=1e-2, atol=1e-2)
    double = torch.autocast("cpu", torch.bfloat16)
    with double:
        total, _, _ = gradient((case[0].double(), *case[1:]))
    assert total.dtype == torch.float64
    torch.testing.assert_close(total, wanted(case)[0])


def test_large_logits_of_one_map_leave_the_next_alone() -> None:
    """A thread goes from map to map with the same rows."""
    logits, packed, owner, cluster = cases((1, 4, 5, 5, 32, 4))
    logits[0, [0, 2]] = 1e30
    _, _, found = gradient((logits, packed, owner, cluster))
    _, _, want = wanted((logits, packed, owner, cluster))
    near(found, want, 1e-5)
    logits[0, [0, 2]] = float("nan")
    total, _, found = gradient((logits, packed, owner, cluster))
    assert math.isnan(float(total))  # a run that diverged is seen
    near(found[0, [1, 3]], want[0, [1, 3]], 1e-5)


def test_strides_and_order_of_the_masks_of_an_image_do_not_matter() -> None:
    logits, packed, owner, cluster = cases((2, 3, 5, 7, 32, 8))
    want = gradient((logits, packed, owner, cluster))
    strided = logits.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    order = torch.argsort(owner * 10 + cluster)
    got = gradient((strided, packed.mT.contiguous().mT[order], owner[order], cluster[order]))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_result_does_not_depend_on_threads_or_on_the_gradient() -> None:
    case = cases((2, 5, 20, 20, 64, 8))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(gradient(case))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    total, _ = mask_bce(*case)
    assert torch.equal(total, results[0][0]) and not total.requires_grad


def test_second_derivative_is_refused() -> None:
    case = cases((1, 2, 3, 3, 32, 2))
    leaf = case[0].requires_grad_()
    total, _ = mask_bce(leaf, *case[1:])
    (found,) = torch.autograd.grad(total.square(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="mask_bce_backward"):
        found.sum().backward()  # type: ignore[no-untyped-call]  # PyTorch's


def test_wrong_arguments_are_named() -> None:
    logits, packed, owner, cluster = cases((2, 3, 4, 4, 32, 3))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((logits[0], packed, owner, cluster), r"must be \(B, K, y, x\) floats, got \(3, 4, 4\)"),
        ((logits.long(), packed, owner, cluster), r"torch\.int64"),
        ((logits[:, :0], packed, owner, cluster), r"must not be empty, got \(2, 0, 4, 4\)"),
        ((logits, packed[:, :8], owner, cluster), r"got \(3, 8, 4\)"),
        ((logits, packed, owner + 2, cluster), r"owner must be in \[0, 2\)"),
        ((logits, packed, owner, cluster + 3), r"cluster must be in \[0, 3\), got "),
        ((logits, packed, owner, cluster - 3), r"cluster must be in \[0, 3\), got "),
        ((logits, packed, owner, cluster[:2]), r"cluster must be \(3,\) int64, got \(2,\)"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            mask_bce(*arguments)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own doing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_op_is_registered_as_pytorch_wants_it(dtype: torch.dtype) -> None:
    logits, *masks = cases((2, 3, 4, 5, 32, 4))
    op = torch.ops.maskcluster.mask_bce.default
    logits = logits.to(dtype)
    torch.library.opcheck(op, (logits, *masks, False))
    torch.library.opcheck(op, (logits.requires_grad_(), *masks, True))


def test_compiler_sees_through() -> None:
    logits, *masks = cases((2, 3, 4, 5, 32, 4))

    def mean(logits: Tensor, *masks: Tensor) -> Tensor:
        total, pixels = mask_bce(logits, *masks)
        return total / (pixels * logits.shape[1])

    found = []
    for function in (mean, torch.compile(mean, fullgraph=True, backend="aot_eager")):
        leaf = logits.clone().requires_grad_()
        loss = function(leaf, *masks)
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_the_reference(
    shape: Shape, dtype: torch.dtype, kernel_device: torch.device
) -> None:
    logits, *masks = cases(shape)
    case = (logits.to(dtype), *masks)
    want, want_pixels, want_found = wanted(case, 1.0)
    total, pixels, found = on(kernel_device, case)
    torch.testing.assert_close(total.double().cpu(), want, rtol=2e-6, atol=0)
    assert int(pixels) == int(want_pixels)
    near(found, want_found, 1e-5)


@pytest.mark.kernel
def test_kernel_takes_strides_and_leaves_the_gradient_out(kernel_device: torch.device) -> None:
    logits, *masks = cases((1, 3, 3, 7, 32, 3))
    strided = logits.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    want = on(kernel_device, (logits, *masks))
    got = on(kernel_device, (strided, *masks))
    assert got[2].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    total, pixels, nothing = on(kernel_device, (logits, *masks), want_gradient=False)
    assert torch.equal(total, want[0]) and torch.equal(pixels, want[1]) and not nothing.numel()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("clusters", [1, 64, 100])
def test_op_on_a_gpu_is_the_reference_and_repeats(clusters: int, dtype: torch.dtype) -> None:
    logits, *masks = cases((2, clusters, 80, 80, 256, 60))
    case = (logits.to(dtype), *masks)
    want, want_pixels, want_found = wanted(case)
    there = tuple(t.cuda() for t in case)
    results = [gradient(there) for _ in range(2)]
    total, pixels, found = results[0]
    torch.testing.assert_close(total.double().cpu(), want, rtol=1e-5, atol=0)
    assert int(pixels) == int(want_pixels) and found.dtype == dtype
    near(found, want_found, 1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
