"""The report of a paper's run: report.md and results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groupvit import TrainConfig
from integration.papers.check import Finding
from integration.papers.pairs import read_counts
from integration.papers.recipe import PairsRecipe
from integration.papers.scoring import SUMMARY
from integration.papers.stages import Run, Work
from integration.papers.table import Figures, comparison, figures
from integration.provenance import commit, machine
from integration.results import table
from integration.stage import Stage, write_text


def heading(
    recipe: PairsRecipe, config: TrainConfig, findings: Sequence[Finding], limit: int | None
) -> str:
    """What is run, in a few lines.

    Args:
        recipe: of the run.
        config: what its first arm trains.
        findings: with the pairs that there are.
        limit: of a rehearsal.
    """
    steps, batch = config.optim.total_steps, config.data.batch
    sets = [finding for finding in findings if finding.name in recipe.sets]
    pairs = sum(finding.pairs for finding in sets)
    known = pairs and all(finding.state != "missing" for finding in sets)
    epochs = f", {steps * batch / pairs:.1f} epochs of what is there" if known else ""
    said = (
        f"Arms {', '.join(recipe.arms)}; sets {', '.join(recipe.sets)}; pool {recipe.pool}; "
        f"{steps:,} steps of {batch:,} pairs{epochs}."
    )
    return head_lines(recipe.summary, said, limit)


def head_lines(summary: str, said: str, limit: int | None) -> str:
    """What a run is and trains, and whether it is a rehearsal."""
    lines = [summary, said]
    if limit is not None:
        lines.append(f"REHEARSAL with --limit {limit}: its figures mean nothing.")
    return "\n".join(lines)


def write_report(run: Run, work: Work) -> str:
    """Write report.md and results.json to `OUT/<recipe>`, and give the former.

    A rehearsal's are in `OUT/<recipe>-limit-N`.
    """
    recipe = run.recipe
    found = summaries(work.scores, run.out)
    counts = read_counts(work.index.folder(run.out))
    name = report_name(recipe.name, run.limit)
    parts = [
        f"# {name}",
        heading(recipe, run.configs[recipe.arms[0], 0], [], run.limit),
        comparison(recipe.name, recipe.load_tasks(), figures_of(found)),
        _pairs_table(recipe, counts),
        images_line(found[recipe.arms[0], 0]),
    ]
    results = {
        "recipe": asdict(recipe),
        "limit": run.limit,
        "pairs": counts,
        **results_of(found, work.stages, run.out),
    }
    return save_report(run.out / name, parts, results)


def report_name(recipe: str, limit: int | None) -> str:
    """Folder of a report."""
    return recipe if limit is None else f"{recipe}-limit-{limit}"


Summaries = dict[str, dict[str, Any]]
"""What every evaluation of a model noted, by task."""


def summaries(
    scores: Mapping[tuple[str, int], Mapping[str, Stage]], out: Path
) -> dict[tuple[str, int], Summaries]:
    """What every evaluation noted, by (row, seed) and task."""
    return {
        key: {
            task: json.loads((stage.folder(out) / SUMMARY).read_text())
            for task, stage in stages.items()
        }
        for key, stages in scores.items()
    }


def figures_of(found: Mapping[tuple[str, int], Summaries]) -> dict[str, Figures]:
    """Figures of every row over its seeds."""
    metrics = {key: {t: each["metrics"] for t, each in found[key].items()} for key in found}
    rows = dict.fromkeys(row for row, _ in found)
    return {
        row: figures([values for (one, _), values in metrics.items() if one == row]) for row in rows
    }


def results_of(
    found: Mapping[tuple[str, int], Summaries], stages: Sequence[Stage], out: Path
) -> dict[str, Any]:
    """Scores, times and provenance for results.json."""
    return {
        "scores": {f"{row}-{seed}": each for (row, seed), each in found.items()},
        "seconds": {stage.name: stage.seconds(out) for stage in stages},
        "commit": commit(),
        "machine": machine(),
    }


def save_report(folder: Path, parts: Sequence[str], results: Mapping[str, Any]) -> str:
    """Write report.md and results.json, and give the former for the terminal."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts)
    write_text(folder / "results.json", json.dumps(results, indent=1))
    write_text(folder / "report.md", text + "\n")
    return f"{text}\n\nReport: {folder / 'report.md'}"


def images_line(found: Summaries) -> str:
    """How many images of each task were scored."""
    scored = ", ".join(f"{task} {each['images']:,}" for task, each in found.items())
    return f"Images scored: {scored}."


def _pairs_table(recipe: PairsRecipe, counts: Mapping[str, int]) -> str:
    rows = [["pairs", "this run", "the published run"]]
    rows += [[name, f"{counts[name]:,}", f"{recipe.published(name):,}"] for name in counts]
    return table(rows)
