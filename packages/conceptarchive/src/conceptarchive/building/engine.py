"""Who runs the tasks of a build: this process, one of several, or a Ray cluster.

A task reads shared files and writes one file under its final name, so that any process may run it
at any time, twice or not at all: what counts is whether its file is there.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from conceptarchive.building.job import Job
from conceptarchive.errors import IncompleteError, UsageError
from conceptarchive.lock import folder_lock
from conceptarchive.progress import progress

log = logging.getLogger(__name__)

POLL_S = 1.0  # seconds between looks at what other processes have done


@dataclass(frozen=True)
class Stage:
    """Tasks that do not depend on each other.

    Attributes:
        name: for progress.
        numbers: of its tasks.
        is_done: whether a task's file is there.
        run: a module-level function that does one task.
        alone: whether its one task is to run where the build was started.
    """

    name: str
    numbers: Sequence[int]
    is_done: Callable[[int], bool]
    run: Callable[[Job, int], None]
    alone: bool = False

    def todo(self) -> list[int]:
        """Tasks that are not done."""
        return [number for number in self.numbers if not self.is_done(number)]


class Engine(Protocol):
    """Runs stages; each returns when all its tasks are done.

    Attributes:
        workers: processes that share a stage, as far as is known.
    """

    workers: int

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Keep out processes of other runs."""
        ...

    def run(self, stage: Stage, job: Job) -> None:
        """Do the tasks of a stage that are not done."""
        ...


class LocalEngine:
    """One process, task after task; each task uses all cores."""

    workers = 1

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Keep out all other processes."""
        return folder_lock(folder)

    def run(self, stage: Stage, job: Job) -> None:
        """Do the tasks of a stage that are not done."""
        todo = stage.todo()
        for number in tasks_left(stage, todo):
            stage.run(job, number)


class ArrayEngine:
    """One process of several that share a file system and know nothing else of each other.

    Process i of n does every n-th task and waits for the files of the others. Started as a job
    array, each with its own index, in any order.

    Args:
        index: which process this is, in [0, count).
        count: number of processes.
        wait_s: seconds to wait for the others in each stage.

    Raises:
        UsageError: an index out of range.
    """

    def __init__(self, index: int, count: int, *, wait_s: float = 86_400.0) -> None:
        if count < 1 or not 0 <= index < count:
            raise UsageError(f"shard-index must be in [0, shard-count = {count}), got {index}")
        self.index, self.workers, self.wait_s = index, count, wait_s

    @contextmanager
    def lock(self, folder: Path) -> Iterator[None]:
        """Keep out processes that are not of this array, or have the same index."""
        with folder_lock(folder, shared=True), folder_lock(folder, name=f".lock-{self.index}"):
            yield

    def run(self, stage: Stage, job: Job) -> None:
        """Do this process's tasks of a stage, then wait for the others'.

        A finished build has removed the files of stages between: then there is nothing to wait for.

        Raises:
            IncompleteError: the others took longer than `wait_s`.
        """
        own = stage.numbers[self.index :: self.workers]
        for number in tasks_left(stage, [number for number in own if not stage.is_done(number)]):
            stage.run(job, number)
        deadline = time.monotonic() + self.wait_s
        left = stage.todo()
        while left and not job.is_complete:
            if time.monotonic() >= deadline:
                raise IncompleteError(
                    f"{job.out}: {stage.name}: {len(left)} of {len(stage.numbers)} tasks of other "
                    "processes are missing; start those, then this one again"
                )
            time.sleep(POLL_S)
            left = [number for number in left if not stage.is_done(number)]


def tasks_left(stage: Stage, todo: Sequence[int]) -> tqdm:
    """The tasks to do, with their progress on standard error."""
    done = len(stage.numbers) - len(todo)
    return progress(todo, desc=stage.name, unit="task", initial=done, total=done + len(todo))
