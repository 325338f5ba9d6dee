"""Checkpoints: a folder with weights, training state and the recipe; never half-written."""

import logging
import os
import pickle
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from maskcluster.config import MachineConfig, TrainConfig
from maskcluster.errors import CheckpointError, FormatError, MaskClusterError, RecipeError
from maskcluster.files import hash_file, read_json, sweep, write_json
from maskcluster.model.clip import FOLDER, RANDOM, Clip, load_clip
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.recipe import train_config

KIND = "maskcluster-checkpoint"
VERSION = 1
_PREFIX = "checkpoint-"
_NAME = re.compile(_PREFIX + "([0-9]{8})")
_WEIGHTS = "model.safetensors"
_STATE = "state.pt"
_HEADER = "checkpoint.json"
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
    model: PixelCLIP,
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    *,
    photos: str | None = None,
    seen: Mapping[str, int] | None = None,
    given: Sequence[str] = (),
) -> Checkpoint:
    """Write `run/checkpoint-STEP` whole or not at all; when it is there, the oldest go.

    Args:
        run: folder of the run.
        model: its weights: the whole CLIP model, the teacher, class prompts and the decoder.
        optimizer: its state.
        config: the recipe; keeps `config.checkpoints` of them.
        step: steps done.
        photos: fingerprint of what is trained on, see `MaskedPhotos`.
        seen: counts to go on with.
        given: "clip" and "start", where the run was given them in place of what the recipe says.

    Raises:
        CheckpointError: the disk is full or not writable; older checkpoints are as they were.
    """
    facts = {"photos": photos, "seen": dict(seen or {}), "given": list(given)}
    try:
        return _save(run, model, optimizer, config, step, facts)
    except (OSError, SafetensorError, RuntimeError, MaskClusterError) as error:
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
    model: PixelCLIP,
    optimizer: Optimizer,
    config: TrainConfig,
    step: int,
    facts: Mapping[str, Any],
) -> Checkpoint:
    final = run / f"{_PREFIX}{step:08d}"
    unfinished = _unfinished(run, step)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, unfinished / _WEIGHTS)
    torch.save({"optimizer": optimizer.state_dict()}, unfinished / _STATE)
    files = {}
    for name in (_WEIGHTS, _STATE):
        with (unfinished / name).open("rb") as file:
            os.fsync(file.fileno())
        files[name] = hash_file(unfinished / name)
    header = {"kind": KIND, "version": VERSION, "step": step, "files": files, **facts}
    header |= {"clip": _describe_clip(model), "config": asdict(config)}
    write_json(unfinished / _HEADER, header)
    unfinished.replace(final)
    older = [checkpoint for checkpoint in find_checkpoints(run) if checkpoint.step < step]
    for checkpoint in older[: max(len(older) + 1 - config.checkpoints, 0)]:
        shutil.rmtree(checkpoint.folder)
    return Checkpoint(final, step)


def find_checkpoints(run: Path) -> list[Checkpoint]:
    """Whole checkpoints of a run, oldest first; anything not named as one is ignored."""
    found = [(folder, _NAME.fullmatch(folder.name)) for folder in sorted(run.glob(f"{_PREFIX}*"))]
    return [Checkpoint(folder, int(match[1])) for folder, match in found if match]


def clear_unfinished(run: Path) -> None:
    """Remove what a killed process left half-written. Only while no other writes there."""
    for folder in run.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(folder)
    sweep(run)


