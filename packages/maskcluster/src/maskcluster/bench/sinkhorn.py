"""Speed of balanced assignment: against POT on a CPU, against its own reference and floor on a GPU.

What is compared with POT (`ot.sinkhorn`). Both find scales of masks and clusters for which the plan
has equal marginals. Ours ends after three iterations, as PixelCLIP does; those of the clusters are
then wrong by some amount, in the norm that POT itself stops by, and that is POT's `stopThr`. POT
looks every ten iterations only, so it stops after the eleventh. Times of ours include the check for
finite logits and the clusters of all masks, those of POT the plan but no cluster.

Costs are 1 - cosine in float64, which is what a user of POT would write. In float32 that has
powers near 1e-40, on which a processor is ten times as slow; costs less the least of each mask's,
which changes nothing but the scales of masks, have none, and are the fastest way that we found to
call POT. `sinkhorn_ratio_to_pot` is against whichever is fastest of those that keep the tolerance.
Of POT's other methods `sinkhorn_log` is slower at both, and `sinkhorn_stabilized` does not get
there in a thousand iterations.
"""

import logging
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.bench.timing import Call, once_ms, spread
from maskcluster.ops.sinkhorn import LARGEST, balanced_assign
from maskcluster.ops.sinkhorn.reference import balanced_assign_reference

log = logging.getLogger(__name__)

MASKS, CLUSTERS, DIM, EPS, ITERATIONS = 4800, 64, 512, 0.01, 3
GPU_SIZES = ((4800, 64), (4800, 256), (50_000, 64), (50_000, 512))

Figures = dict[str, Any]


def measure(device: torch.device) -> Figures:
    """Measure balanced assignment of random features.

    Args:
        device: a GPU, or the CPU.

    Returns:
        `ways`, each with `median_ms`, `p20_ms` and `p80_ms`. On a CPU also what they reach, and
        `sinkhorn_ratio_to_pot`, above 1 in our favour (absent without POT); on a GPU they are of
        each size, beside `floor_ms`, reading the logits once.
    """
    if device.type == "cuda":
        return {f"{m} x {k}": _on_gpu(m, k, device) for m, k in GPU_SIZES}
    return _on_cpu()


def cosines(masks: int, clusters: int, device: torch.device) -> Tensor:
    """(M, K) cosines of random directions in D dimensions."""
    random = torch.Generator().manual_seed(0)
    rows, prompts = (torch.randn(n, DIM, generator=random) for n in (masks, clusters))
    return (F.normalize(rows, dim=1) @ F.normalize(prompts, dim=1).mT).to(device)


def cpu_calls(tolerance: float) -> dict[str, Call]:
    """Ways to share 4,800 masks among 64 clusters, by name; those of POT if it is installed."""
    cosine = cosines(MASKS, CLUSTERS, torch.device("cpu"))
    logits = cosine / EPS
    calls: dict[str, Call] = {
        "ours": lambda: balanced_assign(logits, ITERATIONS),
        "reference": lambda: balanced_assign_reference(logits, ITERATIONS),
    }
    if find_spec("ot") is None:
        log.warning("POT is not installed: no comparison with it")
        return calls
    near = {"stopThr": tolerance}
    as_often = {"stopThr": 0.0, "numItermax": ITERATIONS}
    plain = 1 - cosine.numpy().astype(np.float64)  # (M, K)
    least = (cosine.amax(dim=1, keepdim=True) - cosine).numpy()  # (M, K) float32
    return calls | {
        "pot, float64": partial(_pot, plain, **near),
        "pot, float32, least cost 0": partial(_pot, least, **near),
        "pot, float32, least cost 0, 3 iterations": partial(_pot, least, **as_often),
        "pot, sinkhorn_log, float32": partial(_pot, least, method="sinkhorn_log", **near),
    }


def marginal_error(plan: Tensor) -> float:
    """How far the clusters' shares are from 1/K: the Euclidean norm that POT stops by.

    Args:
        plan: (M, K) whose sum is 1.
    """
    return float((plan.double().sum(dim=0) - 1 / plan.shape[1]).norm())


