import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import DataMissingError, SkipLog, read_pairs
from conceptarchive.inputs.folders import folder_listings, folder_pairs
from conceptarchive.inputs.raw import RawPair, is_safe, printable, split_suffix, tidy


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_images_of_inner_folders_have_paths_for_keys(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set" / "v1.0", {
        "b.jpg": b"1", "b.txt": b"one", "dog/a.PNG": b"2", "dog/a.TXT": b"two",
        "dog/small/a.webp": b"3", "dog/small/a.json": b'{"caption": "three"}',
        "cat/a.jpeg": b"4", "cat/a.text": b"four", "cat/a.json": b"{",
        ".hidden/a.jpg": b"5", "._b.jpg": b"6",
    })  # fmt: skip
    pairs = list(read_pairs([folder]))
    assert [(pair.id, pair.image, pair.caption) for pair in pairs] == [
        ("set/v1.0/b", b"1", "one"),
        ("set/v1.0/cat/a", b"4", "four"),
        ("set/v1.0/dog/a", b"2", "two"),
        ("set/v1.0/dog/small/a", b"3", "three"),
    ]
    assert [(pair.id, pair.image) for pair in read_pairs([folder], images=False)] == [
        (pair.id, None) for pair in pairs
    ]


def test_what_is_left_out_of_a_folder_is_counted(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", {
        "a.jpg": b"1", "b.jpg": b"2", "b.png": b"3", "b.txt": b"b", "c.txt": b"c",
        "d\\e.jpg": b"4", "d\\e.txt": b"d", "f.jpg": b"5", "f.json": b"[",
        "in/0.tar": b"6",
    })  # fmt: skip
    (folder / "g.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "g.txt").write_bytes(b"g")
    os.mkfifo(folder / "h.jpg")
    (folder / "h.txt").write_bytes(b"h")
    for images in (True, False):
        skips = SkipLog()
        assert [pair.key for pair in read_pairs([folder], skips=skips, images=images)] == ["b"]
        assert skips.entries == [
            (str(folder), "a", "no caption"),
            (str(folder), "b", "duplicate key"),
            (str(folder), "c", "no image"),
            (str(folder), printable("d\\e"), "unsafe name"),
            (str(folder), "f", "damaged json"),
            (str(folder), "g", "no image"),
            (str(folder), "h", "no image"),
            (str(folder), "in/0.tar", "tar in a folder of images"),
        ]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    folder = fill(tmp_path / "set", {"in/a.jpg": b"1", "in/a.txt": b"a"})
    other = fill(tmp_path / "other", {"b.jpg": b"2", "b.txt": b"b"})
    (folder / "in/loop").symlink_to(folder)
    (folder / "link").symlink_to(other)
    assert [raw.key for raw in folder_pairs(folder)] == ["in/a", "link/b"]


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fill(tmp_path / "set", {"a.jpg": b"1", "in/b.jpg": b"2"})
    listed = os.scandir

    def closed(path: Path) -> object:
        if Path(path).name == "in":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr("conceptarchive.inputs.folders.os.scandir", closed)
    listings = folder_listings(folder)
    assert next(listings) == ("", ["a.jpg"])
    with pytest.raises(DataMissingError, match=r"set/in.*cannot be listed \(Permission denied\)"):
        list(listings)


def test_too_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path, {"a.jpg": b"12345", "a.txt": b"a", "b.jpg": b"1", "b.txt": b"12345"})
    monkeypatch.setattr("conceptarchive.inputs.raw.MAX_IMAGE_BYTES", 4)
    monkeypatch.setattr("conceptarchive.inputs.raw.MAX_CAPTION_BYTES", 4)
    assert list(folder_pairs(folder)) == [
        RawPair("a", None, b"a", "image too large"),
        RawPair("b", b"1", None, "caption too large"),
    ]


@settings(max_examples=200)
@given(st.text())
def test_rules_of_names(name: str) -> None:
    assert tidy(tidy(name)) == tidy(name)
    assert tidy(f"./{name}") == tidy(f".//./{name}") or name.startswith("/")
    assert printable(name).isprintable()
    stem, suffix = split_suffix(name)
    assert len(stem) + len(suffix) == len(name)
    assert stem == name[: len(stem)]
    if is_safe(name):
        assert not Path(name).is_absolute()
        assert ".." not in Path(name).parts
        name.encode("utf-8")
        assert is_safe(f"a/{name}")


def test_suffixes_as_pathlib_sees_them() -> None:
    names = ["a.jpg", "a.b.JPG", ".jpg", "d.x/a", "d.x/.txt", "a", "d/a.tar.gz"]
    assert [split_suffix(name)[1] for name in names] == [
        Path(name).suffix.lower() for name in names
    ]
