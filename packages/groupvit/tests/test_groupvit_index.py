"""The index of a pool: what is found and left out, files, staleness, damage, resuming."""

import io
import logging
import pickle
import tarfile
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groupvit import DataError, Pairs, index_sets, index_shards
from groupvit.data import indexing
from groupvit.data.index import Shard, Skipped
from groupvit.data.indexfile import KIND, VERSION, ShardState, find_index, save_index
from groupvit.data.table import ShardTable, read_table, row_type

Write = Callable[..., Path]
Jpeg = Callable[..., bytes]


def test_index_finds_pairs_in_order_and_says_what_it_left_out(
    tmp_path: Path, write_shard: Write, jpeg: Jpeg
) -> None:
    shard = write_shard(
        tmp_path / "part-7.tar",
        {
            "b.txt": b"  two\n words ",
            "b.PNG": jpeg(),
            "b.json": b"{}",
            "a.jpg": jpeg(),
            "a.txt": "\u00e9t\u00e9".encode(),
            "lonely.txt": b"no image",
            "bare.jpg": jpeg(),
            "blank.jpg": jpeg(),
            "blank.txt": b"\xef\xbb\xbf \n",
            "latin.jpg": jpeg(),
            "latin.txt": "\u00e9".encode("latin-1"),
            "twice.jpg": jpeg(),
            "twice.txt": b"first",
            "twice.jpeg": jpeg(),
        },
    )
    pairs, skipped = index_shards([shard], dataset="toy")
    assert [(p.id, p.caption) for p in pairs] == [
        ("toy/part-7/b", "two words"),
        ("toy/part-7/a", "\u00e9t\u00e9"),
        ("toy/part-7/blank", ""),
        ("toy/part-7/twice", "first"),
    ]
    assert set(skipped) == {
        Skipped("toy/part-7/twice", "key occurs twice"),
        Skipped("toy/part-7/lonely", "no image"),
        Skipped("toy/part-7/bare", "no caption"),
        Skipped("toy/part-7/latin", "caption is not UTF-8"),
    }
    offset, length = pairs[1].image
    assert shard.read_bytes()[offset : offset + length] == jpeg()


@pytest.mark.parametrize("cut", [100, 600, 1024, 6000, 8192, -10_240, -10_700])
def test_a_cut_tar_is_an_error_wherever_it_is_cut(colour_shard: Path, cut: int) -> None:
    colour_shard.write_bytes(colour_shard.read_bytes()[:cut])
    with pytest.raises(
        DataError, match=r"colours-00000.tar: not a whole tar file .* write it again"
    ):
        index_shards([colour_shard], dataset="toy")


def test_nothing_to_read_is_an_error(tmp_path: Path, write_shard: Write) -> None:
    with pytest.raises(DataError, match="no tar shards"):
        index_shards([], dataset="toy")
    with pytest.raises(DataError, match="no such file"):
        index_shards([tmp_path / "none.tar"], dataset="toy")
    (tmp_path / "empty.tar").touch()
    with pytest.raises(DataError, match="not a whole tar"):
        index_shards([tmp_path / "empty.tar"], dataset="toy")
    with pytest.raises(DataError, match="no image-caption pairs"):
        index_shards([write_shard(tmp_path / "bare.tar", {})], dataset="toy")


@pytest.fixture
def shards(tmp_path: Path, write_shard: Write, jpeg: Jpeg) -> list[Path]:
    """Three shards of two pairs and one key without a caption."""
    found = []
    for number in range(3):
        members: dict[str, bytes] = {"bare.jpg": jpeg()}
        for key in "ab":
            members[f"{key}.jpg"] = jpeg((number, number, number))
            members[f"{key}.txt"] = f"{key} of {number}".encode()
        found.append(write_shard(tmp_path / f"part-{number}.tar", members))
    return found


def described(pairs: Pairs) -> list[tuple[str, str, bytes]]:
    return [(pair.id, pair.caption, pair.read()[0]) for pair in pairs]


