"""Parts of a report about concepts: archives with their witnesses, and concepts in pictures."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from conceptarchive import Concept, ConceptArchive, Pair
from groupvit import GroupViTSegmenter, load_model
from integration import figures, panels
from integration.progress import ArmRun
from integration.wiring import TRUTH, mentioned_concepts, read_truth
from segbench import Report, Task

EXAMPLES = 6
"""Pairs of an archive that are shown."""

LISTED = 8
"""Concepts of a pair that are shown, best first."""

WITNESSES = 4
"""Pictures that brought a concept, of those that are shown."""

CLASSES = 3
"""Classes that captions rarely name, of those that are shown."""

COVERS = 0.15
"""Share of a picture that a class covers at least, to be shown in it."""

ARCHIVES = "Archives and their witnesses"
CONCEPTS = "A concept that captions rarely name"
"""Headings."""

SCORES = {
    "relative": "<b>Score</b> (eq. 8 of the CoCu paper): how strongly the picture responds to the "
    "concept, over the strongest response (at most 1), plus the same over its mean with the "
    "witnesses' responses (1: as strongly as they do). About 2 is high; it is no probability.",
    "cosine": "<b>Score</b> (eq. 6 of the CoCu paper): cosine of the picture's and the concept's "
    "features.",
}
"""What a score is, by the archive's way of ranking."""


def archive_section(pairs: Path, curated: Path) -> str:
    """Ranked concepts of some pairs, and the images whose captions brought the best new one.

    A concept is called right or wrong where the pairs' truth is known.

    Args:
        pairs: folder of the pairs' shards, and maybe of the truth as `wiring.write_truth` left it.
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
    truth = read_truth(pairs) if (pairs / TRUTH).exists() else None
    chosen = figures.archive_examples(archive, captions, mentioned, EXAMPLES)
    wanted = {key for key, _ in chosen}
    wanted |= {witness for key, name in chosen for witness in archive.witnesses(key, name)}
    shown = figures.pick_pairs(pairs, dataset, wanted)
    blocks, listed = [], []
    for key, name in chosen:
        known = None if truth is None else frozenset(truth[key])
        judged = [Judged.of(c, mentioned[key], known) for c in archive.concepts(key)]
        listed += judged[:LISTED]
        witnesses = [(captions[w], shown[w]) for w in archive.witnesses(key, name)[:WITNESSES]]
        blocks.append(
            f'<div class="pair">{_picture(shown[key])}<div><p>“{escape(captions[key])}”</p>'
            f'<div class="cards">{"".join(each.card() for each in judged[:LISTED])}</div>'
            f"{_missed(judged, mentioned[key], known)}{_witnesses(name, witnesses)}"
            "</div></div>"
        )
    legend = _archive_legend(archive, len(chosen), listed, judges=truth is not None)
    return legend + "\n".join(blocks)


class Judged(NamedTuple):
    """A concept of a picture's list, and what is known of it."""

    concept: Concept
    named: bool
    """By the picture's caption."""
    right: bool | None
    """Whether the picture shows it; None where nobody knows."""

    @classmethod
    def of(
        cls, concept: Concept, named: Collection[str], truth: Collection[str] | None
    ) -> "Judged":
        """Look a concept up in the caption and, where it is known, in the truth."""
        right = None if truth is None else concept.name in truth
        return cls(concept, concept.name in named, right)

    def card(self) -> str:
        """The concept, what is known of it, score and cluster as HTML."""
        kind, told = self._verdict()
        return (
            f'<div class="card {kind}"><b>{escape(self.concept.name)}</b><br>{told}<br>'
            f"<small>score {self.concept.score:.2f}, cluster {self.concept.cluster}</small></div>"
        )

    def _verdict(self) -> tuple[str, str]:
        if self.named:
            return "named", "in the caption" + (", ✗ not shown" if self.right is False else "")
        if self.right is None:
            return "new", "not in the caption"
        return ("right", "✓ right: shown") if self.right else ("wrong", "✗ wrong: not shown")


