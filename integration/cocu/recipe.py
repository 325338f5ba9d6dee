"""Recipes of CoCu: pairs, curator, archive, training and scoring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from conceptarchive import ArchiveConfig
from groupvit import GroupViTError, TrainConfig, train_config
from integration.cocu.curator import CuratorConfig
from integration.errors import RecipeError
from integration.recipe import build_part, check_fields, check_own_name, read_recipe
from segbench import ScenesDataset

FOLDER = Path(__file__).parent / "recipes"
ARMS = ("baseline", "cocu", "upper-bound")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesConfig:
    """The embedded world, as training pairs, curator pairs and evaluation images."""

    train: int = 6000
    """Pairs that GroupViT trains on."""

    curator: int = 6000
    """Pairs of other scenes that the curator's CLIP trains on."""

    val: int = 300
    """Scenes that are scored."""

    size_px: int = 48
    """Side of a picture."""

    difficulty: float = 0.3
    """In [0, 1]."""

    seed: int = 0
    """Of the world."""

    workers: int = 0
    """Processes that draw shards; the result does not depend on it."""

    @property
    def look(self) -> dict[str, Any]:
        """What scenes of all splits have in common."""
        return {"size_px": self.size_px, "difficulty": self.difficulty, "seed": self.seed}

    def __post_init__(self) -> None:
        for split, count in (("train", self.train), ("curator", self.curator), ("val", self.val)):
            ScenesDataset(
                split=split, count=count, size_px=self.size_px, difficulty=self.difficulty
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotosConfig:
    """Flickr8k photographs with real CLIP features."""

    caption: int = 0
    """Which of the five captions (0 to 4) the system gets; the others are the truth."""

    min_captions: int = 3
    """A concept enters the vocabulary when at least this many given captions of any photograph
    mention it."""

    def __post_init__(self) -> None:
        if not 0 <= self.caption < 5:
            raise ValueError(f"caption must be in [0, 4], got {self.caption}")
        if self.min_captions < 1:
            raise ValueError(f"min_captions must be >= 1, got {self.min_captions}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """Concepts mined from the training captions."""

    min_count: int = 20
    """Captions that have to mention a concept."""

    max_size: int | None = None
    """At most this many, the most frequent first."""

    min_visualness: float = 0.0
    """Standard deviations by which images captioned with a concept must respond more to it than
    others do; see `conceptarchive.visualness`. 0 keeps every noun."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How the trainer draws concepts of a pair."""

    method: Literal["cluster", "naive", "top"] = "cluster"
    """Cluster-guided (the paper), naive, or the fixed best (the released code)."""

    temperature: float = 1.0
    """Of the softmax over scores; smaller prefers better concepts."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """What is scored at the end."""

    task: str = "scenes@whole"
    """A task of segbench."""

    overlays: int = 6
    """Images that are drawn with truth and prediction."""

    points: int = 0
    """Checkpoints of a training on scenes that are kept and scored, for a curve of mIoU."""

    def __post_init__(self) -> None:
        if self.points < 0:
            raise ValueError(f"points must be >= 0, got {self.points}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A reproduction of CoCu from pairs to report."""

    name: str
    """Name of the file."""

    summary: str
    """One line: what it shows."""

    train: TrainConfig
    """GroupViT and its training, the same for all arms."""

    source: Literal["scenes", "flickr8k"] = "scenes"
    """Where pairs come from."""

    arms: tuple[str, ...] = ("baseline", "cocu")
    """Baseline: nouns and verbs of captions; cocu: the archive; upper-bound: true labels."""

    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """For `source = "scenes"`."""

    photos: PhotosConfig = field(default_factory=PhotosConfig)
    """For `source = "flickr8k"`."""

    curator: CuratorConfig = field(default_factory=CuratorConfig)
    """The CLIP that curates, trained in the run."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Which concepts there are."""

    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    """Expansion, ranking and clustering."""

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Drawing from the archive."""

    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Scoring."""

    train_threads: int = 0
    """CPU threads of GroupViT's training; 0 leaves the choice to PyTorch. Very small models are as
    fast with one, and then do not slow down when the machine does other work."""

    costs: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each stage takes on the machine named in the file, for the time left."""

    def __post_init__(self) -> None:
        if self.train_threads < 0:
            raise RecipeError(f"{self.name}: train_threads must be >= 0, got {self.train_threads}")
        if unknown := set(self.arms) - set(ARMS):
            raise RecipeError(f"{self.name}: unknown arm {sorted(unknown)[0]!r}; there are {ARMS}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise RecipeError(f"{self.name}: arms must be different ones, got {list(self.arms)}")
        if self.source == "scenes" and "image_size" not in self.curator.vision_cfg:
            raise RecipeError(f"{self.name}: curator.vision_cfg needs image_size")
        if self.source != "scenes" and self.evaluate.points:
            raise RecipeError(f"{self.name}: evaluate.points needs source = 'scenes'")


PARTS: Mapping[str, type[Any]] = {
    "scenes": ScenesConfig,
    "photos": PhotosConfig,
    "curator": CuratorConfig,
    "vocabulary": VocabularyConfig,
    "archive": ArchiveConfig,
    "sampling": SamplingConfig,
    "evaluate": EvaluationConfig,
}


def load_recipe(name: str) -> Recipe:
    """Read a recipe by its name among the built-in ones, or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, unreadable TOML, an unknown field, a value out of range, or a
            file that is called as a built-in recipe.
    """
    check_own_name(name, FOLDER)
    return build_recipe(*read_recipe(name, FOLDER))


def build_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """Build a recipe from nested plain values."""
    file = f"{name}.toml"
    check_fields(values, Recipe, "", file)
    if "summary" not in values:
        raise RecipeError(f"{file}: needs a summary")
    if "train" not in values:
        raise RecipeError(f"{file}: needs a [train] part with [train.optim] total_steps")
    given = dict(values)
    parts: dict[str, Any] = {
        key: build_part(kind, given.pop(key), key, file)
        for key, kind in PARTS.items()
        if key in given
    }
    try:
        parts["train"] = train_config(given.pop("train"))
    except GroupViTError as error:
        raise RecipeError(f"{file}: [train] {error}") from error
    parts["arms"] = tuple(given.pop("arms", ("baseline", "cocu")))
    return Recipe(name=name, **parts, **given)
