"""Command line: generate, sheet, recipes, train, segment, classify, name, convert."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from maskcluster.config import (
    ClusterConfig,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ViewConfig,
)
from maskcluster.data.dataset import MaskedPhotos
from maskcluster.data.order import check_fills_batch
from maskcluster.device import default_device, named_device
from maskcluster.errors import MaskClusterError, UsageError
from maskcluster.generators.dino import DINO_S16, DinoMasks, load_backbone
from maskcluster.generators.generate import generate as generate_masks
from maskcluster.generators.promptable import load_sam
from maskcluster.generators.protocol import MaskGenerator
from maskcluster.generators.sam import SamMasks, SamOptions
from maskcluster.generators.superpixels import Felzenszwalb, Slic
from maskcluster.masks.contact_sheet import contact_sheet
from maskcluster.masks.mask_set import MaskRules
from maskcluster.masks.photo_files import find_photos
from maskcluster.masks.sources import LabelOptions, open_masks
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.naming.explain import name as name_clusters
from maskcluster.naming.explain import starting_rows
from maskcluster.parsing import Photos, parse
from maskcluster.precision import Precision
from maskcluster.recipe import load_recipe, recipe_names, recipe_text
from maskcluster.released.load import To, load_model
from maskcluster.released.load import convert as convert_model
from maskcluster.segmenting.mask_classes import Order
from maskcluster.segmenting.outputs import classify as classify_photos
from maskcluster.segmenting.outputs import segment as segment_photos
from maskcluster.training.checkpoint import is_run, read_config, starts_as_its_recipe_says
from maskcluster.training.launch import Ranks, joined
from maskcluster.training.train import train as train_run

SHEET_NAME = "sheet.png"
"""Contact sheet in a store's folder."""


@dataclass(frozen=True, kw_only=True)
class DinoOptions:
    """k-means over the features of a backbone of timm."""

    backbone: str = DINO_S16
    """Name in timm's registry; its tag names the weights that are downloaded."""

    weights: Path | None = None
    """File of weights to read in place of a download: timm's, DINO's, DINOv2's."""

    clusters: int = 16
    """Masks of a photograph."""

    short_side: int = 640
    """Pixels that the photograph's short side is resized to."""

    long_side: int = 1333
    """Most pixels of the other side."""

    seed: int = 0
    """Of the first centres."""


def generate(  # noqa: PLR0913  # every option of the command
    photos: Path,
    out: Path,
    *,
    slic: Slic,
    felzenszwalb: Felzenszwalb,
    dino: DinoOptions,
    sam: SamOptions,
    rules: MaskRules,
    generator: Literal["slic", "felzenszwalb", "dino", "sam"] = "slic",
    sam_model: str = "facebook/sam-vit-base",
    autocast: bool = False,
    part_size: int = 256,
    batch_size: int = 8,
    sheet: bool = True,
    device: str | None = None,
    dry_run: bool = False,
) -> None:
    """Make masks of photographs and keep them in a store; goes on where a killed run stopped.

    Args:
        photos: folder, looked through with all folders inside.
        out: folder of the store; gets a contact sheet, sheet.png.
        slic: options of the generator slic.
        felzenszwalb: options of the generator felzenszwalb.
        dino: options of the generator dino.
        sam: options of the generator sam. SAM 2 has --sam.iou_threshold 0.8; SA-1B was made with
            --sam.crop_layers 2 --sam.crop_points_downscale 2 --sam.min_region_px 100
            --sam.max_coverage 0.95.
        rules: which masks are kept.
        generator: what makes the masks: superpixels (slic, felzenszwalb), which need no model and
            are the worst; k-means over DINO's features; or SAM, the paper's best.
        sam_model: folder or hub name of a SAM or SAM 2 of transformers.
        autocast: let SAM compute in bfloat16; masks differ in a few pixels.
        part_size: photographs that are made again after a kill.
        batch_size: photographs held, and by dino computed, at a time.
        sheet: draw the contact sheet.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        dry_run: only count the photographs.
    """
    for name, least in (("part_size", part_size), ("batch_size", batch_size)):
        if least < 1:
            raise UsageError(f"--{name} needs at least 1, got {least}")
    print(f"photographs\t{len(find_photos(photos))}")
    if dry_run:
        return
    where = named_device(device) if device else default_device()
    makers: dict[str, Callable[[], MaskGenerator]] = {
        "slic": lambda: slic,
        "felzenszwalb": lambda: felzenszwalb,
        "dino": lambda: _dino(dino, where),
        "sam": lambda: SamMasks(load_sam(sam_model, device=where, autocast=autocast), sam),
    }
    report = generate_masks(
        photos, out, makers[generator](), rules=rules, part_size=part_size, batch_size=batch_size
    )
    print("\n".join(report.lines()))
    if sheet:
        print(f"sheet\t{contact_sheet(report.store, photos, out / SHEET_NAME)}")
    print(f"store\t{out}")


