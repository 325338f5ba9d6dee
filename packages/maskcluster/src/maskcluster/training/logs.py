"""The log of a run: a file of JSON lines, TensorBoard, pictures of clusters, warnings."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from maskcluster.config import TrainConfig
from maskcluster.errors import MaskClusterError
from maskcluster.files import replacing
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.precision import wants_bfloat16
from maskcluster.training.flops import peak_tflops, step_flops
from maskcluster.training.monitor import ClusterWatch, Figure, LossWatch
from maskcluster.training.pictures import Picture

log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"
PICTURE_NAME = "clusters.png"
"""The newest picture of clusters; TensorBoard has the older ones too."""


class Meter:
    """Images and masks a second, and the used share of the processor, since it was read last.

    Args:
        step: steps done so far.
        masks: masks seen so far.
        config: the recipe.
        model: whose work is counted, where the peak of the processor is known.
        device: what computes.
        world: number of ranks.
    """

    def __init__(
        self,
        step: int,
        masks: int,
        config: TrainConfig,
        model: PixelCLIP,
        device: torch.device,
        *,
        world: int = 1,
    ) -> None:
        self._step, self._masks, self._images = step, masks, config.data.batch
        peak = config.machine.peak_tflops or _known_peak(config, device)
        self._peak = peak * world * 1e12
        self._flops = step_flops(model, config) if peak else 0
        self._clock = time.perf_counter()

    def read(self, step: int, masks: int) -> dict[str, Figure]:
        """`images_per_s` and `masks_per_s` over all ranks and, where it is known, `mfu`."""
        now = time.perf_counter()
        steps, seconds = step - self._step, now - self._clock
        rates: dict[str, Figure] = {
            "images_per_s": self._images * steps / seconds,
            "masks_per_s": (masks - self._masks) / seconds,
        }
        if self._flops:
            rates["mfu"] = self._flops * steps / seconds / self._peak
        self._step, self._masks, self._clock = step, masks, now
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
        clusters: what judges the clusters, on all ranks alike.
        losses: what judges the loss, likewise.
    """

    def __init__(
        self,
        run: Path,
        lines: TextIO | None,
        board: SummaryWriter | None,
        clusters: ClusterWatch,
        losses: LossWatch,
    ) -> None:
        self._run, self._lines, self._board = run, lines, board
        self._clusters, self._losses = clusters, losses

    def write(self, step: int, record: Mapping[str, Figure]) -> None:
        """Add a line and, on the board, a point or a histogram a figure; warn where it is due.

        Raises:
            DivergedError: the loss has diverged.
            MaskClusterError: the disk is full.
        """
        warnings = self._clusters.see(record)
        if self._lines is not None and self._board is not None:
            for warning in warnings:
                log.warning("%s: step %d: %s", self._run, step, warning)
            with _writing(self._run):
                said = {"warning": "; ".join(warnings)} if warnings else {}
                self._lines.write(json.dumps({"step": step, **record, **said}) + "\n")
                self._lines.flush()
                for name, value in record.items():
                    if isinstance(value, list):
                        self._board.add_histogram(name, np.asarray(value), step)
                    else:
                        self._board.add_scalar(name, value, step)
                for warning in warnings:
                    self._board.add_text("warning", warning, step)
        loss = record["loss"]
        assert isinstance(loss, float)
        self._losses.see(loss, step)

    def show(self, step: int, picture: Picture) -> None:
        """Put a picture of clusters on the board and in the run's folder.

        Raises:
            MaskClusterError: the disk is full.
        """
        if self._board is None:
            return
        with _writing(self._run):
            self._board.add_image("clusters", picture, step, dataformats="HWC")
            with replacing(self._run / PICTURE_NAME) as part:
                Image.fromarray(picture).save(part, "PNG")


@contextmanager
def open_log(run: Path, start: int, config: TrainConfig, *, writes: bool) -> Iterator[RunLog]:
    """Open the log of a run; lines after step `start` belong to a killed run and go.

    Raises:
        MaskClusterError: the folder cannot be written.
    """
    path = run / LOG_NAME
    kept = _kept_lines(path, start)
    clusters, losses = ClusterWatch(config), LossWatch(config.optim.warmup_steps)
    for line in kept:
        record = json.loads(line)
        clusters.see(record)
        losses.see(record["loss"], record["step"])
    if not writes:
        yield RunLog(run, None, None, clusters, losses)
        return
    with _writing(run):
        run.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text("".join(line + "\n" for line in kept))
        unfinished.replace(path)
        board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
        lines = path.open("a")
    try:
        yield RunLog(run, lines, board, clusters, losses)
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
        raise MaskClusterError(
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
