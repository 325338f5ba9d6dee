"""The report of a paper's run: report.md and results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from groupvit import TrainConfig
from integration.papers.check import Finding
from integration.papers.pairs import read_counts
from integration.papers.recipe import PairsRecipe
from integration.papers.scoring import SUMMARY
from integration.papers.stages import Run, Work
from integration.papers.table import comparison, figures
from integration.provenance import commit, machine
from integration.results import table
from integration.stage import write_text


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
    pairs = sum(finding.pairs for finding in findings if finding.name in recipe.sets)
    epochs = f", {steps * batch / pairs:.1f} epochs of what is there" if pairs else ""
    lines = [
        recipe.summary,
        f"Arms {', '.join(recipe.arms)}; sets {', '.join(recipe.sets)}; pool {recipe.pool}; "
        f"{steps:,} steps of {batch:,} pairs{epochs}.",
    ]
    if limit is not None:
        lines.append(f"REHEARSAL with --limit {limit}: its figures mean nothing.")
    return "\n".join(lines)


def write_report(run: Run, work: Work) -> str:
    """Write report.md and results.json to `OUT/<recipe>`, and give the former.

    A rehearsal's are in `OUT/<recipe>-limit-N`.
    """
    recipe = run.recipe
    name = recipe.name if run.limit is None else f"{recipe.name}-limit-{run.limit}"
    folder = run.out / name
    folder.mkdir(parents=True, exist_ok=True)
    found = _summaries(run, work)
    counts = read_counts(work.index.folder(run.out))
    text = "\n\n".join(
        [
            f"# {name}",
            heading(recipe, run.configs[recipe.arms[0], 0], [], run.limit),
            comparison(recipe.name, recipe.load_tasks(), _figures(run, found)),
            _pairs_table(recipe, counts),
            _images_line(found[recipe.arms[0], 0]),
        ]
    )
    results = {
        "recipe": asdict(recipe),
        "limit": run.limit,
        "pairs": counts,
        "scores": {f"{arm}-{seed}": each for (arm, seed), each in found.items()},
        "seconds": {stage.name: stage.seconds(run.out) for stage in work.stages},
        "commit": commit(),
        "machine": machine(),
    }
    write_text(folder / "results.json", json.dumps(results, indent=1))
    write_text(folder / "report.md", text + "\n")
    return f"{text}\n\nReport: {folder / 'report.md'}"


_Summaries = dict[str, dict[str, Any]]


def _summaries(run: Run, work: Work) -> dict[tuple[str, int], _Summaries]:
    """What every evaluation noted, by (arm, seed) and task."""
    return {
        key: {
            task: json.loads((stage.folder(run.out) / SUMMARY).read_text())
            for task, stage in stages.items()
        }
        for key, stages in work.scores.items()
    }


def _figures(run: Run, found: Mapping[tuple[str, int], _Summaries]) -> dict[str, Any]:
    """Figures of every arm over its seeds."""
    metrics = {key: {t: each["metrics"] for t, each in found[key].items()} for key in found}
    return {
        arm: figures([values for (one, _), values in metrics.items() if one == arm])
        for arm in run.recipe.arms
    }


def _pairs_table(recipe: PairsRecipe, counts: Mapping[str, int]) -> str:
    rows = [["pairs", "this run", "the published run"]]
    rows += [[name, f"{counts[name]:,}", f"{recipe.published(name):,}"] for name in counts]
    return table(rows)


def _images_line(found: _Summaries) -> str:
    scored = ", ".join(f"{task} {each['images']:,}" for task, each in found.items())
    return f"Images scored: {scored}."
