"""Photographs with real features: read from miniature files, and from the real ones."""

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptarchive import Vocabulary, find_shards, read_pairs
from integration.cocu.ablation.photos import JUDGED, photo_study_stages
from integration.cocu.flickr8k import (
    NAME_LISTS,
    caption_features,
    given_caption,
    photo_stages,
    read_concepts,
    read_photos,
)
from integration.cocu.recipe import Recipe, load_recipe
from integration.errors import DataMissingError, RecipeError
from integration.stage import Stage, run_stages
from segbench import DataMissingError as DataMissing

PHOTOS = ("b.jpg", "a.jpg", "lost.jpg")  # order of the features; the last has no caption
CAPTIONS = {
    "a.jpg": ("a dog runs", "a dog on grass", "the dog and a ball", "a brown dog", "run"),
    "b.jpg": ("two cats and a dog", "cats on a bed", "two cats sleep", "a bed", 'the "cats'),
}
NAMES = {
    "coco80": ("dog", "cat"),
    "lvis1203": ("cat", "baseball_bat", "ball_(toy)"),
    "openimages500": ("Bed",),
    "objects365": ("Dog", "grass"),
}


def write_table(path: Path, head: str, rows: list[str]) -> None:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photographs and eight names, in the layout of the real folder."""
    root = tmp_path / "data"
    photos, features = root / "flickr8k", root / "clip_vitb32_features"
    (photos / "images").mkdir(parents=True)
    features.mkdir()
    for name in PHOTOS:
        Image.new("RGB", (8, 6)).save(photos / "images" / name)
    for split, name in (("train", "a.jpg"), ("val", "b.jpg")):
        rows = [f"{name}\t{i}\t{text}" for i, text in reversed([*enumerate(CAPTIONS[name])])]
        write_table(photos / f"captions_{split}.tsv", "image\tcaption_id\tcaption", rows)
    rows = [f"{row}\t{name}\tx" for row, name in enumerate(PHOTOS)]
    write_table(features / "flickr8k_image_features.tsv", "row\timage\tcaption", rows)
    np.save(features / "flickr8k_image_features.npy", 2 * np.eye(12)[[4, 0, 7]])
    for source, names in NAMES.items():
        rows = [f"{row}\t{name}" for row, name in enumerate(names)]
        write_table(features / f"text_{source}.tsv", "row\tname", rows)
        places = [len(NAME_LISTS) * row + NAME_LISTS.index(source) for row in range(len(names))]
        np.save(features / f"text_{source}.npy", 3 * np.eye(12)[places].astype(np.float16))
    scored = root / "coco128_panoptic"
    for kind, mode in (("images", "RGB"), ("semantic_masks", "L")):
        (scored / kind / "val").mkdir(parents=True)
        Image.new(mode, (8, 6)).save(scored / kind / "val" / "1.png")
    write_table(scored / "labels.tsv", "mask_value\tname\tis_thing", ["0\tnothing\t", "1\tdog\t1"])
    return root


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("cocu-flickr8k")


def stages(recipe: Recipe, data: Path | None, out: Path) -> list[Stage]:
    return photo_stages(recipe, range(1), out, data)


def test_photos_are_sorted_with_captions_in_order_and_unit_features(data: Path) -> None:
    photos = read_photos(data)
    assert [photo.file.name for photo in photos] == ["a.jpg", "b.jpg"]
    assert photos[0].captions == CAPTIONS["a.jpg"]
    assert photos[1].captions == CAPTIONS["b.jpg"]  # a lone quote does not swallow lines
    assert photos[0].feature.tolist() == np.eye(12)[0].tolist()
    assert photos[1].feature.tolist() == np.eye(12)[4].tolist()


def test_concepts_are_plain_names_each_once_the_first_list_wins(data: Path) -> None:
    names, rows = read_concepts(data)
    assert names == ["dog", "cat", "baseball bat", "ball", "bed", "grass"]
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)
    assert rows.argmax(axis=1).tolist() == [0, 4, 5, 9, 2, 7]


@pytest.mark.parametrize("table", ["flickr8k_image_features", "text_lvis1203"])
def test_rows_that_do_not_match_are_one_line(data: Path, table: str) -> None:
    path = data / "clip_vitb32_features" / f"{table}.npy"
    np.save(path, np.load(path)[:-1])
    read = read_photos if table.startswith("flickr") else read_concepts
    with pytest.raises(DataMissingError, match=f"{table}.*2 rows.* 3 ") as caught:
        read(data)
    assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("an object was unpickled",)


@pytest.mark.parametrize("table", ["flickr8k_image_features", "text_coco80"])
@pytest.mark.parametrize("kind", ["objects", "archive of objects", "cut short", "giant", "whole"])
def test_arrays_that_are_no_features_are_one_line(data: Path, table: str, kind: str) -> None:
    path = data / "clip_vitb32_features" / f"{table}.npy"
    objects = np.array([[Bomb()] * 12] * 3, dtype=object)
    if kind == "objects":
        np.save(path, objects, allow_pickle=True)
    elif kind == "archive of objects":
        with path.open("wb") as file:
            np.savez(file, allow_pickle=True, rows=objects)
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[:-5])
    elif kind == "giant":
        path.write_bytes(path.read_bytes().replace(b", 12), }", b", 9999999999999), }"))
    else:
        np.save(path, np.ones((3, 12), np.int64))
    read = read_photos if table.startswith("flickr") else read_concepts
    with pytest.raises(DataMissingError, match=rf"{table}\.npy: (features|must be)") as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "flickr8k/captions_train.tsv",
        "flickr8k/captions_val.tsv",
        "clip_vitb32_features/flickr8k_image_features.npy",
        "clip_vitb32_features/flickr8k_image_features.tsv",
        "clip_vitb32_features/text_objects365.npy",
        "clip_vitb32_features/text_coco80.tsv",
    ],
)
def test_a_missing_file_is_named_before_work_starts(
    data: Path, recipe: Recipe, tmp_path: Path, name: str
) -> None:
    (data / name).unlink()
    with pytest.raises(DataMissingError, match=f"{name}: not found; --data must hold") as caught:
        stages(recipe, data, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_a_folder_the_option_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="say where with --data FOLDER"):
        stages(recipe, None, tmp_path)


def test_other_files_are_other_fingerprints(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    first = stages(recipe, data, tmp_path)
    assert [s.fingerprint for s in stages(recipe, data, tmp_path)] == [s.fingerprint for s in first]
    path = data / "clip_vitb32_features" / "text_coco80.npy"
    np.save(path, np.vstack([np.load(path)] * 2))
    assert stages(recipe, data, tmp_path)[0].fingerprint != first[0].fingerprint


def test_other_images_are_another_evaluation(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    def evaluation() -> str:
        return next(s for s in stages(recipe, data, tmp_path) if "evaluate" in s.name).fingerprint

    first = evaluation()
    assert evaluation() == first
    Image.new("RGB", (99, 98)).save(data / "coco128_panoptic" / "images" / "val" / "1.png")
    assert evaluation() != first


def test_what_photographs_lack_is_refused(data: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="upper-bound needs true labels"):
        stages(replace(recipe, arms=("baseline", "upper-bound")), data, tmp_path)
    shutil.rmtree(data / "coco128_panoptic")
    with pytest.raises(DataMissing, match="coco128_panoptic"):
        stages(recipe, data, tmp_path)


def test_a_caption_that_is_not_there_is_named(data: Path) -> None:
    photo = read_photos(data)[0]
    assert given_caption(photo, 0) == photo.captions[0]
    with pytest.raises(RecipeError, match=r"photos.caption = 7, but .* has \d captions"):
        given_caption(photo, 7)


def test_caption_features_are_means_of_mentions() -> None:
    vocabulary = Vocabulary(("dog", "cat", "bed"))
    rows = caption_features(
        ["a dog", "dogs and a cat", "nothing"], vocabulary, np.eye(3, dtype="f")
    )
    assert rows[0] == pytest.approx([1, 0, 0])
    assert rows[1] == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert rows[2] == pytest.approx([3**-0.5] * 3)  # the mean of the vocabulary


def test_given_caption_is_trained_on_and_the_others_are_the_truth(
    data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    photos = replace(recipe.photos, min_captions=1)
    pairs, archive, *_ = stages(replace(recipe, photos=photos), data, tmp_path)
    for stage in (pairs, archive):
        stage.folder(tmp_path).mkdir(parents=True)
        stage.run(stage.folder(tmp_path))
    read = list(read_pairs(find_shards(pairs.folder(tmp_path)), dataset="train"))
    assert {pair.id: pair.caption for pair in read} == {
        "train/00000/a": "a dog runs", "train/00000/b": "two cats and a dog",
    }  # fmt: skip
    assert read[0].image == (data / "flickr8k" / "images" / "a.jpg").read_bytes()
    folder = archive.folder(tmp_path)
    # only concepts that a given caption mentions enter: dog and cat
    assert json.loads((folder / "truth.json").read_text()) == {
        "train/00000/a": ["dog"], "train/00000/b": ["cat"],
    }  # fmt: skip
    quality = json.loads((folder / "quality.json").read_text())
    assert quality["caption alone"]["named"] == 1


@pytest.fixture
def real_data() -> Path:
    """The real folder: SEGBENCH_TEST_DATA, or `shared/data` beside the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    root = Path(os.environ.get("SEGBENCH_TEST_DATA", beside))
    if not (root / "flickr8k").is_dir():
        pytest.skip("no real photographs: set SEGBENCH_TEST_DATA to a folder with flickr8k in it")
    return root


