"""The reader of tar headers, against Python's, and on damage that Python's does not see."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groupvit.data.tar import TarError, TarReader

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def write(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def read(path: Path) -> dict[str, bytes]:
    with path.open("rb") as file:
        reader = TarReader(file)
        return {member.name.decode(): reader.read(member.offset, member.size) for member in reader}


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(
    members=st.dictionaries(NAMES, st.binary(max_size=1200), max_size=5),
    form=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_python_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes], form: int
) -> None:
    members = {f"m/{name}": content for name, content in members.items()}
    assert read(write(tmp_path_factory.mktemp("tar") / "a.tar", members, form)) == members


@pytest.mark.parametrize("form", FORMATS)
def test_long_names_and_folders_and_links(tmp_path: Path, form: int) -> None:
    folder, name = "d" * 90, "k" * 60 + ".jpg"  # together longer than a header has room for
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for kind, what in ((tarfile.DIRTYPE, "plain"), (tarfile.FIFOTYPE, "pipe")):
            info = tarfile.TarInfo(what)
            info.type = kind
            tar.addfile(info)
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("link.jpg")
            info.type, info.linkname = kind, "l" * (150 if form != tarfile.USTAR_FORMAT else 90)
            tar.addfile(info)
        info = tarfile.TarInfo(f"{folder}/{name}")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
        info = tarfile.TarInfo("z.txt")
        tar.addfile(info)
    assert read(path) == {f"{folder}/{name}": b"abc", "z.txt": b""}


def test_a_size_that_only_an_extended_header_has_room_for(tmp_path: Path) -> None:
    size = 9 << 30  # octal digits end at 8 GiB
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        info = tarfile.TarInfo("large.bin")
        info.size = size
        with path.open("wb") as file:
            head = info.tobuf(form)
            file.write(head)
            file.seek(len(head) + size)  # a hole: it takes no room
            file.write(tarfile.TarInfo("after.txt").tobuf(form) + bytes(1024))
        with path.open("rb") as file:
            found = [(member.name, member.size) for member in TarReader(file)]
        assert found == [(b"large.bin", size), (b"after.txt", 0)]


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"a.jpg": b"x" * 600, "a.txt": b"y", "b.txt": b"z"})
    content = bytearray(path.read_bytes())
    at = 512 + 1024  # the header of a.txt
    for change, said in (
        (b"\xff", f"damaged header at byte {at}"),
        (bytes(512), f"goes on after its end at byte {at}"),
    ):
        path.write_bytes(content[:at] + change + content[at + len(change) :])
        with pytest.raises(TarError, match=said):
            read(path)
    with tarfile.open(path) as tar:
        assert tar.getnames() == ["a.jpg"]  # Python's reader says nothing


def test_a_tar_that_ends_inside_a_member_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", {"a.txt": b"a", "b.jpg": b"x" * 2000})
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(TarError, match="ends inside the member at byte 1024"):
        read(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no end of archive at byte 0"),
        (b"\x1f\x8b" + bytes(range(256)) * 3, "damaged header at byte 0"),
        (b"x" * 2000, "damaged header at byte 0"),
    ],
)
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(TarError, match=said):
        read(tmp_path / "a.tar")


def test_sparse_members_are_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(TarError, match="sparse member or part of one at byte 0"):
        read(tmp_path / "a.tar")
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"GNU.sparse.major": "1"}
    (tmp_path / "b.tar").write_bytes(info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    with pytest.raises(TarError, match="sparse member at byte 512"):
        read(tmp_path / "b.tar")


def test_large_members_are_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tar", {"a.jpg": bytes(1 << 22), "a.txt": b"a", "b.jpg": b"b"})
    asked: list[int] = []
    real = os.pread

    def counted(file: int, size: int, offset: int) -> bytes:
        asked.append(size)
        return real(file, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert list(read(path)) == ["a.jpg", "a.txt", "b.jpg"]
    assert len(asked) < 8  # of four megabytes, a few windows; the content of a.jpg for `read`