def _archive_legend(
    archive: ConceptArchive, pairs: int, listed: Sequence[Judged], *, judges: bool
) -> str:
    """What cards mean, and how many of those on the page are right."""
    new = [each for each in listed if not each.named]
    told = (
        f"{pairs} pairs, spread evenly over the archive and not picked by success: the picture, "
        "its caption, and what the archive lists for it, best first. <b>Grey</b>: the caption "
        "names it. "
    )
    if judges:
        right = sum(bool(each.right) for each in new)
        told += (
            "<b>Green ✓</b>: it does not, and the picture shows it. <b>Red ✗</b>: the picture does "
            "not show it; a word for nothing that can be seen in this world is red too. Of the "
            f"{len(new)} concepts below that captions lack, {right} are right."
        )
    else:
        told += "<b>Blue</b>: it does not; whether the picture shows it is not known here."
    notes = (
        f"{SCORES[archive.config.ranking]} <b>Cluster</b>: concepts of one picture that mean alike "
        "share a number; cluster-guided sampling draws from different ones. <b>Witnesses</b>: the "
        "nearest pictures whose captions name the concept."
    )
    return f'<p>{told}</p><p class="note">{notes}</p>'


def _missed(judged: Iterable[Judged], named: Collection[str], truth: Collection[str] | None) -> str:
    """What a picture shows that neither its caption nor the archive says."""
    missed = sorted(set(truth or ()) - set(named) - {each.concept.name for each in judged})
    if not missed:
        return ""
    return f"<p>Shown, but neither in the caption nor found: {escape(', '.join(missed))}.</p>"


def _witnesses(name: str, witnesses: Iterable[tuple[str, Pair]]) -> str:
    """Pictures that brought a concept over their captions, under a line that says so."""
    seen = "".join(
        f"<figure>{_picture(pair)}<figcaption>“{escape(caption)}”</figcaption></figure>"
        for caption, pair in witnesses
    )
    return f'<p>Witnesses of <b>{escape(name)}</b>:</p><div class="small">{seen}</div>'


def _picture(pair: Pair) -> str:
    return f'<img src="{figures.thumbnail(pair)}" alt="">'


def overlay_section(
    runs: Mapping[str, ArmRun],
    out: Path,
    task: Task,
    data: Path | None,
    *,
    pairs: Path,
    curated: Path,
) -> str:
    """Models on the first images that show a class which captions leave out most.

    Args:
        runs: stages of each arm, of one seed.
        out: root of the stage folders.
        task: what is segmented.
        data: root of its data; None for procedural data.
        pairs: folder of the training pairs' shards.
        curated: folder with `archive/`.

    Returns:
        HTML.
    """
    models = {
        arm: GroupViTSegmenter(load_model(run.train.folder(out)), name=arm)
        for arm, run in runs.items()
    }
    reports = {arm: Report.read(run.evaluate.folder(out)) for arm, run in runs.items()}
    predictions = figures.Predictions(models, task, data)
    pictures = _first_pictures(predictions)
    kind, rare = _rarely_named(predictions, curated, pictures)
    examples = [Example(label, *predictions.of(pictures[label])) for label in rare[:CLASSES]]
    if not examples:
        return f"<p>No class of the vocabulary covers {COVERS:.0%} of a scored picture.</p>"
    names = predictions.dataset.names
    said = _how_often([names[each.label] for each in examples], pairs, curated)
    colours = panels.assign_colours([panels.largest_classes(each.all_maps) for each in examples])
    parts = [_overlay_legend(kind)]
    for each, of_classes in zip(examples, colours, strict=True):
        name = names[each.label]
        scored = ", ".join(
            f"{arm} {report.per_class[each.label]['iou']:.2f}" for arm, report in reports.items()
        )
        parts.append(
            f"<h3>{escape(name)}</h3><p>{said[name]} IoU over all {len(predictions.dataset)} "
            f"scored pictures: {escape(scored)}.</p>{each.cells(names, of_classes)}"
        )
    return "\n".join(parts)


