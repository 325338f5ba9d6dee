"""Balanced assignment: against a transport plan written out, by its properties, and its kernels."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from maskcluster.ops.sinkhorn import LARGEST, balanced_assign, log_mass
from maskcluster.ops.sinkhorn import cpu as on_cpu
from maskcluster.ops.sinkhorn.kernel import balanced_assign_triton, log_mass_triton
from maskcluster.ops.sinkhorn.reference import balanced_assign_reference, log_mass_reference

HERE = Path(__file__).parent
SCRIPT = HERE / "sinkhorn_ranks_script.py"
HOPPER = HERE.parents[3] / "tests/hopper.py"  # of the repository
LINE = re.compile(r"(\w+) shared=(\d+) wgmma=(\w+) reg=(\d+) stack=(\d+)")


def alternating(logits: Tensor, iterations: int) -> Tensor:
    """(M, K) soft assignment of `balanced_assign`: the plan itself, rows and columns by turns."""
    plan = logits.double().softmax(dim=1)
    for _ in range(iterations):
        plan = plan / plan.sum(dim=0)  # every cluster 1
        plan = plan / plan.sum(dim=1, keepdim=True)  # every mask 1
    return plan


def unit_logits(masks: int, clusters: int, eps: float, *, seed: int = 0, dim: int = 32) -> Tensor:
    """Cosines of random directions over eps, as float64."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randn(masks, dim, generator=random, dtype=torch.float64)
    prompts = torch.randn(clusters, dim, generator=random, dtype=torch.float64)
    return torch.nn.functional.cosine_similarity(rows[:, None], prompts[None], dim=2) / eps


def triton(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    cluster, bias, refused = balanced_assign_triton(logits, iterations, LARGEST)
    assert int(refused) == 0
    return cluster, bias


def check_near(found: tuple[Tensor, Tensor], logits: Tensor, iterations: int) -> None:
    """Biases to rounding, and clusters too, save where float64 finds two that are as near."""
    cluster, bias = (x.cpu() for x in found)
    logits = logits.cpu()
    want, exact = balanced_assign_reference(logits.double(), iterations)
    near = 1e-5 * (1 + float(logits.abs().amax()))
    assert cluster.dtype == torch.int64 and bias.dtype == logits.dtype
    assert float((bias.double() - exact).abs().max()) <= near
    assert float(bias.min()) == 0
    assert torch.equal(cluster, (logits + bias).max(dim=1).indices)
    biased = logits.double() + exact
    lost = biased.amax(dim=1) - biased.gather(1, cluster[:, None])[:, 0]
    assert bool(((cluster == want) | (lost <= 2 * near)).all())


# worked examples


def test_one_iteration_by_hand() -> None:
    """Two masks like cluster 0: odds 3 and 2 to 1.

    p = (3/4, 1/4), (2/3, 1/3); clusters have 17/12 and 7/12, so cluster 1 is helped by log(17/7);
    odds become 21/17 and 14/17: the second mask changes sides.
    """
    logits = torch.tensor([[3.0, 1.0], [2.0, 1.0]]).log()
    cluster, bias = balanced_assign(logits, 1)
    assert cluster.tolist() == [0, 1]
    assert bias.tolist() == pytest.approx([0, torch.tensor(17 / 7).log().item()], rel=1e-6)
    assert balanced_assign(logits, 0)[0].tolist() == [0, 0]


def test_mass_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0], [2.0, 1.0]]).log()
    assert log_mass(logits, torch.zeros(2)).exp().tolist() == pytest.approx([17 / 12, 7 / 12])


def test_fixed_point_by_hand() -> None:
    """Odds 4 and 1: with the help of log 2 they are 2 and 1/2, and both clusters have 1."""
    logits = torch.tensor([[4.0, 1.0], [1.0, 1.0]], dtype=torch.float64).log()
    cluster, bias = balanced_assign(logits, 60)
    assert cluster.tolist() == [0, 1]
    assert bias.tolist() == pytest.approx([0, torch.tensor(2.0).log().item()])


# the transport plan


@pytest.mark.parametrize("eps", [0.01, 1.0])
@pytest.mark.parametrize(("masks", "clusters"), [(300, 64), (97, 7), (5, 12)])
def test_bias_form_is_the_alternating_form(masks: int, clusters: int, eps: float) -> None:
    logits = unit_logits(masks, clusters, eps)
    cluster, bias = balanced_assign(logits, 3)
    plan = alternating(logits, 3)
    assert float(((logits + bias).softmax(dim=1) - plan).abs().max()) < 1e-12
    assert torch.equal(cluster, plan.argmax(dim=1))


