import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conceptarchive.errors import (
    DataMissingError,
    FormatError,
    IncompleteError,
    StaleFolderError,
    UsageError,
)
from conceptarchive.features.rows import RowFiles
from conceptarchive.search import index as search_index
from conceptarchive.search import index_files
from conceptarchive.search.centroids import find_centroids, spread, stream
from conceptarchive.search.index import (
    PoolIndex,
    SearchPlan,
    Settings,
    available_memory_gib,
    build_index,
    choose_search,
    measure_recall,
    prepare_search,
    tune_probes,
)
from conceptarchive.search.neighbours import Neighbours, nearest
from conceptarchive.search.recall import compare

Half = npt.NDArray[np.float16]
WIDTH = 32
KINDS = ["ivf_flat", "ivf_pq", "hnsw"]


def make_rows(n: int, width: int = WIDTH, seed: int = 0) -> Half:
    """Unit rows around 200 centres; the last 100 are copies of row 7."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((200, width))
    rows = centres[random.integers(0, 200, n)] + 0.7 * random.standard_normal((n, width))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[-100:] = rows[7]
    return rows.astype(np.float16)


def make_plan(n: int, kind: Any = "ivf_flat", width: int = WIDTH, **changes: Any) -> SearchPlan:
    plan = choose_search(n, n, width, method=kind, memory_gib=4, matmul_tflops=0.1, same=True)
    return dataclasses.replace(plan, **changes)


def in_files(rows: Half, folder: Path, cut: int) -> RowFiles:
    folder.mkdir()
    paths, counts = [], []
    for number, start in enumerate(range(0, len(rows), cut)):
        paths.append(folder / f"{number}.npy")
        counts.append(len(rows[start : start + cut]))
        np.save(paths[-1], rows[start : start + cut])
    return RowFiles(paths, counts, rows.shape[1], rows.dtype)


def equal(first: Neighbours, second: Neighbours) -> bool:
    return np.array_equal(first.indices, second.indices) and np.array_equal(
        first.similarity, second.similarity
    )


@pytest.fixture(scope="module")
def rows() -> Half:
    return make_rows(6000)


@pytest.fixture(scope="module", params=KINDS)
def built(
    request: pytest.FixtureRequest, rows: Half, tmp_path_factory: pytest.TempPathFactory
) -> PoolIndex:
    plan = make_plan(len(rows), request.param)
    return build_index(rows, plan, tmp_path_factory.mktemp("index"), seed=0)


# --- the choice ---

TABLE: dict[int, list[str | None]] = {
    # anchors = pool, 512 wide, 1 TFLOP/s on a CPU: kind at 4, 32 and 256 GiB
    1_000_000: ["exact", "exact", "exact"],
    2_750_000: ["IVF8192,PQ128x8", "IVF8192,SQfp16", "IVF8192,SQfp16"],
    9_700_000: ["IVF16384,PQ128x8", "IVF16384,SQfp16", "IVF16384,SQfp16"],
    28_000_000: ["IVF16384,PQ64x8", "IVF32768,SQfp16", "IVF32768,SQfp16"],
    400_000_000: [None, "IVF131072,PQ64x8", "IVF131072,PQ128x8"],
}


@pytest.mark.parametrize("size", TABLE)
@pytest.mark.parametrize(("column", "memory"), [(0, 4), (1, 32), (2, 256)])
def test_choice_by_size_and_memory(size: int, column: int, memory: int) -> None:
    def choose() -> SearchPlan:
        return choose_search(size, size, 512, memory_gib=memory, matmul_tflops=1, same=True)

    expected = TABLE[size][column]
    if expected is None:
        with pytest.raises(UsageError, match=r"no index of 400,000,000 rows fits in 4\.0 GiB"):
            choose()
        return
    plan = choose()
    assert (plan.factory or plan.kind) == expected
    assert plan.memory_gib <= memory
    assert "\n" not in plan.reason and "exact search takes about" in plan.reason


def test_the_reason_says_what_it_costs_and_what_exact_search_would_cost() -> None:
    exact = choose_search(10_000, 10_000, 512, memory_gib=4, matmul_tflops=0.1)
    assert exact.reason == (
        "exact search takes about 1.28 s at 0.1 TFLOP/s, within 20 min: no index is needed"
    )
    plan = choose_search(9_700_000, 9_700_000, 512, memory_gib=4, matmul_tflops=1, same=True)
    assert plan.reason.startswith("exact search takes about 16.7 h at 1 TFLOP/s, over 20 min; IVF")
    assert "GiB (IVF16384,SQfp16 needs" in plan.reason and "does not fit" in plan.reason


def test_few_anchors_are_searched_exactly_where_an_index_would_not_be_faster() -> None:
    plan = choose_search(100, 400_000_000, 512, memory_gib=256, matmul_tflops=0.01, minutes=10)
    assert plan.kind == "exact"
    assert "no faster" in plan.reason


def test_nothing_fits_says_how_much_would_and_what_else_there_is() -> None:
    with pytest.raises(UsageError, match=r"needs \d+\.\d GiB; raise memory_gib, or set method to"):
        choose_search(400_000_000, 400_000_000, 512, memory_gib=4, matmul_tflops=1)
    with pytest.raises(UsageError, match=r"HNSW32_SQfp16, needs 537"):
        choose_search(400_000_000, 400_000_000, 512, method="hnsw", memory_gib=64, matmul_tflops=1)
    asked = choose_search(
        400_000_000, 400_000_000, 512, method="exact", memory_gib=4, matmul_tflops=1
    )
    assert asked.kind == "exact"
    with pytest.raises(UsageError, match="memory_gib must be > 0, got 0"):
        choose_search(10, 10, 8, memory_gib=0)
    with pytest.raises(UsageError, match="pool must be >= 1, got 0"):
        choose_search(10, 0, 8)


def test_a_plan_survives_json() -> None:
    plan = make_plan(6000, "ivf_pq")
    assert SearchPlan(**json.loads(json.dumps(dataclasses.asdict(plan)))) == plan


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_what_the_container_leaves(tmp_path: Path, version: int) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 33554432 kB\n")
    assert available_memory_gib(tmp_path) == 32
    group = groups / ("job" if version == 2 else "memory/job")
    group.mkdir(parents=True)
    line = "0::/job\n" if version == 2 else "4:memory:/job\n"
    (proc / "self/cgroup").write_text(line)
    names = ("memory.max", "memory.current")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (group / names[0]).write_text(f"{8 << 30}\n")
    (group / names[1]).write_text(f"{5 << 30}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {1 << 30}\n")
    assert available_memory_gib(tmp_path) == 4
    if version == 2:
        (group / names[0]).write_text("max\n")
        assert available_memory_gib(tmp_path) == 32


# --- centres ---


def test_centres_of_separate_clusters_are_found() -> None:
    random = np.random.default_rng(0)
    axes = np.eye(8, dtype=np.float32)
    rows = axes[np.arange(800) % 8] + 0.05 * random.standard_normal((800, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    found = find_centroids(rows, 32, rounds=5, random=stream(0))
    assert found.shape == (32, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert set((found @ axes.T).argmax(axis=1)) == set(range(8))
    assert (nearest(rows, found, count=1).similarity > 0.97).all()


def test_an_empty_list_takes_half_of_a_full_one() -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32)[:2], [30, 10], axis=0)
    rows[:30, 2] = np.linspace(-0.1, 0.1, 30)  # the fuller of two clusters can be divided
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = find_centroids(rows, 4, rounds=8, random=stream(0))
    assert len(np.unique(nearest(rows, found, count=1).indices)) >= 3


def test_spread_takes_one_row_from_each_strip() -> None:
    rows = spread(1000, 10, stream(0))
    assert (rows // 100).tolist() == list(range(10))
    assert spread(5, 5, stream(1)).tolist() == [0, 1, 2, 3, 4]


# --- searching ---


def test_all_lists_give_what_exact_search_gives(rows: Half, built: PoolIndex) -> None:
    truth = nearest(rows[:300], rows, count=10)
    before = built.settings
    refine = 32 if built.plan.kind == "ivf_pq" else 1
    built.settings = Settings(max(built.lists, 512), refine)
    found = built.search(rows[:300], count=10)
    built.settings = before
    if built.plan.kind == "ivf_flat":  # its candidates are those of exact search
        assert equal(found, truth)
    assert compare(found, truth).value >= 0.99
    same = found.indices == truth.indices
    assert np.array_equal(found.similarity[same], truth.similarity[same])  # to the last bit


def test_an_anchor_finds_the_same_alone_and_among_others(rows: Half, built: PoolIndex) -> None:
    together = built.search(rows[:301], count=7)
    for size in (1, 19, 20, 64):  # BLAS is used from 20 rows on
        parts = [built.search(rows[a : min(a + size, 301)], count=7) for a in range(0, 301, size)]
        joined = Neighbours(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        assert equal(joined, together)


def test_itself_is_dropped_by_row_and_copies_stay(rows: Half, built: PoolIndex) -> None:
    copies = np.array([7, *range(len(rows) - 100, len(rows))])
    drop = copies.copy()
    found = built.search(rows[copies], count=8, drop=drop)
    assert not (found.indices == drop[:, None]).any()
    assert (found.similarity > 0.999).mean() > 0.99
    kept = built.search(rows[:50], count=8)
    dropped = built.search(rows[:50], count=8, drop=np.arange(50))
    if built.plan.kind != "hnsw":
        assert (kept.indices[:50, 0] == np.arange(50)).mean() > 0.95  # row 7 has copies after it
    assert not (dropped.indices == np.arange(50)[:, None]).any()


def test_ties_go_to_the_lowest_row(rows: Half, tmp_path: Path) -> None:
    index = build_index(rows, make_plan(len(rows)), tmp_path, seed=0)
    found = index.search(rows[7:8], count=5)
    assert found.indices.tolist() == [[7, *range(len(rows) - 100, len(rows) - 96)]]


@pytest.mark.parametrize("kind", KINDS)
def test_places_stay_empty_where_fewer_are_found(kind: str, tmp_path: Path) -> None:
    rows = make_rows(400)
    plan = make_plan(400, kind, probes=4)
    index = build_index(rows, plan, tmp_path, seed=0)
    found = index.search(rows[:5], count=600, drop=np.arange(5))
    empty = found.indices < 0
    assert empty[:, 399:].all()
    assert np.array_equal(empty, np.isneginf(found.similarity))
    assert (np.diff(found.similarity[:, :50], axis=1) <= 0).all()
    assert index.search(rows[:0], count=3).indices.shape == (0, 3)
    with pytest.raises(ValueError, match="got 0"):
        index.search(rows, count=0)
    with pytest.raises(ValueError, match="one width"):
        index.search(rows[:, :5], count=1)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_files_and_large_pools_give_the_same(
    kind: str, rows: Half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(len(rows), kind)
    whole = build_index(rows, plan, tmp_path / "a", seed=3).search(rows[:200], count=6)
    streamed = build_index(in_files(rows, tmp_path / "rows", 777), plan, tmp_path / "b", seed=3)
    names = [path.name for path in sorted((tmp_path / "b").iterdir())]
    assert names == ["pool-index.faiss", "pool-index.json"]
    files = [tmp_path / folder / "pool-index.faiss" for folder in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert equal(streamed.search(rows[:200], count=6), whole)
    monkeypatch.setattr(search_index, "available_memory_gib", lambda: 1e-6)
    monkeypatch.setattr(search_index, "GATHER_ROWS", 50)
    large = PoolIndex.open(tmp_path / "b", streamed.pool)
    assert large._is_large and not streamed._is_large
    assert equal(large.search(rows[:200], count=6), whole)


# --- killed and begun again ---


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_build_goes_on_and_ends_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_files, "PART_ROWS", 300)
    rows = make_rows(1400)
    plan = make_plan(1400, kind)
    build_index(rows, plan, tmp_path / "whole", seed=0)
    writes = {"left": 0}
    real = index_files.write_index

    def write(index: Any, path: Path) -> None:
        if writes["left"] == 0:
            path.with_name(path.name + ".part").write_bytes(b"half")
            raise Stop
        writes["left"] -= 1
        real(index, path)

    monkeypatch.setattr(index_files, "write_index", write)
    for _ in range(6):  # trained, five parts: each attempt gets one file further
        with pytest.raises(Stop):
            build_index(rows, plan, tmp_path / "stopped", seed=0)
        with pytest.raises(IncompleteError, match="unfinished; run the build again"):
            PoolIndex.open(tmp_path / "stopped", rows)
        writes["left"] = 1
    with pytest.raises(Stop):
        build_index(rows, plan, tmp_path / "stopped", seed=0)
    monkeypatch.setattr(index_files, "write_index", real)
    added: list[int] = []
    build_index(rows, plan, tmp_path / "stopped", seed=0, progress=added.append)
    assert sum(added) == 1400
    contents = [
        (tmp_path / name / "pool-index.faiss").read_bytes() for name in ("whole", "stopped")
    ]
    assert contents[0] == contents[1]
    left = {path.name for path in (tmp_path / "stopped").iterdir() if path.suffix != ".part"}
    assert left == {"pool-index.faiss", "pool-index.json"}


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from conceptarchive.search import index_files
from conceptarchive.search.index import SearchPlan, build_index
import json
folder = Path(sys.argv[1])
index_files.PART_ROWS = 300
seen = []
def progress(rows):
    seen.append(rows)
    if len(seen) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
plan = SearchPlan(**json.loads((folder / "plan.json").read_text()))
build_index(np.load(folder / "rows.npy"), plan, folder / "index", seed=0, progress=progress)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_misleads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_files, "PART_ROWS", 300)
    rows = make_rows(1000)
    plan = make_plan(1000, "ivf_flat")
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "plan.json").write_text(json.dumps(dataclasses.asdict(plan)))
    for after in (1, 3):  # the second run sees the first one's part at once
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(after)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    parts = [path.name for path in sorted((tmp_path / "index").glob("*-0*.faiss"))]
    assert parts == ["pool-index-00000.faiss", "pool-index-00001.faiss"]
    build_index(rows, plan, tmp_path / "index", seed=0)
    build_index(rows, plan, tmp_path / "whole", seed=0)
    contents = [(tmp_path / name / "pool-index.faiss").read_bytes() for name in ("index", "whole")]
    assert contents[0] == contents[1]


def test_the_result_does_not_depend_on_threads(rows: Half, tmp_path: Path) -> None:
    import torch

    faiss = index_files.load_faiss()
    before = (torch.get_num_threads(), faiss.omp_get_max_threads())
    for kind in KINDS:
        contents = []
        for number in (1, 3):
            torch.set_num_threads(number)
            faiss.omp_set_num_threads(number)
            folder = tmp_path / f"{kind}{number}"
            build_index(rows[:2000], make_plan(2000, kind), folder, seed=0)
            contents.append((folder / "pool-index.faiss").read_bytes())
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])
        assert contents[0] == contents[1]


def test_another_pool_or_plan_is_not_continued(rows: Half, tmp_path: Path) -> None:
    plan = make_plan(len(rows))
    build_index(rows, plan, tmp_path, seed=0)
    changed = rows.copy()
    changed[0] = rows[1]
    with pytest.raises(StaleFolderError, match="another pool_stamp"):
        build_index(changed, plan, tmp_path, seed=0)
    with pytest.raises(StaleFolderError, match="another seed"):
        build_index(rows, plan, tmp_path, seed=1)
    with pytest.raises(StaleFolderError, match="another of_plan"):
        build_index(rows, make_plan(len(rows), "ivf_pq"), tmp_path, seed=0)
    with pytest.raises(StaleFolderError, match="another pool"):
        PoolIndex.open(tmp_path, changed)


def test_damaged_files_are_named(rows: Half, tmp_path: Path) -> None:
    with pytest.raises(DataMissingError, match="build one first"):
        PoolIndex.open(tmp_path, rows)
    build_index(rows, make_plan(len(rows)), tmp_path, seed=0)
    path, notes = tmp_path / "pool-index.faiss", tmp_path / "pool-index.json"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(FormatError, match=r"pool-index\.faiss: has \d+ bytes instead of"):
        PoolIndex.open(tmp_path, rows)
    path.write_bytes(b"nonsense" + data[8:])
    with pytest.raises(FormatError, match=r"pool-index\.faiss: damaged"):
        PoolIndex.open(tmp_path, rows)
    notes.write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        PoolIndex.open(tmp_path, rows)
    notes.write_text('{"kind": "x"}')
    with pytest.raises(FormatError, match="not version 1"):
        PoolIndex.open(tmp_path, rows)


def test_wrong_plans_are_refused(rows: Half, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="call nearest"):
        build_index(rows, make_plan(len(rows), "exact"), tmp_path, seed=0)
    with pytest.raises(UsageError, match=r"plan is for \(5, 32\)"):
        build_index(rows, make_plan(5), tmp_path, seed=0)
    with pytest.raises(UsageError, match="at least 256 rows, got 200; use exact"):
        build_index(make_rows(200), make_plan(200, "ivf_pq"), tmp_path, seed=0)
    assert not list(tmp_path.iterdir())


# --- recall ---


def test_recall_counts_equally_near_rows_and_not_empty_places() -> None:
    truth = Neighbours(
        np.array([[3, 4], [5, -1]]), np.array([[0.9, 0.8], [0.7, -np.inf]], np.float32)
    )
    twin = Neighbours(
        np.array([[3, 9], [-1, -1]]), np.array([[0.9, 0.8], [-np.inf] * 2], np.float32)
    )
    recall = compare(twin, truth)
    assert recall.value == pytest.approx(2 / 3)  # row 9 is as near as row 4; row 5 is missed
    assert (recall.queries, recall.at) == (2, 2)
    assert recall.low < recall.value < recall.high
    assert compare(truth, truth).value == 1


def test_wilson_interval_of_a_thousand() -> None:
    truth = Neighbours(np.zeros((1000, 1), np.int64), np.ones((1000, 1), np.float32))
    half = Neighbours(truth.indices, np.repeat(np.array([[1], [0.5]], np.float32), 500, axis=0))
    recall = compare(half, truth)
    assert (recall.value, recall.low, recall.high) == pytest.approx((0.5, 0.46907, 0.53093), 1e-4)


def test_recall_is_that_of_a_direct_comparison(rows: Half, tmp_path: Path) -> None:
    index = build_index(rows, make_plan(len(rows)), tmp_path, seed=0)
    index.settings = Settings(2, 1)
    drop = np.arange(len(rows))
    recall = measure_recall(index, rows, rows, count=8, queries=6000, seed=1, drop=drop)
    truth = nearest(rows, rows, count=8, drop=drop)
    found = index.search(rows, count=8, drop=drop)
    ids = np.mean(
        [len(set(a) & set(b)) / 8 for a, b in zip(*[truth.indices, found.indices], strict=True)]
    )
    assert recall.queries == 6000
    assert 0.3 < recall.value < 0.95
    assert recall.value == pytest.approx(ids, abs=0.02)  # copies count as equals


def test_tuning_reaches_the_target_and_reports_what_it_cannot(
    rows: Half, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = build_index(rows, make_plan(len(rows)), tmp_path, seed=0)
    index.settings = Settings(1, 1)
    low = measure_recall(index, rows, rows, count=8, queries=500, seed=0).value
    tuned = tune_probes(index, rows, rows, count=8, queries=500, seed=0, target=0.9)
    assert low < 0.9 <= tuned["recall"]["high"]
    assert tuned["is_reached"] and 1 < tuned["probes"] < index.lists
    assert not caplog.records
    index._candidates = lambda count: count // 2  # type: ignore[method-assign]  # a poor index
    tuned = tune_probes(index, rows, rows, count=8, queries=100, seed=0, target=0.9)
    assert not tuned["is_reached"]
    assert tuned["probes"] == index.lists
    assert "recall at 8 is 0.5" in caplog.text


def test_an_index_slower_than_exact_search_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = np.random.default_rng(0).standard_normal((3000, WIDTH))  # nothing to put into lists
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    summary = prepare_search(
        rows, rows, count=8, plan=make_plan(3000), workdir=tmp_path, seed=0, queries=300
    )
    assert summary["recall"]["high"] >= 0.95
    assert f"{summary['probes']} of {summary['lists']} lists must be read" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_settings_are_found_by_other_processes(
    kind: str, rows: Half, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare() -> dict[str, Any]:
        return prepare_search(
            rows,
            rows,
            count=8,
            plan=make_plan(len(rows), kind),
            workdir=tmp_path,
            seed=0,
            target_recall=0.95,
            queries=300,
        )

    summary = prepare()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["kind"] == kind and summary["reason"]
    assert summary["recall"]["high"] >= 0.95 and summary["recall"]["queries"] == 300
    opened = PoolIndex.open(tmp_path, rows)
    assert opened.settings == Settings(summary["probes"], summary["refine"])
    monkeypatch.setattr(search_index, "tune_probes", None)
    assert prepare() == summary  # from the file


def test_no_gpu_is_said_and_lists_are_read_on_the_cpu(
    rows: Half, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faiss = index_files.load_faiss()
    if getattr(faiss, "get_num_gpus", int)() > 0:
        pytest.skip("faiss has a GPU here")
    build_index(rows, make_plan(len(rows)), tmp_path, seed=0)
    index = search_index._on_device(object.__new__(faiss.IndexIVF), "cpu")
    assert not caplog.records and index is not None
    PoolIndex(tmp_path, rows, device="cuda:0")
    assert "faiss sees no GPU 0: lists are read on the CPU" in caplog.text


@pytest.mark.slow  # another process imports torch
def test_faiss_prints_nothing_and_is_loaded_late(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from conceptarchive.search.index import build_index, choose_search\n"
        "assert 'faiss' not in sys.modules\n"
        "rows = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)\n"
        "rows /= np.linalg.norm(rows, axis=1, keepdims=True)\n"
        "for kind in ('ivf_flat', 'ivf_pq'):\n"
        "    plan = choose_search(600, 600, 16, method=kind, memory_gib=2, matmul_tflops=.1)\n"
        "    build_index(rows, plan, Path(sys.argv[1]) / kind, seed=0)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
