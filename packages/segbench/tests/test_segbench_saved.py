"""Saved label maps in every form, and what is wrong with them in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segbench import DataMissingError, Example, FormatError, score_folder
from segbench.running.saved import SavedMaps

LABELS = np.array([[0, 1, 2], [300, 2, 1]], np.int32)
EXAMPLE = Example("city/a", np.zeros((2, 3, 3), np.uint8), LABELS)


def lengths(mask: Any) -> dict[str, Any]:
    """Uncompressed run lengths, down the columns, beginning with zeros."""
    flat = np.asarray(mask).T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(np.shape(mask)), "counts": [0, *runs] if flat[0] else runs}


def segments() -> list[dict[str, Any]]:
    return [
        {
            "file_name": "images/city/a.jpg",
            "category_id": int(label),
            "segmentation": lengths(label == LABELS),
        }
        for label in np.unique(LABELS)
    ]


@pytest.mark.parametrize("form", ["npy", "16 bit", "colours", "json"])
def test_every_form_gives_the_same_map(tmp_path: Path, form: str) -> None:
    (tmp_path / "city").mkdir()
    path = tmp_path
    if form == "npy":
        np.save(tmp_path / "city/a.npy", LABELS)
    elif form == "16 bit":
        Image.fromarray(LABELS.astype(np.uint16)).save(tmp_path / "city/a.png")
    elif form == "colours":
        colours = np.stack([LABELS % 256, LABELS // 256, 0 * LABELS], axis=2).astype(np.uint8)
        Image.fromarray(colours).save(tmp_path / "city/a.png")
    else:
        path = tmp_path / "predictions.json"
        path.write_text(json.dumps(segments()))
    assert SavedMaps(path)(EXAMPLE).tolist() == LABELS.tolist()


def test_json_scores_a_whole_task(mini: Path, mini_task: Path, maps: Any, tmp_path: Path) -> None:
    found = [
        {"file_name": f"{stem}.png", "category_id": c, "segmentation": lengths(labels == c)}
        for stem, labels in maps.items()
        for c in range(3)
        if (labels == c).any()
    ]
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(found))
    report = score_folder(path, str(mini_task), root=mini)
    assert report.miou == 1 and report.model == {"name": "saved.json"}
    path.write_text(json.dumps([each for each in found if each["category_id"]]))
    with pytest.raises(FormatError, match=r"image a: predictions must be in \[0, 3\), got -1"):
        score_folder(path, str(mini_task), root=mini)


def test_maps_of_no_image_are_told(mini: Path, mini_task: Path, maps: Any, tmp_path: Path) -> None:
    saved, path = tmp_path / "saved", tmp_path / "saved.json"
    (saved / "city").mkdir(parents=True)
    for stem in ("a", "b", "city/z"):
        np.save(saved / stem, np.maximum(maps.get(stem, maps["a"]), 0))
    (saved / "notes.txt").write_text("no map")
    found = [
        {"file_name": f"{stem}.png", "category_id": 0, "segmentation": lengths(labels > -2)}
        for stem, labels in {**maps, "y": maps["a"], "z": maps["a"]}.items()
    ]
    path.write_text(json.dumps(found))
    for predictions, told in ((saved, "1, the first is city/z"), (path, "2, the first is y")):
        report = score_folder(predictions, str(mini_task), root=mini)
        assert report.warnings == (f"predictions of no image of the data set: {told}",)
    (limited,) = score_folder(saved, str(mini_task), root=mini, limit=1).warnings
    assert "limited to the first 1" in limited


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="no predictions at"):
        SavedMaps(tmp_path / "none")
    path = tmp_path / "p.json"
    for content in ("{", "[3]", '[{"category_id": 1}]'):
        path.write_text(content)
        with pytest.raises(FormatError, match=r"p\.json: is no list of segments"):
            SavedMaps(path)
    path.write_text("[]")
    with pytest.raises(DataMissingError, match="no segment of image city/a"):
        SavedMaps(path)(EXAMPLE)
    wrong = segments()
    wrong[0]["segmentation"]["size"] = [3, 2]
    path.write_text(json.dumps(wrong))
    with pytest.raises(FormatError, match=r"image city/a: run lengths are of size \[3, 2\]"):
        SavedMaps(path)(EXAMPLE)
    (tmp_path / "city").mkdir()
    np.save(tmp_path / "city/a.npy", LABELS / 2)
    with pytest.raises(FormatError, match="must hold integers, got float64"):
        SavedMaps(tmp_path)(EXAMPLE)
    (tmp_path / "city/a.npy").unlink()
    Image.fromarray(np.full((2, 3, 3), 9, np.uint8)).save(tmp_path / "city/a.png")
    with pytest.raises(FormatError, match="blue must be 0"):
        SavedMaps(tmp_path)(EXAMPLE)


@pytest.mark.parametrize(
    ("file_name", "image"),
    [
        ("leftImg8bit/val/bonn/bonn_000001_leftImg8bit.png", "bonn/bonn_000001"),  # Cityscapes
        ("val2017/000000000139.jpg", "000000000139"),
        ("a.b.c.jpg", "a.b.c"),
        ("2007_000033", "2007_000033"),
    ],
)
def test_an_image_is_found_by_the_stem_of_its_file(
    tmp_path: Path, file_name: str, image: str
) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([each | {"file_name": file_name} for each in segments()]))
    found = SavedMaps(path)(Example(image, EXAMPLE.image, LABELS))
    assert found.tolist() == LABELS.tolist()


def test_images_that_differ_in_their_folder_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    names = ("train/a.jpg", "val/a.jpg")
    path.write_text(json.dumps([segments()[0] | {"file_name": name} for name in names]))
    with pytest.raises(FormatError, match="file names that differ in their folder alone"):
        SavedMaps(path)


@pytest.mark.parametrize("category", [True, 1.0, "1", None])
def test_a_category_that_is_no_whole_number_is_refused(tmp_path: Path, category: Any) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([segments()[0] | {"category_id": category}]))
    with pytest.raises(FormatError, match="image city/a: category_id must be an integer"):
        SavedMaps(path)(EXAMPLE)
    path.write_text(json.dumps([{"file_name": "a.jpg", "segmentation": {}}]))
    with pytest.raises(FormatError, match="image city/a: a segment has no 'category_id'"):
        SavedMaps(path)(EXAMPLE)
