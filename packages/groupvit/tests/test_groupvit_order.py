"""Which pairs make the batch of a step: order, ranks, going on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupvit import DataError, RecipeError, stream
from groupvit.data.order import EndlessBatches


@given(
    pairs=st.integers(3, 20),
    batch=st.integers(1, 3),
    start=st.integers(0, 15),
    seed=st.integers(0, 9),
)
def test_going_on_equals_an_unbroken_order(pairs: int, batch: int, start: int, seed: int) -> None:
    whole = list(EndlessBatches(pairs, batch, seed=seed, start=0, stop=20))
    rest = EndlessBatches(pairs, batch, seed=seed, start=start, stop=20)
    assert list(rest) == whole[start:] and len(rest) == 20 - start
    assert [rest.at(step) for step in (19, 0, 7)] == [whole[19], whole[0], whole[7]]
    per_epoch = pairs // batch
    first = [place for one in whole[:per_epoch] for place in one]
    assert len(set(first)) == len(first) == per_epoch * batch  # no pair twice in an epoch
    assert {epoch for epoch, _ in first} == {0}


@given(
    pairs=st.integers(12, 40),
    share=st.integers(1, 3),
    world=st.integers(1, 4),
    start=st.integers(0, 9),
)
def test_ranks_together_see_what_one_sees(pairs: int, share: int, world: int, start: int) -> None:
    batch = share * world

    def order(rank: int, world: int) -> list[list[tuple[int, int]]]:
        return list(
            EndlessBatches(pairs, batch, seed=1, start=start, stop=12, rank=rank, world=world)
        )

    ranks = [order(rank, world) for rank in range(world)]
    assert {len(one) for one in ranks} == {12 - start}
    assert all(len(batch) == share for one in ranks for batch in one)
    joined = [[place for part in step for place in part] for step in zip(*ranks, strict=True)]
    assert joined == order(0, 1)


def test_epochs_differ_and_a_batch_needs_its_pairs() -> None:
    order = list(EndlessBatches(50, 50, seed=0, start=0, stop=2))
    assert [i for _, i in order[0]] != [i for _, i in order[1]]
    assert sorted(i for _, i in order[1]) == list(range(50))
    with pytest.raises(DataError, match="a batch of 4 pairs needs as many, there are 3; lower"):
        EndlessBatches(3, 4, seed=0, start=0, stop=1)


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    with pytest.raises(
        RecipeError, match=r"data\.batch must be a multiple of the 3 ranks, got 4"
    ) as caught:
        EndlessBatches(10, 4, seed=0, start=0, stop=1, rank=1, world=3)
    assert caught.value.exit_code == 2
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        EndlessBatches(10, 4, seed=0, start=0, stop=1, rank=2, world=2)


def test_a_late_step_draws_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    from groupvit.data import order

    drawn: list[tuple[object, ...]] = []

    def counted(*parts: object) -> object:
        drawn.append(parts)
        return stream(*parts)

    monkeypatch.setattr(order, "stream", counted)
    batches = EndlessBatches(100, 10, seed=4, start=123_456, stop=123_460)
    assert [{epoch for epoch, _ in one} for one in batches] == [{12_345}] * 4
    assert drawn == [(4, "order", 12_345)]
