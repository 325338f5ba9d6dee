"""Learning rate per step, and which tensors decay."""

import math

import pytest
import torch

from groupvit import GroupViT, ModelConfig, OptimConfig
from groupvit.training.schedule import build_optimizer, learning_rate

CONFIG = OptimConfig(total_steps=3000, warmup_steps=200)


def cosine(t: int) -> float:
    return 4e-5 + 0.5 * (1.6e-3 - 4e-5) * (1 + math.cos(math.pi * t / 3000))


def test_first_two_steps_use_the_warmup_rate() -> None:
    assert learning_rate(0, CONFIG) == learning_rate(1, CONFIG) == 4e-6
    assert learning_rate(2, CONFIG) == pytest.approx(4e-6 + (1.6e-3 - 4e-6) / 200)


def test_every_step_uses_the_value_of_the_step_before() -> None:
    assert learning_rate(200, CONFIG) == pytest.approx(4e-6 + (1.6e-3 - 4e-6) * 199 / 200)
    assert learning_rate(201, CONFIG) == pytest.approx(cosine(200))
    assert learning_rate(1501, CONFIG) == pytest.approx((1.6e-3 + 4e-5) / 2)
    assert learning_rate(3000, CONFIG) == pytest.approx(cosine(2999))
    assert learning_rate(3001, CONFIG) == learning_rate(9999, CONFIG) == 4e-5


def test_warmup_meets_the_cosine_with_a_small_drop() -> None:
    published = OptimConfig(total_steps=209_910, warmup_steps=13_994)
    assert learning_rate(13_994, published) == pytest.approx(1.6e-3, rel=1e-3)
    assert learning_rate(13_995, published) == pytest.approx(1.5829e-3, abs=1e-7)


def test_decay_groups_of_the_published_model() -> None:
    with torch.device("meta"):
        model = GroupViT(ModelConfig())
    decayed, spared = build_optimizer(model, CONFIG).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) == 138
    assert len(spared["params"]) == 263
    assert sum(p.numel() for p in spared["params"]) == 151_824
    inside = {id(p) for p in decayed["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in inside}
    assert {
        "logit_scale",
        "multi_label_logit_scale",
        "vision.patches.positions",
        "vision.stages.0.group_token",
        "vision.stages.1.group_token",
        "text.token_embedding.weight",
        "text.positions",
    } <= names
    assert not any(name.endswith(".bias") or ".norm" in name for name in names)


@pytest.mark.parametrize(
    "values", [{"total_steps": 5, "warmup_steps": 5}, {"total_steps": 5, "lr": 0.0}]
)
def test_impossible_schedules_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OptimConfig(**values)  # type: ignore[arg-type]  # int or float, by name
