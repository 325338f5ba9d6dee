"""The archive of some pairs is the same however the work is cut."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from conceptarchive import ConceptArchive
from conceptarchive.cli import main
from conceptarchive.options import EncoderConfig

MakeTar = Callable[[Path, list[tuple[str, bytes]]], Path]
Jpeg = Callable[[int], bytes]

WORDS = ("dog", "cat", "grass", "car", "boat", "tree", "house")
PAIRS = 42


class Found(NamedTuple):
    """What an archive says of a pair, with the last part of ids for keys."""

    caption: str
    concepts: list[tuple[str, float, int]]
    neighbours: list[tuple[str, float]]


def found(folder: Path) -> dict[str, Found]:
    """What an archive says of all pairs, to the last bit."""
    archive = ConceptArchive.open(folder)
    names = [key.rpartition("/")[2] for key in archive.keys]
    near = archive.neighbours(slice(0, len(archive)), 8)
    return {
        name: Found(
            archive.caption(key),
            [(concept.name, concept.score, concept.cluster) for concept in archive.concepts(key)],
            [(names[at], cosine) for at, cosine in zip(rows, cosines, strict=True)],
        )
        for name, key, rows, cosines in zip(
            names, archive.keys, near.indices.tolist(), near.similarity.tolist(), strict=True
        )
    }


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 3, 7])
def test_results_do_not_depend_on_shards_workers_and_batches(
    tmp_path: Path, make_tar: MakeTar, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch,
    tiny_encoder: object, shards: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(EncoderConfig, "load", lambda *_: tiny_encoder)
    files = [
        file
        for n in range(PAIRS)
        for file in (
            (f"{n:03d}.jpg", jpeg(n)),
            (f"{n:03d}.txt", f"{WORDS[n % 7]} and {WORDS[n * n % 7]}".encode()),
        )
    ]
    for count in (1, shards):
        size = len(files) // count
        for shard in range(count):
            part = files[shard * size : (shard + 1) * size]
            make_tar(tmp_path / str(count) / "cc" / f"{shard}.tar", part)
    runs = [(1, 1, 64, 100), *itertools.product([shards], [1, 4], [5, 64], [7, 100])]
    results = []
    for count, workers, batch, rows in runs:
        top = tmp_path / f"{count}-{workers}-{batch}-{rows}"
        emb, archive = str(top / "emb"), str(top / "archive")
        pairs = str(tmp_path / str(count) / "cc")
        how = ["--encoder.workers", str(workers), "--encoder.batch_size", str(batch)]
        assert main(["embed", pairs, emb, *how]) == 0
        options = ["--shard_rows", str(rows), "--vocabulary.min_count", "2", *how]
        assert main(["build", emb, archive, *options]) == 0
        results.append(found(Path(archive)))
    first = results[0]
    assert len(first) == PAIRS
    assert sum(len(pair.concepts) for pair in first.values()) > 2 * PAIRS
    assert all(result == first for result in results)
