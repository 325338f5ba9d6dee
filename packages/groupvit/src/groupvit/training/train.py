"""The training loop, readable top to bottom. Runs alone, or as ranks started by torchrun."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from groupvit.config import TextConfig, TrainConfig
from groupvit.data.concepts import check_source
from groupvit.data.pairs import PairDataset, batches
from groupvit.data.prompts import TEMPLATE_SETS
from groupvit.data.streams import stream
from groupvit.data.tokens import CONTEXT, VOCABULARY
from groupvit.device import default_device
from groupvit.errors import DivergedError, RecipeError
from groupvit.model.groupvit import GroupViT
from groupvit.model.noise import step_noise
from groupvit.progress import progress
from groupvit.training.checkpoint import find_checkpoints, resume, save_checkpoint
from groupvit.training.launch import Ranks
from groupvit.training.logs import LOG_NAME, Meter, open_log
from groupvit.training.monitor import group_statistics
from groupvit.training.schedule import build_optimizer, learning_rate
from groupvit.training.step import training_step

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where a run ended."""

    checkpoint: Path
    """Folder of the last checkpoint."""
    log: Path
    """One JSON object a line, described in the package's README."""


def train(
    config: TrainConfig,
    dataset: PairDataset,
    run: Path | str,
    *,
    device: torch.device | None = None,
    label: str = "train",
) -> TrainResult:
    """Train a GroupViT, or go on where a killed run stopped.

    The weights, the order of the pairs, their augmentation and texts, and the noise of every step
    depend on the recipe alone: on a CPU a resumed run equals an unbroken one bit for bit. Over W
    ranks of a process group each takes a W-th of every batch, and what is learnt is the same but
    for rounding.

    Args:
        config: the recipe.
        dataset: pairs; its `concepts`, `seed` and `templates` are those of `config.data`.
        run: folder of checkpoints, log and TensorBoard events.
        device: where to compute; the first GPU if there is one, else the CPU.
        label: what the progress bar calls the run.

    Raises:
        RecipeError: `dataset` is not that of the recipe, the text tower cannot read its tokens, or
            the batch is no multiple of the ranks.
        DataError: fewer pairs than a batch, or data that cannot be read.
        CheckpointError: `run` holds another recipe's checkpoint, or a damaged one, or the disk is
            full; older checkpoints are kept.
        GroupViTError: the log cannot be written.
        DivergedError: the loss is no longer a number, or has diverged; earlier checkpoints are
            kept.
    """
    _check_fits(dataset, config)
    run = Path(run)
    ranks, device = Ranks.current(), device or default_device()
    data, total = config.data, config.optim.total_steps
    model = build_model(config, device, ranks)
    optimizer = build_optimizer(model, config.optim)
    pool = dataset.fingerprint
    start = _resume(run, model, optimizer, config, pool)
    loader = batches(
        dataset,
        batch=data.batch,
        workers=data.workers,
        start=start,
        stop=total,
        rank=ranks.rank,
        world=ranks.world,
    )
    shared = model if ranks.group is None else _averaging(model, ranks)
    first = ranks.rank * (data.batch // ranks.world)  # of this rank's pairs in a batch
    with open_log(run, start, config, writes=ranks.is_first) as log_file:
        about = {"total": total, "initial": start, "desc": label, "unit": "step"}
        bar = progress(loader, shown=ranks.is_first, **about)
        meter = Meter(start, config, device, ranks.world)
        for done, (images, texts) in enumerate(bar, start + 1):
            noise = step_noise(_step_seed(config.seed, done - 1), first, device=device)
            rate = learning_rate(done - 1, config.optim)
            losses, norm = training_step(
                shared, optimizer, images, texts, noise, config.optim, rate
            )
            meter.add(texts)
            logs = done % config.log_every == 0 or done == total
            saves = done % config.checkpoint_every == 0 or done == total
            if logs or saves:
                record = _record(losses, norm, model, ranks) | {"lr": rate}
                _check_finite(record, done, run)
            if logs:
                record |= group_statistics(model, images) | meter.read(done)
                log_file.write(done, record)
                told = {"loss": f"{record['loss']:.3f}", "images_s": int(record["images_per_s"])}
                bar.set_postfix(told, refresh=False)
            if saves and ranks.is_first:
                save_checkpoint(run, model, optimizer, config, done, pairs=pool)
    ranks.wait()
    return TrainResult(find_checkpoints(run)[-1].folder, run / LOG_NAME)


def _check_fits(dataset: PairDataset, config: TrainConfig) -> None:
    """Refuse a data set drawn by another recipe, or a text tower too small for any caption."""
    check_reads_captions(config.model.text)
    names = {templates: name for name, templates in TEMPLATE_SETS.items()}
    for field, drawn in (
        ("concepts", dataset.concepts),
        ("seed", dataset.seed),
        ("templates", names.get(dataset.templates, "neither")),
    ):
        wanted = getattr(config.data, field)
        if drawn != wanted:
            raise RecipeError(f"the recipe has data.{field} = {wanted!r}, the data set {drawn!r}")
    check_source(config.data, dataset.source)


def check_reads_captions(text: TextConfig) -> None:
    """Refuse a text tower that cannot be trained.

    Raises:
        RecipeError: fewer positions or words than captions have.
    """
    if text.context < CONTEXT or text.vocabulary < VOCABULARY:
        raise RecipeError(
            f"training needs model.text.context >= {CONTEXT} and vocabulary >= {VOCABULARY}, "
            f"got {text.context} and {text.vocabulary}"
        )


def build_model(config: TrainConfig, device: torch.device, ranks: Ranks) -> GroupViT:
    """Build the model of a recipe with its initial weights, the same on all ranks."""
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(config.machine.cudnn_attention)
    torch.manual_seed(_step_seed(config.seed, "weights"))
    model = GroupViT(config.model).to(device).train()
    if model.multi_label_logit_scale is not None and not config.data.concepts:
        model.multi_label_logit_scale.requires_grad = False  # no loss uses it
    model.chunk = config.machine.chunk
    model.recompute(wanted=config.machine.recompute)
    model.distribute(ranks.group)
    if config.machine.compile:
        model.compile_towers()
    return model


def _averaging(model: GroupViT, ranks: Ranks) -> DistributedDataParallel:
    """The model with gradients that are averaged over ranks."""
    return DistributedDataParallel(model, process_group=ranks.group, gradient_as_bucket_view=True)


def _resume(
    run: Path, model: GroupViT, optimizer: Optimizer, config: TrainConfig, pairs: str
) -> int:
    """Load the newest checkpoint of a run, if there is one; the first step to do."""
    checkpoints = find_checkpoints(run)
    if not checkpoints:
        return 0
    resume(checkpoints[-1], model, optimizer, config, pairs=pairs)
    log.info("going on at step %d of %s", checkpoints[-1].step, run)
    return checkpoints[-1].step


def _step_seed(seed: int, step: int | str) -> int:
    return int(stream(seed, "noise", step).integers(2**62))


def _record(
    losses: Mapping[str, Tensor], norm: Tensor, model: GroupViT, ranks: Ranks
) -> dict[str, float]:
    """What a line of the log says of a step; losses are means over ranks."""
    means = ranks.mean(torch.stack(list(losses.values()))).tolist()
    values = dict(zip(losses, means, strict=True))
    record = {"loss": sum(means), **values, "grad_norm": float(norm)}
    record["logit_scale"] = float(model.scale.detach())
    if model.multi_label_scale is not None:
        record["multi_label_logit_scale"] = float(model.multi_label_scale.detach())
    return record


def _check_finite(record: Mapping[str, float], step: int, run: Path) -> None:
    """Stop before weights that are not numbers replace the last good checkpoint."""
    loss, norm = record["loss"], record["grad_norm"]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise DivergedError(
            f"loss is {loss} and gradient norm {norm} at step {step}; the last checkpoint is kept "
            f"in {run}: on a GPU go on from it with machine.cudnn_attention = false, or train in "
            "another folder with a lower optim.lr"
        )