def resume(
    checkpoint: Checkpoint,
    model: PixelCLIP,
    optimizer: Optimizer,
    config: TrainConfig,
    *,
    photos: str | None = None,
) -> dict[str, int]:
    """Load weights and optimizer state in place.

    Args:
        checkpoint: what to go on from.
        model: gets the weights.
        optimizer: gets the state.
        config: the recipe, which must be the checkpoint's in all that is learnt.
        photos: fingerprint of what is trained on, which must be the checkpoint's.

    Returns:
        Counts to go on with.

    Raises:
        CheckpointError: the checkpoint is of another recipe or other photographs, or damaged.
    """
    header = _read_header(checkpoint.folder)
    written = _config_of(checkpoint.folder, header)
    if _learnt(written) != _learnt(config):
        raise CheckpointError(
            f"{checkpoint.folder}: trained by another recipe ({_difference(written, config)}); "
            "choose an empty folder or that recipe"
        )
    if None not in (photos, header.get("photos")) and header["photos"] != photos:
        raise CheckpointError(
            f"{checkpoint.folder}: trained on other photographs or masks; choose an empty folder, "
            "or give what it was trained on"
        )
    _set_weights(model, checkpoint.folder, _read_weights(checkpoint.folder, header))
    path = checkpoint.folder / _STATE
    _check_whole(path, header)
    try:
        optimizer.load_state_dict(torch.load(path, weights_only=True)["optimizer"])
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    return dict(header.get("seen", {}))


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
    return replace(
        config,
        data=replace(config.data, workers=0),
        machine=MachineConfig(),
        log_every=1,
        checkpoint_every=1,
        checkpoints=1,
    )


def load_model(folder: Path | str, *, clip: Clip | None = None) -> PixelCLIP:
    """Build the model of a checkpoint and load its weights, on the CPU, for evaluation.

    All weights are in the checkpoint, and nothing is downloaded but a tokenizer that does not come
    with open_clip, as SigLIP's. A CLIP model that is described by a folder (`local-dir:`) needs
    that folder still; a relative one is looked for from the run's folder first.

    Args:
        folder: a checkpoint, or a run (its newest checkpoint is taken).
        clip: the model to load weights into, of a run that was started with one in place of the
            recipe's.

    Raises:
        CheckpointError: not a checkpoint of this version, or damaged.
        RecipeError, DataError: the CLIP model of the recipe cannot be built.
    """
    folder = _newest(Path(folder))
    header = _read_header(folder)
    config = _placed(_config_of(folder, header), folder.parent)
    weights = _read_weights(folder, header)
    clip = _empty_clip(folder, config, header) if clip is None else clip
    start = next((weights[n] for n in ("prompts.tokens", "prompts.rows") if n in weights), None)
    try:
        model = PixelCLIP.from_config(config.model, config.cluster, clip=clip, start=start)
    except ValueError as error:
        raise CheckpointError(
            f"{folder}: of another CLIP model than {config.model.architecture} ({error}); give the "
            "one that it was trained with"
        ) from error
    _set_weights(model, folder, weights)
    return model.eval()


def read_config(folder: Path | str) -> TrainConfig:
    """The recipe that a run or a checkpoint was trained by.

    A folder of a CLIP model that is relative to the run's is made absolute: it moves with the run.

    Raises:
        CheckpointError: not a checkpoint of this version, or damaged.
    """
    folder = _newest(Path(folder))
    return _placed(_config_of(folder, _read_header(folder)), folder.parent)


def is_run(folder: Path | str) -> bool:
    """Whether a folder is a checkpoint, or a run that has one."""
    return (_newest(Path(folder)) / _HEADER).is_file()


def starts_as_its_recipe_says(folder: Path | str) -> bool:
    """Whether the class prompts of a run started where its recipe says, and at no given place.

    Raises:
        CheckpointError: not a checkpoint of this version, or damaged.
    """
    return "start" not in _read_header(_newest(Path(folder))).get("given", ())


def _newest(folder: Path) -> Path:
    """A checkpoint itself, or the newest one of a run."""
    inside = find_checkpoints(folder)
    return inside[-1].folder if inside else folder


def _describe_clip(model: PixelCLIP) -> dict[str, Any]:
    """What the weights themselves do not say of a CLIP model."""
    return {
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "quick_gelu": _has_quick_gelu(model.clip),
    }


def _has_quick_gelu(model: nn.Module) -> bool:
    return any(type(part).__name__ == "QuickGELU" for part in model.modules())


