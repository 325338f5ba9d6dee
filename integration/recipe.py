"""Recipes: TOML files that name what differs from the defaults."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from conceptarchive import ArchiveConfig
from groupvit import GroupViTError, TrainConfig, train_config
from integration.curator import CuratorConfig
from integration.errors import RecipeError
from segbench import ScenesDataset

FOLDER = Path(__file__).parent / "recipes"
ARMS = ("baseline", "cocu", "upper-bound")

Config = TypeVar("Config")


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


def read_recipe(name: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Values of a recipe, and what it is called.

    Args:
        name: among those in `folder`, or the path of a TOML file.
        folder: of built-in recipes.

    Raises:
        RecipeError: no such recipe, or unreadable TOML.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise RecipeError(f"no recipe {name!r}; there are {known}, or give a .toml file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), path.stem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not readable as TOML ({error})") from error


def typed(name: str, folder: Path) -> str:
    """What a reader gives to `--recipe` for a recipe of this name: it, or his own FILE.toml."""
    return name if (folder / f"{name}.toml").exists() else f"{name}.toml"


def check_own_name(name: str, folder: Path) -> None:
    """Refuse a file that is called as a built-in recipe and holds something else.

    The command that results name would make other numbers.

    Raises:
        RecipeError: it is.
    """
    path, built_in = Path(name), folder / Path(name).name
    if path.is_file() and built_in.exists() and built_in.read_bytes() != path.read_bytes():
        raise RecipeError(f"{path}: a built-in recipe is called {path.stem}; rename your file")


def check_known(name: str, *folders: Path) -> None:
    """Refuse a name that no recipe has, and list those of all kinds that there are.

    Args:
        name: of a recipe; the path of a TOML file is left to its reader.
        folders: of built-in recipes.

    Raises:
        RecipeError: no such recipe.
    """
    known = [path.stem for folder in folders for path in sorted(folder.glob("*.toml"))]
    if not name.endswith(".toml") and name not in known:
        there = ", ".join(known)
        raise RecipeError(f"no recipe {name!r}; there are {there}, or give a .toml file")


def has_source(name: str, folder: Path, source: str) -> bool:
    """Whether a recipe is a built-in one of `folder`, or a file with this `source`.

    What cannot be read is left to the reader of the others.
    """
    if not name.endswith(".toml"):
        return (folder / f"{name}.toml").exists()
    return Path(name).exists() and read_recipe(name, folder)[0].get("source") == source


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


def build_part(kind: type[Config], values: Mapping[str, Any], path: str, file: str) -> Config:
    """Build a part of a recipe from plain values, `path` being its place in `file`.

    Raises:
        RecipeError: an unknown field, or a value out of range.
    """
    check_fields(values, kind, f"{path}.", file)
    try:
        return kind(**values)
    except ValueError as error:
        raise RecipeError(f"{file}: [{path}] {error}") from error


def check_fields(values: Any, kind: type[Any], prefix: str, file: str) -> None:
    """Refuse what is not a table of known fields with values of their types."""
    if not isinstance(values, Mapping):
        raise RecipeError(f"{file}: {prefix.rstrip('.')} must be a table, got {values!r}")
    hints = get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind) if field.name != "name"]
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = (
                f"; did you mean '{prefix}{near[0]}'?" if near else f"; known: {', '.join(known)}"
            )
            raise RecipeError(f"unknown key '{prefix}{key}' in {file}{hint}")
        if not _fits(value, hints[key]):
            raise RecipeError(f"{file}: {prefix}{key} must be {_wanted(hints[key])}, got {value!r}")


def _fits(value: object, hint: Any) -> bool:
    """Whether a plain value of a TOML file may stand in a field of this type."""
    origin, options = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in options
    if origin is UnionType:
        return any(_fits(value, option) for option in options)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(each, options[0]) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_fits(v, options[1]) for v in value.values())
    if hint is float:
        return type(value) in (int, float)
    # a part is checked where it is built
    return hint is Any or dataclasses.is_dataclass(hint) or type(value) is hint


def _wanted(hint: Any) -> str:
    """A type in the words of a recipe's author."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(options)
    if get_origin(hint) is UnionType:
        return " or ".join(_wanted(option) for option in options if option is not type(None))
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(
        hint, "a list of texts" if get_origin(hint) is tuple else "a table of numbers"
    )
