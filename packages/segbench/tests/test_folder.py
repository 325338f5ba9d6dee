"""Folders of images and masks: miniature ones, broken ones and, where present, real ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segbench import (
    DataMissingError,
    FolderDataset,
    FormatError,
    UnreadableImageError,
    load_task,
    open_dataset,
)

Tree = Callable[..., Path]
LABELS = np.array([[0, 1], [2, -1]])


def rewrite(folder: Path, picture: Image.Image) -> None:
    picture.save(folder / "semantic_masks/val/a.png")


def read(folder: Path, **options: Any) -> list[list[int]]:
    labels = FolderDataset(folder, ignore=(255,), **options)[0].labels
    assert labels.dtype == np.int32
    found: list[list[int]] = labels.tolist()
    return found


@pytest.fixture
def folder(tmp_path: Path, tree: Tree) -> Path:
    return tree(tmp_path / "one", {"a": LABELS})


def test_eight_bit_mask(folder: Path) -> None:
    dataset = FolderDataset(folder, ignore=(255,))
    assert (len(dataset), dataset.names) == (1, ("sky", "grass", "cat"))
    assert dataset[0].id == "a"
    assert dataset[0].image[..., 0].tolist() == [[0, 10], [20, 0]]
    assert read(folder) == LABELS.tolist()


def test_palette_mask_is_read_as_indices_not_colours(folder: Path) -> None:
    picture = Image.fromarray(np.array([[2, 0], [1, 255]], dtype=np.uint8))
    picture.putpalette([255 - value // 3 for value in range(768)])  # index i is grey 255 - i
    rewrite(folder, picture)
    with Image.open(folder / "semantic_masks/val/a.png") as stored:
        assert stored.mode == "P"
    assert read(folder) == [[2, 0], [1, -1]]


def test_sixteen_bit_mask(folder: Path) -> None:
    (folder / "labels.tsv").write_text("mask_value\tname\n300\tsky\n65535\tgrass\n")
    rewrite(folder, Image.fromarray(np.array([[300, 65535], [0, 300]], dtype=np.uint16)))
    labels = FolderDataset(folder, ignore=(0,))[0].labels
    assert labels.tolist() == [[0, 1], [-1, 0]]


def test_every_byte_goes_through_the_table(folder: Path) -> None:
    rows = [f"{value}\tclass {value}" for value in range(254, 0, -1)]  # in falling order
    (folder / "labels.tsv").write_text("\n".join(["mask_value\tname", *rows]))
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rewrite(folder, Image.fromarray(values))
    Image.new("RGB", (16, 16)).save(folder / "images/val/a.png")
    labels = FolderDataset(folder, ignore=(0, 255))[0].labels.ravel()
    assert labels.tolist() == [-1, *range(253, -1, -1), -1]


def test_ignored_values_need_no_row_and_rows_of_ignored_values_give_no_class(folder: Path) -> None:
    (folder / "labels.tsv").write_text("mask_value\tname\n0\tsky\n1\tgrass\n2\tcat\n255\t\n")
    dataset = FolderDataset(folder, ignore=(255, 1))
    assert dataset.names == ("sky", "cat")
    assert dataset[0].labels.tolist() == [[0, -1], [1, -1]]


def test_background_comes_first(folder: Path) -> None:
    assert FolderDataset(folder, ignore=(255,), background=2).names == ("cat", "sky", "grass")
    assert read(folder, background=2) == [[1, 2], [0, -1]]
    with pytest.raises(FormatError, match="no row has the background's mask value 9"):
        FolderDataset(folder, background=9)


def test_things_and_stuff(folder: Path) -> None:
    (folder / "labels.tsv").write_text(
        "mask_value\tname\tis_thing\n0\tsky\t0\n1\tgrass\t0\n2\tcat\t1\n255\tcrowd\t\n"
    )
    assert FolderDataset(folder, ignore=(255,)).subsets == {"stuff": (0, 1), "thing": (2,)}


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unknown_mask_value_names_file_and_value(folder: Path) -> None:
    with pytest.raises(FormatError) as caught:
        FolderDataset(folder)[0]
    assert "a.png: mask value 255 is not in" in one_line(caught)


def test_image_without_mask_and_mask_without_image(tmp_path: Path, tree: Tree) -> None:
    folder = tree(tmp_path / "two", {"a": LABELS, "b": LABELS})
    mask = folder / "semantic_masks/val/b.png"
    kept = mask.read_bytes()
    mask.unlink()
    with pytest.raises(DataMissingError, match=r"1 image in .* has no mask, .* b\.png") as caught:
        FolderDataset(folder)
    one_line(caught)
    mask.write_bytes(kept)
    (folder / "images/val/a.png").unlink()
    with pytest.raises(DataMissingError, match=r"1 mask in .* has no image, .* a\.png"):
        FolderDataset(folder)


@pytest.mark.parametrize("gone", ["labels.tsv", "images/val", "semantic_masks/val"])
def test_missing_parts_are_named(folder: Path, gone: str) -> None:
    (folder / gone).rename(folder / "elsewhere")
    with pytest.raises(DataMissingError, match=gone.split("/")[0]) as caught:
        FolderDataset(folder)
    one_line(caught)


def test_names_without_masks(folder: Path) -> None:
    (folder / "semantic_masks/val/a.png").unlink()
    with pytest.raises(DataMissingError, match=r"no \.png file in .*semantic_masks"):
        FolderDataset(folder)


@pytest.mark.parametrize("part", ["images/val", "semantic_masks/val"])
def test_corrupt_bytes_are_told_apart_from_wrong_data(folder: Path, part: str) -> None:
    path = folder / part / "a.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UnreadableImageError, match=r"a\.png: cannot be decoded"):
        FolderDataset(folder, ignore=(255,))[0]


def test_colour_mask_and_wrong_size_are_refused(folder: Path) -> None:
    rewrite(folder, Image.new("RGB", (2, 2)))
    with pytest.raises(FormatError, match="a label file must hold indices"):
        read(folder)
    rewrite(folder, Image.new("L", (3, 2)))
    with pytest.raises(FormatError, match=r"mask is \(2, 3\), its image is \(2, 2\)"):
        read(folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("value\tname\n0\tsky\n", "no column 'mask_value'"),
        ("mask_value\tname\n0\tsky\n0\tgrass\n", "mask value 0 has more than one row"),
        ("mask_value\tname\n-1\tsky\n", "got '-1'"),
        ("mask_value\tname\n65536\tsky\n", "got '65536'"),
        ("mask_value\tname\n", "names no class"),
        ("mask_value\tname\n0\tsky\n7\t \n", "mask value 7 has no name"),
    ],
)
def test_tables_that_contradict_themselves(folder: Path, table: str, message: str) -> None:
    (folder / "labels.tsv").write_text(table)
    with pytest.raises(FormatError, match=message):
        FolderDataset(folder)


def test_a_table_may_come_from_a_spreadsheet_but_must_be_utf8(folder: Path) -> None:
    table = "mask_value\tname\r\n0\tciel bleuté\r\n1\tgrass\r\n2\tcat\r\n"
    (folder / "labels.tsv").write_bytes(table.encode("utf-8-sig"))
    assert FolderDataset(folder, ignore=(255,)).names == ("ciel bleuté", "grass", "cat")
    assert read(folder) == LABELS.tolist()
    (folder / "labels.tsv").write_bytes(table.encode("latin-1"))
    with pytest.raises(FormatError, match=r"labels\.tsv: .* must be UTF-8") as caught:
        FolderDataset(folder)
    one_line(caught)


@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("ignore", 255, "a list of mask values"),
        ("ignore", [-1], "a list of mask values"),
        ("ignore", ["255"], "a list of mask values"),
        ("images", 3, "text or a list of texts"),
        ("masks", None, "text or a list of texts"),
        ("background", "sky", "a mask value in"),
        ("background", 65536, "a mask value in"),
        ("groups", {"sky": 0}, "lists of mask values"),
        ("folder", 1, "text"),
    ],
)
def test_options_of_a_wrong_type_are_named(
    folder: Path, option: str, value: object, what: str
) -> None:
    spec = {"kind": "folder", option: value}
    with pytest.raises(FormatError, match=f"dataset.{option} must be {what}.*, got ") as caught:
        open_dataset(spec, folder)
    one_line(caught)
    assert len(open_dataset({"kind": "folder", "background": None, "groups": None}, folder)) == 1


def test_two_images_of_one_stem_are_refused(folder: Path) -> None:
    Image.new("RGB", (2, 2)).save(folder / "images/val/a.jpg")
    with pytest.raises(FormatError, match="have the same stem"):
        FolderDataset(folder)


def test_root_may_hold_the_folder_or_be_it(folder: Path) -> None:
    spec = {"kind": "folder", "folder": "one", "ignore": [255]}
    for root in (folder.parent, folder):
        assert len(open_dataset(spec, root)) == 1
    with pytest.raises(DataMissingError, match=r"no other.labels\.tsv in"):
        open_dataset({**spec, "folder": "other"}, folder.parent)
    with pytest.raises(DataMissingError, match="no data root at"):
        open_dataset(spec, folder / "nowhere")
    with pytest.raises(DataMissingError, match="--root"):
        open_dataset(spec)


@pytest.mark.parametrize(
    ("task", "classes", "images"),
    [
        ("coco128_panoptic133@groupvit", 133, 100),
        ("coco_mini81@groupvit", 81, 79),
        ("coco_mini80@groupvit", 80, 79),
        ("camvid11@groupvit", 11, 101),
        ("labelmefacade8@groupvit", 8, 100),
    ],
)
def test_real_folders(real_data: Path, task: str, classes: int, images: int) -> None:
    dataset = open_dataset(load_task(task).dataset, real_data)
    assert (len(dataset.names), len(dataset)) == (classes, images)
    for index in (0, images // 2, images - 1):
        example = dataset[index]
        assert example.image.shape == (*example.labels.shape, 3)
        assert example.labels.min() >= -1 and example.labels.max() < classes
        assert (example.labels >= 0).any()


def test_real_panoptic_subsets_and_background(real_data: Path) -> None:
    panoptic = open_dataset(load_task("coco128_panoptic133@groupvit").dataset, real_data)
    assert {name: len(ids) for name, ids in panoptic.subsets.items()} == {"stuff": 53, "thing": 80}
    assert panoptic.names[panoptic.subsets["stuff"][0]] == "banner"
    mini = open_dataset(load_task("coco_mini81@groupvit").dataset, real_data)
    assert mini.names[:2] == ("background", "person")


GROUPS = {"animal": [2], "stuff": [0, 1]}


def test_classes_are_made_of_several_mask_values(mini: Path) -> None:
    plain = FolderDataset(mini, ignore=[255])
    grouped = FolderDataset(mini, ignore=[255], groups=GROUPS)
    rest = FolderDataset(mini, ignore=[255], groups={"animal": [2]}, rest="background")
    assert (grouped.names, rest.names) == (("animal", "stuff"), ("background", "animal"))
    for index in range(len(plain)):
        labels = plain[index].labels
        assert np.array_equal(grouped[index].labels, np.choose(labels + 1, [-1, 1, 1, 0]))
        assert np.array_equal(rest[index].labels, np.choose(labels + 1, [-1, 0, 0, 1]))
    alone = FolderDataset(mini, ignore=[255], groups={"animal": [2]})
    assert set(np.unique(alone[0].labels)) == {-1, 0}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": [0, 9]}, "mask value 9 of 'a' is in no row"),
        ({"a": [0], "b": [1, 0]}, "mask value 0 of 'b' stands in two places"),
    ],
)
def test_wrong_groups_are_named(mini: Path, groups: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        FolderDataset(mini, groups=groups)


def test_several_folders_are_one_data_set(mini: Path) -> None:
    for part in ("images", "semantic_masks"):
        (mini / part / "more").mkdir()
        (mini / part / "val" / "b.png").rename(mini / part / "more" / "b.png")
    both = {part: [f"{part}/val", f"{part}/more"] for part in ("images", "semantic_masks")}
    found = FolderDataset(mini, ignore=[255], images=both["images"], masks=both["semantic_masks"])
    assert [found[i].id for i in range(len(found))] == ["a", "b"]
    with pytest.raises(DataMissingError, match=r"1 image in .*val and .*more has no mask"):
        FolderDataset(mini, images=both["images"], masks="semantic_masks/val")
