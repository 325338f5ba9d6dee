import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conceptarchive import ArchiveConfig, ConceptArchive, DataMissingError, IncompleteError
from conceptarchive.archive.check import check_archive, first_fault
from conceptarchive.archive.schema import (
    INDEX,
    INDEX_SCHEMA,
    MANIFEST,
    POOL_ROWS,
    SHARD_SCHEMA,
    described,
    file_metadata,
    hash_file,
    read_manifest,
    write_arrow,
    write_manifest,
)
from conceptarchive.archive.shards import first_at
from conceptarchive.errors import ConceptArchiveError, FormatError

WriteArchive = Callable[..., Path]
MadeRows = tuple[list[str], list[Any], list[Any]]
MadePairs = Callable[..., MadeRows]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # no surrogates: not UTF-8


@pytest.fixture
def made(
    tmp_path: Path, write_archive: WriteArchive, made_pairs: MadePairs
) -> tuple[Path, MadeRows]:
    rows = made_pairs()
    return write_archive(tmp_path / "archive", *rows), rows


def test_reading_by_key(made: tuple[Path, MadeRows]) -> None:
    folder, (names, pairs, _) = made
    archive = ConceptArchive.open(folder)
    assert len(archive) == 30
    for key, caption, concepts, _ in pairs:
        assert key in archive
        assert archive.caption(key) == caption
        assert archive.concepts(key) == [(names[c], score, group) for c, score, group in concepts]
        assert archive.entry(key) == tuple(
            [list(part) for part in zip(*concepts, strict=True)]
        ) or (archive.entry(key) == ([], [], []) and not concepts)
    assert "set/a/none" not in archive
    assert 3 not in archive
    assert "\udc80" not in archive
    assert archive.config == ArchiveConfig()
    assert archive.vocabulary.names == tuple(names)


def test_a_missing_key_is_named(made: tuple[Path, MadeRows]) -> None:
    archive = ConceptArchive.open(made[0])
    for read in (archive.concepts, archive.caption, archive.references):
        with pytest.raises(KeyError, match=r"'x' is not in .*keys look like 'set/a/0000'"):
            read("x")
    for missing in ("y", "", "\udc80"):
        with pytest.raises(KeyError) as raised:
            archive.rows(["set/a/0003", missing, "z"])
        assert raised.value.args[0].startswith(f"{missing!r} is not in ")


def test_keys_are_a_lazy_list(made: tuple[Path, MadeRows]) -> None:
    folder, (_, pairs, _) = made
    archive, expected = ConceptArchive.open(folder), [key for key, *_ in pairs]
    assert archive.keys[0] == expected[0]
    assert list(archive._shards._open) == [0]  # the others were not even mapped
    assert archive.keys == expected
    assert list(archive.keys) == expected
    assert archive.keys[3:19] == expected[3:19]
    assert archive.keys[::-7] == expected[::-7]
    assert archive.keys[-1] == expected[-1]
    assert archive.keys[30:] == []
    assert archive.keys != expected[:-1]
    assert archive.keys != [*expected[:-1], "x"]
    assert expected[4] in archive.keys
    for outside in (30, -31):
        with pytest.raises(IndexError, match="of 30 keys"):
            archive.keys[outside]


def test_a_batch_is_its_pairs(made: tuple[Path, MadeRows]) -> None:
    folder, (_, pairs, _) = made
    archive = ConceptArchive.open(folder)
    order = np.random.default_rng(0).integers(0, 30, 100)
    keys = [pairs[row][0] for row in order]
    assert archive.rows(keys).tolist() == order.tolist()
    batch = archive.batch(keys)
    types = [part.dtype.name for part in batch]
    assert types == ["int64", "uint32", "float32", "uint8"]
    for at, key in enumerate(keys):
        part = slice(batch.offsets[at], batch.offsets[at + 1])
        one = tuple(column[part].tolist() for column in batch[1:])
        assert one == archive.entry(key)
    assert batch.offsets[-1] == len(batch.scores) == sum(len(pairs[row][2]) for row in order)
    empty = archive.batch([])
    assert (empty.offsets.tolist(), len(empty.concepts)) == ([0], 0)


def test_witnesses_are_the_references_that_say_it(made: tuple[Path, MadeRows]) -> None:
    folder, (names, pairs, pool) = made
    archive = ConceptArchive.open(folder)
    for key, _, concepts, near in pairs:
        assert archive.references(key) == [(pool[row][0], cosine) for row, cosine in near]
        for concept, *_ in concepts:
            expected = [
                (pool[row][0], pool[row][1], cosine, dict(pool[row][2])[concept])
                for row, cosine in near
                if concept in dict(pool[row][2])
            ]
            assert archive.witness_captions(key, names[concept]) == expected
            assert archive.witnesses(key, names[concept]) == [found[0] for found in expected]
            assert expected  # that is where it came from
    with pytest.raises(KeyError, match="'unicorn' is not in the vocabulary"):
        archive.witnesses(pairs[0][0], "unicorn")


