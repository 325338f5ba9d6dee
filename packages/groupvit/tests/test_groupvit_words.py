"""Names of classes and thresholds as a person writes them."""

from pathlib import Path

import pytest

from groupvit import BACKGROUND_THRESHOLDS
from groupvit.errors import DataError, UsageError
from groupvit.segmenting.words import read_names, read_threshold


def test_names_between_commas() -> None:
    assert read_names("dog") == ["dog"]
    assert read_names(" dog,green  grass ,sky,") == ["dog", "green  grass", "sky"]
    assert read_names("a" * 5000) == ["a" * 5000]  # longer than any path


def test_names_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("\ufeffdog\r\n\r\nred, ripe apple\r\n".encode())
    assert read_names(str(file)) == ["dog", "red, ripe apple"]
    other = tmp_path / "names"
    other.write_text("cat")
    assert read_names(str(other)) == ["cat"]
    with pytest.raises(DataError, match=r"absent\.txt: no such file"):
        read_names(str(tmp_path / "absent.txt"))
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(DataError, match="not a text file"):
        read_names(str(tmp_path / "folder.txt"))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("", "at least one name, got ''"),
        (" , ,", "at least one name"),
        ("dog,,cat", "blank in 'dog,,cat'"),
        (",dog", "blank"),
        ("dog, cat,dog , cat, cow", "twice: 'dog', 'cat'$"),
    ],
)
def test_names_that_cannot_be_are_named(classes: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_names(classes)


def test_thresholds_have_numbers_and_names() -> None:
    assert read_threshold(None) is None
    assert read_threshold(0) == 0 and read_threshold(0.25) == 0.25
    assert {name: read_threshold(name) for name in ("voc", "Context", "COCO")} == {
        "voc": 0.95,
        "Context": 0.35,
        "COCO": 0.95,
    }
    assert sorted(BACKGROUND_THRESHOLDS) == ["coco", "context", "voc"]
    for wrong in (-0.1, 1.1, float("nan"), "ade", ""):
        with pytest.raises(UsageError, match=r"--background needs a number in \[0, 1\]"):
            read_threshold(wrong)
