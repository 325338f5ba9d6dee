"""Zero-shot segmentation benchmarks whose numbers can be trusted and compared."""

from segbench.datasets import (
    BenchmarkDataset,
    Example,
    FolderDataset,
    ImageNetDataset,
    LabelledImage,
    SegmentationDataset,
    open_dataset,
)
from segbench.datasets.doctor import Finding, examine, expected_images, how_to_get
from segbench.datasets.scenes import (
    CaptionGap,
    CaptionRates,
    Scene,
    ScenesDataset,
    caption_gap,
    write_pairs,
)
from segbench.errors import (
    DataMissingError,
    FormatError,
    IncompleteError,
    ModelError,
    SegbenchError,
    UnreadableImageError,
    UsageError,
)
from segbench.metrics.boundary import BoundaryCounts
from segbench.metrics.classification import ClassificationCounts, classify_scores
from segbench.metrics.confusion import ConfusionMatrix, count_pairs
from segbench.metrics.interval import Interval, bootstrap, paired_difference
from segbench.metrics.mask_accuracy import MaskAccuracy, Regions
from segbench.metrics.object_size import ImageNetSCounts
from segbench.metrics.per_image import PerImageCounts
from segbench.page import write_page
from segbench.protocols.bank import build_bank
from segbench.protocols.classification import ClassificationTask, load_any_task
from segbench.protocols.predict import Queries, predict_labels, task_bank, task_queries
from segbench.protocols.task import Task, list_tasks, load_task
from segbench.results.classification import ClassificationReport
from segbench.results.compare import Comparison, compare
from segbench.results.overlay import overlay, palette, strip
from segbench.results.report import Report
from segbench.results.tables import Table, benchmark_table, detail_table
from segbench.running.classify import evaluate_classification
from segbench.running.evaluate import evaluate, score_folder
from segbench.running.ranks import joined
from segbench.running.sweep import Sweep, sweep
from segbench.segmenter import Classifier, Segmenter
from segbench.words import load_names, load_templates

__version__ = "0.1.0"

__all__ = [
    "BenchmarkDataset",
    "BoundaryCounts",
    "CaptionGap",
    "CaptionRates",
    "ClassificationCounts",
    "ClassificationReport",
    "ClassificationTask",
    "Classifier",
    "Comparison",
    "ConfusionMatrix",
    "DataMissingError",
    "Example",
    "Finding",
    "FolderDataset",
    "FormatError",
    "ImageNetDataset",
    "ImageNetSCounts",
    "IncompleteError",
    "Interval",
    "LabelledImage",
    "MaskAccuracy",
    "ModelError",
    "PerImageCounts",
    "Queries",
    "Regions",
    "Report",
    "Scene",
    "ScenesDataset",
    "SegbenchError",
    "SegmentationDataset",
    "Segmenter",
    "Sweep",
    "Table",
    "Task",
    "UnreadableImageError",
    "UsageError",
    "benchmark_table",
    "bootstrap",
    "build_bank",
    "caption_gap",
    "classify_scores",
    "compare",
    "count_pairs",
    "detail_table",
    "evaluate",
    "evaluate_classification",
    "examine",
    "expected_images",
    "how_to_get",
    "joined",
    "list_tasks",
    "load_any_task",
    "load_names",
    "load_task",
    "load_templates",
    "open_dataset",
    "overlay",
    "paired_difference",
    "palette",
    "predict_labels",
    "score_folder",
    "strip",
    "sweep",
    "task_bank",
    "task_queries",
    "write_page",
    "write_pairs",
]