def _dino(options: DinoOptions, device: torch.device) -> DinoMasks:
    try:
        backbone, identity = load_backbone(options.backbone, weights=options.weights, device=device)
        return DinoMasks(
            backbone,
            identity,
            clusters=options.clusters,
            short_side=options.short_side,
            long_side=options.long_side,
            seed=options.seed,
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--dino: {error}") from error


def sheet(
    photos: Path,
    masks: Path,
    out: Path,
    *,
    labels: LabelOptions,
    most: int = 24,
    columns: int = 4,
    cell_px: int = 240,
    overwrite: bool = False,
) -> None:
    """Draw photographs beside their masks into one picture.

    Args:
        photos: folder.
        masks: store, folder of SA-1B's JSON, or of label maps.
        out: PNG to write.
        labels: of label maps.
        most: photographs that are shown, evenly spread over all.
        columns: photographs a row.
        cell_px: side of the square that a photograph is fitted into.
        overwrite: replace a file that is there.
    """
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists; choose another name or say --overwrite true")
    for name, value in (("most", most), ("columns", columns), ("cell_px", cell_px)):
        if value < 1:
            raise UsageError(f"--{name} needs at least 1, got {value}")
    source = open_masks(masks, labels=labels)
    contact_sheet(source, photos, out, most=most, columns=columns, cell_px=cell_px)
    print(f"sheet\t{out}")


def recipes(name: str | None = None) -> None:
    """List the recipes that come with the package, or write one out in full.

    Args:
        name: a recipe or a TOML file, to print it with all of its fields.
    """
    print("\n".join(recipe_names()) if name is None else recipe_text(load_recipe(name)))


def train(  # noqa: PLR0913  # every option of the command
    recipe: str,
    photos: Path,
    masks: Path,
    out: Path,
    *,
    model: ModelConfig,
    cluster: ClusterConfig,
    views: ViewConfig,
    optim: OptimConfig,
    data: DataConfig,
    machine: MachineConfig,
    labels: LabelOptions,
    seed: int = 0,
    log_every: int = 10,
    checkpoint_every: int = 1000,
    checkpoints: int = 2,
    lenient: bool = False,
    device: str | None = None,
    dry_run: bool = False,
) -> None:
    """Tune a CLIP model with unlabelled masks, or go on where a killed run stopped.

    Every field of the recipe is an option too, such as --optim.total_steps 2000; defaults below are
    the recipe's.

    Args:
        recipe: TOML file, or the name of a recipe that comes with the package (see recipes).
        photos: folder, looked through with all folders inside.
        masks: store that generate made, folder of SA-1B's JSON, or of label maps.
        out: folder of the run.
        model: the CLIP model.
        cluster: clusters and teacher.
        views: what it sees.
        optim: rates and schedule.
        data: batches.
        machine: time against memory.
        labels: of label maps.
        seed: of the first weights, and of the noise of every step.
        log_every: steps between two lines of the log.
        checkpoint_every: steps between two checkpoints.
        checkpoints: how many are kept.
        lenient: leave out masks of SA-1B's JSON that are broken, in place of their photographs.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        dry_run: only read the recipe and look at photographs and masks.
    """
    try:
        config = TrainConfig(
            model=model,
            cluster=cluster,
            views=views,
            optim=optim,
            data=data,
            machine=machine,
            seed=seed,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            checkpoints=checkpoints,
        )
    except ValueError as error:
        raise UsageError(f"{recipe}: {error}") from error
    with joined(named_device(device) if device else None) as where:
        source = open_masks(masks, lenient=lenient, labels=labels)
        dataset = MaskedPhotos(photos, source, config.views, seed=config.data.seed)
        check_fills_batch(len(dataset), config.data.batch)
        _print_once(f"photographs\t{len(dataset)}\nsteps\t{config.optim.total_steps}")
        if dry_run:
            return
        result = train_run(config, dataset, out, device=where)
        _print_once(f"checkpoint\t{result.checkpoint}\nlog\t{result.log}")


def segment(  # noqa: PLR0913  # every option of the command
    photos: Photos,
    *,
    names: str,
    checkpoint: Path,
    out: Path,
    image_px: int = 0,
    grid: int = 64,
    batch: int = 8,
    precision: Precision = "auto",
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Find things in photographs by their names; every pixel takes the nearest name.

    Writes an overlay, a label map and the share of each name, for every photograph; goes on where a
    killed run stopped.

    Args:
        photos: a folder, or picture files; they come before all options.
        names: of classes, separated by commas: "dog, grass, sky"; or a text file, one class a line,
            where a comma and a space separate synonyms.
        checkpoint: a run, a checkpoint of one, a published file, or an open_clip folder.
        out: folder of results.
        image_px: side of the square that photographs are squashed to, as in training; 0 is 320 for
            patches of 16 pixels and 640 for 32, as published.
        grid: side that features are resized to before they are compared, as published; 0 leaves
            them as they are.
        batch: photographs that are seen at once.
        precision: of the model; auto is bfloat16 where the device has it.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        overwrite: make results again, of other names, too.
    """
    report = segment_photos(
        _load(checkpoint, device),
        _places(photos),
        out,
        names=names,
        image_px=image_px,
        grid=grid,
        batch=batch,
        precision=precision,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


def classify(  # noqa: PLR0913  # every option of the command
    photos: Photos,
    *,
    masks: Path,
    names: str,
    checkpoint: Path,
    out: Path,
    labels: LabelOptions,
    image_px: int = 0,
    mask_px: int = 256,
    order: Order = "area",
    batch: int = 8,
    precision: Precision = "auto",
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Name the masks of photographs; every mask takes the name nearest to its mean feature.

    Writes what segment writes, and a list of all masks; goes on where a killed run stopped.

    Args:
        photos: a folder, or picture files; they come before all options.
        masks: store that generate made, folder of SA-1B's JSON, or of label maps.
        names: of classes, as for segment.
        checkpoint: a run, a checkpoint of one, a published file, or an open_clip folder.
        out: folder of results.
        labels: of label maps.
        image_px: side of the square that photographs are squashed to, as for segment.
        mask_px: side of the grid on which masks are pooled, a multiple of 32.
        order: which of overlapping masks is seen: the smaller (area) or the surer (score).
        batch: photographs that are seen at once.
        precision: of the model; auto is bfloat16 where the device has it.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        overwrite: make results again, of other names, too.
    """
    source = open_masks(masks, labels=labels)
    report = classify_photos(
        _load(checkpoint, device),
        _places(photos),
        source,
        out,
        names=names,
        image_px=image_px,
        mask_px=mask_px,
        order=order,
        batch=batch,
        precision=precision,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


def name(  # noqa: PLR0913  # every option of the command
    checkpoint: Path,
    out: Path,
    *,
    names: str,
    labels: LabelOptions,
    photos: Path | None = None,
    masks: Path | None = None,
    most: int = 12,
    runners_up: int = 4,
    image_px: int = 0,
    mask_px: int = 0,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Say what learnt clusters mean, by class names and in pictures.

    Args:
        checkpoint: a run, a checkpoint of one, or a published file.
        out: folder of results: tables, a plot of prompts among names, pictures, index.html.
        names: class names: a text file, one a line, or a list with commas between them.
        labels: of label maps.
        photos: folder of photographs to draw.
        masks: of these photographs: store that generate made, folder of SA-1B's JSON, or of label
            maps.
        most: how many photographs are drawn, evenly spread over the folder.
        runners_up: how many class names are told of a cluster, after the nearest.
        image_px: side of the square that photographs are squashed to; 0 is that of the run, or 320.
        mask_px: side of the grid of masks; 0 is that of the run, or 256.
        seed: of the plot.
        device: where to compute, such as cuda:0; the first GPU if there is one.
        overwrite: replace what an earlier call wrote.
    """
    for option, value, least in (("most", most, 1), ("runners_up", runners_up, 0)):
        if value < least:
            raise UsageError(f"--{option} needs at least {least}, got {value}")
    model = _load(checkpoint, device)
    views, start = ViewConfig(), None
    if is_run(checkpoint):
        config = read_config(checkpoint)
        views = config.views
        if starts_as_its_recipe_says(checkpoint) and model.prompts is not None:
            start = starting_rows(model, config.cluster, seed=config.seed)
    report = name_clusters(
        model,
        out,
        names=names,
        photos=photos,
        masks=None if masks is None else open_masks(masks, labels=labels),
        start=start,
        most=most,
        runners_up=runners_up,
        image_px=image_px or views.image_px,
        mask_px=mask_px or views.mask_px,
        seed=seed,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


def convert(
    source: Path, out: Path, *, to: To = "open_clip", architecture: str | None = None
) -> None:
    """Write a model in another layout.

    Args:
        source: a run, a checkpoint of one, a published file, or an open_clip folder.
        out: folder (open_clip) or file (released) to write; must not exist.
        to: open_clip is the tuned CLIP model alone, which any pipeline loads as local-dir:OUT;
            released is the layout of the published checkpoints, for the released code.
        architecture: open_clip's name of the CLIP model, where it cannot be told.
    """
    convert_model(source, out, to=to, architecture=architecture)
    print(f"{to}\t{out}")


def _load(checkpoint: Path, device: str | None) -> PixelCLIP:
    where = named_device(device) if device else default_device()
    return load_model(checkpoint).to(where)


def _places(photos: Photos) -> Path | list[Path]:
    """A folder by itself, or files."""
    places = [Path(one) for one in ([photos] if isinstance(photos, str) else photos)]
    return places[0] if len(places) == 1 else places


def _print_once(result: str) -> None:
    """Print a result, once however many ranks there are."""
    if Ranks.current().is_first:
        print(result)


VERBS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "sheet": sheet,
    "recipes": recipes,
    "train": train,
    "segment": segment,
    "classify": classify,
    "name": name,
    "convert": convert,
}
GO_ON = ("generate", "train", "segment", "classify")
"""Verbs that go on where they were stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit code: 0 done, 1 could not, 2 wrong usage, 3 data missing, 4 stopped.
    """
    logging.basicConfig(format="maskcluster: %(message)s", level=logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        parse(args, VERBS)()
    except MaskClusterError as error:
        return _fail(" ".join(str(error).split()), error.exit_code)
    except SystemExit as stop:  # after --help
        return stop.code if isinstance(stop.code, int) else UsageError.exit_code
    except KeyboardInterrupt:
        goes_on = bool(args) and args[0] in GO_ON
        return _fail("stopped" + "; run it again to go on" * goes_on, 4)
    return 0


def console() -> None:
    """Entry point of the installed command."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _fail(what: str, code: int) -> int:
    print(f"maskcluster: {what}", file=sys.stderr)
    return code