def _pot(cost: Any, **options: Any) -> Any:
    """(M, K) plan of POT for equal weights of masks and of clusters."""
    import ot

    masks, clusters = (np.full(n, 1 / n, dtype=cost.dtype) for n in cost.shape)
    return ot.sinkhorn(masks, clusters, cost, EPS, warn=False, **options)


def _on_cpu() -> Figures:
    logits = cosines(MASKS, CLUSTERS, torch.device("cpu")) / EPS
    cluster, bias = balanced_assign(logits, ITERATIONS)
    tolerance = marginal_error((logits.double() + bias).softmax(dim=1) / MASKS)
    calls = cpu_calls(tolerance)
    ways = _time_in_turn(calls, torch.device("cpu"), repeats=31)
    times = {name: way["median_ms"] for name, way in ways.items()}
    figures: Figures = {"masks": MASKS, "clusters": CLUSTERS, "tolerance": tolerance}
    figures |= {"threads": torch.get_num_threads(), "ways": ways}
    plans = {name: torch.from_numpy(call()) for name, call in calls.items() if "pot" in name}
    if not plans:
        return figures
    errors = {name: marginal_error(plan) for name, plan in plans.items()}
    kept = {name: times[name] for name, error in errors.items() if error <= 1.001 * tolerance}
    fastest = min((name for name in kept if "iterations" not in name), key=lambda n: kept[n])
    agree = (plans[fastest].argmax(dim=1) == cluster).float().mean()
    return figures | {
        "marginal_errors": errors,
        "fastest_pot": fastest,
        "same_clusters_as_pot": float(agree),
        "sinkhorn_ratio_to_pot": times[fastest] / times["ours"],
        "sinkhorn_ratio_to_pot_iterations": times["pot, float32, least cost 0, 3 iterations"]
        / times["ours"],
        "sinkhorn_ratio_to_reference": times["reference"] / times["ours"],
    }


def _on_gpu(masks: int, clusters: int, device: torch.device) -> Figures:
    from maskcluster.ops.sinkhorn.kernel import balanced_assign_triton

    logits = cosines(masks, clusters, device) / EPS
    copy = torch.empty_like(logits)
    compiled = torch.compile(balanced_assign_reference)
    ways = _time_in_turn(
        {
            "ours": lambda: balanced_assign(logits, ITERATIONS),
            "ours, not waited for": lambda: balanced_assign_triton(logits, ITERATIONS, LARGEST),
            "reference": lambda: balanced_assign_reference(logits, ITERATIONS),
            "compiled reference": lambda: compiled(logits, ITERATIONS),
            "copy": lambda: copy.copy_(logits),
        },
        device,
        repeats=51,
    )
    cluster, bias = balanced_assign(logits, ITERATIONS)
    want, exact = balanced_assign_reference(logits.double(), ITERATIONS)
    ways["ours, kernel alone"] = _in_a_graph(
        lambda: balanced_assign_triton(logits, ITERATIONS, LARGEST), device
    )
    return {
        "ways": ways,
        "floor_ms": ways["copy"]["median_ms"] / 2,
        "same_clusters_as_float64": float((cluster == want).float().mean()),
        "bias_error": float((bias - exact).abs().max()),
    }


def _time_in_turn(
    calls: Mapping[str, Call], device: torch.device, *, repeats: int
) -> dict[str, dict[str, float]]:
    """Median, 20th and 80th percentile; calls take turns, so that all see the same machine.

    In each turn a call is made twice and the second is timed: logits that were just computed are in
    the cache, not what another call left there.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 2):
        for name, call in calls.items():
            call()
            elapsed = once_ms(call, device)
            if turn >= 2:
                times[name].append(elapsed)
    return {name: spread(found) for name, found in times.items()}


def _in_a_graph(call: Call, device: torch.device, *, repeats: int = 100) -> dict[str, float]:
    """Milliseconds of a call in a CUDA graph, where launching costs next to nothing."""
    call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    found = _time_in_turn({"graph": graph.replay}, device, repeats=5)["graph"]
    return {name: value / repeats for name, value in found.items()}
