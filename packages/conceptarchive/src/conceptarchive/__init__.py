"""Finds the concepts an image shows and its caption leaves out (CoCu's concept curation)."""

from conceptarchive.archive import Concept, ConceptArchive, ConceptSampler, check_archive
from conceptarchive.build import build_archive
from conceptarchive.cluster import cluster_concepts
from conceptarchive.config import ArchiveConfig
from conceptarchive.embedder import EmbedReport, embed
from conceptarchive.embeddings import Embeddings
from conceptarchive.encoder import Encoder, OpenClipEncoder
from conceptarchive.errors import (
    ConceptArchiveError,
    DataMissingError,
    FormatError,
    IncompleteError,
    StaleFolderError,
    UsageError,
)
from conceptarchive.mentions import MentionFinder, Mentions
from conceptarchive.neighbours import Neighbours, nearest, self_rows
from conceptarchive.pairs import Pair, SkipLog, find_shards, read_pairs
from conceptarchive.quality import QualityReport, archive_quality, frequency_ranking
from conceptarchive.rank import Candidates, Ranked, rank_images
from conceptarchive.responses import own_responses
from conceptarchive.visual import visualness
from conceptarchive.vocabulary import PROMPT, Vocabulary

__version__ = "0.1.0"

__all__ = [
    "PROMPT",
    "ArchiveConfig",
    "Candidates",
    "Concept",
    "ConceptArchive",
    "ConceptArchiveError",
    "ConceptSampler",
    "DataMissingError",
    "EmbedReport",
    "Embeddings",
    "Encoder",
    "FormatError",
    "IncompleteError",
    "MentionFinder",
    "Mentions",
    "Neighbours",
    "OpenClipEncoder",
    "Pair",
    "QualityReport",
    "Ranked",
    "SkipLog",
    "StaleFolderError",
    "UsageError",
    "Vocabulary",
    "archive_quality",
    "build_archive",
    "check_archive",
    "cluster_concepts",
    "embed",
    "find_shards",
    "frequency_ranking",
    "nearest",
    "own_responses",
    "rank_images",
    "read_pairs",
    "self_rows",
    "visualness",
]
