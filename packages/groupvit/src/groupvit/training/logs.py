"""The log of a run: a file of JSON lines, TensorBoard, and whether the loss is sound."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch.utils.tensorboard import SummaryWriter

from groupvit.config import TrainConfig
from groupvit.errors import GroupViTError
from groupvit.flops import peak_tflops, step_flops
from groupvit.precision import wants_bfloat16
from groupvit.texts import Texts
from groupvit.training.monitor import LossWatch

log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


class Meter:
    """Images a second, and the used share of the processor, since it was read last.

    Args:
        step: steps done so far.
        config: the recipe.
        device: what computes.
        world: number of ranks; all are assumed as busy as this one.
    """

    def __init__(self, step: int, config: TrainConfig, device: torch.device, world: int) -> None:
        self._step, self._config, self._world = step, config, world
        self._peak = config.machine.peak_tflops or _known_peak(config, device)
        self._flops = 0
        self._clock = time.perf_counter()

    def add(self, texts: Texts) -> None:
        """Count the work of a step of this rank; the texts are still on the CPU."""
        if self._peak:
            self._flops += step_flops(self._config.model, texts.shape[0], texts)

    def read(self, step: int) -> dict[str, float]:
        """`images_per_s` over all ranks and, where the peak is known, `mfu` up to step `step`."""
        now = time.perf_counter()
        seconds = now - self._clock
        rates = {"images_per_s": self._config.data.batch * (step - self._step) / seconds}
        if self._peak:
            rates["mfu"] = self._flops / seconds / (self._peak * 1e12)
        self._step, self._flops, self._clock = step, 0, now
        return rates


def _known_peak(config: TrainConfig, device: torch.device) -> float:
    """Of a GPU whose name is known and that computes in bfloat16, else 0."""
    if device.type != "cuda" or not wants_bfloat16(config.optim.precision, device):
        return 0.0
    return peak_tflops(torch.cuda.get_device_name(device))


class RunLog:
    """Where a run writes what it sees.

    Args:
        run: the run's folder.
        lines: the open file; None on ranks that do not write.
        board: TensorBoard's writer; None likewise.
        watch: what judges the loss, on all ranks alike.
    """

    def __init__(
        self, run: Path, lines: TextIO | None, board: SummaryWriter | None, watch: LossWatch
    ) -> None:
        self._run, self._lines, self._board, self._watch = run, lines, board, watch

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Add a line and, on the board, a point a figure.

        Raises:
            DivergedError: the loss has diverged.
            GroupViTError: the disk is full.
        """
        if self._lines is not None and self._board is not None:
            with _writing(self._run):
                self._lines.write(json.dumps({"step": step, **record}) + "\n")
                self._lines.flush()
                for name, value in record.items():
                    self._board.add_scalar(name, value, step)
        self._watch.see(record["loss"], step)


@contextmanager
def open_log(run: Path, start: int, config: TrainConfig, *, writes: bool) -> Iterator[RunLog]:
    """Open the log of a run; lines after step `start` belong to a killed run and go.

    Raises:
        GroupViTError: the folder cannot be written.
    """
    path = run / LOG_NAME
    kept = _kept_lines(path, start)
    watch = LossWatch(config.data, config.optim)
    for line in kept:
        record = json.loads(line)
        watch.see(record["loss"], record["step"])
    if not writes:
        yield RunLog(run, None, None, watch)
        return
    with _writing(run):
        run.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text("".join(line + "\n" for line in kept))
        unfinished.replace(path)
        board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        lines = path.open("a")
    try:
        yield RunLog(run, lines, board, watch)
    finally:
        with _writing(run):
            board.close()
            lines.close()


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    """Say in one line that the log cannot be written."""
    try:
        yield
    except OSError as error:
        raise GroupViTError(
            f"{run}: the log cannot be written ({error.strerror or error}); checkpoints are kept: "
            "make room and run the command again to go on"
        ) from error


def _kept_lines(path: Path, start: int) -> list[str]:
    """Lines up to a step. What cannot be read is left out, and told but for the last one."""
    old = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    steps = [_step_of(line) for line in old]
    if damaged := sum(step is None for step in steps[:-1]):
        log.warning("%s: %d damaged lines are left out", path, damaged)
    kept = zip(old, steps, strict=True)
    return [line for line, step in kept if step is not None and step <= start]


def _step_of(line: str) -> int | None:
    """None of a damaged line, such as the one that was being written when the run was killed."""
    try:
        record = json.loads(line)
        return int(record["step"]) if "\N{REPLACEMENT CHARACTER}" not in line else None
    except (ValueError, KeyError, TypeError):
        return None
