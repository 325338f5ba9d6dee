"""The arms of the comparison: train one, score one. They differ in the source of concepts alone."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from conceptarchive import ConceptArchive, find_shards
from groupvit import GroupViTSegmenter, load_model, train
from integration.cocu.diagnostics import grouping_purity
from integration.cocu.recipe import Recipe
from integration.progress import check_log
from integration.stage import write_text
from integration.wiring import (
    DATASET,
    ConceptSource,
    TrueConcepts,
    best_device,
    check_covered,
    cpu_threads,
    pair_dataset,
    read_truth,
)
from segbench import Task, evaluate


def draws_from_archive(arm: str) -> bool:
    """Whether an arm takes its concepts from an archive."""
    return arm not in ("baseline", "upper-bound")


def train_arm(
    recipe: Recipe, arm: str, seed: int, pairs: Path, archive: Path, folder: Path
) -> None:
    """Train one arm; only the source of concepts differs between arms."""
    drawn = replace(
        recipe.train.data, seed=seed, source="captions" if arm == "baseline" else "archive"
    )
    config = replace(recipe.train, seed=seed, data=drawn)
    source: ConceptSource | None = None
    curated = ConceptArchive.open(archive / "archive") if draws_from_archive(arm) else None
    if curated is not None:
        source = curated.sampler(recipe.sampling.method, recipe.sampling.temperature)
    elif arm == "upper-bound":
        source = TrueConcepts(read_truth(pairs))
    dataset = pair_dataset(
        find_shards(pairs), DATASET, config.data, config.model.vision.image_px, source
    )
    if curated is not None:
        check_covered([pair.id for pair in dataset.pairs], curated)
    with cpu_threads(recipe.train_threads):
        train(config, dataset, folder, device=best_device(), label=f"train {arm}, seed {seed}")
    check_log(folder, config.log_every, config.optim.total_steps)


def evaluate_arm(
    recipe: Recipe,
    arm: str,
    seed: int,
    trained: Path,
    task: Task,
    data: Path | None,
    folder: Path,
) -> None:
    """Score one model, and look at its groups without any names."""
    device = best_device()
    # float32, so that a score does not hang on what the machine multiplies in hardware
    model = load_model(trained).to(device)
    segmenter = GroupViTSegmenter(model, name=f"{arm}-{seed}", precision="float32")
    report = evaluate(
        segmenter,
        task,
        root=data,
        out=folder,
        device=device,
        overlays=recipe.evaluate.overlays,
        overwrite=True,
    )
    purity = grouping_purity(segmenter, task, data)
    summary = {**report.metrics, "grouping_purity": purity}
    write_text(folder / "summary.json", json.dumps(summary, indent=1))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
