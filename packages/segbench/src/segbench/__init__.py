"""Zero-shot segmentation benchmarks whose numbers can be trusted and compared."""

from segbench.bank import build_bank, load_names, load_templates
from segbench.boundary import BoundaryCounts
from segbench.classify import (
    ClassificationCounts,
    ClassificationReport,
    Classifier,
    evaluate_classification,
)
from segbench.compare import Comparison, compare
from segbench.datasets import (
    BenchmarkDataset,
    Example,
    FolderDataset,
    ImageNetDataset,
    LabelledImage,
    SegmentationDataset,
    open_dataset,
)
from segbench.datasets.scenes import (
    CaptionGap,
    CaptionRates,
    Scene,
    ScenesDataset,
    caption_gap,
    write_pairs,
)
from segbench.doctor import Finding, examine
from segbench.errors import (
    DataMissingError,
    FormatError,
    IncompleteError,
    SegbenchError,
    UnreadableImageError,
    UsageError,
)
from segbench.evaluate import evaluate, score_folder
from segbench.interval import Interval, bootstrap, paired_difference
from segbench.mask_accuracy import MaskAccuracy, Regions
from segbench.metrics import ConfusionMatrix, count_pairs
from segbench.object_size import ImageNetSCounts
from segbench.overlay import overlay, palette, strip
from segbench.page import write_page
from segbench.per_image import PerImageCounts
from segbench.predict import Queries, predict_labels, task_bank, task_queries
from segbench.ranks import joined
from segbench.report import Report
from segbench.segmenter import Segmenter
from segbench.sweep import Sweep, sweep
from segbench.tables import Table, benchmark_table, detail_table
from segbench.task import Task, list_tasks, load_task

__version__ = "0.1.0"

__all__ = [
    "BenchmarkDataset",
    "BoundaryCounts",
    "CaptionGap",
    "CaptionRates",
    "ClassificationCounts",
    "ClassificationReport",
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
    "compare",
    "count_pairs",
    "detail_table",
    "evaluate",
    "evaluate_classification",
    "examine",
    "joined",
    "list_tasks",
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
