"""A paper's own run: the data are checked, the plan is printed, stages run, the table ends it."""

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from groupvit import TrainConfig
from integration.errors import RecipeError
from integration.papers.check import Finding, look, needs_of, require
from integration.papers.check import describe as describe_data
from integration.papers.launch import Ranks, joined, run_together
from integration.papers.plan import Machine, Step, describe_plan, plan_run
from integration.papers.recipe import PairsRecipe, limited, load_pairs_recipe, train_recipe
from integration.papers.report import heading, write_report
from integration.papers.stages import Run, costs_of, paper_stages
from integration.stage import Stage, describe

OUT = Path("runs") / "papers"
"""One folder for all papers' runs, which share stages."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of a run."""

    data: Path | None = None
    """Folder of pairs, weights and data sets."""
    out: Path | None = None
    """Of all results; `OUT` when left out."""
    seeds: int = 1
    """Trainings of every arm."""
    arms: str | None = None
    """Comma-separated, in place of the recipe's."""
    pool: str | None = None
    """In place of the recipe's."""
    tasks: str | None = None
    """Comma-separated, in place of the recipe's."""
    limit: int | None = None
    """Of a rehearsal: pairs of every set, and images of every task."""
    from_stage: str | None = None
    """Forget the results of this stage and of all after it."""
    dry_run: bool = False
    """Print the check and the plan, and stop."""


def run_paper(name: str, options: Options) -> None:
    """Check the data, print the plan, run what is not done, and print the table.

    Under torchrun every rank calls this; the first prints.

    Args:
        name: a recipe for which `is_pairs_recipe` holds, by name or path.
        options: of the command line.

    Raises:
        RecipeError: an option that cannot be.
        DataMissingError: data are missing; what and how to get it has been printed.
    """
    recipe = _chosen(load_pairs_recipe(name), options)
    if options.data is None:
        raise RecipeError(f"recipe {recipe.name} reads tar shards: say where with --data FOLDER")
    data = options.data.resolve()
    with joined() as ranks:
        _run(recipe, data, options, ranks, sys.stdout if ranks.leads else None)


def chosen_names(options: Options) -> dict[str, tuple[str, ...]]:
    """Arms and tasks that the command line says in place of a recipe's; the rest is checked.

    Raises:
        RecipeError: a number out of range.
    """
    if options.seeds < 1:
        raise RecipeError(f"--seeds must be >= 1, got {options.seeds}")
    if options.limit is not None and options.limit < 4:
        raise RecipeError(f"--limit must be >= 4, got {options.limit}")
    given = (("arms", options.arms), ("tasks", options.tasks))
    return {key: tuple(value.split(",")) for key, value in given if value is not None}


def _chosen(recipe: PairsRecipe, options: Options) -> PairsRecipe:
    """The recipe with what the command line says in place of it."""
    given: dict[str, Any] = dict(chosen_names(options))
    if options.pool is not None:
        given["pool"] = options.pool
    if options.limit is not None:  # few captions name a noun often
        given["vocabulary"] = replace(recipe.vocabulary, min_count=1)
    chosen = replace(recipe, **given)
    chosen.load_tasks()
    return chosen


def _run(
    recipe: PairsRecipe, data: Path, options: Options, ranks: Ranks, stream: TextIO | None
) -> None:
    findings = look(needs_of(recipe), data)
    seeds, rehearsal = range(options.seeds), options.limit
    configs = configs_of(recipe, seeds, findings, rehearsal, ranks)
    on = Machine.of_run(ranks.world)
    capped = [as_rehearsed(finding, rehearsal) for finding in findings]
    plan = plan_run(recipe, {a: configs[a, 0] for a in recipe.arms}, capped, seeds, on)
    out = options.out or OUT
    head = heading(recipe, configs[recipe.arms[0], 0], capped, rehearsal)
    announce(head, findings, plan, data=data, machine=on, out=out, stream=stream)
    require(findings, recipe.name, data)
    run = Run(
        recipe=recipe,
        configs=configs,
        data=data,
        out=out,
        limit=rehearsal,
        ranks=ranks,
        images={finding.name: finding.images for finding in findings},
        costs=costs_of(plan),
    )
    work = paper_stages(run)
    report = partial(write_report, run, work)
    carry_out(
        work.stages, work.shared, report, out=out, ranks=ranks, options=options, stream=stream
    )


def announce(
    head: str,
    findings: Sequence[Finding],
    plan: Sequence[Step],
    *,
    data: Path,
    machine: Machine,
    out: Path,
    stream: TextIO | None,
) -> None:
    """Print what is run, the check of the data and the plan; nothing but on the first rank."""
    if stream is not None:
        plans = [*describe_plan(plan, machine), room(plan, out)]
        print("\n".join([head, *describe_data(findings, data), *plans]), file=stream)


def carry_out(
    stages: Sequence[Stage],
    shared: Sequence[str],
    report: Callable[[], str],
    *,
    out: Path,
    ranks: Ranks,
    options: Options,
    stream: TextIO | None,
) -> None:
    """List the stages of a dry run, or run them and print the report.

    Args:
        stages: every stage after its inputs.
        shared: names of those that all ranks run together.
        report: writes it, and gives its text.
        out: root of the stage folders.
        ranks: this process among the others.
        options: of the command line.
        stream: where the first rank prints; None on the others.
    """
    if options.dry_run:
        if stream is not None:
            print("\n".join(describe(stages, out, options.from_stage)), file=stream)
        return

    def tell() -> None:
        print(report(), file=stream)

    again = options.from_stage
    run_together(stages, shared, out, ranks, stream=sys.stderr, again_from=again, then=tell)


def configs_of(
    recipe: PairsRecipe,
    seeds: Sequence[int],
    findings: Sequence[Finding],
    limit: int | None,
    ranks: Ranks,
) -> dict[tuple[str, int], TrainConfig]:
    """What each (arm, seed) trains, in the order in which they are trained.

    Raises:
        RecipeError: the batch is no multiple of the ranks, or a rehearsal has too few pairs.
    """
    configs = {(a, s): train_recipe(recipe, a, s) for s in seeds for a in recipe.arms}
    if limit is not None:
        found = {finding.name: finding.pairs for finding in findings}
        pairs = sum(min(found[name], limit) for name in recipe.sets)
        pairs = pairs or limit  # of none the check of the data says how to get them
        return {key: limited(each, pairs, limit, ranks.world) for key, each in configs.items()}
    batch = next(iter(configs.values())).data.batch
    if batch % ranks.world:
        raise RecipeError(f"a batch of {batch} pairs cannot be shared by {ranks.world} ranks")
    return configs


def room(plan: Sequence[Step], out: Path) -> str:
    """Whether the disk of the results has room for what a plan leaves there."""
    place = next(each for each in (out.resolve(), *out.resolve().parents) if each.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    needed = sum(step.disk_gb for step in plan)
    short = "; NOT ENOUGH for the plan" if free < needed else ""
    return f"disk of {out}: {free:,.0f} GB free{short}"


def as_rehearsed(finding: Finding, limit: int | None) -> Finding:
    """A finding as a rehearsal sees it."""
    if limit is None:
        return finding
    return replace(finding, pairs=min(finding.pairs, limit), images=min(finding.images, limit))