def test_neighbours_as_a_search_gives_them(made: tuple[Path, MadeRows]) -> None:
    folder, (_, pairs, _) = made
    found = ConceptArchive.open(folder).neighbours(slice(3, 11), 6)
    assert found.indices.shape == found.similarity.shape == (8, 6)
    for at, (*_, near) in enumerate(pairs[3:11]):
        assert found.indices[at].tolist() == [row for row, _ in near] + [-1, -1]
        assert found.similarity[at].tolist() == [cosine for _, cosine in near] + [-np.inf] * 2
    short = ConceptArchive.open(folder).neighbours(slice(0, 30), 1)
    assert short.indices[:, 0].tolist() == list(range(30))


def test_pool_of_several_shards(tmp_path: Path, write_archive: WriteArchive) -> None:
    pool: list[Any] = [(f"p{row}", "", []) for row in range(POOL_ROWS + 2)]
    pool[-1] = ("last", "a dog", [(0, 0.25)])
    pairs = [("k", "c", [(0, 1.5, 0)], [(POOL_ROWS + 1, 0.5), (0, 0.25)])]
    archive = check_archive(write_archive(tmp_path, ["dog"], pairs, pool))
    assert archive.witness_captions("k", "dog") == [("last", "a dog", 0.5, 0.25)]
    assert archive.references("k") == [("last", 0.5), ("p0", 0.25)]


