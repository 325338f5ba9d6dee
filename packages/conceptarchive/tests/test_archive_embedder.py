import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from conceptarchive import (
    DataMissingError,
    Embeddings,
    Encoder,
    StaleFolderError,
    UsageError,
    embed,
    find_shards,
)

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]


class DiesAfter:
    """An encoder that is killed after some images."""

    def __init__(self, encoder: Encoder, images: int) -> None:
        self.id, self._encoder, self._left = encoder.id, encoder, images

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        self._left -= len(images)
        if self._left < 0:
            raise KeyboardInterrupt
        return self._encoder.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._encoder.encode_texts(texts)


@pytest.fixture
def shards(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> list[Path]:
    """Three shards of 5, 0 and 4 good pairs."""
    folder = tmp_path / "cc"
    good = {n: [(f"{n}.jpg", jpeg(n)), (f"{n}.txt", f"caption {n}".encode())] for n in range(9)}
    broken = [("x.jpg", jpeg(0)[:150]), ("x.txt", b"x"), ("y.jpg", jpeg(0))]
    make_tar(folder / "0.tar", [file for n in range(5) for file in good[n]])
    make_tar(folder / "1.tar", broken)
    make_tar(folder / "2.tar", [file for n in range(5, 9) for file in good[n]])
    return find_shards(folder)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_one_partition_a_shard(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report = embed(shards, tiny_encoder, tmp_path / "out", batch_size=2)
    assert report.rows == 9
    assert report.skips.counts() == {"corrupt image": 1, "no caption": 1}
    assert "1.tar: x" in caplog.text
    opened = Embeddings.open(tmp_path / "out")
    assert opened.keys == [f"cc/{0 if n < 5 else 2}/{n}" for n in range(9)]
    assert opened.captions[8] == "caption 8"
    assert opened.encoder_id == "tiny"
    assert opened.text is not None
    assert opened.image.dtype == np.float16
    expected = tiny_encoder.encode_texts(opened.captions).numpy()
    np.testing.assert_allclose(opened.text, expected, atol=1e-3)
    assert len(list((tmp_path / "out" / "img_emb").glob("*.npy"))) == 3


@pytest.mark.parametrize("killed_after", [0, 3, 5, 7])
def test_killed_run_goes_on_to_the_same_files(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder, killed_after: int
) -> None:
    whole = embed(shards, tiny_encoder, tmp_path / "whole", batch_size=3)
    with pytest.raises(KeyboardInterrupt):
        embed(shards, DiesAfter(tiny_encoder, killed_after), tmp_path / "out", batch_size=3)
    report = embed(shards, tiny_encoder, tmp_path / "out", batch_size=3)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert (report.rows, report.skips.entries) == (whole.rows, whole.skips.entries)


def test_finished_partitions_are_not_made_again(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards, tiny_encoder, tmp_path / "out")
    assert embed(shards, DiesAfter(tiny_encoder, 0), tmp_path / "out").rows == 9


def test_batch_size_changes_nothing(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    for size in (1, 2, 100):
        embed(shards, tiny_encoder, tmp_path / f"{size}", batch_size=size)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "100")


def test_other_encoder_or_shards_are_refused(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards[:1], tiny_encoder, tmp_path / "out", with_text=False)
    assert Embeddings.open(tmp_path / "out").text is None
    for again, with_text in ((shards, False), (shards[:1], True)):
        with pytest.raises(StaleFolderError, match="begun with another"):
            embed(again, tiny_encoder, tmp_path / "out", with_text=with_text)
    with pytest.raises(UsageError, match="cc/0"):
        embed([shards[0], shards[0]], tiny_encoder, tmp_path / "new")


def test_nothing_usable_says_so(tmp_path: Path, shards: list[Path], tiny_encoder: Encoder) -> None:
    with pytest.raises(DataMissingError, match=r"1\.tar: no usable pairs .*corrupt image"):
        embed(shards[1:2], tiny_encoder, tmp_path / "out")
    with pytest.raises(DataMissingError, match="no such shard"):
        embed([tmp_path / "none.tar"], tiny_encoder, tmp_path / "other")
