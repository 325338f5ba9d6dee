"""The training loop, readable top to bottom. Runs alone, or as ranks started by torchrun."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from maskcluster.config import TrainConfig
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.data.streams import stream
from maskcluster.device import default_device
from maskcluster.errors import DivergedError, RecipeError
from maskcluster.files import folder_lock
from maskcluster.model.clip import Clip
from maskcluster.model.pixelclip import PixelCLIP, StepOutput
from maskcluster.precision import float32_products
from maskcluster.progress import progress
from maskcluster.training.checkpoint import (
    clear_unfinished,
    find_checkpoints,
    resume,
    save_checkpoint,
)
from maskcluster.training.launch import Ranks
from maskcluster.training.logs import LOG_NAME, Meter, open_log
from maskcluster.training.monitor import Figure, Tally, cluster_statistics
from maskcluster.training.pictures import draw_clusters
from maskcluster.training.schedule import build_optimizer, rate_share, set_rates
from maskcluster.training.step import training_step

log = logging.getLogger(__name__)

PICTURE_EVERY = 10
"""Lines of the log for one picture of clusters; the first and the last line have one."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Where a run ended."""

    checkpoint: Path
    """Folder of the last checkpoint."""
    log: Path
    """One JSON object a line, described in the package's README."""


def train(
    config: TrainConfig,
    dataset: MaskedPhotos,
    run: Path | str,
    *,
    device: torch.device | None = None,
    label: str = "train",
    clip: Clip | None = None,
    start: Tensor | None = None,
) -> TrainResult:
    """Tune a CLIP model with masks, or go on where a killed run stopped.

    The first weights, the order of photographs, their views, and the noise of every step depend on
    the recipe alone: on a CPU a resumed run equals an unbroken one bit for bit. Over W ranks of a
    process group each takes a W-th of every batch, and what is learnt is the same but for rounding
    (and, in a tower that has it, for the draws of stochastic depth).

    Args:
        config: the recipe.
        dataset: photographs and masks, with `config.views` and the seed of `config.data`.
        run: folder of checkpoints, log, TensorBoard events and a picture of clusters.
        device: where to compute; the first GPU if there is one, else the CPU.
        label: what the progress bar calls the run.
        clip: the CLIP model to tune, in place of loading what the recipe names; it is changed.
        start: what class prompts start from, see `PixelCLIP.from_config`.

    Raises:
        RecipeError: `dataset` is not that of the recipe, parts of the model do not fit together, or
            the batch is no multiple of the ranks.
        DataError: fewer photographs than a batch, or data or weights that cannot be read.
        CheckpointError: `run` holds a checkpoint of another recipe or a damaged one, or the disk is
            full; older checkpoints are kept.
        UsageError: another process trains in `run`.
        MaskClusterError: the log cannot be written.
        DivergedError: the loss is no longer a number, or has diverged; earlier checkpoints are
            kept.
    """
    _check_fits(dataset, config)
    run, ranks, device = Path(run), Ranks.current(), device or default_device()
    data, total = config.data, config.optim.total_steps
    given = [name for name, one in (("clip", clip), ("start", start)) if one is not None]
    model = build_model(config, device, clip=clip, start=start)
    optimizer = build_optimizer(model, config.optim)
    with (
        _alone_in(run) if ranks.is_first else nullcontext(),
        float32_products(config.optim.precision),
    ):
        photos = dataset.fingerprint
        first, seen = _resume(run, model, optimizer, config, photos)
        loader = batches(
            dataset,
            batch=data.batch,
            workers=data.workers,
            start=first,
            stop=total,
            rank=ranks.rank,
            world=ranks.world,
        )
        shared = ranks.share(model)
        with open_log(run, first, config, writes=ranks.is_first) as log_file:
            about = {"total": total, "initial": first, "desc": label, "unit": "step"}
            bar = progress(loader, shown=ranks.is_first, **about)
            tally, masks = Tally(seen), seen.get("masks", 0)
            meter = Meter(first, masks, config, model, device, world=ranks.world)
            for done, batch in enumerate(bar, first + 1):
                tally.add(len(batch.keys), batch.owner)
                batch = batch.to(device, non_blocking=True)
                torch.manual_seed(_step_seed(config.seed, done - 1, ranks.rank))
                rates = set_rates(optimizer, rate_share(done - 1, config.optim))
                with _saying_divergence(model, done, run):
                    out, norm = training_step(model, shared, optimizer, batch, config.optim, ranks)
                logs = done % config.log_every == 0 or done == total
                saves = done % config.checkpoint_every == 0 or done == total
                if not (logs or saves):
                    continue
                record = _record(out, norm, ranks) | rates
                _check_finite(record, done, run)
                seen = tally.total(ranks, device)
                if logs:
                    record |= _data_figures(seen) | meter.read(done, seen["masks"])
                    log_file.write(done, record)
                    if ranks.is_first and out.assignment is not None and _is_shown(done, config):
                        cluster = out.assignment.cluster
                        log_file.show(done, draw_clusters(batch, cluster, config.cluster.clusters))
                    bar.set_postfix(_postfix(record), refresh=False)
                if saves and ranks.is_first:
                    save_checkpoint(
                        run, model, optimizer, config, done, photos=photos, seen=seen, given=given
                    )
        ranks.wait()
    return TrainResult(find_checkpoints(run)[-1].folder, run / LOG_NAME)