def _empty_clip(folder: Path, config: TrainConfig, header: Mapping[str, Any]) -> Clip:
    """The CLIP model of a recipe, its weights still to be loaded."""
    architecture, told = config.model.architecture, header.get("clip")
    if not isinstance(told, dict) or not {"mean", "std", "quick_gelu"} <= told.keys():
        raise CheckpointError(f"{folder / _HEADER}: damaged checkpoint: no colours under 'clip'")
    quick = f"{architecture}-quickgelu"
    if told["quick_gelu"] and ":" not in architecture and _is_known(quick):
        architecture = quick  # its weights ask for it, where the recipe's name does not
    with _without_warning():
        clip = load_clip(architecture, RANDOM)
    if _has_quick_gelu(clip.model) != told["quick_gelu"]:
        raise CheckpointError(
            f"{folder}: trained with QuickGELU in {architecture}, which open_clip builds without; "
            "give the CLIP model that it was trained with"
        )
    return replace(clip, mean=tuple(told["mean"]), std=tuple(told["std"]))


@contextmanager
def _without_warning() -> Iterator[None]:
    """Leave out open_clip's warning that weights are random, where others are loaded next."""
    root = logging.getLogger()  # which open_clip logs to
    root.addFilter(_is_not_of_random_weights)
    try:
        yield
    finally:
        root.removeFilter(_is_not_of_random_weights)


def _is_not_of_random_weights(record: logging.LogRecord) -> bool:
    said = record.getMessage()
    return "initialized randomly" not in said and "no CLIP weights found" not in said


def _is_known(architecture: str) -> bool:
    import open_clip  # takes seconds

    return architecture in open_clip.list_models()


def _config_of(folder: Path, header: Mapping[str, Any]) -> TrainConfig:
    try:
        return train_config(header["config"])
    except RecipeError as error:
        raise CheckpointError(f"{folder}: of another version of maskcluster: {error}") from error


def _placed(config: TrainConfig, run: Path) -> TrainConfig:
    """A recipe whose CLIP model's folder, where it lies relative to the run, is found from here."""
    name = config.model.architecture
    beside = run.absolute() / name.removeprefix(FOLDER)
    if not name.startswith(FOLDER) or not beside.is_dir():
        return config
    return replace(config, model=replace(config.model, architecture=f"{FOLDER}{beside}"))


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / _HEADER
    if not path.exists():
        raise CheckpointError(f"{folder}: not a maskcluster checkpoint, and no run that has one")
    try:
        header = read_json(path)
    except FormatError as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {_reason(error)}") from error
    found = (header.get("kind"), header.get("version")) if isinstance(header, dict) else ("?", 0)
    if found != (KIND, VERSION):
        raise CheckpointError(
            f"{path}: is {found[0]} version {found[1]}, this reads {KIND} version {VERSION}"
        )
    if not isinstance(header.get("config"), dict):
        raise CheckpointError(f"{path}: damaged checkpoint: no recipe under 'config'")
    return header  # type: ignore[no-any-return]  # a table, as checked


def _read_weights(folder: Path, header: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    _check_whole(path, header)
    try:
        return load_file(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _set_weights(model: PixelCLIP, folder: Path, weights: Mapping[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except _UNREADABLE as error:
        raise _unreadable(folder / _WEIGHTS, error) from error


def _check_whole(path: Path, header: Mapping[str, Any]) -> None:
    """Compare a file with its checksum in the header."""
    if not path.is_file():
        raise _damaged(path, "no such file")
    if hash_file(path) != header.get("files", {}).get(path.name):
        raise _damaged(path, f"its SHA-256 is not that of {_HEADER}")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return _damaged(path, f"cannot be loaded ({_reason(error)})")


def _damaged(path: Path, what: str) -> CheckpointError:
    """What to say of a file of a checkpoint, and which checkpoint there is in its place."""
    folder = path.parent
    others = [one.folder.name for one in find_checkpoints(folder.parent) if one.folder != folder]
    way_out = f"; delete {folder.name} to go on from {others[-1]}" if others else ""
    return CheckpointError(f"{path}: damaged checkpoint: {what}{way_out}")
