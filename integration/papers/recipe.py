"""Recipes of the papers' own runs: which pairs, arms, pool and tasks; all else is groupvit's.

Model, batch, rates and epochs come from a recipe of the package groupvit, `base`. A run on other
pairs takes as many epochs of them as `base` takes of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from conceptarchive import ArchiveConfig, SearchConfig
from groupvit import GroupViTError, TrainConfig
from groupvit import load_recipe as load_base
from integration.cocu.recipe import VocabularyConfig
from integration.errors import RecipeError
from integration.papers.arms import ARMS
from integration.papers.catalogue import PAIR_SETS
from integration.recipe import build_part, check_fields, has_source, read_recipe
from segbench import ClassificationTask, SegbenchError, Task, load_any_task

FOLDER = Path(__file__).parent / "recipes"
COCU_TASKS = (
    "voc21@cocu",
    "context60@cocu",
    "coco_object81@cocu",
    "imagenet_s50@cocu",
    "imagenet_s300@cocu",
    "cityscapes19@cocu",
    "ade150@cocu",
    "coco_stuff171@cocu",
    "imagenet1k@cocu",
)
"""CoCu's eight sets and ImageNet, in the order of its table 1."""
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class PairsRecipe:
    """A paper's run on tar shards of image-caption pairs."""

    name: str
    """Name of the file."""

    summary: str
    """One line: which row of which table."""

    source: Literal["pairs"]
    """What tells these recipes from others."""

    base: str
    """Recipe of the package groupvit: model, batch, rates and epochs."""

    counts: Literal["cocu", "groupvit"]
    """Whose published numbers of pairs make an epoch."""

    sets: tuple[str, ...]
    """Pair sets of the catalogue, trained on as one pool."""

    share: float = 1.0
    """Share of the shards of every set that is used, evenly spread: 0.5 is every second one."""

    arms: tuple[str, ...] = ("baseline", "cocu")
    """See `ARMS`."""

    pool: str = OWN
    """Where reference images are searched: `own` for the pairs themselves, or another set."""

    encoder: str = "clip-vit-b-16"
    """Folder of the CLIP that curates, below --data, in open_clip's layout."""

    gallery: str = ""
    """File of concept names below --data; empty mines the nouns of the pool's captions."""

    vocabulary: VocabularyConfig = field(
        default_factory=lambda: VocabularyConfig(min_count=100, max_size=1921)
    )
    """Of a mined vocabulary; at most as many names as CoCu's released list has."""

    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    """Expansion and ranking are the arm's."""

    search: SearchConfig = field(
        default_factory=lambda: SearchConfig(precision="bfloat16", minutes=60.0)
    )
    """How reference images are searched; bfloat16 proposes, float32 orders."""

    tasks: tuple[str, ...] = COCU_TASKS
    """Tasks of segbench."""

    def __post_init__(self) -> None:
        self._check_names("arms", self.arms, list(ARMS))
        counted = [name for name, each in PAIR_SETS.items() if self.counts in each.pairs]
        self._check_names("sets", self.sets, counted)
        if self.pool not in (OWN, *counted):
            known = ", ".join((OWN, *counted))
            raise RecipeError(f"{self.name}: pool must be one of {known}, got {self.pool!r}")
        if not 0 < self.share <= 1:
            raise RecipeError(f"{self.name}: share must be in (0, 1], got {self.share}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise RecipeError(f"{self.name}: tasks must be different ones, got {list(self.tasks)}")

    def _check_names(self, key: str, given: Sequence[str], known: Sequence[str]) -> None:
        if unknown := [name for name in given if name not in known]:
            raise RecipeError(
                f"{self.name}: unknown {key} {unknown[0]!r}; there are {', '.join(known)}"
            )
        if not given or len(set(given)) < len(given):
            raise RecipeError(f"{self.name}: {key} must be different ones, got {list(given)}")

    def published(self, name: str) -> int:
        """Pairs of a set in the published run: of a set that is only searched, all of them."""
        share = self.share if name in self.sets else 1.0
        return int(PAIR_SETS[name].pairs[self.counts] * share)

    @property
    def curates(self) -> bool:
        """Whether any arm draws from an archive."""
        return any(ARMS[arm] is not None for arm in self.arms)

    @property
    def searched(self) -> tuple[str, ...]:
        """Sets in which reference images are searched."""
        return self.sets if self.pool == OWN else (self.pool,)

    @property
    def embedded(self) -> tuple[str, ...]:
        """Sets that CLIP looks at: those to enrich and those to search; none without curation."""
        return tuple(dict.fromkeys((*self.sets, *self.searched))) if self.curates else ()

    def load_tasks(self) -> list[Task | ClassificationTask]:
        """The tasks.

        Raises:
            RecipeError: an unknown one.
        """
        try:
            return [load_any_task(name) for name in self.tasks]
        except SegbenchError as error:
            raise RecipeError(f"{self.name}: {error}") from error


PARTS: Mapping[str, type[Any]] = {
    "vocabulary": VocabularyConfig,
    "archive": ArchiveConfig,
    "search": SearchConfig,
}


def is_pairs_recipe(name: str) -> bool:
    """Whether a recipe is one of these."""
    return has_source(name, FOLDER, "pairs")


def load_pairs_recipe(name: str) -> PairsRecipe:
    """Read a recipe by its name among the papers' own, or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, an unknown field, or a value out of range.
    """
    return build_pairs_recipe(*read_recipe(name, FOLDER))


def build_pairs_recipe(values: Mapping[str, Any], name: str) -> PairsRecipe:
    """Build a recipe from nested plain values; errors as of `load_pairs_recipe`."""
    file = f"{name}.toml"
    check_fields(values, PairsRecipe, "", file)
    for key in ("summary", "source", "base", "counts", "sets"):
        if key not in values:
            raise RecipeError(f"{file}: needs {key}")
    given = dict(values)
    parts: dict[str, Any] = {
        key: build_part(kind, given.pop(key), key, file)
        for key, kind in PARTS.items()
        if key in given
    }
    for key in ("sets", "arms", "tasks"):
        if key in given:
            given[key] = tuple(given[key])
    recipe = PairsRecipe(name=name, **parts, **given)
    train_recipe(recipe, recipe.arms[0], 0)  # refused here, not after hours
    recipe.load_tasks()
    return recipe


def base_config(recipe: PairsRecipe) -> TrainConfig:
    """The recipe of groupvit that a run is made of.

    Raises:
        RecipeError: there is none of that name.
    """
    try:
        return load_base(recipe.base)
    except GroupViTError as error:
        raise RecipeError(f"{recipe.name}: base: {error}") from error


def train_recipe(recipe: PairsRecipe, arm: str, seed: int) -> TrainConfig:
    """What an arm trains: `base` on the recipe's pairs, for as many epochs.

    With n pairs of the published run and the batch B, an epoch is floor(n / B) steps, as in both
    papers' code; total and warm-up steps are those of `base` in epochs of its own sets.

    Args:
        recipe: of the run.
        arm: decides where concepts come from.
        seed: of weights, order, augmentation and draws.
    """
    base = base_config(recipe)
    curation = ARMS[arm]
    data = replace(
        base.data,
        sets={name: f"{name}/*.tar" for name in recipe.sets},
        source="captions" if curation is None else "archive",
        seed=seed,
    )
    if curation is not None:
        drawn = curation.sampling
        data = replace(data, sampling=drawn.method, sampling_temperature=drawn.temperature)
    own = _base_pairs(recipe, base) // data.batch  # steps of an epoch
    ours = sum(map(recipe.published, recipe.sets)) // data.batch
    optim = replace(
        base.optim,
        total_steps=base.optim.total_steps * ours // own,
        warmup_steps=base.optim.warmup_steps * ours // own,
    )
    return replace(base, seed=seed, data=data, optim=optim)


def _base_pairs(recipe: PairsRecipe, base: TrainConfig) -> int:
    """Published pairs of the sets that the base recipe names, which it calls by other names too."""
    names = [BASE_NAMES.get(name, name) for name in base.data.sets]
    unknown = [n for n in names if n not in PAIR_SETS or recipe.counts not in PAIR_SETS[n].pairs]
    if unknown or not names:
        raise RecipeError(
            f"{recipe.name}: base {recipe.base} names data sets that {recipe.counts} gives no "
            f"numbers of: {', '.join(unknown) or 'none at all'}"
        )
    return sum(PAIR_SETS[name].pairs[recipe.counts] for name in names)


BASE_NAMES: Mapping[str, str] = {"gcc3m": "cc3m", "gcc12m": "cc12m", "redcap12m": "redcaps12m"}
"""Names of GroupViT's release for sets of the catalogue."""


def limited(config: TrainConfig, pairs: int, limit: int, ranks: int) -> TrainConfig:
    """A rehearsal of a training: one pass over few pairs.

    Args:
        config: of the real run.
        pairs: that there are, of all sets together.
        limit: as given to `--limit`, of every set.
        ranks: that share a batch.

    Returns:
        The batch of `rehearsed_batch`, in at least two steps.

    Raises:
        RecipeError: fewer pairs than such a batch has.
    """
    batch = rehearsed_batch(config.data.batch, "pairs", min(limit, pairs), ranks)
    steps = max(min(config.optim.total_steps, pairs // batch), 2)
    return replace(
        config,
        data=replace(config.data, batch=batch, workers=min(config.data.workers, 2)),
        optim=replace(config.optim, total_steps=steps, warmup_steps=min(1, steps - 1)),
        log_every=1,
    )


def rehearsed_batch(published: int, what: str, used: int, ranks: int) -> int:
    """The batch of a rehearsal, small enough for several steps.

    Args:
        published: batch of the real run.
        what: is in it, for people.
        used: that there are.
        ranks: that share a batch.

    Returns:
        A quarter of what there is, 2 at least and the real batch at most, rounded down to a
        multiple of the ranks; one a rank where that is more.

    Raises:
        RecipeError: there is less than such a batch.
    """
    batch = min(published, max(used // 4, 2))
    batch = max(batch // ranks, 1) * ranks
    if used < batch:
        raise RecipeError(
            f"a rehearsal needs {batch} {what} on {ranks} ranks, has {used}: raise --limit, add "
            f"{what}, or lower --nproc_per_node"
        )
    return batch
