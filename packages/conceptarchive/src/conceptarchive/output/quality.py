"""How much of what images show and captions leave out an archive finds, against known labels."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.archive.schema import POOL_ROWS, POOL_SCHEMA, pool_name, shard_count
from conceptarchive.archive.shards import read_batch
from conceptarchive.concepts.mentions import MentionFinder, Mentions
from conceptarchive.concepts.vocabulary import Vocabulary
from conceptarchive.errors import DataMissingError, FormatError

Float64Array = npt.NDArray[np.float64]
Names = Mapping[str, AbstractSet[str]]

KS = (1, 3, 5, 10)
RESAMPLES = 2000
LEVEL = 95  # per cent, of intervals
BINS = 10  # of the calibration, with equally many concepts each
BANDS = ("rare", "middle", "frequent")


@dataclass(frozen=True, slots=True)
class PairScores:
    """What was found of each judged pair; pairs in the order of their ids.

    Attributes:
        keys: p ids of the pairs whose caption leaves something out.
        recall: (p, ks) share of the missing labels among the first k new concepts.
        precision: (p, ks) share of the first k places that hold a missing label.
        named_recall: (q, ks) share of the labels that captions name among the first k concepts, of
            the q pairs that name one.
        ks: places looked at.
    """

    keys: tuple[str, ...]
    recall: Float64Array
    precision: Float64Array
    named_recall: Float64Array
    ks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Semantic gap closed by ranked concepts, averaged over pairs with something missing.

    Attributes:
        recall: for each k, the mean share of missing concepts among the first k.
        precision: for each k, the mean share of the k places that hold a missing concept.
        recall_interval: for each k, the bootstrap interval (95 %) of the recall over pairs.
        named_recall: for each k, the mean share of the concepts that captions name among the first
            k of the whole list.
        pairs: pairs whose truth is known.
        pairs_with_missing: pairs whose caption leaves something out; means are over these.
        coverage: `pairs_with_missing / pairs`.
        named: share of all concepts present that captions name.
    """

    recall: dict[int, float]
    precision: dict[int, float]
    recall_interval: dict[int, tuple[float, float]]
    named_recall: dict[int, float]
    pairs: int
    pairs_with_missing: int
    coverage: float
    named: float


class Difference(NamedTuple):
    """First arm less second, over the same pairs: mean and bootstrap interval (95 %)."""

    mean: float
    low: float
    high: float


class Bin(NamedTuple):
    """Concepts of neighbouring scores: their range, and the share that images really show."""

    low: float
    high: float
    right: float
    size: int


class Band(NamedTuple):
    """Missing labels of one frequency in captions: how many, and the share found among k."""

    name: str
    labels: int
    recall: float


def archive_quality(
    ranked: Mapping[str, Sequence[str]],
    mentioned: Names,
    truth: Names,
    ks: Sequence[int] = KS,
) -> QualityReport:
    """Judge ranked concepts by the concepts that an image shows and its caption does not name.

        missing = truth - mentioned;   the list is ranked concepts less those mentioned
        recall@k    = |first k of the list & missing| / |missing|
        precision@k = |first k of the list & missing| / k

    Args:
        ranked: concepts of each pair, best first; a pair without an entry has none.
        mentioned: concepts that each pair's caption names; without an entry, none.
        truth: concepts that each image shows; only these pairs are judged.
        ks: places to look at, each >= 1.

    Raises:
        ValueError: `truth` is empty or a k is below 1.
    """
    scores = pair_scores(ranked, mentioned, truth, ks)
    present = sum(map(len, truth.values()))
    named = sum(len(shown & mentioned.get(key, frozenset())) for key, shown in truth.items())
    return QualityReport(
        _means(scores.recall, ks),
        _means(scores.precision, ks),
        _intervals(scores.recall, ks),
        _means(scores.named_recall, ks),
        pairs=len(truth),
        pairs_with_missing=len(scores.keys),
        coverage=len(scores.keys) / len(truth),
        named=named / present if present else 0.0,
    )


def pair_scores(
    ranked: Mapping[str, Sequence[str]],
    mentioned: Names,
    truth: Names,
    ks: Sequence[int] = KS,
) -> PairScores:
    """Recall and precision of every pair; arguments and errors of `archive_quality`."""
    if not truth or min(ks, default=0) < 1:
        raise ValueError(f"needs pairs and ks >= 1, got {len(truth)} pairs and ks={tuple(ks)}")
    keys: list[str] = []
    recall: list[list[float]] = []
    precision: list[list[float]] = []
    named_recall: list[list[float]] = []
    for key in sorted(truth):
        known, found = mentioned.get(key, frozenset()), ranked.get(key, ())
        missing, named = truth[key] - known, truth[key] & known
        if missing:
            hits = _hits([name for name in found if name not in known], missing, ks)
            keys.append(key)
            recall.append([hit / len(missing) for hit in hits])
            precision.append([hit / k for hit, k in zip(hits, ks, strict=True)])
        if named:
            named_recall.append([hit / len(named) for hit in _hits(found, named, ks)])
    return PairScores(
        tuple(keys),
        _table(recall, ks),
        _table(precision, ks),
        _table(named_recall, ks),
        tuple(ks),
    )


def difference(first: PairScores, second: PairScores, *, k: int, seed: int = 0) -> Difference:
    """Recall@k of one arm less another's on the same pairs, with a paired bootstrap interval.

    Raises:
        ValueError: the arms were not judged on the same pairs, or not at k.
    """
    if first.keys != second.keys or k not in first.ks or k not in second.ks:
        raise ValueError(f"arms must be judged on the same pairs and at k = {k}")
    gain = first.recall[:, first.ks.index(k)] - second.recall[:, second.ks.index(k)]  # (p,)
    low, high = bootstrap(gain, seed)
    return Difference(float(gain.mean()) if len(gain) else 0.0, low, high)


