"""Recipes: what is read and written, and what is said of a wrong one."""

import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcluster.config import ClusterConfig, OptimConfig, TrainConfig
from maskcluster.errors import RecipeError
from maskcluster.recipe import build, load_recipe, recipe_names, recipe_text, train_config


def test_what_is_not_named_keeps_its_default() -> None:
    config = train_config({"optim": {"lr": 1}, "cluster": {"clusters": 8}})
    assert config.optim.lr == 1.0 and isinstance(config.optim.lr, float)
    assert config.cluster.clusters == 8 and config.cluster.tokens == 4


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optim": {"lr_": 1.0}}, "unknown field 'optim.lr_'; did you mean 'optim.lr'?"),
        ({"clusters": 8}, "unknown field 'clusters'; did you mean 'cluster.clusters'?"),
        ({"zzz": 1}, "unknown field 'zzz'"),
        ({"optim": 3}, "optim must be a table, got 3"),
        ({"optim": {"total_steps": "3"}}, "optim.total_steps must be a whole number, got '3'"),
        ({"optim": {"total_steps": True}}, "optim.total_steps must be a whole number, got True"),
        ({"cluster": {"balance": 1}}, "cluster.balance must be true or false, got 1"),
        ({"cluster": {"prompts": "no"}}, "cluster.prompts must be one of learnt, frozen, direct, "),
        ({"cluster": {"names": "cat"}}, "cluster.names must be a list, got 'cat'"),
        ({"cluster": {"names": ["cat", 3]}}, "cluster.names[1] must be a text, got 3"),
        ({"views": {"jitter": [0.1, "a"]}}, "views.jitter[1] must be a number, got 'a'"),
        ({"cluster": {"momentum": 1}}, "cluster: momentum must be in [0, 1), got 1.0"),
        ({"log_every": 0}, "recipe: log_every must be >= 1, got 0"),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_by_the_name_of_the_field(
    values: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError) as error:
        train_config(values)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_of_the_package_are_read_and_written(name: str) -> None:
    config = load_recipe(name)
    assert train_config(tomllib.loads(recipe_text(config))) == config
    text = (files("maskcluster") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith(f"# maskcluster train {name} PHOTOS MASKS RUN\n")


def test_recipes_differ_as_the_paper_says() -> None:
    vit, convnext = load_recipe("pixelclip-sa1b"), load_recipe("pixelclip-convnextb-sa1b")
    assert vit == TrainConfig()  # the defaults are this recipe
    assert convnext.model.architecture == "convnext_base_w_320"
    assert convnext.model.trainable == "all" and convnext.cluster.eps == 1.0
    assert convnext.views.image_px == 640
    dino = load_recipe("pixelclip-dino")
    assert dino == replace(vit, views=replace(vit.views, cutout_masks=False))
    names = load_recipe("pixelclip-convnextb-names").cluster
    assert len(names.names) == 171 and not names.balance and names.prompts == "names"


def test_architectures_and_weights_of_recipes_exist() -> None:
    import open_clip

    for name in recipe_names():
        model = load_recipe(name).model
        known = open_clip.list_pretrained_tags_by_model(model.architecture)
        assert model.pretrained in known, name


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'pixelclip-sa1b'"):
        load_recipe("pixelclip-sab")
    bad = tmp_path / "bad.toml"
    bad.write_text("a = ")
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(bad)
    bad.write_bytes(b"\xff")
    with pytest.raises(RecipeError, match="not TOML"):
        load_recipe(bad)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    bad.write_text("[optim]\nlr_ = 3")
    with pytest.raises(RecipeError, match=f"^{bad}: unknown field"):
        load_recipe(bad)


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=3
    ),
    lr=st.floats(1e-300, 1e300),
)
def test_any_recipe_comes_back_as_it_was(names: list[str], lr: float) -> None:
    kept = tuple(f"a{name}" for name in names)
    config = TrainConfig(
        cluster=ClusterConfig(prompts="names", names=kept, clusters=len(kept)),
        optim=OptimConfig(lr=lr),
    )
    assert train_config(tomllib.loads(recipe_text(config))) == config


def test_a_part_of_a_recipe_is_built_alone() -> None:
    assert build(OptimConfig, {"lr": 1}) == OptimConfig(lr=1.0)
    assert tomllib.loads(recipe_text(OptimConfig()))["prompt_lr"] == 2e-3
