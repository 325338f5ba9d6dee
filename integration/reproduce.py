"""`python -m integration.reproduce cocu` (or `pixelclip`): a paper, from data to report."""

import errno
import sys
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from conceptarchive import ConceptArchiveError
from groupvit import GroupViTError
from integration.cocu.ablation.photos import photo_study_stages
from integration.cocu.ablation.stages import ablation_stages
from integration.cocu.flickr8k import photo_stages
from integration.cocu.recipe import FOLDER as COCU_RECIPES
from integration.cocu.recipe import Recipe, load_recipe
from integration.cocu.stages import scenes_stages
from integration.errors import DamagedError, DataMissingError, RecipeError
from integration.papers.pixelclip.recipe import FOLDER as MASKS_RECIPES
from integration.papers.pixelclip.recipe import is_masks_recipe
from integration.papers.pixelclip.run import run_masks_paper
from integration.papers.recipe import FOLDER as PAIRS_RECIPES
from integration.papers.recipe import is_pairs_recipe
from integration.papers.run import Options, run_paper
from integration.pixelclip.recipe import FOLDER as PIXELCLIP_RECIPES
from integration.pixelclip.recipe import load_pixelclip_recipe
from integration.pixelclip.stages import pixelclip_stages
from integration.recipe import check_known
from integration.stage import Stage, describe, run_stages
from maskcluster import MaskClusterError
from segbench import SegbenchError

REPORTS = ("report.md", "report.html", "results.json")
STUDY = ("ablation.md", "ablation.html", "ablation.png", "ablation.json")
ABLATION = (*STUDY, "convergence.png")
FLAGS = ("--dry_run", "--ablation")
"""Options that mean `true` when nothing follows."""
RECIPES = {
    "cocu": (COCU_RECIPES, PAIRS_RECIPES),
    "groupvit": (PAIRS_RECIPES,),
    "pixelclip": (PIXELCLIP_RECIPES, MASKS_RECIPES),
}
"""Folders of the recipes that a verb takes."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file that is full."""


def cocu(  # noqa: PLR0913  # every option of the command
    recipe: str = "cocu-mini",
    *,
    data: Path | None = None,
    out: Path | None = None,
    seeds: int = 1,
    arms: str | None = None,
    ablation: bool = False,
    pool: str | None = None,
    tasks: str | None = None,
    limit: int | None = None,
    from_stage: str | None = None,
    dry_run: bool = False,
) -> None:
    """Curate concepts, train GroupViT with and without them, evaluate both, write a report.

    Args:
        recipe: name of a built-in recipe, or a .toml file.
        data: folder of real data, for recipes that need one.
        out: folder of all results; runs/RECIPE when left out. A killed run goes on where it
            stopped.
        seeds: train every arm this many times.
        arms: comma-separated, of baseline, cocu and upper-bound; the recipe's when left out.
        ablation: train the paper's models #1 to #4 between baseline and upper bound, and judge the
            settings of an archive, on a recipe of scenes; `arms` may then name model-1 to model-4
            and any setting that docs/ablation.md lists. On photographs nothing is trained.
        pool: of a recipe on pairs: `own`, or the set in which reference images are searched.
        tasks: of a recipe on pairs: comma-separated tasks of segbench; the recipe's when left out.
        limit: of a recipe on pairs: rehearse it with this many pairs of each set and images of each
            task.
        from_stage: forget the results of this stage and of all after it.
        dry_run: list the stages and whether they are up to date, and stop; of a recipe on pairs,
            also say what the data folder lacks and what the run will take.
    """
    _check_recipe("cocu", recipe)
    if is_pairs_recipe(recipe):
        if ablation:
            raise RecipeError("--ablation is of scenes; on pairs the recipe is cocu-ablation-cc3m")
        run_paper(recipe, Options(data, out, seeds, arms, pool, tasks, limit, from_stage, dry_run))
        return
    if (pool, tasks, limit) != (None, None, None):
        raise RecipeError(f"--pool, --tasks and --limit are of recipes on pairs, {recipe} is none")
    plan = load_recipe(recipe)
    if plan.source == "scenes" and data is not None:
        raise RecipeError(f"recipe {plan.name} draws its own pictures: leave --data out")
    _check_seeds(seeds)
    root = out or Path("runs") / plan.name
    chosen = None if arms is None else arms.split(",")
    names: Sequence[str] = REPORTS
    if not ablation:
        stages = _stages(_with_arms(plan, arms), root, range(seeds), data)
    elif plan.source == "flickr8k":
        stages, names = photo_study_stages(plan, chosen, root, data), STUDY
    else:
        stages, names = ablation_stages(plan, chosen, range(seeds), root), ABLATION
    _run(stages, root, names, from_stage, dry_run=dry_run)


