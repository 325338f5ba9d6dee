"""Mask pooling: the transposed resize against features at full size, by hand, and the kernel."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskcluster.masks.packed import pack
from maskcluster.ops.mask_pool import mask_pool
from maskcluster.ops.mask_pool.axis import resize_matrix, resized_axis
from maskcluster.ops.mask_pool.cpu import mask_weights
from maskcluster.ops.mask_pool.kernel import mask_pool_triton, mask_weights_triton
from maskcluster.ops.mask_pool.reference import mask_pool_reference

SHAPES = [  # B, D, h, w, S, M
    (1, 1, 1, 1, 32, 1),
    (3, 5, 4, 7, 32, 7),
    (2, 70, 20, 20, 96, 6),  # more rows of pixels than a program takes, more channels
    (2, 33, 70, 3, 64, 5),  # more rows of cells
    (2, 16, 3, 67, 64, 40),  # more columns of cells, and more masks
    (4, 8, 13, 40, 32, 3),  # more columns of cells than of pixels
]

Shape = tuple[int, int, int, int, int, int]


def cases(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, packed masks and owners: discs, an empty and a full mask, noise."""
    images, channels, height, width, side, count = shape
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, height, width, generator=random)
    at = torch.arange(side, dtype=torch.float32)
    centre, radius = (
        torch.rand(count, 2, generator=random) * side,
        torch.rand(count, generator=random) * side / 2 + 1,
    )
    rows = (at[None, :] - centre[:, :1]).square()
    columns = (at[None, :] - centre[:, 1:]).square()
    masks = rows[:, :, None] + columns[:, None, :] < radius.square()[:, None, None]
    for place, share in ((1, 0.0), (3, 1.0), (5, 0.4)):
        masks[place : place + 1] = torch.rand(side, side, generator=random) < share
    owner = torch.randint(0, images, (count,), generator=random).sort().values
    return features, pack(masks), owner


def near(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert got.shape == want.shape
    got, want = got.double().cpu(), want.double().cpu()
    rms = want.square().mean().sqrt()
    assert bool(((got - want).abs() <= tolerance * (want.abs() + rms)).all())


def test_worked_example() -> None:
    """Two cells of 16 columns: beyond their centres they are alone, between them shares grow."""
    masks = torch.zeros(5, 32, 32, dtype=torch.bool)
    masks[0, :, :8] = True
    masks[1, 5:9, 24:] = True
    masks[2, 3, 8] = True  # its centre is half a pixel of 16 past that of the first cell
    masks[3, :, [8, 23]] = True
    features = torch.tensor([[[[0.0, 1.0]], [[4.0, 2.0]]]])  # (1, 2, 1, 2)
    pooled, area = mask_pool(features, pack(masks), torch.zeros(5, dtype=torch.int64))
    assert area.tolist() == [256, 32, 1, 64, 0]
    want = [[0, 4], [1, 2], [1 / 32, 4 - 2 / 32], [0.5, 3], [0, 0]]
    assert pooled.tolist() == want
    assert pooled.dtype == area.dtype == torch.float32


@pytest.mark.parametrize(("places", "pixels"), [(1, 32), (7, 32), (20, 256), (40, 32), (32, 32)])
def test_axis_is_the_resize_of_pytorch(places: int, pixels: int) -> None:
    one = torch.eye(places, dtype=torch.float64)[None]  # (1, n, n)
    want = torch.nn.functional.interpolate(one, pixels, mode="linear", align_corners=False)[0].mT
    torch.testing.assert_close(torch.from_numpy(resize_matrix(places, pixels)), want)
    axis = resized_axis(places, pixels)
    assert [int(axis.starts[0]), int(axis.starts[-1])] == [0, pixels]
    for gap in range(places + 1):
        assert bool((axis.gap[axis.starts[gap] : axis.starts[gap + 1]] == gap).all())


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 3),
    channels=st.integers(1, 5),
    size=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    side=st.sampled_from([32, 64, 96]),
    count=st.integers(0, 9),
    seed=st.integers(0, 999),
)
def test_equals_features_at_full_size_averaged_under_the_mask(
    images: int, channels: int, size: tuple[int, int], side: int, count: int, seed: int
) -> None:
    features, packed, owner = cases((images, channels, *size, side, count), seed)
    want, want_area = mask_pool_reference(features.double(), packed, owner)
    pooled, area = mask_pool(features.double(), packed, owner)
    torch.testing.assert_close(pooled, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(area, want_area)
    single, area = mask_pool(features, packed, owner)
    torch.testing.assert_close(single.double(), want, rtol=1e-5, atol=1e-5)
    assert area.dtype == torch.float32 and torch.equal(area.double(), want_area)


@settings(deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(0, 127), st.integers(1, 128)), max_size=8),
    width=st.integers(1, 140),
)
def test_runs_weigh_what_their_pixels_weigh(runs: list[tuple[int, int]], width: int) -> None:
    """Runs that touch, overlap, cross words or go to the end of the row."""
    masks = torch.zeros(1, 128, 128, dtype=torch.bool)
    for start, length in runs:
        masks[0, 77, start : start + length] = True
    weights, area = mask_weights(pack(masks), (1, width), torch.float64)
    want = masks[0, 77].double() @ torch.from_numpy(resize_matrix(width, 128))
    torch.testing.assert_close(weights[0], want)
    assert float(area) == float(masks.sum())


def test_weights_sum_to_the_area() -> None:
    _, packed, _ = cases((1, 1, 1, 1, 96, 20))
    weights, area = mask_weights(packed, (11, 23), torch.float64)
    torch.testing.assert_close(weights.sum(dim=1), area)
    assert bool((weights >= 0).all())


