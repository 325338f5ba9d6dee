"""Pair sets on disk: the shards of a run, how many pairs they hold, and a small sample of them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from groupvit import Pairs, index_sets, index_shards
from integration.papers.recipe import PairsRecipe
from integration.stage import write_text

STATS = "_stats.json"
COUNTS = "pairs.json"


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a set that a run uses."""

    name: str
    """Of the set."""
    files: tuple[Path, ...]
    """Sorted by name."""

    @property
    def bytes(self) -> int:
        """On disk."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def fingerprint(self) -> str:
        """Hash of the names and sizes of the files, so that other data are another run."""
        listing = [[file.name, file.stat().st_size] for file in self.files]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def find_set(recipe: PairsRecipe, name: str, data: Path) -> Shards:
    """Shards of a set below the data folder, thinned to `recipe.share` if it is trained on.

    Shard i of n is taken where floor(i share) grows: of a half every second one, the second first.
    """
    files = sorted((data / name).glob("*.tar"))
    share = recipe.share if name in recipe.sets else 1.0
    kept = [f for i, f in enumerate(files) if int((i + 1) * share) > int(i * share)]
    return Shards(name, tuple(kept))


def count_pairs(shards: Shards) -> tuple[int, bool]:
    """How many pairs shards hold, and whether that is exact.

    img2dataset writes the number beside each shard. Where it is missing, the first shard is read
    and the others are taken to hold as many pairs a byte.
    """
    notes = [file.with_name(file.stem + STATS) for file in shards.files]
    if all(note.exists() for note in notes):
        return sum(int(json.loads(note.read_text())["successes"]) for note in notes), True
    first = shards.files[0]
    pairs = len(index_shards([first], dataset=shards.name)[0])
    return round(pairs * shards.bytes / first.stat().st_size), len(shards.files) == 1


def write_sample(shards: Shards, count: int, folder: Path) -> None:
    """Copy the first pairs of a set to one shard, under the names and ids that they have.

    Args:
        shards: of the set.
        count: of pairs; fewer if there are not as many.
        folder: gets a shard of the name of the first.

    Raises:
        DataError: a shard holds no pair, or is damaged.
    """
    pairs = _first(shards, count)
    path = folder / shards.files[0].name
    unfinished = path.with_suffix(".tmp")
    with tarfile.open(unfinished, "w") as tar:
        for key, image, caption in pairs:
            for suffix, content in ((".jpg", image), (".txt", caption.encode())):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    unfinished.replace(path)


def _first(shards: Shards, count: int) -> list[tuple[str, bytes, str]]:
    """Key, image and caption of the first pairs; keys of later shards name them."""
    found: dict[str, tuple[str, bytes, str]] = {}
    for file in shards.files:
        pairs = index_shards([file], dataset=shards.name)[0]
        for number in range(min(count - len(found), len(pairs))):
            key = pairs[number].id.split("/", 2)[2]
            image, caption = pairs[number].read()
            found.setdefault(key, (key, image, caption))
        if len(found) >= count:
            break
    return list(found.values())


def write_index(sets: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Find all pairs of all sets once, and note how many there are."""
    pairs = open_index(sets, folder)
    counts = dict.fromkeys(sets, 0)
    for shard in pairs.shards:
        counts[shard.prefix.split("/")[0]] += shard.pairs
    write_text(folder / COUNTS, json.dumps(counts, indent=1))


def open_index(sets: Mapping[str, Sequence[Path]], folder: Path) -> Pairs:
    """All pairs of all sets, from the index in `folder` where it holds."""
    return index_sets(sets, cache=folder)[0]


def read_counts(folder: Path) -> dict[str, int]:
    """Pairs by set, as `write_index` left them."""
    counts: dict[str, int] = json.loads((folder / COUNTS).read_text())
    return counts


def spread(count: int, most: int) -> Iterator[int]:
    """At most `most` numbers below `count`, at equal distances."""
    step = max(count / most, 1.0)
    return (int(i * step) for i in range(min(count, most)))
