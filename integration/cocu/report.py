"""The report of a run: report.md, report.html and results.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from integration import figures
from integration.cocu.concept_pages import ARCHIVES, CONCEPTS, archive_section, overlay_section
from integration.cocu.recipe import FOLDER, Recipe
from integration.pages import figure_tag, html_tables, write_page
from integration.progress import ArmRun
from integration.provenance import commit, machine
from integration.recipe import typed
from integration.results import Outcome, gather, markdown
from integration.stage import Stage, write_text
from segbench import Task


def write_report(
    folder: Path,
    recipe: Recipe,
    out: Path,
    *,
    pairs: Stage,
    archive: Stage,
    runs: Mapping[tuple[str, int], ArmRun],
    task: Task,
    data: Path | None,
) -> None:
    """Write the report of a finished run.

    Args:
        folder: where it goes.
        recipe: what was run.
        out: root of the stage folders.
        pairs: stage of the training pairs.
        archive: stage of the concept archive.
        runs: stages by (arm, seed).
        task: what was scored.
        data: root of the task's data.
    """
    outcome = gather(out, pairs=pairs, archive=archive, runs=runs)
    results = _results(recipe, outcome, runs)
    write_text(folder / "results.json", json.dumps(results, indent=1))
    tables = markdown(outcome)
    title = f"CoCu: recipe {recipe.name}"
    write_text(folder / "report.md", f"# {title}\n\n{recipe.summary}\n\n{tables}")
    first = {arm: run.train.folder(out) for (arm, _), run in reversed([*runs.items()])}
    logs: dict[str, list[Path]] = {}
    for (arm, _), run in runs.items():
        logs.setdefault(arm, []).append(run.train.folder(out))
    curated = archive.folder(out)
    write_page(
        folder / "report.html",
        title=title,
        summary=recipe.summary,
        command=str(results["command"]),
        sections={
            "": [html_tables(tables)],
            "Loss at equal steps": [figure_tag(figures.png_data(figures.loss_curves(logs)))],
            **_convergence_section(outcome),
            ARCHIVES: [archive_section(pairs.folder(out), curated)],
            CONCEPTS: [overlay_section(dict(sorted(first.items())), task, data, curated)],
        },
    )


def _convergence_section(outcome: Outcome) -> dict[str, list[str]]:
    """Scores of checkpoints on the way, if there are any."""
    if not outcome.convergence:
        return {}
    drawn = figures.png_data(figures.convergence(outcome.convergence))
    return {"Loss and mIoU against steps": [figure_tag(drawn)]}


def _results(
    recipe: Recipe, outcome: Outcome, runs: Mapping[tuple[str, int], object]
) -> dict[str, object]:
    seeds = sorted({seed for _, seed in runs})
    named = {
        f"{arm.replace('-', '_')}_miou": values["miou"] for arm, values in outcome.metrics.items()
    }
    arms = ",".join(outcome.metrics)
    return {
        "recipe": recipe.name,
        "command": f"python -m integration.reproduce cocu --recipe {typed(recipe.name, FOLDER)} "
        f"--seeds {len(seeds)} --arms {arms}"
        + (" --data DATA" if recipe.source == "flickr8k" else ""),
        **named,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        **asdict(outcome),
    }