def test_files_are_arrow_and_explain_themselves(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    archive = ConceptArchive.open(folder)
    paths = sorted(folder.glob("archive-*.arrow"))
    assert [path.name for path in paths] == [f"archive-0000{n}.arrow" for n in range(8)]
    table = pa.ipc.open_file(paths[1]).read_all()
    assert {field.name: str(field.type) for field in table.schema} == {
        "key": "string",
        "caption": "string",
        "concepts": "list<item: uint32>",
        "scores": "list<item: float>",
        "clusters": "list<item: uint8>",
        "neighbours": "list<item: uint64>",
        "similarity": "list<item: float>",
    }
    metadata = table.schema.metadata
    assert metadata[b"version"] == b"2"
    assert metadata[b"encoder"] == b"tiny"
    assert metadata[b"vocabulary_sha256"].decode() == archive.vocabulary.sha256
    assert metadata[b"fingerprint"].decode() == archive.manifest["fingerprint"]
    assert json.loads(metadata[b"config"]) == archive.manifest["config"]


def test_no_file_is_held_open(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("counts open files where the system lists them")
    before = len(list(handles.iterdir()))
    archive = ConceptArchive.open(folder)
    archive.batch(list(archive.keys))
    assert len(list(handles.iterdir())) == before
    assert len(archive._shards._open) == 8


def test_an_archive_is_pickled_by_its_folder(made: tuple[Path, MadeRows]) -> None:
    archive = ConceptArchive.open(made[0])
    key = archive.keys[7]
    data = pickle.dumps(archive)
    assert len(data) < 10_000
    assert pickle.loads(data).entry(key) == archive.entry(key)


def test_opening_does_not_import_pandas(made: tuple[Path, MadeRows]) -> None:
    folder, (_, pairs, _) = made
    code = (
        "import sys, pathlib\n"
        "from conceptarchive.archive.reader import ConceptArchive\n"
        f"archive = ConceptArchive.open(pathlib.Path({str(folder)!r}))\n"
        "archive.concepts(archive.keys[0])\n"
        "print(archive.caption(archive.keys[1]), 'pandas' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == f"{pairs[1][1]} False\n"  # it would take seconds


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    keys=st.lists(TEXT, max_size=9, unique=True),
    captions=st.lists(TEXT, min_size=9, max_size=9),
    sizes=st.lists(st.integers(0, 3), min_size=9, max_size=9),
    shard_rows=st.integers(1, 10),
)
def test_whatever_is_written_is_read_back(
    keys: list[str],
    captions: list[str],
    sizes: list[int],
    shard_rows: int,
    tmp_path_factory: pytest.TempPathFactory,
    write_archive: WriteArchive,
) -> None:
    pairs = [
        (key, caption, [(c, 1.5 - c, c) for c in range(size)], [(0, 0.5)] * size)
        for key, caption, size in zip(keys, captions, sizes, strict=False)
    ]
    pool = [("p", captions[0], [(2, 0.5), (0, 0.25)])]
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder, ["a", "b", "c"], pairs, pool, shard_rows=shard_rows)
    archive = check_archive(folder)
    assert archive.keys == keys
    assert archive.rows(keys[::-1]).tolist() == list(range(len(keys)))[::-1]
    batch = archive.batch(keys)
    assert np.diff(batch.offsets).tolist() == sizes[: len(keys)]
    assert batch.concepts.tolist() == [c for size in sizes[: len(keys)] for c in range(size)]
    for key, caption, size in zip(keys, captions, sizes, strict=False):
        assert archive.caption(key) == caption
        assert [found.name for found in archive.concepts(key)] == ["a", "b", "c"][:size]
        assert archive.references(key) == [("p", 0.5)] * size
        assert archive.witness_captions(key, "a") == [("p", captions[0], 0.5, 0.25)] * size
    assert "no such key, longer than eight" not in archive


def test_a_concept_of_no_name_is_one_line(write_archive: WriteArchive, tmp_path: Path) -> None:
    pairs = [("k", "", [(3, 1.0, 0)], [(0, 0.5)])]
    write_archive(tmp_path, ["a", "b", "c"], pairs, [("p", "", [(0, 0.5)])], shard_rows=4)
    with pytest.raises(FormatError, match="k has a concept of no name; run check"):
        ConceptArchive.open(tmp_path).concepts("k")


def test_keys_of_equal_hash_are_told_apart(
    tmp_path: Path,
    write_archive: WriteArchive,
    made_pairs: MadePairs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def length(keys: Any) -> Any:
        return np.array([len(str(key)) for key in keys], np.uint64)

    monkeypatch.setattr("conceptarchive.archive.reader.hash_key", len)
    monkeypatch.setattr("conceptarchive.archive.reader.hash_texts", length)
    monkeypatch.setattr("conceptarchive.archive.check.hash_texts", length)
    names, pairs, pool = made_pairs()
    folder = write_archive(tmp_path, names, pairs, pool)
    rewrite_index(folder, np.full(30, 10, np.uint64), np.arange(30, dtype=np.uint64))
    archive = check_archive(folder)
    assert archive.rows([key for key, *_ in pairs]).tolist() == list(range(30))
    assert [archive.caption(key) for key, *_ in pairs] == [caption for _, caption, *_ in pairs]
    assert "set/a/9999" not in archive
    with pytest.raises(KeyError, match="'set/a/9999' is not in"):
        archive.rows(["set/a/0001", "set/a/9999"])


@given(
    hashes=st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 3)), max_size=40),
    wanted=st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 4)),
)
@settings(deadline=None)
def test_search_finds_the_first_place(hashes: list[int], wanted: int) -> None:
    for number in [wanted, *hashes]:
        array = np.sort(np.array(hashes, np.uint64))
        array.flags.writeable = False
        expected = int(np.searchsorted(array, np.uint64(number)))
        assert first_at(array, np.uint64(number)) == expected


