"""Recipes of PixelCLIP: what all arms share, and what each changes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from integration.cocu.curator import CuratorConfig
from integration.cocu.recipe import EvaluationConfig, ScenesConfig, VocabularyConfig
from integration.errors import RecipeError
from integration.pixelclip.scenes import RegionsConfig
from integration.recipe import build_part, check_fields, check_own_name, read_recipe
from maskcluster import MaskClusterError, TrainConfig, train_config

FOLDER = Path(__file__).parent / "recipes"

Source = Literal["regions", "dino", "superpixels"]
Words = Literal["vocabulary", "captions", "archive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MasksConfig:
    """Masks of other sources than the scenes' own regions."""

    dino_clusters: int = 12
    """k of the k-means over a picture's dense features."""

    dino_short_px: int = 96
    """Short side at which the image tower sees a picture then."""

    superpixels: int = 24
    """Superpixels of a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhotosConfig:
    """Photographs with masks, and the CLIP that is tuned, in place of the embedded world."""

    images: str
    """Folder of photographs in the data folder, looked through with all folders inside."""

    masks: str = ""
    """Folder of their masks, SA-1B's JSON under the photographs' names; needed by arms whose masks
    are `regions`."""

    names: str = ""
    """Class names that clusters are named after, with commas between them; empty takes those that
    are scored."""

    architecture: str = "ViT-B-16-quickgelu"
    """Of open_clip."""

    pretrained: str = "openai"
    """A tag of open_clip, a file of weights, or `random` to try things out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One row of the table."""

    about: str
    """What it is, in a few words."""

    masks: Source = "regions"
    """`regions`: cut-up, displaced regions of the scene, or the photographs' own masks; `dino`:
    k-means over the un-tuned CLIP's features; `superpixels`: SLIC."""

    words: Words = "vocabulary"
    """What class prompts start from: random tokens of the vocabulary (published), words of the
    captions that CLIP was trained on, or the concepts of a concept archive's clusters."""

    train: TrainConfig
    """The recipe's, with the arm's changes."""


@dataclass(frozen=True, kw_only=True)
class PixelclipRecipe:
    """From pictures and captions to a tuned CLIP whose clusters have names."""

    name: str
    """Name of the file."""

    summary: str
    """One line: what it shows."""

    arms: Mapping[str, Arm]
    """By name; the table has them in this order."""

    chosen: tuple[str, ...]
    """Arms that are run when nothing else is asked for."""

    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """`curator` pairs train CLIP, `train` pictures have masks, `val` ones are scored."""

    photos: PhotosConfig | None = None
    """Photographs in place of scenes."""

    captions: Mapping[str, float] = field(default_factory=dict)
    """Rates of `segbench.CaptionRates` that differ: how complete CLIP's captions are."""

    regions: RegionsConfig = field(default_factory=RegionsConfig)
    """How far the scenes' own masks are from the objects."""

    masks: MasksConfig = field(default_factory=MasksConfig)
    """Of the other sources."""

    curator: CuratorConfig = field(default_factory=CuratorConfig)
    """The CLIP that is tuned, and its own training; for scenes."""

    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    """Concepts that prompts may start from."""

    evaluate: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Scoring."""

    threads: int = 0
    """CPU threads of training; 0 leaves the choice to PyTorch."""

    costs: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each stage takes on the machine named in the file, for the time left."""

    def __post_init__(self) -> None:
        if unknown := set(self.chosen) - self.arms.keys():
            raise RecipeError(
                f"{self.name}: unknown arm {sorted(unknown)[0]!r}; there are {', '.join(self.arms)}"
            )
        if self.photos is None and "image_size" not in self.curator.vision_cfg:
            raise RecipeError(f"{self.name}: curator.vision_cfg needs image_size")
        if not self.chosen or len(set(self.chosen)) < len(self.chosen):
            raise RecipeError(f"{self.name}: arms must be different ones, got {self.chosen}")
        if self.photos is not None and not self.photos.masks and "regions" in self.sources:
            raise RecipeError(f"{self.name}: photos.masks must name the folder of `regions`")

    @property
    def sources(self) -> frozenset[Source]:
        """Where the masks of the chosen arms come from."""
        return frozenset(self.arms[name].masks for name in self.chosen)

    def with_arms(self, names: str | None) -> "PixelclipRecipe":
        """The same with other arms: comma-separated names, `all`, or None for the recipe's own."""
        if names is None:
            return self
        return replace(self, chosen=tuple(self.arms if names == "all" else names.split(",")))


PARTS: Mapping[str, type[Any]] = {
    "scenes": ScenesConfig,
    "photos": PhotosConfig,
    "regions": RegionsConfig,
    "masks": MasksConfig,
    "curator": CuratorConfig,
    "vocabulary": VocabularyConfig,
    "evaluate": EvaluationConfig,
}


def load_pixelclip_recipe(name: str) -> PixelclipRecipe:
    """Read a recipe by its name among the built-in ones, or by the path of a TOML file.

    Raises:
        RecipeError: no such recipe, unreadable TOML, an unknown field or a value out of range.
    """
    check_own_name(name, FOLDER)
    values, stem = read_recipe(name, FOLDER)
    return build_pixelclip_recipe(values, stem)


def build_pixelclip_recipe(values: Mapping[str, Any], name: str) -> PixelclipRecipe:
    """Build a recipe from nested plain values: `[train]` is shared, `[arms.NAME]` changes it."""
    file = f"{name}.toml"
    given = dict(values)
    train, arms = given.pop("train", {}), given.pop("arms", {})
    check_fields(given, PixelclipRecipe, "", file)
    for needed in ("summary", "chosen"):
        if needed not in given:
            raise RecipeError(f"{file}: needs {needed}")
    parts = {
        key: build_part(kind, given.pop(key), key, file)
        for key, kind in PARTS.items()
        if key in given
    }
    chosen = tuple(given.pop("chosen"))
    built = {arm: _build_arm(arm, changes, train, file) for arm, changes in arms.items()}
    return PixelclipRecipe(name=name, arms=built, chosen=chosen, **parts, **given)


def _build_arm(name: str, changes: Mapping[str, Any], train: Mapping[str, Any], file: str) -> Arm:
    own = dict(changes)
    values = _merged(train, own.pop("train", {}))
    check_fields(own, Arm, f"arms.{name}.", file)
    if "about" not in own:
        raise RecipeError(f"{file}: arms.{name} needs about")
    try:
        return Arm(**own, train=train_config(values))
    except MaskClusterError as error:
        raise RecipeError(f"{file}: arms.{name}: {error}") from error


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, of which the second one wins."""
    both = {key: first.get(key, second.get(key)) for key in [*first, *second]}
    for key, value in second.items():
        inner = isinstance(value, Mapping) and isinstance(first.get(key), Mapping)
        both[key] = _merged(first[key], value) if inner else value
    return both
