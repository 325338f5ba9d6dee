"""Random numbers that depend on what they are for, and on nothing else."""

import torch
from torch import Tensor

from groupvit.ops.uniform.reference import uniform_reference

__all__ = ["uniform"]


def uniform(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:
    """Give numbers in (0, 1) that depend on (seed, stream, sample, place) alone.

    Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) with the seed
    as key; element (b, p) is word p % 4 of

        counter = (p // 4, stream, low and high half of first + b)

    and its 23 highest bits k become (k + 1/2) / 2^23. The same numbers come out on every device,
    and for a part of a batch the numbers that the whole batch has there: noise does not change with
    the number of processes, with recomputation, or with how a batch is cut.

    Args:
        noise: (2,) int64, the seed and the number `first` of the first sample.
        stream: which use of randomness this is, in [0, 2^32).
        batch: samples B, below 2^16.
        places: numbers a sample P, below 2^34.

    Returns:
        (B, P) float32. No gradient.

    Raises:
        ValueError: an argument is out of range.
    """
    numbers: Tensor = _uniform(noise, stream, batch, places)
    return numbers


@torch.library.custom_op("groupvit::uniform", mutates_args=(), device_types="cuda")
def _uniform(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:
    from groupvit.ops.uniform.kernel import uniform_triton

    _check(noise, stream, batch, places)
    return uniform_triton(noise, stream, batch, places)


@_uniform.register_kernel("cpu")
def _on_cpu(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:
    _check(noise, stream, batch, places)
    return uniform_reference(noise, stream, batch, places)


@_uniform.register_fake
def _shape(noise: Tensor, stream: int, batch: int, places: int) -> Tensor:  # noqa: ARG001  # schema
    return noise.new_empty((batch, places), dtype=torch.float32)


def _check(noise: Tensor, stream: int, batch: int, places: int) -> None:
    if noise.shape != (2,) or noise.dtype != torch.int64:
        raise ValueError(f"noise must be (2,) int64, got {tuple(noise.shape)} {noise.dtype}")
    if not 0 <= stream < 2**32 or not 0 <= batch < 2**16 or not 0 <= places < 2**34:
        raise ValueError(f"stream, batch or places out of range: {stream}, {batch}, {places}")
