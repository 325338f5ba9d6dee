"""Adapters between the packages' protocols: all the glue there is."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from conceptarchive import ConceptArchive, MentionFinder, Vocabulary
from groupvit import ConceptSource as ConceptSource
from groupvit import DataConfig, PairDataset, index_shards, stream, without_corrupt
from integration.errors import DataMissingError
from integration.stage import fingerprint_files, write_text
from segbench import Task

TRUTH = "truth.json"
LOCAL = "local-dir:"
"""How open_clip is given a folder in place of a name."""

DATASET = "train"
"""What pair ids of the training pairs begin with."""


class TrueConcepts:
    """The classes that an image really shows, as a concept source: an upper bound for curation.

    Args:
        present: names by pair id.
    """

    def __init__(self, present: Mapping[str, Sequence[str]]) -> None:
        self._present = present

    def sample(self, key: str, *, count: int, seed: int, epoch: int) -> list[str]:
        """Draw at most `count` different names, all alike probable."""
        names = self._present[key]
        rng = stream(seed, epoch, "truth", key)
        return [names[i] for i in rng.choice(len(names), min(count, len(names)), replace=False)]


def pair_dataset(
    shards: Sequence[Path],
    name: str,
    config: DataConfig,
    image_px: int,
    source: ConceptSource | None,
) -> PairDataset:
    """Pairs of tar shards as GroupViT trains on them; unusable ones are left out and logged."""
    pairs, _ = without_corrupt(index_shards(shards, dataset=name)[0])
    return PairDataset.from_config(pairs, config, image_px, source=source)


def check_covered(keys: Sequence[str], archive: ConceptArchive) -> None:
    """Refuse to train on pairs that curation has not seen.

    Raises:
        DataMissingError: naming the first such pair.
    """
    missing = [key for key in keys if key not in archive]
    if missing:
        raise DataMissingError(
            f"{len(missing)} of {len(keys)} pairs have no entry in the concept archive, first "
            f"{missing[0]}; run again with --from pairs"
        )


def ranked_concepts(archive: ConceptArchive) -> dict[str, list[str]]:
    """Names of every pair's concepts, best first."""
    return {key: [concept.name for concept in archive.concepts(key)] for key in archive.keys}


def mentioned_concepts(
    vocabulary: Vocabulary, captions: Mapping[str, str]
) -> dict[str, frozenset[str]]:
    """Names of the concepts that captions mention, by pair id."""
    finder = MentionFinder(vocabulary)
    return {
        key: frozenset(vocabulary.names[concept] for concept in finder.find(caption))
        for key, caption in captions.items()
    }


def write_truth(folder: Path, present: Mapping[str, Sequence[str]]) -> None:
    """Write what images really show, by pair id, beside their shards."""
    write_text(folder / TRUTH, json.dumps(present, indent=0))


def read_truth(folder: Path) -> dict[str, list[str]]:
    """What images really show, by pair id, as `write_truth` left it."""
    truth: dict[str, list[str]] = json.loads((folder / TRUTH).read_text())
    return truth


def best_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fingerprint_scored(task: Task, data: Path) -> str:
    """Hash of the names and sizes of a task's files, so that other data are another evaluation.

    Empty for scenes, which are no files.
    """
    if task.dataset["kind"] == "scenes":
        return ""
    return fingerprint_files(data / str(task.dataset.get("folder", "")))


def as_sets(names: Mapping[str, Iterable[str]]) -> dict[str, frozenset[str]]:
    """Values as sets."""
    return {key: frozenset(values) for key, values in names.items()}


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many CPU threads for a while; 0 changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
