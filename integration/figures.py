"""Pictures of a run: curves, bars, pictures of an archive's pairs, and what models see."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from conceptarchive import ConceptArchive, Pair, find_shards, read_pairs
from integration.progress import Curve, read_log
from segbench import Segmenter, Task, open_dataset, predict_labels, task_bank

COLOURS = {
    "baseline": "#c44e52", "cocu": "#4c72b0", "upper-bound": "#8c8c8c",
    "model-1": "#dd8452", "model-2": "#b8a22c", "model-3": "#55a868", "model-4": "#4c72b0",
}  # fmt: skip
THUMBNAIL_PX = 144

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""What is decoded of pairs, whatever a file's name says: as conceptarchive does."""

UInt8Image = npt.NDArray[np.uint8]


def png_data(image: Image.Image | Figure) -> str:
    """A picture as the address of an HTML <img>."""
    content = io.BytesIO()
    if isinstance(image, Figure):
        FigureCanvasAgg(image)
        image.savefig(content, format="png", dpi=110, bbox_inches="tight")
    else:
        image.save(content, "PNG")
    return _address(content.getvalue())


def png_file(path: Path) -> str:
    """A PNG as the address of an HTML <img>, byte for byte."""
    return _address(path.read_bytes())


def _address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def loss_curves(logs: Mapping[str, Sequence[Path]]) -> Figure:
    """Losses over steps, arms in colours, seeds as thin lines (CoCu, Fig. 3a).

    Args:
        logs: run folders by arm.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 3))
        names = ("loss", "caption_loss", "multi_label_loss")
        for axis, name in zip(figure.subplots(1, 3), names, strict=True):
            for arm, runs in logs.items():
                for number, run in enumerate(runs):
                    lines = [line for line in read_log(run) if name in line]
                    axis.plot(
                        [line["step"] for line in lines],
                        [line[name] for line in lines],
                        color=COLOURS.get(arm, "black"),
                        linewidth=0.9,
                        label=arm if number == 0 else None,
                    )
            axis.set_title(name.replace("_", " "))
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
            axis.legend()
    return figure


def convergence(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    """Loss and mIoU against steps, arms in colours, seeds as thin lines (CoCu, Fig. 3a).

    Args:
        curves: by arm, one a seed.
    """
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 3.4))
        for axis, (x, y) in zip(
            figure.subplots(1, 2), (("step", "loss"), ("point", "miou")), strict=True
        ):
            for number, (arm, seeds) in enumerate(curves.items()):
                for seed, lines in enumerate(seeds):
                    axis.plot(
                        lines[x],
                        lines[y],
                        color=COLOURS.get(arm, f"C{number}"),
                        linewidth=0.9,
                        marker="." if y == "miou" else None,
                        label=arm if seed == 0 else None,
                    )
            axis.set_title({"loss": "training loss", "miou": "mIoU"}[y])
            axis.set_xlabel("step")
            axis.grid(alpha=0.3)
        figure.axes[0].legend(fontsize=8)  # losses fall, so its upper right is free
    return figure


Bar = tuple[float, float | None, float | None, Sequence[float]]
"""Height, ends of its interval if it has one, and single values to show as dots."""


def bars(panels: Mapping[str, Mapping[str, Bar]]) -> Figure:
    """Horizontal bars with intervals, a panel for each measure, the first bar on top."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(9, 0.9 + 0.34 * max(map(len, panels.values()))))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, panel) in zip(axes, panels.items(), strict=True):
            for place, (height, low, high, dots) in enumerate(panel.values()):
                axis.barh(place, height, color="#4c72b0", alpha=0.5)
                if low is not None and high is not None:
                    axis.plot([low, high], [place, place], color="black", linewidth=1.2)
                axis.plot(dots, [place] * len(dots), "k.", markersize=4)
            axis.set_yticks(range(len(panel)), [*panel])
            axis.invert_yaxis()
            axis.set_xlim(left=0)
            axis.set_title(title)
            axis.grid(alpha=0.3, axis="x")
        figure.subplots_adjust(wspace=0.35)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    FigureCanvasAgg(figure)
    figure.savefig(unfinished, format="png", dpi=110, bbox_inches="tight")
    unfinished.replace(path)


def all_pairs(folder: Path, dataset: str) -> Iterator[Pair]:
    """All pairs of a folder of shards, without their images."""
    return read_pairs(find_shards(folder), dataset=dataset, images=False)


def pick_pairs(folder: Path, dataset: str, wanted: set[str]) -> dict[str, Pair]:
    """Pairs with their images, by id, read from shards."""
    found: dict[str, Pair] = {}
    for shard in find_shards(folder):
        if any(f"/{shard.stem}/" in key for key in wanted - found.keys()):
            pairs = read_pairs([shard], dataset=dataset)
            found.update({pair.id: pair for pair in pairs if pair.id in wanted})
    return found


def thumbnail(pair: Pair) -> str:
    """A pair's image at a size to look at, as an <img> address."""
    assert pair.image is not None
    image = Image.open(io.BytesIO(pair.image), formats=FORMATS).convert("RGB")
    scale = THUMBNAIL_PX / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR
    return png_data(image.resize(size, smooth))


def archive_examples(
    archive: ConceptArchive,
    captions: Mapping[str, str],
    mentioned: Mapping[str, frozenset[str]],
    count: int = 6,
) -> list[tuple[str, str]]:
    """Pairs with their best unnamed concept, spread evenly over the archive.

    Nothing is picked by success: from `count` evenly spaced places on, the first pair that has a
    caption and an unnamed concept is taken.

    Returns:
        (key, concept), at most `count`.
    """
    chosen: dict[str, str] = {}
    for start in range(0, len(archive), max(len(archive) // count, 1)):
        for key in archive.keys[start:]:
            new = [c.name for c in archive.concepts(key) if c.name not in mentioned[key]]
            if captions[key] and new and key not in chosen:
                chosen[key] = new[0]
                break
    return list(chosen.items())[:count]


class Predictions:
    """Label maps of a task's first images by several models.

    Args:
        segmenters: of each arm.
        task: what is segmented.
        root: of its data.
    """

    def __init__(self, segmenters: Mapping[str, Segmenter], task: Task, root: Path | None) -> None:
        self.dataset = open_dataset(task.dataset, root)
        self.task = task
        self._segmenters = segmenters
        self._banks = {
            arm: task_bank(segmenter, task, self.dataset.names)
            for arm, segmenter in self._segmenters.items()
        }

    def of(
        self, index: int
    ) -> tuple[UInt8Image, npt.NDArray[np.int32], dict[str, npt.NDArray[np.int64]]]:
        """Image (H, W, 3), truth (H, W) and each arm's label map (H, W)."""
        example = self.dataset[index]
        pixels = torch.tensor(example.image).permute(2, 0, 1).float() / 255  # (3, H, W)
        maps = {
            arm: predict_labels(segmenter, pixels, self._banks[arm], self.task, self.dataset.names)
            .cpu()
            .numpy()
            for arm, segmenter in self._segmenters.items()
        }
        return example.image, example.labels, maps
