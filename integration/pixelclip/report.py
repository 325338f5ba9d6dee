"""The report of a run: report.md, report.html and results.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from integration import figures
from integration.pages import figure_tag, html_tables, write_page
from integration.pixelclip.pictures import (
    archive_part,
    cluster_parts,
    curves,
    mask_sheets,
    name_table,
    strips,
)
from integration.pixelclip.recipe import FOLDER, PixelclipRecipe
from integration.pixelclip.runs import Runs, World
from integration.pixelclip.tuning import LAST_BLOCKS
from integration.progress import read_log
from integration.provenance import commit, machine
from integration.recipe import typed
from integration.results import (
    MEANINGS,
    ONE_SEED,
    Spread,
    chance_level,
    seconds_table,
    spread,
    table,
)
from integration.stage import Stage, with_inputs, write_text
from segbench import Report

SHOWN = {"miou": "mIoU", "miou_stuff": "stuff", "miou_thing": "things", "pixel_acc": "pixel acc."}
"""Metrics of the table and their headings."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All numbers of a run, as plain values."""

    untuned: Mapping[str, Mapping[str, list[float]]]
    """Metric by way to dense features: one value a seed."""
    metrics: Mapping[str, Mapping[str, list[float]]]
    """Metric by arm: one value a seed."""
    gains: Mapping[str, list[float]]
    """mIoU of an arm less that of its own CLIP before, with the same dense features."""
    clusters: Mapping[str, Mapping[str, list[float]]]
    """By arm: clusters used and entropy of the last log line; empty without clustering."""
    seconds: Mapping[str, float]
    """By stage."""


def write_report(
    recipe: PixelclipRecipe, out: Path, runs: Runs, world: World, folder: Path
) -> None:
    """Write the report of a finished run.

    Args:
        recipe: what was run.
        out: root of the stage folders.
        runs: its stages.
        world: what it was run on.
        folder: where the report goes.
    """
    outcome = gather(recipe, out, runs)
    found = results(recipe, outcome, runs, reads_data=world.data is not None)
    write_text(folder / "results.json", json.dumps(found, indent=1))
    title = f"PixelCLIP: recipe {recipe.name}"
    scored = Report.read(next(iter(runs.scored.values())).folder(out))
    lead = headline(recipe, outcome, chance_level(scored), int(scored.data["images_scored"]))
    named = "\n\n".join(
        f"Clusters of {arm}.\n\n{name_table(stage, out)}" for arm, stage in runs.named.items()
    )
    parts = [f"# {title}", lead, recipe.summary, markdown(recipe, outcome), named]
    write_text(folder / "report.md", "\n\n".join(parts) + "\n")
    write_page(
        folder / "report.html",
        title=title,
        lead=lead,
        summary=recipe.summary,
        command=found["command"],
        sections={
            "": [html_tables(scores(recipe, outcome))],
            "Loss and clusters in use": [figure_tag(figures.png_data(curves(out, runs)))],
            "Pictures and their masks": mask_sheets(recipe, out, runs, world, folder),
            **archive_part(out, runs, world),
            "Before and after": strips(recipe, out, runs, world),
            "What the clusters mean": [
                part for arm, stage in runs.named.items() for part in cluster_parts(arm, stage, out)
            ],
            "Time": [html_tables(seconds_table(outcome.seconds))],
        },
    )


def gather(recipe: PixelclipRecipe, out: Path, runs: Runs) -> Outcome:
    """Read what the stages left."""
    before = {seed: _summary(stage, out) for seed, stage in runs.untuned.items()}
    metrics: dict[str, dict[str, list[float]]] = {}
    gains: dict[str, list[float]] = {}
    clusters: dict[str, dict[str, list[float]]] = {}
    for (arm, seed), stage in runs.scored.items():
        found = _summary(stage, out)
        for name in found:
            metrics.setdefault(arm, {}).setdefault(name, []).append(found[name])
        own = before[seed][recipe.arms[arm].train.model.last_block]["miou"]
        gains.setdefault(arm, []).append(found["miou"] - own)
        last = read_log(runs.trained[arm, seed].folder(out))[-1]
        for name in _USE:
            if name in last:
                clusters.setdefault(arm, {}).setdefault(name, []).append(last[name])
    used = [*runs.scored.values(), *runs.untuned.values(), *runs.named.values()]
    return Outcome(
        untuned={
            way: {
                name: [each[way][name] for each in before.values()]
                for name in next(iter(before.values()))[way]
            }
            for way in LAST_BLOCKS
        },
        metrics=metrics,
        gains=gains,
        clusters=clusters,
        seconds={stage.name: stage.seconds(out) or 0.0 for stage in with_inputs(used)},
    )


