import gzip
import io
import itertools
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import DataMissingError, FormatError, SkipLog, read_pairs
from conceptarchive.inputs import tarmembers, tars
from conceptarchive.inputs.raw import RawPair, is_safe, tidy
from conceptarchive.inputs.tars import tar_pairs

BLOCK = 512
File = tuple[str, bytes]


def tar_bytes(files: Sequence[File], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def three_pairs() -> list[File]:
    return [
        file
        for n in range(3)
        for file in ((f"{n}.jpg", bytes([n]) * 700), (f"{n}.txt", f"caption {n}".encode()))
    ]


def written(folder: Path, data: bytes, name: str = "0.tar") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def with_checksum(header: bytearray, signed: bool = False) -> bytes:
    header[148:156] = b" " * 8
    total = sum(struct.unpack("512b" if signed else "512B", header))
    header[148:156] = b"%06o\0 " % total
    return bytes(header)


def skipped(shard: Path) -> tuple[list[str], dict[str, int]]:
    skips = SkipLog()
    captions = []
    try:
        captions = [pair.caption for pair in read_pairs([shard], skips=skips)]
    except DataMissingError as error:
        assert "no pairs" in str(error)
    return captions, skips.counts()


def test_caption_is_the_text_else_the_field_of_the_json(tmp_path: Path) -> None:
    files = [
        ("both.json", b'{"caption": "of the json"}'),
        ("both.jpg", b"1"),
        ("both.txt", b"of the text"),
        ("json.PNG", b"2"),
        ("json.json", '{"caption": "ein Bär", "url": null}'.encode()),
        ("none.webp", b"3"),
        ("none.json", b'{"caption": null}'),
        ("bad.jpeg", b"4"),
        ("bad.json", b'{"caption": '),
        ("deep.jpeg", b"5"),
        ("deep.json", b"[" * 100_000),
        ("unused.jpg", b"6"),
        ("unused.json", b"not looked at"),
        ("unused.text", b"fine"),
        ("._unused.jpg", b"attributes that macOS keeps"),
        ("half.jpg", b"7"),
        ("half.json", b'{"caption": "\\ud800"}'),
    ]
    shard = written(tmp_path, tar_bytes(files))
    assert skipped(shard) == (
        ["of the text", "ein Bär", "fine"],
        {"damaged json": 2, "no caption": 1, "caption is not UTF-8": 1},
    )


def test_dots_slashes_and_byte_order_marks_are_no_part_of_a_pair(tmp_path: Path) -> None:
    files = [("./a.jpg", b"1"), ("a.txt", "\ufeff a dog\n".encode()), (".//b/./c.jpg", b"2")]
    shard = written(tmp_path, tar_bytes([*files, ("b/c.txt", b"c")]))
    read = list(read_pairs([shard], dataset="set"))
    assert [(pair.id, pair.caption) for pair in read] == [("set/0/a", "a dog"), ("set/0/b/c", "c")]


def test_images_that_are_not_asked_for_are_stepped_over(tmp_path: Path) -> None:
    files = [("a.jpg", b"x" * 3_000_000), ("a.txt", b"a"), ("b.txt", b"b")]
    shard = written(tmp_path, tar_bytes(files))
    assert list(tar_pairs(shard, images=False)) == [
        RawPair("a", b"", b"a"), RawPair("b", None, b"b"),
    ]  # fmt: skip
    assert next(tar_pairs(shard)).image == b"x" * 3_000_000
    cut = written(tmp_path, shard.read_bytes()[:2_000_000])
    with pytest.raises(FormatError, match="ends early, after the start"):
        list(tar_pairs(cut, images=False))


KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=160).filter(
    lambda key: is_safe(key) and tidy(key) == key and not key.rpartition("/")[2].startswith("._")
)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.dictionaries(
        KEYS, st.tuples(st.binary(max_size=1200), st.text(st.characters(exclude_categories=["Cs"])))
    ),
    tar_format=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    caption_first=st.booleans(),
    zipped=st.booleans(),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: dict[str, tuple[bytes, str]],
    tar_format: int,
    caption_first: bool,
    zipped: bool,
) -> None:
    files: list[File] = []
    for key, (image, caption) in pairs.items():
        two = [(f"{key}.jpg", image), (f"{key}.txt", caption.encode())]
        files += reversed(two) if caption_first else two
    data = tar_bytes(files, tar_format)
    shard = tmp_path_factory.mktemp("set") / "7.tar"
    shard.write_bytes(gzip.compress(data, 1) if zipped else data)
    read = [] if not pairs else list(read_pairs([shard], dataset="set"))
    assert [(pair.id, pair.key, pair.image, pair.caption) for pair in read] == [
        (f"set/7/{key}", key, image, caption.removeprefix("\ufeff").strip())
        for key, (image, caption) in pairs.items()
    ]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("images", [False, True])
