"""The grouping vision transformer: segments learnt from captions and concepts."""

from groupvit.config import (
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from groupvit.data.augment import MEAN as IMAGE_MEAN
from groupvit.data.augment import STD as IMAGE_STD
from groupvit.data.augment import Augmentation, augmentation
from groupvit.data.concepts import ConceptSource
from groupvit.data.images import without_corrupt
from groupvit.data.index import Pairs
from groupvit.data.indexing import index_sets, index_shards
from groupvit.data.pairs import PairDataset, batches
from groupvit.data.streams import stream
from groupvit.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    GroupViTError,
    RecipeError,
    UsageError,
)
from groupvit.model.groupvit import GroupViT
from groupvit.ops.segment_decode import roll_up
from groupvit.recipe import load_recipe, train_config
from groupvit.released.weights import load_released, save_released
from groupvit.segmenting.classify import Ranking
from groupvit.segmenting.overlay import draw_overlay
from groupvit.segmenting.photo import open_photo
from groupvit.segmenting.segmenter import BACKGROUND_THRESHOLDS, GroupViTSegmenter
from groupvit.segmenting.templates import IMAGENET_TEMPLATES
from groupvit.texts import Texts
from groupvit.training.checkpoint import load_model
from groupvit.training.train import TrainResult, train

__version__ = "0.2.0"

__all__ = [
    "BACKGROUND_THRESHOLDS",
    "IMAGENET_TEMPLATES",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "Augmentation",
    "CheckpointError",
    "ConceptSource",
    "DataConfig",
    "DataError",
    "DivergedError",
    "GroupViT",
    "GroupViTError",
    "GroupViTSegmenter",
    "MachineConfig",
    "ModelConfig",
    "OptimConfig",
    "PairDataset",
    "Pairs",
    "Ranking",
    "RecipeError",
    "TextConfig",
    "Texts",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "VisionConfig",
    "augmentation",
    "batches",
    "draw_overlay",
    "index_sets",
    "index_shards",
    "load_model",
    "load_recipe",
    "load_released",
    "open_photo",
    "roll_up",
    "save_released",
    "stream",
    "train",
    "train_config",
    "without_corrupt",
]
