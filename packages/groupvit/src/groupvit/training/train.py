"""The training loop, readable top to bottom."""

import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from groupvit.training.checkpoint import find_checkpoints, resume, save_checkpoint
from groupvit.config import TrainConfig
from groupvit.data.pairs import PairDataset, batches, stream
from groupvit.errors import DivergedError, RecipeError
from groupvit.model.groupvit import GroupViT
from groupvit.data.prompts import TEMPLATE_SETS
from groupvit.training.schedule import build_optimizer, learning_rate
from groupvit.data.tokens import CONTEXT, VOCABULARY

log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where a run ended."""

    checkpoint: Path
    """Folder of the last checkpoint."""
    log: Path
    """One JSON object a line: step, losses, lr, gradient norm, images/s."""


def train(
    config: TrainConfig,
    dataset: PairDataset,
    run: Path,
    *,
    device: torch.device | None = None,
    label: str = "train",
) -> TrainResult:
    """Train a GroupViT, or go on where a killed run stopped.

    The weights, the order of the pairs, their augmentation and texts, and the noise of every step
    depend on the recipe alone: on a CPU a resumed run equals an unbroken one bit for bit.

    Args:
        config: the recipe.
        dataset: pairs; its `concepts`, `seed` and `templates` are those of `config.data`.
        run: folder of checkpoints, log and TensorBoard events.
        device: where to compute; the first GPU if there is one, else the CPU.
        label: what the progress bar calls the run.

    Raises:
        RecipeError: `dataset` is not that of the recipe, or the text tower cannot read its tokens.
        DataError: fewer pairs than a batch.
        CheckpointError: `run` holds another recipe's checkpoint, or a damaged one.
        DivergedError: the loss is no longer a number; the last checkpoint is kept.
    """
    _check_fits(dataset, config)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(_step_seed(config.seed, "weights"))
    model = GroupViT(config.model).to(device).train()
    optimizer = build_optimizer(model, config.optim)

    start, total = _resume(run, model, optimizer, config), config.optim.total_steps
    loader = batches(
        dataset, batch=config.data.batch, workers=config.data.workers, start=start, stop=total
    )
    with _logs(run, start) as (lines, board):
        bar = tqdm(loader, total=total, initial=start, desc=label, unit="step", disable=None)
        meter = _Meter(start, config.data.batch)
        for done, (images, tokens) in enumerate(bar, start + 1):
            torch.manual_seed(_step_seed(config.seed, done - 1))
            rate = learning_rate(done - 1, config.optim)
            losses, norm = training_step(model, optimizer, images, tokens, config, rate)
            logs = done % config.log_every == 0 or done == total
            saves = done % config.checkpoint_every == 0 or done == total
            if logs:
                record = _record(done, losses, norm, rate, meter.read(done), model)
                _write(record, lines, board)
                bar.set_postfix(
                    loss=f"{record['loss']:.3f}", images_s=round(record["images_per_s"])
                )
            if logs or saves:
                _check_finite(losses, norm, done, run)
            if saves:
                save_checkpoint(run, model, optimizer, config, done)
    return TrainResult(find_checkpoints(run)[-1].folder, run / LOG_NAME)


def _check_fits(dataset: PairDataset, config: TrainConfig) -> None:
    """Refuse a data set drawn by another recipe, or a text tower too small for any caption."""
    text = config.model.text
    if text.context < CONTEXT or text.vocabulary < VOCABULARY:
        raise RecipeError(
            f"training needs model.text.context >= {CONTEXT} and vocabulary >= {VOCABULARY}, "
            f"got {text.context} and {text.vocabulary}"
        )
    names = {templates: name for name, templates in TEMPLATE_SETS.items()}
    for field, drawn in (
        ("concepts", dataset.concepts),
        ("seed", dataset.seed),
        ("templates", names.get(dataset.templates, "neither")),
    ):
        wanted = getattr(config.data, field)
        if drawn != wanted:
            raise RecipeError(f"the recipe has data.{field} = {wanted!r}, the data set {drawn!r}")


class _Meter:
    """Images a second over the steps since it was read last.

    Args:
        step: steps done so far.
        batch: images a step.
    """

    def __init__(self, step: int, batch: int) -> None:
        self._step, self._batch = step, batch
        self._clock = time.perf_counter()

    def read(self, step: int) -> float:
        """Images a second up to step `step`."""
        now = time.perf_counter()
        speed = self._batch * (step - self._step) / (now - self._clock)
        self._step, self._clock = step, now
        return speed


def _resume(
    run: Path, model: GroupViT, optimizer: torch.optim.Optimizer, config: TrainConfig
) -> int:
    """Load the newest checkpoint of a run, if there is one; the first step to do."""
    checkpoints = find_checkpoints(run)
    if not checkpoints:
        return 0
    resume(checkpoints[-1], model, optimizer, config)
    log.info("going on at step %d of %s", checkpoints[-1].step, run)
    return checkpoints[-1].step


def _check_finite(losses: dict[str, Tensor], norm: Tensor, done: int, run: Path) -> None:
    """Stop before weights that are not numbers replace the last good checkpoint."""
    loss = sum(float(value) for value in losses.values())
    if not (math.isfinite(loss) and math.isfinite(float(norm))):
        raise DivergedError(
            f"loss is {loss} and gradient norm {float(norm)} at step {done}; the last checkpoint "
            f"is kept in {run}: lower optim.lr, or set data.concepts = 0"
        )


def training_step(
    model: GroupViT,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    tokens: Tensor,
    config: TrainConfig,
    rate: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of AdamW.

    Args:
        model: in training mode.
        optimizer: of the model.
        images: (B, 3, H, W).
        tokens: (B, 1 + L, T).
        config: the recipe.
        rate: learning rate of this step.

    Returns:
        losses: detached scalars by name.
        norm: global gradient norm before clipping.
    """
    device = model.logit_scale.device
    images, tokens = (x.to(device, non_blocking=True) for x in (images, tokens))
    with torch.autocast(device.type, torch.bfloat16, enabled=config.optim.precision == "bfloat16"):
        losses = model(images, tokens)
        loss = torch.stack(list(losses.values())).sum()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_grad_norm)
    optimizer.step()
    return {name: value.detach() for name, value in losses.items()}, norm


def _step_seed(seed: int, step: int | str) -> int:
    return int(stream(seed, "noise", step).integers(2**62))


def _record(
    step: int, losses: dict[str, Tensor], norm: Tensor, rate: float, speed: float, model: GroupViT
) -> dict[str, float]:
    values = {name: float(value) for name, value in losses.items()}
    return {
        "step": step,
        "loss": sum(values.values()),
        **values,
        "lr": rate,
        "grad_norm": float(norm),
        "logit_scale": float(model.scale.detach()),
        "images_per_s": speed,
    }


@contextmanager
def _logs(run: Path, start: int) -> Iterator[tuple[TextIO, SummaryWriter]]:
    """Open the log and TensorBoard; lines after step `start` belong to a killed run and go."""
    path = run / LOG_NAME
    old = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in old if _step_of(line) <= start]
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text("".join(line + "\n" for line in kept))
    unfinished.replace(path)
    board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1)
    with path.open("a") as lines:
        try:
            yield lines, board
        finally:
            board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:  # the line that was being written when the run was killed
        return math.inf


def _write(record: dict[str, float], lines: TextIO, board: SummaryWriter) -> None:
    lines.write(json.dumps(record) + "\n")
    lines.flush()
    for name, value in record.items():
        if name != "step":
            board.add_scalar(name, value, int(record["step"]))
