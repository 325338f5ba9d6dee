import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive import (
    ArchiveConfig,
    ConceptArchive,
    Embeddings,
    FormatError,
    IncompleteError,
    MentionFinder,
    StaleFolderError,
    Vocabulary,
    build_archive,
    cluster_concepts,
    nearest,
)
from conceptarchive.building import build as build_module
from conceptarchive.building import expand as expand_module
from conceptarchive.building.expand import skip_identical, skip_near_duplicates
from conceptarchive.config import Expansion, Ranking, SelfMode
from conceptarchive.search.neighbours import Neighbours

Rows = npt.NDArray[np.float32]
MakePairs = Callable[..., tuple[Embeddings, Vocabulary, Rows]]


def oracle(
    anchors: Embeddings,
    pool: Embeddings,
    vocabulary: Vocabulary,
    features: Rows,
    config: ArchiveConfig,
) -> list[tuple[list[int], dict[int, float]]]:
    """Reference rows and scores of every anchor, by the book and one image at a time."""
    finder = MentionFinder(vocabulary)
    said = [finder.find(caption) for caption in pool.captions]
    searched = pool.image if config.expansion == "vision" else pool.text
    assert isinstance(searched, np.ndarray)
    out = []
    for at, key in enumerate(anchors.keys):
        near = (searched.astype(np.float64) @ anchors.image[at].astype(np.float64)).astype("f4")
        rows = sorted(range(len(pool)), key=lambda row: (-near[row], row))
        if config.self_mode == "drop":
            rows = [row for row in rows if pool.keys[row] != key]
        rows = rows[: config.neighbours]
        witnesses: dict[int, list[float]] = {}
        for row in rows:
            for concept in said[row]:
                response = float(pool.image[row] @ features[concept])
                witnesses.setdefault(concept, []).append(response)
        if config.self_mode == "force":
            for concept in finder.find(anchors.captions[at]):
                witnesses.setdefault(concept, [])
        anchor = {q: float(anchors.image[at] @ features[q]) for q in witnesses}
        if config.ranking == "relative" and anchor:
            largest = max([*anchor.values(), *itertools.chain(*witnesses.values())])
            anchor = {
                q: s / max(largest, 1e-4)
                + (s / max(float(np.mean([s, *witnesses[q]])), 1e-4) if witnesses[q] else 1)
                for q, s in anchor.items()
            }
        out.append((rows, anchor))
    return out


@pytest.mark.parametrize("same_pool", [True, False])
@pytest.mark.parametrize("self_mode", ["keep", "drop", "force"])
@pytest.mark.parametrize("ranking", ["cosine", "relative"])
@pytest.mark.parametrize("expansion", ["vision", "language"])
def test_matches_the_oracle(
    tmp_path: Path, make_pairs: MakePairs, expansion: Expansion, ranking: Ranking,
    self_mode: SelfMode, same_pool: bool,
) -> None:  # fmt: skip
    pool, vocabulary, features = make_pairs(300)
    features = (np.abs(features) + 0.2) / np.linalg.norm(np.abs(features) + 0.2, axis=1)[:, None]
    anchors = pool if same_pool else make_pairs(40, seed=5, prefix="other/a/")[0]
    config = ArchiveConfig(expansion=expansion, ranking=ranking, self_mode=self_mode)
    archive = build_archive(
        tmp_path, anchors=anchors, pool=pool, vocabulary=vocabulary, concept_features=features,
        config=config, shard_rows=128,
    )  # fmt: skip
    for key, (rows, expected) in zip(
        anchors.keys, oracle(anchors, pool, vocabulary, features, config), strict=True
    ):
        assert [name for name, _ in archive.references(key)] == [pool.keys[row] for row in rows]
        got = archive.concepts(key)
        assert {c.name: c.score for c in got} == pytest.approx(
            {vocabulary.names[q]: score for q, score in expected.items()}, rel=2e-4, abs=1e-5
        )
        order = [(-c.score, vocabulary.names.index(c.name)) for c in got]
        assert order == sorted(order)


def rows_of(archive: ConceptArchive) -> list[object]:
    return [(archive.entry(key), archive.references(key)) for key in archive.keys]


