"""Random streams by name."""

import hashlib

import numpy as np


def stream(*parts: object) -> np.random.Generator:
    """A random stream of its own for every name, e.g. `stream(seed, epoch, "texts", key)`."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
