"""Tune one CLIP with masks, score it before and after, and say what its clusters mean."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from integration.pixelclip.masks import mask_source
from integration.pixelclip.recipe import PixelclipRecipe
from integration.pixelclip.runs import ClipFiles, World
from integration.pixelclip.words import read_words
from integration.progress import check_log
from integration.stage import write_text
from integration.wiring import best_device, cpu_threads
from maskcluster import (
    ClusterConfig,
    MaskedPhotos,
    ModelConfig,
    PixelCLIP,
    PixelCLIPSegmenter,
    TrainConfig,
    load_checkpoint,
    load_clip,
    read_config,
    starting_rows,
    train,
)
from maskcluster import name as name_clusters
from segbench import evaluate

LastBlock = Literal["maskclip", "pixelclip", "none"]
LAST_BLOCKS: tuple[LastBlock, ...] = ("maskclip", "pixelclip", "none")
"""Ways to dense features of a ViT."""

CLUSTERS = "clusters"
"""Folder of a naming stage."""


def train_run(
    recipe: PixelclipRecipe,
    arm: str,
    seed: int,
    world: World,
    masks: Path,
    words: Path | None,
    folder: Path,
) -> None:
    """Train one arm.

    Args:
        recipe: what to do.
        arm: its name.
        seed: of everything that is drawn.
        world: pictures and the CLIP that is tuned.
        masks: folder of the arm's masks.
        words: stage of the words that class prompts start from; None for random tokens.
        folder: of the run.
    """
    chosen = recipe.arms[arm]
    given = None if words is None else read_words(words, chosen.train.cluster.clusters)
    clip = world.clip(seed)
    config = run_config(chosen.train, seed, clip, given)
    dataset = MaskedPhotos(
        world.images, mask_source(chosen.masks, masks), config.views, seed=config.data.seed
    )
    with cpu_threads(recipe.threads):
        train(
            config,
            dataset,
            folder,
            device=best_device(),
            label=f"train {arm}, seed {seed}",
            clip=load_clip(clip.architecture, clip.pretrained, seed=seed),
        )
    check_log(folder, config.log_every, config.optim.total_steps)


def run_config(
    shared: TrainConfig, seed: int, clip: ClipFiles, words: Sequence[str] | None
) -> TrainConfig:
    """The recipe of one run: its seed, its CLIP, and the words that its prompts start from."""
    cluster = shared.cluster
    if words is not None:
        cluster = replace(cluster, start="names", names=tuple(words))
    return replace(
        shared,
        seed=seed,
        data=replace(shared.data, seed=seed),
        model=replace(shared.model, architecture=clip.beside_a_run, pretrained=clip.pretrained),
        cluster=cluster,
    )


def score_untuned(clip: ClipFiles, world: World, folder: Path) -> None:
    """Score a CLIP as it is, by every way to dense features."""
    scores = {}
    for last_block in LAST_BLOCKS:
        config = ModelConfig(
            architecture=clip.architecture, pretrained=clip.pretrained, last_block=last_block
        )
        model = PixelCLIP.from_config(config, ClusterConfig(targets="masks"), seed=clip.seed)
        scores[last_block] = _scores(model, f"un-tuned-{last_block}", world, folder / last_block)
    write_text(folder / "summary.json", json.dumps(scores, indent=1))


def untuned_model(run: Path) -> PixelCLIP:
    """The CLIP of a run as it was before, with the same dense features."""
    config = read_config(run)
    clusters = ClusterConfig(targets="masks")
    return PixelCLIP.from_config(config.model, clusters, seed=config.seed).eval()


def score_run(
    recipe: PixelclipRecipe, arm: str, seed: int, world: World, run: Path, folder: Path
) -> None:
    """Score a tuned CLIP."""
    overlays = recipe.evaluate.overlays
    found = _scores(load_checkpoint(run), f"{arm}-{seed}", world, folder, overlays=overlays)
    write_text(folder / "summary.json", json.dumps(found, indent=1))


def _scores(
    model: PixelCLIP, label: str, world: World, folder: Path, *, overlays: int = 0
) -> dict[str, float]:
    device = best_device()
    # float32, so that a score does not hang on what the machine multiplies in hardware
    segmenter = PixelCLIPSegmenter(model.to(device), name=label, precision="float32")
    report = evaluate(
        segmenter,
        world.task,
        root=world.data,
        out=folder,
        device=device,
        overlays=overlays,
        overwrite=True,
    )
    return {k: v for k, v in report.metrics.items() if isinstance(v, int | float)}


def name_run(
    recipe: PixelclipRecipe, arm: str, world: World, masks: Path, run: Path, folder: Path
) -> None:
    """Name the clusters of a run after classes, and draw them."""
    config = read_config(run)
    model = load_checkpoint(run)
    words = folder / "classes.txt"
    write_text(words, "\n".join(world.names) + "\n")
    name_clusters(
        model,
        folder / CLUSTERS,
        names=str(words),
        photos=world.images,
        masks=mask_source(recipe.arms[arm].masks, masks),
        start=starting_rows(model, config.cluster, seed=config.seed),
        image_px=config.views.image_px,
        mask_px=config.views.mask_px,
        overwrite=True,
    )