def _check_fits(dataset: MaskedPhotos, config: TrainConfig) -> None:
    """Refuse a data set of another recipe, or one without masks."""
    if dataset.views != config.views:
        raise RecipeError(f"the recipe has {config.views}, the data set {dataset.views}")
    if dataset.seed != config.data.seed:
        raise RecipeError(
            f"the recipe has data.seed = {config.data.seed}, the data set {dataset.seed}"
        )
    if dataset.masks is None:
        raise RecipeError("training needs masks, the data set has none")


def build_model(
    config: TrainConfig,
    device: torch.device,
    *,
    clip: Clip | None = None,
    start: Tensor | None = None,
) -> PixelCLIP:
    """Build the model of a recipe with its first weights, in training mode.

    Args:
        config: the recipe.
        device: where it will be.
        clip: as of `train`.
        start: as of `train`.

    Raises:
        RecipeError: parts that do not fit together; or errors as of `load_clip`.
        DataError: as of `load_clip`.
    """
    try:
        model = PixelCLIP.from_config(
            config.model, config.cluster, config.machine, seed=config.seed, clip=clip, start=start
        )
    except ValueError as error:
        raise RecipeError(f"{config.model.architecture}: {error}") from error
    side, stride = config.views.image_px, model.tower.stride
    if side % stride[0] or side % stride[1]:
        raise RecipeError(
            f"views.image_px must be a multiple of the {stride[0]} x {stride[1]} patches of "
            f"{config.model.architecture}, got {side}"
        )
    if config.machine.compile:
        model.compile_parts()
    return model.to(device).train()


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Hold the folder of a run, and clear what a killed process left in it."""
    with folder_lock(run):
        clear_unfinished(run)
        yield


def _resume(
    run: Path, model: PixelCLIP, optimizer: Optimizer, config: TrainConfig, photos: str
) -> tuple[int, dict[str, int]]:
    """Load the newest checkpoint of a run, if there is one; the first step to do, and counts."""
    checkpoints = find_checkpoints(run)
    if not checkpoints:
        return 0, {}
    seen = resume(checkpoints[-1], model, optimizer, config, photos=photos)
    log.info("going on at step %d of %s", checkpoints[-1].step, run)
    return checkpoints[-1].step, seen


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Of the noise of a step: stochastic depth."""
    return int(stream(seed, "noise", step, rank).integers(2**62))


def _record(out: StepOutput, norm: Tensor, ranks: Ranks) -> dict[str, Figure]:
    """What a line of the log says of a step, over all ranks."""
    loss = float(ranks.sum(out.loss)) / ranks.world
    record: dict[str, Figure] = {"loss": loss, "grad_norm": float(norm)}
    if out.assignment is not None:
        record |= cluster_statistics(out.assignment, ranks)
    return record


def _data_figures(seen: Mapping[str, int]) -> dict[str, Figure]:
    """Of the run so far: masks of a photograph, and photographs whose crop has no mask."""
    return {
        "masks_per_image": seen["masks"] / max(seen["images"], 1),
        "images_without_masks": seen["images_without_masks"],
    }


def _is_shown(done: int, config: TrainConfig) -> bool:
    """Whether a line of the log comes with a picture."""
    number, rest = divmod(done, config.log_every)
    return done == config.optim.total_steps or (
        not rest and number % PICTURE_EVERY == 1 % PICTURE_EVERY
    )


def _postfix(record: Mapping[str, Figure]) -> dict[str, str]:
    """Figures for the progress bar."""
    shown = {"loss": f"{record['loss']:.3f}", "images_s": f"{record['images_per_s']:.0f}"}
    if "clusters_used" in record:
        shown["clusters"] = f"{record['clusters_used']}"
    return shown


@contextmanager
def _saying_divergence(model: PixelCLIP, step: int, run: Path) -> Iterator[None]:
    """Say what is the matter when a step fails because weights are not numbers any more."""
    try:
        yield
    except ValueError as error:
        if all(bool(value.isfinite().all()) for value in model.parameters()):
            raise
        raise _diverged(f"weights are not finite before step {step}", run) from error


def _check_finite(record: Mapping[str, Figure], step: int, run: Path) -> None:
    """Stop before weights that are not numbers replace the last good checkpoint."""
    loss, norm = record["loss"], record["grad_norm"]
    assert isinstance(loss, float) and isinstance(norm, float)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise _diverged(f"loss is {loss} and gradient norm {norm} at step {step}", run)


def _diverged(what: str, run: Path) -> DivergedError:
    return DivergedError(
        f"{what}; the last checkpoint is kept in {run}: train in another folder with lower rates "
        "(optim.prompt_lr, optim.decoder_lr), or with optim.precision = float32"
    )
