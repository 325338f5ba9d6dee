"""The order of training depends on the step alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcluster.data.order import EndlessBatches
from maskcluster.errors import DataError, RecipeError


def order(photos: int = 10, batch: int = 4, **changed: int) -> EndlessBatches:
    given = {"seed": 7, "start": 0, "stop": 9} | changed
    return EndlessBatches(photos, batch, **given)


def test_an_epoch_sees_a_photograph_once_and_the_next_is_shuffled_anew() -> None:
    steps = list(order(photos=12))
    epochs = [[place for step in steps[3 * e : 3 * e + 3] for place in step] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert {place[0] for place in epoch} == {number}
        assert sorted(place[1] for place in epoch) == list(range(12))
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]


def test_what_does_not_fill_a_batch_is_left_to_other_epochs() -> None:
    steps = list(order(photos=10, stop=2 * 50))
    seen = {index for step in steps for _, index in step}
    assert seen == set(range(10)) and steps[2][0][0] == 1


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 40), st.integers(0, 5), st.integers(0, 9)
)
def test_a_jump_and_ranks_give_the_same_batches(
    world: int, share: int, start: int, more: int, seed: int
) -> None:
    batch = world * share
    photos = batch + more
    whole = list(order(photos, batch, seed=seed, stop=start + 3))[start:]
    ranks = [
        list(order(photos, batch, seed=seed, start=start, stop=start + 3, rank=r, world=world))
        for r in range(world)
    ]
    for step in range(3):
        assert [place for rank in ranks for place in rank[step]] == whole[step]


def test_seeds_give_other_orders() -> None:
    assert list(order(photos=100)) != list(order(photos=100, seed=8))


def test_a_state_is_the_next_step() -> None:
    walked = iter(order())
    whole = [next(walked) for _ in range(5)]
    state = walked.state_dict()  # type: ignore[attr-defined]  # of the iterator that torchdata asks
    resumed = iter(order())
    resumed.load_state_dict(state)  # type: ignore[attr-defined]
    assert state == {"step": 5} and [*whole, *resumed] == list(order())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="batch of 4 photographs needs as many, there are 3"):
        order(photos=3)
    with pytest.raises(RecipeError, match=r"data\.batch must be a multiple of the 3 ranks, got 4"):
        order(rank=0, world=3)
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        order(rank=2, world=2)
    with pytest.raises(ValueError, match="steps must be 0 <= start <= stop, got 5 and 4"):
        order(start=5, stop=4)
