"""What a run will take: hours, disk and memory of every stage, estimated from measured rates.

The rates and their sources are in rates.toml. What nobody has measured is left blank, not guessed.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import torch

from groupvit import GroupViT, ModelConfig, TrainConfig
from integration.cocu.ablation.curations import Curation
from integration.papers.arms import ARMS, archive_config, archive_name
from integration.papers.check import Finding
from integration.papers.recipe import OWN, PairsRecipe
from segbench import ClassificationTask, Task

ROW_BYTES = 1024  # 512 numbers in float16
ROW_DIM = 512
ARCHIVE_BYTES = 415  # a pair, measured over 46,000 (docs/curation-at-scale.md)
INDEX_BYTES = 34  # a pair whose key has ten letters
STATE_BYTES = 12  # a parameter: weight and two moments in float32
SEARCH_SHARE = 0.5  # of a GPU's products that exact search is counted on
FITS_GIB = 125.0  # of an H200's memory
WINDOW_PX = 448
PICTURES: Mapping[str, tuple[int, int]] = {
    "cityscapes19": (1024, 2048),
    "coco_object81": (480, 640),
    "coco_stuff171": (480, 640),
    "ade150": (512, 683),
}
"""Usual height and width of a picture; (375, 500) elsewhere."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured or published rate."""

    value: float
    unit: str
    source: str


def _read() -> dict[str, Rate]:
    text = (files("integration.papers") / "rates.toml").read_text(encoding="utf-8")
    return {name: Rate(**values) for name, values in tomllib.loads(text).items()}


RATES: Mapping[str, Rate] = _read()
"""By name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What a stage, or a group of stages, is estimated to take."""

    name: str
    """Of the stage, or what the names of a group begin with."""
    seconds: float | None
    """None where no rate has been measured."""
    disk_gb: float = 0.0
    """That stays when it is done."""
    memory_gb: float = 0.0
    """Of the machine, where that is known and more than a few."""
    gpu_gib: float = 0.0
    """Of one GPU."""
    rates: tuple[str, ...] = ()
    """Names of the rates that it is made of."""
    note: str = ""
    """What else to know."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan counts on."""

    gpus: int = 1
    cores: int = 16

    @classmethod
    def of_run(cls, ranks: int) -> "Machine":
        """One GPU for each rank, and the cores of this machine."""
        return cls(ranks, os.cpu_count() or 1)

    def rate(self, gpu: str, core: str) -> float:
        """Things a second where GPUs compute and cores load."""
        return min(RATES[gpu].value * self.gpus, RATES[core].value * self.cores)


def plan_run(
    recipe: PairsRecipe,
    configs: Mapping[str, TrainConfig],
    findings: Sequence[Finding],
    seeds: Sequence[int],
    machine: Machine,
) -> list[Step]:
    """Estimate every stage of a run on pairs, in order.

    Args:
        recipe: of the run.
        configs: what each arm trains.
        findings: of the data check, with the pairs and images that are there.
        seeds: trainings of every arm.
        machine: that it is for.
    """
    by_name = {finding.name: finding for finding in findings}
    pairs = {name: by_name[name].pairs for name in {*recipe.sets, *recipe.embedded}}
    steps = [_index(sum(pairs[name] for name in recipe.sets))]
    if recipe.curates:
        steps += [_embed(name, pairs[name], machine) for name in recipe.embedded]
        steps.append(Step(name="vocabulary", seconds=None, note="minutes: one pass over captions"))
        steps += [_archive(recipe, name, pairs, machine) for name in archives_of(recipe)]
    tasks = recipe.load_tasks()
    for seed in seeds:
        for arm in recipe.arms:
            steps.append(_train(f"train-{arm}-{seed}", configs[arm], machine))
            seconds = sum(task_seconds(task, by_name[task.id].images, machine) for task in tasks)
            steps.append(Step(name=f"evaluate-{arm}-{seed}", seconds=seconds, rates=("windows",)))
    return steps


def archives_of(recipe: PairsRecipe) -> dict[str, Curation]:
    """Archives that the arms draw from, each once."""
    curations = [curation for arm in recipe.arms if (curation := ARMS[arm]) is not None]
    return {archive_name(curation): curation for curation in curations}


def describe_plan(steps: Sequence[Step], machine: Machine) -> list[str]:
    """The plan as a table, and the rates that it is made of."""
    gpus = f"{machine.gpus} GPU{'s' if machine.gpus > 1 else ''}"
    lines = [
        f"plan: ESTIMATES for {gpus} like an H200 and {machine.cores} cores; "
        "nothing of this size has been run",
        f"{'stage':<28}{'hours':>9}{'disk GB':>9}{'RAM GB':>9}{'GPU GiB':>9}  note",
    ]
    for step in steps:
        cells = (step.disk_gb, step.memory_gb, step.gpu_gib)
        shown = "".join(f"{_cell(value):>9}" for value in cells)
        lines.append(f"{step.name:<28}{_hours(step.seconds):>9}{shown}  {step.note}".rstrip())
    known = sum(step.seconds or 0.0 for step in steps)
    blank = [step.name for step in steps if step.seconds is None]
    disk = sum(step.disk_gb for step in steps)
    rest = f"  and what was not measured: {', '.join(blank)}" if blank else ""
    lines.append(f"{'all':<28}{_hours(known):>9}{_cell(disk):>9}{'':>18}{rest}")
    used = dict.fromkeys(name for step in steps for name in step.rates)
    lines += [f"  {RATES[n].value:,g} {RATES[n].unit}: {RATES[n].source}" for n in used]
    return lines


