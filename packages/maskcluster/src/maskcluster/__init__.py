"""PixelCLIP: unlabelled masks, clustered online, teach CLIP to segment."""

from maskcluster.config import (
    ClusterConfig,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    ViewConfig,
)
from maskcluster.data.dataset import MaskedPhotos, batches
from maskcluster.data.photos import Photos
from maskcluster.errors import (
    CheckpointError,
    DataError,
    DivergedError,
    FormatError,
    MaskClusterError,
    RecipeError,
    UsageError,
)
from maskcluster.generators.dino import DenseBackbone, DinoMasks, load_backbone
from maskcluster.generators.generate import GenerateReport, generate
from maskcluster.generators.promptable import PromptableModel, load_sam
from maskcluster.generators.protocol import BatchMaskGenerator, MaskGenerator
from maskcluster.generators.sam import SA1B, SAM2, SamMasks, SamOptions
from maskcluster.generators.superpixels import Felzenszwalb, Slic
from maskcluster.masks.contact_sheet import contact_sheet
from maskcluster.masks.label_maps import LabelMaps, read_label_map
from maskcluster.masks.mask_set import MaskRules, MaskSet, MaskSource
from maskcluster.masks.packed import pack, unpack
from maskcluster.masks.photo_files import find_photos, open_photo
from maskcluster.masks.rle import Rle, masks_of_labels
from maskcluster.masks.sa1b import Sa1bFolder, read_sa1b, write_sa1b
from maskcluster.masks.store import MaskStore
from maskcluster.model.clip import Clip, load_clip
from maskcluster.model.clustering import Assignment, ClusterUsage, assign_masks, summarise
from maskcluster.model.dense import DenseTower
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import TEMPLATES, TextTower, name_tokens
from maskcluster.naming.explain import NameReport, name, starting_rows
from maskcluster.naming.names import NamedCluster, name_clusters
from maskcluster.ops.mask_bce import mask_bce
from maskcluster.ops.mask_pool import mask_pool
from maskcluster.ops.sinkhorn import balanced_assign
from maskcluster.recipe import load_recipe, recipe_names, recipe_text, train_config
from maskcluster.released.export import export, load_exported
from maskcluster.released.load import load_model
from maskcluster.released.weights import load_released, save_released
from maskcluster.segmenting.bank import class_bank
from maskcluster.segmenting.mask_classes import MaskClasses, classify_masks, paint
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.training.checkpoint import find_checkpoints, read_config
from maskcluster.training.checkpoint import load_model as load_checkpoint
from maskcluster.training.train import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "SA1B",
    "SAM2",
    "TEMPLATES",
    "Assignment",
    "BatchMaskGenerator",
    "CheckpointError",
    "Clip",
    "ClusterConfig",
    "ClusterUsage",
    "DataConfig",
    "DataError",
    "DenseBackbone",
    "DenseTower",
    "DinoMasks",
    "DivergedError",
    "Felzenszwalb",
    "FormatError",
    "GenerateReport",
    "LabelMaps",
    "MachineConfig",
    "MaskClasses",
    "MaskClusterError",
    "MaskGenerator",
    "MaskRules",
    "MaskSet",
    "MaskSource",
    "MaskStore",
    "MaskedPhotos",
    "ModelConfig",
    "NameReport",
    "NamedCluster",
    "OptimConfig",
    "Photos",
    "PixelCLIP",
    "PixelCLIPSegmenter",
    "PromptableModel",
    "RecipeError",
    "Rle",
    "Sa1bFolder",
    "SamMasks",
    "SamOptions",
    "Slic",
    "TextTower",
    "TrainConfig",
    "TrainResult",
    "UsageError",
    "ViewConfig",
    "assign_masks",
    "balanced_assign",
    "batches",
    "class_bank",
    "classify_masks",
    "contact_sheet",
    "export",
    "find_checkpoints",
    "find_photos",
    "generate",
    "load_backbone",
    "load_checkpoint",
    "load_clip",
    "load_exported",
    "load_model",
    "load_recipe",
    "load_released",
    "load_sam",
    "mask_bce",
    "mask_pool",
    "masks_of_labels",
    "name",
    "name_clusters",
    "name_tokens",
    "open_photo",
    "pack",
    "paint",
    "read_config",
    "read_label_map",
    "read_sa1b",
    "recipe_names",
    "recipe_text",
    "save_released",
    "starting_rows",
    "summarise",
    "train",
    "train_config",
    "unpack",
    "write_sa1b",
]