def test_an_index_on_disk_says_the_same(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, skipped = index_shards(shards, dataset="toy")
    told = [record.getMessage() for record in caplog.records]
    assert told == ["3 pairs left out: 3 no caption; first toy/part-0/bare (no caption)"]
    for _ in range(2):  # made, then read
        caplog.clear()
        pairs, again = index_shards(shards, dataset="toy", cache=tmp_path / "index")
        assert described(pairs) == described(plain) and again == skipped
        assert [record.getMessage() for record in caplog.records] == told
        assert pairs.fingerprint == plain.fingerprint
    assert [pair.id for pair in pairs] == [f"toy/part-{n}/{key}" for n in range(3) for key in "ab"]
    assert sorted(path.name for path in (tmp_path / "index").rglob("*.*")) == [
        f"part-{n}.index" for n in range(3)
    ]


def test_a_shard_is_read_once_and_again_when_it_has_changed(
    shards: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_shard: Write,
    jpeg: Jpeg,
) -> None:
    read: list[str] = []

    def counted(shard: Path) -> ShardTable:
        read.append(shard.name)
        return read_table(shard)

    monkeypatch.setattr(indexing, "read_table", counted)
    index_shards(shards[:2], dataset="toy", cache=tmp_path / "index")
    assert read == ["part-0.tar", "part-1.tar"]
    pairs, _ = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert read[2:] == ["part-2.tar"]
    old = pairs.fingerprint
    write_shard(shards[1], {"new.jpg": jpeg(), "new.txt": b"new"})
    pairs, _ = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert read[3:] == ["part-1.tar"]
    assert [pair.caption for pair in pairs] == ["a of 0", "b of 0", "new", "a of 2", "b of 2"]
    assert pairs.fingerprint != old


def test_a_killed_run_goes_on_after_the_shards_it_has_read(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def killed(shard: Path) -> ShardTable:
        read.append(shard.name)
        if len(read) == 2:
            raise KeyboardInterrupt
        return read_table(shard)

    monkeypatch.setattr(indexing, "read_table", killed)
    with pytest.raises(KeyboardInterrupt):
        index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert len(index_shards(shards, dataset="toy", cache=tmp_path / "index")[0]) == 6
    assert read == ["part-0.tar", "part-1.tar", "part-1.tar", "part-2.tar"]


def test_what_another_process_has_indexed_meanwhile_is_not_read_again(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def shared(shard: Path) -> ShardTable:
        read.append(shard.name)
        if len(read) == 1:  # while this one is read, another process does the rest
            index_shards(shards[1:], dataset="toy", cache=tmp_path / "index")
        return read_table(shard)

    monkeypatch.setattr(indexing, "read_table", shared)
    assert len(index_shards(shards, dataset="toy", cache=tmp_path / "index")[0]) == 6
    assert read == ["part-0.tar", "part-1.tar", "part-2.tar"]


def test_an_index_of_another_version_is_refused(shards: list[Path], tmp_path: Path) -> None:
    index_shards(shards, dataset="toy", cache=tmp_path / "index")
    path = tmp_path / "index" / "toy" / "part-1.index"
    content = path.read_bytes()
    for old, new, said in (
        (f'"version": {VERSION}', '"version": 9', f"is {KIND} version 9"),
        (KIND, "other", f"is other version {VERSION}"),
    ):
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        with pytest.raises(DataError, match=rf"part-1.index: {said}, this reads {KIND} version"):
            index_shards(shards, dataset="toy", cache=tmp_path / "index")


@pytest.mark.parametrize("keep", [0, 40, -5])
def test_a_cut_index_is_made_again_with_a_warning(
    shards: list[Path], tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    plain, _ = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    path = tmp_path / "index" / "toy" / "part-1.index"
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    caplog.clear()
    pairs, _ = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert described(pairs) == described(plain) and path.read_bytes() == content
    assert f"{path}: damaged index; its shard is read again" in caplog.text


def test_a_changed_byte_of_an_index_is_seen_when_it_is_opened(
    shards: list[Path], tmp_path: Path
) -> None:
    index_shards(shards, dataset="toy", cache=tmp_path / "index")
    path = tmp_path / "index" / "toy" / "part-1.index"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    pairs, _ = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert pairs[0].id == "toy/part-0/a"
    with pytest.raises(DataError, match=r"part-1\.index: damaged index; delete it, it is made"):
        pairs[2]


def test_an_index_that_cannot_be_written_is_one_line(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "index").write_text("a file")
    with pytest.raises(
        DataError, match=r"part-0.index: index cannot be (written|read) \(Not a dir"
    ):
        index_shards(shards, dataset="toy", cache=tmp_path / "index")


def test_all_damaged_shards_are_counted(shards: list[Path], tmp_path: Path) -> None:
    for shard in shards[1:]:
        shard.write_bytes(shard.read_bytes()[:900])
    with pytest.raises(DataError, match=r"part-1.tar: not .*; and 1 more shards cannot be used$"):
        index_shards(shards, dataset="toy", cache=tmp_path / "index")


@pytest.mark.slow
def test_processes_index_all_shards_but_the_damaged(shards: list[Path], tmp_path: Path) -> None:
    plain, skipped = index_shards(shards, dataset="toy")
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"bad\.tar: not a whole tar file"):
        index_shards([*shards, bad], dataset="toy", cache=tmp_path / "index", processes=2)
    pairs, again = index_shards(shards, dataset="toy", cache=tmp_path / "index")
    assert described(pairs) == described(plain) and again == skipped
    assert sorted(path.stem for path in (tmp_path / "index").rglob("*.index")) == [
        "part-0",
        "part-1",
        "part-2",
    ]


def test_pairs_are_a_sequence(shards: list[Path]) -> None:
    pairs, _ = index_shards(shards, dataset="toy")
    ids = [pair.id for pair in pairs]
    assert len(pairs) == len(ids) == 6
    assert [pairs[i].id for i in range(-6, 6)] == ids * 2
    assert [pair.id for pair in pairs[1:6:2]] == ids[1:6:2]
    assert [pair.id for pair in pairs[::-1][:2]] == [ids[5], ids[4]]
    assert [pair.id for pair in pairs.select(np.array([3, 3, 0]))] == [ids[3], ids[3], ids[0]]
    for at in (6, -7):
        with pytest.raises(IndexError, match=rf"pair {at} of 6"):
            pairs[at]
    with pytest.raises(IndexError):
        pairs[2:3][1]


def test_a_copy_reads_the_same(shards: list[Path], tmp_path: Path) -> None:
    for cache in (None, tmp_path / "index"):
        pairs, _ = index_shards(shards, dataset="toy", cache=cache)
        copy = pickle.loads(pickle.dumps(pairs))
        assert described(copy) == described(pairs)


def test_a_pool_has_its_fingerprint(shards: list[Path]) -> None:
    pairs, _ = index_shards(shards, dataset="toy")
    others = [
        index_shards(shards, dataset="other")[0],
        index_shards(shards[::-1], dataset="toy")[0],
        index_shards(shards[:2], dataset="toy")[0],
        pairs[1:],
        pairs[::-1],
    ]
    prints = {one.fingerprint for one in [pairs, *others]}
    assert len(prints) == 6 and {len(one) for one in prints} == {64}
    assert index_shards(shards, dataset="toy")[0].fingerprint == pairs.fingerprint


def test_a_pool_of_other_keys_in_as_many_bytes_has_another_fingerprint(
    tmp_path: Path, write_shard: Write, jpeg: Jpeg
) -> None:
    prints = set()
    for key in ("a", "b"):
        shard = write_shard(tmp_path / "s.tar", {f"{key}.jpg": jpeg(), f"{key}.txt": b"sky"})
        for cache in (None, tmp_path / key):
            prints.add(index_shards([shard], dataset="toy", cache=cache)[0].fingerprint)
    assert len(prints) == 2


def test_a_pair_takes_some_thirty_bytes() -> None:
    assert row_type(9).itemsize == 33  # img2dataset's keys have nine digits
    rows = np.zeros(1000, row_type(9))
    pairs = Pairs([Shard("toy/s", Path("s.tar"), 0, 1000, rows)])
    assert len(pickle.dumps(pairs)) < 35 * len(pairs)


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any),
)
def test_every_pair_of_every_shard_is_found(sizes: list[int]) -> None:
    made = []
    for number, size in enumerate(sizes):
        rows = np.zeros(size, row_type(3))
        rows["key"] = [f"{key}".encode() for key in range(size)]
        made.append(Shard(f"toy/{number}", Path(f"{number}.tar"), 0, size, rows))
    assert [pair.id for pair in Pairs(made)] == [
        f"toy/{number}/{key}" for number, size in enumerate(sizes) for key in range(size)
    ]


@given(
    keys=st.lists(st.text(st.characters(codec="utf-8", min_codepoint=32)), unique=True),
    skipped=st.lists(st.tuples(st.text(), st.text())),
)
def test_a_table_comes_back_from_disk(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], skipped: list[tuple[str, str]]
) -> None:
    path, state = tmp_path_factory.mktemp("index") / "a" / "s.index", ShardState(7, 8)
    width = max((len(key.encode()) for key in keys), default=1)
    rows = np.array(
        [(key.encode(), i, 2 * i, 3 * i, 4 * i) for i, key in enumerate(keys)], row_type(width)
    )
    saved = save_index(path, ShardTable(rows, tuple(skipped)), state)
    found = find_index(path, state)
    assert found == (saved, tuple(skipped))
    assert saved.rows().tolist() == rows.tolist() and saved.pairs == len(keys)
    assert find_index(path, ShardState(7, 9)) is None
    assert find_index(path, ShardState(6, 8)) is None


