"""Checkpoints: a folder with weights, training state and the recipe; never half-written."""

import hashlib
import json
import pickle
import re
import shutil
import textwrap
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from groupvit.config import MachineConfig, TrainConfig
from groupvit.errors import CheckpointError, RecipeError
from groupvit.model.groupvit import GroupViT
from groupvit.recipe import model_config, train_config

KIND = "groupvit-checkpoint"
VERSION = 1
_PREFIX = "checkpoint-"
_NAME = re.compile(_PREFIX + "([0-9]{8})")
_WEIGHTS = "model.safetensors"
_STATE = "state.pt"
_UNREADABLE = (
    OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, SafetensorError,
)  # fmt: skip
"""What reading a file raises that was cut short, or that belongs to another model."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder on disk and the number of steps it has seen."""

    folder: Path
    step: int


def save_checkpoint(
    run: Path,
    model: GroupViT,
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    *,
    pairs: str | None = None,
) -> Checkpoint:
    """Write `run/checkpoint-STEP` whole or not at all; when it is there, the oldest go.

    Args:
        run: folder of the run.
        model: its weights and batch norm statistics.
        optimizer: its state.
        config: the recipe; keeps `config.checkpoints` of them.
        step: steps done.
        pairs: fingerprint of what is trained on, see `PairDataset`.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints are as they were.
    """
    try:
        return _save(run, model, optimizer, config, step, pairs)
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(_unfinished(run, step), ignore_errors=True)
        raise CheckpointError(
            f"{run}: checkpoint of step {step} cannot be written ({_reason(error)}); older ones "
            "are kept: make room and run the command again to go on"
        ) from error


def _reason(error: BaseException) -> str:
    return textwrap.shorten(str(error), 200)


def _unfinished(run: Path, step: int) -> Path:
    return run / f".{_PREFIX}{step:08d}.tmp"


def _save(
    run: Path,
    model: GroupViT,
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    pairs: str | None,
) -> Checkpoint:
    final = run / f"{_PREFIX}{step:08d}"
    unfinished = _unfinished(run, step)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, unfinished / _WEIGHTS)
    torch.save({"optimizer": optimizer.state_dict()}, unfinished / _STATE)
    files = {name: _sha256(unfinished / name) for name in (_WEIGHTS, _STATE)}
    header = {"kind": KIND, "version": VERSION, "step": step, "files": files, "pairs": pairs}
    header["config"] = asdict(config)
    (unfinished / "checkpoint.json").write_text(json.dumps(header, indent=1))
    unfinished.replace(final)
    older = [checkpoint for checkpoint in find_checkpoints(run) if checkpoint.step < step]
    for checkpoint in older[: max(len(older) + 1 - config.checkpoints, 0)]:
        shutil.rmtree(checkpoint.folder)
    return Checkpoint(final, step)


def find_checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first; anything not named as one is ignored."""
    found = [(folder, _NAME.fullmatch(folder.name)) for folder in sorted(run.glob(f"{_PREFIX}*"))]
    return [Checkpoint(folder, int(match[1])) for folder, match in found if match]


def resume(
    checkpoint: Checkpoint,
    model: GroupViT,
    optimizer: Optimizer,
    config: TrainConfig,
    *,
    pairs: str | None = None,
) -> None:
    """Load weights and optimizer state in place.

    Args:
        checkpoint: what to go on from.
        model: gets the weights.
        optimizer: gets the state.
        config: the recipe, which must be the checkpoint's in all that is learnt.
        pairs: fingerprint of what is trained on, which must be the checkpoint's.

    Raises:
        CheckpointError: the checkpoint is of another recipe or other pairs, or damaged.
    """
    header = _header(checkpoint.folder)
    try:
        written = train_config(header["config"])
    except RecipeError as error:
        raise _of_another_version(checkpoint.folder, error) from error
    if _learnt(written) != _learnt(config):
        raise CheckpointError(
            f"{checkpoint.folder}: trained by another recipe ({_difference(written, config)}); "
            "choose an empty folder or that recipe"
        )
    if None not in (pairs, header.get("pairs")) and header["pairs"] != pairs:
        raise CheckpointError(
            f"{checkpoint.folder}: trained on other pairs, or with another concept archive; choose "
            "an empty folder, or give what it was trained on"
        )
    _load_weights(model, checkpoint.folder, header)
    path = checkpoint.folder / _STATE
    _check_whole(path, header)
    try:
        optimizer.load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _difference(old: TrainConfig, new: TrainConfig) -> str:
    """The first field in which two recipes differ, and both of its values."""
    pairs = [("", asdict(_learnt(old)), asdict(_learnt(new)))]
    for name, before, after in pairs:  # grows
        if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
            pairs += [(f"{name}.{key}", before[key], after[key]) for key in before]
        elif before != after:
            return f"{name[1:]} was {before!r}, is {after!r}"
    return "in nothing that is written"


def _learnt(config: TrainConfig) -> TrainConfig:
    """A recipe with one value of all that may change while a run goes on."""
    data = replace(config.data, workers=0)
    return replace(config, data=data, machine=MachineConfig(), checkpoints=1)


def _of_another_version(folder: Path, error: RecipeError) -> CheckpointError:
    return CheckpointError(f"{folder}: of another version of groupvit: {error}")


def load_model(folder: Path | str) -> GroupViT:
    """Build the model of a checkpoint folder and load its weights, on the CPU.

    Args:
        folder: a checkpoint, or a run (its newest checkpoint is taken).

    Raises:
        CheckpointError: not a checkpoint of this version, or damaged.
    """
    folder = Path(folder)
    inside = find_checkpoints(folder)
    folder = inside[-1].folder if inside else folder
    try:
        header = _header(folder)
        model = GroupViT(model_config(header["config"]["model"]))
    except RecipeError as error:
        raise _of_another_version(folder, error) from error
    _load_weights(model, folder, header)
    return model.eval()


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoint.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: not a groupvit checkpoint, and no run that has one yet")
    try:
        header: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a groupvit checkpoint ({_reason(error)})") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: not a groupvit checkpoint (holds no table)")
    if (header.get("kind"), header.get("version")) != (KIND, VERSION):
        raise CheckpointError(
            f"{path}: is {header.get('kind')} version {header.get('version')}, "
            f"this reads {KIND} version {VERSION}"
        )
    config = header.get("config")
    if not isinstance(config, dict) or "model" not in config:
        raise CheckpointError(f"{path}: damaged checkpoint: no recipe under 'config'")
    return header


def _load_weights(model: GroupViT, folder: Path, header: dict[str, Any]) -> None:
    path = folder / _WEIGHTS
    _check_whole(path, header)
    try:
        model.load_state_dict(load_file(path))
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _check_whole(path: Path, header: dict[str, Any]) -> None:
    """Compare a file with its checksum in the header; older checkpoints have none."""
    if not path.is_file():
        raise _damaged(path, "no such file")
    written = header.get("files", {}).get(path.name)
    if written is not None and _sha256(path) != written:
        raise _damaged(path, "its SHA-256 is not that of its header")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return _damaged(path, f"cannot be loaded ({_reason(error)})")


def _damaged(path: Path, what: str) -> CheckpointError:
    """What to say of a file of a checkpoint, and which checkpoint there is in its place."""
    folder = path.parent
    others = [one.folder.name for one in find_checkpoints(folder.parent) if one.folder != folder]
    way_out = f"; delete {folder.name} to go on from {others[-1]}" if others else ""
    return CheckpointError(f"{path}: damaged checkpoint: {what}{way_out}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
