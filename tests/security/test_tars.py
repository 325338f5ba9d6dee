"""Tars: no member leaves its folder, is followed elsewhere, or keeps a reader busy for ever."""

import gzip
import io
import signal
import tarfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import groupvit
from conceptarchive import (
    ArchiveConfig,
    DataMissingError,
    Embeddings,
    FormatError,
    SkipLog,
    Vocabulary,
    build_archive,
    export,
    read_pairs,
)
from segbench import FormatError as SegbenchFormatError
from segbench import ImageNetDataset

LittleMemory = Callable[..., AbstractContextManager[None]]
Members = Sequence[tuple[tarfile.TarInfo, bytes]]
MakeTar = Callable[[Path, Members], Path]
RawHeader = Callable[..., bytes]

BLOCK = 512
END = bytes(2 * BLOCK)
NO_PLAIN_FILE = {"link", "hard", "pipe", "device"}


@pytest.fixture
def shard(tmp_path: Path, make_tar: MakeTar, hostile_members: Members) -> Path:
    (tmp_path / "inside").mkdir()
    return make_tar(tmp_path / "inside" / "00000.tar", hostile_members)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_curation_keeps_only_what_stays_inside(shard: Path, tmp_path: Path) -> None:
    before, skips = files_below(tmp_path), SkipLog()
    pairs = list(read_pairs([shard], dataset="set", skips=skips))
    assert [pair.id for pair in pairs] == ["set/00000/good"]
    assert skips.counts() == {"unsafe name": 6, "link": 2, "not a plain file": 2}
    assert files_below(tmp_path) == before  # members are never unpacked


