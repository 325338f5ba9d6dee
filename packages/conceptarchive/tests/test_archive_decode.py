import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conceptarchive.embedding import decode
from conceptarchive.embedding.decode import PreparedBatch, prepare_batches
from conceptarchive.errors import FormatError
from conceptarchive.inputs.pairs import Pair

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mean_colour(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image, np.float32).mean((0, 1)))


def slow_at_first(image: Image.Image) -> Tensor:
    """Later images are ready before earlier ones."""
    time.sleep(0.01 * (image.width % 3))
    return torch.tensor([image.width])


def one_shard(
    files: list[tuple[str, bytes]], tmp_path: Path, make_tar: MakeTar
) -> list[PreparedBatch]:
    """All batches of a shard of images, with their names as captions."""
    members = [
        member
        for name, data in files
        for member in ((name, data), (name.split(".")[0] + ".txt", name.encode()))
    ]
    shard = make_tar(tmp_path / "odd.tar", members)
    return list(prepare_batches([(7, shard)], mean_colour, dataset=None, batch_size=100, workers=2))


@pytest.fixture
def shards(tmp_path: Path, make_tar: MakeTar) -> list[tuple[int, Path]]:
    """Shards 3, 5 and 6 of 20, 0 and 11 pairs; every sixth image is damaged."""
    made = []
    for number, pairs in ((3, 20), (5, 0), (6, 11)):
        members = []
        for n in range(pairs):
            data = encoded(Image.new("RGB", (10 + n, 12)), "JPEG")
            members += [(f"{n:02}.jpg", data[: 99 if n % 6 == 5 else None])]
            members += [(f"{n:02}.txt", b"x")]
        made.append((number, make_tar(tmp_path / "set" / f"{number}.tar", members)))
    return made


def endless(data: bytes, read: list[int]) -> Callable[..., Iterator[Pair]]:
    """A shard without end, that counts what is read."""

    def read_shard(_shard: Path, **_options: Any) -> Iterator[Pair]:
        for n in itertools.count():
            read[0] = n + 1
            yield Pair(f"a/b/{n}", str(n), "", data)

    return read_shard


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_order_is_that_of_the_shard(
    shards: list[tuple[int, Path]], workers: int, batch_size: int
) -> None:
    found: dict[int, list[str]] = {3: [], 5: [], 6: []}
    failed: dict[int, list[str]] = {3: [], 5: [], 6: []}
    closed = []
    for batch in prepare_batches(
        shards, slow_at_first, dataset=None, batch_size=batch_size, workers=workers
    ):
        assert isinstance(batch.images, Tensor)
        assert batch.images.flatten().tolist() == [10 + int(pair.key) for pair in batch.pairs]
        assert len(batch.pairs) + len(batch.failed) <= batch_size
        assert all(pair.image is None for pair in batch.pairs)
        found[batch.number] += [pair.id for pair in batch.pairs]
        failed[batch.number] += [key for key, _ in batch.failed]
        if batch.skips is not None:
            closed.append(batch.number)
    assert closed == [3, 5, 6]
    assert found[3] == [f"set/3/{n:02}" for n in range(20) if n % 6 != 5]
    assert found[6] == [f"set/6/{n:02}" for n in range(11) if n % 6 != 5]
    assert failed == {3: ["05", "11", "17"], 5: [], 6: ["05"]}


def test_what_is_in_a_batch_does_not_depend_on_threads(shards: list[tuple[int, Path]]) -> None:
    def keys(workers: int) -> list[list[str]]:
        batches = prepare_batches(shards, None, dataset=None, batch_size=7, workers=workers)
        return [[pair.key for pair in batch.pairs] for batch in batches]

    assert keys(1) == keys(3) == keys(8)
    assert [len(batch) for batch in keys(2)] == [6, 6, 5, 0, 6, 4]


def test_reading_stays_a_few_batches_ahead(monkeypatch: pytest.MonkeyPatch, jpeg: Jpeg) -> None:
    read = [0]
    monkeypatch.setattr(decode, "read_shard", endless(jpeg(0), read))
    batches = prepare_batches([(0, Path())], None, dataset=None, batch_size=5, workers=2)
    with closing(batches):
        for taken in range(1, 4):
            next(batches)
            time.sleep(0.1)
            assert read[0] == 5 * (taken + decode.BATCHES_AHEAD) + 1  # to see if more comes


def test_undecoded_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch, jpeg: Jpeg) -> None:
    read, go_on, data = [0], threading.Event(), jpeg(0)

    def wait(image: Image.Image) -> Tensor:
        assert go_on.wait(10)
        return mean_colour(image)

    monkeypatch.setattr(decode, "read_shard", endless(data, read))
    monkeypatch.setattr(decode, "BYTES_AHEAD", 20 * len(data))
    batches = prepare_batches([(0, Path())], wait, dataset=None, batch_size=100, workers=1)
    with closing(batches):
        seen: list[int] = []

        def look() -> None:
            seen.append(read[0])
            go_on.set()

        threading.Timer(0.2, look).start()
        assert len(next(batches).pairs) == 100
        assert seen == [24]  # two groups of 8 fit in, and the third waits in hand


