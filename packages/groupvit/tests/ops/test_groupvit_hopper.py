"""Every kernel compiles for sm_90 without a GPU, fits its memory and uses its tensor cores."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOPPER = HERE.parents[3] / "tests/hopper.py"  # of the repository
SHARED_LIMIT = 232_448  # bytes of shared memory of a block on sm_90
LINE = re.compile(r"(\w+) shared=(\d+) wgmma=(\w+) reg=(\d+) stack=(\d+)")
SPILLED, KEPT = 600, 48
"""Bytes of stack that a float32 kernel may take, whose products are three each, and that a bfloat16
kernel may: those are the ones that training uses."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, ...]]:
    """Name, shared memory, wgmma, registers and stack of every launch."""
    cache = tmp_path_factory.mktemp("cache")  # a cached build would hide the compiler
    environment = os.environ | {"TRITON_CACHE_DIR": str(cache), "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(HOPPER), f"{HERE / 'launches.py'}:run"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return LINE.findall(done.stdout)


@pytest.mark.kernel
@pytest.mark.slow
def test_all_kernels_compile_and_fit(built: list[tuple[str, ...]]) -> None:
    assert len(built) == 2 + 2 * 3 * 2 + 3
    assert all(int(shared) <= SHARED_LIMIT for _, shared, *_ in built), built
    assert all(int(stack) <= SPILLED for *_, stack in built), built


@pytest.mark.kernel
@pytest.mark.slow
def test_products_use_the_tensor_cores_and_bfloat16_kernels_keep_to_registers(
    built: list[tuple[str, ...]],
) -> None:
    products = built[2:]  # after the noise and the decoder; then six in float32
    assert all(wgmma == "True" for _, _, wgmma, *_ in products), built
    assert all(int(stack) <= KEPT for *_, stack in products[6:]), built
