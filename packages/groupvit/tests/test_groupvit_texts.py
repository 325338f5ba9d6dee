"""Packed texts: nothing is lost or shared, and little padding is left."""

from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from groupvit.texts import ROW, Texts

lengths_of = st.lists(st.integers(1, 12), min_size=1, max_size=30)


def padded(lengths: list[int], width: int = 12) -> Tensor:
    """(n, width) ids: 1, 2, ..., then 99 at the end of each text and zeros."""
    ids = torch.arange(1, width + 1).repeat(len(lengths), 1)
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1], row[length:] = 99, 0
    return ids


def test_worked_example() -> None:
    texts = Texts.of(padded([3, 5, 2, 3]).view(2, 2, 12), row=8)
    assert texts.tokens.tolist() == [
        [1, 2, 3, 4, 99, 1, 2, 99],  # the longest, then the longest that still fits
        [1, 2, 99, 1, 99, 0, 0, 0],
    ]
    assert texts.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 0, 1, 0, 0, 0]]
    assert texts.owners.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, -1, -1, -1]]
    assert texts.ends.tolist() == [7, 4, 12, 10]
    assert texts.lengths.tolist() == [3, 5, 2, 3]
    assert texts.shape == (2, 2)


@given(lengths=lengths_of, row=st.integers(1, 40))
def test_texts_come_back_in_order(lengths: list[int], row: int) -> None:
    ids = padded(lengths)
    texts = Texts.of(ids, row=row)
    assert torch.equal(texts.padded(), ids[:, : max(lengths)])
    assert texts.lengths.tolist() == lengths


@given(lengths=lengths_of, row=st.integers(1, 40))
def test_every_text_lies_whole_in_one_row_beside_the_others(lengths: list[int], row: int) -> None:
    texts = Texts.of(padded(lengths), row=row)
    width = texts.tokens.shape[1]
    spans = sorted((end - n + 1, end) for end, n in zip(texts.ends.tolist(), lengths, strict=True))
    assert all(start // width == end // width for start, end in spans)
    assert all(last < start for (_, last), (start, _) in pairwise(spans))
    owned = set()
    owners, positions = texts.owners.flatten(), texts.positions.flatten()
    for start, end in spans:
        (owner,) = set(owners[start : end + 1].tolist())
        owned.add((start // width, owner))
        assert positions[start : end + 1].tolist() == list(range(end - start + 1))
    assert len(owned) == len(lengths) and min(owner for _, owner in owned) == 0
    inside = owners >= 0
    assert int(inside.sum()) == sum(lengths) and not texts.tokens.flatten()[~inside].any()


@given(lengths=lengths_of, row=st.integers(1, 40))
def test_no_two_rows_would_fit_into_one(lengths: list[int], row: int) -> None:
    texts = Texts.of(padded(lengths), row=row)
    width = texts.tokens.shape[1]
    assert width == max(max(lengths), min(row, sum(lengths)))
    filled = (texts.owners >= 0).sum(dim=1).tolist()
    assert all(a + b > width for a, b in combinations(filled, 2)) and min(filled) > 0


def test_a_row_is_as_wide_as_it_has_to_be() -> None:
    for lengths, width, want in (([5], 12, 5), ([77], 77, 77), ([77] * 3, 77, ROW), ([40], 77, 40)):
        assert Texts.of(padded(lengths, width)).tokens.shape[1] == want
    assert Texts.of(padded([4, 4, 4])).tokens.shape == (1, 12)


def test_ends_are_the_first_of_the_highest_ids() -> None:
    ids = torch.tensor([[7, 99, 3, 99], [99, 1, 2, 3]], dtype=torch.int32)
    texts = Texts.of(ids)
    assert texts.lengths.tolist() == [2, 1]
    assert texts.padded().tolist() == [[7, 99], [99, 0]]
    assert texts.tokens.dtype == torch.int64


def test_moving_keeps_everything() -> None:
    texts = Texts.of(padded([3, 9, 2]))
    moved = texts.to(torch.device("meta"))
    assert [tensor.device.type for tensor in moved] == ["meta"] * 4
    assert (moved.shape, texts.to(torch.device("cpu")).padded().shape) == ((3,), (3, 9))


def test_no_text_is_an_error() -> None:
    for ids in (torch.zeros(0, 5, dtype=torch.int64), padded([2])[:0]):
        with pytest.raises(ValueError, match="needs at least one text, got 0"):
            Texts.of(ids)
