"""How an archive is built: every option of the paper and of its released code."""

from dataclasses import dataclass
from typing import Literal

from conceptarchive.errors import UsageError

Expansion = Literal["vision", "language"]
Ranking = Literal["cosine", "relative"]
SelfMode = Literal["keep", "drop", "force"]
Relative = Literal["mean_with_anchor", "mean_without_anchor", "softmax", "rank"]
CosineNorm = Literal["max_in_archive", "none"]
Response = Literal["cosine", "shifted"]
Clusters = Literal["concepts", "half"]
SearchMethod = Literal["auto", "exact", "ivf_flat", "hnsw", "ivf_pq"]
SearchPrecision = Literal["float32", "bfloat16", "float16"]

MAX_CLUSTERS = 255
"""Cluster numbers are stored as uint8."""


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class ArchiveConfig:
    """Expansion, ranking and clustering of CoCu (arXiv:2309.13505, sec. 3.3)."""

    expansion: Expansion = "vision"
    """Find reference images by their image (`vision`) or by their caption (`language`)."""

    ranking: Ranking = "relative"
    """Score by eq. 6 alone (`cosine`) or by eqs. 6-8 (`relative`)."""

    neighbours: int = 8
    """Reference images R of every anchor image."""

    self_mode: SelfMode = "force"
    """The anchor among its own reference images: leave it (`keep`), remove it by id (`drop`), or
    leave it and always add the concepts of its own caption (`force`)."""

    relative: Relative = "mean_with_anchor"
    """What eq. 7 compares the anchor's response with."""

    cosine_norm: CosineNorm = "max_in_archive"
    """What eq. 8 divides the anchor's response by."""

    response: Response = "cosine"
    """What eqs. 7 and 8 compare: cosines, or (1 + cosine) / 2 for a small CLIP whose cosines reach
    below 0."""

    clusters: Clusters = "concepts"
    """Clusters of an image with m concepts: `concepts_per_pair` of them, or ceil(m / 2)."""

    concepts_per_pair: int = 3
    """Concepts L that a trainer draws for one pair; they come from as many clusters."""

    max_concepts: int = 64
    """At most this many concepts of an image are stored, the best first."""

    skip_identical_captions: bool = False
    """Skip a reference image whose caption a nearer one, or the anchor, already has."""

    skip_near_duplicates: float | None = None
    """Skip a reference image, other than the anchor itself, at least this similar to it."""

    def __post_init__(self) -> None:
        for name in ("neighbours", "concepts_per_pair", "max_concepts"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_CLUSTERS:
                raise UsageError(f"{name} must be in [1, {MAX_CLUSTERS}], got {value}")
        limit = self.skip_near_duplicates
        if limit is not None and not 0 < limit <= 1:
            raise UsageError(f"skip_near_duplicates must be in (0, 1], got {limit}")


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class SearchConfig:
    """How reference images are searched. Exact search has no say in the result; indexes have."""

    method: SearchMethod = "auto"
    """`auto` searches exactly where that takes at most `minutes`, else through the least lossy
    index that fits in memory."""

    precision: SearchPrecision = "float32"
    """Type of the products that propose reference images in exact search; float32 is exact, the
    others are re-ranked and miss about one in ten thousand."""

    recall: float = 0.95
    """Recall that an index is tuned to reach, against exact search."""

    recall_queries: int = 1000
    """Anchors whose recall is measured."""

    minutes: float = 20.0
    """Longest exact search that `auto` takes."""

    memory_gib: float | None = None
    """Memory that a search may take; what is free by default."""

    seed: int = 0
    """Of an index's training and of the anchors whose recall is measured."""

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall must be in (0, 1], got {self.recall}")
        for name in ("minutes", "memory_gib"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be > 0, got {value}")
        if self.recall_queries < 1:
            raise UsageError(f"recall_queries must be >= 1, got {self.recall_queries}")
