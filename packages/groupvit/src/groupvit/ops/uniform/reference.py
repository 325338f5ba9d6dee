"""Philox4x32-10 in NumPy."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.unsignedinteger]
"""32-bit words, in 64 bits so that products fit."""

ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Turn counters into random words (Salmon et al., 2011, sec. 3.3).

    Args:
        counter: four words, of shapes that broadcast.
        key: two words.

    Returns:
        Four arrays of words.
    """
    c0, c1, c2, c3 = counter
    for i in range(ROUNDS):
        k0, k1 = (np.uint64((key[j] + i * _WEYL[j]) & 0xFFFFFFFF) for j in (0, 1))
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (second >> _HALF) ^ c1 ^ k0, second & _LOW
        c2, c3 = (first >> _HALF) ^ c3 ^ k1, first & _LOW
    return c0, c1, c2, c3


def uniform_reference(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:
    """Same contract as `groupvit.ops.uniform`."""
    seed, first = (int(value) & 0xFFFFFFFFFFFFFFFF for value in noise.tolist())
    sample = np.uint64(first) + np.arange(batch, dtype=np.uint64)[:, None]  # (B, 1)
    place = np.arange(-(-places // 4), dtype=np.uint64)[None]  # (1, P / 4)
    one = np.full((1, 1), stream, dtype=np.uint64)
    counter = (place, one, sample & _LOW, sample >> _HALF)
    words = np.empty((*np.broadcast_shapes(sample.shape, place.shape), 4), np.uint32)
    for i, word in enumerate(philox(counter, (seed & 0xFFFFFFFF, seed >> 32))):
        words[..., i] = word
    bits = words.reshape(batch, place.size * 4)[:, :places] >> np.uint32(9)  # (B, P), 23 bits
    return torch.from_numpy((bits.astype(np.float32) + np.float32(0.5)) * np.float32(2**-23))
