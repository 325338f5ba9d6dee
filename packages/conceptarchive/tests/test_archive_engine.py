import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from conceptarchive import ConceptArchive, build_archive
from conceptarchive.building.engine import ArrayEngine, LocalEngine, Stage
from conceptarchive.building.job import Job
from conceptarchive.errors import IncompleteError, UsageError

MakePairs = Callable[..., tuple[object, object, object]]


class FakeJob:
    """All that engines ask of a job."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.is_complete = False


def write(job: Job, number: int) -> None:
    (job.out / f"{number}").write_text(f"{number}", encoding="utf-8")


def stage(out: Path, count: int) -> Stage:
    return Stage("write", range(count), lambda number: (out / f"{number}").is_file(), write)


def job_of(out: Path) -> Job:
    return cast("Job", FakeJob(out))


def test_done_tasks_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("mine", encoding="utf-8")
    LocalEngine().run(stage(tmp_path, 3), job_of(tmp_path))
    assert [(tmp_path / f"{n}").read_text(encoding="utf-8") for n in range(3)] == ["0", "mine", "2"]


def test_array_processes_share_a_stage_and_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conceptarchive.building.engine.POLL_S", 0.01)
    engines = [ArrayEngine(index, 3, wait_s=20) for index in range(3)]
    threads = [
        threading.Thread(target=engine.run, args=(stage(tmp_path, 7), job_of(tmp_path)))
        for engine in engines[1:]
    ]
    for thread in threads:
        thread.start()
    assert all(thread.is_alive() for thread in threads)  # they wait for the first
    engines[0].run(stage(tmp_path, 7), job_of(tmp_path))
    for thread in threads:
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n}" for n in range(7)]


def test_missing_processes_are_named_after_the_wait(tmp_path: Path) -> None:
    engine = ArrayEngine(1, 4, wait_s=0)
    with pytest.raises(IncompleteError, match="write: 7 of 9 tasks of other processes"):
        engine.run(stage(tmp_path, 9), job_of(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "5"]


def test_nobody_waits_for_files_that_a_finished_build_removed(tmp_path: Path) -> None:
    job = FakeJob(tmp_path)
    job.is_complete = True
    ArrayEngine(1, 4, wait_s=0).run(stage(tmp_path, 9), cast("Job", job))


@pytest.mark.parametrize(("index", "count"), [(4, 4), (-1, 2), (0, 0)])
def test_indices_out_of_range_are_refused(index: int, count: int) -> None:
    with pytest.raises(UsageError, match="shard-index"):
        ArrayEngine(index, count)


def build_as(index: int, folder: Path, inputs: dict[str, object]) -> None:
    build_archive(
        folder, engine=ArrayEngine(index, 3, wait_s=60), shard_rows=17,
        **inputs,  # type: ignore[arg-type]  # mixed values
    )  # fmt: skip


@pytest.mark.slow
def test_array_of_processes_builds_the_same_archive(tmp_path: Path, make_pairs: MakePairs) -> None:
    pool, vocabulary, features = make_pairs(150)
    inputs = {"anchors": pool, "pool": pool, "vocabulary": vocabulary, "concept_features": features}
    build_archive(tmp_path / "alone", shard_rows=17, **inputs)  # type: ignore[arg-type]  # mixed
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=build_as, args=(index, tmp_path / "array", inputs))
        for index in (2, 0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    alone, array = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("alone", "array")
    )
    assert alone == array
    assert len(ConceptArchive.open(tmp_path / "array")) == 150


def test_a_process_alone_and_a_job_array_exclude_each_other(tmp_path: Path) -> None:
    with ArrayEngine(0, 2).lock(tmp_path), ArrayEngine(1, 2).lock(tmp_path):
        with pytest.raises(UsageError, match="another process"), LocalEngine().lock(tmp_path):
            pass
        with pytest.raises(UsageError, match="another process"), ArrayEngine(1, 3).lock(tmp_path):
            pass
    with (
        LocalEngine().lock(tmp_path),
        pytest.raises(UsageError, match="another process"),
        ArrayEngine(0, 2).lock(tmp_path),
    ):
        pass
