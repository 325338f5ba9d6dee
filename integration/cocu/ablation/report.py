"""The report of an ablation: its table, which steps hold, the study of settings, two figures."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from integration import figures
from integration.cocu.ablation.curations import CURATIONS, LADDER, MODELS
from integration.cocu.ablation.draws import EPOCHS
from integration.cocu.ablation.study import K
from integration.cocu.recipe import FOLDER, Recipe
from integration.pages import figure_tag, html_tables, write_page
from integration.progress import ArmRun, Curve, curve, last_loss, read_log
from integration.provenance import commit, machine
from integration.recipe import typed
from integration.results import Spread, seconds_table, spread, table
from integration.stage import Stage, with_inputs, write_text

SHOWN = {"miou": "mIoU", "miou_stuff": "stuff", "miou_thing": "things"}
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t with 1, 2, ... degrees of freedom; beyond, the last one is
taken, which is a little too wide."""


def write_ablation(
    folder: Path,
    recipe: Recipe,
    runs: Mapping[tuple[str, int], ArmRun],
    *,
    study: Stage,
    out: Path,
    pictures: Mapping[str, Sequence[str]],
) -> None:
    """Write `ablation.json`, `.md`, `.html` and `.png` and, of what trained, `convergence.png`.

    Args:
        folder: where they go.
        recipe: what was run.
        runs: stages by (arm, seed); none where nothing is trained.
        study: stage of the archives' quality.
        out: root of the stage folders.
        pictures: further parts of the page in HTML, by heading.
    """
    found = gather_ablation(recipe, runs, study=study, out=out)
    write_text(folder / "ablation.json", json.dumps(found, indent=1))
    write_text(folder / "ablation.md", markdown(found))
    drawn = {"ablation.png": ladder_figure(found)}
    if runs:
        drawn["convergence.png"] = figures.convergence(found["convergence"])
    for name, figure in drawn.items():
        figures.save(figure, folder / name)
    write_page(
        folder / "ablation.html",
        title=f"Ablation of CoCu: recipe {recipe.name}",
        summary=recipe.summary,
        command=found["command"],
        sections={
            "": [html_tables(tables(found))],
            "Figures": [figure_tag(figures.png_file(folder / name)) for name in drawn],
            **pictures,
            "Time": [html_tables(seconds_table(found["seconds"]))],
        },
    )


def gather_ablation(
    recipe: Recipe, runs: Mapping[tuple[str, int], ArmRun], *, study: Stage, out: Path
) -> dict[str, Any]:
    """All numbers, as plain values: what `ablation.json` holds."""
    seeds = sorted({seed for _, seed in runs})
    arms = list(dict.fromkeys(arm for arm, _ in runs))
    of_arm = {arm: [runs[arm, seed] for seed in seeds] for arm in arms}
    metrics = {arm: _metrics(of_arm[arm], out) for arm in arms}
    judged = json.loads((study.folder(out) / "study.json").read_text())
    stages = with_inputs([study, *(stage for run in runs.values() for stage in run if stage)])
    return {
        "recipe": recipe.name,
        "command": f"python -m integration.reproduce cocu --ablation "
        f"--recipe {typed(recipe.name, FOLDER)} "
        + (f"--seeds {len(seeds)} --arms {','.join(arms)}" if arms else "--data DATA"),
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "metrics": metrics,
        "steps": steps(metrics),
        "archive_steps": judged["steps"],
        "curations": judged["curations"],
        "vocabularies": judged["vocabularies"],
        "convergence": {arm: _curves(of_arm[arm], out) for arm in arms},
        "seconds": {stage.name: stage.seconds(out) or 0.0 for stage in stages},
    }


def _metrics(runs: Sequence[ArmRun], out: Path) -> dict[str, list[float]]:
    """Every metric of an arm, a value a seed; and the mean loss over the last tenth of the log."""
    found: dict[str, list[float]] = {}
    for run in runs:
        summary = json.loads((run.evaluate.folder(out) / "summary.json").read_text())
        summary["final_loss"] = last_loss(read_log(run.train.folder(out)))
        for name, value in summary.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(float(value))
    return found


def _curves(runs: Sequence[ArmRun], out: Path) -> list[Curve]:
    """Losses and mIoU against steps, an entry a seed."""
    return [curve(run.train.folder(out), run.points.folder(out)) for run in runs if run.points]


class Gain(NamedTuple):
    """Mean difference over seeds and its interval (95 %, Student's t); None with one seed."""

    mean: float
    low: float | None
    high: float | None


def gain(before: Sequence[float], after: Sequence[float]) -> Gain:
    """Differences after - before, seed by seed.

    Seeds share weights' initial values, order and augmentation between arms, so they are paired.
    """
    found = spread([b - a for a, b in zip(before, after, strict=True)])
    if found.error is None:
        return Gain(found.mean, None, None)
    half = T95[min(len(before) - 1, len(T95)) - 1] * found.error
    return Gain(found.mean, found.mean - half, found.mean + half)


def verdict(low: float | None, high: float | None) -> str:
    """What an interval says of the claim that a step improves."""
    if low is None or high is None:
        return "one seed"
    if low > 0:
        return "holds"
    return "reversed" if high < 0 else "not shown"


