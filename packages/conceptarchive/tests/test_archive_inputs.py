from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptarchive import DataMissingError, UsageError, find_shards
from conceptarchive.inputs.paths import expand_paths, kind_of, shard_stem


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(root: Path, *patterns: str) -> list[str]:
    shards = find_shards(*(str(root / pattern) for pattern in patterns))
    return [shard.relative_to(root).as_posix() for shard in shards]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two sets as img2dataset leaves them, one of them with a shard missing."""
    for number in (0, 1, 2, 10):
        touch(tmp_path, *(f"cc3m/{number:05d}{end}" for end in (".tar", ".parquet", "_stats.json")))
    touch(tmp_path, "cc12m/00000.tar", "cc12m/00002.tar")
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "want"),
    [
        (["cc3m"], ["cc3m/00000.tar", "cc3m/00001.tar", "cc3m/00002.tar", "cc3m/00010.tar"]),
        (["cc3m/*1*.tar"], ["cc3m/00001.tar", "cc3m/00010.tar"]),
        (["cc3m/0000[12].tar"], ["cc3m/00001.tar", "cc3m/00002.tar"]),
        (["cc3m/{00000..00002}.tar"], ["cc3m/00000.tar", "cc3m/00001.tar", "cc3m/00002.tar"]),
        (["cc12m/0000{2..0..2}.tar"], ["cc12m/00000.tar", "cc12m/00002.tar"]),
        (["{cc3m,cc12m}/*2.tar"], ["cc12m/00002.tar", "cc3m/00002.tar"]),
        (["cc3m/*2.tar", "cc12m/*2.tar"], ["cc3m/00002.tar", "cc12m/00002.tar"]),
        (["cc3m/00001.tar", "cc3m/{00000,00001}.tar"], ["cc3m/00001.tar", "cc3m/00000.tar"]),
        (["**/*0.tar"], ["cc12m/00000.tar", "cc3m/00000.tar", "cc3m/00010.tar"]),
        (["cc12m/**"], ["cc12m/00000.tar", "cc12m/00002.tar"]),
        (["cc12*"], ["cc12m/00000.tar", "cc12m/00002.tar"]),
        (["cc3m/*00"], None),
        (["cc3m/0000[0-1]*"], ["cc3m/00000.tar", "cc3m/00001.tar"]),  # tars win
        (["cc3m/*0.parquet"], ["cc3m/00000.parquet", "cc3m/00010.parquet"]),
    ],
)  # fmt: skip
def test_patterns_name_shards_in_order(
    root: Path, patterns: list[str], want: list[str] | None
) -> None:
    if want is None:
        with pytest.raises(DataMissingError, match="nothing matches"):
            found(root, *patterns)
    else:
        assert found(root, *patterns) == want


def test_a_path_object_and_home_work_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_shards(root / "cc3m" / "{00000,00001}.tar") == [
        root / "cc3m/00000.tar",
        root / "cc3m/00001.tar",
    ]
    monkeypatch.setenv("HOME", str(root))
    assert find_shards("~/cc12m") == [root / "cc12m/00000.tar", root / "cc12m/00002.tar"]
    monkeypatch.chdir(root / "cc12m")
    assert find_shards(".") == [Path("00000.tar"), Path("00002.tar")]


def test_missing_members_of_a_range_are_counted(root: Path) -> None:
    with pytest.raises(
        DataMissingError, match=r"cc12m/00001\.tar: no such file; 3 of the 5 names in .*missing"
    ):
        found(root, "cc12m/{00000..00004}.tar")
    with pytest.raises(DataMissingError, match=r"00001\.tar: no such file or folder"):
        found(root, "cc12m/00001.tar")
    with pytest.raises(DataMissingError, match="nothing matches"):
        found(root, "{cc3m,cc4m}/*.tar")
    with pytest.raises(DataMissingError, match="not a local path"):
        find_shards("s3://bucket/00000.tar")
    with pytest.raises(UsageError, match="do not close"):
        found(root, "cc3m/{00000..00002}.{tar")
    for nothing in ([], [""]):
        with pytest.raises(UsageError, match="no input given"):
            find_shards(*nothing)


def test_names_that_exist_are_taken_as_they_are(tmp_path: Path) -> None:
    names = ["a[1].tar", "a1.tar", "{b,c}.tar", "b.tar", "c.tar", "d*.tar", "de.tar"]
    touch(tmp_path, *names, "set [1]/{x}/0.tar", "set [1]/{x}/1.tar")
    for name in names:
        assert found(tmp_path, name) == [name]
    assert found(tmp_path, "set [1]/{x}/*.tar") == ["set [1]/{x}/0.tar", "set [1]/{x}/1.tar"]


def test_a_file_with_two_names_comes_once(root: Path) -> None:
    (root / "linked").symlink_to(root / "cc3m")
    (root / "cc12m/00009.tar").symlink_to(root / "cc12m/00000.tar")
    assert found(root, "linked/*1.tar", "cc3m/*1.tar") == ["linked/00001.tar"]
    assert found(root, "cc12m") == ["cc12m/00000.tar", "cc12m/00002.tar"]


def test_folders_give_tars_else_tables_else_themselves(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.tgz", "a/0.tar.gz", "a/t.csv", "a/.hidden.tar", "a/p.jpg")
    touch(tmp_path, "b/t.tsv", "b/t.csv", "b/t.parquet", "b/t.jsonl", "b/p.jpg", "b/notes.txt")
    touch(tmp_path, "c/deep/er/p.WEBP", "c/notes.txt")
    touch(tmp_path, "d/00000/000000000.jpg", "d/00000.parquet", "d/00000_stats.json")
    touch(tmp_path, "e/notes.txt", "f/g/h/0.tar")
    assert found(tmp_path, "a") == ["a/0.tar.gz", "a/1.tgz"]
    assert found(tmp_path, "b") == ["b/t.csv", "b/t.jsonl", "b/t.parquet", "b/t.tsv"]
    assert found(tmp_path, "c") == ["c"]
    assert found(tmp_path, "d") == ["d"]  # the table tells about the images in d/00000
    with pytest.raises(DataMissingError, match=r"no \*\.tar, \*\.tsv.*or images in this folder"):
        found(tmp_path, "e")
    with pytest.raises(DataMissingError, match=r"f: no \*\.tar.*but in .*f/g/h; give that"):
        found(tmp_path, "f")
    assert found(tmp_path, "f/**") == ["f/g/h/0.tar"]
    assert found(tmp_path, "[bce]") == [*found(tmp_path, "b"), "c"]


def test_globs_over_folders_of_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/0.jpg", "a/in/1.jpg", "b/in/2.jpg", "b/README", "c/README", "3.jpg")
    assert found(tmp_path, "[abc]") == ["a", "b"]
    assert found(tmp_path, "b/**") == ["b/in"]
    assert caplog.text == ""
    assert found(tmp_path, "[b3]*") == ["b"]
    assert "left out 1 images" in caplog.text
    assert found(tmp_path, "**") == ["."]  # its own image makes the folder one shard
    with pytest.raises(DataMissingError, match=r"none of its 1 matches.*first: .*3\.jpg"):
        found(tmp_path, "*.jpg")


def test_loops_of_links_and_broken_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/notes.txt", "c/d/p.jpg")
    (tmp_path / "a/b/again").symlink_to(tmp_path / "a")
    (tmp_path / "a/gone.tar").symlink_to(tmp_path / "nowhere.tar")
    with pytest.raises(DataMissingError, match=r"gone\.tar: no such file"):
        found(tmp_path, "a/gone.tar")
    (tmp_path / "a/gone.tar").unlink()
    with pytest.raises(DataMissingError, match="in this folder"):
        found(tmp_path, "a")
    (tmp_path / "a/b/pictures").symlink_to(tmp_path / "c")
    assert found(tmp_path, "a") == ["a"]


def test_expand_paths_leaves_folders_whole(root: Path) -> None:
    assert expand_paths(root / "cc*") == [root / "cc12m", root / "cc3m"]
    assert expand_paths(f"{root}/{{cc3m,cc12m}}", root / "cc3m") == [root / "cc12m", root / "cc3m"]
    assert expand_paths("") == []
    with pytest.raises(DataMissingError, match="no such file or folder"):
        expand_paths(root / "cc4m")


@settings(max_examples=40, deadline=None)
@given(
    numbers=st.sets(st.integers(0, 40), min_size=1, max_size=10),
    first=st.integers(0, 40),
    last=st.integers(0, 40),
)
def test_ranges_give_all_or_name_the_first_missing(
    tmp_path_factory: pytest.TempPathFactory, numbers: set[int], first: int, last: int
) -> None:
    folder = tmp_path_factory.mktemp("set")
    touch(folder, *(f"{number:03d}.tar" for number in numbers))
    step = 1 if first <= last else -1
    wanted = range(first, last + step, step)
    pattern = folder / f"{{{first:03d}..{last:03d}}}.tar"
    missing = [number for number in wanted if number not in numbers]
    if missing:
        with pytest.raises(DataMissingError) as caught:
            find_shards(pattern)
        assert f"{missing[0]:03d}.tar: no such file" in str(caught.value)
        assert len(wanted) == 1 or f"{len(missing)} of the {len(wanted)} " in str(caught.value)
    else:
        assert find_shards(pattern) == [folder / f"{number:03d}.tar" for number in sorted(wanted)]


def test_kinds_and_stems_of_names() -> None:
    names = ["0.TAR", "0.tar.gz", "a.tgz", "t.Csv", "p.JPEG", "x.gz"]
    assert [kind_of(name) for name in names] == [
        "tar", "tar", "tar", "table", "image", "",
    ]  # fmt: skip
    assert [shard_stem(name) for name in ("0.tar.gz", "a.b.TSV", "v1.2", ".tar", "a.txt")] == [
        "0", "a.b", "v1.2", ".tar", "a.txt",
    ]  # fmt: skip
