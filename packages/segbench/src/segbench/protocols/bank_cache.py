"""Text banks kept on disk: thousands of prompts are encoded once a model, not once a run."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segbench.errors import FormatError, UsageError
from segbench.files import write_atomically


def cached_bank(
    folder: Path,
    fingerprint: str | None,
    content: Mapping[str, object],
    build: Callable[[], Tensor],
) -> Tensor:
    """A text bank from `folder`, or built and kept there.

    Args:
        folder: of `bank-SHA256.npy` files; made if need be.
        fingerprint: of the model's weights.
        content: what the bank was made of beside the model, as JSON.
        build: makes it, (Q, D) float32.

    Raises:
        UsageError: the model has no fingerprint, by which banks are told apart.
        FormatError: a file is damaged.
    """
    if not fingerprint:
        raise UsageError(
            "text banks are kept by a model's fingerprint, which this one lacks; keep none"
        )
    text = json.dumps({"model": fingerprint, **content}, sort_keys=True)
    path = folder / f"bank-{hashlib.sha256(text.encode()).hexdigest()}.npy"
    if path.exists():
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise FormatError(f"{path}: damaged text bank ({error}); delete it") from error
    bank = build().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    memory = io.BytesIO()
    np.save(memory, bank.numpy())
    write_atomically(path, memory.getvalue())
    return bank
