"""The ablation of CoCu on the embedded world: `python -m integration.reproduce cocu --ablation`.

    pairs -> CLIP -> embed -> an archive for every curation -> study, without training
                                                            -> train, evaluate, score checkpoints
                                                            -> report

Stages up to the recipe's archive are those of `cocu`, and are shared with it. An arm is trained as
`cocu` is, from another archive or with other draws; it keeps checkpoints, so that the report can
show mIoU against steps.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from conceptarchive import Embeddings, Vocabulary, embed, find_shards
from integration.cocu.ablation.curations import CURATIONS, LADDER, Curation, check_arms
from integration.cocu.ablation.report import write_ablation
from integration.cocu.ablation.study import build, judge, study_settings
from integration.cocu.concept_pages import ARCHIVES, CONCEPTS, archive_section, overlay_section
from integration.cocu.recipe import Recipe
from integration.cocu.stages import arm_stages, open_encoder, scenes_stages, scenes_task
from integration.progress import ArmRun
from integration.stage import Stage, write_text
from integration.wiring import as_sets, read_truth
from segbench import Task, open_dataset

POINTS = 6
"""Checkpoints of a run that are scored, at equal distances."""

SHARED = ("pairs", "curator-pairs", "clip", "embed", "archive")
"""Stages of `cocu` that the ablation begins with."""


def ablation_stages(
    recipe: Recipe, arms: Sequence[str] | None, seeds: Sequence[int], out: Path
) -> list[Stage]:
    """All stages of the ablation, each after its inputs.

    Args:
        recipe: of scenes; photographs are judged by `photo_ablation.photo_study_stages`.
        arms: of `LADDER` and `CURATIONS`; the former when left out.
        seeds: of GroupViT's training; data and archives are shared.
        out: root of the stage folders.

    Raises:
        RecipeError: an unknown arm.
    """
    chosen = tuple(arms or LADDER)
    check_arms(chosen)
    usual = scenes_stages(recipe, (), out)
    shared = {stage.name: stage for stage in usual if stage.name in SHARED}
    task = scenes_task(recipe)
    other = _other_pool(recipe, shared, out)
    archives = _archives(recipe, shared, other, task, out)
    study = Stage(
        name="study",
        settings={**study_settings(recipe, CURATIONS), "task": task.hash},
        inputs=(shared["pairs"], *archives.values()),
        run=lambda folder: _judge(recipe, shared, archives, task, out, folder),
        cost=recipe.costs.get("study", 6 * recipe.costs.get("archive", 1)),
    )
    runs = {
        (arm, seed): _arm(recipe, arm, seed, shared["pairs"], archives, task, out)
        for seed in seeds
        for arm in chosen
    }
    trained = [stage for run in runs.values() for stage in run if stage is not None]
    report = Stage(
        name="ablation",
        settings={"recipe": recipe.name, "summary": recipe.summary},
        version=3,
        inputs=(study, *trained),
        run=lambda folder: write_ablation(
            folder,
            recipe,
            runs,
            study=study,
            out=out,
            pictures=_pictures(shared, runs, task, min(seeds), out),
        ),
        cost=recipe.costs.get("report", 1),
    )
    return [*shared.values(), other, *archives.values(), study, *trained, report]


def _pictures(
    shared: Mapping[str, Stage],
    runs: Mapping[tuple[str, int], ArmRun],
    task: Task,
    seed: int,
    out: Path,
) -> dict[str, list[str]]:
    """Pairs of the recipe's archive, and what the arms of a seed see in pictures; by heading."""
    pairs, curated = shared["pairs"].folder(out), shared["archive"].folder(out)
    of_seed = {arm: run for (arm, of), run in runs.items() if of == seed}
    return {
        ARCHIVES: [archive_section(pairs, curated)],
        CONCEPTS: [overlay_section(of_seed, out, task, None, pairs=pairs, curated=curated)],
    }


