"""Which parameters train, and in which group."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from maskcluster.config import OptimConfig
from maskcluster.model.decoder import MaskDecoder
from maskcluster.model.dense import DenseTower
from maskcluster.model.prompts import DirectPrompts, FixedPrompts
from maskcluster.model.trainable import choose_trainable, parameter_groups

restated = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("restated_pixelclip.py"))))


def tower(kind: str = "vit", last_block: Any = "pixelclip") -> DenseTower:
    return DenseTower(restated.tiny_clip(kind).model.visual, last_block=last_block)


def test_attention_is_four_tensors_a_block_and_the_positions() -> None:
    made = tower()
    names = choose_trainable(made, "attention")
    parts = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    blocks = [f"transformer.resblocks.{i}.attn.{part}" for i in range(3) for part in parts]
    assert sorted(names) == sorted(["positional_embedding", *blocks])
    trains = {name for name, p in made.visual.named_parameters() if p.requires_grad}
    assert trains == set(names)


def test_all_is_all_that_the_features_depend_on() -> None:
    made = tower("convnext")
    assert len(choose_trainable(made, "all")) == len(list(made.visual.parameters()))
    made = tower(last_block="maskclip")
    names = choose_trainable(made, "all")
    assert not any("resblocks.2.mlp" in name or "resblocks.2.ln_2" in name for name in names)
    made(torch.randn(1, 3, 32, 32)).sin().sum().backward()
    assert {n for n, p in made.visual.named_parameters() if p.grad is not None} == set(names)


def test_a_tower_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="use trainable = all"):
        choose_trainable(tower("convnext"), "attention")
    with pytest.raises(ValueError, match="must be attention or all, got 'none'"):
        choose_trainable(tower(), "none")  # type: ignore[arg-type]  # on purpose


def test_groups_have_the_rates_and_decay_of_their_part() -> None:
    made, decoder, prompts = tower(), MaskDecoder(), DirectPrompts(torch.randn(3, 20))
    choose_trainable(made, "attention")
    config = OptimConfig(lr=1e-6, prompt_lr=1e-3, decoder_lr=1e-4, weight_decay=0.5)
    groups = parameter_groups(made.visual, prompts, decoder, config)
    said = {g["name"]: (g["lr"], g["initial_lr"], g["weight_decay"]) for g in groups}
    assert said == {
        "tower": (1e-6, 1e-6, 0.5),
        "tower-no-decay": (1e-6, 1e-6, 0.0),
        "prompts": (1e-3, 1e-3, 0.0),
        "decoder": (1e-4, 1e-4, 0.5),
        "decoder-no-decay": (1e-4, 1e-4, 0.0),
    }
    by_name = {g["name"]: g["params"] for g in groups}
    assert by_name["tower-no-decay"] == [made.visual.positional_embedding]
    assert by_name["prompts"] == [prompts.rows]
    norms = [p for m in decoder.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()]
    assert {id(p) for p in by_name["decoder-no-decay"]} == {id(p) for p in norms}
    torch.optim.AdamW(groups)


def test_every_parameter_that_trains_is_in_one_group() -> None:
    for kind, trainable in (("vit", "all"), ("convnext", "all"), ("vit", "attention")):
        made, decoder = tower(kind), MaskDecoder()
        choose_trainable(made, trainable)  # type: ignore[arg-type]  # one of them
        groups = parameter_groups(made.visual, None, decoder, OptimConfig())
        found = [id(p) for group in groups for p in group["params"]]
        wanted = [*made.visual.parameters(), *decoder.parameters()]
        assert sorted(found) == sorted(id(p) for p in wanted if p.requires_grad)
        assert len(set(found)) == len(found)


def test_norms_of_a_convnext_do_not_decay() -> None:
    made = tower("convnext")
    choose_trainable(made, "all")
    groups = parameter_groups(made.visual, None, MaskDecoder(), OptimConfig())
    kept = {id(p) for g in groups if g["name"] == "tower-no-decay" for p in g["params"]}
    norms = {name for name, p in made.visual.named_parameters() if id(p) in kept}
    assert norms == {
        name
        for name, _ in made.visual.named_parameters()
        if ".norm." in name or "downsample.0." in name or "stem.1." in name
    }


def test_prompts_that_do_not_train_are_in_no_group() -> None:
    groups = parameter_groups(
        nn.Linear(2, 2), FixedPrompts(torch.ones(2, 2)), MaskDecoder(), OptimConfig()
    )
    assert [g["name"] for g in groups] == ["tower", "decoder", "decoder-no-decay"]