def _index(pairs: int) -> Step:
    return Step(
        name="index",
        seconds=None,
        disk_gb=pairs * INDEX_BYTES / 1e9,
        memory_gb=pairs * 8 / 1e9,
        note="reads the headers of every shard once",
    )


def _embed(name: str, pairs: int, machine: Machine) -> Step:
    """Rows of images and of captions."""
    return Step(
        name=f"embed-{name}",
        seconds=pairs / machine.rate("embed", "embed_load"),
        disk_gb=pairs * 2 * ROW_BYTES / 1e9,
        rates=("embed", "embed_load"),
    )


def _archive(recipe: PairsRecipe, name: str, pairs: Mapping[str, int], machine: Machine) -> Step:
    """Exact search takes 2 A P D operations for A anchors and P rows of D numbers."""
    anchors = sum(pairs[each] for each in recipe.sets)
    rows = sum(pairs[each] for each in recipe.searched)
    products = "products_bfloat16" if recipe.search.precision == "bfloat16" else "products_float32"
    flops = RATES[products].value * 1e12 * SEARCH_SHARE * machine.gpus
    search_s = 2 * anchors * rows * ROW_DIM / flops
    minutes = search_s / 60
    note = f"exact search {minutes:,.0f} min" if minutes >= 1 else "exact search within a minute"
    if recipe.search.method == "auto" and search_s * machine.gpus > 60 * recipe.search.minutes:
        note = f"{note}; an index is taken instead, whose time has not been measured"
    one = sum(n / RATES["rows"].value for n in {anchors, rows})
    cores = machine.cores
    cpu_s = one + rows / (RATES["mentions"].value * cores) + anchors / (RATES["rank"].value * cores)
    own = recipe.pool == OWN
    return Step(
        name=f"archive-{name}",
        seconds=cpu_s + search_s,
        disk_gb=anchors * ARCHIVE_BYTES / 1e9,
        memory_gb=rows
        * (
            8
            + (
                12 * (archive_config(archives_of(recipe)[name], recipe.archive).neighbours + 8)
                if own
                else 0
            )
        )
        / 1e9,
        rates=("rows", "mentions", "rank", products),
        note=note,
    )


def _train(name: str, config: TrainConfig, machine: Machine) -> Step:
    pairs = config.optim.total_steps * config.data.batch
    gpu_gib = RATES["train_gpu_gib"].value * config.data.batch / machine.gpus / 1024
    loads = RATES["train_load"].value * machine.cores < RATES["train"].value * machine.gpus
    return Step(
        name=name,
        seconds=pairs / machine.rate("train", "train_load"),
        disk_gb=config.checkpoints * _parameters(config.model) * STATE_BYTES / 1e9,
        gpu_gib=gpu_gib,
        rates=("train", "train_load", "train_gpu_gib"),
        note=f"{config.optim.total_steps:,} steps of {config.data.batch:,} pairs"
        + ("; loading bounds it: more cores help" if loads else "")
        + ("; in chunks on an H200, so longer than this" if gpu_gib > FITS_GIB else ""),
    )


@cache
def _parameters(model: ModelConfig) -> int:
    """Numbers that a model learns."""
    with torch.device("meta"):
        return sum(each.numel() for each in GroupViT(model).parameters())


def task_seconds(task: Task | ClassificationTask, images: int, machine: Machine) -> float:
    """Estimated seconds of a task: windows, weighed by their area, at the published rate."""
    if isinstance(task, ClassificationTask):
        windows, side = 1, task.crop_px
    else:
        windows, side = _windows(task)
    weight = windows * (side / WINDOW_PX) ** 2
    return images * weight / (RATES["windows"].value * machine.gpus)


def _windows(task: Task) -> tuple[int, int]:
    """How many windows a usual picture has, and their side; a whole picture is one."""
    height, width = picture_size(task)
    if task.short_px is not None:
        scale = task.short_px / min(height, width)
        height, width = round(height * scale), round(width * scale)
    if task.window_px is None or task.stride_px is None:
        return 1, round((height * width) ** 0.5)
    crop, stride = task.window_px, task.stride_px
    rows, columns = (max(n - crop + stride - 1, 0) // stride + 1 for n in (height, width))
    return rows * columns, crop


def picture_size(task: Task) -> tuple[int, int]:
    """Usual height and width of a task's pictures."""
    return PICTURES.get(str(task.dataset["kind"]), (375, 500))


def _hours(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds / 3600:.1f}" if seconds >= 180 else "< 0.1"


def _cell(value: float) -> str:
    if value == 0:
        return ""
    return f"{value:.1f}" if value >= 0.1 else "< 0.1"
