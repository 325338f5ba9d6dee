"""An archive judged against known labels: every figure of `quality`, and lines that tell them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.errors import DataMissingError
from conceptarchive.output.quality import (
    Band,
    Bin,
    Difference,
    QualityReport,
    archive_quality,
    calibration,
    difference,
    named_concepts,
    pair_scores,
    pool_counts,
    recall_by_frequency,
)

COMPARED_AT = 5
"""Concepts looked at where archives are compared, and by frequency."""

Labels = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of an archive's quality.

    Attributes:
        pairs: judged pairs, and pairs of the truth.
        labels: labels of these that are concepts of the vocabulary, and all.
        reports: of the archive, of the ranking by frequency, and of the other archive.
        gain: the archive's recall less the other's.
        bins: share of right concepts by score.
        bands: recall by how often captions mention a label.
    """

    pairs: tuple[int, int]
    labels: tuple[int, int]
    reports: dict[str, QualityReport]
    gain: Difference | None
    bins: list[Bin]
    bands: list[Band]

    def lines(self) -> Iterator[str]:
        """Lines of tab-separated names and figures."""
        yield f"truth\tpairs in the archive\t{self.pairs[0]}/{self.pairs[1]}"
        yield f"truth\tlabels in the vocabulary\t{self.labels[0]}/{self.labels[1]}"
        for name, report in self.reports.items():
            yield from _report_lines(name, report)
        if self.gain is not None:
            told = f"{self.gain.mean:.4f} [{self.gain.low:.4f}, {self.gain.high:.4f}]"
            yield f"difference\trecall@{COMPARED_AT}\t{told}"
        for part in self.bins:
            yield f"calibration\t{part.low:.3f}..{part.high:.3f}\t{part.right:.4f}"
        for band in self.bands:
            yield f"{band.name}\trecall@{COMPARED_AT}\t{band.recall:.4f}"


def judge(
    archive: ConceptArchive, truth: Labels, *, against: ConceptArchive | None = None
) -> Judgement:
    """Judge an archive, beside a ranking by frequency and maybe another archive.

    Args:
        archive: what to judge.
        truth: names of the concepts that images show, by pair id; pairs that the archive does not
            hold are left out, and counted.
        against: another archive of the same pairs.

    Raises:
        DataMissingError: no pair of the truth is in the archive, no label in its vocabulary, or a
            judged pair is not in the other archive.
    """
    labels = {key: shown for key, shown in truth.items() if key in archive}
    if not labels:
        raise DataMissingError(
            f"none of the truth's keys, as {min(truth)!r}, is in {archive.folder}; keys there "
            f"look like {archive.keys[0]!r}"
        )
    known = _known_labels(archive, labels)
    mentioned, counts = named_concepts(archive, labels), pool_counts(archive)
    ranked = _ranked(archive, labels)
    frequent = sorted(counts, key=lambda name: -counts[name])
    arms = {"archive": ranked, "frequency": dict.fromkeys(labels, frequent)}
    gain = None
    if against is not None:
        arms["against"] = _ranked(against, labels)
        first, second = (
            pair_scores(arms[name], mentioned, labels) for name in ("archive", "against")
        )
        gain = difference(first, second, k=COMPARED_AT)
    scored = {key: [(c.name, c.score) for c in archive.concepts(key)] for key in labels}
    return Judgement(
        (len(labels), len(truth)),
        known,
        {name: archive_quality(arm, mentioned, labels) for name, arm in arms.items()},
        gain,
        calibration(scored, labels),
        recall_by_frequency(ranked, mentioned, labels, counts, k=COMPARED_AT),
    )


def _known_labels(archive: ConceptArchive, labels: Labels) -> tuple[int, int]:
    """Labels that are concepts of the vocabulary, and all."""
    names = frozenset[str]().union(*labels.values())
    found = len(names & set(archive.vocabulary.names))
    if names and not found:
        raise DataMissingError(
            f"no label of the truth, as {min(names)!r}, is in the vocabulary of {archive.folder}"
        )
    return found, len(names)


def _ranked(archive: ConceptArchive, labels: Labels) -> dict[str, list[str]]:
    """Names of the concepts of judged pairs, best first."""
    missing = [key for key in labels if key not in archive]
    if missing:
        raise DataMissingError(
            f"{archive.folder}: {len(missing)} of {len(labels)} judged pairs are not in it, first "
            f"{missing[0]!r}"
        )
    return {key: [concept.name for concept in archive.concepts(key)] for key in labels}


def _report_lines(name: str, report: QualityReport) -> Iterator[str]:
    """One line per figure."""
    for k, value in report.recall.items():
        low, high = report.recall_interval[k]
        yield f"{name}\trecall@{k}\t{value:.4f} [{low:.4f}, {high:.4f}]"
    figures = {f"precision@{k}": value for k, value in report.precision.items()}
    figures |= {f"named recall@{k}": value for k, value in report.named_recall.items()}
    figures |= {"coverage": report.coverage, "named": report.named}
    for figure, value in figures.items():
        yield f"{name}\t{figure}\t{value:.4f}"
    yield f"{name}\tpairs\t{report.pairs_with_missing}/{report.pairs}"