def test_training_keeps_only_what_stays_inside(shard: Path, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    pairs, skipped = groupvit.index_shards([shard], dataset="set")
    # a letter and a colon are a drive on Windows only, where groupvit does not train
    assert [pair.id for pair in pairs] == ["set/00000/good", "set/00000/C:/outside"]
    reasons = {one.id.rpartition("/")[2]: one.reason for one in skipped}
    assert {key for key, why in reasons.items() if why == "no image"} == NO_PLAIN_FILE
    assert sum(one.reason == "unsafe name" for one in skipped) == 5
    assert files_below(tmp_path) == before
    groupvit.index_shards([shard], dataset="set", cache=tmp_path / "cache")
    assert files_below(tmp_path / "cache") == {"set", "set/00000.index"}


@pytest.mark.parametrize("layout", ["webdataset", "cocu", "sidecar"])
def test_what_is_exported_can_be_unpacked_anywhere(
    shard: Path, tmp_path: Path, layout: Any
) -> None:
    (pair,) = read_pairs([shard], dataset="set")
    rows = np.ones((1, 1), np.float32)
    pairs = Embeddings.from_arrays([pair.id], [pair.caption], rows)
    archive = build_archive(
        tmp_path / "archive",
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary(("dog",)),
        concept_features=rows,
        config=ArchiveConfig(neighbours=1, self_mode="force"),
    )
    export(archive, tmp_path / "out", layout=layout, shards=[shard], dataset="set")
    for path in (tmp_path / "out").rglob("*.tar"):
        with tarfile.open(path) as tar:
            assert tar.getnames()
            assert all(member.isreg() for member in tar)
            tar.extractall(tmp_path / "unpacked", filter="data")  # refuses what leaves a folder


def test_shards_of_imagenet_are_read_in_place(
    tmp_path: Path, make_tar: MakeTar, photo: bytes
) -> None:
    def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        return info, data

    before = files_below(tmp_path)
    link: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    make_tar(
        tmp_path / "imagenet-val-0.tar",
        [
            member("../outside.jpg", photo),
            member("../outside.cls", b"7"),
            member("link.jpg", **link),
            member("link.cls", **link),
        ],
    )
    dataset = ImageNetDataset(tmp_path)
    assert [(one.id, one.label) for one in dataset] == [("../outside", 7)]
    assert files_below(tmp_path) == before | {"imagenet-val-0.tar"}
    make_tar(tmp_path / "imagenet-val-0.tar", [member("a.jpg", photo), member("a.cls", b"9" * 99)])
    with pytest.raises(SegbenchFormatError, match=r"a\.cls: a label must be in \[0, 1000\)"):
        ImageNetDataset(tmp_path)


def test_a_compressed_shard_of_imagenet_is_not_inflated(
    tmp_path: Path, little_memory: LittleMemory
) -> None:
    info = tarfile.TarInfo("a.cls")
    info.size = 400 << 20
    with gzip.open(tmp_path / "imagenet-val-0.tar", "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(400):
            file.write(bytes(1 << 20))
        file.write(END)
    with little_memory(), pytest.raises(SegbenchFormatError, match="no complete tar file"):
        ImageNetDataset(tmp_path)


def test_a_sparse_member_that_claims_a_petabyte_is_passed_over(
    tmp_path: Path, photo: bytes, little_memory: LittleMemory
) -> None:
    path = tmp_path / "imagenet-val-0.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for suffix in ("jpg", "cls"):
            info = tarfile.TarInfo(f"sparse.{suffix}")
            info.pax_headers = {"GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1"}
            info.size = 1
            tar.addfile(info, io.BytesIO(b"7"))
        for name, data in {"a.jpg": photo, "a.cls": b"3"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with little_memory():
        assert [(one.id, one.label) for one in ImageNetDataset(tmp_path)] == [("a", 3)]


def test_a_caption_that_inflates_to_400_mb_is_stepped_over(
    tmp_path: Path, photo: bytes, little_memory: LittleMemory
) -> None:
    """In a gzipped tar a few hundred kilobytes may become any number of bytes."""
    with gzip.open(tmp_path / "00000.tar.gz", "wb", compresslevel=1) as file:
        for name, data in {"a.png": photo, "b.png": photo, "b.txt": b"a dog"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.write(info.tobuf() + data + bytes(-len(data) % BLOCK))
            if name == "a.png":
                info = tarfile.TarInfo("a.txt")
                info.size = 400 << 20
                file.write(info.tobuf())
                for _ in range(400):
                    file.write(bytes(1 << 20))
        file.write(END)
    skips = SkipLog()
    with little_memory():
        pairs = list(read_pairs([tmp_path / "00000.tar.gz"], dataset="set", skips=skips))
    assert [pair.key for pair in pairs] == ["b"]
    assert skips.counts() == {"caption too large": 1}


def pax(records: bytes, raw_header: RawHeader) -> bytes:
    """A tar whose first member is an extended header with these records."""
    size = b"%o" % len(records)
    rest = bytes(-len(records) % BLOCK)
    return raw_header("pax", size, b"x") + records + rest + raw_header("a.txt", b"0") + END


def damaged(raw_header: RawHeader) -> dict[str, bytes]:
    """Tars that would be read for ever, or into memory without end."""
    digits = b"9" * 5000
    return {
        "size below 0": raw_header("a.txt", b"-1") + END,
        "extended header of size below 0": raw_header("a", b"-1750", b"x") + END,
        "long name of size below 0": raw_header("a", b"-1750", b"L") + END,
        "binary size below 0": raw_header("a.txt", b"\xff" * 12) + END,
        "size with an underscore": raw_header("a.txt", b"1_0") + END,
        "record of 5000 digits": pax(digits + b" path=a\n", raw_header),
        "size of 5000 digits": pax(b"5013 size=" + digits[:5002] + b"\n", raw_header),
        "record of no length": pax(b"0 path=a\n", raw_header),
        "record that is longer than all": pax(b"999 path=a\n", raw_header),
        "long name of 8 MB": raw_header("a", b"%o" % (8 << 20), b"L") + b"a" * (8 << 20) + END,
    }


@pytest.mark.usefixtures("hurry")
def test_a_header_that_lies_is_damage(tmp_path: Path, raw_header: RawHeader) -> None:
    for name, content in damaged(raw_header).items():
        path = tmp_path / "00000.tar"
        path.write_bytes(content)
        with pytest.raises(FormatError) as caught:
            list(read_pairs([path], dataset="set"))
        assert str(caught.value).startswith(f"{path}: damaged tar"), name
        with pytest.raises(groupvit.GroupViTError) as refused:
            groupvit.index_shards([path], dataset="set")
        assert str(refused.value).startswith(f"{path}: not a whole tar file"), name


@pytest.mark.usefixtures("hurry")
def test_many_small_records_take_time_in_proportion(tmp_path: Path, raw_header: RawHeader) -> None:
    """200,000 records: half a second; copying what is left after each takes ten."""
    signal.alarm(5)
    path = tmp_path / "00000.tar"
    path.write_bytes(pax(b"5 a=\n" * 200_000, raw_header))
    with pytest.raises(DataMissingError, match="no pairs"):
        list(read_pairs([path], dataset="set"))
    with pytest.raises(groupvit.GroupViTError, match="no image-caption pairs"):
        groupvit.index_shards([path], dataset="set")
