"""Compile the kernels that a call launches for sm_90, on a machine without a GPU.

    python tests/hopper.py FILE:FUNCTION

FUNCTION runs launchers on CPU tensors. Each launch is compiled with its real arguments in place of
being run; a line a kernel says what came out: name, bytes of shared memory, whether it has wgmma,
registers and bytes of stack.
"""

import contextlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_device_capability(self, *_: Any) -> tuple[int, int]:
        return 9, 0


def compile_only(self: Any, grid: Any) -> Any:
    def launch(*args: Any, **kwargs: Any) -> None:
        built = self.run(*args, grid=grid, warmup=True, **kwargs)
        print(self.fn.__name__, describe(built))

    return launch


def describe(built: Any) -> str:
    tool = next(Path(triton.__file__).parent.rglob("bin/cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", usage)[0]
    ptx = built.asm["ptx"]
    return f"shared={built.metadata.shared} wgmma={'wgmma' in ptx} reg={registers} stack={stack}"


def main(target: str) -> None:
    path, _, name = target.partition(":")
    spec = importlib.util.spec_from_file_location("target", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    driver.set_active(Hopper())
    JITFunction.__getitem__ = compile_only
    with contextlib.suppress(KeyboardInterrupt):
        getattr(module, name)()


if __name__ == "__main__":
    main(sys.argv[1])
