"""Background rules, by hand."""

from typing import Any

import pytest
import torch

from segbench import Task
from segbench.background import add_threshold_channel, decide, insert_background


def task(**choices: Any) -> Task:
    return Task(id="t@t", dataset={"kind": "scenes"}, **choices)


def test_threshold_marks_the_places_where_no_class_is_sure() -> None:
    scores = torch.tensor([[[0.9, 0.2, 0.4]], [[0.1, 0.3, 0.6]]])  # (2, 1, 3), best .9 .3 .6
    full = add_threshold_channel(scores, 0.5)
    assert full.shape == (3, 1, 3)
    assert full[0, 0].tolist() == [0, 1, 0]
    assert torch.equal(full[1:], scores)
    assert decide(full, (1, 3), task(background="threshold")).tolist() == [[1, 0, 2]]


def test_threshold_is_capped_by_the_surest_place() -> None:
    scores = torch.tensor([[[0.2, 0.1, 0.2]]])  # all below .95
    assert add_threshold_channel(scores, 0.95)[0, 0].tolist() == [0, 1, 0]


def test_threshold_equal_to_the_score_is_foreground() -> None:
    assert add_threshold_channel(torch.tensor([[[0.5, 0.9]]]), 0.5)[0, 0].tolist() == [0, 0]


def test_background_channel_can_stand_elsewhere() -> None:
    scores = torch.tensor([[[0.9, 0.0]], [[0.0, 0.2]]])
    full = add_threshold_channel(scores, 0.5, label=2)
    assert full[2, 0].tolist() == [0, 1]
    assert torch.equal(full[:2], scores)


def test_constant_joins_the_argmax_at_its_own_index() -> None:
    scores = torch.tensor([[[0.9, 0.2, 0.5]], [[0.1, 0.3, 0.1]]])
    first = task(background="constant", background_value=0.5)
    assert decide(scores, (1, 3), first).tolist() == [[1, 0, 0]]  # a tie goes to label 0
    last = task(background="constant", background_value=0.5, background_label=2)
    assert decide(scores, (1, 3), last).tolist() == [[0, 2, 0]]  # and to label 0 again


@pytest.mark.parametrize("label", [0, 1, 3])
def test_constant_equals_an_appended_channel(label: int) -> None:
    scores = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(label)).round(decimals=1)
    channel = torch.full((1, 6, 5), 0.4)
    joined = torch.cat([scores[:label], channel, scores[label:]])
    chosen = task(background="constant", background_value=0.4, background_label=label)
    assert torch.equal(decide(scores, (6, 5), chosen), joined.argmax(dim=0))


def test_softmax_floor_by_hand() -> None:
    # softmax of (2, 0) is .881, of (0.2, 0) .550; of (4, 0) and (0.4, 0) .982 and .599
    scores = torch.tensor([[[2.0, 0.2]], [[0.0, 0.0]]])
    floor = task(background="softmax_floor", background_value=0.58)
    assert decide(scores, (1, 2), floor).tolist() == [[1, 0]]
    scaled = task(background="softmax_floor", background_value=0.58, background_scale=2.0)
    assert decide(scores, (1, 2), scaled).tolist() == [[1, 1]]


def test_none_never_gives_background() -> None:
    scores = torch.full((3, 2, 2), -5.0)
    assert decide(scores, (4, 4), task(background_value=0.9)).tolist() == [[0] * 4] * 4


def test_insert_background_shifts_later_labels() -> None:
    winner = torch.tensor([0, 1, 2])
    no_one = torch.zeros(3, dtype=torch.bool)
    assert insert_background(winner, no_one, 1).tolist() == [0, 2, 3]
    assert insert_background(winner, ~no_one, 1).tolist() == [1, 1, 1]