def test_names_of_members(tmp_path: Path, write_shard: Write, jpeg: Jpeg) -> None:
    names = [
        "folder/a",
        "./b",
        "c.d.e",
        "\u732b",
        "x//y/./z",
        ".hidden",
        "f/._mac",
        "\u00e9 \u00e9",
    ]
    members: dict[str, bytes] = {}
    for name in names:
        members |= {f"{name}.jpg": jpeg(), f"{name}.TXT": b"a wall"}
    for unsafe in ("../up", "/root", "a\\b", "bell\x07"):
        members |= {f"{unsafe}.jpg": jpeg(), f"{unsafe}.txt": b"a wall"}
    members |= {".jpg": jpeg(), ".txt": b"no key", "noname": b"", "a.b/c": b""}
    pairs, skipped = index_shards([write_shard(tmp_path / "s.1.tar", members)], dataset="toy")
    assert [pair.id.removeprefix("toy/s.1/") for pair in pairs] == [
        "folder/a", "b", "c.d.e", "\u732b", "x/y/z", ".hidden", "\u00e9 \u00e9",
    ]  # fmt: skip
    assert skipped == [
        Skipped(f"toy/s.1/{name}", "unsafe name") for name in ("../up", "/root", "a\\b", "bell\x07")
    ]


def test_a_name_that_is_not_utf8_is_left_out(tmp_path: Path, jpeg: Jpeg) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, content in (
            ("\u00e9.jpg", jpeg()),
            ("\u00e9.txt", b"a"),
            ("a.jpg", jpeg()),
            ("a.txt", b"b"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    pairs, skipped = index_shards([path], dataset="toy")
    assert [pair.id for pair in pairs] == ["toy/s/a"]
    assert skipped == [Skipped("toy/s/\\xe9", "unsafe name")]


def test_a_name_that_cannot_be_part_of_an_id_is_refused(shards: list[Path]) -> None:
    for name in ("a/b", "", "..", "a\nb"):
        with pytest.raises(DataError, match="the name of a data set must be one word of a path"):
            index_shards(shards, dataset=name)


def test_two_shards_of_one_name_are_refused(
    shards: list[Path], tmp_path: Path, write_shard: Write, jpeg: Jpeg
) -> None:
    (tmp_path / "more").mkdir()
    other = write_shard(tmp_path / "more" / "part-0.tar", {"a.jpg": jpeg(), "a.txt": b"other"})
    with pytest.raises(
        DataError, match=r"two shards are called toy/part-0: .*more/part-0.tar; ren"
    ):
        index_shards([*shards, other], dataset="toy")
    pairs, _ = index_sets({"toy": shards, "more": [other]})
    assert [pair.id for pair in pairs][-2:] == ["toy/part-2/b", "more/part-0/a"]
    assert len({pair.id for pair in pairs}) == len(pairs) == 7


def test_a_shard_that_is_no_file_or_closed_is_one_line(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.tar").mkdir()
    with pytest.raises(DataError, match=r"folder\.tar: not a file"):
        index_shards([tmp_path / "folder.tar"], dataset="toy")
    with pytest.raises(DataError, match=r"none.tar: no such file; 1 of 4 shards are missing"):
        index_shards([*shards, tmp_path / "none.tar"], dataset="toy")

    def closed(self: Path, *_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", closed)  # the tests may run as root, who may open all
    with pytest.raises(DataError, match=r"part-0.tar: cannot be read \(Permission denied\)"):
        index_shards(shards[:1], dataset="toy")


def test_of_a_repeated_key_the_first_image_and_caption_count(
    tmp_path: Path, write_shard: Write, jpeg: Jpeg, caplog: pytest.LogCaptureFixture
) -> None:
    members = {
        "a.jpg": jpeg((9, 9, 9)),
        "a.txt": b"first",
        "a.png": jpeg((1, 1, 1)),
        "a.text": b"second",
    }
    pairs, skipped = index_shards([write_shard(tmp_path / "s.tar", members)], dataset="toy")
    assert described(pairs) == [("toy/s/a", "first", members["a.jpg"])]
    assert skipped == [Skipped("toy/s/a", "key occurs twice")]
    assert caplog.messages == [
        "1 keys occur twice, their first image and caption are kept; first toy/s/a"
    ]


def test_too_large_a_member_is_left_out(
    tmp_path: Path, write_shard: Write, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groupvit.data.table.LARGEST_CAPTION", 10)
    members = {"a.jpg": jpeg(), "a.txt": b"x" * 11, "b.jpg": jpeg(), "b.txt": b"x" * 10}
    pairs, skipped = index_shards([write_shard(tmp_path / "s.tar", members)], dataset="toy")
    assert [pair.id for pair in pairs] == ["toy/s/b"]
    assert skipped == [Skipped("toy/s/a", "caption too large")]


def test_processes_that_end_are_one_line(
    shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dead:
        def __init__(self, *_: object, **__: object) -> None: ...

        def map(self, *_: object) -> object:
            raise BrokenProcessPool("gone")

        def shutdown(self, **_: object) -> None: ...

    monkeypatch.setattr(indexing, "ProcessPoolExecutor", Dead)
    with pytest.raises(DataError, match=r"the 2 processes that index shards ended \(gone\); a scr"):
        index_shards(shards, dataset="toy", processes=2)


def test_a_progress_bar_is_silent_off_a_terminal(
    shards: list[Path], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    index_shards(shards, dataset="toy")
    assert capsys.readouterr() == ("", "")