def _other_pool(recipe: Recipe, shared: Mapping[str, Stage], out: Path) -> Stage:
    """The curator's pairs embedded, as a pool that is not the training pairs."""
    pairs, clip = shared["curator-pairs"].folder(out), shared["clip"].folder(out)
    return Stage(
        name="embed-curator",
        settings={"precision": "float32"},
        inputs=(shared["curator-pairs"], shared["clip"]),
        run=lambda folder: _embed_other(pairs, clip, folder),
        cost=recipe.costs.get("embed", 1),
    )


def _embed_other(pairs: Path, clip: Path, folder: Path) -> None:
    embed(find_shards(pairs), open_encoder(clip), folder, dataset="curator")


def _archives(
    recipe: Recipe, shared: Mapping[str, Stage], other: Stage, task: Task, out: Path
) -> dict[str, Stage]:
    """A stage for every different archive, by its name."""
    stages: dict[str, Stage] = {}
    for curation in CURATIONS.values():
        name = curation.archive_name(recipe)
        pool = other if curation.pool == "other" else shared["embed"]
        stages[name] = Stage(
            name=name,
            settings={
                "archive": asdict(curation.archive_config(recipe)),
                "vocabulary": curation.vocabulary,
            },
            inputs=tuple(
                {
                    stage.name: stage
                    for stage in (shared["clip"], shared["embed"], shared["archive"], pool)
                }.values()
            ),
            run=partial(_build, recipe, curation, shared, pool, task, out),
            cost=recipe.costs.get("archive", 1) / 4,  # it is built once and not judged
        )
    return stages


def _build(
    recipe: Recipe,
    curation: Curation,
    shared: Mapping[str, Stage],
    pool: Stage,
    task: Task,
    out: Path,
    folder: Path,
) -> None:
    """Build the archive of one curation."""
    anchors = Embeddings.open(shared["embed"].folder(out))
    searched = anchors if pool is shared["embed"] else Embeddings.open(pool.folder(out))
    vocabulary = _vocabularies(shared, task, out)[curation.vocabulary]
    encoder = open_encoder(shared["clip"].folder(out))
    features = encoder.encode_texts(vocabulary.prompts()).numpy()  # (V, D)
    config = curation.archive_config(recipe)
    build(config, vocabulary, features, anchors, searched, encoder.id, folder)


def _vocabularies(shared: Mapping[str, Stage], task: Task, out: Path) -> dict[str, Vocabulary]:
    """The mined vocabulary of the recipe's archive, and the closed gallery: names to be scored."""
    return {
        "mined": Vocabulary.from_file(shared["archive"].folder(out) / "vocabulary.txt"),
        "gallery": Vocabulary(tuple(open_dataset(task.dataset, None).names)),
    }


def _judge(
    recipe: Recipe,
    shared: Mapping[str, Stage],
    archives: Mapping[str, Stage],
    task: Task,
    out: Path,
    folder: Path,
) -> None:
    vocabularies = _vocabularies(shared, task, out)
    folders = {name: stage.folder(out) for name, stage in archives.items()}
    truth = as_sets(read_truth(shared["pairs"].folder(out)))
    found = judge(recipe, CURATIONS, folders, vocabularies, truth)
    write_text(folder / "study.json", json.dumps(found, indent=1))


def _arm(
    recipe: Recipe,
    arm: str,
    seed: int,
    pairs: Stage,
    archives: Mapping[str, Stage],
    task: Task,
    out: Path,
) -> ArmRun:
    """Training, evaluation and scored checkpoints of one arm with one seed."""
    plan = replace(recipe, evaluate=replace(recipe.evaluate, points=POINTS))
    archive = pairs  # read by arms with an archive alone
    if arm in CURATIONS:
        plan = CURATIONS[arm].applied(plan)
        archive = archives[CURATIONS[arm].archive_name(recipe)]
    return arm_stages(plan, out, pairs, archive, task, None, arm, seed)
