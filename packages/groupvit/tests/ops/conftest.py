"""How near a kernel has to be to its reference."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

ROUGH = 5e-3 if torch.cuda.is_available() else 1e-2
"""rms(error) / rms(reference) in bfloat16; Triton's interpreter truncates where GPUs round."""

Near = Callable[[Tensor, Tensor, torch.dtype], None]


@pytest.fixture
def near() -> Near:
    """Compare with a reference computed from the same inputs in float32 or float64."""

    def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
        assert got.shape == want.shape
        got, want = got.double().cpu(), want.double().cpu()
        rms = want.square().mean().sqrt()
        error = (got - want).abs()
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert bool(got.isfinite().all())
        assert bool((error <= tolerance * (want.abs() + rms) + 1e-30).all()), error.max() / rms
        if dtype != torch.float32 and rms > 0:
            assert float(error.square().mean().sqrt() / rms) < ROUGH

    return assert_near
