"""Pieces of a PixelCLIP run: regions, words, recipes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from integration.errors import RecipeError
from integration.pixelclip import pictures
from integration.pixelclip.pictures import mask_sheets
from integration.pixelclip.recipe import build_pixelclip_recipe, load_pixelclip_recipe
from integration.pixelclip.runs import ClipFiles, Runs, World
from integration.pixelclip.scenes import RegionsConfig, cut_regions, write_photos
from integration.pixelclip.words import cluster_names, read_words, write_words
from integration.pixelclip.worlds import photos_world
from maskcluster import DataError, Sa1bFolder, find_photos
from segbench import ScenesDataset, load_task

LEAST: dict[str, Any] = {
    "summary": "s",
    "chosen": ["a"],
    "curator": {"vision_cfg": {"image_size": 32}},
    "train": {"optim": {"total_steps": 8}, "cluster": {"clusters": 5}},
    "arms": {"a": {"about": "first"}, "b": {"about": "k", "train": {"cluster": {"clusters": 7}}}},
}


def scene() -> tuple[Any, Any]:
    found = ScenesDataset(split="train", count=1, size_px=48).scene(0)
    return found.labels, found.instances


def test_regions_without_noise_are_the_objects() -> None:
    labels, instances = scene()
    config = RegionsConfig(pieces=1, jitter_px=0, missing=0, min_px=1)
    found = cut_regions(labels, instances, config, np.random.default_rng(0))
    assert (found >= 0).all()
    for number in np.unique(found):
        of_it = found == number
        assert len(np.unique(labels[of_it])) == len(np.unique(instances[of_it])) == 1
    objects = len(np.unique(np.stack([labels.ravel(), instances.ravel()]), axis=1).T)
    assert len(np.unique(found)) == objects


def test_pieces_stay_inside_objects_and_noise_does_not() -> None:
    labels, instances = scene()
    rng = np.random.default_rng(0)
    cut = cut_regions(labels, instances, RegionsConfig(pieces=4, jitter_px=0, missing=0), rng)
    whole = cut_regions(labels, instances, RegionsConfig(pieces=1, jitter_px=0, missing=0), rng)
    assert len(np.unique(cut)) > len(np.unique(whole))
    for number in np.unique(cut[cut >= 0]):
        assert len(np.unique(labels[cut == number])) == 1
    noisy = cut_regions(labels, instances, RegionsConfig(pieces=1, jitter_px=2, missing=0), rng)
    mixed = [len(np.unique(labels[noisy == n])) > 1 for n in np.unique(noisy[noisy >= 0])]
    assert any(mixed)


def test_masks_go_missing_at_their_rate() -> None:
    labels, instances = scene()
    config = RegionsConfig(pieces=3, jitter_px=0, missing=0.5, min_px=1)
    full = RegionsConfig(pieces=3, jitter_px=0, missing=0, min_px=1)
    kept, there = 0, 0
    for seed in range(40):
        for one in (config, full):
            found = cut_regions(labels, instances, one, np.random.default_rng(seed))
            count = len(np.unique(found[found >= 0]))
            kept, there = (kept + count, there) if one is config else (kept, there + count)
    assert 0.4 < kept / there < 0.6


def test_pictures_and_masks_are_laid_out_as_sa1b(tmp_path: Path) -> None:
    dataset = ScenesDataset(split="train", count=3, size_px=32)
    for _ in range(2):  # a killed stage is run again in the same folder
        write_photos(dataset, RegionsConfig(), tmp_path)
    masks = Sa1bFolder(tmp_path / "masks")
    assert list(find_photos(tmp_path / "photos")) == list(masks.keys()) == [
        "000000", "000001", "000002"
    ]  # fmt: skip
    assert (masks["000001"].decode().sum(axis=0) <= 1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pieces": 0}, "pieces and min_px must be >= 1, got 0 and 6"),
        ({"missing": 1.0}, r"missing must be in \[0, 1\), got 1.0"),
        ({"jitter_px": -1.0}, "jitter_px must be >= 0, got -1.0"),
    ],
)
def test_regions_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RegionsConfig(**change)


@dataclass
class Concept:
    name: str
    score: float


class Archive:
    """Three pairs; "cat" and "kitten" point the same way."""

    keys = ("1", "2", "3")
    found = (
        {"cat": 1.0, "grass": 0.4},
        {"kitten": 0.3, "grass": 0.4},
        {"sky": 0.2, "cat": 0.1},
    )

    def concepts(self, key: str) -> list[Concept]:
        return [Concept(*one) for one in self.found[int(key) - 1].items()]


def test_every_group_of_concepts_is_named_after_its_strongest() -> None:
    names = ["kitten", "sky", "cat", "never", "grass"]
    features = np.array([[1, 0.1], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)
    assert cluster_names(Archive(), names, features, 3, seed=0) == ["cat", "grass", "sky"]
    assert cluster_names(Archive(), names, features, 9, seed=0)[2:] == ["kitten", "sky"]
    with pytest.raises(RecipeError, match="no pair of the archive has a concept"):
        cluster_names(Archive(), ["never"], features[3:4], 3, seed=0)


def test_words_are_taken_again_where_they_are_few(tmp_path: Path) -> None:
    write_words(tmp_path, ["sky", "cat"])
    assert read_words(tmp_path, 5) == ["sky", "cat", "sky", "cat", "sky"]


def test_an_arm_changes_what_it_names_and_keeps_the_rest() -> None:
    recipe = build_pixelclip_recipe(LEAST, "least")
    assert (recipe.arms["a"].train.cluster.clusters, recipe.chosen) == (5, ("a",))
    assert recipe.arms["b"].train.cluster.clusters == 7
    assert recipe.arms["b"].train.optim.total_steps == 8
    assert recipe.with_arms("all").chosen == ("a", "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": ["c"]}, "least: unknown arm 'c'; there are a, b"),
        ({"chosen": []}, "arms must be different ones"),
        ({"scens": {}}, r"unknown key 'scens' in least.toml; did you mean 'scenes'\?"),
        ({"arms": {"a": {}}}, "least.toml: arms.a needs about"),
        ({"arms": {"a": {"about": "x", "mask": 1}}}, r"'arms.a.mask' .* 'arms.a.masks'"),
        ({"arms": {"a": {"about": "x", "masks": "sam"}}}, "arms.a.masks must be one of regions"),
        ({"train": {"cluster": {"k": 5}}}, "least.toml: arms.a: .*cluster.k"),
        ({"curator": {}}, "curator.vision_cfg needs image_size"),
    ],
    ids=str,
)
def test_recipes_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        build_pixelclip_recipe(LEAST | change, "least")


def test_the_built_in_recipe_has_every_row_of_the_ablation() -> None:
    recipe = load_pixelclip_recipe("pixelclip-mini")
    clusters = {name: arm.train.cluster for name, arm in recipe.arms.items()}
    assert clusters["no-clustering"].targets == "masks"
    assert clusters["no-text-tower"].prompts == "direct"
    assert clusters["fixed-prompts"].prompts == "frozen"
    assert clusters["no-momentum"].momentum == 0
    assert not clusters["no-balance"].balance
    assert {arm.masks for arm in recipe.arms.values()} == {"regions", "dino", "superpixels"}
    assert {arm.words for arm in recipe.arms.values()} == {"vocabulary", "captions", "archive"}


@pytest.mark.parametrize("name", ["pixelclip-photos", "pixelclip-flickr8k"])
def test_recipes_of_photographs_say_that_their_clip_is_random(name: str) -> None:
    recipe = load_pixelclip_recipe(name)
    assert recipe.photos is not None
    assert recipe.photos.pretrained == "random"
    assert "random weights" in recipe.summary
    assert {arm.words for arm in recipe.arms.values()} == {"vocabulary"}
    assert recipe.with_arms("all").sources >= {"dino", "superpixels"}


def test_photographs_of_coco_are_found_with_their_masks() -> None:
    beside = Path(__file__).parents[4] / "shared" / "data"
    root = Path(os.environ.get("SEGBENCH_TEST_DATA", beside))
    recipe = load_pixelclip_recipe("pixelclip-photos")
    if not (root / "coco128_panoptic").is_dir():
        pytest.skip(f"no real photographs at {root}")
    assert recipe.photos is not None
    world = photos_world(recipe, recipe.photos, root)
    assert list(find_photos(world.images)) == list(Sa1bFolder(world.masks).keys())
    assert {"person", "sky", "wall-brick"} <= set(world.names)


def test_a_clip_is_known_by_what_its_files_hold(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "weights.bin").write_bytes(b"1")

    def named(folder: Path) -> set[str]:
        file = ClipFiles(architecture="ViT-S-32", pretrained=str(folder / "weights.bin"))
        return {file.name, ClipFiles(architecture=f"local-dir:{folder}", pretrained="").name}

    assert named(first) == named(second)
    (second / "weights.bin").write_bytes(b"2")
    assert not named(first) & named(second)
    assert ClipFiles(architecture="ViT-S-32", pretrained="openai").name == "ViT-S-32 openai"


def test_a_sheet_that_cannot_be_drawn_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DataError("x.jpg: cannot be <read>")

    def fails_not(*_: object) -> None:
        """No masks are read."""

    monkeypatch.setattr(pictures, "contact_sheet", fails)
    monkeypatch.setattr(pictures, "mask_source", fails_not)
    recipe = load_pixelclip_recipe("pixelclip-photos").with_arms("pixelclip")
    runs = Runs(untuned={}, trained={}, scored={}, named={}, masks={}, words={})
    world = World(
        stages=(), images=tmp_path, masks=tmp_path, task=load_task("scenes@whole"), data=None,
        clip=lambda _: ClipFiles(architecture="x", pretrained=""), names=(),
    )  # fmt: skip
    parts = mask_sheets(recipe, tmp_path, runs, world, tmp_path)
    assert parts == ["<h3>regions</h3>", "<p>No sheet: x.jpg: cannot be &lt;read&gt;</p>"]