@pytest.mark.parametrize("eps", [0.01, 0.05, 1.0])
def test_marginals_become_equal_as_iterations_grow(eps: float) -> None:
    logits = unit_logits(512, 16, eps)
    errors = []
    for iterations in (0, 3, 30, 300):
        _, bias = balanced_assign(logits, iterations)
        mass = (logits + bias).softmax(dim=1).sum(dim=0)
        errors.append(float((mass / 32 - 1).abs().max()))
    assert all(a > b or b < 1e-12 for a, b in pairwise(errors)), errors
    assert errors[1] < 0.5 and errors[3] < 1e-6


sizes = st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**31))


@settings(deadline=None, max_examples=40)
@given(sizes, st.sampled_from([0.01, 0.1, 1.0]), st.integers(0, 4))
def test_permuted_and_shifted_masks_give_the_same(
    size: tuple[int, int, int], eps: float, iterations: int
) -> None:
    masks, clusters, seed = size
    logits = unit_logits(masks, clusters, eps, seed=seed)
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(masks, generator=random), torch.randperm(clusters)
    shift = torch.randn(masks, 1, generator=random, dtype=torch.float64)
    _, bias = balanced_assign(logits, iterations)
    _, moved = balanced_assign((logits + shift)[rows][:, columns], iterations)
    assert float((moved - bias[columns]).abs().max()) < 1e-9
    soft = (logits + bias).softmax(dim=1)
    again = ((logits + shift)[rows][:, columns] + moved).softmax(dim=1)
    assert float((again - soft[rows][:, columns]).abs().max()) < 1e-9


@settings(deadline=None, max_examples=40)
@given(sizes, st.floats(-5, 5), st.integers(1, 4))
def test_help_for_a_cluster_before_is_taken_back(
    size: tuple[int, int, int], help_: float, iterations: int
) -> None:
    """A constant on a column is a scale of its cluster, which scaling clusters forgets in time."""
    masks, clusters, seed = size
    logits = unit_logits(masks, clusters, 1.0, seed=seed)
    helped = logits.clone()
    helped[:, 0] += help_
    _, bias = balanced_assign(logits, 100 * iterations)
    _, other = balanced_assign(helped, 100 * iterations)
    first = (logits + bias).softmax(dim=1)
    assert float(((helped + other).softmax(dim=1) - first).abs().max()) < 1e-6


@settings(deadline=None, max_examples=40)
@given(sizes, st.sampled_from([1.0, 10.0, 100.0]), st.integers(0, 4))
def test_float32_on_a_cpu_is_near_float64(
    size: tuple[int, int, int], largest: float, iterations: int
) -> None:
    masks, clusters, seed = size
    logits = unit_logits(masks, clusters, 1 / largest, seed=seed).float()
    check_near(balanced_assign(logits, iterations), logits, iterations)


# edges


def test_no_masks() -> None:
    cluster, bias = balanced_assign(torch.empty(0, 5), 3)
    assert cluster.shape == (0,) and cluster.dtype == torch.int64
    assert bias.tolist() == [0] * 5
    assert log_mass(torch.empty(0, 2), torch.zeros(2)).tolist() == [-float("inf")] * 2


def test_one_cluster_takes_all() -> None:
    cluster, bias = balanced_assign(100 * torch.randn(6, 1))
    assert cluster.tolist() == [0] * 6 and bias.tolist() == [0]


def test_fewer_masks_than_clusters_go_to_different_ones() -> None:
    logits = unit_logits(5, 64, 0.01).float()
    cluster, _ = balanced_assign(logits, 20)
    assert len(set(cluster.tolist())) == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_all_alike_give_numbers(dtype: torch.dtype) -> None:
    logits = unit_logits(1, 64, 0.01).to(dtype).expand(50, 64)
    cluster, bias = balanced_assign(logits)
    assert bool(bias.isfinite().all()) and bool(((cluster >= 0) & (cluster < 64)).all())
    mass = (logits + bias).softmax(dim=1).sum(dim=0)
    assert mass.tolist() == pytest.approx([50 / 64] * 64, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_go_to_the_lowest(dtype: torch.dtype) -> None:
    cluster, bias = balanced_assign(torch.zeros(30, 7, dtype=dtype))
    assert cluster.tolist() == [0] * 30 and bias.tolist() == [0] * 7
    negative_zero = torch.tensor([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0]], dtype=dtype)
    assert balanced_assign(negative_zero, 0)[0].tolist() == [0, 0]


