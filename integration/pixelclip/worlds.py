"""Where pictures, masks and CLIP come from: the embedded world, or a folder of photographs."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from conceptarchive import find_shards
from integration.cocu.curator import train_curator
from integration.errors import DataMissingError
from integration.pixelclip.recipe import PhotosConfig, PixelclipRecipe
from integration.pixelclip.runs import ClipFiles, World
from integration.pixelclip.scenes import MASKS, PHOTOS, write_photos
from integration.stage import Stage, fingerprint_files
from integration.wiring import LOCAL, best_device, fingerprint_scored
from segbench import (
    CaptionRates,
    ScenesDataset,
    Task,
    load_task,
    open_dataset,
    task_queries,
    write_pairs,
)

SHARD = 1000


def scenes_world(recipe: PixelclipRecipe, seeds: Sequence[int], out: Path) -> World:
    """Procedural scenes: some with captions for CLIP, others with masks, others to be scored.

    Args:
        recipe: with `scenes`.
        seeds: of CLIP's training.
        out: root of the stage folders.
    """
    pairs, photos = _pairs_stage(recipe), _photos_stage(recipe)
    clips = {seed: _clip_stage(recipe, seed, pairs, out) for seed in seeds}

    def clip(seed: int) -> ClipFiles:
        folder = clips[seed].folder(out)
        return ClipFiles(
            architecture=f"{LOCAL}{folder}", pretrained="", folder=folder, inputs=(clips[seed],)
        )

    return World(
        stages=(pairs, photos, *clips.values()),
        images=photos.folder(out) / PHOTOS,
        masks=photos.folder(out) / MASKS,
        task=load_task(recipe.evaluate.task).with_dataset(
            count=recipe.scenes.val, **recipe.scenes.look
        ),
        data=None,
        clip=clip,
        names=tuple(ScenesDataset(split="val", count=1).names),
        captions=pairs.folder(out),
        inputs=(photos,),
    )


def photos_world(recipe: PixelclipRecipe, photos: PhotosConfig, data: Path) -> World:
    """Photographs and a CLIP of open_clip's.

    Args:
        recipe: with `photos`.
        photos: which.
        data: root of all folders.

    Raises:
        DataMissingError: a folder is not there, or has none of the files.
    """
    images, masks = data / photos.images, data / photos.masks
    read = (images, masks) if "regions" in recipe.sources else (images,)
    for folder in read:
        _check_folder(folder)
    task = load_task(recipe.evaluate.task)
    names = _scored_names(task, data)  # what is missing should be known before the training

    def clip(seed: int) -> ClipFiles:
        return ClipFiles(architecture=photos.architecture, pretrained=photos.pretrained, seed=seed)

    return World(
        stages=(),
        images=images,
        masks=masks,
        task=task,
        data=data,
        clip=clip,
        names=_split(photos.names) or names,
        files=fingerprint_files(*read),
        scored=fingerprint_scored(task, data),
    )


def _scored_names(task: Task, data: Path) -> tuple[str, ...]:
    """Class names as the task asks for them, each once."""
    names = open_dataset(task.dataset, data).names
    return tuple(dict.fromkeys(task_queries(task, names).prompts))


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _pairs_stage(recipe: PixelclipRecipe) -> Stage:
    """Captioned scenes that CLIP trains on."""
    rates, shared = CaptionRates(**recipe.captions), recipe.scenes.look
    dataset = ScenesDataset(split="curator", count=recipe.scenes.curator, rates=rates, **shared)

    def draw(folder: Path) -> None:
        write_pairs(dataset, folder, shard_size=SHARD, workers=recipe.scenes.workers)

    return Stage(
        name="captions",
        settings={"count": len(dataset), "rates": asdict(rates), **shared},
        run=draw,
        cost=recipe.costs.get("captions", 1),
    )


def _photos_stage(recipe: PixelclipRecipe) -> Stage:
    """Other scenes without captions, with masks."""
    shared = recipe.scenes.look
    dataset = ScenesDataset(split="train", count=recipe.scenes.train, **shared)
    return Stage(
        name="photos",
        settings={"count": len(dataset), "regions": asdict(recipe.regions), **shared},
        run=partial(write_photos, dataset, recipe.regions),
        cost=recipe.costs.get("photos", 1),
    )


def _clip_stage(recipe: PixelclipRecipe, seed: int, pairs: Stage, out: Path) -> Stage:
    curator = replace(recipe.curator, seed=seed)

    def learn(folder: Path) -> None:
        train_curator(find_shards(pairs.folder(out)), curator, folder, device=best_device())

    return Stage(
        name=f"clip-{seed}",
        settings={k: v for k, v in asdict(curator).items() if k != "checkpoint_every"},
        inputs=(pairs,),
        run=learn,
        cost=recipe.costs.get("clip", 1),
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataMissingError(f"{folder}: no such folder; the recipe's [photos] names it")
