"""A paper's run, stage by stage: from shards on disk to the table.

    [sample] -> index -> embed (each set) -> vocabulary -> archives -> train -> evaluate -> report

`sample` is there with `--limit` alone; without arms that draw from an archive, all between index
and training is left out. Runs in one folder share stages: CC3M is embedded once for all recipes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from groupvit import TrainConfig
from integration.checksums import checksums
from integration.papers.arms import ARMS, archive_config, archive_name
from integration.papers.curation import embed_set, write_archive, write_vocabulary
from integration.papers.launch import Ranks
from integration.papers.pairs import Shards, find_set, write_index, write_sample
from integration.papers.plan import Step, archives_of
from integration.papers.recipe import PairsRecipe
from integration.papers.scoring import Scorer
from integration.papers.training import train_pairs
from integration.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Work:
    """The stages of a run."""

    stages: tuple[Stage, ...]
    """Every stage after its inputs."""
    shared: tuple[str, ...]
    """Names of those that all ranks run together."""
    scores: Mapping[tuple[str, int], Mapping[str, Stage]]
    """Evaluations by (arm, seed) and task."""
    index: Stage
    """That counts the pairs."""
    archives: Mapping[str, Stage]
    """By name."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is made of."""

    recipe: PairsRecipe
    """What to do."""
    configs: Mapping[tuple[str, int], TrainConfig]
    """What each (arm, seed) trains, as it is run: limited, if it is."""
    data: Path
    """Root of pairs, weights and data sets."""
    out: Path
    """Root of the stage folders."""
    limit: int | None
    """Pairs of a set and images of a task, in a rehearsal."""
    ranks: Ranks
    """This process among the others."""
    images: Mapping[str, int]
    """Of every task's data set, so that a mended data set is another evaluation."""
    costs: Mapping[str, float]
    """Expected seconds by step, for the time left."""


def costs_of(steps: Sequence[Step]) -> dict[str, float]:
    """Expected seconds by name; what was not measured counts as a minute."""
    return {step.name: 60.0 if step.seconds is None else step.seconds for step in steps}


def paper_stages(run: Run) -> Work:
    """All stages of a run but the report, each after its inputs."""
    sets = {name: find_set(run.recipe, name, run.data) for name in _all_sets(run.recipe)}
    samples = {n: _sample(run, shards) for n, shards in sets.items()} if run.limit else {}
    paths = {name: partial(_shards, run, samples, sets[name]) for name in sets}
    index = Stage(
        name="index",
        settings=_settings(run, run.recipe.sets, sets),
        inputs=tuple(samples[name] for name in run.recipe.sets if samples),
        run=lambda folder: write_index({n: paths[n]() for n in run.recipe.sets}, folder),
        cost=run.costs["index"],
    )
    archives, before = _curation(run, sets, samples, paths) if run.recipe.curates else ({}, [])
    scorer = Scorer(run.data, run.limit, run.ranks)
    trained = {
        (arm, seed): _train(run, arm, seed, index, archives, paths=paths, scorer=scorer)
        for arm, seed in run.configs
    }
    scores = {key: _scores(run, *key, stage, scorer) for key, stage in trained.items()}
    judged = [stage for each in scores.values() for stage in each.values()]
    after = [stage for key in trained for stage in (trained[key], *scores[key].values())]
    shared = [s.name for s in (*before, *archives.values()) if s.name != "vocabulary"]
    return Work(
        stages=(*samples.values(), index, *before, *archives.values(), *after),
        shared=(*shared, *(s.name for s in trained.values()), *(s.name for s in judged)),
        scores=scores,
        index=index,
        archives=archives,
    )


def _all_sets(recipe: PairsRecipe) -> list[str]:
    return list(dict.fromkeys((*recipe.sets, *recipe.embedded)))


def _settings(run: Run, names: Sequence[str], sets: Mapping[str, Shards]) -> dict[str, Any]:
    """What a stage on sets depends on: their files, and how much of them is read."""
    return {"sets": {name: sets[name].fingerprint for name in names}, "limit": run.limit}


def _sample(run: Run, shards: Shards) -> Stage:
    """The first pairs of a set, of a rehearsal."""
    assert run.limit is not None
    return Stage(
        name=f"sample-{shards.name}",
        settings=_settings(run, [shards.name], {shards.name: shards}),
        run=partial(write_sample, shards, run.limit),
    )