def steps(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """What each arm of the ladder gains in mIoU on the arm before it, of those that were run.

    The full model is compared with the baseline too.
    """
    there = [arm for arm in LADDER if arm in metrics]
    whole = [pair for pair in [("baseline", "model-4")] if metrics.keys() >= set(pair)]
    found = []
    for before, after in dict.fromkeys([*pairwise(there), *whole]):
        first, second = metrics[before]["miou"], metrics[after]["miou"]
        step = gain(first, second)
        by_seed = [b - a for a, b in zip(first, second, strict=True)]
        said = {"by_seed": by_seed, "verdict": verdict(step.low, step.high)}
        found.append({"from": before, "to": after, **step._asdict(), **said})
    return found


def about(arm: str) -> str:
    """An arm in the words of the tables."""
    return CURATIONS[arm].about if arm in CURATIONS else arm.replace("-", " ")


def markdown(found: Mapping[str, Any]) -> str:
    """What `ablation.md` holds."""
    head = f"# Ablation of CoCu: recipe {found['recipe']}\n\n`{found['command']}`"
    return f"{head}\n\n{tables(found)}\n"


def tables(found: Mapping[str, Any]) -> str:
    """Paragraphs and tables in Markdown."""
    parts = [
        *(_trained(found) if found["metrics"] else ()),
        "Does each model improve on the one before, as the paper claims?",
        steps_table(found),
        "Mean difference in **mIoU** [95 % interval over seeds, Student's t, paired], and in the "
        f"archive's **R@{K}** [95 % bootstrap over pairs].",
        "Settings, judged without training.",
        settings_table(found),
        MEANINGS,
    ]
    return "\n\n".join(parts)


MEANINGS = (
    f"**R@{K}**, with a 95 % interval over pairs: share of the concepts that a caption leaves out "
    f"which are among the first {K} new ones of its archive. **right** and **new**: shares of the "
    "concepts drawn in training that the image shows, and that it shows and the caption leaves "
    f"out. **reach**: share of those left out that are drawn at least once in {EPOCHS} epochs. "
    "Equations are those of the CoCu paper (arXiv:2309.13505)."
)
"""What the columns of the tables are."""


def _trained(found: Mapping[str, Any]) -> tuple[str, ...]:
    seeds = len(found["seeds"])
    heading = "one seed" if seeds == 1 else f"{seeds} seeds, mean ± standard error"
    return f"Trained arms ({heading}).", arms_table(found), MEANINGS


def arms_table(found: Mapping[str, Any]) -> str:
    """Arms that were trained: archive, draws, mIoU."""
    rows = [["arm", f"R@{K}", "right", "new", *SHOWN.values(), "final loss"]]
    for arm, metrics in found["metrics"].items():
        judged = found["curations"].get(arm)
        archive = ["", "", ""] if judged is None else _archive_cells(judged)
        cells = [str(spread(metrics[name])) for name in SHOWN]
        rows.append([about(arm), *archive, *cells, f"{spread(metrics['final_loss']).mean:.3f}"])
    return table(rows)


def _archive_cells(judged: Mapping[str, Any]) -> list[str]:
    low, high = judged["recall_interval"][str(K)]
    draws = judged["draws"]
    return [
        f"{judged['recall'][str(K)]:.3f} [{low:.3f}, {high:.3f}]",
        str(Spread(**draws["right"])),
        str(Spread(**draws["new"])),
    ]


def steps_table(found: Mapping[str, Any]) -> str:
    """Which steps of the monotone claim hold, in mIoU and in the archive alone."""
    trained = {(step["from"], step["to"]): step for step in found["steps"]}
    archive = {(step["from"], step["to"]): step for step in found["archive_steps"]}
    rows = [["step", "mIoU", "claim", f"R@{K}", "claim"]]
    for before, after in trained if trained else archive:
        step = trained.get((before, after))
        cells = ("", "") if step is None else (_interval(step), step["verdict"])
        more = _archive_step(archive.get((before, after)))
        rows.append([f"{_short(before)} to {_short(after)}", *cells, *more])
    return table(rows)


def _archive_step(step: Mapping[str, Any] | None) -> tuple[str, str]:
    if step is None:
        return "", ""
    if step["same"]:
        return "the same archive", ""
    return _interval(step), verdict(step["low"], step["high"])


def _interval(step: Mapping[str, Any]) -> str:
    if step["low"] is None:
        return f"{step['mean']:+.3f}"
    return f"{step['mean']:+.3f} [{step['low']:+.3f}, {step['high']:+.3f}]"


def _short(arm: str) -> str:
    return arm.replace("model-", "#").replace("-", " ")


def settings_table(found: Mapping[str, Any]) -> str:
    """Every curation by its archive and its draws."""
    rows = [["setting", "concepts / image", "R@1", f"R@{K}", "R@5", "right", "new", "reach"]]
    for judged in found["curations"].values():
        recall = _archive_cells(judged)[0]
        draws = [f"{judged['draws'][name]['mean']:.3f}" for name in ("right", "new", "reach")]
        first, last = (f"{judged['recall'][k]:.3f}" for k in ("1", "5"))
        rows.append([judged["about"], f"{judged['concepts']:.1f}", first, recall, last, *draws])
    return table(rows)


def ladder_figure(found: Mapping[str, Any]) -> Figure:
    """Archive quality and mIoU of every arm, with intervals; of the models, if none was trained."""
    recalls: dict[str, figures.Bar] = {}
    mious: dict[str, figures.Bar] = {}
    for arm in found["metrics"] or MODELS:
        judged = found["curations"].get(arm)
        if judged is not None:
            low, high = judged["recall_interval"][str(K)]
            recalls[_short(arm)] = (judged["recall"][str(K)], low, high, [])
    for arm, metrics in found["metrics"].items():
        level = gain([0.0] * len(metrics["miou"]), metrics["miou"])
        mious[_short(arm)] = (level.mean, level.low, level.high, metrics["miou"])
    panels = {f"archive: R@{K}, 95 % over pairs": recalls, "mIoU, 95 % over seeds": mious}
    return figures.bars({title: panel for title, panel in panels.items() if panel})
