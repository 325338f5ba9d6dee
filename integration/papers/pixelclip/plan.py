"""What a run of PixelCLIP will take, from measured rates and counted operations."""

from collections.abc import Mapping, Sequence

from integration.papers.check import Finding
from integration.papers.pixelclip.arms import UNTUNED
from integration.papers.pixelclip.backbones import BACKBONES
from integration.papers.pixelclip.mask_kinds import MaskKind
from integration.papers.pixelclip.recipe import MasksRecipe
from integration.papers.plan import RATES, Machine, Step, picture_size
from maskcluster import TrainConfig
from segbench import Task

DINO_NOTE = "one process reads every photograph once; 2 s each on a core, not timed on a GPU"


def plan_masks(
    recipe: MasksRecipe,
    configs: Mapping[str, TrainConfig],
    findings: Sequence[Finding],
    seeds: Sequence[int],
    machine: Machine,
) -> list[Step]:
    """Estimate every stage of a run, in order.

    Args:
        recipe: of the run.
        configs: what each trained arm trains.
        findings: of the data check, with the photographs and images that are there.
        seeds: trainings of every arm.
        machine: that it is for.
    """
    images = {finding.name: finding.images for finding in findings}
    steps, kind = [], recipe.mask_kind
    if recipe.trained and kind.made_by:
        note = f"{images[kind.folder]:,} photographs: {DINO_NOTE}"
        steps.append(Step(name=kind.made_by, seconds=None, note=note))
    scoring = sum(score_seconds(task, images[task.id], machine) for task in recipe.load_tasks())
    scoring *= len(recipe.prompts)
    for arm, seed in runs_of(recipe, seeds):
        if arm in configs:
            steps.append(_train(f"train-{arm}-{seed}", configs[arm], kind, machine))
        steps.append(Step(name=f"evaluate-{arm}-{seed}", seconds=scoring, rates=("scores",)))
    return steps


def runs_of(recipe: MasksRecipe, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Every (arm, seed) in order; un-tuned CLIP once, for nothing of it hangs on a seed."""
    return [(a, s) for s in seeds for a in recipe.arms if a not in UNTUNED or s == seeds[0]]


def _train(name: str, config: TrainConfig, kind: MaskKind, machine: Machine) -> Step:
    photos = config.optim.total_steps * config.data.batch
    said = f"{config.optim.total_steps:,} steps of {config.data.batch:,} photographs"
    backbone = BACKBONES.get(config.model.architecture)
    loaded = RATES[kind.load_rate].value * machine.cores
    if backbone is None:
        note = f"{said}; loading alone, for nothing is known of this CLIP"
        return Step(name=name, seconds=photos / loaded, rates=(kind.load_rate,), note=note)
    maps = kind.per_photo if config.cluster.targets == "masks" else config.cluster.clusters
    gflop = RATES[backbone.rate].value + maps * RATES["masks_cluster"].value
    computed = RATES["masks_products"].value * 1000 / gflop * machine.gpus
    memory = backbone.rate == "masks_vit_b"  # of the others none has been measured
    gib = RATES["masks_gpu_gib"].value * config.data.batch / machine.gpus * max(maps / 64, 1)
    weights = backbone.parameters + backbone.visual  # the teacher has a tower of its own
    trained = backbone.visual if config.model.trainable == "all" else backbone.visual / 3
    return Step(
        name=name,
        seconds=photos / min(computed, loaded),
        disk_gb=config.checkpoints * (4 * weights + 8 * trained) / 1000,
        gpu_gib=gib if memory else 0.0,
        rates=(kind.load_rate, "masks_products", backbone.rate, "masks_cluster")
        + (("masks_gpu_gib",) if memory else ()),
        note=said + ("; loading bounds it: more cores help" if loaded < computed else ""),
    )


def score_seconds(task: Task, images: int, machine: Machine) -> float:
    """Estimated seconds of a task with one set of sentences: its pixels, read and counted."""
    height, width = picture_size(task)
    weight = height * width / (480 * 640)
    return images * weight / (RATES["scores"].value * machine.gpus)
