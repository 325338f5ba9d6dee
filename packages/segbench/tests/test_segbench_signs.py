"""What `examine` says of label files that are not what their names say."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from segbench.datasets.doctor import Finding, examine
from segbench.datasets.signs import COCO_UNUSED, value_problems

COUNT = 12  # images of a miniature, enough for claims about values that are absent


def save(path: Path, values: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def picture(size: tuple[int, int] = (1, 4)) -> npt.NDArray[np.uint8]:
    return np.full((*size, 3), 40, dtype=np.uint8)


def row(*values: int, dtype: type[np.generic] = np.uint8) -> npt.NDArray[Any]:
    """Labels of one picture, 1 x 4."""
    return np.array([(values * 4)[:4]], dtype=dtype)


def coco(root: Path, labels: npt.NDArray[Any], suffix: str = ".png", count: int = COUNT) -> Path:
    home = root / "coco"
    for index in range(count):
        save(home / f"images/val2017/{index:012d}.jpg", picture())
        save(home / f"annotations/val2017/{index:012d}{suffix}", labels)
    return home


def cityscapes(root: Path, labels: npt.NDArray[Any], suffix: str, count: int = COUNT) -> Path:
    for index in range(count):
        frame = f"bonn_{index:06d}"
        save(root / f"cityscapes/leftImg8bit/val/bonn/{frame}_leftImg8bit.png", picture())
        save(root / f"cityscapes/gtFine/val/bonn/{frame}_gtFine_{suffix}.png", labels)
    return root / "cityscapes"


def ade(root: Path, labels: npt.NDArray[Any], folder: str = "annotations") -> Path:
    home = root / "ade/ADEChallengeData2016"
    for name in ("a", "b"):
        save(home / f"images/validation/{name}.jpg", picture())
        save(home / f"{folder}/validation/{name}.png", labels)
    return home


def find(root: Path, dataset: str) -> Finding:
    """The only finding of a data set."""
    (finding,) = [each for each in examine(root) if each.dataset == dataset]
    return finding


def says(finding: Finding, what: str, mend: str) -> None:
    """One problem says `what`, is mended by `mend`, and both are one line."""
    assert any(what in p.what and mend in p.mend for p in finding.problems), finding.problems
    for problem in finding.problems:
        assert problem.what and problem.mend
        assert "\n" not in problem.what + problem.mend


def whats(finding: Finding) -> str:
    return " | ".join(problem.what for problem in finding.problems)


def test_label_ids_given_as_train_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, row(7, 23, 26, 1), "labelTrainIds")
    finding = find(tmp_path, "cityscapes19")
    says(finding, "labelIds under the name of trainIds", 'set layout = "label_ids"')
    assert finding.histogram == {-2: 24, 1: 12, 7: 12}


def test_train_ids_given_as_label_ids(tmp_path: Path) -> None:
    cityscapes(tmp_path, row(0, 10, 13, 255), "labelIds")
    says(find(tmp_path, "cityscapes19"), "looks like trainIds under the name of labelIds", "gtFine")
    few = tmp_path / "few"
    cityscapes(few, row(0, 10, 13, 255), "labelIds", count=2)
    assert "looks like" not in whats(find(few, "cityscapes19"))  # two files prove nothing


def test_sound_cityscapes_has_no_sign(tmp_path: Path) -> None:
    cityscapes(tmp_path, row(7, 23, 26, 1), "labelIds")
    assert whats(find(tmp_path, "cityscapes19")).startswith("cityscapes19: 12 images")


def test_colour_masks_of_ade(tmp_path: Path) -> None:
    ade(tmp_path, picture())
    says(find(tmp_path, "ade150"), "2 of 2 label files hold colours", "ADEChallengeData2016.zip")


@pytest.mark.parametrize(
    "place", ["images/ADE/validation/urban/street", "images/validation/a/abbey"]
)
@pytest.mark.parametrize("release", ["ADE20K_2021_17_01", "ADE20K_2016_07_26"])
def test_the_other_ade_release(tmp_path: Path, release: str, place: str) -> None:
    save(tmp_path / release / place / "ADE_val_00000001_seg.png", picture())
    for dataset, mend in (
        ("ade150", "ADEChallengeData2016.zip"),
        ("ade847", "prepare_ade20k_full"),
    ):
        finding = find(tmp_path, dataset)
        says(finding, "RGB masks *_seg.png: the full release of ADE20K", mend)
        assert (finding.layout, finding.place) == ("", tmp_path / release)


def test_ade_converted_and_not(tmp_path: Path) -> None:
    ade(tmp_path / "a", row(0, 149, 255))
    says(find(tmp_path / "a", "ade150"), "already converted: 255 occurs", "annotations/validation")
    ade(tmp_path / "b", row(0, 150), "annotations_detectron2")
    says(find(tmp_path / "b", "ade150"), "unconverted ids: values past 149", '"scene_parsing"')


def test_instance_train_ids_given_as_stuff_by_suffix(tmp_path: Path) -> None:
    home = coco(tmp_path, row(1), "_instanceTrainIds.png")
    finding = find(tmp_path, "coco_stuff171")
    says(finding, "holds *_instanceTrainIds.png, labels of coco_object81", "stuffthingmaps")
    assert (finding.layout, finding.place) == ("", home)
    assert find(tmp_path, "coco_object81").layout == "instance_train_ids"


def test_instance_train_ids_given_as_stuff_by_content(tmp_path: Path) -> None:
    coco(tmp_path, row(0, 0, 80, 3), "_labelTrainIds.png")
    says(find(tmp_path, "coco_stuff171"), "looks like _instanceTrainIds given as Stuff", "as they")
    says(find(tmp_path, "coco_object81"), "labels of coco_stuff171, and none of", "stuffthingmaps")


def test_stuff_given_as_instance_train_ids(tmp_path: Path) -> None:
    coco(tmp_path, row(0, 170), "_instanceTrainIds.png")
    says(find(tmp_path, "coco_object81"), "Stuff labels given as _instanceTrainIds", "as they are")


def test_unconverted_and_converted_stuff(tmp_path: Path) -> None:
    coco(tmp_path / "a", row(0, 181, 255), "_labelTrainIds.png")
    says(find(tmp_path / "a", "coco_stuff171"), "unconverted ids under the name", "as they are")
    coco(tmp_path / "b", row(0, 11, 170), ".png")
    for dataset in ("coco_stuff171", "coco_object81"):
        says(find(tmp_path / "b", dataset), "converted ids under the name of the original", "unzip")


def test_sound_stuff_has_no_sign(tmp_path: Path) -> None:
    coco(tmp_path, row(0, 181, 92, 255))
    for dataset in ("coco_stuff171", "coco_object81"):
        assert (
            whats(find(tmp_path, dataset)) == f"{dataset}: 12 images, expected 5,000 (4,988 fewer)"
        )
    sound = set(range(182)) - COCO_UNUSED | {255}
    assert value_problems("coco_stuff171", "raw", sound, 20) == []
    assert value_problems("coco_stuff171", "label_train_ids", {*range(171), 255}, 20) == []


def test_context_ids_of_459_classes(tmp_path: Path) -> None:
    home = tmp_path / "VOC2010"
    save(home / "JPEGImages/a.jpg", picture())
    save(home / "SegmentationClassContext/a.png", row(0, 207, 85, 60))
    (home / "pascalcontext_val.txt").write_text("a\n")
    says(find(tmp_path, "context60"), "unconverted ids of the 459 classes", 'layout = "json"')
    (home / "ImageSets/SegmentationContext").mkdir(parents=True)
    (home / "ImageSets/SegmentationContext/val.txt").write_text("a\nb\n")
    says(find(tmp_path, "context60"), "list different images", "choose with the option split")
