"""The log of a run: a file of JSON lines, TensorBoard, and whether the loss is sound."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch
from torch.utils.tensorboard import SummaryWriter

from groupvit.config import TrainConfig
from groupvit.flops import PEAKS, step_flops
from groupvit.texts import Texts
from groupvit.training.monitor import LossWatch

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
        self._peak = config.machine.peak_tflops or _peak_tflops(device)
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


def _peak_tflops(device: torch.device) -> float:
    """Of a GPU whose name is known, else 0."""
    if device.type != "cuda":
        return 0.0
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAKS.items() if known in name.split()), 0.0)


class RunLog:
    """Where a run writes what it sees.

    Args:
        lines: the open file; None on ranks that do not write.
        board: TensorBoard's writer; None likewise.
        watch: what judges the loss, on all ranks alike.
    """

    def __init__(self, lines: TextIO | None, board: SummaryWriter | None, watch: LossWatch) -> None:
        self._lines, self._board, self._watch = lines, board, watch

    def write(self, step: int, record: Mapping[str, float]) -> None:
        """Add a line and, on the board, a point a figure.

        Raises:
            DivergedError: the loss has diverged.
        """
        if self._lines is not None and self._board is not None:
            self._lines.write(json.dumps({"step": step, **record}) + "\n")
            self._lines.flush()
            for name, value in record.items():
                self._board.add_scalar(name, value, step)
        self._watch.see(record["loss"], step)


@contextmanager
def open_log(run: Path, start: int, config: TrainConfig, *, writes: bool) -> Iterator[RunLog]:
    """Open the log of a run; lines after step `start` belong to a killed run and go."""
    path = run / LOG_NAME
    kept = _kept_lines(path, start)
    watch = LossWatch(config.data, config.optim)
    for line in kept:
        watch.see(json.loads(line)["loss"], _step_of(line))
    if not writes:
        yield RunLog(None, None, watch)
        return
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(line + "\n" for line in kept))
    unfinished.replace(path)
    board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
    with path.open("a") as lines:
        try:
            yield RunLog(lines, board, watch)
        finally:
            board.close()


def _kept_lines(path: Path, start: int) -> list[str]:
    old = path.read_text().splitlines() if path.exists() else []
    return [line for line in old if _step_of(line) <= start]


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except json.JSONDecodeError:  # the line that was being written when the run was killed
        return 2**63
