"""What a PixelCLIP and a training run are made of.

Where the paper (arXiv:2409.19846) and its released code disagree the choice is a field here, its
default is the code's value, and its docstring says what the other source has.
"""

from dataclasses import dataclass, field
from typing import Literal

from maskcluster.precision import Precision, check_precision

Targets = Literal["clusters", "masks"]
Prompts = Literal["learnt", "frozen", "direct", "names"]
LastBlock = Literal["pixelclip", "maskclip", "none"]


def _check_at_least(least: float, **values: float) -> None:
    """Raise ValueError for the first value below `least`."""
    for name, value in values.items():
        if not value >= least:
            raise ValueError(f"{name} must be >= {least}, got {value}")


def _check_above(least: float, **values: float) -> None:
    """Raise ValueError for the first value that is not above `least`."""
    for name, value in values.items():
        if not value > least:
            raise ValueError(f"{name} must be > {least}, got {value}")


def _check_share(**values: float) -> None:
    """Raise ValueError for the first value outside [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1], got {value}")


def _check_range(name: str, value: tuple[float, ...], least: float, most: float) -> None:
    """Raise ValueError unless `value` is (low, high) with least <= low <= high <= most."""
    if len(value) != 2 or not least <= value[0] <= value[1] <= most:
        raise ValueError(f"{name} must be [low, high] between {least} and {most}, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The CLIP model, and what of it is tuned."""

    architecture: str = "ViT-B-16-quickgelu"
    """A name of `open_clip.list_models()`, `local-dir:FOLDER` (open_clip_config.json, weights, and
    SigLIP's tokenizer) or `hf-hub:ORG/NAME`; a ViT, SigLIP's too, or a ConvNeXt. OpenAI's weights
    need QuickGELU. Checkpoints look for a relative FOLDER from the run's own first."""

    pretrained: str = "openai"
    """A tag of open_clip, a file of weights, or `random` (weights drawn from the seed, to try
    things out). A folder or a hub has its own weights: then it is empty."""

    last_block: LastBlock = "pixelclip"
    """What takes the place of a ViT's last block: `pixelclip` (the code) is the value path with the
    class token as the residual, then the feed-forward network; `maskclip` is value and output
    projection only (the paper says "MaskCLIP"); `none` leaves the block as it was trained. A
    ConvNeXt and SigLIP's ViT have no such block and take no notice."""

    trainable: Literal["attention", "all"] = "attention"
    """Parameters of the image tower that train: attention and position embedding (the code, ViT),
    or all (the code, ConvNeXt). The paper does not say."""

    loss_at: Literal["masks", "logits"] = "masks"
    """Where the loss is computed: on the mask grid after upsampling the decoder's logits (the code,
    256 x 256), or at the decoder's own resolution against masks sampled there (the paper, 80 x
    80)."""

    decoder_width: int = 64
    """Channels of the decoder, halved after its second upsampling (published: 64). On a CPU it is
    most of a step: 12 trains small models several times as fast."""

    def __post_init__(self) -> None:
        if not self.architecture:
            raise ValueError("architecture must be the name of an open_clip model, got ''")
        named = self.architecture.startswith(("local-dir:", "hf-hub:"))
        if named and self.pretrained not in ("", "random"):
            raise ValueError(
                f"{self.architecture} has its own weights: pretrained must be '' or 'random', "
                f"got {self.pretrained!r}"
            )
        if not named and not self.pretrained:
            raise ValueError(
                "pretrained must be a tag of open_clip, a file of weights or 'random', got ''"
            )
        if self.decoder_width < 4 or self.decoder_width % 4:
            raise ValueError(f"decoder_width must be a multiple of 4, got {self.decoder_width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Online clustering of masks, the class prompts they are assigned to, and the teacher."""

    targets: Targets = "clusters"
    """What is predicted: for each cluster the union of its masks, or (`masks`, the ablation without
    clustering, which destroys the model) each mask from its own pooled feature."""

    clusters: int = 64
    """K, the clusters and so the class prompts."""

    prompts: Prompts = "learnt"
    """What a cluster is: `learnt` tokens through the frozen text tower (published); `frozen`, the
    same but never trained (one reading of the paper's row "no class prompt"); `direct`, K learnt
    rows of the joint space and no text tower; `names`, the fixed prompts of `names`."""

    tokens: int = 4
    """l, learnt tokens of a class prompt."""

    start: Literal["vocabulary", "names"] = "vocabulary"
    """Where learnt tokens start: at random words of the vocabulary (published), or at the words of
    `names`."""

    names: tuple[str, ...] = ()
    """Class names, K of them: of fixed prompts, or that learnt ones start from."""

    templates: Literal["single", "ensemble"] = "single"
    """Sentences around a class prompt in training: "A photo of a {} in the scene" (the code), or
    the mean over all eight that are used in testing (the paper's table 5; the released code
    embeds the single one eight times instead)."""

    eps: float = 0.01
    """Cosines are divided by it before the assignment: 0.01 for ViT, 1 for ConvNeXt (the code)."""

    balance: bool = True
    """Share the masks of a batch equally among clusters (Sinkhorn); off, a mask takes the nearest
    prompt (the ablation's plain argmax)."""

    iterations: int = 3
    """Sinkhorn iterations."""

    momentum: float = 0.999
    """gamma, the share of itself that the momentum teacher keeps each step; 0 is no momentum: the
    teacher is the student of this step."""

    def __post_init__(self) -> None:
        _check_at_least(1, clusters=self.clusters, tokens=self.tokens, iterations=self.iterations)
        _check_above(0, eps=self.eps)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.needs_names and len(self.names) != self.clusters:
            raise ValueError(
                f"names must be one for each of {self.clusters} clusters, got {len(self.names)}"
            )
        if self.names and not self.needs_names:
            raise ValueError("names need prompts = names, or start = names with learnt prompts")
        if not all(name.strip() for name in self.names):
            raise ValueError("names must not be empty, got ''")

    @property
    def needs_names(self) -> bool:
        """Whether class names say what the prompts are, or where they start."""
        tokens = self.prompts in ("learnt", "frozen")
        return self.prompts == "names" or (tokens and self.start == "names")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """How a photograph and its masks become a weak view, a strong view and packed masks."""

    shortest_px: int = 1024
    """Photographs are resized until their shorter side has this length."""

    longest_px: int = 1333
    """But their longer side has no more than this."""

    crop_px: int = 640
    """Side of the random square crop, before it is resized to `image_px`."""

    image_px: int = 320
    """Side of the views: 320 for ViT-B/16 and 640 for ConvNeXt give 20 x 20 features."""

    mask_px: int = 256
    """S, side of the grid of masks: for pooling and for the targets."""

    flip: float = 0.5
    """Probability of a horizontal flip, of everything."""

    photometric: bool = True
    """Photometric distortion of the weak view, which the strong one is made from: brightness up to
    32 of 255, contrast and saturation times 0.5 to 1.5, hue up to 18 degrees."""

    colour_jitter: float = 0.8
    """Probability of colour jitter in the strong view."""

    jitter: tuple[float, ...] = (0.5, 0.5, 0.5, 0.25)
    """Strength of it: brightness, contrast, saturation, hue."""

    greyscale: float = 0.2
    """Probability of a grey strong view."""

    blur: float = 0.5
    """Probability of a Gaussian blur of the strong view."""

    blur_sigma: tuple[float, ...] = (0.1, 2.0)
    """Range of its deviation, in pixels of the crop."""

    cutout: float = 1.0
    """Probability that a rectangle of the strong view is filled with black."""

    cutout_side: tuple[float, ...] = (0.1, 0.5)
    """Range of each of its sides, as a share of the crop."""

    cutout_masks: bool = True
    """Remove the rectangle from the masks: the code does so with SAM's masks, not with DINO's."""

    min_mask_px: int = 2
    """Masks with fewer pixels on their grid are dropped."""

    max_masks: int = 0
    """Masks of a view that are used, the largest on its grid first; 0 uses all, as published. It
    bounds a step's memory; how many of a photograph are stored and read at all is
    `MaskRules.max_masks`."""

    def __post_init__(self) -> None:
        _check_at_least(
            1,
            shortest_px=self.shortest_px,
            crop_px=self.crop_px,
            image_px=self.image_px,
            min_mask_px=self.min_mask_px,
        )
        _check_at_least(self.shortest_px, longest_px=self.longest_px)
        _check_at_least(0, max_masks=self.max_masks)
        if self.mask_px < 32 or self.mask_px % 32:
            raise ValueError(f"mask_px must be a multiple of 32, got {self.mask_px}")
        _check_share(
            flip=self.flip,
            colour_jitter=self.colour_jitter,
            greyscale=self.greyscale,
            blur=self.blur,
            cutout=self.cutout,
        )
        _check_range("blur_sigma", self.blur_sigma, 0, 100)
        _check_range("cutout_side", self.cutout_side, 0, 1)
        if len(self.jitter) != 4 or min(self.jitter) < 0 or self.jitter[3] > 0.5:
            raise ValueError(
                f"jitter must be four strengths >= 0, the last (hue) at most 0.5, got {self.jitter}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a rate for each part of the model, and a cosine schedule."""

    total_steps: int = 10_000
    """Optimizer steps in the run."""

    lr: float = 2e-6
    """Learning rate of the image tower at the start."""

    prompt_lr: float = 2e-3
    """Of the class prompts: 2e-3 in the code, 2e-5 in the paper."""

    decoder_lr: float = 2e-4
    """Of the decoder."""

    final_share: float = 0.5
    """Share of each rate that is left at the end of the cosine (the code); 1 keeps rates constant.
    The paper does not say."""

    warmup_steps: int = 0
    """Steps over which rates climb from 0."""

    weight_decay: float = 1e-4
    """Of all but norms, embeddings and class prompts."""

    clip_grad_norm: float = 0.01
    """Largest global gradient norm (the code); 0 does not clip. The paper does not say."""

    precision: Precision = "auto"
    """Format of the towers and the decoder; weights and optimizer state stay float32. `auto` is
    bfloat16 on processors that multiply it in hardware, `tf32` is what the code trains in."""

    def __post_init__(self) -> None:
        _check_at_least(1, total_steps=self.total_steps)
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"warmup_steps must be in [0, {self.total_steps}), got {self.warmup_steps}"
            )
        _check_above(0, lr=self.lr, prompt_lr=self.prompt_lr, decoder_lr=self.decoder_lr)
        _check_share(final_share=self.final_share)
        _check_at_least(0, weight_decay=self.weight_decay, clip_grad_norm=self.clip_grad_norm)
        check_precision(self.precision)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """How photographs become batches."""

    batch: int = 48
    """Photographs a step, over all ranks."""

    workers: int = 6
    """Loader processes; 0 loads in the training process."""

    seed: int = 0
    """Of the order of photographs and of their views."""

    def __post_init__(self) -> None:
        _check_at_least(1, batch=self.batch)
        _check_at_least(0, workers=self.workers)


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """How a step is computed: time and memory, but for rounding not what is learnt.

    It may change from one start of a run to the next.
    """

    decoder_chunk: int = 0
    """Similarity maps that go through the decoder at a time; 0 is what is fast: all of them on a
    GPU, 16 on a CPU."""

    recompute_decoder: bool = False
    """Keep only what goes into the decoder, and run it again in the backward pass, chunk by
    chunk."""

    recompute_tower: bool = False
    """Keep only the inputs of the image tower's blocks, and run them again in the backward pass."""

    compile: bool = False
    """Compile tower and decoder (`torch.compile`): for GPUs."""

    peak_tflops: float = 0.0
    """Peak of the processor in the dtype that is trained in, of which `mfu` in the log is the used
    share; 0 takes that of a known GPU in bfloat16, or leaves `mfu` out."""

    def __post_init__(self) -> None:
        _check_at_least(0, decoder_chunk=self.decoder_chunk, peak_tflops=self.peak_tflops)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """What is tuned."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """What it is tuned towards."""

    views: ViewConfig = field(default_factory=ViewConfig)
    """What it sees."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""

    data: DataConfig = field(default_factory=DataConfig)
    """Batches."""

    machine: MachineConfig = field(default_factory=MachineConfig)
    """How a step is computed."""

    seed: int = 0
    """Of the first weights of class prompts and decoder, and of the noise of every step."""

    log_every: int = 10
    """Steps between two lines of the log."""

    checkpoint_every: int = 1000
    """Steps between two checkpoints; the last one is always written."""

    checkpoints: int = 2
    """Checkpoints that are kept: a run that diverges may have spoilt the newest."""

    def __post_init__(self) -> None:
        _check_at_least(
            1,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            checkpoints=self.checkpoints,
        )