def _overlay_legend(kind: str) -> str:
    return (
        f"<p>Of the {kind} in the archive's vocabulary, what the fewest captions name, each in the "
        f"first scored picture of which it covers {COVERS:.0%} or more, whatever the models make "
        'of it.</p><p class="note">Upper row: where the truth and the models see that class, in '
        "red, and its IoU in this picture. Lower row: all classes, in the colours on the left. "
        "<b>IoU</b>: intersection over union of a class's predicted and true pixels, from 0 "
        "(missed) to 1 (perfect). Models are of the first seed.</p>"
    )


class Example(NamedTuple):
    """One scored picture, its true labels, and what each model makes of it."""

    label: int
    """The class that it is shown for."""
    image: figures.UInt8Image
    """(H, W, 3)."""
    truth: npt.NDArray[np.int32]
    """(H, W), -1 is ignored."""
    maps: Mapping[str, npt.NDArray[np.int64]]
    """(H, W) by model."""

    @property
    def all_maps(self) -> list[panels.Labels]:
        """Truth, then what the models see where it is known."""
        known = self.truth >= 0
        return [self.truth, *(np.where(known, each, -1) for each in self.maps.values())]

    def cells(self, names: Sequence[str], colours: Mapping[int, panels.Colour]) -> str:
        """Two rows of equal columns: the class alone, then all classes behind their legend."""
        name, true = names[self.label], self.truth == self.label
        truth, *found = self.all_maps
        single = [panels.panel(panels.mark(self.image, true), f"truth: {name}")]
        every = [panels.panel(panels.paint(self.image, truth, colours), "truth: all classes")]
        for arm, labels in zip(self.maps, found, strict=True):
            mask = labels == self.label
            told = f"{arm}: {name}, IoU {panels.iou(mask, true):.2f}"
            single.append(panels.panel(panels.mark(self.image, mask), told))
            right = (labels == truth)[truth >= 0].mean()
            told = f"{arm}: {right:.0%} of pixels right"
            every.append(panels.panel(panels.paint(self.image, labels, colours), told))
        picture = panels.panel(self.image, "picture")
        legend = panels.legend(self.image, self.all_maps, colours, names)
        return panels.grid(len(single) + 1, [picture, *single, legend, *every])


def _how_often(names: Sequence[str], pairs: Path, curated: Path) -> dict[str, str]:
    """How many captions name each concept and, where it is known, how many pictures show it."""
    archive = ConceptArchive.open(curated / "archive")
    dataset = archive.keys[0].split("/")[0]
    captions = {pair.id: pair.caption for pair in figures.all_pairs(pairs, dataset)}
    mentioned = mentioned_concepts(archive.vocabulary, captions)
    truth = read_truth(pairs) if (pairs / TRUTH).exists() else None
    told = {}
    for name in names:
        count = sum(name in concepts for concepts in mentioned.values())
        shown = truth and sum(name in concepts for concepts in truth.values())
        seen = f", though {shown:,} of their pictures show it" if shown else ""
        told[name] = f"Named in {count:,} of {len(captions):,} training captions{seen}."
    return told


def _rarely_named(
    predictions: figures.Predictions, curated: Path, pictures: Collection[int]
) -> tuple[str, list[int]]:
    """Labels of `pictures` in the vocabulary, named by the fewest captions first.

    Returns:
        What they are, and the labels: stuff, or classes of all kinds if no stuff is among them.
    """
    archive = ConceptArchive.open(curated / "archive")
    names, stuff = predictions.dataset.names, predictions.dataset.subsets.get("stuff", ())
    order = {name: place for place, name in enumerate(archive.vocabulary.names)}  # by frequency
    known = sorted(
        (label for label in pictures if names[label] in order),
        key=lambda label: -order[names[label]],
    )
    of_stuff = [label for label in known if label in stuff]
    return ("stuff", of_stuff) if of_stuff else ("classes", known)


def _first_pictures(predictions: figures.Predictions) -> dict[int, int]:
    """The first picture that each class covers enough of, by label."""
    found: dict[int, int] = {}
    for index in range(len(predictions.dataset)):
        labels = predictions.dataset[index].labels
        areas = np.bincount(labels[labels >= 0])
        for label in np.flatnonzero(areas >= COVERS * labels.size):
            found.setdefault(int(label), index)
    return found
