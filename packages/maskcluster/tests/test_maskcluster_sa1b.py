import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco

from maskcluster.errors import DataError, FormatError
from maskcluster.masks.mask_set import MaskRules, MaskSource
from maskcluster.masks.sa1b import Sa1bFolder, read_sa1b, write_sa1b

REAL = Path(__file__).parents[4] / "shared/data/coco128_panoptic/sa1b_style"
HEIGHT, WIDTH = 4, 6


def counts(mask: list[list[int]]) -> dict[str, Any]:
    found = coco.encode(np.asfortranarray(np.array(mask, np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def annotation(**changes: Any) -> dict[str, Any]:
    mask = [[0] * WIDTH for _ in range(HEIGHT)]
    mask[1][2] = mask[2][2] = 1
    return {
        "id": 7,
        "segmentation": counts(mask),
        "bbox": [2, 1, 1, 2],
        "area": 2,
        "predicted_iou": 0.9,
        "stability_score": 0.97,
        "crop_box": [0, 0, 6, 4],
        "point_coords": [[2.5, 1.5]],
    } | changes


def write(path: Path, *annotations: Any, **changes: Any) -> Path:
    image = {"image_id": 1, "width": WIDTH, "height": HEIGHT, "file_name": "a.jpg"}
    path.write_text(json.dumps({"image": image, "annotations": list(annotations)} | changes))
    return path


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    masks = read_sa1b(write(tmp_path / "a.json", annotation()))
    assert (masks.height, masks.width, len(masks)) == (4, 6, 1)
    assert masks.boxes.tolist() == [[2, 1, 3, 3]]
    assert masks.predicted_iou.tolist() == pytest.approx([0.9])
    assert masks.stability.tolist() == pytest.approx([0.97])
    assert masks.points.tolist() == [[2.5, 1.5]]
    assert masks.crops.tolist() == [[0, 0, 6, 4]]


def test_only_the_segmentation_must_be_there(tmp_path: Path) -> None:
    row = {"segmentation": {"size": [4, 6], "counts": [5, 2, 17]}}
    masks = read_sa1b(write(tmp_path / "a.json", row))
    assert masks.masks[0].runs.tolist() == [5, 2, 17]
    assert masks.predicted_iou.tolist() == [1]
    assert masks.points.tolist() == [[1.5, 2]]
    assert masks.crops.tolist() == [[0, 0, 6, 4]]


def test_crowds_empty_masks_and_duplicates_are_counted(tmp_path: Path) -> None:
    empty = annotation(segmentation={"size": [4, 6], "counts": [24]})
    rows = [annotation(), annotation(iscrowd=1), empty, annotation(predicted_iou=0.95)]
    masks = read_sa1b(write(tmp_path / "a.json", *rows))
    assert masks.dropped == {"crowd": 1, "empty": 1, "duplicate": 1}
    assert masks.predicted_iou.tolist() == pytest.approx([0.95])


def test_an_image_without_masks_is_an_empty_set(tmp_path: Path) -> None:
    assert len(read_sa1b(write(tmp_path / "a.json"))) == 0


BAD = [
    (annotation(segmentation={"size": [6, 4], "counts": [24]}), "the mask is 6 x 4, the image 4 x"),
    (annotation(segmentation={"size": [4, 6], "counts": [23]}), "add up to 23"),
    (annotation(segmentation={"size": [4, 6], "counts": "!"}), "character"),
    (annotation(segmentation={"size": [4, 6], "counts": [1.5]}), "whole numbers"),
]


@pytest.mark.parametrize(("row", "reason"), BAD)
def test_a_damaged_mask_refuses_the_file_or_is_counted(
    tmp_path: Path, row: Any, reason: str
) -> None:
    path = write(tmp_path / "a.json", annotation(), row)
    with pytest.raises(FormatError, match=reason) as caught:
        read_sa1b(path)
    assert str(caught.value).startswith(f"{path}: annotations[1]")
    assert "\n" not in str(caught.value)
    masks = read_sa1b(path, lenient=True)
    assert len(masks) == 1
    assert masks.dropped == {"of another size or with runs that do not add up": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "image must be a table, is missing"),
        ({"image": {"width": 6}}, "image.height must be a whole number from 1, is None"),
        ({"image": {"width": 6, "height": 0}}, "is 0"),
        ({"annotations": None}, "annotations must be a list, is missing"),
        ({"annotations": [3]}, r"annotations\[0\] must be a table, is a int"),
        ({"annotations": [{}]}, "segmentation must be a table of size and counts, is missing"),
        ({"annotations": [annotation(segmentation=[[1, 2, 3]])]}, "polygons"),
        ({"annotations": [annotation(segmentation={"size": [4, 6]})]}, "must have counts"),
        ({"annotations": [annotation(segmentation={"counts": [24]})]}, "must have a size"),
        ({"annotations": [annotation(predicted_iou="high")]}, "must be 2 numbers"),
        ({"annotations": [annotation(predicted_iou=float("nan"))]}, "must be 2 numbers"),
        ({"annotations": [annotation(crop_box=[1])]}, "crop_box must be 4 numbers"),
        ({"annotations": [annotation(point_coords=[1, 2])]}, "point_coords"),
        ({"annotations": [annotation(point_coords="x")]}, "point_coords must be a list"),
    ],
)
def test_another_schema_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = write(tmp_path / "a.json", **change)
    with pytest.raises(FormatError, match=reason) as caught:
        read_sa1b(path, lenient=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 100_000])
