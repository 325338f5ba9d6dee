"""The report of a run: report.md, report.html and results.json."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from integration import figures
from integration.pages import PAGE, figure_tag, html_tables, provenance_line
from integration.pixelclip.recipe import PixelclipRecipe
from integration.pixelclip.runs import Runs, World
from integration.pixelclip.tuning import CLUSTERS, LAST_BLOCKS, untuned_model
from integration.provenance import commit, machine
from integration.results import Spread, read_log, seconds_table, spread, table
from integration.stage import Stage, with_inputs, write_text
from maskcluster import PixelCLIPSegmenter, load_checkpoint

SHOWN = {"miou": "mIoU", "miou_stuff": "stuff", "miou_thing": "things", "pixel_acc": "pixel acc."}
"""Metrics of the table and their headings."""

STRIPS = 6
"""Pictures with truth and predictions."""

NAMED = 4
"""Pictures in the colours of clusters."""


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
    write_text(folder / "results.json", json.dumps(results(recipe, outcome, runs), indent=1))
    title = f"PixelCLIP: recipe {recipe.name}"
    tables = markdown(recipe, outcome)
    named = "\n\n".join(
        f"Clusters of {arm}.\n\n{_name_table(stage, out)}" for arm, stage in runs.named.items()
    )
    write_text(folder / "report.md", f"# {title}\n\n{recipe.summary}\n\n{tables}\n\n{named}\n")
    body = [
        html_tables(tables),
        "<h2>Loss and clusters in use</h2>",
        figure_tag(figures.png_data(_curves(out, runs))),
        "<h2>Before and after</h2>",
        *map(figure_tag, _strips(recipe, out, runs, world)),
        "<h2>What the clusters mean</h2>",
        *(part for arm, stage in runs.named.items() for part in _named(arm, stage, out)),
    ]
    page = PAGE.substitute(
        title=escape(title),
        summary=escape(recipe.summary),
        provenance=escape(provenance_line()),
        body="\n".join(body),
    )
    write_text(folder / "report.html", page)


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


def results(recipe: PixelclipRecipe, outcome: Outcome, runs: Runs) -> dict[str, Any]:
    """All numbers as one JSON table, with what they were made by."""
    first = recipe.arms[recipe.chosen[0]].train.model.last_block
    named = {
        f"{arm.replace('-', '_')}_miou": values["miou"] for arm, values in outcome.metrics.items()
    }
    seeds = sorted(runs.untuned)
    return {
        "recipe": recipe.name,
        "command": f"python -m integration.reproduce pixelclip --recipe {recipe.name} "
        f"--seeds {len(seeds)} --arms {','.join(recipe.chosen)}",
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


def markdown(recipe: PixelclipRecipe, outcome: Outcome) -> str:
    """The tables of a run."""
    seeds = len(next(iter(outcome.untuned.values()))["miou"])
    note = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard error"
    return "\n\n".join(
        [
            f"Zero-shot segmentation ({note}). The gain is over the same CLIP before tuning, with "
            "the same dense features, seed by seed.",
            table(_rows(recipe, outcome)),
            *_verdicts(outcome),
            seconds_table(outcome.seconds),
        ]
    )


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


def _verdicts(outcome: Outcome) -> list[str]:
    """Which gains are beyond twice their standard error; nothing is said of a single seed."""
    told = []
    for arm, gains in outcome.gains.items():
        gain = spread(gains)
        if gain.error is None:
            return []
        kind = "above" if gain.mean > 2 * gain.error else "not above"
        if gain.mean < -2 * gain.error:
            kind = "below"
        told.append(f"{arm} is {kind} its own CLIP by more than twice the standard error")
    return ["; ".join(told) + "."]


def _name_table(stage: Stage, out: Path) -> str:
    return (stage.folder(out) / CLUSTERS / "names.md").read_text(encoding="utf-8").strip()


def _curves(out: Path, runs: Runs) -> Figure:
    """Loss and clusters in use over steps, arms in colours, seeds as thin lines."""
    arms = list(dict.fromkeys(arm for arm, _ in runs.trained))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 3))
        axes = figure.subplots(1, 2)
        for (arm, seed), stage in runs.trained.items():
            log = read_log(stage.folder(out))
            for axis, name in zip(axes, ("loss", "clusters_used"), strict=True):
                lines = [line for line in log if name in line]
                axis.plot(
                    [line["step"] for line in lines],
                    [line[name] for line in lines],
                    color=f"C{arms.index(arm) % 10}",
                    linewidth=0.9,
                    label=arm if lines and seed == min(runs.untuned) else None,
                )
        for axis, name in zip(axes, ("loss", "clusters in use"), strict=True):
            axis.set_title(name)
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
        axes[0].legend(fontsize=7)
    return figure


def _strips(recipe: PixelclipRecipe, out: Path, runs: Runs, world: World) -> Iterator[str]:
    """Pictures with truth, the un-tuned CLIP and the first arm, evenly spread over the task."""
    arm, seed = recipe.chosen[0], min(runs.untuned)
    run = runs.trained[arm, seed].folder(out)
    shown = {
        "un-tuned CLIP": PixelCLIPSegmenter(untuned_model(run), precision="float32"),
        arm: PixelCLIPSegmenter(load_checkpoint(run), precision="float32"),
    }
    predictions = figures.Predictions(shown, world.task, world.data)
    count = len(predictions.dataset)
    for index in range(0, count, max(count // STRIPS, 1)):
        image, truth, maps = predictions.of(index)
        strip = figures.label_strip(image, {"truth": truth, **maps}, predictions.dataset.names)
        yield figures.png_data(strip)


def _named(arm: str, stage: Stage, out: Path) -> Iterator[str]:
    """Table of names, plot of prompts, and some pictures in the colours of clusters."""
    folder = stage.folder(out) / CLUSTERS
    yield f"<h3>{escape(arm)}</h3>"
    yield html_tables(_name_table(stage, out))
    for path in [folder / "tsne.png", *sorted((folder / "photos").glob("*.png"))[:NAMED]]:
        with Image.open(path) as picture:
            yield figure_tag(figures.png_data(picture))


def _summary(stage: Stage, out: Path) -> Any:
    return json.loads((stage.folder(out) / "summary.json").read_text())
