"""What a GroupViT and a training run are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from groupvit.frozen import FrozenDict
from groupvit.precision import Precision


def _check_at_least(least: int, **values: int) -> None:
    """Raise ValueError for the first value below `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The grouping image tower; the defaults are the published model (arXiv:2202.11094)."""

    image_px: int = 224
    """Side of the square training image."""

    patch_px: int = 16
    """Side of a patch."""

    width: int = 384
    """Channels C."""

    heads: int = 6
    """Attention heads."""

    depths: tuple[int, ...] = (6, 3, 3)
    """Transformer blocks of every stage; all stages but the last end in a grouping block."""

    group_tokens: tuple[int, ...] = (64, 8)
    """Learnt tokens of every grouping stage."""

    output_groups: tuple[int, ...] = (64, 8)
    """Groups that every grouping stage leaves."""

    init_std: float = 0.02
    """Deviation of initial linear weights (published: 0.02, at width 384). At small widths 0.02
    makes all assignments alike at first, and one group may take most of the picture for good."""

    drop_path: float = 0.1
    """Stochastic depth of the last block; it grows linearly from 0."""

    stem: Literal["patch", "conv"] = "patch"
    """One linear layer a patch (published), or stride-2 convolutions (tiny models, whose patches
    cannot be told apart linearly); `conv` needs a patch side that is a power of two."""

    pre_assign: bool = True
    """Whether group tokens attend to the segment tokens before the assignment. Off, a group sees
    only the tokens assigned to it: tiny models then localise, large ones have not been tried."""

    def __post_init__(self) -> None:
        stages = len(self.depths) - 1
        if not stages or len(self.group_tokens) != stages or len(self.output_groups) != stages:
            raise ValueError(
                "depths needs one entry more than group_tokens and output_groups, got "
                f"{self.depths}, {self.group_tokens}, {self.output_groups}"
            )
        if min(self.depths) < 0:
            raise ValueError(f"depths must be >= 0, got {self.depths}")
        if min(*self.group_tokens, *self.output_groups) < 1:
            raise ValueError(
                "group_tokens and output_groups must be >= 1, got "
                f"{self.group_tokens}, {self.output_groups}"
            )
        _check_at_least(1, patch_px=self.patch_px, width=self.width, heads=self.heads)
        if self.image_px < self.patch_px:
            raise ValueError(
                f"image_px must be >= patch_px, got {self.image_px} and {self.patch_px}"
            )
        if self.image_px % self.patch_px:
            raise ValueError(
                f"image_px must be a multiple of patch_px, got {self.image_px} and {self.patch_px}"
            )
        if self.stem == "conv" and (self.patch_px < 2 or self.patch_px & (self.patch_px - 1)):
            raise ValueError(f"stem = conv needs patch_px = 2, 4, 8, ..., got {self.patch_px}")
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width}, {self.heads}")
        if self.init_std <= 0:
            raise ValueError(f"init_std must be > 0, got {self.init_std}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")

    @property
    def stem_widths(self) -> tuple[int, ...]:
        """Channels after each convolution of stride 2 of a `conv` stem."""
        halvings = self.patch_px.bit_length() - 1
        narrow = (max(self.width >> (halvings - 1 - i), 16) for i in range(halvings - 1))
        return (*narrow, self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """The causal text tower (CLIP's, narrower)."""

    vocabulary: int = 49408
    """Token ids of CLIP's byte-pair tokenizer; the last one ends a text."""

    context: int = 77
    """Longest text in tokens."""

    width: int = 256
    """Channels."""

    layers: int = 12
    """Transformer blocks."""

    heads: int = 4
    """Attention heads."""

    def __post_init__(self) -> None:
        _check_at_least(
            1,
            vocabulary=self.vocabulary,
            context=self.context,
            width=self.width,
            heads=self.heads,
        )
        _check_at_least(0, layers=self.layers)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width}, {self.heads}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Both towers and the space in which they meet."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    """The image tower."""

    text: TextConfig = field(default_factory=TextConfig)
    """The text tower."""

    embed_dim: int = 256
    """Dimension D of the shared space."""

    projector: Literal["mlp", "linear"] = "mlp"
    """Two layers with batch norm (published), or one linear layer (tiny models)."""

    projector_hidden: int = 4096
    """Hidden width of the mlp projector."""

    multi_label_scale: bool = True
    """Whether the multi-label loss has a logit scale of its own; needed when it is used."""

    def __post_init__(self) -> None:
        _check_at_least(1, embed_dim=self.embed_dim, projector_hidden=self.projector_hidden)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How pairs become batches."""

    sets: Mapping[str, str] = field(default_factory=FrozenDict)
    """Shards of each data set, as a brace pattern or glob below a root folder; all sets are one
    pool, in this order. Empty: the shards are named when training starts."""

    batch: int = 1024
    """Pairs a step, over all ranks."""

    concepts: int = 3
    """Prompted texts a pair beside its caption (L); 0 switches the multi-label loss off."""

    source: Literal["captions", "archive"] = "captions"
    """Where prompted texts come from: nouns and verbs of the caption (GroupViT), or a concept
    archive (CoCu), without which such a recipe does not train."""

    sampling: Literal["cluster", "naive", "top"] = "cluster"
    """How concepts are drawn from an archive: from different clusters (CoCu, arXiv:2309.13505),
    by their scores, or always the best (CoCu's released code)."""

    sampling_temperature: float = 1.0
    """Scores are divided by it before the softmax that concepts are drawn by."""

    templates: Literal["clip80", "simple"] = "clip80"
    """Sentences around a prompted concept: CLIP's 80, one drawn each time (published), or always
    `a photo of a {}.` (tiny models, whose text tower has little to spare)."""

    augment: Literal["strong", "flip", "none"] = "strong"
    """`strong`: random crop, flip, RandAugment and erasing, as published."""

    workers: int = 6
    """Loader processes; 0 loads in the training process."""

    keep_decoded: bool = False
    """Keep decoded images in memory: for data sets that fit."""

    seed: int = 0
    """Of the order of pairs, the augmentation and the drawn texts."""

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError(f"batch must be >= 2 for a contrastive loss, got {self.batch}")
        _check_at_least(0, concepts=self.concepts, workers=self.workers)
        if self.sampling_temperature <= 0:
            raise ValueError(f"sampling_temperature must be > 0, got {self.sampling_temperature}")
        if self.source == "archive" and not self.concepts:
            raise ValueError("source = archive needs concepts > 0, got 0")
        for name, pattern in self.sets.items():
            if not name.isprintable() or "/" in name or name in ("", ".", ".."):
                raise ValueError(f"the name of a set must be one word of a path, got {name!r}")
            if not pattern:
                raise ValueError(f"sets.{name} must be a pattern of shards, got ''")
        object.__setattr__(self, "sets", FrozenDict(self.sets))


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay, per step."""

    total_steps: int
    """Optimizer steps in the run, warm-up included."""

    warmup_steps: int = 0
    """Steps over which the rate climbs from `warmup_lr` to `lr`."""

    lr: float = 1.6e-3
    """Peak learning rate, already scaled to the batch (published: 1.6e-3 at 4,096 pairs)."""

    warmup_lr: float = 4e-6
    """Rate of the first step."""

    min_lr: float = 4e-5
    """Rate at the end."""

    weight_decay: float = 0.05
    """Of tensors that are not one-dimensional."""

    clip_grad_norm: float = 5.0
    """Largest global gradient norm."""

    precision: Precision = "auto"
    """Autocast of the towers; weights and optimizer state stay float32. `auto` is bfloat16 on
    processors that multiply it in hardware."""

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"warmup_steps must be in [0, {self.total_steps}), got {self.warmup_steps}"
            )
        if self.lr <= 0:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if self.clip_grad_norm <= 0:
            raise ValueError(f"clip_grad_norm must be > 0, got {self.clip_grad_norm}")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """How a step is computed: time and memory, but for rounding not what is learnt.

    It may change from one start of a run to the next.
    """

    chunk: int = 0
    """Pairs, on each rank, whose activations are kept at a time: the towers run part by part, and
    once more in the backward pass, while batch norm and losses see the whole batch (GradCache,
    arXiv:2101.06983). 0 keeps all."""

    recompute: bool = False
    """Keep only the inputs of transformer blocks and run them again in the backward pass."""

    compile: bool = False
    """Compile both towers (`torch.compile`): pays on GPUs, after about two minutes."""

    cudnn_attention: bool = True
    """Let PyTorch choose cuDNN's attention on GPUs: on an H200 1.6 times as fast as the others at
    260 tokens. Its backward pass is known to give NaN for some shapes when all logits of a token
    are below -88; a run that stops for that goes on with this switched off."""

    peak_tflops: float = 0.0
    """Peak of the processor in the dtype that is trained in, of which `mfu` in the log is the used
    share; 0 takes that of a known GPU in bfloat16, or leaves `mfu` out."""

    def __post_init__(self) -> None:
        _check_at_least(0, chunk=self.chunk)
        if self.peak_tflops < 0:
            raise ValueError(f"peak_tflops must be >= 0, got {self.peak_tflops}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run."""

    optim: OptimConfig
    """Optimizer and schedule."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """What is trained."""

    data: DataConfig = field(default_factory=DataConfig)
    """What it is trained on."""

    seed: int = 0
    """Of the initial weights and of the noise of every step."""

    log_every: int = 10
    """Steps between two lines of the log."""

    checkpoint_every: int = 500
    """Steps between two checkpoints; the last one is always written."""

    checkpoints: int = 2
    """Checkpoints that are kept: a run that diverges may have spoilt the newest."""

    machine: MachineConfig = field(default_factory=MachineConfig)
    """How a step is computed."""

    def __post_init__(self) -> None:
        _check_at_least(
            1,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            checkpoints=self.checkpoints,
        )
        if self.data.concepts and not self.model.multi_label_scale:
            raise ValueError("data.concepts > 0 needs model.multi_label_scale")
