"""Random streams by name."""

import hashlib
from collections.abc import Callable

import numpy as np

Draws = Callable[[str], np.random.Generator]
"""Streams of one view, by what is drawn from each."""


def stream(*parts: object) -> np.random.Generator:
    """A random stream of its own for every name, e.g. `stream(seed, epoch, "view", key, "crop")`.

    Adding a draw to one changes nothing of another.
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
