"""DINO's weights in a data folder, and where the masks lie that are made with them."""

from collections.abc import Sequence
from pathlib import Path

from integration.papers.check import Finding, file_size

DINO = "dino-vit-s-16"
"""Folder of DINO's weights, below --data."""
MASKS = "masks"
"""Store of the masks that are made, in the folder of the stage that makes them."""
DINO_WEIGHTS = ("*.safetensors", "*.pth", "*.bin")
GET_DINO = (
    f"hf download timm/vit_small_patch16_224.dino model.safetensors --local-dir ROOT/{DINO}; or "
    "DINO's own dino_deitsmall16_pretrain.pth"
)


def find_dino(root: Path) -> Finding:
    """Look for the one file of weights."""
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
