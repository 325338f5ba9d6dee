"""Recipes: what is read, and what is said of a wrong one."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from groupvit import RecipeError, TrainConfig, load_recipe, train_config

OPTIM = {"total_steps": 10}


def test_what_is_not_named_keeps_its_default() -> None:
    config = train_config({"optim": {"total_steps": 10, "lr": 1}, "model": {"embed_dim": 8}})
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.model.embed_dim == 8
    assert config.model.vision.depths == (6, 3, 3)
    assert config.data.batch == 1024


def test_plain_values_give_an_equal_recipe_again(tiny_recipe: TrainConfig) -> None:
    assert train_config(asdict(tiny_recipe)) == tiny_recipe


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optim": {**OPTIM, "lr_": 1.0}}, "unknown field 'optim.lr_'; did you mean 'optim.lr'?"),
        ({"optim": OPTIM, "lr": 1.0}, "unknown field 'lr'; did you mean 'optim.lr'?"),
        (
            {"optim": OPTIM, "model": {"vision": {"dephts": [1, 1]}}},
            "unknown field 'model.vision.dephts'; did you mean 'model.vision.depths'?",
        ),
        ({"optim": OPTIM, "zzz": 1}, "unknown field 'zzz'"),
        ({}, "optim is missing; it has no default"),
        ({"optim": {}}, "optim.total_steps is missing; it has no default"),
        ({"optim": 3}, "optim must be a table, got 3"),
        ({"optim": {"total_steps": "3"}}, "optim.total_steps must be a whole number, got '3'"),
        ({"optim": {"total_steps": True}}, "optim.total_steps must be a whole number, got True"),
        (
            {"optim": {**OPTIM, "precision": "half"}},
            "optim.precision must be one of float32, bfloat16, got 'half'",
        ),
        (
            {"optim": OPTIM, "model": {"vision": {"depths": [6, 3.5]}}},
            "model.vision.depths must be a list of whole numbers, got [6, 3.5]",
        ),
        (
            {"optim": {**OPTIM, "warmup_steps": 10}},
            "optim: warmup_steps must be in [0, 10), got 10",
        ),
        ({"optim": {**OPTIM, "clip_grad_norm": 0}}, "optim: clip_grad_norm must be > 0, got 0.0"),
        ({"optim": OPTIM, "data": {"workers": -1}}, "data: workers must be >= 0, got -1"),
        ({"optim": OPTIM, "model": {"embed_dim": 0}}, "model: embed_dim must be >= 1, got 0"),
        (
            {"optim": OPTIM, "model": {"projector_hidden": 0}},
            "model: projector_hidden must be >= 1, got 0",
        ),
        *(
            (
                {"optim": OPTIM, "model": {tower: {field: 0}}},
                f"model.{tower}: {field} must be >= 1, got 0",
            )
            for tower, field in (
                ("vision", "patch_px"),
                ("vision", "width"),
                ("vision", "heads"),
                ("text", "vocabulary"),
                ("text", "context"),
                ("text", "width"),
                ("text", "heads"),
            )
        ),
        (
            {"optim": OPTIM, "model": {"text": {"layers": -1}}},
            "model.text: layers must be >= 0, got -1",
        ),
        (
            {"optim": OPTIM, "model": {"vision": {"depths": [6, -1, 3]}}},
            "model.vision: depths must be >= 0, got (6, -1, 3)",
        ),
        (
            {"optim": OPTIM, "model": {"vision": {"group_tokens": [64, 0]}}},
            "model.vision: group_tokens and output_groups must be >= 1, got (64, 0), (64, 8)",
        ),
        (
            {"optim": OPTIM, "model": {"vision": {"output_groups": [0, 8]}}},
            "model.vision: group_tokens and output_groups must be >= 1, got (64, 8), (0, 8)",
        ),
        (
            {"optim": OPTIM, "model": {"vision": {"image_px": 0}}},
            "model.vision: image_px must be >= patch_px, got 0 and 16",
        ),
        (
            {"optim": OPTIM, "model": {"multi_label_scale": False}},
            "recipe: data.concepts > 0 needs model.multi_label_scale",
        ),
    ],
)
def test_a_wrong_recipe_is_one_line(values: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        train_config(values)
    assert str(caught.value) == said
    assert caught.value.exit_code == 2


def test_a_tower_may_have_no_layers() -> None:
    model = {"vision": {"depths": [0, 0, 0]}, "text": {"layers": 0}}
    assert train_config({"optim": OPTIM, "model": model}).model.vision.depths == (0, 0, 0)


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text("seed = 3\n[optim]\ntotal_steps = 7\n")
    assert load_recipe(path).optim.total_steps == 7
    for text, said in (("seed = ", "not TOML"), ("sed = 1", "did you mean 'seed'")):
        path.write_text(text)
        with pytest.raises(RecipeError, match=rf"small\.toml: .*{said}"):
            load_recipe(path)
    with pytest.raises(RecipeError, match=r"none\.toml: cannot be read"):
        load_recipe(tmp_path / "none.toml")
