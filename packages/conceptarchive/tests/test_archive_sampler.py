import multiprocessing
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptarchive import ConceptArchive, ConceptSampler, open_source

WriteArchive = Callable[..., Path]
MadePairs = Callable[..., tuple[list[str], list[Any], list[Any]]]


@pytest.fixture
def archive(tmp_path: Path, write_archive: WriteArchive, made_pairs: MadePairs) -> ConceptArchive:
    return ConceptArchive.open(write_archive(tmp_path / "archive", *made_pairs(60)))


def test_one_and_a_batch_draw_the_same(archive: ConceptArchive) -> None:
    keys = list(archive.keys)
    for method in ("cluster", "naive", "top"):
        sampler = archive.sampler(method)
        ones = [sampler.sample(key, count=3, seed=0, epoch=1) for key in keys]
        assert sampler.sample_batch(keys, count=3, seed=0, epoch=1) == ones
        assert sampler.sample_batch(keys[::-1], count=3, seed=0, epoch=1) == ones[::-1]
        ids = sampler.sample_ids(keys, count=3, seed=0, epoch=1)
        assert ids.shape == (60, 3)
        names = archive.vocabulary.names
        assert [[names[c] for c in row if c >= 0] for row in ids.tolist()] == ones


def test_sampling_is_reproducible_and_differs_by_epoch(archive: ConceptArchive) -> None:
    keys = list(archive.keys)
    draws = archive.sampler().sample_batch(keys, count=3, seed=0, epoch=1)
    again = ConceptArchive.open(archive.folder).sampler()
    assert again.sample_batch(keys, count=3, seed=0, epoch=1) == draws
    assert again.sample_batch(keys, count=3, seed=0, epoch=2) != draws
    assert again.sample_batch(keys, count=3, seed=1, epoch=1) != draws
    for key, names in zip(keys, draws, strict=True):
        cluster = {concept.name: concept.cluster for concept in archive.concepts(key)}
        assert len(set(names)) == len(names) == min(3, len(cluster))
        if len(cluster) > 3:
            assert len({cluster[name] for name in names}) == 3


def test_top_and_naive_samplers(archive: ConceptArchive) -> None:
    key = max(archive.keys, key=lambda key: len(archive.concepts(key)))
    best = [concept.name for concept in archive.concepts(key)]
    assert archive.sampler("top").sample(key, count=3, seed=0, epoch=0) == best[:3]
    cold = archive.sampler("naive", temperature=1e-4)
    assert cold.sample(key, count=1, seed=0, epoch=0) == best[:1]
    warm = archive.sampler("naive")
    first = Counter(warm.sample(key, count=1, seed=0, epoch=n)[0] for n in range(4000))
    weights = {c.name: np.exp(c.score) for c in archive.concepts(key)}
    expected = weights[best[0]] / sum(weights.values())
    assert first[best[0]] / 4000 == pytest.approx(expected, abs=0.03)


def test_more_than_there_is_gives_all(archive: ConceptArchive) -> None:
    for key in list(archive.keys)[:20]:
        names = archive.sampler("naive").sample(key, count=40, seed=0, epoch=0)
        assert sorted(names) == sorted(concept.name for concept in archive.concepts(key))


def test_pairs_without_concepts(tmp_path: Path, write_archive: WriteArchive) -> None:
    pairs: list[Any] = [("a/b/Bär", "", [], []), ("c", "", [(0, 1.0, 0)], [])]
    archive = ConceptArchive.open(write_archive(tmp_path, ["dog"], pairs, [("p", "", [])]))
    assert archive.concepts("a/b/Bär") == []
    for method in ("cluster", "naive", "top"):
        sampler = archive.sampler(method)
        assert sampler.sample("a/b/Bär", count=3, seed=0, epoch=0) == []
        both = sampler.sample_batch(["a/b/Bär", "c", "a/b/Bär"], count=3, seed=0, epoch=0)
        assert both == [[], ["dog"], []]
        assert sampler.sample_batch(["a/b/Bär"], count=3, seed=0, epoch=0) == [[]]
        assert sampler.sample_batch([], count=3, seed=0, epoch=0) == []


def test_missing_keys_are_named(archive: ConceptArchive) -> None:
    sampler = archive.sampler()
    with pytest.raises(KeyError, match="'x' is not in"):
        sampler.sample("x", count=3, seed=0, epoch=0)
    with pytest.raises(KeyError, match="'x' is not in"):
        sampler.sample_batch([archive.keys[0], "x"], count=3, seed=0, epoch=0)


def test_sampler_goes_to_workers(archive: ConceptArchive) -> None:
    sampler, key = archive.sampler(), archive.keys[5]
    assert sampler._archive is None  # nothing is opened before the first draw
    here = sampler.sample(key, count=3, seed=0, epoch=0)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy._archive is None
    assert copy.sample(key, count=3, seed=0, epoch=0) == here


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_sampler_survives_a_fork(archive: ConceptArchive) -> None:
    sampler, keys = archive.sampler(), archive.keys[:]
    here = sampler.sample_batch(keys, count=3, seed=0, epoch=0)  # its files are open by now
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=draw_in_worker, args=(sampler, keys, queue))
    worker.start()
    assert queue.get() == here
    worker.join()


def draw_in_worker(sampler: ConceptSampler, keys: list[str], queue: Any) -> None:
    queue.put(sampler.sample_batch(keys, count=3, seed=0, epoch=0))


def test_sampler_arguments_are_checked(tmp_path: Path, archive: ConceptArchive) -> None:
    with pytest.raises(ValueError, match="got 'best'"):
        ConceptSampler(tmp_path, method="best")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="got 0"):
        ConceptSampler(tmp_path, temperature=0)
    with pytest.raises(ValueError, match="count >= 1"):
        archive.sampler().sample(archive.keys[0], count=0, seed=0, epoch=0)


def test_a_sampler_knows_its_keys(archive: ConceptArchive) -> None:
    sampler = archive.sampler()
    key = archive.keys[3]
    assert key in sampler and f"{key}x" not in sampler and 3 not in sampler


def test_a_trainer_finds_the_archive_by_its_entry_point(archive: ConceptArchive) -> None:
    (entry,) = [
        entry
        for entry in entry_points(group="groupvit.concept_source")
        if entry.name == "conceptarchive"
    ]
    assert entry.load() is open_source
    source = open_source(archive.folder, method="top", temperature=2.0)
    assert source.fingerprint == archive.manifest["fingerprint"]
    assert (source.method, source.temperature) == ("top", 2.0)
    key = archive.keys[0]
    drawn = archive.sampler("top").sample(key, count=3, seed=0, epoch=0)
    assert source.sample(key, count=3, seed=0, epoch=0) == drawn


def test_what_cannot_be_opened_is_a_value_error_of_one_line(
    archive: ConceptArchive, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="none") as caught:
        open_source(tmp_path / "none")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        open_source(archive.folder, temperature=0)


def test_a_damaged_file_is_a_value_error_of_one_line(
    archive: ConceptArchive, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(archive.folder, copy)
    source = open_source(copy)
    (copy / "archive-00000.arrow").write_bytes(b"no arrow")
    with pytest.raises(ValueError, match=r"archive-00000\.arrow") as caught:
        source.sample(archive.keys[0], count=1, seed=0, epoch=0)
    assert "\n" not in str(caught.value)
    with pytest.raises(KeyError):
        open_source(archive.folder).sample("none", count=1, seed=0, epoch=0)