def test_masks_see_their_own_image_only() -> None:
    features, packed, owner = cases((4, 6, 5, 5, 32, 12))
    owner = owner.clamp(min=1)  # nothing belongs to image 0
    want, _ = mask_pool(features, packed, owner)
    changed = features.clone()
    changed[0] = float("nan")
    changed[2] *= -1
    got, _ = mask_pool(changed, packed, owner)
    torch.testing.assert_close(got, torch.where((owner == 2)[:, None], -want, want))


def test_no_masks_give_nothing() -> None:
    features, packed, owner = cases((2, 6, 5, 5, 32, 0))
    pooled, area = mask_pool(features, packed, owner)
    assert pooled.shape == (0, 6) and area.shape == (0,)


def test_strides_types_and_autocast_do_not_matter() -> None:
    features, packed, owner = cases((2, 6, 5, 9, 64, 8))
    want = mask_pool(features, packed, owner)
    last = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    other_masks = packed.mT.contiguous().mT
    with torch.autocast("cpu", torch.bfloat16):
        got = mask_pool(last, other_masks, owner)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    half, _ = mask_pool(features.bfloat16(), packed, owner)
    exact, _ = mask_pool(features.bfloat16().float(), packed, owner)
    assert half.dtype == torch.float32 and torch.equal(half, exact)


def test_result_does_not_depend_on_threads() -> None:
    inputs = cases((3, 6, 20, 20, 256, 50))
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(mask_weights(inputs[1], (20, 20), torch.float32)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_real_size_is_the_reference() -> None:
    features, packed, owner = cases((1, 512, 20, 20, 256, 8))
    want, _ = mask_pool_reference(features.double(), packed, owner)
    near(mask_pool(features, packed, owner)[0], want, 1e-6)


def test_no_gradient_is_passed_back() -> None:
    features, packed, owner = cases((1, 2, 3, 3, 32, 2))
    pooled, area = mask_pool(features.requires_grad_(), packed, owner)
    assert not pooled.requires_grad and not area.requires_grad


def test_wrong_arguments_are_named() -> None:
    features, packed, owner = cases((2, 3, 4, 4, 32, 3))
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((features[0], packed, owner), r"must be \(B, D, h, w\) floats, got \(3, 4, 4\)"),
        ((features.long(), packed, owner), r"got \(2, 3, 4, 4\) torch\.int64"),
        ((features[:, :0], packed, owner), r"must not be empty, got \(2, 0, 4, 4\)"),
        ((features, packed.int(), owner), r"uint8, got \(3, 32, 4\) torch\.int32"),
        ((features, packed[:, :8], owner), r"got \(3, 8, 4\)"),
        ((features, packed[:, :16, :2], owner), "a multiple of 32, got 16"),
        ((features, packed, owner[:2]), r"owner must be \(3,\) int64, got \(2,\) torch\.int64"),
        ((features, packed, owner.int()), r"got \(3,\) torch\.int32"),
        ((features, packed, torch.tensor([0, 1, 2])), r"in \[0, 2\), got \[0, 1, 2\]"),
        ((features, packed, torch.tensor([-1, 0, 1])), r"owner must be in \[0, 2\)"),
        ((features, packed, torch.tensor([0, 1, 0])), r"must not decrease, got \[0, 1, 0\]"),
    ]  # fmt: skip
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            mask_pool(*arguments)


def test_op_is_registered_as_pytorch_wants_it() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        features, packed, owner = cases((2, 3, 4, 5, 32, 4))
        op = torch.ops.maskcluster.mask_pool.default
        torch.library.opcheck(op, (features.to(dtype), packed, owner))


def test_compiler_sees_through() -> None:
    inputs = cases((2, 3, 4, 5, 32, 4))
    compiled = torch.compile(mask_pool, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(*inputs), mask_pool(*inputs), strict=True):
        assert torch.equal(got, want)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_the_reference(
    shape: Shape, dtype: torch.dtype, kernel_device: torch.device
) -> None:
    features, packed, owner = cases(shape)
    features = features.to(dtype)
    want, want_area = mask_pool_reference(features.double(), packed, owner)
    pooled, area = mask_pool_triton(*(t.to(kernel_device) for t in (features, packed, owner)))
    near(pooled, want, 1e-5)
    assert torch.equal(area.double().cpu(), want_area)


@pytest.mark.kernel
def test_kernel_has_the_weights_of_the_cpu(kernel_device: torch.device) -> None:
    _, packed, _ = cases((1, 1, 1, 1, 96, 6))
    weights, _ = mask_weights_triton(packed.to(kernel_device), (11, 23))
    near(weights, mask_weights(packed, (11, 23), torch.float64)[0], 1e-6)


@pytest.mark.kernel
def test_kernel_takes_strides_and_no_masks(kernel_device: torch.device) -> None:
    features, packed, owner = cases((2, 6, 5, 9, 32, 4))
    want = mask_pool_reference(features.double(), packed, owner)
    last = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).to(kernel_device)
    masks = packed.mT.contiguous().mT.to(kernel_device)
    pooled, _ = mask_pool_triton(last, masks, owner.to(kernel_device))
    near(pooled, want[0], 1e-5)
    pooled, area = mask_pool_triton(last, masks[:0], owner[:0].to(kernel_device))
    assert pooled.shape == (0, 6) and area.shape == (0,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("size", [20, 40])
def test_op_on_a_gpu_is_the_reference(size: int, dtype: torch.dtype) -> None:
    features, packed, owner = cases((4, 512, size, size, 256, 300))
    features = features.to(dtype)
    want, want_area = mask_pool_reference(features.double(), packed, owner)
    pooled, area = mask_pool(features.cuda(), packed.cuda(), owner.cuda())
    near(pooled, want, 1e-5)
    assert torch.equal(area.double().cpu(), want_area)