def pixelclip(  # noqa: PLR0913  # every option of the command
    recipe: str = "pixelclip-mini",
    *,
    data: Path | None = None,
    out: Path | None = None,
    seeds: int = 1,
    arms: str | None = None,
    tasks: str | None = None,
    limit: int | None = None,
    from_stage: str | None = None,
    dry_run: bool = False,
) -> None:
    """Tune CLIP with masks that have no names, score it before and after, name its clusters.

    Args:
        recipe: name of a built-in recipe, or a .toml file.
        data: folder of real data, for recipes that need one.
        out: folder of all results; runs/RECIPE when left out. A killed run goes on where it
            stopped.
        seeds: train CLIP and every arm this many times.
        arms: comma-separated names of the recipe's arms, or `all`; of a paper's recipe those of
            `integration/papers/pixelclip/arms.py`.
        tasks: of a paper's recipe: comma-separated tasks of segbench; the recipe's when left out.
        limit: of a paper's recipe: rehearse it with this many photographs and images of each task.
        from_stage: forget the results of this stage and of all after it.
        dry_run: list the stages and whether they are up to date, and stop; of a paper's recipe,
            also say what the data folder lacks and what the run will take.
    """
    _check_recipe("pixelclip", recipe)
    if is_masks_recipe(recipe):
        given = Options(data, out, seeds, arms, None, tasks, limit, from_stage, dry_run)
        run_masks_paper(recipe, given)
        return
    if (tasks, limit) != (None, None):
        raise RecipeError(f"--tasks and --limit are of the paper's recipes, {recipe} is none")
    plan = load_pixelclip_recipe(recipe).with_arms(arms)
    _check_seeds(seeds)
    root = out or Path("runs") / plan.name
    stages = pixelclip_stages(plan, range(seeds), root, data)
    _run(stages, root, REPORTS, from_stage, dry_run=dry_run)


def _check_recipe(verb: str, recipe: str) -> None:
    """Refuse a name that is no recipe of the verb, and say of which it is."""
    holders = [
        other
        for other, folders in RECIPES.items()
        if any((folder / f"{recipe}.toml").exists() for folder in folders)
    ]
    if holders and verb not in holders:
        raise RecipeError(f"{recipe} is a recipe of the verb {holders[0]}, not of {verb}")
    check_known(recipe, *RECIPES[verb])


def _check_seeds(seeds: int) -> None:
    if seeds < 1:
        raise RecipeError(f"--seeds must be >= 1, got {seeds}")


def _run(
    stages: Sequence[Stage],
    root: Path,
    names: Sequence[str],
    from_stage: str | None,
    *,
    dry_run: bool,
) -> None:
    """Run stages, or list them; then copy and print what the last one made."""
    if dry_run:
        print("\n".join(describe(stages, root, from_stage)))
        return

    def tell() -> None:
        _publish(stages[-1].folder(root), root, names)
        print((root / names[0]).read_text(encoding="utf-8"))
        print(f"Report with pictures: {root / names[1]}")

    run_stages(stages, root, stream=sys.stderr, again_from=from_stage, then=tell)


