"""PixelCLIP's own run: the data are checked, the plan is printed, stages run, the table ends it."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from integration.checksums import checksums
from integration.errors import RecipeError
from integration.papers.check import look, require
from integration.papers.launch import Ranks, joined
from integration.papers.pixelclip.backbones import clip_folder
from integration.papers.pixelclip.check import needs_of
from integration.papers.pixelclip.plan import plan_masks
from integration.papers.pixelclip.recipe import (
    MasksRecipe,
    base_config,
    limited,
    load_masks_recipe,
    train_recipe,
)
from integration.papers.pixelclip.report import heading, write_report
from integration.papers.pixelclip.stages import MasksRun, masks_stages
from integration.papers.plan import Machine
from integration.papers.run import (
    OUT,
    Options,
    announce,
    as_rehearsed,
    carry_out,
    chosen_names,
)
from integration.papers.stages import costs_of
from maskcluster import TrainConfig


def run_masks_paper(name: str, options: Options) -> None:
    """Check the data, print the plan, run what is not done, and print the table.

    Under torchrun every rank calls this; the first prints.

    Args:
        name: a recipe for which `is_masks_recipe` holds, by name or path.
        options: of the command line.

    Raises:
        RecipeError: an option that cannot be.
        DataMissingError: data are missing; what and how to get it has been printed.
    """
    given: dict[str, Any] = dict(chosen_names(options))
    recipe = replace(load_masks_recipe(name), **given)
    recipe.load_tasks()
    if options.data is None:
        title = recipe.mask_kind.title
        raise RecipeError(f"recipe {recipe.name} reads {title}: say where with --data FOLDER")
    data = options.data.resolve()
    with joined() as ranks:
        _run(recipe, data, options, ranks, sys.stdout if ranks.leads else None)


def _run(
    recipe: MasksRecipe, data: Path, options: Options, ranks: Ranks, stream: TextIO | None
) -> None:
    seeds, limit, out = tuple(range(options.seeds)), options.limit, options.out or OUT
    photos = recipe.mask_kind.find(data)
    findings = look(needs_of(recipe, photos), data)
    seen = [as_rehearsed(finding, limit) for finding in findings]
    count = len(photos.files) if limit is None else min(len(photos.files), limit)
    configs = _configs(recipe, seeds, count, limit, ranks)
    machine = Machine.of_run(ranks.world)
    plan = plan_masks(
        recipe, {arm: configs[arm, 0] for arm in recipe.trained}, seen, seeds, machine
    )
    head = heading(recipe, list(configs.values()), count, limit)
    announce(head, findings, plan, data=data, machine=machine, out=out, stream=stream)
    require(findings, recipe.name, data)
    run = MasksRun(
        recipe=recipe,
        configs=configs,
        seeds=seeds,
        photos=photos,
        clip=checksums(clip_folder(base_config(recipe), data)),
        data=data,
        out=out,
        limit=limit,
        ranks=ranks,
        images={finding.name: finding.images for finding in findings},
        costs=costs_of(plan),
    )
    work = masks_stages(run)
    report = partial(write_report, run, work)
    carry_out(
        work.stages, work.shared, report, out=out, ranks=ranks, options=options, stream=stream
    )


def _configs(
    recipe: MasksRecipe, seeds: tuple[int, ...], photos: int, limit: int | None, ranks: Ranks
) -> dict[tuple[str, int], TrainConfig]:
    """What each trained (arm, seed) trains.

    Raises:
        RecipeError: the batch is no multiple of the ranks, or a rehearsal has too few photographs.
    """
    configs = {(a, s): train_recipe(recipe, a, s) for s in seeds for a in recipe.trained}
    if limit is not None:
        photos = photos or limit  # of none the check of the data says how to get them
        return {key: limited(each, photos, limit, ranks.world) for key, each in configs.items()}
    for batch in {config.data.batch for config in configs.values()}:
        if batch % ranks.world:
            shared = f"cannot be shared by {ranks.world} ranks"
            raise RecipeError(f"a batch of {batch} photographs {shared}")
    return configs
