import json
from pathlib import Path

import pytest

from conceptarchive import DataMissingError, FormatError, Vocabulary
from conceptarchive.concepts.overlap import Overlap, format_overlaps, load_class_names, overlap

SEGBENCH = Path(__file__).parents[2] / "segbench/src/segbench/classnames"


def test_classes_are_known_by_any_of_their_names() -> None:
    vocabulary = Vocabulary(("dogs", "dining table", "ant", "automobile", "fire truck"))
    sets = {"pets": ["dog", "cat"], "things": ["diningtable", "plant", "car, auto, automobile"]}
    pets, things = overlap(vocabulary, sets)
    assert pets == Overlap("pets", 2, 1, ("dogs",))
    assert things == Overlap("things", 3, 2, ("dining table", "automobile"))
    assert format_overlaps([pets, things]) == "pets\t1/2\t0.50\nthings\t2/3\t0.67"
    assert overlap(vocabulary, {"none": []})[0].share == 0.0


def test_stripped_of_a_set_a_vocabulary_has_none_of_it() -> None:
    vocabulary = Vocabulary(("dogs", "dining table", "ant"))
    classes = ["hound, dog", "diningtable"]
    assert vocabulary.without(classes).names == ("ant",)
    assert overlap(vocabulary.without(classes), {"x": classes})[0].hits == 0


def test_class_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("dog\n\ncar, auto\n", encoding="utf-8")
    (tmp_path / "b.json").write_text('["dog", ["car", "auto"]]', encoding="utf-8")
    content = {
        "classes": ["background", "dog", "tvmonitor"],
        "background": 0,
        "variants": {
            "spoken": {"classes": ["background", "dog", "tv monitor"]},
            "bare": {"classes": [["hound"], ["screen", "monitor"]]},
            "other": {"classes": ["a", "b", "c", "d"]},
        },
    }
    (tmp_path / "c.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_class_names(tmp_path / "a.txt") == ["dog", "car, auto"]
    assert load_class_names(tmp_path / "b.json") == ["dog", "car, auto"]
    spoken = ["dog, hound", "tvmonitor, tv monitor, screen, monitor"]
    assert load_class_names(tmp_path / "c.json") == spoken


@pytest.mark.parametrize(
    "text",
    ["{", "3", "[]", '{"classes": 3}', "[1]", '{"a": []}', '{"classes": ["a"], "background": 7}'],
)
def test_wrong_class_files_name_themselves(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.json").write_text(text, encoding="utf-8")
    with pytest.raises(FormatError, match=r"v\.json"):
        load_class_names(tmp_path / "v.json")
    with pytest.raises(DataMissingError, match=r"w\.json"):
        load_class_names(tmp_path / "w.json")


@pytest.mark.skipif(not SEGBENCH.is_dir(), reason="class names of segbench are not beside this")
def test_class_sets_of_segbench() -> None:
    counts = {
        "voc21": 20, "context60": 59, "coco_object81": 80, "cityscapes19": 19, "ade150": 150,
        "coco_stuff171": 171, "imagenet_s50": 50, "imagenet_s919": 919, "ade847": 847,
    }  # fmt: skip
    sets = {name: load_class_names(SEGBENCH / f"{name}.json") for name in counts}
    assert {name: len(classes) for name, classes in sets.items()} == counts
    assert sets["voc21"][-1].startswith("tvmonitor, monitor, tv monitor")
    vocabulary = Vocabulary(
        ("person", "dogs", "potted plant", "dining table", "ant", "traffic light")
    )
    lines = format_overlaps(overlap(vocabulary, sets)).splitlines()
    assert lines[0] == "voc21\t4/20\t0.20"
    assert lines[3] == "cityscapes19\t2/19\t0.11"
    assert lines[6].startswith("imagenet_s50\t1/50")  # dining table; ant is no part of elephant
    with pytest.raises(FormatError, match=r"mappings\.json"):
        load_class_names(SEGBENCH / "mappings.json")
