"""The papers' recipes: groupvit's constants, the ablation's arms, the published figures."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from conceptarchive import ArchiveConfig
from groupvit import load_recipe as load_base
from integration.errors import RecipeError
from integration.papers.arms import ARMS, archive_config, archive_name
from integration.papers.catalogue import PAIR_SETS
from integration.papers.pixelclip.recipe import FOLDER as MASKS_FOLDER
from integration.papers.plan import archives_of
from integration.papers.recipe import (
    COCU_TASKS,
    FOLDER,
    build_pairs_recipe,
    is_pairs_recipe,
    limited,
    load_pairs_recipe,
    train_recipe,
)
from integration.papers.table import TOP_5, published_rows

RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))
PUBLISHED = FOLDER.parent / "published.toml"


def values(**changes: Any) -> dict[str, Any]:
    """A recipe as plain values."""
    given = {
        "summary": "x", "source": "pairs", "base": "cocu-cc3m", "counts": "cocu", "sets": ["cc3m"],
    }  # fmt: skip
    return {key: value for key, value in {**given, **changes}.items() if value is not None}


def refusal(**changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        build_pairs_recipe(values(**changes), "mine")
    message = str(caught.value)
    assert "mine" in message
    assert "\n" not in message
    return message


def test_every_row_of_the_papers_has_a_recipe() -> None:
    assert set(RECIPES) == {
        "cocu-cc3m", "cocu-cc12m", "cocu-cc12m-half", "cocu-cc3m-cc12m-yfcc14m",
        "cocu-ablation-cc3m", "groupvit-gcc-yfcc", "groupvit-gcc-redcaps",
    }  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_its_command_first_and_loads(name: str) -> None:
    first = (FOLDER / f"{name}.toml").read_text().splitlines()[0]
    verb = name.split("-")[0]
    assert first.startswith(f"# hatch run reproduce {verb} --recipe {name} --data ROOT")
    recipe = load_pairs_recipe(name)
    assert (recipe.name, recipe.source) == (name, "pairs")
    assert is_pairs_recipe(name)
    for arm in recipe.arms:
        assert train_recipe(recipe, arm, 0).data.batch == (1024 if verb == "cocu" else 4096)


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("cocu-cc3m", "cocu-cc3m"),
        ("cocu-cc3m-cc12m-yfcc14m", "cocu-cc3m-cc12m-yfcc14m"),
        ("groupvit-gcc-yfcc", "gcc-yfcc"),
        ("groupvit-gcc-redcaps", "gcc-redcaps"),
    ],
)
def test_epochs_of_the_catalogue_are_the_steps_of_groupvit(name: str, base: str) -> None:
    recipe = load_pairs_recipe(name)
    ours, theirs = train_recipe(recipe, recipe.arms[-1], 0), load_base(base)
    assert ours.optim == theirs.optim
    assert ours.model == theirs.model
    assert (ours.data.batch, ours.data.concepts) == (theirs.data.batch, theirs.data.concepts)
    assert ours.data.source == theirs.data.source


@pytest.mark.parametrize(
    ("name", "epoch"),
    [("cocu-cc12m", 9_716_186 // 1024), ("cocu-cc12m-half", 4_858_093 // 1024)],
)
def test_other_pairs_take_as_many_epochs(name: str, epoch: int) -> None:
    optim = train_recipe(load_pairs_recipe(name), "cocu", 0).optim
    assert (optim.total_steps, optim.warmup_steps) == (30 * epoch, 2 * epoch)
    assert optim.lr == 4e-4


def test_the_baseline_differs_in_the_source_of_concepts_alone() -> None:
    recipe = load_pairs_recipe("cocu-cc3m")
    baseline, cocu = (train_recipe(recipe, arm, 3) for arm in ("baseline", "cocu"))
    assert (baseline.data.source, cocu.data.source) == ("captions", "archive")
    assert (cocu.data.sampling, cocu.data.seed, cocu.seed) == ("cluster", 3, 3)
    assert baseline.optim == cocu.optim
    assert baseline.model == cocu.model


def test_the_ablation_adds_one_thing_an_arm() -> None:
    recipe = load_pairs_recipe("cocu-ablation-cc3m")
    assert recipe.arms == ("baseline", "model-1", "model-2", "model-3", "model-4")
    assert list(archives_of(recipe)) == ["language-cosine", "vision-cosine", "vision-relative"]
    drawn = [train_recipe(recipe, arm, 0).data.sampling for arm in recipe.arms[1:]]
    assert drawn == ["naive", "naive", "naive", "cluster"]


def test_arms_of_one_name_of_archive_build_the_same_archive() -> None:
    built: dict[str, ArchiveConfig] = {}
    for curation in ARMS.values():
        if curation is not None:
            config = archive_config(curation, ArchiveConfig())
            assert built.setdefault(archive_name(curation), config) == config
    assert len({*map(str, built.values())}) > 3


def test_pools_are_an_option() -> None:
    own = build_pairs_recipe(values(sets=["cc12m"]), "mine")
    other = build_pairs_recipe(values(sets=["cc12m"], pool="cc3m"), "mine")
    assert (own.searched, own.embedded) == (("cc12m",), ("cc12m",))
    assert (other.searched, other.embedded) == (("cc3m",), ("cc12m", "cc3m"))
    assert build_pairs_recipe(values(arms=["baseline"], pool="cc3m"), "mine").embedded == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": ["cc4m"]}, "unknown sets 'cc4m'; there are cc3m, cc12m, yfcc14m"),
        ({"sets": ["redcaps12m"]}, "unknown sets 'redcaps12m'"),
        ({"sets": []}, "sets must be different ones, got []"),
        ({"arms": ["cocu", "cocu"]}, "arms must be different ones"),
        ({"arms": ["best"]}, "unknown arms 'best'"),
        ({"pool": "all"}, "pool must be one of own, cc3m, cc12m, yfcc14m, got 'all'"),
        ({"share": 0.0}, "share must be in (0, 1], got 0.0"),
        ({"tasks": ["voc22@cocu"]}, "unknown"),
        ({"base": "cc4m"}, "base: cc4m: no such file"),
        ({"base": "tiny"}, "base tiny names data sets that cocu gives no numbers of: none at all"),
        ({"counts": None}, "needs counts"),
        ({"counts": "ours"}, "counts must be one of cocu, groupvit"),
        ({"archive": {"neighbors": 8}}, "did you mean 'archive.neighbours'?"),
        ({"search": {"recall": 2}}, "recall must be in (0, 1], got 2"),
        ({"pools": "own"}, "did you mean 'pool'?"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    assert message in refusal(**changes)


def test_recipes_of_scenes_are_not_of_pairs(tmp_path: Path) -> None:
    assert not is_pairs_recipe("cocu-mini")
    assert not is_pairs_recipe(str(tmp_path / "gone.toml"))
    (tmp_path / "mine.toml").write_text('source = "pairs"\n')
    assert is_pairs_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("limit", "pairs", "ranks", "batch", "steps"),
    [
        (16, 16, 1, 4, 4),
        (16, 48, 2, 4, 12),
        (4, 4, 2, 2, 2),
        (8, 8, 4, 4, 2),
        (9999, 9999, 1, 1024, 9),
        (9999, 100, 1, 25, 4),
    ],
)
def test_a_rehearsal_is_one_pass_in_small_batches(
    limit: int, pairs: int, ranks: int, batch: int, steps: int
) -> None:
    config = train_recipe(load_pairs_recipe("cocu-cc3m"), "cocu", 0)
    small = limited(config, pairs, limit, ranks)
    assert (small.data.batch, small.optim.total_steps) == (batch, steps)
    assert small.model == config.model


def test_a_rehearsal_on_fewer_pairs_than_a_batch_is_refused() -> None:
    config = train_recipe(load_pairs_recipe("cocu-cc3m"), "cocu", 0)
    with pytest.raises(RecipeError, match="needs 8 pairs on 8 ranks, has 7: raise --limit, add"):
        limited(config, 7, 16, 8)


def test_published_figures_are_of_recipes_arms_and_tasks() -> None:
    keys = {*COCU_TASKS, *(task + TOP_5 for task in COCU_TASKS)}
    content = tomllib.loads(PUBLISHED.read_text())
    of_masks = {path.stem for path in MASKS_FOLDER.glob("*.toml")}
    assert set(content) <= {*RECIPES, *of_masks}
    for name in of_masks:  # test_papers_pixelclip.py
        content.pop(name)
    for recipe, arms in content.items():
        assert set(arms) <= set(load_pairs_recipe(recipe).arms)
        for arm in arms:
            for row in published_rows(recipe, arm):
                assert set(row.percent) <= keys
                assert "table" in row.source or "README" in row.source
                assert row.percent or row.note


@pytest.mark.parametrize(
    ("recipe", "arm", "place", "average"),
    [
        ("cocu-cc3m-cc12m-yfcc14m", "baseline", 0, 22.4),
        ("cocu-cc3m-cc12m-yfcc14m", "baseline", 1, 23.1),
        ("cocu-cc3m-cc12m-yfcc14m", "cocu", 0, 26.8),
        ("cocu-cc3m-cc12m-yfcc14m", "cocu", 1, 27.7),
        ("groupvit-gcc-yfcc", "baseline", 0, 25.7),
    ],
)
def test_rows_of_table_1_add_up_to_the_printed_average(
    recipe: str, arm: str, place: int, average: float
) -> None:
    cells = published_rows(recipe, arm)[place].percent.values()
    assert len(cells) == 8
    assert sum(cells) / 8 == pytest.approx(average, abs=0.0501)


def test_every_pair_set_says_how_to_get_it() -> None:
    for name, each in PAIR_SETS.items():
        assert f"ROOT/{name}" in each.get
        assert "img2dataset" in each.get
        assert min(each.pairs.values()) > 2e6
