"""What is watched: clusters that collapse or are too many, a loss that diverges, counts."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maskcluster.errors import DivergedError
from maskcluster.model.clustering import Assignment, assign_masks
from maskcluster.training.launch import Ranks
from maskcluster.training.monitor import (
    PATIENCE,
    WINDOW,
    ClusterWatch,
    LossWatch,
    Tally,
    cluster_statistics,
)

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))


def line(collapsed: float = 0.0, masks: int = 100) -> dict[str, Any]:
    return {"collapsed": collapsed, "masks": masks, "clusters_effective": 1.0, "spread": 0.02}


# clusters


def test_a_collapse_is_said_once_after_some_lines_in_a_row() -> None:
    watch = ClusterWatch(case.changed(cluster={"balance": False}))
    lines = [1.0] * (PATIENCE - 1) + [0.0] + [1.0] * (2 * PATIENCE)
    said = [watch.see(line(collapsed)) for collapsed in lines]
    assert [index for index, what in enumerate(said) if what] == [2 * PATIENCE - 1]
    (what,) = said[2 * PATIENCE - 1]
    assert "has collapsed" in what and "1.0 of 5" in what and "cluster.balance = true" in what


def test_what_to_do_depends_on_whether_balance_is_on() -> None:
    watch = ClusterWatch(case.RECIPE)
    (what,) = [what for _ in range(PATIENCE) for what in watch.see(line(1.0))]
    assert "lower optim.prompt_lr" in what and "balance" not in what


def test_fewer_masks_than_clusters_are_said_once_and_beside_a_collapse() -> None:
    watch = ClusterWatch(case.RECIPE)
    assert watch.see(line(masks=5)) == []
    assert len(watch.see(line(masks=4))) == 1
    assert watch.see(line(masks=3)) == []
    both = ClusterWatch(case.RECIPE)
    for _ in range(PATIENCE - 1):
        both.see(line(1.0))
    assert len(both.see(line(1.0, masks=4))) == 2


def test_without_clusters_there_is_nothing_to_say() -> None:
    assert ClusterWatch(case.RECIPE).see({"loss": 1.0, "step": 3}) == []


def test_statistics_of_cosines_worked_by_hand() -> None:
    """Masks at cosines (1, 0) and (0.6, 0.8) with two prompts; balance took the second away."""
    assignment = Assignment(
        cluster=torch.tensor([0, 0]),
        bias=torch.tensor([0.5, 0.0]),
        cosine=torch.tensor([[1.0, 0.0], [0.6, 0.8]]),
        eps=0.1,
    )
    found = cluster_statistics(assignment, Ranks())
    assert found["masks"] == 2 and found["cluster_counts"] == [2, 0]
    assert found["clusters_used"] == 1 and found["clusters_effective"] == pytest.approx(1)
    assert found["cosine_mean"] == pytest.approx(0.6)
    assert found["cosine_std"] == pytest.approx(math.sqrt((0.16 + 0.36 + 0 + 0.04) / 4))
    assert found["cosine_own"] == pytest.approx(0.8)
    assert found["cosine_margin"] == pytest.approx((1.0 - 0.2) / 2)
    assert found["moved"] == 0.5 and found["bias_most"] == 0.5


def test_statistics_of_no_mask_and_of_one_cluster_are_numbers() -> None:
    for masks, clusters in ((0, 4), (3, 1)):
        assignment = assign_masks(torch.randn(masks, 8), torch.randn(clusters, 8))
        found = cluster_statistics(assignment, Ranks())
        for name, value in found.items():
            values = value if isinstance(value, list) else [value]
            assert all(math.isfinite(one) for one in values), name
        assert found["collapsed"] == 0.0


# counts


def test_photographs_and_masks_are_counted_from_where_a_run_was_stopped() -> None:
    tally = Tally({"images": 10, "images_without_masks": 2, "masks": 30})
    tally.add(4, torch.tensor([0, 0, 0, 3]))
    tally.add(2, torch.zeros(0, dtype=torch.int64))
    want = {"images": 16, "images_without_masks": 6, "masks": 34}
    assert tally.total(Ranks(), torch.device("cpu")) == want
    assert tally.total(Ranks(), torch.device("cpu")) == want  # reading changes nothing


# the loss


def feed(watch: LossWatch, losses: list[float], start: int = 1) -> None:
    for step, loss in enumerate(losses, start):
        watch.see(loss, step)


def test_a_falling_loss_and_lone_peaks_pass() -> None:
    losses = [0.8 - 0.003 * i for i in range(200)]
    losses[50:55] = [40.0] * 5  # fewer than half of a window
    feed(LossWatch(), losses)


def test_a_loss_far_above_that_of_knowing_nothing_stops_the_run() -> None:
    watch = LossWatch()
    feed(watch, [0.3] * WINDOW)
    with pytest.raises(DivergedError, match=r"knows nothing is 0\.69.*lower rates") as caught:
        feed(watch, [30.0] * WINDOW)
    assert "\n" not in str(caught.value)


def test_warm_up_is_not_judged() -> None:
    feed(LossWatch(500), [99.0] * 500)