def groupvit(
    recipe: str = "groupvit-gcc-yfcc",
    *,
    data: Path | None = None,
    out: Path | None = None,
    seeds: int = 1,
    tasks: str | None = None,
    limit: int | None = None,
    from_stage: str | None = None,
    dry_run: bool = False,
) -> None:
    """Train GroupViT on image-caption pairs as published, and score it beside the paper's figures.

    Args:
        recipe: name of a recipe on pairs, or a .toml file.
        data: folder of pairs and of the data sets that are scored.
        out: folder of all results; runs/papers when left out. A killed run goes on where it
            stopped.
        seeds: trainings.
        tasks: comma-separated tasks of segbench; the recipe's when left out.
        limit: rehearse it with this many pairs of each set and images of each task.
        from_stage: forget the results of this stage and of all after it.
        dry_run: say what the data folder lacks and what the run will take, list the stages, stop.
    """
    _check_recipe("groupvit", recipe)
    options = Options(data, out, seeds, "baseline", None, tasks, limit, from_stage, dry_run)
    run_paper(recipe, options)


def _publish(final: Path, root: Path, names: Sequence[str]) -> None:
    """Copy what the last stage made to where it is looked for, each file whole or not at all."""
    for name in names:
        unfinished = root / f"{name}.tmp"
        unfinished.write_bytes((final / name).read_bytes())
        unfinished.replace(root / name)


def _with_arms(recipe: Recipe, arms: str | None) -> Recipe:
    return recipe if arms is None else replace(recipe, arms=tuple(arms.split(",")))


def _stages(recipe: Recipe, out: Path, seeds: Sequence[int], data: Path | None) -> list[Stage]:
    if recipe.source == "flickr8k":
        return photo_stages(recipe, seeds, out, data)
    return scenes_stages(recipe, seeds, out)


VERBS: dict[str, Any] = {"cocu": cocu, "groupvit": groupvit, "pixelclip": pixelclip}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    try:
        given = _spelt(sys.argv[1:] if argv is None else argv)
        _check_words(given)
        auto_cli(
            VERBS,
            args=given,
            prog="python -m integration.reproduce",
        )
    except (
        RecipeError,
        DataMissingError,
        DamagedError,
        ConceptArchiveError,
        GroupViTError,
        MaskClusterError,
        SegbenchError,
    ) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that cannot be written
        full = "; make room and run the command again" if error.errno in FULL else ""
        print(f"reproduce: {error}{full}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reproduce: stopped; the same command goes on from here", file=sys.stderr)
        return 4
    return 0


def _check_words(given: Sequence[str]) -> None:
    """Refuse a verb or an option that there is not, and name the nearest; `--help` is let through.

    Raises:
        RecipeError: there is one, or no verb.
    """
    if not given:
        raise RecipeError(f"needs a verb, one of {', '.join(VERBS)}; --help says more")
    verb = given[0]
    if verb.startswith("-"):
        return
    if verb not in VERBS:
        raise RecipeError(f"no verb {verb!r}; there are {', '.join(VERBS)}")
    known = [_shown(f"--{name}") for name in signature(VERBS[verb]).parameters]
    for option in (_shown(each.partition("=")[0]) for each in given[1:] if each.startswith("--")):
        if option not in (*known, "--help"):
            near = get_close_matches(option, known, 1)
            said = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise RecipeError(f"{verb} has no option {option}; {said}")


def _shown(option: str) -> str:
    """An option as documents spell it."""
    return "--from" if option == "--from_stage" else option.replace("_", "-")


def _spelt(arguments: Sequence[str]) -> list[str]:
    """Options as the parser knows them, such as `--from_stage` for `--from`."""
    known: list[str] = []
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            option = {"--from": "--from_stage"}.get(option, "--" + option[2:].replace("-", "_"))
        if option in FLAGS and not equals and following not in ("true", "false"):
            equals, value = "=", "true"
        known.append(option + equals + value)
    return known


if __name__ == "__main__":
    sys.exit(main())
