"""Command line: embed, build, show, check, quality."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from conceptarchive.archive import ConceptArchive, check_archive
from conceptarchive.build import SHARD_ROWS, build_archive
from conceptarchive.config import ArchiveConfig
from conceptarchive.embedder import embed as embed_shards
from conceptarchive.embeddings import Embeddings
from conceptarchive.encoder import OpenClipEncoder, Precision
from conceptarchive.errors import ConceptArchiveError, DataMissingError, FormatError, UsageError
from conceptarchive.mentions import MentionFinder
from conceptarchive.pairs import find_shards
from conceptarchive.quality import QualityReport, archive_quality, frequency_ranking
from conceptarchive.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class EncoderConfig:
    """Which open_clip model, and how it runs."""

    model: str = "ViT-B-16"
    """Architecture, or local-dir:FOLDER."""

    pretrained: str | None = None
    """Tag of weights to fetch, as `openai`."""

    checkpoint: Path | None = None
    """File of weights, instead of a tag."""

    device: str = "cpu"
    """Where it runs, as `cuda`."""

    precision: Precision = "float32"
    """Type that it computes in."""

    batch_size: int = 256
    """Images or texts at a time."""


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults with vars(): no slots
class VocabularyConfig:
    """The concepts to look for: a file, or the nouns of the pool's captions."""

    file: Path | None = None
    """Text with one name a line, or JSON {"concept": [...]}; mined from captions by default."""

    min_count: int = 10
    """Captions that must name a mined noun."""

    max_size: int | None = None
    """At most this many mined nouns."""

    phrases: bool = False
    """Also mine two nouns in a row."""

    merge_plurals: bool = True
    """Count a plural as its singular."""


ENCODER, VOCABULARY, ARCHIVE = EncoderConfig(), VocabularyConfig(), ArchiveConfig()


def embed(
    pairs: Path,
    out: Path,
    *,
    encoder: EncoderConfig = ENCODER,
    dataset: str | None = None,
    text: bool = True,
    dry_run: bool = False,
) -> None:
    """Embed image-caption pairs with a CLIP model.

    Args:
        pairs: tar shard, TSV table, or a folder of either or of images.
        out: folder of the embeddings; a killed run goes on where it stopped.
        encoder: model and how it runs.
        dataset: first part of every id; by default the folder's name.
        text: also embed captions.
        dry_run: only list the shards.
    """
    shards = find_shards(pairs)
    if dry_run:
        print("\n".join(str(shard) for shard in shards))
        return
    model = _load_encoder(encoder)
    report = embed_shards(shards, model, out, dataset=dataset, with_text=text)
    print(f"rows\t{report.rows}")
    for reason, count in report.skips.counts().items():
        print(f"skipped: {reason}\t{count}")


