"""Roll-up of assignments."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupvit import roll_up


def test_worked_example() -> None:
    first = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]])  # (1, 2, 3)
    second = torch.tensor([[[0.8, 0.1], [0.2, 0.9]]])  # (1, 2, 2)
    want = torch.tensor([[[0.8, 0.45, 0.1], [0.2, 0.55, 0.9]]])
    torch.testing.assert_close(roll_up([first, second]), want)


@given(sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_columns_stay_probabilities(sizes: list[int], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(2, upper, lower, generator=random).softmax(dim=1)
        for lower, upper in pairwise(sizes)
    ]
    rolled = roll_up(maps)
    assert rolled.shape == (2, sizes[-1], sizes[0])
    torch.testing.assert_close(rolled.sum(dim=1), torch.ones(2, sizes[0]))


def test_hard_assignments_follow_the_chain() -> None:
    first = torch.eye(4)[[2, 0, 2, 3, 1, 1]].mT[None]  # patch n belongs to group 2, 0, 2, 3, 1, 1
    second = torch.eye(2)[[0, 1, 1, 0]].mT[None]
    assert roll_up([first, second]).argmax(dim=1).tolist() == [[1, 0, 1, 0, 1, 1]]


def test_nothing_cannot_be_rolled_up() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        roll_up([])
