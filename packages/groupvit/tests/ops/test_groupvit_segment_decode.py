"""From assignments to labels: roll-up, half-pixel centres, ties, the kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from groupvit.ops.segment_decode import roll_up, segment_decode, upsample_argmax
from groupvit.ops.segment_decode.kernel import upsample_argmax_triton
from groupvit.ops.segment_decode.reference import upsample_argmax_reference


def maps(batch: int, groups: int, height: int, width: int) -> Tensor:
    return torch.rand(batch, groups, height, width).softmax(dim=1)


def ids(batch: int, groups: int) -> Tensor:
    return torch.arange(groups, dtype=torch.int32).expand(batch, groups)


def test_worked_example() -> None:
    """Two patches side by side become eight pixels; the border lies between their centres."""
    assignment = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])  # (1, 2, 2)
    lookup = torch.tensor([[7, 3]], dtype=torch.int32)
    labels = segment_decode([assignment], lookup, (1, 2), (1, 8))
    # weight of the right patch: 0 0 1/8 3/8 5/8 7/8 1 1; left wins while 0.9 - 0.7 w > 0.5
    assert labels.tolist() == [[[7, 7, 7, 7, 3, 3, 3, 3]]]


def test_stages_are_composed() -> None:
    first, second = maps(2, 6, 5, 7).flatten(2), maps(2, 3, 1, 6).flatten(2)
    want = (second @ first).view(2, 3, 5, 7)
    got = segment_decode([first, second], ids(2, 3), (5, 7), (40, 56))
    assert torch.equal(got, upsample_argmax_reference(want, ids(2, 3), 40, 56))


def test_shapes_that_do_not_fit_are_named() -> None:
    assignment = maps(1, 2, 3, 4).flatten(2)
    with pytest.raises(ValueError, match=r"12 patches and .* do not fit grid \(3, 5\)"):
        segment_decode([assignment], ids(1, 2), (3, 5), (9, 9))
    with pytest.raises(ValueError, match=r"lookup \(1, 3\)"):
        segment_decode([assignment], ids(1, 3), (3, 4), (9, 9))
    with pytest.raises(ValueError, match="at least one stage"):
        roll_up([])


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    rows=st.integers(1, 40),
    seed=st.integers(0, 9999),
)
def test_one_group_owns_all_and_permuted_groups_permute_labels(
    height: int, width: int, rows: int, seed: int
) -> None:
    torch.manual_seed(seed)
    soft = maps(1, 4, height, width)
    order = torch.randperm(4)
    labels = upsample_argmax(soft, ids(1, 4), rows, 17)
    turned = upsample_argmax(soft[:, order], order[None].to(torch.int32), rows, 17)
    assert torch.equal(labels, turned)
    assert not upsample_argmax(soft[:, :1], ids(1, 1), rows, 17).any()


def test_a_tie_goes_to_the_lowest_group() -> None:
    soft = torch.randint(0, 2, (2, 8, 5, 5)).float()
    resized = torch.nn.functional.interpolate(soft, (80, 80), mode="bilinear")
    best = resized.max(dim=1, keepdim=True).values
    lowest = (resized == best).int().argmax(dim=1)  # of 0 and 1 the first 1
    assert torch.equal(upsample_argmax(soft, ids(2, 8), 80, 80), lowest.int())


def test_op_is_registered_as_pytorch_wants_it() -> None:
    torch.library.opcheck(
        torch.ops.groupvit.upsample_argmax.default, (maps(2, 3, 4, 5), ids(2, 3), 9, 11)
    )


@pytest.mark.kernel
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1, 1, 1), (2, 8, 14, 14, 224, 224), (2, 5, 7, 9, 53, 31), (1, 64, 28, 37, 100, 140)],
    ids=str,
)
def test_kernel_is_the_reference(
    shape: tuple[int, int, int, int, int, int], kernel_device: torch.device
) -> None:
    batch, groups, height, width, rows, columns = shape
    soft, lookup = maps(batch, groups, height, width), torch.randint(0, 99, (batch, groups)).int()
    got = upsample_argmax_triton(
        soft.to(kernel_device), lookup.to(kernel_device), rows, columns
    ).cpu()
    want = upsample_argmax_reference(soft, lookup, rows, columns)
    assert float((got != want).float().mean()) < 1e-4  # places where two groups are equal to 1e-7


@pytest.mark.kernel
def test_kernel_takes_strides_ties_and_no_batch(kernel_device: torch.device) -> None:
    soft = torch.randint(0, 2, (2, 6, 6, 8)).float().permute(0, 1, 3, 2).to(kernel_device)
    lookup = ids(2, 6).to(kernel_device)
    got = upsample_argmax_triton(soft, lookup, 64, 48)
    assert torch.equal(got.cpu(), upsample_argmax_reference(soft.cpu(), lookup.cpu(), 64, 48))
    assert upsample_argmax_triton(soft[:0], lookup[:0], 9, 9).shape == (0, 9, 9)