def _shards(run: Run, samples: Mapping[str, Stage], shards: Shards) -> list[Path]:
    """The files that a set is read from, once they are there."""
    if shards.name not in samples:
        return list(shards.files)
    return sorted(samples[shards.name].folder(run.out).glob("*.tar"))


def _curation(
    run: Run,
    sets: Mapping[str, Shards],
    samples: Mapping[str, Stage],
    paths: Mapping[str, Callable[[], list[Path]]],
) -> tuple[dict[str, Stage], list[Stage]]:
    """Archives by name, and the stages before them."""
    recipe, clip = run.recipe, run.data / run.recipe.encoder
    embedded = {name: _embed(run, name, sets, samples, paths[name]) for name in recipe.embedded}
    gallery = run.data / recipe.gallery if recipe.gallery else None
    pool = [embedded[name] for name in recipe.searched]
    words = Stage(
        name="vocabulary",
        settings={
            "vocabulary": asdict(recipe.vocabulary) if gallery is None else _hash(gallery),
        },
        inputs=tuple(pool),
        run=lambda folder: write_vocabulary(
            recipe, [stage.folder(run.out) for stage in pool], gallery, clip, folder
        ),
        cost=run.costs["vocabulary"],
    )
    anchors = [embedded[name] for name in recipe.sets]
    archives = {
        name: Stage(
            name=f"archive-{name}",
            settings={
                "archive": asdict(archive_config(curation, recipe.archive)),
                "search": asdict(recipe.search),
                "anchors": list(recipe.sets),
            },
            inputs=tuple({stage.name: stage for stage in (*anchors, *pool, words)}.values()),
            run=partial(
                write_archive,
                recipe,
                curation,
                [stage.folder(run.out) for stage in anchors],
                [stage.folder(run.out) for stage in pool],
                words=words.folder(run.out),
                ranks=run.ranks,
            ),
            cost=run.costs[f"archive-{name}"],
        )
        for name, curation in archives_of(recipe).items()
    }
    return archives, [*embedded.values(), words]


def _embed(
    run: Run,
    name: str,
    sets: Mapping[str, Shards],
    samples: Mapping[str, Stage],
    paths: Callable[[], list[Path]],
) -> Stage:
    """CLIP's rows of a set."""
    clip = run.data / run.recipe.encoder
    files = checksums(clip)
    return Stage(
        name=f"embed-{name}",
        settings={**_settings(run, [name], sets), "clip": files},
        inputs=tuple(samples[each] for each in [name] if samples),
        run=lambda folder: embed_set(name, paths(), clip, run.ranks, folder),
        cost=run.costs[f"embed-{name}"],
    )


def _train(
    run: Run,
    arm: str,
    seed: int,
    index: Stage,
    archives: Mapping[str, Stage],
    *,
    paths: Mapping[str, Callable[[], list[Path]]],
    scorer: Scorer,
) -> Stage:
    """Training of an arm with a seed."""
    config, curation = run.configs[arm, seed], ARMS[arm]
    archive = None if curation is None else archives[archive_name(curation)]
    learnt = {key: value for key, value in asdict(config).items() if key != "machine"}
    learnt["data"] = {k: v for k, v in learnt["data"].items() if k not in ("sets", "workers")}

    def work(folder: Path) -> None:
        scorer.forget()
        train_pairs(
            config,
            {name: paths[name]() for name in run.recipe.sets},
            index.folder(run.out),
            folder,
            archive=None if archive is None else archive.folder(run.out) / "archive",
            ranks=run.ranks,
            label=f"train {arm}, seed {seed}",
        )

    return Stage(
        name=f"train-{arm}-{seed}",
        settings={"train": learnt, "sets": list(run.recipe.sets)},
        inputs=(index,) if archive is None else (index, archive),
        run=work,
        cost=run.costs[f"train-{arm}-{seed}"],
    )


def _scores(run: Run, arm: str, seed: int, trained: Stage, scorer: Scorer) -> dict[str, Stage]:
    """Evaluations of a model, by task."""
    name, tasks = f"evaluate-{arm}-{seed}", run.recipe.load_tasks()
    return {
        task.id: Stage(
            name=f"{name}-{task.id.replace('@', '-')}",
            settings={"task": task.hash, "images": run.images[task.id], "limit": run.limit},
            inputs=(trained,),
            run=partial(scorer.score, task, trained.folder(run.out), f"{arm}-{seed}"),
            cost=run.costs[name] / len(tasks),
        )
        for task in tasks
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
