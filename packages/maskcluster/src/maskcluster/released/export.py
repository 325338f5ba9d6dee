"""The tuned CLIP model as a plain open_clip folder, which any pipeline loads; and back."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from maskcluster.errors import CheckpointError, FormatError
from maskcluster.files import read_json, write_json
from maskcluster.model.clip import load_clip
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.released.clip_config import CONFIG, TOKENIZER, describe_clip
from maskcluster.released.files import OURS, new_path
from maskcluster.released.weights import last_block_of, wrap_clip

WEIGHTS = "open_clip_model.safetensors"
"""Beside `CONFIG`, where open_clip looks first."""

VERSION = 1
"""Of our addition to the configuration."""


def export(model: PixelCLIP, folder: Path | str, *, architecture: str | None = None) -> None:
    """Write the tuned CLIP model as open_clip does.

        open_clip.create_model_and_transforms(f"local-dir:{folder}")

    gives the model with its colours and its activation (QuickGELU, where the weights need it). It
    computes dense features as any CLIP model does: what PixelCLIP puts in place of the last block
    is up to who uses it, and is named in the configuration. A tokenizer that does not come with
    open_clip is written too. Class prompts, teacher and decoder are not.

    Args:
        model: whose CLIP model it is.
        folder: must not exist.
        architecture: as of `describe_clip`.

    Raises:
        CheckpointError: a CLIP model that cannot be described, `folder` exists, or it cannot be
            written.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder}: exists; choose another name")
    config: dict[str, Any] = describe_clip(model, architecture)
    config[OURS] = {"version": VERSION, "last_block": last_block_of(model)}
    state = {n: t.detach().cpu().contiguous() for n, t in model.clip.state_dict().items()}
    with new_path(folder) as part:
        part.mkdir()
        write_json(part / CONFIG, config)
        save_file(state, part / WEIGHTS)
        if TOKENIZER in config["model_cfg"]["text_cfg"]:
            model.tokenizer.save_pretrained(part)  # type: ignore[attr-defined]  # transformers'


def load_exported(folder: Path | str) -> PixelCLIP:
    """Read an open_clip folder, written by `export` or by anybody else, on the CPU.

    Args:
        folder: of `open_clip_config.json` and weights.

    Returns:
        The model in evaluation mode, without class prompts; the teacher is the student.

    Raises:
        CheckpointError: a folder of another version.
        DataError: it has no such files, or they cannot be read.
    """
    folder = Path(folder)
    clip = load_clip(f"local-dir:{folder}")
    told = _told(folder)
    try:
        return wrap_clip(clip, last_block=str(told.get("last_block", "pixelclip"))).eval()
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _told(folder: Path) -> dict[str, Any]:
    """Our addition to a configuration; empty where somebody else has written it."""
    try:
        told = read_json(folder / CONFIG).get(OURS, {})
    except FormatError as error:
        raise CheckpointError(str(error)) from error
    if told and (not isinstance(told, dict) or told.get("version") != VERSION):
        raise CheckpointError(f"{folder / CONFIG}: {OURS} is not of version {VERSION}")
    return dict(told)
