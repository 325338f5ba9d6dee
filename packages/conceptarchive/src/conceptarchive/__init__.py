"""Finds the concepts an image shows and its caption leaves out (CoCu's concept curation)."""

from conceptarchive.archive.check import check_archive
from conceptarchive.archive.reader import Concept, ConceptArchive, Reference
from conceptarchive.archive.sampler import ConceptSampler, open_source
from conceptarchive.building.build import build_archive
from conceptarchive.building.engine import ArrayEngine, Engine, LocalEngine
from conceptarchive.building.ray_embedder import EmbedOptions, embed_on_ray
from conceptarchive.building.ray_engine import RayEngine
from conceptarchive.concepts.mentions import MentionFinder, Mentions
from conceptarchive.concepts.overlap import Overlap, load_class_names, overlap
from conceptarchive.concepts.vocabulary import PROMPT, Vocabulary
from conceptarchive.config import ArchiveConfig, SearchConfig
from conceptarchive.curation.cluster import cluster_concepts
from conceptarchive.curation.collect import Candidates
from conceptarchive.curation.rank import Ranked, rank_images
from conceptarchive.curation.responses import own_responses
from conceptarchive.curation.visual import visualness
from conceptarchive.embedding.embedder import embed
from conceptarchive.embedding.encoder import Encoder, OpenClipEncoder, PixelEncoder
from conceptarchive.embedding.report import EmbedReport
from conceptarchive.errors import (
    ConceptArchiveError,
    DataMissingError,
    FormatError,
    IncompleteError,
    StaleFolderError,
    UsageError,
)
from conceptarchive.features.embeddings import Embeddings
from conceptarchive.inputs.columns import TableColumns
from conceptarchive.inputs.pairs import Pair, SkipLog, read_pairs
from conceptarchive.inputs.paths import expand_paths, find_shards
from conceptarchive.lock import folder_lock
from conceptarchive.output.export import ExportConfig, ExportReport, export
from conceptarchive.output.judge import Judgement, judge
from conceptarchive.output.page import describe, write_page
from conceptarchive.output.pictures import pictures
from conceptarchive.output.quality import (
    PairScores,
    QualityReport,
    archive_quality,
    calibration,
    difference,
    frequency_ranking,
    load_truth,
    pair_scores,
    recall_by_frequency,
)
from conceptarchive.search.neighbours import Neighbours, nearest, self_rows
from conceptarchive.search.selfjoin import self_join

__version__ = "0.2.0"

__all__ = [
    "PROMPT",
    "ArchiveConfig",
    "ArrayEngine",
    "Candidates",
    "Concept",
    "ConceptArchive",
    "ConceptArchiveError",
    "ConceptSampler",
    "DataMissingError",
    "EmbedOptions",
    "EmbedReport",
    "Embeddings",
    "Encoder",
    "Engine",
    "ExportConfig",
    "ExportReport",
    "FormatError",
    "IncompleteError",
    "Judgement",
    "LocalEngine",
    "MentionFinder",
    "Mentions",
    "Neighbours",
    "OpenClipEncoder",
    "Overlap",
    "Pair",
    "PairScores",
    "PixelEncoder",
    "QualityReport",
    "Ranked",
    "RayEngine",
    "Reference",
    "SearchConfig",
    "SkipLog",
    "StaleFolderError",
    "TableColumns",
    "UsageError",
    "Vocabulary",
    "archive_quality",
    "build_archive",
    "calibration",
    "check_archive",
    "cluster_concepts",
    "describe",
    "difference",
    "embed",
    "embed_on_ray",
    "expand_paths",
    "export",
    "find_shards",
    "folder_lock",
    "frequency_ranking",
    "judge",
    "load_class_names",
    "load_truth",
    "nearest",
    "open_source",
    "overlap",
    "own_responses",
    "pair_scores",
    "pictures",
    "rank_images",
    "read_pairs",
    "recall_by_frequency",
    "self_join",
    "self_rows",
    "visualness",
    "write_page",
]
