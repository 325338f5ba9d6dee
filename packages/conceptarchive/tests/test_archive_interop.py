"""The archive's files open in other tools as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

WriteArchive = Callable[..., Path]
MadePairs = Callable[..., tuple[list[str], list[Any], list[Any]]]


@pytest.fixture
def made(
    tmp_path: Path, write_archive: WriteArchive, made_pairs: MadePairs
) -> tuple[Path, list[Any], list[Any]]:
    names, pairs, pool = made_pairs(30)
    return write_archive(tmp_path / "archive", names, pairs, pool, shard_rows=20), pairs, pool


def test_pandas(made: tuple[Path, list[Any], list[Any]]) -> None:
    pandas = pytest.importorskip("pandas")
    folder, pairs, pool = made
    frame = pandas.read_feather(folder / "archive-00001.arrow")
    assert frame["key"].tolist() == [key for key, *_ in pairs[20:]]
    assert frame["caption"].tolist() == [caption for _, caption, *_ in pairs[20:]]
    assert [row.tolist() for row in frame["concepts"]] == concepts(pairs[20:])
    frame = pandas.read_feather(folder / "pool-00000.arrow")
    assert [row.tolist() for row in frame["own"]] == [[s for _, s in said] for *_, said in pool]


def test_polars(made: tuple[Path, list[Any], list[Any]]) -> None:
    polars = pytest.importorskip("polars")
    folder, pairs, _ = made
    frame = polars.read_ipc(folder / "archive-00000.arrow")
    assert frame["concepts"].to_list() == concepts(pairs[:20])
    lazy = polars.scan_ipc(folder / "archive-*.arrow").select("key", polars.col("scores").list[0])
    best = [part[0][1] if part else None for _, _, part, _ in pairs]
    assert lazy.collect().rows() == [
        (key, score) for (key, *_), score in zip(pairs, best, strict=True)
    ]


def test_duckdb(made: tuple[Path, list[Any], list[Any]]) -> None:
    duckdb = pytest.importorskip("duckdb")
    folder, pairs, _ = made
    archive = ds.dataset(sorted(map(str, folder.glob("archive-*.arrow"))), format="ipc")
    with duckdb.connect() as connection:
        connection.register("archive", archive)
        found = connection.sql("select key, len(concepts), concepts[1] from archive order by key")
        assert found.fetchall() == [
            (key, len(part), part[0][0] if part else None) for key, _, part, _ in pairs
        ]


def test_hugging_face_datasets(
    made: tuple[Path, list[Any], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    folder, pairs, _ = made
    loaded = datasets.load_dataset(
        "arrow",
        data_files=str(folder / "archive-*.arrow"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded["key"][:] == [key for key, *_ in pairs]
    assert loaded["concepts"][:] == concepts(pairs)
    assert loaded[21]["caption"] == pairs[21][1]


def concepts(pairs: list[Any]) -> list[list[int]]:
    """Concept ids of every pair."""
    return [[concept for concept, *_ in part] for _, _, part, _ in pairs]