def test_cut_anywhere_it_is_an_error_or_complete(
    tmp_path: Path, zipped: bool, images: bool
) -> None:
    data = tar_bytes(three_pairs(), tarfile.GNU_FORMAT)
    end = len(data.rstrip(b"\0"))
    end += -end % BLOCK + BLOCK  # the first block of the end marker
    whole = gzip.compress(data, 0) if zipped else data
    want = list(tar_pairs(written(tmp_path, whole), images=images))
    assert len(want) == 3
    errors = 0
    for cut in {*range(0, len(whole), 41), *range(0, len(whole), BLOCK)}:
        shard = written(tmp_path, whole[:cut])
        try:
            assert list(tar_pairs(shard, images=images)) == want
            assert not zipped and cut >= end
        except FormatError as error:
            assert "fetch it again" in str(error)
            errors += 1
    assert errors > end / 41


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 6 * BLOCK), byte=st.integers(0, 255))
def test_no_damaged_byte_loses_a_pair_in_silence(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    data = bytearray(tar_bytes(three_pairs()))
    data[place] = byte
    shard = written(tmp_path_factory.mktemp("set"), bytes(data))
    skips = SkipLog()
    try:
        read = list(read_pairs([shard], skips=skips))
    except FormatError:
        return
    assert len(read) + len(skips.entries) == 3


def test_damaged_header_is_an_error_where_tarfile_stops_in_silence(tmp_path: Path) -> None:
    data = bytearray(tar_bytes(three_pairs()))
    data[8 * BLOCK] ^= 1  # in the name of the fourth member, the second text
    shard = written(tmp_path, bytes(data))
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) < 6
    read = tar_pairs(shard)
    assert next(read).key == "0"
    with pytest.raises(FormatError, match=r"0\.tar: damaged tar after .*checksum.*fetch it again"):
        list(read)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000))
