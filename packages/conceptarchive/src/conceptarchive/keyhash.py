"""64-bit hashes of keys: one number for a key, whether it is hashed alone or among millions."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from numba import njit

HashArray = npt.NDArray[np.uint64]

CHUNK = 65536  # keys turned into Arrow at a time
BASIS, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of FNV-1a
MIX_1, MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3
HALF = np.uint64(33)


@runtime_checkable
class ArrowTexts(Protocol):
    """Texts that are in Arrow already, so that hashing makes no Python strings."""

    def chunks(self) -> Iterator[pa.Array]:
        """Give all texts in order, as large_string arrays without nulls."""
        ...


def hash_key(key: str) -> int:
    """Hash one key; the same number as `hash_keys` gives it.

    FNV-1a of its UTF-8 bytes, then MurmurHash3's finalizer, which spreads the last bytes over all
    bits. Part of the archive's file format: it never changes under one version of it. Not a
    cryptographic hash; whoever looks a key up by it compares the keys as well.

    Args:
        key: any text, also "".

    Returns:
        A number in [0, 2^64).
    """
    return int(_hash_bytes(np.frombuffer(key.encode(), np.uint8)))


def hash_keys(keys: Sequence[str]) -> HashArray:
    """Hash many keys, a chunk at a time; see `hash_key`.

    Args:
        keys: n texts; a lazy column (`ArrowTexts`) is never turned into Python strings.

    Returns:
        (n,) uint64, in the order of the keys.
    """
    out = np.empty(len(keys), np.uint64)  # (n,)
    start = 0
    for chunk in _arrow_chunks(keys):
        out[start : start + len(chunk)] = hash_texts(chunk)
        start += len(chunk)
    return out


def hash_texts(texts: pa.Array) -> HashArray:
    """(n,) hashes of a large_string array without nulls."""
    if len(texts) == 0:
        return np.empty(0, np.uint64)
    _, ends, data = texts.buffers()
    ends = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]  # (n + 1,)
    letters = np.frombuffer(data if data is not None else b"", np.uint8)
    hashes: HashArray = _hash_all(letters, ends)
    return hashes


def find_repeated(keys: Sequence[str]) -> tuple[str, int, int] | None:
    """Find a key that is there twice, with 8 bytes of memory a key.

    Hashes are sorted; keys are compared only where hashes are equal, so a collision is no
    repetition.

    Returns:
        The key whose second row comes first, with its two rows; or None.
    """
    hashes = hash_keys(keys)
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twice):
        return None
    seen: dict[str, int] = {}
    start = 0
    for chunk in _arrow_chunks(keys):
        for at in np.flatnonzero(np.isin(hash_texts(chunk), twice)).tolist():
            key = chunk[at].as_py()
            if key in seen:
                return key, seen[key], start + at
            seen[key] = start + at
        start += len(chunk)
    return None


def _arrow_chunks(keys: Sequence[str]) -> Iterator[pa.Array]:
    """All keys in Arrow, in order."""
    if isinstance(keys, ArrowTexts):
        yield from keys.chunks()
        return
    for start in range(0, len(keys), CHUNK):
        yield pa.array(keys[start : start + CHUNK], pa.large_string())


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _hash_bytes(letters: npt.NDArray[np.uint8]) -> Any:
    """Hash one run of bytes."""
    value = BASIS
    for at in range(len(letters)):
        value = (value ^ np.uint64(letters[at])) * PRIME
    value = (value ^ (value >> HALF)) * MIX_1
    value = (value ^ (value >> HALF)) * MIX_2
    return value ^ (value >> HALF)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _hash_all(letters: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> Any:
    """Hash runs of bytes that lie one after the other."""
    out = np.empty(len(ends) - 1, np.uint64)
    for row in range(len(out)):
        out[row] = _hash_bytes(letters[ends[row] : ends[row + 1]])
    return out
