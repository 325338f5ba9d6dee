"""A model from wherever one can be: a run, a published file, an open_clip folder."""

from pathlib import Path
from typing import Literal

from maskcluster.errors import DataError
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.released.clip_config import CONFIG
from maskcluster.released.export import export, load_exported
from maskcluster.released.weights import load_released, save_released
from maskcluster.training.checkpoint import load_model as load_checkpoint

To = Literal["open_clip", "released"]


def load_model(path: Path | str) -> PixelCLIP:
    """Read a model, on the CPU, in evaluation mode.

    Args:
        path: a run (its newest checkpoint), a checkpoint of one, a file in the published
            checkpoints' layout, or an open_clip folder such as `export` writes.

    Raises:
        DataError: there is nothing, or an open_clip folder that cannot be read.
        CheckpointError: it is none of these, damaged, or of another version.
        RecipeError: the CLIP model of a run's recipe is not known.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such checkpoint")
    if path.is_file():
        return load_released(path)
    return load_exported(path) if (path / CONFIG).exists() else load_checkpoint(path)


def convert(
    source: Path, out: Path, *, to: To = "open_clip", architecture: str | None = None
) -> None:
    """Write a model in another layout.

    Args:
        source: a run, a checkpoint of one, a file in the published checkpoints' layout, or an
            open_clip folder.
        out: folder (open_clip) or file (released) to write; must not exist.
        to: open_clip is the tuned CLIP model alone, which any pipeline loads as local-dir:OUT;
            released is the layout of the published checkpoints, with class prompts, teacher and
            decoder, for the released code.
        architecture: open_clip's name of the CLIP model, where it cannot be told.

    Raises:
        DataError, CheckpointError, RecipeError: as of `load_model`.
        CheckpointError: the layout cannot hold it, `out` exists, or it cannot be written.
    """
    model = load_model(source)
    write = export if to == "open_clip" else save_released
    write(model, out, architecture=architecture)
