"""Working on a Ray cluster: tasks go to actors, and come back from nodes that died."""

from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from conceptarchive.building.engine import Stage
from conceptarchive.building.job import Job
from conceptarchive.errors import ConceptArchiveError, UsageError

RETRIES = -1  # a lost actor is started anew elsewhere, and its tasks again, without limit


class RayEngine:
    """Ray Core: actors hold the job, one a worker, and do task after task.

    All nodes see the same file system. A task whose node dies is done again on another; as it
    writes its file under a temporary name first, nothing is left half-written.

    Args:
        address: of a running cluster ("auto" finds the one of this machine); None starts one here.
        workers: actors; by default one for every `cpus` of the cluster.
        cpus: CPU cores of an actor.
        gpus: GPUs of an actor, as 1 or 0.5.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """

    lock_name = ".lock"

    def __init__(
        self,
        *,
        address: str | None = None,
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
    ) -> None:
        self._ray = connect(address)
        total = float(self._ray.cluster_resources().get("CPU", 1.0))
        self.workers = workers or max(1, int(total // max(cpus, 1e-6)))
        self._options = {
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": RETRIES,
            "max_task_retries": RETRIES,
        }
        self._actors: list[Any] = []
        self._job: Job | None = None

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
        if self._job is not job:
            self._actors, self._job = self.start(_same, self._ray.put(job)), job
        self.map(self._actors, stage.run, todo, stage.name)

    def start(self, make: Callable[..., Any], *args: Any) -> list[Any]:
        """Start one actor for each worker; each makes a state of its own and keeps it."""
        actor = self._ray.remote(**self._options)(_Worker)
        return [actor.remote(make, *args) for _ in range(self.workers)]

    def map(
        self,
        actors: Sequence[Any],
        task: Callable[[Any, int], None],
        numbers: Sequence[int],
        name: str,
    ) -> None:
        """Call `task(state, number)` for every number, wherever an actor is free.

        Raises:
            ConceptArchiveError: as the task raised it; no further task is begun.
        """
        waiting, idle = list(reversed(numbers)), list(actors)
        running: dict[Any, Any] = {}
        with tqdm(desc=name, unit="task", total=len(numbers), disable=None) as line:
            while waiting or running:
                while waiting and idle:
                    actor = idle.pop()
                    running[actor.run.remote(task, waiting.pop())] = actor
                finished, _ = self._ray.wait(list(running))
                for reference in finished:
                    idle.append(running.pop(reference))
                    self._raise_fault(reference)
                    line.update()

    def _raise_fault(self, reference: Any) -> None:
        """Raise what a task raised: ours as itself."""
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConceptArchiveError):
                raise error.cause from error
            raise


class _Worker:
    """Holds a state in a process of its own, with all that is computed from it on the way."""

    def __init__(self, make: Callable[..., Any], *args: Any) -> None:
        self._state = make(*args)

    def run(self, task: Callable[[Any, int], None], number: int) -> None:
        """Do one task."""
        task(self._state, number)


def connect(address: str | None) -> Any:
    """The ray module, connected to a cluster.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray  # takes a second, and only this engine needs it
    except ImportError as error:
        raise UsageError(
            "engine ray needs Ray; install it with: pip install conceptarchive[ray]"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        except ConnectionError as error:
            raise UsageError(f"no Ray cluster answers at {address!r} ({error})") from error
    return ray


def _same(job: Job) -> Job:
    return job