@pytest.mark.parametrize("far", [60.0, 200.0, 3000.0])
def test_cluster_out_of_reach_gets_a_bias(far: float) -> None:
    """Its probabilities are below the smallest float32, so that their sum in float32 is 0."""
    logits = torch.randn(40, 5)
    logits[:, 3] -= far
    cluster, bias = balanced_assign(logits, 3)
    _, exact = balanced_assign_reference(logits.double(), 3)
    assert bias.tolist() == pytest.approx(exact.tolist(), rel=1e-5, abs=1e-3)
    assert abs(float(bias[3]) - far) < 3
    assert (cluster == 3).any()


def test_numbers_survive_the_largest_logits() -> None:
    logits = torch.tensor([[LARGEST, -LARGEST], [LARGEST, 0.0], [-LARGEST, 5.0]])
    cluster, bias = balanced_assign(logits)
    assert bool(bias.isfinite().all())
    assert torch.equal(cluster, (logits + bias).argmax(dim=1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_is_refused(bad: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(9, 4, dtype=dtype)
    logits[5, 2] = bad
    with pytest.raises(ValueError, match="logits must be in"):
        balanced_assign(logits)


@pytest.mark.parametrize(
    ("logits", "iterations", "message"),
    [
        (torch.zeros(3), 3, r"\(M, K\) float32 or float64, got \(3,\)"),
        (torch.zeros(3, 2).half(), 3, "float16"),
        (torch.zeros(3, 0), 3, r"K must be in \[1, 4096\], got 0"),
        (torch.zeros(3, 4097), 3, "got 4097"),
        (torch.zeros(3, 2), -1, "iterations must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_refused(logits: Tensor, iterations: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced_assign(logits, iterations)


def test_bias_of_another_kind_is_refused() -> None:
    for bias in (torch.zeros(3), torch.zeros(2).double()):
        with pytest.raises(ValueError, match=r"bias must be \(2,\) torch.float32 on cpu"):
            log_mass(torch.zeros(4, 2), bias)


def test_nothing_has_a_gradient() -> None:
    cluster, bias = balanced_assign(torch.randn(4, 3, requires_grad=True))
    assert not cluster.requires_grad and not bias.requires_grad


# the CPU's two forms


def test_matrix_form_is_taken_where_it_is_exact_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def logarithms(logits: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        taken.append(len(logits))
        return balanced_assign_reference(logits, iterations)

    monkeypatch.setattr(on_cpu, "balanced_assign_reference", logarithms)
    logits = unit_logits(700, 64, 0.01).float()
    check_near(balanced_assign(logits), logits, 3)
    assert not taken
    logits[:, 7] -= 50
    check_near(balanced_assign(logits), logits, 3)
    assert taken == [700]


def test_powers_are_those_of_numpy() -> None:
    z = torch.linspace(-87, 0, 4001).view(1, -1).numpy()
    powers = z * 0
    on_cpu._fill_powers(z, powers)
    exact = torch.from_numpy(z[0]).double().exp()
    assert float((torch.from_numpy(powers[0]) / exact - 1).abs().max()) < 1e-5  # 87 times 2^-24
    near = exact > 1e-3
    assert float((torch.from_numpy(powers[0]) / exact - 1)[near].abs().max()) < 6e-7
    on_cpu._fill_powers(10 * z, powers)
    assert float(powers.min()) == 2.0**-126


# kernels


SIZES = [(1, 1), (1, 5), (7, 1), (13, 7), (64, 64), (129, 100), (300, 32), (9, 515)]


@pytest.mark.kernel
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize(("masks", "clusters"), SIZES)
def test_kernel_is_near_the_reference(
    masks: int, clusters: int, iterations: int, kernel_device: torch.device
) -> None:
    logits = unit_logits(masks, clusters, 0.01).float().to(kernel_device)
    check_near(triton(logits, iterations), logits, iterations)


@pytest.mark.kernel
@pytest.mark.parametrize("kind", ["float64", "transposed", "strided", "tied", "far", "huge"])
def test_kernel_takes_what_the_reference_takes(kind: str, kernel_device: torch.device) -> None:
    logits = unit_logits(200, 24, 0.01)
    if kind == "tied":
        logits = torch.randint(0, 3, (200, 24)).double()
    if kind == "far":
        logits[:, 5] -= 3000
    if kind == "huge":
        logits *= 1e5
    logits = logits.to(kernel_device, torch.float64 if kind == "float64" else torch.float32)
    if kind == "transposed":
        logits = logits.mT.contiguous().mT
    if kind == "strided":
        logits = torch.stack([logits, logits + 1], dim=2)[:, :, 0]
    check_near(triton(logits, 3), logits, 3)


@pytest.mark.kernel
def test_kernel_gives_ties_to_the_lowest(kernel_device: torch.device) -> None:
    cluster, bias = triton(torch.zeros(300, 48, device=kernel_device), 3)
    assert cluster.tolist() == [0] * 300 and bias.tolist() == [0] * 48


@pytest.mark.kernel
@pytest.mark.parametrize(("masks", "clusters"), SIZES)
def test_kernel_adds_up_what_several_programs_found(
    masks: int, clusters: int, kernel_device: torch.device
) -> None:
    logits = unit_logits(masks, clusters, 0.01).float().to(kernel_device)
    bias = 5 * torch.randn(2, clusters, device=kernel_device)[0]
    exact = log_mass_reference(logits.double(), bias.double())
    found = log_mass_triton(logits, bias)
    assert float((found - exact).abs().max()) < 1e-5 * (1 + float(exact.abs().max()))


@pytest.mark.kernel
def test_kernel_without_masks(kernel_device: torch.device) -> None:
    logits = torch.empty(0, 3, device=kernel_device)
    cluster, bias = triton(logits, 3)
    assert cluster.shape == (0,) and bias.tolist() == [0] * 3
    assert log_mass_triton(logits, bias).tolist() == [-float("inf")] * 3


@pytest.mark.kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 2e30])
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter's inf - inf
def test_kernel_says_that_a_logit_is_refused(bad: float, kernel_device: torch.device) -> None:
    logits = torch.zeros(100, 5, device=kernel_device)
    logits[77, 3] = bad
    assert int(balanced_assign_triton(logits, 2, LARGEST)[2]) > 0


def run_ranks(folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    """Two processes that share masks, and one alone: what `sinkhorn_ranks_script.py` writes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(folder)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]  # fmt: skip
    for process in started:
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
    return [torch.load(folder / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt")]


@pytest.mark.slow
def test_two_ranks_assign_as_one_process_however_masks_are_split(tmp_path: Path) -> None:
    alone, first, second = run_ranks(tmp_path)
    assert alone.keys() == first.keys() == second.keys() and len(alone) == 10
    for split, want in alone.items():
        cluster = torch.cat([first[split]["cluster"], second[split]["cluster"]])
        assert torch.equal(cluster, want["cluster"]), split
        for rank in (first, second):
            bias = rank[split]["bias"]
            near = 1e-12 if bias.dtype == torch.float64 else 1e-4
            assert float((bias - want["bias"]).abs().max()) <= near, split
            assert torch.equal(bias, first[split]["bias"])
            for name in ("counts", "numbers"):
                assert torch.allclose(rank[split][name], want[name], rtol=1e-4, atol=1e-6), split


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("masks", "clusters"), [(4800, 64), (4801, 100), (50_000, 64), (50_000, 512), (9000, 4096)]
)
def test_programs_of_a_gpu_wait_for_each_other(masks: int, clusters: int) -> None:
    """A race would show as different numbers from call to call."""
    logits = (torch.randn(masks, clusters) * 5).cuda()
    found = balanced_assign(logits, 5)
    check_near(found, logits, 5)
    for _ in range(200):
        again = balanced_assign(logits, 5)
        assert torch.equal(found[0], again[0]) and torch.equal(found[1], again[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bad_logits_on_a_gpu_are_refused() -> None:
    logits = torch.zeros(5000, 64).cuda()
    logits[4321, 7] = float("nan")
    with pytest.raises(ValueError, match="logits must be in"):
        balanced_assign(logits)


def test_ops_are_registered_as_they_should() -> None:
    logits = unit_logits(20, 6, 0.1).float()
    torch.library.opcheck(torch.ops.maskcluster.balanced_assign.default, (logits, 3))
    torch.library.opcheck(torch.ops.maskcluster.log_mass.default, (logits, torch.zeros(6)))


@pytest.mark.kernel
@pytest.mark.slow
def test_kernels_compile_for_sm_90_and_keep_to_registers(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_CACHE_DIR": str(tmp_path),  # a cached build hides the compiler
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, str(HOPPER), f"{HERE / 'launches_sinkhorn.py'}:run"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = LINE.findall(done.stdout)
    names = ["_balanced_assign_kernel", "_log_mass_kernel", "_add_parts_kernel"]
    assert [name for name, *_ in built] == 3 * names
    assert all(int(registers) <= 128 for *_, registers, _ in built), built
    assert all(int(stack) <= 16 for *_, stack in built), built
    metadata = list(tmp_path.rglob("_balanced_assign_kernel.json"))
    assert len(metadata) == 3
    assert all('"launch_cooperative_grid": true' in path.read_text() for path in metadata)
