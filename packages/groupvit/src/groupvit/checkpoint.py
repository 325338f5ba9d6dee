"""Checkpoints: a folder with weights, training state and the recipe; never half-written."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from groupvit.config import TrainConfig
from groupvit.errors import CheckpointError, RecipeError
from groupvit.model import GroupViT
from groupvit.recipe import model_config

KIND = "groupvit-checkpoint"
VERSION = 1
_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder on disk and the number of steps it has seen."""

    folder: Path
    step: int


def save_checkpoint(
    run: Path, model: GroupViT, optimizer: Optimizer, config: TrainConfig, step: int
) -> Checkpoint:
    """Write `run/checkpoint-STEP` whole or not at all; the older ones go when it is there."""
    final = run / f"{_PREFIX}{step:08d}"
    unfinished = run / f".{final.name}.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, unfinished / "model.safetensors"
    )
    torch.save({"optimizer": optimizer.state_dict()}, unfinished / "state.pt")
    header = {"kind": KIND, "version": VERSION, "step": step, "config": asdict(config)}
    (unfinished / "checkpoint.json").write_text(json.dumps(header, indent=1))
    older = find_checkpoints(run)
    unfinished.replace(final)
    for checkpoint in older:
        if checkpoint.step < step:
            shutil.rmtree(checkpoint.folder)
    return Checkpoint(final, step)


def find_checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first."""
    folders = sorted(run.glob(f"{_PREFIX}*"))
    return [Checkpoint(folder, int(folder.name.removeprefix(_PREFIX))) for folder in folders]


def resume(
    checkpoint: Checkpoint, model: GroupViT, optimizer: Optimizer, config: TrainConfig
) -> None:
    """Load weights and optimizer state in place.

    Raises:
        CheckpointError: the checkpoint is of another recipe.
    """
    saved = _header(checkpoint.folder)["config"]
    if saved != json.loads(json.dumps(asdict(config))):
        raise CheckpointError(
            f"{checkpoint.folder}: trained by another recipe; choose an empty folder or that recipe"
        )
    model.load_state_dict(load_file(checkpoint.folder / "model.safetensors"))
    state = torch.load(checkpoint.folder / "state.pt", weights_only=True)
    optimizer.load_state_dict(state["optimizer"])


def load_model(folder: Path) -> GroupViT:
    """Build the model of a checkpoint folder and load its weights, on the CPU.

    Args:
        folder: a checkpoint, or a run (its newest checkpoint is taken).

    Raises:
        CheckpointError: not a checkpoint of this version.
    """
    inside = find_checkpoints(folder)
    folder = inside[-1].folder if inside else folder
    try:
        model = GroupViT(model_config(_header(folder)["config"]["model"]))
    except RecipeError as error:
        raise CheckpointError(f"{folder}: of another version of groupvit: {error}") from error
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoint.json"
    try:
        header: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not a groupvit checkpoint ({error})") from error
    if (header.get("kind"), header.get("version")) != (KIND, VERSION):
        raise CheckpointError(
            f"{path}: is {header.get('kind')} version {header.get('version')}, "
            f"this reads {KIND} version {VERSION}"
        )
    return header
