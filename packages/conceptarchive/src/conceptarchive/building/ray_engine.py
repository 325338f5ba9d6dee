"""Working on a Ray cluster: tasks go to actors, and are done again elsewhere when a node dies."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from conceptarchive.building.engine import Stage
from conceptarchive.building.job import Job
from conceptarchive.errors import ConceptArchiveError, IncompleteError, UsageError
from conceptarchive.lock import folder_lock

MOST_LOSSES = 3  # of the actor that does one task
THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


class RayEngine:
    """Ray Core: actors hold the job, one a worker, and do task after task.

    All nodes see the same file system. The task of an actor that is lost is given to another, and a
    new actor is asked for, which joins in when the cluster has room for it.

    Args:
        address: of a running cluster ("auto" finds the one of this machine); None starts one here.
        workers: actors; by default one for every `cpus` of the cluster.
        cpus: CPU cores of an actor.
        gpus: GPUs of an actor, as 1 or 0.5.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        if cpus <= 0 or gpus < 0 or (workers is not None and workers < 1):
            raise UsageError(
                f"cpus must be > 0, gpus >= 0, workers >= 1, got {cpus}, {gpus}, {workers}"
            )
        self._ray = connect(address)
        self.workers = workers or self._room(cpus, gpus)
        threads = {name: str(max(1, int(cpus))) for name in THREADS}
        self._actor = self._ray.remote(
            num_cpus=cpus, num_gpus=gpus, runtime_env={"env_vars": threads}
        )(_Worker)
        self._team: _Team | None = None
        self._job: Job | None = None

    def _room(self, cpus: float, gpus: float) -> int:
        """Actors that the nodes have room for.

        Raises:
            UsageError: none of them has.
        """
        rooms = 0
        for node in self._ray.nodes():
            has = node["Resources"] if node["Alive"] else {}
            room = has.get("CPU", 0) // cpus
            rooms += int(min(room, has.get("GPU", 0) // gpus) if gpus else room)
        if rooms == 0:
            raise UsageError(f"no node of the cluster has {cpus} CPUs and {gpus} GPUs for an actor")
        return rooms

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Keep out all other runs."""
        return folder_lock(folder)

    def run(self, stage: Stage, job: Job) -> None:
        """Do the tasks of a stage that are not done, each where an actor is free.

        Raises:
            ConceptArchiveError: as the task raised it.
        """
        todo = stage.todo()
        if stage.alone:
            for number in todo:
                stage.run(job, number)
            return
        if self._team is None or self._job is not job:
            self._team, self._job = self.start(_same, self._ray.put(job)), job
        self._team.map(stage.run, todo, stage.name)

    def start(self, make: Callable[..., Any], *args: Any) -> "_Team":
        """Start one actor for each worker; each makes a state of its own and keeps it."""
        return _Team(self._ray, lambda: self._actor.remote(make, *args), self.workers)


class _Team:
    """Actors of one state, and what each is doing."""

    def __init__(self, ray: Any, hire: Callable[[], Any], size: int) -> None:
        self._ray, self._hire = ray, hire
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int | None]] = {}  # None while it gets ready
        for _ in range(size):
            self._add()

    def map(self, task: Callable[[Any, int], None], numbers: Sequence[int], name: str) -> None:
        """Call `task(state, number)` for every number, wherever an actor is free.

        Raises:
            ConceptArchiveError: as the task raised it; no further task is begun.
        """
        waiting, left = list(reversed(numbers)), set(numbers)
        losses: Counter[int] = Counter()
        with tqdm(desc=name, unit="task", total=len(numbers), disable=None) as line:
            while left:
                while waiting and self._idle:
                    actor, number = self._idle.pop(), waiting.pop()
                    self._busy[actor.run.remote(task, number)] = (actor, number)
                finished, _ = self._ray.wait(list(self._busy))
                for reference in finished:
                    actor, done = self._busy.pop(reference)
                    if not self._is_done(reference):
                        self._add()
                        if done is not None:
                            losses[done] += 1
                            waiting.append(done)
                            _refuse_repeated_loss(name, done, losses[done])
                        continue
                    self._idle.append(actor)
                    if done is not None:
                        left.remove(done)
                        line.update()

    def _add(self) -> None:
        """Ask for another actor; it is busy until it is there."""
        actor = self._hire()
        self._busy[actor.get_ready.remote()] = (actor, None)

    def _is_done(self, reference: Any) -> bool:
        """Whether a task was done; false when its actor was lost. Raises what the task raised."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConceptArchiveError | ValueError):
                raise error.cause from error
            raise
        except self._ray.exceptions.RayActorError:
            return False
        return True


class _Worker:
    """Holds a state in a process of its own, with all that is computed from it on the way."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._make, self._args = make, args

    def get_ready(self) -> None:
        """Make the state."""
        self._state = self._make(*self._args)

    def run(self, task: Callable[[Any, int], None], number: int) -> None:
        """Do one task."""
        task(self._state, number)


def _refuse_repeated_loss(name: str, number: int, times: int) -> None:
    """Raise IncompleteError when one task has taken several actors with it."""
    if times >= MOST_LOSSES:
        raise IncompleteError(
            f"{name}: task {number} lost its worker {times} times, as when memory runs out; "
            "give actors more cpus, so that fewer share a node, and start again"
        )


def connect(address: str | None) -> Any:
    """The ray module, connected to a cluster.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray  # takes a second, and only this engine needs it
    except ImportError as error:
        raise UsageError("engine ray needs Ray; install it with: pip install ray") from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except ConnectionError as error:
            raise UsageError(f"no Ray cluster answers at {address!r} ({error})") from error
    return ray


def _same(job: Job) -> Job:
    return job
