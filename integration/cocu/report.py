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
from integration.results import (
    ONE_SEED,
    Outcome,
    Spread,
    chance_level,
    gather,
    markdown,
    paired_gain,
    quality_table,
    scores,
    spread,
    times,
)
from integration.stage import Stage, write_text
from segbench import Report, Task


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
    scored = Report.read(next(iter(runs.values())).evaluate.folder(out))
    chance = chance_level(scored)
    results = _results(recipe, outcome, runs, chance)
    write_text(folder / "results.json", json.dumps(results, indent=1))
    title = f"CoCu: recipe {recipe.name}"
    lead = headline(outcome, chance, int(scored.data["images_scored"]))
    text = f"# {title}\n\n{lead}\n\n{recipe.summary}\n\n{markdown(outcome)}"
    write_text(folder / "report.md", text)
    first = {arm: run for (arm, _), run in reversed([*runs.items()])}
    logs: dict[str, list[Path]] = {}
    for (arm, _), run in runs.items():
        logs.setdefault(arm, []).append(run.train.folder(out))
    made, curated = pairs.folder(out), archive.folder(out)
    drawn = figures.png_data(figures.loss_curves(logs))
    overlays = overlay_section(
        dict(sorted(first.items())), out, task, data, pairs=made, curated=curated
    )
    write_page(
        folder / "report.html",
        title=title,
        lead=lead,
        summary=recipe.summary,
        command=str(results["command"]),
        sections={
            "": [html_tables(scores(outcome))],
            CONCEPTS: [overlays],
            ARCHIVES: [archive_section(made, curated), html_tables(quality_table(outcome.quality))],
            "Loss at equal steps": [figure_tag(drawn, LOSSES)],
            **_convergence_section(outcome),
            "Time": [html_tables(times(outcome))],
        },
    )


LOSSES = (
    "What training minimises is the sum (left) of two parts: that a picture and its caption belong "
    "together, and that a picture and the concepts drawn for it do. Arms draw other concepts, so "
    "their losses are not measured on the same ones."
)
"""Below the curves."""

TAKES = {
    "baseline": "baseline the nouns and verbs of its caption",
    "cocu": "cocu what an archive of concepts finds in it",
    "upper-bound": "upper-bound the classes that are really there",
}
"""What the arms are told of a picture."""


def headline(outcome: Outcome, chance: float, images: int) -> str:
    """What was compared and what came out, in a few sentences.

    Args:
        outcome: of the run.
        chance: see `chance_level`.
        images: how many were scored.
    """
    mious = {arm: values["miou"] for arm, values in outcome.metrics.items()}
    levels = {arm: spread(values) for arm, values in mious.items()}
    scored = ", ".join(f"{arm} {level}" for arm, level in levels.items())
    lines = [
        f"mIoU over {images} pictures (0 to 1, higher is better): {scored}; labels drawn at random "
        f"would have {chance:.3f}."
    ]
    if len(mious) > 1:
        told = ", ".join(TAKES[arm] for arm in mious)
        lines.append(f"Models differ only in what they are told of a training picture: {told}.")
    if {"baseline", "cocu"} <= mious.keys():
        lines.append(_difference(paired_gain(mious["baseline"], mious["cocu"]), len(mious["cocu"])))
    if all(level.mean <= chance for level in levels.values()):
        lines.append("None is above random labels: no model has learnt to segment these pictures.")
    return " ".join(lines)


def _difference(gain: Spread, seeds: int) -> str:
    if gain.error is None:
        return f"cocu less baseline is {gain.mean:+.3f}. {ONE_SEED}"
    sure = "more" if abs(gain.mean) > 2 * gain.error else "no more"
    return (
        f"cocu less baseline, seed by seed, is {gain.mean:+.3f} ± {gain.error:.3f} (mean and "
        f"standard error of {seeds} seeds), {sure} than twice its standard error."
    )


def _convergence_section(outcome: Outcome) -> dict[str, list[str]]:
    """Scores of checkpoints on the way, if there are any."""
    if not outcome.convergence:
        return {}
    drawn = figures.png_data(figures.convergence(outcome.convergence))
    told = "Each line is one seed; dots are checkpoints that were scored."
    return {"Loss and mIoU against steps": [figure_tag(drawn, told)]}


def _results(
    recipe: Recipe, outcome: Outcome, runs: Mapping[tuple[str, int], object], chance: float
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
        "chance_miou": chance,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        **asdict(outcome),
    }
