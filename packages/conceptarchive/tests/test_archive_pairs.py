import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptarchive import (
    DataMissingError,
    FormatError,
    SkipLog,
    UsageError,
    find_shards,
    read_pairs,
)
from conceptarchive.inputs.pairs import decode_image, shard_prefix

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


def test_ids_do_not_depend_on_how_a_path_is_written(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make_tar(tmp_path / "cc" / "0.tar", [("a.jpg", jpeg(0)), ("a.txt", b"x")])
    (tmp_path / "linked").symlink_to(tmp_path / "cc")
    (tmp_path / "cc" / "in").mkdir()
    monkeypatch.chdir(tmp_path / "cc")
    for path in (shard, Path("0.tar"), Path("../cc/0.tar"), Path("in/../0.tar")):
        assert [pair.id for pair in read_pairs([path])] == ["cc/0/a"]
    assert [pair.id for pair in read_pairs([tmp_path / "linked" / "0.tar"])] == ["cc/0/a"]
    # a cache keeps files under other names and links to them
    (tmp_path / "cc" / "9.tar").symlink_to(make_tar(tmp_path / "blobs" / "c0ffee", []))
    assert shard_prefix(tmp_path / "cc" / "9.tar", None) == "cc/9"


@pytest.mark.parametrize(
    ("shard", "want"),
    [
        ("cc/00000.tar", "cc/00000"),
        ("cc/00000.tar.gz", "cc/00000"),
        ("cc/train-0-of-9.parquet", "cc/train-0-of-9"),
        ("cc/photos", "cc/photos"),
        ("cc/photos.v2", "cc/photos.v2"),
        ("cc/photos/.", "cc/photos"),
        ("cc/photos/in/..", "cc/photos"),
    ],
)
def test_prefixes_are_data_set_and_name_without_suffix(
    tmp_path: Path, shard: str, want: str
) -> None:
    assert shard_prefix(tmp_path / shard, None) == want
    assert shard_prefix(tmp_path / shard, "set") == want.replace("cc", "set")


def test_a_prefix_that_is_no_safe_name_is_refused(tmp_path: Path, make_tar: MakeTar) -> None:
    shard = make_tar(tmp_path / "0.tar", [])
    for dataset in ("../up", "/root", "a\nb"):
        with pytest.raises(UsageError, match="cannot begin an id"):
            list(read_pairs([shard], dataset=dataset))


def test_no_pairs_tells_what_was_left_out(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> None:
    shard = make_tar(tmp_path / "0.tar", [("a.jpg", jpeg(0)), ("b.jpg", jpeg(1)), ("a.txt", b"x")])
    with pytest.raises(DataMissingError, match=r"skipped: {'no caption': 2, 'duplicate key': 1}"):
        list(read_pairs([shard]))


def test_keys_of_two_shards_may_be_the_same(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> None:
    files = [("0.jpg", jpeg(0)), ("0.txt", b"x")]
    shards = [make_tar(tmp_path / name, files) for name in ("a/0.tar", "a/1.tar", "b/0.tar")]
    skips = SkipLog()
    assert [pair.id for pair in read_pairs(shards, skips=skips)] == ["a/0/0", "a/1/0", "b/0/0"]
    assert skips.counts() == {}