def calibration(
    scored: Mapping[str, Sequence[tuple[str, float]]], truth: Names, *, bins: int = BINS
) -> list[Bin]:
    """Share of concepts that images really show, by score.

    Args:
        scored: (name, score) of each pair's concepts.
        truth: concepts that each image shows; only these pairs count.
        bins: of equally many concepts.
    """
    entries = sorted(
        (score, name in shown)
        for key, shown in truth.items()
        for name, score in scored.get(key, ())
    )
    values = np.array(entries, dtype=np.float64).reshape(-1, 2)  # (c, 2)
    parts = [part for part in np.array_split(values, bins) if len(part)]
    return [
        Bin(float(part[0, 0]), float(part[-1, 0]), float(part[:, 1].mean()), len(part))
        for part in parts
    ]


def recall_by_frequency(
    ranked: Mapping[str, Sequence[str]],
    mentioned: Names,
    truth: Names,
    counts: Mapping[str, int],
    *,
    k: int = 5,
) -> list[Band]:
    """Recall@k of missing labels, in three equal bands of how often captions mention them.

    Args:
        ranked: concepts of each pair, best first.
        mentioned: concepts that each pair's caption names.
        truth: concepts that each image shows.
        counts: captions of the pool that mention each name.
        k: places looked at.
    """
    labels: list[tuple[int, str, bool]] = []  # (frequency, name, found) of every missing label
    for key in sorted(truth):
        known = mentioned.get(key, frozenset())
        first = set([name for name in ranked.get(key, ()) if name not in known][:k])
        missing = sorted(truth[key] - known)
        labels += [(counts.get(name, 0), name, name in first) for name in missing]
    labels.sort()
    parts = np.array_split(np.array([found for _, _, found in labels], np.float64), len(BANDS))
    return [
        Band(name, len(part), float(part.mean()) if len(part) else 0.0)
        for name, part in zip(BANDS, parts, strict=True)
    ]


def frequency_ranking(mentions: Mentions, vocabulary: Vocabulary) -> list[str]:
    """Concepts by how many captions of the pool mention them: the ranking to beat.

    Ties by concept id. The same list serves every image.
    """
    counts = mentions.counts(len(vocabulary))  # (V,)
    return [vocabulary.names[concept] for concept in np.argsort(-counts, kind="stable")]


def named_concepts(archive: ConceptArchive, keys: Iterable[str]) -> dict[str, frozenset[str]]:
    """Names of the concepts that captions of an archive mention, by pair id."""
    finder, names = MentionFinder(archive.vocabulary), archive.vocabulary.names
    return {
        key: frozenset(names[concept] for concept in finder.find(archive.caption(key)))
        for key in keys
    }


def pool_counts(archive: ConceptArchive) -> dict[str, int]:
    """Captions of an archive's pool that mention each concept of its vocabulary."""
    names = archive.vocabulary.names
    counts = np.zeros(len(names), np.int64)  # (V,)
    for number in range(shard_count(archive.manifest["pool_rows"], POOL_ROWS)):
        batch = read_batch(archive.folder / pool_name(number), POOL_SCHEMA)
        mentioned = batch["mentions"].values.to_numpy()
        counts += np.bincount(mentioned, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def load_truth(path: Path) -> dict[str, frozenset[str]]:
    """Labels by pair id, from JSON {id: [names]} or lines of id, tab, names.

    Names on a line are parted by tabs or commas.

    Raises:
        DataMissingError: no such file.
        FormatError: another form, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            rows = [(key, names) for key, names in json.loads(text).items()]
        else:
            lines = csv.reader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [
                (line[0], [name for part in line[1:] for name in part.split(",")])
                for line in lines
                if line
            ]
        truth = {str(key): frozenset(_strings(names)) for key, names in rows}
    except OSError as error:
        raise DataMissingError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{path}: needs JSON {{pair id: [names]}}, or lines of id, tab, names ({error})"
        ) from error
    if not truth:
        raise FormatError(f"{path}: holds no labels")
    return truth


def bootstrap(values: Float64Array, seed: int = 0) -> tuple[float, float]:
    """Interval (95 %) of the mean by resampling; (0, 0) of nothing."""
    if not len(values):
        return 0.0, 0.0
    stream = np.random.default_rng(seed)
    means = [values[stream.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _strings(names: object) -> list[str]:
    """A list of strings, or TypeError."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names must be a list of strings, got {names!r}")
    return [name for name in (" ".join(name.lower().split()) for name in names) if name]


def _hits(ranked: Sequence[str], wanted: AbstractSet[str], ks: Sequence[int]) -> list[int]:
    """Wanted names among the first k of a list, for each k."""
    return [len(wanted & set(ranked[:k])) for k in ks]


def _table(rows: list[list[float]], ks: Sequence[int]) -> Float64Array:
    """(n, ks) of rows, maybe none."""
    return np.array(rows, dtype=np.float64).reshape(-1, len(ks))


def _means(values: Float64Array, ks: Sequence[int]) -> dict[int, float]:
    """Mean of each column, 0 when there is no row."""
    mean = values.mean(axis=0) if len(values) else np.zeros(len(ks))
    return {k: float(value) for k, value in zip(ks, mean, strict=True)}


def _intervals(values: Float64Array, ks: Sequence[int]) -> dict[int, tuple[float, float]]:
    """Bootstrap interval of each column's mean."""
    return {k: bootstrap(values[:, at]) for at, k in enumerate(ks)}
