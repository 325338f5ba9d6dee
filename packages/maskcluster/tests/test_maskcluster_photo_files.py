import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskcluster.errors import DataError, UsageError
from maskcluster.masks.photo_files import find_photos, open_photo, read_photo


def save(path: Path, mode: str = "RGB", **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"RGB": (200, 100, 50), "RGBA": (200, 100, 50, 0), "CMYK": (0, 128, 255, 0)}
    Image.new(mode, (6, 4), colour.get(mode, 77)).save(path, **how)  # type: ignore[arg-type]
    return path


def test_keys_are_paths_without_suffix_in_order(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/x.PNG", "a/c.webp"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    assert list(find_photos(tmp_path)) == ["a/c", "a/x", "b"]
    files = [tmp_path / "b.jpg", tmp_path / "a/x.PNG"]
    assert find_photos(files) == {"b": files[0], "x": files[1]}


def test_two_photographs_of_one_key_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="have one key, 'a'"):
        find_photos(tmp_path)


@pytest.mark.parametrize("what", ["folder", "file", "empty"])
def test_what_is_not_there_is_data_missing(tmp_path: Path, what: str) -> None:
    given: dict[str, Any] = {
        "folder": tmp_path / "none",
        "file": [tmp_path / "none.jpg"],
        "empty": tmp_path,
    }
    with pytest.raises(DataError, match=r"no such|no photograph"):
        find_photos(given[what])


@pytest.mark.parametrize(
    ("name", "mode", "colour", "changes"),
    [
        ("a.png", "RGB", (200, 100, 50), ()),
        ("a.png", "L", (77, 77, 77), ("L to RGB",)),
        ("a.png", "RGBA", (255, 255, 255), ("transparency on white",)),
        ("a.png", "I;16", (0, 0, 0), ("16 bits to 8",)),
        ("a.png", "1", (255, 255, 255), ("1 to RGB",)),
        ("a.tif", "CMYK", (255, 127, 0), ("CMYK to RGB",)),
    ],
)
def test_every_mode_becomes_rgb_and_it_is_said(
    tmp_path: Path, name: str, mode: str, colour: tuple[int, ...], changes: tuple[str, ...]
) -> None:
    photo, found = read_photo(save(tmp_path / name, mode))
    assert photo.shape == (4, 6, 3)
    assert photo.dtype == np.uint8
    assert np.abs(photo[0, 0].astype(int) - colour).max() <= 1
    assert found == changes


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo, changes = read_photo(save(tmp_path / "a.jpg", exif=exif))
    assert photo.shape == (6, 4, 3)
    assert changes == ("turned upright",)


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    photo, changes = read_photo(tmp_path / "a.gif")
    assert photo[0, 0].tolist() == [255, 0, 0]
    assert "first frame" in changes


def bomb(path: Path) -> Path:
    """A valid header of 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)))
    return path


def test_damaged_files_and_bombs_are_refused_in_one_line(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    bomb(tmp_path / "bomb.png")
    for name in ("cut.jpg", "empty.jpg", "text.png", "bomb.png", "none.jpg"):
        with pytest.raises(DataError, match=name) as caught:
            open_photo(tmp_path / name)
        assert "\n" not in str(caught.value)
