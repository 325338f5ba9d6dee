"""Recipes: what is read, and what is said of a wrong one."""

import json
import math
import pickle
from copy import deepcopy
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from braceexpand import braceexpand

from groupvit import DataConfig, RecipeError, TrainConfig, load_recipe, train_config
from groupvit.frozen import FrozenDict
from groupvit.recipe import recipe_names
from groupvit.training.schedule import learning_rate

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
            "optim.precision must be one of auto, float32, bfloat16, got 'half'",
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
        ({"optim": OPTIM, "data": {"sets": "a.tar"}}, "data.sets must be a table, got 'a.tar'"),
        ({"optim": OPTIM, "data": {"sets": {"a": 3}}}, "data.sets.a must be a text, got 3"),
        (
            {"optim": OPTIM, "data": {"sets": {"a/b": "*.tar"}}},
            "data: the name of a set must be one word of a path, got 'a/b'",
        ),
        (
            {"optim": OPTIM, "data": {"sets": {"": "*.tar"}}},
            "data: the name of a set must be one word of a path, got ''",
        ),
        (
            {"optim": OPTIM, "data": {"sets": {"a": ""}}},
            "data: sets.a must be a pattern of shards, got ''",
        ),
        (
            {"optim": OPTIM, "data": {"source": "archives"}},
            "data.source must be one of captions, archive, got 'archives'",
        ),
        (
            {"optim": OPTIM, "data": {"sampling_temperature": 0}},
            "data: sampling_temperature must be > 0, got 0.0",
        ),
        (
            {"optim": OPTIM, "data": {"source": "archive", "concepts": 0}},
            "data: source = archive needs concepts > 0, got 0",
        ),
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
    with pytest.raises(RecipeError, match=r"none\.toml: no such file, and no recipe of the pack"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match=r"cannot be read \(Is a directory\)"):
        load_recipe(tmp_path)


def test_sets_go_through_a_checkpoint(tiny_recipe: TrainConfig) -> None:
    sets = {"wide": "wide/{0..9}.tar", "narrow": "narrow/*.tar"}
    recipe = replace(tiny_recipe, data=replace(tiny_recipe.data, sets=sets))
    again = train_config(json.loads(json.dumps(asdict(recipe))))
    assert again == recipe and list(again.data.sets.items()) == list(sets.items())
    assert hash(again) == hash(recipe) != hash(tiny_recipe)
    assert again != tiny_recipe


def test_sets_cannot_be_changed_and_may_be_copied() -> None:
    config = DataConfig(sets={"a": "*.tar"})
    for change in ("clear", "popitem"):
        with pytest.raises(TypeError, match="cannot be changed"):
            getattr(config.sets, change)()
    with pytest.raises(TypeError, match="cannot be changed"):
        config.sets["b"] = "*.tar"  # type: ignore[index]  # that is the point
    for copy in (pickle.loads(pickle.dumps(config)), deepcopy(config)):
        assert copy == config and isinstance(copy.sets, FrozenDict)


NOMINAL = {  # pairs of each set, batch, concepts, source, by the papers
    "gcc-yfcc": ((2_891_445, 11_156_203, 14_615_499), 4096, 3, "captions"),
    "gcc-redcaps": ((2_891_445, 11_156_203, 11_866_987), 4096, 0, "captions"),
    "cc3m": ((2_751_755,), 1024, 3, "captions"),
    "cc3m-cc12m-yfcc14m": ((2_751_755, 9_716_186, 14_517_984), 1024, 3, "captions"),
    "cocu-cc3m": ((2_751_755,), 1024, 3, "archive"),
    "cocu-cc3m-cc12m-yfcc14m": ((2_751_755, 9_716_186, 14_517_984), 1024, 3, "archive"),
}


def test_recipes_of_the_package_are_those_below() -> None:
    assert recipe_names() == sorted([*NOMINAL, "tiny"])


