"""The grouping vision transformer: segments learnt from captions and concepts."""

from groupvit.data.augment import MEAN as IMAGE_MEAN
from groupvit.data.augment import STD as IMAGE_STD
from groupvit.data.augment import augmentation
from groupvit.training.checkpoint import load_model
from groupvit.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from groupvit.data.pairs import ConceptSource, PairDataset, batches, index_shards, stream, without_corrupt
from groupvit.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    GroupViTError,
    RecipeError,
    UsageError,
)
from groupvit.model.groupvit import GroupViT
from groupvit.recipe import load_recipe, train_config
from groupvit.model.rollup import roll_up
from groupvit.segmenting.segmenter import GroupViTSegmenter
from groupvit.training.train import TrainResult, train
from groupvit.released.weights import load_released, save_released

__version__ = "0.1.0"

__all__ = [
    "IMAGE_MEAN",
    "IMAGE_STD",
    "CheckpointError",
    "ConceptSource",
    "DataConfig",
    "DataError",
    "DivergedError",
    "GroupViT",
    "GroupViTError",
    "GroupViTSegmenter",
    "ModelConfig",
    "OptimConfig",
    "PairDataset",
    "RecipeError",
    "TextConfig",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "VisionConfig",
    "augmentation",
    "batches",
    "index_shards",
    "load_model",
    "load_recipe",
    "load_released",
    "roll_up",
    "save_released",
    "stream",
    "train",
    "train_config",
    "without_corrupt",
]
