"""The traps themselves: they would spring, were a reader to fall for them."""

import contextlib
import io
import mmap
import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from PIL import Image

LittleMemory = Callable[..., AbstractContextManager[None]]


def test_a_pickle_that_is_read_without_care_runs_code(trap: Any) -> None:
    pickle.loads(pickle.dumps(trap))
    assert trap.sprung


def test_so_does_a_pytorch_file(trap: Any) -> None:
    file = io.BytesIO()
    torch.save({"model": trap}, file)
    file.seek(0)
    torch.load(file, weights_only=False)
    assert trap.sprung


def test_pillow_runs_a_program_for_postscript(
    ghostscript: Any, hostile_images: Mapping[str, bytes]
) -> None:
    file = io.BytesIO(hostile_images["postscript"])
    with contextlib.suppress(OSError), Image.open(file) as image:  # the program draws nothing
        image.load()
    assert ghostscript.sprung


def test_the_limit_of_memory_holds(little_memory: LittleMemory) -> None:
    # anew, for the heap may still have as much of what other tests gave back
    with little_memory(), pytest.raises(OSError, match="Cannot allocate memory"):
        mmap.mmap(-1, 400 << 20)
