"""Read the files of the released checkpoints without running code in them."""

import json
import logging
import pickle
import re
import struct
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from groupvit.errors import CheckpointError
from groupvit.released.layouts import some

log = logging.getLogger(__name__)

CONFIG = "config.json"
"""What Hugging Face's folders tell about a model beside its tensors."""

OURS = "groupvit_config"
"""Our addition to NVlabs' file: what its tensors cannot tell."""

SCALE = "multi_label_logit_scale"
"""Our addition to `config.json`; Hugging Face's models have no such tensor and pass over it."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of a folder that may hold its tensors, whole or in shards with an index beside them."""

_IGNORED = re.compile(r".*\.position_ids")  # a constant in Hugging Face's files of 2022
_DAMAGED = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError,
    LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What PyTorch's readers raise for a file that is damaged or none of theirs."""


def read_file(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read NVlabs' file.

    Args:
        path: a PyTorch file that holds tensors by name, or such a table as its `model`.

    Returns:
        Tensors by name, and our configuration if the file has one.

    Raises:
        CheckpointError: no such file, or it cannot be read.
    """
    loaded = _read_pickle(path)
    return _tensors(loaded.get("model", loaded), path), _table(loaded.get(OURS, {}), path, OURS)


def read_folder(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read Hugging Face's folder.

    Args:
        path: a folder of `config.json` and the weights, in one of `WEIGHTS` or in shards of it.

    Returns:
        Tensors by name, the multi-label scale among them if `config.json` has it, and the content
        of `config.json`.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    config = _read_json(path / CONFIG)
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(path):
        if file.suffix == ".safetensors":
            tensors |= _tensors(_read_safetensors(file), file)
        else:
            tensors |= _tensors(_read_pickle(file), file)
    if config.get(SCALE) is not None:
        value = config[SCALE]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{path / CONFIG}: {SCALE} must be a number, got {value!r}")
        tensors[SCALE] = torch.tensor(float(value))
    return tensors, config


def _weight_files(path: Path) -> list[Path]:
    """The files that hold the tensors of a folder, in order."""
    for name in WEIGHTS:
        if (path / name).exists():
            return [path / name]
        index = path / f"{name}.index.json"
        if index.exists():
            places = _table(_read_json(index).get("weight_map"), index, "weight_map")
            shards = sorted({str(place) for place in places.values()})
            if wrong := [shard for shard in shards if Path(shard).name != shard]:
                raise CheckpointError(f"{index}: names files outside of its folder: {some(wrong)}")
            return [path / shard for shard in shards]
    raise CheckpointError(f"{path}: has no weights: no such file as {' or '.join(WEIGHTS)}")


def _tensors(loaded: object, path: Path) -> dict[str, Tensor]:
    table = _table(loaded, path, "model")
    if not table or not all(isinstance(value, Tensor) for value in table.values()):
        raise CheckpointError(f"{path}: holds no table of tensors, and none under 'model'")
    return {name: value for name, value in table.items() if not _IGNORED.fullmatch(name)}


def _table(value: object, path: Path, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{path}: {what} must be a table, is a {type(value).__name__}")
    return value


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return _table(json.loads(path.read_text(encoding="utf-8")), path, "its content")
    except OSError as error:
        raise _unopened(path, error) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise _unopened(path, error) from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a safetensors file that can be read ({error})"
        ) from error


def _unopened(path: Path, error: OSError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path}: no such file")
    return CheckpointError(f"{path}: cannot be read ({error.strerror or error})")


class _Inert:
    """Stands for an object of a class that is not loaded; takes any state and keeps none."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        """Ignore all arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


_DEFAULTDICT = "collections.defaultdict"


def _empty_dict(*_: object) -> dict[Any, Any]:
    """Stands for a defaultdict, which is filled after it is made."""
    return {}


def _read_pickle(path: Path) -> dict[Any, Any]:
    """Read a PyTorch file without running code of it.

    PyTorch's restricted unpickler reads tensors and plain containers. Classes that it refuses, such
    as the configuration objects of the released training checkpoints, are read as empty stand-ins.
    """
    try:
        # of the format before PyTorch 1.6, no zip archive, nothing is known; foreign classes fail
        foreign = get_unsafe_globals_in_checkpoint(str(path)) if is_zipfile(path) else []
        if foreign:
            log.warning("%s: objects of %s are not read", path, some(foreign))
        stands_for: dict[str, Any] = dict.fromkeys(foreign, _Inert) | {_DEFAULTDICT: _empty_dict}
        with safe_globals([(stand_in, name) for name, stand_in in stands_for.items()]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unopened(path, error) from error
    except _DAMAGED as error:
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = textwrap.shorten(reason.strip().partition("\n")[0], 200)
        raise CheckpointError(
            f"{path}: not a PyTorch file that can be read ({reason}); give a released .pth file, a "
            "Hugging Face folder, a run or a checkpoint of one"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded
