import json
import multiprocessing
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    ConceptSampler,
    DataMissingError,
    Embeddings,
    FormatError,
    Vocabulary,
    build_archive,
    check_archive,
)

MakePairs = Callable[..., tuple[Embeddings, Vocabulary, npt.NDArray[np.float32]]]


@pytest.fixture
def built(tmp_path: Path, make_pairs: MakePairs) -> tuple[ConceptArchive, Embeddings]:
    pool, vocabulary, features = make_pairs(150)
    archive = build_archive(
        tmp_path / "archive", anchors=pool, pool=pool, vocabulary=vocabulary,
        concept_features=features, encoder_id="tiny", shard_rows=40,
    )  # fmt: skip
    return archive, pool


def test_reading_by_key(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, pool = built
    assert len(archive) == 150
    assert archive.keys == pool.keys
    assert pool.keys[77] in archive
    assert "set/a/none" not in archive
    assert archive.config == ArchiveConfig()
    with pytest.raises(KeyError, match=r"'x' is not in .*keys look like 'set/a/0000'"):
        archive.concepts("x")
    assert {c.cluster for c in archive.concepts(pool.keys[3])} <= {0, 1, 2}


def test_witnesses_are_the_references_that_say_it(
    built: tuple[ConceptArchive, Embeddings],
) -> None:
    archive, pool = built
    caption = dict(zip(pool.keys, pool.captions, strict=True))
    for key in pool.keys[::10]:
        references = [name for name, _ in archive.references(key)]
        assert references[0] == key or caption[key] is not None
        for concept in archive.concepts(key):
            said = [name for name in references if concept.name in caption[name].split()]
            assert archive.witnesses(key, concept.name) == said
            assert said or concept.name in caption[key].split()
    with pytest.raises(KeyError, match="'unicorn' is not in the vocabulary"):
        archive.witnesses(pool.keys[0], "unicorn")


def test_files_are_arrow_and_explain_themselves(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, pool = built
    shards = sorted(archive.folder.glob("archive-*.arrow"))
    assert [path.name for path in shards] == [f"archive-0000{n}.arrow" for n in range(4)]
    table = pa.ipc.open_file(shards[1]).read_all()
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "key": "string",
        "concepts": "list<item: uint32>",
        "scores": "list<item: float>",
        "clusters": "list<item: uint8>",
        "neighbours": "list<item: uint64>",
        "similarity": "list<item: halffloat>",
    }
    metadata = table.schema.metadata
    assert metadata[b"version"] == b"1"
    assert metadata[b"encoder"] == b"tiny"
    assert json.loads(metadata[b"vocabulary"]) == list(archive.vocabulary.names)
    assert metadata[b"vocabulary_sha256"].decode() == archive.vocabulary.sha256
    assert metadata[b"pool_sha256"].decode() == pool.sha256
    assert json.loads(metadata[b"config"])["neighbours"] == 8


def test_sampling_is_reproducible_and_differs_by_epoch(
    built: tuple[ConceptArchive, Embeddings],
) -> None:
    archive, pool = built
    sampler = archive.sampler()
    draws = [sampler.sample(key, count=3, seed=0, epoch=1) for key in pool.keys]
    again = ConceptArchive.open(archive.folder).sampler()
    backwards = [again.sample(key, count=3, seed=0, epoch=1) for key in reversed(pool.keys)]
    assert draws == backwards[::-1]
    assert draws != [sampler.sample(key, count=3, seed=0, epoch=2) for key in pool.keys]
    assert draws != [sampler.sample(key, count=3, seed=1, epoch=1) for key in pool.keys]
    for key, names in zip(pool.keys, draws, strict=True):
        concepts = archive.concepts(key)
        assert len(names) == min(3, len(concepts))
        if len(concepts) > 3:
            cluster = {concept.name: concept.cluster for concept in concepts}
            assert len({cluster[name] for name in names}) == 3


def test_top_and_naive_samplers(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, pool = built
    key = max(pool.keys, key=lambda key: len(archive.concepts(key)))
    best = [concept.name for concept in archive.concepts(key)]
    assert archive.sampler("top").sample(key, count=3, seed=0, epoch=0) == best[:3]
    cold = archive.sampler("naive", temperature=1e-4)
    assert cold.sample(key, count=1, seed=0, epoch=0) == best[:1]
    warm = archive.sampler("naive")
    first = Counter(warm.sample(key, count=1, seed=0, epoch=n)[0] for n in range(4000))
    weights = {c.name: np.exp(c.score) for c in archive.concepts(key)}
    expected = weights[best[0]] / sum(weights.values())
    assert first[best[0]] / 4000 == pytest.approx(expected, abs=0.03)


def test_sampler_goes_to_workers(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, pool = built
    sampler = archive.sampler()
    here = sampler.sample(pool.keys[5], count=3, seed=0, epoch=0)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy._archive is None
    assert copy.sample(pool.keys[5], count=3, seed=0, epoch=0) == here


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_sampler_survives_a_fork(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, pool = built
    sampler = archive.sampler()
    here = sampler.sample(pool.keys[5], count=3, seed=0, epoch=0)  # its files are open by now
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=draw_in_worker, args=(sampler, pool.keys[5], queue))
    worker.start()
    assert queue.get() == here
    worker.join()


def draw_in_worker(sampler: ConceptSampler, key: str, queue: Any) -> None:
    queue.put(sampler.sample(key, count=3, seed=0, epoch=0))


def test_sampler_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 'best'"):
        ConceptSampler(tmp_path, method="best")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="got 0"):
        ConceptSampler(tmp_path, temperature=0)


def test_pair_without_concepts(tmp_path: Path) -> None:
    pool = Embeddings.from_arrays(["a/b/Bär"], [""], np.eye(1, 4))
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=Vocabulary(("dog",)),
        concept_features=np.eye(1, 4),
    )  # fmt: skip
    assert archive.concepts("a/b/Bär") == []
    for method in ("cluster", "naive", "top"):
        sampler = archive.sampler(method)
        assert sampler.sample("a/b/Bär", count=3, seed=0, epoch=0) == []
    assert check_archive(tmp_path).keys == ["a/b/Bär"]


def test_damage_is_found_and_named(built: tuple[ConceptArchive, Embeddings]) -> None:
    archive, _ = built
    assert len(check_archive(archive.folder)) == 150
    path = archive.folder / "archive-00002.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"archive-00002\.arrow: checksum differs"):
        check_archive(archive.folder)
    path.unlink()
    with pytest.raises(FormatError, match=r"archive-00002\.arrow: is missing"):
        check_archive(archive.folder)
    path.write_bytes(b"not arrow")
    with pytest.raises(FormatError, match=r"archive-00002\.arrow: not an Arrow file"):
        _ = ConceptArchive.open(archive.folder).keys


def test_keys_of_equal_hash_are_told_apart(
    tmp_path: Path, make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conceptarchive.build.hash_key", lambda key: len(key))
    monkeypatch.setattr("conceptarchive.archive.hash_key", lambda key: len(key))
    pool, vocabulary, features = make_pairs(30)
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features,
        shard_rows=7,
    )  # fmt: skip
    assert [archive.references(key)[0][1] for key in pool.keys] == pytest.approx([1] * 30, abs=1e-3)
    entries = [archive.entry(key) for key in pool.keys]
    assert entries == [archive.entry(key) for key in archive.keys]
    assert len({str(entry) for entry in entries}) > 20
    assert "set/a/9999" not in archive


def test_unknown_versions_and_missing_folders(
    tmp_path: Path, built: tuple[ConceptArchive, Embeddings]
) -> None:
    archive, _ = built
    with pytest.raises(DataMissingError, match="build an archive first"):
        ConceptArchive.open(tmp_path / "nowhere")
    path = archive.folder / "manifest.json"
    path.write_text(json.dumps(archive.manifest | {"version": 9}), encoding="utf-8")
    with pytest.raises(FormatError, match=r"manifest\.json: is conceptarchive version 9, reads"):
        ConceptArchive.open(archive.folder)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(FormatError, match="not the manifest"):
        ConceptArchive.open(archive.folder)
