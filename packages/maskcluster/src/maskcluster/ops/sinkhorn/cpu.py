"""Balanced assignment on a CPU, with the exponentials computed once: numba, in float32.

With E_ni = exp(z_ni - max_i z_ni) and u_i = exp(a_i), an iteration is two products:

    s_n = sum_i E_ni u_i           u_i = 1 / sum_n E_ni / s_n

that are taken in one pass over E, row by row. The kernels have no threads of their own, so that
results do not depend on their number.

Float32 has no numbers below 2^-126, where `_powers` ends. That changes no bias by more than
rounding does while all u are within 2^40 of each other: with the smallest u at 1 every s_n is at
least 1, so a sum over n is wrong by 2^-126 M at most, while the sums, which weighted with u add up
to M, cannot all be below M / (K 2^40), nor one below M / (K 2^80). Beyond that the logarithmic form
of `reference.py` takes over: a cluster is then out of reach of all masks.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from maskcluster.ops.sinkhorn.reference import balanced_assign_reference

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

WIDEST = 2.0**40  # largest of u over the smallest
BLOCK = 256  # rows whose sum is taken in float32


def balanced_assign_cpu(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Same contract as `maskcluster.ops.sinkhorn.balanced_assign` of float32; checked before."""
    z = logits.contiguous().numpy()  # (M, K)
    bias = _matrix_form(z, iterations)
    if bias is None:
        return balanced_assign_reference(logits, iterations)
    cluster = np.empty(len(z), dtype=np.int64)
    _argmax_rows(z, bias, cluster)
    return torch.from_numpy(cluster), torch.from_numpy(bias)


def _matrix_form(z: FloatArray, iterations: int) -> FloatArray | None:
    """(K,) bias, or None if the scales of clusters are too far apart for it."""
    scale = np.ones(z.shape[1], dtype=np.float32)  # (K,) u
    if iterations == 0 or len(z) == 0:
        return np.zeros_like(scale)
    powers = np.empty_like(z)  # (M, K) E
    _fill_powers(z, powers)
    share = np.empty(z.shape[1], dtype=np.float64)  # (K,) sum_n E_ni / s_n
    for _ in range(iterations):
        _sum_shares(powers, scale, share)
        largest = share.max()
        if not share.min() * WIDEST >= largest:
            return None
        scale = (largest / share).astype(np.float32)
    bias: FloatArray = np.log(scale)
    return bias


def _kernel(function: Function) -> Function:
    """Compile at the first call; later processes read the result from a cache.

    Sums may be taken in any order, which is what lets a processor take many terms at a time.
    """
    flags = {"reassoc", "contract", "nsz", "arcp", "nnan"}
    compiled = njit(cache=True, nogil=True, error_model="numpy", fastmath=flags)(function)
    return cast("Function", compiled)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _float_of(_: Any, bits: Any) -> Any:  # noqa: ARG001  # numba reads the names
    """Take the bits of an int32 as those of a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def _bits_of(_: Any, value: Any) -> Any:  # noqa: ARG001  # numba reads the names
    """Take the bits of a float32 as those of an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(signature.return_type))

    return types.int32(types.float32), generate


@_kernel
def _ordered(bits: np.int32) -> np.int32:
    """Turn the bits of a float32 into an int32 in the same order, and back.

    The largest of integers is found many at a time, that of floats one by one.
    """
    flipped: np.int32 = bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))
    return flipped


@_kernel
def _power(x: np.float32) -> np.float32:
    """exp(x) for x <= 0, at least 2^-126: 2^i exp(f) with |f| <= log(2) / 2.

    Seven terms of the series are wrong by less than f^8 / 8! = 6e-9.
    """
    binary = x * np.float32(1.4426950408889634)  # of log2(e)
    binary = binary if binary > np.float32(-126) else np.float32(-126)
    whole = np.int32(binary - np.float32(0.5))  # rounds to the nearest, as binary <= 0
    f = (binary - np.float32(whole)) * np.float32(0.6931471805599453)
    series = np.float32(1 / 5040)
    series = series * f + np.float32(1 / 720)
    series = series * f + np.float32(1 / 120)
    series = series * f + np.float32(1 / 24)
    series = series * f + np.float32(1 / 6)
    series = series * f + np.float32(1 / 2)
    series = series * f + np.float32(1)
    series = series * f + np.float32(1)
    power: np.float32 = series * _float_of((whole + np.int32(127)) << np.int32(23))
    return power


@_kernel
def _fill_powers(z: FloatArray, powers: FloatArray) -> None:
    """Fill `powers` with E = exp(z - max of the row of z)."""
    masks, clusters = z.shape
    for n in range(masks):
        row, filled = z[n], powers[n]
        peak = np.int32(-(2**31))
        for i in range(clusters):
            peak = max(peak, _ordered(_bits_of(row[i])))
        highest = _float_of(_ordered(peak))
        for i in range(clusters):
            filled[i] = _power(row[i] - highest)


@_kernel
def _sum_shares(powers: FloatArray, scale: FloatArray, share: npt.NDArray[np.float64]) -> None:
    """Fill `share` with sum_n E_ni / s_n."""
    masks, clusters = powers.shape
    block = np.empty(clusters, dtype=np.float32)
    share[:] = 0
    for start in range(0, masks, BLOCK):
        block[:] = 0
        for n in range(start, min(start + BLOCK, masks)):
            row = powers[n]
            total = np.float32(0)
            for i in range(clusters):
                total += row[i] * scale[i]
            weight = np.float32(1) / total
            for i in range(clusters):
                block[i] += weight * row[i]
        for i in range(clusters):
            share[i] += block[i]


@_kernel
def _argmax_rows(z: FloatArray, bias: FloatArray, cluster: IntArray) -> None:
    """Fill `cluster` with the first largest of each row of z + bias."""
    masks, clusters = z.shape
    biased = np.empty(clusters, dtype=np.int32)  # in the order of z + bias
    for n in range(masks):
        row = z[n]
        peak = np.int32(-(2**31))
        for i in range(clusters):
            biased[i] = _ordered(_bits_of(row[i] + bias[i]))  # never -0, as no bias is
            peak = max(peak, biased[i])
        best = np.int32(clusters)
        for i in range(clusters):
            place = np.int32(i) if biased[i] == peak else np.int32(clusters)
            best = min(best, place)
        cluster[n] = best
