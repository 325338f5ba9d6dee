"""The configuration: published constants, and what is refused."""

import dataclasses
from typing import Any

import pytest
import torch

from maskcluster import config
from maskcluster.config import (
    ClusterConfig,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ViewConfig,
)
from maskcluster.precision import wants_bfloat16, wants_tf32, wide, wide_type

KINDS = (
    ModelConfig,
    ClusterConfig,
    ViewConfig,
    OptimConfig,
    DataConfig,
    MachineConfig,
    TrainConfig,
)


def test_defaults_are_the_released_configuration_of_vit() -> None:
    recipe = TrainConfig()
    assert (recipe.cluster.clusters, recipe.cluster.tokens) == (64, 4)
    assert (recipe.cluster.eps, recipe.cluster.iterations) == (0.01, 3)
    assert recipe.cluster.momentum == 0.999
    assert (recipe.optim.lr, recipe.optim.prompt_lr, recipe.optim.decoder_lr) == (2e-6, 2e-3, 2e-4)
    assert (recipe.optim.total_steps, recipe.data.batch) == (10_000, 48)
    assert (recipe.optim.final_share, recipe.optim.clip_grad_norm) == (0.5, 0.01)
    assert (recipe.views.crop_px, recipe.views.image_px, recipe.views.mask_px) == (640, 320, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_says_what_it_is(kind: type) -> None:
    import ast
    import inspect

    body = ast.parse(inspect.getsource(config)).body
    cls = next(n for n in body if isinstance(n, ast.ClassDef) and n.name == kind.__name__)
    for here, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if isinstance(here, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(here)
            assert isinstance(after.value, ast.Constant), ast.unparse(here)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_frozen_and_keyword_only(kind: type) -> None:
    made = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, 1)
    with pytest.raises(TypeError):
        kind(1)


@pytest.mark.parametrize(
    "change",
    [
        {"targets": "masks"},
        {"prompts": "direct"},
        {"prompts": "frozen"},
        {"prompts": "names", "names": ("cat", "dog"), "clusters": 2, "balance": False},
        {"momentum": 0.0},
        {"clusters": 256},
        {"tokens": 20},
        {"momentum": 0.9999},
        {"templates": "ensemble"},
        {"start": "names", "names": ("cat", "dog"), "clusters": 2},
    ],
    ids=str,
)
def test_every_row_of_the_ablations_is_a_configuration(change: dict[str, Any]) -> None:
    made = ClusterConfig(**change)
    assert made != ClusterConfig()
    assert all(getattr(made, name) == value for name, value in change.items())


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (ClusterConfig, {"clusters": 0}, "clusters must be >= 1, got 0"),
        (ClusterConfig, {"tokens": 0}, "tokens must be >= 1, got 0"),
        (ClusterConfig, {"iterations": 0}, "iterations must be >= 1, got 0"),
        (ClusterConfig, {"eps": 0.0}, "eps must be > 0, got 0.0"),
        (ClusterConfig, {"eps": float("nan")}, "eps must be > 0, got nan"),
        (ClusterConfig, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (ClusterConfig, {"prompts": "names"}, "names must be one for each of 64 clusters, got 0"),
        (
            ClusterConfig,
            {"start": "names", "names": ("cat",)},
            "names must be one for each of 64 clusters, got 1",
        ),
        (ClusterConfig, {"names": ("cat",)}, "names need prompts = names, or start = names"),
        (
            ClusterConfig,
            {"prompts": "direct", "start": "names", "names": ("cat",)},
            "names need prompts = names",
        ),
        (
            ClusterConfig,
            {"prompts": "names", "clusters": 1, "names": (" ",)},
            "names must not be empty",
        ),
        (ModelConfig, {"architecture": ""}, "architecture must be the name"),
        (ModelConfig, {"pretrained": ""}, "pretrained must be a tag"),
        (ModelConfig, {"architecture": "local-dir:x"}, "local-dir:x has its own weights"),
        (ModelConfig, {"decoder_width": 6}, "decoder_width must be a multiple of 4, got 6"),
        (ViewConfig, {"mask_px": 80}, "mask_px must be a multiple of 32, got 80"),
        (ViewConfig, {"mask_px": 0}, "mask_px must be a multiple of 32, got 0"),
        (ViewConfig, {"longest_px": 1000}, "longest_px must be >= 1024, got 1000"),
        (ViewConfig, {"flip": 1.5}, r"flip must be in \[0, 1\], got 1.5"),
        (ViewConfig, {"blur_sigma": (2.0, 1.0)}, r"blur_sigma must be \[low, high\]"),
        (ViewConfig, {"cutout_side": (0.1,)}, r"cutout_side must be \[low, high\]"),
        (ViewConfig, {"jitter": (0.1, 0.1, 0.1, 0.6)}, "jitter must be four strengths"),
        (ViewConfig, {"max_masks": -1}, "max_masks must be >= 0, got -1"),
        (OptimConfig, {"lr": 0.0}, "lr must be > 0, got 0.0"),
        (OptimConfig, {"total_steps": 0}, "total_steps must be >= 1, got 0"),
        (OptimConfig, {"warmup_steps": 10_000}, r"warmup_steps must be in \[0, 10000\)"),
        (OptimConfig, {"final_share": 2.0}, r"final_share must be in \[0, 1\], got 2.0"),
        (OptimConfig, {"clip_grad_norm": -1.0}, "clip_grad_norm must be >= 0, got -1.0"),
        (OptimConfig, {"precision": "half"}, "precision must be auto, float32, tf32 or bfloat16"),
        (DataConfig, {"batch": 0}, "batch must be >= 1, got 0"),
        (DataConfig, {"workers": -1}, "workers must be >= 0, got -1"),
        (MachineConfig, {"decoder_chunk": -1}, "decoder_chunk must be >= 0, got -1"),
        (TrainConfig, {"checkpoints": 0}, "checkpoints must be >= 1, got 0"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(kind: type, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**change)


def test_precision_is_what_was_asked_for() -> None:
    cpu = torch.device("cpu")
    assert wants_bfloat16("bfloat16", cpu)
    assert not wants_bfloat16("float32", cpu) and not wants_bfloat16("tf32", cpu)
    assert wants_tf32("tf32") and not wants_tf32("float32")
    with pytest.raises(ValueError, match="got 'half'"):
        wants_bfloat16("half", cpu)  # type: ignore[arg-type]  # on purpose


def test_wide_is_float32_at_least() -> None:
    assert wide(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert wide_type(torch.float64) == torch.float64
