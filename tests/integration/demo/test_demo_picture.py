"""Pictures from a browser: what is read, and what is refused before it is decoded."""

import base64
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from integration.demo.errors import InputError
from integration.demo.picture import (
    MAX_BYTES,
    MAX_PIXELS,
    SHOWN_PX,
    data_uri,
    is_small,
    read_picture,
)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


NOISE = file_of(Image.effect_noise((64, 64), 90))


def chunk(kind: bytes, body: bytes) -> bytes:
    whole = kind + body
    return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes with a header of any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_pixels_come_as_they_are(kind: str) -> None:
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (read_picture(file_of(Image.fromarray(pixels), kind, **options)) == pixels).all()


def test_large_pictures_are_shrunk_to_what_is_shown() -> None:
    photo = read_picture(file_of(Image.new("RGB", (3000, 1500), "red"), "JPEG"))
    assert photo.shape == (SHOWN_PX // 2, SHOWN_PX, 3)
    assert photo[10, 10, 0] > 250


def test_transparent_becomes_white_and_exif_turns() -> None:
    clear = Image.new("RGBA", (2, 3), (255, 0, 0, 0))
    assert (read_picture(file_of(clear)) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    assert read_picture(file_of(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).shape == (20, 10, 3)


@pytest.mark.parametrize("size", [(60_000, 60_000), (5_001, 5_000), (MAX_PIXELS + 1, 1)])
def test_a_header_of_too_many_pixels_is_refused_undecoded(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    with pytest.raises(InputError, match=r"25,000,000"):
        read_picture(png_that_claims(*size))


def test_a_large_file_is_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(InputError, match=r"10\.0 MB, at most 10"):
        read_picture(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [b"GIF89a", b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0", file_of(Image.new("RGB", (9, 9)), "TIFF"),
     NOISE[: len(NOISE) // 2], png_that_claims(4, 4)],
    ids=["gif", "svg", "postscript", "tiff", "cut", "empty"],
)  # fmt: skip
def test_other_files_and_damaged_ones_are_one_line(data: bytes) -> None:
    with pytest.raises(InputError, match="not a picture that can be read") as told:
        read_picture(data)
    assert "\n" not in str(told.value)


def test_nothing_and_sixteen_bits_are_told() -> None:
    with pytest.raises(InputError, match="no picture yet"):
        read_picture(None)
    deep = Image.fromarray(np.zeros((3, 3), np.uint16))
    with pytest.raises(InputError, match="more than 8 bits"):
        read_picture(file_of(deep))


def test_small_pictures_are_embedded_exactly() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    kind, _, held = data_uri(photo, exact=True).partition(";base64,")
    assert (kind, is_small(photo)) == ("data:image/png", True)
    assert (read_picture(base64.b64decode(held)) == photo).all()
    assert data_uri(np.zeros((300, 300, 3), np.uint8), exact=False).startswith("data:image/jpeg")
