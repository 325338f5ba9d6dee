"""Rates over a run, by their closed form."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maskcluster.config import OptimConfig
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.training.schedule import build_optimizer, rate_share, set_rates

case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))


def test_the_cosine_of_the_code_goes_from_one_to_a_half() -> None:
    config = OptimConfig()
    assert rate_share(0, config) == 1.0
    assert rate_share(5000, config) == pytest.approx(0.75)
    assert rate_share(2500, config) == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi / 4)))
    assert rate_share(9999, config) == pytest.approx(0.5, abs=1e-7)
    assert rate_share(10_000, config) == rate_share(99_999, config) == 0.5


def test_a_share_of_one_is_constant_and_of_zero_ends_at_nothing() -> None:
    assert {rate_share(step, OptimConfig(final_share=1)) for step in range(0, 10_001, 100)} == {1.0}
    assert rate_share(10_000, OptimConfig(final_share=0)) == 0.0


def test_warm_up_climbs_in_equal_steps_and_the_cosine_is_not_shifted() -> None:
    flat = OptimConfig(total_steps=100, warmup_steps=4, final_share=1)
    assert [rate_share(step, flat) for step in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1]
    )
    warm, cold = (OptimConfig(total_steps=100, warmup_steps=w) for w in (10, 0))
    assert rate_share(10, warm) == rate_share(10, cold)
    assert rate_share(60, warm) == rate_share(60, cold)


def test_every_part_has_its_own_rate_and_all_follow_one_share() -> None:
    config = OptimConfig(lr=1e-3, prompt_lr=1e-2, decoder_lr=1e-1)
    recipe = case.RECIPE
    model = PixelCLIP.from_config(recipe.model, recipe.cluster, clip=case.tiny_clip())
    optimizer = build_optimizer(model, config)
    assert set_rates(optimizer, 0.5) == {"lr": 5e-4, "prompt_lr": 5e-3, "decoder_lr": 5e-2}
    assert set_rates(optimizer, 1.0) == {"lr": 1e-3, "prompt_lr": 1e-2, "decoder_lr": 1e-1}
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    by_name = {group["name"]: group for group in optimizer.param_groups}
    assert by_name["prompts"]["params"] == [model.prompts.tokens]  # type: ignore[union-attr]
    assert by_name["decoder"]["weight_decay"] == 1e-4
    assert by_name["decoder-no-decay"]["weight_decay"] == by_name["prompts"]["weight_decay"] == 0


def test_prompts_that_do_not_learn_have_no_rate() -> None:
    recipe = case.changed(cluster={"prompts": "frozen"})
    model = PixelCLIP.from_config(recipe.model, recipe.cluster, clip=case.tiny_clip())
    assert set(set_rates(build_optimizer(model, recipe.optim), 1.0)) == {"lr", "decoder_lr"}
    assert all(not p.requires_grad for p in model.teacher.parameters())
    assert torch.is_grad_enabled()
