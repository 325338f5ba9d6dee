"""Exact search or an index: chosen by size, time and memory, with the reason in one sentence."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from conceptarchive.config import SearchMethod
from conceptarchive.errors import UsageError

Kind = Literal["exact", "ivf_flat", "hnsw", "ivf_pq"]

GIB = float(1 << 30)
MEMORY_SHARE = 0.8  # of what is free, when nobody says how much may be used
PROBES = 32  # lists that estimates count on; tuning decides
POINTS = 64  # rows of the training sample for each list; 32 where memory is short
TRAIN_ROUNDS = 10  # of k-means
PART_ROWS = 1 << 18  # rows between two checkpoints of a build
MAX_LISTS = 1 << 17
HNSW_LINKS = 32
SUBVECTORS = (4, 8, 16, 32)  # numbers of a row that one byte of a code stands for
CODE_ROWS = 1 << 15  # rows that codes are learnt from
CODE_ROUNDS = 25  # of their k-means

WORK_GIB = 1.25  # blocks of rows, products and candidates of a large search
EXACT_SHARE = {"cpu": 0.8, "cuda": 0.5}  # of the rate of a plain product, with top-k
SCAN_SHARE = {"cpu": 0.15, "cuda": 0.01}  # lists are read from memory, one anchor at a time
ENCODE_SHARE = 0.03  # of the rate, on the CPU: finding the nearest of 256 values
LOOKUP_SHARE = {"cpu": 0.01, "cuda": 0.01}  # bytes of codes a second per FLOP/s
UNEVEN = 1.5  # full lists are probed more often
INSERT_S = 5.4e-4  # one row into an HNSW graph of 100,000 x 512 on one core
DISK_BYTES = 1.5e9  # a second
DISK_ANCHORS = 1 << 16  # anchors for which a pool larger than memory is read once


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How the reference images of all anchors are to be found, and what it will take."""

    kind: Kind
    """`exact`, `ivf_flat` (float16 rows in lists), `ivf_pq` (compressed rows in lists), `hnsw`."""

    anchors: int
    """Anchors to search for."""

    pool: int
    """Rows to search."""

    width: int
    """Numbers D of a row."""

    same: bool
    """Whether anchors and pool are the same rows."""

    device: str
    """Where products are computed."""

    factory: str | None = None
    """What faiss calls such an index."""

    lists: int = 0
    """Lists of an IVF index."""

    probes: int = 0
    """Lists read for an anchor (HNSW: candidates explored) before tuning."""

    code_bytes: int = 0
    """Bytes that the index holds of a row, its number apart."""

    sample: int = 0
    """Rows that lists and codes are learnt from."""

    memory_gib: float
    """Estimated peak of training, filling and searching."""

    seconds: float
    """Estimated time of all of it."""

    reason: str = ""
    """Why this one, what it costs, and what exact search would cost."""


@dataclass(frozen=True)
class _Machine:
    """What a search may use."""

    memory_gib: float
    flops: float
    device: str

    @property
    def kind(self) -> str:
        """What shares of the rate are known for: cpu or cuda."""
        return "cpu" if self.device.startswith("cpu") else "cuda"


