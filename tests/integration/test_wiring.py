"""Adapters between the packages' protocols."""

from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from conceptarchive import Embeddings, Vocabulary, build_archive
from groupvit import ConceptSource, DataConfig
from integration.errors import DataMissingError
from integration.wiring import (
    TrueConcepts,
    as_sets,
    check_covered,
    cpu_threads,
    mentioned_concepts,
    pair_dataset,
    read_truth,
    write_truth,
)
from segbench import ScenesDataset, write_pairs

TRUE: ConceptSource = TrueConcepts({"a": ["boat", "sky", "water"], "b": ["car"], "none": []})


def test_at_most_count_different_names_are_drawn() -> None:
    for epoch in range(20):
        drawn = TRUE.sample("a", count=2, seed=0, epoch=epoch)
        assert len(set(drawn)) == 2
        assert set(drawn) < {"boat", "sky", "water"}
    assert sorted(TRUE.sample("a", count=9, seed=0, epoch=0)) == ["boat", "sky", "water"]
    assert TRUE.sample("b", count=2, seed=0, epoch=0) == ["car"]
    assert TRUE.sample("none", count=2, seed=0, epoch=0) == []


def test_draws_hang_on_seed_epoch_and_key_alone() -> None:
    first = [TRUE.sample("a", count=1, seed=1, epoch=e) for e in range(20)]
    assert first == [TRUE.sample("a", count=1, seed=1, epoch=e) for e in range(20)]
    assert first != [TRUE.sample("a", count=1, seed=2, epoch=e) for e in range(20)]


def test_all_names_are_alike_probable() -> None:
    counts = Counter(TRUE.sample("a", count=1, seed=0, epoch=e)[0] for e in range(900))
    assert all(abs(counts[name] - 300) < 60 for name in ("boat", "sky", "water"))


def test_mentions_are_names_by_pair() -> None:
    vocabulary = Vocabulary(("boat", "polar bear", "sky"))
    found = mentioned_concepts(
        vocabulary, {"a": "two boats under the sky", "b": "a polar bear", "c": ""}
    )
    assert found == {
        "a": frozenset({"boat", "sky"}), "b": frozenset({"polar bear"}), "c": frozenset(),
    }  # fmt: skip


def test_truth_survives_the_disk(tmp_path: Path) -> None:
    truth = {"train/00000/1": ["boat", "sky"], "train/00000/2": []}
    write_truth(tmp_path, truth)
    assert read_truth(tmp_path) == truth
    assert as_sets(truth)["train/00000/1"] == {"boat", "sky"}


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
    with cpu_threads(0):
        assert torch.get_num_threads() == before


@pytest.mark.parametrize("source", [None, TRUE])
def test_pairs_become_images_and_texts(tmp_path: Path, source: ConceptSource | None) -> None:
    scenes = ScenesDataset(split="train", count=3, size_px=32)
    shards = write_pairs(scenes, tmp_path, progress=False)
    if source is not None:
        keys = [f"train/00000/{index:09d}" for index in range(3)]
        source = TrueConcepts({key: ["zebra"] for key in keys})
    kind: Literal["captions", "archive"] = "captions" if source is None else "archive"
    config = DataConfig(batch=2, concepts=2, augment="none", source=kind)
    dataset = pair_dataset(shards, "train", config, 32, source)
    assert len(dataset) == 3
    assert dataset[0, 1].image.shape == (3, 32, 32)
    assert len(dataset[0, 1].tokens) == 3  # the caption and two prompted concepts
    texts = dataset.texts(0, 1)
    assert any("zebra" in text for text in texts[1:]) == (source is not None)


def test_pairs_that_curation_has_not_seen_stop_the_training(tmp_path: Path) -> None:
    pairs = Embeddings.from_arrays(["a/0/x", "a/0/y"], ["a dog", "a cat"], np.eye(2))
    archive = build_archive(
        tmp_path / "archive",
        anchors=pairs,
        pool=pairs,
        vocabulary=Vocabulary(("dog", "cat")),
        concept_features=np.eye(2),
    )
    check_covered(["a/0/x", "a/0/y"], archive)
    with pytest.raises(DataMissingError, match=r"1 of 2 pairs .* first a/0/z; run again"):
        check_covered(["a/0/x", "a/0/z"], archive)
