"""The mask kernels compile for sm_90 without a GPU, fit its memory and keep to registers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOPPER = HERE.parents[3] / "tests/hopper.py"  # of the repository
SHARED_LIMIT = 232_448  # bytes of shared memory of a block on sm_90
REGISTERS = 128  # of a thread of the loss: leaves room for 16 of its programs, of a warp each
LINE = re.compile(r"(\w+) shared=(\d+) wgmma=(\w+) reg=(\d+) stack=(\d+)")


@pytest.mark.kernel
@pytest.mark.slow
def test_mask_kernels_compile_and_keep_to_registers(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path)  # a cached build hides the compiler
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(HOPPER), f"{HERE / 'launches_masks.py'}:run"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = LINE.findall(done.stdout)
    loss = ["_unite", "_unite", "_losses"]
    assert [name for name, *_ in built] == ["_mask_weights", "_pool"] * 3 + loss * 4
    assert all(int(shared) <= SHARED_LIMIT for _, shared, *_ in built), built
    assert all(int(stack) == 0 for *_, stack in built), built
    assert all(wgmma == "True" for name, _, wgmma, *_ in built if name == "_mask_weights"), built
    assert all(int(used) <= REGISTERS for name, _, _, used, _ in built if name == "_losses"), built
