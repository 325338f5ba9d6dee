import csv
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
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
from conceptarchive.embedding import decode
from conceptarchive.embedding.embedder import embed_shard
from conceptarchive.embedding.encoder import PixelEncoder
from conceptarchive.embedding.plan import plan_partitions
from conceptarchive.embedding.report import EmbedTiming, report_partitions
from conceptarchive.errors import FormatError
from conceptarchive.features.embeddings import write_partition
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.pairs import Pair, read_shard
from conceptarchive.lock import folder_lock

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


class InTwoSteps:
    """The same rows as the encoder it wraps, by preprocess and encode_pixels."""

    def __init__(self, encoder: Encoder, *, preprocess_s: float = 0, model_s: float = 0) -> None:
        self.id, self._encoder = encoder.id, encoder
        self._preprocess_s, self._model_s = preprocess_s, model_s
        self.threads: set[str] = set()

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        raise AssertionError(f"has a better way for {len(images)} images")

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        return self._encoder.encode_texts(texts)

    def preprocess(self, image: Image.Image) -> Tensor:
        time.sleep(self._preprocess_s)
        self.threads.add(threading.current_thread().name)
        return torch.from_numpy(np.array(image))

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        time.sleep(self._model_s)
        return self._encoder.encode_images([Image.fromarray(one.numpy()) for one in pixels])


class NeedsTheNext(InTwoSteps):
    """Goes on only when the batch after the one given is being decoded."""

    def __init__(self, encoder: Encoder, images: int) -> None:
        super().__init__(encoder)
        self._begun = threading.Semaphore(0)
        self._left = images

    def preprocess(self, image: Image.Image) -> Tensor:
        self._begun.release()
        return super().preprocess(image)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        self._left -= len(pixels)
        for _ in range(len(pixels) + (self._left > 0)):
            assert self._begun.acquire(timeout=10), "nothing is decoded while the model works"
        if self._left > 0:
            self._begun.release()
        return super().encode_pixels(pixels)


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
    assert (report.finished, report.partitions) == (3, 3)
    assert report.skips.counts() == {"corrupt image": 1, "no caption": 1}
    assert "1.tar: x" in caplog.text
    opened = Embeddings.open(tmp_path / "out")
    assert list(opened.keys[:]) == [f"cc/{0 if n < 5 else 2}/{n}" for n in range(9)]
    assert opened.captions[8] == "caption 8"
    assert opened.encoder_id == "tiny"
    assert opened.text is not None
    assert opened.image.dtype == np.float16
    expected = tiny_encoder.encode_texts(opened.captions[:]).numpy()
    np.testing.assert_allclose(opened.text[:], expected, atol=1e-3)
    assert sorted(contents(tmp_path / "out")) == [
        "embed.json",
        "failed.tsv",
        *(f"img_emb/img_emb_0000{n}.npy" for n in range(3)),
        *(f"metadata/metadata_0000{n}.parquet" for n in range(3)),
        *(f"text_emb/text_emb_0000{n}.npy" for n in range(3)),
    ]


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


