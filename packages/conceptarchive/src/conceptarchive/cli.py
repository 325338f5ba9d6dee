"""Command line: embed, vocabulary, build, show, check, quality, export."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jsonargparse import auto_cli

from conceptarchive.archive.check import check_archive
from conceptarchive.archive.reader import ConceptArchive
from conceptarchive.building.build import SHARD_ROWS, build_archive
from conceptarchive.building.ray_embedder import EmbedOptions, embed_on_ray
from conceptarchive.concepts.overlap import format_overlaps, load_class_names, overlap
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.embedding.embedder import embed as embed_shards
from conceptarchive.embedding.processes import rank_from_environment
from conceptarchive.embedding.report import FAILED, EmbedReport
from conceptarchive.errors import ConceptArchiveError, DataMissingError, UsageError
from conceptarchive.files import replacing
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.paths import expand_paths, find_shards
from conceptarchive.options import (
    EncoderConfig,
    EngineConfig,
    RowsConfig,
    VocabularyConfig,
    concept_features,
)
from conceptarchive.output.export import ExportConfig, Format
from conceptarchive.output.export import export as export_archive
from conceptarchive.output.judge import COMPARED_AT, judge
from conceptarchive.output.page import describe, write_page
from conceptarchive.output.pictures import pictures
from conceptarchive.output.quality import load_truth
from conceptarchive.output.quality_plot import plot_quality, require_matplotlib

ENCODER, VOCABULARY, ROWS = EncoderConfig(), VocabularyConfig(), RowsConfig()
ARCHIVE, SEARCH, ENGINE, EXPORT = ArchiveConfig(), SearchConfig(), EngineConfig(), ExportConfig()
COLUMNS = TableColumns()


def embed(
    pairs: str,
    out: Path,
    *,
    encoder: EncoderConfig = ENCODER,
    dataset: str | None = None,
    text: bool = True,
    columns: TableColumns = COLUMNS,
    engine: EngineConfig = ENGINE,
    dry_run: bool = False,
) -> None:
    """Embed image-caption pairs with a CLIP model.

    Args:
        pairs: tar shards, tables or folders of images: a path, a quoted glob, or braces as in
            "cc3m/{00000..00331}.tar".
        out: folder of the embeddings; a killed run goes on where it stopped.
        encoder: model and how it runs.
        dataset: first part of every id; by default the folder's name.
        text: also embed captions.
        columns: of tables.
        engine: of several processes; under torchrun they find their numbers themselves.
        dry_run: only list the shards.
    """
    shards = find_shards(pairs)
    if dry_run:
        print("\n".join(str(shard) for shard in shards))
        return
    options = EmbedOptions(dataset, text, columns, encoder.batch_size, encoder.workers)
    if engine.kind == "ray":
        report = embed_on_ray(engine.load_ray(), shards, encoder.load, out, options)
    else:
        rank, world_size, local = rank_from_environment()
        if engine.shard_count > 1:
            rank, world_size = engine.shard_index, engine.shard_count
        report = embed_shards(
            shards,
            encoder.load(local),
            out,
            rank=rank,
            world_size=world_size,
            **options._asdict(),
        )
    _print_embedding(report, out)


def vocabulary(
    embeddings: str,
    out: Path,
    *,
    source: VocabularyConfig = VOCABULARY,
    rows: RowsConfig = ROWS,
    encoder: EncoderConfig | None = None,
    class_names: str = "",
) -> None:
    """Mine or convert a vocabulary, and say how much of evaluation class sets is in it.

    Args:
        embeddings: folders whose captions are mined: a path, a quoted glob, or braces.
        out: text file, one name a line; with `encoder`, its rows go beside it as .npy.
        source: how it is mined, or the file that it is read from.
        rows: how embeddings are read.
        encoder: also embed the concepts' prompts, for `build --concept_features`.
        class_names: files of class names, to print the overlap with.
    """
    if out.suffix in (".json", ".csv", ".tsv", ".npy"):
        raise UsageError(f"{out}: names are written one a line; end it in .txt")
    sets = {str(path): load_class_names(path) for path in expand_paths(class_names)}
    found = source.load(rows.open(embeddings).captions)
    found.save(out)
    print(f"concepts\t{len(found)}")
    if sets:
        print(format_overlaps(overlap(found, sets)))
    if encoder is not None:
        features = encoder.load().encode_texts(found.prompts()).numpy()
        with replacing(out.with_suffix(".npy")) as part, part.open("wb") as file:
            np.save(file, features)


def build(  # noqa: PLR0913  (each is an option of the command)
    embeddings: str,
    out: Path,
    *,
    pool: str | None = None,
    rows: RowsConfig = ROWS,
    encoder: EncoderConfig = ENCODER,
    vocabulary: VocabularyConfig = VOCABULARY,
    concept_features: Path | None = None,
    archive: ArchiveConfig = ARCHIVE,
    search: SearchConfig = SEARCH,
    shard_rows: int = SHARD_ROWS,
    engine: EngineConfig = ENGINE,
    previous: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Build the concept archive of embedded pairs.

    Args:
        embeddings: folders of the pairs to enrich: a path, a quoted glob, or braces.
        out: folder of the archive; a killed run goes on where it stopped.
        pool: folders of the pairs to search; by default the same.
        rows: how embeddings are read.
        encoder: the model that made the embeddings, for the concepts' prompts.
        vocabulary: the concepts to look for; by default those of `previous`, if that is given.
        concept_features: .npy of one row per concept, instead of `encoder`; divided by its length.
        archive: expansion, ranking and clustering.
        search: how reference images are searched.
        shard_rows: pairs of a shard.
        engine: who does the work.
        previous: finished archive of the first folders, to be extended.
        dry_run: only say what would be built.
    """
    anchors = rows.open(embeddings)
    searched = anchors if pool in (None, embeddings) else rows.open_pool(str(pool))
    if previous is not None and vocabulary.file is None:
        words = ConceptArchive.open(previous).vocabulary  # mined anew, it would not be the same
    else:
        words = vocabulary.load(searched.captions)
    print(f"pairs\t{len(anchors)}\npool\t{len(searched)}\nconcepts\t{len(words)}")
    if dry_run:
        return
    features, encoder_id = _features(words, encoder, concept_features, anchors)
    try:
        built = build_archive(
            out,
            anchors=anchors,
            pool=searched,
            vocabulary=words,
            concept_features=features,
            config=archive,
            search=search,
            encoder_id=encoder_id,
            shard_rows=shard_rows,
            device=encoder.device,
            engine=engine.load(),
            previous=previous,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    for name, value in built.manifest["search"].items():
        print(f"search: {name}\t{value}")


def show(
    archive: Path, key: str, *, top: int = 10, html: Path | None = None, pairs: str | None = None
) -> None:
    """Print the ranked concepts of one pair, best first, with their witnesses.

    Args:
        archive: archive folder.
        key: pair id, "<dataset>/<shard>/<key>".
        top: at most this many.
        html: write a page with the picture instead.
        pairs: shards of the pairs, for the pictures.
    """
    opened = ConceptArchive.open(archive)
    if key not in opened:
        raise DataMissingError(f"{key!r} is not in {archive}; keys look like {opened.keys[0]!r}")
    if html is None:
        print(describe(opened, key, top))
        return
    shards = find_shards(pairs) if pairs is not None else []
    write_page(opened, [key], html, images=pictures(opened, [key], shards))
    print(f"page\t{html}")


def check(archive: Path) -> None:
    """Check every file of an archive: checksums, schema, counts, ranges, order.

    Args:
        archive: archive folder.
    """
    opened = check_archive(archive)
    print(f"pairs\t{len(opened)}\nconcepts\t{len(opened.vocabulary)}\nok\t{archive}")


def quality(
    archive: Path, truth: Path, *, against: Path | None = None, plot: Path | None = None
) -> None:
    """Judge an archive by the concepts that images show and captions leave out.

    Args:
        archive: archive folder.
        truth: what images show: JSON {pair id: [names]}, or lines of id, tab, names parted by tabs
            or commas.
        against: another archive of the same pairs; the difference is printed with its interval.
        plot: picture to draw, as .png or .svg.
    """
    if plot is not None:
        require_matplotlib()
    other = None if against is None else ConceptArchive.open(against)
    judged = judge(ConceptArchive.open(archive), load_truth(truth), against=other)
    print("\n".join(judged.lines()))
    if plot is not None:
        plot_quality(plot, judged.reports, judged.bins, judged.bands, k=COMPARED_AT)
        print(f"plot\t{plot}")


def export(
    archive: Path,
    out: Path,
    *,
    layout: Format = "parquet",
    pairs: str | None = None,
    dataset: str | None = None,
    captions: ExportConfig = EXPORT,
) -> None:
    """Write enriched captions for a trainer.

    Args:
        archive: archive folder.
        out: folder; a killed run goes on where it stopped.
        layout: sidecar, parquet, webdataset or cocu (that of CoCu's released code).
        pairs: shards of the pairs, for the layouts that copy images.
        dataset: first part of every id, as it was given to embed.
        captions: how captions are enriched.
    """
    shards = find_shards(pairs) if pairs is not None else []
    report = export_archive(
        ConceptArchive.open(archive), out, layout, shards=shards, dataset=dataset, config=captions
    )
    print(f"pairs\t{report.pairs}")
    print(f"not in the archive\t{report.not_in_archive}")
    print(f"not in the shards\t{report.not_in_shards}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    verbs: list[Callable[..., None]] = [embed, vocabulary, build, show, check, quality, export]
    logging.basicConfig(format="conceptarchive: %(message)s", level=logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    ours = logging.getLogger("conceptarchive")
    level = ours.level
    ours.setLevel(logging.INFO)
    try:
        auto_cli(
            verbs,
            args=None if argv is None else list(argv),
            prog="conceptarchive",
            parser_mode="toml",
        )
    except ConceptArchiveError as error:
        print(f"conceptarchive: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"conceptarchive: {place}{error.strerror or error}", file=sys.stderr)
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("conceptarchive: stopped; run it again to go on", file=sys.stderr)
        return 4
    finally:
        ours.setLevel(level)
    return 0


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


_features = concept_features  # `build` has an option of this name


def _print_embedding(report: EmbedReport, out: Path) -> None:
    """Print what was embedded, how fast, and what bounded it."""
    print(f"rows\t{report.rows}\npartitions\t{report.finished}/{report.partitions}")
    for reason, count in report.skips.counts().items():
        print(f"skipped: {reason}\t{count}")
    if report.skips.entries:
        print(f"skipped pairs\t{out / FAILED}")
    if report.bound_by is not None:
        print(f"images/s\t{report.images_per_s:.0f}\nbound by\t{report.advice}")
        print("seconds\t" + ", ".join(f"{k} {v:.1f}" for k, v in report.seconds.items()))
