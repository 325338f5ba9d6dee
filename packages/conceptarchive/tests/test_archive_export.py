import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    Vocabulary,
    build_archive,
    find_shards,
)
from conceptarchive.errors import DataMissingError, FormatError, StaleFolderError, UsageError
from conceptarchive.output.export import Enricher, ExportConfig, export, image_suffix, released_text

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]

CAPTIONS = ["a dog on the grass", "two dogs", "a cat asleep", "a meadow\nof grass", "nothing"]
WORDS = ("dog", "cat", "grass")


@pytest.fixture
def archive(tmp_path: Path) -> ConceptArchive:
    """Two shards of a data set; the fifth pair looks like no other."""
    rows = np.array(
        [[0.8, 0, 0.6], [0.6, 0, 0.8], [0.1, 0.99, 0.1], [0.05, 0.05, 1], [0.1, 1, 0.1]], "f4"
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = ["cc/0/a", "cc/0/b", "cc/1/a", "cc/1/sub/c", "cc/1/d"]
    pairs = Embeddings.from_arrays(ids, CAPTIONS, rows)
    return build_archive(
        tmp_path / "archive", anchors=pairs, pool=pairs, vocabulary=Vocabulary(WORDS),
        concept_features=np.eye(3)[:3], config=ArchiveConfig(neighbours=3),
    )  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg) -> list[Path]:
    """The pairs themselves, and one that the archive does not know."""
    names = {"0": ["a", "b", "zz"], "1": ["a", "sub/c", "d"]}
    captions = iter([*CAPTIONS[:2], "unknown", *CAPTIONS[2:]])
    for shard, keys in names.items():
        files = []
        for number, key in enumerate(keys):
            files += [(f"{key}.jpg", jpeg(number)), (f"{key}.txt", next(captions).encode())]
        make_tar(tmp_path / "cc" / f"{shard}.tar", files)
    return find_shards(tmp_path / "cc")


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]  # files only


def test_captions_gain_only_what_they_lack(archive: ConceptArchive) -> None:
    enriched = Enricher(archive, ExportConfig(count=2)).enrich("cc/0/b")
    assert enriched.caption == "two dogs"
    assert enriched.concepts[0].name in {"dog", "grass"}
    assert enriched.new == ["grass"]  # the plural counts as a mention of "dog"
    assert enriched.text == "two dogs grass."
    config = ExportConfig(template="{caption}, also {concepts}", count=1)
    assert Enricher(archive, config).enrich("cc/0/b").text == "two dogs, also grass"
    full = Enricher(archive, ExportConfig()).enrich("cc/0/a")
    assert full.new == []
    assert full.text == "a dog on the grass"


def test_parquet(archive: ConceptArchive, tmp_path: Path) -> None:
    report = export(archive, tmp_path / "out", "parquet")
    assert report == (5, 0, 0)
    rows = pq.read_table(tmp_path / "out" / "part-00000.parquet").to_pylist()
    assert [row["id"] for row in rows] == list(archive.keys)
    assert rows[1]["text"] == "two dogs grass."
    assert rows[1]["concepts"] == [concept.name for concept in archive.concepts("cc/0/b")]
    assert rows[1]["scores"] == [concept.score for concept in archive.concepts("cc/0/b")]


def test_sidecars(archive: ConceptArchive, tmp_path: Path) -> None:
    assert export(archive, tmp_path / "out", "sidecar").pairs == 5
    files = read(tmp_path / "out" / "cc" / "1.tar")
    assert sorted(files) == ["a.concepts.json", "d.concepts.json", "sub/c.concepts.json"]
    notes = json.loads(files["sub/c.concepts.json"])
    assert notes["caption"] == "a meadow\nof grass"
    assert notes["concepts"][0] == "grass"