def results(
    recipe: PixelclipRecipe, outcome: Outcome, runs: Runs, *, reads_data: bool
) -> dict[str, Any]:
    """All numbers as one JSON table, with what they were made by.

    Args:
        recipe: what was run.
        outcome: the numbers.
        runs: its stages.
        reads_data: whether the command has `--data`, whose folder is told as DATA.
    """
    first = recipe.arms[recipe.chosen[0]].train.model.last_block
    named = {
        f"{arm.replace('-', '_')}_miou": values["miou"] for arm, values in outcome.metrics.items()
    }
    seeds = sorted(runs.untuned)
    return {
        "recipe": recipe.name,
        "command": "python -m integration.reproduce pixelclip "
        f"--recipe {typed(recipe.name, FOLDER)} --seeds {len(seeds)} "
        f"--arms {','.join(recipe.chosen)}" + (" --data DATA" if reads_data else ""),
        "clip_miou": outcome.untuned[first]["miou"],
        **named,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "untuned": outcome.untuned,
        "metrics": outcome.metrics,
        "gains": outcome.gains,
        "clusters": outcome.clusters,
        "seconds": outcome.seconds,
    }


def headline(recipe: PixelclipRecipe, outcome: Outcome, chance: float, images: int) -> str:
    """What was compared and what came out, in a few sentences.

    Args:
        recipe: what was run.
        outcome: its numbers.
        chance: mIoU of labels drawn at random.
        images: how many were scored.
    """
    way = recipe.arms[recipe.chosen[0]].train.model.last_block
    levels = {f"un-tuned CLIP ({way})": outcome.untuned[way]["miou"]}
    levels |= {arm: values["miou"] for arm, values in outcome.metrics.items()}
    scored = ", ".join(f"{name} {spread(values)}" for name, values in levels.items())
    return (
        f"mIoU over {images} pictures (0 to 1, higher is better): {scored}; labels drawn at random "
        f"would have {chance:.3f}. Arms tune the same CLIP on masks without names. "
        f"{_verdicts(outcome)}"
    )


def markdown(recipe: PixelclipRecipe, outcome: Outcome) -> str:
    """The tables of a run."""
    return f"{scores(recipe, outcome)}\n\n{seconds_table(outcome.seconds)}"


def scores(recipe: PixelclipRecipe, outcome: Outcome) -> str:
    """The table of the un-tuned CLIP and all arms, and what its columns are."""
    seeds = len(next(iter(outcome.untuned.values()))["miou"])
    note = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard error"
    return "\n\n".join(
        [
            f"Zero-shot segmentation, by the names of classes alone ({note}).",
            table(_rows(recipe, outcome)),
            ". ".join([*(MEANINGS[name] for name in SHOWN), GAINS]),
        ]
    )


GAINS = (
    "**gain**: mIoU less that of the same CLIP before tuning, with the same dense features, seed "
    "by seed. **un-tuned**: CLIP with three ways to features of every place in a picture. "
    "**clusters in use**: those that masks of the last logged batch fell into. **entropy**: of how "
    "they fell; 1 is as evenly as they can, 0 is all into one."
)
"""What further columns and rows of the table are."""


def _rows(recipe: PixelclipRecipe, outcome: Outcome) -> list[list[str]]:
    rows = [["", "", *SHOWN.values(), "gain", "clusters in use", "entropy"]]
    for way, values in outcome.untuned.items():
        cells = [str(spread(values[name])) for name in SHOWN]
        rows.append([f"CLIP, {way}", "un-tuned", *cells, "", "", ""])
    for arm, values in outcome.metrics.items():
        cells = [str(spread(values[name])) for name in SHOWN]
        use = outcome.clusters.get(arm, {})
        rows.append(
            [
                arm,
                recipe.arms[arm].about,
                *cells,
                _signed(spread(outcome.gains[arm])),
                *(str(spread(use[name])) if name in use else "" for name in _USE),
            ]
        )
    return rows


_USE = ("clusters_used", "cluster_entropy")


def _signed(gain: Spread) -> str:
    return ("+" if gain.mean >= 0 else "") + str(gain)


def _verdicts(outcome: Outcome) -> str:
    """Which gains are beyond twice their standard error; of a single seed, that it says little."""
    arms: dict[str, list[str]] = {}
    for arm, gains in outcome.gains.items():
        gain = spread(gains)
        if gain.error is None:
            return ONE_SEED
        kind = "above" if gain.mean > 2 * gain.error else "neither"
        if gain.mean < -2 * gain.error:
            kind = "below"
        arms.setdefault(kind, []).append(arm)
    told = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in arms.items())
    return f"Above or below the CLIP it began as, by more than twice the standard error: {told}."


def _summary(stage: Stage, out: Path) -> Any:
    return json.loads((stage.folder(out) / "summary.json").read_text())
