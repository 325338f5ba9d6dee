"""`python -m integration.reproduce cocu`: a paper, from pairs to report."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import auto_cli

from conceptarchive import ConceptArchiveError
from groupvit import GroupViTError
from integration.cocu import scenes_stages
from integration.errors import DataMissingError, RecipeError
from integration.flickr8k import photo_stages
from integration.recipe import Recipe, load_recipe
from integration.stage import Stage, describe, run_stages, write_text
from segbench import SegbenchError

REPORTS = ("report.md", "report.html", "results.json")


def cocu(
    recipe: str = "cocu-mini",
    *,
    data: Path | None = None,
    out: Path | None = None,
    seeds: int = 1,
    arms: str | None = None,
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
        from_stage: forget the results of this stage and of all after it.
        dry_run: list the stages and whether they are up to date, and stop.
    """
    plan = _with_arms(load_recipe(recipe), arms)
    if seeds < 1:
        raise RecipeError(f"--seeds must be >= 1, got {seeds}")
    root = out or Path("runs") / plan.name
    stages = _stages(plan, root, range(seeds), data)
    if dry_run:
        print("\n".join(describe(stages, root)))
        return
    run_stages(stages, root, stream=sys.stderr, again_from=from_stage)
    final = stages[-1].folder(root)
    for name in REPORTS:
        write_text(root / name, (final / name).read_text(encoding="utf-8"))
    print((root / "report.md").read_text(encoding="utf-8"))
    print(f"Report with pictures: {root / 'report.html'}")


def _with_arms(recipe: Recipe, arms: str | None) -> Recipe:
    return recipe if arms is None else replace(recipe, arms=tuple(arms.split(",")))


def _stages(recipe: Recipe, out: Path, seeds: Sequence[int], data: Path | None) -> list[Stage]:
    if recipe.source == "flickr8k":
        return photo_stages(recipe, seeds, out, data)
    return scenes_stages(recipe, seeds, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    try:
        given = _spelt(sys.argv[1:] if argv is None else argv)
        auto_cli({"cocu": cocu}, args=given, prog="python -m integration.reproduce")
    except (
        RecipeError,
        DataMissingError,
        ConceptArchiveError,
        GroupViTError,
        SegbenchError,
    ) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"reproduce: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reproduce: stopped; the same command goes on from here", file=sys.stderr)
        return 4
    return 0


def _spelt(arguments: Sequence[str]) -> list[str]:
    """Options as the parser knows them, such as `--from_stage` for `--from`."""
    known: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option.startswith("--"):
            option = {"--from": "--from_stage"}.get(option, "--" + option[2:].replace("-", "_"))
        if option == "--dry_run" and not equals and following not in ("true", "false"):
            equals, value = "=", "true"
        known.append(option + equals + value)
    return known


if __name__ == "__main__":
    sys.exit(main())
