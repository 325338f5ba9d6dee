"""Background rules, by hand."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segbench import Task
from segbench.protocols.background import add_threshold_channel, rank
from segbench.protocols.background import decide as decide_queries
from segbench.protocols.inference import WindowScores, windows


def task(**choices: Any) -> Task:
    return Task(id="t@t", dataset={"kind": "scenes"}, **choices)


def decide(scores: Tensor, size: tuple[int, int], chosen: Task) -> Tensor:
    """One query a class, none for the background of a policy."""
    labels = list(range(len(scores) + (chosen.background in ("constant", "softmax_floor"))))
    if len(labels) > len(scores):
        labels.remove(chosen.background_label)
    return decide_queries(scores, size, chosen, torch.tensor(labels))


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


POLICIES: list[dict[str, Any]] = [
    {"background": "none"},
    {"background": "threshold"},
    {"background": "constant", "background_value": 0.3},
    {"background": "softmax_floor", "background_value": 0.12, "background_scale": 2.0},
    {
        "background": "softmax_floor",
        "background_value": 0.3,
        "background_queries": True,
        "area_floor": 0.01,
    },
]


@pytest.mark.parametrize("choices", POLICIES, ids=str)
def test_windows_are_decided_as_the_scores_they_merge_into(choices: dict[str, Any]) -> None:
    """171 queries, more than are held at once, and eager softmax of all of them."""
    chosen, names = task(**choices), 171
    places = tuple(windows(100, 170, 90, 40))
    scores = torch.randn(len(places), names, 6, 6, generator=torch.Generator().manual_seed(0))
    scores[:, ::3] *= 3  # some are often the best, the others never
    small, size = WindowScores(scores, places, (100, 170)), (120, 160)
    merged = small.merged()
    owners = torch.arange(names) % 40
    got = decide_queries(small, size, chosen, owners)
    assert torch.equal(got, decide_queries(merged, size, chosen, owners))
    full = F.interpolate(merged[None], size, mode="bilinear")[0]  # (K, H, W)
    if choices["background"] == "softmax_floor":
        sure, labels, _ = rank(small, size, chosen, owners)
        likely = (full * chosen.background_scale).softmax(dim=0)
        if not chosen.area_floor:
            assert torch.equal(labels, owners[full.argmax(dim=0)])
            torch.testing.assert_close(sure, likely.amax(dim=0), rtol=1e-5, atol=0)
        assert bool((got == 0).any()) and bool((got > 0).any())
    else:
        best, winner = full.max(dim=0)
        want = winner if choices["background"] == "threshold" else owners[winner]
        if choices["background"] == "constant":
            want = torch.where(best > 0.3, want, torch.where(best == 0.3, want.clamp(max=0), 0))
        assert torch.equal(got, want)


def test_none_never_gives_background() -> None:
    scores = torch.full((3, 2, 2), -5.0)
    assert decide(scores, (4, 4), task(background_value=0.9)).tolist() == [[0] * 4] * 4


def test_the_best_synonym_counts_and_extra_names_become_background() -> None:
    owners = torch.tensor([1, 1, 2, 0])  # two synonyms, a class, an extra name
    scores = torch.tensor([[0.9, 0.1, 0.2, 0.1], [0.1, 0.9, 0.3, 0.2], [0.2, 0.3, 0.8, 0.3]])
    scores = torch.cat([scores, torch.tensor([[0.3, 0.2, 0.1, 0.7]])])[:, None]  # (4, 1, 4)
    chosen = task(background="constant", background_value=0.5)
    assert decide_queries(scores, (1, 4), chosen, owners).tolist() == [[1, 1, 2, 0]]
    assert decide_queries(scores, (1, 4), task(), owners).tolist() == [[1, 1, 2, 0]]


def test_a_class_of_too_little_foreground_gives_its_places_to_the_next() -> None:
    # ten places: background 2, class 1 on 7, class 2 on 1 of 8 of the foreground
    scores = torch.zeros(3, 1, 10)
    scores[0, 0, :2] = 5
    scores[1, 0, 2:9] = 5
    scores[2, 0, 9] = 5
    scores[1, 0, 9] = 3
    owners = torch.tensor([0, 1, 2])
    found = {
        floor: decide_queries(
            scores,
            (1, 10),
            task(background="softmax_floor", background_queries=True, area_floor=floor),
            owners,
        )[0, 9]
        for floor in (0.0, 0.12, 0.125, 0.9)
    }
    assert {floor: int(label) for floor, label in found.items()} == {
        0.0: 2, 0.12: 2, 0.125: 1, 0.9: 0,
    }  # fmt: skip
    # the winner's probability is over all queries, also those left out: e^3 / (e^5 + e^3 + 1)
    floor = task(
        background="softmax_floor", background_queries=True, area_floor=0.125, background_value=0.12
    )
    assert int(decide_queries(scores, (1, 10), floor, owners)[0, 9]) == 0


def test_the_background_may_be_the_last_label_without_a_query() -> None:
    last = task(background="constant", background_value=0.5, background_label=2, area_floor=0.1)
    scores = torch.tensor([[[0.9, 0.1]], [[0.2, 0.3]]])
    assert decide(scores, (1, 2), last).tolist() == [[0, 2]]