def test_one_file_larger_than_the_bound_passes(
    monkeypatch: pytest.MonkeyPatch, shards: list[tuple[int, Path]]
) -> None:
    monkeypatch.setattr(decode, "BYTES_AHEAD", 1)
    batches = list(prepare_batches(shards, None, dataset=None, batch_size=9, workers=3))
    assert sum(len(batch.pairs) for batch in batches) == 27


def test_closing_ends_the_threads(monkeypatch: pytest.MonkeyPatch, jpeg: Jpeg) -> None:
    def ours() -> list[str]:
        names = (thread.name for thread in threading.enumerate())
        return [name for name in names if name.startswith(("read_", "decode_"))]

    monkeypatch.setattr(decode, "read_shard", endless(jpeg(0), [0]))
    monkeypatch.setattr(decode, "BYTES_AHEAD", 1)  # the reader waits while we close
    batches = prepare_batches([(0, Path())], None, dataset=None, batch_size=50, workers=3)
    next(batches)
    assert ours()
    batches.close()
    assert ours() == []


def test_error_of_a_thread_reaches_the_caller(shards: list[tuple[int, Path]]) -> None:
    def broken(image: Image.Image) -> Tensor:
        raise RuntimeError(f"bug at {image.width}")

    with pytest.raises(RuntimeError, match="bug at 10"):
        next(prepare_batches(shards, broken, dataset=None, batch_size=4, workers=2))


def test_damaged_shard_raises_after_the_batches_before(
    shards: list[tuple[int, Path]], tmp_path: Path
) -> None:
    data = shards[2][1].read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(data[: len(data) // 2])
    seen: list[int] = []
    batches = prepare_batches([shards[0], (9, cut)], None, dataset=None, batch_size=4, workers=2)
    with pytest.raises(FormatError, match=r"cut\.tar"):
        seen.extend(batch.number for batch in batches)
    assert seen[:5] == [3] * 5
    assert set(seen) == {3, 9}


def test_what_cannot_be_used_is_listed_with_its_reason(
    tmp_path: Path, make_tar: MakeTar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    whole = encoded(Image.effect_noise((40, 40), 50).convert("RGB"), "JPEG")
    files = [
        ("cut.jpg", whole[: len(whole) // 2]),
        ("empty.jpg", b""),
        ("html.jpg", b"<html>404</html>"),
        ("bomb.png", encoded(Image.new("1", (100, 100)), "PNG")),
        ("thin.png", encoded(Image.new("RGB", (1, 1001)), "PNG")),
        ("long.png", encoded(Image.new("RGB", (1000, 1)), "PNG")),
    ]
    [batch] = one_shard(files, tmp_path, make_tar)
    assert batch.number == 7
    assert batch.failed == [
        ("cut", "corrupt image"),
        ("empty", "corrupt image"),
        ("html", "corrupt image"),
        ("bomb", "image too large"),
        ("thin", "image too thin"),
    ]
    assert [pair.key for pair in batch.pairs] == ["long"]
    assert batch.skips is not None


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_odd_images_decode_to_rgb(tmp_path: Path, make_tar: MakeTar) -> None:
    red, blue = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 200))
    palette = red.quantize(4)
    turned = Image.Exif()
    turned[0x0112] = 6
    files = [
        ("cmyk.jpg", encoded(red.convert("CMYK"), "JPEG", quality=95)),
        ("grey.jpg", encoded(Image.new("L", (8, 8), 77), "JPEG")),
        ("palette.png", encoded(palette, "PNG", transparency=bytes([9, 0, 0, 0]))),
        ("alpha.png", encoded(Image.new("RGBA", (8, 8), (0, 0, 200, 3)), "PNG")),
        ("moving.webp", encoded(red, "WEBP", save_all=True, append_images=[blue], lossless=True)),
        ("turned.jpg", encoded(Image.new("RGB", (8, 4), (9, 9, 9)), "JPEG", exif=turned)),
    ]
    [batch] = one_shard(files, tmp_path, make_tar)
    assert batch.failed == []
    assert isinstance(batch.images, Tensor)
    expected = [[200, 0, 0], [77, 77, 77], [200, 0, 0], [0, 0, 200], [200, 0, 0], [9, 9, 9]]
    torch.testing.assert_close(
        batch.images, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=4
    )


def test_rotation_of_exif_is_not_applied(tmp_path: Path, make_tar: MakeTar) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # a viewer shows it 4 wide and 8 high
    data = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=turned)
    shard = make_tar(tmp_path / "a.tar", [("a.jpg", data), ("a.txt", b"a")])
    [batch] = prepare_batches([(0, shard)], None, dataset=None, batch_size=1, workers=1)
    assert isinstance(batch.images, list)
    assert batch.images[0].size == (8, 4)
