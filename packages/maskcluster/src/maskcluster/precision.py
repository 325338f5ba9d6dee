"""The number format in which the towers and the decoder compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["auto", "float32", "tf32", "bfloat16"]

_MATRIX_UNITS = ("amx_bf16", "avx512_bf16")
"""Instructions of x86 processors that multiply bfloat16 matrices."""


def check_precision(precision: Precision) -> None:
    """Refuse what is no precision.

    Raises:
        ValueError: it is not one of auto, float32, tf32 and bfloat16.
    """
    if precision not in ("auto", "float32", "tf32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32, tf32 or bfloat16, got {precision!r}")


def wants_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether towers and decoder compute under bfloat16 autocast.

    Args:
        precision: `auto` is bfloat16 where the device multiplies bfloat16 matrices in hardware:
            NVIDIA GPUs since 2020 (compute capability 8), CPUs with AMX or AVX512-BF16.
        device: where the model is.

    Raises:
        ValueError: another precision.
    """
    check_precision(precision)
    if precision == "auto":
        return _has_bfloat16(device)
    return precision == "bfloat16"


def wants_tf32(precision: Precision) -> bool:
    """Whether float32 products may be rounded to TF32, as when the published model was trained.

    It only changes what GPUs compute; see `torch.set_float32_matmul_precision("high")`.

    Raises:
        ValueError: another precision.
    """
    check_precision(precision)
    return precision == "tf32"


@contextmanager
def float32_products(precision: Precision) -> Iterator[None]:
    """Compute products of float32 on GPUs as `precision` says, as long as the context is open.

    With `tf32` matrix products and convolutions are rounded to it, otherwise neither is (PyTorch's
    own default rounds convolutions).
    """
    rounds = wants_tf32(precision)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if rounds else "highest")
    torch.backends.cudnn.allow_tf32 = rounds
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in every version of PyTorch
    if device.type != "cpu" or ask is None:
        return False
    found = ask()
    return any(found.get(unit, False) for unit in _MATRIX_UNITS)


def wide(values: Tensor) -> Tensor:
    """A tensor in the format of sums and losses: float32, or float64 where it is that already."""
    return values.to(wide_type(values.dtype))


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """Format of sums over values of a type: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)
