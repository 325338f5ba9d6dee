"""Parts of a report about concepts: archives with their witnesses, and concepts in pictures."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from conceptarchive import ConceptArchive
from groupvit import GroupViTSegmenter, load_model
from integration import figures
from integration.pages import figure_tag
from integration.wiring import mentioned_concepts
from segbench import Task

EXAMPLES = 6
"""Pairs of an archive that are shown."""

ARCHIVES = "Archives and their witnesses"
CONCEPTS = "A concept that captions rarely name, found in pictures"
"""Headings."""


def archive_section(pairs: Path, curated: Path) -> str:
    """Ranked concepts of some pairs, and the images whose captions brought the best new one.

    Args:
        pairs: folder of the pairs' shards.
        curated: folder with `archive/`.

    Returns:
        HTML.
    """
    archive = ConceptArchive.open(curated / "archive")
    dataset = archive.keys[0].split("/")[0]
    ids = archive.keys
    captions = {pair.id: pair.caption for pair in figures.all_pairs(pairs, dataset)}
    captions = {key: captions[key] for key in ids}
    mentioned = mentioned_concepts(archive.vocabulary, captions)
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


def overlay_section(runs: Mapping[str, Path], task: Task, data: Path | None, curated: Path) -> str:
    """Models on the first images that show a class which captions leave out most.

    Args:
        runs: folder of each arm's training.
        task: what is segmented.
        data: root of its data; None for procedural data.
        curated: folder with `archive/`.

    Returns:
        HTML.
    """
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
