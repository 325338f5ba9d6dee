"""The kernels compile for sm_90 without a GPU, and keep to their registers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOPPER = HERE.parents[3] / "tests/hopper.py"  # of the repository
LINE = re.compile(r"(\w+) shared=(\d+) wgmma=(\w+) reg=(\d+) stack=(\d+)")
REGISTERS = 128  # of a thread: leaves room for 16 programs of one warp on each scheduler's quarter


@pytest.mark.kernel
@pytest.mark.slow
def test_all_kernels_compile_and_keep_to_registers(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path)
    }  # a cached build hides the compiler
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(HOPPER), f"{HERE / 'launches.py'}:run"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = LINE.findall(done.stdout)
    assert [name for name, *_ in built] == ["_resize_argmax_kernel"] * 9 + [
        "_merge_argmax_kernel"
    ] * 3
    assert all(int(registers) <= REGISTERS for *_, registers, _ in built), built
    assert all(int(stack) == 0 for *_, stack in built), built
