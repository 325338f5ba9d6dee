"""Pictures as people have them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from groupvit.errors import DataError
from groupvit.segmenting.photo import find_photos, open_photo, read_photos


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    photo = open_photo(saved(tmp_path / "a.png", Image.fromarray(pixels)))
    assert photo.dtype == np.uint8 and np.array_equal(photo, pixels)


def test_grey_is_three_times_the_same(tmp_path: Path) -> None:
    grey = np.array([[0, 100], [200, 255]], dtype=np.uint8)
    photo = open_photo(saved(tmp_path / "a.png", Image.fromarray(grey)))
    assert np.array_equal(photo, np.repeat(grey[..., None], 3, axis=2))
    photo = open_photo(saved(tmp_path / "b.png", Image.fromarray(grey > 150)))  # one bit
    assert photo[..., 0].tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path, suffix: str) -> None:
    deep = np.array([[257, 514], [25700, 51400]], dtype=np.uint16)
    photo = open_photo(saved(tmp_path / f"a.{suffix}", Image.fromarray(deep)))
    assert photo[..., 1].tolist() == [[1, 2], [100, 200]]


def test_more_than_sixteen_bits_are_stretched(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", Image.fromarray(np.array([[-2.0, 0.0, 2.0]], np.float32)))
    assert open_photo(path)[0, :, 0].tolist() == [0, 128, 255]
    path = saved(tmp_path / "b.tif", Image.fromarray(np.array([[0, 1 << 20, 2 << 20]], np.int32)))
    assert open_photo(path)[0, :, 0].tolist() == [0, 128, 255]
    path = saved(tmp_path / "c.tif", Image.fromarray(np.full((1, 2), np.nan, np.float32)))
    assert open_photo(path)[0, :, 0].tolist() == [0, 0]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    photo = open_photo(saved(tmp_path / "a.jpg", image, quality=100))
    assert photo.shape == (8, 8, 3)
    red, green, blue = photo[4, 4].tolist()
    assert red > 200 > 60 > max(green, blue)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    image.putpixel((2, 0), (0, 0, 0, 127))
    photo = open_photo(saved(tmp_path / "a.png", image))
    assert photo[0].tolist() == [[10, 20, 30], [255, 255, 255], [128, 128, 128]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for name in ("a.gif", "b.png"):
        photo = open_photo(saved(tmp_path / name, palette, transparency=0))
        assert photo[0].tolist() == [[255, 255, 255], [200, 100, 50]], name
    grey = saved(tmp_path / "la.png", Image.new("LA", (1, 1), (0, 0)))
    assert open_photo(grey)[0, 0].tolist() == [255, 255, 255]


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # white on the left
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown after a quarter turn clockwise
    upright = open_photo(saved(tmp_path / "turned.png", image, exif=exif))
    assert upright.shape == (40, 20, 3)
    assert upright[:20].min() == 255 and upright[20:].max() == 0  # white on top


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_frame_is_taken_and_said(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    lossless = {"lossless": True} if name.endswith("webp") else {}
    photo = open_photo(saved(tmp_path / name, frames[0], **options, **lossless))
    assert photo[0, 0].tolist() == [255, 0, 0]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / name}: has 3 frames, the first is taken"
    ]


def test_large_pictures_are_no_warning_and_huge_ones_an_error_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.png", Image.new("L", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(path).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_photo(path).shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 49)
    with pytest.raises(DataError, match="more than 98 pixels; make it smaller"):
        open_photo(path)


def test_what_cannot_be_read_is_an_error(tmp_path: Path, jpeg: Callable[..., bytes]) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:400])
    for name in ("text.jpg", "empty.jpg", "cut.jpg"):
        with pytest.raises(DataError, match=f"{name}: not a picture that can be read"):
            open_photo(tmp_path / name)
    with pytest.raises(DataError, match=r"none\.jpg: no such file"):
        open_photo(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="is a folder"):
        open_photo(tmp_path)


def test_pictures_of_a_folder_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "inside.png").mkdir()
    assert find_photos([tmp_path]) == [tmp_path / "a.png", tmp_path / "b.JPG"]
    given = [tmp_path / "notes.txt", tmp_path]
    assert [path.name for path in find_photos(given)] == ["notes.txt", "a.png", "b.JPG"]
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="bare: no picture in this folder"):
        find_photos([tmp_path / "bare"])
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        find_photos([tmp_path, tmp_path / "none.png"])
    with pytest.raises(DataError, match="no picture was given"):
        find_photos([])


def test_one_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [saved(tmp_path / f"{i}.png", Image.new("RGB", (i + 1, 1))) for i in range(4)]
    paths = [good[0], tmp_path / "none.png", *good[1:]]
    read: list[list[tuple[Path, int]]] = []
    with pytest.raises(DataError, match="1 of 5 pictures could not be read"):
        read.extend(
            [(path, photo.shape[1]) for path, photo in some] for some in read_photos(paths, batch=2)
        )
    assert read == [[(good[0], 1)], [(good[1], 2), (good[2], 3)], [(good[3], 4)]]
    assert "none.png: no such file" in caplog.text
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        list(read_photos(paths[1:2], batch=2))
