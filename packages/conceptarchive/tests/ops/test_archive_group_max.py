import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conceptarchive.search.ops.group_max import GROUP, group_max
from conceptarchive.search.ops.group_max.reference import group_max as reference

triton = pytest.importorskip("triton")

SHAPES = [(1, 1, 1), (3, 64, 16), (130, 257, 70), (128, 512, 64), (7, 1000, 512)]
SHARED_LIMIT = 232_448  # bytes of shared memory of a block on sm_90

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from conceptarchive.search.ops.group_max import kernel as k
fn = k.group_max_kernel
consts = {"BA": k.ANCHORS, "BP": k.POOL, "BD": k.DEPTH, "G": k.GROUP, "STRIPES": k.STRIPE}
types = {"A": "*TYPE", "P": "*TYPE", "DROP": "*i64", "OUT": "*fp32", "a_col": "constexpr",
         "p_col": "constexpr"} | dict.fromkeys(consts, "constexpr")
consts |= {"a_col": 1, "p_col": 1}
types = {name: types.get(name, "i32") for name in fn.arg_names}
aligned = {"A", "P", "DROP", "OUT", "a_row", "p_row", "d"}
source = ASTSource(
    fn=fn, signature=types,
    constexprs={(fn.arg_names.index(name),): value for name, value in consts.items()},
    attrs={(i,): [["tt.divisibility", 16]] for i, n in enumerate(fn.arg_names) if n in aligned},
)
built = triton.compile(
    source, target=GPUTarget("cuda", 90, 32),
    options={"num_warps": k.WARPS, "num_stages": k.STAGES},
)
print("shared", built.metadata.shared, "wgmma", "wgmma" in built.asm["ptx"])
print("cubin", len(built.asm["cubin"]))
"""


def unit(n: int, dim: int, dtype: torch.dtype) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, dim), dim=1).to(dtype)


def test_worked_example() -> None:
    pool = torch.zeros(130, 2)
    pool[3, 0], pool[70, 0], pool[129, 0] = 0.5, 0.25, -1
    anchors = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    out = group_max(anchors, pool, torch.tensor([-1, 3, 128]))
    assert out.tolist() == [[0.5, 0.25, 0], [0, 0.5, 0], [0.5, 0.25, -1]]


def test_a_group_of_the_dropped_row_alone_is_minus_infinity() -> None:
    out = group_max(torch.ones(1, 1), torch.ones(GROUP + 1, 1), torch.tensor([GROUP]))
    assert out.tolist() == [[1, -torch.inf]]


def test_wrong_arguments_are_named() -> None:
    rows, drop = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 4\)"):
        group_max(rows, torch.ones(2, 4), drop)
    with pytest.raises(ValueError, match=r"one float type, got torch.float32 and torch.float16"):
        group_max(rows, rows.half(), drop)
    with pytest.raises(ValueError, match="drop must be"):
        group_max(rows, rows, drop[:1])


def test_op_is_registered_as_pytorch_wants_it() -> None:
    arguments = unit(5, 8, torch.float32), unit(100, 8, torch.float32), torch.arange(5)
    torch.library.opcheck(torch.ops.conceptarchive.group_max.default, arguments)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernel_is_the_reference(
    shape: tuple[int, int, int], dtype: torch.dtype, kernel_device: torch.device
) -> None:
    from conceptarchive.search.ops.group_max.kernel import launch

    n, m, dim = shape
    anchors, pool = (unit(k, dim, dtype).to(kernel_device) for k in (n, m))
    pool[m // 2 :] = pool[: m - m // 2].clone()  # ties
    drop = torch.arange(n, device=kernel_device) - 1  # none for the first
    out = launch(anchors, pool, drop)
    torch.testing.assert_close(out, reference(anchors, pool, drop, GROUP), rtol=1e-5, atol=2e-6)


@pytest.mark.kernel
def test_kernel_takes_strides_and_empty_sides(kernel_device: torch.device) -> None:
    from conceptarchive.search.ops.group_max.kernel import launch

    anchors = unit(70, 33, torch.float16).to(kernel_device).mT.contiguous().mT
    pool = unit(140, 66, torch.float16).to(kernel_device)[:, ::2]
    drop = torch.full((70,), -1, device=kernel_device)
    out = launch(anchors, pool, drop)
    torch.testing.assert_close(out, reference(anchors, pool, drop, GROUP), rtol=1e-5, atol=2e-6)
    assert launch(anchors[:0], pool, drop[:0]).shape == (0, 3)
    assert launch(anchors, pool[:0], drop).shape == (70, 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_on_a_gpu(dtype: torch.dtype) -> None:
    anchors, pool = unit(1000, 512, dtype).cuda(), unit(20_011, 512, dtype).cuda()
    drop = torch.arange(1000, device="cuda")
    out = group_max(anchors, pool, drop)
    torch.testing.assert_close(out, reference(anchors, pool, drop, GROUP), rtol=1e-5, atol=1e-5)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_kernel_compiles_for_hopper(dtype: str, tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE.replace("TYPE", dtype)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared, wgmma, size = re.findall(r"shared (\d+) wgmma (\w+)\ncubin (\d+)", done.stdout)[0]
    assert int(shared) <= SHARED_LIMIT
    assert wgmma == "True"
    assert int(size) > 0