@pytest.mark.parametrize("name", NOMINAL)
def test_a_published_recipe_has_its_numbers(name: str) -> None:
    pairs, batch, concepts, source = NOMINAL[name]
    recipe = load_recipe(name)
    epoch = sum(pairs) // batch
    assert (recipe.optim.total_steps, recipe.optim.warmup_steps) == (30 * epoch, 2 * epoch)
    scale = batch / 4096
    assert recipe.optim.lr == pytest.approx(1.6e-3 * scale)
    assert recipe.optim.warmup_lr == pytest.approx(4e-6 * scale)
    assert recipe.optim.min_lr == pytest.approx(4e-5 * scale)
    assert (recipe.optim.weight_decay, recipe.optim.clip_grad_norm) == (0.05, 5.0)
    data = recipe.data
    assert (data.batch, data.concepts, data.source) == (batch, concepts, source)
    assert (data.templates, data.augment, data.seed) == ("clip80", "strong", 0)
    assert recipe.model.multi_label_scale == (concepts > 0)
    assert recipe.model.vision == TrainConfig(optim=recipe.optim).model.vision
    assert len(data.sets) == len(pairs)


def test_steps_of_the_published_recipes() -> None:
    def steps(name: str) -> tuple[int, int]:
        optim = load_recipe(name).optim
        return optim.total_steps, optim.warmup_steps

    assert steps("gcc-yfcc") == (209_910, 13_994)
    assert steps("gcc-redcaps") == (189_780, 12_652)
    assert steps("cc3m") == steps("cocu-cc3m") == (80_610, 5_374)
    assert steps("cc3m-cc12m-yfcc14m") == steps("cocu-cc3m-cc12m-yfcc14m") == (790_590, 52_706)


def test_shards_of_the_published_recipes() -> None:
    sets = load_recipe("gcc-yfcc").data.sets
    assert list(sets) == ["gcc3m", "gcc12m", "yfcc14m"]
    counts = {name: len(list(braceexpand(pattern))) for name, pattern in sets.items()}
    assert counts == {"gcc3m": 437, "gcc12m": 1944, "yfcc14m": 1889}
    redcaps = load_recipe("gcc-redcaps").data.sets
    assert len(list(braceexpand(redcaps["redcap12m"]))) == 1212
    assert list(braceexpand(redcaps["gcc3m"]))[-1] == "gcc3m/gcc-train-000436.tar"


@pytest.mark.parametrize("name", NOMINAL)
def test_the_rate_follows_the_published_schedule(name: str) -> None:
    optim = load_recipe(name).optim
    scale = load_recipe(name).data.batch / 4096
    total, warm = optim.total_steps, optim.warmup_steps

    def rate(t: int) -> float:  # the release: update k uses the value of t = k - 1
        return learning_rate(t + 1, optim) / scale

    assert learning_rate(0, optim) == optim.warmup_lr
    assert rate(0) == pytest.approx(4e-6)
    assert rate(1) == pytest.approx(4e-6 + (1.6e-3 - 4e-6) / warm)
    assert rate(warm - 1) == pytest.approx(1.6e-3, rel=1e-3)
    assert rate(warm) == pytest.approx(1.5829e-3, abs=1e-7)  # the cosine is not offset
    assert rate(warm) == pytest.approx(4e-5 + (1 + math.cos(math.pi / 15)) / 2 * 1.56e-3)
    assert rate(total // 2) == pytest.approx((1.6e-3 + 4e-5) / 2)
    assert rate(total) == pytest.approx(4e-5)


def test_the_comment_of_a_recipe_names_its_command() -> None:
    for name in recipe_names():
        lines = files("groupvit").joinpath("recipes", f"{name}.toml").read_text().splitlines()
        archive = " --concepts ARCHIVE" if name.startswith("cocu") else ""
        assert lines[0] == f"# groupvit train {name} DATA RUN{archive}"
        assert any("NOT RUN YET" in line for line in lines[:5]) == (name in NOMINAL)


def test_a_file_of_the_name_of_a_recipe_is_named_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cc3m").write_text("[optim]\ntotal_steps = 7\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("./cc3m").optim.total_steps == 7
    assert load_recipe("cc3m").optim.total_steps == 80_610
    with pytest.raises(RecipeError, match="did you mean 'cocu-cc3m'"):
        load_recipe("cocu-c3m")
