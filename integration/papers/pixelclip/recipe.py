"""Recipes of PixelCLIP's own runs: masks, arms and tasks; all else is maskcluster's.

Model, batch, rates and steps come from a recipe of the package maskcluster, `base`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from integration.errors import RecipeError
from integration.papers.pixelclip.arms import ARMS, UNTUNED, cluster_changes
from integration.papers.pixelclip.backbones import BACKBONES
from integration.papers.pixelclip.mask_kinds import MASK_KINDS, MaskKind
from integration.papers.recipe import rehearsed_batch
from integration.recipe import check_fields, has_source, read_recipe
from integration.wiring import LOCAL
from maskcluster import MaskClusterError, TrainConfig
from maskcluster import load_recipe as load_base
from segbench import SegbenchError, Task, load_task

FOLDER = Path(__file__).parent / "recipes"
TASKS = (
    "coco_stuff171@pixelclip",
    "ade150@pixelclip",
    "context59@pixelclip",
    "cityscapes19@pixelclip",
    "voc20@pixelclip",
)
"""In the order of the paper's table 1."""

Prompts = Literal["ensemble", "single"]
TEMPLATES: Mapping[str, str] = {
    "ensemble": "pixelclip_select_8",
    "single": "pixelclip_select_8:single",
}
"""Sentences around a class name at test: all eight, or the one that is trained with."""


@dataclass(frozen=True, kw_only=True)
class MasksRecipe:
    """A run of PixelCLIP on photographs with masks."""

    name: str
    """Name of the file."""

    summary: str
    """One line: which row of which table."""

    source: Literal["masks"]
    """What tells these recipes from others."""

    base: str
    """Recipe of the package maskcluster: CLIP, views, batch, rates and steps."""

    masks: Literal["sa1b", "dino", "coco-stuff", "coco-stuff-components"]
    """`sa1b`: the JSON beside every photograph; `dino`: k-means over DINO's features; `coco-stuff`:
    the regions of COCO-Stuff's label maps, without their labels, one mask of a class in a
    photograph or, as `coco-stuff-components`, one of each connected part. Which of the two the
    paper took is not said."""

    dino_clusters: int = 16
    """k of the k-means over a photograph's features of DINO (published)."""

    dino_short_px: int = 640
    """Short side at which DINO sees a photograph (published: a crop of 640)."""

    arms: tuple[str, ...] = ("clip", "pixelclip")
    """See `ARMS` and `UNTUNED`."""

    prompts: tuple[Prompts, ...] = ("ensemble",)
    """With which sentences every arm is scored: each is a row of the table."""

    tasks: tuple[str, ...] = TASKS
    """Tasks of segbench."""

    def __post_init__(self) -> None:
        self._check_names("arms", self.arms, [*UNTUNED, *ARMS])
        self._check_names("prompts", self.prompts, list(TEMPLATES))
        if self.dino_clusters < 1 or self.dino_short_px < 16:
            raise RecipeError(
                f"{self.name}: needs dino_clusters >= 1 and dino_short_px >= 16, got "
                f"{self.dino_clusters} and {self.dino_short_px}"
            )
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise RecipeError(f"{self.name}: tasks must be different ones, got {list(self.tasks)}")

    def _check_names(self, key: str, given: Sequence[str], known: Sequence[str]) -> None:
        if unknown := [name for name in given if name not in known]:
            raise RecipeError(
                f"{self.name}: unknown {key} {unknown[0]!r}; there are {', '.join(known)}"
            )
        if not given or len(set(given)) < len(given):
            raise RecipeError(f"{self.name}: {key} must be different ones, got {list(given)}")

    @property
    def mask_kind(self) -> MaskKind:
        """Where photographs and masks come from."""
        return MASK_KINDS[self.masks]

    @property
    def trained(self) -> tuple[str, ...]:
        """Arms that are trained."""
        return tuple(arm for arm in self.arms if arm in ARMS)

    def row(self, arm: str, prompts: Prompts) -> str:
        """What tables call an arm that is scored with some sentences."""
        return arm if prompts == "ensemble" else f"{arm}, one template"

    def load_tasks(self, prompts: Prompts = "ensemble") -> list[Task]:
        """The tasks, at the side of the square that the tower trains with.

        Raises:
            RecipeError: an unknown one.
        """
        side = base_config(self).views.image_px
        try:
            found = [load_task(name) for name in self.tasks]
        except SegbenchError as error:
            raise RecipeError(f"{self.name}: {error}") from error
        templates = TEMPLATES[prompts]
        return [replace(task, square_px=side, templates=templates) for task in found]


def is_masks_recipe(name: str) -> bool:
    """Whether a recipe is one of these."""
    return has_source(name, FOLDER, "masks")


def load_masks_recipe(name: str) -> MasksRecipe:
    """Read a recipe by its name among the papers' own, or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, an unknown field, or a value out of range.
    """
    return build_masks_recipe(*read_recipe(name, FOLDER))


def build_masks_recipe(values: Mapping[str, Any], name: str) -> MasksRecipe:
    """Build a recipe from plain values; errors as of `load_masks_recipe`."""
    file = f"{name}.toml"
    check_fields(values, MasksRecipe, "", file)
    for key in ("summary", "source", "base", "masks"):
        if key not in values:
            raise RecipeError(f"{file}: needs {key}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    recipe = MasksRecipe(name=name, **given)
    base_config(recipe)  # refused here, not after hours
    recipe.load_tasks()
    return recipe


def base_config(recipe: MasksRecipe) -> TrainConfig:
    """The recipe of maskcluster that a run is made of.

    Raises:
        RecipeError: there is none of that name, or it tunes a CLIP that nothing is known of.
    """
    try:
        found = load_base(recipe.base)
    except MaskClusterError as error:
        raise RecipeError(f"{recipe.name}: base: {error}") from error
    name = found.model.architecture
    if name not in BACKBONES and not name.startswith(LOCAL):
        raise RecipeError(
            f"{recipe.name}: base {recipe.base} tunes {name}; there are {', '.join(BACKBONES)}, "
            f"or {LOCAL}FOLDER"
        )
    return found


def train_recipe(recipe: MasksRecipe, arm: str, seed: int) -> TrainConfig:
    """What an arm trains: `base` with the arm's changes.

    Args:
        recipe: of the run.
        arm: one of `ARMS`.
        seed: of prompts and decoder, order, views and noise.
    """
    base = base_config(recipe)
    return replace(
        base,
        seed=seed,
        data=replace(base.data, seed=seed),
        cluster=replace(base.cluster, **cluster_changes(arm)),
    )


def limited(config: TrainConfig, photos: int, limit: int, ranks: int) -> TrainConfig:
    """A rehearsal of a training: one pass over few photographs, in at least two steps.

    Args:
        config: of the real run.
        photos: that there are.
        limit: as given to `--limit`.
        ranks: that share a batch.

    Returns:
        The batch of `rehearsed_batch`, in at least two steps.

    Raises:
        RecipeError: fewer photographs than such a batch has.
    """
    used = min(limit, photos)
    batch = rehearsed_batch(config.data.batch, "photographs", used, ranks)
    steps = max(min(config.optim.total_steps, used // batch), 2)
    return replace(
        config,
        data=replace(config.data, batch=batch, workers=min(config.data.workers, 2)),
        optim=replace(config.optim, total_steps=steps, warmup_steps=0),
        log_every=1,
    )
