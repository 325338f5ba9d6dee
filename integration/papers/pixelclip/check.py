"""What a data folder has of the things that a run of PixelCLIP needs."""

from functools import partial
from pathlib import Path

from integration.papers.check import FEW, Finding, Need, file_size, find_clip, find_task
from integration.papers.pixelclip.backbones import BACKBONES
from integration.papers.pixelclip.mask_kinds import MaskKind
from integration.papers.pixelclip.photographs import PhotoSet
from integration.papers.pixelclip.recipe import MasksRecipe, base_config
from integration.wiring import LOCAL
from maskcluster import MaskClusterError, open_photo


def needs_of(recipe: MasksRecipe, photos: PhotoSet) -> list[Need]:
    """All that a run needs.

    Args:
        recipe: of the run.
        photos: what the recipe's masks `find`.
    """
    needs: list[Need] = [partial(_clip, recipe)]
    if recipe.trained:
        kind = recipe.mask_kind
        needs = [partial(_photographs, kind, photos), *needs, *kind.needs]
    return [*needs, *(partial(find_task, task) for task in recipe.load_tasks())]


def _photographs(kind: MaskKind, photos: PhotoSet, _: Path) -> Finding:
    """Photographs with their masks, and whether the first pair fits together."""
    kinds = f"photographs with {kind.unit}" if kind.unit else "photographs"
    missing = partial(
        Finding, name=kind.folder, state="missing", get=kind.get, images=kind.published
    )
    if not photos.files:
        where = "beside them" if photos.masks == photos.folder else f"in {photos.masks}"
        alone = f"; {photos.alone:,} have no {kind.unit} {where}" if photos.alone else ""
        return missing(found=f"{kind.title}: no {kinds} in {photos.folder}{alone}")
    try:
        _open_first(kind, photos)
    except MaskClusterError as error:
        return missing(found=str(error))
    count, folders = len(photos.files), len({Path(name).parent for name in photos.files})
    several = "1 folder" if folders == 1 else f"{folders:,} folders"
    alone = f"; {photos.alone:,} without {kind.unit} are left out" if photos.alone else ""
    off = (count - kind.published) / kind.published
    return Finding(
        name=kind.folder,
        state="short" if count < FEW * kind.published else "ok",
        found=f"{several}, {file_size(photos.bytes)}, {count:,} {kinds}; "
        f"{kind.counted} {kind.published:,} ({off:+.1%}){alone}",
        images=count,
    )


def _open_first(kind: MaskKind, photos: PhotoSet) -> None:
    """Read a photograph, and its masks if they are read.

    Raises:
        MaskClusterError: one of them cannot be read, or they are of different sizes.
    """
    name = photos.files[0]
    height, width = open_photo(photos.folder / name).shape[:2]
    if kind.read is not None and photos.masks is not None:
        kind.read(photos.masks / photos.masks_of(name), (height, width))


def _clip(recipe: MasksRecipe, root: Path) -> Finding:
    name = base_config(recipe).model.architecture
    if name.startswith(LOCAL):
        return find_clip(name.removeprefix(LOCAL), root, title="CLIP", get="see the base recipe")
    known = BACKBONES[name]
    wanted = {"embed_dim": known.embed_dim, "quick_gelu": known.quick_gelu}
    return find_clip(
        known.folder,
        root,
        title=known.title,
        get=known.get,
        wanted=wanted,
        tokenizer=known.tokenizer,
    )
