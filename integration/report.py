"""The report of a run: report.md, report.html and results.json."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from conceptarchive import ConceptArchive, Vocabulary
from groupvit import GroupViTSegmenter, load_model
from integration import figures
from integration.pages import PAGE, figure_tag, html_tables, provenance_line
from integration.provenance import commit, machine
from integration.recipe import Recipe
from integration.results import Outcome, gather, markdown
from integration.stage import Stage, write_text
from integration.wiring import mentioned_concepts
from segbench import Task

EXAMPLES = 6


def write_report(
    folder: Path,
    recipe: Recipe,
    out: Path,
    *,
    pairs: Stage,
    archive: Stage,
    runs: Mapping[tuple[str, int], tuple[Stage, Stage]],
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
        runs: (training, evaluation) by (arm, seed).
        task: what was scored.
        data: root of the task's data.
    """
    outcome = gather(out, pairs=pairs, archive=archive, runs=runs)
    write_text(folder / "results.json", json.dumps(_results(recipe, outcome, runs), indent=1))
    tables = markdown(outcome)
    title = f"CoCu: recipe {recipe.name}"
    write_text(folder / "report.md", f"# {title}\n\n{recipe.summary}\n\n{tables}")
    first = {arm: trained.folder(out) for (arm, seed), (trained, _) in reversed([*runs.items()])}
    logs: dict[str, list[Path]] = {}
    for (arm, _), (trained, _) in runs.items():
        logs.setdefault(arm, []).append(trained.folder(out))
    body = [
        html_tables(tables),
        "<h2>Loss at equal steps</h2>",
        figure_tag(figures.png_data(figures.loss_curves(logs))),
        "<h2>Archives and their witnesses</h2>",
        _archive_section(pairs.folder(out), archive.folder(out)),
        "<h2>A concept that captions rarely name, found in pictures</h2>",
        _overlay_section(dict(sorted(first.items())), task, data, archive.folder(out)),
    ]
    page = PAGE.substitute(
        title=escape(title),
        summary=escape(recipe.summary),
        provenance=escape(provenance_line()),
        body="\n".join(body),
    )
    write_text(folder / "report.html", page)


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
        "command": f"python -m integration.reproduce cocu --recipe {recipe.name} "
        f"--seeds {len(seeds)} --arms {arms}"
        + (" --data DATA" if recipe.source == "flickr8k" else ""),
        **named,
        "seeds": seeds,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        **asdict(outcome),
    }


def _archive_section(pairs: Path, curated: Path) -> str:
    """Ranked concepts of some pairs, and the images whose captions brought the best new one."""
    archive = ConceptArchive.open(curated / "archive")
    vocabulary = Vocabulary.from_file(curated / "vocabulary.txt")
    dataset = archive.keys[0].split("/")[0]
    ids = archive.keys
    captions = {pair.id: pair.caption for pair in figures.all_pairs(pairs, dataset)}
    captions = {key: captions[key] for key in ids}
    mentioned = mentioned_concepts(vocabulary, captions)
    chosen = figures.archive_examples(archive, captions, mentioned, EXAMPLES)
    wanted = {key for key, _ in chosen}
    wanted |= {witness for key, name in chosen for witness in archive.witnesses(key, name)}
    shown = figures.pick_pairs(pairs, dataset, wanted)
    blocks = []
    for key, name in chosen:
        ranked = " ".join(
            f'<span class="{"in" if c.name in mentioned[key] else "new"}">{escape(c.name)}</span>'
            f"<small> {c.score:.2f} c{c.cluster}</small>"
            for c in archive.concepts(key)[:8]
        )
        seen = "".join(
            f'<img src="{figures.thumbnail(shown[w])}" title="{escape(captions[w])}">'
            for w in archive.witnesses(key, name)[:4]
        )
        blocks.append(
            f'<div class="pair"><img src="{figures.thumbnail(shown[key])}"><div>'
            f"<p>“{escape(captions[key])}”</p><p>{ranked}</p>"
            f'<p class="small">witnesses of <b>{escape(name)}</b>: {seen}</p></div></div>'
        )
    legend = (
        "<p>Concepts by score and cluster; grey ones stand in the caption, bold ones were found. "
        "Witnesses are the nearest images whose captions name the concept.</p>"
    )
    return legend + "\n".join(blocks)


def _overlay_section(runs: Mapping[str, Path], task: Task, data: Path | None, curated: Path) -> str:
    """Both models on the first images that show a class which captions leave out most."""
    models = {arm: GroupViTSegmenter(load_model(run), name=arm) for arm, run in runs.items()}
    predictions = figures.Predictions(models, task, data)
    names = predictions.dataset.names
    parts: list[str] = []
    for label in _rarely_named(predictions, curated):
        index = _first_with(predictions, label)
        if index is None:
            continue
        image, truth, maps = predictions.of(index)
        masks = {"truth": truth == label, **{arm: m == label for arm, m in maps.items()}}
        parts.append(
            figure_tag(figures.png_data(figures.concept_strip(image, masks, names[label])))
        )
        strip = figures.label_strip(image, {"truth": truth, **maps}, names)
        parts.append(figure_tag(figures.png_data(strip)))
    return "\n".join(parts)


def _rarely_named(predictions: figures.Predictions, curated: Path, count: int = 3) -> list[int]:
    """Labels of stuff (or any class) in the vocabulary that the fewest captions name."""
    archive = ConceptArchive.open(curated / "archive")
    known = set(archive.vocabulary.names)
    stuff = predictions.dataset.subsets.get("stuff", tuple(range(len(predictions.dataset.names))))
    order = {name: place for place, name in enumerate(archive.vocabulary.names)}  # by frequency
    named = [label for label in stuff if predictions.dataset.names[label] in known]
    return sorted(named, key=lambda label: -order[predictions.dataset.names[label]])[:count]


def _first_with(predictions: figures.Predictions, label: int, share: float = 0.15) -> int | None:
    for index in range(len(predictions.dataset)):
        if (predictions.dataset[index].labels == label).mean() >= share:
            return index
    return None