def test_what_is_not_such_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(FormatError, match=r"a\.json"):
        read_sa1b(path)


def test_masks_of_another_size_than_the_photograph_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", annotation())
    assert len(read_sa1b(path, size=(4, 6))) == 1
    with pytest.raises(FormatError, match="masks are of 4 x 6, the photograph is 8 x 12"):
        read_sa1b(path, size=(8, 12))


def test_what_is_written_is_read_again_equal(tmp_path: Path) -> None:
    other = annotation(
        segmentation={"size": [4, 6], "counts": [0, 3, 21]},
        crop_box=[1, 1, 3, 2],
        predicted_iou=0.25,
    )
    masks = read_sa1b(write(tmp_path / "a.json", annotation(), other))
    write_sa1b(tmp_path / "b.json", masks, file_name="a.jpg", image_id=3)
    again = read_sa1b(tmp_path / "b.json")
    assert again.masks == masks.masks
    for name in ("predicted_iou", "stability", "points", "crops"):
        assert np.array_equal(getattr(again, name), getattr(masks, name))
    table = json.loads((tmp_path / "b.json").read_text())
    assert table["image"] == {"image_id": 3, "width": 6, "height": 4, "file_name": "a.jpg"}
    row = table["annotations"][1]
    assert (row["area"], row["bbox"], row["crop_box"]) == (3, [0, 0, 1, 3], [1, 1, 3, 2])
    assert coco.area(row["segmentation"]) == 3


def test_a_folder_is_a_source_of_masks(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "c.json", annotation())
    write(tmp_path / "a.json", annotation(), annotation())
    folder = Sa1bFolder(tmp_path, rules=MaskRules(unique=False))
    assert isinstance(folder, MaskSource)
    assert list(folder.keys()) == ["a", "b/c"]
    assert [len(folder[key]) for key in folder.keys()] == [2, 1]  # noqa: SIM118  # not a mapping
    with pytest.raises(KeyError):
        folder["c"]


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.json file"):
        Sa1bFolder(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        Sa1bFolder(tmp_path / "none")


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools
@pytest.mark.skipif(not REAL.is_dir(), reason="the coco128_panoptic data are not on this machine")
def test_real_files_decode_as_pycocotools_decodes_them() -> None:
    folder = Sa1bFolder(REAL)
    assert len(folder) == 200
    for key in folder.keys()[::20]:
        masks = folder[key]
        table = json.loads((REAL / f"{key}.json").read_text())
        rows = [r["segmentation"] for r in table["annotations"] if not r.get("iscrowd")]
        assert masks.dropped == {}
        assert np.array_equal(masks.decode(), coco.decode(rows).transpose(2, 0, 1).astype(bool))
