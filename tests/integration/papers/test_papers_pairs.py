"""Pair sets on disk: samples keep keys and pixels, whatever layout they come from."""

import tarfile
from pathlib import Path

import pytest

from groupvit import DataError, index_shards
from integration.papers.pairs import (
    Shards,
    find_set,
    read_counts,
    spread,
    write_index,
    write_sample,
)
from integration.papers.recipe import load_pairs_recipe

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
