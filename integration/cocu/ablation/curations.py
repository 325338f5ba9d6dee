"""What the ablation compares: the paper's models #1 to #4, and the settings a user has to choose.

A curation is what an arm changes in a recipe: how concepts are expanded, ranked and drawn.
Curations that build the same archive share its stage, and all share embeddings and the curator.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from conceptarchive import ArchiveConfig
from integration.cocu.recipe import Recipe, SamplingConfig
from integration.errors import RecipeError

WIDE = 32
"""Reference images of the settings that are also looked at with many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curation:
    """Expansion, ranking and sampling of one arm; what is not named is the recipe's."""

    about: str
    """In the words of the tables."""

    archive: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `ArchiveConfig` that differ from the recipe's."""

    vocabulary: Literal["mined", "gallery"] = "mined"
    """Nouns mined from the captions, or a closed list: the class names that are scored."""

    pool: Literal["own", "other"] = "own"
    """Search reference images among the training pairs, or among the curator's."""

    sampling: SamplingConfig
    """How the trainer draws."""

    def archive_config(self, recipe: Recipe) -> ArchiveConfig:
        """How its archive is built."""
        return replace(recipe.archive, **self.archive)

    def archive_name(self, recipe: Recipe) -> str:
        """Name of its archive's stage: equal for curations that build the same archive."""
        built, usual = asdict(self.archive_config(recipe)), asdict(recipe.archive)
        parts = [built["expansion"], built["ranking"]]
        parts += [
            f"{key}-{value}".replace("_", "-")
            for key, value in built.items()
            if value != usual[key] and key not in ("expansion", "ranking")
        ]
        parts += [self.vocabulary] * (self.vocabulary != "mined")
        parts += [f"{self.pool}-pool"] * (self.pool != "own")
        return "-".join(["archive", *parts])

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with this curation's settings."""
        return replace(recipe, archive=self.archive_config(recipe), sampling=self.sampling)


NAIVE = SamplingConfig(method="naive")
CLUSTER = SamplingConfig(method="cluster")
TOP = SamplingConfig(method="top")
SHARP = SamplingConfig(method="cluster", temperature=0.1)
"""A draw that follows scores of eqs. 6-8; at temperature 1 it hardly does."""
FULL: Mapping[str, str] = {"expansion": "vision", "ranking": "relative"}

MODELS: Mapping[str, Curation] = {
    "model-1": Curation(
        about="#1: language-driven, eq. 6, naive",
        archive={"expansion": "language", "ranking": "cosine"},
        sampling=NAIVE,
    ),
    "model-2": Curation(
        about="#2: vision-driven, eq. 6, naive",
        archive={"expansion": "vision", "ranking": "cosine"},
        sampling=NAIVE,
    ),
    "model-3": Curation(about="#3: vision-driven, eqs. 6-8, naive", archive=FULL, sampling=NAIVE),
    "model-4": Curation(
        about="#4: vision-driven, eqs. 6-8, cluster-guided", archive=FULL, sampling=CLUSTER
    ),
}
"""The ablation of the paper (CoCu, sec. 4.3): each adds one thing to the one before."""


def _curated(about: str, sampling: SamplingConfig = TOP, **changes: Any) -> Curation:
    return Curation(about=about, archive={**FULL, **changes}, sampling=sampling)


def _drawn(method: Literal["cluster", "naive"], temperature: float) -> Curation:
    sampling = SamplingConfig(method=method, temperature=temperature)
    return _curated(f"{method}, temperature {temperature:g}", sampling)


def _clusters(about: str, **changes: Any) -> Curation:
    return _curated(f"N = {WIDE}, k = {about}", SHARP, neighbours=WIDE, **changes)


SETTINGS: Mapping[str, Curation] = {
    "top": _curated("the best three (released code)"),
    "top-language": _curated("the best three, language-driven", expansion="language"),
    "top-cosine": _curated("the best three, eq. 6 alone", ranking="cosine"),
    "gallery": Curation(
        about="the best three, closed gallery", archive=FULL, vocabulary="gallery", sampling=TOP
    ),
    "other-pool": Curation(
        about="the best three, pool of other pairs", archive=FULL, pool="other", sampling=TOP
    ),
    **{f"naive-{t:g}": _drawn("naive", t) for t in (1.0, 0.3, 0.1, 0.03)},
    **{f"cluster-{t:g}": _drawn("cluster", t) for t in (1.0, 0.3, 0.1, 0.03)},
    **{
        f"neighbours-{n}": _curated(f"the best three, N = {n}", neighbours=n)
        for n in (4, 8, 16, WIDE, 64)
    },
    "wide-language": _curated(
        f"N = {WIDE}, language-driven", neighbours=WIDE, expansion="language"
    ),
    "wide-cosine": _curated(f"N = {WIDE}, eq. 6 alone", neighbours=WIDE, ranking="cosine"),
    "wide-naive": _curated(
        f"N = {WIDE}, naive, temperature {SHARP.temperature}",
        SamplingConfig(method="naive", temperature=SHARP.temperature),
        neighbours=WIDE,
    ),
    **{f"clusters-{k}": _clusters(str(k), concepts_per_pair=k) for k in (2, 3, 5, 8)},
    "clusters-half": _clusters("half of the concepts (released code)", clusters="half"),
}
"""Settings beyond the paper's ablation. Each differs in one thing from `top`, or, with many
reference images, from `neighbours-32` or (where clusters are counted) `clusters-3`."""

CURATIONS: Mapping[str, Curation] = {**MODELS, **SETTINGS}
LADDER = ("baseline", *MODELS, "upper-bound")
"""The arms of the ablation, in the order in which the paper claims that each improves."""


def check_arms(arms: tuple[str, ...]) -> None:
    """Refuse arms that the ablation does not know, and none.

    Raises:
        RecipeError: naming the first.
    """
    known = ("baseline", *CURATIONS, "upper-bound")
    if unknown := [arm for arm in arms if arm not in known]:
        raise RecipeError(f"unknown arm {unknown[0]!r}; --ablation knows {', '.join(known)}")
    if len(set(arms)) < len(arms):
        raise RecipeError(f"arms must be different ones, got {', '.join(arms)}")