def test_unknown_versions_and_missing_folders(tmp_path: Path, made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    manifest = read_manifest(folder)
    with pytest.raises(DataMissingError, match="build an archive first"):
        ConceptArchive.open(tmp_path / "nowhere")
    path = folder / MANIFEST
    changes: list[tuple[dict[str, Any], str]] = [
        ({"version": 1}, r"is conceptarchive version 1, this release reads conceptarchive 2"),
        ({"version": 9}, r"version 9, this release reads"),
        ({"rows": "many"}, r"'rows' must be of type int, got 'many'"),
        ({"files": None}, r"'files' must be of type dict, got None"),
        ({"shard_rows": 0}, r"'shard_rows' is out of range"),
    ]
    for change, message in changes:
        path.write_text(json.dumps(manifest | change), encoding="utf-8")
        with pytest.raises(FormatError, match=rf"manifest\.json: .*{message}"):
            ConceptArchive.open(folder)
    for text in ("[]", "{", "\udc80"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(FormatError, match="not the manifest"):
            ConceptArchive.open(folder)


def test_an_unfinished_build_is_said_to_be_so(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    write_manifest(folder, described(read_manifest(folder)), complete=False)
    with pytest.raises(IncompleteError, match="8 shards built; run the build again to go on"):
        ConceptArchive.open(folder)


def test_a_damaged_shard_raises_and_never_crashes(made: tuple[Path, MadeRows]) -> None:
    folder, (_, pairs, _) = made
    path = folder / "archive-00002.arrow"
    data = path.read_bytes()
    keys = [key for key, *_ in pairs]
    outcomes = set()
    for at in range(0, len(data), 3):
        broken = bytearray(data)
        broken[at] ^= 0xFF
        path.write_bytes(broken)
        outcomes.add(read_all(folder, keys))
    assert {"read", "FormatError"} <= outcomes <= {"read", "FormatError", "KeyError"}
    path.write_bytes(b"not arrow")
    with pytest.raises(FormatError, match=r"archive-00002\.arrow: not an Arrow file"):
        list(ConceptArchive.open(folder).keys)
    path.unlink()
    with pytest.raises(FormatError, match=r"archive-00002\.arrow: is missing"):
        list(ConceptArchive.open(folder).keys)


def read_all(folder: Path, keys: list[str]) -> str:
    """Read every value; the name of the error, or `read`."""
    try:
        archive = ConceptArchive.open(folder)
        archive.batch(keys)
        for key in keys:
            archive.entry(key), archive.caption(key), archive.references(key)
    except (FormatError, KeyError) as error:
        return type(error).__name__
    return "read"


def test_every_fault_of_the_files_is_found(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    assert len(check_archive(folder)) == 30
    shard = folder / "archive-00001.arrow"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    refused(folder, r"archive-00001\.arrow: has \d+ bytes, the manifest says \d+")
    broken = bytearray(data)
    broken[len(data) // 2] ^= 1
    shard.write_bytes(broken)
    refused(folder, r"archive-00001\.arrow: checksum differs")
    shard.unlink()
    refused(folder, r"archive-00001\.arrow: is missing")
    shard.write_bytes((folder / "archive-00002.arrow").read_bytes())
    refresh(folder)
    refused(folder, r"index\.arrow: does not find 'set/a/0008'|two rows")
    shard.write_bytes((folder / "pool-00000.arrow").read_bytes())
    refresh(folder)
    refused(folder, r"archive-00001\.arrow: columns are not those of an archive")
    shard.write_bytes((folder / "archive-00007.arrow").read_bytes())
    refresh(folder)
    refused(folder, r"archive-00001\.arrow: has 2 rows, the manifest says 4")


def test_another_builds_file_is_found(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    path = folder / "archive-00001.arrow"
    batch = pa.ipc.open_file(path).get_batch(0)
    metadata = {key.decode(): value.decode() for key, value in batch.schema.metadata.items()}
    write_arrow(path, SHARD_SCHEMA, batch.columns, metadata | {"fingerprint": "0" * 64})
    refresh(folder)
    refused(folder, r"archive-00001\.arrow: is of another build, by its fingerprint")
    (folder / "vocabulary.txt").write_text("other\n", encoding="utf-8")
    refresh(folder)
    refused(folder, r"vocabulary\.txt: not the vocabulary of this archive")


@pytest.mark.parametrize(
    ("concepts", "near", "message"),
    [
        ([(0, 1.0, 0), (12, 0.5, 1)], [], r"'k' has a concept that is not in the vocabulary"),
        ([(0, 1.0, 0), (1, np.nan, 1)], [], r"'k' has a score that is not a finite number"),
        ([(0, 1.0, 0), (1, 1.5, 1)], [], r"'k' has concepts that are not sorted by score"),
        ([(0, 1.0, 0), (1, 0.5, 2)], [], r"'k' has clusters that are not numbered from 0"),
        ([(0, 1.0, 1)], [], r"'k' has clusters that are not numbered from 0"),
        ([(3, 1.0, 0), (3, 0.5, 0)], [], r"'k' has a concept twice"),
        ([], [(1, 0.5)], r"has a reference image that is not in the pool"),
        ([], [(0, np.inf)], r"has a similarity that is not a finite number"),
    ],
)
def test_every_fault_of_the_values_is_found(
    concepts: list[Any], near: list[Any], message: str, tmp_path: Path, write_archive: WriteArchive
) -> None:
    names = [f"w{number}" for number in range(12)]
    good = ("good", "", [(3, 2.0, 0), (2, 2.0, 1), (1, 1.0, 0)], [(0, 0.5)])
    pairs = [good, ("k", "", concepts, near)]
    folder = write_archive(tmp_path, names, pairs, [("p", "", [(11, 0.5)])])
    refused(folder, rf"archive-00000\.arrow: .*{message}")


def test_faults_of_the_pool_are_found(tmp_path: Path, write_archive: WriteArchive) -> None:
    for mention, message in [((1, 0.5), "not in the vocabulary"), ((0, np.nan), "response")]:
        folder = tmp_path / message.split()[0]
        write_archive(folder, ["dog"], [("k", "", [], [])], [("p", "", [mention])])
        refused(folder, rf"pool-00000\.arrow: .*{message}")


def test_faults_of_the_index_are_found(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    hashes, rows = ConceptArchive.open(folder).index
    hashes, rows = hashes.copy(), rows.copy()
    rewrite_index(folder, hashes[::-1], rows[::-1])
    refused(folder, r"index\.arrow: (is not sorted|does not find)")
    swapped = rows.copy()
    swapped[[3, 4]] = rows[[4, 3]]
    rewrite_index(folder, hashes, swapped)
    refused(folder, r"index\.arrow: does not find")
    far = rows.copy()
    far[5] = 30
    rewrite_index(folder, hashes, far)
    refused(folder, r"index\.arrow: (does not find|points past)")
    rewrite_index(folder, hashes[:-1], rows[:-1])
    with pytest.raises(FormatError, match=r"index\.arrow: has 29 rows, the manifest says 30"):
        ConceptArchive.open(folder)


def test_a_key_of_two_rows_is_found(tmp_path: Path, write_archive: WriteArchive) -> None:
    pairs: list[Any] = [(key, "", [], []) for key in ("a", "b", "a")]
    folder = write_archive(tmp_path, ["dog"], pairs, [("p", "", [])])
    refused(folder, r"index\.arrow: 'a' is the key of two rows")


def test_a_missing_file_in_the_manifest_is_found(made: tuple[Path, MadeRows]) -> None:
    folder, _ = made
    manifest = read_manifest(folder)
    files = dict(manifest["files"])
    del files["pool-00000.arrow"]
    write_manifest(folder, described(manifest), complete=True, files=files)
    refused(folder, r"manifest\.json: leaves out pool-00000\.arrow")
    files = manifest["files"] | {"archive-00008.arrow": files[INDEX]}
    write_manifest(folder, described(manifest), complete=True, files=files)
    refused(folder, r"manifest\.json: lists archive-00008\.arrow")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(file=st.integers(0, 11), place=st.integers(0, 10**9), change=st.integers(1, 255))
def test_one_changed_byte_anywhere_is_found(
    file: int, place: int, change: int, made: tuple[Path, MadeRows]
) -> None:
    folder, _ = made
    paths = sorted(folder.iterdir())
    assert len(paths) == 12
    path = paths[file % len(paths)]
    data = path.read_bytes()
    broken = bytearray(data)
    broken[place % len(data)] ^= change
    path.write_bytes(broken)
    try:
        with pytest.raises(ConceptArchiveError) as raised:
            check_archive(folder)
        assert "\n" not in str(raised.value).replace("\\n", "")
    finally:
        path.write_bytes(data)


def test_first_fault_of_no_pairs() -> None:
    none = np.zeros(0, np.uint32), np.zeros(0, np.float32), np.zeros(0, np.uint8)
    assert first_fault(np.zeros(1, np.int64), *none, 5) == (-1, 0)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, signal, pathlib, numpy as np, pyarrow as pa\n"
        "from conceptarchive.archive.schema import INDEX_SCHEMA, write_arrow\n"
        "from conceptarchive.errors import ConceptArchiveError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "column = pa.array(np.zeros(9999, np.uint64))\n"
        "try:\n"
        f"    write_arrow(pathlib.Path({str(tmp_path / 'x.arrow')!r}), INDEX_SCHEMA,"
        " [column, column], {})\n"
        "except ConceptArchiveError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert "x.arrow: cannot be written (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConceptArchiveError, match=r"nowhere/x\.arrow: cannot be written"):
        write_arrow(tmp_path / "nowhere/x.arrow", INDEX_SCHEMA, [pa.array([], pa.uint64())] * 2, {})


def refused(folder: Path, message: str) -> None:
    """Assert that the check finds it, in one line."""
    with pytest.raises(FormatError, match=message) as raised:
        check_archive(folder)
    assert "\n" not in str(raised.value)


def refresh(folder: Path) -> None:
    """Make the manifest's checksums those of the files."""
    manifest = read_manifest(folder)
    files = {
        name: {"sha256": hash_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in manifest["files"]
    }
    write_manifest(folder, described(manifest), complete=True, files=files)


def rewrite_index(folder: Path, hashes: Any, rows: Any) -> None:
    """Write another index."""
    manifest = read_manifest(folder)
    metadata = file_metadata(described(manifest), manifest["fingerprint"])
    write_arrow(folder / INDEX, INDEX_SCHEMA, [pa.array(hashes), pa.array(rows)], metadata)
    refresh(folder)
