import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptarchive import DataMissingError, FormatError, SkipLog, find_shards, read_pairs
from conceptarchive.pairs import decode_image

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]


def test_pairs_of_a_tar_in_any_member_order(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> None:
    files = [
        ("000.txt", "Ein Bär\nim Wald 🐻".encode()),
        ("000.json", b"{}"),
        ("000.jpg", jpeg(0)),
        ("001.webp", jpeg(1)),
        ("001.text", b""),
    ]
    shard = make_tar(tmp_path / "cc" / "00007.tar", files)
    pairs = list(read_pairs([shard]))
    assert [pair.id for pair in pairs] == ["cc/00007/000", "cc/00007/001"]
    assert [pair.caption for pair in pairs] == ["Ein Bär\nim Wald 🐻", ""]
    assert pairs[0].image == jpeg(0)
    assert next(read_pairs([shard], dataset="other", images=False)).image is None
    assert next(read_pairs([shard], dataset="other")).id == "other/00007/000"


def test_bad_pairs_are_counted_with_a_reason(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, caplog: pytest.LogCaptureFixture
) -> None:
    files = [
        ("a.jpg", jpeg(0)),
        ("b.jpg", jpeg(0)),
        ("b.txt", b"caf\xe9"),
        ("c.txt", b"no picture"),
        ("d.jpg", jpeg(0)),
        ("d.txt", b"good"),
        ("d.jpg", jpeg(1)),
        ("d.txt", b"again"),
    ]
    shard = make_tar(tmp_path / "0.tar", files)
    skips = SkipLog()
    assert [pair.caption for pair in read_pairs([shard], skips=skips)] == ["good"]
    assert skips.counts() == {
        "no caption": 1,
        "caption is not UTF-8": 1,
        "no image": 1,
        "duplicate key": 1,
    }
    assert skips.entries[0] == (str(shard), "a", "no caption")
    with caplog.at_level(logging.WARNING):
        list(read_pairs([shard]))
    assert "skipped 4 pairs" in caplog.text


@pytest.mark.parametrize("cut", [100, 512, 700, 5000])
def test_truncated_tar_is_one_clear_error(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, cut: int
) -> None:
    files = [pair for n in range(5) for pair in ((f"{n}.jpg", jpeg(n)), (f"{n}.txt", b"x"))]
    shard = make_tar(tmp_path / "0.tar", files)
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(FormatError, match=r"0\.tar: .*fetch it again"):
        list(read_pairs([shard]))


def test_tar_cut_between_members_is_an_error(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> None:
    shard = make_tar(tmp_path / "0.tar", [("0.txt", b"x" * 512), ("0.jpg", jpeg(0))])
    shard.write_bytes(shard.read_bytes()[:1024])  # a header and its 512 bytes
    with pytest.raises(FormatError, match="ends early"):
        list(read_pairs([shard]))


def test_missing_and_empty_folders_say_so(tmp_path: Path, make_tar: MakeTar) -> None:
    with pytest.raises(DataMissingError, match="no such file or folder"):
        find_shards(tmp_path / "nowhere")
    with pytest.raises(DataMissingError, match=r"no \*\.tar"):
        find_shards(tmp_path)
    with pytest.raises(DataMissingError, match="no pairs"):
        list(read_pairs([make_tar(tmp_path / "0.tar", [])]))


def test_folder_and_table_give_the_same_pairs(tmp_path: Path, jpeg: Jpeg) -> None:
    folder = tmp_path / "set" / "pictures"
    folder.mkdir(parents=True)
    for n in range(3):
        (folder / f"{n}.jpg").write_bytes(jpeg(n))
        (folder / f"{n}.txt").write_text(f"caption {n}", encoding="utf-8")
    table = tmp_path / "set" / "table.tsv"
    rows = [f'pictures/{n}.jpg\tcaption "{n}' for n in (0, 1, 2, 2)]
    table.write_text("\n".join(["image\tcaption", *rows]), encoding="utf-8")
    loose = list(read_pairs(find_shards(folder)))
    skips = SkipLog()
    tabled = list(read_pairs(find_shards(tmp_path / "set"), skips=skips))
    assert [pair.id for pair in loose] == [f"set/pictures/{n}" for n in range(3)]
    assert [pair.id for pair in tabled] == [f"set/table/pictures/{n}" for n in range(3)]
    assert [pair.image for pair in loose] == [pair.image for pair in tabled]
    assert tabled[0].caption == 'caption "0'
    assert skips.counts() == {"duplicate key": 1}


def test_truncated_image_does_not_decode(jpeg: Jpeg) -> None:
    assert decode_image(jpeg(0)).size == (32, 32)
    for data in (jpeg(0)[:200], b"", b"no image"):
        with pytest.raises(ValueError, match="does not decode"):
            decode_image(data)
