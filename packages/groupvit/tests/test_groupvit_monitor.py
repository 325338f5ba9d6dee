"""What is watched: groups, and losses that diverge or collapse."""

import math

import pytest
import torch

from groupvit import DataConfig, DivergedError, GroupViT, OptimConfig
from groupvit.training.monitor import WINDOW, LossWatch, chance_loss, group_statistics

DATA = DataConfig(batch=8, concepts=2)
OPTIM = OptimConfig(total_steps=1000, warmup_steps=10)


def feed(watch: LossWatch, losses: list[float], start: int = 11) -> None:
    for step, loss in enumerate(losses, start):
        watch.see(loss, step)


def test_chance_is_the_loss_of_equal_similarities() -> None:
    assert chance_loss(DATA) == pytest.approx(math.log(8) + (math.log(16) + math.log(8)) / 2)
    assert chance_loss(DataConfig(batch=8, concepts=0)) == pytest.approx(math.log(8))


def test_a_falling_loss_and_lone_peaks_pass() -> None:
    losses = [5.0 - 0.02 * i for i in range(200)]
    losses[50:55] = [40.0] * 5  # fewer than half of a window
    feed(LossWatch(DATA, OPTIM), losses)


def test_a_loss_far_above_chance_stops_the_run_and_says_what_to_try() -> None:
    watch = LossWatch(DATA, OPTIM)
    feed(watch, [3.0] * WINDOW)
    with pytest.raises(
        DivergedError, match=r"above 4\.5.*knows nothing.*lower optim\.lr"
    ) as caught:
        feed(watch, [30.0] * WINDOW)
    assert "\n" not in str(caught.value)


def test_a_loss_back_at_chance_has_collapsed() -> None:
    watch = LossWatch(DATA, OPTIM)
    feed(watch, [4.5] * 3 * WINDOW)  # never learnt: nothing to lose
    feed(watch, [2.0] * WINDOW)
    with pytest.raises(DivergedError, match=r"was 2\.00 and is near 4\.5"):
        feed(watch, [4.51] * WINDOW)


def test_warm_up_is_not_judged() -> None:
    feed(LossWatch(DATA, OptimConfig(total_steps=1000, warmup_steps=500)), [99.0] * 400)


def test_group_statistics_of_known_assignments(tiny_model: GroupViT) -> None:
    """Without queries all groups are alike, and the first takes all."""
    model = tiny_model.train()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".assign.query." in name:
                value.zero_()
    found = group_statistics(model, images)
    assert model.vision.training
    for number in (1, 2):  # equal logits: uniform, and a tie goes to the first group
        assert found[f"assignment_entropy_{number}"] == pytest.approx(1)
        assert found[f"groups_used_{number}"] == found[f"groups_alive_{number}"] == 1


def test_group_statistics_count_groups_of_an_image_and_of_all(tiny_model: GroupViT) -> None:
    images = torch.randn(8, 3, 32, 32)
    found = group_statistics(tiny_model.train(), images)
    maps = tiny_model.eval().vision(images).assignments
    for stage, soft in enumerate(maps, 1):
        chosen = [set(labels.tolist()) for labels in soft.argmax(dim=1)]
        assert found[f"groups_used_{stage}"] == pytest.approx(sum(map(len, chosen)) / 8)
        assert found[f"groups_alive_{stage}"] == len(set.union(*chosen))
        entropy = -(soft * soft.log()).sum(dim=1).mean() / math.log(soft.shape[1])
        assert found[f"assignment_entropy_{stage}"] == pytest.approx(float(entropy), rel=1e-4)
