"""What a data folder has of the things that a run of PixelCLIP needs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from integration.papers.check import FEW, Finding, Need, file_size, find_clip, find_task
from integration.papers.pixelclip.backbones import BACKBONES
from integration.papers.pixelclip.photographs import FOLDER, PUBLISHED, PhotoSet
from integration.papers.pixelclip.recipe import MasksRecipe, base_config
from integration.wiring import LOCAL
from maskcluster import MaskClusterError, open_photo, read_sa1b

DINO = "dino-vit-s-16"
"""Folder of DINO's weights, below --data."""
DINO_WEIGHTS = ("*.safetensors", "*.pth", "*.bin")
GET_DINO = (
    f"hf download timm/vit_small_patch16_224.dino model.safetensors --local-dir ROOT/{DINO}; or "
    "DINO's own dino_deitsmall16_pretrain.pth"
)
GET_PHOTOS = (
    "accept SA-1B's research licence (ai.meta.com/datasets/segment-anything-downloads), take its "
    "list of links, and unpack each archive into a folder of its name: mkdir -p "
    f"ROOT/{FOLDER}/sa_000020 && tar -xf sa_000020.tar -C ROOT/{FOLDER}/sa_000020. The paper took "
    "a random 5 % of SA-1B; its code lists a hundred archives (maskcluster's recipe pixelclip-sa1b)"
)


def needs_of(recipe: MasksRecipe, photos: PhotoSet) -> list[Need]:
    """All that a run needs.

    Args:
        recipe: of the run.
        photos: what `find_photographs` found.
    """
    needs: list[Need] = [partial(_clip, recipe)]
    if recipe.trained:
        needs.insert(0, partial(_photographs, recipe, photos))
    if recipe.trained and recipe.masks == "dino":
        needs.append(_dino)
    return [*needs, *(partial(find_task, task) for task in recipe.load_tasks())]


def _photographs(recipe: MasksRecipe, photos: PhotoSet, _: Path) -> Finding:
    """Photographs with masks beside them, and whether the first pair fits together."""
    kinds = "photographs with JSON" if recipe.masks == "sa1b" else "photographs"
    missing = partial(Finding, name=FOLDER, state="missing", get=GET_PHOTOS, images=PUBLISHED)
    if not photos.files:
        alone = f"; {photos.alone:,} have no JSON beside them" if photos.alone else ""
        return missing(found=f"SA-1B: no {kinds} in {photos.folder}{alone}")
    try:
        _open_first(recipe, photos)
    except MaskClusterError as error:
        return missing(found=str(error))
    count, folders = len(photos.files), len({Path(name).parent for name in photos.files})
    several = "1 folder" if folders == 1 else f"{folders:,} folders"
    alone = f"; {photos.alone:,} without JSON are left out" if photos.alone else ""
    return Finding(
        name=FOLDER,
        state="short" if count < FEW * PUBLISHED else "ok",
        found=f"{several}, {file_size(photos.bytes)}, {count:,} {kinds}; the published run had "
        f"some {PUBLISHED:,} ({(count - PUBLISHED) / PUBLISHED:+.1%}){alone}",
        images=count,
    )


def _open_first(recipe: MasksRecipe, photos: PhotoSet) -> None:
    """Read a photograph, and its masks if they are used.

    Raises:
        MaskClusterError: one of them cannot be read, or they are of different sizes.
    """
    path = photos.folder / photos.files[0]
    height, width = open_photo(path).shape[:2]
    if recipe.masks == "sa1b":
        read_sa1b(path.with_suffix(".json"), size=(height, width))


def _clip(recipe: MasksRecipe, root: Path) -> Finding:
    name = base_config(recipe).model.architecture
    if name.startswith(LOCAL):
        return find_clip(name.removeprefix(LOCAL), root, title="CLIP", get="see the base recipe")
    known = BACKBONES[name]
    wanted = {"embed_dim": known.embed_dim, "quick_gelu": known.quick_gelu}
    return find_clip(known.folder, root, title=known.title, get=known.get, wanted=wanted)


def _dino(root: Path) -> Finding:
    files = dino_files(root)
    if len(files) != 1:
        several = "no weights" if not files else f"{len(files)} files of weights, where one is read"
        found = f"DINO ViT-S/16: {several} in {root / DINO}"
        return Finding(name=DINO, state="missing", found=found, get=GET_DINO)
    size = file_size(files[0].stat().st_size)
    return Finding(name=DINO, state="ok", found=f"{size}, {files[0].name}")


def dino_files(root: Path) -> Sequence[Path]:
    """Files of DINO's weights below a data folder, sorted."""
    return sorted(file for pattern in DINO_WEIGHTS for file in (root / DINO).glob(pattern))
