"""CoCu, stage by stage: from pairs to a scored model. Start here.

    pairs -> CLIP -> embed -> archive -> train (each arm and seed) -> evaluate -> report

The arms share data, steps and seeds, and differ in one thing: where the prompted concepts of a pair
come from. `baseline` draws nouns and verbs of the caption (GroupViT), `cocu` draws from the concept
archive, `upper-bound` from the classes that are really there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from conceptarchive import Embeddings, OpenClipEncoder, embed, find_shards
from integration.cocu.arms import draws_from_archive, evaluate_arm, train_arm
from integration.cocu.curation import curate, mine
from integration.cocu.curator import train_curator
from integration.cocu.recipe import Recipe
from integration.cocu.report import write_report
from integration.progress import ArmRun, points_stage, with_points
from integration.stage import Stage, write_text
from integration.wiring import (
    DATASET,
    as_sets,
    best_device,
    fingerprint_scored,
    read_truth,
    write_truth,
)
from segbench import ScenesDataset, Task, caption_gap, load_task, write_pairs

SHARD = 1000
GAP_SAMPLE = 1000


def scenes_stages(recipe: Recipe, seeds: Sequence[int], out: Path) -> list[Stage]:
    """All stages of a recipe on the embedded world, each after its inputs.

    Args:
        recipe: what to do.
        seeds: of GroupViT's training; data and archive are shared.
        out: root of the stage folders.
    """
    cost = recipe.costs
    pairs = _pairs_stage(recipe, "pairs", "train", recipe.scenes.train)
    others = _pairs_stage(recipe, "curator-pairs", "curator", recipe.scenes.curator)
    clip = Stage(
        name="clip",
        settings=_curator_settings(recipe),
        inputs=(others,),
        run=lambda folder: _train_clip(recipe, others.folder(out), folder),
        cost=cost.get("clip", 1),
    )
    embedded = Stage(
        name="embed",
        settings={"precision": "float32"},
        inputs=(pairs, clip),
        run=lambda folder: _embed(pairs.folder(out), clip.folder(out), folder),
        cost=cost.get("embed", 1),
    )
    archive = Stage(
        name="archive",
        settings={"archive": asdict(recipe.archive), "vocabulary": asdict(recipe.vocabulary)},
        inputs=(pairs, clip, embedded),
        run=lambda folder: _curate(
            recipe, pairs.folder(out), clip.folder(out), embedded.folder(out), folder
        ),
        cost=cost.get("archive", 1),
    )
    runs = train_and_score(recipe, seeds, out, pairs, archive, scenes_task(recipe), data=None)
    return [pairs, others, clip, embedded, archive, *runs]


def _curator_settings(recipe: Recipe) -> dict[str, Any]:
    """What the curator hangs on; a default that came later is left out: older results stay."""
    settings = asdict(recipe.curator)
    del settings["checkpoint_every"]
    if settings.get("min_crop") == 1:
        del settings["min_crop"]
    return settings


def scenes_task(recipe: Recipe) -> Task:
    """What a recipe of scenes is scored on."""
    return load_task(recipe.evaluate.task).with_dataset(
        count=recipe.scenes.val, **recipe.scenes.look
    )


def _pairs_stage(recipe: Recipe, name: str, split: str, count: int) -> Stage:
    """Scenes of a split, written as shards."""
    dataset = ScenesDataset(split=split, count=count, **recipe.scenes.look)
    return Stage(
        name=name,
        settings={k: v for k, v in asdict(recipe.scenes).items() if k != "workers"},
        run=partial(_draw_pairs, dataset, recipe.scenes.workers),
        cost=recipe.costs.get("pairs", 1),
    )


def train_and_score(
    recipe: Recipe,
    seeds: Sequence[int],
    out: Path,
    pairs: Stage,
    archive: Stage,
    task: Task,
    data: Path | None,
) -> list[Stage]:
    """Training and evaluation of every arm and seed, and the report over all of them.

    Args:
        recipe: what to do.
        seeds: of the training.
        out: root of the stage folders.
        pairs: stage with tar shards of the training pairs.
        archive: stage with the concept archive in `archive/`.
        task: what is scored.
        data: root of the task's data; None for procedural data.
    """
    of_arm = partial(arm_stages, recipe, out, pairs, archive, task, data)
    runs = {(arm, seed): of_arm(arm, seed) for seed in seeds for arm in recipe.arms}
    stages = [stage for run in runs.values() for stage in run if stage is not None]
    report = Stage(
        name="report",
        settings={"recipe": recipe.name, "summary": recipe.summary},
        version=3,
        inputs=(archive, *stages),
        run=lambda folder: write_report(
            folder, recipe, out, pairs=pairs, archive=archive, runs=runs, task=task, data=data
        ),
        cost=recipe.costs.get("report", 1),
    )
    return [*stages, report]


def arm_stages(
    recipe: Recipe,
    out: Path,
    pairs: Stage,
    archive: Stage,
    task: Task,
    data: Path | None,
    arm: str,
    seed: int,
) -> ArmRun:
    """Training, evaluation and, if wanted, scored checkpoints of one arm with one seed.

    Args:
        recipe: of the arm; the sampling is read by arms that draw from an archive alone.
        out: root of the stage folders.
        pairs: stage with tar shards of the training pairs.
        archive: stage with the arm's concept archive in `archive/`, if it draws from one.
        task: what is scored.
        data: root of the task's data; None for procedural data.
        arm: `baseline`, `upper-bound`, or any other name: it draws from the archive.
        seed: of the training.
    """
    curated, points = draws_from_archive(arm), recipe.evaluate.points
    if points:
        recipe = replace(recipe, train=with_points(recipe.train, points))
    trained = Stage(
        name=f"train-{arm}-{seed}",
        settings={
            "arm": arm,
            "train": asdict(recipe.train),
            "seed": seed,
            "sampling": asdict(recipe.sampling) if curated else None,
        },
        inputs=(pairs, archive) if curated else (pairs,),
        run=partial(train_arm, recipe, arm, seed, pairs.folder(out), archive.folder(out)),
        cost=recipe.costs.get("train", 1),
    )
    files = {} if data is None else {"files": fingerprint_scored(task, data)}
    judged = Stage(
        name=f"evaluate-{arm}-{seed}",
        settings={"task": task.hash, "overlays": recipe.evaluate.overlays, **files},
        inputs=(trained,),
        run=partial(evaluate_arm, recipe, arm, seed, trained.folder(out), task, data),
        cost=recipe.costs.get("evaluate", 1),
    )
    cost = recipe.costs.get("evaluate", 1)
    scored = points_stage(f"{arm}-{seed}", trained, task, out, cost=cost) if points else None
    return ArmRun(trained, judged, scored)


def _draw_pairs(dataset: ScenesDataset, workers: int, folder: Path) -> None:
    """Write shards, and how much of what is to be seen their captions name."""
    shards = write_pairs(dataset, folder, shard_size=SHARD, workers=workers)
    write_truth(
        folder,
        {
            f"{DATASET}/{shards[index // SHARD].stem}/{index:09d}": sorted(dataset.present(index))
            for index in range(len(dataset))
        },
    )
    gap = caption_gap(replace(dataset, count=min(dataset.count, GAP_SAMPLE)))
    write_text(folder / "gap.json", json.dumps(asdict(gap), indent=1))


def _train_clip(recipe: Recipe, pairs: Path, folder: Path) -> None:
    train_curator(
        find_shards(pairs),
        recipe.curator,
        folder,
        device=best_device(),
        workers=recipe.train.data.workers,
    )


def open_encoder(clip: Path) -> OpenClipEncoder:
    """The curator's CLIP, from its stage's folder."""
    return OpenClipEncoder(f"local-dir:{clip}", device=str(best_device()))


def _embed(pairs: Path, clip: Path, folder: Path) -> None:
    embed(find_shards(pairs), open_encoder(clip), folder, dataset=DATASET)


def _curate(recipe: Recipe, pairs: Path, clip: Path, embedded: Path, folder: Path) -> None:
    """Mine the vocabulary, build the archive, and judge it and its ablations."""
    embeddings = Embeddings.open(embedded)
    encoder = open_encoder(clip)
    vocabulary, features = mine(recipe.vocabulary, embeddings, encoder)
    vocabulary.save(folder / "vocabulary.txt")
    truth = as_sets(read_truth(pairs))
    quality = curate(
        folder, embeddings, vocabulary, features, recipe.archive, truth, encoder_id=encoder.id
    )
    write_text(folder / "quality.json", json.dumps(quality, indent=1))
