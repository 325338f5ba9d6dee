"""The training stage of an arm, on any number of GPUs."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from conceptarchive import ConceptArchive
from groupvit import PairDataset, Pairs, TrainConfig, train, without_corrupt
from integration.errors import DataMissingError
from integration.papers.launch import Ranks
from integration.papers.pairs import open_index, spread
from integration.papers.plan import RATES
from integration.wiring import ConceptSource, best_device

SMALL_POOL = 100_000
"""Up to here every image is read before training; above, the next pair takes a dead one's place."""
LOOKED_UP = 20_000
"""Pairs that are looked up in an archive before training."""
DEAD_SHARE = 0.01
"""Of the pairs may have an image that does not decode; groupvit stops above that too."""
GPU_SHARE = 0.9
"""Of a GPU's memory that activations may take."""


def train_pairs(
    config: TrainConfig,
    shards: Mapping[str, Sequence[Path]],
    index: Path,
    folder: Path,
    *,
    archive: Path | None,
    ranks: Ranks,
    label: str,
) -> None:
    """Train one arm; a killed run goes on from its last checkpoint, with any number of ranks.

    Args:
        config: of the arm.
        shards: of every set.
        index: folder of `write_index`.
        folder: of the stage.
        archive: that concepts are drawn from; None draws nouns and verbs of captions.
        ranks: this process among the others.
        label: what progress calls it.

    Raises:
        DataMissingError: the archive does not know pairs that are trained on.
    """
    pairs = open_index(shards, index)
    if len(pairs) <= SMALL_POOL:
        kept = without_corrupt(pairs)[0]
        assert isinstance(kept, Pairs)
        pairs = kept
    source: ConceptSource | None = None
    if archive is not None:
        opened = ConceptArchive.open(archive)
        check_known(pairs, opened)
        source = opened.sampler(config.data.sampling, config.data.sampling_temperature)
    image_px = config.model.vision.image_px
    dataset = PairDataset.from_config(pairs, config.data, image_px, source=source)
    device = best_device()
    train(on_this_machine(config, ranks, device), dataset, folder, device=device, label=label)
    if device.type == "cuda":
        torch.cuda.empty_cache()


def check_known(pairs: Pairs, archive: ConceptArchive) -> None:
    """Look up some pairs, all of a small pool; curation leaves out those whose image is dead.

    Raises:
        DataMissingError: more are missing than can be dead.
    """
    numbers = list(spread(len(pairs), LOOKED_UP))
    absent = [pairs[i].id for i in numbers if pairs[i].id not in archive]
    if len(absent) > DEAD_SHARE * len(numbers):
        raise DataMissingError(
            f"{len(absent)} of {len(numbers)} pairs that were looked up are not in the concept "
            f"archive, first {absent[0]}; run again with --from index"
        )


def on_this_machine(config: TrainConfig, ranks: Ranks, device: torch.device) -> TrainConfig:
    """The same recipe, computed as this machine can: what is learnt does not change.

    On a GPU towers are compiled, run in chunks where a rank's pairs do not fit at once, and are fed
    by all of the machine's cores. A CPU gains nothing by compiling.
    """
    if device.type != "cuda":
        return replace(config, machine=replace(config.machine, compile=False))
    memory_gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    chunk = chunk_of(config.data.batch // ranks.world, memory_gib)
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return replace(
        config,
        machine=replace(config.machine, chunk=chunk),
        data=replace(config.data, workers=max(config.data.workers, cores - 1)),
    )


def chunk_of(pairs: int, memory_gib: float) -> int:
    """Pairs whose activations are kept at a time: a power of two, or 0 where all fit."""
    fit = int(GPU_SHARE * memory_gib / RATES["train_gpu_gib"].value * 1024)
    return 0 if pairs <= fit else 1 << max(fit, 1).bit_length() - 1
