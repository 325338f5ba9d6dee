"""The stages' work: masks of DINO, the training of an arm, and scores before and after."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from integration.papers.launch import Ranks
from integration.papers.pixelclip.arms import UNTUNED
from integration.papers.pixelclip.backbones import clip_folder
from integration.papers.pixelclip.dino import MASKS, dino_files
from integration.papers.pixelclip.recipe import MasksRecipe
from integration.papers.scoring import options, write_summary
from integration.wiring import LOCAL, best_device
from maskcluster import (
    Clip,
    ClusterConfig,
    DinoMasks,
    MaskedPhotos,
    MaskSource,
    PixelCLIP,
    PixelCLIPSegmenter,
    TrainConfig,
    generate,
    load_backbone,
    load_checkpoint,
    load_clip,
    train,
)
from segbench import Task, evaluate

GRID = 64
"""Side to which features are resized before they are compared (published)."""


def dino_masks(recipe: MasksRecipe, photos: Path, data: Path, folder: Path) -> None:
    """k-means over DINO's features of every photograph; goes on after a kill.

    Args:
        recipe: k, and how large DINO sees a photograph.
        photos: folder of photographs.
        data: the data folder, which has DINO's weights.
        folder: of the stage, gets a store of masks.
    """
    (weights,) = dino_files(data)
    backbone, identity = load_backbone(weights=weights, device=best_device())
    generator = DinoMasks(
        backbone, identity, clusters=recipe.dino_clusters, short_side=recipe.dino_short_px
    )
    generate(photos, folder / MASKS, generator)


def tune(
    config: TrainConfig,
    photos: Path,
    masks: MaskSource,
    folder: Path,
    *,
    data: Path,
    ranks: Ranks,
    label: str,
) -> None:
    """Train one arm; a killed run goes on from its last checkpoint, with any number of ranks.

    Args:
        config: of the arm.
        photos: folder of photographs.
        masks: of the photographs.
        folder: of the stage.
        data: the data folder, which has the CLIP.
        ranks: this process among the others.
        label: what progress calls it.
    """
    dataset = MaskedPhotos(photos, masks, config.views, seed=config.data.seed)
    device = best_device()
    train(
        on_this_machine(config, ranks, device),
        dataset,
        folder,
        device=device,
        label=label,
        clip=open_clip_folder(config, data),
    )
    if device.type == "cuda":
        torch.cuda.empty_cache()


def open_clip_folder(config: TrainConfig, data: Path) -> Clip:
    """The CLIP that a recipe tunes, from the data folder: wherever that lies, runs are the same."""
    return load_clip(f"{LOCAL}{clip_folder(config, data)}")


def on_this_machine(config: TrainConfig, ranks: Ranks, device: torch.device) -> TrainConfig:
    """The same recipe, computed as this machine can: what is learnt does not change.

    On a GPU towers and decoder are compiled, and fed by all of the machine's cores.
    """
    if device.type != "cuda":
        return config
    cores = (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks.world)))
    return replace(
        config,
        machine=replace(config.machine, compile=True),
        data=replace(config.data, workers=max(config.data.workers, cores - 1)),
    )


class MasksScorer:
    """Scores CLIP before and after, and keeps the last model for its other tasks.

    Args:
        config: of any arm, with the CLIP that is tuned.
        data: root of CLIP and data sets.
        limit: at most this many images of a task.
        ranks: this process among the others.
    """

    def __init__(self, config: TrainConfig, data: Path, limit: int | None, ranks: Ranks) -> None:
        self.config, self.data, self.limit, self.ranks = config, data, limit, ranks
        self._last: tuple[tuple[str, Path | None], PixelCLIP] | None = None

    def score(self, task: Task, arm: str, trained: Path | None, name: str, folder: Path) -> None:
        """Score one model on one task, every rank some of the images; a killed one goes on.

        Args:
            task: of segbench.
            arm: which model.
            trained: folder of its training; None for an un-tuned one.
            name: what results call the model.
            folder: of the stage; gets `summary.json` beside segbench's results.
        """
        model = self._model(arm, trained)
        # float32, so that a score does not hang on what the machine multiplies in hardware
        segmenter = PixelCLIPSegmenter(model, name=name, precision="float32", grid=GRID)
        report = evaluate(segmenter, task, **options(self.data, self.limit, folder))
        if self.ranks.leads:
            write_summary(task, report.data["images_scored"], report.metrics, folder)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def forget(self) -> None:
        """Let the last model go: the next training has its memory."""
        self._last = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _model(self, arm: str, trained: Path | None) -> PixelCLIP:
        if self._last is None or self._last[0] != (arm, trained):
            self._last = None  # before the next one takes memory
            clip = open_clip_folder(self.config, self.data)
            model = (
                self._untuned(arm, clip) if trained is None else load_checkpoint(trained, clip=clip)
            )
            self._last = (arm, trained), model.to(best_device()).eval()
        return self._last[1]

    def _untuned(self, arm: str, clip: Clip) -> PixelCLIP:
        config = replace(self.config.model, last_block=UNTUNED[arm])
        return PixelCLIP.from_config(config, ClusterConfig(targets="masks"), clip=clip)