def choose_search(  # noqa: PLR0913  (what is searched, and what with, all by name)
    anchors: int,
    pool: int,
    width: int,
    *,
    method: SearchMethod = "auto",
    memory_gib: float | None = None,
    device: str = "cpu",
    matmul_tflops: float | None = None,
    minutes: float = 20,
    same: bool = False,
) -> SearchPlan:
    """Choose how reference images are searched; what is returned fits in memory.

    Exact search, if it takes at most `minutes` or an index would not be faster; else IVF over
    float16 rows, if they fit; else IVF over the least lossy codes that fit. HNSW only on request:
    building it takes longest, and needs the most memory.

    Args:
        anchors: n, rows to search for.
        pool: m, rows to search.
        width: D.
        method: `auto`, or the kind to plan for.
        memory_gib: what may be used; by default 0.8 of what is free.
        device: where products are computed.
        matmul_tflops: rate of float32 products; measured by default.
        minutes: longest exact search that `auto` takes.
        same: whether anchors and pool are the same rows.

    Raises:
        UsageError: a number out of range, or nothing fits.
    """
    for name, value in (("anchors", anchors), ("pool", pool), ("width", width)):
        if value < 1:
            raise UsageError(f"{name} must be >= 1, got {value}")
    for name, limit in (("memory_gib", memory_gib), ("minutes", minutes)):
        if limit is not None and not limit > 0:
            raise UsageError(f"{name} must be > 0, got {limit}")
    memory = MEMORY_SHARE * available_memory_gib() if memory_gib is None else memory_gib
    tflops = measure_matmul_tflops(device) if matmul_tflops is None else matmul_tflops
    machine = _Machine(memory, tflops * 1e12, device)
    exact = SearchPlan(
        kind="exact",
        anchors=anchors,
        pool=pool,
        width=width,
        same=same,
        device=device,
        memory_gib=_working_gib(anchors, width),
        seconds=_exact_seconds(anchors, pool, width, same, machine),
    )
    if method == "auto":
        return _choose(exact, machine, minutes * 60)
    if method == "exact":
        why = f"exact search, as asked, takes about {duration(exact.seconds)}"
        return replace(exact, reason=f"{why} and {exact.memory_gib:.1f} GiB")
    return _asked_for(method, exact, machine)


def _choose(exact: SearchPlan, machine: _Machine, limit_s: float) -> SearchPlan:
    """The method of `auto`."""
    cost = f"exact search takes about {duration(exact.seconds)} at {_rate(machine)}"
    if exact.seconds <= limit_s:
        return replace(exact, reason=f"{cost}, within {duration(limit_s)}: no index is needed")
    plans = [_plan_flat(exact, machine), *_plan_codes(exact, machine)]
    fits = [plan for plan in plans if plan.memory_gib <= machine.memory_gib]
    if not fits:
        raise _too_large(plans, exact, machine)
    best = fits[0]
    if best.seconds >= exact.seconds:
        return replace(exact, reason=f"{cost}; an index, {duration(best.seconds)}: no faster")
    limit = f", over {duration(limit_s)}"
    return replace(best, reason=_reason(best, cost + limit, plans, machine))


def _asked_for(method: SearchMethod, exact: SearchPlan, machine: _Machine) -> SearchPlan:
    """The plan of one kind of index."""
    if method == "ivf_pq":
        plans = _plan_codes(exact, machine)
    else:
        plans = [(_plan_flat if method == "ivf_flat" else _plan_hnsw)(exact, machine)]
    fits = [plan for plan in plans if plan.memory_gib <= machine.memory_gib]
    if not fits:
        raise _too_large(plans, exact, machine)
    cost = f"{method}, as asked; exact search takes about {duration(exact.seconds)}"
    return replace(fits[0], reason=_reason(fits[0], cost, plans, machine))


def _reason(plan: SearchPlan, cost: str, plans: list[SearchPlan], machine: _Machine) -> str:
    """One sentence."""
    first = plans[0]
    smaller = (
        "" if plan is first else f" ({first.factory} needs {first.memory_gib:.1f} and does not fit)"
    )
    return (
        f"{cost}; {plan.factory} takes about {duration(plan.seconds)} and {plan.memory_gib:.1f} "
        f"of {machine.memory_gib:.1f} GiB{smaller}, and its recall is measured"
    )


def _too_large(plans: list[SearchPlan], exact: SearchPlan, machine: _Machine) -> UsageError:
    """Nothing fits: how much would, and what else there is."""
    least = min(plans, key=lambda plan: plan.memory_gib)
    return UsageError(
        f"no index of {exact.pool:,} rows fits in {machine.memory_gib:.1f} GiB: the smallest, "
        f"{least.factory}, needs {least.memory_gib:.1f} GiB; raise memory_gib, or set method to "
        f"exact, which needs {exact.memory_gib:.1f} GiB and takes about {duration(exact.seconds)}"
    )


def _plan_flat(exact: SearchPlan, machine: _Machine) -> SearchPlan:
    """Lists of float16 rows."""
    return _plan_lists(exact, machine, "ivf_flat", 2 * exact.width, "SQfp16")