def build(  # noqa: PLR0913  (each is an option of the command)
    embeddings: Path,
    out: Path,
    *,
    pool: Path | None = None,
    encoder: EncoderConfig = ENCODER,
    vocabulary: VocabularyConfig = VOCABULARY,
    concept_features: Path | None = None,
    archive: ArchiveConfig = ARCHIVE,
    shard_rows: int = SHARD_ROWS,
    dry_run: bool = False,
) -> None:
    """Build the concept archive of embedded pairs.

    Args:
        embeddings: folder of the pairs to enrich.
        out: folder of the archive; a killed run goes on where it stopped.
        pool: folder of the pairs to search; by default the same.
        encoder: the model that made the embeddings, for the concepts' prompts.
        vocabulary: the concepts to look for.
        concept_features: .npy of one row per concept, instead of `encoder`; divided by its length.
        archive: expansion, ranking and clustering.
        shard_rows: pairs of a shard.
        dry_run: only say what would be built.
    """
    anchors = Embeddings.open(embeddings)
    searched = anchors if pool is None else Embeddings.open(pool)
    words = _load_vocabulary(vocabulary, searched)
    print(f"pairs\t{len(anchors)}\npool\t{len(searched)}\nconcepts\t{len(words)}")
    if dry_run:
        return
    features, encoder_id = _concept_features(words, encoder, concept_features, anchors)
    try:
        build_archive(
            out,
            anchors=anchors,
            pool=searched,
            vocabulary=words,
            concept_features=features,
            config=archive,
            encoder_id=encoder_id,
            shard_rows=shard_rows,
            device=encoder.device,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


def show(archive: Path, key: str, *, top: int = 10) -> None:
    """Print the ranked concepts of one pair, best first, with score, cluster and witnesses.

    Args:
        archive: archive folder.
        key: pair id, "<dataset>/<shard>/<key>".
        top: at most this many.
    """
    opened = ConceptArchive.open(archive)
    if key not in opened:
        raise DataMissingError(f"{key!r} is not in {archive}; keys look like {opened.keys[0]!r}")
    for concept in opened.concepts(key)[:top]:
        witnesses = " ".join(opened.witnesses(key, concept.name))
        print(f"{concept.score:.4f}\t{concept.cluster}\t{concept.name}\t{witnesses}")


def check(archive: Path) -> None:
    """Check every file of an archive: checksums, ranges, order.

    Args:
        archive: archive folder.
    """
    opened = check_archive(archive)
    print(f"pairs\t{len(opened)}\nconcepts\t{len(opened.vocabulary)}\nok\t{archive}")


def quality(archive: Path, truth: Path, embeddings: Path) -> None:
    """Judge an archive by the concepts that images show and captions leave out.

    Args:
        archive: archive folder.
        truth: JSON {pair id: [concept names]} of what images show.
        embeddings: folder of the pairs, for their captions.
    """
    opened = ConceptArchive.open(archive)
    pairs = Embeddings.open(embeddings)
    labels = _load_truth(truth)
    finder = MentionFinder(opened.vocabulary)
    mentions = finder.find_all(pairs.captions)
    names = opened.vocabulary.names
    mentioned = {
        key: {names[concept] for concept in mentions[row]}
        for row, key in enumerate(pairs.keys)
        if key in labels
    }
    judged = {key: shown for key, shown in labels.items() if key in mentioned and key in opened}
    if not judged:
        raise DataMissingError(f"{truth}: none of its keys is in {archive} and {embeddings}")
    ranked = {key: [concept.name for concept in opened.concepts(key)] for key in judged}
    frequent = frequency_ranking(mentions, opened.vocabulary)
    _print_report("archive", archive_quality(ranked, mentioned, judged))
    _print_report("frequency", archive_quality(dict.fromkeys(judged, frequent), mentioned, judged))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    verbs: list[Callable[..., None]] = [embed, build, show, check, quality]
    logging.basicConfig(format="conceptarchive: %(message)s", level=logging.WARNING)
    args = None if argv is None else list(argv)
    try:
        auto_cli(verbs, args=args, prog="conceptarchive", parser_mode="toml")
    except ConceptArchiveError as error:
        print(f"conceptarchive: {error}", file=sys.stderr)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("conceptarchive: stopped; run it again to go on", file=sys.stderr)
        return 4
    return 0


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


def _load_encoder(config: EncoderConfig) -> OpenClipEncoder:
    """The encoder that options name."""
    try:
        return OpenClipEncoder(
            config.model,
            pretrained=config.pretrained,
            checkpoint=config.checkpoint,
            device=config.device,
            precision=config.precision,
            batch_size=config.batch_size,
        )
    except ValueError as error:
        raise UsageError(f"--encoder: {error}") from error


def _load_vocabulary(config: VocabularyConfig, pool: Embeddings) -> Vocabulary:
    """The vocabulary of a file, or of the pool's captions."""
    if config.file is not None:
        return Vocabulary.from_file(config.file, merge_plurals=config.merge_plurals)
    try:
        return Vocabulary.mine(
            pool.captions,
            min_count=config.min_count,
            max_size=config.max_size,
            phrases=config.phrases,
            merge_plurals=config.merge_plurals,
        )
    except ValueError as error:
        raise UsageError(f"--vocabulary: {error}") from error


def _concept_features(
    vocabulary: Vocabulary, config: EncoderConfig, file: Path | None, anchors: Embeddings
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float32]], str]:
    """(V, D) unit rows of the concepts' prompts, and what made them."""
    if file is not None:
        try:
            rows = np.load(file).astype(np.float32)
        except (OSError, ValueError) as error:
            raise FormatError(f"{file}: not a .npy of rows ({error})") from error
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True), anchors.encoder_id or "unknown"
    encoder = _load_encoder(config)
    if anchors.encoder_id not in (None, encoder.id):
        raise UsageError(f"--encoder is {encoder.id}, but {anchors.encoder_id} made the embeddings")
    return encoder.encode_texts(vocabulary.prompts()).numpy(), encoder.id


def _load_truth(path: Path) -> dict[str, set[str]]:
    """Labels by pair id."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): set(names) for key, names in loaded.items()}
    except FileNotFoundError as error:
        raise DataMissingError(f"{path}: no such file") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise FormatError(f"{path}: needs JSON {{pair id: [concept names]}} ({error})") from error


def _print_report(name: str, report: QualityReport) -> None:
    """Print one line per figure."""
    figures = {f"recall@{k}": value for k, value in report.recall.items()}
    figures |= {f"precision@{k}": value for k, value in report.precision.items()}
    figures |= {"coverage": report.coverage, "named": report.named}
    for figure, value in figures.items():
        print(f"{name}\t{figure}\t{value:.4f}")
    print(f"{name}\tpairs\t{report.pairs_with_missing}/{report.pairs}")
