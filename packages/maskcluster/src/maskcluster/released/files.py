"""Read the files of the released checkpoints without running code in them; write files whole."""

import logging
import pickle
import shutil
import struct
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from maskcluster.errors import CheckpointError
from maskcluster.files import PART

log = logging.getLogger(__name__)

OURS = "maskcluster"
"""Our addition to a released file: what its tensors cannot tell."""

_DAMAGED = (
    pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError, EOFError,
    LookupError, MemoryError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What PyTorch's readers raise for a file that is damaged or none of theirs."""


def read_file(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Read a file of the release, which detectron2 wrote.

    Args:
        path: a PyTorch file that holds tensors by name, or such a table as its `model`.

    Returns:
        Tensors by name, and what our own writer has added, if it was it.

    Raises:
        CheckpointError: no such file, or it cannot be read.
    """
    loaded = _read_pickle(path)
    tensors = loaded.get("model", loaded)
    if (
        not isinstance(tensors, Mapping)
        or not tensors
        or not all(isinstance(v, Tensor) for v in tensors.values())
    ):
        raise CheckpointError(f"{path}: holds no table of tensors, and none under 'model'")
    told = loaded.get(OURS, {})
    if not isinstance(told, Mapping):
        raise CheckpointError(f"{path}: {OURS} must be a table, is a {type(told).__name__}")
    return {str(name): value for name, value in tensors.items()}, told


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - 3
    return ", ".join(ordered[:3]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Give a temporary name; what is written there, a file or a folder, becomes `path`.

    Nothing is left of what could not be written.

    Raises:
        CheckpointError: `path` exists, or it cannot be written.
    """
    if path.exists():
        raise CheckpointError(f"{path}: exists; choose another name")
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be written ({_reason(error)})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    return textwrap.shorten(str(error).partition("\n")[0], 200)


class _Inert:
    """Stands for an object of a class that is not loaded; takes any state and keeps none."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        """Ignore all arguments."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


def _read_pickle(path: Path) -> dict[Any, Any]:
    """Read a PyTorch file without running code of it.

    PyTorch's restricted unpickler reads tensors and plain containers. Classes that it refuses, such
    as what a trainer keeps of its hooks, are read as empty stand-ins, and a warning says so.
    """
    try:
        # of the format before PyTorch 1.6, no zip archive, nothing is known; foreign classes fail
        foreign = get_unsafe_globals_in_checkpoint(str(path)) if is_zipfile(path) else []
        if foreign:
            log.warning("%s: objects of %s are not read", path, some(foreign))
        with safe_globals([(_Inert, name) for name in foreign]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickles, which the error says
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGED as error:
        said = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        reason = textwrap.shorten(said.strip().partition("\n")[0], 200)
        raise CheckpointError(
            f"{path}: not a PyTorch file that can be read ({reason}); give a released .pth file, "
            "an open_clip folder, a run or a checkpoint of one"
        ) from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a table of tensors")
    return loaded
