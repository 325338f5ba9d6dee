"""Arms of the ablation: each adds one thing, and equal archives are built once."""

from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest

from integration.cocu.ablation.curations import (
    CURATIONS,
    LADDER,
    MODELS,
    SETTINGS,
    Curation,
    check_arms,
)
from integration.cocu.recipe import Recipe, SamplingConfig, load_recipe
from integration.errors import RecipeError


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("cocu-mini")


def settings(curation: Curation, recipe: Recipe) -> dict[str, Any]:
    """Everything that a curation sets, flat."""
    return {
        **asdict(curation.archive_config(recipe)),
        **{f"sampling.{key}": value for key, value in asdict(curation.sampling).items()},
        "vocabulary": curation.vocabulary,
        "pool": curation.pool,
    }


def differing(first: Curation, second: Curation, recipe: Recipe) -> set[str]:
    one, two = settings(first, recipe), settings(second, recipe)
    return {key for key in one if one[key] != two[key]}


def test_each_model_adds_one_thing_to_the_one_before(recipe: Recipe) -> None:
    models = list(MODELS.values())
    changes = [differing(a, b, recipe) for a, b in pairwise(models)]
    assert changes == [{"expansion"}, {"ranking"}, {"sampling.method"}]
    first, last = settings(models[0], recipe), settings(models[-1], recipe)
    assert (first["expansion"], first["ranking"]) == ("language", "cosine")
    assert (last["expansion"], last["ranking"]) == ("vision", "relative")
    assert last["sampling.method"] == "cluster"


def test_the_ladder_goes_from_baseline_to_upper_bound() -> None:
    assert LADDER == ("baseline", "model-1", "model-2", "model-3", "model-4", "upper-bound")


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_differs_from_a_named_one_in_one_thing(name: str, recipe: Recipe) -> None:
    sampling = {"sampling.method", "sampling.temperature"}
    changes = [
        differing(SETTINGS[name], SETTINGS[base], recipe)
        for base in ("top", "neighbours-32", "clusters-3")
    ]
    assert any(len(change) <= 1 or change <= sampling for change in changes), changes


def test_names_of_archives_are_equal_where_the_archives_are(recipe: Recipe) -> None:
    built = {
        name: (asdict(each.archive_config(recipe)), each.vocabulary, each.pool)
        for name, each in CURATIONS.items()
    }
    named = {name: each.archive_name(recipe) for name, each in CURATIONS.items()}
    for first in CURATIONS:
        for second in CURATIONS:
            assert (built[first] == built[second]) == (named[first] == named[second])
    assert named["model-3"] == named["model-4"] == "archive-vision-relative"
    assert named["neighbours-8"] == named["top"]
    assert named["neighbours-16"] == "archive-vision-relative-neighbours-16"
    assert named["gallery"] == "archive-vision-relative-gallery"
    assert named["other-pool"] == "archive-vision-relative-other-pool"


def test_names_of_archives_follow_the_recipe(recipe: Recipe) -> None:
    other = replace(recipe, archive=replace(recipe.archive, neighbours=16))
    assert SETTINGS["neighbours-16"].archive_name(other) == "archive-vision-relative"
    assert SETTINGS["neighbours-8"].archive_name(other).endswith("neighbours-8")


def test_a_curation_changes_only_archive_and_sampling(recipe: Recipe) -> None:
    changed = MODELS["model-1"].applied(recipe)
    assert changed.archive.expansion == "language"
    assert changed.archive.response == recipe.archive.response == "shifted"
    assert changed.sampling == SamplingConfig(method="naive")
    assert replace(changed, archive=recipe.archive, sampling=recipe.sampling) == recipe


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (("baseline", "model-5"), "unknown arm 'model-5'; --ablation knows baseline, model-1"),
        (("top", "top"), "arms must be different ones, got top, top"),
        (("",), "unknown arm ''"),
    ],
)
def test_unknown_arms_are_one_line(arms: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_arms(arms)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_curation_is_an_arm() -> None:
    check_arms(("baseline", *CURATIONS, "upper-bound"))
