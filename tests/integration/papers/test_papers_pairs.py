"""Pair sets on disk: samples keep keys and pixels, whatever layout they come from."""

import tarfile
import weakref
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from groupvit import DataError, index_shards
from integration.papers.launch import Ranks
from integration.papers.pairs import (
    Shards,
    find_set,
    read_counts,
    spread,
    write_index,
    write_sample,
)
from integration.papers.recipe import load_pairs_recipe, train_recipe
from integration.papers.stages import Run, paper_stages

SETS = {"cc3m": 20, "cc12m": 20, "yfcc14m": 9}


@pytest.mark.parametrize("name", SETS)
def test_a_sample_is_the_first_pairs_under_their_own_ids(
    name: str, bare: Path, tmp_path: Path
) -> None:
    shards = find_set(load_pairs_recipe("cocu-cc3m-cc12m-yfcc14m"), name, bare)
    write_sample(shards, SETS[name], tmp_path)
    sampled = index_shards(sorted(tmp_path.glob("*.tar")), dataset=name)[0]
    whole = index_shards(shards.files, dataset=name)[0]
    assert len(sampled) == SETS[name]  # of two shards, if one has too few
    for few, all_of_them in zip(sampled, whole, strict=False):
        assert few.id.split("/")[2] == all_of_them.id.split("/")[2]
        assert few.read() == all_of_them.read()
    assert [p.name for p in tmp_path.iterdir()] == [shards.files[0].name]


def test_a_small_set_is_sampled_whole(bare: Path, tmp_path: Path) -> None:
    shards = find_set(load_pairs_recipe("cocu-cc3m"), "cc3m", bare)
    write_sample(shards, 1000, tmp_path)
    with tarfile.open(tmp_path / "00000.tar") as tar:
        assert len(tar.getnames()) == 2 * 32


def test_other_files_are_another_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "0.tar"
    file.write_bytes(b"12")
    first = Shards("cc3m", (file,)).fingerprint
    file.write_bytes(b"123")
    assert Shards("cc3m", (file,)).fingerprint != first


def test_shards_without_pairs_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w"):
        pass
    with pytest.raises(DataError, match="no image-caption pairs"):
        write_sample(Shards("cc3m", (tmp_path / "0.tar",)), 4, tmp_path / "out")


def test_an_index_counts_every_set(bare: Path, tmp_path: Path) -> None:
    recipe = load_pairs_recipe("cocu-cc3m-cc12m-yfcc14m")
    files = {name: find_set(recipe, name, bare).files for name in recipe.sets}
    write_index(files, tmp_path)
    assert read_counts(tmp_path) == {"cc3m": 32, "cc12m": 32, "yfcc14m": 16}
    assert (tmp_path / "cc3m" / "00001.index").exists()


def test_numbers_are_spread_evenly_and_never_repeated() -> None:
    assert list(spread(3, 10)) == [0, 1, 2]
    assert list(spread(100, 4)) == [0, 25, 50, 75]
    assert len(set(spread(28_000_001, 20_000))) == 20_000


def test_a_scored_model_is_let_go_before_the_next_arm_trains(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[nn.Module]] = []
    alive: list[int] = []

    def load(_: Path) -> nn.Module:
        model = nn.Linear(1, 1)
        made.append(weakref.ref(model))
        return model

    def trained(*_: Any, **__: Any) -> None:
        alive.append(sum(model() is not None for model in made))

    def scored(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(data={"images_scored": 1}, metrics={})

    for name, stand_in in (
        ("scoring.load_model", load),
        ("scoring.GroupViTSegmenter", lambda *_, **__: None),
        ("scoring.evaluate", scored),
        ("stages.train_pairs", trained),
    ):
        monkeypatch.setattr(f"integration.papers.{name}", stand_in)
    recipe = load_pairs_recipe("cocu-cc3m")
    recipe = replace(recipe, tasks=recipe.tasks[:2])
    run = Run(
        recipe=recipe,
        configs={(arm, 0): train_recipe(recipe, arm, 0) for arm in recipe.arms},
        data=bare,
        out=tmp_path,
        limit=None,
        ranks=Ranks(),
        images=dict.fromkeys(recipe.tasks, 1),
        costs=defaultdict(float),
    )
    for stage in paper_stages(run).stages:
        if stage.name.startswith(("train-", "evaluate-")):
            (folder := stage.folder(tmp_path)).mkdir(parents=True)
            stage.run(folder)
    assert alive == [0, 0]
    assert len(made) == 2  # each kept for both of its tasks
