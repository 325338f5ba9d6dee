"""PixelCLIP, stage by stage: from pictures and masks to a CLIP that segments. Start here.

    captions -> CLIP -> un-tuned scores
    pictures -> masks -> train (each arm) -> scores, clusters with names -> report

On the embedded world every seed trains a CLIP of its own and tunes that one in every arm, so that
an arm's gain over its own un-tuned CLIP is a difference of two numbers of one seed. On photographs
the CLIP is one of open_clip's.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from integration.errors import RecipeError
from integration.pixelclip.masks import dino_masks, superpixel_masks
from integration.pixelclip.recipe import PixelclipRecipe, Source
from integration.pixelclip.report import write_report
from integration.pixelclip.runs import Runs, World
from integration.pixelclip.scenes import MASKS
from integration.pixelclip.tuning import name_run, score_run, score_untuned, train_run
from integration.pixelclip.words import ARCHIVE, archive_words, caption_words, most_clusters
from integration.pixelclip.worlds import photos_world, scenes_world
from integration.stage import Stage


def pixelclip_stages(
    recipe: PixelclipRecipe, seeds: Sequence[int], out: Path, data: Path | None
) -> list[Stage]:
    """All stages of a recipe, each after its inputs.

    Args:
        recipe: what to do.
        seeds: of the tuning, and of CLIP's own training where it is trained in the run.
        out: root of the stage folders.
        data: root of photographs and of what is scored; None for the embedded world.

    Raises:
        RecipeError: data are needed and not given, or the other way round; or an arm needs
            captions, and there are none.
        DataMissingError: a folder that the recipe names is not there.
    """
    world = _world(recipe, seeds, out, data)
    runs = Runs(untuned={}, trained={}, scored={}, named={}, masks={}, words={})
    stages = list(world.stages)
    for seed in seeds:
        stages += _seed_stages(recipe, seed, out, world, runs)
    report = Stage(
        name="report",
        settings={
            "recipe": recipe.name,
            "summary": recipe.summary,
            "about": {arm: recipe.arms[arm].about for arm in recipe.chosen},
        },
        version=3,
        inputs=(*runs.untuned.values(), *runs.scored.values(), *runs.named.values()),
        run=partial(write_report, recipe, out, runs, world),
        cost=recipe.costs.get("report", 1),
    )
    return [*stages, report]


def _world(recipe: PixelclipRecipe, seeds: Sequence[int], out: Path, data: Path | None) -> World:
    if recipe.photos is None:
        if data is not None:
            raise RecipeError(f"recipe {recipe.name} draws its own pictures: leave --data out")
        return scenes_world(recipe, seeds, out)
    if data is None:
        raise RecipeError(f"recipe {recipe.name} reads photographs: say where with --data FOLDER")
    for name in recipe.chosen:
        if recipe.arms[name].words != "vocabulary":
            raise RecipeError(f"arm {name} takes words from captions, which photographs lack")
    return photos_world(recipe, recipe.photos, data.resolve())


def _seed_stages(
    recipe: PixelclipRecipe, seed: int, out: Path, world: World, runs: Runs
) -> list[Stage]:
    """Scores of a CLIP, and every arm that tunes it; noted in `runs` too."""
    cost = recipe.costs
    clip = world.clip(seed)
    runs.untuned[seed] = Stage(
        name=f"untuned-{seed}",
        settings={"task": world.task.hash, "clip": clip.name, "scored": world.scored},
        inputs=clip.inputs,
        run=partial(score_untuned, clip, world),
        cost=cost.get("evaluate", 1),
    )
    masks = _masks_stages(recipe, seed, world)
    words = _words_stages(recipe, seed, world)
    if seed == min(runs.untuned):
        runs.masks.update(masks)
        runs.words.update(words)
    stages = [runs.untuned[seed], *masks.values(), *words.values()]
    for arm in recipe.chosen:
        stages += _arm_stages(recipe, arm, seed, out, world, masks, words, runs)
    return stages


def _arm_stages(
    recipe: PixelclipRecipe,
    name: str,
    seed: int,
    out: Path,
    world: World,
    masks: dict[Source, Stage],
    words: dict[str, Stage],
    runs: Runs,
) -> list[Stage]:
    """Training and scores of one arm; of the first seed its clusters with names too."""
    arm, cost = recipe.arms[name], recipe.costs
    given = words.get(arm.words)
    made = masks.get(arm.masks)
    source = world.masks if made is None else made.folder(out) / MASKS
    trained = Stage(
        name=f"train-{name}-{seed}",
        settings={
            "train": asdict(arm.train),
            "clip": world.clip(seed).name,
            "files": world.files,
            "masks": arm.masks,
            "words": arm.words,
            "seed": seed,
        },
        inputs=(
            *world.inputs,
            *world.clip(seed).inputs,
            *(stage for stage in (made, given) if stage is not None),
        ),
        run=partial(
            train_run,
            recipe,
            name,
            seed,
            world,
            source,
            None if given is None else given.folder(out),
        ),
        cost=cost.get("train", 1),
    )
    scored = Stage(
        name=f"evaluate-{name}-{seed}",
        settings={
            "task": world.task.hash,
            "overlays": recipe.evaluate.overlays,
            "scored": world.scored,
        },
        inputs=(trained,),
        run=partial(score_run, recipe, name, seed, world, trained.folder(out)),
        cost=cost.get("evaluate", 1),
    )
    runs.trained[name, seed], runs.scored[name, seed] = trained, scored
    if name in runs.named or arm.train.cluster.targets == "masks":
        return [trained, scored]
    runs.named[name] = Stage(
        name=f"name-{name}",
        settings={"names": world.names},
        version=2,
        inputs=(trained,),
        run=partial(name_run, recipe, name, world, source, trained.folder(out)),
        cost=cost.get("name", 1),
    )
    return [trained, scored, runs.named[name]]


def _masks_stages(recipe: PixelclipRecipe, seed: int, world: World) -> dict[Source, Stage]:
    """Masks of the sources that the arms need beside the pictures' own."""
    wanted = recipe.sources
    clip, cost = world.clip(seed), recipe.costs.get("masks", 1)
    found: dict[Source, Stage] = {}
    if "dino" in wanted:
        found["dino"] = Stage(
            name=f"masks-dino-{seed}",
            settings={**asdict(recipe.masks), "clip": clip.name, "files": world.files},
            inputs=(*world.inputs, *clip.inputs),
            run=partial(dino_masks, world.images, clip, recipe.masks),
            cost=cost,
        )
    if "superpixels" in wanted:
        found["superpixels"] = Stage(
            name="masks-superpixels",
            settings={**asdict(recipe.masks), "files": world.files},
            inputs=world.inputs,
            run=partial(superpixel_masks, world.images, recipe.masks),
            cost=cost,
        )
    return found


def _words_stages(recipe: PixelclipRecipe, seed: int, world: World) -> dict[str, Stage]:
    """Words that class prompts start from, for the arms that need them."""
    wanted = {recipe.arms[name].words for name in recipe.chosen}
    made = {"method": asdict(ARCHIVE), "clusters": most_clusters(recipe)}
    makers = {"captions": (caption_words, {}), "archive": (archive_words, made)}
    return {
        kind: Stage(
            name=f"words-{kind}-{seed}",
            settings={"vocabulary": asdict(recipe.vocabulary), "seed": seed, **more},
            inputs=world.clip(seed).inputs,
            run=partial(make, recipe, seed, world),
            cost=recipe.costs.get("words", 1),
        )
        for kind, (make, more) in makers.items()
        if kind in wanted
    }