def _plan_codes(exact: SearchPlan, machine: _Machine) -> list[SearchPlan]:
    """Lists of codes, the least lossy first."""
    sizes = [exact.width // part for part in SUBVECTORS if exact.width % part == 0]
    return [
        _plan_lists(exact, machine, "ivf_pq", size, f"PQ{size}x8")
        for size in sizes or [exact.width]
    ]


def _plan_lists(
    exact: SearchPlan, machine: _Machine, kind: Kind, code_bytes: int, codes: str
) -> SearchPlan:
    """What an IVF index of some kind of codes takes."""
    lists, sample = _count_lists(exact, machine.memory_gib)
    probes = min(PROBES, lists)
    filled = exact.pool * (code_bytes + 8) * 1.03  # row numbers take 8 bytes; lists are uneven
    part = 2 * min(exact.pool, PART_ROWS) * (code_bytes + 8)  # lists grow by doubling
    search = (filled + part + lists * (8 * exact.width + 200)) / GIB
    memory = max(search, _training_gib(sample, lists, exact.width))
    plan = replace(
        exact,
        kind=kind,
        factory=f"IVF{lists},{codes}",
        lists=lists,
        probes=probes,
        code_bytes=code_bytes,
        sample=sample,
        memory_gib=memory + _working_gib(exact.anchors, exact.width),
    )
    return replace(plan, seconds=_lists_seconds(plan, machine))


def _count_lists(exact: SearchPlan, memory_gib: float) -> tuple[int, int]:
    """Lists, the power of two from 4 sqrt(m) on, and rows to learn them from, within memory."""
    lists, points = 1, POINTS
    while lists < 4 * exact.pool**0.5 and lists * 2 * POINTS <= exact.pool:
        lists *= 2
    lists = min(lists, MAX_LISTS)
    room = memory_gib - _working_gib(exact.anchors, exact.width)
    while lists > 1 and _training_gib(lists * points, lists, exact.width) > room:
        if points > POINTS // 2:
            points = POINTS // 2
        else:
            lists //= 2
    return lists, min(exact.pool, max(lists * points, 1 << 16))


def _plan_hnsw(exact: SearchPlan, machine: _Machine) -> SearchPlan:
    """A graph of float16 rows; rows are inserted by one thread, so that it is always the same."""
    row = 2 * exact.width + 4 * 2.1 * HNSW_LINKS + 16
    insert = INSERT_S * exact.width / 512 * max(1.0, exact.pool / 1e5) ** 0.12
    del machine  # an insertion waits for memory, not for products
    return replace(
        exact,
        kind="hnsw",
        factory=f"HNSW{HNSW_LINKS}_SQfp16",
        probes=2 * PROBES,
        code_bytes=2 * exact.width,
        memory_gib=exact.pool * row * 1.1 / GIB + _working_gib(exact.anchors, exact.width),
        seconds=exact.pool * insert + exact.anchors * insert / 3,
    )


def _working_gib(anchors: int, width: int) -> float:
    """Blocks of rows and candidates, and the process itself."""
    return min(WORK_GIB, 0.25 + anchors * (4 * width + 500) / GIB)


def _training_gib(sample: int, lists: int, width: int) -> float:
    """The sample, a float32 block of it, centroids and their float64 sums."""
    return (sample * width * 4 + lists * width * 20) / GIB + min(1.0, sample * width * 4 / GIB)


def _exact_seconds(anchors: int, pool: int, width: int, same: bool, machine: _Machine) -> float:
    """Time of exact search; of a set in itself each product serves both sides."""
    flops = 2.0 * anchors * pool * width * (0.5 if same and machine.kind == "cpu" else 1)
    passes = -(-anchors // DISK_ANCHORS)
    read = pool * width * 2 / DISK_BYTES
    reads = passes if pool * width * 2 / GIB > machine.memory_gib else 1
    return max(flops / (machine.flops * EXACT_SHARE[machine.kind]), reads * read)


def _lists_seconds(plan: SearchPlan, machine: _Machine) -> float:
    """Time to train, fill, tune and search an IVF index."""
    anchors, pool, kind = plan.anchors, plan.pool, machine.kind
    rounds = TRAIN_ROUNDS * plan.sample + anchors + pool
    tuning = 2000 * pool  # exact products of the anchors whose recall is measured
    products = 2.0 * plan.width * (rounds * plan.lists + tuning)
    scanned = anchors * plan.probes * pool / plan.lists * UNEVEN
    if plan.kind == "ivf_pq":
        scan = scanned * plan.code_bytes / (machine.flops * LOOKUP_SHARE[kind])
        encoded = pool + CODE_ROUNDS * min(pool, CODE_ROWS)
        scan += encoded * 512 * plan.width / (machine.flops * ENCODE_SHARE)
    else:
        scan = scanned * 2 * plan.width / (machine.flops * SCAN_SHARE[kind])
    is_large = pool * plan.width * 2 / GIB > machine.memory_gib
    reads = 2 + (-(-anchors // DISK_ANCHORS) if is_large else 0)
    read = reads * pool * plan.width * 2 / DISK_BYTES
    return products / (machine.flops * EXACT_SHARE[kind]) + scan + read


def is_slower(plan: SearchPlan, probes: int) -> bool:
    """Whether reading this many lists for every anchor takes longer than exact search."""
    if not plan.lists:
        return False
    kind = "cpu" if plan.device.startswith("cpu") else "cuda"
    share = UNEVEN * probes / plan.lists
    if plan.kind == "ivf_pq":
        scan = share * plan.code_bytes / LOOKUP_SHARE[kind]
    else:
        scan = share * 2 * plan.width / SCAN_SHARE[kind]
    both = plan.same and kind == "cpu"
    return scan > plan.width * (1 if both else 2) / EXACT_SHARE[kind]


def duration(seconds: float) -> str:
    """A time in the unit that a reader would choose."""
    for limit, unit, name in ((99.5, 1, "s"), (5970, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds / 86_400:,.0f} days"


def _rate(machine: _Machine) -> str:
    """How fast products are."""
    return f"{machine.flops / 1e12:.3g} TFLOP/s"


def measure_matmul_tflops(device: str = "cpu") -> float:
    """Rate of a float32 product of the shape that search multiplies; the best of three."""
    size = 1024 if device.startswith("cpu") else 16384
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, 512, generator=generator).to(device)  # (A, D)
    right = torch.randn(4096, 512, generator=generator).to(device)  # (B, D)
    times = []
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        product = left @ right.mT  # (A, B)
        product[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size * 512 * 4096 / min(times[1:]) / 1e12


def available_memory_gib(root: Path = Path("/")) -> float:
    """Memory that can be taken now: what the system has free, within the container's limit.

    Args:
        root: where /proc and /sys are looked for.
    """
    free = _free_bytes(root / "proc/meminfo")
    groups = root / "sys/fs/cgroup"
    own = _own_groups(root / "proc/self/cgroup")
    for folder, limit, used in (
        (groups / own.get("", ""), "memory.max", "memory.current"),
        (groups, "memory.max", "memory.current"),
        (groups / "memory" / own.get("memory", ""), *_V1),
        (groups / "memory", *_V1),
    ):
        free = min(free, _group_bytes(folder, limit, used))
    return max(free, 0.0) / GIB


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _free_bytes(meminfo: Path) -> float:
    """MemAvailable, or all memory where the system does not say."""
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")


def _own_groups(path: Path) -> dict[str, str]:
    """The control group of this process for each controller; "" names version 2's."""
    if not path.is_file():
        return {}
    lines = [line.split(":", 2) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        name: line[2].lstrip("/") for line in lines if len(line) == 3 for name in line[1].split(",")
    }


def _group_bytes(folder: Path, limit: str, used: str) -> float:
    """What a control group leaves; cached files count as free."""
    try:
        most = (folder / limit).read_text(encoding="ascii").strip()
        taken = float((folder / used).read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii")
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # no such limit here
        return float("inf")
    if most == "max":
        return float("inf")
    cached = [line.split()[1] for line in stat.splitlines() if line.startswith("inactive_file ")]
    return float(most) - taken + sum(map(float, cached))