def test_real_photographs_have_five_captions_and_clip_s_features(real_data: Path) -> None:
    photos = read_photos(real_data)
    assert len(photos) > 900
    assert {len(photo.captions) for photo in photos} == {5}
    assert all(photo.file.is_file() for photo in photos)
    features = np.stack([photo.feature for photo in photos])
    assert features.shape[1] == 512
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_real_features_match_dogs_with_dogs(real_data: Path) -> None:
    names, rows = read_concepts(real_data)
    assert len(set(names)) == len(names) > 1000
    photos = read_photos(real_data)
    response = np.stack([photo.feature for photo in photos]) @ rows[names.index("dog")]
    dogs = np.array([sum("dog" in text.lower() for text in p.captions) >= 4 for p in photos])
    assert response[dogs].mean() > response[~dogs].mean() + 2 * response[~dogs].std()


def test_an_ablation_of_photographs_judges_settings_without_training(
    data: Path, recipe: Recipe, tmp_path: Path
) -> None:
    few = replace(recipe, photos=replace(recipe.photos, min_captions=1))
    planned = photo_study_stages(few, None, tmp_path, data)
    run_stages(planned, tmp_path, stream=io.StringIO())
    study, report = (stage.folder(tmp_path) for stage in planned)
    judged = json.loads((study / "study.json").read_text())
    assert judged["curations"].keys() == JUDGED.keys()
    assert "gallery" not in JUDGED and "other-pool" not in JUDGED
    # the vocabulary is what given captions name: dog and cat. Others say dog of a, and cat of b:
    # nothing is missing, and one of the three concepts drawn of either is right
    first = judged["curations"]["model-4"]
    assert (first["pairs"], first["pairs_with_missing"], first["recall"]["3"]) == (2, 0, 0)
    assert first["draws"]["right"]["mean"] == pytest.approx(1 / 3)
    results = json.loads((report / "ablation.json").read_text())
    assert results["metrics"] == {} == results["convergence"]
    assert results["command"].endswith("--recipe cocu-flickr8k --data DATA")
    assert "| #1 to #2 |  |  | " in (report / "ablation.md").read_text()
    assert (report / "ablation.png").is_file()
    page = (report / "ablation.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == page.count("<img") >= 1
    for part in ("--data DATA</pre>", "Archives and their witnesses", "Seconds per stage."):
        assert part in page
    assert not (report / "convergence.png").exists()
