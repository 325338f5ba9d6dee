"""The pool of pairs that a recipe is trained on."""

from pathlib import Path
from typing import Literal

from groupvit.config import DataConfig
from groupvit.data.images import without_corrupt
from groupvit.data.index import Pairs
from groupvit.data.indexing import index_sets
from groupvit.data.shards import Missing, find_sets, find_shards
from groupvit.errors import UsageError

CheckImages = bool | Literal["auto"]
SMALL_POOL = 100_000
"""Up to here `auto` reads all images before training: seconds to minutes."""


def open_pool(
    config: DataConfig,
    data: str,
    *,
    dataset: str | None = None,
    missing: Missing = "error",
    cache: Path | None = None,
) -> Pairs:
    """Find and index the pairs of a recipe.

    Args:
        config: its `sets` are looked for below `data`; without any, `data` names the shards.
        data: folder of the sets; or a path, glob or brace pattern of shards.
        dataset: name of the one data set that `data` is; by default that of the shards' folder.
        missing: what to do about shards that are not there.
        cache: folder that keeps the index.

    Raises:
        DataError: shards are missing or damaged, or hold no pair.
        UsageError: `dataset` is given and the recipe names sets.
    """
    if config.sets:
        if dataset is not None:
            raise UsageError(
                f"--dataset {dataset}: the recipe names its data sets: {', '.join(config.sets)}"
            )
        sets = find_sets(config.sets, Path(data).expanduser(), missing=missing)
    else:
        shards = find_shards(data, missing=missing)
        sets = {dataset or shards[0].resolve().parent.name: shards}
    return index_sets(sets, cache=cache)[0]


def decodable(pairs: Pairs, check: CheckImages) -> Pairs:
    """Leave out pairs whose image cannot be decoded, if that is asked for.

    Args:
        pairs: the pool.
        check: whether to read all images; `auto` does in a pool of up to `SMALL_POOL` pairs. What
            is not checked is replaced during training.
    """
    if check == "auto":
        check = len(pairs) <= SMALL_POOL
    kept = without_corrupt(pairs)[0] if check else pairs
    assert isinstance(kept, Pairs)
    return kept