def test_webdataset_shards_keep_images_byte_for_byte(
    archive: ConceptArchive, shards: list[Path], tmp_path: Path
) -> None:
    report = export(archive, tmp_path / "out", "webdataset", shards=shards)
    assert report == (5, 1, 0)
    files, source = read(tmp_path / "out" / "cc" / "0.tar"), read(shards[0])
    assert sorted(files) == [
        f"{key}.{kind}" for key in "ab" for kind in ("concepts.json", "jpg", "txt")
    ]
    assert files["b.jpg"] == source["b.jpg"]
    assert files["b.txt"] == b"two dogs grass."
    assert json.loads(files["b.concepts.json"])["new"] == ["grass"]


def test_released_layout_has_three_lines(
    archive: ConceptArchive, shards: list[Path], tmp_path: Path
) -> None:
    export(archive, tmp_path / "out", "cocu", shards=shards)
    text = read(tmp_path / "out" / "cc" / "1.tar")["sub/c.txt"].decode()
    caption, scores, clusters = text.split("\n")
    assert caption == "a meadow of grass"
    ranked = {c.name: round(c.score, 4) for c in archive.concepts("cc/1/sub/c")}
    assert json.loads(scores) == ranked
    assert list(json.loads(scores)) == list(ranked)  # in rank order
    parts = json.loads(clusters)
    assert {name: s for part in parts.values() for name, s in part.items()} == ranked
    empty = Enricher(archive, ExportConfig()).enrich("cc/1/d")._replace(concepts=[])
    assert released_text(empty) == "nothing\n{}\n{}"


def test_killed_export_goes_on_to_the_same_files(
    archive: ConceptArchive, shards: list[Path], tmp_path: Path
) -> None:
    export(archive, tmp_path / "whole", "webdataset", shards=shards)
    truncated = tmp_path / "bad" / "1.tar"
    truncated.parent.mkdir()
    truncated.write_bytes(shards[1].read_bytes()[:700])
    with pytest.raises(FormatError):
        export(archive, tmp_path / "out", "webdataset", shards=[shards[0], truncated])
    with pytest.raises(DataMissingError, match="no such shard"):
        export(archive, tmp_path / "out", "webdataset", shards=[shards[0], tmp_path / "no.tar"])
    first = (tmp_path / "out" / "cc" / "0.tar").stat().st_mtime_ns
    assert export(archive, tmp_path / "out", "webdataset", shards=shards) == (5, 1, 0)
    assert (tmp_path / "out" / "cc" / "0.tar").stat().st_mtime_ns == first
    whole, out = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (tmp_path / "whole", tmp_path / "out")
    )
    assert whole == out


def test_what_does_not_fit_is_refused(
    archive: ConceptArchive, shards: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="copies images"):
        export(archive, tmp_path / "a", "cocu")
    with pytest.raises(DataMissingError, match="none of its pairs"):
        export(archive, tmp_path / "b", "cocu", shards=shards, dataset="other")
    export(archive, tmp_path / "c", "parquet")
    with pytest.raises(StaleFolderError, match="another 'layout'"):
        export(archive, tmp_path / "c", "sidecar")
    with pytest.raises(StaleFolderError, match="something else"):
        export(archive, archive.folder, "sidecar")
    with pytest.raises(UsageError, match="template"):
        ExportConfig(template="{caption} {words}")
    with pytest.raises(UsageError, match="count"):
        ExportConfig(count=0)


def test_image_suffixes() -> None:
    assert image_suffix(b"\x89PNG....") == ".png"
    assert image_suffix(b"RIFF\0\0\0\0WEBP") == ".webp"
    assert image_suffix(b"\xff\xd8\xff") == ".jpg"


@pytest.mark.parametrize("ids", [["d/a/1", "d/b/1", "d/a/2"], ["../a/1", "../a/2", "../a/3"]])
def test_sidecars_of_ids_that_are_no_shards_are_refused(tmp_path: Path, ids: list[str]) -> None:
    pairs = Embeddings.from_arrays(ids, ["a dog"] * 3, np.eye(3))
    archive = build_archive(
        tmp_path / "archive", anchors=pairs, pool=pairs, vocabulary=Vocabulary(WORDS),
        concept_features=np.eye(3),
    )  # fmt: skip
    with pytest.raises(UsageError, match="use layout parquet"):
        export(archive, tmp_path / "out", "sidecar")
    assert not list(tmp_path.glob("*.tar"))