@pytest.mark.parametrize("renamed", range(11))
def test_killed_between_any_two_files(
    tmp_path: Path,
    shards: list[Path],
    tiny_encoder: Encoder,
    renamed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [renamed]
    replace = Path.replace

    def dies(path: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(path, target)

    embed(shards, tiny_encoder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            embed(shards, tiny_encoder, tmp_path / "out")
    embed(shards, tiny_encoder, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_finished_partitions_are_not_made_again(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards, tiny_encoder, tmp_path / "out")
    again = embed(shards, DiesAfter(tiny_encoder, 0), tmp_path / "out")
    assert again.rows == 9
    assert (again.images_per_s, again.bound_by, again.advice) == (0, None, None)


def test_batches_and_threads_change_nothing(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards, tiny_encoder, tmp_path / "out")
    expected = contents(tmp_path / "out")
    for size, workers in ((1, 1), (2, 3), (100, 1), (3, 8)):
        for encoder in (tiny_encoder, InTwoSteps(tiny_encoder)):
            out = tmp_path / f"{size}-{workers}-{type(encoder).__name__}"
            embed(shards, encoder, out, batch_size=size, workers=workers)
            assert contents(out) == expected


def test_preprocessing_runs_in_the_threads(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    encoder = InTwoSteps(tiny_encoder)
    assert isinstance(encoder, PixelEncoder)
    assert not isinstance(tiny_encoder, PixelEncoder)
    embed(shards, encoder, tmp_path / "out", batch_size=1)
    assert encoder.threads
    assert all(name.startswith("decode") for name in encoder.threads)


def test_decoding_goes_on_while_the_model_works(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    encoder = NeedsTheNext(tiny_encoder, 9)  # also over the end of a shard
    assert embed(shards, encoder, tmp_path / "out", batch_size=2, workers=1).rows == 9


@pytest.mark.parametrize("world", [2, 3, 5])
def test_several_processes_make_the_files_of_one(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder, world: int
) -> None:
    embed(shards, tiny_encoder, tmp_path / "one")
    with ThreadPoolExecutor(world) as threads:
        runs = [
            threads.submit(
                embed, shards, tiny_encoder, tmp_path / "out", rank=rank, world_size=world
            )
            for rank in range(world)
        ]
        reports = [run.result() for run in runs]
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    assert max(report.finished for report in reports) == 3
    assert sum(report.timing.images for report in reports) == 9


def test_a_rank_makes_only_its_own(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    report = embed(shards, tiny_encoder, tmp_path / "out", rank=1, world_size=3)
    assert (report.rows, report.finished, report.partitions) == (0, 1, 3)
    report = embed(shards, tiny_encoder, tmp_path / "out", rank=2, world_size=3)
    assert (report.rows, report.finished) == (4, 2)
    with pytest.raises(UsageError, match=r"rank in \[0, world_size\), got 256, 4, 3 of 3"):
        embed(shards, tiny_encoder, tmp_path / "out", rank=3, world_size=3)


def test_second_process_is_kept_out(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    out = tmp_path / "out"
    with folder_lock(out):
        for world in (1, 2):
            with pytest.raises(UsageError, match=r"another process .* works in"):
                embed(shards, tiny_encoder, out, world_size=world)
    with folder_lock(out, shared=True), folder_lock(out, name=".lock-1"):
        with pytest.raises(UsageError, match="another process"):
            embed(shards, tiny_encoder, out)
        with pytest.raises(UsageError, match="another process"):
            embed(shards, tiny_encoder, out, rank=1, world_size=2)
        assert embed(shards, tiny_encoder, out, rank=0, world_size=2).finished == 2


def test_shards_added_later_are_all_that_is_made(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    out = tmp_path / "out"
    embed(shards[1:2] + shards[2:], tiny_encoder, out)
    before = contents(out)
    report = embed(shards, DiesAfter(tiny_encoder, 5), out)
    assert (report.rows, report.timing.images) == (9, 5)
    after = contents(out)
    assert {name for name in before if before[name] != after[name]} == {"embed.json"}
    assert len(after) == len(before) + 3
    assert [key.split("/")[1] for key in Embeddings.open(out).keys[:]] == ["2"] * 4 + ["0"] * 5


def test_units_of_a_scheduler_make_the_same_files(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    whole = embed(shards, tiny_encoder, tmp_path / "whole")
    out = tmp_path / "out"
    plan = plan_partitions(shards, out, encoder_id=tiny_encoder.id)
    images = [embed_shard(shard, n, tiny_encoder, out).images for n, shard in reversed(plan)]
    assert images == [4, 0, 5]
    assert embed_shard(plan[0][1], 0, DiesAfter(tiny_encoder, 0), out).images == 0
    report = report_partitions(out, [number for number, _ in plan])
    assert (report.rows, report.skips.entries) == (whole.rows, whole.skips.entries)
    assert contents(out) == contents(tmp_path / "whole")


def test_failed_images_are_listed(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, tiny_encoder: Encoder
) -> None:
    names = ["b", "a", "c"]
    files = [
        member
        for name in names
        for member in ((f"{name}.jpg", jpeg(1)[:99]), (f"{name}.txt", b"x"))
    ]
    shard = make_tar(tmp_path / "s.tar", [*files, ("z.jpg", jpeg(1)), ("z.txt", b"z")])
    report = embed([shard], tiny_encoder, tmp_path / "out", batch_size=2)
    text = (tmp_path / "out" / "failed.tsv").read_text()
    lines = [f"{shard}\t{key}\tcorrupt image" for key in "abc"]
    assert text.splitlines() == ["file\tkey\treason", *lines]
    assert report.skips.counts() == {"corrupt image": 3}


def test_list_holds_any_name(tmp_path: Path) -> None:
    skips = [["s.tar", "tab\there", "no caption"], ["s.tar", "\udcff", "no caption"]]
    columns: dict[str, list[str]] = {"image_path": [], "caption": [], "id": []}
    notes = {"skips": json.dumps(skips)}
    write_partition(tmp_path, "00004", columns, {"img_emb": np.empty((0, 0))}, notes)
    report = report_partitions(tmp_path, [4, 5])
    assert (report.rows, report.finished, report.partitions) == (0, 1, 2)
    with (tmp_path / "failed.tsv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows[1:] == [["s.tar", "tab\there", "no caption"], ["s.tar", "\\udcff", "no caption"]]


def test_columns_of_tables_are_read_and_recorded(
    tmp_path: Path, jpeg: Jpeg, tiny_encoder: Encoder
) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    table = tmp_path / "t.tsv"
    table.write_text("image\tcaption\tlong\na.jpg\tshort\ta long caption\n")
    columns = TableColumns(caption="long")
    embed([table], tiny_encoder, tmp_path / "out", columns=columns)
    assert Embeddings.open(tmp_path / "out").captions[:] == ["a long caption"]
    with pytest.raises(StaleFolderError, match="another 'columns'"):
        embed([table], tiny_encoder, tmp_path / "out")


def test_warnings_of_pillow_do_not_end_the_run(
    tmp_path: Path, make_tar: MakeTar, tiny_encoder: Encoder
) -> None:
    buffer = io.BytesIO()
    palette = Image.new("RGB", (8, 8), (200, 0, 0)).quantize(4)
    palette.save(buffer, "PNG", transparency=bytes([9, 0, 0, 0]))
    shard = make_tar(tmp_path / "s.tar", [("a.png", buffer.getvalue()), ("a.txt", b"x")])
    assert embed([shard], tiny_encoder, tmp_path / "out").rows == 1  # warnings are errors here


@pytest.mark.parametrize("slow", ["decode", "model", "disk"])
def test_report_says_what_bounds_it(
    tmp_path: Path,
    shards: list[Path],
    tiny_encoder: Encoder,
    slow: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def slow_shard(shard: Path, **options: Any) -> Iterator[Pair]:
        for pair in read_shard(shard, **options):
            time.sleep(0.02)
            yield pair

    if slow == "disk":
        monkeypatch.setattr(decode, "read_shard", slow_shard)
    encoder = InTwoSteps(
        tiny_encoder,
        preprocess_s=0.04 if slow == "decode" else 0,
        model_s=0.02 if slow == "model" else 0,
    )
    report = embed(shards, encoder, tmp_path / "out", batch_size=1, workers=2)
    assert report.bound_by == slow
    assert report.advice is not None
    assert report.advice.startswith(f"{slow}: ")
    assert report.images_per_s == 9 / report.seconds["wall"]
    step = "read" if slow == "disk" else slow
    asked = {"decode": 0.36, "model": 0.18, "disk": 0.18}[slow]
    assert asked <= report.seconds[step] < asked + 1
    parts = sum(report.seconds[name] for name in ("model", "write", "wait"))
    assert 0.5 * report.seconds["wall"] < parts <= report.seconds["wall"]


def test_bound_is_the_busiest_step() -> None:
    seconds = {"read": 3.0, "decode": 15.0, "model": 4.0, "write": 5.5, "wait": 0.0, "wall": 10.0}
    found = {n: EmbedTiming(n, 100, seconds).bound_by for n in (1, 2, 3, 4)}
    assert found == {1: "decode", 2: "decode", 3: "disk", 4: "disk"}
    assert EmbedTiming(1, 100, seconds | {"model": 20.0}).bound_by == "model"


def test_other_encoder_or_shards_are_refused(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards[:2], tiny_encoder, tmp_path / "out", with_text=False)
    assert Embeddings.open(tmp_path / "out").text is None
    for again, with_text in ((shards[:1], False), (shards[:2], True)):
        with pytest.raises(StaleFolderError, match="begun with another"):
            embed(again, tiny_encoder, tmp_path / "out", with_text=with_text)
    with pytest.raises(UsageError, match="cc/0"):
        embed([shards[0], shards[0]], tiny_encoder, tmp_path / "new")


def test_nothing_usable_says_so(tmp_path: Path, shards: list[Path], tiny_encoder: Encoder) -> None:
    with pytest.raises(DataMissingError, match=r"1\.tar: no usable pairs .*corrupt image"):
        embed(shards[1:2], tiny_encoder, tmp_path / "out")
    with pytest.raises(DataMissingError, match="no such shard"):
        embed([tmp_path / "none.tar"], tiny_encoder, tmp_path / "other")
    with pytest.raises(DataMissingError, match="no shard given"):
        embed([], tiny_encoder, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(UsageError, match="batch_size, workers must be >= 1"):
        embed(shards, tiny_encoder, tmp_path / "other", batch_size=0)


def test_damaged_partition_is_named(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards, tiny_encoder, tmp_path / "out")
    table = tmp_path / "out" / "metadata" / "metadata_00001.parquet"
    table.write_bytes(table.read_bytes()[:50])
    with pytest.raises(FormatError, match=r"metadata_00001\.parquet: .*remove it and run embed"):
        embed(shards, tiny_encoder, tmp_path / "out")
    table.unlink()
    assert embed(shards, tiny_encoder, tmp_path / "out").finished == 3


def test_record_names_every_shard(
    tmp_path: Path, shards: list[Path], tiny_encoder: Encoder
) -> None:
    embed(shards, tiny_encoder, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "embed.json").read_text())
    assert (record["version"], record["encoder"], record["text"]) == (2, "tiny", True)
    assert [row[0] for row in record["shards"]] == ["cc/0", "cc/1", "cc/2"]
