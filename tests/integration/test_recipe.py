"""Recipes: read from TOML, refused in one line that says what to do."""

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest

from integration.cocu.recipe import FOLDER, Recipe, build_recipe, load_recipe
from integration.errors import RecipeError
from integration.recipe import typed

BUILT_IN = sorted(path.stem for path in FOLDER.glob("*.toml"))


@pytest.fixture
def values(tiny: Path) -> dict[str, Any]:
    return tomllib.loads(tiny.read_text())


def changed(values: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with one dotted field set."""
    result = copy.deepcopy(values)
    *tables, last = path.split(".")
    inner = result
    for table in tables:
        inner = inner.setdefault(table, {})
    inner[last] = value
    return result


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as caught:
        build_recipe(values, "mine")
    message = str(caught.value)
    assert "\n" not in message
    assert "mine" in message
    return message


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.summary
    first = (FOLDER / f"{name}.toml").read_text().splitlines()[0]
    assert first.startswith("# hatch run reproduce cocu")


def test_cocu_mini_is_built_in() -> None:
    assert "cocu-mini" in BUILT_IN


def test_a_recipe_names_only_what_differs(values: dict[str, Any]) -> None:
    recipe = build_recipe(values, "mine")
    assert recipe.scenes.train == 200
    assert recipe.scenes.seed == 0  # default
    assert recipe.train.optim.total_steps == 8
    assert recipe.archive.neighbours == 4
    assert recipe.arms == ("baseline", "cocu", "upper-bound")
    assert isinstance(recipe, Recipe)


def test_a_recipe_is_read_by_its_path(tiny: Path) -> None:
    assert load_recipe(str(tiny)).name == "tiny"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("arm", "unknown key 'arm' in mine.toml; did you mean 'arms'?"),
        ("scenes.trian", "unknown key 'scenes.trian' in mine.toml; did you mean 'scenes.train'?"),
        ("photos.captions", "did you mean 'photos.caption'?"),
        ("curator.step", "did you mean 'curator.steps'?"),
        ("vocabulary.min_counts", "did you mean 'vocabulary.min_count'?"),
        ("archive.neighbors", "did you mean 'archive.neighbours'?"),
        ("sampling.methods", "did you mean 'sampling.method'?"),
        ("evaluate.tsk", "did you mean 'evaluate.task'?"),
        ("train.optim.lr_", "did you mean 'optim.lr'?"),
        ("train.model.vision.patch", "did you mean 'model.vision.patch_px'?"),
        ("scenes.zzz", "known: train, curator, val, size_px, difficulty, seed"),
        ("name", "unknown key 'name'"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    values: dict[str, Any], path: str, hint: str
) -> None:
    assert hint in refusal(changed(values, path, 1))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("arms", ["baseline", "coco"], "unknown arm 'coco'"),
        ("arms", "cocu", "arms must be a list of texts, got 'cocu'"),
        ("arms", [], "arms must be different ones, got []"),
        ("arms", ["cocu", "cocu"], "arms must be different ones"),
        ("source", "photos", "source must be one of scenes, flickr8k, got 'photos'"),
        ("scenes", 3, "scenes must be a table, got 3"),
        ("scenes.size_px", 8, "[scenes] size_px must be in [32, 448], got 8"),
        ("scenes.val", 0, "[scenes] count must be >= 1, got 0"),
        ("scenes.difficulty", "hard", "scenes.difficulty must be a number, got 'hard'"),
        ("scenes.train", 1.5, "scenes.train must be a whole number, got 1.5"),
        ("scenes.train", True, "scenes.train must be a whole number, got True"),
        ("photos.caption", 5, "caption must be in [0, 4], got 5"),
        ("photos.min_captions", 0, "min_captions must be >= 1, got 0"),
        ("curator.steps", 0, "[curator] steps must be >= 1, got 0"),
        ("curator.lr", -1.0, "[curator] lr must be > 0, got -1.0"),
        ("curator.vision_cfg", {}, "curator.vision_cfg needs image_size"),
        ("vocabulary.max_size", "all", "vocabulary.max_size must be a whole number, got 'all'"),
        ("archive.neighbours", 0, "[archive] neighbours must be in [1, 255], got 0"),
        ("archive.expansion", "both", "archive.expansion must be one of vision, language"),
        ("sampling.method", "best", "sampling.method must be one of cluster, naive, top"),
        ("sampling.temperature", 0, "[sampling] temperature must be > 0, got 0"),
        ("evaluate.task", 7, "evaluate.task must be a text, got 7"),
        ("train.optim.lr", -1.0, "[train] optim: lr must be > 0, got -1.0"),
        ("train.data.batch", "many", "[train] data.batch must be a whole number, got 'many'"),
        ("costs.train", "long", "costs must be a table of numbers"),
    ],
)
def test_a_bad_value_is_named_in_one_line(
    values: dict[str, Any], path: str, value: object, message: str
) -> None:
    assert message in refusal(changed(values, path, value))


@pytest.mark.parametrize("part", ["train", "summary"])
def test_a_missing_part_is_named(values: dict[str, Any], part: str) -> None:
    del values[part]
    assert f"needs a {'[train] part' if part == 'train' else part}" in refusal(values)


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'coco-mini'; there are .*cocu-mini"):
        load_recipe("coco-mini")


def test_a_file_called_as_a_built_in_recipe_must_hold_the_same(tmp_path: Path) -> None:
    path = tmp_path / "cocu-mini.toml"
    path.write_bytes((FOLDER / "cocu-mini.toml").read_bytes())
    assert load_recipe(str(path)) == load_recipe("cocu-mini")
    path.write_text(path.read_text() + "\n# mine\n")
    with pytest.raises(RecipeError, match="a built-in recipe is called cocu-mini; rename your"):
        load_recipe(str(path))


def test_commands_say_what_a_reader_types() -> None:
    assert typed("cocu-mini", FOLDER) == "cocu-mini"
    assert typed("mine", FOLDER) == "mine.toml"


@pytest.mark.parametrize("content", [b"arms = [", b"summary = '\xff'"])
def test_bad_toml_is_one_line_with_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"broken\.toml: not readable as TOML") as caught:
        load_recipe(str(path))
    assert "\n" not in str(caught.value)
