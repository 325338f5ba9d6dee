"""Pictures of a PixelCLIP run: curves, masks, archives, label maps, clusters; parts of its page."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from integration import figures, panels
from integration.cocu.concept_pages import ARCHIVES, archive_section
from integration.pages import figure_tag, html_tables
from integration.pixelclip.masks import mask_source
from integration.pixelclip.recipe import PixelclipRecipe
from integration.pixelclip.runs import Runs, World
from integration.pixelclip.scenes import MASKS
from integration.pixelclip.tuning import CLUSTERS, untuned_model
from integration.progress import read_log
from integration.stage import Stage
from maskcluster import MaskClusterError, PixelCLIPSegmenter, contact_sheet, load_checkpoint

STRIPS = 6
"""Pictures with truth and predictions."""

NAMED = 4
"""Pictures in the colours of clusters."""

MASKED = 12
"""Pictures with their masks, of every source."""


def curves(out: Path, runs: Runs) -> Figure:
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


def mask_sheets(
    recipe: PixelclipRecipe, out: Path, runs: Runs, world: World, folder: Path
) -> list[str]:
    """Some pictures beside their masks, for every source that an arm was trained on.

    Args:
        recipe: what was run.
        out: root of the stage folders.
        runs: its stages.
        world: its pictures and their own masks.
        folder: gets `masks-SOURCE.png`.
    """
    parts = []
    for kind in sorted(recipe.sources):
        made = runs.masks.get(kind)
        source = mask_source(kind, world.masks if made is None else made.folder(out) / MASKS)
        sheet = folder / f"masks-{kind}.png"
        try:
            contact_sheet(source, world.images, sheet, most=MASKED, columns=2)
            shown = figure_tag(figures.png_file(sheet))
        except MaskClusterError as error:  # training has left that photograph out, and counted it
            shown = f"<p>No sheet: {escape(str(error))}</p>"
        parts += [f"<h3>{kind}</h3>", shown]
    return parts


def archive_part(out: Path, runs: Runs, world: World) -> Mapping[str, list[str]]:
    """Pairs of the concept archive that prompts start from, by heading; nothing without one."""
    words = runs.words.get("archive")
    if words is None or world.captions is None:
        return {}
    return {ARCHIVES: [archive_section(world.captions, words.folder(out))]}


def strips(recipe: PixelclipRecipe, out: Path, runs: Runs, world: World) -> list[str]:
    """Pictures with truth, the un-tuned CLIP and the first arm, evenly spread over the task."""
    arm, seed = recipe.chosen[0], min(runs.untuned)
    run = runs.trained[arm, seed].folder(out)
    shown = {
        "un-tuned CLIP": PixelCLIPSegmenter(untuned_model(run), precision="float32"),
        arm: PixelCLIPSegmenter(load_checkpoint(run), precision="float32"),
    }
    predictions = figures.Predictions(shown, world.task, world.data)
    names, count = predictions.dataset.names, len(predictions.dataset)
    seen = [predictions.of(index) for index in range(0, count, max(count // STRIPS, 1))]
    maps: list[dict[str, panels.Labels]] = [{"truth": truth, **found} for _, truth, found in seen]
    classes = [panels.largest_classes(each.values()) for each in maps]
    parts = []
    for (image, _, _), each, colours in zip(
        seen, maps, panels.assign_colours(classes), strict=True
    ):
        cells = [panels.panel(image, "picture")]
        cells += [
            panels.panel(panels.paint(image, labels, colours), name)
            for name, labels in each.items()
        ]
        parts.append(panels.legend(image, [*each.values()], colours, names))
        parts.append(panels.grid(len(cells), cells))
    return parts


def cluster_parts(arm: str, stage: Stage, out: Path) -> Iterator[str]:
    """Table of names, plot of prompts, and some pictures in the colours of clusters."""
    folder = stage.folder(out) / CLUSTERS
    yield f"<h3>{escape(arm)}</h3>"
    yield html_tables(name_table(stage, out))
    for path in [folder / "tsne.png", *sorted((folder / "photos").glob("*.png"))[:NAMED]]:
        yield figure_tag(figures.png_file(path))


def name_table(stage: Stage, out: Path) -> str:
    """Clusters and their names as a Markdown table."""
    return (stage.folder(out) / CLUSTERS / "names.md").read_text(encoding="utf-8").strip()
