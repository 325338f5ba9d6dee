"""Label maps as masks: values, parts, keys, errors, and training on them."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]  # it has no types

from maskcluster.cli import main
from maskcluster.config import ViewConfig
from maskcluster.data.dataset import MaskedPhotos
from maskcluster.errors import DataError, FormatError, UsageError
from maskcluster.masks import label_maps
from maskcluster.masks.label_maps import LabelMaps, read_label_map
from maskcluster.masks.mask_set import MaskRules, MaskSource
from maskcluster.masks.sa1b import write_sa1b
from maskcluster.masks.sources import LabelOptions, open_masks

REAL = Path(__file__).parents[4] / "shared/data/coco128_panoptic"
case = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_case.py"))))

LABELS = [
    [7, 7, 255, 0],
    [7, 255, 255, 0],
    [255, 9, 7, 0],
]
"""7 lies in two parts, 0 and 9 in one; other pixels are ignored."""

Labels = npt.NDArray[Any]


def save(path: Path, labels: Any, kind: Any = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, kind)).save(path)
    return path


def drawn(path: Path, **options: Any) -> list[list[list[int]]]:
    """All masks as ones and zeros."""
    masks: list[list[list[int]]] = read_label_map(path, **options).decode().astype(int).tolist()
    return masks


def test_every_value_but_the_ignored_is_a_mask_by_rising_value(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", LABELS)
    zero = [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    seven = [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    nine = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert drawn(path) == [zero, seven, nine]
    assert drawn(path, ignored=(255, 0)) == [seven, nine]
    assert len(read_label_map(path, ignored=())) == 4
    assert read_label_map(path).source == "labels"


def test_parts_that_touch_at_a_corner_are_one(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", [[3, 5, 5, 3], [5, 3, 5, 5], [5, 5, 5, 5]])
    assert len(read_label_map(path)) == 2
    parts = read_label_map(path, part="component")
    assert sorted(parts.areas.tolist()) == [1, 2, 9]  # the 3s touch at a corner, one is alone
    path = save(tmp_path / "b.png", LABELS)
    assert sorted(read_label_map(path, part="component").areas.tolist()) == [1, 1, 3, 3]


@settings(deadline=None, max_examples=60)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 4, 255]),
    )
)
def test_parts_are_those_that_scipy_finds(tmp_path_factory: Any, labels: Labels) -> None:
    path = save(tmp_path_factory.getbasetemp() / "parts.png", labels)
    ours = {mask.tobytes() for mask in read_label_map(path, part="component").decode()}
    theirs = set()
    for value in (0, 4):
        numbers, count = ndimage.label(labels == value, np.ones((3, 3)))
        theirs |= {(numbers == number).tobytes() for number in range(1, count + 1)}
    assert ours == theirs
    whole = read_label_map(path)
    assert np.array_equal(
        whole.decode().sum(axis=0), labels != 255
    )  # they tile all that is labelled


def test_a_map_without_labels_is_an_empty_set(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", [[255, 255]])
    assert len(read_label_map(path)) == len(read_label_map(path, part="component")) == 0


@pytest.mark.parametrize("end", ["png", "tif"])
def test_sixteen_bits_are_kept(tmp_path: Path, end: str) -> None:
    path = save(tmp_path / f"a.{end}", [[0, 255, 256, 65535]], np.uint16)
    assert read_label_map(path).areas.tolist() == [1, 1, 1]
    assert read_label_map(path, ignored=(65535, 256)).areas.tolist() == [1, 1]


def test_of_a_palette_the_indices_are_read(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1, 255, 1]], np.uint8))
    picture.putpalette([0, 0, 0, 9, 9, 9] + [9, 9, 9] * 254)  # two values of one colour
    picture.save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").areas.tolist() == [1, 2]


def test_rules_hold(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", LABELS)
    few = read_label_map(path, rules=MaskRules(min_area=2))
    assert (few.areas.tolist(), few.dropped) == ([3, 4], {"under 2 px": 1})
    most = read_label_map(path, rules=MaskRules(max_masks=1))
    assert most.areas.tolist() == [4]


def test_of_endless_parts_the_largest_are_kept_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_maps, "MOST_PARTS", 2)
    path = save(tmp_path / "a.png", [[1, 2, 2, 3, 3, 3]])
    found = read_label_map(path, part="component")
    assert found.areas.tolist() == [2, 3]
    assert found.dropped == {"smaller than the 2 largest": 1}


def test_what_is_no_label_map_is_one_line(tmp_path: Path) -> None:
    colours = save(tmp_path / "a.png", np.zeros((2, 2, 3)))
    with pytest.raises(FormatError, match=r"a\.png: holds colours \(mode RGB\), a label map has"):
        read_label_map(colours)
    grey = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(grey)  # whose values are not kept
    with pytest.raises(DataError, match="not a picture that can be read"):
        read_label_map(grey)
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        read_label_map(tmp_path / "gone.png")
    path = tmp_path / "b.tif"
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(path)
    with pytest.raises(FormatError, match="values must be from 0 to 65535, are 0 to 65536"):
        read_label_map(path)
    whole = save(tmp_path / "c.png", LABELS)
    with pytest.raises(FormatError, match=r"is 3 x 4, the photograph is 4 x 3 \(height x width\)"):
        read_label_map(whole, size=(4, 3))
    assert len(read_label_map(whole, size=(3, 4))) == 3
    whole.write_bytes(whole.read_bytes()[:50])
    with pytest.raises(DataError, match=r"c\.png: not a picture"):
        read_label_map(whole)


def test_too_many_pixels_are_refused_even_where_pillow_would_take_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", LABELS)
    monkeypatch.setattr(label_maps, "MOST_PIXELS", 11)
    with pytest.raises(DataError, match="has more than 11 pixels; make it smaller first"):
        read_label_map(path)


# folders


def test_keys_are_paths_without_the_suffix(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "0.png"):
        save(tmp_path / name, LABELS)
    (tmp_path / "a" / "note.txt").touch()
    maps = LabelMaps(tmp_path)
    assert isinstance(maps, MaskSource)
    assert (list(maps.keys()), len(maps)) == (["0", "a/1", "b/2"], 3)
    assert len(maps["a/1"]) == 3
    for key in ("a/2", "a", "../a/1"):
        with pytest.raises(KeyError):
            maps[key]


def test_names_of_photographs_and_maps_may_end_differently(tmp_path: Path) -> None:
    save(tmp_path / "aachen" / "aachen_0_gtFine_labelIds.png", LABELS)
    save(tmp_path / "aachen" / "aachen_0_gtFine_color.png", np.zeros((3, 4, 3)))
    maps = LabelMaps(
        tmp_path, suffix="_gtFine_labelIds.png", photo_suffix="_leftImg8bit", ignored=(0, 255)
    )
    assert list(maps.keys()) == ["aachen/aachen_0_leftImg8bit"]
    assert len(maps["aachen/aachen_0_leftImg8bit"]) == 2
    with pytest.raises(KeyError):
        maps["aachen/aachen_0"]


def test_the_fingerprint_is_of_files_and_of_what_becomes_a_mask(tmp_path: Path) -> None:
    save(tmp_path / "a.png", LABELS)
    first = LabelMaps(tmp_path).fingerprint
    assert first == LabelMaps(tmp_path, ignored=[255]).fingerprint
    others = [LabelMaps(tmp_path, part="component"), LabelMaps(tmp_path, ignored=(0,))]
    save(tmp_path / "b.png", LABELS)
    others.append(LabelMaps(tmp_path))
    assert len({first, *(maps.fingerprint for maps in others)}) == 4


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no label map in this folder: no name ends in \.png"):
        LabelMaps(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        LabelMaps(tmp_path / "gone")
    with pytest.raises(ValueError, match="suffix"):
        LabelMaps(tmp_path, suffix="")


VIEWS = ViewConfig(shortest_px=48, longest_px=64, crop_px=40, image_px=32, mask_px=32)


def test_photographs_are_drawn_with_the_regions_of_their_maps(tmp_path: Path) -> None:
    case.shapes(tmp_path / "photos", 3)
    for number in (0, 1):
        labels = np.where(np.arange(64)[:, None] < 32, 4, 8) + np.zeros((64, 64))
        save(tmp_path / "maps" / f"{number:03d}.png", labels)
    dataset = MaskedPhotos(tmp_path / "photos", LabelMaps(tmp_path / "maps"), VIEWS)
    assert dataset.photos.keys() == ["000", "001"]
    assert len(dataset[0, 0].view.packed) == 2
    save(tmp_path / "maps" / "000.png", LABELS)  # of another size
    draw = dataset[0, 0]
    assert draw.key == "001"
    assert "its masks are of 3 x 4, the photograph, upright, is 64 x 64" in draw.replaced[0].reason


@pytest.mark.skipif(not REAL.is_dir(), reason="the shared sample of COCO is not here")
def test_real_maps_have_the_regions_of_their_segments() -> None:
    maps = LabelMaps(REAL / "semantic_masks" / "val", ignored=(0,))
    segments = open_masks(REAL / "sa1b_style" / "val")
    keys = list(maps.keys())[:20]
    for key in keys:
        found, wanted = maps[key].decode(), segments[key].decode()
        assert np.array_equal(found.any(axis=0), wanted.any(axis=0))
        outside = [[bool((one & ~mask).any()) for mask in found] for one in wanted]
        assert not any(map(all, outside))  # every segment lies within one value
    counts = [len(maps[key]) for key in keys]
    assert 3 < sum(counts) / len(counts) < 12


# the command


def test_options_choose_label_maps(tmp_path: Path) -> None:
    save(tmp_path / "maps" / "a_ids.png", LABELS)
    (tmp_path / "maps" / "a_polygons.json").write_text("{}")  # as beside those of Cityscapes
    options = LabelOptions(suffix="_ids.png", photo_suffix="_left", ignored=(7,), part="component")
    maps = open_masks(tmp_path / "maps", labels=options)
    assert isinstance(maps, LabelMaps)
    assert (list(maps.keys()), maps.ignored, maps.part) == (["a_left"], (7,), "component")
    with pytest.raises(UsageError, match=r"--labels needs --labels\.suffix"):
        open_masks(tmp_path / "maps", labels=LabelOptions(ignored=(0,)))
    (tmp_path / "maps" / "a_polygons.json").unlink()
    with pytest.raises(DataError, match=r"no \.json file .*; if these are label maps say --labels"):
        open_masks(tmp_path / "maps")


def test_a_sheet_of_label_maps_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.shapes(tmp_path / "photos", 2)
    for number in (0, 1):
        save(tmp_path / "maps" / f"{number:03d}.png", np.eye(64))
    (tmp_path / "json").mkdir()
    given_ = [str(tmp_path / name) for name in ("photos", "maps", "sheet.png")]
    assert main(["sheet", *given_, "--labels.suffix", ".png", "--labels.ignored", "[0]"]) == 0
    assert (tmp_path / "sheet.png").is_file()
    write_sa1b(tmp_path / "json" / "000.json", case.scene(0)[1], file_name="000.png")
    given_[1] = str(tmp_path / "json")
    assert main(["sheet", *given_, "--labels.suffix", ".png", "--overwrite", "true"]) == 3
    assert "no name ends in .png" in capsys.readouterr().err


def test_a_training_takes_label_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case.shapes(tmp_path / "photos", 3)
    for number in (0, 1):
        save(tmp_path / "maps" / f"{number:03d}.png", np.eye(64))
    words = [
        "train",
        "pixelclip-sa1b",
        *(str(tmp_path / name) for name in ("photos", "maps", "out")),
    ]
    words += ["--data.batch", "2", "--dry_run", "true", "--device", "cpu"]
    assert main([*words, "--labels.suffix", ".png", "--labels.part", "component"]) == 0
    assert "photographs\t2\n" in capsys.readouterr().out
    assert main(words) == 3
    assert "if these are label maps say --labels.suffix .png" in capsys.readouterr().err