def test_other_bytes_are_no_tar(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    shard = written(tmp_path_factory.mktemp("set"), b"x" + data)
    with pytest.raises(FormatError, match=r"0\.tar: "):
        list(tar_pairs(shard))


def test_empty_unfinished_and_joined_tars_are_errors(tmp_path: Path) -> None:
    whole = tar_bytes(three_pairs())
    for data, told in (
        (b"", "empty file"),
        (whole + bytes(2 << 20), "zero bytes at its end"),
        (whole + whole, "members follow its end marker"),
        (whole + bytes(100), "ends early"),
        (b"\x1f\x8b" + whole, "damaged tar"),
        (gzip.compress(whole)[:-4] + b"abcd", "damaged tar"),
        (b"not a tar at all" * BLOCK, "not a tar"),
    ):
        with pytest.raises(FormatError, match=told):
            list(tar_pairs(written(tmp_path, data)))
    assert list(tar_pairs(written(tmp_path, bytes(2 * BLOCK)))) == []


@pytest.mark.parametrize(
    "key",
    ["/etc/x", "../x", "a/../x", "..", "a\\b", "a\nb", "\x1b[31m", "a\x7f", "\x85", "C:/x", "//x"],
)  # fmt: skip
def test_unsafe_names_are_counted_and_never_become_ids(tmp_path: Path, key: str) -> None:
    files = [(f"{key}.jpg", b"1"), (f"{key}.txt", b"bad"), ("a.jpg", b"1"), ("a.txt", b"good")]
    shard = written(tmp_path, tar_bytes(files))
    skips = SkipLog()
    assert [pair.caption for pair in read_pairs([shard], skips=skips)] == ["good"]
    assert skips.counts() == {"unsafe name": 1}
    assert skips.entries[0][1].isprintable()
    assert sorted(tmp_path.iterdir()) == [shard]


def test_names_that_are_no_text_are_unsafe(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for suffix in ("jpg", "txt"):
            info = tarfile.TarInfo("x")
            info.pax_headers = {"path": f"a\0b.{suffix}"}
            tar.addfile(info)
            tar.addfile(tarfile.TarInfo(os.fsdecode(b"caf\xe9." + suffix.encode())))
    captions, counts = skipped(written(tmp_path, buffer.getvalue()))
    assert captions == []
    assert counts["unsafe name"] == 4  # not next to each other, so four pairs


def test_links_and_devices_are_counted_once_a_pair(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (
            ("symlink", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("device", tarfile.CHRTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("folder", tarfile.DIRTYPE),
            ("file", tarfile.REGTYPE),
        ):
            text = tarfile.TarInfo(f"{name}.txt")
            text.size = 4
            tar.addfile(text, io.BytesIO(b"text"))
            image = tarfile.TarInfo(f"{name}.jpg")
            image.type = kind
            image.linkname = "/etc/passwd"
            image.size = 0 if kind == tarfile.REGTYPE else 700  # links have no data all the same
            tar.addfile(image)
    assert skipped(written(tmp_path, buffer.getvalue())) == (
        ["text"],
        {"link": 2, "not a plain file": 2, "no image": 1},
    )


def test_too_large_members_are_counted_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tars, "MAX_IMAGE_BYTES", 1000)
    monkeypatch.setattr(tars, "MAX_CAPTION_BYTES", 100)
    files = [
        ("a.jpg", bytes(1001)), ("a.txt", b"a"), ("b.jpg", b"b"), ("b.txt", b"b" * 101),
        ("c.jpg", bytes(1000)), ("c.txt", b"c" * 100), ("c.json", b" " * 101),
    ]  # fmt: skip
    for data in (tar_bytes(files), gzip.compress(tar_bytes(files))):
        captions, counts = skipped(written(tmp_path, data))
        assert captions == ["c" * 100]
        assert counts == {"image too large": 1, "caption too large": 1}


def test_size_beyond_the_file_is_an_early_end_and_takes_no_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 50
    for data in (info.tobuf(tarfile.GNU_FORMAT), gzip.compress(info.tobuf(tarfile.GNU_FORMAT))):
        with pytest.raises(FormatError, match="ends early"):
            list(tar_pairs(written(tmp_path, data + bytes(2 * BLOCK))))


def test_a_key_that_comes_again_is_a_duplicate(tmp_path: Path) -> None:
    pair = [("a.jpg", b"1"), ("a.txt", b"first")]
    other = [("b.jpg", b"1"), ("b.txt", b"other")]
    again = [("a.json", b"{}")]
    shard = written(tmp_path, tar_bytes([*pair, *other, *again]))
    assert skipped(shard) == (["first", "other"], {"duplicate key": 1})


def test_headers_of_all_ages_are_read(tmp_path: Path) -> None:
    """Signed checksums, base-256 sizes, a global header, folders with a slash, sparse files."""
    old = bytearray(tarfile.TarInfo("é.jpg/").tobuf(tarfile.USTAR_FORMAT))
    old[156:157] = b"\0"
    image = tarfile.TarInfo("prefix/" * 20 + "ä.jpg")
    image.size = 3
    big = bytearray(image.tobuf(tarfile.USTAR_FORMAT))
    big[124:136] = b"\x80" + (3).to_bytes(11, "big")
    text = tarfile.TarInfo("prefix/" * 20 + "ä.txt")
    text.size = 4
    sparse = tarfile.TarInfo("s.jpg")
    sparse.type = tarfile.GNUTYPE_SPARSE
    sparse.size = 5
    head = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    head[482] = 1
    more = bytearray(BLOCK)
    more[504] = 1
    new = tarfile.TarInfo.create_pax_global_header({"comment": "a=b\nc"})
    data = b"".join([
        new, with_checksum(old, signed=True),
        with_checksum(big, signed=True), b"abc".ljust(BLOCK, b"\0"),
        text.tobuf(tarfile.USTAR_FORMAT), b"good".ljust(BLOCK, b"\0"),
        with_checksum(head), bytes(more), bytes(BLOCK), b"holes".ljust(BLOCK, b"\0"),
        bytes(2 * BLOCK),
    ])  # fmt: skip
    with tarfile.open(written(tmp_path, data)) as tar:
        names = tar.getnames()
    assert [raw.key + ".jpg" for raw in tar_pairs(tmp_path / "0.tar")] == names[1::2]
    assert list(tar_pairs(tmp_path / "0.tar")) == [
        RawPair("prefix/" * 20 + "ä", b"abc", b"good"),
        RawPair("s", b"", None, "not a plain file"),
    ]


@pytest.mark.parametrize(
    ("records", "told"),
    [
        (b"0 a=b\n", "without fields"),
        (b"no records at all", "without fields"),
        (b"99 path=short\n", "without fields"),
        (b"9 path=ab", "without fields"),
        (b"12 size=-10\n", "a size that is no number"),
        (b"11 path=ab\n", "a long name without its file"),
        (b"x" * 2_000_000, "an extended header of 2000000 bytes"),
    ],
)
def test_damaged_extended_headers_are_errors(tmp_path: Path, records: bytes, told: str) -> None:
    info = tarfile.TarInfo("x")
    info.type = tarfile.XHDTYPE
    info.size = len(records)
    body = records + bytes(-len(records) % BLOCK)
    member = b"" if b"long" in told.encode() else tarfile.TarInfo("a.jpg").tobuf()
    shard = written(tmp_path, info.tobuf(tarfile.USTAR_FORMAT) + body + member + bytes(2 * BLOCK))
    with pytest.raises(FormatError, match=told):
        list(tar_pairs(shard))


@contextmanager
def no_rights() -> Iterator[None]:
    """As a user who may not read what is closed; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    shard = written(tmp_path, tar_bytes(three_pairs()))
    shard.chmod(0)
    with no_rights(), pytest.raises(DataMissingError, match=r"cannot be opened.*permissions"):
        list(read_pairs([shard]))
    with pytest.raises(DataMissingError, match="no such shard"):
        list(read_pairs([tmp_path / "1.tar"]))
    os.mkfifo(tmp_path / "2.tar")
    with pytest.raises(FormatError, match="neither a file nor a folder"):
        list(read_pairs([tmp_path / "2.tar"]))


def test_a_disk_error_in_the_middle_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 6 * BLOCK:
                raise OSError(5, "Input/output error")
            return super().read(size)

        def fileno(self) -> int:
            return file.fileno()

    shard = written(tmp_path, tar_bytes(three_pairs()))
    with shard.open("rb") as file:
        monkeypatch.setattr(tarmembers, "_open", lambda shard: Failing(shard.read_bytes()))
        read = tar_pairs(shard)
        assert next(read).key == "0"
        with pytest.raises(FormatError, match=r"cannot be read after .*Input/output error"):
            list(read)


def test_checksum_by_adler_is_the_sum_of_bytes() -> None:
    for fill, place in itertools.product((0, 1, 127, 255), (0, 100, 511)):
        block = bytearray([fill]) * BLOCK
        block[place] = 7
        told = (zlib.adler32(bytes(block)) & 0xFFFF) - 1
        assert (told - sum(block)) % tarmembers.ADLER_BASE == 0
