"""PixelCLIP's own run, stage by stage: from photographs and a CLIP on disk to the table.

    [sample] -> [masks-dino] -> train (each arm and seed) -> evaluate (each task and prompts)
    CLIP     -> evaluate, before any tuning

`sample` is there with `--limit` alone. Runs in one folder share stages: an arm that two recipes
have is trained once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from integration.checksums import checksums
from integration.papers.launch import Ranks
from integration.papers.pixelclip.dino import DINO
from integration.papers.pixelclip.photographs import PhotoSet, write_sample
from integration.papers.pixelclip.plan import runs_of
from integration.papers.pixelclip.recipe import MasksRecipe, Prompts, base_config
from integration.papers.pixelclip.tuning import MasksScorer, dino_masks, tune
from integration.stage import Stage
from maskcluster import TrainConfig


@dataclass(frozen=True, kw_only=True)
class MasksRun:
    """What a run is made of."""

    recipe: MasksRecipe
    """What to do."""
    configs: Mapping[tuple[str, int], TrainConfig]
    """What each trained (arm, seed) trains, as it is run: limited, if it is."""
    seeds: tuple[int, ...]
    """Of every trained arm."""
    photos: PhotoSet
    """What is trained on."""
    clip: Mapping[str, str]
    """SHA-256 of the files of the CLIP that is tuned: another one is another run."""
    data: Path
    """Root of photographs, weights and data sets."""
    out: Path
    """Root of the stage folders."""
    limit: int | None
    """Photographs, and images of a task, in a rehearsal."""
    ranks: Ranks
    """This process among the others."""
    images: Mapping[str, int]
    """Of every task's data set, so that a mended data set is another evaluation."""
    costs: Mapping[str, float]
    """Expected seconds by step, for the time left."""


@dataclass(frozen=True, kw_only=True)
class MasksWork:
    """The stages of a run."""

    stages: tuple[Stage, ...]
    """Every stage after its inputs."""
    shared: tuple[str, ...]
    """Names of those that all ranks run together."""
    scores: Mapping[tuple[str, int], Mapping[str, Stage]]
    """Evaluations by (row of the table, seed) and task."""


def masks_stages(run: MasksRun) -> MasksWork:
    """All stages of a run but the report, each after its inputs."""
    before = _before(run) if run.configs else ()
    scorer = MasksScorer(base_config(run.recipe), run.data, run.limit, run.ranks)
    scores: dict[tuple[str, int], Mapping[str, Stage]] = {}
    after: list[Stage] = []
    for arm, seed in runs_of(run.recipe, run.seeds):
        trained = _train(run, arm, seed, before, scorer) if (arm, seed) in run.configs else None
        after += [] if trained is None else [trained]
        for prompts in run.recipe.prompts:
            judged = _scores(run, arm, seed, prompts, trained=trained, scorer=scorer)
            scores[run.recipe.row(arm, prompts), seed] = judged
            after += judged.values()
    return MasksWork(
        stages=(*before, *after), shared=tuple(stage.name for stage in after), scores=scores
    )


def _before(run: MasksRun) -> tuple[Stage, ...]:
    """What comes before the training: a sample in a rehearsal, masks where they are made."""
    kind = run.recipe.mask_kind
    found: list[Stage] = []
    if run.limit is not None:
        found.append(
            Stage(
                name=kind.sample,
                settings=_photographs(run),
                run=partial(write_sample, run.photos, run.limit),
            )
        )
    if kind.made_by:
        found.append(
            Stage(
                name=kind.made_by,
                settings={
                    **_photographs(run),
                    "weights": checksums(run.data / DINO),
                    "clusters": run.recipe.dino_clusters,
                    "short_px": run.recipe.dino_short_px,
                },
                inputs=tuple(found),
                run=partial(dino_masks, run.recipe, _placed(run, found).folder, run.data),
                cost=run.costs[kind.made_by],
            )
        )
    return tuple(found)


def _photographs(run: MasksRun) -> dict[str, Any]:
    """What a stage that reads photographs depends on."""
    return {"photographs": run.photos.fingerprint, "limit": run.limit}


def _placed(run: MasksRun, before: Sequence[Stage]) -> PhotoSet:
    """The photographs where they are, once they are there."""
    return run.photos if run.limit is None else run.photos.sampled(before[0].folder(run.out))


def _train(
    run: MasksRun, arm: str, seed: int, before: tuple[Stage, ...], scorer: MasksScorer
) -> Stage:
    """Training of an arm with a seed."""
    config = run.configs[arm, seed]
    learnt = {key: value for key, value in asdict(config).items() if key != "machine"}
    learnt["data"] = {key: value for key, value in learnt["data"].items() if key != "workers"}
    kind, photos = run.recipe.mask_kind, _placed(run, before)
    made = before[-1].folder(run.out) if kind.made_by else None

    def work(folder: Path) -> None:
        scorer.forget()
        label = f"train {arm}, seed {seed}"
        masks = kind.open(photos, made)
        tune(config, photos.folder, masks, folder, data=run.data, ranks=run.ranks, label=label)

    return Stage(
        name=f"train-{arm}-{seed}",
        settings={"train": learnt, "clip": dict(run.clip), **_photographs(run), **kind.settings},
        inputs=before,
        run=work,
        cost=run.costs[f"train-{arm}-{seed}"],
    )


def _scores(
    run: MasksRun,
    arm: str,
    seed: int,
    prompts: Prompts,
    *,
    trained: Stage | None,
    scorer: MasksScorer,
) -> dict[str, Stage]:
    """Evaluations of a model with some sentences, by task."""
    tasks = run.recipe.load_tasks(prompts)
    name, folder = f"evaluate-{arm}-{seed}", None if trained is None else trained.folder(run.out)
    end = "" if prompts == "ensemble" else f"-{prompts}"
    model = {"clip": dict(run.clip)} if trained is None else {}
    return {
        task.id: Stage(
            name=f"{name}-{task.id.replace('@', '-')}{end}",
            settings={
                "task": task.hash,
                "images": run.images[task.id],
                "limit": run.limit,
                **model,
            },
            inputs=() if trained is None else (trained,),
            run=partial(scorer.score, task, arm, folder, f"{arm}-{seed}"),
            cost=run.costs[name] / len(tasks) / len(run.recipe.prompts),
        )
        for task in tasks
    }