def test_cutting_the_work_changes_nothing(
    tmp_path: Path, make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, vocabulary, features = make_pairs(90, concepts=60, dim=48)
    built = []
    for shard_rows in (1000, 64, 17):
        archive = build_archive(
            tmp_path / f"{shard_rows}", anchors=pool, pool=pool, vocabulary=vocabulary,
            concept_features=features, shard_rows=shard_rows,
        )  # fmt: skip
        assert archive.keys == pool.keys
        built.append(rows_of(archive))
        monkeypatch.setattr("conceptarchive.curation.responses.BLOCK", 50)
    assert built[0] == built[1] == built[2]


@pytest.mark.parametrize("killed_at", [0, 1, 3])
def test_killed_build_goes_on_to_the_same_files(
    tmp_path: Path, make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    pool, vocabulary, features = make_pairs(100)

    def build(out: Path, config: ArchiveConfig | None = None) -> ConceptArchive:
        return build_archive(
            out, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features,
            config=config, shard_rows=30,
        )  # fmt: skip

    build(tmp_path / "whole")
    real, calls = cluster_concepts, itertools.count()

    def dies(*args: object, **options: object) -> object:
        if next(calls) == killed_at:
            raise KeyboardInterrupt
        return real(*args, **options)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(build_module, "cluster_concepts", dies)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "out")
    with pytest.raises(IncompleteError, match="run the build again"):
        ConceptArchive.open(tmp_path / "out")
    with pytest.raises(StaleFolderError, match="another config"):
        build(tmp_path / "out", ArchiveConfig(neighbours=9))
    build(tmp_path / "out")
    assert next(calls) == 4 + 1  # no finished shard was built again
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == whole
    (tmp_path / "out" / "work").mkdir()  # as a process leaves it that is killed after its last file
    assert len(build(tmp_path / "out")) == 100  # a finished folder is opened as it is
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(whole)


def test_other_inputs_and_other_folders_are_refused(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(20)
    inputs = {"anchors": pool, "pool": pool, "vocabulary": vocabulary, "concept_features": features}
    build_archive(tmp_path / "a", **inputs)  # type: ignore[arg-type]  # mixed values
    other = make_pairs(20, seed=7)[0]
    with pytest.raises(StaleFolderError, match="another pool_sha256"):
        build_archive(tmp_path / "a", **inputs | {"pool": other})  # type: ignore[arg-type]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").touch()
    with pytest.raises(StaleFolderError, match="something else"):
        build_archive(tmp_path / "b", **inputs)  # type: ignore[arg-type]  # mixed values


def test_inputs_that_do_not_fit_are_named(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(20)
    silent = dataclasses.replace(pool, text=None)

    def build(**change: object) -> None:
        inputs = {"anchors": pool, "pool": pool, "vocabulary": vocabulary}
        inputs |= {"concept_features": features} | change
        build_archive(tmp_path, **inputs)  # type: ignore[arg-type]  # mixed values

    with pytest.raises(ValueError, match=r"must be \(30, 16\), got \(29, 16\)"):
        build(concept_features=features[1:])
    with pytest.raises(ValueError, match="length 1"):
        build(concept_features=features * 2)
    with pytest.raises(ValueError, match="text rows"):
        build(pool=silent, config=ArchiveConfig(expansion="language"))
    with pytest.raises(ValueError, match="width 16, got 8"):
        build(pool=make_pairs(5, dim=8)[0])
    with pytest.raises(ValueError, match="got 0"):
        build(shard_rows=0)


def test_pool_smaller_than_the_references_wanted(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(5)
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features
    )
    assert all(len(archive.references(key)) == 5 for key in archive.keys)


def test_identical_captions_bring_nothing_new(tmp_path: Path, make_pairs: MakePairs) -> None:
    found = Neighbours(
        np.array([[0, 1, 2, 3, 4, -1]]), np.array([[6, 5, 4, 3, 2, -np.inf]], np.float32)
    )
    captions = np.array([7, 7, 8, 8, 9])
    kept = skip_identical(found, np.array([0]), np.array([7]), captions)
    assert kept.indices.tolist() == [[0, 2, 4, -1, -1, -1]]
    assert kept.similarity.tolist() == [[6, 4, 2, -np.inf, -np.inf, -np.inf]]
    pool, vocabulary, features = make_pairs(80)
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features,
        config=ArchiveConfig(skip_identical_captions=True, neighbours=4),
    )  # fmt: skip
    caption = dict(zip(pool.keys, pool.captions, strict=True))
    for key in archive.keys:
        seen = [caption[name] for name, _ in archive.references(key)]
        assert len(seen) == len(set(seen))


def test_near_duplicates_are_skipped_but_not_the_anchor_itself(
    tmp_path: Path, make_pairs: MakePairs
) -> None:
    found = Neighbours(
        np.array([[4, 1, 2, -1], [0, 1, 2, 3]]),
        np.array([[1, 0.99, 0.9, -np.inf], [1, 1, 0.97, 0.5]], np.float32),
    )
    kept = skip_near_duplicates(found, np.array([4, 1]), 0.98)
    assert kept.indices.tolist() == [[4, 2, -1, -1], [1, 2, 3, -1]]
    pool, vocabulary, features = make_pairs(80)
    archive = build_archive(
        tmp_path, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features,
        config=ArchiveConfig(skip_near_duplicates=0.999, neighbours=4),
    )  # fmt: skip
    near = [s for key in archive.keys for name, s in archive.references(key) if name != key]
    assert max(near) < 0.999
    assert len(near) >= 80 * 3


def test_previous_archive_is_extended_to_the_same_files(
    tmp_path: Path, make_pairs: MakePairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, vocabulary, features = make_pairs(200)
    whole = Embeddings.from_arrays(whole.keys, whole.captions, whole.image[:])  # no text rows
    few = Embeddings.from_arrays(whole.keys[:130], whole.captions[:130], whole.image[:130])

    def build(name: str, pairs: Embeddings, **options: object) -> Path:
        build_archive(
            tmp_path / name, anchors=pairs, pool=pairs, vocabulary=vocabulary,
            concept_features=features, shard_rows=30, **options,  # type: ignore[arg-type]  # mixed
        )  # fmt: skip
        return tmp_path / name

    old, fresh = build("old", few), build("fresh", whole)
    searched = []
    real = nearest

    def counts(anchors: Rows, pool: Rows, **options: object) -> Neighbours:
        searched.append((len(anchors), len(pool)))
        return real(anchors, pool, **options)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(expand_module, "nearest", counts)
    grown = build("grown", whole, previous=old)
    assert searched == [(130, 70), (70, 200)]  # old anchors saw new rows only
    assert {p.name: p.read_bytes() for p in grown.iterdir()} == {
        p.name: p.read_bytes() for p in fresh.iterdir()
    }


def test_previous_archive_of_something_else_is_refused(
    tmp_path: Path, make_pairs: MakePairs
) -> None:
    whole, vocabulary, features = make_pairs(60)
    other = make_pairs(30, seed=8)[0]

    def build(name: str, pairs: Embeddings, **options: object) -> None:
        build_archive(
            tmp_path / name, anchors=pairs, pool=pairs, vocabulary=vocabulary,
            concept_features=features, **options,  # type: ignore[arg-type]  # mixed values
        )  # fmt: skip

    build("old", other)
    with pytest.raises(StaleFolderError, match="not the first of the pairs"):
        build("new", whole, previous=tmp_path / "old")
    with pytest.raises(StaleFolderError, match="another config"):
        build("newer", whole, previous=tmp_path / "old", config=ArchiveConfig(neighbours=3))


def test_rows_that_are_not_of_length_one_are_named(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(2000)
    assert isinstance(pool.image, np.ndarray)
    pool.image[1500] = np.nan
    with pytest.raises(FormatError, match="1500"):
        build_archive(
            tmp_path, anchors=pool, pool=pool, vocabulary=vocabulary, concept_features=features
        )
    assert not (tmp_path / "manifest.json").exists()


def test_only_the_best_concepts_are_stored(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(50)
    inputs = {"anchors": pool, "pool": pool, "vocabulary": vocabulary, "concept_features": features}
    whole = build_archive(tmp_path / "a", **inputs)  # type: ignore[arg-type]  # mixed values
    few = ArchiveConfig(max_concepts=2)
    part = build_archive(tmp_path / "b", **inputs, config=few)  # type: ignore[arg-type]  # mixed
    for key in pool.keys:
        names = [concept.name for concept in part.concepts(key)]
        assert names == [concept.name for concept in whole.concepts(key)][:2]
